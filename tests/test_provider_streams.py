"""The provider's streams: which blocks, which codes, both codecs, the C library's bytes, and noise."""

import base64
import json
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreota.codec import Codec, DescribeStream, GetStream, StreamDescription, codec_named
from coreota.errors import LocalOtaError
from coreota.provider.streams import (
    BACKLOG,
    BATCH,
    MAX_FILE,
    STREAM_FILTERS,
    BytesContent,
    StreamRefusal,
    StreamsService,
    bits_set,
    wanted_blocks,
)
from coreota.topics import Message, Subscribe, topic_matches

ROOT = "$aws/things/lamp/streams/s/"
DATA = bytes(i % 251 for i in range(10_000))


class Counted:
    """A large file without memory that counts what is read."""

    def __init__(self, size: int) -> None:
        self.size, self.taken, self.longest = size, 0, 0

    def read(self, offset: int, length: int) -> bytes:
        assert offset >= 0
        assert offset + length <= self.size
        self.taken, self.longest = self.taken + length, max(self.longest, length)
        return bytes(length)


def get(**members: Any) -> GetStream:
    given: dict[str, Any] = {"file_id": 0, "block_size": 1024, "block_offset": 0, "count": 1, **members}
    return GetStream(**given)


def service() -> StreamsService:
    made = StreamsService()
    made.create_stream("s", {0: BytesContent(DATA), 7: BytesContent(b"seven")}, description="two files")
    return made


def raw(streams: StreamsService, topic: str, payload: bytes) -> list[Message]:
    streams.receive(Message(topic, payload), 5.0)
    out = streams.messages_to_send(5.0)
    messages = [one for one in out if isinstance(one, Message)]
    assert len(messages) == len(out)
    return messages


@pytest.fixture(params=["cbor", "json"])
def codec(request: pytest.FixtureRequest) -> Codec:
    return codec_named(request.param)


def test_filters() -> None:
    streams = service()
    streams.connected(0)
    assert streams.messages_to_send(0) == [Subscribe(one) for one in STREAM_FILTERS]
    for rest in ("get/cbor", "get/json", "describe/cbor"):
        assert sum(topic_matches(one, ROOT + rest) for one in STREAM_FILTERS) == 1
    for rest in ("data/cbor", "description/json", "rejected/cbor"):
        assert not any(topic_matches(one, ROOT + rest) for one in STREAM_FILTERS)


def test_whole_file(codec: Codec) -> None:
    streams = service()
    messages = raw(streams, f"{ROOT}get/{codec.name}", codec.encode_get(get(count=98304, token="t")))
    assert {message.topic for message in messages} == {f"{ROOT}data/{codec.name}"}
    blocks = [codec.decode_data(message.payload) for message in messages]
    assert [block.index for block in blocks] == list(range(10))
    assert {(block.file_id, block.token) for block in blocks} == {(0, "t")}
    assert b"".join(bytes(block.payload) for block in blocks) == DATA
    assert streams.get_timer() is None


def test_data_on_the_wire() -> None:
    streams = service()
    (message,) = raw(streams, ROOT + "get/json", b'{"f":7,"l":256,"o":0,"n":1}')
    assert json.loads(message.payload) == {"f": 7, "i": 0, "l": 5, "p": base64.b64encode(b"seven").decode()}
    (message,) = raw(streams, ROOT + "get/cbor", cbor2.dumps({"f": 7, "l": 256, "o": 0, "n": 1, "c": "tok"}))
    assert cbor2.loads(message.payload) == {"c": "tok", "f": 7, "l": 5, "i": 0, "p": b"seven"}


def test_bitmap(codec: Codec) -> None:
    bitmap = get(count=None, block_offset=1, bitmap=b"\x05\x01")
    messages = raw(service(), f"{ROOT}get/{codec.name}", codec.encode_get(bitmap))
    assert [codec.decode_data(message.payload).index for message in messages] == [1, 3, 9]
    assert bytes(codec.decode_data(messages[2].payload).payload) == DATA[9 * 1024 :]


def test_describe(codec: Codec) -> None:
    (message,) = raw(service(), f"{ROOT}describe/{codec.name}", codec.encode_describe(DescribeStream(token="d")))
    assert message.topic == f"{ROOT}description/{codec.name}"
    expected = StreamDescription(version=1, description="two files", files=((0, 10_000), (7, 5)), token="d")
    assert codec.decode_description(message.payload) == expected


def test_rejected_has_both_spellings() -> None:
    streams = service()
    (message,) = raw(streams, ROOT + "get/json", b'{"c":"tok","f":9,"l":256,"o":0,"n":1}')
    assert message.topic == ROOT + "rejected/json"
    body = json.loads(message.payload)
    assert body["o"] == body["code"] == "ResourceNotFound"
    assert body["c"] == body["clientToken"] == "tok"
    assert body["m"] == body["message"] != ""
    (message,) = raw(streams, ROOT + "get/cbor", cbor2.dumps({"f": 9, "l": 256, "o": 0, "n": 1}))
    body = cbor2.loads(message.payload)
    assert (body["o"], body["code"]) == ("ResourceNotFound", "ResourceNotFound")


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"f": 256}, "InvalidRequest"),
        ({"f": -1}, "InvalidRequest"),
        ({"f": 1}, "ResourceNotFound"),
        ({"l": 255}, "BlockSizeOutOfBounds"),
        ({"l": 131073}, "BlockSizeOutOfBounds"),
        ({"o": 98305}, "OffsetOutOfBounds"),
        ({"n": 98305}, "BlockCountLimitExceeded"),
        ({"n": None}, "InvalidRequest"),
        ({"n": 0}, "InvalidRequest"),
        ({"o": 10}, "InvalidRequest"),
        ({"o": 98304}, "InvalidRequest"),
        ({"s": 2}, "VersionMismatch"),
        ({"b": bytes(12288)}, "BlockBitmapLimitExceeded"),
        ({"b": b"\x00"}, "InvalidRequest"),
        ({"b": b"\x01\x04", "n": 9}, "InvalidRequest"),
    ],
)
def test_refused(codec: Codec, members: dict[str, Any], code: str) -> None:
    every = {"c": "t", "f": 0, "l": 1024, "o": 0, "n": 1} | members
    wire = {name: value for name, value in every.items() if value is not None}
    payload = json.dumps(wire, default=bytes.hex).encode() if codec.name == "json" else cbor2.dumps(wire)
    streams = service()
    (message,) = raw(streams, f"{ROOT}get/{codec.name}", payload)
    assert message.topic == f"{ROOT}rejected/{codec.name}"
    assert codec.decode_rejected(message.payload).code == code
    assert len(raw(streams, f"{ROOT}get/{codec.name}", codec.encode_get(get()))) == 1


@pytest.mark.parametrize(
    ("topic", "code"),
    [
        ("$aws/things/lamp/streams/none/get/", "ResourceNotFound"),
        ("$aws/things/lamp/streams/a.b/get/", "InvalidTopic"),
        ("$aws/things/lamp/streams/" + "x" * 129 + "/get/", "InvalidTopic"),
    ],
)
def test_refused_stream(codec: Codec, topic: str, code: str) -> None:
    (message,) = raw(service(), topic + codec.name, codec.encode_get(get(token="t")))
    rejected = codec.decode_rejected(message.payload)
    assert (rejected.code, rejected.token) == (code, "t")


def test_only_its_things_read_a_stream(codec: Codec) -> None:
    streams = StreamsService()
    streams.create_stream("s", {0: BytesContent(DATA)}, things=["lamp"])
    (good,) = raw(streams, f"{ROOT}get/{codec.name}", codec.encode_get(get()))
    assert good.topic == f"{ROOT}data/{codec.name}"
    for api, payload in (("get", codec.encode_get(get())), ("describe", codec.encode_describe(DescribeStream()))):
        (bad,) = raw(streams, f"$aws/things/door/streams/s/{api}/{codec.name}", payload)
        assert codec.decode_rejected(bad.payload).code == "Unauthorized"


@pytest.mark.parametrize(
    ("name", "payload", "index"),
    [
        ("json", b'{"s": 1,"f": 0,"l": 4096,"o": 2,"n": 1}', 2),
        ("json", b'{"s":"1","f":"0","l":"4096","o":"2","n":"1"}', 2),
        ("cbor", bytes.fromhex("a6616363726479616600616c191000616f026162444d513d3d616e01"), 2),
        ("cbor", bytes.fromhex("bf616363726479616600616c191000616f026162444d513d3d616e01ff"), 2),
        (
            "cbor",
            bytes.fromhex("a661637254686973497341436c69656e74546f6b656e616600616c191000616f00616244aaaaaaaa616e01"),
            1,
        ),
    ],
)
def test_requests_of_the_c_libraries(name: str, payload: bytes, index: int) -> None:
    (message,) = raw(service(), f"{ROOT}get/{name}", payload)
    assert codec_named(name).decode_data(message.payload).index == index


def test_rubbish_is_answered(codec: Codec) -> None:
    streams, good = service(), codec.encode_get(get())
    worse = [b"[" * 99_999, b"\x9f" * 99_999, b"\xbb" + b"\xff" * 8, good + b"\0", b"\xff"]
    for payload in [good[:cut] for cut in range(len(good))] + worse:
        (message,) = raw(streams, f"{ROOT}get/{codec.name}", payload)
        assert codec.decode_rejected(message.payload).code == f"Invalid{codec.name.capitalize()}", payload[:20]


@pytest.mark.parametrize(
    "members",
    [
        {"l": 256, "o": 0, "n": 1},
        {"f": 0, "o": 0, "n": 1},
        {"f": 0, "l": "big", "o": 0, "n": 1},
        {"f": 0, "l": 256, "o": 0.5, "n": 1},
        {"f": 0, "l": 256, "o": 0, "n": True},
        {"f": 0, "l": 256, "o": 0, "b": 7},
        {"f": 0, "l": 256, "o": 0, "n": 1, "c": "x" * 65},
        {},
    ],
)
def test_readable_but_senseless(codec: Codec, members: dict[str, Any]) -> None:
    payload = json.dumps(members).encode() if codec.name == "json" else cbor2.dumps(members)
    (message,) = raw(service(), f"{ROOT}get/{codec.name}", payload)
    assert codec.decode_rejected(message.payload).code == "InvalidRequest"


@given(st.sampled_from(["get", "describe"]), st.sampled_from(["cbor", "json"]), st.binary(max_size=80))
def test_noise_never_raises(api: str, name: str, payload: bytes) -> None:
    for message in raw(service(), f"{ROOT}{api}/{name}", payload):
        assert message.topic.startswith(ROOT)


@given(st.text(max_size=40))
def test_any_topic_is_survived(rest: str) -> None:
    streams = service()
    raw(streams, ROOT + rest, b"")
    raw(streams, rest, b"")


NO_REQUESTS = ("data/cbor", "get/xml", "get", "get/cbor/")
NO_THINGS = ("$aws/things//streams/s/get/cbor", "$aws/things/a b/streams/s/get/cbor")


@pytest.mark.parametrize("topic", ["", "weather", *(ROOT + rest for rest in NO_REQUESTS), *NO_THINGS])
def test_no_request_is_ignored(topic: str) -> None:
    streams = service()
    assert raw(streams, topic, b"{}") == []
    assert streams.ignored == 1


@given(
    st.integers(1, 300_000), st.integers(256, 131072), st.integers(0, 400), st.none() | st.integers(0, 500),
    st.none() | st.binary(max_size=30),
)  # fmt: skip
def test_wanted_blocks_keep_the_rules(
    size: int, block_size: int, offset: int, count: int | None, bitmap: bytes | None
) -> None:
    request = get(block_size=block_size, block_offset=offset, count=count, bitmap=bitmap)
    try:
        blocks = wanted_blocks(request, size)
    except StreamRefusal as refusal:
        assert refusal.code == "InvalidRequest"
        return
    assert 1 <= len(blocks) <= max(1, 131072 // block_size)
    assert blocks == sorted(set(blocks))
    assert all(0 <= block * block_size < size for block in blocks)
    if count is not None:
        assert len(blocks) <= count
    if bitmap is not None:
        assert {block - offset for block in blocks} <= set(bits_set(bitmap))
    else:
        assert blocks[0] == offset


def test_the_guide_s_bitmap() -> None:
    request = get(count=None, block_offset=20, bitmap=bytes.fromhex("130080"))
    assert wanted_blocks(request, 44 * 1024) == [20, 21, 24, 43]
    with pytest.raises(StreamRefusal, match="out of the range of data available"):
        wanted_blocks(request, 43 * 1024)


def test_128_kib_rule_is_silent(codec: Codec) -> None:
    large = Counted(20_000_000)
    streams = StreamsService()
    streams.create_stream("s", {0: large})
    messages = raw(streams, f"{ROOT}get/{codec.name}", codec.encode_get(get(block_size=60_000, count=100)))
    assert [len(codec.decode_data(message.payload).payload) for message in messages] == [60_000, 60_000]
    assert (large.taken, large.longest) == (120_000, 60_000)


def test_a_crowd_costs_no_memory() -> None:
    large, cbor = Counted(20_000_000), codec_named("cbor")
    streams = StreamsService()
    streams.create_stream("s", {0: large})
    request = cbor.encode_get(get(block_size=4096, count=32))
    for thing in range(BACKLOG + 5):
        streams.receive(Message(f"$aws/things/t{thing}/streams/s/get/cbor", request), 9.0)
    assert (large.taken, streams.dropped) == (0, 5)
    assert streams.get_timer() == 9.0
    rounds = 0
    while streams.get_timer() is not None:
        before = large.taken
        streams.handle_timer(10.0)
        streams.messages_to_send(10.0)
        assert 0 <= large.taken - before <= BATCH
        rounds += 1
    assert large.taken == BACKLOG * 131072
    assert rounds <= BACKLOG * 131072 // BATCH + 1


class Bad:
    """A file that cannot be read, or not as it was, from some place on."""

    size = 4096

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def read(self, offset: int, length: int) -> bytes:
        if offset < 1024:
            return bytes(length)
        if self.error is not None:
            raise self.error
        return b"short"


@pytest.mark.parametrize(
    ("error", "code"),
    [(OSError("disk"), "InternalError"), (ValueError("closed"), "InternalError"), (None, "ETagMismatch")],
)
def test_content_that_fails(codec: Codec, error: Exception | None, code: str) -> None:
    streams = StreamsService()
    streams.create_stream("s", {0: Bad(error), 1: BytesContent(DATA)})
    streams.receive(Message(f"{ROOT}get/{codec.name}", codec.encode_get(get(count=4, token="t"))), 0)
    streams.receive(Message(f"{ROOT}get/{codec.name}", codec.encode_get(get(file_id=1))), 0)
    messages = [one for one in streams.messages_to_send(0) if isinstance(one, Message)]
    assert [one.topic.split("/")[-2] for one in messages] == ["data", "data", "rejected"]
    assert [codec.decode_data(one.payload).file_id for one in messages[:2]] == [0, 1]
    rejected = codec.decode_rejected(messages[2].payload)
    assert (rejected.code, rejected.token) == (code, "t")


def test_create_and_delete_refuse() -> None:
    streams = service()
    bad: list[tuple[str, dict[int, Any], str]] = [
        ("s", {0: BytesContent(b"x")}, "already"),
        ("a.b", {0: BytesContent(b"x")}, "stream id"),
        ("t", {}, "no files"),
        ("t", {256: BytesContent(b"x")}, "file id 256"),
        ("t", {0: BytesContent(b"")}, "0 bytes"),
        ("t", {0: Counted(MAX_FILE + 1)}, "25165825 bytes"),
    ]
    for stream_id, files, message in bad:
        with pytest.raises(LocalOtaError, match=message):
            streams.create_stream(stream_id, files)
    assert streams.create_stream("t", {255: Counted(MAX_FILE)}).version == 1
    streams.delete_stream("t")
    with pytest.raises(LocalOtaError, match="no stream t"):
        streams.delete_stream("t")


def test_disconnected_forgets_answers() -> None:
    streams, cbor = service(), codec_named("cbor")
    streams.receive(Message(ROOT + "get/cbor", cbor.encode_get(get())), 0)
    streams.receive(Message(ROOT + "describe/cbor", cbor.encode_describe(DescribeStream())), 0)
    streams.disconnected(0)
    assert streams.messages_to_send(0) == []
    assert streams.get_timer() is None
