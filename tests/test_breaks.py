"""*Break it yourself*: the faults that the first chapters propose do what the page promises, in the cell it names."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from test_lessons import comparable, run, stored

NOTEBOOKS = Path(__file__).resolve().parent.parent / "nbs"


@dataclass(frozen=True)
class Fault:
    """A change that a reader is asked to make, and what it does."""

    chapter: str
    cell: str  # Id of the cell that shows it; the last that is run
    shows: str  # Is in what that cell displays then, and not before
    changes: tuple[tuple[str, str], ...]  # Old text and new, each once in the chapter
    then: str = ""  # What the reader writes and runs after that cell; its value counts in place of the cell's


FAULTS = [
    Fault("00_tour", "244eda69", "'it is too large': ('accepted", (("200_000", "53_065"),)),
    Fault(
        "00_tour",
        "244eda69",
        "'it is too large': 'image-too-large'",
        (("200_000", "53_066"),),
        "{name: reason(name) for name in tries}",
    ),
    Fault("01_topics", "1e29ae35", "[True, True, True, True]", (('if topic.startswith("$") and', "if False and"),)),
    Fault(
        "01_topics",
        "4abf1a4a",
        "None, LocalOtaError",
        (("pattern.fullmatch(name)", 're.match(pattern.pattern + "$", name)'),),
    ),
    Fault(
        "01a_jobexecution",
        "9c616af1",
        "['SUCCEEDED', 'TIMED_OUT'",
        (
            (
                '    (JobStatus.IN_PROGRESS, "timer",',
                '    (JobStatus.FAILED, "device", JobStatus.IN_PROGRESS),\n    (JobStatus.IN_PROGRESS, "timer",',
            ),
        ),
    ),
    Fault(
        "01a_jobexecution",
        "8703d8e5",
        "[3.0, nan, 1.0]",
        (("type(value) not in (int, float) or not 0 <= value < 1e14", "type(value) not in (int, float)"),),
        'sorted(_stamp({"t": t}, "t") for t in (3.0, float("nan"), 1.0))',
    ),
    Fault(
        "01a_jobmessages",
        "fc67566a",
        "'clientToken': '2'",
        (
            (
                "_text(_token(client_token) | _options(status_details, step_timeout_minutes))",
                "naive_start_next_msg(client_token)",
            ),
        ),
        """json.loads(start_next_msg('1","clientToken":"2'))""",
    ),
    Fault(
        "01a_jobmessages",
        "fd5acfad",
        "60000",
        (("[A-Za-z0-9_-]{1,64})/(.*)", "[A-Za-z0-9_-]+)/(.*)"),),
        'len(match_topic("pump-7", "$aws/things/pump-7/jobs/" + "x" * 60_000 + "/update/accepted").job_id)',
    ),
    Fault(
        "01b_jobevents",
        "a1ee0f73",
        "JobUpdated",
        (("request.attempts == 1 or ", ""),),
        "last_word.attempts = 1\nalready_done(last_word, read_rejected(last_word, refusal))",
    ),
    Fault(
        "02_jobs", "4d2b7e01", "does not answer update", (('request.job_id not in (match.job_id, "$next")', "False"),)
    ),
    Fault(
        "02_jobs",
        "4d2b7e01",
        "JobStarted",
        (('present.update(0.0, "j-9", JobStatus.IN_PROGRESS)', "present.start_next(0.0)"),),
    ),
    Fault(
        "02_jobs", "96dd7d73", "{'1': False, '2': False}", (("other.superseded |= ", "other.superseded |= False and "),)
    ),
    Fault(
        "03_parser",
        "0c17a8ed",
        "['taken', 'taken', 'taken', 'taken', 'taken', 'taken']",
        (
            ("type(value) is not int or not low <= value <= high", "False"),
            ("if isinstance(value, str) and _DIGITS.fullmatch(value):", "if True:"),
        ),
    ),
    Fault("04_blocks", "88d96cc7", "11)", (("        if index in self:\n", "        if True:\n"),)),
    Fault(
        "04_blocks",
        "4b6b96d2",
        "b'old'",
        (("            view.release()\n", ""),),
        'p = MemoryPool(3, 1)\nold = p.acquire()\np.release(old)\nnew = p.acquire()\nold[:] = b"old"\nbytes(new)',
    ),
    Fault(
        "04a_streammessages",
        "428d61da",
        "'a number that is none': 'taken'",
        (("type(value) is not int or not low <=", "not isinstance(value, int) or not low <="),),
    ),
    Fault(
        "04a_streammessages", "428d61da", "'shorter than it says': 'taken'", (("if len(data) != length:", "if False:"),)
    ),
    Fault(
        "05_codec",
        "65d13d26",
        "'a name twice': 'taken'",
        (
            ("members = decoder.decode()", "members = cbor2.loads(payload)"),
            ("    try:\n        decoder.read(1)\n", "    return members\n    try:\n        decoder.read(1)\n"),
        ),
    ),
    Fault(
        "05_codec",
        "977ce40e",
        "16",
        (
            ('a2b_base64(symbols + "=" * wanted, strict_mode=True)', 'a2b_base64(symbols + "=" * wanted)'),
            ("if wanted and binascii.b2a_base64(data[-(len(data)", "if False and binascii.b2a_base64(data[-(len(data)"),
        ),
        'sum(base64_decode(f"dGVzd{c}==") == b"test" for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")',
    ),
    Fault(
        "05a_rto",
        "b56004eb",
        "(13, <RoundTrip",
        (("self.smoothed + 4 * self.variation)", "self.smoothed + self.variation)"),),
    ),
    Fault(
        "05a_rto",
        "9b395e97",
        "30.0, 30.0, 30.0, 30.0])",
        (("self.samples += 1\n        self.backed_off = 0", "self.samples += 1"),),
    ),
    Fault("05b_window", "9e06d5fe", "([551,", (("CONGESTED = 0.25", "CONGESTED = 0.05"),)),
    Fault(
        "05b_window", "7c0d3e01", "[26, 65, 87, 156, 208]", (("rate * self.trip.least", "rate * self.trip.smoothed"),)
    ),
    Fault(
        "05c_download",
        "a895b5b1",
        "true",
        (("isinstance(value, bool) or ", ""),),
        "import json\n\njson.dumps(DownloadConfig(blocks_per_request=True).lot)",
    ),
    Fault("05c_download", "6dfed16f", "14)", (("    (_S.FLOWING, _T.ALL_ARRIVED): _S.READY,\n", ""),)),
    Fault("05d_underway", "8d1e4f01", "1", (("OVERTAKEN = 3", "OVERTAKEN = 1"),)),
    Fault(
        "05d_underway",
        "8d1e4f01",
        "12",
        (("OVERTAKEN = 3", "OVERTAKEN = 1"), ("self.patience = min(self.patience +", "_ = min(self.patience +")),
    ),
    Fault("05d_underway", "a405f95a", "(4, 2, True)", (("request.open -= 1", "pass"),)),
    Fault(
        "05e_flow",
        "05ef10b0",
        "[0, 1, 2, 3, 4]",
        (("return lot if room >= lot else 0", "return max(0, min(lot, room))"),),
    ),
    Fault(
        "05e_flow",
        "e219faa9",
        "176",
        (("return lot if room >= lot else 0", "return max(0, min(lot, room))"),),
        "smooth.requests",
    ),
    Fault("05e_flow", "fe9d6f56", "(31, 29, 8,", ((" and self.doubled + len(again) <= self.lost // 64", ""),)),
    Fault(
        "06_downloader",
        "9e2f5a01",
        "(100, 'not yet')",
        (
            (
                "self.flow.arrived_again(index)\n",
                "self.flow.arrived_again(index)\n            self.flow.silence.begin(now)\n",
            ),
        ),
    ),
    Fault(
        "06_downloader",
        "9e2f5a03",
        "(43, 3)",
        (("Flow(self.missing, self._lent, pool", "Flow(self.missing, {}, pool"),),
    ),
    Fault("06a_blocksize", "df79d31d", "((131072, 1)", (("LEAST_BUFFERS = 8", "LEAST_BUFFERS = 1"),)),
    Fault("06a_blocksize", "1edd98df", "[True, False, True, True, False]", (("if received or size", "if size"),)),
    Fault(
        "07a_lazy",
        "91e2786d",
        "RecursionError",
        (('if attribute.startswith("__"):', "if False:"),),
        'import copy\n\nfailure(lambda: copy.copy(lazy_module("colorsys")))',
    ),
    Fault(
        "08a_certificates",
        "896f857c",
        "'good': 'certificate-untrusted'",
        (
            ('lab_key("root").public_key(), lab_key("root"), ca=0)', 'lab_key("root").public_key(), lab_key("root"))'),
            (
                "at=datetime(2026, 11, 1, tzinfo=UTC)).verify(file, [firmware]) is None",
                "at=datetime(2026, 11, 1, tzinfo=UTC)) is None",
            ),
        ),
    ),
    Fault(
        "15d_presign",
        "498bd5ef",
        "server's\": 'url-expired'",
        (
            (
                "        if not hmac.compare_digest(found[2]",
                "        if now < expires and not hmac.compare_digest(found[2]",
            ),
        ),
    ),
    Fault(
        "15d_presign",
        "498bd5ef",
        "'wants the next release': 'may read'",
        (("{path}\\n{expires}", "{path.rpartition('/')[0]}\\n{expires}"),),
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.chapter}-{fault.cell}")
def test_a_fault_is_seen_where_the_page_says(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [
        cell
        for cell in json.loads((NOTEBOOKS / f"{fault.chapter}.ipynb").read_text("utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]
    last = [cell["id"] for cell in cells].index(fault.cell)
    sources = ["".join(cell["source"]) for cell in cells[: last + 1]]
    for old, new in fault.changes:
        assert sum(source.count(old) for source in sources) == 1, old
        sources = [source.replace(old, new) for source in sources]
    page = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", page)
    value = None
    for source in [*sources, *[fault.then] * bool(fault.then)]:
        _, value = run(source, vars(page))
    assert fault.shows in one_line(value)
    assert fault.then or fault.shows not in one_line(stored(cells[last])[1])


def one_line(value: str | None) -> str:
    """What a cell displays, however it is folded."""
    return " ".join((comparable(value) or "").split())
