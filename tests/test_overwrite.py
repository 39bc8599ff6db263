"""Overwrite fast, and devices that fill themselves."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from coreota.boot import BootConfig, BootMode
from coreota.bootloader import BootResult, McubootBootloader
from coreota.flash import FlashRecorder, NorFlash, PowerCut, padded
from coreota.image import Version, make_image
from coreota.overwrite import copy_length
from coreota.trailer import Flag, Magic, SwapType

KEY = ec.derive_private_key(11, ec.SECP256R1())
SLOT, SECTOR = 32 * 1024, 4096
V1, V2 = Version.parse("1.0.0"), Version.parse("2.0.0")


def firmware(version: str, size: int) -> bytes:
    text = b"".join(f"{version} {i:6}\n".encode() for i in range(size // 8 + 1))[:size]
    return make_image(text, Version.parse(version), key=KEY)


def filling(version: str, total: int) -> bytes:
    """An image of exactly so many bytes."""
    for size in range(total - 200, total):
        for build in range(8):
            image = make_image(bytes([build]) * size, Version(*Version.parse(version).rank, build), key=KEY)
            if len(image) == total:
                return image
    raise AssertionError(total)


OLD, NEW = firmware("1.0.0", 9000), firmware("2.0.0", 5000)


def device(primary: bytes, secondary: bytes, config: BootConfig) -> tuple[NorFlash, McubootBootloader]:
    flash = NorFlash(2 * SLOT, config.sector_size, config.write_align)
    flash.write(0, padded(primary, config.write_align))
    flash.write(SLOT + config.image_base, padded(secondary, config.write_align))
    return flash, McubootBootloader(flash, config, [KEY.public_key()])


@pytest.mark.parametrize("unit", [1, 4, 8])
def test_the_operations(unit: int) -> None:
    flash, bootloader = device(OLD, NEW, BootConfig(mode=BootMode.OVERWRITE_FAST, write_align=unit))
    bootloader.activate()
    recorder = FlashRecorder(flash)
    again = McubootBootloader(recorder, bootloader.config, [KEY.public_key()])
    assert again.boot() == BootResult(True, V2, SwapType.TEST)
    length = len(NEW) + unit - len(NEW) % unit
    assert [(done.kind, done.offset, done.length) for done in recorder.log] == [
        ("erase", 0, SECTOR),
        ("erase", SECTOR, SECTOR),
        ("erase", SLOT - SECTOR, SECTOR),
        *(("write", at, min(1024, length - at)) for at in range(0, length, 1024)),
        ("write", SLOT - 16, 16),
        ("erase", SLOT, SECTOR),
        ("erase", 2 * SLOT - SECTOR, SECTOR),
    ]
    assert again.slots.primary.trailer().magic is Magic.GOOD
    assert (again.on_trial, again.boot()) == (False, BootResult(True, V2))


@pytest.mark.parametrize("total", [SECTOR, 2 * SECTOR, 2 * SECTOR - 8, 2 * SECTOR + 8])
def test_an_image_that_ends_where_a_sector_ends(total: int) -> None:
    """MCUboot writes into a sector that nobody erased (defect 4)."""
    new = filling("2.0.0", total)
    flash, bootloader = device(firmware("1.0.0", 20000), new, BootConfig(mode=BootMode.OVERWRITE_FAST))
    bootloader.activate()
    result = bootloader.boot()
    assert (result.version, result.swap_type) == (
        Version.parse(f"2.0.0+{new[24]}" if new[24] else "2.0.0"),
        SwapType.TEST,
    )
    assert flash.read(0, total) == new


@pytest.mark.parametrize("torn", [0.0, 0.5])
@pytest.mark.parametrize("size", [100, 5000, 32000])
def test_cuts(size: int, torn: float) -> None:
    new = firmware("2.0.0", size)
    for operation in range(1000):
        flash, bootloader = device(OLD, new, BootConfig(mode=BootMode.OVERWRITE_FAST))
        bootloader.activate()
        flash.cut_after(operation, torn=torn)
        try:
            bootloader.boot()
        except PowerCut:
            flash.power_on()
            assert bootloader.boot().version == V2, operation
            assert bootloader.boot() == BootResult(True, V2), operation
        else:
            assert operation > 5
            return


def test_copy_length() -> None:
    assert [copy_length(size, 8, 4096) for size in (1, 7, 8, 4088, 4095, 4096)] == [8, 8, 16, 4096, 4096, 4096]


# ── bootstrap ────────────────────────────────────────────────────────────────────────────────────────────────────────

EVERY_BUT_XIP = [mode for mode in BootMode if mode is not BootMode.DIRECT_XIP_REVERT]


@pytest.mark.parametrize("primary", [b"", OLD[:3000], b"rubbish " * 100])
@pytest.mark.parametrize("mode", EVERY_BUT_XIP)
def test_a_device_without_an_image_fills_itself(mode: BootMode, primary: bytes) -> None:
    flash, bootloader = device(primary, NEW, BootConfig(mode=mode, bootstrap=True))
    assert bootloader.boot() == BootResult(True, V2, SwapType.REVERT)
    state = bootloader.slots.primary.trailer()
    assert (state.magic, state.image_ok, state.copy_done) == (Magic.GOOD, Flag.SET, Flag.SET)
    operations = flash.operations
    assert [bootloader.boot() for _ in range(2)] == [BootResult(True, V2)] * 2
    assert flash.operations == operations


@pytest.mark.parametrize("mode", EVERY_BUT_XIP)
def test_it_does_not_unless_told_to(mode: BootMode) -> None:
    flash, bootloader = device(b"", NEW, BootConfig(mode=mode))
    before = flash.read(0, flash.size)
    assert not bootloader.boot().booted
    assert flash.read(0, flash.size) == before


@pytest.mark.parametrize("mode", EVERY_BUT_XIP)
def test_a_good_image_stays(mode: BootMode) -> None:
    _, bootloader = device(OLD, NEW, BootConfig(mode=mode, bootstrap=True))
    assert bootloader.boot() == BootResult(True, V1)


@pytest.mark.parametrize("mode", EVERY_BUT_XIP)
def test_an_oversized_or_forged_image_fills_nothing(mode: BootMode) -> None:
    config = BootConfig(mode=mode, bootstrap=True)
    forged = NEW[:3000] + b"!" + NEW[3001:]
    room = min(config.max_image_size + 1, SLOT - config.image_base - 200)
    for image in (forged, firmware("2.0.0", room)):
        flash, bootloader = device(b"", image, config)
        if len(image) > config.max_image_size or image is forged:
            assert not bootloader.boot().booted
            assert flash.read(0, 2 * SLOT) == b"\xff" * 2 * SLOT


@pytest.mark.parametrize("mode", EVERY_BUT_XIP)
def test_bootstrap_cut_at_every_operation(mode: BootMode) -> None:
    for operation in range(1000):
        flash, bootloader = device(b"", NEW, BootConfig(mode=mode, bootstrap=True))
        flash.cut_after(operation)
        try:
            bootloader.boot()
        except PowerCut:
            flash.power_on()
            assert [bootloader.boot().version for _ in range(3)] == [V2] * 3, operation
        else:
            assert operation == 14
            return
