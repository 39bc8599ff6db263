"""How RSA fills a block."""

from typing import Any


class PKCS1v15:
    """PKCS 1 v1.5."""


class MGF1:
    """The mask of PSS."""

    def __init__(self, algorithm: Any) -> None:
        self.algorithm = algorithm


class PSS:
    """PKCS 1 v2.1."""

    def __init__(self, mgf: MGF1, salt_length: int) -> None:
        self.mgf, self.salt_length = mgf, salt_length
