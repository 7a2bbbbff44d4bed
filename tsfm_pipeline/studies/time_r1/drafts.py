"""Drafts: the forecasts that the policy corrects, and which of them a window starts from.

What belongs here: forecasts of the frozen model and of simple methods, the same methods' forecasts
of the last known steps, and the choice by them. What does not: what the drafts say about a window
(`findings`), and any choice that knows the truth (`teacher`).

Missing values: the frozen model sees a gap filled by the last value before it, and has no draft of
a window whose series begins after its context does. The simple methods read known values only. A
draft with an unknown step is NaN throughout, as in `baselines.protocol`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tsfm_pipeline.autoresearch.evidence import GridForecaster
from tsfm_pipeline.evaluation.methods import LAST_VALUE, SEASONAL_NAIVE
from tsfm_pipeline.forecaster import ForecastConfig, Panel
from tsfm_pipeline.forecaster.config import DECILE_COLUMNS, QUANTILE_LEVELS
from tsfm_pipeline.studies.time_r1.windows import Floats, Ints, Windows

SEASONS_MEAN = "seasons_mean"
SIMPLE = (LAST_VALUE, SEASONAL_NAIVE, SEASONS_MEAN)
"""Drafts that need no model."""
COMBINED = "median_of_drafts"
"""The median, at each step, of the frozen model's drafts and the seasonal naive.

MASE on windows drawn from validation rows with horizon 24 (630 each of ETTh1 and ETTh2): contexts
512 and 2048 with the seasonal naive .930 and .817, contexts 96 and 512 with it .958 and .832; the
frozen model alone at 96, 512, 1024 and 2048: 1.031, .977, .951, .944 and .889, .841, .825, .837.
"""
N_SEASONS = 4
"""Of `seasons_mean`: a look-back of 96 hours has four days."""
BACKTEST_SEASONS = 3
"""The last known seasons that a backtest covers, so that a fault can be seen to recur."""
MOST_BACKTESTS = 24
"""Origins of a backtest at most. Three days of minute data are 72 horizons of an hour, and each of
them costs as many forecasts as a request; 24 are one day of it, and all of them where a season has
at most eight horizons, as in hourly data with a horizon of 3 or more.
"""
MARGIN = 0.4
"""How much lower, as a share, the error of another draft must be to replace the first one.

The lowest error over three days picks by luck, and its choice is worse than the first draft alone.
MASE of the choice at margins 0, .2, .4 and .6, on windows drawn from training and validation rows
with horizon 24: ETTh1 .849, .811, .809, .809 (477 windows; frozen model at 512: .809) and 1.006,
.946, .950, .948 (500; .948); ETTh2 .908, .870, .854, .857 (477; .858) and .866, .824, .819, .816
(500; .817). With `COMBINED` as the first draft (contexts 512 and 2048): ETTh1 .836, .798, .791,
.788 (383; .788) and 1.021, .946, .944, .945 (500; .945); ETTh2 .793, .819, .808, .808 (383; .808)
and .863, .829, .817, .818 (500; .818).
"""
MEDIAN = QUANTILE_LEVELS.index(0.5)


@dataclass(frozen=True)
class Drafts:
    """What K methods forecast for N windows.

    values: by name, float64 [N, H], the preferred one first. deciles: of the frozen
    model's drafts alone, float64 [N, H, 9]. backtests: by name, float64 [N, B H], what the method
    forecast for the last B H known steps from B origins, each a horizon apart. All are in the units
    of the data, and nothing after a window's origin is read for any of them.
    """

    values: dict[str, Floats]
    deciles: dict[str, Floats]
    backtests: dict[str, Floats]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the K drafts."""
        return tuple(self.values)

    def at(self, rows: Sequence[int] | Ints | slice) -> "Drafts":
        """Return the drafts of some windows."""
        index = np.arange(len(next(iter(self.values.values()))))[rows]
        values, deciles, backtests = (
            {name: made[index] for name, made in one.items()}
            for one in (self.values, self.deciles, self.backtests)
        )
        return Drafts(values, deciles, backtests)

    def taken(self, chosen: Sequence[str]) -> Floats:
        """Return the draft [N, H] that is chosen for each window."""
        return taken(self.values, chosen)

    def taken_backtests(self, chosen: Sequence[str]) -> Floats:
        """Return the backtest [N, B H] of the draft that is chosen for each window."""
        return taken(self.backtests, chosen)

    def joined(self, candidates: Mapping[str, Floats]) -> "Drafts":
        """Return these drafts and further candidates [N, H], which have no backtest."""
        unknown = np.full_like(next(iter(self.backtests.values())), np.nan)
        return Drafts(
            self.values | dict(candidates),
            self.deciles,
            self.backtests | dict.fromkeys(candidates, unknown),
        )

    def taken_deciles(self, chosen: Sequence[str]) -> Floats:
        """Return deciles [N, H, 9] around the draft that is chosen for each window.

        A simple draft has no spread of its own: it gets that of the first of the frozen model's
        drafts that is known for the window. Without one, all deciles are the draft.
        """
        centred = np.zeros((*next(iter(self.values.values())).shape, len(QUANTILE_LEVELS)))
        for deciles in reversed(self.deciles.values()):
            known = np.isfinite(deciles).all(axis=(1, 2))
            centred[known] = (deciles - deciles[..., MEDIAN, None])[known]
        own = np.array([list(self.deciles).index(n) if n in self.deciles else -1 for n in chosen])
        for k, deciles in enumerate(self.deciles.values()):
            rows = own == k
            centred[rows] = (deciles - deciles[..., MEDIAN, None])[rows]
        return self.taken(chosen)[..., None] + centred


def frozen_name(context: int) -> str:
    """Return the name of the frozen model's draft at a context of so many steps."""
    return f"frozen_{context}"


def frozen_context(name: str) -> int | None:
    """Return the context of a frozen model's draft by its name; None for another draft."""
    match = re.fullmatch(r"frozen_(\d+)", name)
    return int(match[1]) if match else None


def n_backtests(season: int, horizon: int) -> int:
    """Return B, the origins of a backtest, a horizon apart: enough to cover `BACKTEST_SEASONS`, at
    least 1 and at most `MOST_BACKTESTS`.
    """
    return min(max(1, -(-BACKTEST_SEASONS * season // horizon)), MOST_BACKTESTS)


def needed_past(contexts: Sequence[int], season: int, horizon: int) -> int:
    """Return P, the past values that a window needs so that every draft has a whole backtest."""
    return max(*contexts, N_SEASONS * season) + n_backtests(season, horizon) * horizon


def make_drafts(
    windows: Windows, forecaster: GridForecaster | None, contexts: Sequence[int]
) -> Drafts:
    """Return the drafts of all windows and their backtests; arguments as in `drafts_at_origins`."""
    return drafts_at_origins(windows, forecaster, contexts, 0)[0]


def drafts_at_origins(
    windows: Windows, forecaster: GridForecaster | None, contexts: Sequence[int], n_earlier: int
) -> tuple[Drafts, ...]:
    """Return the drafts of all windows and their backtests: those of the windows themselves, and
    then those of the windows 1, 2, ... `n_earlier` horizons earlier (`Windows.earlier`).

    The frozen model is called once: the backtests of neighbouring origins are the same forecasts
    but for one. forecaster: None for the simple methods alone. contexts: steps that the frozen
    model looks back on, one draft each, the longest first. Before them all stands `COMBINED`, of
    those that are known for a window. Raises as the forecaster does.
    """
    contexts = sorted(set(contexts), reverse=True)
    n_origins = n_backtests(windows.season, windows.horizon)
    n_made = 1 + n_earlier + n_origins
    deciles: dict[str, Floats] = {}
    points: dict[str, Floats] = {}  # [N, 1 + n_earlier + B, H], latest origin first
    if forecaster is not None:
        made = _frozen(windows, forecaster, contexts, n_made)
        for context, grid in zip(contexts, made, strict=True):
            deciles[frozen_name(context)] = grid
            points[frozen_name(context)] = grid[..., MEDIAN]
    pasts = [windows.past]
    for _ in range(1, n_made):
        pasts.append(pasts[-1][:, : -windows.horizon])
    for name in SIMPLE:
        simple = [_simple(name, past, windows.season, windows.horizon) for past in pasts]
        points[name] = np.stack(simple, axis=1)
    if deciles:
        members = [points[name] for name in (*deciles, SEASONAL_NAIVE)]
        points = {COMBINED: _median_of_known(members)} | points
    return tuple(
        Drafts(
            values={name: made[:, at] for name, made in points.items()},
            deciles={name: made[:, at] for name, made in deciles.items()},
            backtests={
                name: _in_order_of_time(made[:, at + 1 : at + 1 + n_origins])
                for name, made in points.items()
            },
        )
        for at in range(1 + n_earlier)
    )


def backtest_errors(windows: Windows, drafts: Drafts) -> dict[str, Floats]:
    """Return the mean absolute error [N] of each draft's method over the last B H known steps, in
    the units of the data.

    A step counts where its value and its forecast are known; NaN where there is none.
    """
    return {
        name: mean_of_known(np.abs(forecasts - known_steps(windows, forecasts)))
        for name, forecasts in drafts.backtests.items()
    }


def best_by_backtest(windows: Windows, drafts: Drafts) -> tuple[str, ...]:
    """Return the name of the draft that each window starts from: the first known one, unless
    another has an error in the backtest that is lower by `MARGIN`; then that with the lowest error.

    Only known drafts take part, and one without a backtest wins against none. Raises ValueError for
    a window that has no known draft at all.
    """
    names, errors = drafts.names, backtest_errors(windows, drafts)
    known = np.stack([np.isfinite(drafts.values[name]).all(axis=1) for name in names])  # [K, N]
    if not known.any(axis=0).all():
        row = int(np.flatnonzero(~known.any(axis=0))[0])
        raise ValueError(
            f"{windows.data_set}, channel {windows.channels[row]}, origin {windows.origins[row]}: "
            f"none of {', '.join(names)} is known; allowed: windows with at least one known value"
        )
    table = np.where(known, np.stack([errors[name] for name in names]), np.nan)
    table = np.where(np.isnan(table), np.inf, table)
    first, lowest = known.argmax(axis=0), table.argmin(axis=0)
    columns = np.arange(len(windows))
    own = table[first, columns]
    # Without a backtest of its own the first draft cannot be said to have lost.
    lost = np.isfinite(own) & (table[lowest, columns] < (1 - MARGIN) * own)
    return tuple(names[k] for k in np.where(lost, lowest, first))


def taken(values: Mapping[str, Floats], chosen: Sequence[str]) -> Floats:
    """Return the rows [N, ...] of the named values [N, ...] that are chosen, one name per row."""
    names = list(values)
    index = np.array([names.index(name) for name in chosen])
    return np.stack([values[name] for name in names])[index, np.arange(len(index))]


def known_steps(windows: Windows, forecasts: Floats) -> Floats:
    """Return the last known values of each window, as many as forecasts [N, M] has columns."""
    n_steps = forecasts.shape[1]
    missing = max(0, n_steps - windows.past.shape[1])
    return np.pad(windows.past, ((0, 0), (missing, 0)), constant_values=np.nan)[:, -n_steps:]


def mean_of_known(values: Floats) -> Floats:
    """Return the mean [N] over the known ones of values [N, M]; NaN where there is none."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=1)
    counts = known.sum(axis=1)
    return np.divide(total, counts, out=np.full(len(values), np.nan), where=counts > 0)


def _frozen(
    windows: Windows, forecaster: GridForecaster, contexts: Sequence[int], n_origins: int
) -> Floats:
    """Return deciles [K, N, O, H, 9] from the origin and from O - 1 origins before it, a horizon
    apart; NaN where the past is too short.
    """
    n_windows, n_past = windows.past.shape
    wanted = n_past - 1 - windows.horizon * np.arange(n_origins)
    origins = wanted[wanted >= 0]
    grid = forecaster.forecast_grid(
        Panel(windows.past.astype(np.float32)),
        origins,
        [ForecastConfig(context_len=context) for context in contexts],
        windows.horizon,
    )  # [N, O, K, H, 10]
    deciles = np.full(
        (len(contexts), n_windows, len(wanted), windows.horizon, len(QUANTILE_LEVELS)), np.nan
    )
    deciles[:, :, : len(origins)] = grid[..., DECILE_COLUMNS].transpose(2, 0, 1, 3, 4)
    return deciles


def _median_of_known(members: Sequence[Floats]) -> Floats:
    """Return the median [N, ...], at each step, of the known ones of some forecasts [N, ...]; NaN
    where there is none.
    """
    forecasts = np.ma.masked_invalid(np.stack(members))
    return np.ma.median(forecasts, axis=0).filled(np.nan)


def _in_order_of_time(forecasts: Floats) -> Floats:
    """Return forecasts [N, B, H] from the latest origin backwards as [N, B H], oldest first."""
    return forecasts[:, ::-1].reshape(len(forecasts), -1)


def _simple(name: str, past: Floats, season: int, horizon: int) -> Floats:
    """Return one simple draft [N, H] from the past [N, P]."""
    if name == LAST_VALUE:
        draft = np.repeat(_last_known(past)[:, None], horizon, axis=1)
    else:
        phases = _last_seasons(past, season)[..., np.arange(horizon) % season]  # [N, 4, H]
        if name == SEASONAL_NAIVE:
            draft = _latest(phases)
        else:
            draft = mean_of_known(phases.transpose(0, 2, 1).reshape(-1, N_SEASONS)).reshape(
                -1, horizon
            )
    draft[np.isnan(draft).any(axis=1)] = np.nan
    return draft


def _last_seasons(past: Floats, season: int) -> Floats:
    """Return the last four seasons [N, 4, season] of the past [N, P], oldest first; NaN where it is
    shorter.
    """
    n_steps = N_SEASONS * season
    missing = max(0, n_steps - past.shape[1])
    padded = np.pad(past, ((0, 0), (missing, 0)), constant_values=np.nan)
    return padded[:, padded.shape[1] - n_steps :].reshape(-1, N_SEASONS, season)


def _last_known(past: Floats) -> Floats:
    """Return the last known value [N] of the past [N, P]; NaN where there is none."""
    if not past.shape[1]:
        return np.full(len(past), np.nan)
    return _latest(past[..., None])[:, 0]


def _latest(values: Floats) -> Floats:
    """Return the last known of values [N, M, H] along M: [N, H]; NaN where there is none."""
    known = np.isfinite(values)
    last = values.shape[1] - 1 - known[:, ::-1].argmax(axis=1)
    return np.take_along_axis(values, last[:, None], axis=1)[:, 0]
