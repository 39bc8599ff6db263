"""The sweep: it finds nothing on the real bootloader, and finds what is there on bad ones."""

import json
from dataclasses import replace

import pytest

from coreota.boot import BootMode
from coreota.bootloader import BootResult
from coreota.cli import main
from coreota.flash import NorFlash
from coreota.image import Version
from coreota.sim.sweep import (
    SECTOR,
    SLOT,
    Depth,
    Harm,
    Scenario,
    Story,
    harms,
    judge,
    run,
    scenarios,
    scene_of,
    status_writes,
    sweep,
    tears,
)

TEST = Scenario(BootMode.SWAP_MOVE, Story.TEST, "larger")


def test_the_sweep_of_the_default_size_finds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Every mode, story and pair; every geometry: clean cuts everywhere, tears, failing operations, triples."""
    assert main(["sweep", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["failures"] == []
    assert told["scenarios"] == len(list(scenarios())) == 390
    assert told["by_kind"]["clean cut"] == sum(len(scene_of(scenario).operations) for scenario in scenarios())
    assert told["by_kind"]["failing operation"] == told["by_kind"]["torn bits"] == told["by_kind"]["clean cut"]


@pytest.mark.parametrize("mode", [BootMode.SWAP_MOVE, BootMode.SWAP_OFFSET])
@pytest.mark.parametrize("story", [Story.TEST, Story.REVERT])
def test_every_pair_of_cuts_and_every_torn_byte_of_one_sector(mode: BootMode, story: Story) -> None:
    depth = Depth(torn_bytes=64, torn_bits=2, second_cut=1, triples=50)
    result = sweep(Scenario(mode, story, "one sector"), depth)
    operations = len(scene_of(Scenario(mode, story, "one sector")).operations)
    assert result.failures == ()
    assert result.cases["pair of cuts"] == operations * (operations + 8)
    assert result.cases["three cuts"] == 50


def test_what_is_tried_of_one_scene() -> None:
    scene = scene_of(TEST)
    tried = list(harms(scene, Depth(), 1))
    assert tried == list(harms(scene, Depth(), 1))
    assert tried != list(harms(scene, Depth(), 2))
    assert [harm.cuts[0] for kind, harm in tried if kind == "clean cut"] == list(range(len(scene.operations)))
    assert [len(harm.failing) for kind, harm in tried if kind == "half the status"] == [6] * 5
    assert len(list(status_writes(scene))) == 12  # 4 sectors moved, 4 swapped in two steps each


def test_every_byte_of_a_write_is_torn_at_full_depth() -> None:
    scene = scene_of(TEST)
    for operation in scene.operations:
        assert list(tears(operation, Depth.full())) == list(range(1, operation.length))


@pytest.mark.parametrize(
    ("boots", "complaint"),
    [
        ((None,), "nothing boots: why"),
        (("1.0.0",) * 6, "the device never comes to rest"),
        (("1.0.0", "2.0.0"), "versions 1, 2 ran, allowed is 21"),
        (("2.0.0", "1.0.0", "2.0.0"), "versions 2, 1, 2 ran, allowed is 21"),
        (("2.0.0", "2.0.0"), "versions 2, 2 ran, allowed is 21"),
        (("2.0.0", "1.0.0"), ""),
    ],
)
def test_the_judge(boots: tuple[str | None, ...], complaint: str) -> None:
    scene = scene_of(TEST)
    flash, _ = run(scene, Harm())
    results = [BootResult(bool(name), Version.parse(name) if name else None, reason="why") for name in boots]
    assert judge(scene, Harm(), flash, results) == complaint


@pytest.mark.parametrize(("at", "lost"), [(100, "old"), (SLOT + 100, "new")])
def test_the_judge_misses_an_image(at: int, lost: str) -> None:
    scene = scene_of(TEST)
    flash, boots = run(scene, Harm())
    damaged = bytearray(flash.read(0, flash.size))
    damaged[at] ^= 1
    assert judge(scene, Harm(), NorFlash(len(damaged), SECTOR, 8, storage=damaged), boots) == f"lost: {lost}"


def test_a_bootloader_that_forgets_its_status_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the status area's entries the swap cannot be resumed where it was."""
    monkeypatch.setattr("coreota.trailer.Slot.write_status", lambda self, entry, value: None)
    result = sweep(TEST, Depth(torn_bytes=1, torn_bits=0, triples=0))
    assert {failure.complaint.split(":")[0] for failure in result.failures} & {"nothing boots", "lost"}
    again = result.failures[0]
    scene = scene_of(again.scenario)
    assert judge(scene, again.harm, *run(scene, again.harm)) == again.complaint


def test_a_sweep_that_fails_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coreota.trailer.Slot.write_status", lambda self, entry, value: None)
    assert main(["sweep", "--mode", "swap-offset", "--story", "test", "--jobs", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("FAILED") for line in lines)
    assert not lines[-1].endswith(": 0 failures")


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--mode", "overwrite", "--story", "revert"]) == 2
    assert "leave out --mode or --story" in capsys.readouterr().err
    assert not replace(TEST, mode=BootMode.OVERWRITE, story=Story.REVERT).possible


def test_speed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coreota.sweeptool.speeds.__defaults__", (0.001,))
    assert main(["sweep", "--speed", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["mode"] for row in rows} == {mode.value for mode in BootMode} - {"direct-xip-revert"}
    assert all(row["boots_per_second"] > 0 for row in rows)
