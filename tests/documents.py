"""The glue of the site, which is no package: its modules lie in docs/."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).resolve().parent.parent / "docs"


def glue(name: str) -> ModuleType:
    """A module of the site's glue."""
    spec = importlib.util.spec_from_file_location(f"coreota_{name}", DOCS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
