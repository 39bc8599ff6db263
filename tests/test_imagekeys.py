"""Image signatures of every kind: imgtool takes ours, we take imgtool's, and not one bit of any may be another."""

import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from coreota.bootloader import McubootBootloader
from coreota.errors import LocalOtaError, RemoteOtaError
from coreota.image import Version, make_image, parse_image, validate_image
from coreota.imagekeys import (
    HeldPrivateKey,
    ImagePrivateKey,
    ImagePublicKey,
    good_signature,
    key_hash,
    public_key_of,
    sign_digest,
    signature_tlv,
)
from coreota.sim.lab import Lab, firmware

IMGTOOL = str(Path(sys.executable).with_name("imgtool"))
KEYS: dict[str, ImagePrivateKey] = {
    "ecdsa-p256": ec.derive_private_key(2026, ec.SECP256R1()),
    "ed25519": ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))),
    "rsa-2048": rsa.generate_private_key(65537, 2048),
    "rsa-3072": rsa.generate_private_key(65537, 3072),
}
each_key = pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())


def accepted(image: bytes, *keys: ImagePublicKey) -> bool:
    """May it run?"""
    try:
        validate_image(lambda offset, length: image[offset : offset + length], 65_536, 65_536, keys)
    except RemoteOtaError:
        return False
    return True


def imgtool(*arguments: str) -> int:
    return subprocess.run([IMGTOOL, *arguments], capture_output=True, check=False).returncode


@pytest.fixture
def key_file(tmp_path: Path, key: ImagePrivateKey) -> str:
    """The key as imgtool takes it."""
    assert not isinstance(key, HeldPrivateKey)
    path = tmp_path / "key.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return str(path)


@each_key
def test_imgtool_takes_ours(key: ImagePrivateKey, key_file: str, tmp_path: Path) -> None:
    path = tmp_path / "image.bin"
    path.write_bytes(make_image(bytes(500), Version(1, 2, 3), key=key, security_counter=5))
    assert imgtool("verify", "-k", key_file, str(path)) == 0
    path.write_bytes(
        make_image(bytes(500), Version(1, 2, 3), key=key, security_counter=5).replace(bytes(9), b"x" * 9, 1)
    )
    assert imgtool("verify", "-k", key_file, str(path)) != 0


@each_key
def test_we_take_imgtools_and_not_one_flipped_bit(key: ImagePrivateKey, key_file: str, tmp_path: Path) -> None:
    """Every bit of the whole file: header, payload, protected and unprotected TLVs."""
    source, target = tmp_path / "payload.bin", tmp_path / "image.bin"
    source.write_bytes(bytes(range(40)))
    flags = ["--header-size", "0x20", "--pad-header", "--align", "8", "--slot-size", "0x10000", "--version", "1.2.3"]
    assert imgtool("sign", "-k", key_file, *flags, "-s", "7", str(source), str(target)) == 0
    image, public = target.read_bytes(), key.public_key()
    assert accepted(image, public)
    assert not any(accepted(image, other.public_key()) for other in KEYS.values() if other is not key)
    assert accepted(image, *(other.public_key() for other in KEYS.values()))
    size = 8 * len(image)
    flips = (bytes(b ^ (1 << bit % 8) if at == bit // 8 else b for at, b in enumerate(image)) for bit in range(size))
    assert [bit for bit, flip in enumerate(flips) if accepted(flip, public)] == []


@each_key
def test_signature_moved_to_another_kind(key: ImagePrivateKey) -> None:
    """A good signature under the TLV type of another kind of key is none."""
    image = make_image(bytes(100), Version(1), key=key)
    ours = signature_tlv(key.public_key())
    at = image.rindex(ours.to_bytes(2, "little") + (len(parse_image(image).tlvs[-1].data)).to_bytes(2, "little"))
    for other in {0x20, 0x22, 0x23, 0x24, 0x25} - {ours}:
        moved = image[:at] + other.to_bytes(2, "little") + image[at + 2 :]
        assert not accepted(moved, *(one.public_key() for one in KEYS.values()))


@each_key
@given(signature=st.binary(max_size=400), digest=st.binary(min_size=32, max_size=32))
def test_any_signature(key: ImagePrivateKey, signature: bytes, digest: bytes) -> None:
    """Nothing but an answer, and the answer is no."""
    assert not good_signature(key.public_key(), digest, signature)


@each_key
def test_a_whole_update(key: ImagePrivateKey) -> None:
    """A device whose images are signed with such a key takes an update, and none that is signed with another."""
    lab = Lab()
    first = firmware("1.0.0", 20_000, key=key)
    lab.flash.erase(0)
    for sector in range(1, 6):
        lab.flash.erase(sector * 4096)
    lab.flash.write(0, first + b"\xff" * (-len(first) % 8))
    lab = Lab(bootloader=McubootBootloader(lab.flash, lab.boot_config, [key.public_key()]))
    job_id = lab.offer("2.0.0", image=firmware("2.0.0", 20_000, key=key))
    lab.run()
    assert (lab.history(job_id)[-1].status.value, str(lab.bootloader.running)) == ("SUCCEEDED", "2.0.0")
    stranger = KEYS["ed25519"] if key is not KEYS["ed25519"] else KEYS["ecdsa-p256"]
    job_id = lab.offer("3.0.0", image=firmware("3.0.0", 20_000, key=stranger))
    lab.run()
    assert (lab.history(job_id)[-1].status.value, str(lab.bootloader.running)) == ("FAILED", "2.0.0")


@pytest.mark.parametrize(
    "key",
    [ec.derive_private_key(7, ec.SECP384R1()), rsa.generate_private_key(65537, 1024)],
    ids=["P-384", "RSA-1024"],
)
def test_keys_that_are_refused(key: ImagePrivateKey) -> None:
    with pytest.raises(LocalOtaError, match="an image key of"):
        sign_digest(key, bytes(32))
    with pytest.raises(LocalOtaError, match="take P-256, Ed25519"):
        make_image(b"x", Version(1), key=key)


def test_hashes_name_keys() -> None:
    """Four keys, four names."""
    assert len({key_hash(key.public_key()) for key in KEYS.values()}) == 4


@each_key
def test_a_public_key_comes_as_pem_and_a_private_one_is_refused(key: ImagePrivateKey) -> None:
    assert not isinstance(key, HeldPrivateKey)
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert key_hash(public_key_of(pem, "key.pem")) == key_hash(key.public_key())
    with pytest.raises(LocalOtaError, match=r"root\.pem holds no public key") as error:
        public_key_of(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "root.pem")
    assert (error.value.reason, "getpub" in error.value.advice) == ("key", True)


@each_key
def test_a_public_key_comes_as_der_as_well(key: ImagePrivateKey) -> None:
    """As imgtool writes it, and as MCUboot has it compiled in; a damaged one is none."""
    assert not isinstance(key, HeldPrivateKey)
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert key_hash(public_key_of(der, "key.der")) == key_hash(key.public_key())
    for damaged in (der[:-1], b"", b"\0" + der, der[:20]):
        with pytest.raises(LocalOtaError, match=r"key\.der holds no public key"):
            public_key_of(damaged, "key.der")
