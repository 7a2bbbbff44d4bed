"""Counts of calls and failures over the last seconds.

What belongs here: one sliding window in bounded memory. What does not: what a rate means
(`breaker`, `degradation`).
"""

import math
from collections import deque

BUCKETS = 100
"""A window is kept as at most this many counts, however many calls it sees."""


class Window:
    """The calls of the last `seconds`, to a hundredth of the window.

    Calls are counted in buckets of seconds / 100. A bucket leaves as a whole, when `seconds` have
    passed since its start.
    """

    def __init__(self, seconds: float) -> None:
        self._width = seconds / BUCKETS
        self._buckets: deque[list[int]] = deque(maxlen=BUCKETS)  # [number, calls, failures]
        self._calls = self._failures = 0

    def add(self, now: float, *, failed: bool) -> None:
        """Count one call that ended at `now`, in seconds on a clock that never goes back."""
        self._expire(now)
        number = self._number(now)
        if not self._buckets or self._buckets[-1][0] != number:
            self._buckets.append([number, 0, 0])
        self._buckets[-1][1] += 1
        self._buckets[-1][2] += failed
        self._calls += 1
        self._failures += failed

    def counts(self, now: float) -> tuple[int, int]:
        """Return the number of calls in the window, and of those that failed."""
        self._expire(now)
        return self._calls, self._failures

    def clear(self) -> None:
        """Forget all calls."""
        self._buckets.clear()
        self._calls = self._failures = 0

    def _number(self, now: float) -> int:
        return math.floor(now / self._width)

    def _expire(self, now: float) -> None:
        oldest = self._number(now) - BUCKETS
        while self._buckets and self._buckets[0][0] <= oldest:
            _, calls, failures = self._buckets.popleft()
            self._calls -= calls
            self._failures -= failures
