"""A device's memory does not grow with the image: the same peak for 64 KiB and for 64 MiB."""

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import cbor2

from coreota.blocks import block_count
from coreota.bootloader import BootConfig, McubootBootloader
from coreota.codec import CborCodec, DataBlock, StreamTopics
from coreota.config import OtaConfig
from coreota.flash import FlashArea, padded
from coreota.flashfile import FileFlash
from coreota.journal import Journal, journal_size
from coreota.orchestrator import Orchestrator
from coreota.provider.ota import UpdateFile, ota_document
from coreota.signing import CertificateVerifier, self_signed_certificate
from coreota.sim.lab import boot_config, firmware, lab_key
from coreota.states import State
from coreota.topics import Message

THING, JOB = "pump-7", "AFR_OTA-big"


class FileContent:
    """An update's content in a file, read where it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, path.stat().st_size

    def read(self, offset: int, length: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(length)


class Counterpart:
    """Just enough of a provider to answer one device, so that only the device's memory is measured."""

    def __init__(self, content: FileContent) -> None:
        self.content, self.codec = content, CborCodec()
        self.topics = StreamTopics(THING, JOB, "cbor")
        file = UpdateFile("/app", content, "/cert.pem", private_key=lab_key("job"))
        self.document = ota_document(JOB, [file], ["MQTT"])

    def answers(self, message: Message) -> Iterator[Message]:
        """What comes back for a request."""
        if message.topic == self.topics.get:
            wanted = cbor2.loads(
                message.payload
            )  # the codec's decoder leaves cycles behind, and they would count as the device's
            bits, size = int.from_bytes(wanted["b"], "little"), wanted["l"]
            for number in range(bits.bit_length()):
                if bits >> number & 1:
                    index = wanted["o"] + number
                    data = self.content.read(index * size, size)
                    yield Message(self.topics.data, self.codec.encode_data(DataBlock(0, index, data)))
            return
        answer = {"clientToken": json.loads(message.payload)["clientToken"], "timestamp": 1}
        if message.topic.endswith("/start-next"):
            answer["execution"] = {
                "jobId": JOB, "status": "IN_PROGRESS", "versionNumber": 1, "jobDocument": self.document,
            }  # fmt: skip
        yield Message(message.topic + "/accepted", json.dumps(answer).encode())


def flash_of(path: Path, config: BootConfig) -> FileFlash:
    """A flash in a file, with 1.0.0 in its first slot; what it counts for its user is not the device's memory."""
    slots = 2 * config.primary[1]
    flash = FileFlash(path, slots + journal_size(block_count(config.primary[1], 4096)))
    flash.write(0, padded(firmware("1.0.0", 1000), 8))
    return flash


def device(flash: FileFlash, config: BootConfig, ota: OtaConfig) -> Orchestrator:
    """A device over this flash, booted."""
    slots = 2 * config.primary[1]
    bootloader = McubootBootloader(flash, config, [lab_key("image").public_key()])
    bootloader.boot()
    verifier = CertificateVerifier({"/cert.pem": self_signed_certificate(lab_key("job"), "test")})
    area = FlashArea(flash, slots, flash.size - slots)
    return Orchestrator(THING, bootloader, verifier, config=ota, journal=Journal(area))


def peak_of_an_update(folder: Path, size: int) -> int:
    """Bytes that the device allocated at the worst moment, from its start to the verified image."""
    folder.mkdir()
    image = folder / "image"
    image.write_bytes(firmware("2.0.0", size - 1024))
    counterpart = Counterpart(FileContent(image))
    flash = flash_of(folder / "flash", boot_config(size))
    tracemalloc.start()
    try:
        orchestrator = device(flash, boot_config(size), OtaConfig(status_every=1_000_000))
        orchestrator.connected(0.0)
        while orchestrator.state is not State.ACTIVATING:
            for outgoing in orchestrator.messages_to_send(0.0):
                if isinstance(outgoing, Message):
                    for answer in counterpart.answers(outgoing):
                        orchestrator.receive(answer, 0.0)
                        while orchestrator.next_event():
                            pass
        assert orchestrator.pool.in_use == 0
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        flash.close()


def test_the_peak_is_the_same_for_64_kib_and_64_mib(tmp_path: Path) -> None:
    peak_of_an_update(tmp_path / "warm-up", 64 * 1024)
    small = peak_of_an_update(tmp_path / "small", 64 * 1024)
    large = peak_of_an_update(tmp_path / "large", 64 * 1024 * 1024)
    assert small < 1_000_000
    assert abs(large - small) < 0.05 * small, f"{small} bytes for 64 KiB, {large} bytes for 64 MiB"
