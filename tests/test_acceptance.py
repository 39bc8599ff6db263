"""AWS's own end-to-end suite and Uptane's attacks, a test for each name, over the in-memory broker on virtual time."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from coreota.bootloader import McubootBootloader
from coreota.codec import CborCodec, DataBlock, StreamTopics
from coreota.config import OtaConfig
from coreota.counter import FlashCounter
from coreota.flash import NorFlash
from coreota.image import Hardware, Version, make_image
from coreota.provider.ota import UpdateFile, ota_document
from coreota.provider.streams import BytesContent
from coreota.sim.lab import Lab as Laboratory
from coreota.sim.lab import firmware, install, lab_key, noise, update_file
from coreota.sim.link import LossyLink
from coreota.sim.web import LocalWeb
from coreota.states import JobFinished, State, StateChanged, Trigger, UpdateStarted
from coreota.store import FlashStore
from coreota.topics import Message, Outgoing
from coreota.transport import PerfectLink

Told = tuple[str, str]  # A job's last status, and its reason


class Lab(Laboratory):
    """A laboratory whose updates come the way that is tried: over MQTT, over HTTP, or as a patch."""

    way = "MQTT"

    def __init__(self, **options: Any) -> None:
        if self.way == "HTTP":
            options.setdefault("web", LocalWeb(delay=0.1))
        if self.way == "patch":
            options = {"patches": True, "config": OtaConfig(block_size=256, blocks_per_request=4), **options}
        super().__init__(**options)

    def offer(self, version: str, **options: Any) -> str:
        if self.way == "HTTP" and self.web is not None:
            options.setdefault("protocols", ("HTTP",))
        if self.way == "patch" and self.patches and "image" not in options:  # enough changes for some dozen blocks
            payload = noise(min(8000, self.image_size), version) + self.running_image()[8032 : 32 + self.image_size]
            options["image"] = firmware(version, 0, payload, hardware=self.hardware)
        return super().offer(version, **options)


def slow() -> LossyLink:
    """A link on which a block of 4 KiB takes a twelfth of a second."""
    return LossyLink(1, delay=0.01, bandwidth=50_000)


def last(lab: Lab, job_id: str) -> Told:
    """How a job ended."""
    change = lab.history(job_id)[-1]
    return change.status.value, change.details.get("reason", "")


def runs(lab: Lab) -> tuple[str, bool]:
    """Which version runs, and whether it is there to stay."""
    return str(lab.bootloader.running), not lab.bootloader.on_trial


def updated(lab: Lab, version: str = "2.0.0") -> None:
    """A good update, from the offer to the end."""
    job_id = lab.offer(version)
    lab.run()
    assert last(lab, job_id) == ("SUCCEEDED", f"accepted v{version}")
    assert runs(lab) == (version, True)


def refused(lab: Lab, job_id: str, reason: str) -> None:
    """The job fails for this reason; the old image runs, and not one reset was needed to find out."""
    lab.run()
    status, text = last(lab, job_id)
    assert (status, text[: len(reason)]) == ("FAILED", reason)
    assert (*runs(lab), lab.device.boots) == ("1.0.0", True, 1)
    assert lab.device.orchestrator.pool.in_use == 0
    if lab.web is not None:
        lab.web.lifetime = 3600.0  # whatever was wrong with its addresses
    updated(lab, "9.0.0")  # and it does no harm to the next one


def offered(lab: Lab, files: Sequence[UpdateFile], update_id: str = "made") -> str:
    """An update made of these files."""
    return lab.provider.create_ota_update(update_id, [lab.thing], files, lab.clock.now())


def greater_version() -> None:
    updated(Lab())


def min_block_config() -> None:
    updated(Lab(image_size=3000, config=OtaConfig(block_size=256, blocks_per_request=1, pool_blocks=1)))


def max_block_config() -> None:
    updated(Lab(image_size=300_000, config=OtaConfig(block_size=131_072, pool_blocks=1)))


def back_to_back_downloads() -> None:
    lab = Lab()
    for version in ("2.0.0", "3.0.0"):
        updated(lab, version)


def default_data_protocol() -> None:
    """The job offers both protocols; the preferred one is used, and the other not at all."""
    for protocols, over_http in ((("MQTT", "HTTP"), False), (("HTTP", "MQTT"), True)):
        lab = Lab(web=LocalWeb(), config=OtaConfig(protocols=protocols))
        job_id = lab.offer("2.0.0", protocols=("MQTT", "HTTP"))
        lab.run()
        assert last(lab, job_id) == ("SUCCEEDED", "accepted v2.0.0")
        streamed = any("/streams/" in entry[3].topic for entry in lab.broker.log)
        assert lab.web is not None
        assert (lab.web.requests > 0, streamed) == (over_http, not over_http)


def back_to_back_switch_protocol() -> None:
    """One update over MQTT, the next over HTTP, the next over MQTT."""
    lab = Lab(web=LocalWeb(delay=0.01))
    for version, protocol in (("2.0.0", "MQTT"), ("3.0.0", "HTTP"), ("4.0.0", "MQTT")):
        job_id = lab.offer(version, protocols=(protocol,))
        lab.run()
        assert (last(lab, job_id), runs(lab)) == (("SUCCEEDED", f"accepted v{version}"), (version, True))


def presigned_url_expired() -> None:
    """The address is too old when the device is back: it asks the job for a fresh one, and goes on."""
    web = LocalWeb(delay=0.1, lifetime=600.0)
    lab = Lab(image_size=60_000, web=web, config=OtaConfig(block_size=512, blocks_per_request=4))
    job_id = lab.offer("2.0.0", protocols=("HTTP",))
    lab.run(until=lambda: lab.received >= 8)
    lab.device.orchestrator.suspend(lab.clock.now())
    lab.run_for(3600)
    update = lab.device.orchestrator.update
    lab.device.orchestrator.resume(lab.clock.now())
    lab.run()
    assert update is not None
    assert last(lab, job_id) == ("SUCCEEDED", "accepted v2.0.0")
    total = next(event.missing for event in lab.device.events if isinstance(event, UpdateStarted))
    assert sum(type(event).__name__ == "Progress" for event in lab.device.events) == total
    web = LocalWeb(lifetime=0.0)  # every address is too old at once: asked again once, then the job has failed
    lab = Lab(web=web)
    refused(lab, lab.offer("2.0.0", protocols=("HTTP",)), "rejected: url-expired: the server answered status 403")


def disconnect_resume() -> None:
    lab = Lab(image_size=100_000, link=slow())
    job_id = lab.offer("2.0.0")
    lab.run(until=lambda: lab.received >= 10)
    lab.cut_link()
    lab.run_for(3600)
    lab.restore_link()
    lab.run()
    assert last(lab, job_id) == ("SUCCEEDED", "accepted v2.0.0")
    total = next(event.missing for event in lab.device.events if isinstance(event, UpdateStarted))
    assert sum(type(event).__name__ == "Progress" for event in lab.device.events) == total  # no block came twice
    assert total == {"patch": 33}.get(lab.way, 25)


def disconnect_cancel_update() -> None:
    """The job is cancelled while the device is away; back, it drops the download and takes the next job."""
    lab = Lab(image_size=100_000, link=slow())
    job_id = lab.offer("2.0.0")
    lab.run(until=lambda: lab.received >= 10)
    lab.cut_link()
    lab.run_for(10)
    lab.provider.jobs.cancel_job(job_id, lab.clock.now(), force=True)
    lab.restore_link()
    lab.run()
    assert last(lab, job_id)[0] == "CANCELED"
    assert runs(lab) == ("1.0.0", True)
    updated(lab, "3.0.0")


def cancel_then_update() -> None:
    lab = Lab(image_size=100_000, link=slow())
    job_id = lab.offer("2.0.0")
    lab.run(until=lambda: lab.received >= 10)
    lab.provider.jobs.cancel_job(job_id, lab.clock.now(), force=True)
    updated(lab, "3.0.0")
    assert last(lab, job_id)[0] == "CANCELED"


def two_updates_cancel_first() -> None:
    lab = Lab(image_size=100_000, link=slow())
    first, second = lab.offer("2.0.0"), lab.offer("3.0.0")
    lab.run(until=lambda: lab.received >= 10)
    lab.provider.jobs.cancel_job(first, lab.clock.now(), force=True)
    lab.run()
    assert (last(lab, first)[0], last(lab, second)) == ("CANCELED", ("SUCCEEDED", "accepted v3.0.0"))
    assert runs(lab) == ("3.0.0", True)


def same_version() -> None:
    lab = Lab()
    refused(lab, lab.offer("1.0.0"), "rejected: same-version: ")


def previous_version() -> None:
    lab = Lab()
    refused(lab, lab.offer("0.9.0"), "rejected: downgrade: ")


def unsigned_image() -> None:
    """No signature in the job; and a job that is signed for an image that isn't."""
    lab = Lab()
    document = ota_document("s", [update_file(firmware("2.0.0", 9000), lab_key("job"))], ["MQTT"])
    del document["afr_ota"]["files"][0]["sig-sha256-ecdsa"]
    lab.provider.jobs.create_job("unsigned", document, [lab.thing], lab.clock.now())
    refused(lab, "unsigned", "rejected: document-invalid: the OTA job document has no usable signature")
    lab = Lab()
    image = firmware("2.0.0", 9000)
    bare = (
        image[: 32 + 9000] + bytes.fromhex("07694000") + image[32 + 9004 : 32 + 9004 + 36]
    )  # all but the hash cut off
    refused(lab, offered(lab, [update_file(bare, lab_key("job"))]), "rejected: image-")


def untrusted_certificate() -> None:
    lab = Lab()
    refused(lab, lab.offer("2.0.0", fault="wrong-key"), "rejected: signature-mismatch: ")
    lab = Lab()
    good = update_file(firmware("2.0.0", 9000), lab_key("job"))
    file = UpdateFile(good.path, good.content, "/somebody.pem", signature=good.signature)
    refused(lab, offered(lab, [file]), "rejected: certificate-unknown: ")


def corrupt_signature() -> None:
    lab = Lab()
    refused(lab, lab.offer("2.0.0", fault="corrupt-signature"), "rejected: signature-mismatch: ")


def corrupt_image_before_signing() -> None:
    """The job's signature is right, over a broken image: the bootloader's own check finds it, before the reset."""
    lab = Lab()
    image = bytearray(firmware("2.0.0", 9000))
    image[5000] ^= 1
    refused(lab, lab.offer("2.0.0", image=bytes(image)), "rejected: image-")


def corrupt_image_after_signing() -> None:
    lab = Lab()
    refused(lab, lab.offer("2.0.0", fault="corrupt-image"), "rejected: signature-mismatch: ")


def incorrect_platform() -> None:
    """A good image, signed by its maker, for another of the maker's devices; and a program that is no image at all."""
    pump, valve = Hardware("acme.example", "pump-7"), Hardware("acme.example", "valve-2")
    for other in (valve, Hardware("other.example", "pump-7"), None):
        lab = Lab(hardware=pump)
        image = firmware("2.0.0", 9000, hardware=other)
        refused(lab, lab.offer("2.0.0", image=image), "rejected: hardware-mismatch: the image is not for hardware of ")
    lab = Lab()
    elf = b"\x7fELF" + bytes(20_000)
    refused(lab, lab.offer("2.0.0", image=elf), "rejected: image-magic: the image begins with 0x464c457f")


def single_byte_image() -> None:
    lab = Lab()
    refused(lab, lab.offer("2.0.0", image=b"\x00"), "rejected: image-magic: ")


def missing_filename() -> None:
    lab = Lab()
    document = ota_document("s", [update_file(firmware("2.0.0", 9000), lab_key("job"))], ["MQTT"])
    del document["afr_ota"]["files"][0]["filepath"]
    lab.provider.jobs.create_job("nameless", document, [lab.thing], lab.clock.now())
    refused(lab, "nameless", "rejected: document-invalid: the OTA job document has no usable filepath: missing")


def rollback_if_unable_to_connect() -> None:
    """The new image never comes online: its time ends, the old one comes back, and says why."""
    lab = Lab()
    job_id = lab.offer("2.0.0")
    lab.run(until=lambda: lab.device.boots == 2)
    assert runs(lab) == ("2.0.0", False)
    booted = lab.clock.now()
    lab.cut_link()
    lab.device.reset_link = lambda: None
    lab.run(until=lambda: lab.device.boots == 3)
    assert (lab.clock.now(), *runs(lab)) == (booted + OtaConfig().self_test_timeout, "1.0.0", True)
    lab.restore_link()
    lab.run()
    assert last(lab, job_id) == ("FAILED", "rejected: image-state-mismatch: 1.0.0 runs")
    assert lab.device.boots == 3  # no second trial: the first one was no accident


SCENARIOS: dict[str, Callable[[], None]] = {
    "GreaterVersion": greater_version,
    "GreaterVersionMinBlockConfig": min_block_config,
    "GreaterVersionMaxBlockConfig": max_block_config,
    "DefaultDataProtocol": default_data_protocol,
    "BackToBackDownloads": back_to_back_downloads,
    "BackToBackSwitchProtocol": back_to_back_switch_protocol,
    "DisconnectResume": disconnect_resume,
    "DisconnectCancelUpdate": disconnect_cancel_update,
    "CancelThenUpdate": cancel_then_update,
    "TwoUpdatesCancelFirst": two_updates_cancel_first,
    "SameVersion": same_version,
    "PreviousVersion": previous_version,
    "UnsignedImage": unsigned_image,
    "UntrustedCertificate": untrusted_certificate,
    "CorruptSignature": corrupt_signature,
    "CorruptImageBeforeSigning": corrupt_image_before_signing,
    "CorruptImageAfterSigning": corrupt_image_after_signing,
    "IncorrectPlatform": incorrect_platform,
    "SingleByteImage": single_byte_image,
    "MissingFilename": missing_filename,
    "PresignedUrlExpired": presigned_url_expired,
    "RollbackIfUnableToConnectAfterUpdate": rollback_if_unable_to_connect,
}


@pytest.mark.parametrize("way", ["MQTT", "HTTP", "patch"])
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_acceptance(scenario: Callable[[], None], way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lab, "way", way)
    scenario()


class Mallory(PerfectLink):
    """A link that somebody sits on, who loses or delays what he likes."""

    def __init__(self, times: Callable[[Message, float], Sequence[float]]) -> None:
        self.times = times

    def deliveries(self, message: Message, now: float) -> Sequence[float]:
        return self.times(message, now)


class Flood:
    """A client that publishes to one of the device's topics for as long as it likes."""

    def __init__(self, messages: Sequence[Message], every: float) -> None:
        self.messages, self.every, self.sent, self.at = messages, every, 0, 0.0

    def receive(self, message: Message, now: float) -> None: ...

    def messages_to_send(self, now: float) -> list[Outgoing]:
        if now < self.at:
            return []
        self.at = now + self.every
        self.sent += 1
        return [self.messages[self.sent % len(self.messages)]]

    def get_timer(self) -> float:
        return self.at

    def handle_timer(self, now: float) -> None: ...


def drop_request() -> None:
    """Every request of the device is dropped for an hour: it keeps asking, and updates when they get through."""

    def times(message: Message, now: float) -> Sequence[float]:
        return () if now < 3600 and message.topic.endswith(("start-next", "get/cbor")) else (now,)

    lab = Lab(link=Mallory(times))
    job_id = lab.offer("2.0.0")
    lab.run_for(3600)
    assert lab.device.orchestrator.state is State.REQUESTING_JOB
    assert lab.device.orchestrator.heard_at is None
    lab.run(limit=7200)
    assert (last(lab, job_id)[0], runs(lab)) == ("SUCCEEDED", ("2.0.0", True))


def slow_retrieval() -> None:
    """One small block every half hour: alive enough for every timer but the one that looks at the rate."""
    state = {"next": 0.0}

    def times(message: Message, now: float) -> Sequence[float]:
        if not message.topic.endswith("data/cbor"):
            return (now,)
        if now < state["next"]:
            return ()
        state["next"] = now + 60
        return (now,)

    lab = Lab(image_size=100_000, link=Mallory(times), config=OtaConfig(block_size=256, rate_period=600.0))
    job_id = lab.offer("2.0.0")
    lab.run(limit=1e6)
    status, reason = last(lab, job_id)
    assert (status, reason[:28]) == ("FAILED", "rejected: download-too-slow:")
    assert lab.clock.now() == 600.0
    assert runs(lab) == ("1.0.0", True)


def freeze() -> None:
    """Nothing reaches the device any more: it goes on asking, and its owner can see since when it is deaf."""
    frozen = {"is": False}
    lab = Lab(link=Mallory(lambda message, now: () if frozen["is"] else (now,)), config=OtaConfig(poll_interval=900.0))
    lab.run()
    frozen["is"] = True
    job_id = lab.offer("2.0.0")
    lab.run_for(86_400)
    orchestrator = lab.device.orchestrator
    assert orchestrator.heard_at == 0.0
    asked = [e for e in lab.device.events if isinstance(e, StateChanged) and e.trigger is Trigger.ASK_AGAIN]
    assert len(asked) == 1 + (86_400 - 900) // 310
    frozen["is"] = False
    lab.run(until=lambda: last(lab, job_id)[0] == "SUCCEEDED", limit=86_400)
    assert runs(lab) == ("2.0.0", True)


def two_files(lab: Lab, table: bytes, *, forged: bool) -> list[UpdateFile]:
    """A firmware, and beside it a table of another type."""
    key = lab_key("somebody else's" if forged else "job")
    return [
        UpdateFile("/app.bin", BytesContent(firmware("2.0.0", 9000)), "/cert.pem", private_key=lab_key("job")),
        UpdateFile("/table", BytesContent(table), "/cert.pem", private_key=key, file_id=1, file_type=7),
    ]


def partial_bundle() -> None:
    """One of two files is forged: neither is installed. Then both are good, and both are."""
    store = FlashStore(NorFlash(8 * 4096))
    lab = Lab(stores={7: store})
    refused(lab, offered(lab, two_files(lab, b"gain=7", forged=True)), "rejected: signature-mismatch: ")
    assert store.content() == b""
    lab = Lab(stores={7: store})
    job_id = offered(lab, two_files(lab, b"gain=7", forged=False))
    lab.run(until=lambda: lab.device.boots == 2)
    assert store.content() == b""  # on trial, and nothing is decided
    lab.run()
    assert (last(lab, job_id)[0], runs(lab), store.content()) == ("SUCCEEDED", ("2.0.0", True), b"gain=7")


def rollback() -> None:
    """An old image that was once signed, offered under a job that says nothing of its age."""
    lab = Lab(running="3.0.0")
    job_id = lab.offer("1.0.0")
    lab.run()
    assert last(lab, job_id) == ("FAILED", "rejected: downgrade: version 1.0.0 is older than 3.0.0, which runs")
    assert (*runs(lab), lab.device.boots) == ("3.0.0", True, 1)
    # A newer version with an older security counter: the counter says what the version can hide.
    lab = Lab()
    counter = FlashCounter(NorFlash(2 * 4096))
    counter.raise_to(5)
    image = make_image(bytes(9000), Version(2), key=lab_key("image"), security_counter=4)
    keys = [lab_key("image").public_key()]
    first = make_image(bytes(9000), Version(1), key=lab_key("image"), security_counter=5)
    lab.flash = NorFlash(lab.flash.size)
    install(lab.flash, lab.boot_config, first)
    lab = Lab(bootloader=McubootBootloader(lab.flash, lab.boot_config, keys, counter))
    job_id = lab.offer("2.0.0", image=image)
    lab.run()
    assert (last(lab, job_id)[0], last(lab, job_id)[1][:28]) == ("FAILED", "rejected: security-counter: ")
    assert (*runs(lab), lab.device.boots) == ("1.0.0", True, 1)


def flooded(indices: Sequence[int], length: int) -> tuple[Lab, str]:
    """An update while somebody floods the device's topic with such blocks, until the job has ended."""
    lab = Lab(image_size=100_000, link=slow(), config=OtaConfig(window=2))
    job_id = lab.offer("2.0.0")
    topic = StreamTopics(lab.thing, job_id, "cbor").data
    junk = [Message(topic, CborCodec().encode_data(DataBlock(0, index, bytes(length)))) for index in indices]
    flood = Flood([*junk, Message(topic, b"\xff" * 10_000)], every=0.2)
    lab._parts.append((flood, lab.broker.connect("mallory")))
    lab.run(until=lambda: any(isinstance(event, JobFinished) for event in lab.device.events))
    pool = lab.device.orchestrator.pool
    assert flood.sent > 10
    assert (pool.in_use, pool.peak <= pool.blocks) == (0, True)
    return lab, job_id


def endless_data() -> None:
    """Blocks without end that nobody asked for: the memory stays what it was, and the update succeeds."""
    lab, job_id = flooded([25, 1000, 98_303], 4096)
    assert (last(lab, job_id)[0], runs(lab)) == ("SUCCEEDED", ("2.0.0", True))
    lab, job_id = flooded([0, 1, 24], 4000)  # of this file, but not of their length
    assert (last(lab, job_id)[0], runs(lab)) == ("SUCCEEDED", ("2.0.0", True))
    lab, job_id = flooded(range(24, 9, -1), 4096)  # who may write to the device's topic can spoil a block, no more
    assert (last(lab, job_id)[0], runs(lab)) == ("FAILED", ("1.0.0", True))


def mix_and_match() -> None:
    """The image of one job with the signature of another; both are genuine, together they are not."""
    lab = Lab()
    mixed = UpdateFile(
        "/app.bin",
        BytesContent(firmware("2.0.0", 9000)),
        "/cert.pem",
        signature=update_file(firmware("3.0.0", 9000), lab_key("job")).signature,
    )
    refused(lab, offered(lab, [mixed]), "rejected: signature-mismatch: ")


ATTACKS: dict[str, Callable[[], None]] = {
    "drop-request": drop_request,
    "slow-retrieval": slow_retrieval,
    "freeze": freeze,
    "partial-bundle": partial_bundle,
    "rollback": rollback,
    "endless-data": endless_data,
    "mix-and-match": mix_and_match,
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_attack(attack: Callable[[], None]) -> None:
    attack()
