"""Runs the cells of a chapter in a browser, and shows what they show as Jupyter does. Loaded by worker.js."""

import ast
import json
import json.scanner
import linecache
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from types import ModuleType
from typing import Any

import ipywidgets

# Brackets nested by the thousand overflow the stack of the scanner in C, and end Python; the one in Python raises
setattr(json.scanner, "make_scanner", json.scanner.py_make_scanner)  # type: ignore[attr-defined]  # noqa: B010
json.loads.__globals__["_default_decoder"] = json.JSONDecoder()

WIDTH = 79  # Of a line, as IPython breaks them
BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    dict: ("{", "}"),
    Counter: ("Counter({", "})"),
}


def pretty(value: object, depth: int = 0, column: int = 0, after: int = 0) -> str:
    """A value in text, in lines where it is long, as IPython's pretty printer breaks it."""
    if type(value) not in BRACKETS or not value:
        return flat(value)
    line = flat(value)
    if column + len(line) + after <= WIDTH:
        return line
    left, right = BRACKETS[type(value)]
    items, inner, lines = members(value), depth + len(left), []
    for number, item in enumerate(items, 1):
        tail = 1 if number < len(items) else len(right) + after
        at = column + len(left) if number == 1 else inner
        if isinstance(value, dict):
            key = f"{pretty(item[0], inner, at)}: "
            lines.append(key + pretty(item[1], inner, at + len(key), tail))
        else:
            lines.append(pretty(item, inner, at, tail))
    comma = "," if isinstance(value, tuple) and len(lines) == 1 else ""
    return left + (",\n" + " " * inner).join(lines) + comma + right


def flat(value: Any) -> str:
    """A value in one line."""
    if isinstance(value, type):
        return value.__qualname__ if value.__module__ == "builtins" else f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, BaseException) and type(value).__repr__ is BaseException.__repr__:
        inside = ", ".join(flat(argument) for argument in value.args)
        return f"{flat(type(value))}({inside})"
    if type(value) not in BRACKETS or not value:
        return repr(value)
    left, right = BRACKETS[type(value)]
    if isinstance(value, dict):
        inside = ", ".join(f"{flat(key)}: {flat(item)}" for key, item in members(value))
    else:
        inside = ", ".join(flat(item) for item in members(value))
    comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
    return left + inside + comma + right


def members(value: Any) -> list[Any]:
    """What is in a container, in the order in which it is shown."""
    if isinstance(value, Counter):
        return value.most_common()
    if isinstance(value, dict):
        return list(value.items())
    try:
        return sorted(value) if isinstance(value, set) else list(value)
    except TypeError:  # they have no order
        return list(value)


def shown(value: object) -> dict[str, Any]:
    """What a page shows for a value: controls, a drawing, a table, or text."""
    if isinstance(value, ipywidgets.Widget):
        parts = {one.number: [shown(one.result())] for one in ipywidgets.inner(value)}
        return {"kind": "widget", "text": "", "tree": value.tree(), "parts": parts}
    for kind, name in (("svg", "_repr_svg_"), ("html", "_repr_html_")):
        method = getattr(type(value), name, None)
        if method is not None and (text := method(value)) is not None:
            return {"kind": kind, "text": text}
    return {"kind": "text", "text": pretty(value)}


def execute(source: str, name: str, namespace: dict[str, Any]) -> object:
    """Run a cell; the value of its last expression, None where it ends with none or with a semicolon."""
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    body = ast.parse(source, name)
    last = body.body[-1] if body.body else None
    if not isinstance(last, ast.Expr):
        exec(compile(body, name, "exec"), namespace)
        return None
    exec(compile(ast.Module(body.body[:-1], []), name, "exec"), namespace)
    value = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
    return None if source.rstrip().endswith(";") else value


def complaint(error: BaseException, name: str) -> str:
    """What a reader needs of a traceback: the lines of the cells, and the error itself."""
    if getattr(error, "reason", "") == "extra-missing":
        return str(error).partition(": pip install")[0]
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith("cell ")]
    lines = ["Traceback (most recent call last):\n", *traceback.format_list(frames)] if frames else []
    return "".join([*lines, *traceback.format_exception_only(error)])


class Kernel:
    """What the cells of a page have defined."""

    def __init__(self) -> None:
        ipywidgets.WIDGETS.clear()
        self.module = ModuleType("__main__")
        sys.modules["__main__"] = self.module  # a class of a cell is looked up there

    def run(self, source: str, number: int) -> list[dict[str, Any]]:
        """Run a cell: what it prints, and what its last line is worth or what went wrong."""
        return self.watched(lambda name: execute(source, name, self.module.__dict__), f"cell {number}")

    def watched(self, action: Callable[[str], object], name: str) -> list[dict[str, Any]]:
        """Do something, and give what the page shows for it."""
        printed = StringIO()
        outputs: list[dict[str, Any]] = []
        try:
            with redirect_stdout(printed), redirect_stderr(printed):
                value = action(name)
                if value is not None:
                    outputs.append(shown(value))
        except BaseException as error:  # whatever a reader's cell does, the page goes on
            kind = "absent" if getattr(error, "reason", "") == "extra-missing" else "error"
            outputs.append({"kind": kind, "text": complaint(error, name)})
        if text := printed.getvalue():
            outputs.insert(0, {"kind": "printed", "text": text})
        return outputs

    def run_to_json(self, source: str, number: int) -> str:
        """The same as text, for worker.js."""
        return json.dumps(self.run(source, number))

    def moved_to_json(self, number: int, value: Any) -> str:
        """A control was moved: what all controls are set to now, and what is shown anew, by their numbers."""
        fresh = ipywidgets.moved(number, value)
        parts = {one.number: self.watched(lambda _, one=one: one.result(), "") for one in fresh}  # type: ignore[misc]
        values = {n: w.tree()["value"] for n, w in ipywidgets.WIDGETS.items() if isinstance(w, ipywidgets.Valued)}
        return json.dumps({"parts": parts, "values": values})
