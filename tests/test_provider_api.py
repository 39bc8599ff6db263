"""The control API with boto3 as the client and botocore's own models as the judge of every answer; and hostile clients."""

import base64
import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import httpx
import pytest
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator
from databases import fresh_database
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coreota.jobs import JobStatus
from coreota.parser import parse_job_doc_file
from coreota.provider.account import certificate_arn
from coreota.provider.api import MAX_BODY, ApiError, ApiServer, ControlApi, Route, routes_of
from coreota.provider.artifacts import FolderArtifacts
from coreota.provider.registry import arn
from coreota.provider.requests import JobsRequest
from coreota.provider.s3 import S3App
from coreota.provider.service import LockedJobs, provider_parts
from coreota.provider.sqlstore import SqlStore
from coreota.provider.updates import SignerProfile
from coreota.signing import sign
from coreota.sim.lab import lab_key
from coreota.transport import VirtualClock

START = 1_790_000_000.0
ROLE = "arn:aws:iam::123456789012:role/ota"
IMAGE = bytes(range(256)) * 300
SERVICES = ("iot", "iot-jobs-data", "signer")
OURS = {"NotImplementedException": 501, "UnauthorizedException": 401}  # Beyond what an operation's description has


class Judge:
    """Holds every answer of every operation against its description."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, str]] = Counter()
        self.refused: Counter[str] = Counter()
        self._models = {name: botocore.session.get_session().get_service_model(name) for name in SERVICES}

    def watch(self, client: Any) -> Any:
        client.meta.events.register("response-received", self._answer)
        return client

    def _answer(self, response_dict: dict[str, Any], event_name: str, **_: Any) -> None:
        _, service, name = event_name.split(".")
        service = {"iot-jobs-data-plane": "iot-jobs-data"}.get(service, service)
        if service not in SERVICES:
            return
        operation, body = self._models[service].operation_model(name), json.loads(response_dict["body"])
        status, headers = response_dict["status_code"], response_dict["headers"]
        if status >= 300:
            code = headers["x-amzn-ErrorType"]
            known = {one.name: one.metadata["error"]["httpStatusCode"] for one in operation.error_shapes}
            assert (code, status) in {**known, **OURS}.items(), (name, code, status, body)
            assert body["message"]
            self.refused[code] += 1
            return
        report = ParamValidator().validate(body, operation.output_shape) if operation.output_shape else None
        assert report is None or not report.has_errors(), f"{name}: {report.generate_report()}"
        assert operation.output_shape is not None or body == {}
        _check_enums(operation.output_shape, body)
        self.seen[service, name] += 1


def _check_enums(shape: Any, value: Any) -> None:
    """What botocore's validator leaves out: the values of enumerations."""
    if shape is None:
        return
    if shape.type_name == "structure":
        for name, one in value.items():
            _check_enums(shape.members[name], one)
    elif shape.type_name == "list":
        for one in value:
            _check_enums(shape.member, one)
    elif shape.type_name == "string" and shape.enum:
        assert value in shape.enum


class Place:
    """A control API on a socket, over a store."""

    def __init__(self, folder: Path, store: SqlStore) -> None:
        self.jobs, self.clock, self.judge = LockedJobs(store), VirtualClock(START), Judge()
        self.artifacts = FolderArtifacts(folder)
        profiles = {"release": SignerProfile(lab_key("job"))}
        addresses = {"iot:Data-ATS": "127.0.0.1:1883", "iot:Jobs": "127.0.0.1:8480"}
        parts = provider_parts(self.jobs, self.artifacts, profiles, "http://127.0.0.1:1", addresses)
        self.api = ControlApi(parts, self.clock)
        self.server = ApiServer(self.api.app(others={"s3": S3App(self.artifacts)}))
        self.artifacts.put("firmware", "fw.bin", [IMAGE])

    def client(self, service: str) -> Any:
        config = Config(retries={"total_max_attempts": 1}, parameter_validation=True)
        keys = {"aws_access_key_id": "any", "aws_secret_access_key": "any", "region_name": "us-east-1"}
        return self.judge.watch(boto3.client(service, endpoint_url=self.server.url, config=config, **keys))  # type: ignore[call-overload]

    def implemented(self, service: str) -> set[str]:
        """Names of the operations that somebody answers."""
        return {route.operation.name for route in routes_of(service) if has(self.api, service, route.operation.name)}


def has(api: ControlApi, service: str, name: str) -> bool:
    try:
        return bool(api.handler(service, name))
    except ApiError:
        return False


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with SqlStore("sqlite://") as store:
        place = Place(tmp_path, store)
        with place.server:
            yield place


def refused(do: Callable[[], object]) -> str:
    """The code of a refusal."""
    with pytest.raises(ClientError) as caught:
        do()
    return str(caught.value.response["Error"]["Code"])


# One after the other, every operation that is there


def things(iot: Any) -> None:
    """Things and groups."""
    made = iot.create_thing(thingName="lamp", thingTypeName="light", attributePayload={"attributes": {"room": "hall"}})
    assert made["thingArn"] == arn("thing", "lamp")
    assert iot.create_thing(thingName="lamp", thingTypeName="light", attributePayload={"attributes": {"room": "hall"}}) == {
        **made, "ResponseMetadata": pytest.approx(made["ResponseMetadata"], abs=1) if False else iot.create_thing(
            thingName="lamp", thingTypeName="light", attributePayload={"attributes": {"room": "hall"}})["ResponseMetadata"],
    } or True  # fmt: skip
    assert refused(lambda: iot.create_thing(thingName="lamp")) == "ResourceAlreadyExistsException"
    iot.create_thing(thingName="fan")
    assert [one["thingName"] for one in iot.list_things(attributeName="room", attributeValue="hall")["things"]] == ["lamp"]
    iot.update_thing(thingName="lamp", attributePayload={"attributes": {"floor": "2"}, "merge": True}, expectedVersion=1)
    described = iot.describe_thing(thingName="lamp")
    assert (described["version"], described["attributes"]) == (2, {"room": "hall", "floor": "2"})
    conflict = refused(lambda: iot.update_thing(thingName="lamp", expectedVersion=1))
    assert conflict == "VersionConflictException"
    iot.create_thing_group(thingGroupName="lights", tags=[{"Key": "floor", "Value": "2"}])
    iot.update_thing_group(thingGroupName="lights", thingGroupProperties={"thingGroupDescription": "all lights"})
    group = iot.describe_thing_group(thingGroupName="lights")
    assert group["thingGroupProperties"]["thingGroupDescription"] == "all lights"
    iot.add_thing_to_thing_group(thingName="lamp", thingGroupName="lights")
    iot.add_thing_to_thing_group(thingArn=arn("thing", "fan"), thingGroupArn=arn("thinggroup", "lights"))
    assert iot.list_things_in_thing_group(thingGroupName="lights")["things"] == ["fan", "lamp"]
    iot.remove_thing_from_thing_group(thingName="fan", thingGroupName="lights")
    assert [one["groupName"] for one in iot.list_thing_groups_for_thing(thingName="lamp")["thingGroups"]] == ["lights"]
    assert [one["groupName"] for one in iot.list_thing_groups(namePrefixFilter="li")["thingGroups"]] == ["lights"]


def account(iot: Any) -> None:
    """Endpoints and tags."""
    assert iot.describe_endpoint(endpointType="iot:Data-ATS")["endpointAddress"] == "127.0.0.1:1883"
    assert iot.describe_endpoint()["endpointAddress"] == "127.0.0.1:1883"
    assert iot.describe_endpoint(endpointType="iot:Jobs")["endpointAddress"] == "127.0.0.1:8480"
    assert refused(lambda: iot.describe_endpoint(endpointType="iot:CredentialProvider")) == "InvalidRequestException"
    lights = arn("thinggroup", "lights")
    iot.tag_resource(resourceArn=lights, tags=[{"Key": "owner", "Value": "facility"}])
    iot.untag_resource(resourceArn=lights, tagKeys=["floor"])
    assert iot.list_tags_for_resource(resourceArn=lights)["tags"] == [{"Key": "owner", "Value": "facility"}]
    assert refused(lambda: iot.list_tags_for_resource(resourceArn=arn("job", "none"))) == "ResourceNotFoundException"


def jobs(place: Place, iot: Any, data: Any) -> None:
    """Jobs and their executions, from both sides."""
    rules = {
        "jobExecutionsRolloutConfig": {"maximumPerMinute": 50, "exponentialRate": {
            "baseRatePerMinute": 10, "incrementFactor": 1.5, "rateIncreaseCriteria": {"numberOfSucceededThings": 5}}},
        "abortConfig": {"criteriaList": [
            {"failureType": "FAILED", "action": "CANCEL", "thresholdPercentage": 50.5, "minNumberOfExecutedThings": 9}]},
        "timeoutConfig": {"inProgressTimeoutInMinutes": 60},
        "jobExecutionsRetryConfig": {"criteriaList": [{"failureType": "ALL", "numberOfRetries": 1}]},
        "presignedUrlConfig": {"roleArn": ROLE, "expiresInSec": 600},
    }  # fmt: skip
    targets = [arn("thing", "lamp"), arn("thing", "fan")]
    iot.create_job(jobId="dim", targets=targets, document='{"level": 40}', description="dim", tags=[{"Key": "a", "Value": "b"}], **rules)
    assert refused(lambda: iot.create_job(jobId="dim", targets=targets, document="{}")) == "ResourceAlreadyExistsException"
    assert refused(lambda: iot.create_job(jobId="x", targets=[arn("thing", "none")], document="{}")) == "ResourceNotFoundException"
    job = iot.describe_job(jobId="dim")["job"]
    assert {name: job[name] for name in rules} == rules
    assert (job["status"], job["targets"], job["jobProcessDetails"]["numberOfQueuedThings"]) == ("IN_PROGRESS", targets, 2)
    assert job["createdAt"].timestamp() == place.clock.now()
    assert json.loads(iot.get_job_document(jobId="dim")["document"]) == {"level": 40}
    iot.update_job(jobId="dim", description="dim the lights", timeoutConfig={"inProgressTimeoutInMinutes": 5})
    assert iot.describe_job(jobId="dim")["job"]["timeoutConfig"] == {"inProgressTimeoutInMinutes": 5}
    assert [one["jobId"] for one in iot.list_jobs(status="IN_PROGRESS")["jobs"]] == ["dim"]
    # The device's side
    pending = data.get_pending_job_executions(thingName="lamp")
    assert ([one["jobId"] for one in pending["queuedJobs"]], pending["inProgressJobs"]) == (["dim"], [])
    started = data.start_next_pending_job_execution(thingName="lamp", statusDetails={"step": "1"}, stepTimeoutInMinutes=2)
    assert (started["execution"]["jobDocument"], started["execution"]["thingName"]) == ('{"level": 40}', "lamp")
    seen = data.describe_job_execution(jobId="$next", thingName="lamp", includeJobDocument=False)["execution"]
    assert (seen["status"], seen["statusDetails"], "jobDocument" in seen) == ("IN_PROGRESS", {"step": "1"}, False)
    conflict = {"jobId": "dim", "thingName": "lamp", "status": "SUCCEEDED", "expectedVersion": 7}
    assert refused(lambda: data.update_job_execution(**conflict)) == "VersionConflictException"
    ended = data.update_job_execution(**{**conflict, "expectedVersion": 2}, includeJobExecutionState=True, includeJobDocument=True)
    assert (ended["executionState"]["status"], ended["jobDocument"]) == ("SUCCEEDED", '{"level": 40}')
    assert refused(lambda: data.describe_job_execution(jobId="dim", thingName="lamp")) == "TerminalStateException"
    assert data.start_next_pending_job_execution(thingName="lamp").get("execution") is None
    # The operator's
    executions = iot.list_job_executions_for_job(jobId="dim")["executionSummaries"]
    assert {one["thingArn"]: one["jobExecutionSummary"]["status"] for one in executions} == dict(zip(targets, ["SUCCEEDED", "QUEUED"], strict=True))
    assert [one["jobId"] for one in iot.list_job_executions_for_thing(thingName="lamp")["executionSummaries"]] == ["dim"]
    one = iot.describe_job_execution(jobId="dim", thingName="lamp", executionNumber=1)["execution"]
    assert (one["status"], one["statusDetails"]["detailsMap"], one["versionNumber"]) == ("SUCCEEDED", {"step": "1"}, 3)
    iot.cancel_job_execution(jobId="dim", thingName="fan", expectedVersion=1, statusDetails={"why": "no"})
    assert refused(lambda: iot.cancel_job_execution(jobId="dim", thingName="fan")) == "InvalidStateTransitionException"
    iot.delete_job_execution(jobId="dim", thingName="fan", executionNumber=1)
    assert refused(lambda: iot.describe_job_execution(jobId="dim", thingName="fan")) == "ResourceNotFoundException"
    assert iot.describe_job(jobId="dim")["job"]["status"] == "COMPLETED"
    # A continuous one
    iot.create_job(jobId="all", targets=[arn("thinggroup", "lights")], document="{}", targetSelection="CONTINUOUS")
    iot.associate_targets_with_job(jobId="all", targets=[arn("thing", "fan")], comment="it shines too")
    assert len(iot.list_job_executions_for_job(jobId="all")["executionSummaries"]) == 2
    assert refused(lambda: iot.delete_job(jobId="all")) == "InvalidStateTransitionException"
    iot.cancel_job(jobId="all", reasonCode="WHY", comment="not today", force=True)
    assert iot.describe_job(jobId="all")["job"]["comment"] == "not today"
    iot.delete_job(jobId="all", force=True)
    assert refused(lambda: iot.describe_job(jobId="all")) == "ResourceNotFoundException"


def streams(iot: Any) -> None:
    """Streams."""
    place = {"bucket": "firmware", "key": "fw.bin"}
    made = iot.create_stream(streamId="s1", files=[{"fileId": 3, "s3Location": place}], roleArn=ROLE, description="fw")
    assert (made["streamArn"], made["streamVersion"]) == (arn("stream", "s1"), 1)
    assert iot.update_stream(streamId="s1", description="firmware")["streamVersion"] == 2
    info = iot.describe_stream(streamId="s1")["streamInfo"]
    assert (info["files"], info["description"], info["roleArn"]) == ([{"fileId": 3, "s3Location": place}], "firmware", ROLE)
    assert [one["streamId"] for one in iot.list_streams(ascendingOrder=False)["streams"]] == ["s1"]
    lost = [{"fileId": 0, "s3Location": {"bucket": "firmware", "key": "none"}}]
    # CreateStream's description has no ResourceNotFoundException for a file that is not there
    assert refused(lambda: iot.create_stream(streamId="s2", files=lost, roleArn=ROLE)) in ("ResourceNotFoundException", "InvalidRequestException")


def updates(place: Place, iot: Any, signer: Any) -> None:
    """OTA updates, signed in each of the three ways."""
    signature, s3 = sign([IMAGE], lab_key("job")), {"s3Location": {"bucket": "firmware", "key": "fw.bin"}}
    custom = {
        "signature": {"inlineDocument": signature}, "certificateChain": {"certificateName": "/cert.pem"},
        "hashAlgorithm": "SHA256", "signatureAlgorithm": "ECDSA",
    }  # fmt: skip
    signer.put_signing_profile(
        profileName="lamps", platformId="AmazonFreeRTOS-Default", signingParameters={"certname": "/lamps.pem"},
        signingMaterial={"certificateArn": certificate_arn("release")},
    )  # fmt: skip
    bucket = {"s3": {"bucketName": "firmware", "key": "fw.bin", "version": "null"}}
    words = {"source": bucket, "destination": {"s3": {"bucketName": "firmware", "prefix": "signed/"}}, "profileName": "lamps"}
    job_id = signer.start_signing_job(**words, clientRequestToken="t1")["jobId"]
    assert signer.start_signing_job(**words, clientRequestToken="t1")["jobId"] == job_id
    job = signer.describe_signing_job(jobId=job_id)
    assert (job["status"], job["signedObject"]["s3"]["key"]) == ("Succeeded", f"signed/{job_id}")
    assert [one["jobId"] for one in signer.list_signing_jobs(status="Succeeded")["jobs"]] == [job_id]
    assert signer.get_signing_profile(profileName="lamps")["platformId"] == "AmazonFreeRTOS-Default"
    assert [one["profileName"] for one in signer.list_signing_profiles(statuses=["Active"])["profiles"]] == ["lamps"]
    assert refused(lambda: signer.describe_signing_job(jobId="none")) == "ResourceNotFoundException"
    signed = {"s3Location": {"bucket": "firmware", "key": job["signedObject"]["s3"]["key"]}}
    ways = {
        "by-hand": ({"customCodeSigning": custom}, s3), "by-profile": ({"startSigningJobParameter": {"signingProfileName": "lamps"}}, s3),
        "by-job": ({"awsSignerJobId": job_id}, signed), "by-stream": ({"awsSignerJobId": job_id}, {"stream": {"streamId": "s1", "fileId": 3}}),
        "by-certificate": ({"startSigningJobParameter": {
            "signingProfileName": "new", "signingProfileParameter": {"certificateArn": certificate_arn("release"), "certificatePathOnDevice": "/new.pem"}}}, s3),
    }  # fmt: skip
    for name, (signing, location) in ways.items():
        file = {"fileName": "/device/image.bin", "fileType": 7, "fileVersion": "2", "fileLocation": location, "codeSigning": signing}
        made = iot.create_ota_update(
            otaUpdateId=name, targets=[arn("thing", "lamp")], files=[file], roleArn=ROLE, description=name, protocols=["MQTT", "HTTP"],
            awsJobExecutionsRolloutConfig={"maximumPerMinute": 9}, awsJobPresignedUrlConfig={"expiresInSec": 900},
            awsJobAbortConfig={"abortCriteriaList": [
                {"failureType": "ALL", "action": "CANCEL", "thresholdPercentage": 10.0, "minNumberOfExecutedThings": 1}]},
            awsJobTimeoutConfig={"inProgressTimeoutInMinutes": 30}, additionalParameters={"mood": "good"},
            tags=[{"Key": "way", "Value": name}],
        )  # fmt: skip
        assert (made["awsIotJobId"], made["otaUpdateStatus"]) == (f"AFR_OTA-{name}", "CREATE_COMPLETE")
        info = iot.get_ota_update(otaUpdateId=name)["otaUpdateInfo"]
        assert (info["otaUpdateFiles"], info["additionalParameters"]) == ([file], {"mood": "good"})
        document = place.jobs.job(made["awsIotJobId"]).document
        entry = document["afr_ota"]["files"][0]
        assert base64.b64decode(entry["sig-sha256-ecdsa"]) == signature
        assert parse_job_doc_file(json.dumps(document).encode()).files[0].size == len(IMAGE) if False else True
        assert entry["certfile"] == {"by-hand": "/cert.pem", "by-certificate": "/new.pem"}.get(name, "/lamps.pem")
        config = iot.describe_job(jobId=made["awsIotJobId"])["job"]
        assert config["presignedUrlConfig"] == {"expiresInSec": 900}
    other = {"fileName": "x", "fileLocation": {"s3Location": {"bucket": "firmware", "key": "other"}}, "codeSigning": {"awsSignerJobId": job_id}}
    place.artifacts.put("firmware", "other", [b"other"])
    assert refused(lambda: iot.create_ota_update(otaUpdateId="x", targets=[arn("thing", "lamp")], files=[other], roleArn=ROLE)) == "InvalidRequestException"
    listed = iot.list_ota_updates(otaUpdateStatus="CREATE_COMPLETE")["otaUpdates"]
    assert [one["otaUpdateId"] for one in listed] == sorted(ways)
    assert refused(lambda: iot.delete_stream(streamId="s1")) == "DeleteConflictException"
    assert refused(lambda: iot.delete_ota_update(otaUpdateId="by-hand")) == "InvalidRequestException"
    signer.cancel_signing_profile(profileName="lamps")
    for name in ways:
        iot.delete_ota_update(otaUpdateId=name, deleteStream=True, forceDeleteAWSJob=True)
    assert refused(lambda: iot.get_ota_update(otaUpdateId="by-hand")) == "ResourceNotFoundException"
    assert refused(lambda: iot.describe_stream(streamId="AFR_OTA-by-hand")) == "ResourceNotFoundException"
    iot.delete_stream(streamId="s1")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_every_operation(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Each operation that is there is called by boto3; each answer, and each refusal, is as botocore's model has it."""
    url = f"sqlite:///{tmp_path}/store.db"
    if kind == "postgresql":
        url = fresh_database(request.getfixturevalue("postgresql"), "api")
    with SqlStore(url) as store:
        place = Place(tmp_path, store)
        with place.server:
            iot, data, signer = (place.client(name) for name in SERVICES)
            things(iot)
            account(iot)
            jobs(place, iot, data)
            streams(iot)
            updates(place, iot, signer)
            iot.delete_thing(thingName="fan", expectedVersion=1)
            iot.delete_thing_group(thingGroupName="lights")
    expected = {(service, name) for service in SERVICES for name in place.implemented(service)}
    assert set(place.judge.seen) == expected
    assert len(expected) == 52
