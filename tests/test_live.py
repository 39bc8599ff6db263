"""Live pages: a chapter's cells show in a real browser what they show in Jupyter, and a reader can change them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from browsers import running_chromium
from documents import glue
from playwright.sync_api import Browser, Locator, Page

ROOT = Path(__file__).resolve().parent.parent
# What the browser has not: plots, and making or unpacking some patches
ABSENT = {"plots need matplotlib", "making a patch needs the package 'bsdiff4'", "this needs the package 'heatshrink2'"}
# What a Python of 32 bits, or one of another version, says otherwise: the cell by its place among the chapter's
OTHERWISE = {("04_blocks", 5): "(2, 12288)", ("05_codec", 37): "maximum recursion depth exceeded']"}
RUN = """async (cells) => {
  window.worker ??= new Worker('/_static/live/worker.js', { type: 'module' });
  worker.postMessage({ reset: true });
  const outputs = [];
  await new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => {
      if (data.failed) reject(new Error(data.failed));
      if (data.outputs) outputs[data.number] = data.outputs;
      if (data.number === cells.length - 1) resolve();
    };
    cells.forEach((source, number) => worker.postMessage({ number, source }));
  });
  return outputs;
}"""
DONE = "live.cells.every((cell) => cell.done)"


NOTEBOOKS = [path.stem for path in sorted((ROOT / "nbs").glob("*.ipynb"))]
CHAPTERS = [name for name in NOTEBOOKS if glue("livepages").is_live(name)]


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and says nothing about it."""

    def log_message(self, format: str, *arguments: object) -> None: ...


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served, as `python -m http.server` does it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_chromium() as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(120_000)  # Python's start, on a busy machine
    yield page
    context.close()


@dataclass(frozen=True, slots=True)
class Shown:
    """One output of a cell; addresses of objects are no part of it."""

    kind: str
    text: str


def shown(kind: str, text: str | list[str]) -> Shown:
    return Shown(kind, re.sub(r" at 0x[0-9a-f]+", "", "".join(text)).strip())


def stored(cell: dict[str, Any]) -> list[Shown]:
    """What a cell showed when its notebook was executed."""
    found = []
    for output in cell["outputs"]:
        if output["output_type"] == "stream":
            found.append(shown("printed", output["text"]))
        else:
            kinds = {"image/svg+xml": "svg", "text/html": "html", "text/plain": "text"}
            form = next(form for form in kinds if form in output["data"])
            found.append(shown(kinds[form], output["data"][form]))
    return found


@pytest.fixture(scope="module")
def python(address: str, browser: Browser) -> Iterator[Page]:
    """A page with one worker, which runs chapter after chapter."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(f"{address}/search.html")
    yield page
    context.close()


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_shows_in_a_browser_what_it_shows_in_jupyter(name: str, python: Page) -> None:
    notebook = json.loads((ROOT / "nbs" / f"{name}.ipynb").read_text("utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    outputs = python.evaluate(RUN, ["".join(cell["source"]) for cell in cells])
    assert len(outputs) == len(cells) > 0
    for number, (cell, output) in enumerate(zip(cells, outputs, strict=True)):
        here, there = stored(cell), [shown(**one) for one in output]
        if (name, number) in OTHERWISE:
            assert there[-1].text.endswith(OTHERWISE[name, number]) and there != here
        elif there and there[-1].kind == "absent":
            assert there[-1].text in ABSENT
        else:
            assert there == here, "".join(cell["source"])


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_page_knows_each_of_its_cells(name: str, site: Path) -> None:
    """A live page has a source for each cell that it hides, and shows the others; other pages have no bar."""
    text = (site / f"{name}.html").read_text("utf-8")
    told = re.search(r'id="live-cells">(.*?)</script>', text, re.DOTALL)
    assert (told is not None, 'id="live-bar"' in text) == (name in CHAPTERS, name in CHAPTERS)
    if told:
        cells = json.loads((ROOT / "nbs" / f"{name}.ipynb").read_text("utf-8"))["cells"]
        codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        hidden = [code.startswith(("#| hide", "#| default_exp")) for code in codes]
        sources = json.loads(told[1])
        assert [source is not None for source in sources] == hidden
        assert text.count('<div class="cell_input') == hidden.count(False)


def test_a_reader_changes_a_cell(address: str, page: Page) -> None:
    """An exercise is answered, an error is shown and mended, and what ran before is not run again."""
    page.goto(f"{address}/index.html")
    page.get_by_role("button", name="Run this page").click()
    page.wait_for_function(DONE)
    first, second = page.locator("article div.cell").nth(0), page.locator("article div.cell").nth(1)
    assert "('2.0.0', False)" in second.locator(".cell_output").inner_text()

    source = first.locator("div.cell_input pre")
    source.fill("lab = Lab(running='3.0.0')\nlab.bootloader.running.nothing")
    source.press("Shift+Enter")
    page.wait_for_function("document.querySelector('.live-error') !== null")
    error = first.locator(".live-error").inner_text()
    assert "AttributeError: 'Version' object has no attribute 'nothing'" in error
    assert "line 2" in error and "lab.bootloader.running.nothing" in error

    second.locator(".live-run").click()
    page.wait_for_function("document.querySelectorAll('.cell_output')[1].innerText.includes('3.0.0')")
    assert second.locator(".cell_output").inner_text().strip() == "('3.0.0', False)"


def test_a_cell_runs_those_above_it_and_stop_forgets(address: str, page: Page) -> None:
    page.goto(f"{address}/04_blocks.html")
    page.get_by_role("button", name="Run this page").click()
    page.wait_for_function(DONE)
    button = page.get_by_role("button", name="Stop")
    button.click()
    assert page.locator("#live-bar span").inner_text().startswith("Stopped.")
    assert page.locator(".live-run:visible").count() == 0
    assert page.locator("div.cell_input pre").first.get_attribute("contenteditable") == "false"
    page.evaluate("live.runUpTo(3)")
    page.wait_for_function("live.cells[3].done")
    assert page.evaluate("live.cells.map((cell) => Boolean(cell.done))").index(False) == 4


def with_last_line(page: Page, old: str, new: str) -> Locator:
    """The cell that ends in a line, run with another one in its place."""
    page.evaluate("live.start()")
    cell = page.locator("div.cell", has=page.locator("div.cell_input pre", has_text=f"def {new}")).first
    source = cell.locator("div.cell_input pre")
    source.fill(source.inner_text().replace(f"\n{old}", f"\n{new}"))
    source.press("Shift+Enter")
    return cell


def test_controls_draw_anew(address: str, page: Page) -> None:
    """Slider, choice and button each change the picture; what a button sets, a slider shows."""
    page.goto(f"{address}/04_blocks.html")
    cell = with_last_line(page, "growth()", "explore()")
    picture = cell.locator(".live-widget svg")
    assert picture.get_attribute("aria-label") == "the bitmap of a download, eight times: 143 received, 105 missing"
    cell.get_by_label("block_size").press("ArrowRight")
    assert cell.locator("output").all_inner_texts() == ["0.2", "2048", "5"]
    cell.locator("svg[aria-label*='72 received, 56 missing']").wait_for()

    page.goto(f"{address}/11a_flashmap.html")
    cell = with_last_line(page, "show_step()", "stepper()")
    cell.get_by_role("button", name="step", exact=True).click()
    cell.locator("svg[aria-label^='1 of 60']").wait_for()
    assert cell.get_by_label("operations").input_value() == "1"
    cell.get_by_label("operations").press("End")
    cell.locator("svg[aria-label^='60 of 60']").wait_for()
    cell.get_by_role("button", name="step", exact=True).click()  # there is nothing after it
    cell.get_by_role("button", name="back", exact=True).click()
    cell.locator("svg[aria-label^='59 of 60']").wait_for()


def test_new_lines_keep_their_indentation(address: str, page: Page) -> None:
    page.goto(f"{address}/index.html")
    page.evaluate("live.start()")
    source = page.locator("div.cell_input pre").first
    source.fill("")
    source.press_sequentially("for n in range(2):")
    source.press("Enter")
    source.press_sequentially("print(n)")
    assert source.inner_text() == "for n in range(2):\n    print(n)"
    source.press("Shift+Enter")
    page.wait_for_function("live.cells[0].done")
    assert page.locator(".live-printed").inner_text().split() == ["0", "1"]


def test_what_cannot_be_loaded_is_said(address: str, page: Page) -> None:
    page.route("**/packages.zip", lambda route: route.fulfill(status=404, body=""))
    page.goto(f"{address}/index.html")
    page.get_by_role("button", name="Run this page").click()
    page.wait_for_function("document.querySelector('#live-bar span').innerText.includes('404')")
    assert page.get_by_role("button", name="Run this page").is_enabled()


def test_a_page_from_a_file_says_how_to_run_it(site: Path, page: Page) -> None:
    page.goto((site / "04_blocks.html").as_uri())
    assert page.get_by_role("button", name="Run this page").is_disabled()
    assert "python -m http.server" in page.locator("#live-bar").inner_text()
