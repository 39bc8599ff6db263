"""A desk: provider, device and operator as processes, as a developer has them in three terminals."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from coreota.bootloader import McubootBootloader
from coreota.gateway import GatewayFlash, image_key
from coreota.signing import self_signed_certificate
from coreota.sim.lab import firmware, lab_key

COREOTA = [sys.executable, "-c", "import sys; from coreota.cli import main; sys.exit(main())"]
ANY = {"aws_access_key_id": "any", "aws_secret_access_key": "any", "region_name": "us-east-1"}


class Desk:
    """A folder with keys and images, and the commands that use them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ready = folder, dict[str, Any]()
        key = lab_key("image").public_key()
        (folder / "image.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        for name in ("job", "other"):
            pem = lab_key(name).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            (folder / f"{name}.key").write_bytes(pem)
        (folder / "job.crt").write_bytes(self_signed_certificate(lab_key("job"), "test"))
        (folder / "v1.bin").write_bytes(firmware("1.0.0", 50_000))
        (folder / "v2.bin").write_bytes(firmware("2.0.0", 200_000))

    def start(self, *words: str, environment: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        """A command in a process of its own."""
        command = [*COREOTA, *words]
        where = {**os.environ, **(environment or {})}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=self.folder, env=where)

    def run(self, *words: str, environment: Mapping[str, str] | None = None) -> tuple[int, list[dict[str, Any]], str]:
        """Exit status, JSON lines and complaints of a command that ends by itself."""
        process = self.start(*words, environment=environment)
        out, errors = process.communicate(timeout=60)
        return process.returncode, [json.loads(line) for line in out.splitlines()], errors

    def provider_process(self, *words: str) -> "subprocess.Popen[str]":
        """A provider, once it is ready; again on the same ports and the same state."""
        ports = (self.ready["mqtt"]["port"], self.ready["api"].rpartition(":")[2]) if self.ready else (0, 0)
        ports_words = ("--mqtt-port", str(ports[0]), "--api-port", str(ports[1]))
        process = self.start("provider", "--json", "--state", "state", *ports_words, *words)
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        assert line, process.stderr.read()
        self.ready = json.loads(line)
        return process

    @contextmanager
    def provider(self, *words: str) -> Iterator["subprocess.Popen[str]"]:
        """A provider that is told to end, and does so in order."""
        process = self.provider_process(*words)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            out, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, ""), out
        assert json.loads(out.splitlines()[-1])["event"] == "Stopped"

    def client(self, service: str) -> Any:
        """boto3, pointed at the provider."""
        return boto3.client(service, endpoint_url=self.ready["api"], **ANY)

    def device_words(self, thing: str = "lamp", ota: str = "") -> list[str]:
        """How a device is started."""
        path = self.folder / f"{thing}.toml"
        path.write_text(
            f'[device]\nflash_size = 1048576\n[device.certificates]\n"/cert.pem" = "job.crt"\n[ota]\n{ota}\n'
        )
        mqtt = self.ready["mqtt"]
        words = ["device", "--thing", thing, "--endpoint", mqtt["host"], "--port", str(mqtt["port"])]
        words += [
            "--config",
            path.name,
            "--flash",
            f"{thing}.flash",
            "--image-key",
            "image.pem",
            "--log-format",
            "json",
        ]
        return words if (self.folder / f"{thing}.flash").exists() else [*words, "--install", "v1.bin"]

    @contextmanager
    def device(self, thing: str = "lamp", ota: str = "") -> Iterator["subprocess.Popen[str]"]:
        """A device that runs while the block does."""
        process = self.start(*self.device_words(thing, ota))
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)

    def deploy_words(self, *words: str, image: str = "v2.bin") -> list[str]:
        """How an update is deployed."""
        return ["deploy", image, "--json", "--interval", "0.1", "--api", self.ready["api"], *words]

    def runs(self, thing: str = "lamp") -> tuple[str, bool]:
        """What a device's flash says after one more boot: the version, and whether it is there to stay."""
        with GatewayFlash(self.folder / f"{thing}.flash", 0) as flash:
            bootloader = McubootBootloader(flash.flash, flash.config, [image_key(self.folder / "image.pem")])
            bootloader.boot()
            return str(bootloader.running), not bootloader.on_trial
