"""Every decoder against damaged input: it answers, or refuses by a RemoteOtaError; nothing else ever escapes.

usage: python tests/fuzzing.py [--target NAME] [--cases 1000000] [--seed 0]

Each case is a valid input with one to four mutations: bits flipped, parts cut out, doubled, or exchanged with another
input's, and values put in that decoders stumble over. The same seed makes the same cases.
"""

import argparse
import base64
import json
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from random import Random

from coreota.bootloader import McubootBootloader
from coreota.codec import CborCodec, Codec, DataBlock, DescribeStream, GetStream, JsonCodec, StreamDescription
from coreota.codec import StreamRejected as Rejected
from coreota.errors import LocalOtaError, OtaError, RemoteOtaError
from coreota.flash import NorFlash
from coreota.image import validate_image
from coreota.jobexecution import JobStatus
from coreota.jobmessages import match_topic
from coreota.jobs import JobsHandler
from coreota.journal import Journal
from coreota.parser import OtaJob, OtaParser, ota_document
from coreota.patch import HEAD_SIZE, Base, SequentialPatch
from coreota.provider.jobs import JobsService
from coreota.provider.streams import BytesContent, StreamsService
from coreota.signing import self_signed_certificate, signing_key_of
from coreota.sim.lab import boot_config, firmware, lab_key, update_file
from coreota.store import FlashStore
from coreota.topics import Message, json_object

MAX_GROWTH = 4_000_000  # Bytes that a decoder may have taken at its worst moment, for inputs of a few hundred


@dataclass(frozen=True)
class Target:
    """A decoder, valid inputs for it, and what it may raise."""

    name: str
    corpus: Sequence[bytes]
    decode: Callable[[bytes], object]  # May raise OtaError; returns something true where it accepted the input
    may_raise: type[OtaError] = RemoteOtaError


NASTY = [
    b"\x00", b"\xff", b"\x7f", b"\x80", b'"', b"{", b"}", b"[", b"null", b"true", b"-1", b"1e999", b"4294967296",
    b"9" * 400, b"NaN", b"\\u0000", b"\\ud800", b"[" * 2000, b'{"a":' * 500, b"\x9f" * 300, b"\x5b" + b"\xff" * 8,
    b"\xbb\x00\x00\x00\x01\x00\x00\x00\x00", b"\xc1\xc2", b"\xf9\x7e\x00", b"\xa1\x61\x66", b"\x5f\x41\x00\xff",
    b"\x1b" + b"\xff" * 8,
]  # fmt: skip


def mutated(data: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """A valid input after one to four accidents."""
    content = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 4))):
        at = random.randrange(len(content) + 1)
        length = random.choice((1, 1, 2, 4, 8, 64))
        kind = random.randrange(7)
        if kind == 0 and at < len(content):
            content[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            content[at : at + length] = b""
        elif kind == 2:
            content[at:at] = content[at : at + length]
        elif kind == 3:
            content[at : at + random.choice((0, length))] = random.choice(NASTY)
        elif kind == 4:
            other = random.choice(others)
            start = random.randrange(len(other) + 1)
            content[at:] = other[start:]
        elif kind == 5:
            content[at : at + length] = random.randbytes(length)
        else:
            content[at:] = b""
    return bytes(content)


def jobs_messages() -> Target:
    """Answers and notifications to a device that has asked every question there is."""
    execution = {
        "jobId": "AFR_OTA-v2", "status": "IN_PROGRESS", "versionNumber": 2, "executionNumber": 1, "queuedAt": 1,
        "startedAt": 2, "lastUpdatedAt": 3, "statusDetails": {"receive": "64/245"}, "jobDocument": {"afr_ota": {}},
    }  # fmt: skip
    summary = {"jobId": "j-1", "queuedAt": 1, "versionNumber": 1}
    bodies = {
        "notify": {"timestamp": 1, "jobs": {"QUEUED": [summary], "IN_PROGRESS": [summary]}},
        "notify-next": {"timestamp": 1, "execution": execution},
        "start-next/accepted": {"clientToken": "1", "timestamp": 1, "execution": execution},
        "start-next/rejected": {"clientToken": "1", "code": "RequestThrottled", "message": "slow", "timestamp": 1},
        "get/accepted": {"clientToken": "2", "inProgressJobs": [summary], "queuedJobs": []},
        "$next/get/accepted": {"clientToken": "3", "execution": execution},
        "AFR_OTA-v2/update/accepted": {"clientToken": "4", "executionState": {"status": "FAILED", "versionNumber": 4}},
        "AFR_OTA-v2/update/rejected": {
            "clientToken": "4", "code": "InvalidStateTransition", "executionState": {"status": "FAILED"},
        },
    }  # fmt: skip
    corpus = [topic.encode() + b"\n" + json.dumps(body).encode() for topic, body in bodies.items()]
    state = {"handler": JobsHandler("t"), "left": 0}

    def decode(data: bytes) -> object:
        handler = state["handler"]
        if state["left"] == 0 or not isinstance(handler, JobsHandler):
            handler = JobsHandler("t")
            handler.start_next(0.0)
            handler.get_pending(0.0)
            handler.describe(0.0)
            handler.update(0.0, "AFR_OTA-v2", JobStatus.FAILED)
            handler.messages_to_send(0.0)
            state.update(handler=handler, left=50)
        state["left"] = int(str(state["left"])) - 1
        topic, _, payload = data.partition(b"\n")
        handler.receive(Message("$aws/things/t/jobs/" + topic.decode(errors="replace"), payload), 0.0)
        return handler.next_event()

    return Target("jobs-messages", corpus, decode)


def topics() -> Target:
    names = ["notify", "notify-next", "start-next/accepted", "x/update/rejected", "$next/get/accepted", "get/accepted"]
    corpus = [f"$aws/things/thing-1/jobs/{name}".encode() for name in names]
    return Target("topics", corpus, lambda data: match_topic("thing-1", data.decode(errors="replace")))


def job_documents() -> Target:
    """What is accepted is written again, and read as the same."""
    entry = update_file(b"x" * 300, lab_key("job")).signature or b""
    file = {
        "filepath": "/a", "filesize": 1000, "fileid": 0, "certfile": "/c", "fileType": 1,
        "auth_scheme": "aws.s3.presigned", "update_data_url": "https://example.com/a",
        "sig-sha256-ecdsa": base64.b64encode(entry).decode(),
    }  # fmt: skip
    rsa = {"filepath": "/b", "filesize": "77", "fileid": 1, "certfile": "/c", "sig-sha256-rsa": "QUJD"}
    documents = [
        {"afr_ota": {"protocols": ["MQTT"], "streamname": "s-1", "files": [file]}},
        {"afr_ota": {"protocols": ["MQTT", "HTTP"], "streamname": "s-1", "files": [file, {**file, "fileid": 2}]}},
        {"afr_ota": {"protocols": ["MQTT"], "streamname": "s-1", "files": [rsa]}},
    ]

    def decode(data: bytes) -> object:
        job = OtaParser().parse(json_object(data))
        if isinstance(job, OtaJob):
            again = OtaParser().parse(json_object(json.dumps(ota_document(job)).encode()))
            assert again == job, (job, again)
        return job

    return Target("job-documents", [json.dumps(document).encode() for document in documents], decode)


def stream_messages(codec: Codec, kind: str) -> Target:
    """One message of the file streams; what is accepted is written again, and read as the same."""
    values: dict[str, list[object]] = {
        "get": [
            GetStream(0, 256, block_offset=3, count=4, bitmap=b"\x0f", token="7"),
            GetStream(4, 4096, block_offset=0, count=1, version=1),
        ],
        "data": [DataBlock(0, 5, b"abcd" * 64, "7"), DataBlock(255, 98_303, b"x")],
        "describe": [DescribeStream("7"), DescribeStream()],
        "description": [StreamDescription(1, "all of it", ((0, 1000), (1, 24_000_000)), "7")],
        "rejected": [Rejected("ResourceNotFound", "no such stream", "7"), Rejected("InternalError", "")],
    }
    encode, decode = getattr(codec, f"encode_{kind}"), getattr(codec, f"decode_{kind}")

    def both(data: bytes) -> object:
        value = decode(data)
        again = decode(encode(value))
        assert again == value, (value, again)
        return value

    return Target(f"{kind}-{codec.name}", [encode(value) for value in values[kind]], both)


def images() -> Target:
    """An image with any damage is refused, unless it is the same again."""
    image = firmware("2.0.0", 600)
    keys = [lab_key("image").public_key()]

    def decode(data: bytes) -> object:
        slot = data.ljust(4096, b"\xff")[:4096]
        validate_image(lambda offset, length: slot[offset : offset + length], 4096, 4096, keys)
        assert slot[: len(image)] == image, "an image was accepted that nobody signed"
        return True

    return Target("images", [image], decode)


def boots() -> Target:
    """Whatever lies in the two slots, trailers and all: a boot ends, and what it starts is an image that was signed."""
    config = boot_config(3000, sector_size=512, write_align=8)
    size = config.primary[1]
    images = {version: firmware(version, 600) for version in ("1.0.0", "2.0.0")}

    def content(command: str) -> bytes:
        flash = NorFlash(2 * size, 512)
        flash.write(0, images["1.0.0"].ljust(-(-len(images["1.0.0"]) // 8) * 8, b"\xff"))
        bootloader = McubootBootloader(flash, config, [lab_key("image").public_key()])
        bootloader.boot()
        bootloader.prepare(len(images["2.0.0"]))
        bootloader.write(0, images["2.0.0"])
        if command != "stored":
            bootloader.activate(permanent=command == "permanent")
        if command in ("tried", "confirmed"):
            bootloader.boot()
        if command == "confirmed":
            bootloader.confirm()
        return flash.read(0, 2 * size)

    def decode(data: bytes) -> object:
        storage = bytearray(data.ljust(2 * size, b"\xff")[: 2 * size])
        bootloader = McubootBootloader(
            NorFlash(2 * size, 512, storage=storage), config, [lab_key("image").public_key()]
        )
        result = bootloader.boot()
        if result.booted:
            assert bytes(storage[: len(images[str(result.version)])]) == images[str(result.version)]
            _ = bootloader.on_trial
        return result.booted

    commands = ("stored", "test", "permanent", "tried", "confirmed")
    return Target("boots", [content(command) for command in commands], decode)


def journals() -> Target:
    """Whatever lies in its area: it can be read, begun and written."""

    def content(count: int, done: int) -> bytes:
        flash = NorFlash(1024, 256, 1)
        journal = Journal(flash)
        journal.begin("AFR_OTA-v2", bytes(32), count)
        for block in range(done):
            journal.done(block)
        return flash.read(0, 1024)

    def decode(data: bytes) -> object:
        flash = NorFlash(1024, 256, 1, storage=bytearray(data.ljust(1024, b"\xff")[:1024]))
        journal = Journal(flash)
        found = journal.resume("AFR_OTA-v2", bytes(32), 40)
        journal.done(3)
        journal.tried()
        assert journal.begin("AFR_OTA-v2", bytes(32), 40)
        return found

    return Target("journals", [content(40, 0), content(40, 30), content(40, 100 % 41)], decode)


def stores() -> Target:
    """Whatever lies in its area: it has a content, and takes a new one."""
    file = update_file(b"x" * 100, lab_key("job"))
    job = OtaParser().parse({"afr_ota": {"protocols": ["MQTT"], "streamname": "s", "files": [{
        "filepath": "/a", "filesize": 100, "fileid": 0, "certfile": "/c",
        "sig-sha256-ecdsa": base64.b64encode(file.signature or b"").decode(),
    }]}})  # fmt: skip
    assert job is not None
    fresh = NorFlash(2048, 512)
    store = FlashStore(fresh)
    store.prepare(100)
    store.write(0, b"x" * 104)
    store.commit(job.files[0])

    def decode(data: bytes) -> object:
        flash = NorFlash(2048, 512, storage=bytearray(data.ljust(2048, b"\xff")[:2048]))
        store = FlashStore(flash)
        before = store.content()
        if not store.holds(job.files[0]):
            store.prepare(100)
            store.write(0, b"x" * 104)
            store.commit(job.files[0])
        return before

    return Target("stores", [fresh.read(0, 2048)], decode)


def certificates() -> Target:
    corpus = [self_signed_certificate(lab_key("job"), "test")]
    return Target("certificates", corpus, signing_key_of, LocalOtaError)


def provider_requests() -> Target:
    """What devices send to a provider; it answers, or says nothing, and goes on."""
    service, streams = JobsService(), StreamsService()
    service.create_job("j-1", {"a": 1}, ["t"], 0.0)
    streams.create_stream("s-1", {0: BytesContent(bytes(5000))})
    bodies = {
        "jobs/start-next": {"clientToken": "1", "stepTimeoutInMinutes": 5, "statusDetails": {"a": "b"}},
        "jobs/get": {"clientToken": "1"},
        "jobs/$next/get": {"clientToken": "1", "includeJobDocument": False, "executionNumber": 1},
        "jobs/j-1/update": {"clientToken": "1", "status": "IN_PROGRESS", "expectedVersion": "2"},
        "streams/s-1/get/json": {"c": "1", "s": 0, "f": 0, "l": 256, "o": 0, "n": 4, "b": "0x0f"},
        "streams/s-1/describe/json": {"c": "1"},
    }  # fmt: skip
    corpus = [topic.encode() + b"\n" + json.dumps(body).encode() for topic, body in bodies.items()]
    corpus.append(b"streams/s-1/get/cbor\n" + CborCodec().encode_get(GetStream(0, 256, block_offset=0, count=4)))

    def decode(data: bytes) -> object:
        topic, _, payload = data.partition(b"\n")
        message = Message("$aws/things/t/" + topic.decode(errors="replace"), payload)
        part = streams if topic.startswith(b"streams") else service
        part.receive(message, 1.0)
        answers = 0
        while answers < 64 and (sent := part.messages_to_send(1.0)):
            answers += len(sent)
        while service.next_event() is not None:
            pass
        return answers

    return Target("provider-requests", corpus, decode)


def patches() -> Target:
    """A patch with any damage, fed in pieces: the image, or a refusal; the base is read within its bounds only."""
    random = Random(5)
    words = [random.randbytes(6) for _ in range(40)]
    old = b"".join(random.choice(words) for _ in range(120))
    new = old[:200] + b"another constant" + old[260:500] + old[40:120] + random.randbytes(30) + old[500:]
    corpus = [SequentialPatch(name).make(old, new) for name in ("lzma", "heatshrink", "none")]

    def read(offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= len(old), (offset, length)
        return old[offset : offset + length]

    def decode(data: bytes) -> object:
        applier = SequentialPatch().applier(Base(len(old), sha256(old).digest(), read), len(new))
        made = bytearray()
        for at in range(0, len(data), 97):
            for piece in applier.feed(data[at : at + 97]):
                made += piece
                assert len(made) <= len(new), "more than was asked for"
        applier.finish()
        assert made == new, "an image was accepted that the patch does not make"
        return True

    return Target("patches", corpus, decode)


def patch_streams() -> Target:
    """The same behind a good head: what the damage hits is the stream."""
    whole = patches()
    head = whole.corpus[0][:HEAD_SIZE]
    return Target("patch-streams", [one[HEAD_SIZE:] for one in whole.corpus], lambda data: whole.decode(head + data))


def targets() -> dict[str, Target]:
    """All of them, by name."""
    kinds = ("get", "data", "describe", "description", "rejected")
    found = [jobs_messages(), topics(), job_documents(), images(), boots(), journals(), stores(), certificates()]
    found += [stream_messages(codec, kind) for codec in (CborCodec(), JsonCodec()) for kind in kinds]
    found += [provider_requests(), patches(), patch_streams()]
    return {target.name: target for target in found}


def fuzz(target: Target, cases: int, seed: int) -> int:
    """Run so many cases; how many were accepted. What escapes is raised again, with the input."""
    accepted = 0
    random = Random(f"{target.name} {seed}")
    for case in range(cases):
        data = mutated(random.choice(target.corpus), target.corpus, random)
        try:
            accepted += bool(target.decode(data))
        except target.may_raise:
            pass
        except Exception as error:
            raise AssertionError(f"{target.name}, case {case} of seed {seed}, input {data!r}") from error
    return accepted


def worst_growth(target: Target, cases: int, seed: int) -> int:
    """Bytes that were taken at the worst moment of so many cases."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        fuzz(target, cases, seed)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=sorted(targets()), action="append")
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name, target in targets().items():
        if arguments.target and name not in arguments.target:
            continue
        began = time.perf_counter()
        accepted = fuzz(target, arguments.cases, arguments.seed)
        rate = arguments.cases / (time.perf_counter() - began)
        print(f"{name:20} {arguments.cases:9} cases, {accepted:8} accepted, {rate:9.0f} a second", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
