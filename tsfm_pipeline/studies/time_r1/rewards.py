"""Rewards: how good an answer is, between -1 and 1.

What belongs here: the terms of an answer's reward and each term's share of the variance within the
groups. What does not: reading an answer from text (`answers`, `codecs`), and which answers an
update learns from (`sampling`).

The terms are those of Time-R1 (format, length, error, season, trend, change points). Their
definitions differ where the printed or the published ones can be exploited: all values are scaled
by the look-back alone, never by the answer; a turning point has to stand out from the noise; and an
answer far outside of the look-back's range has failed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.signal import find_peaks, peak_prominences
from scipy.special import expit

from tsfm_pipeline.studies.time_r1.frames import LEAST_DEVIATION, Frames, frames_of
from tsfm_pipeline.studies.time_r1.options import RewardOptions
from tsfm_pipeline.studies.time_r1.windows import Floats, Windows

FAILED = -1.0
"""Reward of an answer that could not be read, is not finite, or lies too far away."""
TERMS = ("format", "length", "error", "season", "trend", "change_points")
"""What a reward is the sum of."""
REACH = 10.0
"""Ranges of the look-back that an answer may lie from its mean."""
PROMINENCE = 0.75
"""Deviations of the look-back by which a turning point has to stand out on both sides. If every
strict extremum counted, a zigzag of .1 deviations on top of a smoothed four-day mean would gain .06
of reward; at .25 one of .2 deviations gains .04; at .75 none of .05 to .8 gains more than .002
(ETTh1, 1,000 windows of rows before 11,520, horizons 24 and 96; `test_r1_rewards.py`).
"""
WIDEST_KERNEL = 25
"""Steps of the moving average that is the trend, where the data has no season; the paper's."""

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Rewards:
    """Rewards of R completions.

    total: float64 [R], in [-1, 1]. terms: what each term contributes to it, float64 [R] by name;
    they add up to the total. `format` is -1 for a failed answer, whose other terms are 0.
    """

    total: Floats
    terms: dict[str, Floats]


def rewards(values: Sequence[Floats | None], windows: Windows, options: RewardOptions) -> Rewards:
    """Return the rewards of R = N n answers to N windows, the n of one window in a row.

    values: the numbers of each answer in the units of the data, or None where none could be read.
    An answer of another length than the horizon has the length term alone, which is the shorter
    length over the longer. Adding the same number to history, truth and answer, or multiplying
    them by one above 0, changes nothing. Raises ValueError if R is not a multiple of N, or a truth
    has gaps or a look-back has no known value.
    """
    n, horizon = len(windows), windows.horizon
    if n == 0 or len(values) % n:
        raise ValueError(f"{len(values)} answers to {n} windows; a multiple of N is expected")
    _require_known(windows)
    frames, spread = _frames(windows)
    of = np.repeat(np.arange(n), len(values) // n)
    reach = REACH * spread
    bounds = np.stack([frames.mean - reach, frames.mean + reach], axis=1)[of]
    read = np.array([_readable(v, b) for v, b in zip(values, bounds, strict=True)], bool)
    lengths = np.array([0 if v is None else len(v) for v in values])
    rows = np.flatnonzero(read & (lengths == horizon))
    given = [v for v in (values[row] for row in rows.tolist()) if v is not None]
    answers = np.array(given, np.float64).reshape(len(rows), horizon)
    scores = _scores(
        frames.at(of[rows]).scaled(answers),
        frames.scaled(windows.truth),
        of[rows],
        windows.season,
        options,
    )

    terms = {"format": np.where(read, 0.0, FAILED)}
    shorter, longer = np.minimum(lengths, horizon), np.maximum(lengths, horizon)
    terms["length"] = options.length * np.where(read, shorter / longer, 0.0)
    for name, score in scores.items():
        terms[name] = np.zeros(len(values))
        terms[name][rows] = getattr(options, name) * score
    return Rewards(total=np.sum(list(terms.values()), axis=0), terms=terms)


def variance_shares(given: Rewards, group: int) -> dict[str, float]:
    """Return each term's share of the variance of the total within groups of `group` completions
    in a row: its covariance with the total over the total's variance. They add up to 1; all are 0
    where no group has any spread.
    """
    total = _centred(given.total, group)
    variance = np.mean(total**2)
    if variance == 0:
        return dict.fromkeys(given.terms, 0.0)
    return {
        name: float(np.mean(_centred(term, group) * total) / variance)
        for name, term in given.terms.items()
    }


def _require_known(windows: Windows) -> None:
    known = np.isfinite(windows.truth).all(1) & np.isfinite(windows.history).any(1)
    if not known.all():
        raise ValueError(
            f"{windows.data_set}: windows {np.flatnonzero(~known)[:5].tolist()} have gaps in their "
            f"truth, or no known value in their look-back; rewards need both"
        )


def _centred(x: Floats, group: int) -> Floats:
    grouped = x.reshape(-1, group)
    return grouped - grouped.mean(1, keepdims=True)


def _frames(windows: Windows) -> tuple[Frames, Floats]:
    """Return level and scale of the look-backs, and the range of look-back and truth together [N].

    The truth belongs to the range so that it never fails itself. The scale is at least a millionth
    of the range: the look-back may be constant where the truth is not.
    """
    known = np.concatenate([windows.history, windows.truth], axis=1)
    spread = np.nanmax(known, axis=1) - np.nanmin(known, axis=1)
    frames = frames_of(windows)
    deviation = np.maximum(frames.deviation, LEAST_DEVIATION * spread)
    return replace(frames, deviation=deviation), spread


def _readable(values: Floats | None, bounds: Floats) -> bool:
    return bool(
        values is not None
        and len(values)
        and np.isfinite(values).all()
        and values.min() >= bounds[0]
        and values.max() <= bounds[1]
    )


def _scores(
    answers: Floats, truth: Floats, of: NDArray[np.int64], season: int, options: RewardOptions
) -> dict[str, Floats]:
    """Return the scores in [0, 1] of whole answers [W, H] by term; truth: [N, H], both scaled."""
    errors = answers - truth[of]
    trend = _moving_average(errors, _kernel(season, truth.shape[1]))
    turns = _turning_points(truth)[:, of]
    return {
        "error": _squash(errors, options.sharpness),
        "season": _squash(errors - trend, options.sharpness),
        "trend": _squash(trend, options.sharpness),
        "change_points": _f1(_turning_points(answers), turns, options.tolerance),
    }


def _squash(errors: Floats, sharpness: float) -> Floats:
    """Return 2 (1 - sigmoid(sharpness MSE)) of errors [W, H]: 1 without error, towards 0 [W]."""
    return 2 * expit(-sharpness * np.mean(errors**2, axis=1))


def _kernel(season: int, horizon: int) -> int:
    """Return the steps of the trend's moving average: an odd number, at most the horizon's."""
    widest = season | 1 if season > 1 else WIDEST_KERNEL
    return min(widest, horizon | 1)


def _moving_average(x: Floats, kernel: int) -> Floats:
    """Return the centred mean over `kernel` steps of [W, H], at the ends over those that exist.

    It is linear: the average of errors is the error of the averages.
    """
    horizon, half = x.shape[1], kernel // 2
    sums = np.concatenate([np.zeros((len(x), 1)), np.cumsum(x, axis=1)], axis=1)
    steps = np.arange(horizon)
    first, end = np.maximum(steps - half, 0), np.minimum(steps + half + 1, horizon)
    return (sums[:, end] - sums[:, first]) / (end - first)


def _turning_points(x: Floats) -> Flags:
    """Return where scaled values [W, H] have a prominent maximum or minimum [2, W, H]. A plateau
    counts once, at its middle; the ends never count.
    """
    rows, horizon = x.shape
    found = np.zeros((2, rows, horizon), bool)
    if rows == 0:
        return found
    # One signal of all rows, with walls between them that no prominence reaches over.
    wall = np.full((rows, 1), np.abs(x).max() + 1)
    for sign, flags in zip((1, -1), found, strict=True):
        signal = np.concatenate([sign * x, wall], axis=1).ravel()
        peaks = find_peaks(signal)[0]
        peaks = peaks[peaks % (horizon + 1) != horizon]
        peaks = peaks[peak_prominences(signal, peaks)[0] >= PROMINENCE]
        flags[np.divmod(peaks, horizon + 1)] = True
    return found


def _f1(answered: Flags, true: Flags, tolerance: int) -> Floats:
    """Return the F1 score of turning points [2, W, H], maxima and minima together [W]; 0 where
    neither has any. Each answered point may match one true point at most `tolerance` steps away.
    """
    free, matched = answered.copy(), np.zeros(answered.shape[:2], np.int64)
    horizon = answered.shape[2]
    # The earliest free point in reach, in the order of time, gives a largest matching.
    for t in range(horizon):
        open_ = true[..., t].copy()
        for s in range(max(0, t - tolerance), min(horizon, t + tolerance + 1)):
            hit = open_ & free[..., s]
            matched += hit
            free[..., s] &= ~hit
            open_ &= ~hit
    points = answered.sum((0, 2)) + true.sum((0, 2))
    return 2 * matched.sum(0) / np.maximum(points, 1)
