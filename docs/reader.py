"""A Sphinx extension: notebooks as pages, without what nbdev hides, with links from definitions to the reference."""

import ast
import re
from html import unescape
from pathlib import Path
from typing import Any

import livepages
import nbformat
from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent
DIRECTIVE = re.compile(r"^#\s*\|\s*(.*)$")
NAVIGATION = """```{{toctree}}
:hidden:
:caption: {caption}

{pages}
```"""
PARTS = {
    "Begin": r"00",
    "Notify": r"0[1-3]",
    "Download": r"0[4-7]",
    "Verify": r"08",
    "Install": r"(09|1[0-2])",
    "Orchestrate": r"(13|14_|14a)",
    "Provide": r"(14|15)",
    "Measure, break and run": r"(1[6-9]|20)",
    "How to": r"howto/",
    "Look up": r"(9\d|api/|solutions/)",
}
SOLUTIONS = """# Solutions

One for each chapter that has exercises; the tests run them all.

```{{toctree}}
:titlesonly:

{pages}
```
"""


def directives(source: str) -> list[str]:
    """The nbdev directives at the head of a cell, without their `#|`."""
    return [match[1].strip() for line in source.splitlines() if (match := DIRECTIVE.match(line))]


def without_directives(source: str) -> str:
    """The cell as its reader sees it."""
    return "\n".join(line for line in source.splitlines() if not DIRECTIVE.match(line)).strip("\n")


def public_names(source: str) -> list[str]:
    """What a cell defines for others: classes, functions, constants and type aliases."""
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
    return [name for name in found if not name.startswith("_")]


def reference(module: str, source: str) -> NotebookNode | None:
    """A line with links to the reference of what `source` defines."""
    names = public_names(source)
    if not names:
        return None
    links = " ".join(f"{{py:obj}}`{name} <coreota.{module}.{name}>`" for name in names)
    return nbformat.v4.new_markdown_cell(f"{{.reference-line}}\nReference: {links}")


def alternative_text(cell: NotebookNode) -> str:
    """What a cell's drawing says of itself, for those who cannot see it."""
    for output in cell.outputs:
        data = output.get("data", {})
        plain = re.fullmatch(r"<picture: (.*)>", data.get("text/plain", ""), re.DOTALL)
        label = re.search(r'aria-label="([^"]*)"', data.get("image/svg+xml", ""))
        if plain or label:
            return plain[1] if plain else unescape(label[1]) if label else ""
    return ""


def page(docname: str, text: str, live: bool = False) -> NotebookNode:
    """The notebook that myst-nb is to render; `text` is the content of an .ipynb file. Live: its cells can be run."""
    notebook = nbformat.reads(text, as_version=4)
    module, cells = "", []
    sources: list[str | None] = []  # Of each code cell, where the page does not show it
    first = 0  # Where in `cells` the first one stands that is shown
    for cell in notebook.cells:
        if cell.cell_type != "code":
            cells.append(cell)
            continue
        said = directives(cell.source)
        module = next((d.split()[1] for d in said if d.startswith("default_exp")), module)
        hidden = any(d.startswith(("hide", "default_exp")) for d in said)
        cell.source = without_directives(cell.source)
        sources.append(cell.source if hidden else None)
        if hidden:
            continue
        first = first or len(cells)
        if described := alternative_text(cell):
            cell.metadata["mystnb"] = {"image": {"alt": described}}
        cells.append(cell)
        if any(re.match(r"exports?\b", d) for d in said) and (entry := reference(module, cell.source)):
            cells.append(entry)
    if live:
        cells.insert(first, nbformat.v4.new_markdown_cell(livepages.head(sources)))
    notebook.cells = cells
    chapter = f"../{docname.removeprefix('solutions/')}.ipynb"
    if docname.startswith("solutions/") and f"]({chapter})" not in cells[0].source:
        cells.insert(1, nbformat.v4.new_markdown_cell(f"The exercises are at the end of [](<{chapter}>)."))
    return notebook


def solutions_page() -> str:
    """The list of the solutions, each by its chapter's name."""
    entries = []
    for path in sorted((HERE.parent / "nbs" / "solutions").glob("*.ipynb")):
        first = nbformat.read(path, as_version=4).cells[0].source
        title = first.partition("\n")[0].removeprefix("# ").removeprefix("Solutions: ")
        entries.append(f"{title[0].upper()}{title[1:]} <{path.stem}>")
    return SOLUTIONS.format(pages="\n".join(entries))


def landing_page() -> str:
    """What the site shows first, with the tour's film of an update."""
    tour = nbformat.read(HERE.parent / "nbs" / "00_tour.ipynb", as_version=4)
    pictures = [
        o.data["image/svg+xml"]
        for c in tour.cells
        for o in c.get("outputs", [])
        if "image/svg+xml" in o.get("data", {})
    ]
    film = next(picture for picture in pictures if "one whole update on flash" in picture)
    return (HERE / "landing.md").read_text(encoding="utf-8").replace("@film@", film)


def navigation(pages: list[str]) -> list[NotebookNode]:
    """The cells with the site's table of contents, put into the first page."""
    cells, left = [], [page for page in pages if page != "index"]
    for caption, pattern in PARTS.items():
        names = [page for page in left if re.match(pattern, page)]
        left = [page for page in left if page not in names]
        cells.append(nbformat.v4.new_markdown_cell(NAVIGATION.format(caption=caption, pages="\n".join(names))))
    return cells


def read(app: Any, docname: str, source: list[str]) -> None:
    """Called by Sphinx for each page, before it is parsed."""
    if not str(app.env.doc2path(docname)).endswith(".ipynb"):
        return
    notebook = page(docname, source[0], app.tags.has("live") and livepages.is_live(docname))
    if docname == "index":  # the landing page holds the table of contents
        landing = nbformat.v4.new_markdown_cell(landing_page())
        nested = re.compile(r"(solutions|api)/(?!index|reasons)")
        notebook.cells = [
            landing,
            *notebook.cells[1:],
            *navigation(sorted(x for x in app.env.found_docs if not nested.match(x))),
        ]
    source[0] = nbformat.writes(notebook)


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
