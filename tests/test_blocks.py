"""Blocks, bitmap and memory pool against a plain set, and what a pool must refuse."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from coreota.blocks import (
    MAX_BITMAP,
    MAX_BLOCK,
    MAX_BLOCKS,
    MAX_REQUEST,
    MIN_BLOCK,
    Bitmap,
    MemoryPool,
    block_count,
    block_length,
    pack_bits,
)
from coreota.errors import LocalOtaError


def bits_of(data: bytes) -> set[int]:
    return {8 * i + k for i, byte in enumerate(data) for k in range(8) if byte >> k & 1}


def test_limits_are_those_of_the_developer_guide() -> None:
    assert (MIN_BLOCK, MAX_BLOCK, MAX_REQUEST, MAX_BLOCKS, MAX_BITMAP) == (256, 131072, 131072, 98304, 12287)


@given(st.integers(0, 10**6), st.integers(1, 5000))
def test_blocks_cover_the_file_exactly(size: int, block_size: int) -> None:
    count = block_count(size, block_size)
    assert count * block_size >= size > (count - 1) * block_size or count == size == 0
    if count:
        assert block_length(0, size, block_size) == min(size, block_size)
        assert (count - 1) * block_size + block_length(count - 1, size, block_size) == size
        assert 1 <= block_length(count - 1, size, block_size) <= block_size


@pytest.mark.parametrize("index", [-1, 3, 4])
def test_no_such_block(index: int) -> None:
    with pytest.raises(LocalOtaError, match="has no block"):
        block_length(index, 10_000, 4096)


@pytest.mark.parametrize(("size", "block_size"), [(-1, 256), (1, 0), (1, -1)])
def test_impossible_sizes(size: int, block_size: int) -> None:
    with pytest.raises(LocalOtaError):
        block_count(size, block_size)


def test_the_guides_bitmap() -> None:
    assert pack_bits([20, 21, 24, 43], 20) == bytes.fromhex("130080")
    bitmap = Bitmap(44)
    for index in set(range(44)) - {20, 21, 24, 43}:
        bitmap.clear(index)
    assert bitmap.to_bytes(20, 24) == bytes.fromhex("130080")


@given(st.sets(st.integers(0, 5000)), st.integers(0, 100))
def test_pack_bits_is_what_the_bits_say(numbers: set[int], offset: int) -> None:
    packed = pack_bits([n + offset for n in numbers], offset)
    assert bits_of(packed) == numbers
    assert packed == b"" or packed[-1] != 0


@given(
    st.integers(0, 200), st.lists(st.integers(0, 199)), st.integers(0, 210), st.integers(0, 210), st.integers(0, 210)
)
def test_bitmap_agrees_with_a_set(count: int, cleared: list[int], start: int, limit: int, width: int) -> None:
    bitmap, model = Bitmap(count), set(range(count))
    for index in cleared:
        if index < count:
            bitmap.clear(index)
            model.discard(index)
            assert bitmap.first() == min(model, default=None)
    assert bitmap.remaining == len(model)
    assert [index in bitmap for index in range(-2, count + 10)] == [index in model for index in range(-2, count + 10)]
    assert bitmap.next_missing(start, limit) == sorted(i for i in model if i >= start)[:limit]
    assert bitmap.next_missing(0, count) == sorted(model)
    assert bits_of(bitmap.to_bytes(start, width)) == {i - start for i in model if start <= i < start + width}
    assert len(bitmap.to_bytes(start, width)) == (width + 7) // 8
    again = Bitmap.from_bytes(bitmap.to_bytes(0, count), count)
    assert again == bitmap
    assert (again.remaining, again.next_missing(0, count)) == (len(model), sorted(model))


@pytest.mark.parametrize("index", [-1, 13])
def test_clearing_no_block(index: int) -> None:
    with pytest.raises(LocalOtaError):
        Bitmap(13).clear(index)


@pytest.mark.parametrize(("data", "count"), [(b"", 1), (b"\xff", 7), (b"\xff\x00", 8), (b"\x00", 0), (b"\xff", 9)])
def test_a_kept_bitmap_that_does_not_fit(data: bytes, count: int) -> None:
    with pytest.raises(LocalOtaError, match="no bitmap"):
        Bitmap.from_bytes(data, count)


def test_bitmap_shows_itself() -> None:
    bitmap = Bitmap(70)
    bitmap.clear(1)
    assert repr(bitmap) == f"<Bitmap ·█{'·' * 62}… 69 of 70 missing>"
    assert bitmap.picture().alt == "70 blocks: 1 received, 69 missing"
    assert bitmap._repr_svg_().startswith("<svg")
    with pytest.raises(TypeError):
        hash(bitmap)


@pytest.mark.parametrize(("block_size", "blocks"), [(0, 1), (1, 0), (-1, 5)])
def test_pool_of_nothing(block_size: int, blocks: int) -> None:
    with pytest.raises(LocalOtaError):
        MemoryPool(block_size, blocks)


def test_pool_refuses_what_is_not_on_loan() -> None:
    pool, other = MemoryPool(16, 2), MemoryPool(16, 2)
    view, foreign = pool.acquire(), other.acquire()
    assert view is not None and foreign is not None
    for wrong in (foreign, memoryview(bytearray(16)), memoryview(b"16 bytes of text")):
        with pytest.raises(LocalOtaError):
            pool.release(wrong)
    pool.release(view)
    with pytest.raises(LocalOtaError):
        pool.release(view)
    assert (pool.free, pool.in_use, pool.peak) == (2, 0, 1)
    assert other.in_use == 1


def test_a_buffer_given_back_is_dead() -> None:
    pool = MemoryPool(16, 1)
    view = pool.acquire()
    assert view is not None
    pool.release(view)
    with pytest.raises(ValueError, match="released"):
        view[0] = 1
    following = pool.acquire()
    assert following is not None
    with pytest.raises(LocalOtaError):
        pool.release(view)
    assert pool.in_use == 1


def test_a_slice_is_as_good_as_the_buffer() -> None:
    pool = MemoryPool(16, 1)
    view = pool.acquire()
    assert view is not None
    pool.release(view[3:7])
    assert pool.free == 1


def test_a_buffer_that_is_still_looked_at_stays_on_loan() -> None:
    pool = MemoryPool(16, 1)
    view = pool.acquire()
    assert view is not None
    looker = pickle.PickleBuffer(view)
    with pytest.raises(LocalOtaError, match="still in use"):
        pool.release(view)
    assert (pool.free, pool.in_use) == (0, 1)
    looker.release()
    pool.release(view)
    assert (pool.free, pool.in_use) == (1, 0)


class PoolMachine(RuleBasedStateMachine):
    """Any order of taking and giving back."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = MemoryPool(8, 3)
        self.held: list[tuple[memoryview, int]] = []
        self.stamp = self.worst = 0

    @rule()
    def take(self) -> None:
        view = self.pool.acquire()
        assert (view is None) == (len(self.held) == 3)
        if view is not None:
            self.stamp += 1
            view[:] = self.stamp.to_bytes(8, "big")
            self.held.append((view, self.stamp))
            self.worst = max(self.worst, len(self.held))

    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        if self.held:
            view, _ = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
            self.pool.release(view)

    @invariant()
    def nobody_shares(self) -> None:
        assert [int.from_bytes(view, "big") for view, _ in self.held] == [stamp for _, stamp in self.held]
        assert (self.pool.in_use, self.pool.free, self.pool.peak) == (len(self.held), 3 - len(self.held), self.worst)


TestPool = PoolMachine.TestCase
