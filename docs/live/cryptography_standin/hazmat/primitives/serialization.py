"""Keys as files."""

from enum import Enum
from typing import Any

from ecdsa import SigningKey, VerifyingKey


class Encoding(Enum):
    """PEM is DER in letters."""

    PEM = "PEM"
    DER = "DER"
    Raw = "Raw"


class PublicFormat(Enum):
    """How a public key is laid out."""

    SubjectPublicKeyInfo = "X.509 subjectPublicKeyInfo with PKCS#1"
    PKCS1 = "Raw PKCS#1"
    Raw = "Raw"


class PrivateFormat(Enum):
    """How a private key is laid out."""

    PKCS8 = "PKCS8"
    TraditionalOpenSSL = "TraditionalOpenSSL"


class NoEncryption:
    """A private key that anyone may read."""


def _loaded(kind: Any, data: bytes) -> Any:
    try:
        return kind.from_pem(data)
    except Exception as error:
        raise ValueError("Could not deserialize key data.") from error


def load_pem_private_key(data: bytes, password: bytes | None) -> Any:
    """Read a private key; ValueError where it is none."""
    from .asymmetric import ec, ed25519

    key = _loaded(SigningKey, data)
    return (ed25519.Ed25519PrivateKey if key.curve.name == "Ed25519" else ec.EllipticCurvePrivateKey)(key)


def load_pem_public_key(data: bytes) -> Any:
    """Read a public key; ValueError where it is none."""
    from .asymmetric import ec, ed25519

    key = _loaded(VerifyingKey, data)
    return (ed25519.Ed25519PublicKey if key.curve.name == "Ed25519" else ec.EllipticCurvePublicKey)(key)
