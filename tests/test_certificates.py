"""Chains of certificates: each way to fail has its reason, and the provider hears it before the first block."""

from base64 import encodebytes
from collections import Counter
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from coreota.certificates import ChainVerifier, fingerprint_of, issue_certificate
from coreota.errors import LocalOtaError, RemoteOtaError
from coreota.parser import OtaFile, SignatureAlgorithm
from coreota.provider.ota import UpdateFile
from coreota.provider.streams import BytesContent
from coreota.signing import CertificateVerifier, PrivateKey, PublicKey, sign
from coreota.sim.lab import Lab, firmware, lab_key

NOW = datetime(2026, 11, 1, tzinfo=UTC)
CONTENT = b"firmware" * 1000
ROOT = issue_certificate("root", lab_key("root").public_key(), lab_key("root"), ca=1)
MIDDLE = issue_certificate("middle", lab_key("middle").public_key(), lab_key("root"), ROOT, ca=0, serial=2)


def key(name: str) -> PublicKey:
    return lab_key(name).public_key()


def leaf(**changes: object) -> bytes:
    """A release certificate below MIDDLE, and MIDDLE behind it in the same PEM file."""
    arguments: dict[str, object] = {
        "name": "release", "key": key("release"), "issuer_key": lab_key("middle"), "issuer": MIDDLE, "serial": 3,
    }  # fmt: skip
    return issue_certificate(**(arguments | changes)) + MIDDLE  # type: ignore[arg-type]


def signed(by: PrivateKey | None = None, algorithm: SignatureAlgorithm = SignatureAlgorithm.SHA256_ECDSA) -> OtaFile:
    by = by or lab_key("release")
    return OtaFile(0, "/app", len(CONTENT), "/release.pem", sign([CONTENT], by), algorithm)


def verifier(pem: bytes, **changes: object) -> ChainVerifier:
    arguments: dict[str, object] = {"anchors": [ROOT], "at": NOW}
    return ChainVerifier({"/release.pem": pem}, **(arguments | changes))  # type: ignore[arg-type]


def test_good() -> None:
    """Two authorities and a release key; the date as a value or as a function; RSA as well as P-256."""
    verifier(leaf()).verify(signed(), [CONTENT[:5], CONTENT[5:]])
    verifier(leaf(), at=lambda: NOW).verify(signed(), [CONTENT])
    verifier(leaf(), at=None).verify(signed(), [CONTENT])
    rsa_key = rsa.generate_private_key(65537, 2048)
    pem = leaf(key=rsa_key.public_key())
    verifier(pem).verify(signed(rsa_key, SignatureAlgorithm.SHA256_RSA), [CONTENT])


OLD, YOUNG = datetime(2025, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
STRANGER = issue_certificate("root", key("stranger"), lab_key("stranger"), ca=1)
CASES: dict[str, tuple[bytes, dict[str, object], str]] = {
    "expired": (leaf(not_after=OLD), {}, "certificate-expired"),
    "not yet valid": (leaf(not_before=YOUNG), {}, "certificate-expired"),
    "for servers": (leaf(usages=[ExtendedKeyUsageOID.SERVER_AUTH]), {}, "certificate-usage"),
    "for nothing": (leaf(usages=[]), {}, "certificate-usage"),
    "an authority that signs itself": (leaf(ca=0), {}, "certificate-usage"),
    "middle missing": (leaf()[: -len(MIDDLE)], {}, "certificate-untrusted"),
    "a stranger's root": (leaf(), {"anchors": [STRANGER]}, "certificate-untrusted"),
    "refused": (leaf(), {"refused": [fingerprint_of(leaf())]}, "certificate-refused"),
    "its issuer refused": (leaf(), {"refused": [fingerprint_of(MIDDLE).upper()]}, "certificate-refused"),
    "the root refused": (leaf(), {"refused": [fingerprint_of(ROOT)]}, "certificate-refused"),
    "no certificate": (b"hello", {}, "certificate-invalid"),
    "key on another curve": (leaf(key=ec.derive_private_key(7, ec.SECP384R1()).public_key()), {}, "key-type"),
}


@pytest.mark.parametrize(("pem", "changes", "reason"), CASES.values(), ids=CASES.keys())
def test_refused_before_the_download(pem: bytes, changes: dict[str, object], reason: str) -> None:
    with pytest.raises(LocalOtaError) as caught:
        verifier(pem, **changes).check(signed())
    assert caught.value.reason == reason


def test_an_expired_authority() -> None:
    """Above a release certificate that is still good."""
    old = issue_certificate("middle", key("middle"), lab_key("root"), ROOT, ca=0, not_after=OLD)
    pem = issue_certificate("release", key("release"), lab_key("middle"), old) + old
    with pytest.raises(LocalOtaError) as caught:
        verifier(pem).check(signed())
    assert caught.value.reason == "certificate-expired"


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_one_bit_changed_in_any_byte_is_refused_in_our_words() -> None:
    """Whatever the library makes of the bytes: an X.509 version of 67, an extension that is there twice."""
    good = [x509.load_pem_x509_certificate(pem) for pem in (leaf()[: -len(MIDDLE)], MIDDLE)]
    ders, reasons = [one.public_bytes(Encoding.DER) for one in good], Counter[str]()
    for number, der in enumerate(ders):
        unused = len(der) - len(good[number].signature) - 1  # How many bits behind the signature do not count
        for at in (at for at in range(len(der)) if at != unused):
            changed = [*ders]
            changed[number] = der[:at] + bytes([der[at] ^ 1 << at % 7]) + der[at + 1 :]
            pems = [
                b"-----BEGIN CERTIFICATE-----\n" + encodebytes(one) + b"-----END CERTIFICATE-----\n" for one in changed
            ]
            with pytest.raises(LocalOtaError) as caught:
                verifier(b"".join(pems)).check(signed())
            reasons[caught.value.reason] += 1
    assert reasons.keys() <= {
        "certificate-invalid",
        "certificate-untrusted",
        "certificate-usage",
        "certificate-expired",
    }
    assert min(reasons["certificate-invalid"], reasons["certificate-untrusted"]) > 100


def test_twice_the_same_extension_is_refused() -> None:
    """The identifier of a key named as another usage: found by changing one bit."""
    pem = leaf()[: -len(MIDDLE)]
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    twice = der.replace(bytes.fromhex("0603551d0e"), bytes.fromhex("0603551d0f"))
    assert twice != der
    changed = b"-----BEGIN CERTIFICATE-----\n" + encodebytes(twice) + b"-----END CERTIFICATE-----\n"
    for check in (verifier(changed + MIDDLE), CertificateVerifier({"/release.pem": changed})):
        with pytest.raises(LocalOtaError) as caught:
            check.check(signed())
        assert caught.value.reason == "certificate-usage"


def test_peers_mistakes() -> None:
    """Another key, another name, another size, another kind of signature: the provider's fault, and said so."""
    good = verifier(leaf())
    with pytest.raises(RemoteOtaError) as caught:
        good.verify(signed(lab_key("somebody")), [CONTENT])
    assert caught.value.reason == "signature-mismatch"
    with pytest.raises(RemoteOtaError) as caught:
        good.verify(signed(), [CONTENT, b"more"])
    assert caught.value.reason == "file-size"
    with pytest.raises(RemoteOtaError) as caught:
        ChainVerifier({}, [ROOT]).check(signed())
    assert caught.value.reason == "certificate-unknown"
    with pytest.raises(RemoteOtaError) as caught:
        good.check(signed(algorithm=SignatureAlgorithm.SHA256_RSA))
    assert caught.value.reason == "key-type"


def test_an_anchor_there_must_be() -> None:
    with pytest.raises(LocalOtaError, match="no trust anchor"):
        ChainVerifier({}, [])
    with pytest.raises(LocalOtaError, match="a trust anchor cannot be read"):
        ChainVerifier({}, [b"hello"])


@pytest.mark.parametrize(
    ("pem", "changes", "reason"),
    [CASES["expired"], CASES["a stranger's root"], CASES["refused"], (leaf(), {}, "")],
    ids=["expired", "stranger", "refused", "good"],
)
def test_the_provider_hears_it_before_the_first_block(pem: bytes, changes: dict[str, object], reason: str) -> None:
    lab = Lab(verifier=verifier(pem, **changes))
    file = UpdateFile("/app", BytesContent(firmware("2.0.0", 9000)), "/release.pem", private_key=lab_key("release"))
    job_id = lab.provider.create_ota_update("chain", [lab.thing], [file], lab.clock.now())
    lab.run()
    last = lab.history(job_id)[-1]
    if reason:
        assert (last.status.value, last.details["reason"].split(": ")[:2]) == ("FAILED", ["aborted", reason])
        assert lab.received == 0
    else:
        assert (last.status.value, str(lab.bootloader.running)) == ("SUCCEEDED", "2.0.0")
