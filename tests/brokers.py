"""Real mosquittos on ports of their own: one open, one with mutual TLS."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509 import (
    AuthorityKeyIdentifier,
    CertificateBuilder,
    DNSName,
    ExtendedKeyUsage,
    IPAddress,
    Name,
    NameAttribute,
    ObjectIdentifier,
    SubjectAlternativeName,
    load_pem_x509_certificate,
    random_serial_number,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coreota.certificates import issue_certificate

CONFIG = """\
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
persistence false
max_packet_size 300000
max_queued_messages 0
"""


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Until somebody listens there."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended at once"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError("the server does not listen")


@contextmanager
def running_mosquitto(path: Path, text: str, port: int) -> Iterator[None]:
    """A mosquitto with this configuration; missing, it fails in CI and skips elsewhere."""
    binary = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if binary is None:
        advice = "mosquitto is not installed: apt-get install mosquitto"
        if os.environ.get("CI"):
            pytest.fail(advice)
        pytest.skip(advice)
    path.write_text(text if "\nuser " in text else f"{text}\nuser {getpass.getuser()}\n")
    process = subprocess.Popen([binary, "-c", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port, process)
        yield
    finally:
        process.terminate()
        process.wait(10)


@dataclass(frozen=True)
class TlsBroker:
    """A mosquitto that wants a certificate of every client, and lets each thing have its own topics alone."""

    port: int
    folder: Path
    ca: Path

    def credentials(self, name: str) -> tuple[Path, Path]:
        """Certificate and key of a client."""
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        if not certificate.exists():
            write_credentials(self.folder, name, [ExtendedKeyUsageOID.CLIENT_AUTH])
        return certificate, key


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write_credentials(folder: Path, name: str, usages: list[ObjectIdentifier]) -> None:
    """A key made for this test alone, and its certificate by the test's own authority."""
    ca_key = load_pem_private_key((folder / "ca.key").read_bytes(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    issuer = load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    builder = CertificateBuilder(
        subject_name=Name([NameAttribute(NameOID.COMMON_NAME, name)]),
        issuer_name=issuer.subject,
        public_key=key.public_key(),
        serial_number=random_serial_number(),
        not_valid_before=now - timedelta(days=1),
        not_valid_after=now + timedelta(days=1),
    )
    names = SubjectAlternativeName([DNSName("localhost"), IPAddress(ip_address("127.0.0.1"))])
    builder = builder.add_extension(names, critical=False).add_extension(ExtendedKeyUsage(usages), critical=False)
    authority = AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    certificate = builder.add_extension(authority, critical=False).sign(ca_key, SHA256())
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / f"{name}.key").write_bytes(pem_of(key))


TLS_CONFIG = """
listener {port} 127.0.0.1
cafile {folder}/ca.crt
certfile {folder}/server.crt
keyfile {folder}/server.key
require_certificate true
use_identity_as_username true
acl_file {folder}/acl
set_tcp_nodelay true
max_queued_messages 0
persistence false
"""
ACL = "user provider\ntopic readwrite $aws/things/#\n\npattern readwrite $aws/things/%u/#\n"


def make_tls_broker(folder: Path) -> tuple[TlsBroker, str]:
    """An authority, a certificate for the broker, and the configuration to start it with."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    (folder / "ca.key").write_bytes(pem_of(ca_key))
    (folder / "ca.crt").write_bytes(issue_certificate("test authority", ca_key.public_key(), ca_key, ca=0))
    write_credentials(folder, "server", [ExtendedKeyUsageOID.SERVER_AUTH])
    (folder / "acl").write_text(ACL)
    port = free_port()
    return TlsBroker(port, folder, folder / "ca.crt"), TLS_CONFIG.format(port=port, folder=folder)
