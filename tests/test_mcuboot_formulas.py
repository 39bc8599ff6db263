"""MCUboot's rules once more, as plain arithmetic on bytes: for every alignment ours must make the same operations.

The recorded runs of `test_mcuboot_vectors` cover alignments 8 and 16 of three modes. This model covers the rest. It
shares no code with the package, is itself held against the recorded runs, and knows nothing of power cuts.
"""

import gzip
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from coreota.boot import BootConfig, BootMode
from coreota.bootloader import McubootBootloader
from coreota.flash import FlashRecorder, NorFlash, Operation
from coreota.image import Version, make_image
from coreota.trailer import Slot, SwapType, TrailerLayout

KEY = ec.derive_private_key(11, ec.SECP256R1())
SWAPS = (BootMode.SWAP_MOVE, BootMode.SWAP_OFFSET)
ALIGNMENTS = [(unit, align) for align in (8, 16, 32) for unit in (1, 2, 4, 8, 16, 32) if unit <= align]
TEST, PERM, REVERT = 2, 3, 4


def up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def down(number: int, unit: int) -> int:
    return number // unit * unit


def image_end(content: bytearray, base: int) -> tuple[int, int]:
    """Bytes of the image that begins at `base`, and those of its unprotected TLV area."""
    word = [int.from_bytes(content[base + at : base + at + 4], "little") for at in (8, 12)]
    at = (word[0] & 0xFFFF) + word[1] + (word[0] >> 16)
    total = int.from_bytes(content[base + at + 2 : base + at + 4], "little")
    return at + total, total


@dataclass
class Model:
    """A flash and the operations on it, by MCUboot's formulas."""

    content: bytearray
    mode: BootMode
    size: int  # Of each slot
    sector: int
    unit: int
    align: int
    entries: int = 128
    done: list[Operation] = field(default_factory=list)

    @property
    def fields(self) -> dict[str, int]:
        size, align = self.size, self.align
        ok = down(size - 16 - align, align)
        at = {"image_ok": ok, "copy_done": ok - align, "swap_info": ok - 2 * align, "tlv_sizes": ok - 3 * align}
        at["swap_size"] = ok - (4 if self.mode is BootMode.SWAP_OFFSET else 3) * align
        at["magic"] = down(size - 16, align)
        at["status"] = size - self.trailer
        return at

    @property
    def trailer(self) -> int:
        if self.mode is BootMode.SWAP_OFFSET:
            return self.entries * 2 * self.unit + 5 * self.align + up(16, self.align)
        return self.entries * 3 * self.unit + 4 * self.align + up(16, self.align)

    @property
    def magic(self) -> bytes:
        if self.align == 8:
            return bytes.fromhex("77c295f360d2ef7f3552500f2cb67980")
        magic = bytes([self.align, 0]) + bytes.fromhex("2de15d29410b8d77679c110f1f8a")
        return b"\xff" * (up(16, self.align) - 16) + magic

    def erase(self, slot: int, at: int) -> None:
        start = slot * self.size + at
        self.content[start : start + self.sector] = b"\xff" * self.sector
        self.done.append(Operation("erase", start, self.sector))

    def write(self, slot: int, at: int, data: bytes) -> None:
        start = slot * self.size + at
        assert self.content[start : start + len(data)] == b"\xff" * len(data)
        self.content[start : start + len(data)] = data
        self.done.append(Operation("write", start, len(data), data))

    def put(self, slot: int, name: str, value: bytes) -> None:
        self.write(slot, self.fields[name], value.ljust(up(len(value), self.unit), b"\xff"))

    def flag(self, slot: int, name: str) -> int:
        return self.content[slot * self.size + self.fields[name]]

    def good(self, slot: int) -> bool:
        end = (slot + 1) * self.size
        return self.content[end - 16 : end] == self.magic[-16:]

    def copy(self, source: int, at: int, target: int, to: int, size: int = 0) -> None:
        for piece in range(0, size or self.sector, 1024):
            start, length = source * self.size + at + piece, min(1024, size or self.sector)
            self.write(target, to + piece, bytes(self.content[start : start + length]))

    def scramble(self, slot: int) -> None:
        for at in range(self.size - self.sector, down(self.size - self.trailer, self.sector) - 1, -self.sector):
            self.erase(slot, at)

    def status(self, entry: int, value: int) -> None:
        self.write(0, self.fields["status"] + entry * self.unit, bytes([value]).ljust(self.unit, b"\xff"))

    def status_init(self, slot: int, kind: int, size: int, tlvs: tuple[int, int]) -> None:
        confirmed = self.flag(1, "image_ok") == 1
        self.put(slot, "swap_info", bytes([kind]))
        if confirmed:
            self.put(slot, "image_ok", b"\x01")
        self.put(slot, "swap_size", size.to_bytes(4, "little"))
        if self.mode is BootMode.SWAP_OFFSET:
            self.put(slot, "tlv_sizes", b"".join(length.to_bytes(2, "little") for length in tlvs))
        self.write(slot, self.fields["magic"], self.magic)

    def boot(self) -> None:
        """One boot with valid images."""
        kind = 0
        if self.good(1):
            kind = PERM if self.flag(1, "image_ok") == 1 else TEST
        elif self.good(0) and (self.flag(0, "image_ok"), self.flag(0, "copy_done")) == (0xFF, 1):
            kind = REVERT
        if kind and self.mode is BootMode.OVERWRITE:
            self.overwrite()
        elif kind and self.mode is BootMode.SWAP_MOVE:
            self.move(kind)
        elif kind:
            self.offset(kind)
        if kind and self.mode is not BootMode.OVERWRITE:
            if kind in (PERM, REVERT) and self.flag(0, "image_ok") == 0xFF:
                self.put(0, "image_ok", b"\x01")
            self.put(0, "copy_done", b"\x01")

    def move(self, kind: int) -> None:
        size = max(image_end(self.content, 0)[0], image_end(self.content, self.size)[0])
        last = max(1, up(size, self.sector) // self.sector)
        if kind == REVERT:
            self.scramble(1)
            self.put(1, "image_ok", b"\x01")
            self.put(1, "swap_size", size.to_bytes(4, "little"))
            self.write(1, self.fields["magic"], self.magic)
        self.scramble(0)
        self.status_init(0, kind, size, (0, 0))
        self.scramble(1)
        for k in range(1, last + 1):
            self.erase(0, (last - k + 1) * self.sector)
            self.copy(0, (last - k) * self.sector, 0, (last - k + 1) * self.sector)
            self.status(k - 1, 1)
        for i in range(1, last + 1):
            self.erase(0, (i - 1) * self.sector)
            self.copy(1, (i - 1) * self.sector, 0, (i - 1) * self.sector)
            self.status(self.entries + 2 * (i - 1), 1)
            self.erase(1, (i - 1) * self.sector)
            self.copy(0, i * self.sector, 1, (i - 1) * self.sector)
            self.status(self.entries + 2 * (i - 1) + 1, 2)

    def offset(self, kind: int) -> None:
        base = self.size if kind == REVERT else self.size + self.sector
        (first, tlv1), (second, tlv2) = image_end(self.content, 0), image_end(self.content, base)
        size = max(first, second)
        last = up(size, self.sector) // self.sector - 1
        used1, used2 = (up(end, self.sector) // self.sector for end in (first, second))
        if kind == REVERT:
            self.scramble(1)
            self.put(1, "copy_done", b"\x01")
            self.status_init(1, kind, size, (tlv1, tlv2))
        self.scramble(0)
        self.status_init(0, kind, size, (tlv1, tlv2))
        self.scramble(1)
        order = range(last, -1, -1) if kind == REVERT else range(last + 1)
        for number, i in enumerate(order):
            there, back = (i + 1, i) if kind == REVERT else (i, i + 1)
            if i <= used1:
                self.erase(1, there * self.sector)
                self.copy(0, i * self.sector, 1, there * self.sector)
            self.status(2 * number, 1)
            if i <= used2:
                self.erase(0, i * self.sector)
                self.copy(1, back * self.sector, 0, i * self.sector)
            self.status(2 * number + 1, 2)
        if kind == REVERT:
            self.erase(1, 0)
            self.scramble(1)

    def overwrite(self) -> None:
        for at in range(0, self.size, self.sector):
            self.erase(0, at)
        self.copy(1, 0, 0, 0, self.size)
        self.erase(1, 0)
        self.erase(1, self.size - self.sector)

    def set_pending(self, permanent: bool) -> None:
        self.write(1, self.fields["magic"], self.magic)
        if permanent:
            self.put(1, "image_ok", b"\x01")
        self.put(1, "swap_info", bytes([PERM if permanent else TEST]))

    def confirm(self) -> None:
        if self.good(0) and self.flag(0, "image_ok") == 0xFF:
            self.put(0, "image_ok", b"\x01")


def firmware(version: str, size: int) -> bytes:
    text = b"".join(f"{version} {i:6}\n".encode() for i in range(size // 8 + 1))[:size]
    return make_image(text, Version.parse(version), key=KEY)


SIZES = {
    "growing": (5000, 9000),
    "shrinking": (13000, 700),
    "small": (50, 100),
    "whole sectors": (8192 - 32 - 152, 4096 - 32 - 152),
}
IMAGES = {name: (firmware("1.0.0", old), firmware("2.0.0", new)) for name, (old, new) in SIZES.items()}


@pytest.mark.parametrize("sector", [512, 1024, 4096])
@pytest.mark.parametrize(("unit", "align"), ALIGNMENTS)
@pytest.mark.parametrize("mode", [*SWAPS, BootMode.OVERWRITE])
def test_the_operations_are_those_of_the_formulas(mode: BootMode, unit: int, align: int, sector: int) -> None:
    """A trial, a revert, an update for good, and a confirmed trial, of images of four size relations."""
    size = 64 * 1024
    config = BootConfig((0, size), (size, size), mode, sector, unit, align)
    for old, new in IMAGES.values():
        start = bytearray(old.ljust(size, b"\xff") + b"\xff" * config.image_base + new.ljust(size, b"\xff"))[: 2 * size]
        for calls in ("pbb", "Pbb", "pbcb"):
            model = Model(bytearray(start), mode, size, sector, unit, align)
            recorder = FlashRecorder(NorFlash(2 * size, sector, unit, storage=bytearray(start)))
            bootloader = McubootBootloader(recorder, config, [KEY.public_key()])
            for call in calls:
                if call in "pP":
                    model.set_pending(call == "P")
                    bootloader.activate(permanent=call == "P")
                elif call == "c":
                    model.confirm()
                    bootloader.confirm()
                else:
                    model.boot()
                    assert bootloader.boot().booted
            assert recorder.log == model.done
            assert recorder.read(0, 2 * size) == model.content


@pytest.mark.parametrize("offset_swap", [False, True])
@pytest.mark.parametrize(("unit", "align"), ALIGNMENTS)
def test_the_layout_is_that_of_the_formulas(unit: int, align: int, offset_swap: bool) -> None:
    mode = BootMode.SWAP_OFFSET if offset_swap else BootMode.SWAP_MOVE
    for size, sector, entries in ((64 * 1024, 4096, 128), (96 * 1024, 2048, 48), (1 << 20, 4096, 256)):
        model = Model(bytearray(), mode, size, sector, unit, align, entries)
        layout = TrailerLayout(size, sector, unit, align, entries, offset_swap)
        assert layout.magic == model.magic[-16:]
        for name in ("image_ok", "copy_done", "swap_info", "swap_size", "status"):
            assert getattr(layout, name) == model.fields[name], name
            assert getattr(layout, name) % unit == 0, name
        assert (layout.tlv_sizes == model.fields["tlv_sizes"]) or not offset_swap
        assert layout.sectors == range((size - model.trailer) // sector, size // sector)
        config = BootConfig((0, size), (size, size), mode, sector, unit, align, entries)
        assert config.max_image_size == size - up(model.trailer, sector) - sector
        over = BootConfig((0, size), (size, size), BootMode.OVERWRITE, sector, unit, align, entries)
        assert over.max_image_size == size - up(16, align) - 3 * align


@pytest.mark.parametrize(("unit", "align"), ALIGNMENTS)
def test_fields_are_written_value_first_in_whole_units(unit: int, align: int) -> None:
    flash = FlashRecorder(NorFlash(128 * 1024, 4096, unit))
    slot = Slot("primary", flash, 0, 64 * 1024, align, offset_swap=True)
    slot.write_swap_info(SwapType.TEST)
    slot.write_swap_size(0x1234)
    slot.write_tlv_sizes(0x97, 0x102)
    slot.write_status(5, 2)
    slot.write_magic()
    lengths = [operation.length for operation in flash.log]
    assert lengths == [unit, up(4, unit), up(4, unit), unit, up(16, align)]
    assert [operation.data[:4].rstrip(b"\xff").hex() for operation in flash.log[:4]] == [
        "02",
        "34120000",
        "97000201",
        "02",
    ]
    assert all(set(operation.data[4:]) <= {0xFF} for operation in flash.log[:4])
    assert (slot.swap_size, slot.tlv_sizes, slot.status_entries()) == (0x1234, (0x97, 0x102), 6)


DATA = Path(__file__).parent / "data" / "mcuboot"
MANIFEST: dict[str, Any] = json.loads((DATA / "manifest.json").read_text())
BY_ID: dict[str, dict[str, Any]] = {vector["id"]: vector for vector in MANIFEST["vectors"]}
MODES = {"move": BootMode.SWAP_MOVE, "over": BootMode.OVERWRITE}
WHOLE = [
    vector
    for name, vector in BY_ID.items()
    if name.startswith(tuple(MODES))
    and "trace" in vector
    and name.endswith(("trial", "perm", "reverted", "pad_booted"))
    if vector["cmd"] == ["boot"]
]


def flash_of(vector: dict[str, Any]) -> bytes:
    """The flash that a vector ends with."""
    return gzip.decompress((DATA / vector["file"]).read_bytes())


def line(number: int, done: Operation, slot_size: int) -> str:
    """An operation in the words of the manifest."""
    slot, at = divmod(done.offset, slot_size)
    if done.kind == "erase":
        return f"{number} E {slot + 1} {at:#x} {done.length}"
    data = done.data.hex() if done.length <= 32 else f"crc32={zlib.crc32(done.data):08x}"
    return f"{number} W {slot + 1} {at:#x} {done.length} {data}"


@pytest.mark.parametrize("vector", WHOLE, ids=lambda vector: str(vector["id"]))
def test_the_model_itself_is_that_of_the_recorded_runs(vector: dict[str, Any]) -> None:
    """Where MCUboot's own boot of two good images was recorded, the model makes the same operations."""
    facts, mode = MANIFEST["configs"][vector["config"]], MODES[vector["config"][:4]]
    start = bytearray(flash_of(BY_ID[vector["from"]]))
    model = Model(start, mode, facts["slots"][1], facts["sector"], facts["write_align"], facts["max_align"])
    model.boot()
    assert [line(number, done, model.size) for number, done in enumerate(model.done, 1)] == vector["trace"]
    assert model.content == flash_of(vector)


def test_the_model_was_held_against_all_modes_recorded() -> None:
    assert {vector["config"] for vector in WHOLE} == {"move_a16", "move_a8", "over_a8"}
    assert len(WHOLE) == 21
