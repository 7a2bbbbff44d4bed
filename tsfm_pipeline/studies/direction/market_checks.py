"""The checks of one market: which scorers are checked, and with what.

What belongs here: bringing tables, the model and the checks together. What does not: the checks
themselves (`checks`), and the test of features for look-ahead, which their table has (`leakage`).
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl

from tsfm_pipeline.autoresearch.evidence import GridForecaster
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.studies.direction import checks
from tsfm_pipeline.studies.direction.auc import auc
from tsfm_pipeline.studies.direction.bars import Floats
from tsfm_pipeline.studies.direction.checks import Check
from tsfm_pipeline.studies.direction.leakage import shift_test
from tsfm_pipeline.studies.direction.problem import TEST, Problem, Target, test_days
from tsfm_pipeline.studies.direction.readings import Paths
from tsfm_pipeline.studies.direction.scorers.covariates import COVARIATES, ORDERS, covariate_paths
from tsfm_pipeline.studies.direction.scorers.zero_shot import paths_of, stored_paths

PLANTED = "planted"
UNTRAINED_AND_TRAINED = ("untrained_", "volatility_", "garch", "egarch", "indicator_", "all_logit")
"""Beginnings of scorers that the checks of single scorers leave out: closed formulas, and
regressions on features, which are tested for look-ahead and delay themselves. A regression may give
the last day's return a negative weight, which the check of the day would take for a delay."""


def checks_of(
    problem: Problem,
    forecasts: pl.DataFrame,
    scores: pl.DataFrame,
    evaluated: pl.DataFrame,
    forecaster: GridForecaster,
) -> list[Check]:
    """Return what the checks find on one market, at the shortest horizon and on test days.

    forecasts: `zero_shot_forecasts`. scores, evaluated: of all scorers.
    """
    horizon = min(problem.options.labels.horizons)
    touch = Target("touch_up", horizon)
    found = list(_of_scorers(problem, scores, touch))
    for representation, context, paths in paths_of(forecasts, len(problem.bars)):
        found += _of_forecasts(problem, touch, f"{representation}_{context}", paths, evaluated)
    if "covariates" in problem.options.scorers:
        found += _of_covariates(problem, horizon, forecasts, forecaster)
    return found


def _of_scorers(problem: Problem, scores: pl.DataFrame, target: Target) -> Iterator[Check]:
    """Check that scorers that are trained by steps, or are the foundation model, have not
    collapsed, and that their inputs end on their own day.
    """
    asked = scores.filter(
        pl.col("part") == TEST,
        pl.col("label") == target.label,
        pl.col("horizon") == target.horizon,
    )
    label, folds = problem.labels[target], problem.folds[target.horizon]
    for (scorer,), rows in asked.group_by("scorer", maintain_order=True):
        name = str(scorer)
        if name.startswith(UNTRAINED_AND_TRAINED):
            continue
        of_days = np.full(len(problem.bars), np.nan)
        of_days[rows["day"].to_numpy()] = rows["score"].to_numpy()
        yield checks.collapse(name, of_days[np.isfinite(of_days)])
        yield checks.own_day(name, shift_test(of_days, label, problem.bars, folds))


def _of_forecasts(
    problem: Problem, touch: Target, name: str, paths: Paths, evaluated: pl.DataFrame
) -> Iterator[Check]:
    """Check what the frozen model forecasts from one representation and context."""
    days, labels = test_days(problem.folds[touch.horizon]), problem.labels[touch]
    threshold, step = problem.options.labels.threshold, touch.horizon - 1
    mean, lowest, highest = (
        values[:, step] for values in (paths.mean, paths.deciles[..., 0], paths.deciles[..., -1])
    )
    days = days[np.isfinite(mean[days]) & np.isfinite(mean[days - 1])]
    if not len(days):
        return
    for reading, values in (("mean", mean), ("q90", highest)):
        yield checks.reachability(
            f"zero_shot_{name}_{reading}", np.expm1(values[days]), threshold, labels[days]
        )
    areas = {
        reading: _area(evaluated, f"zero_shot_{name}_{reading}", touch)
        for reading in ("mean", "spread")
    }
    yield checks.inversion(f"zero_shot_{name}_mean", areas["mean"], areas["spread"])
    if not name.startswith("returns"):  # of prices, a mean need not follow the last return
        return
    years = problem.bars.years[days]
    spread = highest - lowest
    yield checks.off_by_one(
        f"zero_shot_{name}",
        auc(spread[days], labels[days], years),
        auc(spread[days - 1], labels[days], years),
        mean[days],
        problem.bars.returns[days],
    )


def _area(evaluated: pl.DataFrame, scorer: str, target: Target) -> Estimate:
    row = evaluated.filter(
        pl.col("scorer") == scorer,
        pl.col("label") == target.label,
        pl.col("horizon") == target.horizon,
    ).select("auc", "auc_low", "auc_high")
    return Estimate(*(float("nan") if value is None else value for value in row.row(0)))


def _of_covariates(
    problem: Problem, horizon: int, forecasts: pl.DataFrame, forecaster: GridForecaster
) -> Iterator[Check]:
    """Check that covariates reach the corrected forecasts, and that a planted one is used."""
    context = min(problem.options.zero_shot.contexts)
    zero_shot = stored_paths(forecasts, len(problem.bars), "returns", context)
    days, seed = test_days(problem.folds[horizon]), problem.options.statistics.seed
    outcomes = np.append(problem.bars.returns[1:], np.nan)
    planting = _with_a_place_for_a_covariate(problem)

    def forecast(of: Problem, order: str, features: Floats) -> Floats:
        """Return the mean forecast of each test day [D], given features [T, F] or, of the planted
        covariate, [T, 1].
        """
        known = of.features[:, : of.features.shape[1] - features.shape[1]]
        given = replace(of, features=np.hstack([known, features]))
        paths = covariate_paths(given, forecaster, zero_shot, context, horizon)[order]
        return np.asarray(paths.mean[days, 0])

    def planted(order: str, covariate: Floats) -> Floats:
        """As `forecast`, for every day from the first test day on; NaN on those that are none."""
        whole = np.full(len(problem.bars) - days[0], np.nan)
        whole[days - days[0]] = forecast(planting, order, covariate)
        return whole

    for order in ORDERS:
        name = f"covariates_{order}_{context}"
        yield checks.covariate_effect(
            name, partial(forecast, problem, order), problem.features, seed
        )
        yield checks.covariate_use(name, partial(planted, order), outcomes, seed)


def _with_a_place_for_a_covariate(problem: Problem) -> Problem:
    """Return the problem with the covariates of every market and one more, at first zero."""
    names = (*COVARIATES, PLANTED)
    nothing = np.zeros(len(problem.bars))
    columns = [*(problem.feature(name) for name in COVARIATES), nothing]
    bars = replace(problem.bars, covariates={PLANTED: nothing})
    return replace(problem, bars=bars, feature_names=names, features=np.stack(columns, axis=1))
