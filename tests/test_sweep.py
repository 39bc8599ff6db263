"""The sweep: it finds nothing on the real bootloader, finds what is there on bad ones, and its short cuts are none."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from coreota import boot, swap, swapoffset
from coreota.boot import BootConfig, BootMode, BootSlots
from coreota.bootloader import BootResult, McubootBootloader
from coreota.cli import main
from coreota.flash import Flash, Operation, copy_region
from coreota.image import Version
from coreota.sim.explore import Memory, done, moments, state_of
from coreota.sim.judge import judge
from coreota.sim.proof import (
    Depth,
    SweepResult,
    alike,
    harms,
    large_scenarios,
    scenarios,
    sweep,
    tears,
)
from coreota.sim.sweep import (
    RESTLESS,
    SWEEP_TEST_KEY,
    Harm,
    Scenario,
    Story,
    run,
    scene_of,
)
from coreota.swap import SwapStatus
from coreota.sweeptool import Progress
from coreota.trailer import SWAP_TABLE, Flag, Magic, Pattern, Slot, SwapType

TEST = Scenario(BootMode.SWAP_MOVE, Story.TEST, "larger")
FULL = Depth.of(TEST, True)
SMALL = Scenario(BootMode.SWAP_MOVE, Story.TEST, "one sector")


def kinds(result: SweepResult) -> set[str]:
    """What was complained of."""
    return {failure.complaint.split(":")[0].split(",")[0] for failure in result.failures}


# ── the real one ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_sweep_of_the_default_size_finds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Every mode, story and pair, every geometry: all series of cuts, tears, failing operations, bad flash."""
    assert main(["sweep", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["failures"] == []
    assert told["scenarios"] == len(list(scenarios())) == 560
    cases = told["by_kind"]
    assert cases["clean cut"] == sum(len(scene_of(scenario).operations) for scenario in scenarios())
    assert cases["failing operation"] == cases["torn bits"] == cases["clean cut"]
    assert cases["pair of cuts"] > 30 * cases["clean cut"]
    assert cases["torn byte"] > 10_000_000


@pytest.mark.parametrize("scenario", list(large_scenarios()), ids=lambda one: f"{one.mode}-{one.story}")
def test_slots_of_512_kib(scenario: Scenario) -> None:
    """A cut at every tenth of some thousand operations; `coreota sweep --large` makes them all, and every series."""
    scene = scene_of(scenario)
    assert scenario.config.primary[1] == 512 * 1024
    assert len(scene.operations) > 1000
    memory, state = Memory(scene), state_of(scene.start)
    for number, operation in enumerate(scene.operations):
        if number % 10 == 0:
            assert memory.verdict(Harm((number,)), state) == ""
        state = done(state, operation)


def test_a_search_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coreota.sim.proof.MOST_MOMENTS", 100)
    monkeypatch.setattr(moments, "__defaults__", (100,))
    assert [failure.complaint for failure in sweep(TEST, Depth(random=0)).failures] == ["given up after 100 moments"]


# ── its short cuts ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", [BootMode.SWAP_MOVE, BootMode.SWAP_OFFSET, BootMode.DIRECT_XIP_REVERT])
@pytest.mark.parametrize("story", [Story.TEST, Story.REVERT, Story.ASKING_FOR_GOOD])
def test_the_graph_has_every_flash_that_two_cuts_leave(mode: BootMode, story: Story) -> None:
    """All pairs of cuts, done the plain way, lead to flashes that are in the graph, and to the same verdict."""
    scene = scene_of(Scenario(mode, story, "one sector"))
    memory = Memory(scene)
    first = list(moments(memory))
    pairs = sum(len(memory.boot(moment.state)[1]) for moment in first if len(moment.cuts) == 1)
    assert sweep(scene.scenario).cases["pair of cuts"] == pairs
    for cut in range(len(scene.operations)):
        for second in range(0, len(scene.operations), 3):
            content, boots = run(scene, Harm((cut, second)))
            assert judge(scene, Harm((cut, second)), content, boots) == ""
            assert any(state_of(content) == memory.rest(moment.state)[1] for moment in first)


def test_a_series_of_cuts_leads_where_the_graph_says() -> None:
    """What the graph says of each moment, a device does when it is really cut so."""
    scene = scene_of(Scenario(BootMode.SWAP_OFFSET, Story.TEST, "one sector"))
    memory, depths = Memory(scene), set()
    for moment in list(moments(memory))[::5]:
        content, boots = run(scene, Harm(moment.cuts))
        results, end = memory.rest(moment.state)
        assert b"".join(end) == content
        assert [str(boot.version) for boot in results] == [str(boot.version) for boot in boots[-len(results) :]]
        depths.add(len(moment.cuts))
    assert depths >= {1, 2, 3}


BROKEN: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "as it is": lambda patch: None,
    "as MCUboot": lambda patch: patch.setattr(swap, "half_taken_back", lambda *trailers: False),
}


@pytest.mark.parametrize("name", BROKEN)
def test_every_tear_the_plain_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operations around the trailers, torn after every byte without any reduction: the same verdicts."""
    BROKEN[name](monkeypatch)
    scene = scene_of(Scenario(BootMode.SWAP_MOVE, Story.REVERT, "one sector"))
    memory, plain, reduced = Memory(scene), set[tuple[int, int]](), set[tuple[int, int]]()
    for moment in [moment for moment in moments(memory) if len(moment.cuts) == 1][:12]:
        number, size = moment.cuts[0], moment.operation.length
        for length in range(1, size):
            harm = Harm((number,), torn_bytes=length)
            if size < 1024 or length % 16 == 9 or length > size - 40:
                plain |= {(number, length)} if judge(scene, harm, *run(scene, harm)) else set()
        for tear in tears(memory, moment, FULL):
            alike_ones = range(tear.length, tear.length + tear.count)
            reduced |= {(number, one) for one in alike_ones} if tear.complaint else set()
    assert plain <= reduced
    assert all(length % 16 != 9 for _, length in reduced - plain)
    assert bool(plain) == (name == "as MCUboot")


def test_tears_cover_every_byte_once() -> None:
    memory = Memory(scene_of(SMALL))
    for moment in moments(memory):
        found = list(tears(memory, moment, FULL))
        covered = [one for tear in found for one in range(tear.length, tear.length + tear.count)]
        assert covered == list(range(1, moment.operation.length))


@pytest.mark.parametrize(
    ("length", "reads", "last"),
    [(1, set(), 99), (1, {(0, 10)}, 1), (10, {(0, 10)}, 99), (3, {(10, 20), (40, 50)}, 10), (20, {(10, 20)}, 99)],
)
def test_how_far_a_tear_may_move(length: int, reads: set[tuple[int, int]], last: int) -> None:
    assert alike(length, reads, 99) == last


def test_an_operation_in_parts() -> None:
    blank = state_of(b"\xff" * 8192)
    write, erase = Operation("write", 4100, 4, b"abcd"), Operation("erase", 4096, 4096)
    assert done(blank, write)[1][:9] == b"\xff\xff\xff\xffabcd\xff"
    assert done(blank, write, 2)[1][:9] == b"\xff\xff\xff\xffab\xff\xff\xff"
    assert done(done(blank, write), erase) == blank
    assert done(done(blank, write), erase, 6)[1][:9] == b"\xff\xff\xff\xff\xff\xffcd\xff"
    left = [done(blank, write, 0, seed)[1][4:8] for seed in range(20)]
    assert all(bytes(one & want for one, want in zip(part, b"abcd", strict=True)) == b"abcd" for part in left)
    assert len(set(left)) == 20


def test_what_is_tried_of_one_scene() -> None:
    scene = scene_of(TEST)
    tried = list(harms(scene, Depth(), 1))
    assert tried == list(harms(scene, Depth(), 1))
    assert tried != list(harms(scene, Depth(), 2))
    assert [harm.failing for kind, harm in tried if kind == "failing operation"] == [(n,) for n in range(1, 79)]


# ── the judge ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("boots", "complaint"),
    [
        ((None,), "nothing boots: why"),
        (("1.0.0", "2.0.0"), "versions 1, 2 ran, allowed is 21"),
        (("2.0.0", "1.0.0", "2.0.0"), "versions 2, 1, 2 ran, allowed is 21"),
        (("2.0.0", "2.0.0"), "versions 2, 2 ran, allowed is 21"),
        (("2.0.0", "1.0.0"), ""),
    ],
)
def test_the_judge(boots: tuple[str | None, ...], complaint: str) -> None:
    scene = scene_of(TEST)
    content, _ = run(scene, Harm())
    results = [BootResult(bool(name), Version.parse(name) if name else None, reason="why") for name in boots]
    assert judge(scene, Harm(), content, results) == complaint
    assert judge(scene, Harm(), content, [*results, RESTLESS]) == "the device never comes to rest"


@pytest.mark.parametrize(
    ("at", "lost"), [(100, "lost: old"), (65536 + 100, "lost: new"), (65536 - 16, "1 bytes differ")]
)
def test_the_judge_misses_a_byte(at: int, lost: str) -> None:
    scene = scene_of(TEST)
    content, boots = run(scene, Harm())
    damaged = bytearray(content)
    damaged[at] ^= 1
    assert judge(scene, Harm(), bytes(damaged), boots).startswith(lost)


def test_one_byte_is_excepted() -> None:
    """A revert that was cut in its first moments is written down as permanent, as MCUboot does."""
    scene = scene_of(Scenario(BootMode.SWAP_MOVE, Story.REVERT, "larger"))
    content, boots = run(scene, Harm())
    at = scene.scenario.layout.swap_info
    for value, complaint in ((3, ""), (2, "1 bytes differ from 0xffd8 on")):
        assert judge(scene, Harm(), content[:at] + bytes([value]) + content[at + 1 :], boots) == complaint


# ── bad bootloaders ──────────────────────────────────────────────────────────────────────────────────────────────────


def first_step_whatever_its_half(
    primary: Slot, secondary: Slot, status: SwapStatus, extents: tuple[swapoffset.Extent, swapoffset.Extent]
) -> bool:
    """MCUboot's defect 1: the beginning of a revert is repeated although the first half of its first step is done."""
    if status.index == 1:
        swapoffset.begin_offset_swap(primary, secondary, status, (extents[0].tlv_size, extents[1].tlv_size))
    first, second = (extent.sectors(primary.sector_size) for extent in extents)
    swapoffset.exchange_by_offset(primary, secondary, status, (first, second))
    return True


Places = tuple[tuple[int, int], tuple[int, int]]
RIGHT_PLACES = swapoffset.offset_header_places


def places_off_by_one(status: SwapStatus, last: int) -> Places:
    """MCUboot's defect 2: the index counts from one, the last one from zero."""
    if status.swap_type == SwapType.TEST and status.index >= last:
        return (0, 0), (1, 1)
    return RIGHT_PLACES(status, last)


def defect_1(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(swapoffset, "swap_by_offset", first_step_whatever_its_half)


def defect_2(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(swapoffset, "offset_header_places", places_off_by_one)


def defect_4(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("coreota.overwrite.copy_length", lambda size, unit, erased: size + unit - size % unit)


def defect_5(patch: pytest.MonkeyPatch) -> None:
    revert = (Pattern((Magic.GOOD,), (Flag.UNSET,), (Flag.SET,)), Pattern(), SwapType.REVERT)
    patch.setattr("coreota.trailer.SWAP_TABLE", (*SWAP_TABLE[:2], revert, SWAP_TABLE[3]))


def no_status(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("coreota.trailer.Slot.write_status", lambda self, entry, value: None)


def one_try(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(swap, "STATUS_TRIES", 1)


def tail_first(patch: pytest.MonkeyPatch) -> None:
    """Ticked off before it is done."""

    def move_up(primary: Slot, first: int, last: int) -> None:
        for index in range(first, last + 1):
            swap.tick_off(primary, index - 1, 1)
            primary.erase((last - index + 1) * 4096)
            copy_region(primary, (last - index) * 4096, primary, (last - index + 1) * 4096, 4096)

    patch.setattr(swap, "move_up", move_up)


def believes_every_request(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(boot, "usable", lambda slots, status, kind: True)


BAD: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], Scenario, set[str]]] = {
    "MCUboot's defect 1": (
        defect_1,
        Scenario(BootMode.SWAP_OFFSET, Story.REVERT, "larger"),
        {"lost"},
    ),
    "MCUboot's defect 2": (
        defect_2,
        Scenario(BootMode.SWAP_OFFSET, Story.TEST, "old much larger"),
        {"versions 2 ran"},
    ),
    "MCUboot's defect 2, one sector": (
        defect_2,
        Scenario(BootMode.SWAP_OFFSET, Story.TEST, "one sector"),
        {"nothing boots"},
    ),
    "MCUboot's defect 4": (
        defect_4,
        Scenario(BootMode.OVERWRITE_FAST, Story.TEST, "fewer whole sectors"),
        {"the device never comes to rest"},
    ),
    "MCUboot's defect 5": (defect_5, SMALL, {"versions 2 ran"}),
    "no status": (no_status, SMALL, {"nothing boots"}),
    "one try": (one_try, TEST, {"nothing boots"}),
    "ticked off too early": (tail_first, SMALL, {"lost"}),
    "as MCUboot": (BROKEN["as MCUboot"], Scenario(BootMode.SWAP_MOVE, Story.REVERT, "larger"), {"versions 1"}),
    "believes every request": (
        believes_every_request,
        Scenario(BootMode.SWAP_MOVE, Story.REFUSED, "larger"),
        {"nothing boots"},
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_bootloader_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the case that is named shows it again."""
    breaks, scenario, complaints = BAD[name]
    assert sweep(scenario, Depth(random=0)).failures == ()
    breaks(monkeypatch)
    result = sweep(scenario, Depth(random=20 if name == "one try" else 0))
    assert kinds(result) & complaints
    scene = scene_of(scenario)
    for failure in result.failures[:5]:
        assert judge(scene, failure.harm, *run(scene, failure.harm)) == failure.complaint


class Naive(McubootBootloader):
    """Copies what is asked for without a look at it, and forgets the request first."""

    def boot(self) -> BootResult:
        slots: BootSlots = self.slots
        if slots.asked is not SwapType.NONE:
            slots.secondary.erase_trailer()
            slots.primary.erase_all()
            copy_region(slots.secondary, 0, slots.primary, 0, 32 * 1024)
        return BootResult(True, slots.validate(slots.primary).version)


def naive(flash: Flash, config: BootConfig) -> Naive:
    return Naive(flash, config, [SWEEP_TEST_KEY.public_key()])


def test_the_naive_bootloader_is_found() -> None:
    result = sweep(Scenario(BootMode.OVERWRITE, Story.TEST, "larger"), Depth(random=0), make=naive)
    assert kinds(result) == {"nothing boots", "versions 1 ran"}
    clean = {failure.harm.cuts: failure.complaint for failure in result.failures if failure.harm.clean}
    assert clean[(1,)] == "versions 1 ran, allowed is 2"  # the request is gone, the copy has not begun
    assert "RemoteOtaError" in clean[(2,)]  # the old image is going


@pytest.mark.parametrize("torn", range(1, 16))
@pytest.mark.parametrize("again", [1, 2, 3])
def test_a_revert_whose_request_was_torn_is_not_forgotten(torn: int, again: int) -> None:
    """Swap using offset: a tear in the magic of the request, and one more cut in the next boot."""
    scene = scene_of(Scenario(BootMode.SWAP_OFFSET, Story.TEST, "one sector"))
    harm = Harm((len(scene.operations), 5, again), torn_bytes=torn, torn_cut=1)
    assert judge(scene, harm, *run(scene, harm)) == ""


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_sweep_that_fails_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    no_status(monkeypatch)
    monkeypatch.setattr(
        "coreota.sweeptool.scenarios", lambda full: [Scenario(BootMode.SWAP_OFFSET, Story.TEST, "one sector")]
    )
    assert main(["sweep", "--jobs", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    failed = [line for line in lines if line.startswith("FAILED Scenario('swap-offset', 'test', ")]
    assert len(failed) == 20
    assert "more; --json shows them all" in lines[-2]
    assert not lines[-1].endswith(": 0 failures")


def test_a_bootloader_of_your_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One line of a module of yours, named on the command line."""
    source = (
        "import os\n"
        "from coreota.sim.sweep import bootloader_on\n"
        "def ours(flash, config):\n    return bootloader_on(flash, config)\n"
        "class Dead:\n    def boot(self):\n        raise RuntimeError('no')\n"
        "def dead(flash, config):\n    return Dead()\n"
        "def killed(flash, config):\n    os._exit(9)\n"
    )
    (tmp_path / "my_boot.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    few = ["sweep", "--mode", "overwrite-fast", "--story", "leftover", "--jobs", "1", "--json", "--bootloader"]
    assert main([*few, "my_boot:ours"]) == 0
    assert json.loads(capsys.readouterr().out)["failures"] == []
    assert main([*few, "my_boot:dead"]) == 1
    assert "the bootloader raised RuntimeError('no')" in json.loads(capsys.readouterr().out)["failures"][0]["complaint"]
    assert main([*few, "my_boot:killed"]) == 2
    assert "a process of the sweep was killed" in capsys.readouterr().err
    for name in ("no_such_module:make", "my_boot:nothing", "my_boot", ""):
        assert main([*few, name]) == 2
        assert "write module:function" in capsys.readouterr().err


def lines_of(out: io.StringIO, terminal: bool, quiet: bool) -> list[str]:
    """What is said of three scenarios that take ten, thirty and two hundred seconds."""
    out.isatty = lambda: terminal  # type: ignore[method-assign]
    progress, result = Progress(3, out, quiet), sweep(Scenario(BootMode.DIRECT_XIP_REVERT, Story.CONFIRMING, "equal"))
    for seconds, one in ((10.0, result), (30.0, None), (31.0, result), (200.0, result)):
        progress.tell(one, seconds)
    progress.end()
    return out.getvalue().splitlines()


def test_progress() -> None:
    """A line every half minute, one that moves on a terminal, nothing at all for a script."""
    plain = lines_of(io.StringIO(), False, False)
    assert [line.partition(",")[0] for line in plain] == ["1 of 3 scenarios", "3 of 3 scenarios"]
    assert plain[1].endswith(" cases, 0 failures, 200 s")
    moving = lines_of(io.StringIO(newline=""), True, True)
    assert len(moving) == 1 + 4  # begins with a return, four times
    assert moving[-1].startswith("3 of 3 scenarios")
    assert lines_of(io.StringIO(), False, True) == []


def test_ctrl_c_leaves_what_was_found() -> None:
    """The totals of what was done, how much was not, and no process behind."""
    command = [sys.executable, "-c", "import sys; from coreota.cli import main; sys.exit(main())", "sweep", "--full"]
    slow = ["--mode", "swap-move", "--jobs", "1", "--json"]
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, *slow], stdout=pipe, stderr=pipe, start_new_session=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        try:
            while not (workers := children.read_text().split()):
                assert process.poll() is None
            os.killpg(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    told = json.loads(out)
    assert (process.returncode, err) == (130, b"")
    assert told["not_tried"] + told["scenarios"] == len([one for one in scenarios(True) if one.mode == "swap-move"])
    assert told["not_tried"] > 400
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--mode", "overwrite", "--story", "revert"]) == 2
    assert "leave out --mode or --story" in capsys.readouterr().err


def test_speed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coreota.sweeptool.speeds.__defaults__", (0.001,))
    assert main(["sweep", "--speed", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["mode"] for row in rows} == {mode.value for mode in BootMode} - {"direct-xip-revert"}
    assert all(row["boots_per_second"] > 0 for row in rows)
