"""ministack, another emulator of AWS IoT, as an oracle for Jobs over MQTT: to the same requests the same answers."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import boto3
import paho.mqtt.client as mqtt
import pytest
from brokers import free_port
from paho.mqtt.enums import CallbackAPIVersion

from coreota.provider.service import ProviderOptions, ProviderServer

THING = "oracle-1"
PREFIX = f"$aws/things/{THING}/jobs/"


class Place:
    """One of the two: its control API, and a device's connection."""

    def __init__(self, api: str, client: mqtt.Client, port: int) -> None:
        login = {"region_name": "us-east-1", "aws_access_key_id": "test", "aws_secret_access_key": "test"}
        self.iot = boto3.client("iot", endpoint_url=api, **login)
        self.client, self.got, self.changed = client, list[tuple[str, Any]](), threading.Condition()
        ready = threading.Event()
        client.on_connect = self._connected
        client.on_subscribe = lambda *_: ready.set()
        client.on_message = self._take
        client.connect("127.0.0.1", port)
        client.loop_start()
        assert ready.wait(20)

    def _connected(self, *_: Any) -> None:
        self.client.subscribe(f"{PREFIX}#", 1)

    def _take(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        topic = message.topic.removeprefix(PREFIX)
        if not re.fullmatch(r"get|start-next|[^/]+/(get|update)", topic):  # our own request comes back
            with self.changed:
                self.got.append((topic, json.loads(message.payload)))
                self.changed.notify_all()

    def ask(self, topic: str, payload: bytes) -> list[tuple[str, Any]]:
        """What comes of a request: its reply, and what follows."""
        self.client.publish(PREFIX + topic, payload, qos=1)
        with self.changed:
            replied = self.changed.wait_for(lambda: any(one.startswith(f"{topic}/") for one, _ in self.got), 5)
        return self.settle() if replied else [("no reply", None), *self.settle()]

    def _more_than(self, seen: int) -> bool:
        return len(self.got) > seen

    def settle(self) -> list[tuple[str, Any]]:
        """All that has come, once it is quiet."""
        while True:
            with self.changed:
                if not self.changed.wait_for(partial(self._more_than, len(self.got)), 0.3):
                    got, self.got = self.got, []
                    return [comparable(one) for one in got]


def comparable(message: tuple[str, Any]) -> tuple[str, Any]:
    """Without times, and without the words of errors."""

    def strip(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: strip(one, key) for key, one in value.items()}
        if isinstance(value, list):
            return [strip(one) for one in value]
        if name in ("timestamp", "queuedAt", "startedAt", "lastUpdatedAt"):
            return "seconds" if isinstance(value, int) and value < 1 << 33 else f"no seconds: {value}"
        return "words" if name == "message" else value

    return message[0], strip(message[1])


@contextmanager
def ministack(folder: Path) -> Iterator[int]:
    """The emulator on a loopback port; its TLS listener, which would listen on all addresses, stays off."""
    port = free_port()
    loopback = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "IOT_MTLS_ENABLED": "0", "SFTP_ENABLED": "0"}
    env = {**os.environ, **loopback, "HOME": str(folder)}
    with open(folder / "ministack.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen([sys.executable, "-m", "ministack"], stdout=log, stderr=log, env=env, cwd=folder)
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None and time.monotonic() < deadline, (folder / "ministack.log").read_text()
            try:
                urlopen(f"http://127.0.0.1:{port}/_ministack/health", timeout=2).close()
                break
            except (URLError, OSError):
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, Place]]:
    """Ours, and the other one."""
    folder = tmp_path_factory.mktemp("oracle")
    with ministack(folder) as port, ProviderServer(ProviderOptions(folder / "state", mqtt_port=0, api_port=0)) as ours:
        theirs = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=THING, transport="websockets")
        theirs.ws_set_options("/mqtt", {"Host": f"any-ats.iot.us-east-1.localhost:{port}"})
        places = (
            Place(ours.api.url, mqtt.Client(CallbackAPIVersion.VERSION2, client_id=THING), ours.mqtt[1]),
            Place(f"http://127.0.0.1:{port}", theirs, port),
        )
        try:
            yield places
        finally:
            for place in places:
                place.client.disconnect()
                place.client.loop_stop()


Step = Callable[[Place], list[tuple[str, Any]]]
ARN = f"arn:aws:iot:us-east-1:000000000000:thing/{THING}"


def create(job_id: str, **more: Any) -> Step:
    def step(place: Place) -> list[tuple[str, Any]]:
        place.iot.create_job(jobId=job_id, targets=[ARN], document=json.dumps({"of": job_id, "nothing": None}), **more)
        return place.settle()

    return step


def cancel(job_id: str, force: bool = False) -> Step:
    def step(place: Place) -> list[tuple[str, Any]]:
        place.iot.cancel_job(jobId=job_id, force=force)
        return place.settle()

    return step


def delete(job_id: str, force: bool = False) -> Step:
    def step(place: Place) -> list[tuple[str, Any]]:
        place.iot.delete_job(jobId=job_id, force=force)
        return place.settle()

    return step


def ask(topic: str, **request: Any) -> Step:
    return lambda place: place.ask(topic, json.dumps(request).encode())


def raw(topic: str, payload: bytes) -> Step:
    return lambda place: place.ask(topic, payload)


def thing(place: Place) -> list[tuple[str, Any]]:
    place.iot.create_thing(thingName=THING)
    return place.settle()


SCRIPT: dict[str, Step] = {
    "create thing": thing,
    "get, nothing there": ask("get", clientToken="t1"),
    "start-next, nothing there": ask("start-next", clientToken="t2"),
    "describe $next, nothing there": ask("$next/get", clientToken="t3"),
    "describe unknown": ask("nope/get", clientToken="t4"),
    "update unknown": ask("nope/update", status="IN_PROGRESS", clientToken="t5"),
    "create a": create("a"),
    "create b": create("b"),
    "get": ask("get", clientToken="t6"),
    "describe $next": ask("$next/get", clientToken="t7"),
    "describe b": ask("b/get", clientToken="t8"),
    "describe b without document": ask("b/get", includeJobDocument=False),
    "describe b, attempt 1": ask("b/get", executionNumber=1),
    "describe b, attempt 9": ask("b/get", executionNumber=9),
    "start-next a": ask("start-next", statusDetails={"step": "one"}, clientToken="t9"),
    "start-next again": ask("start-next", clientToken="t10"),
    "update a": ask("a/update", status="IN_PROGRESS", statusDetails={"step": "two"}, clientToken="t11"),
    "update a, with state": ask("a/update", status="IN_PROGRESS", includeJobExecutionState=True),
    "update a, with document": ask("a/update", status="IN_PROGRESS", includeJobDocument=True),
    "update a, right version": ask("a/update", status="IN_PROGRESS", expectedVersion=5, clientToken="t12"),
    "update a, wrong version": ask("a/update", status="IN_PROGRESS", expectedVersion=1, clientToken="t13"),
    "update a, version as text": ask("a/update", status="IN_PROGRESS", expectedVersion="6"),
    "update a to QUEUED": ask("a/update", status="QUEUED"),
    "update a to CANCELED": ask("a/update", status="CANCELED"),
    "update a to TIMED_OUT": ask("a/update", status="TIMED_OUT"),
    "update a to nonsense": ask("a/update", status="NONSENSE"),
    "update a without status": ask("a/update"),
    "no JSON": raw("a/update", b"{nonsense"),
    "a list": raw("a/update", b"[]"),
    "empty payload": raw("get", b""),
    "step timer": ask("a/update", status="IN_PROGRESS", stepTimeoutInMinutes=10),
    "a succeeds": ask("a/update", status="SUCCEEDED", clientToken="t14"),
    "a again": ask("a/update", status="SUCCEEDED", clientToken="t15"),
    "a from the end": ask("a/update", status="IN_PROGRESS"),
    "describe a at its end": ask("a/get", clientToken="t16"),
    "b fails at once": ask("b/update", status="FAILED", statusDetails={"reason": "none"}),
    "get, empty again": ask("get"),
    "create c": create("c"),
    "cancel c": cancel("c"),
    "describe c": ask("c/get"),
    "create d": create("d"),
    "start d": ask("start-next"),
    "cancel d by force": cancel("d", force=True),
    "update d": ask("d/update", status="SUCCEEDED"),
    "create e": create("e"),
    "reject e": ask("e/update", status="REJECTED"),
    "create f": create("f"),
    "delete f by force": delete("f", force=True),
    "describe f": ask("f/get"),
    "long token": ask("get", clientToken="x" * 65),
    "create g": create("g"),
    "step timer too long": ask("g/update", status="IN_PROGRESS", stepTimeoutInMinutes=10081),
    "bad details": ask("g/update", status="IN_PROGRESS", statusDetails={"a key": "v"}),
}
DIFFERENCES = {
    "update d": "an executionState without details: ours says {}, theirs says nothing; AWS's model allows both",
    "long token": "AWS takes tokens of at most 64 bytes; theirs does not count them",
    "step timer too long": "AWS takes at most 10080 minutes; theirs does not look",
    "bad details": "AWS takes keys of [a-zA-Z0-9:_-]+; theirs takes any",
}
Answers = dict[str, list[tuple[str, Any]]]


@pytest.fixture(scope="module")
def answers(both: tuple[Place, Place]) -> tuple[Answers, Answers]:
    """The script, at both places at the same time."""
    with ThreadPoolExecutor(2) as pool:
        ours, theirs = pool.map(lambda place: {name: step(place) for name, step in SCRIPT.items()}, both)
    return ours, theirs


@pytest.mark.parametrize("name", SCRIPT)
def test_the_same_answer(answers: tuple[Answers, Answers], name: str) -> None:
    """But for times and words, or else there is a reason."""
    ours, theirs = (one[name] for one in answers)
    if name in DIFFERENCES:
        assert ours != theirs, "they agree now: strike the difference out"
    else:
        assert ours == theirs
