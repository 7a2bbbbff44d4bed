"""The time by which a request must be answered.

What belongs here: one moment on a monotonic clock, and what is left until then. What does not: what
happens when it passes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]
"""Seconds on a clock that never goes back."""


@dataclass(frozen=True)
class Deadline:
    """A moment in seconds on `clock`."""

    at: float
    clock: Clock = time.monotonic

    @classmethod
    def after(cls, seconds: float, clock: Clock = time.monotonic) -> "Deadline":
        """Return the deadline `seconds` from now."""
        return cls(clock() + seconds, clock)

    @property
    def left(self) -> float:
        """Seconds until the deadline; 0 when it has passed."""
        return max(0.0, self.at - self.clock())

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return self.clock() >= self.at

    def clipped(self, seconds: float) -> float:
        """Return `seconds`, or what is left if that is less: the timeout of one attempt."""
        return min(seconds, self.left)

    def within(self, seconds: float) -> "Deadline":
        """Return the earlier of this deadline and the moment `seconds` from now."""
        return Deadline(min(self.at, self.clock() + seconds), self.clock)
