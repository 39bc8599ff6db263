"""The provider's web: addresses that open one file for a while, and a server of ranges over real sockets."""

import json
import logging
import socket
import ssl
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from brokers import TlsBroker
from hypothesis import given
from hypothesis import strategies as st

from coreota.bootloader import McubootBootloader
from coreota.config import OtaConfig
from coreota.demo import ProviderThread
from coreota.device import Device
from coreota.errors import LocalOtaError, RemoteOtaError
from coreota.flash import NorFlash
from coreota.httptransport import HttpTransport, fetch_range
from coreota.mqtt import PahoTransport, SystemClock, WallClock
from coreota.orchestrator import Orchestrator
from coreota.provider.broker import EmbeddedBroker
from coreota.provider.ota import UpdateFile, UpdateProvider, placeholder
from coreota.provider.presign import Presigner
from coreota.provider.streams import BytesContent
from coreota.provider.web import PIECE, Folder, WebServer, answer_get, asked_range
from coreota.signing import CertificateVerifier, self_signed_certificate
from coreota.sim.lab import boot_config, firmware, install, lab_key, update_file
from coreota.states import JobFinished, OrchestratorEvent, Progress, State
from coreota.topics import Fetch, Fetched, Message
from coreota.transport import LocalBroker, VirtualClock, step

IMAGE = bytes(range(256)) * 40
SIGNER = Presigner(b"a secret for the tests", lifetime=60)
NOW = 1_700_000_000.0


def target_of(url: str) -> str:
    """What a client sends for an address: path and query."""
    return "/" + url.partition("://")[2].partition("/")[2]


def reason(target: str, now: float = NOW) -> str:
    try:
        SIGNER.check(target, now)
    except RemoteOtaError as error:
        return error.reason
    return ""


# Addresses


@given(st.text(max_size=60), st.floats(0, 4e9))
def test_what_is_signed_is_good_until_it_expires(name: str, now: float) -> None:
    """As an HTTP client sends it, whatever the name; not one second longer."""
    url = SIGNER.sign(f"https://example.com/{name}", now)
    target = httpx.URL(url).raw_path.decode()
    if "." not in name:  # dot segments are resolved by clients, and so lead elsewhere
        assert reason(target, int(now) + 59) == ""
        assert reason(target, int(now) + 60) == "url-expired"


@given(st.text())
def test_any_text_can_be_signed(text: str) -> None:
    """A job with a strange address stops no provider."""
    assert "?Expires=" in SIGNER.sign(text, 0.0)


@given(st.data())
def test_a_changed_address_is_no_good(data: st.DataObject) -> None:
    """Any one character changed, dropped or put in: refused, and never called too old."""
    target = target_of(SIGNER.sign("https://example.com/pump/2.0.0", NOW))
    at = data.draw(st.integers(0, len(target) - 1))
    new = data.draw(st.characters(codec="ascii"))
    for changed in (
        target[:at] + new + target[at + 1 :],
        target[:at] + target[at + 1 :],
        target[:at] + new + target[at:],
    ):
        if changed != target:
            assert reason(changed) in ("url-forged", "url-unsigned")
            assert reason(changed, NOW + 1e6) in ("url-forged", "url-unsigned")


def test_the_secret_is_not_shown() -> None:
    assert "secret" not in repr(SIGNER)


@pytest.mark.parametrize(("secret", "lifetime"), [(b"x" * 15, 60), (b"x" * 16, 59), (b"x" * 16, 3601)])
def test_signers_that_are_none(secret: bytes, lifetime: int) -> None:
    with pytest.raises(LocalOtaError, match="16 bytes"):
        Presigner(secret, lifetime)


def offered(url: str) -> UpdateProvider:
    """A provider with a job that is to be had over HTTP."""
    provider = UpdateProvider(presign=SIGNER.sign)
    file = UpdateFile("/a", BytesContent(IMAGE), "cert", signature=b"s", url=placeholder(url))
    provider.create_ota_update("u", ["lamp"], [file], NOW, protocols=["HTTP"])
    provider.messages_to_send(NOW)
    return provider


def asked(provider: UpdateProvider, request: str, body: object, now: float) -> str:
    """All that is said in answer."""
    provider.receive(Message(f"$aws/things/lamp/jobs/{request}", json.dumps(body).encode()), now)
    return " ".join(
        message.payload.decode() for message in provider.messages_to_send(now) if isinstance(message, Message)
    )


def test_a_fresh_address_each_time() -> None:
    """However the document goes out, and when."""
    url, provider = "https://example.com/v2.bin", offered("https://example.com/v2.bin")
    for number, request in enumerate(("start-next", "$next/get", "AFR_OTA-u/get")):
        assert SIGNER.sign(url, NOW + 1000 * number) in asked(provider, request, {}, NOW + 1000 * number)
    updated = asked(provider, "AFR_OTA-u/update", {"status": "IN_PROGRESS", "includeJobDocument": True}, NOW)
    assert SIGNER.sign(url, NOW) in updated


@pytest.mark.parametrize("name", ["note", "jobDocument", "execution", "update_data_url"])
def test_a_thing_gets_no_address_for_what_it_writes(name: str) -> None:
    """A placeholder in statusDetails comes back as it is, in every reply."""
    provider, bait = offered("https://example.com/v2.bin"), placeholder("https://example.com/secret")
    body = {"status": "IN_PROGRESS", "statusDetails": {name: bait}, "includeJobExecutionState": True}
    said = asked(provider, "start-next", {"statusDetails": {name: bait}}, NOW)
    said += asked(provider, "AFR_OTA-u/update", body, NOW)
    said += asked(provider, "AFR_OTA-u/get", {}, NOW) + asked(provider, "$next/get", {}, NOW)
    assert (said.count(bait), "secret?Expires" in said) == (4, False)


# Ranges


@given(st.integers(0, 50), st.integers(0, 50) | st.none(), st.integers(1, 40))
def test_ranges(first: int, last: int | None, size: int) -> None:
    """By the definition: those bytes from first to last that there are."""
    found = asked_range(f"bytes={first}-{'' if last is None else last}", size)
    if last is not None and last < first:
        assert found is None
    else:
        assert found is not None
        assert list(found) == [byte for byte in range(size) if first <= byte and (last is None or byte <= last)]


@given(st.text(alphabet="bytes=-0123456789,* \t٣", max_size=30), st.integers(0, 1000))
def test_any_range_header(text: str, size: int) -> None:
    """Understood or not, what goes out is a part of the file."""
    found = asked_range(text, size)
    assert found is None or not found or (found[0] >= 0 and found[-1] < size and found.step == 1)


@given(st.text(max_size=60), st.text(max_size=30))
def test_any_request(target: str, wanted: str) -> None:
    """Nothing escapes, and without a signature nobody learns what there is."""
    answer = answer_get({"a": BytesContent(IMAGE)}, SIGNER, target, wanted, NOW)
    assert answer.status == 403
    assert b"".join(answer.pieces()).startswith(b"<?xml")


def test_a_folder_stays_inside(tmp_path: Path) -> None:
    """Plain files in it and below; no dots, no links out, no folders, no strange names."""
    inside, outside = tmp_path / "public", tmp_path / "outside"
    (inside / "pump").mkdir(parents=True)
    outside.write_bytes(b"secret")
    (inside / "pump" / "2.0.0").write_bytes(IMAGE)
    (inside / ".hidden").write_bytes(b"secret")
    (inside / "link").symlink_to(outside)
    (inside / "near").symlink_to(inside / "pump" / "2.0.0")
    folder = Folder(inside)
    for name in (
        "",
        "pump",
        "../outside",
        "pump/../../outside",
        ".hidden",
        "link",
        str(outside),
        "pump//2.0.0",
        "a\0b",
    ):
        assert folder.get(name) is None, name
    for name in ("pump/2.0.0", "near"):
        content = folder.get(name)
        assert content is not None
        assert (content.size, content.read(256, 3)) == (len(IMAGE), IMAGE[256:259])
    with pytest.raises(LocalOtaError, match="no folder"):
        Folder(outside)


# Over real sockets


class Jump:
    """The time of day, which a test may move on."""

    def __init__(self) -> None:
        self.offset = 0.0

    def now(self) -> float:
        return WallClock().now() + self.offset


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer({"v2 é.bin": BytesContent(IMAGE)}, SIGNER) as found:
        yield found


def test_ranges_over_one_connection(server: WebServer) -> None:
    """Several requests on a connection that is kept; the list of them has no query."""
    url = server.sign(server.url("v2 é.bin"))
    with httpx.Client() as client:
        for first, last in ((0, 0), (0, 4095), (10_000, 99_999), (10_239, 10_239)):
            reply = client.get(url, headers={"Range": f"bytes={first}-{last}"})
            assert (reply.status_code, reply.content) == (206, IMAGE[first : last + 1])
            assert reply.headers["content-range"] == f"bytes {first}-{min(last, 10_239)}/10240"
        whole = client.get(url)
        assert (whole.status_code, whole.content, whole.headers["content-length"]) == (200, IMAGE, "10240")
        beyond = client.get(url, headers={"Range": "bytes=10240-"})
        assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */10240")
    assert [status for _, _, status in server.seen] == [206, 206, 206, 206, 200, 416]
    assert "Signature" not in repr(server.seen)


def test_refusals(server: WebServer, capfd: pytest.CaptureFixture[str]) -> None:
    """Codes as S3 has them; other methods and noise are answered too; nothing is printed."""
    with httpx.Client() as client:
        unsigned = client.get(server.url("v2 é.bin"))
        old = client.get(SIGNER.sign(server.url("v2 é.bin"), time.time() - 61))
        forged = client.get(server.sign(server.url("v2 é.bin"))[:-1] + "x")
        missing = client.get(server.sign(server.url("v3.bin")))
        methods = [client.request(method, server.url("v2 é.bin")).status_code for method in ("HEAD", "PUT", "DELETE")]
    assert [unsigned.status_code, old.status_code, forged.status_code, missing.status_code] == [403, 403, 403, 404]
    assert "<Message>Request has expired<" in old.text
    assert "expired" not in unsigned.text + forged.text
    assert methods == [501, 501, 501]
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"\x16\x03\x01 noise\r\n\r\n")
        assert b"400" in connection.recv(1000)
    assert capfd.readouterr() == ("", "")


def test_a_body_is_no_second_request(server: WebServer) -> None:
    """What follows a GET that says it has a body is not taken for a request."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n")
        said = b""
        while piece := connection.recv(1000):
            said += piece
    assert (said.count(b"HTTP/1.1 403"), len(server.seen)) == (1, 1)


class Endless:
    """A gigabyte that is nowhere."""

    size = 1 << 30

    def read(self, offset: int, length: int) -> bytes:
        return bytes(length)


class Shrunk:
    """A file that became shorter after it was listed."""

    size = 3 * PIECE

    def read(self, offset: int, length: int) -> bytes:
        return bytes(length if offset < PIECE else 7)


class Broken:
    """A store that has its bad day."""

    @property
    def size(self) -> int:
        raise RuntimeError("the store is down")

    def read(self, offset: int, length: int) -> bytes:
        raise RuntimeError("the store is down")


def test_large_files_take_no_memory() -> None:
    """A hundred megabytes of a gigabyte go out through a few pieces."""
    with WebServer({"big": Endless()}) as server, httpx.stream("GET", server.url("big")) as reply:
        assert reply.headers["content-length"] == str(1 << 30)
        tracemalloc.start()
        got = 0
        for piece in reply.iter_raw():
            got += len(piece)
            if got > 100_000_000:
                break
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 * PIECE


def test_a_file_that_shrinks_breaks_off() -> None:
    """The reader sees that something is missing, and the transport says so."""
    with WebServer({"f": Shrunk(), "g": Broken()}) as server:
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(server.url("f"))
        assert httpx.get(server.url("g")).status_code == 500


def test_no_more_readers_than_places() -> None:
    """One more is closed at once; when one leaves there is room again."""
    with WebServer({"f": BytesContent(IMAGE)}, most=2) as server:
        with httpx.Client() as one, httpx.Client() as two:
            assert [client.get(server.url("f")).status_code for client in (one, two)] == [200, 200]
            with pytest.raises(httpx.HTTPError):
                httpx.get(server.url("f"))
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                assert httpx.get(server.url("f")).content == IMAGE
                break
            except httpx.HTTPError:
                time.sleep(0.01)
        else:
            raise AssertionError("the places were not given back")


def test_a_taken_port() -> None:
    with WebServer({}) as server, pytest.raises(LocalOtaError, match="nobody can listen"):
        WebServer({}, port=server.port)


def wait_for(transport: HttpTransport) -> Fetched:
    """The next answer."""
    for _ in range(200):
        for item in transport.receive(0.1):
            if isinstance(item, Fetched):
                return item
    raise AssertionError("no answer")


def test_tls(mosquitto_tls: TlsBroker) -> None:
    """The certificate is checked: our own authority is believed only by who was told to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(mosquitto_tls.folder / "server.crt", mosquitto_tls.folder / "server.key")
    with WebServer({"v2.bin": BytesContent(IMAGE)}, SIGNER, tls=context) as server:
        url = server.sign(server.url("v2.bin"))
        assert url.startswith("https://127.0.0.1:")
        told = httpx.Client(verify=ssl.create_default_context(cafile=str(mosquitto_tls.ca)))
        replies = []
        for client in (told, None):
            transport = HttpTransport(LocalBroker(VirtualClock()).connect("t"), client)
            transport.send([Fetch(url, 256, 511)])
            replies.append(wait_for(transport))
            transport.close()
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")  # no TLS at all
            assert b"403" not in connection.recv(1000)
    assert [(reply.status, reply.body) for reply in replies] == [(206, IMAGE[256:512]), (0, b"")]
    assert [status for _, _, status in server.seen] == [206]


def test_no_log_shows_a_signature(server: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    """However much is logged: the path is told, the query never."""
    caplog.set_level(logging.DEBUG)
    with httpx.Client() as client:
        reply = fetch_range(client, Fetch(server.sign(server.url("v2 é.bin")), 0, 9), 5.0)
    assert reply.body == IMAGE[:10]
    assert "/v2%20%C3%A9.bin" in caplog.text
    assert "Signature" not in caplog.text


# A whole update


class World:
    """A thing with its flash, a provider, a broker and a web server, all real but the flash."""

    def __init__(self, files: dict[str, BytesContent], clock: Jump) -> None:
        self.server = WebServer(files, SIGNER, clock=clock)
        self.provider = UpdateProvider(presign=lambda url, now: self.server.sign(url))
        self.events: list[OrchestratorEvent] = []
        config = boot_config(80_000)
        flash = NorFlash(2 * config.primary[1])
        install(flash, config, firmware("1.0.0", 60_000))
        self.bootloader = McubootBootloader(flash, config, [lab_key("image").public_key()])

    def offer(self, image: bytes) -> str:
        file = replace(update_file(image, lab_key("job")), url=placeholder(self.server.url("v2.bin")))
        return self.provider.create_ota_update("v2", ["thing"], [file], time.time(), protocols=["HTTP"])

    def make(self, boot: int, now: float) -> Orchestrator:
        verifier = CertificateVerifier({"/cert.pem": self_signed_certificate(lab_key("job"), "test")})
        config = OtaConfig(protocols=("HTTP",), block_size=1024, blocks_per_request=4, pool_blocks=8)
        return Orchestrator("thing", self.bootloader, verifier, config=config, token_prefix=f"{boot}.", now=now)

    def run(self) -> None:
        """Until the job has ended, and the device waits for the next one."""
        deadline, clock = time.monotonic() + 60, SystemClock()
        with EmbeddedBroker() as broker, ProviderThread(self.provider, "127.0.0.1", broker.port), self.server:
            transport = HttpTransport(PahoTransport("127.0.0.1", broker.port, client_id="thing"))
            device = Device(self.bootloader, self.make, transport.reset)
            device.on_event = self.heard
            device.boot(clock.now())
            ended = False
            while not (ended and device.orchestrator.state is State.WAITING_FOR_JOB):
                assert time.monotonic() < deadline, (device.orchestrator.state, self.events[-3:])
                step(device, transport, clock, 0.1)
                ended = any(isinstance(event, JobFinished) for event in self.events)
            transport.close()

    def heard(self, event: OrchestratorEvent) -> None:
        self.events.append(event)


def test_a_whole_update() -> None:
    """Over a real broker and a real web server: every block by a range, installed, tried, confirmed."""
    image = firmware("2.0.0", 60_000)
    world = World({"v2.bin": BytesContent(image)}, Jump())
    job_id = world.offer(image)
    world.run()
    end = world.provider.jobs.history(job_id, "thing")[-1]
    assert (end.status.value, end.details["reason"]) == ("SUCCEEDED", "accepted v2.0.0")
    assert (str(world.bootloader.running), world.bootloader.on_trial) == ("2.0.0", False)
    assert {status for _, _, status in world.server.seen} == {206}
    ranges = [wanted.removeprefix("bytes=").split("-") for _, wanted, _ in world.server.seen]
    blocks = {block for first, last in ranges for block in range(int(first) // 1024, int(last) // 1024 + 1)}
    assert blocks == set(range(-(-len(image) // 1024)))
    assert any(int(last) - int(first) + 1 > 1024 for first, last in ranges)  # several blocks in one range
    received = [event.received for event in world.events if isinstance(event, Progress)]
    assert received == list(range(1, len(blocks) + 1))  # each is let in once, also where a slow machine asked twice


def test_addresses_that_expire_on_the_way() -> None:
    """An hour passes after ten blocks: the web server refuses, the provider signs afresh, the rest comes."""
    image, clock = firmware("2.0.0", 60_000), Jump()
    world = World({"v2.bin": BytesContent(image)}, clock)
    job_id = world.offer(image)
    hear = world.heard

    def heard(event: OrchestratorEvent) -> None:
        hear(event)
        if isinstance(event, Progress) and event.received == 10:
            clock.offset += 3600

    world.heard = heard  # type: ignore[method-assign]
    world.run()
    last = world.provider.jobs.history(job_id, "thing")[-1]
    assert (last.status.value, last.details["reason"]) == ("SUCCEEDED", "accepted v2.0.0")
    assert {status for _, _, status in world.server.seen} == {206, 403}
    received = [event.received for event in world.events if isinstance(event, Progress)]
    assert received == list(range(1, -(-len(image) // 1024) + 1))  # no block came twice
