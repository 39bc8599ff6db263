"""Names, topics, matching, and the one function that reads JSON of a peer."""

import json
import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreota.check import failure
from coreota.errors import LocalOtaError, RemoteOtaError
from coreota.topics import (
    Endpoint,
    Message,
    Outgoing,
    Subscribe,
    Unsubscribe,
    check_job_id,
    check_stream_id,
    check_thing_name,
    json_object,
    thing_topic,
    topic_matches,
)

settings.register_profile("coreota", derandomize=True, deadline=None)
settings.load_profile("coreota")

NAME = r"[A-Za-z0-9_-]{1,64}"
LEVELS = st.lists(st.sampled_from(["a", "b", "", "$aws", "+", "#", "x.y"]), min_size=1, max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def test_message_is_a_value() -> None:
    message = Message("t", b"abc")
    assert message == Message("t", memoryview(b"abc")) == Message("t", bytearray(b"abc"))
    assert hash(message) == hash(Message("t", b"abc"))
    assert Message("t").payload == b""
    assert isinstance(failure(lambda: setattr(message, "topic", "u")), AttributeError)


def test_message_keeps_its_own_bytes() -> None:
    buffer = bytearray(b"abc")
    message = Message("t", buffer)
    buffer[0] = 0
    assert message.payload == b"abc"
    assert type(message.payload) is bytes


def test_long_payload_is_shown_short() -> None:
    assert repr(Message("t", b"a" * 200)) == f"Message('t', {b'a' * 200!r})"
    assert repr(Message("t", b"a" * 201)) == f"Message('t', {b'a' * 16!r}... 201 bytes)"


def test_outgoing_is_one_of_three() -> None:
    assert all(isinstance(item, Outgoing) for item in (Message("t"), Subscribe("t"), Unsubscribe("t")))
    assert not isinstance("t", Outgoing)


def test_endpoint_is_structural() -> None:
    assert not isinstance(object(), Endpoint)


@pytest.mark.parametrize(
    ("check", "longest", "colon"),
    [(check_thing_name, 128, True), (check_job_id, 64, False), (check_stream_id, 128, False)],
)
def test_names(check: Any, longest: int, colon: bool) -> None:
    for good in ("a", "Z9_-", "x" * longest, *(["a:b"] if colon else [])):
        assert check(good) == good
    bad = ["", "x" * (longest + 1), "a/b", "a+b", "a#b", "a b", "a$b", "a.b", "é", "٣", "a\n", "\na", "a\0"]
    for name in [*bad, *([] if colon else ["a:b"]), None, 5, b"a"]:
        error = failure(lambda name=name: check(name))  # type: ignore[misc]
        assert type(error) is LocalOtaError, name
        assert error.reason in ("thing-name-invalid", "job-id-invalid", "stream-id-invalid")


def test_thing_topic() -> None:
    assert thing_topic("pump-7", "jobs", "get") == "$aws/things/pump-7/jobs/get"
    assert type(failure(lambda: thing_topic("a/b"))) is LocalOtaError


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [  # the examples of MQTT 3.1.1, sections 4.7.1 and 4.7.2
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/#", "sport", True),
        ("sport/tennis/+", "sport/tennis/player1", True),
        ("sport/tennis/+", "sport/tennis/player1/ranking", False),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("#", "$SYS/x", False),
        ("+/monitor/Clients", "$SYS/monitor/Clients", False),
        ("$SYS/#", "$SYS/", True),
        ("$SYS/monitor/+", "$SYS/monitor/Clients", True),
        ("#", "a/b", True),
        ("a/b", "a/B", False),
        ("ACCOUNTS", "Accounts", False),
    ],
)
def test_matching(topic_filter: str, topic: str, expected: bool) -> None:
    assert topic_matches(topic_filter, topic) is expected


def by_regular_expression(topic_filter: str, topic: str) -> bool:
    """The rules once more, said in another way."""
    if topic.startswith("$") and topic_filter.startswith(("+", "#")):
        return False
    *levels, last = topic_filter.split("/")
    if last != "#":
        levels.append(last)
    pattern = "/".join("[^/]*" if level == "+" else re.escape(level) for level in levels)
    if last == "#":
        pattern = rf"{pattern}(/.*)?" if levels else ".*"
    return re.fullmatch(pattern, topic) is not None


@given(LEVELS, LEVELS)
def test_matching_agrees_with_a_regular_expression(wanted: list[str], levels: list[str]) -> None:
    topic = "/".join(level.replace("+", "p").replace("#", "h") for level in levels)
    assert topic_matches("/".join(wanted), topic) is by_regular_expression("/".join(wanted), topic)


@given(LEVELS)
def test_a_topic_matches_itself(levels: list[str]) -> None:
    topic = "/".join(level.strip("+#") for level in levels)
    assert topic_matches(topic, topic)


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"null", b"1", b'"x"', b"[]", b"{", b"{}{}", b'{"a":1} junk', b"{'a':1}", b"\xff", b"\xef\xbb\xbf{}",
        b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b'{"a":1e999}', b'{"a":1,"a":1}', b'{"b":{"a":1,"a":2}}',
        b'{"a":"\\ud800"}',
        b'{"\\udfff":1}', b"[" * 200_000, b'{"a":' * 200_000, b'{"a":' + b"9" * 5000 + b"}", b'{"a":"\n"}',
    ],
)  # fmt: skip
def test_json_that_is_refused(payload: bytes) -> None:
    error = failure(lambda: json_object(payload))
    assert type(error) is RemoteOtaError
    assert error.reason == "json-invalid"
    assert len(str(error)) < 300


def test_json_that_is_taken() -> None:
    assert json_object(b' {"a": {"a": [1, 2.5, "\\u00e9", null, true]}} ') == {"a": {"a": [1, 2.5, "é", None, True]}}
    assert json_object(b'{"a": "\\ud83d\\ude00"}') == {"a": "😀"}


@given(st.binary())
def test_json_of_anything_raises_remote_only(payload: bytes) -> None:
    error = failure(lambda: json_object(payload))
    assert error is None or type(error) is RemoteOtaError


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_json_round_trip(value: dict[str, Any]) -> None:
    try:
        payload = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        payload = json.dumps(value).encode()
        assert type(failure(lambda: json_object(payload))) is RemoteOtaError
        return
    assert json_object(payload) == value
    assert json_object(json.dumps(value).encode()) == value


def test_numbers_are_finite() -> None:
    assert json_object(b'{"a": 1.7976931348623157e308}') == {"a": 1.7976931348623157e308}
    assert math.isfinite(json_object(b'{"a": -0.0}')["a"])
