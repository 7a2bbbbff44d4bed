"""Covariates for a model that takes none: a ridge regression in the context, before or after it.

What belongs here: the two orders of TimesFM's XReg, per window and in closed form. What does not:
zero-shot forecasts (`zero_shot`), readings (`readings`), whether covariates have any effect
(`checks`), and scorers that are trained on labels.

XReg regresses the target on covariates within the context and predicts it over the horizon from the
covariates of the horizon. For covariates such as an indicator these are values of days that have
not happened: the indicator of tomorrow is computed from tomorrow's close, so passing it would be
look-ahead. Here covariates are lagged by the horizon h: the regression explains day s by the
covariates of day s - h, so that the h days after t need covariates of the days up to t alone. This
is TFM-02 of the earlier work.

- `model_first`: the model forecasts returns; the ridge explains the errors of its forecasts of one
  step within the context, and its prediction is added to the forecast. The spread is that of the
  zero-shot forecast, so it is no score of its own.
- `ridge_first`: the ridge explains the returns of the context; the model forecasts what is left of
  them, and the ridge's prediction is added.
"""

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from tsfm_pipeline.autoresearch.evidence import GridForecaster
from tsfm_pipeline.forecaster import ForecastConfig
from tsfm_pipeline.studies.direction.bars import Floats
from tsfm_pipeline.studies.direction.problem import (
    Days,
    Problem,
    scored_days,
    targets,
    together,
)
from tsfm_pipeline.studies.direction.readings import READINGS, Paths, reading_scores
from tsfm_pipeline.studies.direction.scorers.zero_shot import panel_of, stored_paths

COVARIATES = ("last_return", "ewma", "parkinson_1", "drawdown", "volume_ratio")
"""Features that every market has; the market's own covariates are added to them."""
MODEL_FIRST, RIDGE_FIRST = "model_first", "ridge_first"
ORDERS = {
    MODEL_FIRST: {name: read for name, read in READINGS.items() if name != "spread"},
    RIDGE_FIRST: READINGS,
}
"""By name: the readings that are scores of their own."""
PENALTY = 1.0
"""Per observation, on standardised covariates: an only covariate keeps half of its coefficient. The
daily return has next to no linear dependence on anything, so without a penalty a regression on 80
days fits noise. It is fixed here rather than chosen on any day of a market."""
DAYS_AT_ONCE = 512


def covariate_scores(
    problem: Problem, forecasts: pl.DataFrame, forecaster: GridForecaster
) -> pl.DataFrame:
    """Return rows of `problem.SCORE_SCHEMA` of the scorers
    `covariates_<order>_<context>_<reading>` at every target of the study.

    forecasts: `zero_shot_forecasts` of the same problem and forecaster.
    """
    rows = []
    with threadpool_limits(limits=1):  # sums by several threads depend on how they are divided
        for context in sorted(problem.options.zero_shot.first_two):
            zero_shot = stored_paths(forecasts, len(problem.bars), "returns", context)
            for horizon in problem.options.labels.horizons:
                corrected = covariate_paths(problem, forecaster, zero_shot, context, horizon)
                rows += [
                    reading_scores(
                        f"covariates_{order}_{context}", corrected[order], problem, target, readings
                    )
                    for order, readings in ORDERS.items()
                    for target in targets(problem.options)
                    if target.horizon == horizon
                ]
    return together(rows)


def covariate_paths(
    problem: Problem,
    forecaster: GridForecaster,
    zero_shot: Paths,
    context: int,
    horizon: int,
) -> dict[str, Paths]:
    """Return by order the corrected paths [T, horizon] of the validation and test days of a
    horizon, NaN on all other days and where the context or its covariates are not known.

    zero_shot: the paths of the representation `returns` at this context, of `horizon` steps or
    more.
    """
    columns, returns = _columns(problem), problem.bars.returns
    days = scored_days(problem.folds[horizon])
    days = days[days >= context + horizon - 1]
    expected = np.concatenate(
        [[np.nan], zero_shot.mean[:-1, 0]]
    )  # of each day, at the close before
    _, correction = _ridge(returns - expected, columns, days, context, horizon)
    rest, predicted = _ridge(returns, columns, days, context, horizon)
    ahead = Paths(zero_shot.mean[days, :horizon], zero_shot.deciles[days, :horizon])
    return {
        MODEL_FIRST: _moved(ahead, correction, days, len(returns)),
        RIDGE_FIRST: _moved(_paths_after(rest, forecaster, horizon), predicted, days, len(returns)),
    }


def _columns(problem: Problem) -> Floats:
    """The covariates [T, F], each gap filled with the value before it."""
    names = (*COVARIATES, *problem.bars.covariates)
    values = np.stack([problem.feature(name) for name in names], axis=1)
    last = np.maximum.accumulate(
        np.where(np.isnan(values), 0, np.arange(len(values))[:, None]), axis=0
    )
    return np.take_along_axis(values, last, axis=0)


def _ridge(
    series: Floats, columns: Floats, days: Days, context: int, lag: int
) -> tuple[Floats, Floats]:
    """Regress the `context` values of a series [T] up to each day on columns [T, F] of `lag` days
    before; return what is left of them [N, context] and the prediction of the next values [N, lag].

    The coefficients are (Z'Z / n + PENALTY)^-1 Z'y / n for columns Z that are standardised within
    the window and a centred y; the intercept is not penalised. A column that is constant in the
    window is left out. NaN where a value is missing.
    """
    rest = np.full((len(days), context), np.nan)
    ahead = np.full((len(days), lag), np.nan)
    for start in range(0, len(days), DAYS_AT_ONCE):
        part = slice(start, start + DAYS_AT_ONCE)
        steps = days[part, None] + np.arange(1 - context, 1)  # [N, context]
        y, x = series[steps], columns[steps - lag]
        new = columns[days[part, None] + np.arange(1 - lag, 1)]  # [N, lag, F]
        centre, size = x.mean(axis=1, keepdims=True), x.std(axis=1, keepdims=True)
        size = np.where(size > 1e-12 * (np.abs(centre) + 1e-300), size, np.inf)
        x, new = (x - centre) / size, (new - centre) / size
        level = y.mean(axis=1, keepdims=True)
        gram = x.swapaxes(1, 2) @ x / context + PENALTY * np.eye(x.shape[2])
        slopes = np.linalg.solve(gram, x.swapaxes(1, 2) @ (y - level)[..., None] / context)
        rest[part] = y - level - (x @ slopes)[..., 0]
        ahead[part] = level + (new @ slopes)[..., 0]
    return rest, ahead


def _paths_after(windows: Floats, forecaster: GridForecaster, horizon: int) -> Paths:
    """The model's paths [N, horizon] after windows [N, L] of daily values, each a series of its
    own.
    """
    context = windows.shape[1]
    grid = forecaster.forecast_grid(
        panel_of(windows),
        np.array([context - 1]),
        [ForecastConfig(context_len=context)],
        horizon,
    )
    return Paths.of_daily_returns(grid[:, 0, 0].astype(np.float64))


def _moved(paths: Paths, correction: Floats, days: Days, n_days: int) -> Paths:
    """Paths [N, H] of some days plus corrections of each day's return [N, H], as [T, H]."""
    change = correction.cumsum(axis=1)
    whole = Paths(
        np.full((n_days, change.shape[1]), np.nan),
        np.full((n_days, change.shape[1], paths.deciles.shape[2]), np.nan),
    )
    whole.mean[days] = paths.mean + change
    whole.deciles[days] = paths.deciles + change[..., None]
    return whole
