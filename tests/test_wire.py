"""The buffers between a socket and paho: whatever comes, in whatever pieces."""

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreota.topics import Message
from coreota.wire import LARGEST, ROOM, Wire, length_bytes, read_length

MESSAGES = st.builds(Message, st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.binary(max_size=300))
OTHERS = st.builds(
    lambda kind, body: bytes([kind << 4]) + length_bytes(len(body)) + body,
    st.sampled_from((2, 9, 13)),
    st.binary(max_size=200),
)


def packet(item: Message | bytes) -> bytes:
    """As it is on the wire."""
    if isinstance(item, bytes):
        return item
    topic = item.topic.encode()
    return b"\x30" + length_bytes(2 + len(topic) + len(item.payload)) + len(topic).to_bytes(2) + topic + item.payload


def pair() -> tuple[socket.socket, Wire]:
    """The far end, and a wire over the near one."""
    far, near = socket.socketpair()
    near.setblocking(False)
    return far, Wire(near)


def drained(wire: Wire) -> Iterator[Message | bytes]:
    """All that is there: messages, and the packets that are for paho."""
    while True:
        yield from wire.messages()
        if not wire.lent:
            return
        yield b"".join(iter(lambda: wire.recv(7) if wire.lent else b"", b""))


@given(st.integers(0, 2**28 - 1), st.binary(max_size=3))
def test_lengths_come_back(length: int, rest: bytes) -> None:
    """Also with something behind them; without their last byte they are incomplete."""
    written = length_bytes(length)
    assert read_length(written + rest, 0, len(written + rest)) == (length, len(written))
    assert read_length(written, 0, len(written) - 1) is None


@given(st.lists(MESSAGES | OTHERS, max_size=12), st.lists(st.integers(1, 400), max_size=20))
def test_any_split_gives_the_same_packets_in_the_same_order(items: list[Message | bytes], cuts: list[int]) -> None:
    """However the network cuts the stream."""
    far, wire = pair()
    stream, seen = b"".join(map(packet, items)), list[Message | bytes]()
    for cut in [*cuts, len(stream)]:
        far.sendall(stream[:cut])
        stream = stream[cut:]
        wire.fill()
        seen += drained(wire)
    assert seen == items
    assert not wire.ended
    far.close()
    wire.close()


@given(st.binary(max_size=400))
def test_no_bytes_do_harm(stream: bytes) -> None:
    """They are messages, packets for paho, or the end with a reason; nothing is raised."""
    far, wire = pair()
    far.sendall(stream)
    wire.fill()
    assert sum(len(packet(item)) for item in drained(wire) if isinstance(item, bytes)) <= len(stream)
    assert wire.ended == bool(wire.problem)
    far.close()
    wire.close()


@pytest.mark.parametrize("size", [ROOM - 100, ROOM, ROOM + 5000, LARGEST - 100])
def test_a_packet_larger_than_the_buffer(size: int) -> None:
    """The buffer grows for it, up to the limit."""
    far, wire = pair()
    far.setblocking(False)
    message, seen = Message("t", bytes(size)), list[Message]()
    other = Wire(far)
    other.publish(message)
    while not seen:
        other.flush()
        wire.fill()
        seen += wire.messages()
    assert seen == [message]
    other.close()
    wire.close()


@pytest.mark.parametrize(
    "stream", [b"\x30\x80\x80\x80\x80\x01", b"\x30\x81\x80\x40", b"\x30\x01\x00", b"\x30\x03\x00\x02a"]
)
def test_packets_that_cannot_be(stream: bytes) -> None:
    """A length of five bytes, one beyond the limit, no room for a topic, a topic longer than the packet."""
    far, wire = pair()
    far.sendall(stream)
    wire.fill()
    assert wire.messages() == []
    assert wire.ended
    assert wire.problem
    assert wire.recv(1) == b""
    far.close()
    wire.close()


def test_the_end_of_the_connection() -> None:
    """What came before it is handed out first; then paho reads the end."""
    far, wire = pair()
    far.sendall(packet(Message("t", b"last")))
    far.close()
    wire.fill()
    assert wire.messages() == [Message("t", b"last")]
    wire.fill()
    assert wire.ended
    assert wire.recv(1) == b""
    wire.publish(Message("t", b"too late"))
    wire.flush()
    wire.flush()
    assert wire.backlog == 0
    wire.close()
