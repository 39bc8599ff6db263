"""Build the site from the notebooks: python docs/build.py [FOLDER], then open FOLDER/index.html (_docs by default).

Nothing is fetched from elsewhere while reading: every script, style and picture lies in the site. While building, npm
and pip fetch what the live pages need; where they cannot, the site is built without them, and says so.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import livepages
import reader
import reference

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "nbs"


def stage(source: Path) -> None:
    """Lay out what Sphinx reads: the notebooks as they are, and the pages that are made from the package."""
    for path in NOTEBOOKS.rglob("*.ipynb"):
        if ".ipynb_checkpoints" not in path.parts:
            target = source / path.relative_to(NOTEBOOKS)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    for name, text in {**reference.pages(), "solutions/index.md": reader.solutions_page()}.items():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def main() -> int:
    """Build the site anew; a broken reference fails the build and leaves the old site as it is."""
    site = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT / "_docs"
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-N",
        "-j",
        "auto",
        "-b",
        "html",
        "-c",
        "docs",
    ]
    with TemporaryDirectory(prefix="coreota-site-") as folder:
        source, made = Path(folder) / "source", Path(folder) / "html"
        stage(source)
        live = Path(folder) / "live"
        try:
            livepages.bundle(live)
            command += ["-t", "live"]
        except (OSError, subprocess.CalledProcessError) as error:
            why = getattr(error, "stderr", None) or error
            print(f"Built without live pages, which need npm and pip: {why}", file=sys.stderr)
        status = subprocess.run([*command, source, made], cwd=ROOT, check=False).returncode
        if status == 0:
            shutil.rmtree(made / ".doctrees", ignore_errors=True)
            if live.exists():
                shutil.copytree(live, made / "_static/live")
            shutil.rmtree(site, ignore_errors=True)
            shutil.copytree(made, site)
    return status


if __name__ == "__main__":
    sys.exit(main())
