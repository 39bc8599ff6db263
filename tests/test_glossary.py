"""The glossary: every word has a place where it is explained; and who follows *Next* reads every chapter."""

import json
import re
from pathlib import Path

from myst_parser.mdit_to_docutils.base import default_slugify

NOTEBOOKS = Path(__file__).resolve().parent.parent / "nbs"
CELLS = json.loads((NOTEBOOKS / "93_glossary.ipynb").read_text("utf-8"))["cells"]
WORDS = next("".join(cell["source"]) for cell in CELLS if "| Term |" in "".join(cell["source"]))
ROWS = re.findall(r"^\| \*\*(.+?)\*\* \| (.+?) \| \[.+?\]\((.+?)\) \|$", WORDS, re.MULTILINE)


def headings(name: str) -> set[str]:
    """The addresses inside a notebook's page."""
    cells = json.loads((NOTEBOOKS / name).read_text("utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return {default_slugify(title) for title in re.findall(r"^##+ (.+)$", text, re.MULTILINE)}


def test_terms_are_in_order_and_once() -> None:
    terms = [term for term, _, _ in ROWS]
    assert len(terms) > 50
    assert terms == sorted(set(terms), key=str.lower)


def test_links_lead_to_a_heading_of_a_notebook_that_uses_the_word() -> None:
    for term, _, target in ROWS:
        name, _, anchor = target.partition("#")
        assert not anchor or anchor in headings(name), target
        text = (NOTEBOOKS / name).read_text("utf-8").lower()
        assert all(word in text for word in re.findall(r"[a-z/]+", term.lower().removeprefix("sans-"))), (term, name)


def test_the_map_uses_the_words_of_the_table() -> None:
    source = next("".join(cell["source"]) for cell in CELLS if "GRID = " in "".join(cell["source"]))
    grid = source.split('"""')[1]
    words = {word.strip() for line in grid.strip().splitlines() for word in line.split("|")}
    assert words <= {term for term, _, _ in ROWS}


def test_who_follows_next_reads_every_chapter() -> None:
    chapters = sorted(path.name for path in NOTEBOOKS.glob("[0-2]*.ipynb"))
    read = [chapters[0]]
    while read[-1] in chapters:
        after = (NOTEBOOKS / read[-1]).read_text("utf-8").rpartition("**Next**")[2]
        found = re.search(r"\]\(([\w.]+\.ipynb)", after)
        assert found and found[1] not in read, f"{read[-1]} has no Next, or one that was read before"
        read.append(found[1])
    assert sorted(read[:-1]) == chapters
