"""Block sizes that follow from memory, come down where they are refused, and stay with a file through a reset."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreota.blocks import MAX_BLOCK, MIN_BLOCK
from coreota.blocksize import LEAST_BUFFERS, block_sizes, may_be_too_large, pool_shape
from coreota.codec import StreamRejected, codec_named
from coreota.config import OtaConfig
from coreota.errors import LocalOtaError, RemoteOtaError
from coreota.sim.lab import Lab
from coreota.topics import Message
from coreota.transport import Clock, LocalBroker

CBOR = codec_named("cbor")


class Limited(LocalBroker):
    """Stands before a provider: blocks larger than `most` are refused, or their requests thrown away."""

    def __init__(self, clock: Clock, most: int, silent: bool = False) -> None:
        super().__init__(clock)
        self.most, self.silent, self.asked = most, silent, list[tuple[int, int]]()

    def publish(self, sender: str, message: Message) -> None:
        if "/get/cbor" in message.topic:
            request = CBOR.decode_get(message.payload)
            bits = int.from_bytes(request.bitmap or b"", "little")
            self.asked += [
                (request.block_size, request.block_offset + k) for k in range(bits.bit_length()) if bits >> k & 1
            ]
            if request.block_size > self.most:
                if self.silent:
                    return
                refusal = StreamRejected("BlockSizeOutOfBounds", "too large", token=request.token)
                message = Message(message.topic.replace("/get/", "/rejected/"), CBOR.encode_rejected(refusal))
        super().publish(sender, message)


@given(st.integers(MIN_BLOCK, 1 << 22))
def test_the_largest_blocks_of_which_eight_fit(pool_bytes: int) -> None:
    size, buffers = pool_shape(pool_bytes)
    assert size * buffers <= pool_bytes < size * (buffers + 1)
    assert size in block_sizes(MAX_BLOCK)
    assert buffers >= LEAST_BUFFERS or size == MIN_BLOCK
    assert size == MAX_BLOCK or 2 * size * LEAST_BUFFERS > pool_bytes


def test_a_pool_that_holds_no_block_is_refused() -> None:
    with pytest.raises(LocalOtaError):
        pool_shape(MIN_BLOCK - 1)


@pytest.mark.parametrize("wrong", [False, -1, 255, 131_073, None])
def test_a_size_is_open_or_in_its_range(wrong: object) -> None:
    assert OtaConfig(block_size=0).download.block_size == 16_384
    with pytest.raises(LocalOtaError):
        OtaConfig(block_size=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("most", "silent", "sizes"),
    [(131_072, False, {16_384}), (1024, False, {16_384, 8192, 4096, 2048, 1024}), (4096, True, {16_384, 8192, 4096})],
)
def test_it_comes_down_to_what_is_accepted(most: int, silent: bool, sizes: set[int]) -> None:
    lab = Lab(image_size=50_000, config=OtaConfig(block_size=0), broker=lambda clock: Limited(clock, most, silent))
    job_id = lab.offer("2.0.0")
    lab.run()
    assert (lab.history(job_id)[-1].status.value, str(lab.bootloader.running)) == ("SUCCEEDED", "2.0.0")
    assert isinstance(lab.broker, Limited) and {size for size, _ in lab.broker.asked} == sizes
    assert lab.device.orchestrator.pool.in_use == 0


def test_the_code_decides_and_not_the_words() -> None:
    words = "the provider refused the request: Unauthorized: BlockSizeOutOfBounds"
    assert may_be_too_large(RemoteOtaError(words, reason="stream-block-size"), 8192, 0)
    assert not may_be_too_large(RemoteOtaError(words, reason="stream-rejected"), 8192, 0)


def test_a_fixed_size_is_not_changed() -> None:
    lab = Lab(image_size=50_000, config=OtaConfig(block_size=4096), broker=lambda clock: Limited(clock, 1024))
    job_id = lab.offer("2.0.0")
    lab.run()
    end = lab.history(job_id)[-1]
    assert (end.status.value, end.details["reason"].split(":")[1]) == ("FAILED", " stream-block-size")
    assert isinstance(lab.broker, Limited) and {size for size, _ in lab.broker.asked} == {4096}


def test_a_file_keeps_its_size_through_a_reset() -> None:
    lab = Lab(image_size=200_000, config=OtaConfig(block_size=0), broker=lambda clock: Limited(clock, 4096))
    assert isinstance(lab.broker, Limited)
    job_id = lab.offer("2.0.0")
    lab.run(until=lambda: lab.received >= 20)
    update = lab.device.orchestrator.update
    assert update is not None and update.received >= 20
    missing = {index for index in range(update.total) if index in update.downloader.missing}
    lab.broker.asked.clear()
    lab.device.boot(lab.clock.now())
    lab._reset_link()
    lab.run()
    assert lab.history(job_id)[-1].status.value == "SUCCEEDED"
    assert {size for size, _ in lab.broker.asked} == {4096}
    assert {index for _, index in lab.broker.asked} <= missing
