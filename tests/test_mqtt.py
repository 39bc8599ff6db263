"""The paho transport over two real brokers."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from brokers import TlsBroker
from hypothesis import given
from hypothesis import strategies as st

from coreota.errors import LocalOtaError
from coreota.mqtt import AWS_ALPN, MOST_UNSENT, Outbox, PahoTransport, backoff, tls_context
from coreota.provider.broker import EmbeddedBroker, broker_config
from coreota.topics import Message, Outgoing, Subscribe
from coreota.transport import Connected, Disconnected, Incoming, quality


@pytest.fixture(params=["amqtt", "mosquitto"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of each broker in turn."""
    if request.param == "mosquitto":
        yield request.getfixturevalue("mosquitto")
        return
    with EmbeddedBroker() as broker:
        yield broker.port


@pytest.fixture
def transports(port: int) -> Iterator[tuple[PahoTransport, PahoTransport]]:
    """Two connected clients."""
    pair = PahoTransport("127.0.0.1", port, client_id="one"), PahoTransport("127.0.0.1", port, client_id="two")
    for transport in pair:
        assert wait_for(transport, 1) == [Connected()]
    yield pair
    for transport in pair:
        transport.close()


def wait_for(transport: PahoTransport, count: int) -> list[Incoming]:
    """The next so many things that come in; fails after half a minute."""
    items: list[Incoming] = []
    deadline = time.monotonic() + 30
    while len(items) < count:
        assert time.monotonic() < deadline, items
        items += transport.receive(0.5)
    return items


@pytest.mark.parametrize("size", [0, 1, 131_072 + 200])
def test_payloads(transports: tuple[PahoTransport, PahoTransport], size: int) -> None:
    """Of every size that occurs, on a topic of AWS's; to the byte."""
    one, _ = transports
    message = Message("$aws/things/one/streams/s/data/cbor", Random(1).randbytes(size))
    one.send([Subscribe("$aws/things/one/#"), message])
    assert wait_for(one, 1) == [message]


def test_no_question_overtakes_its_subscription(transports: tuple[PahoTransport, PahoTransport]) -> None:
    """A hundred times: subscribe and publish in one breath, and none is lost."""
    one, _ = transports
    for number in range(100):
        message = Message(f"answers/{number}", b"%d" % number)
        one.send([Subscribe(message.topic), message])
        assert wait_for(one, 1) == [message]


def test_burst(transports: tuple[PahoTransport, PahoTransport]) -> None:
    """Two hundred blocks at once arrive complete and in order."""
    one, two = transports
    blocks = [Message("x/streams/s", bytes([n]) * 4096) for n in range(200)]
    one.send([Subscribe("x/streams/s"), Subscribe("me"), Message("me", b"the subscriptions stand")])
    assert len(wait_for(one, 1)) == 1
    two.send(blocks)
    assert wait_for(one, 200) == blocks


def test_reset(transports: tuple[PahoTransport, PahoTransport]) -> None:
    """A reset loses the link and its subscriptions, and finds the link again."""
    one, two = transports
    one.send([Subscribe("a")])
    one.reset()
    assert [type(item) for item in wait_for(one, 2)] == [Disconnected, Connected]
    two.send([Message("a", b"nobody listens")])
    one.send([Subscribe("b"), Message("b", b"again")])
    assert wait_for(one, 1) == [Message("b", b"again")]


def test_what_was_queued_before_the_link_is_sent_after(port: int) -> None:
    """Nothing is lost between the socket's connection and the broker's acknowledgement."""
    transport = PahoTransport("127.0.0.1", port, client_id="early")
    transport.send([Subscribe("early"), Message("early", b"bird")])
    assert wait_for(transport, 2) == [Connected(), Message("early", b"bird")]
    transport.close()


def test_the_broker_comes_back() -> None:
    """Its end and its return are two events; nobody has to catch anything."""
    with EmbeddedBroker() as broker:
        port = broker.port
        transport = PahoTransport("127.0.0.1", port, client_id="patient", shortest_wait=0.05, longest_wait=0.2)
        assert wait_for(transport, 1) == [Connected()]
    assert isinstance(wait_for(transport, 1)[0], Disconnected)
    assert transport.receive(0.3) == []
    with EmbeddedBroker(port):
        assert wait_for(transport, 1) == [Connected()]
        transport.send([Subscribe("a"), Message("a", b"1")])
        assert wait_for(transport, 1) == [Message("a", b"1")]
        transport.close()


def test_nobody_there() -> None:
    """A wrong address is said at once, by name."""
    with pytest.raises(LocalOtaError, match=r"127\.0\.0\.1:1"):
        PahoTransport("127.0.0.1", 1, client_id="lost")


@pytest.mark.parametrize("keepalive", [-1, 86_400])
def test_a_keepalive_that_mqtt_cannot_carry(keepalive: int) -> None:
    """Refused before anything is connected, with what would be right."""
    with pytest.raises(LocalOtaError, match="take 0 to 65535"):
        PahoTransport("127.0.0.1", 1, client_id="x", keepalive=keepalive, patient=True)


def test_alpn_tells_mqtt_from_its_neighbours(mosquitto_tls: TlsBroker) -> None:
    """On port 443 the TLS handshake says which protocol is meant; the client shows its certificate."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(mosquitto_tls.ca))
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(mosquitto_tls.folder / "server.crt", mosquitto_tls.folder / "server.key")
    server.set_alpn_protocols(["http/1.1", AWS_ALPN])
    client = tls_context(mosquitto_tls.ca, *mosquitto_tls.credentials("gateway-1"), alpn=[AWS_ALPN])
    here, there = socket.socketpair()
    seen: list[object] = []

    def answer() -> None:
        with server.wrap_socket(there, server_side=True) as side:
            seen.extend([side.selected_alpn_protocol(), bool(side.getpeercert())])

    thread = threading.Thread(target=answer)
    thread.start()
    with client.wrap_socket(here, server_hostname="localhost") as side:
        seen.append(side.selected_alpn_protocol())
        thread.join(10)
    assert seen.count(AWS_ALPN) == 2
    assert True in seen


@pytest.mark.parametrize("name", ["ca", "certificate"])
def test_tls_files_that_are_none(name: str, mosquitto_tls: TlsBroker, tmp_path: Path) -> None:
    """Missing, and not PEM: the file is named."""
    wrong = tmp_path / "wrong.pem"
    files = {"ca": str(mosquitto_tls.ca), "certificate": str(mosquitto_tls.credentials("a")[0])}
    key = str(mosquitto_tls.credentials("a")[1])
    for content in (None, b"hello"):
        if content is not None:
            wrong.write_bytes(content)
        given = files | {name: str(wrong)}
        with pytest.raises(LocalOtaError, match=r"wrong\.pem"):
            tls_context(given["ca"], given["certificate"], key)


def test_a_broker_that_never_acknowledges() -> None:
    """It takes the connection and says nothing: after `answer_timeout` that counts as lost, and is tried again."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        problems: list[str] = []
        transport = PahoTransport(
            "127.0.0.1", deaf.getsockname()[1], client_id="x", answer_timeout=0.2, shortest_wait=0.01, longest_wait=0.02
        )
        transport.on_problem = problems.append
        deadline = time.monotonic() + 20
        while len(problems) < 2 and time.monotonic() < deadline:
            assert transport.receive(0.1) == []
        assert problems[:2] == ["the broker does not answer"] * 2
        transport.close()


def test_a_broker_that_takes_nothing_counts_as_lost() -> None:
    """It says hello and never reads again: what is queued stays bounded, and `send` comes back."""
    with socket.create_server(("127.0.0.1", 0)) as stuck:
        transport = PahoTransport("127.0.0.1", stuck.getsockname()[1], client_id="x", answer_timeout=0.3)
        with stuck.accept()[0] as side:
            side.recv(100)
            side.sendall(b"\x20\x02\x00\x00")
            assert wait_for(transport, 1) == [Connected()]
            block, most = Message("x/streams/s", bytes(65_536)), 0
            while transport._online:
                transport.send([block])
                most = max(most, transport._client.wire.backlog)
            assert most < MOST_UNSENT + 70_000
            assert wait_for(transport, 1) == [Disconnected("the broker takes nothing")]
            transport.close()


def test_the_queue_has_a_bound() -> None:
    """Offline, the oldest messages go, and no subscription does."""
    transport = PahoTransport("127.0.0.1", 1, client_id="x", patient=True, max_queue=10)
    transport.send([Subscribe("a"), *(Message("m", b"%d" % n) for n in range(50)), Subscribe("b")])
    assert transport.dropped == 42
    kept = [Subscribe("a"), *(Message("m", b"%d" % n) for n in range(42, 50)), Subscribe("b")]
    assert list(transport._outbox.items) == kept
    transport.close()


def test_a_refused_subscription_is_an_error_and_no_question_follows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SUBACK with 0x80: the filter is named, nothing behind it leaves, and nobody takes it for success."""
    config = broker_config("127.0.0.1", 0)
    config["plugins"]["amqtt.plugins.topic_checking.TopicTabooPlugin"] = {}  # refuses subscriptions to "prohibited"
    monkeypatch.setattr("coreota.provider.broker.broker_config", lambda host, port: config)
    with EmbeddedBroker() as broker:
        listener, asker = (PahoTransport("127.0.0.1", broker.port, client_id=name) for name in ("listener", "asker"))
        listener.send([Subscribe("question"), Subscribe("me"), Message("me", b"listens")])
        assert wait_for(listener, 2) == [Connected(), Message("me", b"listens")]
        asker.send([Subscribe("allowed"), Message("allowed", b"1")])
        assert wait_for(asker, 2) == [Connected(), Message("allowed", b"1")]
        asker.send([Subscribe("allowed/too"), Subscribe("prohibited"), Message("question", b"?")])
        for _ in range(2):  # and it stays one
            with pytest.raises(LocalOtaError, match="refuses the subscription to prohibited: allow") as told:
                wait_for(asker, 1)
        assert told.value.reason == "subscription-refused"
        alone = PahoTransport("127.0.0.1", broker.port, client_id="alone")
        alone.send([Subscribe("prohibited")])
        with pytest.raises(LocalOtaError):
            wait_for(alone, 2)
        assert not alone.subscribed
        asker.send([Message("question", b"again")])
        listener.send([Message("me", b"the end")])
        assert wait_for(listener, 1) == [Message("me", b"the end")]
        for transport in (asker, listener, alone):
            transport.close()


def test_a_message_waits_for_the_suback() -> None:
    """A broker played by hand, which takes its time: the message comes after its answer, not before."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        transport = PahoTransport("127.0.0.1", server.getsockname()[1], client_id="x")
        with server.accept()[0] as side:
            side.settimeout(10)
            side.recv(100)
            side.sendall(b"\x20\x02\x00\x00")
            assert wait_for(transport, 1) == [Connected()]
            transport.send([Subscribe("a"), Message("q", b"?")])
            subscribe = side.recv(100)
            assert (subscribe[0] >> 4, len(subscribe)) == (8, 2 + subscribe[1])
            assert transport.receive(0.0) == []
            side.sendall(b"\x90\x03" + subscribe[2:4] + b"\x01")
            while not transport.subscribed:
                transport.receive(0.1)
            assert side.recv(100)[0] >> 4 == 3
        transport.close()


@given(items=st.lists(st.booleans(), max_size=12), steps=st.lists(st.booleans(), max_size=40))
def test_the_outbox_keeps_order_and_waits(items: list[bool], steps: list[bool]) -> None:
    """Whenever SUBACKs come: all leaves in order, a message only while none is awaited, and in the end everything."""
    outbox, left = Outbox(), list[Outgoing]()
    queue = [Subscribe(f"{n}") if subscription else Message(f"{n}", b"") for n, subscription in enumerate(items)]
    outbox.items.extend(queue)
    for acknowledge in steps + [True, False] * len(items):
        if acknowledge and outbox.unacknowledged:
            del outbox.unacknowledged[min(outbox.unacknowledged)]
        elif not acknowledge and (item := outbox.next()) is not None:
            assert isinstance(item, Subscribe) or not outbox.unacknowledged
            left.append(item)
            if isinstance(item, Subscribe):
                outbox.unacknowledged[len(left)] = item.topic_filter
    assert left == queue


def test_no_delay(transports: tuple[PahoTransport, PahoTransport]) -> None:
    """Small packets do not wait for one another."""
    sock = transports[0]._client.wire._sock
    assert isinstance(sock, socket.socket)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


@given(failures=st.integers(1, 1000), shortest=st.floats(0.01, 10), more=st.floats(0, 100), seed=st.integers())
def test_backoff_keeps_its_bounds(failures: int, shortest: float, more: float, seed: int) -> None:
    """Between the shortest wait and the smaller of twice as much for each failure and the longest."""
    longest = shortest + more
    wait = backoff(failures, shortest, longest, Random(seed))
    assert shortest <= wait <= min(longest, shortest * 2.0 ** min(failures, 64)) + 1e-9


def test_the_first_try_is_spread_too() -> None:
    """Two hundred devices that lose one broker do not come back in the same moment."""
    waits = sorted(backoff(1, 1.0, 30.0, Random(device)) for device in range(200))
    assert (waits[0] < 1.1, waits[-1] > 1.9, len(set(waits))) == (True, True, 200)


def test_quality() -> None:
    """Blocks once, all else until it is acknowledged."""
    assert (quality("$aws/things/t/streams/s/get/cbor"), quality("$aws/things/t/jobs/notify-next")) == (0, 1)
