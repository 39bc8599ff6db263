"""Certificates, of asn1crypto: making one that signs itself, and reading one."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asn1crypto import pem
from asn1crypto import x509 as asn1
from asn1crypto.keys import PublicKeyInfo
from ecdsa import VerifyingKey

from ..hazmat.primitives.asymmetric import ec
from ..hazmat.primitives.serialization import Encoding
from . import oid

_USAGES = (
    "digital_signature", "non_repudiation", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign",
    "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


@dataclass(frozen=True)
class NameAttribute:
    """One part of a name."""

    oid: str
    value: str


@dataclass(frozen=True)
class Name:
    """Who."""

    attributes: list[NameAttribute]


class KeyUsage:
    """Which of nine things the key may do."""

    def __init__(self, *allowed: bool) -> None:
        self.allowed = {name for name, yes in zip(_USAGES, allowed, strict=True) if yes}

    @property
    def digital_signature(self) -> bool:
        """Sign anything at all?"""
        return "digital_signature" in self.allowed


class ExtendedKeyUsage(list[str]):
    """What the certificate is for."""


class ExtensionNotFound(Exception):
    """The certificate does not say."""


@dataclass(frozen=True)
class _Extension:
    value: Any


class Certificate:
    """One that was read or made."""

    def __init__(self, certificate: asn1.Certificate) -> None:
        self._certificate = certificate
        validity = certificate["tbs_certificate"]["validity"]
        self.not_valid_before_utc: datetime = validity["not_before"].native
        self.not_valid_after_utc: datetime = validity["not_after"].native
        self.serial_number: int = certificate.serial_number

    @property
    def extensions(self) -> "Certificate":
        """Answers for them."""
        return self

    def get_extension_for_class(self, kind: type) -> _Extension:
        """ExtensionNotFound where there is none."""
        found = self._certificate.key_usage_value if kind is KeyUsage else self._certificate.extended_key_usage_value
        if found is None:
            raise ExtensionNotFound
        if kind is KeyUsage:
            return _Extension(KeyUsage(*(name in found.native for name in _USAGES)))
        return _Extension(ExtendedKeyUsage(found.native))

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """ValueError where it is on no elliptic curve."""
        return ec.EllipticCurvePublicKey(VerifyingKey.from_der(self._certificate.public_key.dump()))

    def public_bytes(self, encoding: Encoding) -> bytes:
        """The certificate as a file."""
        der = self._certificate.dump()
        return bytes(pem.armor("CERTIFICATE", der) if encoding is Encoding.PEM else der)


class CertificateBuilder:
    """A certificate that is being written."""

    def __init__(self) -> None:
        self._said: dict[str, Any] = {}
        self._extensions: list[tuple[Any, bool]] = []

    def _say(self, **said: Any) -> "CertificateBuilder":
        self._said |= said
        return self

    def subject_name(self, name: Name) -> "CertificateBuilder":
        """Whose it is."""
        return self._say(subject=asn1.Name.build({a.oid: a.value for a in name.attributes}))

    def issuer_name(self, name: Name) -> "CertificateBuilder":
        """Who says so."""
        return self._say(issuer=asn1.Name.build({a.oid: a.value for a in name.attributes}))

    def public_key(self, key: ec.EllipticCurvePublicKey) -> "CertificateBuilder":
        """What it is about."""
        return self._say(subject_public_key_info=PublicKeyInfo.load(key._key.to_der()))

    def serial_number(self, number: int) -> "CertificateBuilder":
        """Its number."""
        return self._say(serial_number=number)

    def not_valid_before(self, time: datetime) -> "CertificateBuilder":
        """From when."""
        return self._say(before=asn1.Time({"utc_time": time}))

    def not_valid_after(self, time: datetime) -> "CertificateBuilder":
        """Until when."""
        return self._say(after=asn1.Time({"utc_time": time}))

    def add_extension(self, extension: KeyUsage | ExtendedKeyUsage, critical: bool) -> "CertificateBuilder":
        """What it may be used for."""
        self._extensions.append((extension, critical))
        return self

    def sign(
        self, key: ec.EllipticCurvePrivateKey, algorithm: Any, *, ecdsa_deterministic: bool | None = None
    ) -> Certificate:
        """Done."""
        said = dict(self._said)
        extensions = [
            {"extn_id": "key_usage", "critical": critical, "extn_value": value.allowed}
            if isinstance(value, KeyUsage)
            else {"extn_id": "extended_key_usage", "critical": critical, "extn_value": list(value)}
            for value, critical in self._extensions
        ]
        how = {"algorithm": "sha256_ecdsa"}
        content = asn1.TbsCertificate(
            {
                "version": "v3", "validity": {"not_before": said.pop("before"), "not_after": said.pop("after")},
                "signature": how, "extensions": extensions, **said,
            }
        )  # fmt: skip
        signature = key.sign(content.dump(), ec.ECDSA(algorithm))
        return Certificate(
            asn1.Certificate({"tbs_certificate": content, "signature_algorithm": how, "signature_value": signature})
        )


def load_pem_x509_certificate(data: bytes) -> Certificate:
    """Read a certificate; ValueError where it is none."""
    kind, _, der = pem.unarmor(data)
    if kind != "CERTIFICATE":
        raise ValueError(f"a {kind} is no certificate")
    return Certificate(asn1.Certificate.load(der, strict=True))


__all__ = ["oid"]
