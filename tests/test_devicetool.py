"""`coreota device` as a process, over a real mosquitto: with mutual TLS, killed at any moment, wrongly configured."""

import configparser
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from brokers import TlsBroker
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from coreota.bootloader import McubootBootloader
from coreota.cli import main
from coreota.demo import ProviderThread
from coreota.devicetool import SYSTEMD_UNIT
from coreota.errors import LocalOtaError
from coreota.gateway import GatewayFlash, image_key
from coreota.mqtt import PahoTransport, tls_context
from coreota.provider.ota import UpdateProvider
from coreota.signing import self_signed_certificate
from coreota.sim.lab import firmware, lab_key, update_file

THING = "gateway-1"


class Place:
    """A folder with all that a device needs, and a provider on a broker."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port, self.provider = folder, port, UpdateProvider()
        key = lab_key("image").public_key()
        (folder / "image.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        (folder / "code.pem").write_bytes(self_signed_certificate(lab_key("job"), "test"))
        (folder / "v1.bin").write_bytes(firmware("1.0.0", 50_000))
        self.settings = {
            "thing": THING, "endpoint": "127.0.0.1", "port": port, "flash": "flash.bin", "flash_size": 1024 * 1024,
            "image_keys": ["image.pem"],
        }  # fmt: skip
        self.ota: dict[str, object] = {}

    def config(self) -> Path:
        """The settings in a file."""
        lines = ["[device]", *(f"{name} = {json.dumps(value)}" for name, value in self.settings.items())]
        lines += ['[device.certificates]\n"/cert.pem" = "code.pem"', "[ota]"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in self.ota.items()]
        path = self.folder / "device.toml"
        path.write_text("\n".join(lines))
        return path

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """`coreota device` in a process of its own."""
        program = "import sys; from coreota.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", program, "device", "--config", str(self.config()), *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
        """Exit status, log and complaints of a device that ends by itself."""
        process = self.start("--log-format", "json", "--once", *arguments)
        out, errors = process.communicate(timeout=60)
        return process.returncode, [json.loads(line) for line in out.splitlines()], errors

    def offer(self, version: str, size: int = 60_000, fault: str | None = None) -> str:
        file = update_file(firmware(version, size), lab_key("job"), fault)
        return self.provider.create_ota_update(version.replace(".", "-"), [THING], [file], time.time())

    def last(self, job_id: str) -> tuple[str, str]:
        """How a job ended."""
        change = self.provider.jobs.history(job_id, THING)[-1]
        return change.status.value, change.details.get("reason", "")

    def runs(self) -> tuple[str, bool]:
        """What the flash says after one more boot: the version, and whether it is there to stay."""
        with GatewayFlash(self.folder / "flash.bin", 0) as flash:
            bootloader = McubootBootloader(flash.flash, flash.config, [image_key(self.folder / "image.pem")])
            bootloader.boot()
            return str(bootloader.running), not bootloader.on_trial


@pytest.fixture
def place(tmp_path: Path, mosquitto: int) -> Place:
    return Place(tmp_path, mosquitto)


def names(log: list[dict[str, Any]]) -> list[str]:
    """What happened, without what happens all the time."""
    return [record["event"] for record in log if record["event"] not in ("Progress", "StateChanged", "LinkLost")]


def test_a_whole_update(place: Place) -> None:
    """Installed, updated, confirmed; the log tells it, and the status is 0."""
    job_id = place.offer("2.0.0")
    with ProviderThread(place.provider, "127.0.0.1", place.port):
        status, log, errors = place.run("--install", str(place.folder / "v1.bin"))
    assert (status, errors) == (0, "")
    assert names(log) == ["Booted", "UpdateStarted", "UpdateVerified", "RebootRequired", "JobFinished", "Stopped"]
    assert place.last(job_id) == ("SUCCEEDED", "accepted v2.0.0")
    assert place.runs() == ("2.0.0", True)
    assert [record["file"]["size"] > 60_000 for record in log if record["event"] == "UpdateStarted"] == [True]


def test_a_refused_update(place: Place) -> None:
    """Exit status 1, and the reason in the log."""
    job_id = place.offer("2.0.0", fault="corrupt-signature")
    with ProviderThread(place.provider, "127.0.0.1", place.port):
        status, log, _ = place.run("--install", str(place.folder / "v1.bin"))
    assert status == 1
    assert [record["reason"][:29] for record in log if record["event"] == "JobFinished"] == [
        "rejected: signature-mismatch:"
    ]
    assert (place.last(job_id)[0], place.runs()) == ("FAILED", ("1.0.0", True))


@pytest.mark.parametrize(("command", "version"), [("exit 1", "1.0.0"), ("sleep 0.2", "2.0.0"), ("sleep 60", "1.0.0")])
def test_self_test_commands(place: Place, command: str, version: str) -> None:
    """It says no; it takes its time; it never ends, and the old image comes back when the time is over."""
    place.offer("2.0.0")
    place.settings["self_test"] = command
    place.ota["self_test_timeout"] = 3
    with ProviderThread(place.provider, "127.0.0.1", place.port):
        place.run("--install", str(place.folder / "v1.bin"))
    assert place.runs() == (version, True)


@pytest.mark.parametrize("seed", range(4))
def test_killed_again_and_again(place: Place, seed: int) -> None:
    """SIGKILL after some lines of its log, eight times, wherever that is; the update succeeds in the end."""
    random = Random(seed)
    job_id = place.offer("2.0.0", 300_000)
    place.ota = {"block_size": 1024, "blocks_per_request": 4, "max_trials": 100}
    with ProviderThread(place.provider, "127.0.0.1", place.port):
        arguments = ["--install", str(place.folder / "v1.bin")]
        for _ in range(8):
            process = place.start("--log-format", "json", "--once", *arguments)
            assert process.stdout is not None
            for _ in range(random.choice([2, 4, 10, 30, 60, 100])):
                process.stdout.readline()  # "" where it has ended: there was nothing left to do
            process.send_signal(signal.SIGKILL)
            process.communicate()
            arguments = []
        status, _, errors = place.run()
    assert (status, errors) == (0, "")
    assert (place.last(job_id), place.runs()) == (("SUCCEEDED", "accepted v2.0.0"), ("2.0.0", True))


def test_ended_in_order(place: Place) -> None:
    """SIGTERM: status 0, the last line says so, and the next process goes on."""
    job_id = place.offer("2.0.0", 300_000)
    place.ota = {"block_size": 512, "blocks_per_request": 2}
    with ProviderThread(place.provider, "127.0.0.1", place.port):
        process = place.start("--log-format", "json", "--install", str(place.folder / "v1.bin"))
        assert process.stdout is not None
        while json.loads(process.stdout.readline())["event"] != "Progress":
            pass
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, "")
        assert json.loads(out.splitlines()[-1])["event"] == "Stopped"
        status, log, _ = place.run()
    started = [record for record in log if record["event"] == "UpdateStarted"]
    assert 0 < started[0]["missing"] < 600
    assert (status, place.last(job_id)[0], place.runs()) == (0, "SUCCEEDED", ("2.0.0", True))


def test_two_processes(place: Place) -> None:
    """The second one is told that the flash is taken, and touches nothing."""
    with ProviderThread(place.provider, "127.0.0.1", place.port):
        first = place.start("--install", str(place.folder / "v1.bin"), "--log-format", "json")
        assert first.stdout is not None
        assert json.loads(first.stdout.readline())["event"] == "Booted"
        status, log, errors = place.run()
        first.terminate()
        first.communicate(timeout=20)
    assert (status, log) == (2, [])
    assert "another process has" in errors


class Refusing:
    """A bootloader of somebody's own, for the test of its option."""

    def __init__(self, options: object) -> None:
        raise LocalOtaError("this board has no flash", reason="board", advice="buy one")


WRONG: dict[str, tuple[Callable[[Place], object], str]] = {
    "no thing": (lambda place: place.settings.pop("thing"), "thing is missing: give --thing"),
    "misspelt": (lambda place: place.settings.update(endpont="x"), "there is no setting 'endpont'"),
    "misspelt ota": (lambda place: place.ota.update(blok_size=1), "did you mean block_size"),
    "wrong type": (lambda place: place.settings.update(port="x"), "port is 'x': write a number"),
    "one key": (lambda place: place.settings.update(image_keys="image.pem"), "write a list of files"),
    "a function": (lambda place: place.settings.update(bootloader="os:getcwd"), "TypeError: "),
    "no image": (
        lambda place: place.settings.update(install="code.pem"),
        "code.pem: the image begins with 0x2d2d2d2d: sign it",
    ),
    "folder": (lambda place: place.settings.update(flash="."), "is a folder: give the name of a file in it"),
    "thing's name": (lambda place: place.settings.update(thing="a b"), "is no thing name"),
    "no image key": (lambda place: place.settings.update(image_keys=["none.pem"]), "the image key"),
    "key is none": (lambda place: place.settings.update(image_keys=["v1.bin"]), "holds no public key"),
    "no ca": (lambda place: place.settings.update(ca="none.pem"), "there is no ca file"),
    "cert alone": (lambda place: place.settings.update(cert="code.pem"), "a certificate goes with its key"),
    "wrong key": (lambda place: place.settings.update(cert="code.pem", key="v1.bin"), "do not go together"),
    "empty flash": (lambda place: place.settings.pop("install", None), "by --install FILE"),
    "flash size": (lambda place: place.settings.update(flash_size=5000), "no two slots"),
    "bootloader": (lambda place: place.settings.update(bootloader="nowhere:made"), "no bootloader 'nowhere:made'"),
    "own bootloader": (
        lambda place: place.settings.update(bootloader="test_devicetool:Refusing"),
        "this board has no flash: buy one",
    ),
}


@pytest.mark.parametrize(("change", "words"), WRONG.values(), ids=WRONG.keys())
def test_wrong_settings(
    place: Place, change: Callable[[Place], object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit status 2, and one line that says what to do."""
    change(place)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    status, log, errors = place.run()
    assert (status, log, errors.count("\n")) == (2, [], 1)
    assert words in errors


def test_a_pair_that_is_none(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["device", "--config", str(place.config()), "--certificate", "release.pem"]) == 2
    assert "--certificate takes NAME=FILE" in capsys.readouterr().err


def test_the_broker_comes_later(place: Place) -> None:
    """At boot nobody answers: the device says so, tries again, and can be ended."""
    place.settings["port"] = 1
    process = place.start("--install", str(place.folder / "v1.bin"), "--log-format", "json")
    assert process.stdout is not None
    lines = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert [line["event"] for line in lines] == ["Booted", "LinkLost", "LinkLost"]
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_systemd_unit() -> None:
    """What systemd reads of it: sections, a command that the command line knows, a restart."""
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(SYSTEMD_UNIT)
    assert unit.sections() == ["Unit", "Service", "Install"]
    assert unit["Service"]["Restart"] == "always"
    assert unit["Service"]["ExecStart"].split()[1:4] == ["device", "--config", "/etc/coreota/device.toml"]


# With mutual TLS


@pytest.fixture
def secure(tmp_path: Path, mosquitto_tls: TlsBroker) -> Place:
    """As above; the broker knows each thing by its certificate, and lets it have its own topics alone."""
    place = Place(tmp_path, mosquitto_tls.port)
    certificate, key = mosquitto_tls.credentials(THING)
    place.settings |= {"ca": str(mosquitto_tls.ca), "cert": str(certificate), "key": str(key)}
    return place


def served(place: Place, broker: TlsBroker) -> ProviderThread:
    """The provider with a certificate of its own."""
    return ProviderThread(
        place.provider, "127.0.0.1", place.port, tls_context(broker.ca, *broker.credentials("provider"))
    )


SCENARIOS: dict[str, tuple[str, str | None, str, str]] = {
    "GreaterVersion": ("2.0.0", None, "SUCCEEDED", "2.0.0"),
    "PreviousVersion": ("0.9.0", None, "FAILED", "1.0.0"),
    "CorruptSignature": ("2.0.0", "corrupt-signature", "FAILED", "1.0.0"),
    "CorruptImageAfterSigning": ("2.0.0", "corrupt-image", "FAILED", "1.0.0"),
    "UntrustedCertificate": ("2.0.0", "wrong-key", "FAILED", "1.0.0"),
}


@pytest.mark.parametrize(("version", "fault", "status", "runs"), SCENARIOS.values(), ids=SCENARIOS.keys())
def test_over_mutual_tls(
    secure: Place, mosquitto_tls: TlsBroker, version: str, fault: str | None, status: str, runs: str
) -> None:
    job_id = secure.offer(version, fault=fault)
    with served(secure, mosquitto_tls):
        secure.run("--install", str(secure.folder / "v1.bin"))
    assert (secure.last(job_id)[0], secure.runs()) == (status, (runs, True))


def test_cancelled_while_away_over_mutual_tls(secure: Place, mosquitto_tls: TlsBroker) -> None:
    """DisconnectCancelUpdate: the process dies, the job is cancelled, the next process takes the next job."""
    first = secure.offer("2.0.0", 300_000)
    secure.ota = {"block_size": 512, "blocks_per_request": 2}
    with served(secure, mosquitto_tls):
        process = secure.start("--install", str(secure.folder / "v1.bin"), "--log-format", "json")
        assert process.stdout is not None
        while json.loads(process.stdout.readline())["event"] != "Progress":
            pass
        process.kill()
        process.communicate()
    secure.provider.jobs.cancel_job(first, time.time(), force=True)
    second = secure.offer("3.0.0")
    with served(secure, mosquitto_tls):
        status, _, _ = secure.run()
    assert (status, secure.last(first)[0], secure.last(second)[0]) == (0, "CANCELED", "SUCCEEDED")
    assert secure.runs() == ("3.0.0", True)


def test_a_stranger_gets_no_topics_of_ours(mosquitto_tls: TlsBroker) -> None:
    """The test's own broker really does keep things apart; otherwise the tests above would show nothing."""
    tls = tls_context(mosquitto_tls.ca, *mosquitto_tls.credentials("stranger"))
    transport = PahoTransport("127.0.0.1", mosquitto_tls.port, client_id="stranger", tls=tls, patient=True)
    problems: list[str] = []
    without = PahoTransport(
        "127.0.0.1", mosquitto_tls.port, client_id="x", tls=tls_context(mosquitto_tls.ca), patient=True
    )
    without.on_problem = problems.append
    deadline = time.monotonic() + 10
    while not problems and time.monotonic() < deadline:
        without.receive(0.1)
    assert problems  # without a certificate: not even connected
    assert transport.receive(5) != []
    without.close()
    transport.close()
