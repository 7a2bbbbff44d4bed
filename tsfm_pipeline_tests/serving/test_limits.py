"""Test the rate limit: rows A2 and D-17 of the service's conformance table."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tsfm_pipeline.serving.limits import RateLimit
from tsfm_pipeline.serving.settings import RateLimitSettings
from tsfm_pipeline_tests.serving.clocks import FakeClock


def test_a2_a_burst_above_the_limit_is_refused_with_the_seconds_to_wait() -> None:
    limit = RateLimit(RateLimitSettings(per_minute=6, burst=6), FakeClock())
    waits = [limit.take("a") for _ in range(8)]
    assert waits == [0, 0, 0, 0, 0, 0, 10, 10]


def test_d17_a_cycle_of_200_markets_passes_every_minute() -> None:
    clock = FakeClock()
    limit = RateLimit(RateLimitSettings(), clock)
    for _ in range(10):
        assert [limit.take("a") for _ in range(200)] == [0] * 200
        clock.pass_by(20)


def test_d17_callers_do_not_take_from_each_other() -> None:
    limit = RateLimit(RateLimitSettings(burst=1), FakeClock())
    assert limit.take("a") == 0
    assert limit.take("a") > 0
    assert limit.take("b") == 0


def test_d17_the_number_of_callers_is_bounded_and_the_last_ones_are_remembered() -> None:
    limit = RateLimit(RateLimitSettings(burst=1, max_callers=3), FakeClock())
    for i in range(1_000):
        limit.take(str(i))
    assert len(limit._buckets) == 3
    assert [limit.take(str(i)) > 0 for i in (997, 998, 999)] == [True] * 3


def test_what_got_no_forecast_is_given_back() -> None:
    limit = RateLimit(RateLimitSettings(burst=2), FakeClock())
    assert limit.take("a", 2) == 0
    limit.give_back("a")
    assert limit.take("a") == 0
    assert limit.take("a") > 0
    limit.give_back("a", 1_000)
    assert limit.take("a", 2) == 0
    assert limit.take("a") > 0
    limit.give_back("nobody", 1_000)
    assert "nobody" not in limit._buckets


def test_a_batch_larger_than_the_burst_is_paid_off_afterwards() -> None:
    clock = FakeClock()
    limit = RateLimit(RateLimitSettings(per_minute=60, burst=10), clock)
    assert limit.take("a", 25) == 0
    assert limit.take("a") == pytest.approx(16)
    clock.pass_by(16)
    assert limit.take("a") == 0


def test_a_limit_that_is_off_refuses_nothing() -> None:
    limit = RateLimit(RateLimitSettings(enabled=False, burst=1), FakeClock())
    assert [limit.take("a", 50) for _ in range(50)] == [0] * 50


@given(
    takes=st.lists(st.tuples(st.integers(1, 30), st.floats(0, 50)), max_size=30),
    per_minute=st.floats(0.5, 6_000),
    burst=st.integers(1, 40),
)
def test_waiting_as_long_as_was_said_suffices(
    takes: list[tuple[int, float]], per_minute: float, burst: int
) -> None:
    clock = FakeClock()
    limit = RateLimit(RateLimitSettings(per_minute=per_minute, burst=burst), clock)
    for forecasts, pause in takes:
        wait = limit.take("a", forecasts)
        if wait:
            clock.pass_by(wait * (1 + 1e-12))
            assert limit.take("a", forecasts) == 0
        clock.pass_by(pause)


class LimitMachine(RuleBasedStateMachine):
    """Three callers; each one's tokens are kept as exact numbers of sixteenths."""

    options = RateLimitSettings(per_minute=30, burst=4)
    callers = st.sampled_from("abc")

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.limit = RateLimit(self.options, self.clock)
        self.tokens = dict.fromkeys("abc", 4.0)
        self.granted = dict.fromkeys("abc", 0)
        self.began = self.clock.now

    @rule(caller=callers, forecasts=st.integers(1, 6))
    def take(self, caller: str, forecasts: int) -> None:
        wait = self.limit.take(caller, forecasts)
        missing = min(forecasts, 4) - self.tokens[caller]
        assert wait == max(0.0, missing / 0.5)
        if not wait:
            self.tokens[caller] -= forecasts
            self.granted[caller] += forecasts

    @rule(caller=callers, forecasts=st.integers(1, 3))
    def give_back(self, caller: str, forecasts: int) -> None:
        if self.granted[caller] < forecasts:
            return
        self.limit.give_back(caller, forecasts)
        self.tokens[caller] = min(4.0, self.tokens[caller] + forecasts)
        self.granted[caller] -= forecasts

    @rule(seconds=st.sampled_from((0.125, 1.0, 2.0, 6.5)))
    def wait(self, seconds: float) -> None:
        self.clock.pass_by(seconds)
        for caller, tokens in self.tokens.items():
            self.tokens[caller] = min(4.0, tokens + seconds * 0.5)

    @invariant()
    def nobody_gets_more_than_rate_and_burst(self) -> None:
        most = (self.clock.now - self.began) * 0.5 + 4
        assert all(n <= most + 2 for n in self.granted.values())


TestLimitMachine = LimitMachine.TestCase
TestLimitMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
