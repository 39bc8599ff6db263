"""The file downloader: exact timers, any order and loss, hostile blocks, and a pool that is whole at the end."""

import random
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreota.blocks import MAX_BITMAP, Bitmap, MemoryPool, block_count
from coreota.codec import CborCodec, Codec, DataBlock, GetStream, JsonCodec, StreamRejected
from coreota.download import (
    ACTIVE,
    DOWNLOAD_TRANSITIONS,
    Block,
    BlockReceived,
    DownloadComplete,
    DownloadConfig,
    DownloadFailed,
    DownloadState,
    DownloadTrigger,
    FileDownloader,
)
from coreota.downloader import FINAL_CODES, MqttDownloader
from coreota.errors import LocalOtaError, RemoteOtaError
from coreota.parser import OtaFile, SignatureAlgorithm
from coreota.topics import Endpoint, Message, Subscribe, Unsubscribe

DATA = "$aws/things/lamp/streams/s-1/data/cbor"
REJECTED = "$aws/things/lamp/streams/s-1/rejected/cbor"
GET = "$aws/things/lamp/streams/s-1/get/cbor"
CBOR = CborCodec()


def ota_file(size: int, file_id: int = 0) -> OtaFile:
    return OtaFile(file_id, "firmware", size, "cert", b"signature", SignatureAlgorithm.SHA256_ECDSA)


def content(size: int) -> bytes:
    return random.Random(size).randbytes(min(size, 1 << 22)).ljust(size, b"-")


def asked_for(get: GetStream) -> list[int]:
    """What a provider sends, by the guide's rules."""
    assert get.bitmap is not None and get.count is not None
    bits = [8 * i + k for i, byte in enumerate(get.bitmap) for k in range(8) if byte >> k & 1]
    assert len(bits) == get.count
    assert len(get.bitmap) <= MAX_BITMAP
    assert get.count * get.block_size <= 131072
    return [get.block_offset + bit for bit in bits]


@dataclass
class Bench:
    """A downloader with its flash; the test is the network."""

    size: int = 10 * 256
    buffers: int = 8
    config: DownloadConfig = field(default_factory=lambda: DownloadConfig(block_size=256, blocks_per_request=4))
    codec: Codec = CBOR
    missing: Bitmap | None = None

    def __post_init__(self) -> None:
        self.pool = MemoryPool(self.config.block_size, self.buffers)
        self.content, self.flash = content(self.size), bytearray(self.size)
        self.loader = MqttDownloader(
            "lamp", "s-1", ota_file(self.size), self.codec, self.pool, self.config, missing=self.missing
        )

    def ask(self, now: float) -> list[list[int]]:
        """The blocks of each request that is sent now."""
        said = self.loader.messages_to_send(now)
        return [asked_for(self.codec.decode_get(m.payload)) for m in said if isinstance(m, Message)]

    def blocks(self, now: float) -> list[int]:
        """The blocks that are asked for now, in however many requests."""
        return [index for lot in self.ask(now) for index in lot]

    def due(self, now: float) -> float:
        """The time of the next timer; asserts that it is this wait, stretched by up to an eighth."""
        timer = self.loader.get_timer()
        assert timer is not None
        return timer - now

    def bring(self, index: int, now: float, **other: object) -> None:
        size = self.config.block_size
        members: dict[str, object] = {"payload": self.content[index * size : (index + 1) * size], "file_id": 0} | other
        block = DataBlock(index=index, **members)  # type: ignore[arg-type]
        self.loader.receive(Message(self.loader.topics.data, self.codec.encode_data(block)), now)

    def refuse(self, code: str, now: float, token: str | None = None) -> None:
        payload = self.codec.encode_rejected(StreamRejected(code, "because", token))
        self.loader.receive(Message(self.loader.topics.rejected, payload), now)

    def write(self) -> list[DownloadComplete | DownloadFailed]:
        """Write every block that is there; the other events."""
        others: list[DownloadComplete | DownloadFailed] = []
        while (event := self.loader.next_event()) is not None:
            if isinstance(event, BlockReceived):
                block = event.block
                assert block.offset == block.index * self.config.block_size
                self.flash[block.offset : block.offset + len(block.data)] = block.data
                self.loader.release(block)
            else:
                others.append(event)
        return others

    def started(self, now: float = 0.0) -> "Bench":
        self.loader.start(now)
        return self


# The contract


def test_it_is_an_endpoint_and_a_file_downloader() -> None:
    loader = Bench().loader
    assert isinstance(loader, Endpoint)
    assert isinstance(loader, FileDownloader)


def test_the_table_is_what_it_should_be() -> None:
    assert set(DOWNLOAD_TRANSITIONS.values()) == set(DownloadState)
    ended = {DownloadState.COMPLETE, DownloadState.FAILED}
    assert not [source for source, _ in DOWNLOAD_TRANSITIONS if source in ended]
    assert {trigger for _, trigger in DOWNLOAD_TRANSITIONS} == set(DownloadTrigger)


def test_start_subscribes_then_asks() -> None:
    bench = Bench().started()
    first = bench.loader.messages_to_send(5.0)
    assert first[:2] == [Subscribe(DATA), Subscribe(REJECTED)]
    assert [m.topic for m in first[2:] if isinstance(m, Message)] == [GET] * 4
    assert bench.loader.messages_to_send(5.0) == []
    assert 1.0 <= bench.due(5.0) <= 1.125
    assert bench.loader.state is DownloadState.FLOWING


def test_before_start_it_says_nothing_and_takes_nothing() -> None:
    bench = Bench()
    bench.bring(0, 0.0)
    bench.loader.handle_timer(100.0)
    assert (bench.loader.messages_to_send(0.0), bench.loader.get_timer(), bench.loader.next_event()) == ([], None, None)
    assert (bench.loader.ignored, bench.loader.received, bench.pool.in_use) == (1, 0, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"block_size": 255},
        {"block_size": 131073},
        {"block_size": 4096.0},
        {"block_size": True},
        {"blocks_per_request": 0},
        {"blocks_per_request": 513},
        {"window": -1},
        {"window": 98305},
        {"window": 8.0},
        {"seed": -1},
        {"momentum": 0},
        {"momentum": 1001},
        {"momentum": 1.5},
    ],
)
def test_configuration_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(LocalOtaError, match=next(iter(wrong))):
        DownloadConfig(**wrong)  # type: ignore[arg-type]


def test_what_a_downloader_cannot_do_fails_when_it_is_made() -> None:
    def make(size: int, pool: MemoryPool, missing: Bitmap | None = None) -> MqttDownloader:
        return MqttDownloader("lamp", "s", ota_file(size), CBOR, pool, DownloadConfig(block_size=256), missing)

    assert make(98304 * 256, MemoryPool(256, 1)).missing.count == 98304
    with pytest.raises(LocalOtaError, match="more than 98304 blocks"):
        make(98304 * 256 + 1, MemoryPool(256, 1))
    with pytest.raises(LocalOtaError, match="hold no block"):
        make(1000, MemoryPool(255, 1))
    with pytest.raises(LocalOtaError, match="bitmap is for 3 blocks"):
        make(1000, MemoryPool(256, 1), Bitmap(3))
    with pytest.raises(LocalOtaError, match="stream id"):
        MqttDownloader("lamp", "a/b", ota_file(1), CBOR, MemoryPool(4096, 1))


# Timers


def test_several_requests_are_under_way_and_the_next_goes_out_as_one_is_answered() -> None:
    bench = Bench().started()
    assert bench.ask(0.0) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    bench.bring(0, 0.1)
    bench.write()
    assert bench.ask(0.1) == [[8, 9]]
    assert bench.loader.state is DownloadState.FLOWING


def test_a_gap_is_noticed_soon_and_silence_doubles_the_wait() -> None:
    bench = Bench().started()
    assert bench.blocks(0.0) == list(range(8))
    bench.bring(1, 0.5)  # a round trip of half a second, and two blocks a second
    bench.write()
    assert 1.5 <= bench.due(0.5) <= 1.5 * 1.125
    bench.loader.handle_timer(1.99)
    assert bench.ask(1.99) == []
    bench.loader.handle_timer(2.2)  # a gap: the first two are asked for, and all goes on as it was
    assert bench.loader.state is DownloadState.FLOWING
    assert bench.ask(2.2) == [[0], [2]]
    assert bench.ask(2.2) == []
    assert 1.5 <= bench.due(2.2) <= 1.5 * 1.125
    bench.loader.handle_timer(4.0)  # silence
    assert bench.loader.state.value == "probing"
    assert bench.ask(4.0) == [[3], [4]]
    assert 3.0 <= bench.due(4.0) <= 3.0 * 1.125
    bench.loader.handle_timer(7.5)
    assert len(bench.ask(7.5)) == 2
    assert 6.0 <= bench.due(7.5) <= 6.0 * 1.125
    assert bench.loader.unanswered == 3


def test_the_answer_to_a_probe_says_that_all_before_it_is_lost() -> None:
    bench = Bench().started()
    assert bench.blocks(0.0) == list(range(8))
    bench.loader.handle_timer(1.2)
    assert bench.ask(1.2) == [[0], [1]]
    bench.bring(1, 1.3)
    bench.write()
    assert bench.loader.lost == 9  # all eight, and the one that was asked for once more
    assert sorted(bench.blocks(1.3))[:8] == [0, *range(2, 9)]
    assert bench.loader.unanswered == 0


def test_a_late_answer_is_no_answer_to_a_probe() -> None:
    """The timer was too early: the token tells, and nothing but the probe comes twice."""
    bench = Bench().started()
    assert bench.blocks(0.0) == list(range(8))
    bench.loader.handle_timer(1.2)
    assert bench.ask(1.2) == [[0], [1]]
    for index in range(8):
        bench.bring(index, 1.3 + index / 100, token=str(1 + index // 2))
        bench.write()
        assert not {0, 1} & set(bench.blocks(1.3 + index / 100))
    bench.bring(0, 1.5, token="5")
    bench.bring(1, 1.5, token="6")
    assert (bench.loader.lost, bench.loader.duplicates) == (2, 2)


def test_nobody_answers() -> None:
    bench = Bench(config=DownloadConfig(block_size=256, momentum=32)).started()
    now, times = 0.0, []
    while bench.loader.state is not DownloadState.FAILED:
        times += [now] * bool(bench.ask(now))
        timer = bench.loader.get_timer()
        assert timer is not None
        now = timer
        bench.loader.handle_timer(now)
    waits = [after - before for before, after in pairwise([*times, now])]
    assert all(w <= wait <= 1.125 * w for wait, w in zip(waits, [1, 2, 4, 8, 16, *[30] * 27], strict=True))
    assert bench.loader.requests == 4 + 2 * 31
    (failed,) = bench.write()
    assert isinstance(failed, DownloadFailed)
    assert isinstance(failed.error, RemoteOtaError)
    assert (failed.error.reason, failed.error.message) == ("stream-silent", "no new block after 32 silences")
    assert bench.loader.get_timer() is None
    assert bench.loader.messages_to_send(now) == [Unsubscribe(DATA), Unsubscribe(REJECTED)]
    bench.loader.start(now)
    assert (bench.loader.messages_to_send(now), bench.loader.get_timer()) == ([], None)


def test_devices_do_not_ask_at_the_same_moment() -> None:
    config = [DownloadConfig(block_size=256, seed=seed) for seed in range(20)]
    timers = set()
    for one in config:
        bench = Bench(config=one).started()
        bench.ask(0.0)
        timers.add(bench.loader.get_timer())
    assert len(timers) == 20


def test_old_blocks_do_not_keep_a_download_alive() -> None:
    bench = Bench(config=DownloadConfig(block_size=256, momentum=3)).started()
    bench.ask(0.0)
    bench.bring(0, 0.0)
    bench.write()
    now = 0.0
    while bench.loader.state in ACTIVE and now < 100:
        now += 0.25
        bench.bring(0, now)
        bench.loader.handle_timer(now)
        bench.ask(now)
    assert bench.loader.state is DownloadState.FAILED
    assert 0.2 * 7 <= now <= 3.0
    assert bench.loader.duplicates == now * 4


# What is lost


def test_what_was_overtaken_is_asked_for_first() -> None:
    bench = Bench(size=40 * 256).started()
    assert bench.ask(0.0) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    for index in (0, 1, 4, 5):
        bench.bring(index, 0.1)
        bench.write()
    assert bench.loader.lost == 0
    bench.bring(6, 0.1)
    bench.write()
    assert bench.loader.lost == 2
    assert bench.blocks(0.1)[:2] == [2, 3]


def test_the_last_block_of_an_answer_tells_what_is_missing_of_it() -> None:
    bench = Bench(size=4 * 256).started()
    assert bench.ask(0.0) == [[0, 1], [2, 3]]
    bench.bring(0, 0.1)
    bench.bring(1, 0.1)
    bench.bring(3, 0.1)
    bench.write()
    assert bench.ask(0.1) == [[2]]


def test_where_answers_overtake_each_other_it_becomes_patient() -> None:
    bench = Bench(size=400 * 256, buffers=64, config=DownloadConfig(block_size=256)).started()
    chance, now, arrivals = random.Random(1), 0.0, []
    while bench.loader.state in ACTIVE:
        for lot in bench.ask(now):
            arrivals += [(now + 0.1 + 0.05 * chance.random(), index) for index in lot]
        arrivals.sort()
        timer = bench.loader.get_timer()
        if arrivals and (timer is None or arrivals[0][0] <= timer):
            now, index = arrivals.pop(0)
            bench.bring(index, now)
        else:
            assert timer is not None
            now = timer
            bench.loader.handle_timer(now)
        bench.write()
    assert bench.loader.missing.remaining == 0
    assert bench.loader.duplicates < 40


# Memory


def test_it_never_asks_for_more_than_there_is_room_for() -> None:
    bench = Bench(buffers=3).started()
    assert bench.blocks(0.0) == [0, 1, 2]
    for index in range(3):
        bench.bring(index, 0.1)
    bench.bring(9, 0.1)
    assert (bench.loader.dropped, bench.pool.free, bench.pool.peak) == (1, 0, 3)
    assert bench.ask(0.2) == []
    assert bench.loader.get_timer() is None
    events = [bench.loader.next_event() for _ in range(3)]
    asked = 3
    for count, event in enumerate(events, 1):
        assert isinstance(event, BlockReceived)
        bench.loader.release(event.block)
        asked += len(bench.blocks(0.3))
        assert asked <= 3 + count
    assert asked == 6


def test_more_is_under_way_than_the_pool_holds_while_each_block_is_written_as_it_arrives() -> None:
    bench = Bench(size=2000 * 256, buffers=4).started()
    under_way, now, most = bench.blocks(0.0), 0.0, 0
    while under_way:
        now += 0.001
        bench.bring(under_way.pop(0), now + 0.5)
        bench.write()
        under_way += bench.blocks(now + 0.5)
        most = max(most, len(under_way))
    assert (bench.loader.missing.remaining, bench.loader.dropped, bench.pool.peak) == (0, 0, 1)
    assert most > 8


def test_a_writer_that_falls_behind_is_promised_no_more_than_the_pool_holds() -> None:
    bench = Bench(size=2000 * 256, buffers=4).started()
    under_way, now = bench.blocks(0.0), 0.0
    for _ in range(40):
        now += 0.001
        bench.bring(under_way.pop(0), now + 0.5)
        bench.write()
        under_way += bench.blocks(now + 0.5)
    assert len(under_way) > 4
    for index in under_way:
        bench.bring(index, now + 0.6)
    assert bench.loader.dropped == len(under_way) - 4
    bench.write()
    again = bench.blocks(now + 0.7)
    assert again == sorted(under_way[4:])[:4]


def test_a_pool_that_somebody_else_holds_ends_too() -> None:
    bench = Bench(buffers=1, config=DownloadConfig(block_size=256, momentum=2)).started()
    taken = bench.pool.acquire()
    assert bench.ask(0.0) == []
    assert 1.0 <= bench.due(0.0) <= 1.125
    bench.loader.handle_timer(2.0)
    assert bench.ask(2.0) == []
    bench.loader.handle_timer(6.0)
    (failed,) = bench.write()
    assert isinstance(failed, DownloadFailed)
    assert failed.error.message == "no new block after 2 silences; the last obstacle: no buffer of the pool is free"
    assert taken is not None


def test_a_block_on_loan_is_missing_until_it_is_given_back_and_not_asked_for() -> None:
    bench = Bench(buffers=20).started()
    bench.ask(0.0)
    for index in range(4):
        bench.bring(index, 0.1)
    event = bench.loader.next_event()
    assert isinstance(event, BlockReceived)
    assert 0 in bench.loader.missing
    assert not {0, 1, 2, 3} & set(bench.blocks(0.1))
    bench.loader.release(event.block)
    assert 0 not in bench.loader.missing
    with pytest.raises(LocalOtaError, match="not on loan"):
        bench.loader.release(event.block)
    with pytest.raises(ValueError, match="released"):
        bytes(event.block.data)
    with pytest.raises(LocalOtaError, match="not on loan"):
        bench.loader.release(Block(0, 1, 256, memoryview(bytes(256))))


def test_a_block_cannot_be_written_to() -> None:
    bench = Bench().started()
    bench.ask(0.0)
    bench.bring(0, 0.0)
    event = bench.loader.next_event()
    assert isinstance(event, BlockReceived)
    assert event.block.data.readonly
    assert event.block.data == bench.content[:256]


def test_pause_withdraws_and_start_goes_on() -> None:
    bench = Bench().started()
    bench.ask(0.0)
    for index in (0, 1):
        bench.bring(index, 0.1)
    event = bench.loader.next_event()
    assert isinstance(event, BlockReceived)
    bench.loader.pause()
    assert (bench.pool.in_use, bench.loader.next_event(), bench.loader.get_timer()) == (1, None, None)
    assert bench.loader.messages_to_send(0.2) == []
    bench.bring(5, 0.2)
    assert (bench.loader.ignored, bench.pool.in_use) == (1, 1)
    bench.loader.handle_timer(1000.0)
    assert bench.loader.state is DownloadState.PAUSED
    bench.loader.release(event.block)
    bench.loader.pause()
    bench.loader.start(9.0)
    said = bench.loader.messages_to_send(9.0)
    assert said[:2] == [Subscribe(DATA), Subscribe(REJECTED)]
    asked = [asked_for(CBOR.decode_get(message.payload)) for message in said if isinstance(message, Message)]
    assert [index for lot in asked for index in lot] == list(range(1, 9))
    assert 1.0 <= bench.due(9.0) <= 1.125


def test_pause_before_anything_was_sent() -> None:
    bench = Bench().started()
    bench.loader.pause()
    assert bench.loader.messages_to_send(0.0) == []


def test_close_gives_everything_back() -> None:
    bench = Bench().started()
    bench.ask(0.0)
    for index in range(4):
        bench.bring(index, 0.1)
    event = bench.loader.next_event()
    assert isinstance(event, BlockReceived)
    bench.loader.close()
    assert (bench.pool.in_use, bench.pool.free, bench.loader.missing.remaining) == (0, 8, 10)
    with pytest.raises(LocalOtaError):
        bench.loader.release(event.block)


def test_the_last_block_written_while_paused_completes() -> None:
    bench = Bench(size=100).started()
    bench.ask(0.0)
    bench.bring(0, 0.1)
    event = bench.loader.next_event()
    assert isinstance(event, BlockReceived)
    bench.loader.pause()
    bench.loader.release(event.block)
    assert bench.loader.next_event() == DownloadComplete(bench.loader.file)
    assert bench.loader.state.value == "complete"


def test_nothing_missing_is_complete_at_once() -> None:
    bench = Bench(size=256, missing=Bitmap.from_bytes(b"\x00", 1)).started()
    assert bench.write() == [DownloadComplete(bench.loader.file)]
    assert bench.ask(0.0) == []
    bench.loader.start(1.0)
    assert bench.write() == []


# What may not get in


@pytest.mark.parametrize("codec", [CBOR, JsonCodec()], ids=["cbor", "json"])
def test_hostile_blocks(codec: Codec) -> None:
    bench = Bench(size=10 * 256 - 1, codec=codec).started()
    bench.ask(0.0)
    timer = bench.loader.get_timer()
    bench.bring(0, 1.0, file_id=1)
    bench.bring(10, 1.0, payload=bytes(256))
    bench.bring(2**31 - 1, 1.0, payload=bytes(256))
    for index, length in ((0, 255), (0, 257), (0, 1), (9, 256), (9, 254)):
        bench.bring(index, 1.0, payload=bytes(length))
    for noise in (b"", b"{}", b"\xff", codec.encode_data(DataBlock(0, 0, bytes(256)))[:-1]):
        bench.loader.receive(Message(bench.loader.topics.data, noise), 1.0)
        bench.loader.receive(Message(bench.loader.topics.rejected, noise), 1.0)
    assert (bench.loader.ignored, bench.loader.received, bench.loader.duplicates) == (16, 0, 0)
    assert (bench.pool.in_use, bench.pool.peak, bench.loader.next_event()) == (0, 0, None)
    assert bench.loader.get_timer() == timer


@given(st.binary(max_size=60), st.sampled_from(["data", "rejected", "get", "description", ""]))
def test_noise_never_raises(payload: bytes, level: str) -> None:
    bench = Bench().started()
    bench.ask(0.0)
    bench.loader.receive(Message(f"$aws/things/lamp/streams/s-1/{level}/cbor", payload), 0.1)
    assert bench.pool.in_use == 0


def test_other_topics_are_nobodys_business() -> None:
    bench = Bench().started()
    bench.ask(0.0)
    good = CBOR.encode_data(DataBlock(0, 0, bench.content[:256]))
    for topic in (DATA.replace("s-1", "s-2"), DATA.replace("lamp", "pump"), DATA.replace("cbor", "json"), GET):
        bench.loader.receive(Message(topic, good), 0.1)
    assert (bench.loader.received, bench.loader.ignored) == (0, 0)


# Refusals


@pytest.mark.parametrize("code", sorted(FINAL_CODES))
def test_final_refusals(code: str) -> None:
    bench = Bench().started()
    bench.ask(0.0)
    bench.bring(0, 0.1)
    bench.refuse(code, 0.2, token="1")
    (failed,) = bench.write()
    assert isinstance(failed, DownloadFailed)
    assert (failed.error.reason, failed.error.message) == (
        "stream-block-size" if code == "BlockSizeOutOfBounds" else "stream-rejected",
        f"the provider refused the request: {code}: because",
    )
    assert isinstance(failed.error, RemoteOtaError)
    assert (bench.pool.in_use, bench.loader.get_timer()) == (0, None)


def test_codes_are_those_of_the_guide() -> None:
    assert "InternalError" not in FINAL_CODES
    assert len(FINAL_CODES) == 12


@pytest.mark.parametrize("code", ["InternalError", "Throttling", "SomethingNew"])
def test_passing_refusals_wait_for_the_timer(code: str) -> None:
    bench = Bench(config=DownloadConfig(block_size=256, momentum=2)).started()
    bench.ask(0.0)
    bench.refuse(code, 0.1, token="1")
    assert bench.write() == []
    assert bench.ask(0.2) == []
    assert 1.0 <= bench.due(0.0) <= 1.125
    bench.loader.handle_timer(2.0)
    assert bench.ask(2.0) == [[0], [1]]
    bench.loader.handle_timer(6.0)
    (failed,) = bench.write()
    assert isinstance(failed, DownloadFailed)
    assert failed.error.message == f"no new block after 2 silences; the last obstacle: {code}: because"


def test_a_refusal_of_another_request_is_ignored() -> None:
    bench = Bench().started()
    bench.ask(0.0)
    for index in (0, 1):
        bench.bring(index, 0.1)
    bench.refuse("ResourceNotFound", 2.1, token="1")
    bench.refuse("ResourceNotFound", 2.1, token="rdy")
    assert (bench.loader.ignored, bench.loader.state) == (2, DownloadState.FLOWING)
    bench.refuse("ResourceNotFound", 2.2, token=None)
    assert bench.loader.state.value == "failed"


# Any order, repetition and loss


class Storm:
    """A network that reorders, repeats and loses, a link that goes down, and a writer that takes its time."""

    def __init__(self, bench: Bench, hold: int, seed: int) -> None:
        self.bench, self.hold, self.chance = bench, hold, random.Random(seed)
        self.now, self.silences = 0.0, 0
        self.in_flight: list[int] = []
        self.held: list[Block] = []
        self.written: list[int] = []
        self.ends: list[DownloadComplete | DownloadFailed] = []

    def provide(self) -> None:
        loader = self.bench.loader
        for lot in self.bench.ask(self.now):
            assert len(lot) <= loader.config.blocks_per_request
            assert all(index in loader.missing for index in lot)
            assert not {block.index for block in self.held} & set(lot)
            lost = 0.2 if self.silences < 20 else 0.0
            copies = [index for index in lot for _ in range(self.chance.choice((1, 1, 2)))]
            self.in_flight += [index for index in copies if self.chance.random() >= lost]

    def happen(self) -> None:
        if self.in_flight and self.chance.random() < 0.9:
            self.now += 0.001
            self.bench.bring(self.in_flight.pop(self.chance.randrange(len(self.in_flight))), self.now)
        elif (timer := self.bench.loader.get_timer()) is not None:
            self.now, self.silences = max(self.now, timer), self.silences + 1
            self.bench.loader.handle_timer(self.now)
        if self.chance.random() < 0.02:
            self.bench.loader.pause()
            self.bench.loader.start(self.now)

    def take(self) -> None:
        while (event := self.bench.loader.next_event()) is not None:
            if isinstance(event, BlockReceived):
                self.held.append(event.block)
            else:
                self.ends.append(event)

    def write(self) -> None:
        while len(self.held) > self.hold or (self.held and self.chance.random() < 0.5):
            block = self.held.pop(self.chance.randrange(len(self.held)))
            self.bench.flash[block.offset : block.offset + len(block.data)] = block.data
            self.written.append(block.index)
            self.bench.loader.release(block)

    def run(self) -> None:
        while not self.ends:
            assert len(self.held) <= self.bench.pool.in_use
            self.provide()
            self.happen()
            self.take()
            self.write()


@settings(max_examples=150, deadline=None)
@given(
    size=st.integers(1, 6000),
    buffers=st.integers(1, 9),
    per_request=st.integers(1, 12),
    hold=st.integers(0, 4),
    codec=st.sampled_from([CBOR, JsonCodec()]),
    seed=st.integers(0, 10**6),
)
def test_the_same_file_over_any_network(
    size: int, buffers: int, per_request: int, hold: int, codec: Codec, seed: int
) -> None:
    config = DownloadConfig(block_size=256, blocks_per_request=per_request, momentum=1000)
    bench = Bench(size, buffers, config, codec).started()
    storm = Storm(bench, hold, seed)
    storm.run()
    assert storm.ends == [DownloadComplete(bench.loader.file)]
    assert bench.flash == bench.content
    assert sorted(storm.written) == list(range(block_count(size, 256)))
    assert (bench.pool.in_use, bench.pool.free) == (0, buffers)
    assert bench.pool.peak <= buffers
    assert bench.loader.get_timer() is None


@settings(max_examples=40, deadline=None)
@given(size=st.integers(257, 6000), stop=st.integers(1, 20), seed=st.integers(0, 99))
def test_resuming_after_a_reset_asks_only_for_the_rest(size: int, stop: int, seed: int) -> None:
    first = Bench(size).started()
    chance, now, written = random.Random(seed), 0.0, 0
    stop = min(stop, block_count(size, 256) - 1)
    while written < stop:
        for lot in first.ask(now):
            chance.shuffle(lot)
            for index in lot[: stop - written]:
                first.bring(index, now)
                first.write()
                written += 1
    kept = first.loader.missing.to_bytes(0, first.loader.missing.count)
    left = first.loader.missing.next_missing(0, 10_000)
    second = Bench(size, missing=Bitmap.from_bytes(kept, block_count(size, 256))).started()
    asked: list[int] = []
    done: list[DownloadComplete | DownloadFailed] = []
    while second.loader.state is not DownloadState.COMPLETE:
        for lot in second.ask(now):
            asked += lot
            for index in lot:
                second.bring(index, now)
        done += second.write()
    assert asked == left
    assert done == [DownloadComplete(second.loader.file)]
    for index in left:
        first.flash[index * 256 : (index + 1) * 256] = second.flash[index * 256 : (index + 1) * 256]
    assert first.flash == first.content


def test_missing_blocks_far_apart_fit_into_a_bitmap() -> None:
    bitmap = Bitmap(98304)
    far = 3 + 8 * MAX_BITMAP
    for index in range(98304):
        if index not in (3, 4, far - 1, far):
            bitmap.clear(index)
    bench = Bench(98304 * 256, 16, missing=bitmap).started()
    assert sorted(bench.blocks(0.0)) == [3, 4, far - 1, far]


@pytest.mark.parametrize(("block_size", "most"), [(256, 512), (4096, 32), (65536, 2), (131072, 1)])
def test_a_request_is_never_larger_than_128_kib(block_size: int, most: int) -> None:
    """However much is under way; what is under way grows with what arrives."""
    bench = Bench(
        block_size * (2500 if block_size == 256 else 300), 600, DownloadConfig(block_size=block_size)
    ).started()
    now, under_way, lots = 0.0, [], []
    for _ in range(2400 if block_size == 256 else 290):
        asked = bench.ask(now)
        lots += [len(lot) for lot in asked]
        under_way += [index for lot in asked for index in lot]
        now += 0.0001
        bench.bring(under_way.pop(0), now + 0.5)
        bench.write()
    assert max(lots) <= most
    assert block_size == 256 or max(lots) == most
