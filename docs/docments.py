"""A Sphinx extension: parameters documented beside themselves appear in the reference."""

import re
from typing import Any

from fastcore.docments import docments
from myst_parser.mocking import MockRSTParser


def add_parameters(app: Any, what: str, name: str, subject: Any, options: Any, lines: list[str]) -> None:
    """Append a `:param:` line for each comment behind a parameter."""
    if what not in ("function", "method", "class"):
        return
    target = subject.__init__ if what == "class" and "__init__" in vars(subject) else subject
    try:
        found = docments(target, full=True)
    except Exception:
        return
    said = [(key, value.get("docment")) for key, value in found.items() if isinstance(value, dict)]
    said = [(key, comment) for key, comment in said if comment]
    if said:
        lines.append("")
    for key, comment in said:
        text = re.sub(r"([\\*`_|])", r"\\\1", " ".join(str(comment).split()))
        lines.append(f":returns: {text}" if key == "return" else f":param {key}: {text}")


def parse_without_padding(parser: Any, text: str, document: Any, parse: Any = MockRSTParser.parse) -> None:
    """Parse reStructuredText without the empty lines put before it to make line numbers right.

    A notebook's cell counts for ten thousand lines, so the reference in cell 80 came behind 800,000 empty ones.
    """
    parse(parser, text.lstrip("\n"), document)


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    setattr(MockRSTParser, "parse", parse_without_padding)  # noqa: B010
    app.connect("autodoc-process-docstring", add_parameters)
    return {"parallel_read_safe": True}
