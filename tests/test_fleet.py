"""Two providers on one store share the requests: one is killed, and every thing is updated exactly once."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

import pytest
from brokers import CONFIG, free_port, running_mosquitto
from fleet import Fleet, Provider, installs, offer, providers, register

from coreota.jobs import JobStatus
from coreota.provider.books import JobState
from coreota.provider.guard import mosquitto_bridge
from coreota.provider.jobs import JobsService
from coreota.provider.sqlstore import SqlStore
from coreota.states import Progress


@pytest.fixture(scope="module")
def sharing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a mosquitto that shares requests among providers."""
    port = free_port()
    text = CONFIG.format(port=port) + mosquitto_bridge("127.0.0.1", port)
    with running_mosquitto(tmp_path_factory.mktemp("sharing") / "conf", text, port):
        yield port


def prepare(store: str, provider: Provider, size: int) -> list[str]:
    """A group with that many things."""
    names = [f"thing-{number:04}" for number in range(size)]
    provider.api().create_thing_group(thingGroupName="fleet")
    register(store, names)
    return names


def check(fleet: Fleet, store: str, job_id: str) -> None:
    """Every thing was updated, once, and the books say so."""
    devices = fleet.devices
    others = {
        name: [event for event in one.events if not isinstance(event, Progress)][-12:]
        for name, one in devices.items()
        if str(one.bootloader.running) != "2.0.0" or one.bootloader.on_trial or installs(one) != 1
    }
    assert others == {}
    with SqlStore(store) as opened:
        jobs = JobsService(opened)
        executions = jobs.executions(job_id)
        assert {one.thing for one in executions} == set(devices)
        assert Counter((one.status, one.number) for one in executions) == {(JobStatus.SUCCEEDED, 1): len(devices)}
        assert jobs.job(job_id).state is JobState.COMPLETED
        assert [name for name in devices if jobs.pending(name)] == []
        for name in devices:
            ends = [one.status for one in jobs.history(job_id, name) if one.status.terminal]
            assert ends == [JobStatus.SUCCEEDED], name


def fleet_size(database: str) -> int:
    """As many as the continuous integration has time for."""
    return 1000 if database.startswith("postgresql") else 300


def test_one_of_two_providers_is_killed_in_the_middle(database: str, tmp_path: Path, sharing: int) -> None:
    """SIGKILL after a third of the fleet: the other one serves the rest."""
    with providers(database, sharing, tmp_path, 2) as (first, second):
        names = prepare(database, first, fleet_size(database))
        fleet = Fleet(sharing, names, 4)
        try:
            job_id = offer(second, "roll")
            fleet.run(lambda: fleet.updated() >= len(names) // 3, 240)
            first.kill()
            assert fleet.updated() < len(names)
            fleet.run(lambda: fleet.finished() == len(names), 240)
            check(fleet, database, job_id)
        finally:
            fleet.close()


@pytest.mark.parametrize("seed", range(1))
def test_kills_at_any_moment(database: str, tmp_path: Path, sharing: int, seed: int) -> None:
    """The only provider is killed again and again, also right after it said yes: nothing it acknowledged is lost."""
    random = Random(f"{seed} {database[:6]}")
    with providers(database, sharing, tmp_path, 1) as running:
        provider = running[0]
        names = prepare(database, provider, 40)
        fleet = Fleet(sharing, names, 2)
        try:
            job_id = offer(provider, "roll")
            for _ in range(3):
                goal = min(fleet.finished() + random.randrange(12), len(names))
                fleet.run(partial(lambda wanted: fleet.finished() >= wanted, goal), 240)
                provider.kill()
                provider.start()
                assert provider.api().describe_job(jobId=job_id)["job"]["jobId"] == job_id
            fleet.run(lambda: fleet.finished() == len(names), 240)
            check(fleet, database, job_id)
        finally:
            fleet.close()
