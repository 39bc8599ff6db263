"""Digests, from hashlib."""

import hashlib


class HashAlgorithm:
    """One of those below."""

    name = ""


class SHA1(HashAlgorithm):
    """Can be forged; some old devices know no better."""

    name = "sha1"


class SHA256(HashAlgorithm):
    """What everything here is signed over."""

    name = "sha256"


class Hash:
    """A digest of pieces."""

    def __init__(self, algorithm: HashAlgorithm) -> None:
        self._hash = hashlib.new(algorithm.name)

    def update(self, data: bytes) -> None:
        """Take one more piece."""
        self._hash.update(data)

    def finalize(self) -> bytes:
        """The digest of all of them."""
        return self._hash.digest()
