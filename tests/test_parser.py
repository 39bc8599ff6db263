"""The OTA parser: agreement with the C parser, strictness beyond it, and the chain."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreota.check import failure
from coreota.errors import RemoteOtaError
from coreota.parser import (
    CustomJob,
    JobParser,
    OtaFile,
    OtaJob,
    OtaParser,
    ParsedJob,
    SignatureAlgorithm,
    ota_document,
    parse_job_doc_file,
    parse_with,
)

settings.register_profile("coreota", derandomize=True, deadline=None)
settings.load_profile("coreota")

CASES = [
    (number, json.loads(line))
    for number, line in enumerate((Path(__file__).parent / "data/reference_cases.jsonl").read_text().splitlines(), 1)
    if json.loads(line)["call"] == "ota-parse"
]

# Where ours is stricter than the C parser on purpose: by the line of the case, with the reason.
STRICTER = {
    118: "a file of 0 bytes is no update",
    144: "an empty path or certificate name cannot be meant",
    145: "a signature of null is none (C reads the text 'null')",
    146: "a stream name of null is none (C reads the text 'null')",
    147: "a stream name is a text (C reads the number's digits)",
    148: "protocols are a list (C also searches an object)",
    150: "junk after the document (C stops at its end)",
    152: "BLE is no protocol of ours (C answers without a reference to the image)",
    153: "nor is LONGPROTO",
    154: "nor is FOUR (C takes any protocol of four letters for HTTP)",
}
# Where C is right in kind and ours says it better.
BETTER: dict[int, tuple[str, Any]] = {
    103: ("result", 10),  # there is an eleventh file; C ends at ten
    151: ("filepath", 'a\\"b'),  # C leaves the text escaped
}


def ours(arguments: list[str]) -> dict[str, Any] | None:
    """What the C library's answer is made of, in our words; None for an error."""
    index, protocol, text = arguments
    try:
        file, following = parse_job_doc_file(b"" if text == "@null" else text.encode(), int(index), protocol)
    except RemoteOtaError:
        return None
    stream = json.loads(text)["afr_ota"].get("streamname")
    return {
        "result": following,
        "filepath": file.path,
        "certfile": file.certfile,
        "signature": base64.b64encode(file.signature).decode(),
        "authScheme": file.auth_scheme,
        "imageRef": stream if protocol == "MQTT" else file.update_data_url,
        "fileId": file.file_id,
        "fileSize": file.size,
        "fileType": file.file_type or 0,
    }


def test_all_cases_are_here() -> None:
    assert len(CASES) == 61
    assert {number for number, case in CASES if case["kind"] == "quirk"} >= STRICTER.keys() | BETTER.keys()


@pytest.mark.parametrize(("number", "case"), CASES, ids=[f"{number}" for number, _ in CASES])
def test_reference(number: int, case: dict[str, Any]) -> None:
    answer, expected = ours(case["args"]), case["out"]
    if case["kind"] == "bug" or number in STRICTER or expected["result"] == -1:
        assert answer is None
    elif number in BETTER:
        member, value = BETTER[number]
        assert answer == expected | {member: value}
    else:
        assert answer == expected


FILE: dict[str, Any] = {
    "filepath": "/device", "filesize": 180568, "fileid": 0, "certfile": "/cert.pem", "sig-sha256-ecdsa": "MEUCIQ==",
}  # fmt: skip


def document(ota: Mapping[str, Any] | None = None, /, **file: Any) -> dict[str, Any]:
    """A job document with changes; what is changed to ... is left out."""
    members = {name: value for name, value in (FILE | file).items() if value is not ...}
    both = {"protocols": ["MQTT"], "streamname": "AFR_OTA-1", "files": [members], **(ota or {})}
    return {"afr_ota": {name: value for name, value in both.items() if value is not ...}}


def refusal(document: Mapping[str, Any], allow_sha1: bool = False) -> RemoteOtaError:
    error = failure(lambda: OtaParser(allow_sha1).parse(document))
    assert type(error) is RemoteOtaError
    return error


def test_a_whole_job() -> None:
    job = OtaParser().parse(document(fileType=7, attr={"k": "v"}))
    file = OtaFile(0, "/device", 180568, "/cert.pem", b"0E\x02!", SignatureAlgorithm.SHA256_ECDSA, 7)
    assert job == OtaJob(("MQTT",), "AFR_OTA-1", (file,))


def test_http() -> None:
    http = {"protocols": ["HTTP"], "streamname": ...}
    job = OtaParser().parse(document(http, update_data_url="https://example.com/f", auth_scheme="aws.s3.presigned"))
    assert job is not None
    assert (job.stream, job.files[0].update_data_url, job.files[0].auth_scheme) == (
        None, "https://example.com/f", "aws.s3.presigned",
    )  # fmt: skip
    assert "update_data_url" in str(refusal(document(http, auth_scheme="aws.s3.presigned")))
    assert "auth_scheme" in str(refusal(document(http, update_data_url="https://example.com/f")))


def test_live_documents_carry_nulls() -> None:
    job = OtaParser().parse(document(update_data_url=None, auth_scheme=None, fileType=None))
    assert job is not None
    assert job.files[0].file_type is None


@pytest.mark.parametrize(
    ("member", "values"),
    [
        ("filesize", [0, -1, 2**32, 1.0, 1.5, True, None, "", "-1", "+1", ...]),
        ("filesize", [" 7", "7 ", "1e3", "0x7", "٣", "1_0", "7\n", [], {}]),
        ("fileid", [256, -1, 0.0, False, None, "", "256", ...]),
        ("fileType", [-1, 2**32, "", "x", 1.5, []]),
        ("filepath", ["", None, 5, ...]),
        ("certfile", ["", None, 5, ...]),
        ("sig-sha256-ecdsa", ["", 5, "MEUCIQ=", "MEUC IQ==", "MEUCIQ==\n", "ME-_", "=", "é"]),
    ],
)
def test_a_wrong_member_is_named(member: str, values: list[Any]) -> None:
    for value in values:
        error = refusal(document(**{member: value}))
        assert (error.reason, member in str(error)) == ("document-invalid", True), value


@pytest.mark.parametrize(
    ("ota", "named"),
    [
        ({"protocols": ...}, "protocols"),
        ({"protocols": []}, "protocols"),
        ({"protocols": "MQTT"}, "protocols"),
        ({"protocols": ["mqtt"]}, "protocols"),
        ({"protocols": ["MQTT", 5]}, "protocols"),
        ({"streamname": ...}, "streamname"),
        ({"streamname": ""}, "streamname"),
        ({"streamname": "a/+"}, "streamname"),
        ({"streamname": "s" * 129}, "streamname"),
        ({"files": ...}, "files"),
        ({"files": []}, "files"),
        ({"files": {"0": FILE}}, "files"),
        ({"files": [FILE, 5]}, "files"),
        ({"files": [FILE, FILE]}, "fileid"),
    ],
)
def test_a_wrong_document_says_what_is_wrong(ota: dict[str, Any], named: str) -> None:
    assert named in str(refusal(document(ota)))


def test_documents_of_others_are_declined() -> None:
    others: list[dict[str, Any]] = [{}, {"blink": 3}, {"AFR_OTA": {}}]
    for other in others:
        assert OtaParser().parse(other) is None
    wrong: list[Any] = [None, [], "x", 5]
    for broken in wrong:
        assert refusal({"afr_ota": broken}).reason == "document-invalid"


def test_the_strongest_signature_counts() -> None:
    signatures = {"sig-sha1-rsa": "AAAA", "sig-sha256-rsa": "BBBB", "sig-sha256-ecdsa": "CCCC"}
    for algorithm in SignatureAlgorithm:
        job = OtaParser(allow_sha1=True).parse(document(**({"sig-sha256-ecdsa": None} | signatures)))
        assert job is not None
        assert job.files[0].signature_algorithm is algorithm
        del signatures[algorithm.value]
    assert refusal(document(**{"sig-sha256-ecdsa": ..., "sig-sha1-rsa": "AAAA"})).reason == "sha1"
    assert "signature" in str(refusal(document(**{"sig-sha256-ecdsa": ...})))
    assert "signature" in str(refusal(document(**{"sig-sha256-ecdsa": None})))


def test_more_files_than_c_can_reach() -> None:
    job = OtaParser().parse(document({"files": [FILE | {"fileid": number} for number in range(256)]}))
    assert job is not None
    assert [file.file_id for file in job.files] == list(range(256))


def test_one_file_at_a_time() -> None:
    text = json.dumps(document({"files": [FILE | {"fileid": number} for number in range(3)]})).encode()
    assert [parse_job_doc_file(text, index, "MQTT")[1] for index in range(3)] == [1, 2, 0]
    for index in (-1, 3):
        assert type(failure(lambda index=index: parse_job_doc_file(text, index, "MQTT"))) is RemoteOtaError  # type: ignore[misc]


def test_one_file_needs_a_protocol_that_is_known_and_on_offer() -> None:
    text = json.dumps(document({"protocols": ["BLE", "MQTT"]})).encode()
    assert parse_job_doc_file(text, 0, "MQTT")[0].size == 180568
    for protocol in ("BLE", "HTTP", "mqtt", ""):
        error = failure(lambda protocol=protocol: parse_job_doc_file(text, 0, protocol))  # type: ignore[misc]
        assert isinstance(error, RemoteOtaError)
        assert "protocols" in str(error)


class Numbered:
    """A parser that takes documents with its number."""

    def __init__(self, number: int, asked: list[int]) -> None:
        self.number, self.asked = number, asked

    def parse(self, document: Mapping[str, Any]) -> ParsedJob | None:
        self.asked.append(self.number)
        return CustomJob(lambda: {"by": str(self.number)}) if document.get("for", 0) <= self.number else None


def test_the_chain_stops_at_the_first() -> None:
    asked: list[int] = []
    parsers: list[JobParser] = [OtaParser(), *(Numbered(number, asked) for number in (1, 2, 3))]
    job = parse_with(parsers, {"for": 2})
    assert isinstance(job, CustomJob)
    assert (job.action(), asked) == ({"by": "2"}, [1, 2])
    assert parse_with(parsers, {"for": 9}) is None
    assert parse_with([], {}) is None
    assert type(failure(lambda: parse_with(parsers, {"afr_ota": 1}))) is RemoteOtaError
    assert asked == [1, 2, 1, 2, 3]


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
FILES = st.lists(
    st.builds(
        OtaFile,
        file_id=st.integers(0, 255),
        path=TEXT,
        size=st.integers(1, 2**32 - 1),
        certfile=TEXT,
        signature=st.binary(min_size=1, max_size=80),
        signature_algorithm=st.sampled_from(SignatureAlgorithm),
        file_type=st.none() | st.integers(0, 2**32 - 1),
        update_data_url=TEXT,
        auth_scheme=TEXT,
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda file: file.file_id,
)


@given(FILES, st.from_regex(r"[A-Za-z0-9_-]{1,128}", fullmatch=True))
def test_round_trip(files: list[OtaFile], stream: str) -> None:
    job = OtaJob(("MQTT", "HTTP"), stream, tuple(files))
    sent = json.loads(json.dumps(ota_document(job)))
    assert OtaParser(allow_sha1=True).parse(sent) == job


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*FILE, "x"]), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["protocols", "streamname", "files"]), JSON | st.just(["MQTT"]) | st.just("s")))
def test_arbitrary_documents(ota: dict[str, Any]) -> None:
    error = failure(lambda: OtaParser().parse({"afr_ota": ota}))
    assert error is None or type(error) is RemoteOtaError


@given(st.sampled_from(list(FILE)), JSON)
def test_arbitrary_members(member: str, value: Any) -> None:
    try:
        job = OtaParser().parse(document(**{member: value}))
    except RemoteOtaError as error:
        assert error.reason in ("document-invalid", "sha1")
        return
    assert job is not None
    assert 1 <= job.files[0].size < 2**32
    assert 0 <= job.files[0].file_id <= 255


@given(st.binary(), st.integers(), st.text(max_size=5))
def test_arbitrary_bytes(text: bytes, index: int, protocol: str) -> None:
    assert type(failure(lambda: parse_job_doc_file(text, index, protocol))) is RemoteOtaError
