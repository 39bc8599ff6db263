"""Any interleaving of offers, losses, cuts, suspensions and old messages: the device keeps its promises, and ends."""

from dataclasses import replace
from random import Random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coreota.config import OtaConfig
from coreota.flash import PowerCut
from coreota.jobexecution import JobStatus
from coreota.policy import Accept, Decision, Defer, Offer
from coreota.sim.lab import FAULTS, PATCH_FAULTS, Lab
from coreota.sim.link import LossyLink
from coreota.sim.web import LocalWeb
from coreota.states import State
from coreota.topics import Fetched


class DeviceMachine(RuleBasedStateMachine):
    """A laboratory, and everything that can be done to it."""

    @initialize(
        seed=st.integers(0, 2**32),
        block_size=st.sampled_from([256, 1000, 4096]),
        torn=st.floats(0, 1),
        http=st.booleans(),
    )
    def begin(self, seed: int, block_size: int, torn: float, http: bool) -> None:
        self.link, self.random, self.torn = LossyLink(seed, delay=0.05, bandwidth=40_000), Random(seed), torn
        self.well: bool | None = True
        self.lazy = False
        config = OtaConfig(block_size=block_size, blocks_per_request=4, poll_interval=120.0, self_test_timeout=60.0)
        self.lab = Lab(
            image_size=12_000,
            link=self.link,
            config=config,
            self_test=lambda: self.well,
            policy=self.policy,
            patches=True,
            web=LocalWeb(delay=0.1, lifetime=60.0, accident=self.web_accident) if http else None,
        )
        self.protocols = ("MQTT", "HTTP") if http else ("MQTT",)
        self.web_ill = False
        self.number = 1
        self.good: dict[str, str] = {}  # job ids and the versions that they may bring
        self.bad: list[str] = []
        self.confirmed = {"1.0.0"}
        confirm = self.lab.bootloader.confirm

        def noted() -> None:
            confirm()
            self.confirmed.add(str(self.lab.bootloader.running))

        self.lab.bootloader.confirm = noted  # type: ignore[method-assign]

    def web_accident(self, number: int, reply: Fetched) -> Fetched:
        """While the web is ill, every third answer is another one."""
        kinds = [Fetched(reply.fetch, 503), Fetched(reply.fetch, 0, error="ReadTimeout"), replace(reply, body=b"half")]
        return kinds[number // 3 % 3] if self.web_ill and number % 3 == 0 else reply

    def policy(self, offer: Offer, now: float) -> Decision:
        return Defer(30.0, "not now") if self.lazy else Accept()

    def through(self, seconds: float) -> None:
        """Let time pass; where the power fails, give it back."""
        try:
            self.lab.run_for(seconds)
        except PowerCut:
            self.power_returns()

    def power_returns(self) -> None:
        while True:
            try:
                self.lab.restore_power()
                return
            except PowerCut:
                continue

    @rule(data=st.data(), patched=st.booleans())
    def offer_newer(self, data: st.DataObject, patched: bool) -> None:
        """Over either protocol or both; with a patch, good or bad, or without: the version may run."""
        self.number += 1
        version = f"{self.number}.0.0"
        protocols = data.draw(st.sampled_from([self.protocols, self.protocols[:1], self.protocols[-1:]]))
        fault = data.draw(st.sampled_from([None, *PATCH_FAULTS])) if patched else None
        self.lab.patches = patched
        self.good[self.lab.offer(version, fault=fault, protocols=protocols)] = version

    @rule(fault=st.sampled_from([*FAULTS, "old"]))
    def offer_bad(self, fault: str) -> None:
        self.number += 1
        if fault == "old":
            self.bad.append(self.lab.offer(f"0.{self.number}.0"))
        else:
            self.bad.append(self.lab.offer(f"{self.number}.0.0", fault=fault))

    @precondition(lambda self: self.good)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.good)))
        if not self.lab.history(job_id)[-1].status.terminal:
            self.lab.provider.jobs.cancel_job(job_id, self.lab.clock.now(), force=True)

    @rule(seconds=st.sampled_from([0.1, 0.3, 1.0, 5.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.through(seconds)

    @rule(loss=st.sampled_from([0.0, 0.1, 0.5]), duplicate=st.sampled_from([0.0, 0.3]), jitter=st.sampled_from([0, 1]))
    def weather(self, loss: float, duplicate: float, jitter: int) -> None:
        self.link.loss, self.link.duplicate, self.link.jitter = loss, duplicate, float(jitter)

    @rule(operations=st.integers(0, 60), seconds=st.sampled_from([1.0, 20.0]))
    def power_fails(self, operations: int, seconds: float) -> None:
        self.lab.flash.cut_after(operations, torn=self.torn)
        self.through(seconds)
        self.lab.flash.power_on()

    @rule()
    def battery_out(self) -> None:
        self.power_returns()

    @rule(seconds=st.sampled_from([0.5, 100.0]))
    def link_fails(self, seconds: float) -> None:
        self.lab.cut_link()
        self.through(seconds)
        self.lab.restore_link()

    @rule(seconds=st.sampled_from([0.5, 100.0]))
    def suspend(self, seconds: float) -> None:
        self.lab.device.orchestrator.suspend(self.lab.clock.now())
        self.through(seconds)
        self.lab.device.orchestrator.resume(self.lab.clock.now())

    @rule(ill=st.booleans())
    def web(self, ill: bool) -> None:
        self.web_ill = ill

    @rule()
    def abort(self) -> None:
        self.lab.device.orchestrator.abort(self.lab.clock.now())

    @rule()
    def check_now(self) -> None:
        self.lab.device.orchestrator.check_now(self.lab.clock.now())

    @rule(well=st.sampled_from([True, False, None]), lazy=st.booleans())
    def mood(self, well: bool | None, lazy: bool) -> None:
        self.well, self.lazy = well, lazy

    @precondition(lambda self: self.lab.broker.log)
    @rule(count=st.integers(1, 5))
    def old_messages_again(self, count: int) -> None:
        """What the device once got comes again, in any order."""
        mine = [entry[3] for entry in self.lab.broker.log if entry[2] == self.lab.thing]
        for message in self.random.choices(mine, k=count) if mine else []:
            try:
                self.lab.device.receive(message, self.lab.clock.now())
            except PowerCut:
                self.power_returns()

    @invariant()
    def runs_only_what_was_verified(self) -> None:
        if hasattr(self, "lab"):
            assert str(self.lab.bootloader.running) in {"1.0.0", *self.good.values()}

    @invariant()
    def tells_only_what_is_so(self) -> None:
        for job_id, version in getattr(self, "good", {}).items():
            if self.lab.history(job_id)[-1].status is JobStatus.SUCCEEDED:
                assert version in self.confirmed
        for job_id in getattr(self, "bad", []):
            assert self.lab.history(job_id)[-1].status is not JobStatus.SUCCEEDED

    @invariant()
    def memory_is_bounded(self) -> None:
        if hasattr(self, "lab"):
            pool = self.lab.device.orchestrator.pool
            assert pool.in_use + pool.free == pool.blocks
            assert len(self.lab.device.orchestrator.jobs._pending) <= 100

    def teardown(self) -> None:
        """Once the faults are over, everything comes to an end."""
        if not hasattr(self, "lab"):
            return
        self.weather(0.0, 0.0, 0)
        self.well, self.lazy, self.web_ill = True, False, False
        self.lab.run(limit=100_000)
        jobs = [*self.good, *self.bad]
        assert all(self.lab.history(job_id)[-1].status.terminal for job_id in jobs)
        assert self.lab.device.orchestrator.state is State.WAITING_FOR_JOB
        assert self.lab.device.orchestrator.pool.in_use == 0
        assert not self.lab.bootloader.on_trial
        self.runs_only_what_was_verified()
        self.tells_only_what_is_so()


TestDevice = DeviceMachine.TestCase
TestDevice.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
