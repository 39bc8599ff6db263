"""Every flash that MCUboot's C code left behind: ours must leave the same, by the same operations."""

import gzip
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from coreota.boot import BootConfig, BootMode, DowngradePolicy
from coreota.bootloader import BootResult, McubootBootloader
from coreota.errors import LocalOtaError
from coreota.flash import FlashRecorder, NorFlash, PowerCut
from coreota.image import Version
from coreota.trailer import Slot, set_confirmed, set_pending, swap_type

DATA = Path(__file__).parent / "data" / "mcuboot"
MANIFEST: dict[str, Any] = json.loads((DATA / "manifest.json").read_text())
VECTORS: list[dict[str, Any]] = MANIFEST["vectors"]
BY_ID = {vector["id"]: vector for vector in VECTORS}
CALLS = [vector for vector in VECTORS if "cmd" in vector]
STARTS = [vector for vector in VECTORS if "place" in vector]
MODES = {
    "swap_move": BootMode.SWAP_MOVE,
    "swap_move_a16": BootMode.SWAP_MOVE,
    "swap_move_dgp": BootMode.SWAP_MOVE,
    "overwrite": BootMode.OVERWRITE,
    "direct_xip_revert": BootMode.DIRECT_XIP_REVERT,
}


def flash_of(vector: dict[str, Any]) -> bytes:
    """The flash that a vector ends with."""
    return gzip.decompress((DATA / vector["file"]).read_bytes())


def public_key() -> EllipticCurvePublicKey:
    key = load_der_public_key((DATA / MANIFEST["pubkey"]).read_bytes())
    assert isinstance(key, EllipticCurvePublicKey)
    return key


def config_of(vector: dict[str, Any]) -> BootConfig:
    facts = MANIFEST["configs"][vector["config"]]
    offset, size, other, other_size = facts["slots"]
    return BootConfig(
        primary=(offset, size),
        secondary=(other, other_size),
        mode=MODES[facts["mode"]],
        sector_size=facts["sector"],
        write_align=facts["write_align"],
        max_align=facts["max_align"],
        max_img_sectors=facts["max_img_sectors"],
        downgrade=DowngradePolicy.VERSION if facts["mode"].endswith("_dgp") else DowngradePolicy.ALLOW,
    )


def option(command: list[str], name: str, otherwise: str) -> str:
    return command[command.index(name) + 1] if name in command else otherwise


def call(command: list[str], flash: NorFlash, bootloader: McubootBootloader) -> tuple[int | None, BootResult | None]:
    """Make the call of a vector; MCUboot's return code (None: power was cut) and what a boot gave."""
    if command[0] == "--set-pending":
        try:
            set_pending(bootloader.update_slot, "permanent" in command)
        except LocalOtaError:
            return 3, None
        return 0, None
    if command[0] == "--confirm":
        set_confirmed(bootloader.slots.secondary if option(command, "--slot", "0") == "1" else bootloader.slots.primary)
        return 0, None
    if "--cut" in command:
        torn = int(option(command, "--torn", "prefix:0").removeprefix("prefix:")) / 256
        flash.cut_after(int(option(command, "--cut", "")), torn=torn)
    try:
        result = bootloader.boot()
    except PowerCut:
        return None, None
    return (0 if result.booted else -1), result


def trace(recorder: FlashRecorder, config: BootConfig) -> list[str]:
    """The record in the words of the manifest."""
    lines = []
    for number, done in enumerate(recorder.log, 1):
        area = 1 if done.offset < config.secondary[0] else 2
        offset = done.offset - (config.primary, config.secondary)[area - 1][0]
        if done.kind == "erase":
            lines.append(f"{number} E {area} {offset:#x} {done.length}")
        else:
            data = done.data.hex() if done.length <= 32 else f"crc32={zlib.crc32(done.data):08x}"
            lines.append(f"{number} W {area} {offset:#x} {done.length} {data}")
    return lines


def said(slot: Slot) -> dict[str, Any]:
    """A trailer in the words of the manifest."""
    state = slot.trailer()
    return {
        "magic": state.magic.value,
        "swap_type": state.swap_type.name.lower(),
        "copy_done": state.copy_done.value,
        "image_ok": state.image_ok.value,
        "image_num": 0,
    }


def test_all_vectors_are_there() -> None:
    assert (len(VECTORS), len(CALLS), len(STARTS)) == (538, 513, 25)
    assert sum("trace" in vector for vector in CALLS) == 93


@pytest.mark.parametrize("vector", STARTS, ids=[f"{n}-{vector['id']}" for n, vector in enumerate(STARTS)])
def test_start(vector: dict[str, Any]) -> None:
    """The flash a series begins with is its images and nothing else."""
    config = config_of(vector)
    content = bytearray(b"\xff" * MANIFEST["configs"][vector["config"]]["flash_size"])
    for slot, (offset, _) in (("primary", config.primary), ("secondary", config.secondary)):
        if vector["place"][slot]:
            image = (DATA / MANIFEST["images"][vector["place"][slot]]["file"]).read_bytes()
            content[offset : offset + len(image)] = image
    for offset, patch in vector["place"]["patch"]:
        content[offset : offset + len(patch) // 2] = bytes.fromhex(patch)
    assert bytes(content) == flash_of(vector)
    assert hashlib.sha256(content).hexdigest() == vector["sha256"]


@pytest.mark.parametrize("vector", CALLS, ids=[f"{n}-{vector['id']}" for n, vector in enumerate(CALLS)])
def test_vector(vector: dict[str, Any]) -> None:
    """One call: result, end state, trailers, decisions before and after, and the operations."""
    config, expected = config_of(vector), vector["result"]
    flash = NorFlash(
        MANIFEST["configs"][vector["config"]]["flash_size"],
        config.sector_size,
        config.write_align,
        storage=bytearray(flash_of(BY_ID[vector["from"]])),
    )
    recorder = FlashRecorder(flash)
    bootloader = McubootBootloader(recorder, config, [public_key()])
    slots = bootloader.slots
    assert swap_type(slots.primary.trailer(), slots.secondary.trailer()).name.lower() == expected["swap_type_before"]

    code, result = call(vector["cmd"], flash, bootloader)

    assert code == expected["rc"]
    assert (code is None) == expected["cut"]
    assert flash.read(0, flash.size) == flash_of(vector)
    assert hashlib.sha256(flash.read(0, flash.size)).hexdigest() == vector["sha256"]
    assert {"primary": said(slots.primary), "secondary": said(slots.secondary)} == {
        slot: expected[slot] for slot in ("primary", "secondary")
    }
    assert swap_type(slots.primary.trailer(), slots.secondary.trailer()).name.lower() == expected["swap_type_next"]
    kinds = [done.kind for done in recorder.log]
    assert (kinds.count("write"), kinds.count("erase")) == (expected["writes"], expected["erases"])
    units = sum(done.length for done in recorder.log if done.kind == "write") // config.write_align
    assert units == expected["write_units"]
    if "trace" in vector:
        assert trace(recorder, config) == vector["trace"]
    if result is not None:
        check_result(result, expected, config)


def check_result(result: BootResult, expected: dict[str, Any], config: BootConfig) -> None:
    """What a boot said of itself."""
    if expected["swap_type"] != "unset":
        assert result.swap_type.name.lower() == expected["swap_type"]
    run = expected.get("swap_run")
    assert result.resumed == bool(run and (run["op"], run["idx"], run["state"]) != (1, 1, 1))
    if expected["rc"] == 0:
        version, wanted = result.version, Version.parse(expected["version"])
        assert version is not None
        assert (version.major, version.minor, version.revision, version.build) == (
            wanted.major,
            wanted.minor,
            wanted.revision,
            wanted.build,
        )
        assert (config.secondary[0] if result.slot == "secondary" else config.primary[0]) == expected["image_off"]
    else:
        assert result.version is None
        assert result.reason


@pytest.mark.parametrize("name", list(MANIFEST["configs"]))
def test_layout(name: str) -> None:
    """Where the trailer's fields are, and how large an image may be."""
    config = config_of({"config": name})
    layout = MANIFEST["configs"][name]["layout"]
    slot = Slot(
        "primary",
        NorFlash(65536, config.sector_size, config.write_align),
        *config.primary,
        config.max_align,
        config.max_img_sectors,
    )
    assert slot.layout.magic.hex() == layout["magic"]
    assert slot.layout.size == layout["trailer_sz"]
    assert {
        "off": 0,
        "size": slot.size,
        "sector": slot.sector_size,
        "magic_off": slot.size - 16,
        "image_ok_off": slot.layout.image_ok,
        "copy_done_off": slot.layout.copy_done,
        "swap_info_off": slot.layout.swap_info,
        "swap_size_off": slot.layout.swap_size,
        "status_off": slot.layout.status,
        "status_entries": 3 * config.max_img_sectors,
        "trailer_erase_off": slot.layout.sectors.start * slot.sector_size,
    } == layout["primary"]
    assert config.compatible == layout["slots_compatible"]
    assert config.max_image_size == layout["max_image_size"]
