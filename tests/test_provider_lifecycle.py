"""Jobs led by their rules, on a clock that is handed in, with every kind of store."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coreota.errors import LocalOtaError
from coreota.jobs import JobStatus
from coreota.provider.books import Execution, Job, JobState, Store
from coreota.provider.lifecycle import JobChanged, Lifecycle, notifications
from coreota.provider.memory import MemoryStore
from coreota.provider.rules import (
    AbortRule,
    EndBehavior,
    FailureKind,
    JobRules,
    RetryRule,
    Rollout,
    Schedule,
    Window,
)

T = TypeVar("T")
Q, P, S, F = JobStatus.QUEUED, JobStatus.IN_PROGRESS, JobStatus.SUCCEEDED, JobStatus.FAILED
X, C, R = JobStatus.TIMED_OUT, JobStatus.CANCELED, JobStatus.REMOVED


class Fleet:
    """A store, a time, and short words for what happens."""

    def __init__(self, store: Store) -> None:
        self.store, self.now = store, 1_000_000.0
        self.changes: list[JobChanged] = []

    def do(self, work: Callable[[Lifecycle], T]) -> T:
        def whole(books: object) -> tuple[T, list[JobChanged]]:
            life = Lifecycle(books, self.now)  # type: ignore[arg-type]
            result = work(life)
            list(notifications(life))
            return result, [event for event in life.events if isinstance(event, JobChanged)]

        result, changes = self.store.run(whole)
        self.changes += changes
        return result

    def create(
        self, *things: str, job: str = "j", groups: tuple[str, ...] = (), continuous: bool = False, **rules: object
    ) -> Job:
        made = Job(job, {}, things, groups, continuous=continuous, rules=JobRules(**rules))  # type: ignore[arg-type]
        return self.do(lambda life: life.create(made))

    def report(self, thing: str, status: JobStatus, step: float | None = None, job: str = "j") -> Execution:
        return self.do(lambda life: life.change(life.found(thing, job), status, step_timeout=step))

    def group(self, name: str, things: str, leave: bool = False) -> None:
        for thing in things:
            self.do(lambda life, thing=thing: (life.leave if leave else life.join)(name, thing))  # type: ignore[misc]

    def wait(self, seconds: float) -> None:
        """Time passes, and what is due in between is done when it is due."""
        until = self.now + seconds
        while (due := self.due) is not None and due <= until:
            self.now = max(self.now, due)
            self.do(lambda life: life.due())
        self.now = until

    @property
    def due(self) -> float | None:
        return self.store.run(lambda books: books.next_due())

    def all(self, job: str = "j") -> dict[str, JobStatus]:
        return self.store.run(lambda books: {one.thing: one.status for one in books.executions(job)})

    def state(self, job: str = "j") -> JobState:
        return self.do(lambda life: life.job(job)).state


@pytest.fixture
def fleet(store: Store) -> Fleet:
    return Fleet(store)


def test_a_job_is_completed_when_all_have_ended(fleet: Fleet) -> None:
    fleet.create("a", "b", "c")
    assert fleet.all() == {"a": Q, "b": Q, "c": Q}
    for thing, status in (("a", S), ("b", F)):
        fleet.report(thing, status)
        assert fleet.state() is JobState.IN_PROGRESS
    fleet.report("c", JobStatus.REJECTED)
    assert fleet.state() is JobState.COMPLETED
    assert fleet.changes == [JobChanged("j", JobState.COMPLETED)]
    assert fleet.due is None


def test_an_execution_times_out_only_after_it_began(fleet: Fleet) -> None:
    fleet.create("a", "b", timeout=600)
    fleet.wait(86400)
    assert fleet.all() == {"a": Q, "b": Q}
    fleet.report("a", P)
    fleet.wait(300)
    fleet.report("a", P)  # progress does not restart it
    fleet.wait(299)
    assert fleet.all()["a"] is P
    fleet.wait(1)
    assert fleet.all() == {"a": X, "b": Q}
    fleet.report("b", S)
    assert fleet.state() is JobState.COMPLETED


def test_step_timers_replace_each_other_and_never_outlast_the_whole(fleet: Fleet) -> None:
    fleet.create("a", "b", "c", timeout=600)
    fleet.report("a", P, step=60)
    fleet.report("b", P, step=60)
    fleet.report("c", P, step=60)
    fleet.wait(59)
    fleet.report("a", P, step=60)
    fleet.report("b", P, step=-1)
    fleet.report("c", P, step=6000)
    fleet.wait(59)
    assert fleet.all() == {"a": P, "b": P, "c": P}
    fleet.wait(1)
    assert fleet.all() == {"a": X, "b": P, "c": P}
    fleet.wait(480)
    assert fleet.all() == {"a": X, "b": P, "c": P}
    fleet.wait(1)
    assert fleet.all() == {"a": X, "b": X, "c": X}


def test_a_step_timer_without_a_timeout(fleet: Fleet) -> None:
    fleet.create("a")
    fleet.report("a", P, step=120)
    fleet.wait(119)
    assert fleet.all() == {"a": P}
    fleet.wait(1)
    assert fleet.all() == {"a": X}


def test_the_rollout_of_the_developer_guide_minute_by_minute() -> None:
    fleet = Fleet(MemoryStore())
    fleet.create(*(f"t{n}" for n in range(5000)), rollout=Rollout(base=50, factor=2, notified=1000))
    told = []
    for _ in range(40):
        told.append(len(fleet.all()))
        fleet.wait(60)
    by_minute = [later - sooner for sooner, later in zip([0, *told], told, strict=False)]
    assert by_minute[:20] == [50] * 20
    assert by_minute[20:30] == [100] * 10
    assert by_minute[30:35] == [200] * 5
    assert by_minute[35:38] == [400] * 3  # 4200 are told then, and the rate is 800
    assert by_minute[38:] == [800, 0]
    assert fleet.state() is JobState.IN_PROGRESS


def test_a_rollout_that_grows_with_success(fleet: Fleet) -> None:
    fleet.create(*"abcdefgh", rollout=Rollout(base=1, factor=2, succeeded=1))
    fleet.wait(180)
    assert list(fleet.all()) == ["a", "b", "c", "d"]
    fleet.report("a", S)
    fleet.wait(60)
    assert list(fleet.all()) == list("abcdef")


@pytest.mark.parametrize("kind", [F, JobStatus.REJECTED])
def test_an_abort_cancels_what_has_not_begun(fleet: Fleet, kind: JobStatus) -> None:
    fleet.create(*"abcdefgh", rollout=Rollout(6), aborts=(AbortRule(FailureKind(kind), 50, 2),))
    fleet.report("c", P)
    fleet.report("a", S)
    assert fleet.state() is JobState.IN_PROGRESS
    fleet.report("b", kind)
    assert fleet.state() is JobState.CANCELED
    assert fleet.all() == {"a": S, "b": kind, "c": P, "d": C, "e": C, "f": C}
    job = fleet.do(lambda life: life.job("j"))
    assert (job.reason, job.due_at, job.ended_at) == ("ABORT_CRITERIA_MET", None, fleet.now)
    fleet.report("c", S)  # what had begun goes on, and is heard
    fleet.wait(3600)
    assert fleet.all()["c"] is S
    assert len(fleet.all()) == 6


def test_timeouts_can_abort_too(fleet: Fleet) -> None:
    fleet.create(*"abcd", timeout=60, aborts=(AbortRule(FailureKind.ALL, 100, 2),))
    fleet.report("a", P)
    fleet.report("b", P)
    fleet.wait(60)
    assert fleet.all() == {"a": X, "b": X, "c": C, "d": C}
    assert fleet.state() is JobState.CANCELED


def test_retries_are_attempts_of_their_own(fleet: Fleet) -> None:
    rules = (RetryRule(FailureKind.FAILED, 1), RetryRule(FailureKind.TIMED_OUT, 2))
    fleet.create("a", timeout=60, retries=rules, aborts=(AbortRule(FailureKind.ALL, 1, 1),))
    fleet.report("a", P)
    fleet.wait(60)
    assert fleet.all() == {"a": Q}
    fleet.report("a", F)
    fleet.report("a", P)
    fleet.wait(60)
    assert fleet.state() is JobState.IN_PROGRESS  # failures that are tried again abort nothing
    fleet.report("a", F)
    assert fleet.state() is JobState.CANCELED
    attempts = fleet.store.run(lambda books: books.attempts("a", "j"))
    assert [(one.number, one.status, one.version) for one in attempts] == [(1, X, 3), (2, F, 2), (3, X, 3), (4, F, 2)]
    assert fleet.store.run(lambda books: books.counts("j")) == {F: 1}
    assert [change.number for change in fleet.store.run(lambda books: books.history("a", "j"))] == [
        1,
        1,
        1,
        2,
        2,
        3,
        3,
        3,
        4,
        4,
    ]


def test_a_rejected_job_is_not_tried_again(fleet: Fleet) -> None:
    fleet.create("a", retries=(RetryRule(FailureKind.ALL, 10),))
    fleet.report("a", JobStatus.REJECTED)
    assert fleet.all() == {"a": JobStatus.REJECTED}
    assert fleet.state() is JobState.COMPLETED


def test_a_schedule_begins_and_ends(fleet: Fleet) -> None:
    start, end = fleet.now + 3600, fleet.now + 3600 + 1800
    fleet.create(*"abc", rollout=Rollout(1), schedule=Schedule(start, end))
    assert (fleet.state(), fleet.all(), fleet.due) == (JobState.SCHEDULED, {}, start)
    fleet.wait(3600)
    assert (fleet.state(), fleet.all()) == (JobState.IN_PROGRESS, {"a": Q})
    fleet.wait(86400)
    assert fleet.all() == {"a": Q, "b": Q, "c": Q}
    assert fleet.state() is JobState.IN_PROGRESS
    for thing in "abc":
        fleet.report(thing, S)
    assert fleet.state() is JobState.COMPLETED


@pytest.mark.parametrize(
    ("behavior", "ends"),
    [(EndBehavior.STOP_ROLLOUT, {"a": P, "b": Q}), (EndBehavior.CANCEL, {"a": P, "b": C}),
     (EndBehavior.FORCE_CANCEL, {"a": C, "b": C})],
)  # fmt: skip
def test_the_end_of_a_schedule(fleet: Fleet, behavior: EndBehavior, ends: dict[str, JobStatus]) -> None:
    end = fleet.now + 90
    fleet.create(*"abcd", rollout=Rollout(1), schedule=Schedule(None, end, behavior))
    fleet.report("a", P)
    fleet.wait(3600)
    assert fleet.all() == ends
    assert fleet.state() is (JobState.IN_PROGRESS if behavior is EndBehavior.STOP_ROLLOUT else JobState.CANCELED)
    if behavior is EndBehavior.STOP_ROLLOUT:
        fleet.report("a", S)
        fleet.report("b", S)
        assert fleet.state() is JobState.COMPLETED


def test_maintenance_windows(fleet: Fleet) -> None:
    fleet.now = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()
    window = Window("cron(0 2 ? * * *)", 180)
    fleet.create(*"abcdefgh", rollout=Rollout(1), schedule=Schedule(windows=(window,)))
    assert (fleet.state(), fleet.all()) == (JobState.SCHEDULED, {})
    told = []
    for _ in range(4):
        fleet.wait(86400)
        told.append("".join(fleet.all()))
    assert told == ["abc", "abcdef", "abcdefgh", "abcdefgh"]
    assert fleet.due is None


def test_windows_that_never_open_are_refused(fleet: Fleet) -> None:
    with pytest.raises(LocalOtaError, match="never comes"):
        fleet.create("a", schedule=Schedule(windows=(Window("cron(0 2 1 1 ? 1970)", 60),)))
    with pytest.raises(LocalOtaError, match="never comes"):
        fleet.create("a", schedule=Schedule(end=fleet.now))
    with pytest.raises(LocalOtaError, match="no job j"):
        fleet.state()


def test_snapshot_and_continuous_jobs_of_groups(fleet: Fleet) -> None:
    fleet.group("cellar", "ab")
    fleet.create("x", groups=("cellar",), job="snapshot")
    fleet.create("a", groups=("cellar", "attic"), job="continuous", continuous=True)
    assert list(fleet.all("snapshot")) == ["x", "a", "b"]
    assert list(fleet.all("continuous")) == ["a", "b"]
    fleet.report("b", S, job="continuous")
    fleet.do(lambda life: life.join("cellar", "c"))
    fleet.do(lambda life: life.join("attic", "c"))
    fleet.do(lambda life: life.join("attic", "d"))
    assert fleet.all("continuous") == {"a": Q, "b": S, "c": Q, "d": Q}
    assert list(fleet.all("snapshot")) == ["x", "a", "b"]
    fleet.group("cellar", "abc", leave=True)
    fleet.do(lambda life: life.leave("attic", "d"))
    assert fleet.all("continuous") == {"a": Q, "b": S, "c": Q, "d": R}  # a by name, c by the attic, b has ended
    assert fleet.all("snapshot") == {"x": Q, "a": Q, "b": Q}
    fleet.report("a", S, job="continuous")
    fleet.report("c", S, job="continuous")
    assert fleet.state("continuous") is JobState.IN_PROGRESS


def test_who_leaves_before_its_turn_never_gets_the_job(fleet: Fleet) -> None:
    fleet.group("cellar", "ab")
    fleet.create(groups=("cellar",), continuous=True, rollout=Rollout(1))
    fleet.do(lambda life: life.leave("cellar", "b"))
    fleet.wait(600)
    assert fleet.all() == {"a": Q}


def test_a_thing_that_is_no_more(fleet: Fleet) -> None:
    fleet.create("a", "b", rollout=Rollout(1))
    fleet.create("a", job="k")
    fleet.report("a", S, job="k")
    fleet.do(lambda life: life.forget_thing("a"))
    fleet.do(lambda life: life.forget_thing("b"))
    assert fleet.all() == {"a": R}
    assert fleet.all("k") == {"a": S}
    fleet.wait(60)
    assert fleet.state() is JobState.COMPLETED


def test_cancel_and_delete(fleet: Fleet) -> None:
    fleet.create(*"abc", rollout=Rollout(2))
    fleet.report("a", P)
    with pytest.raises(LocalOtaError, match="is not over"):
        fleet.do(lambda life: life.delete("j"))
    fleet.do(lambda life: life.cancel("j", reason="WRONG", comment="the wrong file"))
    assert fleet.all() == {"a": P, "b": C}
    with pytest.raises(LocalOtaError, match="is not over"):
        fleet.do(lambda life: life.delete("j"))
    fleet.do(lambda life: life.cancel("j", force=True))
    job = fleet.do(lambda life: life.job("j"))
    assert (job.reason, job.comment, job.forced) == ("WRONG", "the wrong file", True)
    assert fleet.all() == {"a": C, "b": C}
    fleet.do(lambda life: life.delete("j"))
    with pytest.raises(LocalOtaError, match="no job j"):
        fleet.state()
    assert fleet.store.run(lambda books: (books.targets("j"), books.executions_of("a"), books.history("a", "j"))) == (
        [],
        [],
        [],
    )
    fleet.create("a")  # the name is free again
    fleet.do(lambda life: life.delete("j", force=True))
    assert fleet.store.run(lambda books: books.pending("a")) == []


def test_a_completed_job_cannot_be_cancelled(fleet: Fleet) -> None:
    fleet.create("a")
    fleet.report("a", S)
    with pytest.raises(LocalOtaError, match="is completed"):
        fleet.do(lambda life: life.cancel("j"))


def test_single_executions(fleet: Fleet) -> None:
    fleet.create(*"ab", retries=(RetryRule(FailureKind.FAILED, 1),))
    fleet.report("a", P)
    with pytest.raises(LocalOtaError, match="IN_PROGRESS"):
        fleet.do(lambda life: life.cancel_execution(life.found("a", "j")))
    with pytest.raises(LocalOtaError, match="IN_PROGRESS"):
        fleet.do(lambda life: life.delete_execution(life.found("a", "j")))
    fleet.do(lambda life: life.cancel_execution(life.found("a", "j"), force=True, details={"why": "late"}))
    with pytest.raises(LocalOtaError, match="CANCELED"):
        fleet.do(lambda life: life.cancel_execution(life.found("a", "j"), force=True))
    assert fleet.do(lambda life: life.found("a", "j")).details == {"why": "late"}
    fleet.report("b", F)
    fleet.do(lambda life: life.delete_execution(life.found("b", "j"), force=True))  # the second attempt
    assert fleet.all() == {"a": C, "b": F}
    assert fleet.state() is JobState.COMPLETED
    fleet.do(lambda life: life.delete_execution(life.found("b", "j", 1)))
    assert fleet.all() == {"a": C}
    with pytest.raises(LocalOtaError, match="no such execution"):
        fleet.do(lambda life: life.found("b", "j"))


def test_many_that_are_due_are_done_in_portions(fleet: Fleet) -> None:
    fleet.create(*"abcdef", timeout=60)
    for thing in "abcdef":
        fleet.report(thing, P)
    fleet.now += 60
    fleet.do(lambda life: life.due(most=4))
    assert Counter(fleet.all().values()) == {X: 4, P: 2}
    assert fleet.due == fleet.now
    fleet.do(lambda life: life.due(most=4))
    assert Counter(fleet.all().values()) == {X: 6}


def test_a_week_of_a_rollout_takes_no_time() -> None:
    fleet = Fleet(MemoryStore())
    fleet.now = datetime(2026, 11, 23, tzinfo=UTC).timestamp()
    window = Window("cron(0 2 ? * * *)", 3600)
    fleet.create(*(f"t{n}" for n in range(700)), rollout=Rollout(2), timeout=600, schedule=Schedule(windows=(window,)))
    for _ in range(7):
        fleet.wait(86400)
    assert len(fleet.all()) == 700  # 2 a minute in an hour are 120 a night: six nights
    assert fleet.store.run(lambda books: books.waiting("j")) == 0


reports = st.sampled_from([P, S, F, JobStatus.REJECTED])
words = st.one_of(
    st.tuples(st.just("create"), st.sampled_from("jk"), st.sampled_from(["a", "ab", "abc"]), st.integers(1, 3)),
    st.tuples(st.just("report"), st.sampled_from("jk"), st.sampled_from("abc"), reports),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 59.0, 61.0, 700.0]), st.just(""), st.just("")),
    st.tuples(st.just("cancel"), st.sampled_from("jk"), st.booleans(), st.just("")),
    st.tuples(st.just("delete"), st.sampled_from("jk"), st.booleans(), st.just("")),
    st.tuples(st.just("join"), st.sampled_from("abc"), st.just(""), st.just("")),
    st.tuples(st.just("leave"), st.sampled_from("abc"), st.just(""), st.just("")),
    st.tuples(st.just("forget"), st.sampled_from("abc"), st.just(""), st.just("")),
    st.tuples(st.just("drop"), st.sampled_from("jk"), st.sampled_from("abc"), st.integers(1, 2)),
)  # fmt: skip


def play(fleet: Fleet, word: tuple[object, ...]) -> str:
    """Do one thing; the reason why it was refused, or nothing."""
    what, first, second, third = word
    rules = JobRules(
        Rollout(third) if what == "create" and isinstance(third, int) else Rollout(),
        (AbortRule(FailureKind.ALL, 60, 2),), (RetryRule(FailureKind.FAILED, 1),), 600,
    )  # fmt: skip
    deeds: dict[object, Callable[[], object]] = {
        "create": lambda: fleet.do(
            lambda life: life.create(
                Job(str(first), {}, tuple(str(second)), ("g",), rules=rules, continuous=first == "k")
            )
        ),
        "report": lambda: fleet.report(str(second), third, job=str(first)),  # type: ignore[arg-type]
        "wait": lambda: fleet.wait(first),  # type: ignore[arg-type]
        "cancel": lambda: fleet.do(lambda life: life.cancel(str(first), bool(second))),
        "delete": lambda: fleet.do(lambda life: life.delete(str(first), bool(second))),
        "join": lambda: fleet.do(lambda life: life.join("g", str(first))),
        "leave": lambda: fleet.do(lambda life: life.leave("g", str(first))),
        "forget": lambda: fleet.do(lambda life: life.forget_thing(str(first))),
        "drop": lambda: fleet.do(
            lambda life: life.delete_execution(life.found(str(second), str(first), int(str(third))), True)
        ),
    }
    if what == "report":
        current = fleet.store.run(lambda books: books.execution(str(second), str(first)))
        if current is None or current.status.terminal:
            return "nothing to report"
    try:
        deeds[what]()
    except LocalOtaError as error:
        return error.reason
    return ""


def picture(fleet: Fleet) -> object:
    """All that the books say."""
    return fleet.store.run(
        lambda books: (
            books.jobs(), books.next_due(), books.members("g"),
            [(books.targets(j), books.waiting(j), dict(books.counts(j)), books.executions(j)) for j in "jk"],
            [(books.pending(t), sorted(books.executions_of(t), key=str), books.groups_of(t)) for t in "abc"],
            [books.history(t, j) for t in "abc" for j in "jk"],
        )
    )  # fmt: skip


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(words, max_size=25))
def test_dictionaries_and_tables_say_the_same(story: list[tuple[object, ...]]) -> None:
    """Whatever happens, the database has what the memory has; and a job is over when all of it is."""
    from coreota.provider.sqlstore import SqlStore

    with SqlStore("sqlite://") as sql:
        one, other = Fleet(MemoryStore()), Fleet(sql)
        for word in story:
            assert play(one, word) == play(other, word)
            assert picture(one) == picture(other)
        for job in one.store.run(lambda books: books.jobs()):
            counts, waiting = one.store.run(lambda books, name=job.job_id: (books.counts(name), books.waiting(name)))  # type: ignore[misc]
            busy = [status for status in counts if not status.terminal]
            if job.state is JobState.COMPLETED:
                assert not busy
                assert not waiting
            elif job.state is JobState.IN_PROGRESS and not job.continuous:
                assert busy or waiting
            elif job.state is JobState.CANCELED:
                assert not waiting
                assert Q not in counts
