"""What a failed job tells: fit for AWS whatever it quotes, and readable again."""

import json
import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from coreota.config import OtaConfig
from coreota.errors import LocalOtaError, OtaError, RemoteOtaError
from coreota.jobs import JobsHandler
from coreota.policy import Decline
from coreota.provider.requests import status_details
from coreota.reports import Failure, Ration, Reports, failure_details, read_failure
from coreota.sim.lab import Lab
from coreota.states import State
from coreota.topics import Message

ANYTHING = st.text(max_size=60) | st.text(st.characters(codec="utf-8"), min_size=1000, max_size=2000)
WORDS = st.from_regex(r"[a-z0-9]+(-[a-z0-9]+){0,3}", fullmatch=True)
TAME = st.text("abc :;,'.-0", max_size=300).map(str.strip).filter(bool)


def error_of(ours: bool, message: str, reason: str, advice: str) -> OtaError:
    return (LocalOtaError if ours else RemoteOtaError)(message, reason=reason, advice=advice)


@settings(max_examples=50)
@given(st.booleans(), ANYTHING, ANYTHING, ANYTHING)
def test_details_are_within_aws_limits(ours: bool, message: str, reason: str, advice: str) -> None:
    """Known keys; values of 1 to 1024 characters, none of Unicode's category C (the API's DetailsValue)."""
    details = failure_details(error_of(ours, message, reason, advice))
    assert {"reason"} <= set(details) <= {"reason", "advice"}
    assert all(1 <= len(value) <= 1024 for value in details.values())
    assert not any(unicodedata.category(c).startswith("C") for value in details.values() for c in value)
    assert status_details({"statusDetails": details}) == details  # the provider takes it
    assert json.loads(json.dumps(details).encode()) == details
    failure = read_failure(details)
    assert failure is not None and failure.ours is ours and failure.reason and ": " not in failure.reason


@settings(max_examples=50)
@given(st.booleans(), TAME, WORDS, TAME)
def test_what_was_written_is_read(ours: bool, message: str, reason: str, advice: str) -> None:
    """The four parts come back as they were, colons in the message and all."""
    failure = read_failure(failure_details(error_of(ours, message, reason, advice)))
    assert failure == Failure(ours, reason, message, advice)


@given(
    st.dictionaries(st.text(max_size=10), st.text(max_size=40))
    | st.fixed_dictionaries({"reason": st.text(max_size=60)})
)
def test_foreign_details_are_no_failure_of_ours(details: dict[str, str]) -> None:
    """What others wrote is read without complaint, and is a failure only in our words."""
    failure = read_failure(details)
    assert failure is None or details["reason"].startswith(("rejected: ", "aborted: "))


@given(st.lists(st.floats(0, 2), min_size=1, max_size=200), st.integers(1, 20), st.floats(0, 5))
def test_ration(gaps: list[float], every: int, interval: float) -> None:
    """No two reports closer than the interval, and no multiple of `every` is passed in silence when there is time."""
    ration, now, sent = Ration(OtaConfig(status_every=every, status_interval=interval)), 0.0, list[tuple[int, float]]()
    for received, gap in enumerate(gaps, 1):
        now += gap
        before = sent[-1] if sent else (0, float("-inf"))
        crossed, early = received // every > before[0] // every, now - before[1] < interval
        due = ration.due(received, now)
        assert due is (crossed and not early)
        if due:
            sent.append((received, now))


def test_the_limits_hold_on_the_wire() -> None:
    """A verifier that quotes a hostile peer at length: the job ends, and its end is read."""

    class Quoting:
        def check(self, file: object) -> None:
            raise RemoteOtaError(
                "it said\n\x00\x85\u202e: " + "\U0001f4a5" * 3000, reason="a: b\n", advice="\x07" * 5000
            )

        def verify(self, file: object, content: object) -> None:
            raise AssertionError("nothing was downloaded")

    lab = Lab(verifier=Quoting())
    job_id = lab.offer("2.0.0")
    lab.run()
    last = lab.history(job_id)[-1]
    assert (last.status.value, lab.device.orchestrator.state) == ("FAILED", State.WAITING_FOR_JOB)
    assert len(last.details["reason"]) == 1024 and last.details["advice"] == "unknown"
    failure = read_failure(last.details)
    assert failure is not None and (failure.ours, failure.reason) == (False, "a- b")


def test_a_declined_job_says_what_to_do() -> None:
    lab = Lab(
        policy=lambda offer, now: Decline("rejected: too-small: no room on this pump", "take it out of the group")
    )
    job_id = lab.offer("2.0.0")
    lab.run()
    last = lab.history(job_id)[-1]
    assert (last.status.value, read_failure(last.details)) == (
        "REJECTED",
        Failure(False, "too-small", "no room on this pump", "take it out of the group"),
    )


def test_a_patch_that_is_given_up_says_what_to_do() -> None:
    reports = Reports(JobsHandler("pump"), OtaConfig())
    reports.take("job")
    reports.patch_given_up(RemoteOtaError("it is damaged", reason="patch-damaged", advice="make it again"), 0.0)
    (sent,) = [json.loads(m.payload) for m in reports.jobs.messages_to_send(0.0) if isinstance(m, Message)]
    assert sent["statusDetails"] == {"patch": "given up: patch-damaged: it is damaged", "advice": "make it again"}
