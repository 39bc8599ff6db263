"""Every mode behind the one contract: a whole update from the provider to the slot, in all ways and alignments."""

import pytest

from coreota.boot import BootConfig, BootMode
from coreota.bootloader import BootResult, McubootBootloader
from coreota.counter import FlashCounter
from coreota.flash import FlashArea, NorFlash, padded
from coreota.image import Version, make_image
from coreota.sim.lab import Lab, firmware, lab_key
from coreota.trailer import SwapType

SLOT = 64 * 1024
SIZE = 20_000
V1, V2 = Version.parse("1.0.0"), Version.parse("2.0.0")


def device(config: BootConfig, image: bytes) -> tuple[NorFlash, McubootBootloader]:
    """A device as it leaves the factory."""
    flash = NorFlash(2 * SLOT, config.sector_size, config.write_align)
    flash.write(0, padded(image, config.write_align))
    bootloader = McubootBootloader(flash, config, [lab_key("image").public_key()])
    if config.mode is BootMode.DIRECT_XIP_REVERT:
        bootloader.slots.primary.write_magic()
        bootloader.slots.primary.write_image_ok()
    return flash, bootloader


@pytest.mark.parametrize(("unit", "align"), [(1, 8), (4, 8), (8, 8), (8, 16), (16, 16), (16, 32), (32, 32)])
@pytest.mark.parametrize("mode", list(BootMode))
def test_a_whole_update(mode: BootMode, unit: int, align: int) -> None:
    config = BootConfig((0, SLOT), (SLOT, SLOT), mode, write_align=unit, max_align=align)
    flash, bootloader = device(config, firmware("1.0.0", SIZE))
    lab = Lab(bootloader=bootloader, image_size=SIZE, resume=False)
    job_id = lab.offer("2.0.0")
    lab.run()
    assert lab.history(job_id)[-1].status.name == "SUCCEEDED"
    assert (bootloader.running, bootloader.on_trial) == (V2, False)
    assert bootloader.boot().version == V2
    new = firmware("2.0.0", SIZE)
    place = SLOT if mode is BootMode.DIRECT_XIP_REVERT else 0
    assert flash.read(place, len(new)) == new


@pytest.mark.parametrize("mode", [mode for mode in BootMode if not mode.overwrites])
def test_a_self_test_that_fails_brings_the_old_image_back(mode: BootMode) -> None:
    config = BootConfig((0, SLOT), (SLOT, SLOT), mode)
    _, bootloader = device(config, firmware("1.0.0", SIZE))
    lab = Lab(bootloader=bootloader, image_size=SIZE, resume=False, self_test=lambda: False)
    job_id = lab.offer("2.0.0")
    lab.run()
    assert lab.history(job_id)[-1].status.name == "FAILED"
    assert (bootloader.running, bootloader.on_trial) == (V1, False)


@pytest.mark.parametrize("mode", list(BootMode))
def test_what_the_contract_says_of_storing(mode: BootMode) -> None:
    """Written, read, previewed, discarded and asked for, at offsets of the image's own."""
    config = BootConfig((0, SLOT), (SLOT, SLOT), mode)
    flash, bootloader = device(config, firmware("1.0.0", SIZE))
    bootloader.boot()
    new = firmware("2.0.0", SIZE)
    bootloader.prepare(len(new))
    bootloader.write(0, new)
    assert (bootloader.read(0, len(new)), bootloader.preview(), bootloader.candidate()) == (new, V2, V2)
    unit = bootloader.erase_unit
    bootloader.discard(unit, unit)
    assert bootloader.read(0, 3 * unit) == new[:unit] + b"\xff" * unit + new[2 * unit : 3 * unit]
    bootloader.write(unit, new[unit : 2 * unit])
    flash.write(2 * SLOT - 8, b"rubbish!")  # a request that was torn
    bootloader.activate()
    assert bootloader.boot().version == V2


def test_an_update_with_a_counter() -> None:
    config = BootConfig((0, SLOT), (SLOT, SLOT), BootMode.SWAP_OFFSET)
    flash = NorFlash(2 * SLOT + 8192)
    counter = FlashCounter(FlashArea(flash, 2 * SLOT, 8192))

    def image(version: str, security_counter: int) -> bytes:
        return make_image(bytes(SIZE), Version.parse(version), key=lab_key("image"), security_counter=security_counter)

    flash.write(0, padded(image("1.0.0", 3), 8))
    bootloader = McubootBootloader(flash, config, [lab_key("image").public_key()], counter)
    lab = Lab(bootloader=bootloader, image_size=SIZE, resume=False)
    assert counter.read() == 3
    refused, taken = lab.offer("2.0.0", image=image("2.0.0", 2)), lab.offer("3.0.0", image=image("3.0.0", 4))
    lab.run()
    assert [lab.history(job)[-1].status.name for job in (refused, taken)] == ["FAILED", "SUCCEEDED"]
    assert (str(bootloader.running), counter.read()) == ("3.0.0", 3)
    assert bootloader.boot() == BootResult(True, Version.parse("3.0.0"), SwapType.NONE)
    assert counter.read() == 4
