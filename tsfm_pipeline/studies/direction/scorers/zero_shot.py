"""Zero-shot scores: the frozen model forecasts a market that it was not trained on.

What belongs here: what the model is given (`REPRESENTATIONS`), the table of its forecasts, and the
scores that are read from it. What does not: the readings (`readings`), covariates (`covariates`)
and hidden states (`probes`). TFM-01 of the earlier work is context 80 at horizon 1.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from tsfm_pipeline.autoresearch.evidence import GridForecaster
from tsfm_pipeline.evaluation.protocol import DECILES
from tsfm_pipeline.forecaster import ForecastConfig, Panel
from tsfm_pipeline.studies.direction.bars import Bars, Floats
from tsfm_pipeline.studies.direction.problem import Problem, targets, together
from tsfm_pipeline.studies.direction.readings import Paths, reading_scores

SEASONS = (5,)
"""Trading days of a week, for a forecaster that looks at the panel's season."""
LEAST_SHARE = 1e-3
"""Of the close; forecasts of prices are kept above it, because a price of 0 has no logarithm."""


@dataclass(frozen=True)
class Representation:
    """How prices are given to the model, and how its forecasts become moves.

    series: bars -> float64 [T], NaN where not known. lower: the panel's lower bound. paths:
    (forecasts [T, H, 10] in the units of the series, series [T]) -> moves.
    """

    series: Callable[[Bars], Floats]
    lower: float | None
    paths: Callable[[Floats, Floats], Paths]


def _moves_of_logs(grid: Floats, series: Floats) -> Paths:
    moves = grid - series[:, None, None]
    return Paths(moves[..., 0], moves[..., 1:])


def _moves_of_prices(grid: Floats, series: Floats) -> Paths:
    """The mean's logarithm is a little more than the mean of the logarithm."""
    moves = np.log(np.maximum(grid / series[:, None, None], LEAST_SHARE))
    return Paths(moves[..., 0], moves[..., 1:])


REPRESENTATIONS: dict[str, Representation] = {
    "returns": Representation(
        lambda bars: bars.returns, None, lambda grid, _: Paths.of_daily_returns(grid)
    ),
    # From the first close on, so that the model's single precision is spent on changes.
    "log_close": Representation(
        lambda bars: np.log(bars.close / bars.close[0]), None, _moves_of_logs
    ),
    "close": Representation(lambda bars: bars.close, 0.0, _moves_of_prices),
}
"""By name: log returns from close to close, the logarithm of the close, and the close itself."""

DECILE_COLUMNS = tuple(f"q{round(100 * level)}" for level in DECILES)
FORECAST_SCHEMA = pl.Schema(
    {
        "representation": pl.String,
        "context": pl.Int32,
        "day": pl.Int32,
        "step": pl.Int32,
        "mean": pl.Float64,
        **dict.fromkeys(DECILE_COLUMNS, pl.Float64),
    }
)
"""day: number of the day in the market, at whose close the forecast is made. step: trading days
after it, from 1. mean, q10 to q90: of the log return from the close of the day to that of the
step."""


def panel_of(series: Floats, lower: float | None = None) -> Panel:
    """Return series, float64 [T] or [S, T], as the forecaster's input."""
    return Panel(np.atleast_2d(series).astype(np.float32), seasons=SEASONS, lower=lower)


def market_paths(
    bars: Bars,
    forecaster: GridForecaster,
    representation: str,
    contexts: tuple[int, ...],
    n_steps: int,
) -> list[Paths]:
    """Return the paths [T, n_steps] at every day of a market, for each context, of one call of the
    forecaster. NaN on the days that have less history than a context.
    """
    given = REPRESENTATIONS[representation]
    series = given.series(bars)
    grid = forecaster.forecast_grid(
        panel_of(series, given.lower),
        np.arange(len(bars)),
        [ForecastConfig(context_len=context) for context in contexts],
        n_steps,
    )[0].astype(np.float64)  # [T, K, H, 10]
    return [given.paths(grid[:, k], series) for k in range(len(contexts))]


def zero_shot_forecasts(problem: Problem, forecaster: GridForecaster) -> pl.DataFrame:
    """Return rows of `FORECAST_SCHEMA` of every representation, context, day and step up to the
    longest horizon, in this order. Days without enough history have none.
    """
    contexts, n_steps = problem.options.zero_shot.contexts, max(problem.options.labels.horizons)
    return pl.concat(
        [
            _forecast_rows(representation, context, paths)
            for representation in REPRESENTATIONS
            for context, paths in zip(
                contexts,
                market_paths(problem.bars, forecaster, representation, contexts, n_steps),
                strict=True,
            )
        ]
    )


def zero_shot_scores(problem: Problem, forecasts: pl.DataFrame) -> pl.DataFrame:
    """Return rows of `problem.SCORE_SCHEMA` of the scorers
    `zero_shot_<representation>_<context>_<reading>` at every target of the study.

    forecasts: `zero_shot_forecasts` of the same problem. Nothing is fitted.
    """
    return together(
        [
            reading_scores(f"zero_shot_{representation}_{context}", paths, problem, target)
            for representation, context, paths in paths_of(forecasts, len(problem.bars))
            for target in targets(problem.options)
        ]
    )


def paths_of(forecasts: pl.DataFrame, n_days: int) -> Iterator[tuple[str, int, Paths]]:
    """Yield representation, context and paths [n_days, H] of the rows of `FORECAST_SCHEMA`."""
    for rows in forecasts.partition_by("representation", "context", maintain_order=True):
        days, steps = rows["day"].to_numpy(), rows["step"].to_numpy()
        grid = np.full((n_days, int(steps.max()), 1 + len(DECILES)), np.nan)
        grid[days, steps - 1] = rows.select("mean", *DECILE_COLUMNS).to_numpy()
        paths = Paths(grid[..., 0], grid[..., 1:])
        yield rows["representation"][0], rows["context"][0], paths


def stored_paths(forecasts: pl.DataFrame, n_days: int, representation: str, context: int) -> Paths:
    """Return the paths [n_days, H] of one representation and context; as `paths_of`."""
    rows = forecasts.filter(representation=representation, context=context)
    ((_, _, paths),) = paths_of(rows, n_days)
    return paths


def _forecast_rows(representation: str, context: int, paths: Paths) -> pl.DataFrame:
    days = np.flatnonzero(np.isfinite(paths.mean).all(axis=1))
    values = np.concatenate([paths.mean[days, :, None], paths.deciles[days]], axis=2)
    return pl.DataFrame(
        {
            "representation": representation,
            "context": context,
            "day": np.repeat(days, paths.n_steps),
            "step": np.tile(np.arange(1, paths.n_steps + 1), len(days)),
            **dict(zip(("mean", *DECILE_COLUMNS), values.reshape(-1, 10).T, strict=True)),
        },
        schema=FORECAST_SCHEMA,
    )
