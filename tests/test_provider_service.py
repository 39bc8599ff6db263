"""The whole provider in one process: what ends, what is tried again, and what is left when it cannot start."""

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from brokers import free_port
from desk import ANY
from hypothesis import given
from hypothesis import strategies as st

from coreota.cli import main
from coreota.codec import GetStream, codec_named
from coreota.errors import LocalOtaError
from coreota.mqtt import PahoTransport
from coreota.provider.books import Books
from coreota.provider.losses import LosingStreams
from coreota.provider.ota import UpdateProvider
from coreota.provider.service import ProviderOptions, ProviderServer, Worker
from coreota.provider.sqlstore import SqlStore
from coreota.provider.streams import BytesContent
from coreota.provider.trace import LONGEST, told_payload, told_topic
from coreota.topics import Message, Outgoing, Subscribe
from coreota.transport import Connected, Incoming


def until(so: Callable[[], object], patience: float = 20.0) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + patience
    while not so():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


class Failing(SqlStore):
    """A database that is away now and then."""

    away = False

    def run(self, work: Callable[[Books], Any]) -> Any:
        if self.away:
            raise LocalOtaError("the store failed (gone)", reason="store")
        return super().run(work)

    def read(self, work: Callable[[Books], Any]) -> Any:
        if self.away:
            raise LocalOtaError("the store failed (gone)", reason="store")
        return super().read(work)


def test_a_database_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP says 503, MQTT says InternalError, the problem is told, and both go on when it is back."""
    monkeypatch.setattr("coreota.provider.service.SqlStore", Failing)
    problems: list[str] = []
    server = ProviderServer(ProviderOptions(tmp_path / "state", mqtt_port=0, api_port=0))
    server.on_problem = problems.append
    with server:
        config = Config(retries={"total_max_attempts": 1})
        iot: Any = boto3.client("iot", endpoint_url=server.api.url, config=config, **ANY)
        device, heard = PahoTransport(*server.mqtt, client_id="lamp"), list[str]()

        def listen() -> bool:
            found = device.receive(0.1)
            heard.extend(item.topic.rpartition("/")[2] for item in found if isinstance(item, Message))
            return bool(found)

        device.send([Subscribe("$aws/things/lamp/jobs/get/+"), Message("$aws/things/lamp/jobs/get", b"{}")])
        until(lambda: listen() and heard)
        assert isinstance(server.store, Failing)
        server.store.away = True
        with pytest.raises(ClientError) as caught:
            iot.create_thing(thingName="lamp")
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
        device.send([Message("$aws/things/lamp/jobs/get", b"{}")])
        until(lambda: listen() and len(heard) > 1)
        until(lambda: problems)
        server.store.away = False
        assert iot.create_thing(thingName="lamp")["thingName"] == "lamp"
        device.send([Message("$aws/things/lamp/jobs/get", b"{}")])
        until(lambda: listen() and len(heard) > 2)
        device.close()
        assert (heard, set(problems), server.error) == (
            ["accepted", "rejected", "accepted"],
            {"the store failed (gone)"},
            None,
        )


def test_blocks_that_are_lost_on_purpose(tmp_path: Path) -> None:
    """Each block comes or is counted as lost; who asks again for what is missing has all of them in the end."""
    with ProviderServer(ProviderOptions(tmp_path / "state", mqtt_port=0, api_port=0, lose=30)) as server:
        streams, cbor, missing, rounds = server.provider.streams, codec_named("cbor"), set(range(100)), list[int]()
        assert isinstance(streams, LosingStreams)
        streams.create_stream("s", {0: BytesContent(bytes(100 * 256))})
        device = PahoTransport(*server.mqtt, client_id="lamp")
        device.send([Subscribe("$aws/things/lamp/streams/s/data/cbor")])
        while missing:
            bitmap = sum(1 << index for index in missing).to_bytes(13, "little")
            asked, lost, came = len(missing), streams.lost, set[int]()
            request = cbor.encode_get(GetStream(0, 256, 0, count=asked, bitmap=bitmap))
            device.send([Message("$aws/things/lamp/streams/s/get/cbor", request)])

            def all_told(asked: int = asked, lost: int = lost, came: set[int] = came) -> bool:
                found = [item for item in device.receive(0.1) if isinstance(item, Message)]
                came.update(cbor.decode_data(item.payload).index for item in found)
                return len(came) + streams.lost - lost == asked

            until(all_told)
            assert came <= missing
            missing -= came
            rounds.append(asked)
        device.close()
        assert (rounds, streams.lost) == ([100, 27, 9, 6, 1], 43)


def test_a_trace_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr("coreota.providertool.serve", lambda options, show, stop, trace: asked.append(trace))
    assert (main(["provider", "--trace"]), main(["provider"]), asked) == (0, 0, [True, False])


@given(
    st.sampled_from(["cbor", "json", "xml"]),
    st.sampled_from(["get", "data", "describe", "description", "rejected", "x"]),
    st.text(max_size=20),
    st.binary(max_size=400) | st.text(max_size=400).map(str.encode),
)
def test_a_trace_takes_everything(codec: str, kind: str, name: str, payload: bytes) -> None:
    """One line of a bounded length, of characters that a terminal only shows."""
    for topic in (f"$aws/things/{name}/streams/s/{kind}/{codec}", f"$aws/things/{name}/jobs/get", name):
        message = Message(topic, payload)
        assert told_topic(message).isprintable() and told_payload(message).isprintable()
        assert len(told_payload(message)) <= LONGEST + len("... (1600 bytes)")


def names() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_nothing_is_left_of_what_cannot_start(tmp_path: Path) -> None:
    """The last of five parts fails; the four others are ended, and the ports are free again."""
    before, mqtt = names(), free_port()
    with ProviderServer(ProviderOptions(tmp_path / "a", mqtt_port=0, api_port=0)) as first:
        during = names()
        options = ProviderOptions(tmp_path / "b", mqtt_port=mqtt, api_port=first.api.port, web_port=0)
        with pytest.raises(LocalOtaError, match="nobody can listen"):
            ProviderServer(options).start()
        assert names() == during
    with ProviderServer(ProviderOptions(tmp_path / "b", mqtt_port=mqtt, api_port=0)) as second:
        assert second.mqtt[1] == mqtt
    assert names() == before


class Quiet(PahoTransport):
    """A transport without a network, for a worker."""

    def __init__(self, takes: bool, error: Exception | None = None) -> None:
        self.takes, self.error, self.sent, self.closed = takes, error, list[Outgoing](), False
        self._inbox_once: list[Incoming] = [Connected()]

    @property
    def subscribed(self) -> bool:
        return self.takes and bool(self.sent)

    def send(self, outgoing: Iterable[Outgoing]) -> None:
        self.sent.extend(outgoing)

    def receive(self, timeout: float | None) -> list[Incoming]:
        if self.error is not None and self.sent:
            raise self.error
        time.sleep(0.001)
        found, self._inbox_once = self._inbox_once, []
        return found

    def close(self) -> None:
        self.closed = True


def worker(transport: Quiet) -> Worker:
    return Worker(UpdateProvider(), transport, lambda event: None, lambda reason: None)


def test_a_worker_begins_and_ends() -> None:
    """Ready when the subscriptions are taken; six filters, and the link is closed at the end."""
    transport = Quiet(takes=True)
    one = worker(transport)
    one.start()
    assert all(isinstance(item, Subscribe) for item in transport.sent) and len(transport.sent) == 6
    one.stop()
    assert transport.closed and one.error is None


def test_a_broker_that_takes_nothing() -> None:
    """Not ready in time: said, and ended."""
    transport = Quiet(takes=False)
    with pytest.raises(LocalOtaError, match="did not take the subscriptions"):
        worker(transport).start(patience=0.2)
    assert transport.closed


def test_a_broker_that_refuses() -> None:
    """The reason comes out of start, or is kept for who asks later."""
    refusal = LocalOtaError("the broker refuses the subscription", reason="subscription-refused")
    transport = Quiet(takes=False, error=refusal)
    with pytest.raises(LocalOtaError, match="refuses the subscription"):
        worker(transport).start()
    later = Quiet(takes=True)
    one = worker(later)
    one.start()
    later.error = refusal
    until(lambda: one.error is not None)
    assert (one.error, later.closed) == (refusal, True)
