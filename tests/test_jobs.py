"""The messages of Jobs and the Jobs handler: agreement with the C library, and every question answered or given up."""

import json
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreota.check import failure
from coreota.errors import LocalOtaError, RemoteOtaError
from coreota.jobs import (
    SETTABLE,
    STATUS_TRANSITIONS,
    ExecutionState,
    JobDescribed,
    JobExecution,
    JobsEvent,
    JobsHandler,
    JobsListed,
    JobsMatch,
    JobsNotified,
    JobStarted,
    JobStatus,
    JobsTopic,
    JobUpdated,
    NextJobChanged,
    NothingPending,
    RequestRejected,
    RequestUnanswered,
    check_status_details,
    describe,
    describe_msg,
    get_job_doc,
    get_job_id,
    get_pending,
    get_pending_msg,
    get_topic,
    is_job_update_status,
    is_start_next_accepted,
    match_topic,
    parse_execution,
    start_next,
    start_next_msg,
    update,
    update_msg,
)
from coreota.topics import Endpoint, Message, Subscribe

settings.register_profile("coreota", derandomize=True, deadline=None)
settings.load_profile("coreota")

CASES = [
    (number, json.loads(line))
    for number, line in enumerate((Path(__file__).parent / "data/reference_cases.jsonl").read_text().splitlines(), 1)
    if json.loads(line)["call"].startswith("jobs-")
]
API = {api.c_name: api for api in JobsTopic}
# How many arguments a call has before the length of a C buffer.
ARGUMENTS = {
    "jobs-gettopic": 2, "jobs-getpending": 1, "jobs-startnext": 1, "jobs-describe": 2, "jobs-update": 2,
    "jobs-startnext-msg": 1, "jobs-update-msg": 3,
}  # fmt: skip
ESCAPED = '{"execution":{"jobId":"a\\"b","jobDocument":"x\\ny"}}'
TWICE = '{"execution":{"jobId":"a","jobId":"b","jobDocument":{},"jobDocument":{"z":1}}}'
# Where ours differs from the C library on purpose: (call, last argument) -> our answer, with the reason.
DIFFERENT: dict[tuple[str, str], Any] = {
    # $next can be described, not updated (AWS developer guide)
    ("jobs-match", "$aws/things/thingname/jobs/$next/update/accepted"): ["JobsNoMatch", None],
    # statusDetails are names and texts; C takes any JSON value
    ("jobs-update-msg", "[1]"): "",
    ("jobs-update-msg", '"x"'): "",
    # bugs of C: text pasted between quotes
    ("jobs-startnext-msg", 'a"b'): '{"clientToken":"a\\"b"}',
    ("jobs-update-msg", "-"): '{"status":"QUEUED","expectedVersion":"1\\",\\"x\\":\\"y"}',
    # a number is no job id
    ("jobs-getid", '{"execution":{"jobId":12,"jobDocument":[1]}}'): None,
    # of a member given twice, C takes the first, others the last: the message is refused
    ("jobs-getid", TWICE): None,
    ("jobs-getdoc", TWICE): None,
    # C gives the text still escaped; a"b is no job id
    ("jobs-getid", ESCAPED): None,
    ("jobs-getdoc", ESCAPED): "x\ny",
}


def without_buffer(case: dict[str, Any]) -> dict[str, Any] | None:
    """The case without the length of its C buffer; None where that buffer was too short."""
    count = ARGUMENTS.get(case["call"], len(case["args"]))
    if len(case["args"]) == count:
        return case
    if case["out"].get("status") == "JobsBufferTooSmall" or case["out"]["length"] == 0:
        return None
    return case | {"args": case["args"][:count]}


def topic_answer(call: str, thing: str, *rest: str) -> Any:
    """A topic, or the word for an argument that is no good."""
    functions: dict[str, Any] = {
        "jobs-gettopic": lambda name: get_topic(thing, API[name]),
        "jobs-getpending": lambda: get_pending(thing),
        "jobs-startnext": lambda: start_next(thing),
        "jobs-describe": lambda job_id: describe(thing, job_id),
        "jobs-update": lambda job_id: update(thing, job_id),
    }
    try:
        return functions[call](*rest)
    except (LocalOtaError, KeyError):
        return "JobsBadParameter"


def match_answer(thing: str, topic: str | None) -> list[str | None]:
    """What a topic is, in the words of C."""
    try:
        match = match_topic(thing, cast(str, topic))
    except (LocalOtaError, AttributeError):
        return ["JobsBadParameter", None]
    return ["JobsNoMatch", None] if match is None else [match.api.c_name, match.job_id]


def message_answer(call: str, first: str, version: str = "-", details: str = "-") -> str:
    """A payload, or the empty text for an argument that is no good."""
    try:
        if call == "jobs-startnext-msg":
            return start_next_msg(first).decode()
        try:
            status_details = None if details == "-" else json.loads(details)
        except ValueError:
            status_details = details
        expected = None if version == "-" else version
        return update_msg(JobStatus(first), expected_version=expected, status_details=status_details).decode()
    except LocalOtaError:
        return ""


def ours(call: str, arguments: list[str | None]) -> Any:
    """What ours answers, and in the next function what C answered, in the same words."""
    args = cast(list[str], arguments)
    if call == "jobs-match":
        return match_answer(args[0], args[1])
    if call == "jobs-is-startnext-accepted":
        return is_start_next_accepted(args[0], args[1])
    if call == "jobs-is-update-status":
        return is_job_update_status(args[0], args[1], cast(Any, args[2]), args[3])
    if call.endswith("-msg"):
        return message_answer(call, *args)
    if call == "jobs-getid":
        return get_job_id(args[0].encode())
    if call == "jobs-getdoc":
        return get_job_doc(args[0].encode())
    return topic_answer(call, *args)


def theirs(call: str, out: dict[str, Any]) -> Any:
    if call == "jobs-match":
        return [out["status"] if out["status"] != "JobsSuccess" else out["api"], out["jobId"]]
    if call.startswith("jobs-is-"):
        return out["match"]
    if call.endswith("-msg"):
        return out["message"]
    if call == "jobs-getdoc" and out["value"] is not None and out["value"][:1] in "{[":
        return json.loads(out["value"])
    if call.startswith("jobs-getid") or call == "jobs-getdoc":
        return out["value"]
    return out["topic"] if out["status"] == "JobsSuccess" else out["status"]


def test_all_cases_are_here() -> None:
    assert len(CASES) == 94
    assert sum(without_buffer(case) is None for _, case in CASES) == 5
    different = [case for _, case in CASES if case["kind"] != "must" and (case["call"], case["args"][-1]) in DIFFERENT]
    assert len(different) == len(DIFFERENT)


@pytest.mark.parametrize(("number", "case"), CASES, ids=[f"{number}-{case['call']}" for number, case in CASES])
def test_reference(number: int, case: dict[str, Any]) -> None:
    whole = without_buffer(case)
    if whole is None:
        assert case["kind"] in ("quirk", "must")  # how C truncates: Python has no such buffer
        return
    call = case["call"]
    arguments = [None if argument == "@null" else argument for argument in whole["args"]]
    answer, expected = ours(call, arguments), theirs(call, case["out"])
    if case["kind"] != "must":
        expected = DIFFERENT.get((call, case["args"][-1]), expected)
    assert answer == expected


# Messages


def test_the_c_librarys_own_examples() -> None:
    assert start_next_msg("TOKEN") == b'{"clientToken":"TOKEN"}'
    assert update_msg(JobStatus.QUEUED) == b'{"status":"QUEUED"}'
    details = {"key": "value"}
    assert update_msg(JobStatus.QUEUED, expected_version="1.0.1", status_details=details) == (
        b'{"status":"QUEUED","expectedVersion":"1.0.1","statusDetails":{"key": "value"}}'
    )


def test_what_the_c_library_cannot_say() -> None:
    message = update_msg(
        JobStatus.IN_PROGRESS, expected_version=3, execution_number=1, include_execution_state=True,
        include_document=True, step_timeout_minutes=60, client_token="t",
    )  # fmt: skip
    assert json.loads(message) == {
        "status": "IN_PROGRESS", "expectedVersion": "3", "executionNumber": 1, "includeJobExecutionState": True,
        "includeJobDocument": True, "stepTimeoutInMinutes": 60, "clientToken": "t",
    }  # fmt: skip
    without = describe_msg(execution_number=2, include_document=False)
    assert without == b'{"executionNumber":2,"includeJobDocument":false}'
    assert (describe_msg(), get_pending_msg(), get_pending_msg("é")) == (b"{}", b"{}", '{"clientToken":"é"}'.encode())
    assert json.loads(start_next_msg("t", step_timeout_minutes=-1, status_details={"a": "é"})) == {
        "clientToken": "t", "stepTimeoutInMinutes": -1, "statusDetails": {"a": "é"},
    }  # fmt: skip


@pytest.mark.parametrize("token", ["t" * 65, "é" * 33, "a\nb", "\0", "\ud800"])
def test_tokens_that_are_refused(token: str) -> None:
    for message in (start_next_msg, get_pending_msg, describe_msg):
        error = failure(lambda message=message: message(token))  # type: ignore[misc]
        assert isinstance(error, LocalOtaError)
        assert error.reason == "token-invalid"
    assert len(json.loads(start_next_msg("é" * 32))["clientToken"].encode()) == 64


@pytest.mark.parametrize("minutes", [0, -2, 10081])
def test_step_timeouts_that_are_refused(minutes: int) -> None:
    assert type(failure(lambda: start_next_msg("t", step_timeout_minutes=minutes))) is LocalOtaError


@pytest.mark.parametrize(
    "details",
    [
        {"": "x"}, {"k" * 129: "x"}, {"a b": "x"}, {"é": "x"}, {"k": ""}, {"k": "v" * 1025}, {"k": "a\nb"},
        {"k": "\x7f"}, {"k": "\x85"}, {"k": "\ud800"}, {"k": 5}, {5: "x"}, ["k"], "k", None,
    ],
)  # fmt: skip
def test_status_details_that_are_refused(details: Any) -> None:
    error = failure(lambda: check_status_details(details))
    assert isinstance(error, LocalOtaError)
    assert error.reason == "details-invalid"


def test_status_details_that_are_taken() -> None:
    details = {"k" * 128: "v" * 1024, "self_test": "active", "a:b-c": "ü 漢 😀"}
    assert check_status_details(details) == details


PRINTABLE = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=16)


@given(PRINTABLE, st.dictionaries(st.from_regex(r"[a-zA-Z0-9:_-]{1,9}", fullmatch=True), PRINTABLE), PRINTABLE)
def test_what_is_said_is_what_is_read(token: str, details: dict[str, str], version: str) -> None:
    message = update_msg(JobStatus.FAILED, expected_version=version, status_details=details, client_token=token)
    assert json.loads(message) == {
        "status": "FAILED", "expectedVersion": version, "statusDetails": details, "clientToken": token,
    }  # fmt: skip


def test_topics_and_matching_are_inverse() -> None:
    for api in JobsTopic:
        topic = get_topic("t:1", api)
        about = "+" in topic
        assert match_topic("t:1", topic.replace("+", "j-1")) == JobsMatch(api, "j-1" if about else None)
        assert (match_topic("t:1", topic) is None) is about
        assert match_topic("t:2", topic.replace("+", "j-1")) is None
        assert match_topic("t:1", topic.replace("+", "j-1") + "\n") is None
    for job_id in ("$next/update/accepted", "$next2/get/accepted", "x" * 65 + "/get/accepted", "a/b/get/accepted"):
        assert match_topic("t:1", f"$aws/things/t:1/jobs/{job_id}") is None


@given(st.text())
def test_matching_anything(topic: str) -> None:
    assert match_topic("t", topic) is None
    match = match_topic("t", f"$aws/things/t/jobs/{topic}/get/accepted")
    assert match is None or match == JobsMatch(JobsTopic.DESCRIBE_SUCCESS, topic)


# Executions

TOLD: dict[str, Any] = {
    "jobId": "j-1", "status": "IN_PROGRESS", "statusDetails": {"a": "b"}, "jobDocument": {"blink": 3},
    "versionNumber": 2, "executionNumber": 1, "queuedAt": 1700000000, "startedAt": 1700000001.5,
    "lastUpdatedAt": 1700000002000,
    "thingName": "pump-7", "approximateSecondsBeforeTimedOut": 60,
}  # fmt: skip


def test_a_whole_execution() -> None:
    assert parse_execution(TOLD) == JobExecution(
        "j-1", JobStatus.IN_PROGRESS, {"blink": 3}, {"a": "b"}, 2, 1, 1700000000.0, 1700000001.5, 1700000002.0
    )


def test_the_least_execution() -> None:
    least = {"jobId": "j-1", "status": "QUEUED", "versionNumber": 1}
    assert parse_execution(least) == JobExecution("j-1", JobStatus.QUEUED)
    nothing = dict.fromkeys(["statusDetails", "jobDocument", "executionNumber", "queuedAt", "startedAt"])
    assert parse_execution(least | nothing) == JobExecution("j-1", JobStatus.QUEUED)
    assert parse_execution(least | {"jobDocument": '{"blink": 3}'}).document == {"blink": 3}


@pytest.mark.parametrize(
    ("member", "values"),
    [
        ("jobId", [None, "", "a:b", "x" * 65, 5, ["a"], {}]),
        ("status", [None, "", "DONE", "queued", 1, ["QUEUED"], {}]),
        ("statusDetails", [[], "x", {"a": 1}, {"a": None}, 0]),
        ("jobDocument", [[], 5, True]),
        ("versionNumber", [None, -1, 1.0, True, "1", 2**63]),
        ("executionNumber", [-1, 1.0, False, "1"]),
        ("queuedAt", [-1, True, "1", 1e14, float("inf"), float("nan"), []]),
        ("startedAt", [-0.5]),
        ("lastUpdatedAt", ["now"]),
    ],
)
def test_a_wrong_member_is_named(member: str, values: list[Any]) -> None:
    for value in values:
        error = failure(lambda value=value: parse_execution(TOLD | {member: value}))  # type: ignore[misc]
        assert type(error) is RemoteOtaError, value
        assert member in str(error)


def test_statuses() -> None:
    assert {status for status in JobStatus if not status.terminal} == {JobStatus.QUEUED, JobStatus.IN_PROGRESS}
    assert set(SETTABLE) == {JobStatus.IN_PROGRESS, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.REJECTED}
    assert {target for _, _, target in STATUS_TRANSITIONS} == set(JobStatus) - {JobStatus.QUEUED}


# The handler

PREFIX = "$aws/things/pump-7/jobs"


def reply(message: Message, verdict: str = "accepted", /, **members: Any) -> Message:
    """An answer to a request, with its token."""
    token = json.loads(message.payload)["clientToken"]
    return Message(f"{message.topic}/{verdict}", json.dumps({"clientToken": token, "timestamp": 1, **members}).encode())


def published(handler: JobsHandler, now: float) -> list[Message]:
    return [item for item in handler.messages_to_send(now) if isinstance(item, Message)]


def asked(handler: JobsHandler, now: float = 0.0) -> Message:
    """The one message the handler has to send."""
    (message,) = published(handler, now)
    return message


def events(handler: JobsHandler) -> list[JobsEvent]:
    return list(iter(handler.next_event, None))


def test_it_is_an_endpoint() -> None:
    assert isinstance(JobsHandler("pump-7"), Endpoint)


def test_subscriptions_come_first() -> None:
    handler = JobsHandler("pump-7")
    handler.subscribe()
    handler.start_next(0.0)
    outgoing = handler.messages_to_send(0.0)
    assert outgoing[:-1] == [
        Subscribe(f"{PREFIX}/{levels}")
        for levels in ("notify-next", "notify", "start-next/+", "get/+", "+/get/+", "+/update/+")
    ]
    assert outgoing[-1] == Message(f"{PREFIX}/start-next", b'{"clientToken":"1"}')
    assert handler.messages_to_send(0.0) == []


def test_start_next() -> None:
    handler = JobsHandler("pump-7", token_prefix="b3-")
    assert handler.start_next(0.0, status_details={"a": "b"}, step_timeout_minutes=5) == "b3-1"
    question = asked(handler)
    assert json.loads(question.payload) == {
        "clientToken": "b3-1", "statusDetails": {"a": "b"}, "stepTimeoutInMinutes": 5,
    }  # fmt: skip
    handler.receive(reply(question, execution=TOLD), 0.1)
    assert events(handler) == [JobStarted(parse_execution(TOLD), "b3-1")]
    assert handler.get_timer() is None
    nothings: list[dict[str, Any]] = [{}, {"execution": None}, {"execution": {}}]
    for nothing in nothings:
        token = handler.start_next(1.0)
        handler.receive(reply(asked(handler), **nothing), 1.1)
        assert events(handler) == [NothingPending(token)]


def test_describe() -> None:
    handler = JobsHandler("pump-7")
    handler.describe(0.0)
    question = asked(handler)
    assert question == Message(f"{PREFIX}/$next/get", b'{"clientToken":"1"}')
    handler.receive(reply(question), 0.1)
    handler.describe(0.0, "j-1", include_document=False, execution_number=1)
    question = asked(handler)
    assert question.topic == f"{PREFIX}/j-1/get"
    handler.receive(Message(f"{PREFIX}/j-2/get/accepted", reply(question).payload), 0.1)
    assert handler.last_ignored == "the answer is about j-2, not j-1"
    handler.receive(reply(question, execution=TOLD), 0.1)
    assert events(handler) == [JobDescribed(None, "1"), JobDescribed(parse_execution(TOLD), "2")]


def test_next_may_be_answered_under_its_own_name() -> None:
    handler = JobsHandler("pump-7")
    handler.describe(0.0)
    handler.receive(Message(f"{PREFIX}/j-1/get/accepted", reply(asked(handler), execution=TOLD).payload), 0.1)
    assert events(handler) == [JobDescribed(parse_execution(TOLD), "1")]


def test_get_pending() -> None:
    handler = JobsHandler("pump-7")
    handler.get_pending(0.0)
    entries = {"inProgressJobs": [{"jobId": "a", "versionNumber": 1}], "queuedJobs": [{"jobId": "b"}, {"jobId": "c"}]}
    handler.receive(reply(asked(handler), **entries), 0.1)
    assert events(handler) == [JobsListed(("a",), ("b", "c"), "1")]


def test_update() -> None:
    handler = JobsHandler("pump-7")
    handler.update(0.0, "j-1", JobStatus.IN_PROGRESS, expected_version=2, include_execution_state=True)
    question = asked(handler)
    assert question == Message(
        f"{PREFIX}/j-1/update",
        b'{"status":"IN_PROGRESS","expectedVersion":"2","includeJobExecutionState":true,"clientToken":"1"}',
    )
    state = {"status": "IN_PROGRESS", "statusDetails": {"a": "b"}, "versionNumber": 3}
    handler.receive(reply(question, executionState=state, jobDocument={"blink": 3}), 0.1)
    after = ExecutionState(JobStatus.IN_PROGRESS, {"a": "b"}, 3)
    assert events(handler) == [JobUpdated("j-1", JobStatus.IN_PROGRESS, "1", after, {"blink": 3})]


@pytest.mark.parametrize("status", [s for s in JobStatus if s not in SETTABLE])
def test_what_a_device_cannot_set(status: JobStatus) -> None:
    handler = JobsHandler("pump-7")
    assert type(failure(lambda: handler.update(0.0, "j-1", status))) is LocalOtaError
    assert handler.messages_to_send(0.0) == []


def test_wrong_arguments_leave_no_trace() -> None:
    handler = JobsHandler("pump-7")
    for call in (
        lambda: handler.update(0.0, "j:1", JobStatus.FAILED),
        lambda: handler.update(0.0, "j-1", JobStatus.FAILED, status_details={"a": "\n"}),
        lambda: handler.describe(0.0, "a/b"),
        lambda: handler.start_next(0.0, step_timeout_minutes=0),
    ):
        assert type(failure(call)) is LocalOtaError
    assert (handler.messages_to_send(0.0), handler.get_timer()) == ([], None)


def test_wrong_configuration() -> None:
    for call in (
        lambda: JobsHandler("a/b"),
        lambda: JobsHandler("t", request_timeout=0),
        lambda: JobsHandler("t", request_timeout=float("nan")),
        lambda: JobsHandler("t", max_attempts=0),
        lambda: JobsHandler("t", token_prefix="x" * 60),
    ):
        assert type(failure(call)) is LocalOtaError


def test_notifications() -> None:
    handler = JobsHandler("pump-7")
    jobs = {"IN_PROGRESS": [{"jobId": "a"}], "QUEUED": [{"jobId": "b"}]}
    for levels, members in (
        ("notify", {"timestamp": 1, "jobs": jobs}),
        ("notify", {"timestamp": 1, "jobs": {}}),
        ("notify-next", {"timestamp": 1, "execution": TOLD}),
        ("notify-next", {"timestamp": 1}),
    ):
        handler.receive(Message(f"{PREFIX}/{levels}", json.dumps(members).encode()), 0.0)
    assert events(handler) == [
        JobsNotified(("a",), ("b",)), JobsNotified((), ()), NextJobChanged(parse_execution(TOLD)), NextJobChanged(None),
    ]  # fmt: skip
    assert handler.ignored == 0


def test_a_refusal() -> None:
    handler = JobsHandler("pump-7")
    handler.update(0.0, "j-1", JobStatus.SUCCEEDED, expected_version=2)
    state = {"status": "CANCELED", "versionNumber": 4}
    handler.receive(reply(asked(handler), "rejected", code="VersionMismatch", message="no", executionState=state), 0.1)
    found = ExecutionState(JobStatus.CANCELED, {}, 4)
    assert events(handler) == [RequestRejected("update", "j-1", "VersionMismatch", "no", "1", found)]
    assert handler.get_timer() is None


def test_a_refusal_with_a_state_that_makes_no_sense_is_still_one() -> None:
    handler = JobsHandler("pump-7")
    handler.update(0.0, "j-1", JobStatus.SUCCEEDED)
    handler.receive(reply(asked(handler), "rejected", code="InvalidRequest", executionState={"status": 5}), 0.1)
    assert events(handler) == [RequestRejected("update", "j-1", "InvalidRequest", "", "1", None)]


# Timers


def test_attempts_at_exact_times() -> None:
    handler = JobsHandler("pump-7", request_timeout=10.0, max_attempts=5)
    handler.start_next(3.0)
    assert handler.get_timer() is None  # not sent yet
    sent = []
    now = 4.0
    while message := published(handler, now):
        sent.append((now, message))
        timer = handler.get_timer()
        assert timer is not None
        handler.handle_timer(timer - 0.001)
        assert published(handler, timer - 0.001) == []
        now = timer
        handler.handle_timer(now)
    times = [4.0, 14.0, 34.0, 74.0, 154.0]
    assert sent == [(time, [Message(f"{PREFIX}/start-next", b'{"clientToken":"1"}')]) for time in times]
    assert now == 4.0 + 310.0
    assert events(handler) == [RequestUnanswered("start-next", None, "1", 5)]
    assert handler.get_timer() is None


def test_the_wait_stops_doubling() -> None:
    handler = JobsHandler("pump-7", request_timeout=100.0, max_attempts=6)
    handler.start_next(0.0)
    now, times = 0.0, []
    while published(handler, now):
        times.append(now)
        now = handler.get_timer() or 0.0
        handler.handle_timer(now)
    assert [*times, now] == [0.0, 100.0, 300.0, 600.0, 900.0, 1200.0, 1500.0]


def test_each_request_has_its_own_clock() -> None:
    handler = JobsHandler("pump-7", request_timeout=10.0)
    handler.start_next(0.0)
    first = asked(handler, 0.0)
    handler.get_pending(4.0)
    second = asked(handler, 4.0)
    assert handler.get_timer() == 10.0
    handler.receive(reply(first), 9.0)
    assert handler.get_timer() == 14.0
    handler.handle_timer(14.0)
    assert asked(handler, 14.0) == second


def test_a_late_alarm_does_not_flood() -> None:
    handler = JobsHandler("pump-7")
    handler.start_next(0.0)
    asked(handler, 0.0)
    handler.handle_timer(1000.0)
    assert len(published(handler, 1000.0)) == 1
    assert handler.get_timer() == 1020.0


def test_an_alarm_heard_twice_asks_once() -> None:
    handler = JobsHandler("pump-7")
    handler.start_next(0.0)
    asked(handler, 0.0)
    handler.handle_timer(10.0)
    assert handler.get_timer() is None  # it waits to be sent
    handler.handle_timer(10.0)
    assert len(published(handler, 11.0)) == 1
    assert handler.get_timer() == 31.0


def test_throttled_requests_are_asked_again_in_time() -> None:
    handler = JobsHandler("pump-7", max_attempts=2)
    handler.start_next(0.0)
    question = asked(handler, 0.0)
    handler.receive(reply(question, "rejected", code="RequestThrottled", message="slow down"), 0.1)
    assert (events(handler), handler.get_timer()) == ([], 10.0)
    handler.handle_timer(10.0)
    assert asked(handler, 10.0) == question
    handler.receive(reply(question, "rejected", code="RequestThrottled", message="slow down"), 10.1)
    assert events(handler) == [RequestRejected("start-next", None, "RequestThrottled", "slow down", "1", None)]
    assert handler.get_timer() is None


def test_a_report_is_superseded_by_the_next() -> None:
    handler = JobsHandler("pump-7")
    handler.update(0.0, "j-1", JobStatus.IN_PROGRESS, status_details={"receive": "64/245"})
    handler.update(0.0, "j-2", JobStatus.IN_PROGRESS)
    handler.start_next(0.0)
    assert len(published(handler, 0.0)) == 3
    handler.update(1.0, "j-1", JobStatus.IN_PROGRESS, status_details={"receive": "128/245"})
    newest = asked(handler, 1.0)
    handler.handle_timer(11.0)
    assert [message.topic.removeprefix(PREFIX) for message in published(handler, 11.0)] == [
        "/j-2/update", "/start-next", "/j-1/update",
    ]  # fmt: skip
    assert events(handler) == [RequestUnanswered("update", "j-1", "1", 1)]
    handler.receive(reply(newest), 12.0)
    assert events(handler) == [JobUpdated("j-1", JobStatus.IN_PROGRESS, "4")]


def test_a_superseded_report_may_still_be_answered() -> None:
    handler = JobsHandler("pump-7")
    handler.update(0.0, "j-1", JobStatus.IN_PROGRESS)
    first = asked(handler, 0.0)
    handler.update(1.0, "j-1", JobStatus.SUCCEEDED)
    second = asked(handler, 1.0)
    handler.receive(reply(first), 2.0)
    handler.receive(reply(second), 2.0)
    assert events(handler) == [
        JobUpdated("j-1", JobStatus.IN_PROGRESS, "1"),
        JobUpdated("j-1", JobStatus.SUCCEEDED, "2"),
    ]


@pytest.mark.parametrize(
    ("attempts", "status", "found", "done"),
    [
        (2, JobStatus.SUCCEEDED, "SUCCEEDED", True),
        (1, JobStatus.SUCCEEDED, "SUCCEEDED", False),
        (2, JobStatus.FAILED, "CANCELED", False),
        (2, JobStatus.IN_PROGRESS, "IN_PROGRESS", False),
    ],
)
def test_a_lost_answer_is_no_failure(attempts: int, status: JobStatus, found: str, done: bool) -> None:
    handler = JobsHandler("pump-7")
    handler.update(0.0, "j-1", status)
    question = asked(handler, 0.0)
    for number in range(1, attempts):
        handler.handle_timer(10.0 * number)
        asked(handler, 10.0 * number)
    state = {"status": found, "versionNumber": 3}
    handler.receive(reply(question, "rejected", code="InvalidStateTransition", executionState=state), 99.0)
    (event,) = events(handler)
    assert isinstance(event, JobUpdated) is done
    assert isinstance(event, RequestRejected) is not done


def test_cancelled_requests_are_forgotten() -> None:
    handler = JobsHandler("pump-7")
    handler.start_next(0.0)
    question = asked(handler, 0.0)
    handler.subscribe()
    handler.get_pending(1.0)
    handler.cancel_requests()
    assert handler.get_timer() is None
    assert all(isinstance(item, Subscribe) for item in handler.messages_to_send(1.0))
    handler.receive(reply(question, execution=TOLD), 1.1)
    assert (events(handler), handler.ignored) == ([], 1)
    assert handler.start_next(2.0) == "3"  # no token is used twice


# What peers may do


def test_answers_find_their_question_only() -> None:
    handler = JobsHandler("pump-7")
    handler.start_next(0.0)
    question = asked(handler)
    right = reply(question, execution=TOLD)
    members = json.loads(right.payload)
    for ignored, wrong in enumerate(
        (
            Message(right.topic, json.dumps(members | {"clientToken": "2"}).encode()),
            Message(right.topic, json.dumps(members | {"clientToken": 1}).encode()),
            Message(right.topic, json.dumps(members | {"clientToken": None}).encode()),
            Message(f"{PREFIX}/get/accepted", right.payload),
            Message(f"{PREFIX}/get/rejected", json.dumps(members | {"code": "InvalidRequest"}).encode()),
            Message(f"{PREFIX}/j-1/update/accepted", right.payload),
            Message(right.topic.replace("pump-7", "pump-70"), right.payload),
            Message(right.topic, json.dumps(members | {"execution": [1]}).encode()),
            Message(f"{PREFIX}/start-next/rejected", right.payload),
            question,
        ),
        1,
    ):
        handler.receive(wrong, 0.1)
        assert handler.ignored == ignored
    assert events(handler) == []
    assert handler.get_timer() == 10.0
    handler.receive(right, 0.2)
    handler.receive(right, 0.3)
    assert events(handler) == [JobStarted(parse_execution(TOLD), "1")]


def test_an_answer_before_the_question_is_none() -> None:
    handler = JobsHandler("pump-7")
    handler.start_next(0.0)
    handler.receive(Message(f"{PREFIX}/start-next/accepted", b'{"clientToken":"1"}'), 0.0)
    assert (events(handler), handler.ignored) == ([], 1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["j-1", "QUEUED"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*TOLD, "execution", "QUEUED", "IN_PROGRESS"]), inner, max_size=5)
    ),
    max_leaves=15,
)
MEMBERS = st.dictionaries(
    st.sampled_from(
        ["execution", "executionState", "jobDocument", "jobs", "inProgressJobs", "queuedJobs", "code", "message"]
    ),
    JSON,
    max_size=6,
)
TOPICS = st.sampled_from([get_topic("pump-7", api).replace("+", "j-1") for api in JobsTopic] + ["", "x"])


def busy_handler() -> JobsHandler:
    """One with every kind of question open: tokens 1 to 4."""
    handler = JobsHandler("pump-7")
    handler.start_next(0.0)
    handler.get_pending(0.0)
    handler.describe(0.0, "j-1")
    handler.update(0.0, "j-1", JobStatus.IN_PROGRESS)
    handler.messages_to_send(0.0)
    return handler


@given(TOPICS | st.text(), st.binary())
def test_arbitrary_bytes_never_raise(topic: str, payload: bytes) -> None:
    handler = busy_handler()
    handler.receive(Message(topic, payload), 0.1)
    assert handler.ignored + len(events(handler)) == 1


@given(st.lists(st.tuples(TOPICS, st.sampled_from(["1", "2", "3", "4", "5", None]), MEMBERS), max_size=6))
def test_arbitrary_answers_never_raise(answers: list[tuple[str, str | None, dict[str, Any]]]) -> None:
    handler = busy_handler()
    for topic, token, members in answers:
        payload = json.dumps(members | {"clientToken": token}).encode()
        handler.receive(Message(topic, payload), 0.1)
    told = [event for event in events(handler) if not isinstance(event, JobsNotified | NextJobChanged)]
    tokens = [event.token for event in told]
    assert len(set(tokens)) == len(tokens)
    assert set(tokens) <= {"1", "2", "3", "4"}


@given(
    st.lists(st.sampled_from(["start-next", "get", "describe"]), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.floats(0, 30), st.sampled_from(["accepted", "rejected"])), max_size=12),
    st.integers(1, 4),
)
def test_every_question_ends_in_one_event(
    asks: list[str], answers: list[tuple[int, float, str]], attempts: int
) -> None:
    handler = JobsHandler("pump-7", request_timeout=7.0, max_attempts=attempts)
    ask = {"start-next": handler.start_next, "get": handler.get_pending, "describe": handler.describe}
    tokens = [ask[name](0.0) for name in asks]
    questions = published(handler, 0.0)
    pending = sorted(((when, which % len(tokens), verdict) for which, when, verdict in answers), key=lambda a: a[0])
    copies = len(questions)
    while (timer := handler.get_timer()) is not None:
        while pending and pending[0][0] <= timer:
            when, which, verdict = pending.pop(0)
            handler.receive(reply(questions[which], verdict, code="ResourceNotFound"), when)
        if handler.get_timer() == timer:
            handler.handle_timer(timer)
            copies += len(published(handler, timer))
    ends = [event.token for event in events(handler) if not isinstance(event, JobsNotified | NextJobChanged)]
    assert sorted(ends) == sorted(tokens)
    assert copies <= attempts * len(tokens)
