"""The books of a downloader: what is awaited, what is lost, and what to ask for next, in any order of events."""

from hypothesis import given
from hypothesis import strategies as st

from coreota.blocks import MAX_BITMAP, Bitmap
from coreota.underway import OVERTAKEN, Backlog, BlockRequest, UnderWay


def request(number: int, lot: list[int], probe: bool = False) -> BlockRequest:
    return BlockRequest(number, lot, 0.0, 0, 0.0, probe, len(lot))


def filled(lots: list[list[int]]) -> UnderWay:
    books = UnderWay()
    for number, lot in enumerate(lots, 1):
        books.add(request(number, lot))
    return books


@given(st.lists(st.integers(1, 5), max_size=6), st.lists(st.integers(0, 35)))
def test_every_awaited_block_is_open_in_one_request(sizes: list[int], removed: list[int]) -> None:
    lots = [[5 * k + i for i in range(size)] for k, size in enumerate(sizes)]
    books, left = filled(lots), {index for lot in lots for index in lot}
    for index in removed:
        found = books.remove(index)
        assert (found is not None) == (index in left)
        left.discard(index)
    assert set(books.awaited) == left
    assert sorted(index for r in books.requests for index in books.rest(r)) == sorted(left)
    assert sum(r.open for r in books.requests) == len(left)
    oldest = books.oldest()
    assert (oldest.lot if oldest else []) == next((lot for lot in lots if left & set(lot)), [])


def test_three_blocks_of_later_requests_overtake_and_two_do_not() -> None:
    books = filled([[0], [1, 2, 3, 4]])
    later = books.awaited[1]
    verdicts = []
    for index in (1, 2, 3):
        books.remove(index)
        verdicts.append(books.overtaken(0.0, later))
    assert verdicts[:2] == [None, None] and OVERTAKEN == 3
    assert verdicts[2] is not None and verdicts[2].number == 1
    assert books.rest(verdicts[2]) == [0]


def test_where_nothing_else_is_awaited_one_is_enough() -> None:
    books = filled([[0], [1]])
    later = books.remove(1)
    gone = books.overtaken(0.0, later)
    assert gone is not None and gone.number == 1


def test_an_answered_probe_overtakes_at_once() -> None:
    books = filled([[0, 1]])
    probe = request(2, [2, 3], probe=True)
    books.add(probe)
    books.remove(2)
    gone = books.overtaken(0.0, probe)
    assert gone is not None and gone.number == 1


@given(st.lists(st.floats(0.0, 10.0), min_size=1))
def test_patience_never_exceeds_the_last_round_trip_and_survives_a_clear(trips: list[float]) -> None:
    books = filled([[0]])
    for trip in trips:
        books.be_patient(trip)
    before = books.patience
    books.clear()
    assert 0.0 <= before <= trips[-1]
    assert books.patience == before
    assert not books.awaited and books.oldest() is None and books.patient_until is None


def test_the_patient_wait_to_the_moment() -> None:
    books = filled([[0], [1]])
    books.be_patient(2.0)
    later = books.remove(1)
    assert books.overtaken(10.0, later) is None
    assert books.patient_until == 10.5
    assert books.overtaken(10.49) is None
    assert books.overtaken(10.5) is not None
    assert books.patient_until is None


def test_a_token_names_the_first_request_that_lacks_something() -> None:
    books = filled([[0], [1], [2]])
    books.remove(0)
    assert [r.number if (r := books.named(t)) else None for t in (None, "1", "3", "x")] == [2, None, 3, None]


@given(st.sets(st.integers(0, 199)), st.lists(st.integers(0, 199)), st.sets(st.integers(0, 199)), st.integers(1, 64))
def test_what_is_picked_can_be_asked_for_and_nothing_is_forgotten(
    missing: set[int], lost: list[int], here: set[int], count: int
) -> None:
    bitmap = Bitmap(200)
    for index in set(range(200)) - missing:
        bitmap.clear(index)
    backlog, picked = Backlog(bitmap), []
    backlog.lost += lost
    asked: set[int] = set()
    while lot := backlog.pick(count, here, asked):
        assert lot == sorted(set(lot)) and len(lot) <= count
        assert lot[-1] - lot[0] < 8 * MAX_BITMAP
        assert not asked & set(lot)
        asked |= set(lot)
        picked += lot
    assert set(picked) == missing - here
    assert set(backlog.again) == set(lost) & missing - here


def test_blocks_too_far_apart_for_one_bitmap_wait_for_the_next_request() -> None:
    far = 8 * MAX_BITMAP
    bitmap = Bitmap(far + 1)
    backlog = Backlog(bitmap)
    backlog.lost += [far, 0]
    assert backlog.pick(2, (), ()) == [0]
    assert backlog.pick(1, (), ()) == [far]
