"""The orchestrator: commands in every state, policies, stores, several protocols, and refusals of every kind."""

from collections.abc import Callable

import pytest

from coreota.blocks import Bitmap, MemoryPool
from coreota.config import OtaConfig
from coreota.download import DownloadEvent, DownloadFailed, FileDownloader
from coreota.errors import LocalOtaError, OtaError, RemoteOtaError
from coreota.flash import NorFlash, PowerCut
from coreota.jobexecution import JobStatus
from coreota.parser import OtaFile, OtaJob
from coreota.plan import mqtt_downloader
from coreota.policy import Accept, Decision, Decline, Defer, Offer, UpdatePolicy
from coreota.provider.ota import UpdateFile
from coreota.provider.streams import BytesContent
from coreota.sim.lab import Lab, firmware, lab_key
from coreota.sim.link import LossyLink
from coreota.states import (
    TRANSITIONS,
    JobFinished,
    Progress,
    RequestRefused,
    State,
    Trigger,
    UpdateDeferred,
    UpdateStarted,
)
from coreota.store import FlashStore
from coreota.topics import Message


def slow() -> LossyLink:
    """A link on which every answer takes a twentieth of a second, and a block of 4 KiB a twelfth."""
    return LossyLink(1, delay=0.05, bandwidth=50_000)


def last(lab: Lab, job_id: str) -> tuple[str, str]:
    """How a job ended, and why."""
    change = lab.history(job_id)[-1]
    return change.status.value, change.details.get("reason", "")


def runs(lab: Lab) -> tuple[str, bool]:
    """Which version runs, and whether it is there to stay."""
    return str(lab.bootloader.running), not lab.bootloader.on_trial


def later(offer: Offer, now: float) -> Decision:
    return Defer(100.0, "not now")


def at(state: State) -> tuple[Lab, str]:
    """A laboratory whose thing is in this state, with an update offered."""
    policy = later if state is State.DEFERRED else lambda offer, now: Accept()
    lab = Lab(image_size=60_000, link=slow(), policy=policy, self_test=lambda: state is not State.ROLLING_BACK)
    if state is State.WAITING_FOR_JOB:
        lab.run()
        return lab, ""
    job_id = lab.offer("2.0.0")
    if state is State.OFFLINE:
        lab.cut_link()
        lab.run_for(1)
    elif state is State.SUSPENDED:
        lab.run(until=lambda: lab.received > 3)
        lab.device.orchestrator.suspend(lab.clock.now())
    else:
        lab.run(until=lambda: lab.device.orchestrator.state is state)
    assert lab.device.orchestrator.state is state
    return lab, job_id


def finish(lab: Lab) -> str:
    """Let everything end; the last job's status."""
    lab.policy = lab.device.orchestrator.job.policy = lambda offer, now: Accept()
    lab.restore_link()
    lab.run(limit=10_000)
    jobs = [event.status.value for event in lab.device.events if isinstance(event, JobFinished)]
    return jobs[-1] if jobs else ""


LIVE = [state for state in State if state not in (State.REBOOTING, State.STOPPED)]
OUTCOME = {
    State.WAITING_FOR_JOB: "",
    State.ROLLING_BACK: "FAILED",
}  # of an update that was held up there; else SUCCEEDED


@pytest.mark.parametrize("state", LIVE)
def test_suspend_and_resume_in_every_state(state: State) -> None:
    """Suspended it is silent; resumed it goes on to the same end (a trial whose time is over has another)."""
    lab, _ = at(state)
    orchestrator = lab.device.orchestrator
    assert orchestrator.suspend(lab.clock.now()) is (state is not State.SUSPENDED)
    assert orchestrator.state is State.SUSPENDED
    sent = len(lab.broker.log)
    lab.run_for(5)
    assert (len([entry for entry in lab.broker.log[sent:] if entry[1] == lab.thing]), orchestrator.state) == (
        0,
        State.SUSPENDED,
    )
    assert orchestrator.resume(lab.clock.now())
    assert finish(lab) == OUTCOME.get(state, "SUCCEEDED")
    assert runs(lab) == (("2.0.0" if OUTCOME.get(state, "SUCCEEDED") == "SUCCEEDED" else "1.0.0"), True)


@pytest.mark.parametrize("state", LIVE)
def test_shutdown_in_every_state_and_a_new_process(state: State) -> None:
    """Shut down there is no timer, no message and no buffer in use; the next process goes on to the end."""
    lab, _ = at(state)
    orchestrator = lab.device.orchestrator
    assert orchestrator.shutdown(lab.clock.now())
    assert not orchestrator.shutdown(lab.clock.now())
    assert (orchestrator.state, orchestrator.get_timer(), orchestrator.pool.in_use) == (State.STOPPED, None, 0)
    orchestrator.messages_to_send(lab.clock.now())  # what it said goodbye with
    sent = len(lab.broker.log)
    lab.run_for(5)
    assert [entry for entry in lab.broker.log[sent:] if entry[1] == lab.thing] == []
    assert not (orchestrator.suspend(9e9) or orchestrator.resume(9e9) or orchestrator.abort(9e9))
    on_trial = lab.bootloader.on_trial
    lab.restore_power()
    finish(lab)
    if on_trial and state is State.ROLLING_BACK:
        assert runs(lab) == ("1.0.0", True)
    elif state is not State.WAITING_FOR_JOB:
        assert runs(lab) == ("2.0.0", True)


@pytest.mark.parametrize("state", LIVE)
def test_abort_in_every_state(state: State) -> None:
    """Where an update is at hand, it fails and the old image stays; elsewhere nothing changes."""
    lab, job_id = at(state)
    orchestrator = lab.device.orchestrator
    expected = (state, Trigger.ABORT) in TRANSITIONS
    assert orchestrator.abort(lab.clock.now()) is expected
    assert (orchestrator.state is not state) is expected
    if expected:
        finish(lab)
        assert last(lab, job_id) == ("FAILED", "aborted: user-abort: the device's user ended the update")
        assert runs(lab) == ("1.0.0", True)
        assert lab.device.orchestrator.pool.in_use == 0


def test_declined() -> None:
    """The provider hears no, and why; nothing was fetched."""
    lab = Lab(policy=lambda offer, now: Decline("not on this ship"))
    job_id = lab.offer("2.0.0")
    lab.run()
    assert (last(lab, job_id), lab.received) == (("REJECTED", "not on this ship"), 0)
    assert [e.status for e in lab.device.events if isinstance(e, JobFinished)] == [JobStatus.REJECTED]


def test_deferred_and_asked_again() -> None:
    """The policy is asked at its own times, and the provider told each time."""
    asked: list[float] = []

    def policy(offer: Offer, now: float) -> Decision:
        asked.append(now)
        return Accept() if len(asked) == 3 else Defer(600.0, "the pump runs")

    lab = Lab(policy=policy)
    job_id = lab.offer("2.0.0")
    lab.run()
    assert (asked, last(lab, job_id)[0]) == ([0.0, 600.0, 1200.0], "SUCCEEDED")
    told = [dict(change.details) for change in lab.history(job_id)]
    assert told.count({"deferred": "the pump runs"}) == 2
    assert [e.until for e in lab.device.events if isinstance(e, UpdateDeferred)] == [600.0, 1200.0]


def test_deferred_job_is_cancelled() -> None:
    """Its place is taken by the next one at once."""
    lab = Lab(
        policy=lambda offer, now: Defer(10_000.0, "later") if offer.execution.job_id.endswith("2-0-0") else Accept()
    )
    first, second = lab.offer("2.0.0"), lab.offer("3.0.0")
    lab.run(until=lambda: lab.device.orchestrator.state is State.DEFERRED)
    lab.provider.jobs.cancel_job(first, lab.clock.now(), force=True)
    lab.run()
    assert (lab.clock.now(), last(lab, second)[0], runs(lab)) == (0.0, "SUCCEEDED", ("3.0.0", True))


def test_check_now_ends_a_deferral() -> None:
    """The owner has found a better moment."""
    lab, job_id = at(State.DEFERRED)
    lab.device.orchestrator.job.policy = lab.policy = lambda offer, now: Accept()
    before = lab.clock.now()
    assert lab.device.orchestrator.check_now(before)
    lab.run()
    assert last(lab, job_id)[0] == "SUCCEEDED"
    assert lab.clock.now() < before + 50
    assert lab.device.orchestrator.check_now(lab.clock.now())
    assert not lab.device.orchestrator.check_now(lab.clock.now())  # it is asking already


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (lambda offer, now: 1 / 0, "aborted: policy-error: ZeroDivisionError: division by zero"),
        (lambda offer, now: True, "aborted: policy-error: the policy answered True"),
        (lambda offer, now: Defer(0, "x"), "aborted: policy: deferred by 0 s"),
    ],
)
def test_policies_with_mistakes(policy: UpdatePolicy, reason: str) -> None:
    lab = Lab(policy=policy)
    job_id = lab.offer("2.0.0")
    lab.run()
    assert last(lab, job_id) == ("FAILED", reason)


def test_job_created_while_offline() -> None:
    """No notification was ever seen; the device asks when it comes back."""
    lab = Lab()
    lab.run()
    lab.cut_link()
    job_id = lab.offer("2.0.0")
    lab.run_for(1000)
    lab.restore_link()
    lab.run()
    assert last(lab, job_id)[0] == "SUCCEEDED"


class Deaf(LossyLink):
    """Loses the notifications."""

    def deliveries(self, message: Message, now: float) -> list[float]:
        return [] if "/notify" in message.topic else [now]


def test_lost_notification() -> None:
    """The device asks by itself after `poll_interval`."""
    lab = Lab(link=Deaf(0), config=OtaConfig(poll_interval=900.0))
    lab.run()
    job_id = lab.offer("2.0.0")
    lab.run()
    assert (lab.clock.now(), last(lab, job_id)[0]) == (900.0, "SUCCEEDED")


def test_a_notification_that_repeats() -> None:
    """The same notify-next again and again, in the middle of a download, changes nothing."""
    lab = Lab(image_size=100_000, link=slow())
    lab.run()
    job_id = lab.offer("2.0.0")
    lab.run(until=lambda: lab.received >= 3)
    told = [entry[3] for entry in lab.broker.log if entry[3].topic.endswith(("/notify-next", "/notify"))]
    assert told
    for message in told * 10:
        lab.device.receive(message, lab.clock.now())
    lab.run()
    assert last(lab, job_id)[0] == "SUCCEEDED"
    assert sum(isinstance(event, Progress) for event in lab.device.events) == 25


class OnlyNotify(LossyLink):
    """Loses notify-next, not notify."""

    def deliveries(self, message: Message, now: float) -> list[float]:
        return [] if message.topic.endswith("/notify-next") else [now]


def test_one_of_the_two_notifications_is_enough() -> None:
    lab = Lab(link=OnlyNotify(0))
    lab.run()
    job_id = lab.offer("2.0.0")
    lab.run()
    assert (lab.clock.now(), last(lab, job_id)[0]) == (0.0, "SUCCEEDED")


def test_a_self_test_that_takes_its_time() -> None:
    """Asked every second until it knows."""
    answers = iter([None, None, None, True])
    lab = Lab(self_test=lambda: next(answers))
    job_id = lab.offer("2.0.0")
    lab.run()
    assert (lab.clock.now(), last(lab, job_id)[0], runs(lab)) == (3.0, "SUCCEEDED", ("2.0.0", True))


def test_a_self_test_that_never_knows() -> None:
    """Its time ends, the old image comes back, and is not tried again."""
    lab = Lab(self_test=lambda: None)
    job_id = lab.offer("2.0.0")
    lab.run()
    assert (lab.clock.now(), runs(lab), lab.device.boots) == (16.0, ("1.0.0", True), 3)
    assert last(lab, job_id) == ("FAILED", "rejected: image-state-mismatch: 1.0.0 runs")


def test_an_image_that_crashes_at_once_is_tried_twice() -> None:
    """Power lost before the new image can say a word looks like a crash: two trials, then the job has failed."""
    lab = Lab()
    job_id = lab.offer("2.0.0")
    trials = 0
    while last(lab, job_id)[0] not in ("FAILED", "SUCCEEDED"):
        lab.run(until=lambda: lab.bootloader.on_trial or last(lab, job_id)[0] == "FAILED")
        if lab.bootloader.on_trial:
            trials += 1
            lab.restore_power()
    assert (trials, runs(lab), last(lab, job_id)[0]) == (2, ("1.0.0", True), "FAILED")


@pytest.mark.parametrize("state", [State.ACTIVATING, State.SELF_TESTING, State.REPORTING])
def test_the_job_is_gone_when_it_reports(state: State) -> None:
    """Cancelled by force at the worst moment: what runs in the end is confirmed, and the next update works."""
    lab, job_id = at(state)
    lab.provider.jobs.cancel_job(job_id, lab.clock.now(), force=True)
    lab.run()
    refusals = [event for event in lab.device.events if isinstance(event, RequestRefused)]
    assert {event.code for event in refusals} <= {"InvalidStateTransition", "TerminalStateReached"}
    assert refusals
    assert not lab.bootloader.on_trial
    assert str(lab.bootloader.running) == ("2.0.0" if state is State.REPORTING else "1.0.0")
    second = lab.offer("3.0.0")
    lab.run()
    assert (last(lab, second)[0], runs(lab)) == ("SUCCEEDED", ("3.0.0", True))


def two_files(lab: Lab, table: bytes, file_type: int = 7) -> str:
    """A firmware and a table."""
    key = lab_key("job")
    files = [
        UpdateFile("/app", BytesContent(firmware("2.0.0", 9000)), "/cert.pem", private_key=key),
        UpdateFile("/table", BytesContent(table), "/cert.pem", private_key=key, file_id=1, file_type=file_type),
    ]
    return lab.provider.create_ota_update("two", [lab.thing], files, lab.clock.now())


def test_two_files_and_a_cut_at_every_operation_of_either_flash() -> None:
    """Firmware and table change together: after any cut, once all is over, both are new."""
    table = bytes(range(256)) * 40
    cuts = 0
    for which in ("slots", "store"):
        cut = 0
        while True:
            flash = NorFlash(16 * 4096)
            lab = Lab(image_size=9000, stores={7: FlashStore(flash)})
            job_id = two_files(lab, table)
            (lab.flash if which == "slots" else flash).cut_after(cut, torn=0.5)
            try:
                lab.run()
                break
            except PowerCut:
                flash.power_on()
                lab.stores = {7: FlashStore(flash)}
                lab.restore_power()
            assert FlashStore(flash).content() in (b"", table)
            lab.run()
            assert (last(lab, job_id)[0], runs(lab)) == ("SUCCEEDED", ("2.0.0", True))
            assert FlashStore(flash).content() == table
            cut += 1
        cuts += cut
    assert cuts > 60


def test_a_job_of_files_only() -> None:
    """No firmware, no reset; the file counts as soon as it is verified, and a second time nothing is fetched."""
    store = FlashStore(NorFlash(8 * 4096))
    lab = Lab(stores={7: store})
    for number in range(2):
        file = UpdateFile("/t", BytesContent(b"gain=7"), "/cert.pem", private_key=lab_key("job"), file_type=7)
        job_id = lab.provider.create_ota_update(f"files{number}", [lab.thing], [file], lab.clock.now())
        lab.run()
        assert last(lab, job_id) == ("SUCCEEDED", "accepted 1 files")
    assert (store.content(), lab.device.boots) == (b"gain=7", 1)
    assert sum(isinstance(event, Progress) for event in lab.device.events) == 1


def test_two_firmwares_for_one_slot() -> None:
    lab = Lab()
    job_id = two_files(lab, b"x" * 100, file_type=9)
    lab.run()
    assert last(lab, job_id)[1].startswith("rejected: file-count: 2 of the job's files are firmware")
    assert lab.received == 0


class Failing:
    """A downloader of another protocol, which is an MQTT downloader until it fails."""

    def __init__(self, inner: FileDownloader, blocks: int, reason: str) -> None:
        self.inner, self.left, self.reason = inner, blocks, reason

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def next_event(self) -> DownloadEvent | None:
        event = self.inner.next_event()
        if event is None:
            return None
        self.left -= 1
        if self.left < 0:
            self.inner.pause()
            return DownloadFailed(self.inner.file, RemoteOtaError("it ends here", reason=self.reason))
        return event


def http_that_fails(blocks: int, reason: str, made: list[str]) -> Callable[..., FileDownloader]:
    """A maker of such downloaders; it notes the address of each."""

    def make(
        thing: str, job: OtaJob, file: OtaFile, pool: MemoryPool, config: OtaConfig, missing: Bitmap | None
    ) -> FileDownloader:
        made.append(file.update_data_url or "")
        return Failing(mqtt_downloader(thing, job, file, pool, config, missing), blocks, reason)  # type: ignore[return-value]

    return make


def both_protocols(lab: Lab, url: str = "https://example.com/1") -> str:
    """An update over MQTT or HTTP."""
    file = UpdateFile("/app", BytesContent(firmware("2.0.0", 40_000)), "/cert.pem", private_key=lab_key("job"), url=url)
    return lab.provider.create_ota_update("both", [lab.thing], [file], lab.clock.now(), protocols=("MQTT", "HTTP"))


def test_fallback_to_the_other_protocol() -> None:
    """HTTP is preferred and fails after four blocks; MQTT brings the rest, and none of the four again."""
    made: list[str] = []
    downloaders = {"MQTT": mqtt_downloader, "HTTP": http_that_fails(4, "http-status", made)}
    lab = Lab(image_size=40_000, downloaders=downloaders, config=OtaConfig(protocols=("HTTP", "MQTT")))
    job_id = both_protocols(lab)
    lab.run()
    assert (last(lab, job_id)[0], made) == ("SUCCEEDED", ["https://example.com/1"])
    assert [e.missing for e in lab.device.events if isinstance(e, UpdateStarted)] == [10, 6]
    assert sum(isinstance(event, Progress) for event in lab.device.events) == 10


def test_the_preferred_protocol_alone_is_used() -> None:
    """MQTT by default: HTTP is not even tried."""
    made: list[str] = []
    lab = Lab(image_size=40_000, downloaders={"MQTT": mqtt_downloader, "HTTP": http_that_fails(0, "never", made)})
    job_id = both_protocols(lab)
    lab.run()
    assert (last(lab, job_id)[0], made) == ("SUCCEEDED", [])


def test_no_common_protocol() -> None:
    lab = Lab(config=OtaConfig(protocols=("HTTP",)))
    job_id = lab.offer("2.0.0")
    lab.run()
    words = "the job offers MQTT, and this device takes HTTP"
    assert last(lab, job_id) == ("FAILED", f"rejected: protocol-unsupported: {words}")


@pytest.mark.parametrize(("blocks", "status", "asked"), [(3, "SUCCEEDED", 4), (0, "FAILED", 2)])
def test_an_address_that_is_too_old_is_asked_for_again_once(blocks: int, status: str, asked: int) -> None:
    """An address lives for some blocks: the job is asked for a fresh one while there is progress; without, once."""
    made: list[str] = []
    downloaders = {"HTTP": http_that_fails(blocks, "url-expired", made)}
    lab = Lab(image_size=40_000, downloaders=downloaders, config=OtaConfig(protocols=("HTTP",)))
    job_id = both_protocols(lab)
    lab.run()
    assert (last(lab, job_id)[0], len(made)) == (status, asked)
    if status == "FAILED":
        assert last(lab, job_id)[1] == "rejected: url-expired: it ends here"


def test_activation_fails() -> None:
    """A bootloader that won't take the request: the job fails, and says why."""
    lab = Lab()

    def broken(*, permanent: bool = False) -> None:
        raise LocalOtaError("the flash is worn out", reason="flash-worn")

    lab.bootloader.activate = broken  # type: ignore[method-assign]
    job_id = lab.offer("2.0.0")
    lab.run()
    assert last(lab, job_id) == ("FAILED", "aborted: flash-worn: the flash is worn out")
    assert runs(lab) == ("1.0.0", True)


def test_config_from_toml() -> None:
    """Every setting by its name; what is wrong is named."""
    text = '[ota]\nblock_size = 1024\nprotocols = ["HTTP"]\nallow_downgrade = true\nwindow = 3\n'
    config = OtaConfig.from_toml(text)
    assert config == OtaConfig(block_size=1024, protocols=("HTTP",), allow_downgrade=True, window=3)
    assert OtaConfig.from_toml("") == OtaConfig()
    for wrong, words in [
        ("[ota]\nblok_size = 1", "did you mean block_size"),
        ("[ota]\nxyz = 1", "there are codec, "),
        ("[ota]\nmomentum = 1.5", "take 1 to 1000, a whole number"),
        ("[ota]\nmomentum = true", "momentum is True"),
        ("[ota]\nprotocols = []", "at least one"),
        ("[ota]\nallow_downgrade = 1", "take true or false"),
        ("ota = 3", "ota is no table"),
        ("[ota", "no TOML"),
    ]:
        with pytest.raises(OtaError, match=words):
            OtaConfig.from_toml(wrong)


@pytest.mark.parametrize("size", [257, 4100, 131_071])
def test_a_block_size_that_does_not_fit_the_flash_is_refused_before_any_job(size: int) -> None:
    with pytest.raises(LocalOtaError, match=f"block_size is {size}, .* units of 8 bytes: take a multiple of 8") as told:
        Lab(config=OtaConfig(block_size=size))
    assert (told.value.reason, f"such as {size - size % 8}" in told.value.advice) == ("config", True)


def test_a_block_size_that_does_not_fit_a_store_is_refused_too() -> None:
    store = FlashStore(NorFlash(8 * 4096, write_size=32))
    with pytest.raises(LocalOtaError, match=r"FlashStore writes in units of 32 bytes: .*, such as 256"):
        Lab(config=OtaConfig(block_size=264), stores={7: store})
    Lab(config=OtaConfig(block_size=288), stores={7: store})
