"""Read a notebook for the site: leave out what nbdev hides, and put each definition's reference under its cell."""

import ast
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).resolve().parent.parent / "nbs"
DIRECTIVE = re.compile(r"^#\s*\|\s*(.*)$")
NAVIGATION = """```{{toctree}}
:hidden:
:caption: {caption}

{pages}
```"""
PARTS = {
    "The course": r"(0|1\d|20)",
    "Appendices": r"9\d",
}


def directives(source: str) -> list[str]:
    """The nbdev directives at the head of a cell, without their `#|`."""
    return [match[1].strip() for line in source.splitlines() if (match := DIRECTIVE.match(line))]


def without_directives(source: str) -> str:
    """The cell as its reader sees it."""
    return "\n".join(line for line in source.splitlines() if not DIRECTIVE.match(line)).strip("\n")


def public_names(source: str) -> list[tuple[str, str]]:
    """(autodoc's directive, name) of each public definition in a cell."""
    kinds = {ast.ClassDef: "autoclass", ast.FunctionDef: "autofunction", ast.AsyncFunctionDef: "autofunction"}
    found = []
    for node in ast.parse(source).body:
        kind = kinds.get(type(node))
        name = getattr(node, "name", "_")
        if kind and not name.startswith("_"):
            found.append((kind, name))
    return found


def reference(module: str, source: str) -> NotebookNode | None:
    """A cell with the API reference of what `source` defines."""
    entries = []
    for kind, name in public_names(source):
        entries.append(f".. {kind}:: coreota.{module}.{name}")
        if kind == "autoclass":
            entries.append("   :members:")
        entries.append("")
    if not entries:
        return None
    return nbformat.v4.new_markdown_cell("```{eval-rst}\n" + "\n".join(entries) + "\n```")


def navigation(pages: list[str]) -> list[NotebookNode]:
    """The cells with the site's table of contents, put into the first page."""
    cells = []
    for caption, pattern in PARTS.items():
        names = [page for page in pages if re.match(pattern, page)]
        cells.append(nbformat.v4.new_markdown_cell(NAVIGATION.format(caption=caption, pages="\n".join(names))))
    solutions = [page for page in pages if page.startswith("solutions/")]
    cells.append(nbformat.v4.new_markdown_cell(NAVIGATION.format(caption="Solutions", pages="\n".join(solutions))))
    return cells


def read(text: str) -> NotebookNode:
    """The notebook that myst-nb is to render; `text` is the content of an .ipynb file."""
    notebook = nbformat.reads(text, as_version=4)
    module, cells = "", []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            cells.append(cell)
            continue
        said = directives(cell.source)
        module = next((d.split()[1] for d in said if d.startswith("default_exp")), module)
        if any(d.startswith(("hide", "default_exp")) for d in said):
            continue
        cell.source = without_directives(cell.source)
        cells.append(cell)
        if any(re.match(r"exports?\b", d) for d in said) and (entry := reference(module, cell.source)):
            cells.append(entry)
    notebook.cells = cells
    if cells[0].source.startswith("# coreota\n"):  # the landing page holds the table of contents
        found = (path.relative_to(NOTEBOOKS).with_suffix("") for path in NOTEBOOKS.rglob("*.ipynb"))
        cells.extend(navigation(sorted(str(name) for name in found)))
    return notebook
