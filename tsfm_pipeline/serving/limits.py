"""The rate limit: how many forecasts one caller may ask for.

What belongs here: one token bucket per caller. What does not: who the caller is (`auth`), and the
429 (`app`).
"""

from dataclasses import dataclass

from cachetools import LRUCache

from tsfm_pipeline.serving.deadline import Clock
from tsfm_pipeline.serving.settings import RateLimitSettings

_ROUNDING = 1e-9


@dataclass
class _Bucket:
    """tokens: forecasts that may be asked for at `at`, up to the burst; below 0 after a large
    batch.
    """

    tokens: float
    at: float


class RateLimit:
    """A bucket of `burst` tokens per caller, refilled by `per_minute`.

    The `max_callers` that came last are remembered. A caller that was forgotten starts with a full
    bucket.
    """

    def __init__(self, settings: RateLimitSettings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._per_second = settings.per_minute / 60
        self._buckets: LRUCache[str, _Bucket] = LRUCache(settings.max_callers)

    def take(self, caller: str, forecasts: int = 1) -> float:
        """Return 0 if the caller may have so many forecasts now, else the seconds to wait.

        A request that is refused costs nothing. One for more forecasts than the burst is granted
        when the bucket is full, and the caller then waits until its debt is paid off.
        """
        if not self._settings.enabled:
            return 0.0
        bucket = self._refilled(caller)
        missing = min(forecasts, self._settings.burst) - bucket.tokens
        if missing > _ROUNDING:
            return missing / self._per_second
        bucket.tokens -= forecasts
        return 0.0

    def give_back(self, caller: str, forecasts: int = 1) -> None:
        """Give back what was taken for requests that got no forecast."""
        if self._settings.enabled and caller in self._buckets:
            self._refilled(caller).tokens += forecasts

    def _refilled(self, caller: str) -> _Bucket:
        now, full = self._clock(), float(self._settings.burst)
        bucket = self._buckets.get(caller)
        if bucket is None:
            bucket = self._buckets[caller] = _Bucket(full, now)
        bucket.tokens = min(full, bucket.tokens + (now - bucket.at) * self._per_second)
        bucket.at = now
        return bucket
