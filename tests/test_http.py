"""Downloads over HTTP: by the rules in memory, over real sockets with servers of bad habits, as whole updates."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreota.blocks import Bitmap, MemoryPool
from coreota.config import OtaConfig
from coreota.download import BlockReceived, DownloadConfig, DownloadFailed, DownloadState
from coreota.errors import RemoteOtaError
from coreota.http import HttpDownloader, judge_reply
from coreota.httptransport import HttpTransport, fetch_range
from coreota.parser import OtaFile, SignatureAlgorithm
from coreota.sim.lab import Lab
from coreota.sim.web import LocalWeb
from coreota.states import Progress, UpdateStarted
from coreota.topics import Fetch, Fetched
from coreota.transport import LocalBroker, VirtualClock

IMAGE = bytes(range(256)) * 40
URL = "https://example.com/v2.bin?signature=secret"


def file(size: int = len(IMAGE), url: str | None = URL) -> OtaFile:
    return OtaFile(0, "/a", size, "/c", b"s", SignatureAlgorithm.SHA256_ECDSA, update_data_url=url)


def good(fetch: Fetch) -> Fetched:
    """What a server answers that does it well."""
    headers = {"content-range": f"bytes {fetch.first}-{fetch.last}/{len(IMAGE)}"}
    return Fetched(fetch, 206, headers, IMAGE[fetch.first : fetch.last + 1])


def download(loader: HttpDownloader, answer: Callable[[Fetch], Fetched]) -> tuple[bytes, float]:
    """Run it on virtual time; what was written, and when it ended."""
    content, now = bytearray(loader.file.size), 0.0
    loader.start(now)
    while loader.state not in (DownloadState.COMPLETE, DownloadState.FAILED):
        for fetch in loader.messages_to_send(now):
            assert isinstance(fetch, Fetch)
            loader.fetched(answer(fetch), now)
        while isinstance(event := loader.next_event(), BlockReceived):
            content[event.block.offset : event.block.offset + len(event.block.data)] = event.block.data
            loader.release(event.block)
        now = loader.get_timer() or now
        loader.handle_timer(now)
    return bytes(content), now


@pytest.mark.parametrize("block_size", [256, 1000, 4096, 131_072])
@pytest.mark.parametrize("pool", [1, 7])
def test_whole_file(block_size: int, pool: int) -> None:
    loader = HttpDownloader(file(), MemoryPool(block_size, pool), DownloadConfig(block_size=block_size))
    assert download(loader, good)[0] == IMAGE
    assert (loader.pool.in_use, loader.duplicates, loader.ignored) == (0, 0, 0)


def test_only_what_is_missing() -> None:
    """What an earlier attempt has is not asked for."""
    missing = Bitmap(3)
    missing.clear(1)
    loader = HttpDownloader(file(), MemoryPool(4096, 3), DownloadConfig(), missing)
    asked: list[int] = []

    def answer(fetch: Fetch) -> Fetched:
        asked.append(fetch.first)
        return good(fetch)

    download(loader, answer)
    assert asked == [0, 8192]


FINAL = {
    "whole file": (lambda f: Fetched(f, 200, {}, IMAGE[:4097]), "http-no-ranges"),
    "redirect": (lambda f: Fetched(f, 302, {"location": "https://evil.example"}), "http-redirect"),
    "unknown": (lambda f: Fetched(f, 404), "http-not-found"),
    "gone": (lambda f: Fetched(f, 410), "http-not-found"),
    "expired": (lambda f: Fetched(f, 403, {}, b"<Message>Request has expired</Message>"), "url-expired"),
    "expired token": (lambda f: Fetched(f, 400, {}, b"<Code>ExpiredToken</Code>"), "url-expired"),
    "not allowed": (lambda f: Fetched(f, 403, {}, b"<Code>AccessDenied</Code>"), "http-refused"),
    "forged": (lambda f: Fetched(f, 403, {}, b"<Code>SignatureDoesNotMatch</Code>"), "http-refused"),
    "no credentials": (lambda f: Fetched(f, 401), "http-refused"),
    "not implemented": (lambda f: Fetched(f, 501), "http-not-implemented"),
    "too much": (lambda f: replace(good(f), body=good(f).body + b"x"), "http-range"),
    "another range": (lambda f: good(Fetch(f.url, f.first + 1, f.last)), "http-range"),
    "another size": (
        lambda f: replace(good(f), headers={"content-range": f"bytes {f.first}-{f.last}/9"}),
        "http-range",
    ),
    "no range": (lambda f: replace(good(f), headers={}), "http-range"),
    "packed": (lambda f: replace(good(f), headers={**good(f).headers, "content-encoding": "gzip"}), "http-encoding"),
    "whole and packed": (lambda f: Fetched(f, 200, {"content-encoding": "br"}, IMAGE[:4097]), "http-encoding"),
    "teapot": (lambda f: Fetched(f, 418), "http-status"),
}


@pytest.mark.parametrize(("answer", "reason"), FINAL.values(), ids=FINAL.keys())
def test_final_answers(answer: Callable[[Fetch], Fetched], reason: str) -> None:
    """The download ends with the reason; the address is in no text."""
    loader = HttpDownloader(file(), MemoryPool(4096, 3))
    loader.start(0.0)
    fetch = loader.messages_to_send(0.0)[0]
    assert isinstance(fetch, Fetch)
    reply = answer(fetch)
    loader.fetched(replace(reply, fetch=fetch), 0.0)
    event = loader.next_event()
    assert isinstance(event, DownloadFailed)
    assert (event.error.reason, loader.pool.in_use) == (reason, 0)
    assert "secret" not in f"{event.error} {reply!r} {fetch!r}"


@pytest.mark.parametrize("status", [0, 408, 429, 500, 503])
def test_later_and_then_good(status: int) -> None:
    """Asked again after doubling times, until it answers."""
    calls: list[int] = []

    def answer(fetch: Fetch) -> Fetched:
        calls.append(fetch.first)
        return Fetched(fetch, status, error="ConnectError") if len(calls) < 4 else good(fetch)

    content, now = download(HttpDownloader(file(), MemoryPool(4096, 1)), answer)
    assert (content, calls) == (IMAGE, [0, 0, 0, 0, 4096, 8192])
    assert 1.0 + 2.0 + 4.0 <= now <= 1.125 * (1.0 + 2.0 + 4.0)


def test_silence_ends() -> None:
    """A server that never gets better: after `momentum` rounds the download fails, and says why."""
    loader = HttpDownloader(file(), MemoryPool(4096, 3), DownloadConfig(momentum=4))
    download(loader, lambda fetch: Fetched(fetch, 503))
    event = loader.next_event()
    assert isinstance(event, DownloadFailed)
    assert (event.error.reason, "status 503" in event.error.message) == ("stream-silent", True)


@given(
    status=st.integers(0, 599),
    header=st.text(max_size=40) | st.from_regex(r"bytes \d{1,4}-\d{1,4}/\d{1,5}", fullmatch=True),
    body=st.binary(max_size=600),
    first=st.integers(0, 20_000),
    length=st.integers(1, 600),
)
def test_any_answer(status: int, header: str, body: bytes, first: int, length: int) -> None:
    """Only the very range of the very file is let in; nothing escapes."""
    loader = HttpDownloader(file(), MemoryPool(256, 2), DownloadConfig(block_size=256))
    loader.start(0.0)
    loader.messages_to_send(0.0)
    reply = Fetched(Fetch(URL, first, first + length - 1), status, {"content-range": header}, body)
    loader.fetched(reply, 0.0)
    if loader.received:
        assert judge_reply(reply, len(IMAGE)) == ""
        assert (first % 256, len(body)) == (0, 256)


@pytest.mark.parametrize("length", [4096, 4095, 4097])
def test_a_server_without_ranges(length: int) -> None:
    """It will do for a file of one block; of any other length than the job says, it is none."""
    loader = HttpDownloader(file(4096), MemoryPool(4096, 1))
    loader.start(0.0)
    fetch = loader.messages_to_send(0.0)[0]
    assert isinstance(fetch, Fetch)
    loader.fetched(Fetched(fetch, 200, {}, IMAGE[:length]), 0.0)
    event = loader.next_event()
    if length == 4096:
        assert isinstance(event, BlockReceived)
        assert bytes(event.block.data) == IMAGE[:4096]
    else:
        assert isinstance(event, DownloadFailed)
        assert event.error.reason == "http-no-ranges"


def test_an_address_there_must_be() -> None:
    with pytest.raises(RemoteOtaError, match="no address"):
        HttpDownloader(file(url=None), MemoryPool(4096, 1))


# Over real sockets


class Habits(BaseHTTPRequestHandler):
    """A server whose habit is in the path."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        habit = self.path.strip("/").partition("?")[0]
        asked = self.headers["Range"].removeprefix("bytes=").split("-")
        first, last = int(asked[0]), min(int(asked[1]), len(IMAGE) - 1)
        body = IMAGE[first : last + 1]
        self.close_connection = True
        if habit == "silent":
            time.sleep(1.0)
            return
        self.send_response({"redirect": 302, "whole": 200, "expired": 403}.get(habit, 206))
        self.send_header("Connection", "close")
        self.send_header("Location", "/file")
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(IMAGE)}")
        self.send_header("Content-Length", str({"truncated": len(body), "endless": 10**9}.get(habit, len(body))))
        self.end_headers()
        try:
            if habit == "drip":
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(0.02)
            else:
                self.wfile.write(body[:10] if habit == "truncated" else body)
            while habit == "endless":
                self.wfile.write(bytes(65_536))
        except OSError:
            pass

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    """The address of such a server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Habits) as found:
        threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


@pytest.mark.parametrize(
    ("habit", "status", "length"),
    [
        ("file", 206, 4096),
        ("endless", 206, 4097),
        ("whole", 200, 4096),
        ("redirect", 302, 4096),
        ("expired", 403, 4096),
    ],
)
def test_real_answers(server: str, habit: str, status: int, length: int) -> None:
    """The status is told, the body is bounded, a redirect is not followed."""
    with httpx.Client() as client:
        reply = fetch_range(client, Fetch(f"{server}/{habit}", 0, 4095), 10.0)
    assert (reply.status, len(reply.body), reply.error) == (status, length, "")


@pytest.mark.parametrize("habit", ["truncated", "silent", "drip"])
def test_real_failures(server: str, habit: str) -> None:
    """Cut off, silent, or as slow as it can: an answer with status 0, in time, and without the address."""
    with httpx.Client(timeout=0.3) as client:
        reply = fetch_range(client, Fetch(f"{server}/{habit}?signature=secret", 0, 4095), 0.3)
    assert (reply.status, reply.body) == (0, b"")
    assert reply.error
    assert "secret" not in f"{reply!r}"


def test_addresses_that_are_none() -> None:
    with httpx.Client() as client:
        for url in ("ftp://example.com/a", "no address", "http://127.0.0.1:1/a", "http://[::1", "file:///etc/passwd"):
            assert fetch_range(client, Fetch(url, 0, 9), 5.0).status == 0


def test_a_download_over_real_sockets(server: str) -> None:
    """The downloader, the transport and a server, twelve ranges at once."""
    transport = HttpTransport(LocalBroker(VirtualClock()).connect("t"))
    config = DownloadConfig(block_size=256, blocks_per_request=12)
    loader = HttpDownloader(file(url=f"{server}/file"), MemoryPool(256, 12), config)
    loader.start(time.monotonic())
    content, deadline = bytearray(len(IMAGE)), time.monotonic() + 60
    while loader.state is not DownloadState.COMPLETE:
        assert time.monotonic() < deadline
        transport.send(loader.messages_to_send(time.monotonic()))
        for item in transport.receive(0.5):
            if isinstance(item, Fetched):
                loader.fetched(item, time.monotonic())
        loader.handle_timer(time.monotonic())
        while isinstance(event := loader.next_event(), BlockReceived):
            content[event.block.offset : event.block.offset + len(event.block.data)] = event.block.data
            loader.release(event.block)
    transport.close()
    assert bytes(content) == IMAGE


# Whole updates


def last(lab: Lab, job_id: str) -> tuple[str, str]:
    change = lab.history(job_id)[-1]
    return change.status.value, change.details.get("reason", "")


def test_a_reset_in_the_middle() -> None:
    """The journal knows no protocols: after a reset, only what is missing is fetched."""
    lab = Lab(image_size=60_000, web=LocalWeb(delay=0.1), config=OtaConfig(blocks_per_request=4))
    job_id = lab.offer("2.0.0", protocols=("HTTP",))
    lab.run(until=lambda: lab.received >= 8)
    lab.restore_power()
    lab.run()
    assert last(lab, job_id) == ("SUCCEEDED", "accepted v2.0.0")
    assert sum(isinstance(event, Progress) for event in lab.device.events) == 15


def test_http_fails_and_mqtt_goes_on() -> None:
    """Preferred HTTP dies after five ranges; MQTT brings the rest, and only the rest."""
    web = LocalWeb(accident=lambda number, reply: reply if number < 5 else Fetched(reply.fetch, 404))
    config = OtaConfig(protocols=("HTTP", "MQTT"), pool_blocks=2)
    lab = Lab(image_size=60_000, web=web, config=config)
    job_id = lab.offer("2.0.0", protocols=("MQTT", "HTTP"))
    lab.run()
    assert last(lab, job_id)[0] == "SUCCEEDED"
    first, second = (event.missing for event in lab.device.events if isinstance(event, UpdateStarted))
    assert (first, second) == (15, 15 - web.served // 4096)
    assert 0 < second < first


def test_no_web_at_all() -> None:
    """A transport without HTTP says so at once: the update fails, and says what is missing."""
    lab = Lab(image_size=20_000)
    lab.web = LocalWeb()
    lab.provider.jobs.fill = lambda body, now: body
    job_id = lab.offer("2.0.0", protocols=("HTTP",))
    lab.run()
    assert "wrap it in coreota.httptransport.HttpTransport" in last(lab, job_id)[1]
    assert lab.clock.now() == 0.0


def test_addresses_are_not_shown() -> None:
    """Not by the file, not by the request for its bytes."""
    assert "secret" not in f"{file()!r} {Fetch(URL, 0, 9)!r}"
