"""A flash that fails in places: what MCUboot survives must be survived, and nothing raises."""

from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from coreota.boot import BootConfig, BootMode
from coreota.bootloader import BootResult, McubootBootloader
from coreota.flash import BytesLike, FlashError, NorFlash, PowerCut, padded
from coreota.image import Version, make_image
from coreota.trailer import Flag, Magic, SwapType

KEY = ec.derive_private_key(11, ec.SECP256R1())
SLOT, SECTOR = 32 * 1024, 4096
SWAPS = [BootMode.SWAP_MOVE, BootMode.SWAP_OFFSET]
V1, V2 = Version.parse("1.0.0"), Version.parse("2.0.0")


def firmware(version: str, size: int) -> bytes:
    text = b"".join(f"{version} {i:6}\n".encode() for i in range(size // 8 + 1))[:size]
    return make_image(text, Version.parse(version), key=KEY)


OLD, NEW = firmware("1.0.0", 5000), firmware("2.0.0", 9000)


class BadFlash(NorFlash):
    """Writes and erases that touch a region fail, all of them or at a rate."""

    bad = range(0)
    rate = 1.0
    random = Random(0)

    def write(self, offset: int, data: BytesLike) -> None:
        self._maybe_fail(offset, len(data))
        super().write(offset, data)

    def erase(self, offset: int) -> None:
        self._maybe_fail(offset, self.sector_size)
        super().erase(offset)

    def _maybe_fail(self, offset: int, length: int) -> None:
        if self.bad.start < offset + length and offset < self.bad.stop and self.random.random() < self.rate:
            raise FlashError("the part is worn out", reason="flash-worn")


def pending(mode: BootMode, permanent: bool = False, content: bytes = b"") -> tuple[BadFlash, McubootBootloader]:
    """A device with an update waiting, or with a given flash."""
    flash, config = BadFlash(2 * SLOT, storage=bytearray(content) or None), BootConfig(mode=mode)
    bootloader = McubootBootloader(flash, config, [KEY.public_key()])
    if not content:
        flash.write(0, padded(OLD, 8))
        if mode is BootMode.DIRECT_XIP_REVERT:
            bootloader.slots.primary.write_magic()
            bootloader.slots.primary.write_image_ok()
        bootloader.boot()
        bootloader.prepare(len(NEW))
        bootloader.write(0, NEW)
        bootloader.activate(permanent=permanent)
    return flash, bootloader


def status_area(bootloader: McubootBootloader) -> range:
    layout = bootloader.slots.primary.layout
    return range(layout.status, layout.status + layout.status_size)


@pytest.mark.parametrize("mode", SWAPS)
def test_an_update_for_good_completes_without_one_status_write(mode: BootMode) -> None:
    """MCUboot's simulator: status writes fail, all of them."""
    flash, bootloader = pending(mode, permanent=True)
    flash.bad = status_area(bootloader)
    # An erase of the trailer's sector is not a status write, so let it be.
    flash.erase = lambda offset: NorFlash.erase(flash, offset)  # type: ignore[method-assign]
    assert bootloader.boot() == BootResult(True, V2, SwapType.PERM)
    state = bootloader.slots.primary.trailer()
    assert (state.magic, state.image_ok, state.copy_done) == (Magic.GOOD, Flag.SET, Flag.SET)
    assert bootloader.slots.primary.status_entries() == 0
    assert flash.read(SLOT, len(OLD)) == OLD
    assert bootloader.boot() == BootResult(True, V2)


@pytest.mark.parametrize("mode", SWAPS)
def test_a_trial_and_its_way_back_complete_without_one_status_write(mode: BootMode) -> None:
    flash, bootloader = pending(mode)
    flash.bad = status_area(bootloader)
    flash.erase = lambda offset: NorFlash.erase(flash, offset)  # type: ignore[method-assign]
    assert bootloader.boot() == BootResult(True, V2, SwapType.TEST)
    assert bootloader.boot() == BootResult(True, V1, SwapType.REVERT)
    assert bootloader.boot() == BootResult(True, V1)


@pytest.mark.parametrize("mode", SWAPS)
def test_half_of_the_status_writes_fail_and_the_power_as_well(mode: BootMode) -> None:
    """MCUboot's simulator: a cut in the middle, with status bytes missing. It ends with a result, often the update."""
    good = 0
    for seed in range(60):
        flash, bootloader = pending(mode, permanent=True)
        start, total = flash.read(0, flash.size), 61 if mode is BootMode.SWAP_MOVE else 47
        flash, bootloader = pending(mode, content=start)
        flash.bad, flash.rate, flash.random = status_area(bootloader), 0.5, Random(seed)
        flash.erase = lambda offset, flash=flash: NorFlash.erase(flash, offset)  # type: ignore[misc, method-assign]
        flash.cut_after(total // 2)
        with pytest.raises(PowerCut):
            bootloader.boot()
        flash.power_on()
        flash.bad = range(0)
        result = bootloader.boot()
        assert result.booted or result.reason, seed
        good += result == BootResult(True, V2, resumed=True) or result == BootResult(True, V2, SwapType.PERM)
        again = bootloader.boot()
        assert again.booted == result.booted
    assert good >= 20


STOPPED_BY = {
    BootMode.SWAP_MOVE: {0, 8, 9},
    BootMode.SWAP_OFFSET: {1, 2, 9, 10},
    BootMode.OVERWRITE: {1, 2, 3, 4, 5, 6, 7},
    BootMode.OVERWRITE_FAST: {1, 2, 7},
    BootMode.DIRECT_XIP_REVERT: set[int](),
}


@pytest.mark.parametrize("mode", list(BootMode))
def test_any_sector_may_be_dead(mode: BootMode) -> None:
    """Nothing raises, and where the first erase fails, or one where no image goes, one of the two images runs."""
    stopped = set()
    for sector in range(16):
        flash, bootloader = pending(mode)
        flash.bad = range(sector * SECTOR, (sector + 1) * SECTOR)
        for result in [bootloader.boot() for _ in range(3)]:
            assert result.booted or result.reason == "the update failed: the part is worn out"
            stopped |= set() if result.booted else {sector}
    assert stopped == STOPPED_BY[mode]


def test_a_dead_trailer_in_the_secondary_slot_keeps_the_old_image_running() -> None:
    flash, bootloader = pending(BootMode.SWAP_MOVE)
    flash.bad = range(15 * SECTOR, 16 * SECTOR)
    result = bootloader.boot()
    assert result == BootResult(True, V1, reason="the update failed: the part is worn out")
    assert str(result) == "1.0.0 runs from the primary slot; the update failed: the part is worn out"


def test_a_dead_sector_under_the_image_is_told() -> None:
    flash, bootloader = pending(BootMode.OVERWRITE)
    flash.bad = range(SECTOR, 2 * SECTOR)
    result = bootloader.boot()
    assert (result.booted, result.reason) == (False, "the update failed: the part is worn out")
    flash.bad = range(0)
    assert bootloader.boot() == BootResult(True, V2, SwapType.TEST)


def test_direct_xip_does_not_run_what_it_cannot_note_as_tried() -> None:
    flash, bootloader = pending(BootMode.DIRECT_XIP_REVERT)
    flash.bad = range(15 * SECTOR, 16 * SECTOR)
    assert bootloader.boot() == BootResult(True, V1)
    flash.bad = range(0)
    assert bootloader.boot() == BootResult(True, V2, slot="secondary")
