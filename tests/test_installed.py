"""The package under test is the one in this checkout: an old installation must not pass for it."""

from pathlib import Path

import coreota

ROOT = Path(__file__).resolve().parent.parent


def test_installed_is_this_checkout() -> None:
    """Every module of the checkout is installed as it stands here, and none beside."""
    here, there = ROOT / "coreota", Path(coreota.__file__).parent
    ours = {p.relative_to(here): p.read_bytes() for p in here.rglob("*.py")}
    installed = {p.relative_to(there): p.read_bytes() for p in there.rglob("*.py")}
    assert installed.keys() == ours.keys(), "the installed package is older than this checkout: install it again"
    stale = [str(name) for name in ours if installed[name] != ours[name]]
    assert not stale, f"installed from an older checkout: {stale}; install it again"


def test_typed_marker_is_installed() -> None:
    """Type checkers of the package's users find its types."""
    assert (Path(coreota.__file__).parent / "py.typed").exists()
