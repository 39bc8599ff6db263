"""Sphinx: the site is made of the notebooks themselves."""

import gc
import sys
from configparser import ConfigParser
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import reference

_loaded = [*reference.modules()]  # Sphinx forks for every few pages: what is imported by now is not imported again
gc.set_threshold(100_000, 50, 100)  # trees of pages are many objects, and hardly any of them garbage

_facts = ConfigParser(delimiters=["="], interpolation=None)
_facts.read(HERE.parent / "settings.ini", encoding="utf-8")

project = _facts["DEFAULT"]["lib_name"]
author = _facts["DEFAULT"]["author"]
copyright = f"2026, {author}"
release = _facts["DEFAULT"]["version"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "reader", "docments", "navigation"]
exclude_patterns = ["**/.ipynb_checkpoints"]
nb_execution_mode = "off"
myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
maximum_signature_line_length = 88
nitpicky = False

html_theme = "furo"
html_title = "coreota"
html_static_path = [str(HERE / "static")]
html_css_files = ["coreota.css"]
html_js_files = ["coreota.js"]
html_domain_indices = False
html_copy_source = False
html_show_sourcelink = False
