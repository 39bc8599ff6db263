"""What `coreota certs` makes, used: mutual TLS on a real mosquitto and on the embedded broker, things kept apart."""

import json
import os
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from brokers import free_port, running_mosquitto
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from paho.mqtt.enums import CallbackAPIVersion

from coreota.certificates import check_chain
from coreota.certstool import make_certificates
from coreota.cli import main
from coreota.demo import ProviderThread
from coreota.errors import LocalOtaError
from coreota.mqtt import PahoTransport, tls_context
from coreota.provider.guard import PROVIDER, GuardedBroker, server_tls
from coreota.provider.ota import UpdateFile, UpdateProvider
from coreota.provider.service import ProviderOptions, ProviderServer
from coreota.provider.streams import BytesContent
from coreota.signing import load_private_key
from coreota.sim.lab import firmware, lab_key
from coreota.topics import Message, Subscribe
from coreota.transport import Connected, Disconnected, Incoming

THINGS = ["pump-7", "pump-8"]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command makes for two things."""
    folder = tmp_path_factory.mktemp("certs") / "pki"
    ports = ["--port", str(free_port()), "--provider-port", str(free_port())]
    assert main(["certs", str(folder), "--thing", THINGS[0], "--thing", THINGS[1], *ports]) == 0
    return folder


@contextmanager
def mosquitto_of(pki: Path) -> Iterator[tuple[int, int]]:
    """A real mosquitto with the generated configuration; its ports for things and for the provider."""
    text = (pki / "mosquitto.conf").read_text()
    ports = [int(line.split()[1]) for line in text.splitlines() if line.startswith("listener")]
    with running_mosquitto(pki / "started.conf", text, ports[1]):
        yield ports[0], ports[1]


@contextmanager
def broker_of(kind: str, pki: Path) -> Iterator[tuple[int, int]]:
    """One of the two brokers that keep things apart."""
    with ExitStack() as stack:
        if kind == "mosquitto":
            yield stack.enter_context(mosquitto_of(pki))
        else:
            tls = server_tls(pki / "ca.crt", pki / "broker.crt", pki / "broker.key")
            port = stack.enter_context(GuardedBroker(tls=tls)).port
            yield port, port


def test_names_of_the_broker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed is what stands in the certificate; a name that came too late is refused."""
    pki, away = tmp_path / "pki", tmp_path / "away"
    assert main(["certs", str(pki), "--thing", "lamp", "--host", "192.0.2.7", "--host", "broker.example"]) == 0
    first = capsys.readouterr().out
    assert "the broker, called broker.example, 192.0.2.7, localhost, 127.0.0.1, ::1" in first
    assert f"provider  coreota provider --tls {pki} --mqtt-host 0.0.0.0 --name 192.0.2.7" in first
    assert "listener 8883 0.0.0.0" in (pki / "mosquitto.conf").read_text()
    assert main(["certs", str(pki), "--thing", "door", "--host", "192.0.2.7"]) == 0
    assert "kept  broker.crt broker.key" in (again := capsys.readouterr().out)
    assert again.splitlines()[-5] == first.splitlines()[-5]
    before = (pki / "broker.crt").read_bytes()
    assert main(["certs", str(pki), "--host", "other.example"]) == 2
    assert "broker.crt is there already, and is not for other.example" in capsys.readouterr().err
    (pki / "broker.crt").write_bytes(b"none")
    assert main(["certs", str(pki)]) == 2
    assert "broker.crt names no host" in capsys.readouterr().err
    (pki / "broker.crt").write_bytes(before)
    assert main(["certs", str(away)]) == 0
    assert "listener 8883 127.0.0.1" in (away / "mosquitto.conf").read_text()


both = pytest.mark.parametrize("kind", ["mosquitto", "embedded"])


def thing_tls(pki: Path, name: str) -> ssl.SSLContext:
    place = pki / ("provider" if name == PROVIDER else f"things/{name}")
    return tls_context(pki / "ca.crt", f"{place}.crt", f"{place}.key")


@contextmanager
def connected(pki: Path, port: int, name: str, client_id: str | None = None) -> Iterator[PahoTransport]:
    """A client that the broker has let in."""
    transport = PahoTransport("127.0.0.1", port, client_id=client_id or name, tls=thing_tls(pki, name))
    try:
        wait_for(Connected, transport)
        yield transport
    finally:
        transport.close()


def wait_for(kind: type[Incoming], transport: PahoTransport, limit: float = 10) -> Incoming:
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        for one in transport.receive(0.05):
            if isinstance(one, kind):
                return one
    raise AssertionError(f"no {kind.__name__}")


def subscribe(transport: PahoTransport, *filters: str) -> None:
    """Subscribe, and wait until the broker has said yes."""
    transport.send([Subscribe(one) for one in filters])
    while not transport.subscribed:
        assert transport.receive(0.02) == []


# The files


def test_usages_and_rights(pki: Path) -> None:
    """Each certificate is for one thing, and keys are for their owner alone."""
    files = {str(path.relative_to(pki)): path for path in pki.rglob("*") if path.is_file()}
    keys = {name for name in files if name.endswith(".key")}
    assert {name: stat.S_IMODE(files[name].stat().st_mode) for name in keys} == dict.fromkeys(keys, 0o600)
    assert len(keys) == 6
    usages = {
        "broker.crt": ExtendedKeyUsageOID.SERVER_AUTH, "provider.crt": ExtendedKeyUsageOID.CLIENT_AUTH,
        "signing.crt": ExtendedKeyUsageOID.CODE_SIGNING,
        **{f"things/{name}.crt": ExtendedKeyUsageOID.CLIENT_AUTH for name in THINGS},
    }  # fmt: skip
    for name, usage in usages.items():
        certificate = x509.load_pem_x509_certificate(files[name].read_bytes())
        extensions = certificate.extensions
        assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [usage], name
        assert extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature, name
        assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca, name
    broker = x509.load_pem_x509_certificate(files["broker.crt"].read_bytes())
    names = broker.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    ca = x509.load_pem_x509_certificate(files["ca.crt"].read_bytes())
    serials = [x509.load_pem_x509_certificate(path.read_bytes()).serial_number for path in pki.rglob("*.crt")]
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, 0)
    assert len(set(serials)) == len(serials)
    signing = x509.load_pem_x509_certificate(files["signing.crt"].read_bytes())
    thing = x509.load_pem_x509_certificate(files["things/pump-7.crt"].read_bytes())
    check_chain([signing], [signing], datetime.now(UTC))
    with pytest.raises(LocalOtaError):
        check_chain([thing], [ca], datetime.now(UTC))  # a device's key signs no firmware


def test_nothing_is_overwritten(pki: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second run makes what is new and touches nothing."""
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in pki.rglob("*") if path.is_file()}
    assert main(["certs", str(pki), "--thing", THINGS[0], "--thing", "pump-9", "--json"]) == 0
    told = {one["what"]: one["made"] for one in json.loads(capsys.readouterr().out)}
    assert {what for what, made in told.items() if made} == {"thing pump-9"}
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["--thing", "a b"], "take 1 to 128 of"),
        (["--thing", "x" * 65], "has room for 64"),
        (["--host", "mqtt://x"], "give a name such as"),
        (["--days", "0"], "take 1 to 7300"),
    ],
)
def test_wrong_words(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], advice: str) -> None:
    """Status 2 and what to do, and no file at all."""
    assert main(["certs", str(tmp_path / "pki"), *words]) == 2
    assert advice in capsys.readouterr().err
    assert list(tmp_path.rglob("*.key")) == []


@pytest.mark.parametrize("lost", ["ca.key", "broker.crt", "things/pump-7.key", "signing.crt"])
def test_half_a_pair_is_refused(tmp_path: Path, lost: str) -> None:
    """Somebody has to look; nothing is made anew behind their back."""
    now = datetime.now(UTC)
    make_certificates(tmp_path, ["pump-7"], ["localhost"], now=now)
    (tmp_path / lost).unlink()
    with pytest.raises(LocalOtaError, match="is missing, and its counterpart is there"):
        make_certificates(tmp_path, ["pump-7"], ["localhost"], now=now)
    assert not (tmp_path / lost).exists()


def test_a_folder_that_mosquitto_cannot_read(tmp_path: Path) -> None:
    with pytest.raises(LocalOtaError, match="has a space in it"):
        make_certificates(tmp_path / "my pki", [], ["localhost"], now=datetime.now(UTC))


# Things kept apart


@both
def test_a_thing_gets_its_own_messages_and_no_others(pki: Path, kind: str) -> None:
    """A subscription to everything below another's name brings nothing."""
    with (
        broker_of(kind, pki) as (port, own),
        connected(pki, own, PROVIDER, "p") as provider,
        connected(pki, port, "pump-7") as thing,
        connected(pki, port, "pump-8") as other,
    ):
        subscribe(thing, "$aws/things/pump-7/#")
        subscribe(other, "$aws/things/pump-8/#")
        if kind == "mosquitto":  # it takes the subscription, and delivers nothing
            subscribe(other, "$aws/things/pump-7/#", "$aws/things/+/jobs/notify", "#")
        for name in THINGS:
            provider.send([Message(f"$aws/things/{name}/jobs/notify", name.encode())])
        provider.receive(0.1)
        assert [wait_for(Message, one) for one in (thing, other)] == [
            Message(f"$aws/things/{name}/jobs/notify", name.encode()) for name in THINGS
        ]
        assert other.receive(0.2) == []


def test_the_embedded_broker_refuses_foreign_subscriptions(pki: Path) -> None:
    for topic_filter in (
        "$aws/things/pump-8/#",
        "$aws/things/+/jobs/notify",
        "#",
        "$share/g/$aws/things/pump-7/#",
        "weather",
    ):
        with broker_of("embedded", pki) as (port, _), connected(pki, port, "pump-7") as thing:
            thing.send([Subscribe(topic_filter)])
            with pytest.raises(LocalOtaError, match="refuses the subscription"):
                wait_for(Message, thing)


FORBIDDEN = [
    "$aws/things/pump-8/jobs/start-next",  # another's request
    "$aws/things/pump-8/jobs/notify-next",
    "$aws/things/pump-7/jobs/start-next/accepted",  # its own reply
    "$aws/things/pump-7/streams/s/data/cbor",
    "$aws/things/pump-8/streams/s/data/cbor",
    "$aws/events/job/j/completed",
    "weather",
]


@both
def test_a_thing_says_only_what_it_may(pki: Path, kind: str) -> None:
    """Nothing else reaches even the provider, which hears everything."""
    with broker_of(kind, pki) as (port, own), connected(pki, own, PROVIDER, "p") as provider:
        subscribe(provider, "$aws/#", "weather")
        for topic in FORBIDDEN:
            with connected(pki, port, "pump-7") as thing:
                thing.send([Message(topic, b"forbidden")])
                if kind == "embedded":
                    wait_for(Disconnected, thing)
                else:
                    thing.receive(0.05)
        with connected(pki, port, "pump-7") as thing:
            thing.send([Message("$aws/things/pump-7/jobs/start-next", b"allowed")])
            thing.receive(0.1)
            assert wait_for(Message, provider) == Message("$aws/things/pump-7/jobs/start-next", b"allowed")
            assert provider.receive(0.1) == []


@both
def test_a_borrowed_client_id_does_not_help(pki: Path, kind: str) -> None:
    """Who says another's name is taken for the name in its certificate, and the other keeps its connection."""
    with (
        broker_of(kind, pki) as (port, own),
        connected(pki, own, PROVIDER, "p") as provider,
        connected(pki, port, "pump-7") as victim,
        connected(pki, port, "pump-8", client_id="pump-7") as thief,
    ):
        subscribe(victim, "$aws/things/pump-7/#")
        subscribe(thief, "$aws/things/pump-8/#")
        provider.send([Message("$aws/things/pump-7/jobs/notify", b"3")])
        provider.receive(0.1)
        assert wait_for(Message, victim) == Message("$aws/things/pump-7/jobs/notify", b"3")
        assert thief.receive(0.1) == []


@both
def test_a_last_will_is_a_message_too(pki: Path, kind: str) -> None:
    with broker_of(kind, pki) as (port, own), connected(pki, own, PROVIDER, "p") as provider:
        subscribe(provider, "$aws/#")
        for topic in ("$aws/things/pump-8/jobs/start-next", "$aws/things/pump-7/jobs/start-next"):
            dying = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="pump-7")
            dying.tls_set_context(thing_tls(pki, "pump-7"))
            dying.will_set(topic, b"last words")
            dying.connect("127.0.0.1", port)
            while not dying.is_connected():
                dying.loop(0.05)
            sock = dying.socket()
            assert isinstance(sock, socket.socket)
            sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        assert wait_for(Message, provider) == Message("$aws/things/pump-7/jobs/start-next", b"last words")
        assert provider.receive(0.1) == []


@both
def test_strangers_stay_outside(pki: Path, tmp_path: Path, kind: str) -> None:
    """No certificate, one of another authority, one that is for something else, and no TLS at all."""
    make_certificates(tmp_path, ["pump-7"], ["localhost"], now=datetime.now(UTC))
    strangers: list[ssl.SSLContext | None] = [
        tls_context(pki / "ca.crt"),
        tls_context(pki / "ca.crt", tmp_path / "things/pump-7.crt", tmp_path / "things/pump-7.key"),
        tls_context(pki / "ca.crt", pki / "broker.crt", pki / "broker.key"),
        tls_context(pki / "ca.crt", pki / "signing.crt", pki / "signing.key"),
        None,
    ]
    with broker_of(kind, pki) as (port, _):
        for tls in strangers:
            problems: list[str] = []
            transport = PahoTransport("127.0.0.1", port, client_id="pump-7", tls=tls, patient=True)
            transport.on_problem = problems.append
            seen: list[Incoming] = []
            deadline = time.monotonic() + 10
            while not problems and time.monotonic() < deadline:
                seen += transport.receive(0.05)
            transport.close()
            assert problems and not any(isinstance(one, Connected) for one in seen)


def test_a_wrong_name_is_no_broker(tmp_path: Path) -> None:
    """A device refuses a broker that is called otherwise, and says what to look at."""
    make_certificates(tmp_path, ["pump-7"], ["broker.example"], now=datetime.now(UTC))
    with (
        broker_of("embedded", tmp_path) as (port, _),
        pytest.raises(LocalOtaError, match="name that stands in its cert"),
    ):
        PahoTransport("127.0.0.1", port, client_id="pump-7", tls=thing_tls(tmp_path, "pump-7"))


def test_without_tls_replies_are_the_provider_s(tmp_path: Path) -> None:
    """On the loopback interface, the provider has a password; nobody else's reply is handed on."""
    reply = Message("$aws/things/t/jobs/start-next/accepted", b"!")
    with GuardedBroker(secret="s3cret") as broker:
        device = PahoTransport("127.0.0.1", broker.port, client_id="t")
        wait_for(Connected, device)
        subscribe(device, "$aws/things/t/#")
        for username, password in ((None, None), ("provider", "guess"), ("provider", "")):
            liar = PahoTransport("127.0.0.1", broker.port, client_id="liar", username=username, password=password)
            wait_for(Connected, liar)
            liar.send([reply])
            wait_for(Disconnected, liar)
            liar.close()
        provider = PahoTransport("127.0.0.1", broker.port, client_id="p", username="provider", password="s3cret")
        provider.send([reply])
        wait_for(Connected, provider)
        assert wait_for(Message, device) == reply
        assert device.receive(0.1) == []
        device.close()
        provider.close()


# A whole update with nothing but these files


@both
def test_a_whole_update_over_mutual_tls(pki: Path, tmp_path: Path, kind: str) -> None:
    """Signed with the firmware's key, served by the provider's certificate, taken by `coreota device` with its own."""
    key = lab_key("image").public_key()
    (tmp_path / "image.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "v1.bin").write_bytes(firmware("1.0.0", 50_000))
    provider = UpdateProvider()
    signer = load_private_key((pki / "signing.key").read_bytes())
    file = UpdateFile("/device", BytesContent(firmware("2.0.0", 60_000)), "/cert.pem", private_key=signer)
    job_id = provider.create_ota_update("tls", ["pump-7"], [file], time.time())
    with broker_of(kind, pki) as (port, own), ProviderThread(provider, "127.0.0.1", own, thing_tls(pki, PROVIDER)):
        words = {
            "thing": "pump-7", "endpoint": "localhost", "port": port, "ca": pki / "ca.crt",
            "cert": pki / "things/pump-7.crt", "key": pki / "things/pump-7.key",
            "flash": tmp_path / "flash.bin", "flash-size": 1 << 20, "install": tmp_path / "v1.bin",
            "image-key": tmp_path / "image.pem", "certificate": f"/cert.pem={pki / 'signing.crt'}",
        }  # fmt: skip
        arguments = [part for name, value in words.items() for part in (f"--{name}", str(value))]
        program = "import sys; from coreota.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", program, "device", "--once", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ})
    assert done.returncode == 0, done.stdout + done.stderr
    last = provider.jobs.history(job_id, "pump-7")[-1]
    assert (last.status.value, last.details["reason"]) == ("SUCCEEDED", "accepted v2.0.0")


@pytest.mark.parametrize("kind", ["mosquitto", "embedded"])
def test_the_provider_takes_the_folder(pki: Path, tmp_path: Path, kind: str) -> None:
    """`coreota provider --tls DIR`: at its own broker, and towards mosquitto."""
    with ExitStack() as stack:
        options = ProviderOptions(tmp_path, mqtt_port=0, api_port=0, tls=pki)
        if kind == "mosquitto":
            port, own = stack.enter_context(mosquitto_of(pki))
            options = ProviderOptions(tmp_path, broker=f"mqtts://localhost:{own}", api_port=0, tls=pki)
        server = stack.enter_context(ProviderServer(options))
        port = server.mqtt[1] if kind == "embedded" else port
        thing = stack.enter_context(connected(pki, port, "pump-7"))
        subscribe(thing, "$aws/things/pump-7/jobs/notify-next")
        server.provider.jobs.create_job("hello", {}, ["pump-7", "pump-8"], time.time())
        told = wait_for(Message, thing)
        assert isinstance(told, Message)
        assert json.loads(told.payload)["execution"]["jobId"] == "hello"


def test_the_provider_s_broker_is_guarded_without_tls(tmp_path: Path) -> None:
    """The command's embedded broker hands on no reply but the provider's."""
    with ProviderServer(ProviderOptions(tmp_path, mqtt_port=0, api_port=0)) as server:
        device, liar = (PahoTransport("127.0.0.1", server.mqtt[1], client_id=name) for name in ("device", "liar"))
        wait_for(Connected, device)
        subscribe(device, "$aws/things/device/jobs/+")
        liar.send([Message("$aws/things/device/jobs/notify-next", b"{}")])
        wait_for(Disconnected, liar)
        server.provider.jobs.create_job("hello", {}, ["device"], time.time())
        assert b"hello" in wait_for(Message, device).payload  # type: ignore[union-attr]
        device.close()
        liar.close()


def test_an_open_address_needs_tls(tmp_path: Path) -> None:
    with pytest.raises(LocalOtaError, match="without TLS"):
        ProviderServer(ProviderOptions(tmp_path, mqtt_port=0, api_port=0, mqtt_host="0.0.0.0")).start()
