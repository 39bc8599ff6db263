"""The rules by which a job spreads, against counting by hand."""

from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreota.errors import LocalOtaError
from coreota.jobs import JobStatus
from coreota.provider.rules import (
    AbortRule,
    FailureKind,
    JobRules,
    RetryRule,
    Rollout,
    Schedule,
    Window,
    cron_fields,
)

DAY = 86400


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_the_rollout_of_the_developer_guide() -> None:
    rollout = Rollout(base=50, factor=2, notified=1000)
    assert [rollout.rate(told, 0) for told in (0, 999, 1000, 1999, 2000, 3000, 4000)] == [
        50,
        50,
        100,
        100,
        200,
        400,
        800,
    ]
    assert rollout.rate(1 << 40, 0) == 1000
    by_success = Rollout(base=10, factor=1.5, succeeded=5, maximum=20)
    assert [by_success.rate(1000, good) for good in (0, 4, 5, 10)] == [10, 10, 15, 20]


@given(st.integers(0, 60), st.integers(0, 60), st.floats(0.01, 100), st.integers(1, 60))
def test_abort_is_a_share_of_what_was_executed(failed: int, good: int, percent: float, at_least: int) -> None:
    rule = AbortRule(FailureKind.FAILED, percent, at_least)
    executed = failed + good
    expected = executed >= at_least and failed * 100 >= percent * executed
    counts = Counter(
        {JobStatus.FAILED: failed, JobStatus.SUCCEEDED: good, JobStatus.CANCELED: 99, JobStatus.QUEUED: 99}
    )
    assert rule.met(counts) is expected


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.REJECTED, JobStatus.TIMED_OUT])
def test_all_kinds_count_together_or_alone(status: JobStatus) -> None:
    counts = {status: 1, JobStatus.SUCCEEDED: 1}
    assert [AbortRule(kind, 50).met(counts) for kind in FailureKind] == [
        kind in (status, "ALL") for kind in FailureKind
    ]


def test_retries_have_an_account_for_each_kind() -> None:
    rules = JobRules(retries=(RetryRule(FailureKind.FAILED, 1), RetryRule(FailureKind.TIMED_OUT, 0)))
    assert rules.again(JobStatus.FAILED, {JobStatus.FAILED: 1, JobStatus.TIMED_OUT: 7})
    assert not rules.again(JobStatus.FAILED, {JobStatus.FAILED: 2})
    assert not rules.again(JobStatus.TIMED_OUT, {JobStatus.TIMED_OUT: 1})
    both = RetryRule(FailureKind.ALL, 2)
    assert both.allows(JobStatus.FAILED, {JobStatus.FAILED: 1, JobStatus.TIMED_OUT: 1})
    assert not both.allows(JobStatus.TIMED_OUT, {JobStatus.FAILED: 2, JobStatus.TIMED_OUT: 1})
    assert not both.allows(JobStatus.REJECTED, {JobStatus.REJECTED: 1})


@pytest.mark.parametrize(
    ("aws", "fields"),
    [
        ("cron(0 2 ? * SUN *)", ("0 2 * * SUN", "*")),
        ("cron(15 10 ? * 6L 2026-2030)", ("15 10 * * 5L", "2026-2030")),
        ("0 0 1-7 * ?", ("0 0 1-7 * *", "*")),
        ("0/5 8-17 ? * 2-6 *", ("0/5 8-17 * * 1-5", "*")),
        ("0 0 ? * 6#3 *", ("0 0 * * 5#3", "*")),
    ],
)
def test_cron_as_aws_writes_it(aws: str, fields: tuple[str, str]) -> None:
    assert cron_fields(aws) == fields


def test_a_window_is_open_or_opens() -> None:
    window = Window("cron(0 2 ? * * *)", 3600)
    assert window.opens(at("2026-11-23T01:59:59")) == at("2026-11-23T02:00")
    assert window.opens(at("2026-11-23T02:00")) == at("2026-11-23T02:00")
    assert window.opens(at("2026-11-23T02:59:59")) == at("2026-11-23T02:00")
    assert window.opens(at("2026-11-23T03:00")) == at("2026-11-24T02:00")
    assert Window("cron(0 2 1 1 ? 2027)", 60).opens(at("2026-06-01T00:00")) == at("2027-01-01T02:00")
    assert Window("cron(* * * * ? 2030)", 60).opens(at("2026-06-01T00:00")) == at("2030-01-01T00:00")
    assert Window("cron(0 * * * ? 2025,2030-2031)", 600).opens(at("2026-01-01T00:10")) == at("2030-01-01T00:00")
    assert Window("cron(30 23 31 12 ? 2025)", 3600).opens(at("2026-01-01T00:10")) == at("2025-12-31T23:30")
    assert Window("cron(0 2 1 1 ? 2020)", 60).opens(at("2026-06-01T00:00")) is None


@given(st.integers(0, 40 * DAY), st.integers(1, 1430))
def test_a_window_that_is_open_has_opened_less_than_its_length_ago(seconds: int, minutes: int) -> None:
    window, now = Window("cron(30 22 ? * MON,THU *)", minutes * 60), at("2026-11-01T00:00") + seconds
    opens = window.opens(now)
    assert opens is not None
    assert opens > now - minutes * 60
    assert datetime.fromtimestamp(opens, UTC).strftime("%a %H:%M") in ("Mon 22:30", "Thu 22:30")
    assert opens - now <= 4 * DAY


def test_a_schedule_bounds_its_windows() -> None:
    start = at("2026-11-23T02:30")
    schedule = Schedule(start, start + 2 * DAY, windows=(Window("cron(0 2 ? * * *)", 3600),))
    assert schedule.opens(at("2026-11-22T02:30")) == start  # the window is open then, since half an hour
    assert schedule.opens(start + 60) == start + 60
    assert schedule.opens(start + 3600) == at("2026-11-24T02:00")
    assert schedule.opens(start + 2 * DAY - 60) == start + 2 * DAY - 60
    assert schedule.opens(start + 2 * DAY) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cron()",
        "cron(0 0 * * ? soon)",
        "cron(0 0 1 1 1 2026)",
        "cron(x 0 1 * ? *)",
        "cron(0 25 * * ? *)",
        "cron(0 0 30 2 ? *)",
        "0 " * 200,
    ],
)
def test_no_cron_expression(text: str) -> None:
    with pytest.raises(LocalOtaError) as caught:
        Window(text, 60)
    assert caught.value.reason == "cron"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Rollout(1001),
        lambda: Rollout(base=0, notified=1),
        lambda: Rollout(base=1, factor=1.05, notified=1),
        lambda: Rollout(base=1, notified=1, succeeded=1),
        lambda: Rollout(base=1, notified=0, succeeded=None),
        lambda: AbortRule(FailureKind.ALL, 0),
        lambda: AbortRule(FailureKind.ALL, 100.5),
        lambda: AbortRule(FailureKind.ALL, 10, 0),
        lambda: RetryRule(FailureKind.ALL, 11),
        lambda: RetryRule(FailureKind.REJECTED, 1),
        lambda: Window("cron(0 2 ? * * *)", 59),
        lambda: Schedule(0, 60),
        lambda: JobRules(timeout=59),
        lambda: JobRules(retries=(RetryRule(FailureKind.ALL, 1),) * 3),
    ],
)
def test_rules_out_of_range_cannot_be_made(wrong: object) -> None:
    with pytest.raises(LocalOtaError) as caught:
        wrong()  # type: ignore[operator]
    assert caught.value.reason == "rules"
    assert caught.value.advice
