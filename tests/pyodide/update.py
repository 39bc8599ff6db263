"""A whole update without files, sockets and compiled signatures; it prints the same under every Python.

`cryptography` is not there in a browser: an HMAC seals the file, and a library in pure Python signs the image.
"""

import hmac
import json
import sys
from collections.abc import Iterable
from hashlib import sha256

from ecdsa import NIST256p, SigningKey, VerifyingKey
from ecdsa.util import sigdecode_der, sigencode_der

from coreota.bootloader import BootResult, McubootBootloader
from coreota.config import OtaConfig
from coreota.device import Device
from coreota.errors import RemoteOtaError
from coreota.flash import FlashArea, NorFlash, PowerCut
from coreota.flashmap import swap_film
from coreota.image import Version, make_image
from coreota.imagekeys import ECDSA_TLV
from coreota.journal import Journal, journal_size
from coreota.orchestrator import Orchestrator
from coreota.parser import OtaFile
from coreota.provider.ota import UpdateFile, UpdateProvider
from coreota.provider.streams import BytesContent
from coreota.sim.lab import boot_config, install, noise
from coreota.sim.link import LossyLink
from coreota.states import State
from coreota.topics import Endpoint
from coreota.transport import LocalBroker, LocalTransport, VirtualClock, simulate

SECRET, SIZE = b"open sesame", 20_000


class SharedSecret:
    """The verifier of chapter 8's reader."""

    def check(self, file: OtaFile) -> None:
        if len(file.signature) != 32:
            raise RemoteOtaError("no HMAC", reason="signature-malformed")

    def verify(self, file: OtaFile, content: Iterable[bytes | memoryview]) -> None:
        code = hmac.new(SECRET, digestmod="sha256")
        for piece in content:
            code.update(piece)
        if not hmac.compare_digest(code.digest(), file.signature):
            raise RemoteOtaError("the file is not what was sealed", reason="signature-mismatch")


class ImageKey:
    """A test key, not secret, in both roles."""

    tlv = ECDSA_TLV

    def __init__(self) -> None:
        self.private = SigningKey.from_secret_exponent(2024, NIST256p)
        self.public: VerifyingKey = self.private.verifying_key

    def public_key(self) -> "ImageKey":
        return self

    def key_hash(self) -> bytes:
        return sha256(self.public.to_der()).digest()

    def sign_digest(self, digest: bytes) -> bytes:
        return bytes(self.private.sign_digest_deterministic(digest, hashfunc=sha256, sigencode=sigencode_der))

    def good_signature(self, digest: bytes, signature: bytes) -> bool:
        try:
            return bool(self.public.verify_digest(signature, digest, sigdecode=sigdecode_der))
        except Exception:
            return False


KEY = ImageKey()


class Unlucky(McubootBootloader):
    """Films its second boot before it happens, and loses its power in the middle of it, if asked to."""

    cut: int | None = None  # Operations until then
    boots = frames = 0

    def boot(self) -> BootResult:
        self.boots += 1
        if self.boots == 2 and self.cut is not None:
            self.frames = len(swap_film(self))
            self.flash.cut_after(self.cut)
        return super().boot()

    @property
    def flash(self) -> NorFlash:
        flash = self.slots.primary.flash
        assert isinstance(flash, NorFlash)
        return flash


def image(version: str) -> bytes:
    return make_image(noise(SIZE, version), Version.parse(version), key=KEY)


def update(codec: str, cut: int | None, tamper: bool = False) -> dict[str, object]:
    """One update over a link that loses messages; the power fails in flash operation `cut` of the swap."""
    clock = VirtualClock()
    broker = LocalBroker(clock, LossyLink(seed=7, loss=0.1, delay=0.05))
    provider = UpdateProvider()
    config = boot_config(SIZE + 1024)
    room = journal_size(16)
    flash = NorFlash(2 * config.primary[1] + room)
    install(flash, config, image("1.0.0"))
    bootloader = Unlucky(flash, config, [KEY])
    bootloader.cut = cut
    link, other = broker.connect("thing"), broker.connect("provider")
    settings = OtaConfig(codec=codec, block_size=2048)

    def orchestrator(boot: int, now: float) -> Orchestrator:
        journal = Journal(FlashArea(flash, 2 * config.primary[1], room))
        prefix = f"{boot}."
        return Orchestrator(
            "thing", bootloader, SharedSecret(), config=settings, journal=journal, token_prefix=prefix, now=now
        )

    def reset() -> None:
        link.disconnect()
        link.reconnect()

    device = Device(bootloader, orchestrator, reset)
    device.boot(clock.now())
    content = image("2.0.0")
    seal = hmac.digest(b"a stranger's" if tamper else SECRET, content, "sha256")
    file = UpdateFile("/device/image.bin", BytesContent(content), "/secret", signature=seal)
    job = provider.create_ota_update("two", ["thing"], [file], clock.now())
    parts: list[tuple[Endpoint, LocalTransport]] = [(provider, other), (device, link)]
    limit = clock.now() + 3600

    def settled() -> bool:
        return not provider.jobs.pending("thing") and device.orchestrator.state is State.WAITING_FOR_JOB

    while True:
        try:
            simulate(parts, clock, settled, limit)
            break
        except PowerCut:
            flash.power_on()
            device.boot(clock.now())
            reset()
    history = provider.jobs.history(job, "thing")
    return {
        "statuses": [change.status.value for change in history],
        "reason": history[-1].details["reason"],
        "running": str(bootloader.running),
        "boots": bootloader.boots,
        "seconds": round(clock.now() - (limit - 3600), 6),
        "film": bootloader.frames,
        "flash": sha256(flash.read(0, flash.size)).hexdigest(),
    }


result = {
    "cbor": update("cbor", None),
    "json": update("json", None),
    "cut": update("cbor", 30),
    "tampered": update("cbor", None, tamper=True),
}
print(json.dumps({"platform": sys.platform, "result": result}))
