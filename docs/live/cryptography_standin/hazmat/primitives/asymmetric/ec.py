"""Keys on elliptic curves."""

import hashlib
from dataclasses import dataclass
from typing import Any

from ecdsa import BadSignatureError, NIST256p, NIST384p, SigningKey, VerifyingKey
from ecdsa.der import UnexpectedDER
from ecdsa.util import MalformedSignature, sigdecode_der, sigencode_der

from ....exceptions import InvalidSignature
from ..hashes import HashAlgorithm
from ..serialization import Encoding, PrivateFormat
from .utils import Prehashed


class SECP256R1:
    """P-256."""

    name, curve = "secp256r1", NIST256p


class SECP384R1:
    """P-384, which no device here takes."""

    name, curve = "secp384r1", NIST384p


def _curve(key: Any) -> SECP256R1 | SECP384R1:
    return SECP256R1() if key.curve is NIST256p else SECP384R1()


class ECDSA:
    """How to sign; here always as RFC 6979 says, with no chance in it."""

    def __init__(self, algorithm: HashAlgorithm | Prehashed, deterministic_signing: bool | None = False) -> None:
        self.algorithm = algorithm

    def digest(self, data: bytes) -> bytes:
        """What is signed for this content."""
        return data if isinstance(self.algorithm, Prehashed) else hashlib.new(self.algorithm.name, data).digest()


class EllipticCurvePublicKey:
    """Checks signatures."""

    def __init__(self, key: VerifyingKey) -> None:
        self._key, self.curve, self.key_size = key, _curve(key), key.curve.baselen * 8

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EllipticCurvePublicKey) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key.to_string())

    def verify(self, signature: bytes, data: bytes, algorithm: ECDSA) -> None:
        """InvalidSignature where it does not fit."""
        try:
            self._key.verify_digest(signature, algorithm.digest(data), sigdecode=sigdecode_der)
        except (BadSignatureError, UnexpectedDER, MalformedSignature) as error:
            raise InvalidSignature from error

    def public_bytes(self, encoding: Encoding, format: object) -> bytes:
        """The key as a file."""
        return bytes(self._key.to_pem() if encoding is Encoding.PEM else self._key.to_der())


@dataclass(frozen=True)
class EllipticCurvePrivateNumbers:
    """What a private key is made of."""

    private_value: int


class EllipticCurvePrivateKey:
    """Signs."""

    def __init__(self, key: SigningKey) -> None:
        self._key, self.curve, self.key_size = key, _curve(key), key.curve.baselen * 8

    def public_key(self) -> EllipticCurvePublicKey:
        """Its other half."""
        return EllipticCurvePublicKey(self._key.verifying_key)

    def sign(self, data: bytes, algorithm: ECDSA) -> bytes:
        """A DER SEQUENCE of two numbers."""
        digest = algorithm.digest(data)
        return bytes(self._key.sign_digest_deterministic(digest, hashlib.sha256, sigencode_der))

    def private_numbers(self) -> "EllipticCurvePrivateNumbers":
        """What it is made of."""
        return EllipticCurvePrivateNumbers(int(self._key.privkey.secret_multiplier))

    def private_bytes(self, encoding: Encoding, format: PrivateFormat, encryption: object) -> bytes:
        """The key as a file."""
        layout = "pkcs8" if format is PrivateFormat.PKCS8 else "ssleay"
        return bytes(self._key.to_pem(format=layout) if encoding is Encoding.PEM else self._key.to_der(format=layout))


def derive_private_key(private_value: int, curve: SECP256R1 | SECP384R1) -> EllipticCurvePrivateKey:
    """The key of a number."""
    return EllipticCurvePrivateKey(SigningKey.from_secret_exponent(private_value, curve.curve))


def generate_private_key(curve: SECP256R1 | SECP384R1) -> EllipticCurvePrivateKey:
    """A fresh key."""
    return EllipticCurvePrivateKey(SigningKey.generate(curve.curve))
