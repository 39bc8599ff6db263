"""The lesson cells of every notebook, run against the installed package: each shows what the notebook says it shows."""

import ast
import contextlib
import importlib
import io
import json
import re
from pathlib import Path
from types import FunctionType
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


def lessons_of(path: Path, answers: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run a notebook's lesson cells and compare what they show; with answers, its exercises too."""
    module, lessons = cells_of(path)
    names: dict[str, Any] = {"__name__": "__main__"}
    if module:
        names.update({k: v for k, v in vars(importlib.import_module(module)).items() if not k.startswith("__")})
    for cell in lessons:
        source = "".join(cell["source"])
        printed, value = run(source, names)
        kept_printed, kept_value = stored(cell)
        assert (comparable(printed), comparable(value)) == (comparable(kept_printed), comparable(kept_value)), source
        if answers is not None:
            assert_solved(source, names, answers)
    return names


def assert_solved(source: str, names: dict[str, Any], answers: dict[str, Any]) -> None:
    """An exercise that is left open in this cell has a worked answer, and the cell's own key agrees with it."""
    nodes = ast.parse(source).body
    stubs = [getattr(node, "name", "") for node in nodes if "raise NotImplementedError" in ast.unparse(node)]
    calls = [node.value for node in nodes if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)]
    checks = [call for call in calls if ast.unparse(call.func) == "check"]
    assert not stubs or set(stubs) <= answers.keys(), f"{stubs} have no worked answers"
    verdicts = []
    for place in (answers, answers | names):  # as it was written, or as if it had been written into the chapter
        names.update({stub: at_home(answers[stub], place) for stub in stubs})
        verdicts = [eval(compile(ast.Expression(call), "<check>", "eval"), names) for call in checks]
        if all(verdict.ok for verdict in verdicts):
            return
    assert all(verdict.ok for verdict in verdicts), verdicts


def at_home(answer: Any, names: dict[str, Any]) -> Any:
    """A function among other names."""
    if not isinstance(answer, FunctionType):
        return answer
    return FunctionType(answer.__code__, names, answer.__name__, answer.__defaults__, answer.__closure__)


def solutions_of(path: Path) -> Path:
    return path.parent / "solutions" / path.name


ALL = sorted(p for p in NOTEBOOKS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
WORKED = {solutions_of(path) for path in ALL}  # run together with their chapters


@pytest.mark.parametrize(
    "path",
    [path for path in ALL if path not in WORKED],
    ids=lambda path: str(path.relative_to(NOTEBOOKS).with_suffix("")),
)
def test_lessons(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every lesson cell runs with the names of the installed module, and shows what is stored; so do the solutions."""
    answers = None
    if solutions_of(path).exists():
        monkeypatch.chdir(solutions_of(path).parent)  # where Jupyter runs it
        answers = lessons_of(solutions_of(path))
    monkeypatch.chdir(path.parent)
    lessons_of(path, answers)
