"""Patches: what they make, refuse and take, and a cut at every flash operation of an update by one."""

import contextlib
import lzma
import sys
import tracemalloc
from collections import Counter
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreota.blocks import Bitmap
from coreota.boot import BootConfig, BootMode
from coreota.bootloader import McubootBootloader
from coreota.config import OtaConfig
from coreota.errors import LocalOtaError, RemoteOtaError
from coreota.flash import FlashArea, NorFlash, PowerCut, padded
from coreota.journal import Journal
from coreota.parser import OtaFile, SignatureAlgorithm
from coreota.patch import (
    HEAD_SIZE,
    Base,
    PatchFormat,
    PatchInfo,
    SequentialPatch,
    add_bytes,
    base_in_memory,
    pack_number,
    patch_head,
    read_head,
    sequential_stream,
)
from coreota.patchroom import PATCHES, SEQUENTIAL, Patches, PatchRun, Tail, patch_base, patch_path, running_base
from coreota.provider.ota import UpdateFile, with_patches
from coreota.provider.streams import BytesContent
from coreota.sim.lab import PATCH_FAULTS, Lab, firmware, lab_key, update_file
from coreota.sim.link import LossyLink
from coreota.sim.web import LocalWeb
from coreota.states import JobFinished, PatchGivenUp, Progress, UpdateStarted
from coreota.topics import Fetched
from coreota.unpack import COMPRESSIONS, Compression

DATA = Path(__file__).parent / "data" / "patches"
OLD, NEW = (DATA / "old.bin").read_bytes(), (DATA / "new.bin").read_bytes()


def apply(patch: bytes, base: bytes, size: int, step: int = 256, format: PatchFormat | None = None) -> bytes:
    """What a patch makes, fed in steps."""
    applier = (format or SequentialPatch(memory=1 << 25)).applier(base_in_memory(base), size)
    made = b"".join(piece for at in range(0, len(patch), step) for piece in applier.feed(patch[at : at + step]))
    applier.finish()
    return made


def refusal(patch: bytes, base: bytes, size: int) -> str:
    """The reason for which it is refused."""
    with pytest.raises(RemoteOtaError) as caught:
        apply(patch, base, size)
    return caught.value.reason


def head_for(base: bytes, image: bytes) -> bytes:
    return patch_head(PatchInfo(len(base), sha256(base).digest(), len(image), sha256(image).digest()))


# The format


@given(
    base=st.binary(min_size=1, max_size=400),
    image=st.binary(min_size=1, max_size=400),
    compression=st.sampled_from(sorted(COMPRESSIONS)),
    step=st.integers(1, 300),
)
def test_any_two_images(base: bytes, image: bytes, compression: str, step: int) -> None:
    patch = SequentialPatch(compression).make(base, image)
    assert apply(patch, base, len(image), step) == image
    assert SequentialPatch().info(patch).compression == compression


@given(seed=st.integers(0, 2**32), step=st.sampled_from([1, 100, 5000]))
@settings(max_examples=20)
def test_images_that_are_alike(seed: int, step: int) -> None:
    """Pieces changed, moved, cut out and put in: the patch is smaller than the image."""
    random = Random(seed)
    base = random.randbytes(20_000)
    cuts = sorted(random.randrange(20_000) for _ in range(4))
    image = base[cuts[1] : cuts[3]] + base[: cuts[2]] + random.randbytes(200) + base[cuts[0] :]
    patch = SequentialPatch().make(base, image)
    assert apply(patch, base, len(image), step) == image
    assert len(patch) < 1500


@pytest.mark.parametrize("maker", ["detools", "coreota"])
@pytest.mark.parametrize("compression", sorted(COMPRESSIONS))
def test_recorded_patches(maker: str, compression: str) -> None:
    """What detools 0.53 made, and what we made and detools applied: see data/patches/record.py."""
    body = (DATA / f"{maker}-{compression}.patch").read_bytes()
    assert apply(head_for(OLD, NEW) + body, OLD, len(NEW), 77) == NEW


@given(first=st.binary(max_size=4096), seed=st.integers(0, 99))
def test_adding(first: bytes, seed: int) -> None:
    second = Random(seed).randbytes(len(first))
    assert add_bytes(first, second) == bytes((a + b) & 255 for a, b in zip(first, second, strict=True))


REFUSED = {
    "no head": (b"nonsense" * 20, "patch-unknown"),
    "nothing": (b"", "patch-damaged"),
    "half a head": (head_for(OLD, NEW)[:50], "patch-damaged"),
    "another base": (SequentialPatch().make(OLD + b"x", NEW), "patch-base"),
    "another size": (SequentialPatch().make(OLD, NEW + b"x"), "patch-size"),
    "an image of the same size": (SequentialPatch().make(OLD, NEW[:-1] + b"\x00")[HEAD_SIZE:], "patch-damaged"),
    "cut off": (SequentialPatch().make(OLD, NEW)[:-10], "patch-damaged"),
    "something behind it": (SequentialPatch().make(OLD, NEW) + b"x", "patch-damaged"),
    "an unknown compression": (head_for(OLD, NEW) + b"\x02" + pack_number(len(NEW)), "patch-compression"),
    "an in-place patch": (head_for(OLD, NEW) + b"\x11" + pack_number(len(NEW)), "patch-compression"),
    "a data format": (
        head_for(OLD, NEW) + b"\x00" + pack_number(len(NEW)) + pack_number(5) + b"\x00" * 9,
        "patch-compression",
    ),
    "two sizes": (head_for(OLD, NEW) + b"\x00" + pack_number(len(NEW) + 1), "patch-damaged"),
    "a number without an end": (head_for(OLD, NEW) + b"\x00" + b"\xff" * 40, "patch-damaged"),
    "heatshrink of no size": (head_for(OLD, NEW) + b"\x04" + pack_number(len(NEW)) + b"\xff\x00\x00", "patch-damaged"),
}  # fmt: skip


@pytest.mark.parametrize(("patch", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(patch: bytes, reason: str) -> None:
    if not patch.startswith((b"COP1", b"nonsense")) and patch:
        patch = head_for(OLD, NEW) + patch
    assert refusal(patch, OLD, len(NEW)) == reason


@pytest.mark.parametrize(
    "triple",
    [(bytes(10), b"", 0), (b"", b"ab", -1), (bytes(4), b"", -9), (b"", b"", 10**9), (bytes(5), b"abc", 0)],
)
def test_streams_that_reach_outside(triple: tuple[bytes, bytes, int]) -> None:
    """Of a base of eight bytes, for an image of six: in whichever direction, it is refused before it is read."""

    def read(offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= 8
        return bytes(length)

    base = Base(8, sha256(bytes(8)).digest(), read)
    stream = sequential_stream([triple, (bytes(4), b"", 0), (bytes(4), b"", 0)])
    applier = SequentialPatch().applier(base, 6)
    with pytest.raises(RemoteOtaError):
        list(applier.feed(head_for(bytes(8), bytes(6)) + b"\x00" + pack_number(6) + stream))


def test_a_bomb_takes_no_memory() -> None:
    """Half a million zeros for an image of a thousand, and a dictionary of 128 MiB: refused within three megabytes."""
    stream = sequential_stream([(b"", bytes(1000), 0), (b"", bytes(500_000), 0)])
    bomb = Compression("lzma").pack(stream)
    greedy = lzma.compress(stream, lzma.FORMAT_ALONE, filters=[{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 27}])
    shrunk = Compression("heatshrink", 16_384).pack(stream)
    for number, body in ((1, bomb), (1, greedy), (4, shrunk)):
        patch = head_for(OLD, bytes(1000)) + bytes([number]) + pack_number(1000) + body
        tracemalloc.start()
        applier = SequentialPatch().applier(base_in_memory(OLD), 1000)
        with pytest.raises(RemoteOtaError):
            list(applier.feed(patch))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3_000_000
        assert applier.made <= 1000


def test_memory_does_not_grow_with_the_image() -> None:
    """Eight times the image, and the applier takes the same."""
    peaks = []
    for size in (250_000, 2_000_000):
        base = Random(1).randbytes(size)
        changed = bytearray(base)
        for at in range(0, size, 5000):
            changed[at] ^= 1
        patch, image = SequentialPatch().make(base, bytes(changed)), bytes(changed)
        tracemalloc.start()
        applier = SequentialPatch().applier(base_in_memory(base), size)
        digest = sha256()
        for at in range(0, len(patch), 4096):
            for piece in applier.feed(patch[at : at + 4096]):
                digest.update(piece)
        applier.finish()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert digest.digest() == sha256(image).digest()
    assert peaks[1] < 1.3 * peaks[0] < 1_500_000


def test_a_python_without_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Built without liblzma, and no extra installed: the patch is refused, so the image is taken."""
    patches = {name: SequentialPatch(name).make(OLD, NEW) for name in ("lzma", "heatshrink")}
    for module in ("lzma", "heatshrink2.core", "bsdiff4"):
        monkeypatch.setitem(sys.modules, module, None)
    assert {refusal(patch, OLD, len(NEW)) for patch in patches.values()} == {"patch-compression"}
    with pytest.raises(LocalOtaError, match="bsdiff4"):
        SequentialPatch().make(OLD, NEW)


def test_what_can_not_be_made() -> None:
    for base, image in ((b"", b"a"), (b"a", b"")):
        with pytest.raises(LocalOtaError, match="no bytes"):
            SequentialPatch().make(base, image)
    with pytest.raises(LocalOtaError, match="no compression"):
        SequentialPatch("zip")
    with pytest.raises(LocalOtaError, match="window"):
        SequentialPatch("heatshrink", window=1 << 15)


# Marks, room


@pytest.mark.parametrize(
    "path", ["/app", "/app@sha256:", "/app@sha256:" + "0" * 63, "/app@sha256:" + "G" * 64, "@sha256"]
)
def test_paths_that_are_no_patch(path: str) -> None:
    assert patch_base(OtaFile(0, path, 1, "/c", b"s", SignatureAlgorithm.SHA256_ECDSA, SEQUENTIAL)) is None


def test_a_named_base() -> None:
    path = patch_path("/a\nb@sha256:x", bytes(range(32)))
    assert patch_base(OtaFile(0, path, 1, "/c", b"s", SignatureAlgorithm.SHA256_ECDSA)) == bytes(range(32))


def test_patches_are_offered_where_they_are_smaller() -> None:
    key, new = lab_key("job"), Random(1).randbytes(3000)
    old = new[:1000] + b"old" + new[1000:]
    image = UpdateFile("/device", BytesContent(new), "/cert.pem", private_key=key, file_id=3)
    files = with_patches(image, [b"nothing in common", old, new], key)
    assert [(file.file_id, file.file_type) for file in files] == [(3, None), (4, 80), (5, 80)]
    assert files[1].path == patch_path("/device", sha256(old).digest())
    assert apply(bytes(files[1].content.read(0, files[1].content.size)), old, len(new)) == new


@pytest.mark.parametrize("mode", list(BootMode))
def test_the_tail_fits_exactly(mode: BootMode) -> None:
    """As close to the image as sectors allow, and not a byte closer."""
    config = BootConfig((0, 65_536), (65_536, 65_536), mode)
    bootloader = McubootBootloader(NorFlash(131_072), config, [])
    room = bootloader.capacity // 4096
    tail = Tail(bootloader, (room - 2) * 4096, 4097)
    assert (tail.start, tail.capacity) == ((room - 2) * 4096, 4097)
    for image, patch in (((room - 2) * 4096 + 1, 4097), ((room - 2) * 4096, 8193)):
        with pytest.raises(RemoteOtaError, match="no room"):
            Tail(bootloader, image, patch)


# Whole updates

SMALL = OtaConfig(block_size=256, blocks_per_request=4)


def starts(lab: Lab) -> list[int]:
    """Blocks still to come at each start of a download."""
    return [event.missing for event in lab.device.events if isinstance(event, UpdateStarted)]


def given_up(lab: Lab) -> list[str]:
    return [event.error.reason for event in lab.device.events if isinstance(event, PatchGivenUp)]


def ended(lab: Lab, job_id: str) -> tuple[str, str, bool]:
    """The job's status, what runs, and whether it is there to stay."""
    return lab.history(job_id)[-1].status.value, str(lab.bootloader.running), not lab.bootloader.on_trial


GOOD = ("SUCCEEDED", "2.0.0", True)


def test_an_update_by_a_patch() -> None:
    lab = Lab(image_size=200_000, patches=True)
    job_id = lab.offer("2.0.0")
    lab.run()
    assert ended(lab, job_id) == GOOD
    assert (starts(lab), given_up(lab)) == ([1], [])
    assert sum(len(entry[3].payload) for entry in lab.broker.log if "/data/" in entry[3].topic) < 5000
    third = lab.offer("3.0.0")
    lab.run()
    assert ended(lab, third) == ("SUCCEEDED", "3.0.0", True)
    assert starts(lab) == [1, 1]


@pytest.mark.parametrize("fault", PATCH_FAULTS)
def test_bad_patches_do_no_harm(fault: str) -> None:
    """The whole image is taken, and the provider is told why."""
    lab = Lab(image_size=60_000, patches=True, config=SMALL)
    job_id = lab.offer("2.0.0", fault=fault)
    lab.run()
    assert ended(lab, job_id) == GOOD
    assert (len(starts(lab)), len(given_up(lab))) == (2, 1)
    assert any(given_up(lab)[0] in change.details.get("patch", "") for change in lab.history(job_id))
    assert lab.device.orchestrator.pool.in_use == 0


@pytest.mark.parametrize("fault", ["corrupt-signature", "corrupt-image", "wrong-key"])
def test_a_good_patch_to_a_bad_image(fault: str) -> None:
    """What comes out is held against the image's own signature in the job: refused, by whichever way it came."""
    lab = Lab(image_size=30_000, patches=True, config=SMALL)
    job_id = lab.offer("2.0.0", fault=fault)
    lab.run()
    assert ended(lab, job_id) == ("FAILED", "1.0.0", True)
    assert "signature-mismatch" in lab.history(job_id)[-1].details["reason"]


def test_devices_that_know_no_patches() -> None:
    """Or don't want them, or have no room for them: the same job brings them the image."""
    for lab in (
        Lab(image_size=30_000, patches=True, patch_formats={}),
        Lab(image_size=30_000, patches=True, config=OtaConfig(use_patches=False)),
    ):
        job_id = lab.offer("2.0.0")
        lab.run()
        assert (ended(lab, job_id), starts(lab), given_up(lab)) == (GOOD, [8], [])
    lab = Lab(image_size=28_000, patches=True)
    full = lab.bootloader.capacity - 300  # all that a slot can hold
    job_id = lab.offer("2.0.0", image=firmware("2.0.0", 0, lab.running_image().ljust(full, b"-")))
    lab.run()
    assert (ended(lab, job_id), starts(lab), given_up(lab)) == (GOOD, [full // 4096 + 1], ["patch-room"])


def test_a_fleet_with_three_versions() -> None:
    """One job, patches against two of them: two devices take their patch, the third the image."""
    image = firmware("4.0.0", 0, payload=bytes(range(256)) * 300 + b"v4")
    olds = [firmware(f"{major}.0.0", 0, payload=bytes(range(256)) * 300 + bytes([major])) for major in (1, 2, 3)]
    key = lab_key("job")
    files = with_patches(update_file(image, key), olds[:2], key)
    assert len(files) == 3
    found = []
    for major in (1, 2, 3):
        lab = Lab(image_size=90_000, running="0.1.0", patches=True)
        lab.flash.erase(0)
        for sector in range(0, lab.boot_config.primary[1], 4096):
            lab.flash.erase(sector)
        lab.flash.write(0, padded(olds[major - 1], 8))
        lab.restore_power()
        lab.provider.create_ota_update("v4", [lab.thing], files, 0.0)
        lab.run()
        assert str(lab.bootloader.running) == "4.0.0"
        found.append(starts(lab)[0])
    assert found == [1, 1, 19]


def test_a_patch_alone_is_refused() -> None:
    lab = Lab(image_size=30_000, patches=True)
    files = lab._files("2.0.0", None, None)
    job_id = lab.provider.create_ota_update("alone", [lab.thing], files[1:], 0.0)
    lab.run()
    assert "patch-alone" in lab.history(job_id)[-1].details["reason"]


def test_an_older_version_by_a_patch_is_refused_early() -> None:
    """The first sector that comes out says so; the whole image isn't tried."""
    lab = Lab(image_size=60_000, running="3.0.0", patches=True, config=SMALL)
    job_id = lab.offer("2.0.0")
    lab.run()
    assert "downgrade" in lab.history(job_id)[-1].details["reason"]
    assert (len(starts(lab)), given_up(lab)) == (1, [])


@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_over_a_bad_link_and_out_of_order(loss: float) -> None:
    link = LossyLink(3, loss=loss, duplicate=0.2, delay=0.05, jitter=1.0)
    config = OtaConfig(block_size=256, blocks_per_request=4, self_test_timeout=3600.0)
    lab = Lab(image_size=80_000, patches=True, link=link, config=config)
    image = firmware("2.0.0", 0, Random(5).randbytes(8000) + lab.running_image()[32:60_032])
    job_id = lab.offer("2.0.0", image=image)
    lab.run()
    assert (ended(lab, job_id), given_up(lab)) == (GOOD, [])
    assert starts(lab)[0] in range(30, 45)
    assert lab.device.orchestrator.pool.peak <= 4


def test_over_http_and_back() -> None:
    """By ranges; an address that is too old is asked for again, and the patch goes on."""
    web = LocalWeb(delay=0.1, lifetime=600.0)
    lab = Lab(image_size=80_000, patches=True, web=web, config=SMALL)
    image = firmware("2.0.0", 0, Random(5).randbytes(8000) + lab.running_image()[32:60_032])
    job_id = lab.offer("2.0.0", image=image, protocols=("HTTP",))
    lab.run(until=lambda: lab.received >= 8)
    lab.device.orchestrator.suspend(lab.clock.now())
    lab.run_for(3600)
    lab.device.orchestrator.resume(lab.clock.now())
    lab.run()
    assert (ended(lab, job_id), given_up(lab)) == (GOOD, [])
    assert web.served < 12_000


def test_a_patch_that_is_gone_from_the_web() -> None:
    """404 for the patch alone: the image is fetched, over HTTP again."""
    gone = LocalWeb(accident=lambda n, reply: Fetched(reply.fetch, 404) if "-1.bin" in reply.fetch.url else reply)
    lab = Lab(image_size=30_000, patches=True, web=gone)
    job_id = lab.offer("2.0.0", protocols=("HTTP",))
    lab.run()
    assert (ended(lab, job_id), given_up(lab)) == (GOOD, ["http-not-found"])


def test_a_trial_that_fails_and_the_next_patch() -> None:
    """The old image comes back; it is a base as before."""
    well = [False]
    lab = Lab(image_size=30_000, patches=True, self_test=lambda: well[0])
    first = lab.offer("2.0.0")
    lab.run()
    assert ended(lab, first) == ("FAILED", "1.0.0", True)
    well[0] = True
    second = lab.offer("2.1.0")
    lab.run()
    assert (ended(lab, second), given_up(lab)) == (("SUCCEEDED", "2.1.0", True), [])


# A cut at every flash operation

SLOT = 64 * 1024


def device(mode: BootMode) -> Lab:
    """A laboratory with a bootloader of this mode, whose journal lies in the same flash."""
    config = BootConfig((0, SLOT), (SLOT, SLOT), mode)
    flash = NorFlash(2 * SLOT + 2 * 4096)
    flash.write(0, padded(firmware("1.0.0", 20_000), 8))
    bootloader = McubootBootloader(flash, config, [lab_key("image").public_key()])
    if mode is BootMode.DIRECT_XIP_REVERT:
        bootloader.slots.primary.write_magic()
        bootloader.slots.primary.write_image_ok()
    lab = Lab(image_size=20_000, patches=True, bootloader=bootloader, config=SMALL)
    lab.flash, lab.journal_area = flash, FlashArea(flash, 2 * SLOT, 2 * 4096)
    lab.device.boot(0.0)
    return lab


def after_a_cut(mode: BootMode, cut: int, bits: int | None, fault: str | None) -> tuple[tuple[str, str, bool], bool]:
    """How an update ends, and whether the whole image had to be fetched, after a cut at this operation."""
    lab = device(mode)
    job_id = lab.offer("2.0.0", fault=fault)
    lab.flash.cut_after(cut, torn=0.0 if bits is None else 0.5, torn_bits=bits)
    try:
        lab.run()
    except PowerCut:
        lab.restore_power()
        lab.run()
    return ended(lab, job_id), max(starts(lab)) > 20


def operations(mode: BootMode, fault: str | None) -> int:
    lab = device(mode)
    before = lab.flash.operations
    lab.offer("2.0.0", fault=fault)
    lab.run()
    return lab.flash.operations - before


@pytest.mark.parametrize("mode", list(BootMode))
def test_a_cut_at_every_operation(mode: BootMode) -> None:
    """Clean, and torn in the middle: the new image runs in the end, by the patch, in every mode."""
    count = operations(mode, None)
    assert count > 20
    clean = [after_a_cut(mode, cut, None, None) for cut in range(count)]
    torn = [after_a_cut(mode, cut, cut, None) for cut in range(0, count, 2)]
    assert Counter(clean + torn) == {(GOOD, False): len(clean) + len(torn)}


@pytest.mark.parametrize("mode", list(BootMode))
def test_a_cut_while_a_whole_image_comes(mode: BootMode) -> None:
    """The same without a patch. Direct-xip erases half an image at the boot: its blocks are asked for again."""
    for cut in range(2, 60, 7):
        lab = device(mode)
        lab.patches = False
        job_id = lab.offer("2.0.0")
        lab.flash.cut_after(cut)
        with contextlib.suppress(PowerCut):
            lab.run()
        lab.restore_power()
        lab.run()
        assert ended(lab, job_id) == GOOD


def test_a_cut_at_every_operation_of_a_bad_patch() -> None:
    """It goes on with the patch, or falls back to the image; the new image runs in the end."""
    count = operations(BootMode.SWAP_MOVE, "patch-damaged")
    results = Counter(after_a_cut(BootMode.SWAP_MOVE, cut, cut, "patch-damaged") for cut in range(0, count, 5))
    assert results == {(GOOD, True): len(range(0, count, 5))}


def test_two_cuts() -> None:
    """The second while the first is being mended."""
    random = Random(11)
    for _ in range(60):
        lab = device(BootMode.SWAP_MOVE)
        job_id = lab.offer("2.0.0")
        for _ in range(2):
            lab.flash.cut_after(random.randrange(40), torn=random.random(), torn_bits=random.randrange(999))
            with contextlib.suppress(PowerCut):
                lab.run()
            while True:
                try:
                    lab.restore_power()
                    break
                except PowerCut:
                    continue
        lab.run()
        assert ended(lab, job_id) == GOOD


def test_no_block_comes_twice_after_a_reset() -> None:
    """The journal knows the blocks of the patch, and the applier begins again from flash."""
    lab = Lab(image_size=80_000, patches=True, config=SMALL, link=LossyLink(1, delay=0.05))
    image = firmware("2.0.0", 0, Random(5).randbytes(8000) + lab.running_image()[32:60_032])
    job_id = lab.offer("2.0.0", image=image)
    lab.run(until=lambda: lab.received >= 12)
    assert lab.journal_area is not None
    assert Journal(lab.journal_area).missing is not None
    before = lab.received
    lab.restore_power()
    lab.run()
    assert ended(lab, job_id) == GOOD
    first, again = starts(lab)
    assert first - again == before >= 12
    assert sum(isinstance(event, Progress) for event in lab.device.events) == first
    assert sum(isinstance(event, JobFinished) for event in lab.device.events) == 1


def test_a_sector_is_written_once() -> None:
    """However often the applier begins again, what is in flash already is left alone."""
    lab = Lab(image_size=50_000, patches=True)
    place = lab.bootloader
    assert isinstance(place, McubootBootloader)
    files = lab._files("2.0.0", None, None)
    patch = bytes(files[1].content.read(0, files[1].content.size))
    described = [
        OtaFile(n, f.path, f.content.size, "/c", b"s", SignatureAlgorithm.SHA256_ECDSA, f.file_type)
        for n, f in enumerate(files)
    ]
    ways = Patches(described, described[0], place, PATCHES)
    first = ways.next(lambda file: None)
    assert first is not None
    first.tail.prepare(len(patch))
    first.tail.write(0, patch)
    first.advance(Bitmap(0), 4096)
    first.finish()
    before = lab.flash.operations
    second = PatchRun(place, SequentialPatch(), running_base(place), described[1], described[0])
    second.advance(Bitmap(0), 4096)
    second.finish()
    assert (second.writer.written, lab.flash.operations) == (0, before)
    assert read_head(patch).image_digest == sha256(place.read(0, described[0].size)).digest()
