"""When to ask, and for what: a quota is kept, chance is not taken for one, and little is sent twice."""

from itertools import pairwise
from random import Random
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreota.blocks import Bitmap, MemoryPool
from coreota.download import DownloadConfig
from coreota.flow import Flow
from coreota.rto import RoundTrip, chance
from coreota.window import CONGESTED, Quota


@pytest.mark.parametrize("by", ["seed", "number"])
def test_neighbouring_seeds_and_occasions_are_as_far_apart_as_any_two(by: str) -> None:
    values = [chance(n, 3) if by == "seed" else chance(3, n) for n in range(3_000)]
    assert all(0 <= value < 1 for value in values)
    assert fmean(values) == pytest.approx(1 / 2, abs=0.02)
    assert fmean(abs(a - b) for a, b in pairwise(values)) == pytest.approx(1 / 3, abs=0.02)


def judged(quota: Quota, outcomes: list[float], asked: float = 100.0) -> None:
    """Periods in which these parts of the blocks were lost, each of 100 requests for 10 blocks."""
    now = 0.0
    for part in outcomes:
        for _ in range(100):
            now += 0.1
            quota.asked(10, now)
            lost = round(10 * part)
            quota.answered(10 - lost, lost, now, now, asked)


def test_a_tenth_is_weather_and_a_half_is_our_doing() -> None:
    quota = Quota(RoundTrip())
    judged(quota, [0.1])
    assert quota.rate is None and quota.usual == pytest.approx(0.1)
    judged(quota, [0.5])
    assert quota.rate is not None and quota.rate < 100.0


def test_where_slower_loses_as_much_it_was_the_link() -> None:
    quota = Quota(RoundTrip())
    judged(quota, [0.4] * 20)
    assert quota.usual == pytest.approx(0.4) and CONGESTED < 0.4
    assert quota.rate is None or quota.rate > 10.0


@settings(max_examples=40)
@given(st.integers(1, 200), st.integers(0, 99))
def test_never_faster_than_the_ceiling(rate: int, seed: int) -> None:
    quota, random, now, asked = Quota(RoundTrip()), Random(seed), 0.0, 0
    quota.rate = float(rate)
    for _ in range(200):
        lot = random.randint(1, 32)
        now = max(now + random.random() / 10, quota.ask_at(lot) if asked else now)
        quota.asked(lot, now)
        asked += lot
        assert asked <= rate * now + 64 + 1e-6


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.floats(0.0, 0.6), st.integers(0, 99))
def test_every_block_comes_and_few_are_doubled(blocks: int, loss: float, seed: int) -> None:
    flow = Flow(Bitmap(blocks), {}, MemoryPool(256, 16), DownloadConfig(block_size=256), ordered=True)
    random, now, sent, arrived = Random(seed), 0.0, 0, 0
    queue: list[tuple[float, int, str]] = []

    def request(lot: list[int]) -> None:
        nonlocal sent
        sent += len(lot)
        queue.extend(
            (now + 0.1 + k / 1000, index, str(flow.requests)) for k, index in enumerate(lot) if random.random() >= loss
        )

    while flow.missing.remaining:
        flow.ask(now, request)
        queue.sort()
        due = [
            t for t in (flow.silence.deadline(flow.ask_at), flow.under_way.patient_until, flow.ask_at) if t is not None
        ]
        if queue and queue[0][0] <= min(due, default=now):
            now, index, token = queue.pop(0)
            if index in flow.missing:
                flow.missing.clear(index)
                flow.arrived(index, now, token)
                arrived += 1
            else:
                flow.arrived_again(index)
            continue
        now = max(now, min(due))
        flow.give_up_overtaken(now)
        deadline = flow.silence.deadline(flow.ask_at)
        if deadline is not None and deadline <= now:
            flow.silence.over()
            flow.probe(now, request)
    assert arrived == flow.received == blocks
    assert flow.doubled <= flow.lost // 64
    assert sent <= blocks + flow.lost + flow.doubled
