"""The site: built from the notebooks with no warning, and read in a real browser that has no network."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest
from browsers import running_chromium
from playwright.sync_api import Browser, BrowserContext, Page

import coreota

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(
    p.relative_to(ROOT / "nbs").with_suffix("")
    for p in (ROOT / "nbs").rglob("*.ipynb")
    if ".ipynb_checkpoints" not in p.parts
)
LOOK = """async () => {
  const images = [...document.querySelectorAll('article img')];
  for (const image of images) image.loading = 'eager';
  await Promise.all(images.map(image => image.decode().catch(() => null)));
  return {
    wide: document.documentElement.scrollWidth,
    ids: [...document.querySelectorAll('[id]')].map(e => e.id),
    links: [...document.querySelectorAll('a[href]')].map(e => e.href),
    dead: [...document.querySelectorAll('p.reference-line code')].filter(e => !e.closest('a')).map(e => e.textContent),
    nameless: images.filter(e => e.alt.length < 15 || /\\.(svg|png)$/.test(e.alt))
        .map(e => e.outerHTML.slice(0, 120)),
    invisible: [...document.querySelectorAll('article img, article .cell_output svg')].filter(e => {
        const box = e.getBoundingClientRect();
        return box.width < 30 || box.height < 10 || (e.tagName === 'IMG' && !(e.complete && e.naturalWidth > 0));
    }).map(e => e.outerHTML.slice(0, 120)),
    here: [...document.querySelectorAll('.sidebar-tree .current-page > a')].map(e => e.textContent),
    title: document.querySelector('article h1')?.firstChild.textContent.trim(),
    beside: document.querySelectorAll('.related-pages a').length,
    pictures: document.querySelectorAll('article img, article .cell_output svg').length,
  };
}"""


@dataclass(slots=True)
class Visit:
    """What a browser met on a page, seen on a narrow screen."""

    complaints: list[str] = field(default_factory=list)  # Console errors, page errors, failed requests
    outside: list[str] = field(default_factory=list)  # Requests for something that is no file of the site
    seen: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_chromium() as started:
        yield started


def drawings() -> int:
    """How many drawings the notebooks show."""
    cells = [c for name in NOTEBOOKS for c in json.loads((ROOT / "nbs" / f"{name}.ipynb").read_text("utf-8"))["cells"]]
    shown = [c for c in cells if c["cell_type"] == "code" and "#| hide" not in "".join(c["source"])]
    return sum("image/" in " ".join(output.get("data", {})) for c in shown for output in c["outputs"])


def test_stored_drawings_name_themselves() -> None:
    """A screen reader says what a drawing shows, in Jupyter as on the site."""
    nameless = []
    for name in NOTEBOOKS:
        for cell in json.loads((ROOT / "nbs" / f"{name}.ipynb").read_text("utf-8"))["cells"]:
            for output in cell.get("outputs", ()):
                drawing = "".join(output.get("data", {}).get("image/svg+xml", ""))
                if drawing and not re.match(r'<svg [^>]*role="img" aria-label="[^"]{15,}"', drawing):
                    nameless.append(f"{name} {cell['id']}")
    assert nameless == []


def watch(page: Page, visit: Visit) -> None:
    """Write down what goes wrong on a page."""
    page.on(
        "console", lambda m: visit.complaints.append(f"{m.type}: {m.text}") if m.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.on("requestfailed", lambda request: visit.complaints.append(f"failed: {request.url}"))
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else visit.outside.append(r.url))


def narrow(browser: Browser) -> BrowserContext:
    """A telephone without a network."""
    context = browser.new_context(viewport={"width": 390, "height": 844})
    context.route(lambda url: not url.startswith(("file:", "data:", "blob:")), lambda route: route.abort())
    return context


@pytest.fixture(scope="module")
def visits(site: Path, browser: Browser) -> dict[Path, Visit]:
    """Every page of the site, opened once."""
    found = {}
    context = narrow(browser)
    page, current = context.new_page(), Visit()
    watch(page, current)
    for path in sorted(site.rglob("*.html")):
        if "_modules" in path.parts or "_static" in path.parts:
            continue
        page.goto(path.as_uri(), wait_until="load")
        found[path] = Visit([*current.complaints], [*current.outside], page.evaluate(LOOK))
        current.complaints.clear()
        current.outside.clear()
    context.close()
    return found


def test_every_notebook_and_every_module_has_a_page(site: Path) -> None:
    missing_pages = [str(name) for name in NOTEBOOKS if not (site / f"{name}.html").exists()]
    modules = [p for p in Path(coreota.__file__).parent.rglob("*.py") if not p.stem.startswith("_")]
    names = [
        ".".join(("coreota", *p.relative_to(Path(coreota.__file__).parent).with_suffix("").parts)) for p in modules
    ]
    assert missing_pages == []
    assert [name for name in names if not (site / "api" / f"{name}.html").exists()] == []


def test_pages_load_without_complaint(visits: dict[Path, Visit]) -> None:
    assert len(visits) > len(NOTEBOOKS)
    assert {path.name: visit.complaints for path, visit in visits.items() if visit.complaints} == {}


def test_nothing_is_fetched_from_elsewhere(visits: dict[Path, Visit]) -> None:
    assert {path.name: visit.outside for path, visit in visits.items() if visit.outside} == {}


def test_no_page_scrolls_sideways_on_a_telephone(visits: dict[Path, Visit]) -> None:
    assert {path.name: visit.seen["wide"] for path, visit in visits.items() if visit.seen["wide"] > 390} == {}


def test_pictures_are_visible_and_described(visits: dict[Path, Visit]) -> None:
    assert sum(visit.seen["pictures"] for visit in visits.values()) == drawings()
    assert {path.name: visit.seen["invisible"] for path, visit in visits.items() if visit.seen["invisible"]} == {}
    assert {path.name: visit.seen["nameless"] for path, visit in visits.items() if visit.seen["nameless"]} == {}


def test_internal_links_resolve(site: Path, visits: dict[Path, Visit]) -> None:
    ids = {path: {*visit.seen["ids"]} for path, visit in visits.items()}
    broken = set()
    for path, visit in visits.items():
        for link in visit.seen["links"]:
            address, fragment = urldefrag(link)
            if not address.startswith("file:"):
                continue
            target = Path(unquote(address.removeprefix("file://").partition("?")[0]))
            there = target.exists() and site in target.parents
            if not there or (fragment and target in ids and unquote(fragment) not in ids[target]):
                broken.add(f"{path.relative_to(site)}: {link.removeprefix(site.as_uri())}")
    assert broken == set()


def test_every_definition_in_a_chapter_leads_to_its_reference(visits: dict[Path, Visit]) -> None:
    assert {path.name: visit.seen["dead"] for path, visit in visits.items() if visit.seen["dead"]} == {}


def test_every_page_has_its_place(site: Path, visits: dict[Path, Visit]) -> None:
    """The sidebar shows where the reader is, and each page has a next or a previous one."""
    made = {"index.html", "search.html", "genindex.html"}  # The first page and Sphinx's own
    read = {path: visit.seen for path, visit in visits.items() if str(path.relative_to(site)) not in made}
    lost = {path.name: seen["here"] for path, seen in read.items() if not same(seen["here"], seen["title"])}
    assert lost == {}
    assert [path.name for path, seen in read.items() if not seen["beside"]] == []


def same(entries: list[str], title: str) -> bool:
    """Is there one entry for a page, named as its title? Solutions stand under a heading that says what they are."""
    plain = [" ".join(text.replace("’", "'").split()).removeprefix("Solutions: ").lower() for text in (*entries, title)]
    return len(plain) == 2 and plain[0] == plain[1]


def test_the_sidebar_leads_from_solutions_to_reference(site: Path, browser: Browser) -> None:
    """Branches are closed but where the reader is, and addresses hold from a folder, too."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto((site / "solutions/04_blocks.html").as_uri())
    tree = page.locator(".sidebar-tree")
    box = tree.locator(".current-page > a").bounding_box()
    assert box is not None and 0 < box["y"] < 900
    assert page.locator("article").get_by_role("link", name="Blocks").get_attribute("href") == "../04_blocks.html"
    assert not tree.get_by_text("coreota.blocks", exact=True).is_visible()
    tree.get_by_text("Reference", exact=True).click()
    assert page.url == (site / "api/index.html").as_uri()
    assert page.locator(".sidebar-tree").get_by_text("coreota.blocks", exact=True).is_visible()
    context.close()


def test_search_finds_a_class(site: Path, browser: Browser) -> None:
    context, visit = narrow(browser), Visit()
    page = context.new_page()
    watch(page, visit)
    page.goto((site / "index.html").as_uri())
    page.goto((site / "search.html").as_uri() + "?q=FileDownloader")
    page.wait_for_function("document.querySelectorAll('#search-results ul.search li').length > 0")
    targets = page.eval_on_selector_all(
        "#search-results ul.search a", "links => links.map(e => e.getAttribute('href'))"
    )
    context.close()
    assert any("coreota.download.FileDownloader" in target for target in targets), targets
    assert visit.complaints == []


def test_the_reference_is_filtered_by_name(site: Path, browser: Browser) -> None:
    context = narrow(browser)
    page = context.new_page()
    page.goto((site / "api/index.html").as_uri())
    page.fill("#row-filter", "filedownl")
    rows = page.eval_on_selector_all(
        "tbody tr", "rows => rows.filter(e => e.offsetParent).map(e => e.cells[0].innerText.trim())"
    )
    context.close()
    assert rows == ["FileDownloader"]


def test_parameters_are_documented_where_they_are_defined(site: Path, browser: Browser) -> None:
    context = narrow(browser)
    page = context.new_page()
    page.goto((site / "api/coreota.blocks.html").as_uri())
    entry = page.locator("dl.py:has(> dt[id='coreota.blocks.block_length'])")
    told, source = entry.inner_text(), entry.locator("a.reference.internal:has(.viewcode-link)").get_attribute("href")
    context.close()
    assert "Of the block, 0 to count" in told
    assert source == "../_modules/coreota/blocks.html#block_length"


def test_dark_and_light(site: Path, browser: Browser) -> None:
    """Ground and ink of the two differ; pictures keep a light ground of their own under dark lines."""
    grounds = {}
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme="dark" if scheme == "dark" else "light")
        page = context.new_page()
        page.goto((site / "00_tour.html").as_uri())
        grounds[scheme] = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        )
        context.close()
    assert grounds["light"] == ["rgb(255, 255, 255)", "rgb(0, 0, 0)"]
    assert grounds["dark"] == ["rgb(19, 20, 22)", "rgb(207, 208, 208)"]
