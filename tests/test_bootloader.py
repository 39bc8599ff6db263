"""The bootloader's contract, its refusals, and power cuts at every operation."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from coreota.boot import (
    BootConfig,
    BootMode,
    DowngradePolicy,
    counter_refuses,
    max_image_size,
    security_counter,
)
from coreota.bootloader import Bootloader, BootResult, McubootBootloader, boot_story, sectors_to_prepare
from coreota.directxip import trial_order
from coreota.errors import LocalOtaError, RemoteOtaError
from coreota.flash import NorFlash, PowerCut, padded
from coreota.image import Dependency, Version, make_image
from coreota.swap import SwapPhase, SwapStatus, header_places, next_step, status_entry
from coreota.trailer import Flag, Magic, SwapType, TrailerLayout, TrailerState, set_pending, swap_type, trailer_size

KEY = ec.derive_private_key(11, ec.SECP256R1())
OTHER_KEY = ec.derive_private_key(12, ec.SECP256R1())
SLOT = 32 * 1024


def firmware(version: str, size: int, key: ec.EllipticCurvePrivateKey = KEY, counter: int | None = None) -> bytes:
    """A signed image whose content depends on its version."""
    text = b"".join(f"{version} {i:6}\n".encode() for i in range(size // 8))[:size]
    return make_image(text, Version.parse(version), key=key, security_counter=counter)


OLD, NEW, SMALL = firmware("1.0.0", 5000), firmware("2.0.0", 9000), firmware("3.0.0", 100)


def device(image: bytes = OLD, config: BootConfig | None = None) -> tuple[NorFlash, McubootBootloader]:
    """A booted device with an image in the primary slot."""
    config = config or BootConfig()
    flash = NorFlash(2 * SLOT, config.sector_size, config.write_align)
    flash.write(0, padded(image, config.write_align))
    bootloader = McubootBootloader(flash, config, [KEY.public_key()])
    bootloader.boot()
    return flash, bootloader


def store(bootloader: Bootloader, image: bytes, block: int = 1024) -> None:
    """What an orchestrator does with the blocks of a download."""
    bootloader.prepare(len(image))
    for at in range(0, len(image), block):
        bootloader.write(at, memoryview(image)[at : at + block])


def pending(old: bytes = OLD, new: bytes = NEW, permanent: bool = False) -> tuple[NorFlash, McubootBootloader]:
    """A device with an update waiting."""
    flash, bootloader = device(old)
    store(bootloader, new)
    bootloader.activate(permanent=permanent)
    return flash, bootloader


def where(flash: NorFlash, image: bytes) -> set[str]:
    """The slots that hold an image, whole."""
    places = {"primary": 0, "secondary": SLOT}
    return {name for name, offset in places.items() if flash.read(offset, len(image)) == image}


# ── one update, step by step ─────────────────────────────────────────────────────────────────────────────────────────


def test_update_and_confirm() -> None:
    _, bootloader = device()
    assert (str(bootloader.running), bootloader.on_trial, bootloader.capacity) == ("1.0.0", False, 24576)
    store(bootloader, NEW)
    assert bootloader.read(0, len(NEW)) == NEW
    assert bootloader.candidate() == Version.parse("2.0.0")
    bootloader.activate()
    assert bootloader.boot() == BootResult(True, Version.parse("2.0.0"), SwapType.TEST)
    assert (str(bootloader.running), bootloader.on_trial) == ("2.0.0", True)
    bootloader.confirm()
    assert bootloader.on_trial is False
    assert bootloader.boot() == BootResult(True, Version.parse("2.0.0"), SwapType.NONE)


def test_without_confirmation_the_old_image_comes_back_and_stays() -> None:
    _, bootloader = pending()
    kinds = [bootloader.boot().swap_type for _ in range(4)]
    assert kinds == [SwapType.TEST, SwapType.REVERT, SwapType.NONE, SwapType.NONE]
    assert (str(bootloader.running), bootloader.on_trial) == ("1.0.0", False)


def test_a_permanent_update_needs_no_confirmation() -> None:
    _, bootloader = pending(permanent=True)
    assert bootloader.boot().swap_type is SwapType.PERM
    assert bootloader.on_trial is False
    assert str(bootloader.boot().version) == "2.0.0"


def test_a_second_update_after_the_first() -> None:
    _, bootloader = pending()
    bootloader.boot()
    bootloader.confirm()
    store(bootloader, SMALL)
    bootloader.activate()
    assert str(bootloader.boot().version) == "3.0.0"
    assert str(bootloader.boot().version) == "2.0.0"


def test_nothing_is_prepared_while_the_way_back_lies_there() -> None:
    flash, bootloader = pending()
    bootloader.boot()
    before = flash.read(0, flash.size)
    with pytest.raises(LocalOtaError) as caught:
        bootloader.prepare(100)
    assert caught.value.reason == "on-trial"
    assert flash.read(0, flash.size) == before


@pytest.mark.parametrize("size", [0, -1, 24577])
def test_prepare_refuses_a_size_that_cannot_be(size: int) -> None:
    flash, bootloader = device()
    operations = flash.operations
    with pytest.raises(LocalOtaError) as caught:
        bootloader.prepare(size)
    assert caught.value.reason == "image-too-large"
    assert flash.operations == operations


def test_a_new_preparation_takes_back_an_old_request() -> None:
    _, bootloader = pending()
    bootloader.prepare(100)
    assert bootloader.boot() == BootResult(True, Version.parse("1.0.0"))


def test_write_stays_in_its_room() -> None:
    _, bootloader = device()
    bootloader.prepare(bootloader.capacity)
    bootloader.write(bootloader.capacity - 8, b"the end!")
    with pytest.raises(LocalOtaError):
        bootloader.write(bootloader.capacity, b"too far!")


def test_the_last_block_is_filled_up() -> None:
    _, bootloader = device()
    bootloader.prepare(3)
    bootloader.write(0, b"abc")
    assert bootloader.read(0, 8) == b"abc" + b"\xff" * 5


@pytest.mark.parametrize("at", [0, 40, 5000, len(NEW) - 1])
def test_a_damaged_image_is_no_candidate_and_is_erased_at_boot(at: int) -> None:
    forged = bytearray(NEW)
    forged[at] ^= 1
    flash, bootloader = device()
    store(bootloader, bytes(forged))
    with pytest.raises(RemoteOtaError):
        bootloader.candidate()
    bootloader.activate()
    assert bootloader.boot() == BootResult(True, Version.parse("1.0.0"))
    assert flash.read(SLOT, SLOT) == b"\xff" * SLOT


def test_an_image_of_another_maker_is_refused() -> None:
    _, bootloader = device()
    store(bootloader, firmware("2.0.0", 9000, OTHER_KEY))
    with pytest.raises(RemoteOtaError):
        bootloader.candidate()
    bootloader.activate()
    assert str(bootloader.boot().version) == "1.0.0"


def test_a_device_without_an_image_says_so() -> None:
    bootloader = McubootBootloader(NorFlash(2 * SLOT), BootConfig(), [KEY.public_key()])
    result = bootloader.boot()
    assert (result.booted, result.version, bootloader.running) == (False, None, None)
    assert result.reason
    assert boot_story(result) == f"nothing boots: {result.reason}"


@pytest.mark.parametrize(("mode", "size"), [(BootMode.SWAP_MOVE, 9000), (BootMode.OVERWRITE, 31_000)])
def test_a_torn_request_is_erased_and_made_again(mode: BootMode, size: int) -> None:
    """Also where the image reaches into the sectors of the trailer: it is whole afterwards, and gets its trial."""
    image = firmware("2.0.0", size)
    flash, bootloader = device(config=BootConfig(mode=mode))
    store(bootloader, image)
    flash.write(2 * SLOT - 8, b"rubbish!")
    bootloader.activate()
    assert bootloader.read(0, len(image)) == image
    assert str(bootloader.boot().version) == "2.0.0"


def test_a_damaged_trailer_takes_no_confirmation() -> None:
    """As in C: the call that the application makes says so."""
    flash, bootloader = device()
    flash.write(SLOT - 8, b"rubbish!")
    with pytest.raises(LocalOtaError) as caught:
        bootloader.confirm()
    assert caught.value.reason == "trailer-damaged"


def test_geometry_must_agree() -> None:
    with pytest.raises(LocalOtaError):
        McubootBootloader(NorFlash(2 * SLOT, 2048), BootConfig(), [KEY.public_key()])


def test_incompatible_slots_boot_and_are_never_updated() -> None:
    config = BootConfig(primary=(0, SLOT), secondary=(SLOT, SLOT - 8192))
    assert not config.compatible
    _, bootloader = device(config=config)
    set_pending(bootloader.slots.secondary)
    assert bootloader.boot() == BootResult(True, Version.parse("1.0.0"))
    with pytest.raises(LocalOtaError) as caught:
        bootloader.prepare(100)
    assert caught.value.reason == "slots-incompatible"


# ── downgrades ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", [mode for mode in BootMode if mode.swaps or mode.overwrites])
@pytest.mark.parametrize(("version", "taken"), [("0.9.0", False), ("1.0.0", True), ("1.0.1", True)])
def test_downgrade_by_version(mode: BootMode, version: str, taken: bool) -> None:
    flash, bootloader = device(config=BootConfig(mode=mode, downgrade=DowngradePolicy.VERSION))
    store(bootloader, firmware(version, 4000))
    if taken:
        assert str(bootloader.candidate()) == version
    else:
        with pytest.raises(RemoteOtaError) as caught:
            bootloader.candidate()
        assert caught.value.reason == "downgrade"
    bootloader.activate()
    assert str(bootloader.boot().version) == (version if taken else "1.0.0")
    assert (flash.read(SLOT, SLOT) == b"\xff" * SLOT) == (not taken)


@pytest.mark.parametrize("mode", [mode for mode in BootMode if mode.swaps or mode.overwrites])
@pytest.mark.parametrize(
    ("running", "offered", "taken"), [(5, 4, False), (5, None, False), (5, 5, True), (5, 6, True), (None, None, True)]
)
def test_downgrade_by_counter(mode: BootMode, running: int | None, offered: int | None, taken: bool) -> None:
    old, new = firmware("1.0.0", 5000, counter=running), firmware("2.0.0", 9000, counter=offered)
    _, bootloader = device(old, BootConfig(mode=mode, downgrade=DowngradePolicy.COUNTER))
    store(bootloader, new)
    assert security_counter(bootloader.slots.primary) == running
    assert counter_refuses(running, offered) != taken
    bootloader.activate()
    assert str(bootloader.boot().version) == ("2.0.0" if taken else "1.0.0")


def test_a_revert_is_never_a_downgrade() -> None:
    flash, bootloader = device(config=BootConfig(downgrade=DowngradePolicy.VERSION))
    store(bootloader, NEW)
    bootloader.activate()
    assert [str(bootloader.boot().version) for _ in range(2)] == ["2.0.0", "1.0.0"]
    assert where(flash, NEW) == {"secondary"}


# ── other modes ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_overwrite_survives_cuts_and_has_no_way_back() -> None:
    config = BootConfig(mode=BootMode.OVERWRITE)
    operation = 0
    while True:
        flash, bootloader = device(config=config)
        store(bootloader, NEW)
        bootloader.activate()
        flash.cut_after(operation)
        try:
            bootloader.boot()
        except PowerCut:
            flash.power_on()
        else:
            break
        assert str(bootloader.boot().version) == "2.0.0", operation
        assert bootloader.on_trial is False
        assert str(bootloader.boot().version) == "2.0.0", operation
        operation += 1
    assert operation == 42


def test_direct_xip_tries_goes_back_and_updates_the_other_slot() -> None:
    flash, bootloader = device(config=BootConfig(mode=BootMode.DIRECT_XIP_REVERT))
    assert bootloader.running is None  # an image without a trailer is not trusted, and erased
    flash.erase(0)
    flash.erase(4096)
    flash.write(0, padded(OLD, 8))
    bootloader.slots.primary.write_magic()
    bootloader.slots.primary.write_image_ok()
    assert bootloader.boot().slot == "primary"
    store(bootloader, NEW)
    bootloader.activate()
    assert bootloader.boot() == BootResult(True, Version.parse("2.0.0"), slot="secondary")
    assert bootloader.on_trial is True
    with pytest.raises(LocalOtaError):
        bootloader.prepare(100)
    bootloader.confirm()
    assert bootloader.boot().slot == "secondary"
    store(bootloader, SMALL)
    bootloader.activate()
    assert bootloader.boot() == BootResult(True, Version.parse("3.0.0"), slot="primary")
    assert bootloader.boot() == BootResult(True, Version.parse("2.0.0"), slot="secondary")
    assert where(flash, SMALL) == set()


def test_trial_order() -> None:
    v1, v1b, v2 = (Version.parse(text) for text in ("1.0.0", "1.0.0+9", "2.0.0"))
    assert trial_order([v1, v2]) == [1, 0]
    assert trial_order([v1, v1b]) == [0, 1]
    assert trial_order([None, v1]) == [1]
    assert trial_order([None, None]) == []


# ── power cuts ───────────────────────────────────────────────────────────────────────────────────────────────────────

PAIRS = {
    "growing": (OLD, NEW),
    "shrinking": (NEW, SMALL),
    "one sector each": (firmware("1.0.0", 50), SMALL),
    "largest": (OLD, firmware("4.0.0", 24576 - 32 - 160)),
    "whole sectors": (firmware("1.0.0", 8192), firmware("2.0.0", 4096)),
}
Setup = Callable[[], tuple[NorFlash, McubootBootloader]]


def cuts(setup: Setup, torn: float = 0.0) -> Iterator[tuple[int, NorFlash, McubootBootloader]]:
    """The device after a boot that was cut at each of its operations, power back."""
    for operation in range(1000):
        flash, bootloader = setup()
        flash.cut_after(operation, torn=torn)
        try:
            bootloader.boot()
        except PowerCut:
            flash.power_on()
            yield operation, flash, McubootBootloader(flash, bootloader.config, [KEY.public_key()])
        else:
            assert operation > 20
            return


@pytest.mark.parametrize("torn", [0.0, 0.5])
@pytest.mark.parametrize("pair", list(PAIRS))
def test_upgrade_cut_at_every_operation(pair: str, torn: float) -> None:
    old, new = PAIRS[pair]
    for operation, flash, bootloader in cuts(lambda: pending(old, new), torn):
        assert bootloader.boot().booted, operation
        assert (where(flash, new), where(flash, old)) == ({"primary"}, {"secondary"}), operation
        assert bootloader.on_trial, operation
        assert bootloader.boot().swap_type is SwapType.REVERT, operation
        assert (where(flash, old), where(flash, new)) == ({"primary"}, {"secondary"}), operation


@pytest.mark.parametrize("torn", [0.0, 0.5])
@pytest.mark.parametrize("pair", list(PAIRS))
def test_revert_cut_at_every_operation(pair: str, torn: float) -> None:
    old, new = PAIRS[pair]

    def on_trial() -> tuple[NorFlash, McubootBootloader]:
        flash, bootloader = pending(old, new)
        bootloader.boot()
        return flash, bootloader

    for operation, flash, bootloader in cuts(on_trial, torn):
        assert bootloader.boot().booted, operation
        assert (where(flash, old), where(flash, new)) == ({"primary"}, {"secondary"}), operation
        assert not bootloader.on_trial, operation
        before = flash.read(0, flash.size)
        assert bootloader.boot().booted, operation
        assert flash.read(0, flash.size) == before, operation


def test_permanent_update_cut_at_every_operation() -> None:
    for operation, flash, bootloader in cuts(lambda: pending(permanent=True)):
        assert str(bootloader.boot().version) == "2.0.0", operation
        assert where(flash, OLD) == {"secondary"}, operation
        state = bootloader.slots.primary.trailer()
        assert (state.magic, state.image_ok, state.copy_done) == (Magic.GOOD, Flag.SET, Flag.SET), operation
        assert bootloader.slots.secondary.trailer().magic is Magic.UNSET, operation


@pytest.mark.parametrize("steps", [(1, 1, 1, 1, 60), (7, 3, 11, 2, 5), (23, 1, 1, 5, 9), (35, 6, 6, 6, 6)])
def test_cut_again_and_again(steps: tuple[int, ...]) -> None:
    flash, bootloader = pending()
    for operations in steps:
        flash.cut_after(operations)
        with suppress(PowerCut):
            bootloader.boot()
        flash.power_on()
    assert bootloader.boot().booted
    assert (where(flash, OLD), where(flash, NEW)) in (({"primary"}, {"secondary"}), ({"secondary"}, {"primary"}))


def test_every_pair_of_cuts_of_a_revert() -> None:
    """Two cuts in a row, at all pairs of operations (every third second one): the old image comes back."""
    for first in range(65):
        flash, bootloader = pending()
        bootloader.boot()
        flash.cut_after(first)
        with pytest.raises(PowerCut):
            bootloader.boot()
        after_first = flash.read(0, flash.size)
        for second in range(0, 65, 3):
            again = NorFlash(flash.size, storage=bytearray(after_first))
            resumed = McubootBootloader(again, bootloader.config, [KEY.public_key()])
            again.cut_after(second)
            with suppress(PowerCut):
                resumed.boot()
            again.power_on()
            resumed.boot()
            assert (where(again, OLD), where(again, NEW)) == ({"primary"}, {"secondary"}), (first, second)
            assert not resumed.on_trial, (first, second)


def test_cut_while_asking_and_while_erasing_a_refused_image() -> None:
    flash, bootloader = device()
    store(bootloader, NEW)
    flash.cut_after(1)
    with pytest.raises(PowerCut):
        bootloader.activate(permanent=True)
    flash.power_on()
    assert bootloader.boot().swap_type is SwapType.TEST

    for operation in range(8):
        forged = bytearray(NEW)
        forged[5000] ^= 1
        flash, bootloader = pending(OLD, bytes(forged))
        flash.cut_after(operation)
        with pytest.raises(PowerCut):
            bootloader.boot()
        flash.power_on()
        assert bootloader.boot() == BootResult(True, Version.parse("1.0.0")), operation
        assert bootloader.boot() == BootResult(True, Version.parse("1.0.0")), operation
        assert bootloader.slots.secondary.trailer().magic is Magic.UNSET, operation


# ── damaged trailers: where we differ from MCUboot on purpose ────────────────────────────────────────────────────────


def poke(flash: NorFlash, offset: int, data: bytes) -> None:
    """Damage a flash behind its back."""
    flash.storage[offset : offset + len(data)] = data


def test_a_torn_copy_done_still_reverts() -> None:
    flash, bootloader = pending()
    bootloader.boot()
    poke(flash, bootloader.slots.primary.layout.copy_done, b"\x7f")
    assert bootloader.on_trial
    assert bootloader.boot() == BootResult(True, Version.parse("1.0.0"), SwapType.REVERT)


def test_status_without_a_size_ends_no_boot() -> None:
    flash, bootloader = device()
    bootloader.slots.primary.write_magic()
    poke(flash, bootloader.slots.primary.layout.status, b"\x01")
    assert str(bootloader.boot().version) == "1.0.0"


@pytest.mark.parametrize("info", [0x00, 0x05, 0x0E, 0xF7])
def test_an_unknown_swap_type_ends_no_boot(info: int) -> None:
    flash, bootloader = device()
    bootloader.slots.primary.write_magic()
    poke(flash, bootloader.slots.primary.layout.swap_info, bytes([info]))
    assert str(bootloader.boot().version) == "1.0.0"


def test_a_damaged_running_image_can_be_replaced() -> None:
    flash, bootloader = pending()
    size = 32 + 5000
    poke(flash, size, b"\x00\x00\x00\x00")  # where its TLV area begins
    assert bootloader.boot() == BootResult(True, Version.parse("2.0.0"), SwapType.TEST)


def states() -> dict[str, bytes]:
    """A device's flash at each station of an update."""
    flash, bootloader = device()
    found = {"factory": flash.read(0, flash.size)}
    store(bootloader, NEW)
    found["stored"] = flash.read(0, flash.size)
    bootloader.activate()
    for name in ("pending", "on trial", "reverted"):
        found[name] = flash.read(0, flash.size)
        bootloader.boot()
    flash, bootloader = pending()
    bootloader.boot()
    bootloader.confirm()
    found["confirmed"] = flash.read(0, flash.size)
    return found


def test_no_damage_to_the_trailers_keeps_a_device_from_booting() -> None:
    """Bits cleared at random in both trailers: something boots, at each of three boots, and nothing raises."""
    starts = list(states().values())
    for seed in range(300):
        random = Random(seed)
        flash = NorFlash(2 * SLOT, storage=bytearray(random.choice(starts)))
        bootloader = McubootBootloader(flash, BootConfig(), [KEY.public_key()])
        for _ in range(random.randint(1, 3)):
            slot = random.choice([bootloader.slots.primary, bootloader.slots.secondary])
            first = random.choice([slot.layout.status, slot.layout.status + 1024, slot.layout.swap_size])
            at = slot.offset + first + random.randrange(64 if first < slot.layout.swap_size else 48)
            poke(flash, at, bytes([flash.read(at, 1)[0] & random.randrange(256)]))
        assert [bootloader.boot().booted for _ in range(3)] == [True, True, True], seed


def test_no_damage_to_an_image_raises() -> None:
    """Bytes changed at random in headers and TLV areas, in every mode: a boot ends with a result."""
    flash, _ = pending()
    start = flash.read(0, flash.size)
    for seed in range(600):
        random = Random(seed)
        config = BootConfig(mode=random.choice(list(BootMode)), downgrade=random.choice(list(DowngradePolicy)))
        flash = NorFlash(2 * SLOT, storage=bytearray(start))
        image, offset = random.choice([(OLD, 0), (NEW, SLOT)])
        for _ in range(random.randint(1, 4)):
            at = random.choice([random.randrange(32), len(image) - 1 - random.randrange(160)])
            poke(flash, offset + at, bytes([random.randrange(256)]))
        bootloader = McubootBootloader(flash, config, [KEY.public_key()])
        for _ in range(3):
            result = bootloader.boot()
            assert result.booted or result.reason, seed


@pytest.mark.parametrize("payload", [b"\xff\x7f", b"\x00\x70"])
def test_a_running_image_of_impossible_size_does_not_stop_its_successor(payload: bytes) -> None:
    flash, bootloader = pending()
    poke(flash, 32 + 5000 + 2, payload)  # the length of its TLV area
    assert bootloader.boot() == BootResult(True, Version.parse("2.0.0"), SwapType.TEST)


# ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_table_in_all_its_cases() -> None:
    states = [TrailerState(magic, ok, done, 15) for magic in Magic for ok in Flag for done in Flag]
    kinds = [swap_type(primary, secondary) for primary in states for secondary in states]
    assert [kinds.count(kind) for kind in SwapType] == [525, 81, 81, 42]


@pytest.mark.parametrize(
    ("write", "align", "size"),
    [(1, 8, 432), (2, 8, 816), (4, 8, 1584), (8, 8, 3120), (8, 16, 3152), (16, 16, 6224), (32, 32, 12448)],
)
def test_trailer_sizes(write: int, align: int, size: int) -> None:
    assert trailer_size(write, align) == size


@pytest.mark.parametrize(
    ("align", "write", "fields"),
    [(8, 8, (-24, -32, -40, -48)), (16, 16, (-32, -48, -64, -80)), (32, 32, (-64, -96, -128, -160))],
)
def test_trailer_fields(align: int, write: int, fields: tuple[int, ...]) -> None:
    layout = TrailerLayout(65536, 4096, write, align)
    found = (layout.image_ok, layout.copy_done, layout.swap_info, layout.swap_size)
    assert tuple(offset - 65536 for offset in found) == fields


def test_a_trailer_must_fit() -> None:
    with pytest.raises(LocalOtaError):
        TrailerLayout(2048, 2048, 8)
    with pytest.raises(LocalOtaError):
        TrailerLayout(65536, 4096, 16, 8)


def test_steps_and_entries_are_each_others_inverse() -> None:
    steps = [(SwapPhase.MOVE, index, 1) for index in range(1, 100)]
    steps += [(SwapPhase.SWAP, index, half) for index in range(1, 100) for half in (1, 2)]
    for step in steps:
        assert next_step(status_entry(*step, 128), 128) == step


def test_header_places_in_the_middle_of_a_swap() -> None:
    assert header_places(SwapStatus(SwapPhase.MOVE, 3), 3) == ((0, 0), (1, 0))
    assert header_places(SwapStatus(SwapPhase.MOVE, 4), 3) == ((0, 1), (1, 0))
    assert header_places(SwapStatus(SwapPhase.SWAP, 1, 1), 3) == ((0, 1), (1, 0))
    assert header_places(SwapStatus(SwapPhase.SWAP, 1, 2), 3) == ((0, 1), (0, 0))
    assert header_places(SwapStatus(SwapPhase.SWAP, 3, 1), 3) == ((1, 0), (0, 0))
    assert header_places(SwapStatus(SwapPhase.SWAP, 4, 1), 3) == ((0, 0), (1, 0))


def test_max_image_size_never_goes_below_zero() -> None:
    assert max_image_size(BootMode.SWAP_MOVE, 4096, 4096, 4096, 8) == 0
    assert max_image_size(BootMode.OVERWRITE, 32, 32, 4096, 8) == 0


def test_sectors_to_prepare_name_no_sector_twice() -> None:
    layout = TrailerLayout(SLOT, 4096, 8)
    assert list(sectors_to_prepare(layout, 9000)) == [7, 0, 1, 2]
    assert list(sectors_to_prepare(layout, SLOT)) == [7, 0, 1, 2, 3, 4, 5, 6]


def test_pictures_name_the_images() -> None:
    flash, bootloader = pending()
    drawn = bootloader._repr_svg_()
    assert "primary sectors 0 to 1 1.0.0" in drawn
    assert "secondary sectors 0 to 2 2.0.0" in drawn
    assert "secondary sectors 7 to 7 trailer" in drawn
    flash.cut_after(40)
    with pytest.raises(PowerCut):
        bootloader.boot()
    assert "secondary sectors 0 to 0 old" in bootloader.picture({"old": OLD, "new": NEW}).source


# ── a reader's own ───────────────────────────────────────────────────────────────────────────────────────────────────


class Shelf:
    """A bootloader of fifteen lines; that it fits the contract is for the type checker to see."""

    def __init__(self) -> None:
        self.running: Version | None = Version.parse("1.0.0")
        self.on_trial, self.capacity, self.content = False, 1 << 20, bytearray()

    def boot(self) -> BootResult:
        return BootResult(True, self.running)

    def prepare(self, size: int) -> None:
        self.content = bytearray(size)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self.content[offset : offset + len(data)] = data

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.content[offset : offset + length])

    def candidate(self) -> Version:
        return Version.parse("2.0.0")

    def activate(self, *, permanent: bool = False) -> None:
        self.running, self.on_trial = self.candidate(), not permanent

    def confirm(self) -> None:
        self.on_trial = False


def test_a_bootloader_of_your_own() -> None:
    shelf: Bootloader = Shelf()
    store(shelf, NEW)
    shelf.activate()
    assert (str(shelf.boot().version), shelf.on_trial) == ("2.0.0", True)


# ── what an image needs, and where it may run ────────────────────────────────────────────────────────────────────────


def needing(*needed: Dependency) -> bytes:
    return make_image(bytes(5000), V2, key=KEY, dependencies=needed)


V1, V2 = Version.parse("1.0.0"), Version.parse("2.0.0")
OTHERS = ((1, Version.parse("1.5.0")), (3, Version.parse("0.1.0")))
MET = (Dependency(1, Version.parse("1.5.0")), Dependency(3, V1))


def device_in_place(config: BootConfig) -> tuple[NorFlash, McubootBootloader]:
    """A device that runs a confirmed image from the primary slot, where it lies."""
    flash = NorFlash(2 * SLOT)
    flash.write(0, padded(OLD, 8))
    bootloader = McubootBootloader(flash, config, [KEY.public_key()])
    bootloader.slots.primary.write_magic()
    bootloader.slots.primary.write_image_ok()
    bootloader.boot()
    return flash, bootloader


@pytest.mark.parametrize(
    ("others", "needed", "lacks"),
    [
        (None, MET, ""),
        (OTHERS, (), ""),
        (OTHERS, MET[:1], ""),
        (OTHERS, MET, "image 3 must be 1.0.0 or later, and is 0.1.0"),
        ((), MET, "image 1 must be 1.5.0 or later, and is not there"),
        (OTHERS, (Dependency(0, V2),), ""),
        (OTHERS, (Dependency(0, Version.parse("2.0.1")),), "image 0 must be 2.0.1 or later, and is 2.0.0"),
    ],
)
@pytest.mark.parametrize("mode", [mode for mode in BootMode if mode is not BootMode.DIRECT_XIP_REVERT])
def test_an_image_that_comes_too_early_waits(
    mode: BootMode, others: tuple[tuple[int, Version], ...] | None, needed: tuple[Dependency, ...], lacks: str
) -> None:
    """Refused as a candidate; at boot it is left where it is, and so is the request; met later, it is taken."""
    flash, bootloader = device(config=BootConfig(mode=mode, others=others))
    store(bootloader, needing(*needed))
    if lacks:
        with pytest.raises(RemoteOtaError, match=lacks.replace(".", r"\.")) as caught:
            bootloader.candidate()
        assert caught.value.reason == "dependency"
    else:
        assert bootloader.candidate() == V2
    bootloader.activate()
    before = flash.read(0, flash.size)
    result = bootloader.boot()
    assert result.version == (V1 if lacks else V2)
    assert (f"the update waits: {lacks}" if lacks else "") in result.reason
    if lacks:
        assert flash.read(0, flash.size) == before
        patient = McubootBootloader(flash, BootConfig(mode=mode), [KEY.public_key()])
        assert patient.boot().version == V2


def test_a_revert_is_never_too_early() -> None:
    """The old image needs what is not there any more: it comes back all the same."""
    flash = NorFlash(2 * SLOT)
    flash.write(0, padded(make_image(bytes(5000), V1, key=KEY, dependencies=MET), 8))
    bootloader = McubootBootloader(flash, BootConfig(others=()), [KEY.public_key()])
    bootloader.boot()
    store(bootloader, NEW)
    bootloader.activate()
    assert [str(bootloader.boot().version) for _ in range(2)] == ["2.0.0", "1.0.0"]


def test_direct_xip_passes_over_what_comes_too_early() -> None:
    """Nothing is erased and no trial is used up; the boot after the other image's update makes it."""
    config = BootConfig(mode=BootMode.DIRECT_XIP_REVERT, others=())
    flash, bootloader = device_in_place(config)
    store(bootloader, needing(*MET))
    bootloader.activate()
    operations = flash.operations
    result = bootloader.boot()
    assert (result.version, result.reason) == (
        V1,
        "the update waits: image 1 must be 1.5.0 or later, and is not there: update image 1 first",
    )
    assert flash.operations == operations
    served = replace(config, others=((1, V2), (3, V2)))
    assert McubootBootloader(flash, served, [KEY.public_key()]).boot().version == V2


@pytest.mark.parametrize(("address", "runs"), [(0, "1.0.0"), (SLOT, "2.0.0"), (SLOT + 4096, "1.0.0")])
def test_direct_xip_runs_no_image_of_another_slot(address: int, runs: str) -> None:
    """MCUboot: boot_rom_address_check. It is not erased either."""
    flash, bootloader = device_in_place(BootConfig(mode=BootMode.DIRECT_XIP_REVERT))
    image = make_image(bytes(5000), V2, key=KEY, load_addr=address, flags=0x100)
    store(bootloader, image)
    bootloader.activate()
    assert str(bootloader.boot().version) == runs
    assert flash.read(SLOT, len(image)) == image


@pytest.mark.parametrize(
    ("primary", "secondary"),
    [((0, 0x8000), (0x4000, 0x8000)), ((0x8000, 0x8000), (0x1000, 0x8000)), ((0, 0x9000), (0x1000, 0x1000))],
)
def test_slots_that_overlap_are_refused(primary: tuple[int, int], secondary: tuple[int, int]) -> None:
    with pytest.raises(LocalOtaError) as error:
        BootConfig(primary, secondary)
    assert (error.value.reason, bool(error.value.advice)) == ("slots-overlap", True)


def test_a_configuration_takes_the_words_as_strings_and_no_others() -> None:
    config = BootConfig(mode="swap-offset", downgrade="version")  # type: ignore[arg-type]
    assert (config.mode is BootMode.SWAP_OFFSET, config.downgrade is DowngradePolicy.VERSION) == (True, True)
    for wrong in ({"mode": "swap"}, {"downgrade": "counter"}, {"mode": None}, {"sector_size": 0}, {"write_align": 0}):
        with pytest.raises(LocalOtaError) as error:
            BootConfig(**wrong)
        assert (error.value.reason, bool(error.value.advice)) == ("boot-config", True)
