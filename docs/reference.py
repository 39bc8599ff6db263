"""The reference: a page for each module, and one with every public symbol by its first letter."""

import ast
import enum
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import ModuleType

import reasons

import coreota

PACKAGE = Path(coreota.__file__).parent
NOTEBOOKS = Path(__file__).resolve().parent.parent / "nbs"


@dataclass(frozen=True, slots=True)
class Symbol:
    """A public name of a module."""

    name: str
    module: str  # Where it is defined, in full
    kind: str  # class, exception, function or data
    summary: str  # One line
    value: str = ""  # Of data, as it is written in the source

    @property
    def path(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True)
class Chapter:
    """Where a module is explained."""

    page: str  # Relative to nbs/, without its suffix
    title: str
    promise: str  # What its reader will be able to do


def modules() -> Iterator[ModuleType]:
    """Every module of the package, in alphabetical order."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if not path.stem.startswith("_"):
            yield importlib.import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))


def assignments(module: ModuleType) -> dict[str, tuple[str, str]]:
    """Values and comments of a module's constants and type aliases, as they are written in its source."""
    source = inspect.getsource(module)
    lines, found = source.splitlines(), {}
    for node in ast.parse(source).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        value = getattr(node, "value", None)
        for target in targets:
            names = [n.id for n in ast.walk(target) if isinstance(n, ast.Name)]
            comment = re.search(r"\s#\s(.*)$", lines[(node.end_lineno or 1) - 1])
            values = (
                value.elts
                if isinstance(value, ast.Tuple) and len(value.elts) == len(names) > 1
                else [value] * len(names)
            )
            for name, one in zip(names, values, strict=True):
                found[name] = (ast.unparse(one) if one else "", comment[1] if comment else "")
    return found


def symbols(module: ModuleType) -> list[Symbol]:
    """What a module itself defines for others, in the order of its `__all__`."""
    constants, found = assignments(module), []
    for name in getattr(module, "__all__", ()):
        subject = getattr(module, name)
        summary = (inspect.getdoc(subject) or "").partition("\n")[0]
        if inspect.isclass(subject) or inspect.isfunction(inspect.unwrap(subject)):
            if subject.__module__ == module.__name__:
                raised = inspect.isclass(subject) and issubclass(subject, BaseException)
                kind = "exception" if raised else "class" if inspect.isclass(subject) else "function"
                found.append(Symbol(name, module.__name__, kind, summary))
        elif name in constants:
            value, comment = constants[name]
            found.append(Symbol(name, module.__name__, "data", comment, value))
    return found


def chapter(module: ModuleType) -> Chapter:
    """The notebook that a module is exported from."""
    written = re.search(r"File to edit: \S*nbs/(\S+)\.ipynb", inspect.getsource(module))
    assert written, f"{module.__name__} does not say which notebook it comes from"
    cells = json.loads((NOTEBOOKS / f"{written[1]}.ipynb").read_text(encoding="utf-8"))["cells"]
    lines = "".join(cells[0]["source"]).splitlines()
    return Chapter(written[1], lines[0].removeprefix("# "), next((x[2:] for x in lines if x.startswith("> ")), ""))


def entry(symbol: Symbol) -> str:
    """A symbol's entry, for autodoc where it can look at it."""
    if symbol.kind == "data":
        short = symbol.value if len(symbol.value) < 90 and "\n" not in symbol.value else ""
        value = f"   :value: {short}\n" if short else ""
        return f".. py:data:: {symbol.name}\n{value}\n   {escaped(symbol.summary)}\n"
    if symbol.kind == "function":
        return f".. autofunction:: {symbol.path}\n"
    subject = getattr(importlib.import_module(symbol.module), symbol.name)
    members = "   :members:\n   :show-inheritance:\n"
    if isinstance(subject, enum.EnumMeta):
        members += "   :undoc-members:\n"
    return f".. auto{symbol.kind}:: {symbol.path}\n{members}"


def escaped(text: str) -> str:
    """Words of a comment as reStructuredText."""
    return re.sub(r"([\\*`_|])", r"\\\1", text)


def cell(text: str) -> str:
    """Words of a comment in a MyST table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def link(symbol: Symbol) -> str:
    """A reference to an entry."""
    return f"{{py:obj}}`{symbol.name} <{symbol.path}>`"


def borrowed(module: ModuleType, everything: list[Symbol]) -> str:
    """A line for what a module hands on from others."""
    own = {symbol.name for symbol in symbols(module)}
    names = [name for name in getattr(module, "__all__", ()) if name not in own]
    links = [link(symbol) for name in names for symbol in everything if symbol.name == name]
    return f"Also to be imported from here: {', '.join(links)}.\n\n" if links else ""


def module_page(module: ModuleType, everything: list[Symbol]) -> str:
    """The page of a module."""
    told, found = chapter(module), symbols(module)
    promise = f"{told.promise}\n\n" if told.promise else ""
    entries = "\n".join(entry(symbol) for symbol in found)
    return (
        f"# {module.__name__}\n\n{promise}"
        f"Explained, with examples that run, in [{told.title}](../{told.page}.ipynb). "
        f"All modules: [reference](index.md).\n\n{borrowed(module, everything)}"
        f"````{{eval-rst}}\n.. py:module:: {module.__name__}\n\n{entries}\n````\n"
    )


def index_page(found: list[Symbol], names: list[str]) -> str:
    """The page with every symbol."""
    ordered = sorted(found, key=lambda s: (s.name.lstrip("_").upper(), s.module))
    groups = [(letter, list(group)) for letter, group in groupby(ordered, key=lambda s: s.name.lstrip("_")[0].upper())]
    text = [
        "# Reference\n",
        f"Every public symbol of the package: {len(found)} in {len(names)} modules. "
        "Type a part of a name, or take a letter; "
        "{ref}`the general index <genindex>` has the methods and attributes as well, "
        "[every reason](reasons.md) what errors say.\n",
        reasons.FILTER.format(example="FileDownloader"),
        " · ".join(f"[{letter}](#letter-{letter.lower()})" for letter, _ in groups) + " · [modules](#modules)\n",
    ]
    for letter, group in groups:
        text.append(f"(letter-{letter.lower()})=\n## {letter}\n\n| Name | Module | |\n|---|---|---|")
        for symbol in group:
            short = symbol.module.removeprefix("coreota.")
            about = symbol.summary or (f"= `{symbol.value}`" if len(symbol.value) < 60 else "")
            text.append(f"| {link(symbol)} | {{py:mod}}`{short} <{symbol.module}>` | {cell(about)} |")
        text.append("")
    text.append("## Modules\n\n```{toctree}\n:titlesonly:\n\n" + "\n".join(names) + "\n```\n")
    return "\n".join(text)


def pages() -> dict[str, str]:
    """Names and contents of all pages."""
    all_modules = list(modules())
    found = [symbol for module in all_modules for symbol in symbols(module)]
    made = {f"api/{module.__name__}.md": module_page(module, found) for module in all_modules}
    return {
        "api/reasons.md": reasons.page(),
        "api/index.md": index_page(found, [module.__name__ for module in all_modules]),
        **made,
    }
