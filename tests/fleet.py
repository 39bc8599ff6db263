"""A fleet of simulated things over a few real MQTT connections, and providers in processes of their own."""

import heapq
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from coreota.bootloader import McubootBootloader
from coreota.config import OtaConfig
from coreota.device import Device
from coreota.flash import NorFlash
from coreota.mqtt import PahoTransport, SystemClock
from coreota.orchestrator import Orchestrator
from coreota.provider.books import Books
from coreota.provider.sqlstore import SqlStore
from coreota.signing import CertificateVerifier, self_signed_certificate
from coreota.sim.lab import boot_config, firmware, install, lab_key
from coreota.states import JobFinished, RebootRequired
from coreota.topics import Message, Outgoing
from coreota.transport import step

IMAGE_SIZE = 6_000
CONFIG = OtaConfig(
    block_size=4096, pool_blocks=2, blocks_per_request=2, request_timeout=3.0, request_attempts=20,
    status_every=1_000_000, status_interval=3600.0, self_test_timeout=600.0,
)  # fmt: skip
NUMBERS = count()
COREOTA = [sys.executable, "-c", "import sys; from coreota.cli import main; sys.exit(main())"]


class Things:
    """Many devices behind one connection: whole ones, with flash, bootloader and orchestrator. An endpoint."""

    def __init__(self, names: Sequence[str]) -> None:
        self.devices = {name: self._device(name) for name in names}
        self._busy: dict[str, None] = {}
        self._timers: list[tuple[float, int, str]] = []
        self._number = count()
        self._up = False

    def _device(self, name: str) -> Device:
        config = boot_config(IMAGE_SIZE + 1024)
        flash = NorFlash(2 * config.primary[1])
        install(flash, config, OLD)
        bootloader = McubootBootloader(flash, config, [lab_key("image").public_key()])

        def make(boot: int, now: float) -> Orchestrator:
            return Orchestrator(name, bootloader, VERIFIER, config=CONFIG, token_prefix=f"{boot}.", now=now)

        return Device(bootloader, make, lambda: self._reset(name))

    def _reset(self, name: str) -> None:
        """The device's own link goes down and comes up again; its neighbours' do not."""
        if self._up:
            self.devices[name].orchestrator.connected(SystemClock().now())

    def boot(self, now: float) -> None:
        for name, device in self.devices.items():
            device.boot(now)
            self._busy[name] = None

    def connected(self, now: float) -> None:
        self._up = True
        for name, device in self.devices.items():
            device.connected(now)
            self._busy[name] = None

    def disconnected(self, now: float) -> None:
        self._up = False
        for device in self.devices.values():
            device.disconnected(now)

    def receive(self, message: Message, now: float) -> None:
        name = message.topic.split("/")[2]
        self.devices[name].receive(message, now)
        self._busy[name] = None

    def messages_to_send(self, now: float) -> list[Outgoing]:
        busy, self._busy = self._busy, {}
        outgoing: list[Outgoing] = []
        for name in busy:
            device = self.devices[name]
            outgoing += device.messages_to_send(now)
            if (timer := device.get_timer()) is not None:
                heapq.heappush(self._timers, (timer, next(self._number), name))
        return outgoing

    def get_timer(self) -> float | None:
        return self._timers[0][0] if self._timers else None

    def handle_timer(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            _, _, name = heapq.heappop(self._timers)
            self.devices[name].handle_timer(now)
            self._busy[name] = None


OLD = firmware("1.0.0", IMAGE_SIZE)
NEW = firmware("2.0.0", IMAGE_SIZE)
VERIFIER = CertificateVerifier({"/cert.pem": self_signed_certificate(lab_key("job"), "fleet")})


class Fleet:
    """Things, and the connections they share."""

    def __init__(self, port: int, names: Sequence[str], connections: int) -> None:
        self.parts = [Things(names[number::connections]) for number in range(connections)]
        self.links = [
            PahoTransport("127.0.0.1", port, client_id=f"fleet-{number}", max_queue=1_000_000)
            for number in range(connections)
        ]
        self.clock = SystemClock()
        for part in self.parts:
            part.boot(self.clock.now())

    @property
    def devices(self) -> dict[str, Device]:
        return {name: device for part in self.parts for name, device in part.devices.items()}

    def updated(self) -> int:
        """How many run the new image for good."""
        return sum(
            str(one.bootloader.running) == "2.0.0" and not one.bootloader.on_trial for one in self.devices.values()
        )

    def finished(self) -> int:
        """How many have reported the end of a job."""
        return sum(any(isinstance(event, JobFinished) for event in one.events) for one in self.devices.values())

    def run(self, until: Callable[[], bool], limit: float) -> None:
        """Let the things live until something is so; it is asked four times a second."""
        deadline = time.monotonic() + limit
        while not until():
            now = time.monotonic()
            assert now < deadline, f"{self.finished()} of {len(self.devices)} are done"
            while time.monotonic() < now + 0.25:
                for part, link in zip(self.parts, self.links, strict=True):
                    step(part, link, self.clock, 0.01)

    def close(self) -> None:
        for link in self.links:
            link.close()


def installs(device: Device) -> int:
    """How often a device was reset to try an image."""
    return sum(isinstance(event, RebootRequired) for event in device.events)


@dataclass
class Provider:
    """`coreota provider` in a process of its own, that shares its work with others."""

    store: str
    port: int  # Of the broker
    folder: Path
    process: "subprocess.Popen[str]" = field(init=False)
    ready: dict[str, Any] = field(init=False)
    number: int = field(init=False)  # Of its log

    def start(self) -> "Provider":
        words = {
            "store": self.store, "broker": f"mqtt://127.0.0.1:{self.port}", "share": "fleet", "api-port": 0,
            "state": self.folder / "state", "artifacts": self.folder / "artifacts",
            "signer": f"lab={self.folder / 'job.pem'}",
        }  # fmt: skip
        command = [
            *COREOTA,
            "provider",
            "--json",
            *(part for name, value in words.items() for part in (f"--{name}", str(value))),
        ]
        self.number = next(NUMBERS)
        out = self.folder / f"provider-{self.number}.log"
        with open(out, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, text=True)
        deadline = time.monotonic() + 60
        while "\n" not in out.read_text():
            assert self.process.poll() is None and time.monotonic() < deadline, out.read_text()
            time.sleep(0.02)
        self.ready = json.loads(out.read_text().splitlines()[0])
        return self

    def api(self, service: str = "iot") -> Any:
        """A client of boto3."""
        import boto3

        login = {"region_name": "us-east-1", "aws_access_key_id": "any", "aws_secret_access_key": "any"}
        return boto3.client(service, endpoint_url=self.ready["api"], **login)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> None:
        if hasattr(self, "process") and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)


@contextmanager
def providers(store: str, port: int, folder: Path, number: int) -> Iterator[list[Provider]]:
    """Several of them on one store."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    (folder / "artifacts/firmware").mkdir(parents=True, exist_ok=True)
    (folder / "artifacts/firmware/new.bin").write_bytes(NEW)
    key = lab_key("job").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "job.pem").write_bytes(key)
    made: list[Provider] = []
    try:
        made += [Provider(store, port, folder) for _ in range(number)]
        for one in made:
            one.start()
        yield made
    finally:
        for one in made:
            one.stop()


def register(store: str, names: Sequence[str]) -> None:
    """Things of the group `fleet`, written into the books with one transaction."""

    def work(books: Books) -> None:
        for name in names:
            books.keep_document(
                "thing", name, {"attributes": {}, "type": None, "version": 1, "created_at": 0, "id": name}
            )
            books.join("fleet", name)

    with SqlStore(store) as opened:
        opened.run(work)


def offer(provider: Provider, update_id: str) -> str:
    """An OTA update for the whole fleet, with the call that boto3 makes; gives the job's id."""
    signing = {"signingProfileName": "lab", "signingProfileParameter": {"certificatePathOnDevice": "/cert.pem"}}
    arn, place = "arn:aws:iot:us-east-1:000000000000:thinggroup/fleet", {"bucket": "firmware", "key": "new.bin"}
    file = {
        "fileName": "/device",
        "fileLocation": {"s3Location": place},
        "codeSigning": {"startSigningJobParameter": signing},
    }
    role = "arn:aws:iam::000000000000:role/none"
    answer = provider.api().create_ota_update(otaUpdateId=update_id, targets=[arn], roleArn=role, files=[file])
    return str(answer["awsIotJobId"])
