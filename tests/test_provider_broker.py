"""The embedded broker, spoken to by real paho clients over loopback."""

import importlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from coreota.errors import LocalOtaError
from coreota.provider.broker import EmbeddedBroker


class Client:
    """A connected paho client that keeps what it gets."""

    def __init__(self, port: int, name: str = "") -> None:
        self.got: list[tuple[str, bytes]] = []
        self._changed = threading.Condition()
        self._connected, self._subscribed = threading.Event(), threading.Event()
        self.lost = threading.Event()
        self.paho = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name)
        self.paho.reconnect_delay_set(min_delay=60, max_delay=60)
        self.paho.on_disconnect = lambda *_: self.lost.set()
        self.paho.on_connect = lambda *_: self._connected.set()
        self.paho.on_subscribe = lambda *_: self._subscribed.set()
        self.paho.on_message = self._take
        self.paho.connect("127.0.0.1", port)
        self.paho.loop_start()
        assert self._connected.wait(5)

    def _take(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        with self._changed:
            self.got.append((message.topic, bytes(message.payload)))
            self._changed.notify_all()

    def subscribe(self, *filters: str, qos: int = 0) -> None:
        self._subscribed.clear()
        self.paho.subscribe([(one, qos) for one in filters])
        assert self._subscribed.wait(5)

    def wait_for(self, count: int) -> list[tuple[str, bytes]]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.got) >= count, 10), self.got
            return list(self.got)

    def close(self) -> None:
        self.paho.disconnect()
        self.paho.loop_stop()


@contextmanager
def clients(port: int, count: int) -> Iterator[list[Client]]:
    made = [Client(port) for _ in range(count)]
    try:
        yield made
    finally:
        for one in made:
            one.close()


@pytest.mark.parametrize("qos", [0, 1])
def test_reserved_topics_pass_in_order(qos: int) -> None:
    with EmbeddedBroker() as broker, clients(broker.port, 2) as (listener, speaker):
        listener.subscribe(
            "$aws/things/+/jobs/get",
            "$aws/things/+/jobs/start-next",
            "$aws/things/+/jobs/+/get",
            "$aws/things/+/jobs/+/update",
            "$aws/things/+/streams/+/+/+",
            qos=qos,
        )
        sent = [
            ("$aws/things/t1/jobs/get", b""),
            ("$aws/things/t1/jobs/start-next", b"{}"),
            ("$aws/things/t1/jobs/$next/get", b"{}"),
            ("$aws/things/t2/jobs/j1/update", bytes(range(256)) * 512),
            ("$aws/things/t2/streams/s1/get/cbor", bytes(200_000)),
            ("$aws/things/t2/streams/s1/describe/json", b"{}"),
        ]
        for topic, payload in sent:
            speaker.paho.publish(topic, payload, qos=qos)
        assert listener.wait_for(len(sent)) == sent


def test_wildcards_do_not_match_replies() -> None:
    with EmbeddedBroker() as broker, clients(broker.port, 2) as (listener, speaker):
        listener.subscribe("$aws/things/+/jobs/+/get", "#")
        speaker.paho.publish("$aws/things/t1/jobs/j1/get/accepted", b"reply")
        speaker.paho.publish("$aws/things/t1/jobs/get/accepted", b"reply")
        speaker.paho.publish("$aws/things/t1/jobs/j1/get", b"request")
        speaker.paho.publish("end", b"")
        assert listener.wait_for(2) == [("$aws/things/t1/jobs/j1/get", b"request"), ("end", b"")]


@pytest.mark.parametrize("subscribed", [False, True])
@pytest.mark.parametrize("verdict", ["accepted", "rejected"])
def test_the_asker_gets_its_reply_once(subscribed: bool, verdict: str) -> None:
    request = "$aws/things/t1/jobs/start-next"
    with EmbeddedBroker() as broker, clients(broker.port, 3) as (device, other, provider):
        provider.subscribe(request)
        if subscribed:
            device.subscribe(f"{request}/+")
        other.subscribe("end")
        device.subscribe("end")
        device.paho.publish(request, b"?")
        assert provider.wait_for(1) == [(request, b"?")]
        for _ in range(2):
            provider.paho.publish(f"{request}/{verdict}", b"!")
        provider.paho.publish("end", b"")
        replies = [(f"{request}/{verdict}", b"!")] * (2 if subscribed else 1)
        assert device.wait_for(len(replies) + 1) == [*replies, ("end", b"")]
        assert other.wait_for(1) == [("end", b"")]


def test_an_asker_that_left_is_not_looked_for() -> None:
    request = "$aws/things/t1/jobs/get"
    with EmbeddedBroker() as broker, clients(broker.port, 1) as (provider,):
        provider.subscribe(request, "end")
        with clients(broker.port, 1) as (device,):
            device.paho.publish(request, b"?")
            provider.wait_for(1)
        provider.paho.publish(f"{request}/accepted", b"!")
        provider.paho.publish("end", b"")
        assert provider.wait_for(2)[1] == ("end", b"")


def test_other_reserved_topics_stay_refused() -> None:
    with EmbeddedBroker() as broker, clients(broker.port, 3) as (listener, good, bad):
        listener.subscribe("$SYS/x", "$awsome/x", "plain/x")
        bad.paho.publish("$SYS/x", b"1")
        time.sleep(0.1)
        good.paho.publish("plain/x", b"2")
        assert listener.wait_for(1) == [("plain/x", b"2")]


def test_a_newer_client_takes_the_name_over() -> None:
    """MQTT-3.1.4-2: the older one is cut off, and what is said to that name reaches the newer one alone."""
    with EmbeddedBroker() as broker:
        older = Client(broker.port, "lamp")
        older.subscribe("light")
        newer, other = Client(broker.port, "lamp"), Client(broker.port, "other")
        assert older.lost.wait(5)
        newer.subscribe("light")
        other.paho.publish("light", b"on")
        assert newer.wait_for(1) == [("light", b"on")]
        assert older.got == [] and not newer.lost.is_set() and not other.lost.is_set()
        for one in (newer, other, older):
            one.close()


def test_twenty_megabytes_in_blocks() -> None:
    block, count = bytes(131072), 160
    with EmbeddedBroker() as broker, clients(broker.port, 2) as (listener, speaker):
        listener.subscribe("$aws/things/t1/streams/s1/data/cbor")
        for _ in range(count):
            speaker.paho.publish("$aws/things/t1/streams/s1/data/cbor", block)
        assert sum(len(payload) for _, payload in listener.wait_for(count)) == count * 131072


def test_accepted_sockets_do_not_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    brokers: list[Any] = []
    module = importlib.import_module("coreota.provider.broker")
    make = module.amqtt_broker

    def keeping(host: str, port: int) -> Any:
        brokers.append(make(host, port))
        return brokers[-1]

    monkeypatch.setattr(module, "amqtt_broker", keeping)
    with EmbeddedBroker() as broker, clients(broker.port, 2):
        sockets = [handler.writer._writer.get_extra_info("socket") for _, handler in brokers[0].sessions.values()]
        assert [one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for one in sockets] == [1, 1]


def test_stops_with_traffic_and_leaves_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    before = set(threading.enumerate())
    for _ in range(3):
        broker = EmbeddedBroker().start()
        with clients(broker.port, 2) as (listener, speaker):
            listener.subscribe("$aws/things/+/jobs/+/update", qos=1)
            speaker.paho.publish("$aws/things/t1/jobs/j1/update", bytes(2_000_000), qos=1)
            listener.wait_for(1)
            speaker.paho.publish("$aws/things/t1/jobs/j1/update", bytes(2_000_000), qos=1)
            start = time.monotonic()
            broker.stop()
            assert time.monotonic() - start < 4
    assert set(threading.enumerate()) == before
    assert capfd.readouterr() == ("", "")


def test_stop_with_a_connection_that_never_speaks() -> None:
    broker = EmbeddedBroker().start()
    with socket.create_connection(("127.0.0.1", broker.port)):
        start = time.monotonic()
        broker.stop()
        assert time.monotonic() - start < 4


def test_the_same_object_starts_again() -> None:
    broker = EmbeddedBroker()
    for _ in range(3):
        with broker, clients(broker.port, 1) as (one,):
            one.subscribe("x")
            one.paho.publish("x", b"1")
            assert one.wait_for(1) == [("x", b"1")]
    broker.stop()
    assert not broker.running


def test_start_twice() -> None:
    with EmbeddedBroker() as broker, pytest.raises(LocalOtaError, match="runs already"):
        broker.start()


def test_port_taken() -> None:
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LocalOtaError, match=rf"127\.0\.0\.1:{port}.*port 0 finds a free one") as caught:
            EmbeddedBroker(port).start()
    assert caught.value.reason == "broker-start"
    assert threading.active_count() == before


@pytest.mark.parametrize("port", [-1, 65536])
def test_port_out_of_range(port: int) -> None:
    with pytest.raises(LocalOtaError, match="out of range"):
        EmbeddedBroker(port)


def test_without_amqtt(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_here(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", none_here)
    with pytest.raises(LocalOtaError, match=r"pip install 'coreota\[provider\]'"):
        EmbeddedBroker().start()
