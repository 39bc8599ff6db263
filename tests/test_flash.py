"""The rules of NOR flash, its power cuts, and a flash in a file."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from coreota.flash import (
    Flash,
    FlashArea,
    FlashError,
    FlashRecorder,
    NorFlash,
    Operation,
    PowerCut,
    copy_region,
    padded,
    sector_kinds,
    sectors,
)
from coreota.flashfile import FileFlash


def test_a_new_flash_is_erased() -> None:
    assert NorFlash(8192).read(0, 8192) == b"\xff" * 8192


def test_write_then_read() -> None:
    flash = NorFlash(8192)
    flash.write(8, b"firmware")
    assert flash.read(0, 24) == b"\xff" * 8 + b"firmware" + b"\xff" * 8
    assert flash.operations == 1


@pytest.mark.parametrize("data", [b"firmware", bytearray(b"firmware"), memoryview(b"firmware")])
def test_bytes_like_data(data: bytes | bytearray | memoryview) -> None:
    flash = NorFlash(8192)
    flash.write(0, data)
    assert flash.read(0, 8) == b"firmware"


@pytest.mark.parametrize(
    ("offset", "data", "reason"),
    [
        (4, b"12345678", "flash-align"),
        (0, b"1234567", "flash-align"),
        (8192, b"12345678", "flash-range"),
        (-8, b"12345678", "flash-range"),
        (8184, b"1" * 16, "flash-range"),
        (16, b"12345678", "flash-not-erased"),
        (8, b"1" * 16, "flash-not-erased"),
    ],
)
def test_a_write_against_the_rules_changes_nothing(offset: int, data: bytes, reason: str) -> None:
    flash = NorFlash(8192)
    flash.write(16, b"occupied")
    before = flash.read(0, 8192)
    with pytest.raises(FlashError) as caught:
        flash.write(offset, data)
    assert caught.value.reason == reason
    assert flash.read(0, 8192) == before
    assert flash.operations == 1


@pytest.mark.parametrize(("offset", "reason"), [(8, "flash-align"), (8192, "flash-range"), (-4096, "flash-range")])
def test_an_erase_against_the_rules(offset: int, reason: str) -> None:
    with pytest.raises(FlashError) as caught:
        NorFlash(8192).erase(offset)
    assert caught.value.reason == reason


@pytest.mark.parametrize(("offset", "length"), [(8192, 1), (0, 8193), (-1, 1), (0, -1)])
def test_a_read_outside(offset: int, length: int) -> None:
    with pytest.raises(FlashError):
        NorFlash(8192).read(offset, length)


@pytest.mark.parametrize("shape", [(8192, 4096, 0), (8192, 4096, 3), (5000, 4096, 8), (0, 4096, 8), (8192, 0, 8)])
def test_an_impossible_geometry(shape: tuple[int, int, int]) -> None:
    with pytest.raises(FlashError):
        NorFlash(*shape)


def test_erase_clears_one_sector_and_wears_it() -> None:
    flash = NorFlash(3 * 4096)
    for offset in range(0, 3 * 4096, 8):
        flash.write(offset, b"xxxxxxxx")
    flash.erase(4096)
    assert sector_kinds(flash.read(0, flash.size), 4096) == ["programmed", "erased", "programmed"]
    assert flash.wear == [0, 1, 0]


def test_power_fails_after_so_many_operations_and_stays_away() -> None:
    flash = NorFlash(8192)
    flash.cut_after(2)
    flash.write(0, b"12345678")
    flash.erase(4096)
    for _ in range(2):
        with pytest.raises(PowerCut):
            flash.write(8, b"12345678")
        with pytest.raises(PowerCut):
            flash.erase(0)
    assert flash.read(0, 16) == b"12345678" + b"\xff" * 8
    assert flash.operations == 2
    flash.power_on()
    flash.write(8, b"12345678")
    assert flash.operations == 3


@pytest.mark.parametrize(("torn", "done"), [(0.0, 0), (0.25, 256), (0.75, 768), (0.999, 1016)])
def test_torn_write(torn: float, done: int) -> None:
    flash = NorFlash(8192)
    flash.cut_after(0, torn=torn)
    with pytest.raises(PowerCut):
        flash.write(0, b"x" * 1024)
    assert flash.read(0, 1024) == b"x" * done + b"\xff" * (1024 - done)


def test_torn_erase_only_tears_the_first_operation() -> None:
    flash = NorFlash(8192, storage=bytearray(8192))
    flash.cut_after(0, torn=0.5)
    with pytest.raises(PowerCut):
        flash.erase(0)
    with pytest.raises(PowerCut):
        flash.erase(4096)
    assert flash.read(0, 8192) == b"\xff" * 2048 + bytes(8192 - 2048)
    assert flash.wear == [0, 0]


def test_areas_have_offsets_and_ends_of_their_own() -> None:
    flash = NorFlash(16384)
    area = FlashArea(FlashArea(flash, 4096, 8192), 4096, 4096)
    area.write(0, b"firmware")
    assert flash.read(8192, 8) == b"firmware"
    area.erase(0)
    assert flash.wear == [0, 0, 1, 0]
    for outside in (lambda: area.write(4096, b"firmware"), lambda: area.erase(4096), lambda: area.read(4090, 8)):
        with pytest.raises(FlashError):
            outside()
    with pytest.raises(FlashError):
        FlashArea(flash, 100, 4096)
    with pytest.raises(FlashError):
        FlashArea(flash, 8192, 16384)


def test_copy_goes_in_pieces_of_1024_bytes() -> None:
    flash = FlashRecorder(NorFlash(16384))
    flash.write(0, b"firmware" * 200)
    copy_region(flash, 0, flash, 8192, 1600)
    assert flash.read(8192, 1600) == b"firmware" * 200
    assert [(op.kind, op.offset, op.length) for op in flash.log[1:]] == [("write", 8192, 1024), ("write", 9216, 576)]


def test_the_recorder_notes_only_what_was_done() -> None:
    inner = NorFlash(8192)
    flash: Flash = FlashRecorder(inner)
    inner.cut_after(1)
    flash.erase(4096)
    with pytest.raises(PowerCut):
        flash.write(0, b"firmware")
    assert isinstance(flash, FlashRecorder)
    assert flash.log == [Operation("erase", 4096, 4096)]


def test_small_tools() -> None:
    assert padded(b"", 8) == b""
    assert padded(b"123456789", 8) == b"123456789" + b"\xff" * 7
    assert list(sectors(4095, 2, 4096)) == [0, 1]
    assert list(sectors(0, 4096, 4096)) == [0]
    assert list(sectors(4096, 0, 4096)) == []


def test_pictures() -> None:
    flash = NorFlash(8192)
    flash.write(0, b"firmware")
    assert repr(flash) == "<NorFlash 8 KiB: 1 of 2 sectors programmed>"
    assert "sectors 0 to 0 programmed" in flash._repr_svg_()


def test_a_file_outlives_its_flash(tmp_path: Path) -> None:
    path = tmp_path / "device.flash"
    with FileFlash(path, 64 * 1024) as flash:
        flash.write(4096, b"firmware")
    assert path.stat().st_size == 64 * 1024
    with FileFlash(path, 64 * 1024) as flash:
        assert flash.read(4096, 8) == b"firmware"
        flash.erase(4096)
    assert path.read_bytes() == b"\xff" * 64 * 1024


def test_a_file_of_another_size_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "device.flash"
    path.write_bytes(b"something else")
    with pytest.raises(FlashError):
        FileFlash(path, 64 * 1024)
    assert path.read_bytes() == b"something else"


def test_a_file_is_looked_at_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "dump.bin"
    path.write_bytes(b"\xff" * 4096 + b"firmware" * 512)
    with FileFlash(path, read_only=True) as flash:
        assert (flash.size, flash.read(4096, 8)) == (8192, b"firmware")
        changes: list[Callable[[], None]] = [lambda: flash.write(0, b"12345678"), lambda: flash.erase(4096)]
        for change in changes:
            with pytest.raises(FlashError) as error:
                change()
            assert (error.value.reason, flash.operations) == ("flash-read-only", 0)
        flash.cut_after(0, torn=0.5)
        with pytest.raises(FlashError):
            flash.erase(4096)
    assert path.read_bytes() == b"\xff" * 4096 + b"firmware" * 512


@pytest.mark.parametrize(("content", "reason"), [(None, "flash-missing"), (b"", "flash-geometry")])
def test_without_a_size_the_file_must_be_there(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "dump.bin"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FlashError) as error:
        FileFlash(path)
    assert (error.value.reason, path.exists()) == (reason, content is not None)
    assert error.value.advice


def test_a_flash_that_cannot_be_leaves_no_file(tmp_path: Path) -> None:
    for path, size, reason in (
        (tmp_path / "odd.bin", 5000, "flash-geometry"),
        (tmp_path / "none.bin", 0, "flash-geometry"),
        (tmp_path / "no folder" / "dump.bin", 4096, "flash-file"),
    ):
        with pytest.raises(FlashError) as error:
            FileFlash(path, size)
        assert (error.value.reason, bool(error.value.advice)) == (reason, True)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_loses_nothing_it_wrote(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from coreota.flashfile import FileFlash\n"
        "flash = FileFlash(sys.argv[1], 65536)\n"
        "flash.write(8192, b'written!')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "device.flash"
    ended = subprocess.run([sys.executable, "-c", program, os.fspath(path)])
    assert ended.returncode == -signal.SIGKILL
    with FileFlash(path, 65536) as flash:
        assert flash.read(8192, 8) == b"written!"


@pytest.mark.parametrize("lines", [1, 3, 40])
def test_a_process_killed_while_it_writes(lines: int, tmp_path: Path) -> None:
    """All that it said was written is there, and behind that at most one write more, with no gap."""
    program = (
        "import sys\n"
        "from coreota.flashfile import FileFlash\n"
        "flash = FileFlash(sys.argv[1], 1 << 20)\n"
        "for n in range(1 << 17):\n"
        "    flash.write(8 * n, (n + 1).to_bytes(8, 'little'))\n"
        "    print(n, flush=True)\n"
    )
    path = tmp_path / "device.flash"
    command = [sys.executable, "-c", program, os.fspath(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(lines)]
        process.kill()
        rest = process.stdout.read()
    assert process.returncode == -signal.SIGKILL
    said += [int(line) for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    with FileFlash(path, 1 << 20) as flash:
        content = flash.read(0, flash.size)
    written = content[: len(content.rstrip(b"\xff"))]
    units = [int.from_bytes(content[at : at + 8], "little") for at in range(0, len(written), 8)]
    assert said == list(range(len(said))) and len(said) >= lines
    assert units == list(range(1, len(units) + 1))
    assert len(said) <= len(units) <= len(said) + 1


def test_a_unit_is_programmed_once_even_with_ff() -> None:
    """As MCUboot's simulator has it, until the sector is erased; a torn write uses nothing up."""
    flash = NorFlash(8192, 4096, 8, once=True)
    flash.write(0, b"\xff" * 16)
    for offset in (0, 8):
        with pytest.raises(FlashError, match="programmed with FF"):
            flash.write(offset, b"firmware")
    flash.write(16, b"firmware")
    flash.erase(0)
    flash.write(0, b"firmware")
    flash.cut_after(0)
    with pytest.raises(PowerCut):
        flash.write(8, b"\xff" * 8)
    flash.power_on()
    flash.write(8, b"firmware")
    assert flash.read(0, 24) == b"firmware" * 2 + b"\xff" * 8
