"""Test degradation: rows G1 and D-6 of the service's conformance table."""

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tsfm_pipeline.serving.degradation import Degradation, Permission
from tsfm_pipeline.serving.settings import DegradationSettings
from tsfm_pipeline.serving.window import BUCKETS
from tsfm_pipeline_tests.serving.clocks import FakeClock


def answered(service: Degradation, *, fallback: bool) -> Permission:
    """One request, recorded if the model was asked."""
    permission = service.allow()
    if permission.model:
        service.record(fallback, permission.probe)
    return permission


def baseline_only(clock: FakeClock, **options: float) -> Degradation:
    service = Degradation(DegradationSettings(**options), clock)
    while service.state != "baseline-only":
        answered(service, fallback=True)
    return service


def test_g1_four_of_four_fallbacks_lead_to_baseline_only() -> None:
    service = Degradation(DegradationSettings(min_requests=4), FakeClock())
    for _ in range(3):
        answered(service, fallback=True)
        assert service.state == "normal"
    answered(service, fallback=True)
    assert service.state == "baseline-only"


def test_g1_it_recovers_step_by_step() -> None:
    clock = FakeClock()
    service = baseline_only(clock)
    seen = [service.state]
    while service.state != "normal":
        clock.pass_by(30)
        assert answered(service, fallback=False).probe
        if service.state != seen[-1]:
            seen.append(service.state)
    assert seen == ["baseline-only", "degraded", "normal"]


def test_g1_between_the_two_rates_it_is_degraded() -> None:
    service = Degradation(DegradationSettings(), FakeClock())
    for i in range(100):
        answered(service, fallback=i % 5 < 2)
    assert service.state == "degraded"


def test_d6_degraded_gives_up_retries_and_time() -> None:
    service = Degradation(DegradationSettings(), FakeClock())
    assert service.allow() == Permission(model=True, retry=True, deadline_s=None)
    while service.state != "degraded":
        answered(service, fallback=False)
        answered(service, fallback=True)
        answered(service, fallback=False)
    assert service.allow() == Permission(model=True, retry=False, deadline_s=0.6)


def test_d6_baseline_only_stops_calling_but_for_one_probe_every_30_s() -> None:
    clock = FakeClock()
    service = baseline_only(clock)
    asked = []
    for _ in range(500):
        clock.pass_by(0.25)
        if answered(service, fallback=True).model:
            asked.append(clock.now - 1_000)
    assert asked == [30, 60, 90, 120]


def test_a_probe_runs_under_the_conditions_of_the_next_better_state() -> None:
    clock = FakeClock()
    service = baseline_only(clock)
    clock.pass_by(30)
    assert service.allow() == Permission(True, retry=False, deadline_s=0.6, probe=True)
    service = baseline_only(clock, successes_to_recover=1)
    clock.pass_by(30)
    answered(service, fallback=False)
    assert service.state == "degraded"
    clock.pass_by(30)
    assert service.allow() == Permission(True, retry=True, deadline_s=None, probe=True)


def test_d6_it_recovers_with_one_request_a_minute() -> None:
    clock = FakeClock()
    service = baseline_only(clock)
    for _ in range(4):
        clock.pass_by(60)
        answered(service, fallback=False)
    assert service.state == "normal"


def test_a_failed_probe_starts_the_count_anew() -> None:
    clock = FakeClock()
    service = baseline_only(clock)
    for fallback in (False, True, False):
        clock.pass_by(30)
        answered(service, fallback=fallback)
    assert service.state == "baseline-only"
    clock.pass_by(30)
    answered(service, fallback=False)
    assert service.state == "degraded"


def test_good_probes_do_not_hide_a_high_rate() -> None:
    clock = FakeClock()
    service = Degradation(DegradationSettings(), clock)
    for i in range(100):
        answered(service, fallback=i % 5 < 2)
    for i in range(600):
        clock.pass_by(0.5)
        permission = service.allow()
        service.record(fallback=not permission.probe and i % 5 == 0, probe=permission.probe)
    assert service.state == "degraded"


def test_a_quiet_outage_is_forgotten_with_the_window() -> None:
    clock = FakeClock()
    service = Degradation(DegradationSettings(), clock)
    for _ in range(19):
        answered(service, fallback=True)
    clock.pass_by(301)
    for _ in range(19):
        answered(service, fallback=True)
    assert service.state == "normal"


class DegradationMachine(RuleBasedStateMachine):
    """Requests begin and end in any order; the rules are kept as a list of what counted."""

    requests = Bundle("requests")
    options = DegradationSettings(window_s=100, min_requests=5)

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.service = Degradation(self.options, self.clock)
        self.state = "normal"
        self.recorded: list[tuple[float, bool]] = []
        self.probed_at = 0.0
        self.good_probes = 0

    @rule(target=requests)
    def begin(self) -> Permission:
        permission = self.service.allow()
        due = self.state != "normal" and self.clock.now - self.probed_at >= 30
        assert permission.probe == due
        if due:
            self.probed_at = self.clock.now
        better = {"normal": "normal", "degraded": "normal", "baseline-only": "degraded"}
        level = better[self.state] if due else self.state
        assert permission.model == (level != "baseline-only")
        assert permission.retry == (level == "normal")
        assert permission.deadline_s == (0.6 if level == "degraded" else None)
        return permission

    @rule(permission=consumes(requests), fallback=st.booleans())
    def end(self, permission: Permission, fallback: bool) -> None:
        if not permission.model:
            return
        self.service.record(fallback, permission.probe)
        if self.state == "baseline-only":
            if permission.probe and self.is_recovered(fallback):
                self.recorded = []
                self.go("degraded")
            return
        self.recorded.append((self.clock.now, fallback))
        rate = self.rate()
        if rate is not None and rate > 0.5:
            self.go("baseline-only")
        elif self.state == "normal" and rate is not None and rate > 0.3:
            self.go("degraded")
        elif (
            self.state == "degraded"
            and permission.probe
            and self.is_recovered(fallback)
            and (rate is None or rate <= 0.15)
        ):
            self.go("normal")

    def is_recovered(self, fallback: bool) -> bool:
        self.good_probes = 0 if fallback else self.good_probes + 1
        return self.good_probes >= 2

    def go(self, state: str) -> None:
        self.state, self.probed_at, self.good_probes = state, self.clock.now, 0

    def rate(self) -> float | None:
        width = 100 / BUCKETS
        oldest = math.floor(self.clock.now / width) - BUCKETS
        window = [bad for at, bad in self.recorded if math.floor(at / width) > oldest]
        return sum(window) / len(window) if len(window) >= 5 else None

    @rule(seconds=st.sampled_from((0.5, 10.0, 30.0, 99.5, 100.5)))
    def wait(self, seconds: float) -> None:
        self.clock.pass_by(seconds)

    @invariant()
    def states_agree(self) -> None:
        assert self.service.state == self.state


TestDegradationMachine = DegradationMachine.TestCase
TestDegradationMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
