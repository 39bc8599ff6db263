"""A Sphinx extension: the sidebar, made once and marked for each page.

Sphinx and Furo make it anew for every page, which was a third of the build's time.
"""

import re
from functools import cache
from typing import Any

from furo.navigation import get_navigation_tree
from sphinx.environment.adapters.toctree import global_toctree_for_doc

ENTRY = re.compile(r'<li class="([^"]*)"><a class="reference internal" href="([^"]*)">(.*?)</a>(<input )?', re.DOTALL)


@cache  # in each process that writes pages
def sidebar(app: Any) -> str:
    """The tree of all pages as it stands on the first one, which is no part of it."""
    first = app.config.root_doc
    tree = global_toctree_for_doc(app.env, first, app.builder, tags=app.tags, maxdepth=-1, titles_only=True)
    return str(get_navigation_tree(app.builder.render_partial(tree)["fragment"]))


def branch(app: Any, name: str) -> list[str]:
    """A page and those under which it stands, from the nearest on."""
    parents = [page for page, below in app.env.toctree_includes.items() if name in below]
    return [name, *(branch(app, parents[0]) if parents and parents[0] != app.config.root_doc else [])]


def marked(app: Any, name: str) -> str:
    """The sidebar of one page: where the reader is, with the branch open and addresses that lead on from here."""
    here, *above = (app.builder.get_target_uri(page) for page in branch(app, name))
    up = "../" * name.count("/")

    def entry(match: re.Match[str]) -> str:
        kind, address, title, box = match.groups(default="")
        link = "reference internal"
        if address == here or address in above:
            kind, link, box = f"{kind} current", f"current {link}", box and f'{box}checked="" '
        if address == here:
            return f'<li class="{kind} current-page"><a class="{link}" href="#">{title}</a>{box}'
        return f'<li class="{kind}"><a class="{link}" href="{up}{address}">{title}</a>{box}'

    return ENTRY.sub(entry, sidebar(app))


def before(app: Any, name: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Called by Sphinx for each page, before Furo: nothing to make a tree of."""
    context["toctree"] = lambda **options: ""


def after(app: Any, name: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Called by Sphinx for each page, after Furo: here is the tree."""
    context["furo_navigation_tree"] = marked(app, name)


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("html-page-context", before, priority=400)
    app.connect("html-page-context", after, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
