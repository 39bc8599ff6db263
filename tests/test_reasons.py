"""Every reason is explained: by the advice that comes with it, or on the page about failed updates."""

import json
import re
from pathlib import Path

from documents import glue

from coreota.reports import advice_for

ROOT = Path(__file__).resolve().parent.parent


REASONS = glue("reasons").reasons()
NAMES = {reason.name for reason in REASONS}


def explained() -> set[str]:
    """The first column of the page's tables."""
    cells = json.loads((ROOT / "nbs/howto/failed_update.ipynb").read_text("utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    rows = re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_reasons_are_found() -> None:
    """In every form in which the package gives one."""
    assert {"signature-mismatch", "stream-silent", "job-unknown", "http-no-ranges", "certificate-untrusted"} <= NAMES
    assert {"self-test", "same-version", "image-state-mismatch", "thing-name-invalid", "policy-error"} <= NAMES
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in NAMES), NAMES


def test_every_reason_comes_with_advice_or_an_explanation() -> None:
    advised = {reason.name for reason in REASONS if reason.advice}
    assert sorted(NAMES - advised - explained()) == []


def ends() -> set[str]:
    """The reasons in the page's tables of what a job can end with."""
    cells = json.loads((ROOT / "nbs/howto/failed_update.ipynb").read_text("utf-8"))["cells"]
    text = "".join(next(cell["source"] for cell in cells if "".join(cell["source"]).startswith("What a job can fail")))
    rows = re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_every_end_of_a_job_tells_the_operator_what_to_do() -> None:
    """In `statusDetails`: where one of its places gives no advice, the first word of the reason does."""
    device = [reason for reason in REASONS if not reason.module.startswith("provider") and reason.message != "…"]
    silent = {reason.name for reason in device if not reason.advice}
    ended = ends()
    assert len(ended) > 50
    assert sorted(name for name in ended & silent if not advice_for(name)) == []


def test_the_page_explains_no_reason_that_is_never_given() -> None:
    assert sorted(explained() - NAMES) == []
