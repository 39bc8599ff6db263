"""Every reason that an error or a failed job can give, read from the source: nobody has to keep a list."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import coreota
from coreota.image import Version
from coreota.states import Start, start_error

PACKAGE = Path(coreota.__file__).parent
RAISED = {"LocalOtaError": "ours", "RemoteOtaError": "the peer's", "FlashError": "ours", "_fail": "the peer's"}
FILTER = """```{{raw}} html
<p class="row-filter"><label>Find
<input id="row-filter" type="search" autocomplete="off" placeholder="{example}"></label>
<span id="row-count" role="status"></span></p>
```
"""
TAKEN = re.compile(r"(http|url|certificate)-[a-z-]+")  # Reasons that are kept in variables


@dataclass(frozen=True, slots=True)
class Reason:
    """A place where a reason is given."""

    name: str
    fault: str  # ours, or the peer's
    message: str  # With the names of what is filled in
    advice: str  # Empty where the place gives none
    module: str


def gap(node: ast.expr) -> str:
    """What is filled in, by its name."""
    match node:
        case ast.FormattedValue(value=ast.Name(id=name) | ast.Attribute(attr=name)):
            return f"‹{name.strip('_').replace('_', ' ')}›"
    return "…"


def words(node: ast.expr | None) -> str:
    """A text as it is written, with a name in ‹› or … where something is filled in."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(words(part) if isinstance(part, ast.Constant) else gap(part) for part in parts)
        case ast.IfExp(body=one, orelse=other):
            return f"{words(one)} / {words(other)}"
        case ast.BinOp(left=one, right=other):
            return words(one) + words(other)
    return "…" if node is not None else ""


def texts(node: ast.expr | None) -> list[str]:
    """The constants that an expression can become."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.IfExp(body=one, orelse=other):
            return texts(one) + texts(other)
    return []


def advices(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """What a module keeps in a table `_ADVICE`, by reason."""
    names: dict[str, str] = {}
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                names |= {ast.unparse(t): words(v) for t, v in zip(targets, values, strict=True)}
            case ast.Assign(targets=[ast.Name(id="_ADVICE")], value=ast.Dict(keys=keys, values=values)):
                for key, value in zip(keys, values, strict=True):
                    yield names.get(key.id, "") if isinstance(key, ast.Name) else words(key), words(value)


def found_in(path: Path) -> Iterator[Reason]:
    """The reasons of one module."""
    module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    advised = dict(advices(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and TAKEN.fullmatch(node.value):
            yield Reason(node.value, "the peer's", "…", advised.get(node.value, ""), module)
        if isinstance(node, ast.FunctionDef) and node.name == "guarded":  # its default
            yield from (Reason(name, "ours", "…", "", module) for d in node.args.defaults for name in texts(d))
        if not isinstance(node, ast.Call):
            continue
        called = getattr(node.func, "id", getattr(node.func, "attr", ""))
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        first, second, third = (*node.args, None, None, None)[:3]
        if called == "_fail" and len(node.args) >= 2:
            for name in texts(first):
                yield Reason(name, RAISED[called], words(second), words(third), module)
        elif called == "guarded":
            yield from (Reason(name, "ours", "…", "", module) for name in texts(second))
        elif called == "_check_name":
            for kind in texts(third):
                name = f"{kind.replace(' ', '-')}-invalid"
                yield Reason(name, "ours", f"… is no {kind}", "take the characters that the message names", module)
        elif called == "Decline":
            _, name, message = words(first).split(": ", 2)
            yield Reason(name, "the peer's", message, words(second), module)
        elif called in RAISED:
            for name in texts(given.get("reason")):
                yield Reason(name, RAISED[called], words(first), words(given.get("advice")), module)


def reasons() -> list[Reason]:
    """All of them, in alphabetical order."""
    found = [reason for path in PACKAGE.rglob("*.py") for reason in found_in(path)]
    decided = (Start.STATE_MISMATCH, Start.SAME_FIRMWARE, Start.DOWNGRADE)  # `judge_start` names these
    found += [Reason(s.value, "the peer's", "… runs", start_error(s, Version(0)).advice, "states") for s in decided]
    return sorted(set(found), key=lambda reason: (reason.name, reason.module, reason.message))


def page() -> str:
    """The table of all reasons."""

    def cell(text: str) -> str:
        return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("`", "")

    rows = [
        f"| `{r.name}`<br>{r.fault}, {{py:mod}}`{r.module} <coreota.{r.module}>` "
        f"| {cell(r.message)} | {cell(r.advice)} |"
        for r in reasons()
    ]
    return "\n".join(
        [
            "# Every reason",
            "",
            "What an error's `reason`, or the second word of a failed job's `statusDetails`, can be, with the message "
            "and the advice that come with it, read from the source. Below each stands whose fault it was, and the "
            "module that says so; a name in ‹›, or …, stands for what is filled in. "
            "[Debug a failed update](../howto/failed_update.ipynb) explains those that a job can fail with.",
            "",
            FILTER.format(example="signature-mismatch"),
            "| Reason | Message | What to do |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )
