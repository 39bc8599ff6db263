"""The in-memory broker, the driver of virtual time, and bad links."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreota.errors import LocalOtaError
from coreota.sim.link import LossyLink, wire_size
from coreota.topics import Message, Outgoing, Subscribe, Unsubscribe
from coreota.transport import (
    Connected,
    Disconnected,
    Incoming,
    LocalBroker,
    PerfectLink,
    VirtualClock,
    run,
    simulate,
    step,
)


class Part:
    """An endpoint that notes what happens to it."""

    def __init__(self, *outgoing: Outgoing, timer: float | None = None) -> None:
        self.outgoing, self.timer = list(outgoing), timer
        self.seen: list[tuple[float, str]] = []

    def connected(self, now: float) -> None:
        self.seen.append((now, "connected"))

    def disconnected(self, now: float) -> None:
        self.seen.append((now, "disconnected"))

    def receive(self, message: Message, now: float) -> None:
        self.seen.append((now, message.topic))

    def messages_to_send(self, now: float) -> list[Outgoing]:
        outgoing, self.outgoing = self.outgoing, []
        return outgoing

    def get_timer(self) -> float | None:
        return self.timer

    def handle_timer(self, now: float) -> None:
        self.seen.append((now, "timer"))
        self.timer = None


def test_routing() -> None:
    """A client gets what its filters match, once, in the order of sending; no longer after Unsubscribe."""
    broker = LocalBroker(VirtualClock())
    here, there = broker.connect("here"), broker.connect("there")
    here.send([Subscribe("a/+"), Subscribe("a/#")])
    there.send([Message("a/1", b"x"), Message("b/1", b"y"), Message("a/2", b"z")])
    assert here.receive() == [Connected(), Message("a/1", b"x"), Message("a/2", b"z")]
    here.send([Unsubscribe("a/+"), Unsubscribe("a/#")])
    there.send([Message("a/3", b"x")])
    assert here.receive() == []
    assert [(sender, receiver, m.topic) for _, sender, receiver, m in broker.log] == [
        ("there", "here", "a/1"),
        ("there", "here", "a/2"),
    ]


def test_a_lost_link_loses_all() -> None:
    """What was under way, the subscriptions, and what is sent meanwhile."""
    broker = LocalBroker(VirtualClock())
    here, there = broker.connect("here"), broker.connect("there")
    here.send([Subscribe("a")])
    there.send([Message("a", b"1")])
    here.disconnect("cut")
    here.send([Message("c", b"")])
    there.send([Message("a", b"2")])
    here.reconnect()
    there.send([Message("a", b"3")])
    assert here.receive() == [Disconnected("cut"), Connected()]
    assert all(message.topic != "c" for _, _, _, message in broker.log)


def test_time_jumps_to_the_timer() -> None:
    """A timer is handled at its time, to the digit; messages at theirs."""
    clock = VirtualClock()
    broker = LocalBroker(clock, LossyLink(1, delay=0.25))
    ears, mouth = Part(Subscribe("a"), timer=3600.5), Part()
    parts = [(ears, broker.connect("ears")), (mouth, broker.connect("mouth"))]
    simulate(parts, clock, lambda: not ears.outgoing, limit=1)
    mouth.outgoing.append(Message("a", b""))
    simulate(parts, clock, lambda: ears.timer is None, limit=4000)
    assert ears.seen == [(0.0, "connected"), (0.25, "a"), (3600.5, "timer")]


def test_a_simulation_that_cannot_go_on_says_so() -> None:
    """Nothing to wait for, or not within the limit: an error, not a hang."""
    clock = VirtualClock()
    link = LocalBroker(clock).connect("part")
    with pytest.raises(LocalOtaError, match="nothing can happen"):
        simulate([(Part(), link)], clock, lambda: False, limit=10)
    with pytest.raises(LocalOtaError, match="were not enough"):
        simulate([(Part(timer=11.0), link)], clock, lambda: False, limit=10)
    simulate([(Part(timer=11.0), link)], clock, lambda: False, limit=10, idle=True)
    assert clock.now() == 10


def test_a_timer_that_stands_still_ends_the_simulation() -> None:
    """A part that is due for ever at one moment: an error that says so, not a hang."""

    class Nagger(Part):
        def handle_timer(self, now: float) -> None:
            pass

    clock = VirtualClock()
    parts = [(Nagger(timer=0.0), LocalBroker(clock).connect("nagger"))]
    with pytest.raises(LocalOtaError, match="time stands still"):
        simulate(parts, clock, lambda: False, limit=10)
    assert clock.now() == 0


def test_clock_goes_forward_only() -> None:
    """A timer's clock never goes back."""
    clock = VirtualClock(5.0)
    with pytest.raises(LocalOtaError):
        clock.advance_to(4.9)
    assert clock.now() == 5.0


class Waiting:
    """A transport that notes how long it was to wait."""

    def __init__(self, *incoming: Incoming) -> None:
        self.incoming, self.waits, self.sent = list(incoming), list[float | None](), list[Outgoing]()

    def send(self, outgoing: Iterable[Outgoing]) -> None:
        self.sent += outgoing

    def receive(self, timeout: float | None) -> list[Incoming]:
        self.waits.append(timeout)
        items, self.incoming = self.incoming, []
        return items

    def close(self) -> None: ...


@pytest.mark.parametrize(("timer", "expected"), [(None, 0.5), (100.2, 0.2), (200.0, 0.5), (99.0, 0.0)])
def test_step_waits_no_longer_than_the_timer(timer: float | None, expected: float) -> None:
    """The shorter of the timer and the limit, and never less than nothing."""
    transport = Waiting()
    step(Part(timer=timer), transport, VirtualClock(100.0), 0.5)
    assert transport.waits == [pytest.approx(expected)]


def test_step_hands_in_everything() -> None:
    """The link's state, messages, and the timer that is due; what is to be sent goes first."""
    part = Part(Message("out", b""), timer=100.0)
    transport = Waiting(Connected(), Message("in", b""), Disconnected("x"))
    stops = iter([False, True])
    run(part, transport, VirtualClock(100.0), lambda: next(stops))
    assert transport.sent == [Message("out", b"")]
    assert [what for _, what in part.seen] == ["connected", "in", "disconnected", "timer"]


def test_perfect_link() -> None:
    """At once, once."""
    assert tuple(PerfectLink().deliveries(Message("t", b""), 7.0)) == (7.0,)


@given(
    seed=st.integers(), loss=st.floats(0, 1), duplicate=st.floats(0, 1), delay=st.floats(0, 9), jitter=st.floats(0, 9)
)
def test_link_keeps_its_bounds(seed: int, loss: float, duplicate: float, delay: float, jitter: float) -> None:
    """Every copy arrives between delay and delay plus jitter; there are two at most; a seed is a seed."""
    links = [LossyLink(seed, loss=loss, duplicate=duplicate, delay=delay, jitter=jitter) for _ in range(2)]
    message = Message("t", b"payload")
    runs = [[list(link.deliveries(message, 1.0)) for _ in range(20)] for link in links]
    assert runs[0] == runs[1]
    for copies in runs[0]:
        assert len(copies) <= 2
        assert all(1.0 + delay <= time <= 1.0 + delay + jitter + 1e-9 for time in copies)
        assert loss < 1 or not copies


def test_bandwidth_is_one_wire() -> None:
    """Messages queue; each takes its size over the bandwidth."""
    link, message = LossyLink(1, bandwidth=1000), Message("t", bytes(95))
    assert wire_size(message) == 100
    assert [link.deliveries(message, 0.0)[0] for _ in range(3)] == pytest.approx([0.1, 0.2, 0.3])
    assert link.deliveries(message, 10.0)[0] == pytest.approx(10.1)


@pytest.mark.parametrize("wrong", [{"loss": 1.1}, {"duplicate": -0.1}, {"delay": -1.0}, {"bandwidth": 0.0}])
def test_links_that_cannot_be(wrong: dict[str, float]) -> None:
    """Refused when they are made."""
    with pytest.raises(LocalOtaError):
        LossyLink(1, **wrong)
