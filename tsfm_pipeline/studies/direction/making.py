"""The makers of the study's tables.

What belongs here: one function per table, which calls the function that does the work. What does
not: that work, and which tables there are (`tables`).
"""

import json
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from tsfm_pipeline.catalogue.scopes import schema_of
from tsfm_pipeline.studies.direction.evaluation import evaluate
from tsfm_pipeline.studies.direction.labels import forward_returns
from tsfm_pipeline.studies.direction.leakage import feature_leakage
from tsfm_pipeline.studies.direction.options import LABELS, Group
from tsfm_pipeline.studies.direction.problem import Target, together
from tsfm_pipeline.studies.direction.quality import problems_of, require_usable
from tsfm_pipeline.studies.direction.scope import SCOPE, Market, as_flags
from tsfm_pipeline.studies.direction.sources import read_bars
from tsfm_pipeline.studies.direction.tables import CHECKED, EVALUATED, FORECASTS, RUNS, TABLES

if TYPE_CHECKING:
    from tsfm_pipeline.forecaster.engine import FrozenForecaster


def market_prices(market: Market) -> pl.DataFrame:
    """Return the prices of the market's source."""
    bars = read_bars(market.spec)
    require_usable(problems_of(bars, market.spec), market.spec)
    prices = {name: getattr(bars, name) for name in ("open", "high", "low", "close", "volume")}
    covariates = {f"covariate_{name}": values for name, values in bars.covariates.items()}
    given = {f"given_{name}": values for name, values in bars.given.items()}
    days = np.arange(len(bars), dtype=np.int32)
    return pl.DataFrame({"day": days, "date": bars.dates, **prices, **covariates, **given})


def market_labels(market: Market) -> pl.DataFrame:
    """Return every label of every day, by horizon."""
    bars, labels = market.bars, market.problem.labels
    frames = []
    for horizon in market.spec.study.labels.horizons:
        flags: dict[str, pl.Series] = {
            name: as_flags(labels[Target(name, horizon)]) for name in LABELS
        }
        frames.append(
            pl.DataFrame(
                {
                    "day": np.arange(len(bars), dtype=np.int32),
                    "horizon": np.full(len(bars), horizon, dtype=np.int32),
                    **flags,
                    "forward_return": forward_returns(bars, horizon),
                }
            )
        )
    return pl.concat(frames)


def market_features(market: Market) -> pl.DataFrame:
    """Return the features of every day."""
    problem = market.problem
    named = dict(zip(problem.feature_names, problem.features.T, strict=True))
    days = np.arange(len(problem.bars), dtype=np.int32)
    return pl.DataFrame({"day": days, **named, "sigma": problem.sigma})


def features_leakage(market: Market) -> float:
    """Return how much the features of a day change when all later days are replaced by noise."""
    study = market.spec.study
    return feature_leakage(market.bars, study, study.statistics.seed)


def base_scores(market: Market) -> pl.DataFrame:
    """Return the scores of untrained indicators and of what is trained on them."""
    from tsfm_pipeline.studies.direction.scorers.base import base_scores

    return base_scores(market.problem)


def zero_shot_forecasts(market: Market, forecaster: "FrozenForecaster") -> pl.DataFrame:
    """Return the frozen model's forecasts from every day."""
    from tsfm_pipeline.studies.direction.scorers.zero_shot import zero_shot_forecasts

    return zero_shot_forecasts(market.problem, forecaster)


def zero_shot_scores(market: Market) -> pl.DataFrame:
    """Return these forecasts read as scores."""
    from tsfm_pipeline.studies.direction.scorers.zero_shot import zero_shot_scores

    if not _takes_part(market, "zero_shot"):
        return together([])
    return zero_shot_scores(market.problem, market.tables.read(FORECASTS))


def covariate_scores(market: Market, forecaster: "FrozenForecaster") -> pl.DataFrame:
    """Return the scores of forecasts that covariates correct."""
    from tsfm_pipeline.studies.direction.scorers.covariates import covariate_scores

    if not _takes_part(market, "covariates"):
        return together([])
    return covariate_scores(market.problem, market.tables.read(FORECASTS), forecaster)


def probe_scores(market: Market, forecaster: "FrozenForecaster") -> pl.DataFrame:
    """Return the scores of probes on hidden states."""
    from tsfm_pipeline.studies.direction.scorers.probes import probe_scores

    if not _takes_part(market, "probes"):
        return together([])
    return probe_scores(market.problem, forecaster)


def patchtst_scores(market: Market) -> pl.DataFrame:
    """Return the scores of the transformers that are trained for this task."""
    from tsfm_pipeline.studies.direction.scorers.patchtst import patchtst_scores

    if not _takes_part(market, "patchtst"):
        return together([])
    return patchtst_scores(market.problem)


def fine_tuning_runs(market: Market) -> pl.DataFrame:
    """Return every run of further training with the scores that came of it."""
    from tsfm_pipeline.studies.direction.scorers.fine_tuned import fine_tuning_runs
    from tsfm_pipeline.studies.direction.tuning_runs import RUN_SCHEMA

    if not _takes_part(market, "fine_tuned"):
        return pl.DataFrame(schema=RUN_SCHEMA)
    return fine_tuning_runs(market.problem, market.settings.checkpoint, market.settings.device)


def finetuned_scores(market: Market) -> pl.DataFrame:
    """Return the scores of the model after further training."""
    from tsfm_pipeline.studies.direction.scorers.fine_tuned import fine_tuned_scores

    return fine_tuned_scores(market.tables.read(RUNS))


def direction_scores(market: Market) -> pl.DataFrame:
    """Return how good every scorer is."""
    return evaluate(market.problem, market.scores())


def direction_checks(market: Market, forecaster: "FrozenForecaster") -> pl.DataFrame:
    """Return what the checks of forecasts found."""
    from tsfm_pipeline.studies.direction.market_checks import checks_of

    forecasts, evaluated = market.tables.read(FORECASTS), market.tables.read(EVALUATED)
    found = checks_of(market.problem, forecasts, market.scores(), evaluated, forecaster)
    rows = [
        {
            "name": check.name,
            "subject": check.subject,
            "passed": check.passed,
            "sentence": check.sentence,
            "figures": json.dumps(check.figures, sort_keys=True),
        }
        for check in found
    ]
    return pl.DataFrame(rows, schema=schema_of(SCOPE, market, TABLES[CHECKED]))


def _takes_part(market: Market, group: Group) -> bool:
    return group in market.spec.study.scorers
