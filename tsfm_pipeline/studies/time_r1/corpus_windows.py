"""Corpus windows: what the base learns from, windows of the synthetic corpus with cheap drafts.

What belongs here: windows of `pretraining`'s corpus in the form of the study, their seasons, and
drafts of several kinds and qualities. What does not: the corpus itself (`pretraining.corpus3`), the
drafts of real requests (`drafts`), and what is written of them (`base_training`).

The frozen model drafts none of them. Two drafts stand in its place under its name: one linear map
from look-back to horizon, and the truth with an error that persists. The error of the second is as
large in its backtest as after the origin, so that a reason that tells the first tells something
about the second. A draft that repeats earlier seasons is made of values that the prompt shows,
which teaches to look back by a season and to copy.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tsfm_pipeline.pretraining import corpus3
from tsfm_pipeline.pretraining.corpus import PATCH, TARGET_LEN, Pool, PoolShape
from tsfm_pipeline.studies.time_r1.drafts import (
    LAST_VALUE,
    SEASONAL_NAIVE,
    SEASONS_MEAN,
    Drafts,
    best_by_backtest,
    frozen_name,
    make_drafts,
    n_backtests,
    needed_past,
)
from tsfm_pipeline.studies.time_r1.prompts import OTHER_KIND
from tsfm_pipeline.studies.time_r1.vocabulary import CHANNEL_KINDS
from tsfm_pipeline.studies.time_r1.windows import Floats, Ints, Windows

STEPS_OF_SEASONS = {
    6: "4 hours",
    7: "1 day",
    8: "3 hours",
    12: "2 hours",
    14: "12 hours",
    16: "90 minutes",
    18: "80 minutes",
    20: "72 minutes",
    24: "1 hour",
    30: "48 minutes",
    36: "40 minutes",
    42: "4 hours",
    48: "30 minutes",
}
"""Seasons that a window may state, in steps, with the step of data whose day or week it is. At
least two of each are in a look-back of 96.
"""
LINEAR, DOUBTFUL = frozen_name(96), frozen_name(512)
"""The drafts in place of the frozen model's: the linear map, and the truth with an error."""
DRAFT_SHARES = {
    LINEAR: 0.35,
    DOUBTFUL: 0.3,
    SEASONS_MEAN: 0.15,
    SEASONAL_NAIVE: 0.15,
    LAST_VALUE: 0.05,
}
"""How often each draft is started from in windows that do not take the best of the backtest."""
DAY = 24
"""The season of windows that are drawn because they repeat, in steps."""
_REPEATING, _REPEATS = 0.7, 0.8
"""Share of windows that repeat by `DAY`, and what that means: values a day apart differ by less
than this times the mean distance of the look-back from its mean. Of windows drawn at random 11 in
100 do, from which the use of the season before is learnt too slowly.
"""
_AVERAGED = (1, 2, 3, 4, 6, 8, 12)
"""How many steps of the corpus make one step of a window, one of these per call: seasons that are
longer than a look-back lie within it then, and some are a day.
"""
_STRANGE_SEASON = 0.15
"""Share of the other windows that state a season which is not theirs: a day need not be in the
data."""
_AS_GOOD = 1.1
"""Times the least error of a repetition, within which a shorter season is taken."""
_BACKTESTED, _TIMED = 0.5, 0.7
"""Shares of windows that start from the best draft of the backtest, and that have a clock."""
_LEAST_DEVIATION = 1e-3
"""Of a look-back, in deviations of its whole window: a constant has nothing to learn from."""
_FARTHEST = 6.0
"""Deviations of the look-back from its mean to a true value: beyond it no number is near."""
_ERROR_SIZES = (0.05, 1.0)
"""Range of the standard deviation of a doubtful draft's error, in those of the look-back."""
_MINUTES = {"minute": 1, "hour": 60, "day": 24 * 60}
_MINUTES_OF_A_YEAR = 365 * 24 * 60
_FIT_STEP, _FIT_WINDOWS, _PENALTY = 2**30, 2048, 30.0
"""Of the linear map: the step whose windows it is fitted to, and their number."""


@dataclass(frozen=True)
class DraftedWindows:
    """Windows of one season, their drafts, and the name of the draft that each starts from."""

    windows: Windows
    drafts: Drafts
    chosen: tuple[str, ...]


def corpus_pool(seed: int, shape: PoolShape) -> Pool:
    """Return the endless pool of series of corpus 3 that a seed begins."""
    return Pool(seed, torch.device("cpu"), shape, corpus3.generate_block)


def cut_windows(
    series: Tensor, seed: int, step: int, n: int, look_back: int, horizon: int
) -> list[Windows]:
    """Return n windows of float32 series [S, T] by their season, a function of the arguments alone.

    A part of them is drawn from those that repeat by `DAY`, as far as there are any. Gaps are
    filled with the last value before. Windows with a constant look-back or a truth far outside of
    it are passed over. Raises ValueError if the series are too short or if no window is left.
    """
    rng = np.random.default_rng([seed, step, 2])
    past = max(needed_past([look_back], season, horizon) for season in STEPS_OF_SEASONS)
    patches = -(-max(past + horizon - TARGET_LEN, PATCH) // PATCH)
    length = patches * PATCH + TARGET_LEN
    if series.shape[1] < length:
        raise ValueError(f"series of {series.shape[1]} steps; allowed: at least {length}")
    n_steps = min(int(rng.choice(_AVERAGED)), max(1, series.shape[1] // length))
    series = averaged(series, n_steps)
    # A third of the windows passes even in a block with many constant series.
    cut = corpus3.sample_windows(series, seed, step, 4 * -(-3 * n // 4), patches)
    values = cut.values[:, length - past - horizon :].double().numpy()
    shown = values[:, past - look_back : past]
    deviation = shown.std(axis=1)
    far = np.abs(values[:, past - look_back :] - shown.mean(axis=1, keepdims=True)).max(axis=1)
    rows = np.flatnonzero((deviation > _LEAST_DEVIATION) & (far < _FARTHEST * deviation))
    if not len(rows):
        raise ValueError(
            f"step {step}: none of {len(values)} windows has a look-back that varies and a truth "
            f"within {_FARTHEST} deviations; allowed: series with such windows"
        )
    repeating = rows[_repeats(shown[rows])]
    n_repeating = round(_REPEATING * n) if len(repeating) else 0
    drawn = [
        np.resize(rng.permutation(some), count)
        for some, count in ((repeating, n_repeating), (rows, n - n_repeating))
    ]
    values = values[np.concatenate(drawn)]
    seasons = seasons_of(values[:, past - look_back : past])
    strange = rng.random(n) < _STRANGE_SEASON
    seasons = np.where(strange, rng.choice(list(STEPS_OF_SEASONS), n), seasons)
    seasons[:n_repeating] = DAY
    kinds = rng.choice([*CHANNEL_KINDS, OTHER_KIND], n)
    starts = rng.integers(0, _MINUTES_OF_A_YEAR, n)
    timed = rng.random(len(STEPS_OF_SEASONS)) < _TIMED
    return [
        _of_season(values, rows, season, kinds, starts if clock else None, look_back, horizon)
        for season, clock in zip(STEPS_OF_SEASONS, timed, strict=True)
        if len(rows := np.flatnonzero(seasons == season))
    ]


def averaged(series: Tensor, n_steps: int) -> Tensor:
    """Return series [S, T // n_steps] whose steps are the means of so many of float32 [S, T]; NaN
    where all of them are unknown.
    """
    length = series.shape[1] // n_steps
    return series[:, -length * n_steps :].unflatten(1, (length, n_steps)).nanmean(dim=2)


def _repeats(history: Floats) -> NDArray[np.bool_]:
    """Return whether each look-back [N, L] repeats by `DAY`."""
    size = np.abs(history - history.mean(axis=1, keepdims=True)).mean(axis=1)
    error = np.abs(history[:, DAY:] - history[:, :-DAY]).mean(axis=1)
    return np.asarray(error < _REPEATS * size)


def _of_season(
    values: Floats,
    rows: Ints,
    season: int,
    kinds: NDArray[np.str_],
    starts: Ints | None,
    look_back: int,
    horizon: int,
) -> Windows:
    """Return the windows of one season, with the clock of data that has such a day or week."""
    step = STEPS_OF_SEASONS[season]
    past = values.shape[1] - horizon
    times = None
    if starts is not None:
        count, unit = step.split()
        minutes = starts[rows, None] + np.arange(past) * int(count) * _MINUTES[unit.rstrip("s")]
        times = np.datetime64("2020-01-01T00:00") + minutes.astype("timedelta64[m]")
    return Windows(
        data_set="corpus",
        step=step,
        season=season,
        channels=tuple(kinds[rows].tolist()),
        origins=np.full(len(rows), past - 1),
        past=values[rows, :past],
        truth=values[rows, past:],
        look_back=look_back,
        times=times,
    )


def seasons_of(history: Floats) -> Ints:
    """Return the season [N] of look-backs [N, L], of `STEPS_OF_SEASONS`: that by which they repeat
    best, by the mean absolute difference. Of seasons that do about as well, the shortest counts:
    its multiples repeat too.
    """
    seasons = np.array(list(STEPS_OF_SEASONS), np.int64)
    errors = np.stack([np.abs(history[:, s:] - history[:, :-s]).mean(axis=1) for s in seasons])
    enough = _AS_GOOD * errors.min(axis=0) + _LEAST_DEVIATION * history.std(axis=1)
    return seasons[(errors <= enough).argmax(axis=0)]


@dataclass(frozen=True)
class LinearMap:
    """A linear map, float64 [L, H], from a scaled look-back to the values after it."""

    weights: Tensor

    def forecast(self, history: Floats) -> Floats:
        """Return forecasts [N, H] from look-backs [N, L]."""
        mean, deviation = _scales(history)
        # torch keeps to the thread that asks, which NumPy's matrix product does not promise.
        scaled = torch.from_numpy((history - mean) / deviation) @ self.weights
        return mean + deviation * scaled.numpy()


def _scales(history: Floats) -> tuple[Floats, Floats]:
    deviation = history.std(axis=1, keepdims=True)
    return history.mean(axis=1, keepdims=True), np.maximum(deviation, _LEAST_DEVIATION)


def fit_linear_map(series: Tensor, seed: int, look_back: int, horizon: int) -> LinearMap:
    """Return the ridge regression of what follows on the look-back, over windows of some series."""
    groups = cut_windows(series, seed, _FIT_STEP, _FIT_WINDOWS, look_back, horizon)
    history = np.concatenate([windows.history for windows in groups])
    truth = np.concatenate([windows.truth for windows in groups])
    mean, deviation = _scales(history)
    inputs = torch.from_numpy((history - mean) / deviation)
    targets = torch.from_numpy((truth - mean) / deviation)
    gram = inputs.T @ inputs + _PENALTY * torch.eye(look_back, dtype=torch.float64)
    return LinearMap(torch.linalg.solve(gram, inputs.T @ targets))


def with_drafts(windows: Windows, linear: LinearMap, rng: np.random.Generator) -> DraftedWindows:
    """Return windows with their drafts, and a draft that each of them starts from."""
    simple = make_drafts(windows, None, ())
    n_origins = n_backtests(windows.season, windows.horizon)
    earlier = windows
    backtest: list[Floats] = []
    for _ in range(n_origins):
        earlier = earlier.earlier()
        backtest.insert(0, linear.forecast(earlier.history))
    known = np.concatenate([windows.past, windows.truth], axis=1)
    doubtful = known[:, -(n_origins + 1) * windows.horizon :]
    doubtful = doubtful + _errors(windows, doubtful.shape[1], rng)
    values = {
        LINEAR: linear.forecast(windows.history),
        DOUBTFUL: doubtful[:, -windows.horizon :],
    }
    backtests = {
        LINEAR: np.concatenate(backtest, axis=1),
        DOUBTFUL: doubtful[:, : -windows.horizon],
    }
    drafts = Drafts(values | simple.values, {}, backtests | simple.backtests)
    drawn = rng.choice(list(DRAFT_SHARES), len(windows), p=list(DRAFT_SHARES.values()))
    best = best_by_backtest(windows, drafts)
    chosen = np.where(rng.random(len(windows)) < _BACKTESTED, best, drawn)
    return DraftedWindows(windows, drafts, tuple(chosen.tolist()))


def _errors(windows: Windows, steps: int, rng: np.random.Generator) -> Floats:
    """Return errors [N, steps] that persist: a shift and an autoregression, of any size."""
    n = len(windows)
    low, high = np.log(_ERROR_SIZES)
    size = _scales(windows.history)[1] * np.exp(rng.uniform(low, high, (n, 1)))
    memory = rng.uniform(0.0, 0.95, (n, 1))
    shift = rng.standard_normal((n, 1)) * rng.uniform(0.0, 1.0, (n, 1))
    noise = rng.standard_normal((n, steps))
    errors = noise[:, :1]
    columns = [errors]
    for step in range(1, steps):
        errors = memory * errors + np.sqrt(1 - memory**2) * noise[:, step : step + 1]
        columns.append(errors)
    return size * (shift + np.concatenate(columns, axis=1))
