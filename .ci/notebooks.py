"""Execute notebooks and keep their outputs (`run`), or fail where executing would change a byte (`check`).

usage: python .ci/notebooks.py run|check [NOTEBOOK ...]      (default: all of nbs/)
"""

import difflib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
import warm
from fastcore.nbio import dict2nb, nb2str
from nbclient import NotebookClient
from nbdev.clean import clean_nb

ROOT = Path(__file__).resolve().parent.parent


def executed(path: Path) -> str:
    """The text of the notebook at `path` after running it from the top and cleaning it."""
    notebook: Any = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute()
    text = json.dumps(notebook)
    cleaned = dict2nb(json.loads(text))
    clean_nb(cleaned)
    return str(nb2str(cleaned))


def one(path: Path, check: bool) -> bool:
    """Run one notebook; say what is wrong; True when all is well."""
    before = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT)
    try:
        after = executed(path)
    except Exception as error:
        print(f"{name}: {error}", file=sys.stderr)
        return False
    if check and after != before:
        diff = difflib.unified_diff(before.splitlines(), after.splitlines(), "stored", "executed", lineterm="", n=1)
        advice = f"`python .ci/notebooks.py run {name}` keeps the new outputs"
        print(f"{name}: executing it changes it; {advice}", file=sys.stderr)
        print("\n".join(line[:300] for line in list(diff)[:40]), file=sys.stderr)
        return False
    if not check:
        path.write_text(after, encoding="utf-8")
    return True


def main() -> int:
    """The command; the number of notebooks that are not well is its exit status."""
    mode, *names = sys.argv[1:] or ["help"]
    if mode not in ("run", "check"):
        print(__doc__)
        return 2
    paths = [Path(name).resolve() for name in names]
    if not paths:
        paths = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    warm.use()
    with ThreadPoolExecutor(4) as pool:  # A kernel waits for brokers, clocks and its own end as long as it computes
        results = list(pool.map(lambda path: one(path, mode == "check"), paths))
    print(f"{sum(results)} of {len(results)} notebooks {'unchanged' if mode == 'check' else 'executed'}")
    return results.count(False)


if __name__ == "__main__":
    sys.exit(main())
