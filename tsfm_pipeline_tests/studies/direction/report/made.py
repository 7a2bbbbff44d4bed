"""A small simulated market with scores of every family, for the tests of the report.

What belongs here: arrays whose truth is known. What does not: any expectation.
"""

from functools import cache

import numpy as np
import polars as pl

from tsfm_pipeline.studies.direction.bars import Bars, Floats
from tsfm_pipeline.studies.direction.options import LabelOptions, StatisticsOptions, StudyOptions
from tsfm_pipeline.studies.direction.problem import (
    Fold,
    Problem,
    Target,
    score_rows,
    targets,
    together,
)

N_DAYS = 2000
OPTIONS = StudyOptions(
    scorers=("base", "zero_shot", "probes", "patchtst", "fine_tuned"),
    labels=LabelOptions(horizons=(1, 5)),
    statistics=StatisticsOptions(draws=200),
)
EMBARGO = OPTIONS.splits.embargo
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
    labels = {target: _label(bars, target, sigma) for target in targets(OPTIONS)}
    known = np.append(sigma[1:], sigma[-1])
    features = np.column_stack([known, bars.returns])
    folds = {h: _folds(bars, h) for h in OPTIONS.labels.horizons}
    return Problem(bars, OPTIONS, labels, ("ewma", "last_return"), features, known, folds)


@cache
def scores() -> pl.DataFrame:
    """Scores that know tomorrow's volatility, with noise; the mean reading has it negatively."""
    made = problem()
    rng = np.random.default_rng(1)
    volatility = np.log(made.sigma)
    volatility = (volatility - volatility.mean()) / volatility.std()
    rows = []
    for target in targets(OPTIONS):
        base = np.nanmean(made.labels[target])
        knows = 0.0 if target.label == "sign" else 1.0
        for name in (*LOGITS, *READ):
            noise = rng.normal(0, 0.3 if name == "volatility_logit" else 0.8, N_DAYS)
            sign = -1.0 if name.endswith("mean") else 1.0
            values = sign * knows * volatility + noise
            chances = 1 / (1 + np.exp(-(np.log(base / (1 - base)) + knows * values)))
            rows += [
                score_rows(name, target, fold, values, chances if name in LOGITS else None)
                for fold in made.folds[target.horizon]
            ]
    return together(rows)


def sweep() -> pl.DataFrame:
    """Two blocks of years, three learning rates, of which the highest diverges."""
    rows = [
        {
            "kind": kind,
            "first_year": year,
            "last_year": year + 1,
            "learning_rate": rate,
            "loss_before": before,
            "best_loss": before * ratio,
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


def _label(bars: Bars, target: Target, sigma: Floats) -> Floats:
    label, horizon = target
    threshold = 0.5 * sigma if "scaled" in label else np.full(len(bars), 0.01)
    padded = np.full(horizon, np.nan)
    ahead = [np.append(values[horizon:], padded) for values in (bars.high, bars.low, bars.close)]
    for step in range(1, horizon):
        later = [np.append(values[step:], np.full(step, np.nan)) for values in (bars.high, bars.low)]
        ahead[0] = np.maximum(ahead[0], later[0])
        ahead[1] = np.minimum(ahead[1], later[1])
    high, low, close = ahead
    reached = {
        "touch_up": high >= (1 + threshold) * bars.close,
        "touch_down": low <= (1 - threshold) * bars.close,
        "close_up": close >= (1 + threshold) * bars.close,
        "sign": close > bars.close,
    }[label.removesuffix("_scaled")]
    return np.where(np.isnan(close), np.nan, reached)


def _folds(bars: Bars, horizon: int) -> tuple[Fold, ...]:
    days = np.arange(260, len(bars) - horizon)
    gap = horizon + EMBARGO
    folds = []
    for year in range(2004, int(bars.years[-1]) + 1):
        test = days[bars.years[days] == year]
        before = days[bars.years[days] == year - 1]
        if len(test) >= OPTIONS.splits.least_days:
            train = days[days < before[0]]
            folds.append(Fold(year, train[:-gap], before[:-gap], test))
    return tuple(folds)


