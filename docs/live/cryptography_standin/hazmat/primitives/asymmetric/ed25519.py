"""Ed25519."""

from ecdsa import BadSignatureError, Ed25519, SigningKey, VerifyingKey

from ....exceptions import InvalidSignature
from ..serialization import Encoding, PublicFormat


class Ed25519PublicKey:
    """Checks signatures."""

    def __init__(self, key: VerifyingKey) -> None:
        self._key = key

    def verify(self, signature: bytes, data: bytes) -> None:
        """InvalidSignature where it does not fit."""
        try:
            self._key.verify(signature, data)
        except (BadSignatureError, ValueError) as error:
            raise InvalidSignature from error

    def public_bytes(self, encoding: Encoding, format: PublicFormat) -> bytes:
        """The key as a file."""
        if encoding is Encoding.Raw:
            return bytes(self._key.to_string())
        return bytes(self._key.to_pem() if encoding is Encoding.PEM else self._key.to_der())


class Ed25519PrivateKey:
    """Signs."""

    def __init__(self, key: SigningKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> "Ed25519PrivateKey":
        """A fresh key."""
        return cls(SigningKey.generate(Ed25519))

    @classmethod
    def from_private_bytes(cls, data: bytes) -> "Ed25519PrivateKey":
        """The key of 32 bytes."""
        return cls(SigningKey.from_string(data, Ed25519))

    def public_key(self) -> Ed25519PublicKey:
        """Its other half."""
        return Ed25519PublicKey(self._key.verifying_key)

    def sign(self, data: bytes) -> bytes:
        """64 bytes."""
        return bytes(self._key.sign(data))
