"""`coreota flash` on the contents that MCUboot's C code left behind, on bad files, with the power cut anywhere."""

import fcntl
import gzip
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)
from hypothesis import given
from hypothesis import strategies as st

from coreota.boot import BootMode
from coreota.bootloader import McubootBootloader
from coreota.cli import main
from coreota.flash import NorFlash
from coreota.flashdump import Stranger, dump_config, dump_facts, slots_found
from coreota.gateway import GatewayFlash
from coreota.sim.sweep import SWEEP_TEST_KEY, Scenario, Story, scene_of

DATA = Path(__file__).parent / "data" / "mcuboot"
MANIFEST: dict[str, Any] = json.loads((DATA / "manifest.json").read_text())
VECTORS: list[dict[str, Any]] = MANIFEST["vectors"]
BY_ID = {vector["id"]: vector for vector in VECTORS}
CALLS = [vector for vector in VECTORS if "cmd" in vector]
TORN = [vector for vector in CALLS if "--torn" in vector["cmd"]]
CLEAN = [vector for vector in CALLS if "--torn" not in vector["cmd"]]
MODES = {
    "swap_move": "swap-move",
    "swap_move_a16": "swap-move",
    "swap_move_dgp": "swap-move",
    "overwrite": "overwrite",
    "direct_xip_revert": "direct-xip-revert",
}


def flash_of(vector: dict[str, Any]) -> bytes:
    """The flash that a vector ends with."""
    return gzip.decompress((DATA / vector["file"]).read_bytes())


def flash_map(vector: dict[str, Any]) -> list[str]:
    """The options that say what flash this is."""
    facts = MANIFEST["configs"][vector["config"]]
    slots = ",".join(hex(value) for value in facts["slots"])
    named = {
        "--mode": MODES[facts["mode"]],
        "--slots": slots,
        "--sector": hex(facts["sector"]),
        "--align": str(facts["write_align"]),
        "--max-align": str(facts["max_align"]),
        "--max-sectors": str(facts["max_img_sectors"]),
    }
    return [word for pair in named.items() for word in pair]


class Tool:
    """`coreota flash` on a file of its own."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.dump, self.key, self.capsys = folder / "dump.bin", folder / "key.pem", capsys
        key = load_der_public_key((DATA / MANIFEST["pubkey"]).read_bytes())
        self.key.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    def run(self, action: str, *options: str) -> tuple[int, str, str]:
        """Exit status, what was printed, and what was complained of."""
        status = main(["flash", action, str(self.dump), *options])
        printed = self.capsys.readouterr()
        return status, printed.out, printed.err

    def told(self, action: str, *options: str) -> tuple[int, dict[str, Any]]:
        """Exit status, and the JSON."""
        status, out, _ = self.run(action, "--json", *options)
        return status, json.loads(out)


@pytest.fixture
def tool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Tool:
    return Tool(tmp_path, capsys)


def command_of(vector: dict[str, Any], key: Path) -> list[str]:
    """A vector's call as a command of ours."""
    words, options = vector["cmd"], flash_map(vector)
    if words[0] == "--set-pending":
        return ["pending", *options, *(["--permanent"] if "permanent" in words else [])]
    if words[0] == "--confirm":
        return ["confirm", *options, *(["--slot", "secondary"] if "--slot" in words else [])]
    cut = ["--cut", words[words.index("--cut") + 1]] if "--cut" in words else []
    downgrade = ["--downgrade", "version"] if vector["config"] == "move_dgp" else []
    return ["boot", *options, "--key", str(key), *cut, *downgrade]


def check_trailers(told: dict[str, Any], expected: dict[str, Any]) -> None:
    """What `show` says of both trailers, held against MCUboot's own words."""
    for name in ("primary", "secondary"):
        slot, wanted = told["slots"][name], expected[name]
        assert {field: slot[field] for field in ("magic", "image_ok", "copy_done")} == {
            field: wanted[field] for field in ("magic", "image_ok", "copy_done")
        }
        assert {"unset": "none"}.get(slot["swap_info"], slot["swap_info"]) == wanted["swap_type"]


def test_what_is_compared() -> None:
    assert (len(CALLS), len(TORN), len(CLEAN)) == (513, 2, 511)


@pytest.mark.parametrize("vector", CLEAN, ids=[f"{n}-{vector['id']}" for n, vector in enumerate(CLEAN)])
def test_as_mcuboot(tool: Tool, vector: dict[str, Any]) -> None:
    """Show, do, show: decision, end state to the byte, trailers, exit status."""
    expected, command = vector["result"], command_of(vector, tool.key)
    before = flash_of(BY_ID[vector["from"]])
    tool.dump.write_bytes(before)
    status, told = tool.told("show", *flash_map(vector))
    assert (status, told["swap_type"]) == (0, expected["swap_type_before"])
    assert tool.dump.read_bytes() == before

    status, out, _ = tool.run(*command, "--json")
    assert tool.dump.read_bytes() == flash_of(vector)
    wanted = 3 if expected["cut"] else 2 if expected["rc"] == 3 else 1 if expected["rc"] else 0
    assert status == wanted
    if status != 2:
        assert json.loads(out)["operations"] == expected["ops"]
    if command[0] == "boot" and status == 0:
        assert json.loads(out)["version"] == expected["version"].removesuffix("+0")

    status, told = tool.told("show", *flash_map(vector))
    assert (status, told["swap_type"]) == (0, expected["swap_type_next"])
    check_trailers(told, expected)


@pytest.mark.parametrize("vector", TORN, ids=[f"{n}-{vector['id']}" for n, vector in enumerate(TORN)])
def test_torn_contents_are_shown_as_mcuboot_reads_them(tool: Tool, vector: dict[str, Any]) -> None:
    tool.dump.write_bytes(flash_of(vector))
    status, told = tool.told("show", *flash_map(vector))
    assert (status, told["swap_type"]) == (0, vector["result"]["swap_type_next"])
    check_trailers(told, vector["result"])
    assert tool.dump.read_bytes() == flash_of(vector)


def test_a_cut_at_every_operation_ends_well(tool: Tool) -> None:
    """After each, the next boot leaves what an uninterrupted one leaves, to the byte."""
    start, end = BY_ID["move_a8/pending"], BY_ID["move_a8/trial"]
    options = [*flash_map(start), "--key", str(tool.key)]
    for cut in range(end["result"]["ops"]):
        tool.dump.write_bytes(flash_of(start))
        status, told = tool.told("boot", *options, "--cut", str(cut))
        assert (status, told["cut"], told["operations"]) == (3, True, cut)
        status, told = tool.told("boot", *options)
        assert (status, told["booted"], told["version"]) == (0, True, "2.0.0+2")
        assert tool.dump.read_bytes() == flash_of(end)
    tool.dump.write_bytes(flash_of(start))
    status, told = tool.told("boot", *options, "--cut", str(end["result"]["ops"]))
    assert (status, told["cut"], told["swap_type"]) == (0, False, "test")


@pytest.mark.parametrize("mode", list(BootMode))
def test_a_cut_at_every_operation_in_every_mode(tool: Tool, mode: BootMode) -> None:
    """Shown without a complaint in between, and the new image runs after it."""
    scene = scene_of(Scenario(mode, Story.TEST, "one sector"))
    tool.key.write_bytes(SWEEP_TEST_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    seen = set()
    for cut in range(len(scene.operations)):
        tool.dump.write_bytes(scene.start)
        assert tool.run("boot", "--mode", mode.value, "--key", str(tool.key), "--cut", hex(cut))[0] == 3
        left = tool.dump.read_bytes()
        status, told = tool.told("show", "--mode", mode.value)
        assert (status, tool.dump.read_bytes()) == (0, left)
        seen.add(told["under_way"]["phase"] if told["under_way"] else "at rest")
        status, told = tool.told("boot", "--mode", mode.value, "--key", str(tool.key))
        assert (status, told["version"]) == (0, "2.0.0")
    assert seen == {
        BootMode.SWAP_MOVE: {"at rest", "move", "swap"},
        BootMode.SWAP_OFFSET: {"at rest", "move", "swap"},
    }.get(mode, {"at rest"})


def test_words_for_people(tool: Tool) -> None:
    tool.dump.write_bytes(flash_of(BY_ID["move_a8/pending"]))
    status, out, _ = tool.run("show")
    lines = out.splitlines()
    assert status == 0
    assert "primary slot at 0x0, 32768 bytes" in lines
    assert "  map      H##....t" in lines
    assert "  image    2.0.0+2 at 0x0, 9184 bytes; digest good" in lines
    assert "  TLVs     SHA256 32, KEYHASH 32, ECDSA_SIG 72" in lines
    assert "  trailer  magic good, image_ok unset, copy_done unset, swap_info test" in lines
    assert lines[-1] == (
        "next boot the secondary image is tried once; unless it is confirmed, the boot after that goes back"
    )
    status, out, _ = tool.run("boot", "--key", str(tool.key), "--cut", "7")
    assert status == 3
    assert out.startswith("the power failed in operation 8: write of 1024 bytes at 0x3400; the file keeps the 7 ")
    assert out.endswith("next boot a swap (test) goes on in the phase move, from its first step\n")


def test_the_calls_of_the_application(tool: Tool) -> None:
    tool.dump.write_bytes(flash_of(BY_ID["move_a8/initial"]))
    assert tool.told("pending", "--permanent")[1]["operations"] == 3
    assert tool.told("pending") == (0, {"operations": 0, "next_boot": tool.told("show")[1]["next_boot"]})
    assert tool.told("show")[1]["swap_type"] == "perm"
    assert tool.told("confirm")[1]["operations"] == 0


def test_a_call_that_fails_half_way_leaves_the_file_alone(tool: Tool) -> None:
    """The magic could be written; what comes after it could not."""
    content = bytearray(flash_of(BY_ID["move_a8/initial"]))
    content[65536 - 40] = 0x02  # swap_info of an older request, whose magic was lost
    tool.dump.write_bytes(content)
    status, _, err = tool.run("pending")
    assert (status, "erase the sector first" in err) == (2, True)
    assert tool.dump.read_bytes() == content


BAD: dict[str, tuple[list[str], str]] = {
    "a wrong size": (["show", "--sector", "0x3000"], "no two or more sectors"),
    "sectors of nothing": (["show", "--sector", "0"], "no two or more sectors"),
    "one sector": (["show", "--sector", "0x10000"], "no two or more sectors"),
    "overlapping slots": (["show", "--slots", "0,0x8000,0x4000,0x8000"], "overlap"),
    "one slot in the other": (["show", "--slots", "0,0x10000,0x4000,0x4000"], "overlap"),
    "slots of half sectors": (["show", "--slots", "0,0x8800,0x9000,0x4000"], "whole sectors"),
    "slots between sectors": (["show", "--slots", "0x800,0x8000,0x9000,0x4000"], "whole sectors"),
    "a slot of nothing": (["show", "--slots", "0,0,0x8000,0x8000"], "whole sectors"),
    "a slot outside": (["show", "--slots", "0,0x8000,0x8000,0x9000"], "ends behind"),
    "three numbers": (["show", "--slots", "0,0x8000,0x8000"], "no flash map"),
    "words for numbers": (["show", "--slots", "a,b,c,d"], "no flash map"),
    "below zero": (["show", "--slots", "0,-4096,0x8000,0x8000"], "no flash map"),
    "an odd unit": (["show", "--align", "3"], "write unit of 3"),
    "a unit of nothing": (["show", "--align", "0"], "write unit of 0"),
    "an odd alignment": (["show", "--max-align", "12"], "largest alignment 12"),
    "an alignment below the unit": (["show", "--align", "16", "--max-align", "8"], "largest alignment 8"),
    "a trailer larger than its slot": (["show", "--slots", "0,0x1000,0x8000,0x1000", "--align", "32"], "larger slot"),
    "no room for a status": (["show", "--max-sectors", "0"], "0 sectors"),
    "a boot without a key": (["boot"], "no key"),
    "a key that is not there": (["boot", "--key", "no-such.pem"], "no-such.pem: No such file"),
    "a key that is none": (["boot", "--key", "DUMP"], "holds no public key"),
    "a private key": (["boot", "--key", "PRIVATE"], "holds no public key"),
    "a key of another kind": (["boot", "--key", "P384"], "secp384r1"),
}


@pytest.mark.parametrize(("command", "complaint"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_answered_and_changes_nothing(tool: Tool, command: list[str], complaint: str) -> None:
    content = flash_of(BY_ID["move_a8/pending"])
    tool.dump.write_bytes(content)
    private = ec.derive_private_key(7, ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    foreign = ec.derive_private_key(7, ec.SECP384R1()).public_key()
    for name, pem in {
        "PRIVATE": private,
        "P384": foreign.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    }.items():
        (tool.dump.parent / name).write_bytes(pem)
    files = {"DUMP": tool.dump, "PRIVATE": tool.dump.parent / "PRIVATE", "P384": tool.dump.parent / "P384"}
    status, out, err = tool.run(*(str(files.get(word, word)) for word in command))
    assert (status, out) == (2, "")
    assert complaint in err
    assert err.startswith("coreota: ")
    assert err.count(": ") >= 2  # the advice
    assert tool.dump.read_bytes() == content


@pytest.mark.parametrize("action", ["show", "confirm", "pending"])
@pytest.mark.parametrize("content", [None, b"", b"\x7fELF" * 999])
def test_no_dump(tool: Tool, action: str, content: bytes | None) -> None:
    """A file that is not there is not made; one that is no dump is left alone."""
    if content is not None:
        tool.dump.write_bytes(content)
    status, _, err = tool.run(action)
    assert status == 2
    assert "dump" in err
    assert (tool.dump.read_bytes() if tool.dump.exists() else None) == content


def test_a_folder_is_no_dump(tool: Tool) -> None:
    tool.dump.mkdir()
    status, _, err = tool.run("show")
    assert (status, "is a folder" in err) == (2, True)


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder that everybody may enter, with a process that may not do everything."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_without_permission_to_write(nobody: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool, user = Tool(nobody, capsys), os.geteuid()
    content = flash_of(BY_ID["move_a8/pending"])
    tool.dump.write_bytes(content)
    tool.dump.chmod(0o444)
    tool.key.chmod(0o444)
    if user == 0:
        os.seteuid(65534)
    try:
        shown = tool.run("show")
        refused = [tool.run(action) for action in ("confirm", "pending")] + [tool.run("boot", "--key", str(tool.key))]
    finally:
        os.seteuid(user)
    assert shown[0] == 0
    assert [status for status, _, _ in refused] == [2, 2, 2]
    assert all("Permission denied" in err and "yours to change" in err for _, _, err in refused)
    assert tool.dump.read_bytes() == content


def test_a_device_that_runs_keeps_its_flash(tool: Tool) -> None:
    """Looking is allowed; the flash map of `coreota device` is found by what lies in it."""
    with GatewayFlash(tool.dump, 1024 * 1024) as gateway:
        gateway.install(scene_of(Scenario(BootMode.SWAP_MOVE, Story.TEST, "larger")).old)
        secondary = gateway.config.secondary
        gateway.flash.write(secondary[0], scene_of(Scenario(BootMode.SWAP_MOVE, Story.TEST, "equal")).new)
        status, told = tool.told("show")
        assert (status, told["slots"]["secondary"]["version"], told["strangers"]) == (0, "2.0.0", [])
        slots = f"0,{secondary[0]},{secondary[0]},{secondary[1]}"
        assert tool.told("show", "--slots", slots)[1] == told
        halves = tool.told("show", "--slots", "0,0x80000,0x80000,0x80000")[1]
        assert halves["slots"]["secondary"]["version"] is None
        assert halves["strangers"] == [{"offset": secondary[0], "what": "image header"}]
        status, _, err = tool.run("pending")
        assert (status, "another process" in err) == (2, True)
    assert tool.told("pending")[0] == 0
    assert tool.told("show", "--slots", slots)[1]["swap_type"] == "test"


@pytest.mark.parametrize(("lead", "tail"), [(0, 0), (0, 8), (3, 0)])
def test_a_map_is_found_or_left_to_the_user(lead: int, tail: int) -> None:
    """Of no content that MCUboot's C code left behind a wrong map is told."""
    found = 0
    for vector in VECTORS:
        facts, content = MANIFEST["configs"][vector["config"]], flash_of(vector)
        sector = facts["sector"]
        whole = bytearray(b"\xff" * lead * sector + content + b"\xff" * tail * sector)
        told = slots_found(NorFlash(len(whole), sector, facts["write_align"], storage=whole))
        if told is not None:
            assert [int(part, 16) for part in told.split(",")] == facts["slots"], vector["id"]
            found += 1
    assert (found > 0.9 * len(VECTORS)) is (lead == 0 and tail > 0)


def test_the_lock_is_given_back(tool: Tool) -> None:
    tool.dump.write_bytes(flash_of(BY_ID["move_a8/initial"]))
    for _ in range(3):
        assert tool.run("pending")[0] == 0
    with tool.dump.open("rb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_swap_using_offset(tool: Tool) -> None:
    """The new image lies one sector further up; while it goes back, at the start."""
    for story, offset, kind in ((Story.TEST, 4096, "test"), (Story.REVERT, 0, "revert")):
        tool.dump.write_bytes(scene_of(Scenario(BootMode.SWAP_OFFSET, story, "larger")).start)
        _, told = tool.told("show", "--mode", "swap-offset")
        assert (told["slots"]["secondary"]["image"]["offset"], told["swap_type"]) == (offset, kind)
        assert told["slots"]["secondary"]["image"]["digest"] == "good"
        assert told["strangers"] == []


def test_a_digest_that_is_wrong(tool: Tool) -> None:
    content = bytearray(flash_of(BY_ID["move_a8/pending"]))
    content[0x8000 + 5000] ^= 1
    tool.dump.write_bytes(content)
    _, told = tool.told("show")
    assert [told["slots"][name]["image"]["digest"] for name in ("primary", "secondary")] == ["good", "bad"]
    content[0x8000 + 12 : 0x8000 + 16] = b"\xff\xff\xff\x7f"
    tool.dump.write_bytes(content)
    image = tool.told("show")[1]["slots"]["secondary"]["image"]
    assert (image["size"], image["tlvs"], image["digest"]) == (0, [], "none")
    assert "ends before byte" in image["problem"]


@pytest.mark.parametrize("mode", list(BootMode))
def test_the_next_boot_of_damaged_images_is_told_as_it_happens(tool: Tool, mode: BootMode) -> None:
    """No image, or a wrong bit in one: what `show` says without a key, `boot` does with one."""
    scene = scene_of(Scenario(mode, Story.TEST, "one sector"))
    tool.key.write_bytes(SWEEP_TEST_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    slot, base = scene.scenario.slot, scene.scenario.config.image_base
    for place, wrong in ((0, b"\0"), (200, b"\0"), (slot + base, b"\0"), (slot + base + 200, b"\0")):
        content = bytearray(scene.start)
        content[place : place + 1] = wrong
        tool.dump.write_bytes(content)
        told = tool.told("show", "--mode", mode)[1]["next_boot"]
        status, result = tool.told("boot", "--mode", mode, "--key", str(tool.key))
        assert (status == 1) == ("nothing boots" in told), (place, told)
        assert (result["version"] == "1.0.0") == ("the primary image runs" in told), (place, told)


def test_slots_that_do_not_fit(tool: Tool) -> None:
    tool.dump.write_bytes(flash_of(BY_ID["move_a8/pending"]))
    _, told = tool.told("show", "--slots", "0,0x8000,0x8000,0x6000")
    assert (told["compatible"], "do not fit" in told["next_boot"]) == (False, True)
    assert told["strangers"] == [{"offset": 65536 - 16, "what": "trailer magic"}]


START = scene_of(Scenario(BootMode.SWAP_MOVE, Story.TEST, "larger")).start


@given(
    st.sampled_from(list(BootMode)),
    st.lists(st.tuples(st.integers(0, len(START) - 8), st.binary(min_size=1, max_size=8)), max_size=20),
    st.booleans(),
)
def test_whatever_is_on_the_flash_is_shown(mode: BootMode, changes: list[tuple[int, bytes]], trailers: bool) -> None:
    """No content raises; half of the damage goes where the fields are."""
    content = bytearray(START)
    for at, data in changes:
        place = (at % 2 + 1) * 0x10000 - 64 + at % 56 if trailers else at
        content[place : place + len(data)] = data
    flash = NorFlash(len(content), storage=content)
    facts = dump_facts(McubootBootloader(flash, dump_config(len(content), mode=mode), []))
    assert facts.next_boot
    assert all(isinstance(one, Stranger) for one in facts.strangers)
    assert flash.operations == 0


def test_a_wrong_alignment_is_told_by_the_magic(tool: Tool) -> None:
    """The options are wrong, not the device: say with which they would be right."""
    for config, options, align in (("move_a16", [], 16), ("move_a8", ["--align", "16"], 8)):
        tool.dump.write_bytes(flash_of(BY_ID[f"{config}/pending"]))
        assert f"its magic is a good one with --max-align {align}" in tool.run("show", *options)[1]
        slot = tool.told("show", *options)[1]["slots"]["secondary"]
        assert (slot["magic"], slot["magic_align"]) == ("bad", align)
    assert "its magic is a good one" not in tool.run("show")[1]


def test_what_an_image_says_of_itself(tool: Tool) -> None:
    image = (DATA / "images" / "v2cust.bin").read_bytes()
    tool.dump.write_bytes((DATA / "images" / "v1.bin").read_bytes().ljust(32768, b"\xff") + image.ljust(32768, b"\xff"))
    _, out, _ = tool.run("show")
    assert "           security counter 7, needs image 0 from 1.0.0" in out.splitlines()
    facts = tool.told("show")[1]["slots"]
    assert (facts["secondary"]["image"]["security_counter"], facts["secondary"]["image"]["dependencies"]) == (
        7,
        ["image 0 from 1.0.0"],
    )
    assert (facts["primary"]["image"]["security_counter"], facts["primary"]["image"]["dependencies"]) == (None, [])


def test_a_key_in_der(tool: Tool) -> None:
    tool.dump.write_bytes(flash_of(BY_ID["move_a8/pending"]))
    assert tool.told("boot", "--key", str(DATA / MANIFEST["pubkey"]))[1]["version"] == "2.0.0+2"


def test_a_mode_that_is_not_here(tool: Tool, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        tool.run("show", "--mode", "swap-scratch")
    assert stopped.value.code == 2
    assert "swap-offset, overwrite" in (said := capsys.readouterr().err)
    assert "swap using scratch is not known here" in said
