"""Amazon's own SDKs for devices, unmodified, against our provider over mutual TLS."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from awscrt import mqtt, mqtt_request_response
from awsiot import ServiceStreamOptions, V2ServiceException, iotjobs, mqtt5_client_builder, mqtt_connection_builder
from AWSIoTPythonSDK.core.jobs.thingJobManager import (
    jobExecutionStatus,
    jobExecutionTopicReplyType,
    jobExecutionTopicType,
)
from AWSIoTPythonSDK.MQTTLib import AWSIoTMQTTThingJobsClient
from brokers import free_port, running_mosquitto

from coreota.certstool import make_certificates
from coreota.jobs import JobStatus
from coreota.provider.service import ProviderOptions, ProviderServer

THING = "pump-7"
WAIT = 30.0  # Seconds until an answer counts as lost


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates, and mosquitto's configuration."""
    folder = tmp_path_factory.mktemp("sdks") / "pki"
    make_certificates(
        folder, [THING], ["localhost", "127.0.0.1"], now=datetime.now(UTC), ports=(free_port(), free_port())
    )
    return folder


@contextmanager
def provider_on(kind: str, pki: Path, state: Path) -> Iterator[tuple[ProviderServer, int]]:
    """A provider, and the port for devices: at its own broker, or at mosquitto."""
    if kind == "embedded":
        with ProviderServer(ProviderOptions(state, mqtt_port=0, api_port=0, tls=pki)) as server:
            yield server, server.mqtt[1]
        return
    text = (pki / "mosquitto.conf").read_text()
    port, own = (int(line.split()[1]) for line in text.splitlines() if line.startswith("listener"))
    with running_mosquitto(pki / "started.conf", text, own):
        options = ProviderOptions(state, broker=f"mqtts://localhost:{own}", api_port=0, tls=pki)
        with ProviderServer(options) as server:
            yield server, port


class Inbox:
    """What callbacks bring."""

    def __init__(self) -> None:
        self.got: list[tuple[str, Any]] = []
        self._changed = threading.Condition()

    def taker(self, name: str) -> Any:
        def take(message: Any) -> None:
            with self._changed:
                self.got.append((name, message))
                self._changed.notify_all()

        return take

    def next(self, name: str) -> Any:
        """The oldest of that name; it is taken out."""
        with self._changed:
            assert self._changed.wait_for(lambda: any(one == name for one, _ in self.got), WAIT), (name, self.got)
            index = next(number for number, (one, _) in enumerate(self.got) if one == name)
            return self.got.pop(index)[1]


def credentials(pki: Path) -> dict[str, Any]:
    place = pki / "things" / THING
    return {
        "endpoint": "localhost", "cert_filepath": f"{place}.crt", "pri_key_filepath": f"{place}.key",
        "ca_filepath": str(pki / "ca.crt"), "client_id": THING,
    }  # fmt: skip


def statuses(server: ProviderServer, job_id: str) -> list[JobStatus]:
    return [one.status for one in server.provider.jobs.history(job_id, THING)]


@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
def test_awsiotsdk_over_mqtt_3(pki: Path, tmp_path: Path, kind: str) -> None:
    """`IotJobsClient`: told of a job, start it, report, be refused, finish; by its own parsing of our messages."""
    box, qos = Inbox(), mqtt.QoS.AT_LEAST_ONCE
    with provider_on(kind, pki, tmp_path) as (server, port):
        connection = mqtt_connection_builder.mtls_from_path(
            port=port, clean_session=True, keep_alive_secs=30, **credentials(pki)
        )
        connection.connect().result(WAIT)
        client = iotjobs.IotJobsClient(connection)
        here = {"thing_name": THING}
        asks = {
            "notify": (
                client.subscribe_to_job_executions_changed_events,
                iotjobs.JobExecutionsChangedSubscriptionRequest(**here),
            ),
            "next": (
                client.subscribe_to_next_job_execution_changed_events,
                iotjobs.NextJobExecutionChangedSubscriptionRequest(**here),
            ),
            "started": (
                client.subscribe_to_start_next_pending_job_execution_accepted,
                iotjobs.StartNextPendingJobExecutionSubscriptionRequest(**here),
            ),
            "pending": (
                client.subscribe_to_get_pending_job_executions_accepted,
                iotjobs.GetPendingJobExecutionsSubscriptionRequest(**here),
            ),
            "described": (
                client.subscribe_to_describe_job_execution_accepted,
                iotjobs.DescribeJobExecutionSubscriptionRequest(job_id="$next", **here),
            ),
            "updated": (
                client.subscribe_to_update_job_execution_accepted,
                iotjobs.UpdateJobExecutionSubscriptionRequest(job_id="blink", **here),
            ),
            "refused": (
                client.subscribe_to_update_job_execution_rejected,
                iotjobs.UpdateJobExecutionSubscriptionRequest(job_id="blink", **here),
            ),
        }
        for name, (subscribe, request) in asks.items():
            subscribe(request=request, qos=qos, callback=box.taker(name))[0].result(WAIT)
        server.provider.jobs.create_job("blink", {"led": "blue"}, [THING], time.time())
        told = box.next("notify").jobs
        assert [one.job_id for one in told[iotjobs.JobStatus.QUEUED]] == ["blink"]
        upcoming = box.next("next").execution
        assert (upcoming.job_id, upcoming.job_document, upcoming.status) == ("blink", {"led": "blue"}, "QUEUED")
        assert abs(upcoming.queued_at.timestamp() - time.time()) < 3600
        client.publish_get_pending_job_executions(iotjobs.GetPendingJobExecutionsRequest(thing_name=THING), qos)
        pending = box.next("pending")
        assert ([one.job_id for one in pending.queued_jobs], pending.in_progress_jobs) == (["blink"], [])
        client.publish_describe_job_execution(
            iotjobs.DescribeJobExecutionRequest(thing_name=THING, job_id="$next"), qos
        )
        assert box.next("described").execution.version_number == 1
        client.publish_start_next_pending_job_execution(
            iotjobs.StartNextPendingJobExecutionRequest(
                thing_name=THING, client_token="t", status_details={"step": "1"}
            ),
            qos,
        )
        started = box.next("started")
        assert (started.client_token, started.execution.status, started.execution.version_number) == (
            "t",
            "IN_PROGRESS",
            2,
        )
        update = iotjobs.UpdateJobExecutionRequest(
            job_id="blink", status=iotjobs.JobStatus.SUCCEEDED, expected_version=9, **here
        )
        client.publish_update_job_execution(update, qos)
        refused = box.next("refused")
        assert (refused.code, refused.execution_state.version_number) == ("VersionMismatch", 2)
        update.expected_version, update.include_job_execution_state = 2, True
        client.publish_update_job_execution(update, qos)
        assert box.next("updated").execution_state.status == "SUCCEEDED"
        assert box.next("notify").jobs == {}
        assert box.next("next").execution is None
        assert statuses(server, "blink") == [JobStatus.QUEUED, JobStatus.IN_PROGRESS, JobStatus.SUCCEEDED]
        connection.disconnect().result(WAIT)


def test_awsiotsdk_over_mqtt_5(pki: Path, tmp_path: Path) -> None:
    """`IotJobsClientV2`: requests that wait for their answers, streams of notifications, and errors as exceptions."""
    box, up = Inbox(), threading.Event()
    with provider_on("mosquitto", pki, tmp_path) as (server, port):
        connection = mqtt5_client_builder.mtls_from_path(
            port=port, on_lifecycle_connection_success=lambda _: up.set(), **credentials(pki)
        )
        connection.start()
        assert up.wait(WAIT)
        options = mqtt_request_response.ClientOptions(
            max_request_response_subscriptions=4, max_streaming_subscriptions=2, operation_timeout_in_seconds=int(WAIT)
        )
        client = iotjobs.IotJobsClientV2(connection, options)
        streamed = threading.Event()
        stream = client.create_next_job_execution_changed_stream(
            iotjobs.NextJobExecutionChangedSubscriptionRequest(thing_name=THING),
            ServiceStreamOptions(
                incoming_event_listener=box.taker("next"), subscription_status_listener=lambda _: streamed.set()
            ),
        )  # fmt: skip
        stream.open()
        assert streamed.wait(WAIT)
        server.provider.jobs.create_job("blink", {"led": "blue"}, [THING], time.time())
        assert box.next("next").execution.job_id == "blink"
        found = client.get_pending_job_executions(iotjobs.GetPendingJobExecutionsRequest(thing_name=THING)).result(WAIT)
        assert [one.job_id for one in found.queued_jobs] == ["blink"]
        request = iotjobs.DescribeJobExecutionRequest(thing_name=THING, job_id="blink")
        described = client.describe_job_execution(request).result(WAIT)
        assert described.execution.job_document == {"led": "blue"}
        started = client.start_next_pending_job_execution(
            iotjobs.StartNextPendingJobExecutionRequest(thing_name=THING)
        ).result(WAIT)
        assert started.execution.status == "IN_PROGRESS"
        update = iotjobs.UpdateJobExecutionRequest(thing_name=THING, job_id="blink", status=iotjobs.JobStatus.QUEUED)
        with pytest.raises(V2ServiceException) as caught:
            client.update_job_execution(update).result(WAIT)
        assert caught.value.modeled_error.code == "InvalidStateTransition"
        update.status = iotjobs.JobStatus.SUCCEEDED
        client.update_job_execution(update).result(WAIT)
        assert statuses(server, "blink") == [JobStatus.QUEUED, JobStatus.IN_PROGRESS, JobStatus.SUCCEEDED]
        connection.stop()


@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
def test_the_older_sdk(pki: Path, tmp_path: Path, kind: str) -> None:
    """AWSIoTPythonSDK's client for jobs."""
    box, place = Inbox(), pki / "things" / THING
    with provider_on(kind, pki, tmp_path) as (server, port):
        client = AWSIoTMQTTThingJobsClient(THING, THING, QoS=1)
        client.configureEndpoint("localhost", port)
        client.configureCredentials(str(pki / "ca.crt"), f"{place}.key", f"{place}.crt")
        assert client.connect()

        def taker(name: str) -> Any:
            take = box.taker(name)
            return lambda _client, _data, message: take(json.loads(message.payload))

        accepted = jobExecutionTopicReplyType.JOB_ACCEPTED_REPLY_TYPE
        rejected = jobExecutionTopicReplyType.JOB_REJECTED_REPLY_TYPE
        client.createJobSubscription(taker("next"), jobExecutionTopicType.JOB_NOTIFY_NEXT_TOPIC)
        client.createJobSubscription(taker("started"), jobExecutionTopicType.JOB_START_NEXT_TOPIC, accepted)
        client.createJobSubscription(taker("updated"), jobExecutionTopicType.JOB_UPDATE_TOPIC, accepted, "+")
        client.createJobSubscription(taker("refused"), jobExecutionTopicType.JOB_UPDATE_TOPIC, rejected, "+")
        server.provider.jobs.create_job("blink", {"led": "blue"}, [THING], time.time())
        assert box.next("next")["execution"]["jobId"] == "blink"
        assert client.sendJobsStartNext(statusDetails={"step": "1"})
        execution = box.next("started")["execution"]
        assert (execution["jobId"], execution["status"], execution["statusDetails"]) == (
            "blink",
            "IN_PROGRESS",
            {"step": "1"},
        )
        assert client.sendJobsUpdate("blink", jobExecutionStatus.JOB_EXECUTION_SUCCEEDED, expectedVersion=9)
        assert box.next("refused")["code"] == "VersionMismatch"
        assert client.sendJobsUpdate(
            "blink", jobExecutionStatus.JOB_EXECUTION_SUCCEEDED, expectedVersion=2, includeJobExecutionState=True
        )
        assert box.next("updated")["executionState"]["status"] == "SUCCEEDED"
        assert statuses(server, "blink") == [JobStatus.QUEUED, JobStatus.IN_PROGRESS, JobStatus.SUCCEEDED]
        client.disconnect()
