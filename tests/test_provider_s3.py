"""Where firmware lies: the small S3, with boto3 as client and moto as measure; odd keys, bad bodies, large files."""

import base64
import os
import socket
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from botocore import xform_name
from botocore.exceptions import ClientError
from brokers import free_port, wait_for_port
from desk import ANY, Desk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coreota.errors import LocalOtaError
from coreota.provider.api import ApiServer, ControlApi
from coreota.provider.artifacts import FolderArtifacts, S3Artifacts, StoredStreams, StreamFile, StreamRecord
from coreota.provider.memory import MemoryStore
from coreota.provider.ota import pieces
from coreota.provider.s3 import S3App
from coreota.provider.s3requests import s3_operations
from coreota.provider.uploads import MIN_PART, ChunkDecoder, S3Error
from coreota.signing import digest_of
from coreota.transport import VirtualClock

MIB = 1 << 20
SIGNED = {"authorization": "AWS4-HMAC-SHA256 Credential=any/20261124/us-east-1/s3/aws4_request, Signature=00"}


class Place:
    """A small S3 on a socket, with a bucket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "artifacts"
        self.folder.mkdir()
        (folder / "secret").write_text("not for you")
        self.artifacts = FolderArtifacts(self.folder)
        self.server = ApiServer(ControlApi({}, VirtualClock(0.0)).app(others={"s3": S3App(self.artifacts)}))
        self.s3: Any = boto3.client("s3", endpoint_url=self.server.url, **ANY)
        self.http = httpx.Client(base_url=self.server.url, headers=SIGNED, timeout=30)

    def files(self) -> set[str]:
        """All that is there, and around it."""
        return {str(path.relative_to(self.folder.parent)) for path in self.folder.parent.rglob("*") if path.is_file()}

    def put(self, key: str, body: bytes, **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.put(f"/firmware/{key}", content=body, headers=names)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("s3"))
    with place.server, place.http:
        place.s3.create_bucket(Bucket="firmware")
        yield place


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """The address of moto's S3, in a process of its own."""
    port = free_port()
    program = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def code(do: Any, *arguments: Any, **words: Any) -> str:
    """The code of a refusal."""
    with pytest.raises(ClientError) as caught:
        do(*arguments, **words)
    return str(caught.value.response["Error"]["Code"])


# The small S3


def test_files_come_back(place: Place, tmp_path: Path) -> None:
    """What boto3's own transfer uploads, in one piece and in parts, it downloads again, whole and by ranges."""
    for size in (0, 1, 100_000, 9 * MIB + 17):
        source, target = tmp_path / "source", tmp_path / "target"
        source.write_bytes(os.urandom(size))
        place.s3.upload_file(str(source), "firmware", "a/b.bin")
        place.s3.download_file("firmware", "a/b.bin", str(target))
        assert target.read_bytes() == source.read_bytes()
        assert place.artifacts.content("firmware", "a/b.bin").size == size
    head = place.s3.head_object(Bucket="firmware", Key="a/b.bin")
    assert (head["ContentLength"], head["AcceptRanges"]) == (size, "bytes")
    part = place.s3.get_object(Bucket="firmware", Key="a/b.bin", Range="bytes=-17", IfMatch=head["ETag"])
    assert part["Body"].read() == source.read_bytes()[-17:]
    assert part["ContentRange"] == f"bytes {size - 17}-{size - 1}/{size}"
    assert code(place.s3.get_object, Bucket="firmware", Key="a/b.bin", Range=f"bytes={size}-") == "InvalidRange"
    assert code(place.s3.get_object, Bucket="firmware", Key="a/b.bin", IfMatch='"x"') == "PreconditionFailed"
    assert code(place.s3.put_object, Bucket="firmware", Key="a/b.bin", IfNoneMatch="*") == "PreconditionFailed"
    assert code(place.s3.get_object, Bucket="firmware", Key="a/b.bin", VersionId="1") == "NoSuchVersion"
    place.s3.delete_object(Bucket="firmware", Key="a/b.bin")
    assert code(place.s3.get_object, Bucket="firmware", Key="a/b.bin") == "NoSuchKey"
    assert code(place.s3.head_object, Bucket="firmware", Key="a/b.bin") == "404"


def test_buckets(place: Place) -> None:
    """Made twice, listed, not removed while something is in it."""
    for _ in range(2):
        place.s3.create_bucket(Bucket="second")
    assert "second" in [one["Name"] for one in place.s3.list_buckets()["Buckets"]]
    assert place.s3.head_bucket(Bucket="second")["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert place.s3.get_bucket_location(Bucket="second")["LocationConstraint"] is None
    place.s3.put_object(Bucket="second", Key="x", Body=b"x")
    assert code(place.s3.delete_bucket, Bucket="second") == "BucketNotEmpty"
    place.s3.delete_object(Bucket="second", Key="x")
    place.s3.delete_bucket(Bucket="second")
    assert code(place.s3.put_object, Bucket="second", Key="x", Body=b"x") == "NoSuchBucket"


def test_a_bucket_in_the_name_of_the_host(place: Place) -> None:
    """As SDKs do it with http://localhost."""
    host = {"host": f"firmware.localhost:{place.server.port}"}
    assert place.http.put("/hosted.bin", content=b"x", headers=host).status_code == 200
    assert place.artifacts.content("firmware", "hosted.bin").read(0, 1) == b"x"


def test_what_is_not_there_says_so_by_name(place: Place) -> None:
    """All other operations of S3: 501 and the name."""
    # These are told from one that is here only by the body or the host
    alike = {"ListDirectoryBuckets", "WriteGetObjectResponse", "RenameObject"}
    others = [one for one in s3_operations() if not hasattr(S3App, xform_name(one.name)) and one.name not in alike]
    for one in others:
        path = ["/", "/firmware", "/firmware/key"][one.level]
        answer = place.http.request(
            one.method, path, params=dict.fromkeys(one.query, "1"), headers=dict.fromkeys(one.headers, "x")
        )
        told = "" if one.method == "HEAD" else answer.text
        assert answer.status_code == 501, (one, told)
        same = [
            other.name
            for other in others
            if (other.method, other.level, other.query) == (one.method, one.level, one.query)
        ]
        assert any(f"{name} of S3 is not implemented" in told for name in same) or one.method == "HEAD", (one, told)
    assert len(others) > 90


KEYS = st.text(st.sampled_from("ab.-_ /\\%+&<>'\"\x00\n\x7fü漢\U0001f4a1"), min_size=1, max_size=24)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=KEYS
    | st.sampled_from(
        ["../secret", "..", "a/../../secret", "/etc/passwd", ".uploads/x", "a/.b", "x" * 300, "x/" * 400 + "x"]
    )
)
def test_odd_keys(place: Place, key: str) -> None:
    """A key is kept and comes back as it is, or is refused; nothing happens outside of the folder."""
    before = place.files()
    path = httpx.URL(place.server.url).copy_with(
        raw_path=b"/firmware/" + "".join(f"%{byte:02x}" for byte in key.encode()).encode()
    )
    answer = place.http.put(path, content=key.encode())
    if answer.status_code == 200:
        assert place.http.get(path).content == key.encode()
        assert place.artifacts.content("firmware", key).path.is_relative_to(place.folder / "firmware")
        place.s3.delete_object(Bucket="firmware", Key=key)
    else:
        assert (answer.status_code, "InvalidArgument" in answer.text) == (400, True), answer.text
        assert place.http.get(path).status_code in (400, 404)
    assert place.files() == before


def test_links_lead_nowhere(place: Place) -> None:
    """A symbolic link out of the folder is no file, and no place for one."""
    (place.folder / "firmware" / "link").symlink_to(place.folder.parent)
    (place.folder / "firmware" / "file").symlink_to(place.folder.parent / "secret")
    assert place.http.get("/firmware/link/secret").status_code == 404
    assert place.http.get("/firmware/file").status_code == 404
    assert place.put("link/new", b"x").status_code == 400
    (place.folder / "firmware" / "link").unlink()
    (place.folder / "firmware" / "file").unlink()


def test_a_file_is_no_folder(place: Place) -> None:
    """S3 has no folders, a file system has; it says so."""
    assert place.put("name", b"x").status_code == 200
    assert "cannot hold a file and a folder of one name" in place.put("name/below", b"x").text
    assert place.put("above/name", b"x").status_code == 200
    assert place.put("above", b"x").status_code == 400


def framed(body: bytes, trailer: str, size: int = 3) -> bytes:
    """A body in aws-chunked."""
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    return (
        b"".join(b"%x;chunk-signature=0\r\n%b\r\n" % (len(one), one) for one in chunks) + f"0\r\n{trailer}\r\n".encode()
    )


CRC = base64.b64encode(zlib.crc32(b"blink!").to_bytes(4, "big")).decode()
CHUNKED = {
    "content-encoding": "aws-chunked",
    "x-amz-trailer": "x-amz-checksum-crc32",
    "x-amz-decoded-content-length": "6",
}
LIES: dict[str, tuple[bytes, dict[str, str], str]] = {
    "crc": (b"blink?", {"x-amz-checksum-crc32": CRC}, "BadDigest"),
    "sha1": (b"blink!", {"x-amz-checksum-sha1": "AAAA"}, "BadDigest"),
    "md5": (b"blink!", {"content-md5": "no base64"}, "BadDigest"),
    "payload": (b"blink!", {"x-amz-content-sha256": "0" * 64}, "XAmzContentSHA256Mismatch"),
    "trailer": (framed(b"blink?", f"x-amz-checksum-crc32:{CRC}\r\n"), CHUNKED, "BadDigest"),
    "no trailer": (framed(b"blink!", ""), CHUNKED, "BadDigest"),
    "length": (framed(b"blink!!", f"x-amz-checksum-crc32:{CRC}\r\n"), CHUNKED, "IncompleteBody"),
    "cut": (framed(b"blink!", "")[:-9], CHUNKED, "IncompleteBody"),
    "no framing": (b"blink!\r\n", CHUNKED, "InvalidRequest"),
    "endless line": (b"1" * 20_000, CHUNKED, "InvalidRequest"),
}


@pytest.mark.parametrize("name", LIES)
def test_bodies_that_lie(place: Place, name: str) -> None:
    """Refused by name, and the file that was there is still the same."""
    place.put("kept.bin", b"before")
    body, headers, said = LIES[name]
    answer = place.http.put("/firmware/kept.bin", content=body, headers=headers)
    assert (answer.status_code, said in answer.text) == (400, True), answer.text
    assert place.artifacts.content("firmware", "kept.bin").read(0, 99) == b"before"
    assert not [path for path in place.files() if ".upload-" in path]


def test_a_framed_body(place: Place) -> None:
    """The framing comes off, and the checksum is repeated."""
    body = framed(b"blink!", f"x-amz-checksum-crc32:{CRC}\r\n")
    answer = place.http.put("/firmware/framed.bin", content=body, headers=CHUNKED)
    assert (answer.status_code, answer.headers["x-amz-checksum-crc32"]) == (200, CRC)
    assert place.artifacts.content("firmware", "framed.bin").read(0, 99) == b"blink!"


@given(st.binary(max_size=60), st.integers(1, 9), st.lists(st.integers(0, 200), max_size=8))
def test_framing_is_the_same_however_it_is_cut(body: bytes, size: int, cuts: list[int]) -> None:
    """Pieces from a network may end anywhere."""
    whole, decoder = framed(body, "a: b\r\n", size), ChunkDecoder()
    places = sorted({0, len(whole), *(cut % len(whole) for cut in cuts)})
    given_back = b"".join(data for a, b in pairwise(places) for data in decoder.feed(whole[a:b]))
    decoder.finish()
    assert (given_back, decoder.trailers) == (body, {"a": "b"})


@given(st.binary(max_size=80) | st.text("0123456789abcdef;\r\n:", max_size=80).map(str.encode))
def test_any_bytes_for_a_framing(body: bytes) -> None:
    """Taken apart or refused, and no more comes out than went in."""
    decoder = ChunkDecoder()
    try:
        assert sum(len(data) for data in decoder.feed(body)) <= len(body)
        decoder.finish()
    except S3Error as error:
        assert error.status == 400


def test_a_client_that_leaves(place: Place) -> None:
    """Nothing is left of half a file, nor of a part."""
    before = place.files()
    lines = ["PUT /firmware/half.bin HTTP/1.1", "host: localhost", f"authorization: {SIGNED['authorization']}"]
    head = "\r\n".join([*lines, "content-length: 1000000", "", ""])
    with socket.create_connection((place.server.host, place.server.port), 10) as connection:
        connection.sendall(head.encode() + b"x" * 100_000)
    for _ in range(500):
        if place.files() == before:
            break
        place.s3.list_buckets()  # the server is busy with others too
    assert place.files() == before


PARTS = {
    "no XML": (b"<", "MalformedXML"),
    "an entity": (b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "MalformedXML"),
    "none": (b"<a/>", "InvalidPartOrder"),
    "no number": (b"<a><Part><PartNumber>x</PartNumber></Part></a>", "MalformedXML"),
    "another": (b"<a><Part><PartNumber>9</PartNumber><ETag>1</ETag></Part></a>", "InvalidPart"),
}


def test_parts(place: Place) -> None:
    """In any order, again, too small, named wrongly, given up."""
    s3, words = place.s3, {"Bucket": "firmware", "Key": "parts.bin"}
    words["UploadId"] = s3.create_multipart_upload(**words)["UploadId"]
    last = s3.upload_part(**words, PartNumber=2, Body=b"end")["ETag"]
    s3.upload_part(**words, PartNumber=1, Body=b"x")
    small = {"Parts": [{"PartNumber": 1, "ETag": "x"}, {"PartNumber": 2, "ETag": last}]}
    assert code(s3.complete_multipart_upload, **words, MultipartUpload=small) == "EntityTooSmall"
    for body, said in PARTS.values():
        answer = place.http.post("/firmware/parts.bin", params={"uploadId": words["UploadId"]}, content=body)
        assert (answer.status_code, said in answer.text) == (400, True), answer.text
    assert code(s3.upload_part, **words, PartNumber=10_001, Body=b"") == "InvalidArgument"
    assert code(s3.upload_part, **{**words, "Key": "other"}, PartNumber=1, Body=b"") == "NoSuchUpload"
    assert code(s3.upload_part, **{**words, "UploadId": "../../x"}, PartNumber=1, Body=b"") == "NoSuchUpload"
    first = s3.upload_part(**words, PartNumber=1, Body=b"a" * MIN_PART)["ETag"]
    right = {"Parts": [{"PartNumber": 1, "ETag": first}, {"PartNumber": 2, "ETag": last}]}
    s3.complete_multipart_upload(**words, MultipartUpload=right)
    content = place.artifacts.content("firmware", "parts.bin")
    assert (content.size, content.read(MIN_PART - 1, 4)) == (MIN_PART + 3, b"aend")
    assert code(s3.complete_multipart_upload, **words, MultipartUpload=right) == "NoSuchUpload"
    words["UploadId"] = s3.create_multipart_upload(Bucket="firmware", Key="parts.bin")["UploadId"]
    s3.upload_part(**words, PartNumber=1, Body=b"x")
    s3.abort_multipart_upload(**words)
    assert code(s3.abort_multipart_upload, **words) == "NoSuchUpload"
    assert [path for path in place.files() if ".uploads" in path] == []


def test_lists_as_moto_has_them(place: Place, moto: str) -> None:
    """The same keys, prefixes and pages as another implementation of S3."""
    theirs: Any = boto3.client("s3", endpoint_url=moto, **ANY)
    keys = ["a", "b/1", "b/2/x", "b/2/y", "b-", "c d+e&f", "c/ü.bin", "z/z/z"]
    for s3 in (place.s3, theirs):
        s3.create_bucket(Bucket="lists")
        for key in keys:
            s3.put_object(Bucket="lists", Key=key, Body=key.encode())
    for prefix in ("", "b", "b/", "c", "none"):
        for delimiter in ({}, {"Delimiter": "/"}, {"Delimiter": "2/"}):
            for most in (1000, 2, 1):
                both = [
                    _listed(s3, {"Bucket": "lists", "Prefix": prefix, **delimiter}, most) for s3 in (place.s3, theirs)
                ]
                assert both[0] == both[1], (prefix, delimiter, most)
    after = [s3.list_objects_v2(Bucket="lists", StartAfter="b/2/x") for s3 in (place.s3, theirs)]
    assert [[one["Key"] for one in page["Contents"]] for page in after] == [
        ["b/2/y", "c d+e&f", "c/ü.bin", "z/z/z"]
    ] * 2
    assert code(place.s3.list_objects_v2, Bucket="lists", ContinuationToken="\x80") == "InvalidArgument"


def _listed(s3: Any, words: dict[str, Any], most: int) -> list[tuple[str, int]]:
    listed = list(s3.get_paginator("list_objects_v2").paginate(**words, PaginationConfig={"PageSize": most}))
    rows = [(one["Key"], one["Size"]) for page in listed for one in page.get("Contents", ())]
    return sorted(rows + [(one["Prefix"], -1) for page in listed for one in page.get("CommonPrefixes", ())])


# Large files


def peak(do: Any) -> float:
    """The most memory that was taken meanwhile, in MiB."""
    tracemalloc.start()
    try:
        do()
        return tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()


SIZE = 48 * MIB


def test_large_files_are_never_in_memory(place: Place, moto: str) -> None:
    """Up in one piece and in parts, down, digested: a few MiB at any time; and the same from another S3."""
    piece = bytes(1 << 16)

    def body(size: int) -> Iterator[bytes]:
        return (piece for _ in range(size // len(piece)))

    def up() -> None:
        assert place.http.put("/firmware/large.bin", content=body(SIZE)).status_code == 200

    def down() -> None:
        with place.http.stream("GET", "/firmware/large.bin") as answer:
            assert sum(len(one) for one in answer.iter_raw()) == SIZE

    def parts() -> None:
        words = {"Bucket": "firmware", "Key": "parts.bin"}
        words["UploadId"] = place.s3.create_multipart_upload(**words)["UploadId"]
        query, named = {"uploadId": words["UploadId"]}, []
        for number in (1, 2):
            answer = place.http.put(
                "/firmware/parts.bin", params={**query, "partNumber": str(number)}, content=body(SIZE // 2)
            )
            named.append({"PartNumber": number, "ETag": answer.headers["etag"]})
        place.s3.complete_multipart_upload(**words, MultipartUpload={"Parts": named})

    def digested() -> None:
        assert digest_of(pieces(place.artifacts.content("firmware", "large.bin")))[1] == SIZE

    assert {do.__name__: peak(do) < 8 for do in (up, down, parts, digested)} == dict.fromkeys(
        ["up", "down", "parts", "digested"], True
    )
    assert place.artifacts.content("firmware", "parts.bin").size == SIZE
    s3: Any = boto3.client("s3", endpoint_url=moto, **ANY)
    s3.create_bucket(Bucket="firmware")
    with (place.folder / "firmware" / "large.bin").open("rb") as file:
        s3.upload_fileobj(file, "firmware", "large.bin")
    content = S3Artifacts(s3).content("firmware", "large.bin")

    def digested_there() -> None:
        assert digest_of(pieces(content, MIB))[1] == SIZE

    assert peak(digested_there) < 12


# S3 elsewhere


def test_files_in_another_s3(moto: str) -> None:
    """Read by ranges, at a version, gone, replaced, out of reach; and copied."""
    s3: Any = boto3.client("s3", endpoint_url=moto, **ANY)
    s3.create_bucket(Bucket="of-mine")
    s3.put_bucket_versioning(Bucket="of-mine", VersioningConfiguration={"Status": "Enabled"})
    first = s3.put_object(Bucket="of-mine", Key="fw.bin", Body=b"version 1")["VersionId"]
    s3.put_object(Bucket="of-mine", Key="fw.bin", Body=b"version two")
    artifacts = S3Artifacts(s3)
    content = artifacts.content("of-mine", "fw.bin")
    assert (content.size, content.read(8, 3)) == (11, b"two")
    old = artifacts.content("of-mine", "fw.bin", first)
    assert (old.size, old.read(0, 9)) == (9, b"version 1")
    artifacts.copy(content, "of-mine", "copy.bin")
    assert artifacts.content("of-mine", "copy.bin").read(0, 11) == b"version two"
    store = MemoryStore()
    record = StreamRecord("s1", (StreamFile(0, "of-mine", "fw.bin"), StreamFile(1, "of-mine", "fw.bin", first)))
    store.run(lambda books: books.keep_document("stream", "s1", record.to_json()))
    stream = StoredStreams(store, artifacts)("s1", 0.0)
    assert stream is not None and {number: file.size for number, file in stream.files.items()} == {0: 11, 1: 9}
    s3.put_object(Bucket="of-mine", Key="fw.bin", Body=b"version 333")
    with pytest.raises(OSError, match=r"S3 gives no fw\.bin"):
        content.read(0, 4)
    for bucket, key in (("of-mine", "none"), ("nowhere", "fw.bin")):
        with pytest.raises(LocalOtaError, match="there is no file"):
            artifacts.content(bucket, key)
    gone: Any = boto3.client("s3", endpoint_url="http://127.0.0.1:1", **ANY)
    with pytest.raises(OSError, match="cannot be reached"):
        S3Artifacts(gone).content("of-mine", "fw.bin")


def test_an_update_from_another_s3(moto: str, tmp_path: Path) -> None:
    """A provider that has its firmware there, a deployment that uploads it there, and a device that runs it."""
    desk = Desk(tmp_path)
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ.update(keys)
    try:
        with desk.provider("--s3-endpoint", moto), desk.device():
            assert code(desk.client("s3").put_object, Bucket="firmware", Key="x", Body=b"x") == "NotImplemented"
            words = desk.deploy_words("--thing", "lamp", "--key", "job.key", "--s3-endpoint", moto, "--bucket", "there")
            status, records, errors = desk.run(*words)
    finally:
        for name in keys:
            del os.environ[name]
    assert (status, errors, records[-1]["things"]) == (0, "", {"SUCCEEDED": 1})
    assert list((tmp_path / "state").iterdir()) == [tmp_path / "state" / "provider.db"]
    assert desk.runs() == ("2.0.0", True)
