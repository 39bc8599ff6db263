"""The counter that only rises: on flash, under every cut, and in the bootloader."""

from contextlib import suppress
from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from coreota.boot import BootConfig, BootMode, SecurityCounter, security_counter
from coreota.bootloader import BootResult, McubootBootloader
from coreota.counter import FlashCounter, counter_record, free_place, record_value
from coreota.errors import LocalOtaError, RemoteOtaError
from coreota.flash import FlashArea, FlashError, NorFlash, PowerCut, padded
from coreota.image import Version, make_image
from coreota.trailer import SwapType

KEY = ec.derive_private_key(11, ec.SECP256R1())
SLOT = 32 * 1024
V1, V2, V3 = (Version.parse(f"{n}.0.0") for n in (1, 2, 3))


def firmware(version: str, counter: int | None) -> bytes:
    return make_image(version.encode() * 900, Version.parse(version), key=KEY, security_counter=counter)


# ── on flash ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 4, 8, 16, 32]))
def test_a_record_holds_its_value(value: int, unit: int) -> None:
    record = counter_record(value, unit)
    assert len(record) == max(8, unit)
    assert record_value(record) == value


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_no_torn_record_holds_any(value: int, arrived: int) -> None:
    """Each of the bits that a write clears may be missing."""
    whole = int.from_bytes(counter_record(value, 8), "little")
    torn = whole | ~arrived & (2**64 - 1)
    assert record_value(torn.to_bytes(8, "little")) == (value if torn == whole else None)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=60), st.sampled_from([(512, 1), (512, 16), (256, 32), (64, 32)]))
def test_it_reads_as_the_highest(values: list[int], geometry: tuple[int, int]) -> None:
    sector, unit = geometry
    counter, highest = FlashCounter(NorFlash(3 * sector, sector, unit)), 0
    for value in values:
        counter.raise_to(value)
        highest = max(highest, value)
        assert counter.read() == highest


def test_wear_is_shared_by_the_sectors() -> None:
    flash = NorFlash(4 * 512, 512)
    counter = FlashCounter(flash)
    for value in range(1, 64 * 8 + 1):
        counter.raise_to(value)
    assert flash.wear == [1, 2, 2, 2]
    assert flash.operations == 64 * 8 + 7
    counter.raise_to(5)
    assert flash.operations == 64 * 8 + 7


@pytest.mark.parametrize("torn", [0.0, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("before", [0, 1, 7, 8, 9, 16])
def test_a_cut_leaves_the_old_number_or_the_new_one(before: int, torn: float) -> None:
    for operation in range(3):
        flash = NorFlash(2 * 64, 64, 1)
        counter = FlashCounter(flash)
        for value in range(1, before + 1):
            counter.raise_to(value)
        flash.cut_after(operation, torn=torn)
        with suppress(PowerCut):
            counter.raise_to(99)
        flash.power_on()
        assert FlashCounter(flash).read() in (before, 99)
        FlashCounter(flash).raise_to(99)
        assert FlashCounter(flash).read() == 99
        FlashCounter(flash).raise_to(100)
        assert FlashCounter(flash).read() == 100


def test_random_cuts_never_lower_it() -> None:
    random = Random(5)
    flash = NorFlash(2 * 64, 64, 1)
    known = 0
    for value in range(1, 400):
        flash.cut_after(random.randrange(4), torn=random.random())
        try:
            FlashCounter(flash).raise_to(value)
        except PowerCut:
            pass
        else:
            known = value
        flash.power_on()
        read = FlashCounter(flash).read()
        assert known <= read <= value
        known = read
    assert known >= 390


def test_what_it_refuses() -> None:
    with pytest.raises(LocalOtaError) as caught:
        FlashCounter(NorFlash(4096))
    assert caught.value.reason == "counter-area"
    counter = FlashCounter(NorFlash(8192))
    with pytest.raises(LocalOtaError) as caught:
        counter.raise_to(2**32)
    assert caught.value.reason == "counter-range"
    counter.raise_to(2**32 - 1)
    assert counter.read() == 2**32 - 1
    counter.raise_to(-1)
    assert counter.read() == 2**32 - 1


def test_free_place_lies_behind_everything() -> None:
    assert [free_place(sector, 8) for sector in (b"", b"\xff" * 16, b"\x01" + b"\xff" * 15, b"\xff" * 9 + b"\0")] == [
        0,
        0,
        8,
        16,
    ]


# ── in the bootloader ────────────────────────────────────────────────────────────────────────────────────────────────


def device(
    running: bytes, mode: BootMode = BootMode.SWAP_MOVE, stored: int = 0
) -> tuple[NorFlash, McubootBootloader, FlashCounter]:
    flash, config = NorFlash(2 * SLOT + 8192), BootConfig(mode=mode)
    flash.write(0, padded(running, 8))
    counter = FlashCounter(FlashArea(flash, 2 * SLOT, 8192))
    counter.raise_to(stored)
    bootloader = McubootBootloader(flash, config, [KEY.public_key()], counter)
    if mode is BootMode.DIRECT_XIP_REVERT:
        bootloader.slots.primary.write_magic()
        bootloader.slots.primary.write_image_ok()
    bootloader.boot()
    return flash, bootloader, counter


def update(bootloader: McubootBootloader, image: bytes, permanent: bool = False) -> BootResult:
    bootloader.prepare(len(image))
    bootloader.write(0, image)
    bootloader.activate(permanent=permanent)
    return bootloader.boot()


@pytest.mark.parametrize("mode", [BootMode.SWAP_MOVE, BootMode.SWAP_OFFSET, BootMode.DIRECT_XIP_REVERT])
def test_a_trial_raises_nothing_and_a_confirmed_image_does_at_the_next_boot(mode: BootMode) -> None:
    _, bootloader, counter = device(firmware("1.0.0", 1), mode)
    assert counter.read() == 1
    assert update(bootloader, firmware("2.0.0", 2)).version == V2
    assert (bootloader.on_trial, counter.read()) == (True, 1)
    bootloader.confirm()
    assert counter.read() == 1
    assert bootloader.boot().version == V2
    assert counter.read() == 2


@pytest.mark.parametrize("mode", [BootMode.SWAP_MOVE, BootMode.SWAP_OFFSET, BootMode.DIRECT_XIP_REVERT])
def test_a_trial_that_fails_goes_back(mode: BootMode) -> None:
    _, bootloader, counter = device(firmware("1.0.0", 1), mode)
    update(bootloader, firmware("2.0.0", 2))
    assert bootloader.boot().version == V1
    assert (bootloader.boot().version, counter.read()) == (V1, 1)


@pytest.mark.parametrize("mode", [BootMode.SWAP_MOVE, BootMode.SWAP_OFFSET])
def test_an_update_for_good_raises_it_at_once(mode: BootMode) -> None:
    _, bootloader, counter = device(firmware("1.0.0", 1), mode)
    assert update(bootloader, firmware("2.0.0", 7), permanent=True).swap_type is SwapType.PERM
    assert counter.read() == 7


@pytest.mark.parametrize("mode", [BootMode.OVERWRITE, BootMode.OVERWRITE_FAST])
@pytest.mark.parametrize("permanent", [False, True])
def test_an_overwrite_raises_it_at_once(mode: BootMode, permanent: bool) -> None:
    _, bootloader, counter = device(firmware("1.0.0", 1), mode)
    assert update(bootloader, firmware("2.0.0", 2), permanent).version == V2
    assert counter.read() == 2


@pytest.mark.parametrize("mode", list(BootMode))
@pytest.mark.parametrize("offered", [4, None])
def test_an_image_below_it_is_refused_and_erased(mode: BootMode, offered: int | None) -> None:
    flash, bootloader, counter = device(firmware("1.0.0", 5), mode)
    image = firmware("2.0.0", offered)
    bootloader.prepare(len(image))
    bootloader.write(0, image)
    with pytest.raises(RemoteOtaError) as caught:
        bootloader.candidate()
    assert caught.value.reason == "security-counter"
    bootloader.activate()
    assert bootloader.boot().version == V1
    assert flash.read(SLOT, SLOT) == b"\xff" * SLOT
    assert counter.read() == 5


@pytest.mark.parametrize("mode", list(BootMode))
def test_a_running_image_below_it_does_not_run(mode: BootMode) -> None:
    _, bootloader, counter = device(firmware("1.0.0", 5), mode, stored=6)
    result = bootloader.boot()
    assert (result.booted, bootloader.running, counter.read()) == (False, None, 6)


def test_without_a_counter_anything_goes() -> None:
    flash = NorFlash(2 * SLOT)
    flash.write(0, padded(firmware("1.0.0", None), 8))
    assert McubootBootloader(flash, BootConfig(), [KEY.public_key()]).boot().booted


def test_an_unprotected_counter_does_not_count() -> None:
    """A security counter outside the signed area is no security counter."""
    image = bytearray(firmware("3.0.0", None))
    at = 32 + 900 * 5
    total = int.from_bytes(image[at + 2 : at + 4], "little")
    image[at + 2 : at + 4] = (total + 8).to_bytes(2, "little")
    image += b"\x50\0\x04\0" + (9).to_bytes(4, "little")
    _, bootloader, counter = device(firmware("1.0.0", 1))
    assert update(bootloader, bytes(image)).version == V1
    assert counter.read() == 1


@pytest.mark.parametrize("mode", [BootMode.SWAP_MOVE, BootMode.SWAP_OFFSET, BootMode.OVERWRITE_FAST])
def test_cuts_raise_it_neither_too_early_nor_never(mode: BootMode) -> None:
    """The boot that makes an update for good, cut at every operation, the counter's own included."""
    old, new = firmware("1.0.0", 1), firmware("2.0.0", 2)
    for operation in range(1000):
        flash, bootloader, counter = device(old, mode)
        bootloader.prepare(len(new))
        bootloader.write(0, new)
        bootloader.activate(permanent=True)
        flash.cut_after(operation)
        try:
            bootloader.boot()
        except PowerCut:
            flash.power_on()
            assert counter.read() == 1 or flash.read(0, len(new)) == new
            assert bootloader.boot().version == V2, operation
            assert counter.read() == 2
        else:
            assert operation > 10
            return


class Stuck:
    """A counter that cannot be raised."""

    def read(self) -> int:
        return 0

    def raise_to(self, value: int) -> None:
        raise FlashError("worn out", reason="flash-worn")


def test_a_counter_that_cannot_be_raised_lets_nothing_run() -> None:
    flash = NorFlash(2 * SLOT)
    flash.write(0, padded(firmware("1.0.0", 1), 8))
    stuck: SecurityCounter = Stuck()
    result = McubootBootloader(flash, BootConfig(), [KEY.public_key()], stuck).boot()
    assert (result.booted, result.reason) == (False, "worn out")


def test_the_counter_is_read_without_reading_the_image() -> None:
    flash, bootloader, _ = device(firmware("1.0.0", 5))
    slot = bootloader.slots.primary
    read: list[int] = []

    def counted(offset: int, length: int) -> bytes:
        read.append(length)
        return flash.read(slot.offset + offset, length)

    slot.read = counted  # type: ignore[method-assign]
    assert security_counter(slot) == 5
    assert sum(read) < 100
