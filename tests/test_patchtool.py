"""`coreota patch`: files in, files out, an exit status, and never half a file."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from coreota.cli import main
from coreota.patchtool import built_pairs, compiled, measured, program

OLD = Random(1).randbytes(40_000)
NEW = OLD[:10_000] + b"something new" + OLD[11_000:]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "old").write_bytes(OLD)
    (tmp_path / "new").write_bytes(NEW)
    return tmp_path


def patch(folder: Path, verb: str, *names: str) -> int:
    """Run a verb on files of the folder; options as they are."""
    return main(
        ["patch", verb, *(name if name.startswith("-") or name.isdigit() else str(folder / name) for name in names)]
    )


@pytest.mark.parametrize("options", [(), ("--compression=heatshrink", "--window=256"), ("--compression=none",)])
def test_there_and_back(folder: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert patch(folder, "make", "old", "new", "patch", "--json", *options) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["size"], made["image_size"]) == ((folder / "patch").stat().st_size, len(NEW))
    assert patch(folder, "apply", "old", "patch", "out") == 0
    assert (folder / "out").read_bytes() == NEW
    capsys.readouterr()
    assert patch(folder, "info", "patch", "--json") == 0
    assert json.loads(capsys.readouterr().out) == made
    assert sorted(path.name for path in folder.iterdir()) == ["new", "old", "out", "patch"]


def test_what_goes_wrong(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, a reason with advice, and the target as it was."""
    assert patch(folder, "make", "old", "new", "patch") == 0
    data = (folder / "patch").read_bytes()
    (folder / "cut").write_bytes(data[:-9])
    (folder / "flipped").write_bytes(data[:-9] + bytes([data[-9] ^ 4]) + data[-8:])
    (folder / "empty").write_bytes(b"")
    (folder / "out").write_bytes(b"as it was")
    for names, words in (
        (("apply", "new", "patch", "out"), "take the patch for this base"),
        (("apply", "old", "cut", "out"), "the patch is damaged"),
        (("apply", "old", "flipped", "out"), "damaged|unpacked"),
        (("apply", "old", "old", "out"), "no patch of ours"),
        (("apply", "nowhere", "patch", "out"), "there is no file"),
        (("apply", "old", "patch", "nowhere/out"), "there is no folder"),
        (("apply", "old", "nowhere", "out"), "nowhere"),
        (("make", "old", "empty", "out"), "no bytes"),
        (("make", "old", "new", "out", "--window=5000"), "power of two"),
        (("info", "empty"), "no patch of ours"),
        (("bench", "old"), "one file is no pair"),
    ):
        capsys.readouterr()
        assert patch(folder, *names) == 2
        told = capsys.readouterr().err
        assert any(word in told for word in words.split("|")), (names, told)
        assert (folder / "out").read_bytes() == b"as it was"
    assert not list(folder.glob(".*"))


def test_a_kill_leaves_nothing_that_looks_whole(folder: Path) -> None:
    """The new image appears under its name only when it is complete."""
    assert patch(folder, "make", "old", "new", "patch") == 0
    code = (
        "import os, sys, coreota.patch as p; from coreota.cli import main\n"
        "real = p.SequentialApplier.finish\n"
        "p.SequentialApplier.finish = lambda self: os._exit(9)\n"
        f"main(['patch', 'apply', {str(folder / 'old')!r}, {str(folder / 'patch')!r}, {str(folder / 'out')!r}])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert not (folder / "out").exists()
    assert patch(folder, "apply", "old", "patch", "out") == 0
    assert (folder / "out").read_bytes() == NEW


def test_a_benchmark_of_two_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert patch(folder, "bench", "old", "new", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["compression"] for row in rows] == ["none", "lzma", "heatshrink"]
    sizes = [row["patch"] for row in rows]
    assert sizes[1] < 600 < sizes[2] < 3000 < sizes[0]
    assert max(row["peak_kib"] for row in rows) < 1024
    assert all(row["apply_megabytes_per_second"] > 0 for row in rows)


def test_programs_that_are_compiled() -> None:
    """Pairs of builds of a small program: all different, each the same twice, and each a patch apart."""
    assert shutil.which("cc"), "install gcc"
    pairs = list(built_pairs(functions=40))
    assert [name for name, _, _ in pairs] == ["one constant", "another table", "a function in front", "another order"]
    assert len({old for _, old, _ in pairs} | {new for _, _, new in pairs}) == 5
    assert compiled(program(functions=40, table=2)) == pairs[1][2]
    rows = [measured(name, old, new, "lzma") for name, old, new in pairs]
    assert rows[0]["patch"] < 300 < rows[1]["patch"] < rows[1]["new"]
