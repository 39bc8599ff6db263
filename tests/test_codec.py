"""Stream messages: the C library's answers, round trips, and bytes that mean harm."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coreota.codec import (
    CborCodec,
    Codec,
    DataBlock,
    DescribeStream,
    GetStream,
    JsonCodec,
    StreamDescription,
    StreamRejected,
    StreamTopics,
    _Codec,
    _usual_cbor_block,
    _usual_json_block,
    base64_decode,
    codec_named,
    create_get_data_block_request,
    is_data_block_received,
    process_received_data_block,
)
from coreota.errors import LocalOtaError, RemoteOtaError

CASES = [json.loads(line) for line in (Path(__file__).parent / "data/reference_cases.jsonl").read_text().splitlines()]
CODECS: tuple[Codec, ...] = (CborCodec(), JsonCodec())


def of(call: str) -> list[Any]:
    found = [pytest.param(case, id=f"{i}-{case['kind']}") for i, case in enumerate(CASES) if case["call"] == call]
    assert found
    return found


def raw(text: str) -> bytes:
    return bytes.fromhex(text[4:]) if text.startswith("hex:") else text.encode()


# The answers of the C library


@pytest.mark.parametrize("case", of("stream-topics"))
def test_reference_topics(case: dict[str, Any]) -> None:
    codec, stream, thing = ("" if text == "@null" else text for text in case["args"])
    if case["out"]["status"] == "MQTTFileDownloaderSuccess" and case["kind"] == "must":
        topics = StreamTopics(thing, stream, codec)
        assert (topics.data, topics.get) == (case["out"]["data"], case["out"]["get"])
    elif case["kind"] == "must":
        with pytest.raises(LocalOtaError):
            StreamTopics(thing, stream, codec)
    else:  # beyond 44 characters the C library overflows its stack: ours does right
        assert StreamTopics(thing, stream, codec).data == f"$aws/things/{thing}/streams/{stream}/data/{codec}"


@pytest.mark.parametrize("case", of("is-data-block"))
def test_reference_is_data_block(case: dict[str, Any]) -> None:
    codec, stream, thing, topic = case["args"]
    assert case["kind"] == "must"
    answer = is_data_block_received(StreamTopics(thing, stream, codec), topic)
    assert answer == (case["out"]["status"] == "MQTTFileDownloaderSuccess")


@pytest.mark.parametrize("case", of("get-stream"))
def test_reference_get_stream(case: dict[str, Any]) -> None:
    codec, *numbers = case["args"]
    file_id, block_size, offset, count = map(int, numbers[:4])
    out = bytes.fromhex(case["out"]["hex"])
    if file_id > 255:  # the C library cuts it to eight bits
        assert case["kind"] == "bug"
        with pytest.raises(LocalOtaError):
            create_get_data_block_request(codec, file_id, block_size, offset, count)
        return
    ours = create_get_data_block_request(codec, file_id, block_size, offset, count)
    if len(numbers) == 5:  # a C buffer that is too small: Python has no such thing
        assert out == b""
    elif case["kind"] == "bug":
        assert ours != out
        request = codec_named(codec).decode_get(ours)
        assert (request.file_id, request.block_size, request.block_offset) == (file_id, block_size, offset)
        assert request.count == count
        assert request.bitmap == (b"MQ==" if count == 1 and codec == "cbor" else None)
    else:  # must, and the quirk of the fixed bitmap, which does no harm where count is 1
        assert ours == out
        assert case["kind"] == "must" or count == 1


@pytest.mark.parametrize("case", of("get-stream-raw"))
def test_reference_get_stream_raw(case: dict[str, Any]) -> None:
    token, file_id, block_size, offset, bitmap, count, *buffer = case["args"]
    if buffer:  # a C buffer that is too small
        assert case["out"]["ok"] is False
        return
    request = GetStream(int(file_id), int(block_size), int(offset), int(count), raw(bitmap), token=token)
    assert CborCodec().encode_get(request) == bytes.fromhex(case["out"]["hex"])
    assert CborCodec().decode_get(bytes.fromhex(case["out"]["hex"])) == request


# Where ours is stricter than the library on purpose: message -> why
STRICTER = {
    "hex:a4616600616900616c00617040": "an empty block is none",
    "hex:a4616600616900616c04617044746573746a756e6b": "something follows the map",
    "hex:a5616601616600616900616c0461704474657374": "a member comes twice",
    "hex:a46166c100616900616c0461704474657374": "both refuse a tag",
    '{"f": "12", "i": "1", "l": "512", "p": "dGVzdA=="}': "a block's integers are integers",
    '{"f":2147483647,"i":1,"l":4,"p":"dGVzdA=="}': "a file id is 0 to 255",
    '{"f":"","i":1,"l":4,"p":"dGVzdA=="}': "an empty text is no number",
    '{"f":12,"i":"","l":4,"p":"dGVzdA=="}': "an empty text is no number",
    '{"f":12,"i":1,"l":2147483647,"p":"dGVzdA=="}': "the length is not that of the payload",
    '{"f":12,"i":1,"l":"","p":"dGVzdA=="}': "an empty text is no number",
    '{"f":0,"i":0,"l":4,"p":""}': "both refuse an empty payload",
    '{"f":0,"i":0,"l":4,"p":"dGVzdA="}': "half a padding",
    '{"f":0,"i":0,"l":4,"p":"dGVzdA=="': "the text ends too early",
    '{"f":0,"i":0,"l":4,"p":"dGVzdA=="} junk': "something follows the object",
    '{"f":0,"i":0,"l":9,"p":"dGVzdA=="}': "the length is not that of the payload",
}
SAME_AS_LIBRARY = {'{"f":0,"i":0,"l":4,"p":"dGVzdA"}'}  # quirks that ours shares: padding may be missing


@pytest.mark.parametrize("case", of("decode"))
def test_reference_decode(case: dict[str, Any]) -> None:
    codec, text, *_ = case["args"]
    out = case["out"]
    accepted = out.get("status") == "MQTTFileDownloaderSuccess"
    shared = case["kind"] == "must" or text in SAME_AS_LIBRARY
    if accepted and shared:
        block = process_received_data_block(codec, raw(text))
        assert (block.file_id, block.index, block.length) == (out["fileId"], out["blockId"], out["blockSize"])
        assert block.length == out["dataLength"]
        assert hashlib.sha256(block.payload).hexdigest() == out["sha256"]
        return
    assert case["kind"] in ("must", "bug") or text in STRICTER, "a quirk without a decision"
    with pytest.raises(RemoteOtaError):
        process_received_data_block(codec, raw(text))


@pytest.mark.parametrize("case", of("base64"))
def test_reference_base64(case: dict[str, Any]) -> None:
    text, *_ = case["args"]
    symbols = raw(text).decode("latin-1")
    if case["out"]["status"] == "Base64Success":
        assert base64_decode(symbols) == bytes.fromhex(case["out"]["hex"])
    elif case["kind"] == "must":
        with pytest.raises(RemoteOtaError):
            base64_decode(symbols)


def test_every_quirk_that_is_decided_exists() -> None:
    quirks = {case["args"][1] for case in CASES if case["call"] == "decode" and case["kind"] == "quirk"}
    assert set(STRICTER) | SAME_AS_LIBRARY == quirks


# Round trips

U8, U31 = st.integers(0, 255), st.integers(0, 2**31 - 1)
TOKENS = st.none() | st.text(max_size=64).filter(lambda t: len(t.encode("utf-8", "replace")) <= 64).filter(
    lambda t: not any(0xD800 <= ord(c) <= 0xDFFF for c in t)
)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=80)
GETS = st.builds(
    GetStream,
    U8,
    st.integers(256, 131072),
    st.integers(0, 98304),
    st.none() | st.integers(0, 98304),
    st.none() | st.binary(max_size=100),
    st.none() | U31,
    TOKENS,
)
BLOCKS = st.builds(DataBlock, U8, U31, st.binary(min_size=1, max_size=600), TOKENS)
FILES = st.lists(st.tuples(U8, st.integers(0, 2**32 - 1)), max_size=10, unique_by=lambda row: row[0]).map(tuple)
DESCRIPTIONS = st.builds(StreamDescription, U31, TEXTS, FILES, TOKENS)
REFUSALS = st.builds(StreamRejected, TEXTS, TEXTS, TOKENS)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@given(get=GETS, block=BLOCKS, token=TOKENS, description=DESCRIPTIONS, refusal=REFUSALS)
def test_round_trips(
    codec: Codec,
    get: GetStream,
    block: DataBlock,
    token: str | None,
    description: StreamDescription,
    refusal: StreamRejected,
) -> None:
    assert codec.decode_get(codec.encode_get(get)) == get
    assert codec.decode_data(codec.encode_data(block)) == block
    assert codec.decode_describe(codec.encode_describe(DescribeStream(token))) == DescribeStream(token)
    assert codec.decode_description(codec.encode_description(description)) == description
    assert codec.decode_rejected(codec.encode_rejected(refusal)) == refusal


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_the_largest_block_and_views(codec: Codec) -> None:
    data = bytes(range(256)) * 512
    for payload in (data, bytearray(data), memoryview(data)):
        message = codec.encode_data(DataBlock(255, 98303, payload))
        for given_as in (message, bytearray(message), memoryview(message)):
            assert codec.decode_data(given_as) == DataBlock(255, 98303, data)
    with pytest.raises(RemoteOtaError):
        codec.decode_data(codec.encode_data(DataBlock(0, 0, data + b"!")))


# Bytes that mean harm

DECODERS: list[tuple[str, Callable[[bytes], object]]] = [
    (f"{codec.name}-{name}", getattr(codec, f"decode_{name}"))
    for codec in CODECS
    for name in ("get", "data", "describe", "description", "rejected")
]
NUMBERS = st.integers(-(2**70), 2**70) | st.booleans() | st.floats() | st.none() | TEXTS | st.binary(max_size=9)
NESTED = st.recursive(
    NUMBERS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
MEMBERS = st.dictionaries(
    st.sampled_from(["c", "s", "f", "l", "o", "n", "b", "i", "p", "d", "r", "m", "code", "message", "clientToken"]),
    NUMBERS | NESTED | st.lists(st.fixed_dictionaries({"f": NUMBERS, "z": NUMBERS}), max_size=2),
)


def only_remote(decode: Callable[[bytes], object], payload: bytes) -> None:
    """Whatever comes out is of our types, with plain values in it; else RemoteOtaError."""
    try:
        value = decode(payload)
    except RemoteOtaError:
        return
    for member in value.__dataclass_fields__:  # type: ignore[attr-defined]
        assert type(getattr(value, member)) in (int, str, bytes, memoryview, tuple, type(None))


@pytest.mark.parametrize(("name", "decode"), DECODERS, ids=[name for name, _ in DECODERS])
@given(payload=st.binary(max_size=200))
@example(payload=b"")
@example(payload=b"\x81" * 100_000)
@example(payload=b"\xd8\x1c" * 100_000 + b"\x00")
@example(payload=b"\xc1" * 100_000 + b"\x00")
@example(payload=b"\x9f" * 100_000)
@example(payload=b"[" * 100_000)
@example(payload=b'{"f":' * 100_000)
@example(payload=b'{"f":' + b"9" * 5000 + b"}")
@example(payload=b'{"f":1e999}')
@example(payload=b'{"c":"\\ud800"}')
@example(payload=b"\xa1\x61c\x63\xed\xa0\x80")
@example(payload=bytes.fromhex("5b7fffffffffffffff"))
@example(payload=bytes.fromhex("9b7fffffffffffffff"))
@example(payload=bytes.fromhex("bb7fffffffffffffff00"))
def test_any_bytes(name: str, decode: Callable[[bytes], object], payload: bytes) -> None:
    only_remote(decode, payload)


@pytest.mark.parametrize(("name", "decode"), DECODERS, ids=[name for name, _ in DECODERS])
@given(members=MEMBERS)
def test_any_members(name: str, decode: Callable[[bytes], object], members: dict[str, Any]) -> None:
    if name.startswith("cbor"):
        only_remote(decode, cbor2.dumps(members))
    else:
        only_remote(decode, json.dumps(members, default=lambda data: data.hex()).encode("utf-8", "replace"))


@given(message=BLOCKS.map(CborCodec().encode_data), position=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_a_flipped_byte_in_cbor(message: bytes, position: int, byte: int) -> None:
    changed = bytearray(message)
    changed[position % len(message)] = byte
    only_remote(CborCodec().decode_data, bytes(changed))
    with pytest.raises(RemoteOtaError):
        CborCodec().decode_data(message[: position % len(message)])
    with pytest.raises(RemoteOtaError):
        CborCodec().decode_data(message + bytes([byte]))


GOOD = bytes.fromhex("a4616600616900616c0461704474657374")


@pytest.mark.parametrize("tag", [0, 1, 2, 3, 4, 5, 24, 25, 28, 29, 30, 35, 36, 37, 256, 258, 260, 43000, 55799, 2**40])
def test_no_tag_is_taken(tag: int) -> None:
    head = cbor2.dumps(cbor2.CBORTag(tag, 0))[:-1]
    for payload in (head + GOOD, GOOD.replace(b"\x61i\x00", b"\x61i" + head + b"\x00"), GOOD[:-5] + head + GOOD[-5:]):
        with pytest.raises(RemoteOtaError):
            CborCodec().decode_data(payload)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a4616600616900616c0461704474657374f6", "something follows"),
        ("bf616600616900616c0461704474657374", "no CBOR"),
        ("84616600616900", "no CBOR"),
        ("80", "no CBOR map"),
        ("a5616600616600616900616c0461704474657374", "no CBOR"),
        ("a46166f4616900616c0461704474657374", "member f"),
        ("a46166f90000616900616c0461704474657374", "member f"),
        ("a4616620616900616c0461704474657374", "member f"),
        ("a46166190100616900616c0461704474657374", "member f"),
        ("a4616600616900616c0561704474657374", "says it has 5"),
        ("a4616600616900616c0461706474657374", "byte string"),
        ("a5616600616900616c0461704474657374616300", "member c"),
    ],
)
def test_cbor_that_is_no_block(text: str, what: str) -> None:
    with pytest.raises(RemoteOtaError, match=what):
        CborCodec().decode_data(bytes.fromhex(text))


@pytest.mark.parametrize(
    "text",
    [
        "bf616600616900616c0461704474657374ff",  # indefinite
        "a461704474657374616c04616900616600",  # another order
        "a4616600616900616c0461705f427465427374ff",  # pieces
        "a5616600616900616c0461704474657374616183010203",  # one more member
        "a4616600616900616c1a0000000461704474657374",  # a long head
    ],
)
def test_cbor_that_is_a_block(text: str) -> None:
    assert CborCodec().decode_data(bytes.fromhex(text)) == DataBlock(0, 0, b"test")


# What C devices send, and how AWS refuses


def test_requests_of_c_devices_are_read() -> None:
    old = bytes.fromhex("a661637254686973497341436c69656e74546f6b656e616601616c191000616f00616244aaaaaaaa616e01")
    assert CborCodec().decode_get(old) == GetStream(1, 4096, 0, 1, b"\xaa" * 4, token="ThisIsAClientToken")
    new = bytes.fromhex("a6616363726479616604616c03616f026162444d513d3d616e01")
    assert CborCodec().decode_get(new) == GetStream(4, 3, 2, 1, b"MQ==", token="rdy")
    assert JsonCodec().decode_get(b'{"s": 1,"f": 4,"l": 3,"o": 2,"n": 1}') == GetStream(4, 3, 2, 1, version=1)
    assert JsonCodec().decode_get(b'{"f":"0","l":"4096","o":"0","n":"1"}') == GetStream(0, 4096, 0, 1)


def test_a_request_out_of_range_is_read_for_the_provider_to_refuse() -> None:
    strange = JsonCodec().decode_get(b'{"f":999,"l":1,"o":-1}')
    assert strange == GetStream(999, 1, -1)


@pytest.mark.parametrize("bitmap", ["130080", "0x130080", "0X130080"])
def test_json_bitmaps(bitmap: str) -> None:
    request = JsonCodec().decode_get(json.dumps({"f": 0, "l": 256, "o": 20, "b": bitmap}).encode())
    assert request.bitmap == bytes.fromhex("130080")
    assert JsonCodec().encode_get(request) == b'{"f":0,"l":256,"o":20,"b":"0x130080"}'


@pytest.mark.parametrize("bitmap", ["0x1", "xyz", "13 00", "0x13\n", "１３", 5, ["13"]])
def test_json_bitmaps_that_are_none(bitmap: object) -> None:
    with pytest.raises(RemoteOtaError, match="bitmap"):
        JsonCodec().decode_get(json.dumps({"f": 0, "l": 256, "o": 20, "b": bitmap}).encode())


def test_refusals_as_aws_writes_them() -> None:
    refusal = StreamRejected("InvalidRequest", "out of range", "rdy")
    assert JsonCodec().encode_rejected(refusal) == (
        b'{"clientToken":"rdy","code":"InvalidRequest","message":"out of range",'
        b'"c":"rdy","o":"InvalidRequest","m":"out of range"}'
    )
    cbor = CborCodec().encode_rejected(refusal)
    assert (cbor[0], cbor[-1]) == (0xBF, 0xFF)
    for members in ({"o": "A", "m": "B", "c": "C"}, {"code": "A", "message": "B", "clientToken": "C"}):
        assert CborCodec().decode_rejected(cbor2.dumps(members)) == StreamRejected("A", "B", "C")
        assert JsonCodec().decode_rejected(json.dumps(members).encode()) == StreamRejected("A", "B", "C")
    with pytest.raises(RemoteOtaError):
        JsonCodec().decode_rejected(b'{"m":"no code"}')


def test_descriptions_with_a_file_twice() -> None:
    with pytest.raises(RemoteOtaError, match="twice"):
        JsonCodec().decode_description(b'{"s":1,"r":[{"f":0,"z":1},{"f":0,"z":2}]}')


@given(st.binary(min_size=1, max_size=80))
def test_base64_has_one_text_for_some_bytes(data: bytes) -> None:
    import base64

    text = base64.b64encode(data).decode()
    assert base64_decode(text) == base64_decode(text.rstrip("=")) == base64_decode(text + "\r\n") == data


@given(st.text(alphabet="AQgZ/+= \n-_é", max_size=12))
def test_base64_takes_nothing_else(text: str) -> None:
    import base64

    try:
        data = base64_decode(text)
    except RemoteOtaError:
        return
    assert base64.b64encode(data).decode().rstrip("=") == text.rstrip("= \n")


def test_names() -> None:
    with pytest.raises(LocalOtaError, match="no codec"):
        codec_named("xml")
    with pytest.raises(LocalOtaError, match="no codec"):
        StreamTopics("t", "s", "xml")
    assert StreamTopics("t", "s" * 128, "cbor").rejected == f"$aws/things/t/streams/{'s' * 128}/rejected/cbor"
    assert StreamTopics("t", "s", "json").describe == "$aws/things/t/streams/s/describe/json"
    assert StreamTopics("t", "s", "json").description == "$aws/things/t/streams/s/description/json"
    for wrong in [("a/b", "s"), ("t", "a:b"), ("t", "s" * 129), ("+", "s")]:
        with pytest.raises(LocalOtaError):
            StreamTopics(*wrong, "cbor")


@pytest.mark.parametrize(
    "numbers", [(256, 256, 0, 1), (0, 0, 0, 1), (0, 131073, 0, 1), (0, 256, 98305, 1), (0, 256, 0, 0)]
)
def test_the_c_request_out_of_range(numbers: tuple[int, int, int, int]) -> None:
    for name in ("cbor", "json"):
        with pytest.raises(LocalOtaError, match="out of range"):
            create_get_data_block_request(name, *numbers)


@pytest.mark.parametrize(("depth", "taken"), [(3, True), (4, False), (300, False)])
def test_how_deep_a_further_member_may_be(depth: int, taken: bool) -> None:
    payload = b"\xa5" + GOOD[1:] + b"\x61z" + b"\x81" * depth + b"\x00"
    if taken:
        assert CborCodec().decode_data(payload) == DataBlock(0, 0, b"test")
    else:
        with pytest.raises(RemoteOtaError, match="nesting depth"):
            CborCodec().decode_data(payload)


def read_with_care(codec: Codec, message: bytes) -> DataBlock | None:
    """What the general decoder makes of it; None: it refuses."""
    try:
        return _Codec.decode_data(codec, message)  # type: ignore[arg-type]
    except RemoteOtaError:
        return None


@pytest.mark.parametrize("codec", [CborCodec(), JsonCodec()])
@given(
    block=BLOCKS,
    position=st.integers(0, 80),
    byte=st.integers(0, 255),
    cut=st.integers(0, 3),
    more=st.binary(max_size=2),
)
def test_the_quick_decoder_reads_as_the_careful_one(
    codec: Codec, block: DataBlock, position: int, byte: int, cut: int, more: bytes
) -> None:
    """Of a message with a byte changed, some cut off, or more behind it: the same block, or refused by both."""
    written = codec.encode_data(block)
    assert codec.decode_data(written) == read_with_care(codec, written) == block
    message = bytearray(written)
    message[position % len(message)] = byte
    changed = bytes(message[: len(message) - cut]) + more
    try:
        quick: DataBlock | None = codec.decode_data(changed)
    except RemoteOtaError:
        quick = None
    assert quick == read_with_care(codec, changed)


@pytest.mark.parametrize("codec", [CborCodec(), JsonCodec()])
def test_most_blocks_are_read_quickly(codec: Codec) -> None:
    """Of every size, with and without a token; the largest from a view, which is not copied."""
    quick = _usual_cbor_block if codec.name == "cbor" else _usual_json_block
    for size in (1, 23, 24, 255, 256, 4096, 65_535, 65_536, 131_072):
        for token in (None, "", "7", "x" * 23):
            block = DataBlock(255, 98_303, bytes(size), token)
            assert quick(codec.encode_data(block)) == block
