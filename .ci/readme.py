"""Make README.md of the index notebook (`write`), or fail where they differ (`check`)."""

import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
HIDDEN = re.compile(r"^#\s*\|\s*(hide|default_exp|export)", re.M)


def rendered() -> str:
    """The README's text: the index notebook with its outputs, its links as seen from the top of the repository."""
    notebook = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
    notebook.cells = [c for c in notebook.cells if c.cell_type != "code" or not HIDDEN.search(c.source)]
    body, _ = MarkdownExporter().from_notebook_node(notebook)
    body = re.sub(r"\]\((?!https?:|#)([^)]+\.ipynb)", r"](nbs/\1", body)
    return re.sub(r"\n{3,}", "\n\n", body).strip() + "\n"


def main() -> int:
    """The command."""
    target, text = ROOT / "README.md", rendered()
    if sys.argv[1:] == ["write"]:
        target.write_text(text, encoding="utf-8")
        return 0
    if sys.argv[1:] == ["check"]:
        if target.read_text(encoding="utf-8") == text:
            return 0
        print("README.md differs from nbs/index.ipynb: run `python .ci/readme.py write`", file=sys.stderr)
        return 1
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main())
