"""The provider's jobs, asked by hand over every API, by the C library's messages, and by noise."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreota.errors import LocalOtaError
from coreota.jobs import (
    STATUS_TRANSITIONS,
    JobStatus,
    get_job_doc,
    get_job_id,
    parse_execution,
    start_next_msg,
    update_msg,
)
from coreota.provider.books import KEPT, Execution, JobState, StatusChange
from coreota.provider.jobs import JobsService
from coreota.provider.lifecycle import ExecutionChanged, JobChanged
from coreota.provider.requests import REQUEST_FILTERS
from coreota.topics import Message, Subscribe, topic_matches

ROOT = "$aws/things/lamp/jobs/"


class Bench:
    """A service with a clock that stands where it is put."""

    def __init__(self, *jobs: str) -> None:
        self.service, self.now = JobsService(), 1000.0
        for job_id in jobs:
            self.service.create_job(job_id, {"work": job_id}, ["lamp"], now=self.now)
            self.now += 10
        self.said()

    def said(self, thing: str = "lamp") -> list[tuple[str, dict[str, Any]]]:
        out = []
        for message in self.service.messages_to_send(self.now):
            assert isinstance(message, Message)
            assert message.topic.startswith(f"$aws/things/{thing}/jobs/")
            out.append((message.topic.split("/jobs/", 1)[1], json.loads(message.payload)))
        return out

    def raw(self, rest: str, payload: bytes, thing: str = "lamp") -> list[tuple[str, dict[str, Any]]]:
        self.service.receive(Message(f"$aws/things/{thing}/jobs/{rest}", payload), self.now)
        return self.said(thing)

    def ask(self, rest: str, **members: Any) -> list[tuple[str, dict[str, Any]]]:
        return self.raw(rest, json.dumps(members).encode())

    def one(self, rest: str, **members: Any) -> dict[str, Any]:
        """The reply where nothing else is said; its topic must be the request's."""
        ((topic, body),) = self.ask(rest, **members)
        assert topic in (f"{rest}/accepted", f"{rest}/rejected")
        assert (topic == f"{rest}/rejected") == ("code" in body)
        return body


def test_connected_subscribes_to_all_requests_and_no_reply() -> None:
    bench = Bench("a")
    bench.service.create_job("b", {}, ["lamp"], now=bench.now)
    bench.service.connected(0)
    sent = bench.service.messages_to_send(0)
    assert sent[:4] == [Subscribe(one) for one in REQUEST_FILTERS]
    assert [type(one) for one in sent[4:]] == [Message]
    requests = ["get", "start-next", "j/get", "$next/get", "j/update", "get/get", "start-next/update"]
    for request in requests:
        assert sum(topic_matches(one, ROOT + request) for one in REQUEST_FILTERS) == 1
        for verdict in ("accepted", "rejected"):
            assert not any(topic_matches(one, f"{ROOT}{request}/{verdict}") for one in REQUEST_FILTERS)


def test_whole_life_on_the_wire() -> None:
    bench = Bench()
    bench.service.create_job("j", {"n": {"x": None, "y": 1}, "gone": None}, ["lamp"], now=1000.9)
    queued = {"jobId": "j", "queuedAt": 1000, "lastUpdatedAt": 1000, "executionNumber": 1, "versionNumber": 1}
    document = {"jobDocument": {"n": {"y": 1}}}
    assert bench.said() == [
        ("notify", {"timestamp": 1000, "jobs": {"QUEUED": [queued]}}),
        ("notify-next", {"timestamp": 1000, "execution": {**queued, "status": "QUEUED", **document}}),
    ]
    bench.now = 1010.5
    started = queued | {"startedAt": 1010, "lastUpdatedAt": 1010, "versionNumber": 2}
    execution = {**started, "status": "IN_PROGRESS", **document}
    assert bench.ask("start-next", clientToken="t") == [
        ("start-next/accepted", {"timestamp": 1010, "execution": execution, "clientToken": "t"})
    ]
    bench.now = 1020.0
    assert bench.ask("get", clientToken="g") == [
        ("get/accepted", {"timestamp": 1020, "inProgressJobs": [started], "queuedJobs": [], "clientToken": "g"})
    ]
    assert bench.ask("j/update", status="IN_PROGRESS", statusDetails={"a": "1", "b": "2"}) == [
        ("j/update/accepted", {"timestamp": 1020})
    ]
    assert bench.ask("j/update", status="IN_PROGRESS", includeJobExecutionState=True, includeJobDocument=True) == [
        (
            "j/update/accepted",
            {
                "timestamp": 1020,
                "executionState": {
                    "status": "IN_PROGRESS",
                    "statusDetails": {"a": "1", "b": "2"},
                    "versionNumber": 4,
                },
                **document,
            },
        )
    ]
    assert bench.ask("j/update", status="SUCCEEDED", statusDetails={"c": "3"}, clientToken="u") == [
        ("j/update/accepted", {"timestamp": 1020, "clientToken": "u"}),
        ("notify", {"timestamp": 1020, "jobs": {}}),
        ("notify-next", {"timestamp": 1020}),
    ]
    assert bench.ask("start-next") == [("start-next/accepted", {"timestamp": 1020})]
    assert bench.service.history("j", "lamp") == (
        StatusChange(1000.9, JobStatus.QUEUED, {}, 1),
        StatusChange(1010.5, JobStatus.IN_PROGRESS, {}, 2),
        StatusChange(1020.0, JobStatus.IN_PROGRESS, {"a": "1", "b": "2"}, 3),
        StatusChange(1020.0, JobStatus.IN_PROGRESS, {"a": "1", "b": "2"}, 4),
        StatusChange(1020.0, JobStatus.SUCCEEDED, {"c": "3"}, 5),
    )
    events = []
    while event := bench.service.next_event():
        events.append(event)
    assert events[0] == ExecutionChanged("j", "lamp", JobStatus.QUEUED, {}, 1)
    assert events[-1] == JobChanged("j", JobState.COMPLETED)
    assert [event.version for event in events if isinstance(event, ExecutionChanged)] == [1, 2, 3, 4, 5]


def test_resume_changes_nothing() -> None:
    bench = Bench("a", "b")
    first = bench.one("start-next")["execution"]
    bench.ask("a/update", status="IN_PROGRESS", statusDetails={"at": "7"})
    bench.now += 100
    again = bench.one("start-next", statusDetails={"other": "1"})["execution"]
    assert again == first | {"versionNumber": 3, "statusDetails": {"at": "7"}, "lastUpdatedAt": again["lastUpdatedAt"]}
    assert again["lastUpdatedAt"] == bench.now - 100
    assert len(bench.service.history("a", "lamp")) == 3


def test_start_next_takes_details() -> None:
    bench = Bench("a")
    assert bench.one("start-next", statusDetails={"boot": "1"})["execution"]["statusDetails"] == {"boot": "1"}


def test_our_own_device_side_reads_it() -> None:
    bench = Bench("a")
    bench.service.receive(Message(ROOT + "start-next", start_next_msg("tok")), bench.now)
    (message,) = bench.service.messages_to_send(bench.now)
    assert isinstance(message, Message)
    assert get_job_id(message.payload) == "a"
    assert get_job_doc(message.payload) == {"work": "a"}
    execution = parse_execution(json.loads(message.payload)["execution"])
    assert (execution.status, execution.version_number, execution.execution_number) == (JobStatus.IN_PROGRESS, 2, 1)
    assert (execution.queued_at, execution.started_at) == (1000.0, 1010.0)


def test_messages_of_the_c_library() -> None:
    bench = Bench("a")
    assert "execution" in bench.raw("start-next", b'{"clientToken":"TOKEN"}')[0][1]
    assert bench.raw("a/update", b'{"status":"QUEUED"}')[0][1]["code"] == "InvalidStateTransition"
    mismatch = bench.raw("a/update", b'{"status":"IN_PROGRESS","expectedVersion":"999"}')[0][1]
    assert (mismatch["code"], mismatch["executionState"]["versionNumber"]) == ("VersionMismatch", 2)
    nonsense = b'{"status":"QUEUED","expectedVersion":"1.0.1","statusDetails":{"key": "value"}}'
    assert bench.raw("a/update", nonsense)[0][1]["code"] == "InvalidRequest"
    assert bench.raw("a/update", update_msg(JobStatus.SUCCEEDED, expected_version=2))[0][0] == "a/update/accepted"


@pytest.mark.parametrize("rest", ["get", "start-next", "a/get", "$next/get"])
def test_empty_payload_is_an_empty_request(rest: str) -> None:
    bench = Bench("a")
    ((topic, body),) = bench.raw(rest, b"")
    assert topic == f"{rest}/accepted"
    assert "clientToken" not in body


def test_null_members_count_as_absent() -> None:
    bench = Bench("a")
    names = ("statusDetails", "expectedVersion", "clientToken", "executionNumber", "stepTimeoutInMinutes")
    payload = json.dumps({"status": "IN_PROGRESS"} | dict.fromkeys(names)).encode()
    assert bench.raw("a/update", payload) == [("a/update/accepted", {"timestamp": 1010})]


def test_describe() -> None:
    bench = Bench("a", "b")
    assert bench.one("b/get")["execution"]["jobDocument"] == {"work": "b"}
    assert bench.one("$next/get")["execution"]["jobId"] == "a"
    assert "jobDocument" not in bench.one("b/get", includeJobDocument=False)["execution"]
    assert bench.one("b/get", executionNumber=1)["execution"]["jobId"] == "b"
    assert bench.one("b/get", executionNumber=2)["code"] == "ResourceNotFound"
    bench.ask("b/update", status="FAILED")
    terminal = bench.one("b/get", clientToken="x")
    assert (terminal["code"], terminal["clientToken"]) == ("TerminalStateReached", "x")
    assert "executionState" not in terminal
    bench.ask("a/update", status="FAILED")
    assert bench.one("$next/get") == {"timestamp": int(bench.now)}


@pytest.mark.parametrize("wanted", list(JobStatus))
@pytest.mark.parametrize("begun", [False, True])
def test_every_transition_follows_the_table(wanted: JobStatus, begun: bool) -> None:
    bench = Bench("a")
    if begun:
        bench.ask("start-next")
    status = JobStatus.IN_PROGRESS if begun else JobStatus.QUEUED
    reply = bench.ask("a/update", status=wanted)[0][1]
    if (status, "device", wanted) in STATUS_TRANSITIONS:
        assert reply == {"timestamp": 1010}
        assert bench.service.executions("a")[0].status is wanted
    else:
        assert reply["code"] == "InvalidStateTransition"
        assert "executionState" not in reply
        assert bench.service.executions("a")[0].status is status


@pytest.mark.parametrize("wanted", ["IN_PROGRESS", "SUCCEEDED", "FAILED", "REJECTED", "QUEUED"])
def test_nothing_leads_out_of_a_terminal_state(wanted: str) -> None:
    bench = Bench("a")
    bench.ask("a/update", status="SUCCEEDED", statusDetails={"x": "1"})
    reply = bench.one("a/update", status=wanted, clientToken="late")
    assert (reply["code"], reply["clientToken"]) == ("InvalidStateTransition", "late")
    assert reply["executionState"] == {"status": "SUCCEEDED", "statusDetails": {"x": "1"}, "versionNumber": 2}


def test_version_mismatch_shows_how_things_stand() -> None:
    bench = Bench("a")
    for expected in (0, 2, "2", 2**62):
        reply = bench.one("a/update", status="IN_PROGRESS", expectedVersion=expected)
        assert reply["code"] == "VersionMismatch"
        assert reply["executionState"] == {"status": "QUEUED", "statusDetails": {}, "versionNumber": 1}
    assert "code" not in bench.one("a/update", status="IN_PROGRESS", expectedVersion="1")
    assert "code" not in bench.one("a/update", status="IN_PROGRESS", expectedVersion=2)


@pytest.mark.parametrize(
    ("rest", "payload", "code"),
    [
        ("get", b"{", "InvalidJson"),
        ("get", b"\xff", "InvalidJson"),
        ("get", b"[" * 100_000, "InvalidJson"),
        ("start-next", b'{"n":' + b"9" * 10_000 + b"}", "InvalidJson"),
        ("get", b"[]", "InvalidJson"),
        ("get", b'{"clientToken":5}', "InvalidRequest"),
        ("get", b'{"clientToken":"' + b"x" * 65 + b'"}', "InvalidRequest"),
        ("get", b'{"clientToken":"' + "é".encode() * 33 + b'"}', "InvalidRequest"),
        ("start-next", b'{"statusDetails":[]}', "InvalidRequest"),
        ("start-next", b'{"statusDetails":{"a b":"1"}}', "InvalidRequest"),
        ("start-next", b'{"statusDetails":{"a":1}}', "InvalidRequest"),
        ("start-next", b'{"statusDetails":{"a":"1\\n2"}}', "InvalidRequest"),
        ("start-next", b'{"statusDetails":{"a":""}}', "InvalidRequest"),
        ("start-next", b'{"stepTimeoutInMinutes":0}', "InvalidRequest"),
        ("start-next", b'{"stepTimeoutInMinutes":10081}', "InvalidRequest"),
        ("start-next", b'{"stepTimeoutInMinutes":true}', "InvalidRequest"),
        ("a/get", b'{"includeJobDocument":"yes"}', "InvalidRequest"),
        ("a/get", b'{"executionNumber":1.5}', "InvalidRequest"),
        ("a/update", b"", "InvalidRequest"),
        ("a/update", b'{"status":"DONE"}', "InvalidRequest"),
        ("a/update", b'{"status":["FAILED"]}', "InvalidRequest"),
        ("a/update", b'{"status":"FAILED","expectedVersion":-1}', "InvalidRequest"),
        ("a/update", b'{"status":"FAILED","expectedVersion":"1 "}', "InvalidRequest"),
        ("a/update", b'{"status":"FAILED","expectedVersion":true}', "InvalidRequest"),
        ("a/update", b'{"status":"FAILED","includeJobExecutionState":1}', "InvalidRequest"),
        ("a/update", b'{"status":"FAILED","stepTimeoutInMinutes":"x"}', "InvalidRequest"),
        ("b/get", b"{}", "ResourceNotFound"),
        ("b/update", b'{"status":"FAILED"}', "ResourceNotFound"),
        ("a/update", b'{"status":"FAILED","executionNumber":2}', "ResourceNotFound"),
        ("a.b/get", b"{}", "InvalidTopic"),
        ("x" * 65 + "/update", b'{"status":"FAILED"}', "InvalidTopic"),
        ("$next/update", b'{"status":"FAILED"}', "InvalidTopic"),
    ],
)
def test_rejected(rest: str, payload: bytes, code: str) -> None:
    bench = Bench("a")
    ((topic, body),) = bench.raw(rest, payload)
    assert topic == f"{rest}/rejected"
    assert body["code"] == code
    assert body["message"]
    assert body["timestamp"] == 1010
    assert "clientToken" not in body
    assert bench.service.executions("a")[0].version == 1


def test_refusal_echoes_a_good_token() -> None:
    assert Bench("a").one("a/update", status="DONE", clientToken="é" * 32)["clientToken"] == "é" * 32


@pytest.mark.parametrize(
    "topic",
    [
        ROOT + "get/accepted",
        ROOT + "a/update/rejected",
        ROOT + "notify",
        ROOT + "a/b/get",
        ROOT + "get/",
        "$aws/things/la mp/jobs/get",
        "$aws/things/" + "x" * 129 + "/jobs/get",
        "$aws/things//jobs/get",
        "weather",
        "",
        ROOT + "get\n",
    ],
)
def test_no_request_is_ignored(topic: str) -> None:
    bench = Bench("a")
    bench.service.receive(Message(topic, b"{}"), bench.now)
    assert bench.said() == []
    assert bench.service.ignored == 1


def test_things_do_not_see_each_other() -> None:
    bench = Bench("a")
    assert bench.raw("get", b"{}", thing="door")[0][1]["queuedJobs"] == []
    assert bench.raw("a/get", b"{}", thing="door")[0][1]["code"] == "ResourceNotFound"


def test_order_of_the_list() -> None:
    bench = Bench("a", "b", "c")
    assert bench.ask("c/update", status="IN_PROGRESS") == [
        ("c/update/accepted", {"timestamp": 1030}),
        ("notify-next", {"timestamp": 1030, "execution": bench.one("c/get")["execution"]}),
    ]
    listed = bench.one("get")
    assert [one["jobId"] for one in listed["inProgressJobs"]] == ["c"]
    assert [one["jobId"] for one in listed["queuedJobs"]] == ["a", "b"]
    assert bench.one("start-next")["execution"]["jobId"] == "c"


def test_equal_times_keep_the_order_of_creation() -> None:
    service = JobsService()
    for name in ("z", "m", "a"):
        service.create_job(name, {}, ["lamp"], now=5)
    service.messages_to_send(5)
    service.receive(Message(ROOT + "get", b""), 5)
    (reply,) = service.messages_to_send(5)
    assert isinstance(reply, Message)
    assert [one["jobId"] for one in json.loads(reply.payload)["queuedJobs"]] == ["z", "m", "a"]


def test_notifications() -> None:
    bench = Bench("a", "b")
    bench.service.create_job("c", {}, ["lamp"], now=bench.now)
    ((topic, body),) = bench.said()
    assert topic == "notify"
    assert [one["jobId"] for one in body["jobs"]["QUEUED"]] == ["a", "b", "c"]
    assert [topic for topic, _ in bench.ask("start-next")] == ["start-next/accepted"]
    assert [topic for topic, _ in bench.ask("b/update", status="REJECTED")] == ["b/update/accepted", "notify"]
    said = bench.ask("a/update", status="FAILED")
    assert [topic for topic, _ in said] == ["a/update/accepted", "notify", "notify-next"]
    assert said[2][1]["execution"]["jobId"] == "c"


def test_notify_lists_ten() -> None:
    bench = Bench(*(f"j{i}" for i in range(12)))
    bench.ask("start-next")
    bench.service.create_job("last", {}, ["lamp"], now=bench.now)
    ((_, body),) = bench.said()
    assert [len(body["jobs"][name]) for name in ("IN_PROGRESS", "QUEUED")] == [1, 9]


def test_cancel() -> None:
    bench = Bench("a", "b")
    bench.ask("start-next")
    bench.service.cancel_job("a", bench.now)
    assert bench.said() == []
    bench.service.cancel_job("b", bench.now)
    assert [topic for topic, _ in bench.said()] == ["notify"]
    bench.service.cancel_job("a", bench.now, force=True)
    assert bench.said() == [
        ("notify", {"timestamp": 1020, "jobs": {}}),
        ("notify-next", {"timestamp": 1020}),
    ]
    assert [(one.status, one.version) for one in bench.service.executions("a")] == [(JobStatus.CANCELED, 3)]
    bench.service.cancel_job("a", bench.now, force=True)
    assert bench.service.executions("a")[0].version == 3
    assert bench.one("a/update", status="SUCCEEDED")["executionState"]["status"] == "CANCELED"


def test_create_job_refuses() -> None:
    service = JobsService()
    service.create_job("a", {}, ["lamp", "lamp", "door"], now=0)
    assert service.job("a").targets == ("lamp", "door")
    circular: dict[str, Any] = {}
    circular["self"] = circular
    bad: list[tuple[str, Any, list[str], str]] = [
        ("a", {}, ["lamp"], "already"),
        ("a:b", {}, ["lamp"], "job id"),
        ("b", {}, [], "no targets"),
        ("b", {}, ["la mp"], "thing name"),
        ("b", {"x": object()}, ["lamp"], "not JSON"),
        ("b", {"x": float("nan")}, ["lamp"], "not JSON"),
        ("b", circular, ["lamp"], "not JSON"),
        ("b", [1], ["lamp"], "not an object"),
        ("b", {"x": "y" * 32_768}, ["lamp"], "bytes"),
    ]
    for job_id, document, targets, message in bad:
        with pytest.raises(LocalOtaError, match=message):
            service.create_job(job_id, document, targets, now=0)
    assert [one.thing for one in service.executions("a")] == ["lamp", "door"]
    with pytest.raises(LocalOtaError, match="no job b"):
        service.executions("b")
    with pytest.raises(LocalOtaError, match="no job b"):
        service.cancel_job("b", 0)
    with pytest.raises(LocalOtaError, match="no target"):
        service.history("a", "window")


def test_the_document_is_a_copy() -> None:
    document = {"list": [1]}
    service = JobsService()
    service.create_job("a", document, ["lamp"], now=0)
    document["list"].append(2)
    assert service.job("a").document == {"list": [1]}


def test_memory_is_bounded() -> None:
    bench = Bench("a")
    for _ in range(KEPT + 10):
        bench.ask("a/update", status="IN_PROGRESS")
    history = bench.service.history("a", "lamp")
    assert (len(history), history[-1].version) == (KEPT, KEPT + 11)
    assert isinstance(bench.service.executions("a")[0], Execution)


def test_disconnected_forgets_what_was_to_be_sent() -> None:
    bench = Bench()
    bench.service.create_job("a", {}, ["lamp"], now=0)
    bench.service.disconnected(0)
    assert bench.service.messages_to_send(0) == []
    assert bench.service.get_timer() is None
    bench.service.handle_timer(0)


json_values = (
    st.none() | st.booleans() | st.integers(-2, 12) | st.floats() | st.text(max_size=5)
    | st.dictionaries(st.text("ab:é ", max_size=3), st.text(max_size=3) | st.integers(), max_size=2)
    | st.lists(st.integers(), max_size=2)
)  # fmt: skip
members = st.sampled_from(
    ["clientToken", "status", "statusDetails", "expectedVersion", "executionNumber", "includeJobDocument",
     "includeJobExecutionState", "stepTimeoutInMinutes"]
)  # fmt: skip
payloads = st.binary(max_size=60) | st.dictionaries(
    members, json_values | st.sampled_from(list(JobStatus)), max_size=5
).map(lambda one: json.dumps(one).encode())


apis = st.sampled_from(["get", "start-next", "a/get", "b/update", "a/update", "$next/get"])


@given(st.lists(st.tuples(apis, payloads), max_size=6))
def test_any_request_gets_one_reply_and_the_books_stay_right(requests: list[tuple[str, bytes]]) -> None:
    bench = Bench("a", "b")
    for rest, payload in requests:
        said = bench.raw(rest, payload)
        replies = [topic for topic, _ in said if topic not in ("notify", "notify-next")]
        assert len(replies) == 1
        assert said[0][0] == replies[0]
        assert replies[0] in (f"{rest}/accepted", f"{rest}/rejected")
    for job_id in ("a", "b"):
        history = bench.service.history(job_id, "lamp")
        assert [one.version for one in history] == list(range(1, len(history) + 1))
        for old, new in pairwise(history):
            assert (old.status, "device", new.status) in STATUS_TRANSITIONS


@given(st.text(max_size=60), st.binary(max_size=20))
def test_any_topic_is_survived(topic: str, payload: bytes) -> None:
    bench = Bench("a")
    bench.service.receive(Message(ROOT + topic, payload), 0)
    bench.service.receive(Message(topic, payload), 0)
