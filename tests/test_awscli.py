"""The `aws` command line from PyPI against `coreota provider`: upload, sign, create an update, follow a device."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from desk import Desk

from coreota.signing import sign
from coreota.sim.lab import lab_key

Aws = Callable[..., Any]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> str:
    """`aws`, in an environment of its own: it needs an older docutils than the site's builder does."""
    folder = tmp_path_factory.mktemp("awscli")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", "awscli>=1.40"]
    installed = subprocess.run(pip, capture_output=True, text=True)
    if installed.returncode:
        if os.environ.get("CI"):
            pytest.fail(f"the aws command line cannot be installed: {installed.stderr}")
        pytest.skip("the aws command line cannot be installed")
    return str(folder / "bin" / "aws")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    with desk.provider("--signer", "release=job.key"):
        yield desk


@pytest.fixture(scope="module")
def aws(command: str, desk: Desk) -> Aws:
    """Run it with the provider as its endpoint; its answer as JSON, or the text where it is none."""
    home = {"HOME": str(desk.folder), "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_PAGER": ""}
    where = {**os.environ, **home, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": desk.ready["api"]}

    def run(*words: str, fails: bool = False) -> Any:
        done = subprocess.run([command, *words], capture_output=True, text=True, cwd=desk.folder, env=where, timeout=60)
        assert (done.returncode != 0) == fails, done.stderr
        if fails:
            return done.stderr
        return json.loads(done.stdout) if done.stdout.startswith(("{", "[")) else done.stdout

    return run


def test_an_update_from_the_shell(desk: Desk, aws: Aws) -> None:
    """Every step of AWS's own instructions, by a file signed elsewhere, through a stream; a real device updates."""
    aws("s3", "mb", "s3://firmware")
    (desk.folder / "large.bin").write_bytes(os.urandom(9 * 1024 * 1024))
    aws("s3", "cp", "large.bin", "s3://firmware/large.bin")
    aws("s3", "cp", "s3://firmware/large.bin", "back.bin")
    assert (desk.folder / "back.bin").read_bytes() == (desk.folder / "large.bin").read_bytes()
    aws("s3", "cp", "v2.bin", "s3://firmware/lamp/2.0.0.bin")
    listed = aws("s3", "ls", "--recursive", "s3://firmware")
    assert [line.split()[2:] for line in listed.splitlines()] == [
        ["200183", "lamp/2.0.0.bin"],
        ["9437184", "large.bin"],
    ]
    mqtt = desk.ready["mqtt"]
    endpoint = aws("iot", "describe-endpoint", "--endpoint-type", "iot:Data-ATS")["endpointAddress"]
    assert endpoint == f"{mqtt['host']}:{mqtt['port']}"
    target = aws("iot", "create-thing", "--thing-name", "lamp")["thingArn"]
    files = [{"fileId": 0, "s3Location": {"bucket": "firmware", "key": "lamp/2.0.0.bin"}}]
    role = ["--role-arn", "arn:aws:iam::123456789012:role/ota"]
    aws("iot", "create-stream", "--stream-id", "lamp-2", "--files", json.dumps(files), *role)
    (desk.folder / "signature").write_bytes(sign([(desk.folder / "v2.bin").read_bytes()], lab_key("job")))
    (desk.folder / "files.json").write_text(
        json.dumps(
            [
                {
                    "fileName": "/device/image.bin",
                    "fileLocation": {"stream": {"streamId": "lamp-2", "fileId": 0}},
                    "codeSigning": {
                        "customCodeSigning": {
                            "signature": {"inlineDocument": _base64(desk.folder / "signature")},
                            "certificateChain": {"certificateName": "/cert.pem"},
                            "hashAlgorithm": "SHA256",
                            "signatureAlgorithm": "ECDSA",
                        }
                    },
                }
            ]
        )
    )
    words = ["--ota-update-id", "lamp-2", "--targets", target, "--files", "file://files.json", *role]
    made = aws("iot", "create-ota-update", *words, "--protocols", "MQTT", "--target-selection", "SNAPSHOT")
    assert made["awsIotJobId"] == "AFR_OTA-lamp-2"
    assert desk.start(*desk.device_words("lamp"), "--once").wait(60) == 0
    info = aws("iot", "get-ota-update", "--ota-update-id", "lamp-2")["otaUpdateInfo"]
    assert (info["otaUpdateStatus"], info["protocols"], info["targets"]) == ("CREATE_COMPLETE", ["MQTT"], [target])
    execution = aws("iot", "describe-job-execution", "--job-id", made["awsIotJobId"], "--thing-name", "lamp")[
        "execution"
    ]
    assert execution["status"] == "SUCCEEDED"
    assert execution["statusDetails"]["detailsMap"]["reason"] == "accepted v2.0.0"
    assert desk.runs() == ("2.0.0", True)


def test_signed_by_the_provider(desk: Desk, aws: Aws) -> None:
    """A profile and a signing job, then an update by the job's id."""
    aws("s3", "mb", "s3://signed")
    aws("s3", "cp", "v2.bin", "s3://signed/v2.bin")
    material = "certificateArn=arn:aws:acm:us-east-1:000000000000:certificate/release"
    profile = ["--profile-name", "lamps"]
    platform = ["--platform-id", "AmazonFreeRTOS-Default", "--signing-parameters", "certname=/cert.pem"]
    aws("signer", "put-signing-profile", *profile, "--signing-material", material, *platform)
    source, target = "s3={bucketName=signed,key=v2.bin,version=null}", "s3={bucketName=signed,prefix=done/}"
    job = aws("signer", "start-signing-job", *profile, "--source", source, "--destination", target)["jobId"]
    signed = aws("signer", "describe-signing-job", "--job-id", job)
    assert (signed["status"], signed["signedObject"]["s3"]) == (
        "Succeeded",
        {"bucketName": "signed", "key": f"done/{job}"},
    )
    arn = aws("iot", "create-thing", "--thing-name", "fan")["thingArn"]
    place = {"s3Location": {"bucket": "signed", "key": f"done/{job}"}}
    files = [{"fileName": "/device/image.bin", "fileLocation": place, "codeSigning": {"awsSignerJobId": job}}]
    words = ["--ota-update-id", "fan-2", "--targets", arn, "--role-arn", "arn:aws:iam::123456789012:role/ota"]
    aws("iot", "create-ota-update", *words, "--files", json.dumps(files))
    document = json.loads(aws("iot", "get-job-document", "--job-id", "AFR_OTA-fan-2")["document"])
    expected = sign([(desk.folder / "v2.bin").read_bytes()], lab_key("job"))
    file = document["afr_ota"]["files"][0]
    assert (file["filesize"], file["certfile"]) == (200183, "/cert.pem")
    assert file["sig-sha256-ecdsa"] == _base64(expected)


def test_what_is_refused_is_told(aws: Aws) -> None:
    """By the names that a user of AWS knows; and what is not there, by its own name."""
    assert "ResourceNotFoundException" in aws("iot", "describe-thing", "--thing-name", "none", fails=True)
    assert "ListPolicies of iot is not implemented by coreota" in aws("iot", "list-policies", fails=True)
    assert "NoSuchBucket" in aws("s3", "ls", "s3://nowhere", fails=True)
    assert "AssumeRole of sts is not implemented" in aws(
        "sts",
        "assume-role",
        "--role-arn",
        "arn:aws:iam::123456789012:role/ota",
        "--role-session-name",
        "x1",
        fails=True,
    )
    assert aws("sts", "get-caller-identity")["Account"] == "000000000000"


def _base64(what: Path | bytes) -> str:
    return base64.b64encode(what if isinstance(what, bytes) else what.read_bytes()).decode()
