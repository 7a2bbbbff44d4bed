"""Degradation: the service relies less on the model when many answers are fallbacks.

What belongs here: the three states, and what each permits. What does not: which fallbacks count
(`service`), and single calls to a runtime that fails (`breaker`).
"""

from dataclasses import dataclass
from typing import assert_never

from tsfm_pipeline.serving.contract import DegradationState
from tsfm_pipeline.serving.deadline import Clock
from tsfm_pipeline.serving.settings import DegradationSettings
from tsfm_pipeline.serving.window import Window


@dataclass(frozen=True)
class Permission:
    """What one request may do. model: whether the model may be asked. retry: whether a failed
    attempt may be repeated. deadline_s: seconds that the model may take, if that is less than the
    request has. probe: whether the next better state is being tried; give it back to `record`.
    """

    model: bool
    retry: bool
    deadline_s: float | None
    probe: bool = False


class Degradation:
    """Normal, degraded (no retries, a short deadline), or baseline-only.

    The state gets worse when the fallback rate of the last `window_s`, of at least `min_requests`,
    is above `degraded_above` or `baseline_above`. It gets better one step at a time, by probes: one
    request every `probe_every_s` is answered under the conditions of the next better state, and
    `successes_to_recover` of them in a row take the step. From degraded, the step to normal also
    needs a fallback rate of at most `recover_below`; with fewer than `min_requests` in the window
    the probes decide alone, so that a service with little traffic recovers too.

    Only requests for which the model was asked are recorded. A fallback counts if the model failed;
    answers without a call (cache, an open breaker, a route to the baseline) are not recorded: an
    outage of seconds that the breaker bridges must not degrade the service for minutes.
    """

    def __init__(self, settings: DegradationSettings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._window = Window(settings.window_s)
        self._state: DegradationState = "normal"
        self._last_probe = 0.0
        self._probes_succeeded = 0

    @property
    def state(self) -> DegradationState:
        """Normal, degraded or baseline-only."""
        return self._state

    def allow(self) -> Permission:
        """Return what a request that arrives now may do."""
        match self._state:
            case "normal":
                return self._normal(probe=False)
            case "degraded":
                probe = self._probe_is_due()
                return self._normal(probe=True) if probe else self._degraded(probe=False)
            case "baseline-only":
                probe = self._probe_is_due()
                return self._degraded(probe=True) if probe else Permission(False, False, None)
            case _:
                assert_never(self._state)

    def record(self, fallback: bool, probe: bool = False) -> None:
        """Count a request for which the model was asked.

        fallback: whether the model failed. probe: as its permission says.
        """
        if self._state == "baseline-only":
            if probe:
                self._judge_probe(fallback)
            return
        self._window.add(self._clock(), failed=fallback)
        rate = self._rate()
        if rate is not None and rate > self._settings.baseline_above:
            self._enter("baseline-only")
        elif self._state == "degraded":
            if probe:
                self._judge_probe(fallback)
        elif rate is not None and rate > self._settings.degraded_above:
            self._enter("degraded")

    def _judge_probe(self, fallback: bool) -> None:
        self._probes_succeeded = 0 if fallback else self._probes_succeeded + 1
        if self._probes_succeeded < self._settings.successes_to_recover:
            return
        if self._state == "baseline-only":
            # Its failures have led here; kept, they would lead back at once.
            self._window.clear()
            self._enter("degraded")
        elif (rate := self._rate()) is None or rate <= self._settings.recover_below:
            self._enter("normal")

    def _rate(self) -> float | None:
        """Return the fallback rate of the window; None if it has too few requests."""
        requests, fallbacks = self._window.counts(self._clock())
        return None if requests < self._settings.min_requests else fallbacks / requests

    def _enter(self, state: DegradationState) -> None:
        self._state = state
        self._last_probe = self._clock()
        self._probes_succeeded = 0

    def _probe_is_due(self) -> bool:
        due = self._clock() >= self._last_probe + self._settings.probe_every_s
        if due:
            self._last_probe = self._clock()
        return due

    def _normal(self, *, probe: bool) -> Permission:
        return Permission(model=True, retry=True, deadline_s=None, probe=probe)

    def _degraded(self, *, probe: bool) -> Permission:
        deadline = self._settings.degraded_deadline_s
        return Permission(model=True, retry=False, deadline_s=deadline, probe=probe)
