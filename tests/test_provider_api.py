"""The control API: boto3 is the client, botocore's models judge every answer; and hostile clients."""

import base64
import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator
from databases import fresh_database
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coreota.provider.account import certificate_arn
from coreota.provider.api import MAX_BODY, ApiServer, ControlApi, Route, routes_of
from coreota.provider.artifacts import FolderArtifacts
from coreota.provider.codesigning import SignerProfile
from coreota.provider.registry import ApiError, arn
from coreota.provider.s3 import S3App
from coreota.provider.service import LockedJobs, provider_parts
from coreota.provider.sqlstore import SqlStore
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

    def _answer(self, response_dict: dict[str, Any], event_name: str, **more: Any) -> None:
        _, called, name = event_name.split(".")
        service = {"iot-jobs-data-plane": "iot-jobs-data"}.get(called, called)
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
        return self.judge.watch(boto3.client(service, endpoint_url=self.server.url, config=config, **keys))

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
    with SqlStore(f"sqlite:///{tmp_path}/store.db") as store:
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
    again = iot.create_thing(thingName="lamp", thingTypeName="light", attributePayload={"attributes": {"room": "hall"}})
    assert again["thingId"] == made["thingId"]
    assert refused(lambda: iot.create_thing(thingName="lamp")) == "ResourceAlreadyExistsException"
    iot.create_thing(thingName="fan")
    assert [one["thingName"] for one in iot.list_things(attributeName="room", attributeValue="hall")["things"]] == [
        "lamp"
    ]
    iot.update_thing(
        thingName="lamp", attributePayload={"attributes": {"floor": "2"}, "merge": True}, expectedVersion=1
    )
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
        "jobExecutionsRolloutConfig": {
            "maximumPerMinute": 50,
            "exponentialRate": {
                "baseRatePerMinute": 10,
                "incrementFactor": 1.5,
                "rateIncreaseCriteria": {"numberOfSucceededThings": 5},
            },
        },
        "abortConfig": {
            "criteriaList": [
                {
                    "failureType": "FAILED",
                    "action": "CANCEL",
                    "thresholdPercentage": 50.5,
                    "minNumberOfExecutedThings": 9,
                }
            ]
        },
        "timeoutConfig": {"inProgressTimeoutInMinutes": 60},
        "jobExecutionsRetryConfig": {"criteriaList": [{"failureType": "ALL", "numberOfRetries": 1}]},
        "presignedUrlConfig": {"roleArn": ROLE, "expiresInSec": 600},
    }
    targets = [arn("thing", "lamp"), arn("thing", "fan")]
    iot.create_job(
        jobId="dim",
        targets=targets,
        document='{"level": 40}',
        description="dim",
        tags=[{"Key": "a", "Value": "b"}],
        **rules,
    )
    assert (
        refused(lambda: iot.create_job(jobId="dim", targets=targets, document="{}")) == "ResourceAlreadyExistsException"
    )
    assert (
        refused(lambda: iot.create_job(jobId="x", targets=[arn("thing", "none")], document="{}"))
        == "ResourceNotFoundException"
    )
    job = iot.describe_job(jobId="dim")["job"]
    assert {name: job[name] for name in rules} == rules
    assert (job["status"], job["targets"], job["jobProcessDetails"]["numberOfQueuedThings"]) == (
        "IN_PROGRESS",
        targets,
        2,
    )
    assert job["createdAt"].timestamp() == place.clock.now()
    assert json.loads(iot.get_job_document(jobId="dim")["document"]) == {"level": 40}
    iot.update_job(jobId="dim", description="dim the lights", timeoutConfig={"inProgressTimeoutInMinutes": 5})
    assert iot.describe_job(jobId="dim")["job"]["timeoutConfig"] == {"inProgressTimeoutInMinutes": 5}
    assert [one["jobId"] for one in iot.list_jobs(status="IN_PROGRESS")["jobs"]] == ["dim"]
    # The device's side
    pending = data.get_pending_job_executions(thingName="lamp")
    assert ([one["jobId"] for one in pending["queuedJobs"]], pending["inProgressJobs"]) == (["dim"], [])
    started = data.start_next_pending_job_execution(
        thingName="lamp", statusDetails={"step": "1"}, stepTimeoutInMinutes=2
    )
    assert (started["execution"]["jobDocument"], started["execution"]["thingName"]) == ('{"level": 40}', "lamp")
    seen = data.describe_job_execution(jobId="$next", thingName="lamp", includeJobDocument=False)["execution"]
    assert (seen["status"], seen["statusDetails"], "jobDocument" in seen) == ("IN_PROGRESS", {"step": "1"}, False)
    conflict = {"jobId": "dim", "thingName": "lamp", "status": "SUCCEEDED", "expectedVersion": 7}
    assert refused(lambda: data.update_job_execution(**conflict)) == "InvalidRequestException"  # it has no other
    ended = data.update_job_execution(
        **{**conflict, "expectedVersion": 2}, includeJobExecutionState=True, includeJobDocument=True
    )
    assert (ended["executionState"]["status"], ended["jobDocument"]) == ("SUCCEEDED", '{"level": 40}')
    assert refused(lambda: data.describe_job_execution(jobId="dim", thingName="lamp")) == "TerminalStateException"
    assert data.start_next_pending_job_execution(thingName="lamp").get("execution") is None
    # The operator's
    executions = iot.list_job_executions_for_job(jobId="dim")["executionSummaries"]
    assert {one["thingArn"]: one["jobExecutionSummary"]["status"] for one in executions} == dict(
        zip(targets, ["SUCCEEDED", "QUEUED"], strict=True)
    )
    assert [one["jobId"] for one in iot.list_job_executions_for_thing(thingName="lamp")["executionSummaries"]] == [
        "dim"
    ]
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
    assert (info["files"], info["description"], info["roleArn"]) == (
        [{"fileId": 3, "s3Location": place}],
        "firmware",
        ROLE,
    )
    assert [one["streamId"] for one in iot.list_streams(ascendingOrder=False)["streams"]] == ["s1"]
    lost = [{"fileId": 0, "s3Location": {"bucket": "firmware", "key": "none"}}]
    # CreateStream's description has no ResourceNotFoundException for a file that is not there
    assert refused(lambda: iot.create_stream(streamId="s2", files=lost, roleArn=ROLE)) in (
        "ResourceNotFoundException",
        "InvalidRequestException",
    )


def updates(place: Place, iot: Any, signer: Any) -> None:
    """OTA updates, signed in each of the three ways."""
    signature, s3 = sign([IMAGE], lab_key("job")), {"s3Location": {"bucket": "firmware", "key": "fw.bin"}}
    custom = {
        "signature": {"inlineDocument": signature},
        "certificateChain": {"certificateName": "/cert.pem"},
        "hashAlgorithm": "SHA256",
        "signatureAlgorithm": "ECDSA",
    }
    signer.put_signing_profile(
        profileName="lamps",
        platformId="AmazonFreeRTOS-Default",
        signingParameters={"certname": "/lamps.pem"},
        signingMaterial={"certificateArn": certificate_arn("release")},
    )
    bucket = {"s3": {"bucketName": "firmware", "key": "fw.bin", "version": "null"}}
    words = {
        "source": bucket,
        "destination": {"s3": {"bucketName": "firmware", "prefix": "signed/"}},
        "profileName": "lamps",
    }
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
        "by-hand": ({"customCodeSigning": custom}, s3),
        "by-profile": ({"startSigningJobParameter": {"signingProfileName": "lamps"}}, s3),
        "by-job": ({"awsSignerJobId": job_id}, signed),
        "by-stream": ({"awsSignerJobId": job_id}, {"stream": {"streamId": "s1", "fileId": 3}}),
        "by-certificate": (
            {
                "startSigningJobParameter": {
                    "signingProfileName": "new",
                    "signingProfileParameter": {
                        "certificateArn": certificate_arn("release"),
                        "certificatePathOnDevice": "/new.pem",
                    },
                }
            },
            s3,
        ),
    }
    for name, (signing, location) in ways.items():
        file = {
            "fileName": "/device/image.bin",
            "fileType": 7,
            "fileVersion": "2",
            "fileLocation": location,
            "codeSigning": signing,
        }
        made = iot.create_ota_update(
            otaUpdateId=name,
            targets=[arn("thing", "lamp")],
            files=[file],
            roleArn=ROLE,
            description=name,
            protocols=["MQTT", "HTTP"],
            awsJobExecutionsRolloutConfig={"maximumPerMinute": 9},
            awsJobPresignedUrlConfig={"expiresInSec": 900},
            awsJobAbortConfig={
                "abortCriteriaList": [
                    {
                        "failureType": "ALL",
                        "action": "CANCEL",
                        "thresholdPercentage": 10.0,
                        "minNumberOfExecutedThings": 1,
                    }
                ]
            },
            awsJobTimeoutConfig={"inProgressTimeoutInMinutes": 30},
            additionalParameters={"mood": "good"},
            tags=[{"Key": "way", "Value": name}],
        )
        assert (made["awsIotJobId"], made["otaUpdateStatus"]) == (f"AFR_OTA-{name}", "CREATE_COMPLETE")
        info = iot.get_ota_update(otaUpdateId=name)["otaUpdateInfo"]
        assert (info["otaUpdateFiles"], info["additionalParameters"]) == ([file], {"mood": "good"})
        document = place.jobs.job(made["awsIotJobId"]).document
        entry = document["afr_ota"]["files"][0]
        assert base64.b64decode(entry["sig-sha256-ecdsa"]) == signature
        assert entry["certfile"] == {"by-hand": "/cert.pem", "by-certificate": "/new.pem"}.get(name, "/lamps.pem")
        config = iot.describe_job(jobId=made["awsIotJobId"])["job"]
        assert config["presignedUrlConfig"] == {"expiresInSec": 900}
    other = {
        "fileName": "x",
        "fileLocation": {"s3Location": {"bucket": "firmware", "key": "other"}},
        "codeSigning": {"awsSignerJobId": job_id},
    }
    place.artifacts.put("firmware", "other", [b"other"])
    assert (
        refused(
            lambda: iot.create_ota_update(otaUpdateId="x", targets=[arn("thing", "lamp")], files=[other], roleArn=ROLE)
        )
        == "InvalidRequestException"
    )
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
    assert len(expected) == 51


# Operations that are not there


SCOPE = "AWS4-HMAC-SHA256 Credential=any/20261124/us-east-1/{}/aws4_request, SignedHeaders=host, Signature=00"
EVERY = [(service, route) for service in SERVICES for route in routes_of(service)]


def path_of(route: Route, hole: str = "x") -> str:
    """A path that means an operation."""
    pieces = route.operation.http["requestUri"].partition("?")[0].split("/")
    return "/".join(hole if piece.startswith("{") else piece for piece in pieces)


def test_what_is_not_there_says_so_by_name(place: Place) -> None:
    """All other operations of the three services, over a socket: 501, and the name."""
    told, missing = {}, set()
    with httpx.Client(base_url=place.server.url) as client:
        for service, route in EVERY:
            name = route.operation.name
            if has(place.api, service, name):
                continue
            missing.add(name)
            headers = {"authorization": SCOPE.format(service)}
            answer = client.request(route.method, path_of(route), headers=headers)
            assert answer.status_code == 501, (name, answer.text)
            assert answer.headers["x-amzn-errortype"] == "NotImplementedException"
            told[name] = answer.json()["message"]
    words = {route.operation.name: f"{route.operation.name} of {service}" for service, route in EVERY}
    assert told == {name: f"{words[name]} is not implemented by coreota" for name in missing}
    assert len(missing) + 51 == len(EVERY)


def test_other_services(place: Place) -> None:
    """A request for a service of which nobody here has heard."""
    answer = httpx.get(f"{place.server.url}/", headers={"authorization": SCOPE.format("sts")})
    assert (answer.status_code, answer.json()["message"]) == (501, "no operation of sts has GET /")


# Lists in pages


def test_pages(place: Place) -> None:
    """Every list gives the same entries one by one as all at once, also while entries vanish in between."""
    iot, many = place.client("iot"), [f"thing-{number:02}" for number in range(7)]
    for name in many:
        iot.create_thing(thingName=name)
        iot.create_thing_group(thingGroupName=name)
        iot.add_thing_to_thing_group(thingName=name, thingGroupName="thing-00")
        iot.add_thing_to_thing_group(thingName="thing-00", thingGroupName=name)
        files = [{"fileId": 0, "s3Location": {"bucket": "firmware", "key": "fw.bin"}}]
        iot.create_stream(streamId=name, files=files, roleArn=ROLE)
        iot.create_job(jobId=name, targets=[arn("thing", "thing-00")], document="{}")
    iot.create_job(jobId="all", targets=[arn("thing", name) for name in many], document="{}")
    lists = {
        "list_things": ({}, "things", 7),
        "list_thing_groups": ({}, "thingGroups", 7),
        "list_streams": ({}, "streams", 7),
        "list_jobs": ({}, "jobs", 8),
        "list_things_in_thing_group": ({"thingGroupName": "thing-00"}, "things", 7),
        "list_thing_groups_for_thing": ({"thingName": "thing-00"}, "thingGroups", 7),
        "list_job_executions_for_job": ({"jobId": "all"}, "executionSummaries", 7),
        "list_job_executions_for_thing": ({"thingName": "thing-00"}, "executionSummaries", 8),
    }
    for name, (words, member, count) in lists.items():
        whole = getattr(iot, name)(**words)[member]
        pages = iot.get_paginator(name).paginate(**words, PaginationConfig={"PageSize": 3})
        assert [one for page in pages for one in page[member]] == whole
        assert len(whole) == count
    token = iot.list_things(maxResults=3)["nextToken"]
    iot.delete_thing(thingName="thing-02")
    assert [one["thingName"] for one in iot.list_things(nextToken=token)["things"]] == many[3:]
    assert refused(lambda: iot.list_things(nextToken="not one of ours")) == "InvalidRequestException"


def test_placeholders_are_filled_over_http_too(place: Place) -> None:
    """A job document that comes by iot-jobs-data has addresses that can be used."""
    iot, data = place.client("iot"), place.client("iot-jobs-data")
    place.jobs.fill = lambda body, now: json.loads(
        json.dumps(body).replace("${aws:iot:s3-presigned-url:http://x/y}", "http://x/y?signed")
    )
    iot.create_thing(thingName="lamp")
    iot.create_job(
        jobId="j", targets=[arn("thing", "lamp")], document='{"url": "${aws:iot:s3-presigned-url:http://x/y}"}'
    )
    assert "presigned" in iot.get_job_document(jobId="j")["document"]
    document = data.start_next_pending_job_execution(thingName="lamp")["execution"]["jobDocument"]
    assert json.loads(document) == {"url": "http://x/y?signed"}


def test_refused_by_name(place: Place) -> None:
    """What AWS has and this does not, where it is only a member of a request: nothing is left out in silence."""
    iot, target = place.client("iot"), [arn("thing", "lamp")]
    iot.create_thing(thingName="lamp")
    assert refused(lambda: iot.create_thing(thingName="x", billingGroupName="b")) == "InvalidRequestException"
    assert refused(lambda: iot.create_thing_group(thingGroupName="x", parentGroupName="b")) == "InvalidRequestException"
    for words in (
        {"documentSource": "https://s3/x"},
        {"jobTemplateArn": arn("jobtemplate", "x")},
        {"document": "{}", "namespaceId": "n"},
        {"document": "{}", "documentParameters": {"a": "b"}},
        {"document": "[]"},
        {"document": "{"},
        {},
    ):
        assert refused(partial(iot.create_job, jobId="j", targets=target, **words)) == "InvalidRequestException"
    assert iot.list_jobs()["jobs"] == []


# Hostile clients


RAW = {
    "no signature": (b"GET /things HTTP/1.1\r\nhost: localhost\r\n\r\n", 401),
    "another site": (b"GET /things HTTP/1.1\r\nhost: attacker.example\r\nauthorization: SIGNED\r\n\r\n", 400),
    "no host": (b"GET /things HTTP/1.0\r\nauthorization: SIGNED\r\n\r\n", 400),
    "a strange signature": (b"GET /things HTTP/1.1\r\nhost: localhost\r\nauthorization: Basic YTpi\r\n\r\n", 401),
    "no method": (b"OTA /things HTTP/1.1\r\nhost: localhost\r\nauthorization: SIGNED\r\n\r\n", 501),
    "no http": (b"\x16\x03\x01\x00\xa5\x01\x00\x00", 400),
    "half a percent": (b"GET /things/%zz%f HTTP/1.1\r\nhost: localhost\r\nauthorization: SIGNED\r\n\r\n", 400),
    "no text": (b"GET /things/%ff%fe HTTP/1.1\r\nhost: localhost\r\nauthorization: SIGNED\r\n\r\n", 400),
    "nul": (b"GET /things/%00 HTTP/1.1\r\nhost: localhost\r\nauthorization: SIGNED\r\n\r\n", 400),
    "a slash in a name": (b"GET /things/a%2fb HTTP/1.1\r\nhost: localhost\r\nauthorization: SIGNED\r\n\r\n", 400),
    "two slashes": (b"GET //things HTTP/1.1\r\nhost: localhost\r\nauthorization: SIGNED\r\n\r\n", 501),
    "dots": (b"GET /things/../jobs HTTP/1.1\r\nhost: localhost\r\nauthorization: SIGNED\r\n\r\n", 400),
    "a full address": (
        b"GET http://localhost/things HTTP/1.1\r\nhost: localhost\r\nauthorization: SIGNED\r\n\r\n",
        501,
    ),
    "a negative page": (b"GET /things?maxResults=-1 HTTP/1.1\r\nhost: localhost\r\nauthorization: SIGNED\r\n\r\n", 400),
    "a page of text": (b"GET /things?maxResults=all HTTP/1.1\r\nhost: localhost\r\nauthorization: SIGNED\r\n\r\n", 400),
    "a false length": (
        b"POST /things/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\nauthorization: SIGNED\r\n\r\n",
        400,
    ),
}


@pytest.mark.parametrize("name", RAW)
def test_raw_bytes(place: Place, name: str) -> None:
    """What a socket may bring; the answer is one of 4xx or 501, and the server goes on."""
    request, status = RAW[name]
    with socket.create_connection((place.server.host, place.server.port), 10) as connection:
        connection.sendall(request.replace(b"SIGNED", SCOPE.format("iot").encode()))
        answer = connection.recv(65536)
    assert int(answer.split()[1]) == status, answer
    assert place.client("iot").list_things()["things"] == []


def ask(place: Place, method: str, path: str, body: bytes | Iterator[bytes]) -> httpx.Response:
    headers = {"authorization": SCOPE.format("iot")}
    return httpx.request(method, f"{place.server.url}{path}", content=body, headers=headers)


BODIES = {
    "no JSON": b"{",
    "no object": b"[1]",
    "a string": b'"x"',
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 50_000,
    "NaN": b'{"attributePayload": NaN}',
    "infinity": b'{"attributePayload": {"merge": 1e999}}',
    "half a character": b'{"thingTypeName": "\\ud800"}',
    "no UTF-8": b'{"thingTypeName": "\xff"}',
    "unknown": b'{"thingName2": "x"}',
    "a huge number": b'{"attributePayload": {"merge": ' + b"9" * 5000 + b"}}",
    "nul": b'{"thingTypeName": "a\\u0000b"}',
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies(place: Place, name: str) -> None:
    """Bodies that are none: 400 with a message, and nothing is made."""
    answer = ask(place, "POST", "/things/lamp", BODIES[name])
    assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (400, "InvalidRequestException")
    assert answer.json()["message"]
    assert place.client("iot").list_things()["things"] == []


def test_the_last_of_two_members_counts(place: Place) -> None:
    """As in Python, JavaScript and Go."""
    assert ask(place, "POST", "/things/lamp", b'{"thingTypeName": "a", "thingTypeName": "b"}').status_code == 200
    assert place.client("iot").describe_thing(thingName="lamp")["thingTypeName"] == "b"


def test_huge_bodies(place: Place) -> None:
    """One byte too many, with and without a length, is 413; the server does not wait for the rest."""
    exact = b'{"thingTypeName": "light"' + b" " * (MAX_BODY - 26) + b"}"
    assert ask(place, "POST", "/things/a", exact).status_code == 200
    assert ask(place, "POST", "/things/b", exact + b" ").status_code == 413
    head = f"POST /things/c HTTP/1.1\r\nhost: localhost\r\nauthorization: {SCOPE.format('iot')}\r\n"
    with socket.create_connection((place.server.host, place.server.port), 10) as connection:
        connection.sendall(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        for _ in range(17):
            connection.sendall(piece)
        assert connection.recv(100).split()[1] == b"413"
    with socket.create_connection((place.server.host, place.server.port), 10) as connection:
        connection.sendall(f"{head}content-length: 100\r\n\r\nhalf".encode())
    assert [one["thingName"] for one in place.client("iot").list_things()["things"]] == ["a"]


NAMES = st.sampled_from(
    [
        "lamp",
        "lights",
        "dim",
        "s1",
        "u1",
        "$next",
        "release",
        arn("thing", "lamp"),
        arn("job", "dim"),
        "firmware",
        "fw.bin",
        "{}",
        "",
    ]
)
EDGES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(st.characters(), max_size=20),
    NAMES,
    st.just([]),
    st.just({}),
)


def value_for(shape: Any, depth: int = 0) -> st.SearchStrategy[Any]:
    """Mostly what a shape asks for, now and then something else."""
    kind = shape.type_name
    if kind == "structure":
        members = {name: value_for(one, depth + 1) for name, one in shape.members.items()}
        required: dict[Any, st.SearchStrategy[Any]] = {name: members.pop(name) for name in shape.required_members}
        good: st.SearchStrategy[Any] = st.fixed_dictionaries(required, optional=members)
    elif kind == "list":
        good = st.lists(value_for(shape.member, depth + 1), max_size=2)
    elif kind == "map":
        good = st.dictionaries(NAMES, value_for(shape.value, depth + 1), max_size=2)
    elif kind == "string":
        good = st.sampled_from(shape.enum) if shape.enum else NAMES
    else:
        good = {"boolean": st.booleans(), "blob": st.just("c2lnbmF0dXJl")}.get(kind, st.integers(0, 100))
    return good if depth == 0 else st.integers(0, 9).flatmap(lambda dice: EDGES if dice == 0 else good)


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlApi]:
    """A control API in which there is one of everything."""
    with SqlStore("sqlite://") as store:
        place = Place(tmp_path_factory.mktemp("used"), store)
        for path, method, body in (
            ("/things/lamp", "POST", {}),
            ("/thing-groups/lights", "POST", {}),
            ("/jobs/dim", "PUT", {"targets": [arn("thing", "lamp")], "document": "{}"}),
            (
                "/streams/s1",
                "POST",
                {"files": [{"fileId": 0, "s3Location": {"bucket": "firmware", "key": "fw.bin"}}], "roleArn": ROLE},
            ),
        ):
            assert place.api.answer(method, path, "", SCOPE.format("iot"), json.dumps(body).encode()).status == 200
        yield place.api


@cache
def parameters_for(route: Route) -> st.SearchStrategy[Any]:
    """Parameters of an operation."""
    return value_for(route.operation.input_shape)


@pytest.mark.parametrize("service", SERVICES)
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_no_request_is_our_fault(used: ControlApi, service: str, data: st.DataObject) -> None:
    """Whatever the parameters of an operation are, the answer is 2xx or 4xx, in JSON that can be sent."""
    routes = [route for route in routes_of(service) if has(used, service, route.operation.name)]
    route = data.draw(st.sampled_from(routes), label=str)
    given_members = data.draw(parameters_for(route), label="parameters")
    places = {name: one.serialization.get("location") for name, one in route.operation.input_shape.members.items()}
    query = "&".join(
        f"{name}={httpx.QueryParams({'': str(value)})}"[:200]
        for name, value in given_members.items()
        if places[name] == "querystring"
    )
    body = {name: value for name, value in given_members.items() if places[name] is None}
    path = path_of(
        route, data.draw(st.sampled_from(["lamp", "lights", "dim", "s1", "u1", "%24next", "%00", "%ff", "1"]))
    )
    answer = used.answer(route.method, path, query, SCOPE.format(service), json.dumps(body).encode())
    assert answer.status == 200 or 400 <= answer.status < 500, answer
    json.dumps(dict(answer.body), allow_nan=False, ensure_ascii=False).encode()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "PUT", "POST", "PATCH", "DELETE", "HEAD", ""]),
    path=st.text(max_size=40) | st.sampled_from([path_of(route) for _, route in EVERY]),
    query=st.text(max_size=40),
    authorization=st.text(max_size=40) | st.sampled_from([SCOPE.format(one) for one in SERVICES]),
    body=st.binary(max_size=60),
)
def test_no_bytes_are_our_fault(
    used: ControlApi, method: str, path: str, query: str, authorization: str, body: bytes
) -> None:
    """The same for what is no request at all."""
    answer = used.answer(method, path, query, authorization, body)
    assert answer.status in (200, 400, 401, 404, 409, 501), answer
