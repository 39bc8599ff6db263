"""What a signature is made of."""

from ecdsa.der import UnexpectedDER
from ecdsa.util import sigdecode_der, sigencode_der

from ..hashes import HashAlgorithm

_ANY = 1 << 600  # No order that a number of a signature has to stay below


class Prehashed:
    """Says that what is to be signed is a digest already."""

    def __init__(self, algorithm: HashAlgorithm) -> None:
        self.name = algorithm.name


def decode_dss_signature(signature: bytes) -> tuple[int, int]:
    """The two numbers of a signature; ValueError where there are none."""
    try:
        r, s = sigdecode_der(signature, _ANY)
    except UnexpectedDER as error:
        raise ValueError("no signature") from error
    return r, s


def encode_dss_signature(r: int, s: int) -> bytes:
    """A signature from its two numbers."""
    return bytes(sigencode_der(r, s, _ANY))
