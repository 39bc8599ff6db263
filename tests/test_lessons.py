"""The lesson cells of every notebook, run against the installed package: each shows what the notebook says it shows."""

import ast
import contextlib
import importlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from IPython.lib.pretty import pretty

NOTEBOOKS = Path(__file__).resolve().parent.parent / "nbs"
DIRECTIVE = re.compile(r"^#\s*\|\s*(.*)$", re.M)


def cells_of(path: Path) -> tuple[str | None, list[dict[str, Any]]]:
    """The module that a notebook exports to, if any, and its lesson cells."""
    module, lessons = None, []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        said = DIRECTIVE.findall("".join(cell["source"]))
        for directive in said:
            if directive.startswith("default_exp"):
                module = "coreota." + directive.split()[1]
        if not any(directive.startswith(("export", "default_exp")) for directive in said):
            lessons.append(cell)
    return module, lessons


def run(source: str, names: dict[str, Any]) -> tuple[str, str | None]:
    """Run a cell; what it printed, and what it displays."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<lesson>", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<lesson>", "eval"), names)
    silent = value is None or source.rstrip().endswith(";")
    return printed.getvalue(), None if silent else pretty(value)


def stored(cell: dict[str, Any]) -> tuple[str, str | None]:
    """What the notebook keeps of the same two."""
    printed, value = "", None
    for output in cell["outputs"]:
        assert output["output_type"] != "error", output
        if output["output_type"] == "stream":
            printed += "".join(output["text"])
        elif output["output_type"] == "execute_result":
            value = "".join(output["data"]["text/plain"])
    return printed, value


def comparable(text: str | None) -> str | None:
    """The text without the addresses of objects and without the module that a class is defined in."""
    if text is None:
        return None
    text = re.sub(r"(<.*?)( at 0x[0-9a-fA-F]+)(>)", r"\1\3", text)
    return re.sub(r"\b(?:__main__|coreota(?:\.[a-z_0-9]+)+)\.(?=_?[A-Za-z])", "", text)


@pytest.mark.parametrize(
    "path",
    sorted(p for p in NOTEBOOKS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts),
    ids=lambda path: str(path.relative_to(NOTEBOOKS).with_suffix("")),
)
def test_lessons(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every lesson cell runs with the names of the installed module, and shows what is stored."""
    monkeypatch.chdir(path.parent)  # where Jupyter runs it
    module, lessons = cells_of(path)
    names: dict[str, Any] = {"__name__": "__main__"}
    if module:
        names.update({k: v for k, v in vars(importlib.import_module(module)).items() if not k.startswith("__")})
    for cell in lessons:
        source = "".join(cell["source"])
        printed, value = run(source, names)
        kept_printed, kept_value = stored(cell)
        assert (comparable(printed), comparable(value)) == (comparable(kept_printed), comparable(kept_value)), source
