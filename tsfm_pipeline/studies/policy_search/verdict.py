"""What is known about one policy against another on tenants that chose neither.

What belongs here: the relative gain of paired tenant losses with its interval, and the record of a
verdict. What does not: the rules by which a policy is promoted (`promotion`), and the interval over
test tenants and days (`final_look`).
"""

import math

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Floats = NDArray[np.floating]


class Effect(BaseModel):
    """The relative gain of a challenger on some tenants: 1 - its mean loss / the mean loss of the
    policy that it would replace. Positive is cheaper.

    low, high: limits of the two-sided interval at `confidence`; NaN for fewer than two tenants.
    n_tenants: paired tenants. n_lost: tenants for whom only the challenger has no loss.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    gain: float
    low: float
    high: float
    confidence: float
    n_tenants: int
    n_lost: int = 0

    @property
    def is_gain(self) -> bool:
        """Whether the whole interval lies on the side of a gain."""
        return self.low > 0

    @property
    def is_harm(self) -> bool:
        """Whether the whole interval lies on the side of a loss."""
        return self.high < 0

    def __str__(self) -> str:
        limits = "no interval"
        if math.isfinite(self.low):
            limits = f"{_percent(self.low)} to {_percent(self.high)} at {_level(self.confidence)}"
        return f"gain {_percent(self.gain)} ({limits}, {self.n_tenants} tenants)"


class FleetVerdict(BaseModel):
    """The gain on one fleet's confirming tenants.

    corrected: at the standard tier, with the confidence that the number of experiments asks for.
    tiers {tier}, and groups {archetype} at the standard tier: at 95 %.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    fleet: str
    corrected: Effect
    tiers: dict[str, Effect]
    groups: dict[str, Effect]


class Verdict(BaseModel):
    """Whether a policy is promoted, and why.

    reasons: what was gained if it is; otherwise everything that stands against it. confidence: of
    the corrected intervals. p95_ms: of one request on the slowest fleet; p95_measured: timed on
    this machine, not predicted from the number of tokens.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    promoted: bool
    reasons: tuple[str, ...]
    n_experiments: int
    confidence: float
    fleets: tuple[FleetVerdict, ...] = ()
    p95_ms: float
    budget_ms: float
    p95_measured: bool = False


def paired_gain(challenger: Floats, incumbent: Floats, confidence: float) -> Effect:
    """Return the relative gain of a challenger over tenants, with its Student-t interval.

    challenger, incumbent [N]: mean losses of the same tenants. The interval is that of the mean of
    the paired differences, divided by the incumbent's mean, which is taken as known: what is tested
    is a difference of zero, where the two intervals agree in sign (Student 1908, "The probable
    error of a mean"; for paired observations Cochran and Cox 1957, section 2.3). Tenants without a
    loss of the incumbent are left out; those without one of the challenger alone are counted. NaN
    throughout if no tenant has both.
    """
    has_both = np.isfinite(challenger) & np.isfinite(incumbent)
    n_lost = int((np.isfinite(incumbent) & ~np.isfinite(challenger)).sum())
    saved = (incumbent - challenger)[has_both].astype(np.float64)
    unit = float(incumbent[has_both].mean()) if has_both.any() else math.nan
    n_tenants = len(saved)
    gain = float(saved.mean()) / unit if n_tenants and unit > 0 else math.nan
    margin = _half_width(saved, confidence) / unit if n_tenants > 1 and unit > 0 else math.nan
    return Effect(
        gain=gain,
        low=gain - margin,
        high=gain + margin,
        confidence=confidence,
        n_tenants=n_tenants,
        n_lost=n_lost,
    )


def _half_width(values: NDArray[np.float64], confidence: float) -> float:
    """Return half the width of the mean's Student-t interval; values [N], N >= 2."""
    from scipy.special import stdtrit

    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * error


def _percent(share: float) -> str:
    return f"{100 * share:+.2f} %"


def _level(confidence: float) -> str:
    return f"{100 * confidence:.6g} %"
