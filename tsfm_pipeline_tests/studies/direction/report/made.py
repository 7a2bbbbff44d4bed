"""A small simulated market with scores of every family, for the tests of the report.

What belongs here: arrays whose truth is known. What does not: any expectation.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import polars as pl

from tsfm_pipeline.studies.direction.alignment import align
from tsfm_pipeline.studies.direction.auc import auc
from tsfm_pipeline.studies.direction.bars import Bars
from tsfm_pipeline.studies.direction.checks import Check
from tsfm_pipeline.studies.direction.evaluation_columns import EVALUATION_SCHEMA
from tsfm_pipeline.studies.direction.options import (
    LabelOptions,
    SplitOptions,
    StatisticsOptions,
    StudyOptions,
)
from tsfm_pipeline.studies.direction.problem import SCORE_SCHEMA, TEST, VALIDATION, Problem, targets
from tsfm_pipeline.studies.direction.problems import build_problem
from tsfm_pipeline.studies.direction.report.numbers import Evidence
from tsfm_pipeline.studies.direction.verdict import Verdict

N_DAYS = 1600
HALF = 0.03
"""Half of every interval."""
NOT_FOUND = Verdict(
    "volatility only",
    "volatility only",
    (
        "On touch_up, volatility_logit (1 day ahead) has an AUC of 0.666 [0.572, 0.730].",
        "No scorer shows a direction: the highest is 0.535 (fine_tuned_labels (5 days ahead)).",
    ),
    (),
)
OPTIONS = StudyOptions(
    scorers=("base", "zero_shot", "probes", "patchtst", "fine_tuned"),
    labels=LabelOptions(horizons=(1, 5)),
    splits=SplitOptions(training_years=3),
    statistics=StatisticsOptions(draws=100),
)
LOGITS = (
    "volatility_logit",
    "garch",
    "indicator_logit",
    "boosted",
    "patchtst",
    "patchtst_revin",
    "zero_shot_returns_80_probability",
    "fine_tuned_forecast_probability",
    "fine_tuned_labels",
)
"""Scorers that give a probability."""
READ = (
    "untrained_rsi",
    "untrained_last_return",
    "untrained_drawdown",
    "zero_shot_returns_80_spread",
    "zero_shot_log_close_256_spread",
    "zero_shot_returns_80_mean",
    "probe_last_80",
)


@cache
def problem() -> Problem:
    """Days of persistent volatility without direction, and labels by their definitions."""
    rng = np.random.default_rng(0)
    log_sigma = np.zeros(N_DAYS)
    for t in range(1, N_DAYS):
        log_sigma[t] = 0.97 * log_sigma[t - 1] + rng.normal(0, 0.12)
    sigma = 0.008 * np.exp(log_sigma)
    steps = rng.normal(0, 1, (N_DAYS, 8)) / np.sqrt(8) * sigma[:, None]
    paths = np.cumsum(steps, axis=1)
    start = np.concatenate([[0.0], np.cumsum(paths[:-1, -1])])
    close, high, low = (
        100 * np.exp(start + end) for end in (paths[:, -1], paths.max(1), paths.min(1))
    )
    open_ = 100 * np.exp(start)
    first = np.datetime64("2001-01-01")
    dates = first + np.arange(N_DAYS) * 7 // 5
    bars = Bars(dates, open_, np.maximum(high, open_), np.minimum(low, open_), close, open_)
    return build_problem(bars, OPTIONS)


@cache
def scores() -> pl.DataFrame:
    """Scores that know the day's volatility, with noise; the mean reading has it negatively."""
    made = problem()
    rng = np.random.default_rng(1)
    log_sigma = np.log(np.nan_to_num(made.sigma, nan=0.01))
    volatility = (log_sigma - log_sigma.mean()) / log_sigma.std()
    names = (*LOGITS, *READ)
    reading = np.array([-1.0 if name.endswith("mean") else 1.0 for name in names])
    noise = np.array([0.3 if name == "volatility_logit" else 0.8 for name in names])
    gives = np.array([name in LOGITS for name in names])
    rows = []
    for target in targets(OPTIONS):
        base = np.nanmean(made.labels[target])
        knows = 0.0 if target.label == "sign" else 1.0
        values = noise[:, None] * rng.normal(0, 1, (len(names), N_DAYS))
        values += knows * reading[:, None] * volatility
        chances = 1 / (1 + np.exp(-np.log(base / (1 - base)) - knows * values))
        chances[~gives] = np.nan
        for fold in made.folds[target.horizon]:
            for part, days in ((VALIDATION, fold.validation), (TEST, fold.test)):
                rows.append(
                    pl.DataFrame(
                        {
                            "scorer": np.repeat(names, len(days)),
                            "label": target.label,
                            "horizon": target.horizon,
                            "fold": fold.year,
                            "part": part,
                            "day": np.tile(days, len(names)),
                            "score": values[:, days].ravel(),
                            "probability": chances[:, days].ravel(),
                        },
                        strict=False,
                    ).cast(SCORE_SCHEMA)
                )
    return pl.concat(rows).with_columns(pl.col("probability").fill_nan(None))


@cache
def evaluated() -> pl.DataFrame:
    """Rows of the evaluation with the true AUCs, and intervals of a fixed width in place of the
    bootstrap's, which takes many seconds.
    """
    rows = []
    for target in targets(OPTIONS):
        aligned = align(problem(), scores(), target)
        test = aligned.test
        labels = problem().labels[target][test.days]
        areas = {
            name: auc(values, labels, test.folds)
            for name, values in zip(aligned.scorers, test.scores, strict=True)
        }
        for name, area in areas.items():
            figures = {
                "auc": area,
                "minus_volatility": area - areas["volatility_logit"],
                "minus_untrained": area - areas["untrained_rsi"],
                "minus_patchtst": area - areas["patchtst"],
                "auc_given_move": 0.5,
                "volatility_matched_auc": None if target.label == "sign" else 0.51,
                "up_minus_down": 0.0 if target.label.startswith("touch") else None,
            }
            row = dict.fromkeys(EVALUATION_SCHEMA) | {
                "scorer": name,
                "label": target.label,
                "horizon": target.horizon,
                "n_days": len(labels),
                "n_dropped": test.n_dropped,
                "n_positives": int(labels.sum()),
                "base_rate": float(labels.mean()),
                "block_days": 10,
                "untrained": "untrained_rsi",
                "patchtst": "patchtst",
                "brier": 0.15,
                "average_precision": 0.4,
                "pesaran_timmermann": 0.7,
                "pesaran_timmermann_bootstrap_p": 0.24,
                "n_variants": len(areas) * (2 if target.label == "sign" else 1),
                "spa_p_value": 0.3,
                "survives_stepm": False,
            }
            for column, figure in figures.items():
                if figure is not None:
                    row |= {
                        column: figure,
                        f"{column}_low": figure - HALF,
                        f"{column}_high": figure + HALF,
                    }
            rows.append(row)
    return pl.DataFrame(rows, schema=EVALUATION_SCHEMA).sort("label", "horizon", "scorer")


def evidence(verdict: Verdict | None = None, **changes: Any) -> Evidence:
    """What the report is made from, with the verdict on `evaluated` or another one."""
    green = Check("collapse", "zero_shot_returns_80_mean", True, "It varies.", {"spread": 0.02})
    red = Check("inversion", "zero_shot_returns_80_mean", False, "Wrong reading.", {"auc": 0.38})
    return replace(
        Evidence(
            market="made",
            title="<script> market made for tests",
            simulated_truth="persistent volatility, no direction",
            problem=problem(),
            evaluated=evaluated(),
            scores=scores(),
            verdict=verdict or NOT_FOUND,
            checks=(green, red),
            sweep=sweep(),
            checkpoint="bundled",
            second_market="made-too",
        ),
        **changes,
    )


def sweep() -> pl.DataFrame:
    """Two blocks of years, three learning rates, of which the highest diverges."""
    rows = [
        {
            "kind": kind,
            "first_year": year,
            "last_year": year + 1,
            "learning_rate": rate,
            "loss_before": before,
            "best_loss": before * (ratio if kind == "labels" else ratio**0.5),
            "best_step": 40,
            "last_loss": before * (1.5 if rate == 1e-3 else ratio),
            "steps": 120,
            "diverged": rate == 1e-3,
            "chosen": rate == 1e-4,
        }
        for kind, before in (("forecast", 0.31), ("labels", 0.55))
        for year in (2004, 2006)
        for rate, ratio in ((1e-6, 0.999), (1e-5, 0.995), (1e-4, 0.98), (1e-3, 1.05))
    ]
    return pl.DataFrame(rows)
