"""Signatures and certificates: what is accepted, and the reason of every refusal."""

from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from coreota.check import failure
from coreota.errors import LocalOtaError, OtaError, RemoteOtaError
from coreota.parser import OtaFile, SignatureAlgorithm
from coreota.signing import CertificateVerifier, load_private_key, self_signed_certificate, sign

TEST_KEY = ec.derive_private_key(77, ec.SECP256R1())
OTHER_KEY = ec.derive_private_key(78, ec.SECP256R1())
RSA_TEST_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CONTENT = b"firmware " * 500
FILE = OtaFile(
    file_id=0,
    path="/device",
    size=len(CONTENT),
    certfile="/cert.pem",
    signature=sign([CONTENT], TEST_KEY),
    signature_algorithm=SignatureAlgorithm.SHA256_ECDSA,
)
VERIFIER = CertificateVerifier(
    {"/cert.pem": self_signed_certificate(TEST_KEY, "test"), "/rsa.pem": self_signed_certificate(RSA_TEST_KEY, "test")}
)


def reason(verifier: CertificateVerifier, file: OtaFile, content: bytes = CONTENT) -> str | None:
    """Why the file is refused, or None."""
    error = failure(lambda: verifier.verify(file, [content]))
    assert error is None or isinstance(error, OtaError), error
    return error.reason if error else None


def test_good() -> None:
    """A good file is accepted, before and after the download; cryptography agrees with the signature."""
    VERIFIER.check(FILE)
    assert reason(VERIFIER, FILE) is None
    TEST_KEY.public_key().verify(FILE.signature, CONTENT, ec.ECDSA(hashes.SHA256()))


def test_rsa() -> None:
    """RSA over SHA-256 too."""
    signature = sign([CONTENT], RSA_TEST_KEY)
    RSA_TEST_KEY.public_key().verify(signature, CONTENT, padding.PKCS1v15(), hashes.SHA256())
    file = replace(FILE, signature=signature, certfile="/rsa.pem", signature_algorithm=SignatureAlgorithm.SHA256_RSA)
    assert reason(VERIFIER, file) is None
    assert reason(VERIFIER, file, CONTENT[:-1] + b"!") == "signature-mismatch"


def test_sha1_only_where_it_is_allowed() -> None:
    """SHA-1 can be forged: refused unless the user insists."""
    signature = RSA_TEST_KEY.sign(CONTENT, padding.PKCS1v15(), hashes.SHA1())
    file = replace(FILE, signature=signature, certfile="/rsa.pem", signature_algorithm=SignatureAlgorithm.SHA1_RSA)
    assert reason(VERIFIER, file) == "algorithm-refused"
    insisting = CertificateVerifier(VERIFIER.certificates, allow_sha1=True)
    assert reason(insisting, file) is None
    assert reason(insisting, file, CONTENT[:-1] + b"!") == "signature-mismatch"


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (replace(FILE, signature=sign([CONTENT], OTHER_KEY)), "signature-mismatch"),
        (replace(FILE, certfile="/unknown.pem"), "certificate-unknown"),
        (replace(FILE, signature=b""), "signature-malformed"),
        (replace(FILE, signature=FILE.signature + b"x"), "signature-malformed"),
        (replace(FILE, size=len(CONTENT) + 1), "file-size"),
        (replace(FILE, signature_algorithm=SignatureAlgorithm.SHA256_RSA), "key-type"),
        (replace(FILE, certfile="/rsa.pem"), "key-type"),
    ],
)
def test_reasons(file: OtaFile, expected: str) -> None:
    """Each with its own."""
    assert reason(VERIFIER, file) == expected


def test_certificates_that_will_not_do() -> None:
    """Not for code, out of its time, unreadable, of another kind: each is refused before the download."""
    pem = self_signed_certificate(TEST_KEY, "test")
    cases = {
        "certificate-usage": CertificateVerifier(
            {"/cert.pem": self_signed_certificate(TEST_KEY, "test", code_signing=False)}
        ),
        "certificate-expired": CertificateVerifier({"/cert.pem": pem}, at=datetime(2060, 1, 1, tzinfo=UTC)),
        "certificate-invalid": CertificateVerifier({"/cert.pem": b"-----BEGIN CERTIFICATE-----\nAAAA\n"}),
        "key-type": CertificateVerifier(
            {"/cert.pem": self_signed_certificate(ec.derive_private_key(5, ec.SECP384R1()), "test")}
        ),
    }
    for expected, verifier in cases.items():
        error = failure(lambda verifier=verifier: verifier.check(FILE))  # type: ignore[misc]
        assert isinstance(error, LocalOtaError)
        assert error.reason == expected


def test_valid_at_its_date() -> None:
    """A device that knows the date and finds it in the certificate's time accepts."""
    pem = self_signed_certificate(TEST_KEY, "test")
    assert reason(CertificateVerifier({"/cert.pem": pem}, at=datetime(2026, 6, 1, tzinfo=UTC)), FILE) is None


def test_a_date_without_a_time_zone_is_refused_and_not_compared() -> None:
    """At the desk where it is a date, and as an error of the update where a clock tells it."""
    certificates = {"/cert.pem": self_signed_certificate(TEST_KEY, "test")}
    made = failure(lambda: CertificateVerifier(certificates, at=datetime(2026, 6, 1)))
    assert isinstance(made, LocalOtaError) and made.reason == "date-without-zone"
    asked = failure(lambda: CertificateVerifier(certificates, at=lambda: datetime(2026, 6, 1)).check(FILE))
    assert isinstance(asked, LocalOtaError) and asked.reason == "date-without-zone"


@pytest.mark.parametrize(
    ("name", "fits"), [("", False), ("a", True), ("a" * 64, True), ("a" * 65, False), ("é" * 33, False)]
)
def test_a_name_that_no_certificate_has_room_for(name: str, fits: bool) -> None:
    error = failure(lambda: self_signed_certificate(TEST_KEY, name))
    assert error is None if fits else isinstance(error, LocalOtaError) and error.reason == "certificate-name"


@given(st.lists(st.integers(0, len(CONTENT)), max_size=8))
def test_any_split_is_the_same_file(cuts: list[int]) -> None:
    """It does not matter in what pieces a file is read."""
    edges = [0, *sorted(cuts), len(CONTENT)]
    VERIFIER.verify(FILE, [CONTENT[a:b] for a, b in pairwise(edges)])


@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255))
def test_any_change_is_refused(at: int, change: int) -> None:
    """One byte changed, anywhere."""
    damaged = bytearray(CONTENT)
    damaged[at] ^= change
    assert reason(VERIFIER, FILE, bytes(damaged)) == "signature-mismatch"


@given(st.binary(max_size=300))
def test_any_signature(signature: bytes) -> None:
    """Arbitrary bytes for a signature are refused by RemoteOtaError, and nothing else is raised."""
    file = replace(FILE, signature=signature)
    assert isinstance(failure(lambda: VERIFIER.verify(file, [CONTENT])), RemoteOtaError)


def test_the_same_twice() -> None:
    """Signing and certifying are reproducible with an EC key."""
    assert sign([CONTENT], TEST_KEY) == FILE.signature
    assert self_signed_certificate(TEST_KEY, "test") == VERIFIER.certificates["/cert.pem"]


def test_keys_that_will_not_do() -> None:
    """A curve that no device checks, and a file that is no key."""
    with pytest.raises(LocalOtaError, match="secp384r1"):
        sign([CONTENT], ec.derive_private_key(5, ec.SECP384R1()))
    with pytest.raises(LocalOtaError, match="no private key"):
        load_private_key(b"not a key")
