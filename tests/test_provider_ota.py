"""An OTA update made by the provider, read by the device's own parser, and fetched whole."""

import json
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256

from coreota.codec import GetStream, codec_named
from coreota.errors import LocalOtaError
from coreota.jobs import JobsHandler, JobsNotified, JobStarted, JobStatus, JobUpdated, NextJobChanged
from coreota.parser import OtaJob, OtaParser, SignatureAlgorithm
from coreota.provider.lifecycle import ExecutionChanged
from coreota.provider.ota import UpdateFile, UpdateProvider, ota_document, pieces
from coreota.provider.streams import BytesContent
from coreota.signing import new_signing_key
from coreota.topics import Endpoint, Message, Subscribe
from coreota.transport import LocalBroker, LocalTransport, VirtualClock, simulate

KEY = new_signing_key()
P384 = ec.generate_private_key(ec.SECP384R1())
IMAGE = bytes(i * 7 % 256 for i in range(300_000))


def signed(**members: Any) -> UpdateFile:
    given: dict[str, Any] = {
        "path": "/device", "content": BytesContent(IMAGE), "certfile": "/cert.pem", "signature": b"sig", **members
    }  # fmt: skip
    return UpdateFile(**given)


def sent(provider: UpdateProvider, now: float = 0) -> list[Message]:
    return [one for one in provider.messages_to_send(now) if isinstance(one, Message)]


def test_whole_update() -> None:
    provider = UpdateProvider()
    file = signed(signature=None, private_key=KEY)
    job_id = provider.create_ota_update("u1", ["lamp"], [file], now=100)
    assert job_id == "AFR_OTA-u1"
    assert [one.topic.split("/jobs/")[1] for one in sent(provider)] == ["notify", "notify-next"]
    provider.receive(Message("$aws/things/lamp/jobs/start-next", b""), 101)
    (reply,) = sent(provider)
    job = OtaParser().parse(json.loads(reply.payload)["execution"]["jobDocument"])
    assert isinstance(job, OtaJob)
    assert (job.protocols, job.stream) == (("MQTT",), "AFR_OTA-u1")
    (described,) = job.files
    assert (described.file_id, described.path, described.size) == (0, "/device", 300_000)
    assert (described.certfile, described.signature_algorithm) == ("/cert.pem", SignatureAlgorithm.SHA256_ECDSA)
    assert described.file_type is None
    image, cbor = b"", codec_named("cbor")
    while len(image) < described.size:
        request = GetStream(file_id=0, block_size=4096, block_offset=len(image) // 4096, count=32)
        provider.receive(Message(f"$aws/things/lamp/streams/{job.stream}/get/cbor", cbor.encode_get(request)), 102)
        image += b"".join(bytes(cbor.decode_data(one.payload).payload) for one in sent(provider))
    assert image == IMAGE
    KEY.public_key().verify(described.signature, image, ECDSA(SHA256()))
    with pytest.raises(InvalidSignature):
        KEY.public_key().verify(described.signature, image[:-1] + b"!", ECDSA(SHA256()))
    provider.receive(Message(f"$aws/things/lamp/jobs/{job_id}/update", b'{"status":"SUCCEEDED"}'), 103)
    events = list(iter(provider.next_event, None))
    changes = [event for event in events if isinstance(event, ExecutionChanged)]
    assert [event.status for event in changes] == [JobStatus.QUEUED, JobStatus.IN_PROGRESS, JobStatus.SUCCEEDED]
    assert provider.jobs.pending("lamp") == []


def test_our_jobs_handler_over_a_broker() -> None:
    """Both ends as they will run: requests, replies and notifications pass through subscriptions only."""
    clock = VirtualClock(1000.0)
    broker = LocalBroker(clock)
    provider, device = UpdateProvider(), JobsHandler("lamp")
    parts: list[tuple[Endpoint, LocalTransport]] = [
        (provider, broker.connect("provider")),
        (device, broker.connect("lamp")),
    ]
    device.subscribe()
    simulate(parts, clock, lambda: False, clock.now() + 1, idle=True)
    job_id = provider.create_ota_update("u1", ["lamp"], [signed()], clock.now())
    simulate(parts, clock, lambda: False, clock.now() + 1, idle=True)
    kinds = [type(event) for event in iter(device.next_event, None)]
    assert kinds == [JobsNotified, NextJobChanged]
    device.start_next(clock.now())
    simulate(parts, clock, lambda: False, clock.now() + 1, idle=True)
    (started,) = iter(device.next_event, None)
    assert isinstance(started, JobStarted)
    assert (started.execution.job_id, started.execution.version_number) == (job_id, 2)
    device.update(clock.now(), job_id, JobStatus.SUCCEEDED, expected_version=2)
    simulate(parts, clock, lambda: False, clock.now() + 1, idle=True)
    kinds = [type(event) for event in iter(device.next_event, None)]
    assert kinds == [JobUpdated, JobsNotified, NextJobChanged]
    assert provider.jobs.history(job_id, "lamp")[-1].status is JobStatus.SUCCEEDED


def test_connected_subscribes_to_both() -> None:
    provider = UpdateProvider()
    provider.connected(0)
    assert provider.messages_to_send(0) == [
        Subscribe(f"$aws/things/+/{rest}")
        for rest in (
            "jobs/get", "jobs/start-next", "jobs/+/get", "jobs/+/update", "streams/+/get/+", "streams/+/describe/+"
        )
    ]  # fmt: skip


def test_only_targets_read_the_stream() -> None:
    provider, cbor = UpdateProvider(), codec_named("cbor")
    provider.create_ota_update("u1", ["lamp"], [signed()], now=0)
    sent(provider)
    request = cbor.encode_get(GetStream(file_id=0, block_size=4096, block_offset=0, count=1))
    provider.receive(Message("$aws/things/door/streams/AFR_OTA-u1/get/cbor", request), 0)
    (refused,) = sent(provider)
    assert cbor.decode_rejected(refused.payload).code == "Unauthorized"


def test_document_of_many_files_and_both_protocols() -> None:
    rsa, small = SignatureAlgorithm.SHA256_RSA, BytesContent(b"x")
    files = [
        signed(url="https://example.com/a", file_type=3),
        signed(url="https://example.com/b", file_id=255, algorithm=rsa, content=small),
    ]
    document = ota_document("s1", files, ["MQTT", "HTTP"])
    assert document == {
        "afr_ota": {
            "protocols": ["MQTT", "HTTP"],
            "streamname": "s1",
            "files": [
                {
                    "filepath": "/device", "filesize": 300_000, "fileid": 0, "certfile": "/cert.pem",
                    "sig-sha256-ecdsa": "c2ln", "fileType": 3,
                    "auth_scheme": "aws.s3.presigned", "update_data_url": "https://example.com/a",
                },
                {
                    "filepath": "/device", "filesize": 1, "fileid": 255, "certfile": "/cert.pem",
                    "sig-sha256-rsa": "c2ln",
                    "auth_scheme": "aws.s3.presigned", "update_data_url": "https://example.com/b",
                },
            ],
        }
    }  # fmt: skip
    job = OtaParser().parse(document)
    assert isinstance(job, OtaJob)
    assert [(one.file_id, one.file_type, one.update_data_url) for one in job.files] == [
        (0, 3, "https://example.com/a"),
        (255, None, "https://example.com/b"),
    ]


def test_http_alone_makes_no_stream() -> None:
    provider = UpdateProvider()
    job_id = provider.create_ota_update("u1", ["lamp"], [signed(url="https://example.com/a")], 0, protocols=["HTTP"])
    assert "streamname" not in provider.jobs.job(job_id).document["afr_ota"]
    with pytest.raises(LocalOtaError, match="no stream"):
        provider.streams.delete_stream(job_id)


@pytest.mark.parametrize(
    ("update_id", "targets", "files", "protocols", "message"),
    [
        ("x" * 57, ["lamp"], [signed()], ["MQTT"], "job id"),
        ("", ["lamp"], [signed()], ["MQTT"], "job id"),
        ("u", ["lamp"], [], ["MQTT"], "no files"),
        ("u", ["lamp"], [signed(), signed()], ["MQTT"], "two with one id"),
        ("u", ["lamp"], [signed()], [], "protocols"),
        ("u", ["lamp"], [signed()], ["FTP"], "protocols"),
        ("u", ["lamp"], [signed()], ["HTTP"], "url"),
        ("u", ["lamp"], [signed(signature=None)], ["MQTT"], "who signs"),
        ("u", ["lamp"], [signed(private_key=KEY)], ["MQTT"], "who signs"),
        ("u", ["lamp"], [signed(signature=b"")], ["MQTT"], "who signs"),
        ("u", ["lamp"], [signed(signature=None, private_key=P384)], ["MQTT"], "P-256"),
        ("u", ["lamp"], [signed(path="")], ["MQTT"], "a path"),
        ("u", ["lamp"], [signed(certfile="")], ["MQTT"], "certificate"),
        ("u", ["lamp"], [signed(file_id=256)], ["MQTT"], "0 to 255"),
        ("u", ["lamp"], [signed(file_type=-1)], ["MQTT"], "0 to 255"),
        ("u", ["lamp"], [signed(content=BytesContent(b""))], ["MQTT"], "0 bytes"),
        ("u", [], [signed()], ["MQTT"], "no targets"),
        ("u", ["la mp"], [signed()], ["MQTT"], "thing name"),
        ("u", ["lamp"], [signed(path="x" * 40_000)], ["MQTT"], "job document"),
    ],
)
def test_an_update_that_cannot_be_leaves_nothing(
    update_id: str, targets: list[str], files: list[UpdateFile], protocols: list[str], message: str
) -> None:
    provider = UpdateProvider()
    with pytest.raises(LocalOtaError, match=message):
        provider.create_ota_update(update_id, targets, files, 0, protocols)
    assert provider.messages_to_send(0) == []
    provider.create_ota_update("u", ["lamp"], [signed()], 0)


def test_an_update_id_is_used_once() -> None:
    provider = UpdateProvider()
    provider.create_ota_update("u", ["lamp"], [signed()], 0)
    with pytest.raises(LocalOtaError, match="already"):
        provider.create_ota_update("u", ["lamp"], [signed()], 0)
    provider.streams.create_stream("AFR_OTA-v", {0: BytesContent(b"x")})
    with pytest.raises(LocalOtaError, match="already"):
        provider.create_ota_update("v", ["lamp"], [signed()], 0)
    with pytest.raises(LocalOtaError, match="no job"):
        provider.jobs.job("AFR_OTA-v")


def test_signing_reads_in_pieces() -> None:
    class Counted(BytesContent):
        longest = 0

        def read(self, offset: int, length: int) -> bytes:
            Counted.longest = max(Counted.longest, length)
            return super().read(offset, length)

    content = Counted(IMAGE)
    assert b"".join(pieces(content)) == IMAGE
    provider = UpdateProvider()
    provider.create_ota_update("u", ["lamp"], [signed(content=content, signature=None, private_key=KEY)], 0)
    assert Counted.longest == 65536


def test_disconnected_forgets() -> None:
    provider = UpdateProvider()
    provider.create_ota_update("u", ["lamp"], [signed()], 0)
    provider.disconnected(0)
    assert provider.messages_to_send(0) == []
    assert provider.get_timer() is None
    provider.handle_timer(0)
