"""The circuit breaker: a runtime that fails is left alone and probed until it answers again.

What belongs here: when a runtime may be called. What does not: which failures count
(`runtimes.RuntimeFailure.counts`) and who answers instead (`service`).

There is one breaker per runtime and model. It needs no lock: nothing in it awaits, and asyncio runs
one task at a time.
"""

from dataclasses import dataclass

from tsfm_pipeline.serving.contract import BreakerState
from tsfm_pipeline.serving.deadline import Clock
from tsfm_pipeline.serving.settings import BreakerSettings
from tsfm_pipeline.serving.window import Window


@dataclass(frozen=True, eq=False)
class Permit:
    """Leave for one call; given back with its verdict. opening: how often the breaker had opened
    when the call began.
    """

    probe: bool
    opening: int


class Breaker:
    """Lets calls through while a runtime answers, and one probe at a time while it does not.

    Closed: every call is let through. It opens after `failures_in_a_row`, or when a failure makes
    the rate of failures `failure_rate` or more of at least `min_calls` in `window_s`. Open: one
    probe every `probe_every_s`, never two at once; everything else is refused. `half-open` while a
    probe runs or has succeeded. A probe that fails starts the count anew; `successes_to_close`
    probes in a row close the breaker, and what happened before is forgotten.

    Every permit must be given back by `succeeded`, `failed` or `released`. `released` after a
    verdict changes nothing, so that it may stand in a `finally`. Neither does a verdict on a call
    that began before the breaker opened: only probes close it.
    """

    def __init__(self, settings: BreakerSettings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._window = Window(settings.window_s)
        self._failures_in_a_row = 0
        self._open = False
        self._openings = 0
        self._last_probe = 0.0
        self._probe: Permit | None = None
        self._probes_succeeded = 0

    @property
    def state(self) -> BreakerState:
        """Closed, open, or half-open."""
        if not self._open:
            return "closed"
        return "half-open" if self._probe or self._probes_succeeded else "open"

    @property
    def openings(self) -> int:
        """How often the breaker has opened since the start."""
        return self._openings

    @property
    def seconds_to_probe(self) -> float:
        """Seconds until the next probe may start, unless one is running; 0 while closed."""
        if not self._open:
            return 0.0
        return max(0.0, self._last_probe + self._settings.probe_every_s - self._clock())

    def allow(self) -> Permit | None:
        """Return leave for one call, or None if the runtime must not be called now."""
        if not self._open:
            return Permit(probe=False, opening=self._openings)
        if self._probe is not None or self.seconds_to_probe > 0:
            return None
        self._last_probe = self._clock()
        self._probe = Permit(probe=True, opening=self._openings)
        return self._probe

    def succeeded(self, permit: Permit) -> None:
        """Count a call that was answered."""
        if self._is_probe(permit):
            self._probe = None
            self._probes_succeeded += 1
            if self._probes_succeeded >= self._settings.successes_to_close:
                self._close()
        elif self._counts(permit):
            self._failures_in_a_row = 0
            self._window.add(self._clock(), failed=False)

    def failed(self, permit: Permit) -> None:
        """Count a call whose failure says something about the runtime's health."""
        if self._is_probe(permit):
            self._probe = None
            self._probes_succeeded = 0
        elif self._counts(permit):
            self._failures_in_a_row += 1
            self._window.add(self._clock(), failed=True)
            if self._is_failing():
                self._trip()

    def released(self, permit: Permit) -> None:
        """Give back a permit without a verdict: the call was cancelled, or failed for a reason that
        does not count.
        """
        if self._is_probe(permit):
            self._probe = None

    def _is_probe(self, permit: Permit) -> bool:
        return permit is self._probe

    def _counts(self, permit: Permit) -> bool:
        return not (self._open or permit.probe) and permit.opening == self._openings

    def _is_failing(self) -> bool:
        calls, failures = self._window.counts(self._clock())
        return self._failures_in_a_row >= self._settings.failures_in_a_row or (
            calls >= self._settings.min_calls and failures / calls >= self._settings.failure_rate
        )

    def _trip(self) -> None:
        self._open = True
        self._openings += 1
        self._last_probe = self._clock()
        self._probes_succeeded = 0

    def _close(self) -> None:
        self._open = False
        self._probes_succeeded = 0
        self._failures_in_a_row = 0
        self._window.clear()
