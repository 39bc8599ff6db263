"""Images against imgtool and MCUboot's recorded ones, against every bit flip, and against arbitrary bytes."""

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_public_key,
)
from hypothesis import given
from hypothesis import strategies as st

from coreota.check import failure
from coreota.errors import LocalOtaError, RemoteOtaError
from coreota.image import (
    Dependency,
    Hardware,
    ImageHeader,
    Tlv,
    Version,
    check_dependencies,
    check_hardware,
    dependencies_of,
    make_image,
    parse_image,
    validate_image,
)

IMGTOOL = str(Path(sys.executable).with_name("imgtool"))
TEST_KEY = ec.derive_private_key(2026, ec.SECP256R1())
VECTORS = Path(__file__).parent / "data" / "mcuboot"
SLOT = 0x10000


def slot(image: bytes, size: int = SLOT) -> Callable[[int, int], bytes]:
    """A reader of a slot that begins with the image."""
    content = image.ljust(size, b"\xff")
    return lambda offset, length: content[offset : offset + length]


def refusal(image: bytes) -> str | None:
    """Why the image is refused, or None."""
    error = failure(lambda: validate_image(slot(image), SLOT, SLOT, [TEST_KEY.public_key()]))
    assert error is None or isinstance(error, RemoteOtaError), error
    return error.reason if error else None


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """The test key, as imgtool takes it."""
    path = tmp_path / "test_key.pem"
    path.write_bytes(TEST_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


def imgtool(*arguments: str) -> int:
    """Run the real imgtool; its exit status."""
    return subprocess.run([IMGTOOL, *arguments], capture_output=True, timeout=60).returncode


@pytest.mark.parametrize("size", [1, 100, 40_000])
@pytest.mark.parametrize("header_size", [32, 512])
@pytest.mark.parametrize("counter", [None, 7])
def test_imgtool_verifies_ours(
    size: int, header_size: int, counter: int | None, tmp_path: Path, key_file: Path
) -> None:
    """What make_image makes, imgtool accepts; with one byte changed, not."""
    image = make_image(
        bytes(size), Version(1, 2, 3, 4), key=TEST_KEY, header_size=header_size, security_counter=counter
    )
    path = tmp_path / "image.bin"
    path.write_bytes(image)
    assert imgtool("verify", "-k", str(key_file), str(path)) == 0
    path.write_bytes(image[:header_size] + b"X" + image[header_size + 1 :])
    assert imgtool("verify", "-k", str(key_file), str(path)) != 0


@pytest.mark.parametrize(
    "extra",
    [[], ["--pad-sig"], ["-s", "5"], ["-d", "(0, 1.0.0+0)"], ["-s", "5", "--custom-tlv", "0x00a0", "0x11223344"]],
    ids=["plain", "padded-signature", "counter", "dependency", "custom"],
)
def test_we_take_imgtools(extra: list[str], tmp_path: Path, key_file: Path) -> None:
    """What imgtool signs, we accept, and read."""
    source, target = tmp_path / "payload.bin", tmp_path / "image.bin"
    payload = bytes(range(256)) * 9
    source.write_bytes(payload)
    flags = ["--header-size", "0x20", "--pad-header", "--align", "8", "--slot-size", "0x10000", "--version", "2.1.0+3"]
    assert imgtool("sign", "-k", str(key_file), *flags, *extra, str(source), str(target)) == 0
    image = target.read_bytes()
    assert refusal(image) is None
    parsed = parse_image(image)
    assert (parsed.payload, parsed.header.version) == (payload, Version(2, 1, 0, 3))
    assert bool(parsed.protected) == bool(extra and extra != ["--pad-sig"])


PUMP = Hardware("acme.example", "pump-7")


@pytest.mark.parametrize(
    ("vendor", "device_class"),
    [("acme.example", "pump-7"), ("12345678-1234-5678-1234-567812345678", "0" * 32), ("a" * 60, "ü")],
)
def test_hardware_as_imgtool_writes_it(vendor: str, device_class: str, tmp_path: Path, key_file: Path) -> None:
    """The same two TLVs, in the same order, made of names or of UUIDs."""
    source, target = tmp_path / "payload.bin", tmp_path / "image.bin"
    source.write_bytes(bytes(100))
    flags = ["--header-size", "0x20", "--pad-header", "--align", "8", "--slot-size", "0x10000", "--version", "1.0.0"]
    names = ["--vid", vendor, "--cid", device_class]
    assert imgtool("sign", "-k", str(key_file), *flags, *names, "-s", "3", str(source), str(target)) == 0
    hardware = Hardware(vendor, device_class)
    ours = make_image(bytes(100), Version(1), key=TEST_KEY, security_counter=3, hardware=hardware)
    assert parse_image(target.read_bytes()).protected == parse_image(ours).protected
    check_hardware(parse_image(target.read_bytes()).protected, hardware)
    target.write_bytes(ours)
    assert imgtool("verify", "-k", str(key_file), str(target)) == 0


@pytest.mark.parametrize(
    "other", [None, Hardware("acme.example", "valve-2"), Hardware("evil.example", "pump-7"), Hardware("x", "y")]
)
def test_images_for_other_hardware(other: Hardware | None) -> None:
    """Refused, and so is one that does not say; without an identity a device takes them all."""
    image = make_image(bytes(100), Version(1), key=TEST_KEY, hardware=other)

    def read(offset: int, length: int) -> bytes:
        return image[offset : offset + length]

    validate_image(read, 65_536, 65_536, [TEST_KEY.public_key()])
    with pytest.raises(RemoteOtaError) as caught:
        validate_image(read, 65_536, 65_536, [TEST_KEY.public_key()], PUMP)
    assert caught.value.reason == "hardware-mismatch"


@pytest.mark.parametrize("names", [("", "a"), ("a", " ")])
def test_hardware_has_two_names(names: tuple[str, str]) -> None:
    with pytest.raises(LocalOtaError, match="a vendor and a class"):
        Hardware(*names).tlvs()


def test_dependencies_as_imgtool_writes_them(tmp_path: Path, key_file: Path) -> None:
    """The same protected area, byte by byte, beside a counter and an identity; and imgtool verifies ours."""
    source, target = tmp_path / "payload.bin", tmp_path / "image.bin"
    source.write_bytes(bytes(100))
    flags = ["--header-size", "0x20", "--pad-header", "--align", "8", "--slot-size", "0x10000", "--version", "1.0.0"]
    extra = ["-s", "3", "-d", "(1, 2.1.700+9)(255, 0.0.1+0)", "--vid", PUMP.vendor, "--cid", PUMP.device_class]
    assert imgtool("sign", "-k", str(key_file), *flags, *extra, str(source), str(target)) == 0
    needed = (Dependency(1, Version(2, 1, 700, 9)), Dependency(255, Version(0, 0, 1)))
    ours = make_image(bytes(100), Version(1), key=TEST_KEY, security_counter=3, hardware=PUMP, dependencies=needed)
    assert parse_image(target.read_bytes()).protected == parse_image(ours).protected
    assert dependencies_of(parse_image(target.read_bytes()).protected) == needed
    assert refusal(ours) is None
    target.write_bytes(ours)
    assert imgtool("verify", "-k", str(key_file), str(target)) == 0


@pytest.mark.parametrize(
    ("installed", "good"),
    [
        ({1: Version(2, 1, 0)}, True),
        ({1: Version(2, 1, 0, 5)}, True),
        ({1: Version(3)}, True),
        ({1: Version(2, 0, 65535)}, False),
        ({2: Version(9)}, False),
        ({}, False),
    ],
)
def test_dependencies_are_judged(installed: dict[int, Version], good: bool) -> None:
    """The version or a later one, builds do not count, and an image that is not there is none."""
    error = failure(lambda: check_dependencies([Dependency(1, Version(2, 1, 0, 7))], installed))
    assert (error is None) == good
    if error is not None:
        assert isinstance(error, RemoteOtaError) and error.reason == "dependency"


@pytest.mark.parametrize("size", [0, 11, 13])
def test_a_dependency_of_another_length(size: int) -> None:
    with pytest.raises(RemoteOtaError, match="another length than 12 bytes"):
        dependencies_of([Tlv(0x40, bytes(size))])


def test_dependencies_that_cannot_be() -> None:
    for image in (-1, 256):
        with pytest.raises(LocalOtaError, match="as a dependency"):
            Dependency(image, Version(1)).tlv()
    with pytest.raises(LocalOtaError, match="more than 65535 bytes"):
        make_image(b"", Version(1), dependencies=[Dependency(0, Version(1))] * 4096)


def test_every_bit_counts() -> None:
    """Not one flip of one bit of an image passes."""
    image = make_image(b"forty bytes of payload, more or less....", Version(1), key=TEST_KEY, security_counter=1)
    assert refusal(image) is None
    passed = []
    for bit in range(8 * len(image)):
        damaged = bytearray(image)
        damaged[bit // 8] ^= 1 << bit % 8
        if refusal(bytes(damaged)) is None:
            passed.append(bit)
    assert passed == []


def test_recorded_images() -> None:
    """MCUboot's own: the four bad ones are refused, all others accepted with their versions."""
    key = load_der_public_key((VECTORS / "images" / "pubkey.der").read_bytes())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    listed = json.loads((VECTORS / "manifest.json").read_text())["images"]
    refused = set()
    for name, entry in listed.items():
        image = (VECTORS / entry["file"]).read_bytes()
        try:
            header = validate_image(slot(image), SLOT, SLOT, [key])
            assert header.version == Version.parse(entry["version"])
        except RemoteOtaError:
            refused.add(name)
    assert refused == {"v2badhash", "v2badsig", "v2badtlv", "v2wrongkey"}


@given(st.binary(max_size=300))
def test_arbitrary_bytes(raw: bytes) -> None:
    """Bytes that are no image raise RemoteOtaError and nothing else."""
    for call in (lambda: parse_image(raw), lambda: ImageHeader.parse(raw)):
        error = failure(call)
        assert error is None or isinstance(error, RemoteOtaError)


@given(st.integers(0, 300), st.binary(min_size=1, max_size=40))
def test_damage(at: int, damage: bytes) -> None:
    """An image with a piece overwritten is refused, unless nothing changed; no other exception escapes."""
    image = make_image(b"some payload" * 10, Version(1), key=TEST_KEY, security_counter=1)
    damaged = (image[:at] + damage + image[at + len(damage) :])[: len(image)]
    assert (refusal(damaged) is None) == (damaged == image)


@given(st.binary(max_size=2000), st.integers(0, 255), st.integers(0, 65535), st.integers(32, 600))
def test_round_trip(payload: bytes, major: int, revision: int, header_size: int) -> None:
    """What was put in comes out."""
    version = Version(major, 1, revision, 9)
    parsed = parse_image(make_image(payload, version, key=TEST_KEY, header_size=header_size))
    assert (parsed.payload, parsed.header.version, parsed.header.header_size) == (payload, version, header_size)
    assert Version.parse(str(version)) == version


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1.2",
        "1.2.3.4",
        "v1.2.3",
        "1.2.-3",
        "256.0.0",
        "1.0.65536",
        "1.2.3+x",
        "1.2.3+",
        "٣.0.0",
        "9" * 5000 + ".0.0",
    ],
)
def test_no_versions(text: str) -> None:
    """What is no version is said to be none."""
    with pytest.raises(LocalOtaError, match="is no version"):
        Version.parse(text)


def test_refused_arguments() -> None:
    """An image that cannot be is not made."""
    with pytest.raises(LocalOtaError):
        make_image(b"", Version(1), header_size=16)
    with pytest.raises(LocalOtaError):
        make_image(b"", Version(300))
    with pytest.raises(LocalOtaError):
        make_image(b"", Version(1), key=ec.derive_private_key(1, ec.SECP384R1()))


def resigned(image: bytes, flags: int = 0, protected: bytes = b"") -> bytes:
    """The image with other flags or protected TLVs, hashed and signed again as a good signer would."""
    parsed = parse_image(image)
    area = struct.pack("<HH", 0x6908, 4 + len(protected)) + protected if protected else b""
    header = replace(parsed.header, flags=flags, protected_size=len(area))
    covered = header.to_bytes() + parsed.payload + area
    digest = sha256(covered).digest()
    signature = TEST_KEY.sign(digest, ec.ECDSA(Prehashed(SHA256())))
    key_hash = next(tlv for tlv in parsed.tlvs if tlv.kind == 0x01)
    tlvs = b"".join(tlv.to_bytes() for tlv in (Tlv(0x10, digest), key_hash, Tlv(0x22, signature)))
    return covered + struct.pack("<HH", 0x6907, 4 + len(tlvs)) + tlvs


@pytest.mark.parametrize("flag", [0x004, 0x008, 0x200, 0x400, 0x800])
def test_encrypted_and_compressed_images_are_refused(flag: int) -> None:
    """However well signed: this bootloader cannot run them."""
    assert refusal(resigned(make_image(b"payload", Version(1), key=TEST_KEY), flags=flag)) == "image-flags"


def test_rom_fixed_images_are_taken() -> None:
    """A flag of no concern here."""
    assert refusal(resigned(make_image(b"payload", Version(1), key=TEST_KEY), flags=0x100)) is None


def test_a_wrong_digest_in_the_protected_area_counts() -> None:
    """Protected TLVs are walked too (MCUboot: every TLV, in order)."""
    image = make_image(b"payload", Version(1), key=TEST_KEY)
    assert refusal(resigned(image, protected=Tlv(0xA0, b"own").to_bytes())) is None
    assert refusal(resigned(image, protected=Tlv(0x10, bytes(32)).to_bytes())) == "image-digest"


def test_order_of_versions() -> None:
    """Build numbers make neither older nor newer, whichever way it is asked."""
    one, two = Version.parse("1.0.0+1"), Version.parse("1.0.0+2")
    assert (one < two, one > two, one <= two, one >= two, one == two) == (False, False, True, True, False)
    older, newer = Version.parse("1.9.0"), Version.parse("1.10.0")
    assert (older < newer, older > newer, older <= newer, older >= newer) == (True, False, True, False)
