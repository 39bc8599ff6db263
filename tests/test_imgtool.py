"""Byte for byte what imgtool makes: every kind of key, every set of TLVs, padded or not; and imgtool takes ours."""

from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from imgtool.main import imgtool  # type: ignore[import-untyped]

from coreota.boot import BootConfig, BootMode
from coreota.bootloader import McubootBootloader
from coreota.errors import LocalOtaError, RemoteOtaError
from coreota.flash import NorFlash
from coreota.image import Dependency, Hardware, Tlv, Version, dependencies_of, make_image, parse_image, validate_image
from coreota.imagekeys import HeldPrivateKey, ImagePrivateKey, key_hash, signature_tlv
from coreota.trailer import SwapType, TrailerLayout, padded_image

KEYS: dict[str, ImagePrivateKey] = {
    "ecdsa-p256": ec.derive_private_key(2026, ec.SECP256R1()),
    "ed25519": ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))),
    "rsa-2048": rsa.generate_private_key(65537, 2048),
    "rsa-3072": rsa.generate_private_key(65537, 3072),
}
PAYLOAD = bytes(range(256)) * 5
SETS: dict[str, tuple[list[str], dict[str, object]]] = {
    "plain": ([], {}),
    "counter": (["-s", "4294967295"], {"security_counter": 0xFFFFFFFF}),
    "counter 0": (["-s", "0"], {"security_counter": 0}),
    "dependency": (["-d", "(1, 2.1.700+9)"], {"dependencies": [Dependency(1, Version(2, 1, 700, 9))]}),
    "dependencies": (
        ["-d", "(0, 1.0.0)(255, 0.0.1+4294967295)"],
        {"dependencies": [Dependency(0, Version(1)), Dependency(255, Version(0, 0, 1, 0xFFFFFFFF))]},
    ),
    "hardware": (
        ["--vid", "acme.example", "--cid", "pump-7"],
        {"hardware": Hardware("acme.example", "pump-7")},
    ),
    "custom": (
        ["--custom-tlv", "0xa0", "0x11223344", "--custom-tlv", "0xfffe", "text"],
        {"custom": [Tlv(0xA0, bytes.fromhex("11223344")), Tlv(0xFFFE, b"text")]},
    ),
    "load address": (["--load-addr", "0x20000000"], {"load_addr": 0x20000000, "flags": 0x20}),
    "for one slot": (["--rom-fixed", "0x8000"], {"load_addr": 0x8000, "flags": 0x100}),
    "large header": (["--header-size", "0x200"], {"header_size": 512}),
    "all": (
        ["-s", "7", "-d", "(1, 2.0.0)", "--vid", "acme.example", "--cid", "pump-7", "--custom-tlv", "0xa1", "x"],
        {
            "security_counter": 7,
            "dependencies": [Dependency(1, Version(2))],
            "hardware": Hardware("acme.example", "pump-7"),
            "custom": [Tlv(0xA1, b"x")],
        },
    ),
}


class Imgtool:
    """The real imgtool, in this process."""

    def __init__(self, folder: Path, key: ImagePrivateKey) -> None:
        self.key, self.source, self.target = folder / "key.pem", folder / "payload.bin", folder / "image.bin"
        assert not isinstance(key, HeldPrivateKey)
        self.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.source.write_bytes(PAYLOAD)

    def sign(self, *options: str) -> bytes:
        """Sign the payload, version 1.2.3+4."""
        flags = ["--header-size", "0x20", "--pad-header", "--slot-size", "0x8000", "--version", "1.2.3+4"]
        call = ["sign", "-k", str(self.key), *flags, *options, str(self.source), str(self.target)]
        result = CliRunner().invoke(imgtool, call)
        assert result.exit_code == 0, result.output
        return self.target.read_bytes()

    def takes(self, image: bytes) -> bool:
        """Does it verify the image?"""
        self.target.write_bytes(image)
        return CliRunner().invoke(imgtool, ["verify", "-k", str(self.key), str(self.target)]).exit_code == 0


def runs(image: bytes, key: ImagePrivateKey) -> bool:
    try:
        validate_image(lambda at, size: image.ljust(65536, b"\xff")[at : at + size], 65536, 65536, [key.public_key()])
    except RemoteOtaError:
        return False
    return True


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
@pytest.mark.parametrize("name", SETS)
def test_the_same_bytes(name: str, key: ImagePrivateKey, tmp_path: Path) -> None:
    """All but the signature itself, which has chance in it; each tool takes the other's, and neither a changed one."""
    options, arguments = SETS[name]
    tool = Imgtool(tmp_path, key)
    theirs = tool.sign(*options)
    ours = make_image(PAYLOAD, Version(1, 2, 3, 4), key=key, **arguments)  # type: ignore[arg-type]
    covered = len(ours) - sum(4 + len(tlv.data) for tlv in parse_image(ours).tlvs) - 4
    assert ours[:covered] == theirs[:covered]
    mine, other = parse_image(ours), parse_image(theirs)
    assert (mine.header, mine.protected, mine.tlvs[:-1]) == (other.header, other.protected, other.tlvs[:-1])
    assert mine.tlvs[-2].data == key_hash(key.public_key())
    assert mine.tlvs[-1].kind == other.tlvs[-1].kind == signature_tlv(key.public_key())
    assert dependencies_of(mine.protected) == tuple(arguments.get("dependencies", ()))  # type: ignore[arg-type]
    assert (tool.takes(ours), runs(theirs, key)) == (True, True)
    at = covered - 1
    for image in (ours, theirs):
        changed = image[:at] + bytes([image[at] ^ 1]) + image[at + 1 :]
        assert (tool.takes(changed), runs(changed, key)) == (False, False)


def test_an_image_that_is_not_bootable(tmp_path: Path) -> None:
    key = KEYS["ed25519"]
    tool = Imgtool(tmp_path, key)
    theirs = tool.sign("--non-bootable")
    ours = make_image(PAYLOAD, Version(1, 2, 3, 4), key=key, flags=0x10)
    assert ours == theirs  # Ed25519 leaves nothing to chance
    assert (tool.takes(ours), runs(ours, key)) == (True, False)


def test_a_boot_record(tmp_path: Path) -> None:
    """We do not make them, and take them under the signature."""
    key = KEYS["ecdsa-p256"]
    image = Imgtool(tmp_path, key).sign("--boot-record", "CoFM", "-s", "3")
    assert runs(image, key)
    assert [tlv.kind for tlv in parse_image(image).protected] == [0x50, 0x60]


@pytest.mark.parametrize(
    ("align", "max_align"), [(1, 8), (2, 8), (4, 8), (8, 8), (8, 16), (16, 16), (16, 32), (32, 32)]
)
@pytest.mark.parametrize("confirmed", [False, True])
def test_padded_images(align: int, max_align: int, confirmed: bool, tmp_path: Path) -> None:
    """A trailer behind the image, to the byte, and a boot that does what it asks for."""
    key = KEYS["ed25519"]
    options = ["--align", str(align), "--max-align", str(max_align), "--confirm" if confirmed else "--pad"]
    theirs = Imgtool(tmp_path, key).sign(*options)
    layout = TrailerLayout(0x8000, 4096, align, max_align)
    image = make_image(PAYLOAD, Version(1, 2, 3, 4), key=key)
    assert padded_image(image, layout, confirmed) == theirs
    old = make_image(PAYLOAD, Version(1), key=key)
    config = BootConfig(mode=BootMode.SWAP_MOVE, write_align=align, max_align=max_align)
    content = bytearray(old.ljust(0x8000, b"\xff") + theirs)
    flash = NorFlash(len(content), write_size=align, storage=content)
    bootloader = McubootBootloader(flash, config, [key.public_key()])
    result = bootloader.boot()
    assert (str(result.version), result.swap_type) == ("1.2.3+4", SwapType.PERM if confirmed else SwapType.TEST)
    assert bootloader.on_trial != confirmed


def test_what_is_not_made() -> None:
    key = KEYS["ed25519"]
    for arguments in (
        {"custom": [Tlv(0x9F, b"")]},
        {"custom": [Tlv(0xFFFF, b"")]},
        {"custom": [Tlv(0xA0, bytes(0x10000))]},
        {"custom": [Tlv(0xA0, bytes(0xFFFF))]},
        {"flags": 0x4},
        {"flags": -1},
        {"flags": 1 << 32},
        {"load_addr": 1 << 32},
    ):
        with pytest.raises(LocalOtaError, match=r"flags|TLV"):
            make_image(b"x", Version(1), key=key, **arguments)
    layout = TrailerLayout(0x8000, 4096, 8)
    for size in (0x8000 - layout.size + 1, 0x8000, 0x9000):
        with pytest.raises(LocalOtaError, match="no room"):
            padded_image(bytes(size), layout)
    assert len(padded_image(bytes(0x8000 - layout.size), layout)) == 0x8000


def test_the_sets_differ() -> None:
    made = [make_image(PAYLOAD, Version(1), key=KEYS["ed25519"], **arguments) for _, arguments in SETS.values()]  # type: ignore[arg-type]
    assert all(one != other for one, other in pairwise(made))
