"""The rollout of the online service: for which share of the markets the model's forecast is sent.

What belongs here: the state machine from shadow to 100 %, its limits, and the decision as a run
publishes it. What does not: what is judged (`rollout_windows`), and which market belongs to the
share (`serving.rollout`).

The decision is made anew from all windows, days and overrides, so it depends on nothing but them.
The service learns of a decision when it is published, which may be long after the moment that it
was made for. Clean time therefore counts only in windows that were served at the decided stage.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from tsfm_pipeline.evaluation.rollout_windows import PrecisionDay, ServiceWindow

Stage = Literal["shadow", "10", "50", "100", "rolled-back", "pinned"]
STAGES: tuple[Stage, ...] = ("shadow", "10", "50", "100")
"""The automatic stages in their order."""
PERCENT: Mapping[str, int] = {"shadow": 0, "10": 10, "50": 50, "100": 100}
"""The share of the markets that each of them sends to the model."""
AUTOMATIC = "automatic"


class RolloutLimits(BaseModel):
    """What a window must keep to count as clean, and what ends the rollout."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_minutes: int = Field(5, description="length of a window", ge=1)
    min_requests: int = Field(
        20, description="requests below which a window is judged by invalid outputs only", ge=1
    )
    clean_p95_latency_ms: float = Field(300.0, description="a clean window's highest p95 latency")
    clean_error_rate: float = Field(0.01, description="a clean window's highest error rate")
    clean_fallback_rate_first: float = Field(
        0.08, description="a clean window's highest fallback rate in shadow and at 10 %"
    )
    clean_fallback_rate: float = Field(
        0.10, description="a clean window's highest fallback rate from 50 % on"
    )
    clean_minutes: dict[Stage, int] = Field(
        {"shadow": 30, "10": 60, "50": 1_440},
        description="minutes of clean windows in a row that lead to the next stage",
    )
    rollback_p95_latency_ms: float = Field(
        400.0, description="p95 latency above which windows in a row roll back"
    )
    rollback_p95_windows: int = Field(2, description="number of such windows", ge=1)
    rollback_error_rate: float = Field(
        0.02,
        description="share of requests that even a baseline failed to answer, above which one "
        "window rolls back",
    )
    rollback_fallback_rate: float = Field(0.20, description="fallback rate, likewise, if it lasts")
    rollback_breaker_rate: float = Field(
        0.30, description="share of requests with an open breaker, likewise, if it lasts"
    )
    rollback_minutes: int = Field(15, description="how long these two must last", ge=1)
    precision_fall: float = Field(
        0.15, description="relative fall of the breach precision that rolls back", gt=0, lt=1
    )
    precision_days: int = Field(3, description="days over which the precision is pooled", ge=1)
    reference_days: int = Field(
        14, description="days before these, the reference where no baseline was served", ge=1
    )
    min_breaches: int = Field(
        100, description="breaches on both sides below which precisions are not compared", ge=1
    )


class Override(BaseModel):
    """A person's record that outranks the automatic decision, until the next one.

    pin: send `percent` to the model, whatever the windows say. rollback: send nothing to it.
    resume: leave it to the windows again, from the largest stage that is no larger than the share
    at that time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: AwareDatetime
    action: Literal["pin", "rollback", "resume"]
    percent: int | None = Field(None, ge=0, le=100)
    reason: str = Field(min_length=1, max_length=500)
    by: str = Field(min_length=1, max_length=100)

    @model_validator(mode="after")
    def _percent_of_a_pin(self) -> Self:
        if (self.percent is None) == (self.action == "pin"):
            raise ValueError(f"percent is {self.percent}; a pin has one, and nothing else does")
        if self.by == AUTOMATIC:
            raise ValueError(f"by is {self.by!r}; allowed: the name of a person")
        return self


class RolloutDecision(BaseModel):
    """The decision as a run publishes it and the service obeys it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    stage: Stage
    percent: int = Field(ge=0, le=100, description="share of the markets that the model answers")
    since: AwareDatetime = Field(description="when the conditions of this stage were met")
    reason: str
    by: str = Field(description="`automatic`, or who overrode it")
    as_of: AwareDatetime = Field(description="the decision knows what was recorded until then")
    windows_judged: int = Field(0, ge=0, description="windows of this stage that were judged")
    clean_minutes: int = Field(0, ge=0, description="minutes of clean windows in a row until now")
    last_window: ServiceWindow | None = Field(None, description="the last one that was judged")
    limits: RolloutLimits = RolloutLimits()

    @model_validator(mode="after")
    def _share_of_the_stage(self) -> Self:
        fixed = {**PERCENT, "rolled-back": 0}.get(self.stage, self.percent)
        if self.percent != fixed:
            raise ValueError(f"percent is {self.percent}; stage {self.stage} has {fixed}")
        return self


@dataclass(frozen=True)
class _State:
    """restarted: when a person last acted. running: the last windows that were judged."""

    stage: Stage
    percent: int
    since: datetime
    reason: str
    by: str
    restarted: datetime
    running: tuple[ServiceWindow, ...] = ()
    windows_judged: int = 0
    clean_minutes: int = 0

    @classmethod
    def of(cls, before: RolloutDecision, restarted: datetime | None = None) -> "_State":
        """Return the state that a decision was made for, at its beginning. restarted: the
        decision's own time by default.
        """
        since = before.since
        return cls(
            before.stage, before.percent, since, before.reason, before.by, restarted or since
        )

    def entered(
        self, stage: Stage, percent: int, since: datetime, reason: str, by: str
    ) -> "_State":
        """Return the state at the beginning of another stage, or of the same one anew."""
        restarted = self.restarted if by == AUTOMATIC else since
        return _State(stage, percent, since, reason, by, restarted)

    def decision(self, as_of: datetime, limits: RolloutLimits) -> RolloutDecision:
        """Return the state as it is published."""
        return RolloutDecision(
            stage=self.stage,
            percent=self.percent,
            since=self.since,
            reason=self.reason,
            by=self.by,
            as_of=as_of,
            windows_judged=self.windows_judged,
            clean_minutes=self.clean_minutes,
            last_window=self.running[-1] if self.running else None,
            limits=limits,
        )


def decisions(
    windows: Iterable[ServiceWindow],
    days: Iterable[PrecisionDay],
    overrides: Iterable[Override],
    as_of: datetime,
    limits: RolloutLimits | None = None,
    initial: RolloutDecision | None = None,
    restarted: datetime | None = None,
) -> list[RolloutDecision]:
    """Return one decision per change, in the order of time; the last one is in force at `as_of`.

    The first is the stage shadow, or `initial`: what happened before it led to it, and changes
    nothing any more. restarted: when a person last acted before `initial`, or when the rollout
    began. Nothing that ends after `as_of` is used.
    """
    limits = limits or RolloutLimits()
    length = timedelta(minutes=limits.window_minutes)
    days = sorted(days, key=lambda day: day.day)
    events: list[tuple[datetime, int, ServiceWindow | PrecisionDay | Override]] = [
        *((override.at, 0, override) for override in overrides),
        *((window.start + length, 1, window) for window in windows),
        *((_midnight(day.day) + timedelta(days=1), 2, day) for day in days),
    ]
    events = sorted(
        (
            event
            for event in events
            if event[0] <= as_of and (initial is None or event[0] > initial.since)
        ),
        key=lambda event: event[:2],
    )
    first = min((_begin(event, length) for _, _, event in events), default=as_of)
    states = [
        _State("shadow", 0, first, "nothing has been judged yet", AUTOMATIC, first)
        if initial is None
        else _State.of(initial, restarted)
    ]
    for at, _, event in events:
        match event:
            case ServiceWindow():
                state = _after_window(states[-1], event, at, limits)
            case PrecisionDay():
                state = _after_day(states[-1], event.day, days, at, limits)
            case Override():
                state = _after_override(states[-1], event)
        if (state.stage, state.since) == (states[-1].stage, states[-1].since):
            states[-1] = state
        else:
            states.append(state)
    return [state.decision(as_of, limits) for state in states]


def overridden(decision: RolloutDecision | None, override: Override) -> RolloutDecision:
    """Return the decision that follows an override at once; None: nothing was decided before.

    It has the stage that `decisions` finds when it knows the override too.
    """
    before = decision or decisions((), (), (), override.at)[-1]
    state = _State.of(before)
    after = _after_override(state, override)
    return before if after is state else after.decision(override.at, before.limits)


def _after_override(state: _State, override: Override) -> _State:
    stage: Stage
    match override.action:
        case "pin":
            stage, percent = "pinned", override.percent or 0
        case "rollback":
            stage, percent = "rolled-back", 0
        case "resume":
            if state.stage in PERCENT:
                return state
            stage = [stage for stage in STAGES if PERCENT[stage] <= state.percent][-1]
            percent = PERCENT[stage]
    return state.entered(stage, percent, override.at, override.reason, override.by)


def _after_window(
    state: _State, window: ServiceWindow, end: datetime, limits: RolloutLimits
) -> _State:
    too_few = window.n_requests < limits.min_requests and not window.invalid_rate
    if state.stage not in STAGES or window.start < state.restarted or too_few:
        return state
    # Of another stage: the service has not learnt of this one yet. It may still end the rollout.
    with_model = PERCENT.get(window.stage, 0) > 0 and PERCENT[state.stage] > 0
    of_this_stage = window.stage == state.stage
    if not (with_model or of_this_stage):
        return state
    running = (*state.running, window)[-_longest_run(limits) :]
    if with_model and (broken := _broken(running, limits)):
        return state.entered("rolled-back", 0, end, broken, AUTOMATIC)
    if not of_this_stage:
        return replace(state, running=running)
    clean = _is_clean(window, state.stage, limits)
    clean_minutes = state.clean_minutes + limits.window_minutes if clean else 0
    needed = limits.clean_minutes.get(state.stage)
    if needed is not None and clean_minutes >= needed:
        stage = STAGES[STAGES.index(state.stage) + 1]
        reason = f"{clean_minutes} minutes of clean windows in a row at stage {state.stage}"
        return state.entered(stage, PERCENT[stage], end, reason, AUTOMATIC)
    return replace(
        state,
        running=running,
        windows_judged=state.windows_judged + 1,
        clean_minutes=clean_minutes,
    )


def _is_clean(window: ServiceWindow, stage: Stage, limits: RolloutLimits) -> bool:
    first = stage in ("shadow", "10")
    fallbacks = limits.clean_fallback_rate_first if first else limits.clean_fallback_rate
    return (
        window.p95_latency_ms <= limits.clean_p95_latency_ms
        and window.error_rate <= limits.clean_error_rate
        and window.invalid_rate == 0
        and window.fallback_rate <= fallbacks
    )


def _longest_run(limits: RolloutLimits) -> int:
    return max(limits.rollback_p95_windows, _lasting(limits))


def _lasting(limits: RolloutLimits) -> int:
    return -(-limits.rollback_minutes // limits.window_minutes)


def _broken(running: Sequence[ServiceWindow], limits: RolloutLimits) -> str:
    """Return the rollback condition that the last windows meet, in words; empty: none."""
    last, lasting = running[-1], _lasting(limits)
    if last.invalid_rate > 0:
        return f"{last.invalid_rate:.2%} of the model's outputs were invalid; allowed: none"
    if last.error_rate > limits.rollback_error_rate:
        return f"error rate {last.error_rate:.2%}; allowed: {limits.rollback_error_rate:.0%}"
    for name, values, most, unit, n in (
        (
            "p95 latency",
            [window.p95_latency_ms for window in running],
            limits.rollback_p95_latency_ms,
            "{:.0f} ms",
            limits.rollback_p95_windows,
        ),
        (
            "fallback rate",
            [window.fallback_rate for window in running],
            limits.rollback_fallback_rate,
            "{:.0%}",
            lasting,
        ),
        (
            "rate of open breakers",
            [window.breaker_rate for window in running],
            limits.rollback_breaker_rate,
            "{:.0%}",
            lasting,
        ),
    ):
        if len(values) >= n and min(values[-n:]) > most:
            lowest, allowed = unit.format(min(values[-n:])), unit.format(most)
            return f"{name} {lowest} or more in {n} windows in a row; allowed: {allowed}"
    return ""


def _after_day(
    state: _State, day: date, days: Sequence[PrecisionDay], at: datetime, limits: RolloutLimits
) -> _State:
    first = day - timedelta(days=limits.precision_days - 1)
    if not PERCENT.get(state.stage, 0) or _midnight(first) < state.restarted:
        return state
    recent = list(_between(days, first, day))
    model = _pooled((d.breaches, d.followed) for d in recent)
    reference = _pooled((d.reference_breaches, d.reference_followed) for d in recent)
    whose = "the baseline's"
    if reference[0] < limits.min_breaches:
        before = _between(
            days, first - timedelta(days=limits.reference_days), first - timedelta(days=1)
        )
        reference = _pooled((d.breaches, d.followed) for d in before)
        whose = f"that of up to {limits.reference_days} days before"
    if min(model[0], reference[0]) < limits.min_breaches:
        return state
    precision, expected = model[1] / model[0], reference[1] / reference[0]
    if not expected or precision > (1 - limits.precision_fall) * expected:
        return state
    reason = (
        f"breach precision {precision:.3f} over {limits.precision_days} days, "
        f"{1 - precision / expected:.0%} below {whose} ({expected:.3f}); allowed: less than "
        f"{limits.precision_fall:.0%}"
    )
    return state.entered("rolled-back", 0, at, reason, AUTOMATIC)


def _between(days: Sequence[PrecisionDay], first: date, last: date) -> Iterator[PrecisionDay]:
    return (day for day in days if first <= day.day <= last)


def _pooled(counts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    pairs = list(counts)
    return sum(n for n, _ in pairs), sum(followed for _, followed in pairs)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _begin(event: ServiceWindow | PrecisionDay | Override, length: timedelta) -> datetime:
    match event:
        case ServiceWindow():
            return event.start
        case PrecisionDay():
            return _midnight(event.day)
        case Override():
            return event.at
