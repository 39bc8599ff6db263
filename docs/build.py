"""Build the site from the notebooks: python docs/build.py, then open _docs/index.html."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Build _docs/ anew; a broken reference fails the build."""
    build, site = ROOT / "_build", ROOT / "_docs"
    shutil.rmtree(build, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-j", "auto", "-b", "html", "-c", "docs"]
    status = subprocess.run([*command, "nbs", str(build / "html")], cwd=ROOT, check=False).returncode
    if status == 0:
        shutil.rmtree(site, ignore_errors=True)
        (build / "html").rename(site)
    shutil.rmtree(build, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
