"""The network model keeps its rules, and the downloader gets out of a link what there is in it."""

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from coreota.boot import BootMode
from coreota.errors import LocalOtaError
from coreota.sim.lab import Lab
from coreota.sim.link import Conditions, Losses, Path, wire_size
from coreota.sim.linkbench import bound, download, least_seconds, link_row, outage_row
from coreota.sim.network import Bucket, NetworkBroker, NetworkTransport
from coreota.sim.sweep import Scenario, Story, scene_of
from coreota.states import JobFinished
from coreota.topics import Message, Subscribe
from coreota.transport import VirtualClock

STREAM = "$aws/things/pump/streams/s/data/cbor"  # Travels at quality 0
JOBS = "$aws/things/pump/jobs/notify"  # Travels at quality 1


# The model


@pytest.mark.parametrize(
    "length", [0, 1, 120, 121, 122, 127, 128, 16_376, 16_377, 16_384, 131_072, 2_097_144, 2_097_145]
)
def test_wire_sizes_are_those_of_an_mqtt_library(length: int) -> None:
    """The packet that paho makes is the reference."""
    sent: list[bytes] = []
    client = Client(CallbackAPIVersion.VERSION2)
    client._sock = object()  # type: ignore[assignment]
    client._packet_queue = lambda command, packet, *rest, **more: sent.append(bytes(packet)) or 0  # type: ignore[assignment, func-returns-value]
    for quality in (0, 1):
        client._send_publish(1, b"topic", bytes(length), quality, False)
        assert wire_size(Message("topic", bytes(length)), quality) == len(sent[-1])
    client._sock = None


@pytest.mark.parametrize(
    "wrong",
    [
        {"down": 0.0},
        {"up": -1.0},
        {"loss": 1.0},
        {"run": 0.5},
        {"delay": -1.0},
        {"publish_rate": 0},
        {"excess": "wait"},
    ],
)
def test_conditions_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(LocalOtaError):
        Conditions(**wrong)  # type: ignore[arg-type]


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=60),
    bandwidth=st.integers(100, 100_000),
    delay=st.floats(0, 2),
    jitter=st.floats(0, 2),
    seed=st.integers(0, 99),
)
def test_a_path_keeps_order_and_bandwidth(
    sizes: list[int], bandwidth: int, delay: float, jitter: float, seed: int
) -> None:
    path = Path(Conditions(delay=delay, jitter=jitter), bandwidth, Random(seed))
    arrivals = [path.transmit(size, 0.0)[0] for size in sizes]
    assert arrivals == sorted(arrivals)
    through = 0
    for size, arrival in zip(sizes, arrivals, strict=True):
        through += size
        assert arrival >= through / bandwidth + delay - 1e-9
    assert arrivals[-1] <= through / bandwidth + delay + jitter + 1e-9


def test_a_queue_drops_at_its_tail_and_drains() -> None:
    path = Path(Conditions(queue=3), 1000, Random(1))
    assert [bool(path.transmit(500, 0.0)) for _ in range(5)] == [True, True, True, False, False]
    assert (path.transmit(500, 0.6), path.overflowed, path.bytes) == ((2.0,), 2, 2000)
    small = Path(Conditions(queue_bytes=1000), 1000, Random(1))
    assert [bool(small.transmit(400, 0.0)) for _ in range(4)] == [True, True, False, False]


@pytest.mark.parametrize(("part", "run"), [(0.1, 1), (0.05, 8), (0.3, 3)])
def test_losses_have_their_part_and_their_runs(part: float, run: float) -> None:
    losses = Losses(Random(1), part, run)
    fate = [losses.lose() for _ in range(200_000)]
    starts = sum(lost and not before for before, lost in zip([False, *fate], fate, strict=False))
    assert sum(fate) / len(fate) == pytest.approx(part, rel=0.1)
    assert sum(fate) / starts == pytest.approx(max(run, 1 / (1 - part)), rel=0.1)


@pytest.mark.parametrize("delay", [False, True])
def test_a_bucket_lets_no_more_through_than_its_rate(delay: bool) -> None:
    bucket, through = Bucket(100, 10, delay), []
    for number in range(1000):
        now = number / 1000
        wait = bucket.take(now)
        if wait is not None:
            through.append(now + wait)
    assert through == sorted(through)
    assert all(sum(start <= time < start + 0.5 for time in through) <= 10 + 51 for start in (0.0, 0.3, 0.5))
    assert (len(through), bucket.refused) == ((1000, 0) if delay else (len(through), 1000 - len(through)))


def pair(conditions: Conditions, seed: int = 1) -> tuple[VirtualClock, NetworkTransport, NetworkTransport]:
    """A clock, a client with that link, and a perfect one; both have subscribed to everything."""
    clock = VirtualClock()
    broker = NetworkBroker(clock, {"pump": conditions}, seed)
    ours, theirs = broker.connect("pump"), broker.connect("provider")
    for client in (ours, theirs):
        client.send([Subscribe("$aws/#")])
        client.receive()
    return clock, ours, theirs


def arrivals(clock: VirtualClock, client: NetworkTransport, until: float) -> list[tuple[float, bytes]]:
    found = []
    while (when := client.next_arrival()) is not None and when <= until:
        clock.advance_to(max(when, clock.now()))
        found += [(clock.now(), item.payload) for item in client.receive() if isinstance(item, Message)]
    return found


def test_quality_0_is_lost_and_quality_1_is_late() -> None:
    clock, ours, theirs = pair(Conditions(delay=0.1, loss=0.5), seed=3)
    for _ in range(40):
        ours.send([Message(STREAM, b"0"), Message(JOBS, b"1")])
    got = [payload for _, payload in arrivals(clock, theirs, 100.0)]
    assert got.count(b"1") == 40
    assert 8 < got.count(b"0") < 32


@pytest.mark.parametrize(("cut", "times"), [(0.3, 1), (0.7, 2), (1.5, 1)])
def test_what_was_not_acknowledged_is_published_again(cut: float, times: int) -> None:
    clock, ours, theirs = pair(Conditions(delay=0.5, outages=((cut, cut + 1.0),)))
    ours.send([Message(JOBS, b"report"), Message(STREAM, b"gone" if cut < 0.5 else b"there")])
    got = [payload for _, payload in arrivals(clock, theirs, 10.0)]
    assert (got.count(b"report"), b"gone" in got) == (times, False)


@pytest.mark.parametrize("persistent", [False, True])
def test_a_persistent_session_keeps_what_came_in_an_outage(persistent: bool) -> None:
    clock, ours, theirs = pair(Conditions(delay=0.1, outages=((1.0, 5.0),), persistent=persistent))
    clock.advance_to(2.0)
    ours.receive()
    theirs.send([Message(JOBS, b"kept"), Message(STREAM, b"lost")])
    got = [payload for _, payload in arrivals(clock, ours, 20.0)]
    assert got == ([b"kept"] if persistent else [])


# The whole device


@pytest.mark.parametrize(
    "conditions",
    [
        Conditions(down=250_000, up=250_000, delay=0.1, loss=0.1, publish_rate=100),
        Conditions(down=60_000, up=20_000, delay=0.3, jitter=0.2, loss=0.05, run=6, duplicate=0.05, reorder=0.05),
        Conditions(down=250_000, up=250_000, delay=0.05, queue=8),
        Conditions(delay=0.02, publish_rate=100, publish_burst=20, outages=((1.0, 11.0), (13.0, 14.0))),
    ],
    ids=["lossy", "weather", "narrow", "outages"],
)
def test_an_update_over_a_network(conditions: Conditions) -> None:
    lab = Lab(image_size=400_000, broker=lambda clock: NetworkBroker(clock, {"lab-thing": conditions}, seed=5))
    job_id = lab.offer("2.0.0")
    lab.run(limit=600)
    assert (lab.history(job_id)[-1].status.value, str(lab.bootloader.running)) == ("SUCCEEDED", "2.0.0")
    assert [event.accepted for event in lab.device.events if isinstance(event, JobFinished)] == [True]
    assert lab.device.orchestrator.pool.in_use == 0


# How fast


@pytest.mark.parametrize("loss", [0.0, 0.01, 0.05, 0.1])
@pytest.mark.parametrize("round_trip", [0.02, 0.2, 0.6])
@pytest.mark.parametrize("bandwidth", [250_000, 2_000_000])
def test_a_link_is_filled(bandwidth: int, round_trip: float, loss: float) -> None:
    row = link_row(bandwidth, round_trip, loss, seeds=(1, 2, 3))
    assert (row.limit, row.ratio >= 0.95) == ("link", True), row
    assert row.resent <= 1.05, row


@pytest.mark.parametrize(
    ("round_trip", "loss"),
    [(0.02, 0.0), (0.02, 0.01), (0.02, 0.05), (0.02, 0.1), (0.2, 0.0), (0.2, 0.05), (0.2, 0.1), (0.6, 0.1)],
)
def test_a_quota_is_filled(round_trip: float, loss: float) -> None:
    row = link_row(20_000_000, round_trip, loss, seeds=(1, 2, 3))
    assert (row.limit, row.ratio >= 0.95) == ("quota", True), row
    assert row.resent <= 1.05, row


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_more_is_under_way_than_the_pool_holds(loss: float) -> None:
    """20 Mbit/s and 200 ms are 122 blocks, and the pool has 64."""
    row = link_row(20_000_000, 0.2, loss, quota=None, seeds=(1,))
    assert row.ratio >= 0.95, row


def test_nothing_is_sent_in_vain_on_a_good_link() -> None:
    for round_trip in (0.0, 0.001, 0.02, 0.6):
        run = download(Conditions(down=250_000, up=250_000, delay=round_trip / 2), 4096 * 300)
        assert (run.sent, run.duplicates, run.lost) == (300, 0, 0)


@pytest.mark.parametrize("size", [1, 65_536, 1_048_576])
def test_small_files_take_a_round_trip_and_their_time(size: int) -> None:
    link = Conditions(down=250_000, up=250_000, delay=0.1)
    assert download(link, size).seconds <= 1.05 * least_seconds(link, size)


def test_an_outage_costs_its_time_and_a_round_trip_or_two() -> None:
    row = outage_row()
    assert (row.again, row.cost < 1.0) == (0, True), row


@pytest.mark.parametrize(
    "bad",
    [
        {"jitter": 0.2},
        {"reorder": 0.1},
        {"duplicate": 0.1},
        {"loss": 0.1, "run": 10.0},
        {"loss": 0.4},
        {"queue": 6},
        {"publish_rate": 20.0, "publish_burst": 5.0},
        {"publish_rate": 20.0, "publish_burst": 5.0, "excess": "delay"},
    ],
    ids=lambda bad: "-".join(bad),
)
def test_bad_links_are_survived(bad: dict[str, float]) -> None:
    """It always ends, and what comes twice stays a small part."""
    link = Conditions(down=250_000, up=250_000, delay=0.1, **bad)  # type: ignore[arg-type]
    run = download(link, 4096 * 400, seed=2)
    doubled = 3 * link.duplicate * run.sent  # requests come twice as well, and each is answered
    assert run.duplicates <= 0.1 * run.blocks + doubled, run
    assert run.seconds < 60 * bound(link, 4096 * 400).seconds


def test_a_slow_modem_gets_each_block_once() -> None:
    """9600 bit/s: a block takes 3.5 seconds, and the first timer is far too early."""
    run = download(Conditions(down=1200, up=1200, delay=0.5), 4096 * 40)
    assert run.duplicates <= 4, run


@pytest.mark.parametrize(
    ("attempt", "reason"),
    [
        (lambda: download(Conditions(), size=0), "size"),
        (lambda: Lab(image_size=-5), "size"),
        (lambda: scene_of(Scenario(BootMode.SWAP_MOVE, Story.TEST, "huge")), "scenario"),
    ],
)
def test_an_experiment_that_cannot_be_is_refused_with_advice(attempt: Callable[[], object], reason: str) -> None:
    with pytest.raises(LocalOtaError) as error:
        attempt()
    assert (error.value.reason, bool(error.value.advice)) == (reason, True)


def test_a_scene_is_told_in_a_line() -> None:
    assert (
        repr(scene_of(Scenario(BootMode.SWAP_MOVE, Story.TEST, "larger")))
        == "<Scene swap-move, test, larger: 78 operations>"
    )
