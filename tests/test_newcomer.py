"""The five commonest mistakes: each is answered by a message that names the cure."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from coreota.signing import self_signed_certificate
from coreota.sim.lab import firmware, lab_key

ROOT = Path(__file__).resolve().parent.parent
EXPORTED = ROOT / ".ci/exported.py"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, to make mistakes in."""
    folder = tmp_path_factory.mktemp("checkout") / "coreota"
    folder.mkdir()
    for name in ("pyproject.toml", "settings.ini", "setup.py", "README.md"):
        shutil.copy(ROOT / name, folder)
    for name in ("nbs", "coreota"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    return folder


def exported(folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, EXPORTED, folder], capture_output=True, text=True, check=False)


def test_what_is_stored_is_what_is_exported(checkout: Path) -> None:
    done = exported(checkout)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_generated_file_was_edited(checkout: Path) -> None:
    path = checkout / "coreota/blocks.py"
    before = path.read_text("utf-8")
    path.write_text(before.replace("MIN_BLOCK = 256", "MIN_BLOCK = 255"), "utf-8")
    done = exported(checkout)
    path.write_text(before, "utf-8")
    assert done.returncode == 1
    assert "coreota/blocks.py is not what its notebook exports" in done.stderr
    assert "make the change in the notebook" in done.stderr


def test_the_export_was_forgotten(checkout: Path) -> None:
    path = checkout / "nbs/00a_errors.ipynb"
    before = path.read_text("utf-8")
    path.write_text(before.replace("Something that went wrong in an update", "Something went wrong"), "utf-8")
    done = exported(checkout)
    path.write_text(before, "utf-8")
    assert done.returncode == 1
    assert "coreota/errors.py is not what its notebook exports" in done.stderr
    assert "export it: nbdev-export" in done.stderr


def coreota(*words: str, without: str = "") -> "subprocess.CompletedProcess[str]":
    """The command line, with a package missing."""
    source = (
        f"import sys\nif {without!r}: sys.modules[{without!r}] = None\nfrom coreota.cli import main\nsys.exit(main())"
    )
    return subprocess.run([sys.executable, "-c", source, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("package", "command", "extra"),
    [("amqtt", "demo", "provider"), ("rich", "demo", "demo"), ("starlette", "provider", "server")],
)
def test_an_extra_is_missing(
    package: str, command: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said before anything is written."""
    monkeypatch.chdir(tmp_path)
    done = coreota(command, without=package)
    assert done.returncode == 2
    assert package in done.stderr
    assert f": pip install 'coreota[{extra}]'\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_database_driver_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = coreota("provider", "--store", "postgresql+psycopg://localhost/x", without="psycopg")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "pip install 'psycopg[binary]'" in done.stderr


@pytest.fixture
def device(tmp_path: Path) -> list[str]:
    """The words to start a device with, without its name."""
    (tmp_path / "code.pem").write_bytes(self_signed_certificate(lab_key("job"), "code signing"))
    key = lab_key("image").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "image.pem").write_bytes(key)
    files = ["--flash", f"{tmp_path / 'flash.bin'}", "--image-key", f"{tmp_path / 'image.pem'}"]
    words = ["device", "--endpoint", "127.0.0.1", "--port", "1", "--once", *files]
    return [*words, "--certificate", f"/cert.pem={tmp_path / 'code.pem'}"]


def test_a_wrong_thing_name(device: list[str]) -> None:
    done = coreota(*device, "--thing", "gateway 1")
    assert done.returncode == 2
    assert done.stderr == "coreota: 'gateway 1' is no thing name: take 1 to 128 of A-Z a-z 0-9 _ : -\n"


def test_an_image_that_nobody_signed(device: list[str], tmp_path: Path) -> None:
    """The first image, on the command line; it is not even written."""
    (tmp_path / "app.bin").write_bytes(b"\x7fELF" + bytes(5000))
    words = [*device, "--thing", "gateway-1", "--install", str(tmp_path / "app.bin")]
    for _ in range(2):
        done = coreota(*words)
        assert done.returncode == 2
        named = f"the first image {tmp_path / 'app.bin'}"
        assert done.stderr == f"coreota: {named}: the image begins with 0x464c457f: sign it with imgtool\n"
    (tmp_path / "app.bin").write_bytes(firmware("1.0.0", 5000, key=lab_key("a stranger's")))
    done = coreota(*words)
    assert done.stderr == f"coreota: {named}: no known key signed the image: sign it with a key the device knows\n"


def test_no_command_at_all() -> None:
    """Whoever types the bare name learns what there is."""
    done = coreota()
    assert (done.returncode, done.stderr) == (0, "")
    assert all(name in done.stdout for name in ("demo", "device", "provider", "deploy", "run a whole update"))
