"""Swap using offset: every cut, every pair of cuts, and the defects of MCUboot that are repaired here."""

from collections.abc import Callable, Iterator
from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from coreota.boot import BootConfig, BootMode, DowngradePolicy, max_image_size
from coreota.bootloader import BootResult, McubootBootloader
from coreota.errors import LocalOtaError, RemoteOtaError
from coreota.flash import NorFlash, PowerCut, padded
from coreota.image import Version, make_image
from coreota.swap import SwapPhase, SwapStatus, read_status
from coreota.swapoffset import Extent, next_offset_step, offset_header_places, resumed_extents
from coreota.trailer import Flag, Magic, SwapType, TrailerLayout, TrailerState, swap_type, trailer_size

KEY = ec.derive_private_key(11, ec.SECP256R1())
SLOT, SECTOR = 32 * 1024, 4096
CONFIG = BootConfig(mode=BootMode.SWAP_OFFSET)


def firmware(version: str, size: int) -> bytes:
    """A signed image whose content depends on its version."""
    text = b"".join(f"{version} {i:6}\n".encode() for i in range(size // 8 + 1))[:size]
    return make_image(text, Version.parse(version), key=KEY)


OLD, NEW = firmware("1.0.0", 5000), firmware("2.0.0", 9000)
V1, V2 = Version.parse("1.0.0"), Version.parse("2.0.0")
PAIRS = {
    "growing": (OLD, NEW),
    "shrinking": (firmware("1.0.0", 9000), firmware("2.0.0", 100)),
    "shrinking by more than a sector": (firmware("1.0.0", 17000), firmware("2.0.0", 5000)),
    "one sector each": (firmware("1.0.0", 50), firmware("2.0.0", 100)),
    "whole sectors": (firmware("1.0.0", 8192 - 32 - 151), firmware("2.0.0", 4096 - 32 - 151)),
    "largest": (firmware("1.0.0", 24576 - 32 - 160), firmware("2.0.0", 100)),
}


def resume(content: bytes, config: BootConfig = CONFIG) -> tuple[NorFlash, McubootBootloader]:
    """The device that wakes up with this flash."""
    flash = NorFlash(len(content), config.sector_size, config.write_align, storage=bytearray(content))
    return flash, McubootBootloader(flash, config, [KEY.public_key()])


def pending(
    old: bytes, new: bytes, config: BootConfig = CONFIG, permanent: bool = False
) -> tuple[NorFlash, McubootBootloader]:
    """A device with an update waiting."""
    flash, bootloader = resume(b"\xff" * (config.primary[1] + config.secondary[1]), config)
    flash.write(0, padded(old, config.write_align))
    bootloader.boot()
    bootloader.prepare(len(new))
    for at in range(0, len(new), 1024):
        bootloader.write(at, memoryview(new)[at : at + 1024])
    bootloader.activate(permanent=permanent)
    return flash, bootloader


def stations(old: bytes, new: bytes, config: BootConfig = CONFIG) -> tuple[bytes, bytes, bytes]:
    """The flash with a request, on trial, and after the revert."""
    flash, bootloader = pending(old, new, config)
    asked = flash.read(0, flash.size)
    assert bootloader.boot() == BootResult(True, V2, SwapType.TEST)
    trial = flash.read(0, flash.size)
    assert bootloader.boot() == BootResult(True, V1, SwapType.REVERT)
    return asked, trial, flash.read(0, flash.size)


def cut_boots(start: bytes, config: BootConfig = CONFIG, torn: float = 0.0) -> Iterator[bytes]:
    """What a boot leaves behind when it is cut, for each of its operations."""
    for operation in range(1000):
        flash, bootloader = resume(start, config)
        flash.cut_after(operation, torn=torn)
        try:
            bootloader.boot()
        except PowerCut:
            yield flash.read(0, flash.size)
        else:
            return


def ends(start: bytes, config: BootConfig = CONFIG) -> bytes:
    """The flash after one boot."""
    flash, bootloader = resume(start, config)
    assert bootloader.boot().booted
    return flash.read(0, flash.size)


# ── one update ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_images_lie_where_they_should() -> None:
    asked, trial, reverted = stations(OLD, NEW)
    assert asked[SLOT + SECTOR :].startswith(NEW)
    assert asked[SLOT : SLOT + SECTOR] == b"\xff" * SECTOR
    assert trial.startswith(NEW)
    assert trial[SLOT:].startswith(OLD)
    assert reverted.startswith(OLD)
    assert reverted[SLOT + SECTOR :].startswith(NEW)
    assert reverted[SLOT : SLOT + SECTOR] == b"\xff" * SECTOR
    assert ends(reverted) == reverted


def test_update_confirm_and_update_again() -> None:
    _, bootloader = pending(OLD, NEW)
    assert bootloader.candidate() == V2
    assert bootloader.boot() == BootResult(True, V2, SwapType.TEST)
    assert bootloader.on_trial
    with pytest.raises(LocalOtaError) as caught:
        bootloader.prepare(100)
    assert caught.value.reason == "on-trial"
    bootloader.confirm()
    assert bootloader.boot() == BootResult(True, V2)
    third = firmware("3.0.0", 12000)
    bootloader.prepare(len(third))
    bootloader.write(0, third)
    assert bootloader.read(0, len(third)) == third
    bootloader.activate(permanent=True)
    assert bootloader.boot() == BootResult(True, Version.parse("3.0.0"), SwapType.PERM)
    assert bootloader.boot() == BootResult(True, Version.parse("3.0.0"))
    assert not bootloader.on_trial


def test_the_trailer_after_a_trial_and_after_a_revert() -> None:
    _, trial, reverted = stations(OLD, NEW)
    slots = resume(trial)[1].slots
    assert slots.primary.trailer() == TrailerState(Magic.GOOD, Flag.UNSET, Flag.SET, SwapType.TEST)
    assert (slots.primary.swap_size, slots.primary.tlv_sizes) == (
        len(NEW),
        (len(OLD) - 5032, len(NEW) - 9032),
    )
    assert slots.primary.status_entries() == 6
    assert slots.secondary.trailer() == TrailerState(Magic.UNSET, Flag.UNSET, Flag.UNSET, 15)
    slots = resume(reverted)[1].slots
    assert slots.primary.trailer() == TrailerState(Magic.GOOD, Flag.SET, Flag.SET, SwapType.REVERT)
    assert slots.secondary.trailer().magic is Magic.UNSET


def test_an_image_stored_without_the_offset_is_refused() -> None:
    flash, bootloader = resume(OLD.ljust(SLOT, b"\xff") + NEW.ljust(SLOT, b"\xff"))
    bootloader.activate()
    assert bootloader.boot() == BootResult(True, V1)
    assert flash.read(SLOT, SLOT) == b"\xff" * SLOT


def test_a_request_without_an_image_is_taken_back() -> None:
    flash, bootloader = resume(OLD.ljust(2 * SLOT, b"\xff"))
    bootloader.activate()
    assert bootloader.boot() == BootResult(True, V1)
    assert flash.wear[8:] == [0] * 7 + [1]


def test_a_lost_old_image_keeps_the_new_one_running() -> None:
    _, trial, _ = stations(OLD, NEW)
    damaged = bytearray(trial)
    damaged[SLOT + 3000] ^= 1
    flash, bootloader = resume(bytes(damaged))
    assert [bootloader.boot() for _ in range(3)] == [BootResult(True, V2)] * 3
    assert flash.read(SLOT, SLOT) == b"\xff" * SLOT
    bootloader.confirm()
    operations = flash.operations
    assert bootloader.boot() == BootResult(True, V2)
    assert flash.operations == operations


def test_a_downgrade_is_refused() -> None:
    config = BootConfig(mode=BootMode.SWAP_OFFSET, downgrade=DowngradePolicy.VERSION)
    flash, bootloader = pending(OLD, firmware("0.9.0", 9000), config)
    with pytest.raises(RemoteOtaError) as caught:
        bootloader.candidate()
    assert caught.value.reason == "downgrade"
    assert bootloader.boot() == BootResult(True, V1)
    assert flash.read(SLOT, SLOT) == b"\xff" * SLOT


def test_pictures_name_the_images() -> None:
    _, bootloader = pending(OLD, NEW)
    drawn = bootloader.picture().source
    assert "secondary sectors 0 to 0 erased" in drawn
    assert "secondary sectors 1 to 3 2.0.0" in drawn


# ── power cuts ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("torn", [0.0, 0.5])
@pytest.mark.parametrize("pair", list(PAIRS))
def test_a_cut_anywhere_changes_no_byte_of_the_end(pair: str, torn: float) -> None:
    asked, trial, reverted = stations(*PAIRS[pair])
    assert {ends(cut) for cut in cut_boots(asked, torn=torn)} == {trial}
    assert {ends(cut) for cut in cut_boots(trial, torn=torn)} == {reverted}


@pytest.mark.parametrize("pair", ["growing", "shrinking by more than a sector", "one sector each"])
def test_every_pair_of_cuts_of_a_revert(pair: str) -> None:
    """MCUboot fails here: an assertion at every boot, after two cuts in the first sector (defect 1)."""
    _, trial, reverted = stations(*PAIRS[pair])
    for first in cut_boots(trial):
        assert {ends(second) for second in (first, *cut_boots(first))} == {reverted}


def test_every_pair_of_cuts_of_an_update() -> None:
    """MCUboot loses the old image here, or does not boot at all (defect 2)."""
    for pair in ("shrinking by more than a sector", "one sector each"):
        asked, trial, _ = stations(*PAIRS[pair])
        for first in cut_boots(asked):
            assert {ends(second) for second in (first, *cut_boots(first))} == {trial}, pair


def test_a_permanent_update_cut_anywhere() -> None:
    flash, bootloader = pending(OLD, NEW, permanent=True)
    asked = flash.read(0, flash.size)
    assert bootloader.boot() == BootResult(True, V2, SwapType.PERM)
    done = flash.read(0, flash.size)
    assert bootloader.slots.primary.trailer() == TrailerState(Magic.GOOD, Flag.SET, Flag.SET, SwapType.PERM)
    assert {ends(cut) for cut in cut_boots(asked)} == {done}


def test_headers_are_found_at_every_step() -> None:
    """After each cut both lengths are those of the images, whichever slot their headers are in."""
    old, new = PAIRS["shrinking by more than a sector"]
    asked, trial, _ = stations(old, new)
    seen = 0
    for start, lengths in ((asked, [len(old), len(new)]), (trial, [len(new), len(old)])):
        for cut in cut_boots(start):
            slots = resume(cut)[1].slots
            status = read_status(slots.primary, slots.secondary, next_offset_step)
            if not status.fresh:
                extents = resumed_extents(slots, status)
                assert extents is not None
                assert [extent.size for extent in extents] == lengths
                seen += 1
    assert seen == 98


# ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_slots_of_unequal_size() -> None:
    def slots(first: int, second: int) -> BootConfig:
        return BootConfig((0, first * SECTOR), (first * SECTOR, second * SECTOR), BootMode.SWAP_OFFSET)

    fits = {(first, second): slots(first, second).compatible for first in range(6, 9) for second in range(6, 9)}
    assert [pair for pair, good in fits.items() if good] == [(6, 6), (6, 7), (7, 7), (7, 8), (8, 8)]
    assert [slots(*pair).max_image_size // SECTOR for pair in ((8, 8), (8, 9))] == [6, 7]
    config = slots(7, 8)
    old, new = firmware("1.0.0", 6 * SECTOR - 200), firmware("2.0.0", 6 * SECTOR - 300)
    asked, trial, reverted = stations(old, new, config)
    assert {ends(cut, config) for cut in cut_boots(asked, config)} == {trial}
    assert {ends(cut, config) for cut in cut_boots(trial, config)} == {reverted}


@pytest.mark.parametrize(
    ("write", "align", "size"),
    [(1, 8, 312), (8, 8, 2104), (16, 16, 128 * 32 + 5 * 16 + 16), (32, 32, 128 * 64 + 6 * 32)],
)
def test_the_trailer_is_shorter(write: int, align: int, size: int) -> None:
    assert trailer_size(write, align, offset_swap=True) == size


@pytest.mark.parametrize(("align", "tlv_sizes", "swap_size"), [(8, -48, -56), (16, -80, -96), (32, -160, -192)])
def test_the_trailer_has_a_field_more(align: int, tlv_sizes: int, swap_size: int) -> None:
    layout = TrailerLayout(65536, 4096, align, align, offset_swap=True)
    assert (layout.tlv_sizes - 65536, layout.swap_size - 65536) == (tlv_sizes, swap_size)


def test_no_room_in_the_largest_slot() -> None:
    assert max_image_size(BootMode.SWAP_OFFSET, 4096, 4096, 4096, 8) == 0


def test_the_table_has_a_row_more() -> None:
    asks_for_the_way_back = TrailerState(Magic.GOOD, Flag.UNSET, Flag.SET, SwapType.REVERT)
    blank = TrailerState(Magic.UNSET, Flag.UNSET, Flag.UNSET, 15)
    assert swap_type(blank, asks_for_the_way_back) is SwapType.TEST
    assert swap_type(blank, asks_for_the_way_back, offset_swap=True) is SwapType.REVERT
    every = [TrailerState(magic, ok, done, 15) for magic in Magic for ok in Flag for done in Flag]
    kinds = [swap_type(primary, secondary, True) for primary in every for secondary in every]
    assert [kinds.count(kind) for kind in SwapType] == [525, 54, 81, 69]


def test_steps_count_their_entries() -> None:
    for entries in range(1, 256):
        phase, index, half = next_offset_step(entries)
        assert (phase, 2 * (index - 1) + half - 1) == (SwapPhase.SWAP, entries)
    assert SwapStatus(*next_offset_step(0)).fresh


Places = tuple[tuple[int, int], tuple[int, int]]


@pytest.mark.parametrize(
    ("index", "half", "forwards", "back"),
    [
        (1, 2, ((1, 0), (1, 1)), ((0, 0), (1, 0))),
        (2, 1, ((1, 0), (0, 0)), ((0, 0), (1, 0))),
        (3, 1, ((1, 0), (0, 0)), ((0, 0), (1, 0))),
        (3, 2, ((1, 0), (0, 0)), ((1, 1), (1, 0))),
        (4, 1, ((1, 0), (0, 0)), ((1, 1), (0, 0))),
    ],
)
def test_header_places(index: int, half: int, forwards: Places, back: Places) -> None:
    place: Callable[[SwapStatus, int], Places] = offset_header_places
    assert place(SwapStatus(SwapPhase.SWAP, index, half, SwapType.TEST), 3) == forwards
    assert place(SwapStatus(SwapPhase.SWAP, index, half, SwapType.REVERT), 3) == back


def test_extents_count_sectors() -> None:
    assert [Extent(size).sectors(4096) for size in (0, 1, 4096, 4097)] == [0, 1, 1, 2]


# ── damaged trailers ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_damage_to_the_trailers_keeps_a_device_from_booting() -> None:
    """Bits cleared at random in both trailers: something boots, at each of three boots, and nothing raises."""
    asked, trial, reverted = stations(OLD, NEW)
    _, bootloader = resume(trial)
    bootloader.confirm()
    confirmed = bootloader.slots.primary.flash.read(0, 2 * SLOT)
    for seed in range(400):
        random = Random(seed)
        flash, bootloader = resume(random.choice([asked, trial, reverted, confirmed]))
        for _ in range(random.randint(1, 3)):
            slot = random.choice([bootloader.slots.primary, bootloader.slots.secondary])
            first = random.choice([slot.layout.status, slot.layout.status + 1024, slot.layout.swap_size])
            at = slot.offset + first + random.randrange(64 if first < slot.layout.swap_size else 56)
            flash.storage[at : at + 1] = bytes([flash.read(at, 1)[0] & random.randrange(256)])
        assert [bootloader.boot().booted for _ in range(3)] == [True, True, True], seed


def test_no_damage_in_the_middle_of_a_swap_raises() -> None:
    """Bits cleared at random in the primary's trailer while a swap is under way: a boot ends with a result."""
    for start in stations(OLD, NEW)[:2]:
        for seed, cut in enumerate(cut_boots(start)):
            random = Random(seed)
            flash, bootloader = resume(cut)
            layout = bootloader.slots.primary.layout
            for _ in range(4):
                at = random.choice([layout.status + random.randrange(80), SLOT - 1 - random.randrange(56)])
                flash.storage[at : at + 1] = bytes([flash.read(at, 1)[0] & random.randrange(256)])
            for _ in range(3):
                result = bootloader.boot()
                assert result.booted or result.reason, seed
