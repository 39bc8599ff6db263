"""Pages whose cells can be run and changed where they are read: Python in the browser, from files of the site alone.

Pyodide comes from npm, three wheels of pure Python and cbor2 for WebAssembly from PyPI. There is no `cryptography` for
WebAssembly on either, so that a stand-in answers for it.
"""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SOURCES = HERE / "live"
# Of the chapters, those that need no socket, process, database or RSA key, but for a cell here and there
LIVE = re.compile(r"0[0-7]|09(?!a|c)|10|11|12a|13(?!_wire|a|d)|14|15(_|a|b|d|i)|16|17b|90|index$")
PLATFORM = [
    "--platform",
    "pyemscripten_2026_0_wasm32",
    "--python-version",
    "3.14",
    "--implementation",
    "cp",
    "--abi",
    "cp314",
]
SAID = (
    "Python runs in your browser, and you can change what it runs: 14 MB from this site, fetched when you ask for it."
)
PYODIDE = ("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip", "pyodide-lock.json", "README.md")


def is_live(name: str) -> bool:
    """Can the cells of a page be run in the browser? `name` is the notebook's, without .ipynb."""
    return "/" not in name and LIVE.match(name) is not None


def head(sources: list[str | None]) -> str:
    """What stands before the first cell of a live page: `sources`: each cell's source, None where it is shown."""
    text = json.dumps(sources).replace("</", "<\\/")
    return f"""```{{raw}} html
<div class="live-bar" id="live-bar" hidden>
<button type="button">Run this page</button> <span aria-live="polite">{SAID}</span>
</div>
<script type="application/json" id="live-cells">{text}</script>
<script src="_static/live.js" id="live-script" defer></script>
```"""


def download(folder: Path) -> None:
    """Fetch Pyodide and the wheels into a folder."""
    for name in ("package.json", "package-lock.json"):
        shutil.copy(SOURCES / name, folder)
    npm = shutil.which("npm")
    if npm is None:
        raise OSError("npm is not installed")
    quiet = {"check": True, "capture_output": True, "text": True}
    subprocess.run([npm, "ci", "--silent", "--no-audit", "--no-fund"], cwd=folder, **quiet)  # type: ignore[call-overload]
    wheels = [
        "-q",
        "--only-binary",
        ":all:",
        "--no-deps",
        "-d",
        str(folder),
        *PLATFORM,
        "-r",
        str(SOURCES / "requirements.txt"),
    ]
    subprocess.run([sys.executable, "-m", "pip", "download", *wheels], **quiet)  # type: ignore[call-overload]


def pack(archive: zipfile.ZipFile, folder: Path, name: str, pattern: str) -> None:
    """Put the files of a folder under a name."""
    for path in sorted(folder.rglob(pattern)):
        if path.is_file() and "__pycache__" not in path.parts:
            archive.write(path, f"{name}/{path.relative_to(folder)}")


def bundle(target: Path) -> None:
    """Lay out all that the live pages load; CalledProcessError or OSError where something cannot be had."""
    with TemporaryDirectory(prefix="coreota-live-") as name:
        folder = Path(name)
        download(folder)
        target.mkdir(parents=True, exist_ok=True)
        for file in PYODIDE:
            shutil.copy(folder / "node_modules/pyodide" / file, target)
        shutil.copy(SOURCES / "worker.js", target)
        shutil.copy(next(folder.glob("cbor2-*.whl")), target / "cbor2.whl")
        with zipfile.ZipFile(target / "packages.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for wheel in sorted({*folder.glob("*.whl")} - {*folder.glob("cbor2-*.whl")}):
                with zipfile.ZipFile(wheel) as content:
                    for item in content.namelist():
                        archive.writestr(item, content.read(item))
            for name in ("kernel.py", "ipywidgets.py"):
                archive.write(SOURCES / name, name)
            pack(archive, SOURCES / "cryptography_standin", "cryptography", "*.py")
            pack(archive, ROOT / "coreota", "coreota", "*.py")
            pack(archive, ROOT / "nbs/data", "nbs/data", "*")
