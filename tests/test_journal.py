"""The journal: wherever the power fails, it believes in no block that was not recorded, and forgets none."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreota.errors import LocalOtaError
from coreota.flash import NorFlash, PowerCut
from coreota.journal import CLOSED, DONE, LOST, TRIED, Journal, journal_size, read_record, record

JOB, FILE = "AFR_OTA-v2", bytes(range(32))


def new(sectors: int = 2, sector_size: int = 512, write_size: int = 8) -> NorFlash:
    """A small area of its own."""
    return NorFlash(sectors * sector_size, sector_size, write_size)


def missing(flash: NorFlash, count: int) -> list[int] | None:
    """What a journal that is read anew says; None: nothing to go on with."""
    bitmap = Journal(flash).resume(JOB, FILE, count)
    return None if bitmap is None else bitmap.next_missing(0, count)


@pytest.mark.parametrize("write_size", [1, 2, 4, 8, 16, 32])
def test_remembers(write_size: int) -> None:
    """Every write unit; the records of several banks."""
    flash = new(write_size=write_size)
    journal = Journal(flash)
    assert journal.begin(JOB, FILE, 300)
    for block in range(0, 300, 3):
        journal.done(block)
    journal.tried()
    assert missing(flash, 300) == [block for block in range(300) if block % 3]
    assert Journal(flash).tries == 1
    assert journal.generation > 1


@pytest.mark.parametrize("kind", [DONE, LOST, TRIED, CLOSED])
def test_records(kind: bytes) -> None:
    """A record is read as written, and no part of it is one, nor is any with one bit changed."""
    whole = record(kind, 70_000)
    assert read_record(whole) == (kind, 70_000)
    assert [read_record(whole[:n] + b"\xff" * (8 - n)) for n in range(8)] == [None] * 8
    flips = [
        bytes(b ^ (1 << bit) if i == at else b for i, b in enumerate(whole)) for at in range(8) for bit in range(8)
    ]
    assert [read_record(flip) for flip in flips] == [None] * 64


def test_identity() -> None:
    """Another job, file or number of blocks is not known."""
    journal = Journal(new())
    journal.begin(JOB, FILE, 8)
    assert journal.resume(JOB, FILE, 8) is not None
    assert journal.resume("AFR_OTA-v3", FILE, 8) is None
    assert journal.resume(JOB, bytes(32), 8) is None
    assert journal.resume(JOB, FILE, 9) is None


def test_tries_are_told_of_a_whole_file_only() -> None:
    """A file of which blocks are missing has nothing to try."""
    flash = new()
    journal = Journal(flash)
    journal.begin(JOB, FILE, 2)
    journal.done(0)
    assert journal.tries_of(JOB) is None
    journal.done(1)
    assert (journal.tries_of(JOB), journal.tries_of("AFR_OTA-v3")) == (0, None)
    journal.tried()
    journal.tried()
    assert Journal(flash).tries_of(JOB) == 2


def test_clear_and_begin_again() -> None:
    """After clear there is nothing; a new file begins with all its blocks missing and no trials."""
    flash = new()
    journal = Journal(flash)
    journal.begin(JOB, FILE, 8)
    journal.done(3)
    journal.tried()
    journal.clear()
    journal.clear()
    assert missing(flash, 8) is None
    journal.begin(JOB, FILE, 8)
    assert (missing(flash, 8), Journal(flash).tries) == (list(range(8)), 0)


def test_an_area_too_small_is_said_so() -> None:
    """Nothing is remembered, and nothing goes wrong."""
    flash = new(2, 512)
    journal = Journal(flash)
    assert not journal.begin(JOB, FILE, 100_000)
    journal.done(5)
    journal.lost(5)
    journal.tried()
    assert (missing(flash, 100_000), repr(journal)) == (None, "<Journal: nothing to go on with>")


@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_journal_size_is_enough(count: int) -> None:
    """The size that is advised takes the largest file; for small ones it is two sectors."""
    blocks = 98_304 >> count
    flash = NorFlash(journal_size(blocks))
    assert Journal(flash).begin(JOB, FILE, blocks)


@pytest.mark.parametrize("sectors", [1, 3])
def test_geometry(sectors: int) -> None:
    """Two banks of whole sectors, or a clear refusal."""
    with pytest.raises(LocalOtaError, match=f"a journal in {sectors} sectors"):
        Journal(NorFlash(sectors * 512, 512))


STEP = st.one_of(
    st.tuples(st.just("done"), st.integers(0, 19)),
    st.tuples(st.just("lost"), st.integers(0, 19)),
    st.tuples(st.just("tried"), st.just(0)),
    st.tuples(st.just("clear"), st.just(0)),
    st.tuples(st.just("begin"), st.just(0)),
)
Known = tuple[list[int], int] | None  # missing blocks and trials; None: nothing to go on with


def after(known: Known, step: tuple[str, int]) -> Known:
    """What a journal should know after a step."""
    name, index = step
    if name in ("begin", "clear"):
        return (list(range(20)), 0) if name == "begin" else None
    if known is None:
        return None
    blocks, tries = known
    if name == "tried":
        return blocks, tries + 1
    rest = [block for block in blocks if block != index]
    return (rest if name == "done" else sorted([*rest, index])), tries


def steps_of(journal: Journal) -> dict[str, Callable[[int], object]]:
    """The journal's calls by name."""
    return {
        "done": journal.done,
        "lost": journal.lost,
        "tried": lambda _: journal.tried(),
        "clear": lambda _: journal.clear(),
        "begin": lambda _: journal.begin(JOB, FILE, 20),
    }


@settings(max_examples=300, deadline=None)
@given(
    steps=st.lists(STEP, min_size=1, max_size=60),
    cut=st.integers(0, 120),
    torn=st.floats(0, 1),
    write_size=st.sampled_from([1, 8, 16]),
)
def test_cut_anywhere(steps: list[tuple[str, int]], cut: int, torn: float, write_size: int) -> None:
    """Any calls, a cut at any operation, torn anywhere: it knows what was before the step, or after it."""
    flash = new(2, 256, write_size)
    journal = Journal(flash)
    journal.begin(JOB, FILE, 20)
    known: Known = (list(range(20)), 0)
    allowed: list[Known] = [known]
    flash.cut_after(cut, torn=torn)
    calls = steps_of(journal)
    try:
        for step in steps:
            allowed = [known, after(known, step)]
            if step[0] == "begin":
                allowed.append(None)
            calls[step[0]](step[1])
            known = after(known, step)
            allowed = [known]
    except PowerCut:
        flash.power_on()
    found = missing(flash, 20)
    assert (None if found is None else (found, Journal(flash).tries)) in allowed


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=512, max_size=512))
def test_any_flash_content(content: bytes) -> None:
    """Whatever lies in the area: reading it is no error, and beginning on it works."""
    flash = NorFlash(512, 256, 1, storage=bytearray(content))
    journal = Journal(flash)
    journal.begin(JOB, FILE, 20)
    journal.done(4)
    assert missing(flash, 20) == [block for block in range(20) if block != 4]
