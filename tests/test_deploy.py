"""`coreota provider`, `coreota device` and `coreota deploy` as processes: the three terminals of a developer."""

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from desk import Desk

from coreota.cli import main
from coreota.deployment import Cloud, Deploy, Deployment
from coreota.deploytool import Watch, deploy_line
from coreota.errors import RemoteOtaError
from coreota.gateway import record_of
from coreota.reports import read_failure
from coreota.sim.lab import firmware, lab_key, next_build
from coreota.states import PatchGivenUp

SLOW = "block_size = 512\nblocks_per_request = 2\nstatus_every = 8\nstatus_interval = 0.0"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A desk on which a provider runs, with a signing profile, and HTTP for devices."""
    desk = Desk(tmp_path_factory.mktemp("desk"))
    with desk.provider("--web-port", "0", "--signer", "release=job.key"):
        yield desk


@pytest.fixture
def cloud(desk: Desk) -> Cloud:
    return Cloud(desk.ready["api"])


def run(desk: Desk, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[dict[str, Any]], str]:
    """A command in this process: exit status, JSON lines, complaints."""
    status = main([*words, "--json", "--api", desk.ready["api"]])
    out, errors = capsys.readouterr()
    return status, [json.loads(line) for line in out.splitlines()], errors


def test_three_terminals(desk: Desk) -> None:
    """A provider, a device, a deployment that succeeds; the thing was not known before."""
    with desk.device(ota=SLOW):
        status, records, errors = desk.run(*desk.deploy_words("--thing", "lamp", "--key", "job.key", "--id", "u1"))
        assert (status, errors) == (0, "")
    kinds = [record["event"] for record in records]
    assert [kind for kind in kinds if kind != "Thing"] == ["ThingCreated", "Uploaded", "Created", "Done"]
    last = [record for record in records if record["event"] == "Thing"][-1]
    assert (last["status"], last["details"]["reason"]) == ("SUCCEEDED", "accepted v2.0.0")
    done = {"event": "Done", "job": "AFR_OTA-u1", "status": "COMPLETED", "things": {"SUCCEEDED": 1}, "ok": True}
    assert records[-1] == done
    assert desk.runs() == ("2.0.0", True)


@pytest.mark.parametrize("way", [("--key", "job.key"), ("--profile", "release", "--protocol", "HTTP")])
def test_patches_beside_the_image(desk: Desk, way: tuple[str, ...]) -> None:
    """Against two old images, of which one is what the device runs: a few blocks are all that it fetches."""
    for number in (7, 8):
        old = (desk.folder / "v1.bin").read_bytes()
        (desk.folder / f"v{number}.bin").write_bytes(firmware(f"{number}.0.0", 0, next_build(old, str(number))))
    thing, update = f"torch-{len(way)}", f"patched-{len(way)}"
    words = desk.deploy_words(
        *way, "--thing", thing, "--id", update, "--from", "v7.bin", "--from", "v1.bin", image="v8.bin"
    )
    with desk.device(thing, "block_size = 256") as device:
        status, records, errors = desk.run(*words)
        assert (status, errors) == (0, "")
    uploads = [record["size"] for record in records if record["event"] == "Uploaded"]
    assert len(uploads) == 3
    assert max(uploads[1:]) < 1500 < uploads[0]
    assert device.stdout is not None
    assert desk.runs(thing) == ("8.0.0", True)
    progress = [r for r in records if r["event"] == "Thing" and "receive" in r["details"]]
    assert all(int(r["details"]["receive"].partition("/")[2]) < 7 for r in progress)


def test_a_group_a_profile_and_http(desk: Desk) -> None:
    """The provider signs; the device is a member of a group, and takes the file over HTTP; told in words."""
    iot = desk.client("iot")
    iot.create_thing(thingName="bulb")
    iot.create_thing_group(thingGroupName="bulbs")
    iot.add_thing_to_thing_group(thingName="bulb", thingGroupName="bulbs")
    words = ["--group", "bulbs", "--profile", "release", "--protocol", "HTTP", "--id", "u2"]
    with desk.device("bulb"):
        deploy = desk.start(*(word for word in desk.deploy_words(*words) if word != "--json"))
        out, errors = deploy.communicate(timeout=60)
    assert (deploy.returncode, errors) == (0, "")
    lines = [line.strip() for line in out.splitlines()]
    assert lines[:2] == [
        "upload  200183 bytes to s3://firmware/u2/v2.bin",
        "update  u2: job AFR_OTA-u2 for bulbs",
    ]
    assert lines[-1] == "done  AFR_OTA-u2 is COMPLETED: 1 SUCCEEDED"
    document = json.loads(iot.get_job_document(jobId="AFR_OTA-u2")["document"])["afr_ota"]
    assert document["protocols"] == ["HTTP"] and "streamname" not in document
    assert desk.runs("bulb") == ("2.0.0", True)


def test_refused(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    """Signed by somebody else: the device says why and what to do, and `coreota status` shows it; exit status 1."""
    with desk.device("oven"):
        words = desk.deploy_words("--thing", "oven", "--key", "other.key", "--id", "u3")
        status, records, _ = desk.run(*words)
    last = [record for record in records if record["event"] == "Thing"][-1]
    assert (status, last["status"], records[-1]["ok"]) == (1, "FAILED", False)
    failure = read_failure(last["details"])
    assert failure and (failure.ours, failure.reason) == (False, "signature-mismatch")
    assert failure.advice == "was it changed after signing, or signed with another key?"
    assert main(["status", "u3", "--api", desk.ready["api"]]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "      oven  FAILED  reason rejected: signature-mismatch: the file is not what was signed for /cert.pem",
        "    advice  was it changed after signing, or signed with another key?",
    ]
    assert desk.runs("oven") == ("1.0.0", True)


def test_provider_killed_in_the_middle(tmp_path: Path) -> None:
    """SIGKILL while blocks arrive; started again on the same state, it goes on, and so do device and operator."""
    desk = Desk(tmp_path)
    first = desk.provider_process()
    with desk.device(ota=SLOW) as device:
        words = desk.deploy_words("--thing", "lamp", "--key", "job.key", "--id", "u1")
        deploy = desk.start(*words)
        assert device.stdout is not None
        while (said := json.loads(device.stdout.readline()))["event"] != "Progress":
            pass
        first.kill()
        first.communicate()
        assert said["received"] < said["total"]
        with desk.provider():
            out, errors = deploy.communicate(timeout=60)
            iot = desk.client("iot")
            executions = iot.list_job_executions_for_job(jobId="AFR_OTA-u1")["executionSummaries"]
    records = [json.loads(line) for line in out.splitlines()]
    assert (deploy.returncode, errors) == (0, "")
    assert records[-1]["things"] == {"SUCCEEDED": 1}
    assert [one["jobExecutionSummary"]["executionNumber"] for one in executions] == [1]
    assert desk.runs() == ("2.0.0", True)


def test_status_and_cancel(desk: Desk, cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    """A device that is off: watched for a while, shown, called off, and seen to be so by who still watches."""
    image, key = str(desk.folder / "v2.bin"), str(desk.folder / "job.key")
    words = ["deploy", image, "--thing", "fan", "--key", key, "--id", "u4", "--timeout", "0"]
    status, records, _ = run(desk, capsys, *words)
    assert (status, records[-1]["status"], records[-1]["things"]) == (1, "IN_PROGRESS", {"QUEUED": 1})
    shown = run(desk, capsys, "status", "u4")[1][0]
    assert (shown["status"], shown["things"]) == ("IN_PROGRESS", {"fan": {"status": "QUEUED", "details": {}}})
    status, records, _ = run(desk, capsys, "cancel", "u4")
    assert (status, records[0]["status"], records[0]["counts"]) == (0, "CANCELED", {"CANCELED": 1})
    watched = Watch(cloud, "AFR_OTA-u4", lambda record: None).follow()
    assert (watched["status"], watched["ok"]) == ("CANCELED", False)
    every = {record["id"]: record["status"] for record in run(desk, capsys, "status")[1]}
    assert every["u4"] == "CANCELED"


def test_cancel_by_force(desk: Desk, cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    """A device that has begun goes on, unless the update is called off by force."""
    deployment = Deployment(desk.folder / "v2.bin", lab_key("job"), ["pump"], update_id="u5", bucket="firmware")
    Deploy(cloud, deployment, lambda record: None).run()
    desk.client("iot-jobs-data").start_next_pending_job_execution(thingName="pump")
    assert run(desk, capsys, "cancel", "u5")[1][0]["things"]["pump"]["status"] == "IN_PROGRESS"
    assert Watch(cloud, "AFR_OTA-u5", lambda record: None).look() is None
    assert run(desk, capsys, "cancel", "u5", "--force")[1][0]["things"]["pump"]["status"] == "CANCELED"


def test_aws(desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With --aws everything comes from the environment; things and buckets are not made in passing."""
    for name, value in {
        "AWS_ENDPOINT_URL": desk.ready["api"], "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "eu-central-1", "AWS_CONFIG_FILE": "/nowhere",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)  # Which is all that boto3 itself looks at
    words = ["deploy", str(desk.folder / "v2.bin"), "--aws", "--key", str(desk.folder / "job.key"), "--json"]
    words += ["--bucket", "of-mine", "--role-arn", "arn:aws:iam::123456789012:role/ota", "--no-wait"]
    words += ["--thing", "heater", "--id", "u6"]
    assert main(words) == 2
    assert "cannot find the thing heater: ResourceNotFoundException" in capsys.readouterr().err
    desk.client("iot").create_thing(thingName="heater")
    assert main(words) == 2
    assert "cannot upload" in capsys.readouterr().err
    desk.client("s3").create_bucket(Bucket="of-mine")
    assert main(words) == 0
    kinds = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]
    assert kinds == ["Uploaded", "Created"]
    assert main(["status", "u6", "--aws", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["things"]["heater"]["status"] == "QUEUED"
    info = desk.client("iot").get_ota_update(otaUpdateId="u6")["otaUpdateInfo"]
    assert info["otaUpdateFiles"][0]["fileLocation"]["s3Location"]["bucket"] == "of-mine"
    words.remove("--role-arn")
    words.remove("arn:aws:iam::123456789012:role/ota")
    assert main(words) == 2
    assert "give --bucket and --role-arn" in capsys.readouterr().err


def test_rules_arrive(desk: Desk, cloud: Cloud) -> None:
    """Rate, abort and timeout are the job's."""
    deployment = Deployment(
        desk.folder / "v2.bin", lab_key("job"), ["fridge"], update_id="u7", bucket="firmware", rate=7, abort=12.5,
        abort_after=3, minutes=9,
    )  # fmt: skip
    job_id = Deploy(cloud, deployment, lambda record: None).run()
    job = desk.client("iot").describe_job(jobId=job_id)["job"]
    assert job["jobExecutionsRolloutConfig"] == {"maximumPerMinute": 7}
    assert job["timeoutConfig"] == {"inProgressTimeoutInMinutes": 9}
    assert job["abortConfig"]["criteriaList"] == [
        {"failureType": "ALL", "action": "CANCEL", "thresholdPercentage": 12.5, "minNumberOfExecutedThings": 3}
    ]


WRONG = {
    "no thing": (["--key", "job.key"], "there is no thing and no group"),
    "no key": (["--thing", "x"], "give either --key or --profile"),
    "both": (["--thing", "x", "--key", "job.key", "--profile", "p"], "give either --key or --profile"),
    "key is none": (["--thing", "x", "--key", "v1.bin"], "no private key can be read"),
    "no key file": (["--thing", "x", "--key", "none.key"], "the key none.key"),
    "no group": (["--group", "none", "--key", "job.key"], "cannot find the group none"),
    "wrong id": (["--thing", "x", "--key", "job.key", "--id", "a b"], "otaUpdateId"),
    "wrong thing": (["--thing", "a b", "--key", "job.key"], "thingName"),
    "no profile": (["--thing", "x", "--profile", "none"], "there is no signing profile 'none'"),
    "id is taken": (["--thing", "x", "--key", "job.key", "--id", "u8"], "there is an update u8 already"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_words(
    desk: Desk, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit status 2, and one line that says what is wrong."""
    monkeypatch.chdir(desk.folder)
    words, said = WRONG[name]
    if "u8" in words:
        run(desk, capsys, "deploy", "v2.bin", "--no-wait", *words)
    status, _, errors = run(desk, capsys, "deploy", "v2.bin", "--no-wait", *words)
    assert (status, said in errors, errors.count("\n")) == (2, True, 1), errors


def test_nobody_there(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    """No provider; an unknown update; an image that is none."""
    assert main(["status", "--api", "http://127.0.0.1:1"]) == 2
    assert "is `coreota provider` running?" in capsys.readouterr().err
    assert run(desk, capsys, "status", "none")[2].startswith("coreota: cannot see the update none: ResourceNotFound")
    assert run(desk, capsys, "cancel", "none")[0] == 2
    assert "there is no file" in run(desk, capsys, "deploy", "none.bin", "--thing", "x", "--key", "y")[2]
    nowhere = ("deploy", str(desk.folder / "v2.bin"), "--group", "none", "--key", str(desk.folder / "job.key"))
    assert "make it: aws iot create-thing-group --thing-group-name none" in run(desk, capsys, *nowhere)[2]


def test_an_id_that_is_taken(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    """The file of the update that is there stays what it was."""
    first, second = ([str(desk.folder / f"v{n}.bin"), "--thing", "twice", "--id", "taken", "--no-wait"] for n in (1, 2))
    assert run(desk, capsys, "deploy", *first, "--key", str(desk.folder / "job.key"))[0] == 0
    held = desk.folder / "state/artifacts/firmware/taken"
    (held / "v1.bin").rename(held / "v2.bin")
    status, records, errors = run(desk, capsys, "deploy", *second, "--key", str(desk.folder / "job.key"))
    assert (status, records, errors) == (2, [], "coreota: there is an update taken already: take another --id\n")
    assert (held / "v2.bin").read_bytes() == (desk.folder / "v1.bin").read_bytes()
    status, _, errors = run(desk, capsys, "deploy", *second, "--key", str(desk.folder / "v1.bin"))
    assert (status, errors.count("its password in COREOTA_KEY_PASSWORD")) == (2, 1)


def test_what_is_said_where_nothing_is(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """People are told that there is no update, and what a queued thing waits for; a script gets no line."""
    monkeypatch.setattr("coreota.deploytool.all_updates", lambda cloud: [])
    assert main(["status", "--api", desk.ready["api"]]) == 0
    assert capsys.readouterr().out == "there are no updates: coreota deploy makes one\n"
    assert run(desk, capsys, "status")[:2] == (0, [])
    waits = {"event": "Thing", "thing": "lamp", "status": "QUEUED", "details": {}}
    assert deploy_line(waits) == "      lamp  QUEUED  until it asks, by this name"


def test_a_patch_that_saves_nothing(desk: Desk) -> None:
    """It is not offered, and that is said."""
    old, words = str(desk.folder / "v1.bin"), desk.deploy_words("--thing", "idle", "--key", "job.key", "--id", "plain")
    status, records, errors = desk.run(*words, "--from", old, "--no-wait")
    assert (status, errors, records[0]) == (0, "", {"event": "NoPatch", "old": old})
    assert deploy_line(records[0]).lstrip() == f"patch  against {old} is no smaller than the image: not offered"
    assert [record["event"] for record in records[1:]] == ["ThingCreated", "Uploaded", "Created"]


def test_ports_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each of the three ports: exit status 2, and which one it is; all that had begun is ended."""
    free = {"--mqtt-port": "0", "--api-port": "0", "--web-port": "0"}
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        port = str(somebody.getsockname()[1])
        for name in free:
            words = [word for pair in {**free, name: port}.items() for word in pair]
            assert main(["provider", "--state", str(tmp_path / "state"), *words]) == 2
            assert port in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--store", "mysql://x"], "store"),
        (["--store", "sqlite:////nowhere/at/all.db"], "the store failed"),
        (["--broker", "http://x"], "is no broker's address"),
        (["--broker", "mqtt://127.0.0.1:1"], "no connection to 127.0.0.1:1"),
        (["--api-port", "70000"], "--api-port 70000"),
        (["--signer", "x"], "write NAME=KEY"),
        (["--share", "a b"], "is no name of a group"),
    ],
)
def test_a_provider_that_cannot_run(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, and one line that says why."""
    ports = [] if "--api-port" in words else ["--api-port", "0"]
    assert main(["provider", "--state", str(tmp_path / "state"), "--mqtt-port", "0", *ports, *words]) == 2
    out, errors = capsys.readouterr()
    assert (said in errors, errors.count("\n"), out) == (True, 1, ""), errors


def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C ends a provider in order, in words too."""
    desk = Desk(tmp_path)
    process = desk.start("provider", "--mqtt-port", "0", "--api-port", "0")
    assert process.stdout is not None
    assert process.stdout.readline().split()[0] == "broker"
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    assert out.splitlines()[-1].endswith("Stopped")


def test_a_patch_that_is_given_up_is_logged() -> None:
    record = record_of(PatchGivenUp("j", RemoteOtaError("the patch is damaged", reason="patch-damaged", advice="a")))
    assert json.loads(json.dumps(record))["event"] == "PatchGivenUp"
    assert "patch is damaged" in json.dumps(record)
