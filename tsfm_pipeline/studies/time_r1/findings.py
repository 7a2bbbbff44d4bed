"""Findings: what a window's history says about the draft that it starts from.

What belongs here: the kinds of findings, and how each is computed. What does not: the words in
which they are told (`reasons`), and the choice of the draft (`drafts`, `teacher`).

Every number is a function of values up to the origin and of drafts made from them. Amounts are in
standard deviations of the look-back (`frames`), so that they do not depend on the data's units.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tsfm_pipeline.studies.time_r1.drafts import Drafts, backtest_errors, known_steps
from tsfm_pipeline.studies.time_r1.frames import frames_of
from tsfm_pipeline.studies.time_r1.windows import Floats, Ints, Windows

LEAST_JUMP = 0.3
"""Standard deviations between the means of two seasons from which a level jump is told."""
LEAST_RATIO = 1.25
"""An amplitude that is larger, or smaller than its inverse, is told."""
LEAST_TREND = 0.1
"""Standard deviations per season."""
LEAST_MISS = 0.3
"""Standard deviations between a peak and its forecast from which it counts as missed."""
LEAST_OFFSET = 0.1
"""Standard deviations, of the mean error of a backtest with its sign."""
LEAST_EXCESS = 0.1
"""Standard deviations by which a draft leaves the range of the look-back."""
LEAST_SEASON = 4
"""Steps; a shorter season has no peak worth naming."""
LEAST_SEASONS = 3
"""Whole seasons of the look-back that a trend needs."""


@dataclass(frozen=True)
class Moment:
    """A step of the season: its number from 0, how many steps the season has, and the time of day
    ("14:00") where the season is a day and the data have a clock.
    """

    step: int
    season: int
    clock: str | None


@dataclass(frozen=True)
class Choice:
    """The draft that the answer starts from, and how it did in the backtest.

    error, best_error: mean absolute errors of the draft and of the best other one over the last
    `steps` known steps; None where there is no backtest.
    """

    draft: str
    error: float | None
    best_other: str | None
    best_error: float | None
    steps: int


@dataclass(frozen=True)
class Spread:
    """How far apart the drafts are: the mean distance from the lowest to the highest of them."""

    drafts: int
    distance: float


@dataclass(frozen=True)
class LevelJump:
    """Mean of the last season of the look-back minus that of the season before."""

    change: float


@dataclass(frozen=True)
class Amplitude:
    """Range of the last season of the look-back over the mean range of the seasons before."""

    ratio: float


@dataclass(frozen=True)
class Trend:
    """Slope per season of the line by least squares through the means of the seasons."""

    change: float


@dataclass(frozen=True)
class Offset:
    """Mean of value minus forecast in the chosen draft's backtest: above 0, it was too low."""

    change: float
    steps: int


@dataclass(frozen=True)
class MissedPeak:
    """The chosen draft's method missed the highest value of the latest seasons.

    miss: mean of peak minus forecast at the peak's step over the seasons of the run; above 0, the
    forecast was too low. seasons: how many in a row, up to the origin. at: the latest peak.
    """

    miss: float
    seasons: int
    at: Moment


@dataclass(frozen=True)
class Excess:
    """The chosen draft leaves the range of the look-back, at most at this step, by this much."""

    side: Literal["above", "below"]
    amount: float
    at: Moment


Finding = Choice | Spread | LevelJump | Amplitude | Trend | Offset | MissedPeak | Excess


def find(windows: Windows, drafts: Drafts, chosen: Sequence[str]) -> list[list[Finding]]:
    """Return the findings of each window, in the order of `Finding`.

    chosen: the draft that each window starts from, by name. Choice and spread are always told, the
    others where they are large enough; what needs values that are not known is left out. Raises
    ValueError where the number of chosen drafts is not that of the windows.
    """
    if len(chosen) != len(windows):
        raise ValueError(f"{len(chosen)} drafts are chosen for {len(windows)} windows; allowed: N")
    deviation = frames_of(windows).deviation
    draft = drafts.taken(chosen)
    seasons = _seasons(windows.history, windows.season)
    misses = _known_errors(windows, drafts, chosen) / deviation[:, None]
    columns: list[Sequence[Finding | None]] = [
        _choices(windows, drafts, chosen, deviation),
        _spreads(drafts, deviation),
        _level_jumps(seasons, deviation),
        _amplitudes(seasons),
        _trends(seasons, deviation),
        _offsets(misses),
        _missed_peaks(windows, misses),
        _excesses(windows, draft, deviation, "above"),
        _excesses(windows, draft, deviation, "below"),
    ]
    return [
        [finding for finding in row if finding is not None] for row in zip(*columns, strict=True)
    ]


def moment(windows: Windows, row: int, steps_after: int) -> Moment:
    """Return the step of the season that lies so many steps after the origin of one window; 0 is
    the origin, and steps before it are negative.
    """
    step = int(windows.origins[row] + steps_after) % windows.season
    if windows.times is None or windows.past.shape[1] < 2:
        return Moment(step, windows.season, None)
    times = windows.times[row].astype("datetime64[s]")
    apart = times[-1] - times[-2]
    if apart * windows.season != np.timedelta64(1, "D"):
        return Moment(step, windows.season, None)
    clock = str(times[-1] + apart * steps_after)[11:16]
    return Moment(step, windows.season, clock)


def _seasons(history: Floats, season: int) -> Floats:
    """Return the whole seasons [N, D, season] at the end of the look-back [N, L]."""
    n_seasons = history.shape[1] // season
    return history[:, history.shape[1] - n_seasons * season :].reshape(
        len(history), n_seasons, season
    )


def _known_errors(windows: Windows, drafts: Drafts, chosen: Sequence[str]) -> Floats:
    """Return value minus forecast [N, B H] in the backtest of the chosen drafts."""
    forecasts = drafts.taken_backtests(chosen)
    return known_steps(windows, forecasts) - forecasts


def _choices(
    windows: Windows, drafts: Drafts, chosen: Sequence[str], deviation: Floats
) -> list[Choice]:
    errors = backtest_errors(windows, drafts)
    steps = next(iter(drafts.backtests.values())).shape[1]
    choices = []
    for row, name in enumerate(chosen):
        scores = {
            other: float(error[row] / deviation[row])
            for other, error in errors.items()
            if np.isfinite(error[row])
        }
        others = [other for other in scores if other != name]
        best = min(others, key=scores.__getitem__, default=None)
        best_error = None if best is None else scores[best]
        choices.append(Choice(name, scores.get(name), best, best_error, steps))
    return choices


def _spreads(drafts: Drafts, deviation: Floats) -> list[Spread | None]:
    table = np.stack(list(drafts.values.values()))  # [K, N, H]
    known = np.isfinite(table)
    highest = np.where(known, table, -np.inf).max(axis=0)
    lowest = np.where(known, table, np.inf).min(axis=0)
    counts = known.all(axis=2).sum(axis=0)
    return [
        Spread(int(count), float((high - low).mean() / scale)) if count > 1 else None
        for count, high, low, scale in zip(counts, highest, lowest, deviation, strict=True)
    ]


def _level_jumps(seasons: Floats, deviation: Floats) -> list[LevelJump | None]:
    if seasons.shape[1] < 2:
        return [None] * len(seasons)
    means = seasons[:, -2:].mean(axis=2)
    changes = (means[:, 1] - means[:, 0]) / deviation
    return [LevelJump(float(c)) if abs(c) >= LEAST_JUMP else None for c in changes]


def _amplitudes(seasons: Floats) -> list[Amplitude | None]:
    if seasons.shape[1] < 2:
        return [None] * len(seasons)
    ranges = seasons.max(axis=2) - seasons.min(axis=2)
    before = ranges[:, :-1].mean(axis=1)
    ratios = np.divide(ranges[:, -1], before, out=np.full(len(ranges), np.nan), where=before > 0)
    return [
        Amplitude(float(r)) if r >= LEAST_RATIO or r <= 1 / LEAST_RATIO else None for r in ratios
    ]


def _trends(seasons: Floats, deviation: Floats) -> list[Trend | None]:
    n_seasons = seasons.shape[1]
    if n_seasons < LEAST_SEASONS:
        return [None] * len(seasons)
    centred = np.arange(n_seasons) - (n_seasons - 1) / 2
    slopes = seasons.mean(axis=2) @ centred / (centred @ centred) / deviation
    return [Trend(float(s)) if abs(s) >= LEAST_TREND else None for s in slopes]


def _offsets(misses: Floats) -> list[Offset | None]:
    known = np.isfinite(misses)
    found: list[Offset | None] = []
    for row, where in zip(misses, known, strict=True):
        mean = float(row[where].mean()) if where.any() else 0.0
        found.append(Offset(mean, int(where.sum())) if abs(mean) >= LEAST_OFFSET else None)
    return found


def _missed_peaks(windows: Windows, misses: Floats) -> list[MissedPeak | None]:
    if windows.season < LEAST_SEASON:
        return [None] * len(windows)
    actual = _seasons(known_steps(windows, misses), windows.season)
    missed = _seasons(misses, windows.season)
    # A season with unknown values has no certain peak, and ends a run.
    whole = np.asarray(np.isfinite(actual + missed).all(axis=2))
    peaks: Ints = np.where(whole[..., None], actual, 0.0).argmax(axis=2)
    at_peaks = np.take_along_axis(missed, peaks[..., None], axis=2)[..., 0]
    at_peaks = np.where(whole, at_peaks, 0.0)
    latest = at_peaks[:, -1:]
    missed_alike = (np.abs(at_peaks) >= LEAST_MISS) & (np.sign(at_peaks) == np.sign(latest))
    running = np.asarray(missed_alike, dtype=np.int64)
    counts = np.cumprod(running[:, ::-1], axis=1).sum(axis=1)
    return [
        MissedPeak(
            float(at_peaks[row, -count:].mean()),
            int(count),
            moment(windows, row, int(peaks[row, -1]) + 1 - windows.season),
        )
        if count
        else None
        for row, count in enumerate(counts)
    ]


def _excesses(
    windows: Windows, draft: Floats, deviation: Floats, side: Literal["above", "below"]
) -> list[Excess | None]:
    sign = 1.0 if side == "above" else -1.0
    highest = np.nanmax(sign * windows.history, axis=1)
    steps = np.argmax(sign * draft, axis=1)
    amounts = ((sign * draft).max(axis=1) - highest) / deviation
    return [
        Excess(side, float(amount), moment(windows, row, int(step) + 1))
        if amount >= LEAST_EXCESS
        else None
        for row, (amount, step) in enumerate(zip(amounts, steps, strict=True))
    ]
