"""The answer where the model gives none: a chain of baselines, and a last resort after them.

What belongs here: the choice of the method, and its deciles on the scale of the values. What does
not: the baselines (`baselines.smoothing`), when they are asked (`service`), and the limits that any
answer must keep (`postprocess`).
"""

import logging
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from tsfm_pipeline.baselines import DIRECT_BASELINES
from tsfm_pipeline.forecaster.config import QUANTILE_LEVELS
from tsfm_pipeline.forecaster.panel import Panel
from tsfm_pipeline.serving.settings import FallbackSettings

Floats = npt.NDArray[np.float64]

LAST_RESORT = "last_value_and_spread"
"""The method behind the chain. It is no baseline of the fleets: it exists so that there is always
an answer, also from one value.
"""
LARGEST = np.finfo(np.float64).max
_NORMAL = np.array([NormalDist().inv_cdf(level) for level in QUANTILE_LEVELS])

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FallbackAnswer:
    """Deciles float64 [H, 9] on the scale of the values: finite, ascending, and at no step narrower
    than at the one before.

    method: the baseline that answered, or `LAST_RESORT`. reasons: a code for each method that was
    passed over.
    """

    deciles: Floats
    method: str
    reasons: tuple[str, ...]


def fallback(
    values: npt.NDArray[np.floating],
    horizon: int,
    settings: FallbackSettings,
    method: str | None = None,
) -> FallbackAnswer:
    """Return the answer of the first baseline that has one: `method`, if given, then the chain of
    the settings.

    values [T]: finite, oldest first, T >= 1. The answer depends on nothing else. A baseline that is
    unknown, raises, or has no forecast (its history is too short) is passed over with the reason
    `baseline_error:<name>`. If none is left, the last value is forecast, and its spread grows with
    the root of the step, as that of a random walk (Hyndman & Athanasopoulos, Forecasting:
    Principles and Practice, 3rd ed., section 5.5). Raises ValueError for no values, for values that
    are not finite, and for a horizon below 1; for nothing else.
    """
    given: Floats = np.asarray(values, dtype=np.float64)
    if given.ndim != 1 or not len(given) or not np.isfinite(given).all():
        raise ValueError(
            f"fallback: values have shape {given.shape} and {np.isfinite(given).sum()} of them "
            "are finite; allowed: one series [T] of 1 or more finite values"
        )
    if horizon < 1:
        raise ValueError(f"fallback: horizon is {horizon}; allowed: 1 step or more")
    changes = _Standardised.of(given)
    reasons: list[str] = []
    for name in dict.fromkeys((*([method] if method is not None else []), *settings.chain)):
        try:
            deciles = _baseline(name, changes.values, horizon)
        except _BaselineFailed:
            logger.exception("the baseline %s failed on %d values", name, len(given))
            deciles = None
        if deciles is not None:
            return FallbackAnswer(changes.restore(deciles), name, tuple(reasons))
        reasons.append(f"baseline_error:{name}")
    return FallbackAnswer(_last_resort(changes, horizon, settings), LAST_RESORT, tuple(reasons))


class _BaselineFailed(Exception):
    """A baseline raised an error."""


@dataclass(frozen=True, eq=False)
class _Standardised:
    """A series [T] as changes to its last value, in units of the largest: within -1 and 1.

    Baselines work in float32, where neither the level nor the size of the values may cost digits or
    overflow. The unit is kept as two factors, because the change between two of the largest numbers
    is beyond them.
    """

    values: Floats
    last: float
    size: float
    largest: float

    @classmethod
    def of(cls, values: Floats) -> "_Standardised":
        size = float(np.abs(values).max()) or 1.0
        changes = values / size - values[-1] / size
        largest = float(np.abs(changes).max()) or 1.0
        return cls(changes / largest, float(values[-1]), size, largest)

    def restore(self, values: Floats) -> Floats:
        """Return values on the scale of the series, at most the largest float64."""
        with np.errstate(over="ignore"):
            return np.clip(self.last + values * self.largest * self.size, -LARGEST, LARGEST)


def _baseline(name: str, values: Floats, horizon: int) -> Floats | None:
    """Return a direct baseline's deciles [H, 9], or None where it has none.

    Raises `_BaselineFailed`, whatever is wrong with it: that must not cost the client the answer.
    """
    if name not in DIRECT_BASELINES:
        return None
    origins = np.array([[len(values) - 1]])
    try:
        panel = Panel(values[None].astype(np.float32))
        deciles = DIRECT_BASELINES[name](len(values)).forecast(panel, origins, horizon)[0, 0]
    except Exception as error:
        raise _BaselineFailed from error
    return deciles.astype(np.float64) if np.isfinite(deciles).all() else None


def _last_resort(series: _Standardised, horizon: int, settings: FallbackSettings) -> Floats:
    spread = float(np.sqrt(np.mean(np.diff(series.values) ** 2))) if len(series.values) > 1 else 0.0
    if not spread:
        share = settings.least_spread * (abs(series.last) or 1.0)
        spread = share / series.size / series.largest
    growth = np.sqrt(np.arange(1, horizon + 1))
    return series.restore(spread * growth[:, None] * _NORMAL)
