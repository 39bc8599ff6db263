"""Films, cut maps and decoded trailers: drawn from what the bootloader did, and held against what MCUboot left."""

import gzip
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coreota.boot import BootConfig, BootMode
from coreota.bootloader import McubootBootloader
from coreota.errors import LocalOtaError
from coreota.flash import Flash, NorFlash
from coreota.flashmap import Film, cut_map, cut_outcomes, film_of, name_pieces, piece_kind, record_boots, swap_film
from coreota.sim.sweep import Scenario, Story, bootloader_on, scene_of
from coreota.swap import slot_kinds
from coreota.trailer import Slot, TrailerLayout
from coreota.trailertable import field_at, status_meaning, trailer_table
from coreota.viz import PALETTE, Svg

DATA = Path(__file__).parent / "data" / "mcuboot"
MANIFEST: dict[str, Any] = json.loads((DATA / "manifest.json").read_text())
CALLS = [vector for vector in MANIFEST["vectors"] if "cmd" in vector]
SVG = "{http://www.w3.org/2000/svg}"


def scene_device(mode: BootMode, story: Story, pair: str = "larger") -> tuple[McubootBootloader, dict[str, bytes]]:
    """A device at the beginning of a story, and its images by their versions."""
    scene = scene_of(Scenario(mode, story, pair))
    flash = NorFlash(len(scene.start), storage=bytearray(scene.start))
    return bootloader_on(flash, scene.scenario.config), {"1.0.0": scene.old, "2.0.0": scene.new}


@pytest.mark.parametrize("mode", list(BootMode))
def test_a_film_shows_every_operation_and_ends_where_the_boot_ends(mode: BootMode) -> None:
    bootloader, images = scene_device(mode, Story.TEST)
    flash = bootloader.slots.primary.flash
    before = flash.read(0, flash.size)
    film = swap_film(bootloader, images)
    assert flash.read(0, flash.size) == before
    assert len(film) - 1 == len(scene_of(Scenario(mode, Story.TEST, "larger")).operations)

    bootloader.boot()
    for slot in (bootloader.slots.primary, bootloader.slots.secondary):
        cells = [
            film.frames[-1].kinds[at // film.cell] for at in range(slot.offset, slot.offset + slot.size, film.cell)
        ]
        sectors = [cells[at : at + 4] for at in range(0, len(cells), 4)]
        for kinds, wanted in zip(sectors, slot_kinds(slot, images), strict=True):
            assert set(kinds) <= {wanted, "erased"}
            assert (wanted == "erased") == (set(kinds) == {"erased"})


def test_a_frame_differs_from_the_one_before_only_where_it_was_touched() -> None:
    film = swap_film(*scene_device(BootMode.SWAP_MOVE, Story.TEST))
    for before, after in zip(film.frames, film.frames[1:], strict=False):
        changed = {n for n, pair in enumerate(zip(before.kinds, after.kinds, strict=True)) if pair[0] != pair[1]}
        assert changed <= set(range(after.touched[0], sum(after.touched)))


def test_the_words_of_a_film_name_the_fields() -> None:
    film = swap_film(*scene_device(BootMode.SWAP_MOVE, Story.TEST, "one sector"))
    words = [frame.words for frame in film.frames]
    assert words[:6] == [
        "before",
        "erase sector 15 of the primary slot",
        "write swap_info in the primary trailer",
        "write swap_size in the primary trailer",
        "write magic in the primary trailer",
        "erase sector 15 of the secondary slot",
    ]
    assert words[-1] == "write copy_done in the primary trailer"
    assert [word for word in words if "status" in word] == [
        f"write status entry {entry} in the primary trailer" for entry in (0, 128, 129)
    ]


@pytest.mark.parametrize("cut", [0, 7, 30])
def test_a_cut_is_a_frame_of_its_own(cut: int) -> None:
    bootloader, images = scene_device(BootMode.SWAP_MOVE, Story.TEST)
    film, whole = swap_film(bootloader, images, cuts=[cut]), swap_film(bootloader, images)
    assert film.frames[cut + 1].words == "the power fails, and comes back"
    assert film.frames[cut].kinds == film.frames[cut + 1].kinds
    assert film.frames[-1].kinds == whole.frames[-1].kinds
    assert film.frames[: cut + 1] == whole.frames[: cut + 1]


def test_a_cut_that_comes_too_late_is_none() -> None:
    bootloader, _ = scene_device(BootMode.OVERWRITE, Story.TEST)
    flash = bootloader.slots.primary.flash
    assert isinstance(flash, NorFlash)

    def boot(stage: Flash) -> object:
        return McubootBootloader(stage, bootloader.config, bootloader.slots.keys).boot()

    assert None not in list(record_boots(flash, boot, [10_000]))


def elements(svg: Svg) -> ET.Element:
    return ET.fromstring(svg._repr_svg_())


@pytest.mark.parametrize("mode", list(BootMode))
def test_the_animated_picture(mode: BootMode) -> None:
    """Well-formed, without a script, with words for those who cannot see it, and right at any moment."""
    film = swap_film(*scene_device(mode, Story.TEST))
    svg = film.picture()
    root = elements(svg)
    source = svg._repr_svg_()
    assert not re.search(r"<script|javascript:|\son[a-z]+=|href|url\(", source)
    title = root.find(f"{SVG}title")
    assert title is not None
    assert title.text == root.get("aria-label") == svg.alt
    assert "Before:" in svg.alt
    assert film.told(-1) in svg.alt
    assert {element.tag.removeprefix(SVG) for element in root.iter()} == {
        "svg", "title", "rect", "text", "path", "g", "style", "animate",
    }  # fmt: skip
    for animate in root.iter(f"{SVG}animate"):
        times = [float(time) for time in (animate.get("keyTimes") or "").split(";")]
        assert times == sorted(times)
        assert (times[0], times[-1] < 1) == (0, True)
        assert len(times) == len((animate.get("values") or "").split(";"))
    check_moments(film, root)
    assert film.picture()._repr_svg_() == source


def check_moments(film: Film, root: ET.Element) -> None:
    """At the time of each frame the moving cells have its colours, and its caption is the only one."""
    moving = next(group for group in root.iter(f"{SVG}g") if group.get("class") == "coreota-moving")
    colours = dict(zip(film.legend, [*PALETTE[: len(film.legend) - 1], "#ffffff"], strict=True))
    cells = [rect for rect in moving.findall(f"{SVG}rect") if rect.get("fill") != "none"]
    captions = moving.findall(f"{SVG}g")
    places = [at // film.cell for offset, size in film.areas.values() for at in range(offset, offset + size, film.cell)]
    assert len(cells) == len(places)
    for number, frame in enumerate(film.frames):
        moment = (number + 0.5) / (len(film) + 5)
        assert [value_at(rect, "fill", moment) for rect in cells] == [colours[frame.kinds[place]] for place in places]
        shown = ["".join(c.itertext()) for c in captions if value_at(c, "visibility", moment) == "visible"]
        assert shown == [film.caption(number)]


def value_at(element: ET.Element, attribute: str, moment: float) -> str | None:
    """The value of an attribute at a moment, from 0 to 1."""
    animate = element.find(f"{SVG}animate")
    if animate is None:
        return element.get(attribute)
    pairs = zip((animate.get("keyTimes") or "").split(";"), (animate.get("values") or "").split(";"), strict=True)
    return [value for time, value in pairs if float(time) <= moment][-1]


def test_without_animation_the_picture_is_the_frame_half_way() -> None:
    film = swap_film(*scene_device(BootMode.SWAP_MOVE, Story.TEST))
    root = elements(film.picture())
    moving, still = (
        next(group for group in root.iter(f"{SVG}g") if group.get("class") == name)
        for name in ("coreota-moving", "coreota-still")
    )
    half = film.caption(len(film) // 2)
    seen = ["".join(c.itertext()) for c in moving.findall(f"{SVG}g") if c.get("visibility") == "visible"]
    assert seen == [half]
    assert still.get("display") == "none"
    assert half in ["".join(text.itertext()) for text in still.iter(f"{SVG}text")]
    assert "prefers-reduced-motion" in film.picture().source
    assert "@media print" in film.picture().source


def test_single_frames() -> None:
    film = swap_film(*scene_device(BootMode.SWAP_MOVE, Story.TEST))
    assert film.step(-1).source == film.step(len(film) - 1).source
    assert film.step(0).alt.startswith(f"0 of {len(film) - 1}: before: primary 9 KiB 1.0.0, 55 KiB erased; secondary")
    assert not list(elements(film.step(20)).iter(f"{SVG}animate"))
    for wrong in (len(film), -len(film) - 1):
        with pytest.raises(LocalOtaError) as error:
            film.step(wrong)
        assert error.value.advice == f"take 0 to {len(film) - 1}"


def test_markup_in_names_is_no_markup() -> None:
    flash = NorFlash(8192)
    flash.write(0, b"12345678" * 512)
    film = film_of(
        flash, lambda stage: stage.erase(0), {"<a>": (0, 8192)}, {"<b>&": b"12345678" * 512}, title="</title>"
    )
    names = {"".join(text.itertext()) for text in elements(film.picture()).iter(f"{SVG}text")}
    assert {"<a>", "<b>&", "1 of 1: erase sector 0 of the <a> slot"} <= names


@pytest.mark.parametrize("sector", [512, 1024, 4096])
def test_sectors_of_any_size(sector: int) -> None:
    flash = NorFlash(4 * sector, sector)
    film = film_of(
        flash, lambda stage: stage.write(sector, b"x" * sector), {"all": (0, 4 * sector)}, {"x": b"x" * sector}
    )
    assert film.cell == min(sector, 1024)
    assert film.frames[-1].kinds.count("x") == sector // film.cell


def test_pieces() -> None:
    image = bytes(range(256)) * 5
    pieces = name_pieces({"one": image})
    assert piece_kind(image[:1024], pieces) == "one"
    assert piece_kind(image[1024:].ljust(1024, b"\xff"), pieces) == "one"
    assert piece_kind(image[1024:].ljust(1024, b"\0"), pieces, "rest") == "rest"
    assert piece_kind(b"\xff" * 1024, pieces) == "erased"


def booted(config: BootConfig) -> Callable[[Flash], str]:
    def boot(flash: Flash) -> str:
        return str(bootloader_on(flash, config).boot().version or "nothing")

    return boot


@pytest.mark.parametrize(
    ("mode", "story", "runs"),
    [
        (BootMode.SWAP_MOVE, Story.TEST, "2.0.0"),
        (BootMode.SWAP_MOVE, Story.REVERT, "1.0.0"),
        (BootMode.SWAP_OFFSET, Story.TEST, "2.0.0"),
        (BootMode.SWAP_OFFSET, Story.REVERT, "1.0.0"),
        (BootMode.OVERWRITE, Story.TEST, "2.0.0"),
        (BootMode.OVERWRITE_FAST, Story.TEST, "2.0.0"),
    ],
)
def test_the_cut_map_of_the_real_one_has_one_colour(mode: BootMode, story: Story, runs: str) -> None:
    bootloader, _ = scene_device(mode, story, "one sector")
    flash = bootloader.slots.primary.flash
    assert isinstance(flash, NorFlash)
    outcomes = cut_outcomes(flash, booted(bootloader.config))
    assert outcomes == [runs] * len(scene_of(Scenario(mode, story, "one sector")).operations)
    drawn = cut_map({"real": outcomes})
    assert f"real: 0 of {len(outcomes)} brick sectors 0 to {len(outcomes) - 1} {runs}" in drawn.alt


def test_the_cut_map_counts_bricks() -> None:
    drawn = cut_map({"naive": ["a", "nothing", "nothing", "b"]}, ["b"])
    assert "naive: 2 of 4 brick sectors 1 to 2 nothing" in drawn.alt


@pytest.mark.parametrize("name", list(MANIFEST["configs"]))
def test_fields_stand_where_mcuboot_puts_them(name: str) -> None:
    facts = MANIFEST["configs"][name]
    layout = TrailerLayout(facts["slots"][1], facts["sector"], facts["write_align"], facts["max_align"])
    recorded = facts["layout"]["primary"]
    for field in ("image_ok", "copy_done", "swap_info", "swap_size"):
        assert field_at(layout, recorded[f"{field}_off"]) == field
    assert field_at(layout, recorded["status_off"]) == "status entry 0"
    assert field_at(layout, recorded["status_off"] + (recorded["status_entries"] - 1) * layout.write_size) == (
        f"status entry {recorded['status_entries'] - 1}"
    )
    assert field_at(layout, recorded["status_off"] - 1) == ""


MEANINGS = {
    "image_ok": {"unset": "not set", "set": "confirmed", "bad": "damaged"},
    "copy_done": {"unset": "not set", "set": "the swap is complete", "bad": "damaged"},
    "magic": {
        "unset": "not set: no trailer",
        "good": "good: the trailer counts",
        "bad": "damaged, or of another alignment",
    },
}


@pytest.mark.parametrize("vector", CALLS, ids=[f"{n}-{vector['id']}" for n, vector in enumerate(CALLS)])
def test_trailers_as_mcuboot_reads_them(vector: dict[str, Any]) -> None:
    """Every recorded trailer: three fields by the meaning, all of them by the offset."""
    facts = MANIFEST["configs"][vector["config"]]
    content = gzip.decompress((DATA / vector["file"]).read_bytes())
    flash = NorFlash(len(content), facts["sector"], facts["write_align"], storage=bytearray(content))
    for number, name in enumerate(("primary", "secondary")):
        offset, size = facts["slots"][2 * number :][:2]
        slot = Slot(name, flash, offset, size, facts["max_align"])
        table, layout = trailer_table(slot), facts["layout"][name]
        for field, meanings in MEANINGS.items():
            assert table[field].meaning == meanings[vector["result"][name][field]]
            assert table[field].offset == layout[f"{field}_off"]
        for one in table.fields:
            assert content[offset + one.offset : offset + one.offset + len(one.raw)] == one.raw
            assert repr(table).count(one.meaning) >= 1
            assert table._repr_html_().count(f"<td>{one.meaning}</td>") >= 1


def test_a_trailer_of_swap_using_offset() -> None:
    bootloader, _ = scene_device(BootMode.SWAP_OFFSET, Story.TEST)
    flash = bootloader.slots.primary.flash
    assert isinstance(flash, NorFlash)
    flash.cut_after(15)
    with pytest.raises(Exception, match="operation 16"):
        bootloader.boot()
    table = trailer_table(bootloader.slots.primary)
    assert [field.name for field in table.fields] == [
        "status", "swap_size", "TLV sizes", "swap_info", "copy_done", "image_ok", "magic",
    ]  # fmt: skip
    assert [field.offset for field in table.fields] == sorted(field.offset for field in table.fields)
    assert table["TLV sizes"].meaning == "144 bytes in the primary, 144 in the secondary"
    assert table["status"].meaning == "half steps done: 1"
    assert field_at(bootloader.slots.primary.layout, table["TLV sizes"].offset) == "TLV sizes"


def test_how_far_a_swap_has_come() -> None:
    move, offset = TrailerLayout(65536, 4096, 8), TrailerLayout(65536, 4096, 8, offset_swap=True)
    assert [status_meaning(move, entries) for entries in (0, 128, 131)] == [
        "no step ticked off", "sectors moved up: 128", "all moved up, half steps done: 3",
    ]  # fmt: skip
    assert status_meaning(offset, 131) == "half steps done: 131"


def test_the_step_button_and_the_slider_of_the_chapter() -> None:
    """They draw another frame and another cut; the stored notebook shows one position of each, and no widget."""
    notebook = json.loads((Path(__file__).parent.parent / "nbs" / "11a_flashmap.ipynb").read_text("utf-8"))
    assert "widgets" not in notebook["metadata"]
    cells = {cell["id"]: cell for cell in notebook["cells"] if cell["cell_type"] == "code"}
    sources = ["".join(cell["source"]) for cell in cells.values()]
    for cell in cells.values():
        assert all(
            "application/vnd.jupyter.widget-view+json" not in output.get("data", {}) for output in cell["outputs"]
        )
    names: dict[str, Any] = {}
    for source in sources:
        if "#| export" not in source and "my_swap" not in source:
            exec(source.replace("#| hide", ""), names)
    whole, buttons = names["whole"], names["stepper"]()
    (back, step), (box,) = buttons.children[0].children, buttons.children[1:]
    number = box.kwargs_widgets[0]
    assert (number.value, number.max) == (0, len(whole) - 1)
    seen = []
    for button in (back, step, step, back):
        button.click()
        seen.append((number.value, box.result.alt))
    assert seen == [(n, whole.step(n).alt) for n in (0, 1, 2, 1)]
    number.value = number.max
    step.click()
    assert box.result.alt == whole.step(-1).alt

    cutter = names["cutter"]()
    cut, bootloader = cutter.kwargs_widgets
    assert cut.max == len(names["outcomes"]["real"]) - 1
    for name, position, comes in (
        ("naive", 0, "2.0.0"),
        ("naive", 7, "nothing"),
        ("real", 7, "2.0.0"),
        ("real", cut.max, "2.0.0"),
    ):
        cut.value, bootloader.value = position, name
        assert cutter.result.alt.startswith(
            f"the {name} bootloader, cut after {position} operations; then {comes}: cut:"
        )
        assert f"{comes} boots: primary" in cutter.result.source
