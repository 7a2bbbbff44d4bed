"""From a runtime's quantiles to an answer that is always sane.

What belongs here: refusing output that cannot be used, and the one order in which the rest becomes
an answer. What does not: fitting a calibration (`evaluation.conformal`), choosing whether one
applies, and what happens after a refusal (`service`).

The order: inverse transform; sort by level; read off the wanted quantiles; calibrate the intervals
(and only them); clip to the limits; guard the widths; clip; sort. The intervals are clipped before
their widths are judged, because a part outside of the limits covers nothing.

What holds for every answer, whatever the runtime gave: all numbers are finite and within the
limits, each array has one number per step, quantiles ascend with their level, and at each step the
90 % interval holds the 80 % interval, which holds the median. On the logit scale no interval is
narrower than `width_min` or wider than `width_max`. An interval that is moved in width keeps the
shares of it that lie below and above the median; where it would then pass a limit, it slides back
inside, and that changes the shares. Where two of these rules conflict: limits come before widths (a
`width_min` of 1 gives the whole range), and `width_max` comes before `width_min`.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tsfm_pipeline.evaluation.conformal import Calibration
from tsfm_pipeline.evaluation.intervals import nested
from tsfm_pipeline.evaluation.protocol import DECILES
from tsfm_pipeline.evaluation.quantiles import TARGETS, quantiles_at
from tsfm_pipeline.serving.contract import Conformal
from tsfm_pipeline.serving.preparation import Prepared
from tsfm_pipeline.serving.settings import SafetySettings

Floats = NDArray[np.float64]

LARGEST = 1e150
"""No usable output is larger: what is read off it would overflow."""
WIDTH_TOLERANCE = 1e-9
"""Widths that differ by less are equal, so that guarding a guarded interval changes nothing."""

_MEDIAN = DECILES.index(0.5)
_ENDS = tuple(level for target in TARGETS for level in ((1 - target) / 2, (1 + target) / 2))


class OutputFault(StrEnum):
    """The ways in which a runtime's output cannot be used; warnings and labels of metrics."""

    HORIZON = "horizon_mismatch"
    QUANTILES = "quantile_set_mismatch"
    NON_FINITE = "non_finite_value"


class Correction(StrEnum):
    """Warnings for the client; each is counted in steps unless it says otherwise.

    TAIL_EXTRAPOLATED: in levels. NOT_CALIBRATED: once.
    """

    CROSSING_FIXED = "quantile_crossing_fixed"
    TAIL_EXTRAPOLATED = "tail_extrapolated"
    NOT_CALIBRATED = "not_calibrated"
    CLIPPED = "clipped_to_limits"
    WIDENED = "interval_widened"
    NARROWED = "interval_narrowed"


class InvalidOutput(Exception):
    """A runtime's output cannot be used."""

    def __init__(self, code: OutputFault, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code


class Ends(NamedTuple):
    """The lower and the upper ends of an interval, float64 [H] each."""

    low: Floats
    high: Floats


@dataclass(frozen=True, eq=False)
class Finished:
    """What a client may be told, in its own unit.

    quantiles: by requested level, float64 [H]. intervals: by target, .8 and .9. deciles: float64
    [H, 9], sorted but not clipped, as they are recorded. conformal: the calibration behind the
    intervals; None where they are read off the deciles.
    """

    quantiles: dict[float, Floats]
    intervals: dict[float, Ends]
    deciles: Floats
    warnings: Counter[str]
    conformal: Conformal | None


def finish(
    levels: tuple[float, ...],
    values: ArrayLike,
    prepared: Prepared,
    calibration: Calibration | None,
    safety: SafetySettings,
) -> Finished:
    """Return the answer that a runtime's quantiles become.

    levels [L] ascend and hold the deciles; values [H, L] are on the model's scale and may cross.
    calibration: that of this runtime, version and step; None where there is none. Raises
    `InvalidOutput` for another number of steps, levels without all deciles, and values that are not
    finite or exceed `LARGEST`.
    """
    levels, output = _usable(levels, values, prepared.request.horizon_steps)
    warnings: Counter[str] = Counter()
    crossed = (np.diff(output, axis=1) < 0).any(axis=1)
    warnings[Correction.CROSSING_FIXED] += int(crossed.sum())
    known = np.sort(prepared.to_client(output), axis=1)
    asked = tuple(prepared.request.quantiles)
    tails = sum(not levels[0] <= level <= levels[-1] for level in asked)
    warnings[Correction.TAIL_EXTRAPOLATED] += tails
    deciles = known if levels == DECILES else known @ _weights(levels, DECILES)
    raw = deciles @ _weights(DECILES, _ENDS)  # [H, 4]
    inner, outer, conformal = _calibrated(raw, prepared.segments, calibration)
    if calibration is not None and conformal is None:
        warnings[Correction.NOT_CALIBRATED] += 1
    read = known @ _weights(levels, asked)  # [H, Q]
    drawn = np.column_stack([read, deciles[:, _MEDIAN], *inner, *outer])
    lowest, highest = _limits(prepared)
    clipped = np.clip(drawn, lowest, highest)
    warnings[Correction.CLIPPED] += int((clipped != drawn).any(axis=1).sum())
    quantiles, (median, *ends) = (
        np.sort(clipped[:, : len(asked)], axis=1),
        clipped[:, len(asked) :].T,
    )
    held = nested(median, (ends[0], ends[1]), (ends[2], ends[3]))
    inner, outer = (Ends(*pair) for pair in held)
    if prepared.is_logit:
        inner, outer, moved = guarded(median, inner, outer, (lowest, highest), safety)
        warnings += moved
    return Finished(
        quantiles=dict(zip(asked, quantiles.T, strict=True)),
        intervals=dict(zip(TARGETS, (inner, outer), strict=True)),
        deciles=deciles,
        warnings=+warnings,  # only what occurred
        conformal=conformal,
    )


def guarded(
    median: Floats, inner: Ends, outer: Ends, limits: tuple[float, float], safety: SafetySettings
) -> tuple[Ends, Ends, Counter[str]]:
    """Return nested intervals [H] of allowed widths, and how many steps were changed.

    median [H] lies within `inner`, that within `outer`, and all within `limits`. The inner interval
    is widened or narrowed about the median and slides back within the limits. The outer one grows
    with it, and loses only what lies beyond the inner one.
    """
    widest = safety.width_max
    narrowest = min(safety.width_min, widest)
    width = inner.high - inner.low
    thin, wide = width < narrowest - WIDTH_TOLERANCE, width > widest + WIDTH_TOLERANCE
    if (thin | wide).any():
        below = np.divide(median - inner.low, width, out=np.full_like(width, 0.5), where=width > 0)
        allowed = np.clip(width, narrowest, widest)
        low = np.clip(median - below * allowed, limits[0], limits[1] - allowed)
        scaled = Ends(np.minimum(low, median), np.clip(low + allowed, median, limits[1]))
        inner = Ends(*(np.where(thin | wide, *pair) for pair in zip(scaled, inner, strict=True)))
        outer = Ends(*nested(median, inner, outer)[-1])
    over = (outer.high - outer.low) > widest + WIDTH_TOLERANCE
    if over.any():
        kept = inner.high - inner.low
        beyond = (outer.high - outer.low) - kept
        share = np.divide(widest - kept, beyond, out=np.zeros_like(kept), where=beyond > 0)
        share = np.where(over, np.clip(share, 0.0, 1.0), 1.0)
        outer = Ends(
            inner.low - share * (inner.low - outer.low),
            inner.high + share * (outer.high - inner.high),
        )
    moved = {Correction.WIDENED: int(thin.sum()), Correction.NARROWED: int((wide | over).sum())}
    return inner, outer, Counter(moved)


def _usable(
    levels: tuple[float, ...], values: ArrayLike, horizon: int
) -> tuple[tuple[float, ...], Floats]:
    """Return levels, equal to the deciles where float32 made them differ, and values [H, L]."""
    own = tuple(round(float(level), 6) for level in levels)
    output = np.asarray(values, dtype=np.float64)
    if output.ndim != 2 or len(output) != horizon:
        raise InvalidOutput(
            OutputFault.HORIZON, f"the output has shape {output.shape}; {horizon} steps were asked"
        )
    if output.shape[1] != len(own) or not _holds_deciles(own):
        raise InvalidOutput(
            OutputFault.QUANTILES,
            f"the output has {output.shape[1]} quantiles, at levels {own}; allowed: ascending "
            "levels within (0, 1), among them .1 to .9",
        )
    if not (np.abs(output) <= LARGEST).all():
        raise InvalidOutput(OutputFault.NON_FINITE, "the output holds NaN or an infinite value")
    return own, output


@lru_cache(maxsize=1024)
def _holds_deciles(levels: tuple[float, ...]) -> bool:
    ascending = all(a < b for a, b in zip((0.0, *levels), (*levels, 1.0), strict=True))
    return ascending and set(DECILES) <= set(levels)


@lru_cache(maxsize=1024)
def _weights(levels: tuple[float, ...], wanted: tuple[float, ...]) -> Floats:
    """Return the weights [L, W] of known quantiles in the wanted ones."""
    return quantiles_at(levels, np.eye(len(levels)), wanted)


def _limits(prepared: Prepared) -> tuple[float, float]:
    lowest, highest = prepared.limits
    return -np.inf if lowest is None else lowest, np.inf if highest is None else highest


def _calibrated(
    raw: Floats, segments: Mapping[str, str], calibration: Calibration | None
) -> tuple[Ends, Ends, Conformal | None]:
    """Return both intervals from raw ends [H, 4], and what calibrated them; either both are
    calibrated, or none.
    """
    ends = Ends(raw[:, 0], raw[:, 1]), Ends(raw[:, 2], raw[:, 3])
    if calibration is None:
        return *ends, None
    inner, outer = (
        calibration.apply(*own, target, segments) for own, target in zip(ends, TARGETS, strict=True)
    )
    if inner is None or outer is None:
        return *ends, None
    moved = Ends(inner.low, inner.high), Ends(outer.low, outer.high)
    if not np.isfinite(moved).all():
        return *ends, None
    conformal = Conformal(
        version=calibration.version,
        as_of=calibration.as_of,
        segment=outer.segment,
        n=min(inner.n, outer.n),
    )
    return *moved, conformal
