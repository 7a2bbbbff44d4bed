"""Test the rollout's state machine: the gate, the rollback, and what a person decides."""

import random
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pydantic import ValidationError

from tsfm_pipeline.evaluation.rollout import (
    Override,
    RolloutDecision,
    RolloutLimits,
    decisions,
)
from tsfm_pipeline.evaluation.rollout_windows import PrecisionDay, ServiceWindow, service_windows

START = datetime(2026, 3, 1, tzinfo=UTC)
STEP = timedelta(minutes=5)
CLEAN = ServiceWindow(START, "shadow", 200, 120.0, 0.0, 0.0, 0.02, 0.0)


class Service:
    """Serves window after window at the stage that was decided before."""

    def __init__(self) -> None:
        self.now = START
        self.windows: list[ServiceWindow] = []
        self.days: list[PrecisionDay] = []
        self.overrides: list[Override] = []

    def decided(self) -> RolloutDecision:
        return decisions(self.windows, self.days, self.overrides, self.now)[-1]

    def serve(self, n: int = 1, stage: str | None = None, **rates: float) -> RolloutDecision:
        told = stage or self.decided().stage
        for _ in range(n):
            self.windows.append(replace(CLEAN, start=self.now, stage=told, **rates))
            self.now += STEP
        return self.decided()

    def override(self, action: str, percent: int | None = None) -> RolloutDecision:
        self.overrides.append(
            Override(at=self.now, action=action, percent=percent, reason="so", by="ada")
        )
        return self.decided()

    def at_stage(self, stage: str) -> "Service":
        while self.decided().stage != stage:
            needed = {"shadow": 30, "10": 60, "50": 1_440}[self.decided().stage]
            told = self.decided().stage
            self.serve(needed // 5, stage=told)
        return self


def test_without_records_it_stays_in_shadow() -> None:
    decision = decisions([], [], [], START)[-1]
    assert (decision.stage, decision.percent, decision.by) == ("shadow", 0, "automatic")
    assert decision.since == START


def test_clean_time_of_30_minutes_60_minutes_and_24_hours_leads_to_100_percent() -> None:
    service = Service().at_stage("100")
    history = decisions(service.windows, [], [], service.now)
    assert [(d.stage, d.percent) for d in history] == [
        ("shadow", 0),
        ("10", 10),
        ("50", 50),
        ("100", 100),
    ]
    minutes = [(b.since - a.since).total_seconds() / 60 for a, b in pairwise(history)]
    assert minutes == [30, 60, 1_440]
    assert "60 minutes of clean windows in a row at stage 10" in history[2].reason
    assert service.serve(300).stage == "100"


@pytest.mark.parametrize(
    ("stage", "rates"),
    [
        ("shadow", {"p95_latency_ms": 300.1}),
        ("shadow", {"error_rate": 0.011}),
        ("shadow", {"invalid_rate": 0.001}),
        ("shadow", {"fallback_rate": 0.081}),
        ("10", {"fallback_rate": 0.081}),
        ("10", {"p95_latency_ms": 399.0}),
        ("50", {"fallback_rate": 0.101}),
    ],
)
def test_a_window_beyond_the_gate_starts_the_clean_time_anew(
    stage: str, rates: dict[str, float]
) -> None:
    service = Service().at_stage(stage)
    assert service.serve(5).clean_minutes == 25
    decision = service.serve(**rates)
    assert (decision.stage, decision.clean_minutes) == (stage, 0)
    assert decision.windows_judged == 6
    assert decision.last_window == service.windows[-1]


def test_the_gate_allows_its_limits() -> None:
    at_limit = {"p95_latency_ms": 300.0, "error_rate": 0.01, "fallback_rate": 0.08}
    assert Service().serve(6, **at_limit).stage == "10"
    assert Service().at_stage("50").serve(fallback_rate=0.1).clean_minutes == 5


@pytest.mark.parametrize(
    ("n", "rates", "reason"),
    [
        (1, {"error_rate": 0.021}, "error rate 2.10%; allowed: 2%"),
        (1, {"invalid_rate": 0.005}, "0.50% of the model's outputs were invalid"),
        (2, {"p95_latency_ms": 401.0}, "p95 latency 401 ms or more in 2 windows in a row"),
        (3, {"fallback_rate": 0.21}, "fallback rate 21% or more in 3 windows in a row"),
        (3, {"breaker_rate": 0.31}, "rate of open breakers 31% or more in 3 windows in a row"),
    ],
)
def test_operational_limits_roll_back_at_the_window_that_breaks_them(
    n: int, rates: dict[str, float], reason: str
) -> None:
    service = Service().at_stage("50")
    if n > 1:
        assert service.serve(n - 1, **rates).stage == "50"
        assert service.serve().stage == "50"
        assert service.serve(n - 1, **rates).stage == "50"
    decision = service.serve(**rates)
    assert (decision.stage, decision.percent, decision.by) == ("rolled-back", 0, "automatic")
    assert decision.since == service.now
    assert reason in decision.reason
    assert service.serve(500).stage == "rolled-back"


def test_shadow_is_never_rolled_back() -> None:
    assert Service().serve(50, error_rate=0.5, invalid_rate=0.5).stage == "shadow"


def test_windows_with_few_requests_neither_count_nor_interrupt() -> None:
    service = Service()
    service.serve(3)
    assert service.serve(50, n_requests=19, error_rate=0.3).clean_minutes == 15
    assert service.serve(3).stage == "10"
    assert service.serve(n_requests=3, invalid_rate=0.34).stage == "rolled-back"


def test_windows_served_before_the_service_learnt_of_the_stage_do_not_count_for_it() -> None:
    service = Service()
    service.serve(100, stage="shadow")
    assert service.decided().stage == "10"
    assert service.decided().clean_minutes == 0
    assert service.serve(12).stage == "50"


def test_windows_of_an_earlier_stage_can_still_roll_back() -> None:
    service = Service().at_stage("50")
    assert service.serve(stage="10", invalid_rate=0.01).stage == "rolled-back"


def test_a_window_that_began_before_a_person_acted_is_not_judged() -> None:
    service = Service()
    service.override("pin", 10)
    service.now += timedelta(minutes=2)
    service.override("resume")
    service.now -= timedelta(minutes=2)
    assert service.serve(stage="10", invalid_rate=0.01).stage == "10"
    assert service.decided().windows_judged == 0
    assert service.serve(stage="10").windows_judged == 1


def test_nothing_is_left_to_roll_back_once_it_is_in_shadow_again() -> None:
    service = Service().at_stage("10")
    service.override("rollback")
    service.override("resume")
    assert service.serve(5, stage="10", invalid_rate=0.01).stage == "shadow"


def test_what_comes_after_as_of_is_not_known() -> None:
    service = Service().at_stage("50")
    service.override("rollback")
    service.overrides = [service.overrides[0].model_copy(update={"at": service.now + STEP})]
    for i, stage in ((5, "shadow"), (6, "10"), (17, "10"), (18, "50")):
        as_of = START + i * STEP
        assert decisions(service.windows, [], service.overrides, as_of)[-1].stage == stage


def test_windows_of_a_service_whose_rollout_is_off_change_nothing() -> None:
    assert Service().serve(100, stage="off", error_rate=0.5).windows_judged == 0


def days(first: int, n: int, followed: int, reference: int | None = None) -> list[PrecisionDay]:
    return [
        PrecisionDay(
            date(2026, 3, first + i),
            50,
            followed,
            0 if reference is None else 50,
            reference or 0,
        )
        for i in range(n)
    ]


def with_days(service: Service, rows: list[PrecisionDay]) -> RolloutDecision:
    service.days = rows
    service.now = datetime(2026, 3, rows[-1].day.day, tzinfo=UTC) + timedelta(days=1)
    return service.decided()


def test_a_breach_precision_15_percent_below_the_baselines_over_three_days_rolls_back() -> None:
    assert with_days(Service().at_stage("10"), days(1, 2, 10, 25)).stage == "10"
    assert with_days(Service().at_stage("10"), days(1, 3, 22, 25)).stage == "10"
    decision = with_days(Service().at_stage("10"), days(1, 3, 21, 25))
    assert decision.stage == "rolled-back"
    assert decision.since == datetime(2026, 3, 4, tzinfo=UTC)
    assert "breach precision 0.420 over 3 days, 16% below the baseline's (0.500)" in decision.reason


def test_without_a_baselines_breaches_the_days_before_are_the_reference() -> None:
    service = Service().at_stage("100")
    assert with_days(service, days(3, 10, 25)).stage == "100"
    decision = with_days(service, [*days(3, 10, 25), *days(13, 3, 20)])
    assert decision.stage == "rolled-back"
    assert "below that of up to 14 days before (0.500)" in decision.reason


def test_what_led_to_a_remembered_decision_is_not_judged_again() -> None:
    service = Service()
    before = service.at_stage("10").decided()
    service.windows = [replace(window, invalid_rate=1.0) for window in service.windows]
    service.windows = [replace(window, stage="10") for window in service.windows]
    arguments = (service.windows, [], [], service.now)
    assert decisions(*arguments)[-1].stage == "shadow"
    assert [one.stage for one in decisions(*arguments, initial=before)] == ["10"]


def test_days_before_a_remembered_stage_count_for_the_precision_since_a_person_acted() -> None:
    service = Service()
    before = service.at_stage("10").decided()
    bad, end = days(1, 3, 10, 25), datetime(2026, 3, 4, tzinfo=UTC)
    assert decisions([], bad, [], end, initial=before)[-1].stage == "10"
    judged = decisions([], bad, [], end, initial=before, restarted=START)
    assert judged[-1].stage == "rolled-back"


def test_few_breaches_are_not_compared() -> None:
    few = [replace(day, breaches=33, followed=0) for day in days(2, 3, 0, 25)]
    assert with_days(Service().at_stage("10"), few).stage == "10"


def test_the_days_that_led_to_a_rollback_do_not_lead_to_it_again() -> None:
    service = Service().at_stage("10")
    bad = days(2, 3, 10, 25)
    with_days(service, bad)
    service.override("resume")
    service.serve(6)
    assert service.decided().stage == "10"
    assert with_days(service, [*bad, *days(5, 2, 10, 25)]).stage == "10"
    assert with_days(service, [*bad, *days(5, 4, 10, 25)]).stage == "rolled-back"


def test_a_pin_outranks_the_windows() -> None:
    service = Service().at_stage("10")
    decision = service.override("pin", 25)
    assert (decision.stage, decision.percent, decision.by) == ("pinned", 25, "ada")
    assert decision.reason == "so"
    assert service.serve(20, error_rate=0.5, invalid_rate=0.5).stage == "pinned"
    assert service.serve(400).percent == 25


def test_a_rollback_by_a_person_stays_until_it_is_resumed_in_shadow() -> None:
    service = Service().at_stage("50")
    assert service.override("rollback").stage == "rolled-back"
    assert service.serve(400).stage == "rolled-back"
    assert service.override("resume").stage == "shadow"
    assert service.serve(6).stage == "10"


@pytest.mark.parametrize(
    ("percent", "stage"), [(0, "shadow"), (9, "shadow"), (10, "10"), (60, "50"), (100, "100")]
)
def test_resuming_from_a_pin_never_raises_the_share(percent: int, stage: str) -> None:
    service = Service()
    service.override("pin", percent)
    assert service.override("resume").stage == stage


def test_resuming_what_is_automatic_changes_nothing() -> None:
    service = Service()
    service.serve(5)
    before = service.decided()
    service.override("resume")
    assert service.decided() == before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"action": "pin"}, "a pin has one"),
        ({"action": "rollback", "percent": 5}, "nothing else does"),
        ({"action": "resume", "by": "automatic"}, "the name of a person"),
        ({"action": "pin", "percent": 101}, "less than or equal to 100"),
        ({"action": "resume", "reason": ""}, "at least 1 character"),
    ],
)
def test_overrides_that_make_no_sense_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Override(**{"at": START, "reason": "so", "by": "ada", **fields})


def test_a_decision_is_read_as_it_was_published() -> None:
    service = Service().at_stage("10")
    decision = service.serve(2)
    assert RolloutDecision.model_validate_json(decision.model_dump_json()) == decision


def test_a_published_share_must_be_the_stages() -> None:
    with pytest.raises(ValidationError, match="stage 10 has 10"):
        RolloutDecision(stage="10", percent=50, since=START, reason="", by="ada", as_of=START)


def test_the_order_in_which_records_are_read_does_not_matter() -> None:
    service = Service().at_stage("50")
    service.override("pin", 20)
    service.serve(3)
    service.override("resume")
    service.serve(3, fallback_rate=0.25)
    expected = decisions(service.windows, [], service.overrides, service.now)
    rng = random.Random(3)
    for _ in range(5):
        windows, overrides = list(service.windows), list(service.overrides)
        rng.shuffle(windows)
        rng.shuffle(overrides)
        assert decisions(windows, [], overrides, service.now) == expected


def test_windows_are_cut_at_five_minutes_and_where_the_stage_changed() -> None:
    n = 10
    received = np.datetime64("2026-03-01T00:03:00", "us") + np.arange(n) * np.timedelta64(30, "s")
    fails = np.arange(n) == 9
    none = np.zeros(n, dtype=bool)
    order = np.random.default_rng(0).permutation(n)
    stages = np.array(["shadow"] * 7 + ["10"] * 3)
    found = service_windows(
        received[order],
        list(stages[order]),
        np.arange(n, dtype=float)[order],
        error=none,
        invalid=none,
        fallback=fails[order],
        breaker_open=none,
        minutes=5,
    )
    assert [(w.start.minute, w.stage, w.n_requests) for w in found] == [
        (0, "shadow", 4),
        (5, "10", 3),
        (5, "shadow", 3),
    ]
    assert found[0].start == START
    assert found[1].fallback_rate == pytest.approx(1 / 3)
    assert found[2].p95_latency_ms == pytest.approx(5.9)


def test_no_requests_are_no_windows() -> None:
    none = np.zeros(0, dtype=bool)
    assert not service_windows(
        np.zeros(0, dtype="datetime64[us]"),
        [],
        np.zeros(0),
        error=none,
        invalid=none,
        fallback=none,
        breaker_open=none,
        minutes=5,
    )


KINDS = {
    "clean": {},
    "slow": {"p95_latency_ms": 350.0},
    "very slow": {"p95_latency_ms": 450.0},
    "failing": {"error_rate": 0.05},
    "invalid": {"invalid_rate": 0.01},
    "falling back": {"fallback_rate": 0.3},
    "few": {"n_requests": 5},
}


class RolloutMachine(RuleBasedStateMachine):
    """One window or override after another; the model remembers only what the rules speak of."""

    limits = RolloutLimits(clean_minutes={"shadow": 10, "10": 15, "50": 20})

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.windows: list[ServiceWindow] = []
        self.overrides: list[Override] = []
        self.stage, self.percent, self.clean = "shadow", 0, 0
        self.kinds: list[str] = []

    def enter(self, stage: str, percent: int) -> None:
        self.stage, self.percent, self.clean, self.kinds = stage, percent, 0, []

    @rule(kind=st.sampled_from(("clean", "clean", "clean", *KINDS)), n=st.integers(1, 4))
    def serve(self, kind: str, n: int) -> None:
        for _ in range(n):
            window = replace(CLEAN, start=self.now, stage=self.stage, **KINDS[kind])
            self.windows.append(window)
            self.now += STEP
            self.judge(kind)

    def judge(self, kind: str) -> None:
        order = ["shadow", "10", "50", "100"]
        if self.stage not in order or kind == "few":
            return
        self.kinds.append(kind)
        if self.stage != "shadow" and (
            kind in ("failing", "invalid")
            or self.kinds[-2:] == ["very slow"] * 2
            or self.kinds[-3:] == ["falling back"] * 3
        ):
            self.enter("rolled-back", 0)
            return
        self.clean = self.clean + 5 if kind == "clean" else 0
        needed = {"shadow": 10, "10": 15, "50": 20}
        if self.stage != "100" and self.clean >= needed[self.stage]:
            stage = order[order.index(self.stage) + 1]
            self.enter(stage, int(stage))

    @rule(percent=st.integers(0, 100))
    def pin(self, percent: int) -> None:
        self.write("pin", percent)
        self.enter("pinned", percent)

    @rule()
    def rollback(self) -> None:
        self.write("rollback")
        self.enter("rolled-back", 0)

    @precondition(lambda self: self.stage in ("pinned", "rolled-back"))
    @rule()
    def resume(self) -> None:
        self.write("resume")
        percent = max(p for p in (0, 10, 50, 100) if p <= self.percent)
        self.enter(str(percent) if percent else "shadow", percent)

    def write(self, action: str, percent: int | None = None) -> None:
        self.now += timedelta(seconds=1)
        self.overrides.append(
            Override(at=self.now, action=action, percent=percent, reason="so", by="ada")
        )
        self.now += timedelta(seconds=1)

    @invariant()
    def decisions_agree(self) -> None:
        decision = decisions(self.windows, [], self.overrides, self.now, self.limits)[-1]
        assert (decision.stage, decision.percent) == (self.stage, self.percent)
        assert decision.clean_minutes == self.clean


TestRolloutMachine = RolloutMachine.TestCase
TestRolloutMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
