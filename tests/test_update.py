"""Whole updates over the in-memory broker, on virtual time: what runs at the end, and what the provider was told."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreota.config import OtaConfig
from coreota.errors import OtaError
from coreota.flash import PowerCut
from coreota.orchestrator import Orchestrator
from coreota.sim.lab import FAULTS, Lab, firmware, lab_key, update_file
from coreota.sim.link import LossyLink
from coreota.states import TRANSITIONS, RebootRequired, State, StateChanged, Trigger


def slow() -> LossyLink:
    """A link on which a download takes a while: a block of 4 KiB in a twelfth of a second."""
    return LossyLink(1, delay=0.01, bandwidth=50_000)


def told(lab: Lab, job_id: str) -> list[tuple[str, dict[str, str]]]:
    """The execution's history as plain values."""
    return [(change.status.value, dict(change.details)) for change in lab.history(job_id)]


@pytest.mark.parametrize("codec", ["cbor", "json"])
def test_good_update(codec: str) -> None:
    """The new image runs, confirmed; the job went the reference's way, to the string."""
    lab = Lab(image_size=20_000, config=OtaConfig(codec=codec, block_size=512, status_every=16, status_interval=0.0))
    job_id = lab.offer("2.0.0")
    lab.run()
    assert (str(lab.bootloader.running), lab.bootloader.on_trial, lab.device.boots) == ("2.0.0", False, 2)
    assert told(lab, job_id) == [
        ("QUEUED", {}),
        ("IN_PROGRESS", {}),
        ("IN_PROGRESS", {"receive": "16/40"}),
        ("IN_PROGRESS", {"receive": "32/40"}),
        ("IN_PROGRESS", {"self_test": "ready", "updatedBy": "0x01000000"}),
        ("IN_PROGRESS", {"self_test": "active", "updatedBy": "0x01000000"}),
        ("SUCCEEDED", {"reason": "accepted v2.0.0", "updatedBy": "0x01000000"}),
    ]


@pytest.mark.parametrize("size", [1, 100, 4096 - 300, 4096, 65_537])
@pytest.mark.parametrize("block_size", [256, 4096, 131_072])
def test_sizes(size: int, block_size: int) -> None:
    """Images of one byte, of part of a block, of many blocks; the smallest and largest blocks AWS takes."""
    lab = Lab(image_size=size, config=OtaConfig(block_size=block_size))
    job_id = lab.offer("2.0.0")
    lab.run()
    assert (str(lab.bootloader.running), told(lab, job_id)[-1][0]) == ("2.0.0", "SUCCEEDED")


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_refused(fault: str) -> None:
    """A bad update fails with its reason; the old image runs, and not one reset was needed."""
    lab = Lab(image_size=20_000)
    job_id = lab.offer("2.0.0", fault=fault)
    lab.run()
    status, details = told(lab, job_id)[-1]
    assert (status, details["reason"].split(":")[:2]) == ("FAILED", ["rejected", " signature-mismatch"])
    assert (str(lab.bootloader.running), lab.device.boots) == ("1.0.0", 1)


@pytest.mark.parametrize(
    ("version", "reason"), [("1.0.0", "rejected: same-version:"), ("0.9.9", "rejected: downgrade:")]
)
def test_versions_are_refused(version: str, reason: str) -> None:
    """The same version and an older one do not get in."""
    lab = Lab()
    job_id = lab.offer(version)
    lab.run()
    status, details = told(lab, job_id)[-1]
    assert status == "FAILED"
    assert details["reason"].startswith(reason)
    assert (str(lab.bootloader.running), lab.device.boots) == ("1.0.0", 1)


def test_downgrade_when_allowed() -> None:
    """An older version gets in where the configuration says so."""
    lab = Lab(config=OtaConfig(allow_downgrade=True))
    job_id = lab.offer("0.9.9")
    lab.run()
    assert (str(lab.bootloader.running), told(lab, job_id)[-1][0]) == ("0.9.9", "SUCCEEDED")


def test_image_of_another_maker() -> None:
    """A good job signature does not help an image whose own signature is a stranger's: refused before the reset."""
    lab = Lab()
    strange = firmware("2.0.0", 20_000, key=lab_key("stranger"))
    job_id = lab.offer("2.0.0", image=strange)
    lab.run()
    status, details = told(lab, job_id)[-1]
    assert status == "FAILED"
    assert details["reason"].startswith("rejected: ")
    assert (str(lab.bootloader.running), lab.device.boots) == ("1.0.0", 1)


def test_image_too_large() -> None:
    """A file larger than the slot is refused before the first block."""
    lab = Lab(image_size=20_000)
    job_id = lab.offer("2.0.0", image=firmware("2.0.0", 200_000))
    lab.run()
    status, details = told(lab, job_id)[-1]
    assert status == "FAILED"
    assert "image-too-large" in details["reason"]
    assert lab.received == 0


def test_unknown_certificate_is_refused_before_the_first_block() -> None:
    """The verifier is asked before the download."""
    lab = Lab()
    good = update_file(firmware("2.0.0", 20_000), lab_key("job"))
    file = type(good)(good.path, good.content, "/unknown.pem", signature=good.signature)
    job_id = lab.provider.create_ota_update("x", [lab.thing], [file], lab.clock.now())
    lab.run()
    status, details = told(lab, job_id)[-1]
    assert status == "FAILED"
    assert details["reason"].startswith("rejected: certificate-unknown:")
    assert lab.received == 0


@pytest.mark.parametrize("self_test", [lambda: False, lambda: 1 / 0])
def test_self_test_fails(self_test: Callable[[], bool]) -> None:
    """An unwell image reports so and is rolled back by the next boot."""
    lab = Lab(self_test=self_test)
    job_id = lab.offer("2.0.0")
    lab.run()
    status, details = told(lab, job_id)[-1]
    assert status == "FAILED"
    assert details["reason"].startswith("aborted: self-test: ")
    assert (str(lab.bootloader.running), lab.bootloader.on_trial, lab.device.boots) == ("1.0.0", False, 3)


def test_rollback_if_unable_to_connect_after_update() -> None:
    """A new image that never comes online is rolled back when its time is over; then the job fails, and says why."""
    lab = Lab()
    job_id = lab.offer("2.0.0")
    lab.run(until=lambda: lab.device.boots == 2)
    assert (str(lab.bootloader.running), lab.bootloader.on_trial) == ("2.0.0", True)
    lab.cut_link()
    lab.device.reset_link = lambda: None
    lab.run(until=lambda: lab.device.boots == 3)
    assert (str(lab.bootloader.running), lab.bootloader.on_trial) == ("1.0.0", False)
    assert lab.clock.now() == pytest.approx(OtaConfig().self_test_timeout, abs=0.1)
    lab.restore_link()
    lab.run()
    status, details = told(lab, job_id)[-1]
    assert (status, details["reason"].split(":")[:2]) == ("FAILED", ["rejected", " image-state-mismatch"])
    assert details["advice"].startswith("the new image was not heard of in its trial: ")
    assert "self_test_timeout is 16 s: " in details["advice"]


@pytest.mark.parametrize("seconds", [20.0, 90.0])
def test_a_trial_too_short_for_the_link(seconds: float) -> None:
    """A good image on a link of 50 bytes a second: refused, and the operator reads why it may be; or kept."""
    link = LossyLink(1, delay=0.5, bandwidth=50)
    lab = Lab(image_size=2000, config=OtaConfig(self_test_timeout=seconds), link=link)
    job_id = lab.offer("2.0.0")
    lab.run()
    status, details = told(lab, job_id)[-1]
    assert (status, str(lab.bootloader.running)) == (("FAILED", "1.0.0") if seconds == 20 else ("SUCCEEDED", "2.0.0"))
    assert ("self_test_timeout is 20 s: " in details.get("advice", "")) is (seconds == 20)


def test_a_trial_that_hangs_was_online() -> None:
    lab = Lab(self_test=lambda: None)
    job_id = lab.offer("2.0.0")
    lab.run()
    advice = told(lab, job_id)[-1][1]["advice"]
    assert advice.startswith("the new image was online in its trial, and not confirmed: ")
    assert len(advice) <= 1024


def test_job_cancelled_during_download() -> None:
    """A job that is taken away stops the download; the device waits for the next, and takes it."""
    lab = Lab(image_size=100_000, link=slow(), config=OtaConfig(window=4))
    job_id = lab.offer("2.0.0")
    lab.run(until=lambda: lab.received >= 5)
    lab.provider.jobs.cancel_job(job_id, lab.clock.now(), force=True)
    lab.run()
    assert told(lab, job_id)[-1][0] == "CANCELED"
    assert (lab.received < 25, lab.device.orchestrator.state) == (True, State.WAITING_FOR_JOB)
    assert lab.device.orchestrator.pool.in_use == 0
    second = lab.offer("3.0.0")
    lab.run()
    assert (str(lab.bootloader.running), told(lab, second)[-1][0]) == ("3.0.0", "SUCCEEDED")


def test_back_to_back_updates() -> None:
    """Three jobs in a queue are done one after the other."""
    lab = Lab()
    jobs = [lab.offer(version) for version in ("2.0.0", "3.0.0", "4.0.0")]
    lab.run()
    assert [told(lab, job_id)[-1][0] for job_id in jobs] == ["SUCCEEDED"] * 3
    assert (str(lab.bootloader.running), lab.device.boots) == ("4.0.0", 4)


def test_disconnect_resumes_with_the_missing_blocks_only() -> None:
    """After a lost link the download goes on; no block is written twice (strict flash would say so)."""
    lab = Lab(image_size=100_000, link=slow())
    job_id = lab.offer("2.0.0")
    lab.run(until=lambda: lab.received >= 10)
    lab.cut_link()
    lab.run_for(300)
    assert lab.device.orchestrator.state is State.OFFLINE
    received = lab.received
    lab.restore_link()
    lab.run()
    assert 10 <= received < 25
    assert (str(lab.bootloader.running), told(lab, job_id)[-1][0]) == ("2.0.0", "SUCCEEDED")


def flash_operations_of_an_update() -> int:
    """How often the flash is written or erased, from the offer to the last report."""
    lab = Lab()
    before = lab.flash.operations
    lab.offer("2.0.0")
    lab.run()
    return lab.flash.operations - before


@pytest.mark.parametrize("torn", [0.0, 0.5])
def test_power_cut_at_every_flash_operation(torn: float) -> None:
    """Wherever the power fails: the update goes on after it, and succeeds."""
    operations = flash_operations_of_an_update()
    outcomes = []
    for cut in range(operations):
        lab = Lab()
        job_id = lab.offer("2.0.0")
        lab.flash.cut_after(cut, torn=torn)
        with pytest.raises(PowerCut):
            lab.run()
        lab.restore_power()
        lab.run()
        assert not lab.bootloader.on_trial
        outcomes.append((told(lab, job_id)[-1][0], str(lab.bootloader.running)))
    assert operations > 100
    assert set(outcomes) == {("SUCCEEDED", "2.0.0")}


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    loss=st.floats(0, 0.3),
    duplicate=st.floats(0, 0.3),
    jitter=st.floats(0, 2),
    codec=st.sampled_from(["cbor", "json"]),
    block_size=st.sampled_from([256, 1000, 4096]),
)
def test_any_link(seed: int, loss: float, duplicate: float, jitter: float, codec: str, block_size: int) -> None:
    """Loss, duplication and reordering of any message: the update ends, and what the provider knows is what runs."""
    link = LossyLink(seed, loss=loss, duplicate=duplicate, delay=0.05, jitter=jitter)
    lab = Lab(image_size=20_000, link=link, config=OtaConfig(codec=codec, block_size=block_size, self_test_timeout=600))
    job_id = lab.offer("2.0.0")
    lab.run(until=lambda: lab.history(job_id)[-1].status.terminal, limit=1e6)
    status = told(lab, job_id)[-1][0]
    assert lab.device.orchestrator.pool.in_use == 0
    assert not (status == "SUCCEEDED" and str(lab.bootloader.running) != "2.0.0")
    assert not (status == "SUCCEEDED" and lab.bootloader.on_trial)


def test_every_transition_of_the_log_is_in_the_table() -> None:
    """The device does nothing that its table does not say."""
    lab = Lab()
    lab.offer("2.0.0")
    lab.run()
    changes = [event for event in lab.device.events if isinstance(event, StateChanged)]
    assert changes
    assert all(TRANSITIONS[change.old, change.trigger] is change.new for change in changes)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("trigger", Trigger)
def test_state_times_trigger(state: State, trigger: Trigger) -> None:
    """Every pair is a row of the table, or leaves the device where it was and is counted."""
    lab = Lab()
    orchestrator = lab.device.orchestrator
    orchestrator.reports.take("some-job")
    orchestrator.state = state
    orchestrator._fire(trigger, 1.0)
    expected = TRANSITIONS.get((state, trigger))
    assert orchestrator.state is (expected or state)
    assert orchestrator.ignored == (expected is None)


def test_suspend_and_resume() -> None:
    """Suspended in the middle of a download, the device is silent; resumed, it goes on."""
    lab = Lab(image_size=100_000, link=slow())
    job_id = lab.offer("2.0.0")
    lab.run(until=lambda: lab.received >= 3)
    lab.device.orchestrator.suspend(lab.clock.now())
    lab.run_for(600)
    suspended = lab.received
    assert lab.device.orchestrator.state is State.SUSPENDED
    assert lab.device.get_timer() is None
    lab.device.orchestrator.resume(lab.clock.now())
    lab.run()
    assert 3 <= suspended < 25
    assert told(lab, job_id)[-1][0] == "SUCCEEDED"


def test_config_ranges() -> None:
    """Every number out of its range is refused by name."""
    for name, value in [("block_size", 255), ("pool_blocks", 0), ("momentum", 0), ("self_test_timeout", 0.5)]:
        with pytest.raises(OtaError, match=name):
            OtaConfig(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(OtaError, match="codec"):
        OtaConfig(codec="xml")


def test_needs_a_booted_bootloader() -> None:
    """An orchestrator over a bootloader that never booted says what to do."""
    lab = Lab()
    with pytest.raises(OtaError, match=r"boot\(\) first"):
        Orchestrator("thing", type(lab.bootloader)(lab.flash, lab.boot_config, []), lab.verifier)  # type: ignore[call-arg]


def test_reboot_is_announced_once_per_boot() -> None:
    """One RebootRequired for each boot after the first."""
    lab = Lab()
    lab.offer("2.0.0")
    lab.run()
    reboots = [event for event in lab.device.events if isinstance(event, RebootRequired)]
    assert len(reboots) == lab.device.boots - 1 == 1
