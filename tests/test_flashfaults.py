"""Torn writes at every byte and bit, and flash that wears out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreota.bootloader import McubootBootloader
from coreota.errors import OtaError
from coreota.flash import FlashError, NorFlash, PowerCut, padded
from coreota.flashfaults import FaultyFlash
from coreota.sim.lab import boot_config, firmware, lab_key


@pytest.mark.parametrize("done", range(17))
def test_a_write_torn_at_every_byte(done: int) -> None:
    flash = NorFlash(4096)
    flash.cut_after(0, torn_bytes=done)
    with pytest.raises(PowerCut):
        flash.write(8, b"sixteen letters!")
    assert flash.read(8, 16) == b"sixteen letters!"[:done] + b"\xff" * (16 - done)


@pytest.mark.parametrize("done", [0, 1, 4095, 4096, 9999])
def test_an_erase_torn_at_any_byte(done: int) -> None:
    flash = NorFlash(8192)
    flash.write(4096, bytes(4096))
    flash.cut_after(0, torn_bytes=done)
    with pytest.raises(PowerCut):
        flash.erase(4096)
    assert flash.read(4096, 4096) == b"\xff" * min(done, 4096) + bytes(4096 - min(done, 4096))


@given(seed=st.integers(), done=st.integers(0, 16), data=st.binary(min_size=16, max_size=16))
def test_torn_bits(seed: int, done: int, data: bytes) -> None:
    """Each bit is as it was or as it should be, the bytes before are done, and the same seed leaves the same."""
    found = []
    for _ in range(2):
        flash = NorFlash(4096)
        flash.cut_after(0, torn_bytes=done, torn_bits=seed)
        with pytest.raises(PowerCut):
            flash.write(0, data)
        found.append(flash.read(0, 16))
    assert found[0] == found[1]
    assert found[0][:done] == data[:done]
    assert all(got & wanted == wanted for got, wanted in zip(found[0], data, strict=True))


def test_only_the_first_operation_is_torn() -> None:
    flash = NorFlash(4096)
    flash.cut_after(0, torn_bytes=4, torn_bits=1)
    for offset in (0, 16):
        with pytest.raises(PowerCut):
            flash.write(offset, bytes(16))
    assert flash.read(16, 16) == b"\xff" * 16


def test_stuck_sectors() -> None:
    """Silent: nothing happens. Loud: it says so. A write that touches one has no effect at all."""
    inner = NorFlash(4 * 4096)
    flash = FaultyFlash(inner, stuck=[1])
    flash.write(0, b"a" * 8)
    flash.write(4088, b"b" * 16)
    flash.erase(4096)
    assert (inner.read(0, 8), inner.read(4088, 16), inner.operations, flash.operations) == (
        b"a" * 8,
        b"\xff" * 16,
        1,
        3,
    )
    loud = FaultyFlash(inner, stuck=[1], loud=True)
    with pytest.raises(FlashError) as caught:
        loud.erase(4096)
    assert caught.value.reason == "flash-worn"
    with pytest.raises(FlashError) as caught:
        loud.write(4096, bytes(8))
    assert caught.value.reason == "flash-worn"


def test_failing_operations() -> None:
    """The second and the fourth fail; nothing of them is done, and the power stays on."""
    inner = NorFlash(4096)
    flash = FaultyFlash(inner, failing=[2, 4])
    outcomes = []
    for number in range(5):
        try:
            flash.write(8 * number, bytes(8))
            outcomes.append("done")
        except FlashError as error:
            outcomes.append(error.reason)
    assert outcomes == ["done", "flash-write-failed", "done", "flash-write-failed", "done"]
    assert [inner.read(8 * number, 1) for number in range(5)] == [b"\0", b"\xff", b"\0", b"\xff", b"\0"]


def test_disturbed_reads() -> None:
    """One bit at a time, the flash itself is right; the same seed lies the same."""
    inner = NorFlash(4096)
    inner.write(0, b"firmware")
    reads = [[FaultyFlash(inner, disturbed=1.0, seed=seed).read(0, 8) for _ in range(2)] for seed in range(50)]
    for first, second in reads:
        assert first == second
        assert (int.from_bytes(first) ^ int.from_bytes(b"firmware")).bit_count() == 1
    assert FaultyFlash(inner, disturbed=1.0).read(0, 0) == b""
    with pytest.raises(FlashError, match="a chance of 2"):
        FaultyFlash(inner, disturbed=2)


CONFIG = boot_config(12_000)
SLOT = CONFIG.primary[1]


@pytest.mark.parametrize("loud", [False, True])
@pytest.mark.parametrize("sector", range(2 * SLOT // 4096))
@pytest.mark.parametrize("boots", [1, 3])
def test_a_stuck_sector_never_runs_what_is_not_signed(sector: int, loud: bool, boots: int) -> None:
    """Wherever it is, in whichever slot, from the store to the last boot: what runs is one of the two images, whole."""
    images = {version: firmware(version, 9000) for version in ("1.0.0", "2.0.0")}
    inner = NorFlash(2 * SLOT)
    inner.write(0, padded(images["1.0.0"], 8))
    flash = FaultyFlash(inner, stuck=[sector], loud=loud)
    bootloader = McubootBootloader(flash, CONFIG, [lab_key("image").public_key()])
    bootloader.boot()
    try:
        bootloader.prepare(len(images["2.0.0"]))
        bootloader.write(0, padded(images["2.0.0"], 8))
        bootloader.activate()
    except OtaError:
        assert loud or sector >= SLOT // 4096
    for _ in range(boots):
        result = bootloader.boot()
        if result.booted:
            image = images[str(result.version)]
            assert inner.read(0, len(image)) == image
        else:
            assert result.reason


@pytest.mark.parametrize("seed", range(40))
def test_disturbed_boots(seed: int) -> None:
    """Reads that lie make a boot fail, and never run something else."""
    inner = NorFlash(2 * SLOT)
    inner.write(0, padded(firmware("1.0.0", 9000), 8))
    flash = FaultyFlash(inner, disturbed=0.05, seed=seed)
    result = McubootBootloader(flash, CONFIG, [lab_key("image").public_key()]).boot()
    assert str(result.version) == "1.0.0" if result.booted else result.reason


def test_bad_regions() -> None:
    """A write that touches one fails and does nothing, always or at a rate; erases work."""
    inner = NorFlash(8192)
    flash = FaultyFlash(inner, bad=[range(64, 72), range(4096, 8192)])
    for offset, length in ((64, 8), (56, 16), (4096, 8), (8184, 8), (4088, 16)):
        with pytest.raises(FlashError, match="write failed"):
            flash.write(offset, bytes(length))
    flash.write(56, b"firmware")
    flash.write(72, b"firmware")
    flash.erase(4096)
    assert (flash.operations, inner.operations) == (8, 3)
    often = FaultyFlash(NorFlash(1 << 20), bad=[range(1 << 20)], rate=0.25, seed=1)
    failed = 0
    for offset in range(0, 8000, 8):
        try:
            often.write(offset, bytes(8))
        except FlashError:
            failed += 1
    assert 200 < failed < 300


def test_chances_are_between_0_and_1() -> None:
    for rate in (-0.1, 1.1):
        with pytest.raises(FlashError, match="a chance of"):
            FaultyFlash(NorFlash(4096), rate=rate)
