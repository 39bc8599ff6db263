"""What the command line answers where its words, its files or its reader are wrong: one line, with the cure."""

import subprocess
import sys
from pathlib import Path

import pytest

from coreota.benchworkers import work
from coreota.cli import main

COREOTA = [str(Path(sys.executable).with_name("coreota"))]

WRONG: dict[str, tuple[str, str]] = {
    "an API that is no URL": ("status --api localhost:8480", "--api localhost:8480: write http://host:port"),
    "an API with half an address": ("cancel u --api http://[::1", "--api http://[::1: write http://host:port"),
    "an API of nothing": ("status --api=", "--api : write http://host:port"),
    "an S3 that is no URL": ("provider --s3-endpoint minio", "--s3-endpoint minio: write http://host:port"),
    "a signer's key that is none": ("provider --signer r=text", "the signer's key text: no private key can be read: "),
    "a state that is a file": (
        "provider --mqtt-port 0 --api-port 0 --state text",
        "text: it is in the way: give another",
    ),
    "no target": ("deploy text --profile p", "there is no thing and no group: name them with --thing and --group"),
    "nobody signs": ("deploy text --thing x", "give either --key or --profile: who signs, you or the provider?"),
    "a key that is none": (
        "deploy text --thing x --key text",
        "the key text: no private key can be read: Unable to load",
    ),
    "an image that is not there": ("deploy nothing --thing x --profile p", "there is no file nothing: give the path"),
    "an image of nothing": ("deploy empty --thing x --profile p", "empty is empty: give the path of a firmware file"),
    "a rate of none": ("deploy text --thing x --profile p --rate 0", "--rate 0: take 1 to 1,000"),
    "too many percent": ("deploy text --thing x --profile p --abort 101", "--abort 101.0: take 0.01 to 100"),
    "minutes below zero": ("deploy text --thing x --profile p --minutes -1", "--minutes -1: take 1 to 10,080"),
    "an interval below zero": ("deploy text --thing x --profile p --interval -1", "--interval -1.0: take 0.1 to 3,600"),
    "no processes": ("sweep --jobs 0", "0 processes: take --jobs 1 or more"),
    "certificates in a file": ("certs text", "text: it is in the way: give another name"),
    "a port that is none": (
        "certs folder --port 99999",
        "--port 99999 and --provider-port 8884: take two of 1 to 65535",
    ),
    "a block size that is none": ("bench decode --block-size 255", "--block-size 255: take 256 to 131072"),
    "a table that is none": ("device --config flat.toml", "flat.toml: device is no table: write [device] on a line"),
    "a patch in place of a folder": (
        "patch make text text folder",
        "folder is a folder: give the name of a file in it",
    ),
    "a flash in place of a folder": ("demo --quiet --flash folder", "folder is a folder: give the name of a new file"),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with what is not wanted in it."""
    (tmp_path / "text").write_text("no key, no image, no dump")
    (tmp_path / "empty").touch()
    (tmp_path / "flat.toml").write_text("device = 3")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", WRONG)
def test_wrong_words(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, said = WRONG[name]
    assert main(words.split()) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert (shown.out, shown.err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("flash show text --sector -1", "'-1' is no number from 0 on, such as 4096 or 0x1000"),
        ("flash boot text --cut x", "'x' is no number from 0 on, such as 4096 or 0x1000"),
        ("sweep --mode swap", "invalid choice: 'swap' (choose from 'swap-move',"),
        ("deplyo text", ": did you mean deploy?"),
        ("flash shwo text", ": did you mean show?"),
        ("sweep --story tale", "invalid choice: 'tale' (choose from 'test',"),
    ],
)
def test_words_that_are_none(words: str, said: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Told by the grammar, with the usage above it."""
    with pytest.raises(SystemExit, match="2"):
        main(words.split())
    assert said in capsys.readouterr().err


def test_a_reader_who_has_read_enough(here: Path) -> None:
    """As `head` does: no word about it, and the exit status of a closed pipe."""
    (here / "dump").write_bytes(b"\xff" * 65_536)
    process = subprocess.Popen([*COREOTA, "flash", "show", "dump"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert (process.stderr.read(), process.wait(30)) == (b"", 141)


class Interrupted:
    """What a worker reads when Ctrl-C comes, which every process of a terminal gets."""

    def readline(self) -> str:
        raise KeyboardInterrupt


def test_an_interrupted_worker_of_a_benchmark_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its parent has the word."""
    monkeypatch.setattr("sys.stdin", Interrupted())
    work()
    assert capsys.readouterr() == ("", "")
