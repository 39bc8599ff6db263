"""The demonstration and the command line: over the embedded broker, over mosquitto, and with all that may be wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from coreota.cli import main
from coreota.demo import Demo, DemoOptions, Silent, offered_image
from coreota.errors import LocalOtaError
from coreota.image import Version, parse_image
from coreota.sim.lab import FAULTS

COREOTA = [str(Path(sys.executable).with_name("coreota"))]


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """`coreota demo --json`: exit status and result."""
    status = main(["demo", "--json", *arguments])
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("codec", ["cbor", "json"])
def test_demo_over_the_embedded_broker(codec: str, capsys: pytest.CaptureFixture[str]) -> None:
    """512 KiB, both codecs, real MQTT."""
    status, result = run_json(capsys, "--codec", codec)
    assert status == 0
    assert (result["status"], result["version_after"], result["confirmed"]) == ("SUCCEEDED", "2.0.0", True)
    assert result["blocks"] == -(-result["image_bytes"] // 4096)
    assert [c["status"] for c in result["history"]][:2] == ["QUEUED", "IN_PROGRESS"]


def test_demo_over_mosquitto(mosquitto: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The same over Debian's broker."""
    status, result = run_json(capsys, "--broker", f"mqtt://127.0.0.1:{mosquitto}")
    assert (status, result["status"], result["version_after"]) == (0, "SUCCEEDED", "2.0.0")


@pytest.mark.parametrize("fault", FAULTS)
def test_demo_refuses(fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A fault is refused, and that is the success of the demonstration."""
    status, result = run_json(capsys, "--fault", fault, "--image-size", "50000")
    assert (status, result["status"], result["version_after"]) == (0, "FAILED", "1.0.0")
    assert "signature-mismatch" in str(result["reason"])


@pytest.mark.parametrize("content", [b"\x01", b"firmware" * 1000])
def test_demo_with_a_file(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Any file is firmware."""
    path = tmp_path / "any.bin"
    path.write_bytes(content)
    status, result = run_json(capsys, "--image", str(path))
    assert (status, result["version_after"]) == (0, "2.0.0")


@pytest.mark.parametrize("block_size", ["256", "131072"])
def test_demo_block_sizes(block_size: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The smallest and the largest blocks."""
    status, result = run_json(capsys, "--block-size", block_size, "--image-size", "200000")
    assert (status, result["version_after"]) == (0, "2.0.0")


def test_demo_lets_the_memory_choose_the_block_size(capsys: pytest.CaptureFixture[str]) -> None:
    """An eighth of the pool's 128 KiB."""
    status, result = run_json(capsys, "--block-size", "auto", "--image-size", "50000")
    assert (status, result["version_after"]) == (0, "2.0.0")
    assert result["blocks"] == -(-result["image_bytes"] // 16_384)


def test_a_block_size_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["demo", "--block-size", "large"])
    assert "'large' is no number of bytes: take 256 to 131072, or auto" in capsys.readouterr().err


def test_demo_keeps_its_flash_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second run on the same file finds what the first one left, and goes one version further."""
    path = tmp_path / "flash.bin"
    arguments = ["--flash", str(path), "--image-size", "50000"]
    _, first = run_json(capsys, *arguments)
    status, second = run_json(capsys, *arguments)
    assert (first["version_after"], status, second["version_before"], second["version_after"]) == (
        "2.0.0", 0, "2.0.0", "3.0.0",
    )  # fmt: skip
    assert main(["demo", "--quiet", "--flash", str(path)]) == 2
    assert "needs a flash of" in capsys.readouterr().err


def test_a_file_that_is_no_flash_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--flash` does not overwrite somebody's file."""
    path = tmp_path / "thesis.txt"
    path.write_bytes(b"all my work")
    assert main(["demo", "--quiet", "--flash", str(path)]) == 2
    assert path.read_bytes() == b"all my work"
    assert "new file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--block-size", "255"], "take 256 to 131072"),
        (["--block-size", "99999999"], "take 256 to 131072"),
        (["--block-size", "-1"], "take 256 to 131072"),
        (["--block-size", "1001"], "multiple of 8"),
        (["--image", "nowhere.bin"], "no file nowhere.bin"),
        (["--image-size", "0"], "take 1 to"),
        (["--broker", "localhost"], "mqtt://host:port"),
        (["--broker", "mqtt://localhost:99999"], "mqtt://host:port"),
        (["--broker", "mqtt://127.0.0.1:1"], "127.0.0.1"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each wrong argument is answered by what would be right, on stderr, with exit status 2."""
    assert main(["demo", "--quiet", *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""


def test_what_people_see_without_a_terminal() -> None:
    """Plain lines, all phases, no escape sequences."""
    done = subprocess.run([*COREOTA, "demo", "--image-size", "100000"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    for word in ("broker", "download", "100 %", "verify", "install", "self-test", "report", "SUCCEEDED", "2.0.0 runs"):
        assert word in done.stdout, word


def test_interrupted() -> None:
    """Ctrl-C ends it at once, with a word and no traceback."""
    process = subprocess.Popen(
        [*COREOTA, "demo", "--image-size", "20000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "download" in line:
            break
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err.strip()) == (130, "coreota: interrupted"), (out, err)


def test_nothing_happens_when_nobody_answers(mosquitto: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that is not there is noticed."""
    monkeypatch.setattr("coreota.demo.UpdateProvider.receive", lambda self, message, now: None)
    options = DemoOptions(size=1000, broker=f"mqtt://127.0.0.1:{mosquitto}", patience=1.0)
    with pytest.raises(LocalOtaError, match="nothing has happened"):
        Demo(options, Silent()).run()


def test_an_image_of_somebody_else_is_signed_again() -> None:
    """The payload and a newer version of an MCUboot image are kept."""
    image, version = offered_image(b"plain", Version.parse("4.2.0"))
    assert (str(version), parse_image(image).payload) == ("5.0.0", b"plain")
