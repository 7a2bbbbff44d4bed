"""Test the circuit breaker: rows B1, B2, D-4 and D-5 of the service's conformance table."""

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tsfm_pipeline.serving.breaker import Breaker, Permit
from tsfm_pipeline.serving.settings import BreakerSettings
from tsfm_pipeline.serving.window import BUCKETS
from tsfm_pipeline_tests.serving.clocks import FakeClock


def call(breaker: Breaker, *, fails: bool) -> bool:
    """One call from beginning to end; whether it was allowed."""
    permit = breaker.allow()
    if permit is not None:
        (breaker.failed if fails else breaker.succeeded)(permit)
    return permit is not None


def tripped(clock: FakeClock, **options: float) -> Breaker:
    breaker = Breaker(BreakerSettings(**options), clock)
    while breaker.state == "closed":
        call(breaker, fails=True)
    return breaker


def probed(breaker: Breaker, clock: FakeClock) -> Permit:
    """The permit of the next probe."""
    clock.pass_by(breaker.seconds_to_probe)
    permit = breaker.allow()
    assert permit is not None
    assert permit.probe
    return permit


def test_b1_it_opens_after_failures_in_a_row_and_closes_after_two_probes() -> None:
    clock = FakeClock()
    breaker = Breaker(BreakerSettings(failures_in_a_row=3), clock)
    for _ in range(3):
        assert breaker.state == "closed"
        assert call(breaker, fails=True)
    assert breaker.state == "open"
    breaker.succeeded(probed(breaker, clock))
    assert breaker.state == "half-open"
    breaker.succeeded(probed(breaker, clock))
    assert breaker.state == "closed"
    assert call(breaker, fails=False)
    assert breaker.openings == 1


def test_b2_an_open_breaker_calls_nothing_until_a_probe_is_due() -> None:
    clock = FakeClock()
    breaker = tripped(clock, failures_in_a_row=2)
    assert not any(call(breaker, fails=True) for _ in range(100))
    clock.pass_by(1.999)
    assert breaker.allow() is None
    clock.pass_by(0.001)
    assert breaker.allow() is not None


def test_b2_many_failures_at_once_open_it_once() -> None:
    breaker = Breaker(BreakerSettings(), FakeClock())
    permits = [breaker.allow() for _ in range(32)]
    for permit in permits:
        assert permit is not None
        breaker.failed(permit)
    assert breaker.state == "open"
    assert breaker.openings == 1


def test_d4_one_success_now_and_then_does_not_hide_a_failing_peer() -> None:
    breaker = Breaker(BreakerSettings(), FakeClock())
    outcomes = [i % 4 != 0 for i in range(12)]
    assert [call(breaker, fails=fails) for fails in outcomes] == [True] * 10 + [False] * 2
    assert breaker.state == "open"


def test_d4_what_is_released_does_not_count() -> None:
    breaker = Breaker(BreakerSettings(), FakeClock())
    for _ in range(100):
        permit = breaker.allow()
        assert permit is not None
        breaker.released(permit)
    assert breaker.state == "closed"


def test_d4_failures_leave_the_window() -> None:
    clock = FakeClock()
    breaker = Breaker(BreakerSettings(failures_in_a_row=100), clock)
    for i in range(60):
        call(breaker, fails=i % 2 == 0)
        clock.pass_by(4)
    assert breaker.state == "closed"


def test_d5_half_open_lets_one_call_through() -> None:
    clock = FakeClock()
    breaker = tripped(clock)
    first = probed(breaker, clock)
    assert breaker.state == "half-open"
    clock.pass_by(60)
    assert [breaker.allow() for _ in range(50)] == [None] * 50
    breaker.failed(first)
    assert breaker.state == "open"


def test_d5_late_verdicts_of_earlier_calls_neither_close_nor_disturb_the_probes() -> None:
    clock = FakeClock()
    breaker = Breaker(BreakerSettings(), clock)
    late = [breaker.allow() for _ in range(10)]
    while breaker.state == "closed":
        call(breaker, fails=True)
    probe = probed(breaker, clock)
    for i, permit in enumerate(late):
        assert permit is not None
        (breaker.failed if i % 2 else breaker.succeeded)(permit)
    assert breaker.allow() is None
    breaker.succeeded(probe)
    assert breaker.state == "half-open"
    breaker.succeeded(probed(breaker, clock))
    assert breaker.state == "closed"


def test_d5_a_failed_probe_starts_the_count_of_probes_anew() -> None:
    clock = FakeClock()
    breaker = tripped(clock)
    states = []
    for verdict in (breaker.succeeded, breaker.failed, breaker.succeeded, breaker.succeeded):
        verdict(probed(breaker, clock))
        states.append(breaker.state)
    assert states == ["half-open", "open", "half-open", "closed"]


def test_what_happened_before_it_closed_is_forgotten() -> None:
    clock = FakeClock()
    breaker = Breaker(BreakerSettings(window_s=300), clock)
    late = [breaker.allow() for _ in range(20)]
    while breaker.state == "closed":
        call(breaker, fails=True)
    for _ in range(2):
        breaker.succeeded(probed(breaker, clock))
    for permit in late:
        assert permit is not None
        breaker.failed(permit)
    for i in range(9):
        call(breaker, fails=i % 2 == 0)
    assert breaker.state == "closed"
    assert breaker.openings == 1


def test_a_released_probe_frees_the_place_without_a_verdict() -> None:
    clock = FakeClock()
    breaker = tripped(clock)
    breaker.succeeded(probed(breaker, clock))
    breaker.released(probed(breaker, clock))
    assert breaker.state == "half-open"
    breaker.succeeded(probed(breaker, clock))
    assert breaker.state == "closed"


def test_releasing_after_the_verdict_changes_nothing() -> None:
    clock = FakeClock()
    breaker = tripped(clock, successes_to_close=1)
    probe = probed(breaker, clock)
    breaker.succeeded(probe)
    breaker.released(probe)
    breaker.failed(probe)
    assert breaker.state == "closed"
    assert not breaker._failures_in_a_row


def test_a_peer_that_comes_back_is_called_again_within_two_probes() -> None:
    clock = FakeClock()
    breaker = tripped(clock)
    back, closed_after = clock.now + 10.3, None
    while closed_after is None:
        clock.pass_by(0.02)
        call(breaker, fails=clock.now < back)
        if breaker.state == "closed":
            closed_after = clock.now - back
    assert closed_after <= 4.05


class BreakerMachine(RuleBasedStateMachine):
    """Calls begin and end in any order; the rules are kept as a list of what counted."""

    permits = Bundle("permits")
    options = BreakerSettings(
        failures_in_a_row=3,
        window_s=8,
        min_calls=4,
        failure_rate=0.5,
        probe_every_s=2,
        successes_to_close=2,
    )

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.breaker = Breaker(self.options, self.clock)
        self.open = False
        self.counted: list[tuple[float, bool]] = []
        self.era = 0
        self.probe: Permit | None = None
        self.probe_times: list[float] = []
        self.good_probes = 0

    @rule(target=permits)
    def begin(self) -> tuple[Permit | None, int]:
        permit = self.breaker.allow()
        if not self.open:
            assert permit is not None
            assert not permit.probe
        else:
            due = self.probe is None and self.clock.now >= self.probe_times[-1] + 2
            assert (permit is not None) == due
            if permit is not None:
                assert permit.probe
                self.probe = permit
                self.probe_times.append(self.clock.now)
        return permit, self.era

    @rule(call=consumes(permits), verdict=st.sampled_from(("good", "bad", "bad", "none")))
    def end(self, call: tuple[Permit | None, int], verdict: str) -> None:
        permit, era = call
        if permit is None:
            return
        give_back = {
            "good": self.breaker.succeeded,
            "bad": self.breaker.failed,
            "none": self.breaker.released,
        }
        give_back[verdict](permit)
        if permit is self.probe:
            self.probe = None
            if verdict == "bad":
                self.good_probes = 0
            elif verdict == "good":
                self.good_probes += 1
                if self.good_probes == 2:
                    self.open, self.counted, self.good_probes = False, [], 0
        elif not self.open and era == self.era and verdict != "none":
            self.counted.append((self.clock.now, verdict == "bad"))
            if verdict == "bad" and self.fails():
                self.open, self.era = True, self.era + 1
                self.probe_times, self.good_probes = [self.clock.now], 0

    def fails(self) -> bool:
        row = [bad for _, bad in self.counted[-3:]]
        width = 8 / BUCKETS
        oldest = math.floor(self.clock.now / width) - BUCKETS
        window = [bad for at, bad in self.counted if math.floor(at / width) > oldest]
        return row == [True] * 3 or (len(window) >= 4 and 2 * sum(window) >= len(window))

    @rule()
    def fail_until_open(self) -> None:
        while not self.open:
            self.end(self.begin(), "bad")

    @rule(seconds=st.sampled_from((0.125, 0.5, 1.875, 2.0, 7.875, 8.125)))
    def wait(self, seconds: float) -> None:
        self.clock.pass_by(seconds)

    @invariant()
    def states_agree(self) -> None:
        half = self.probe is not None or self.good_probes
        expected = "closed" if not self.open else "half-open" if half else "open"
        assert self.breaker.state == expected
        assert self.breaker.openings == self.era


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
