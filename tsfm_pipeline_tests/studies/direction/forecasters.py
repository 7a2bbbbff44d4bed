"""Forecasters for tests: the bundled model, and one that is simple enough to compute by hand.

What belongs here: making forecasters and small problems for them. What does not: tests.
"""

from dataclasses import replace
from functools import cache

import numpy as np
from scipy.special import ndtri

from tsfm_pipeline.evaluation.protocol import DECILES
from tsfm_pipeline.forecaster import load_forecaster
from tsfm_pipeline.forecaster.engine import FrozenForecaster
from tsfm_pipeline.forecaster.other_models import WindowForecaster
from tsfm_pipeline.studies.direction.bars import Bars
from tsfm_pipeline.studies.direction.options import (
    LabelOptions,
    SplitOptions,
    StudyOptions,
    ZeroShotOptions,
)

SHORT = StudyOptions(
    labels=LabelOptions(horizons=(1, 3)),
    splits=SplitOptions(training_years=2, last_years=1),
    zero_shot=ZeroShotOptions(contexts=(80,)),
)


@cache
def bundled() -> FrozenForecaster:
    return load_forecaster("bundled", device="cpu")


def of_normal_moves() -> WindowForecaster:
    """Forecasts the window's mean, with normal deciles of its standard deviation, at every step."""

    def predict(windows: np.ndarray, n_points: int) -> np.ndarray:
        columns = np.concatenate([[0.0], ndtri(np.array(DECILES))])
        values = windows.mean(axis=1)[:, None] + windows.std(axis=1)[:, None] * columns
        return np.repeat(values[:, None], n_points, axis=1)

    return WindowForecaster(predict)


def with_signal(bars: Bars, correlation: float, seed: int) -> Bars:
    """Bars whose covariate `signal` has that correlation with the return of the next day."""
    noise = np.random.default_rng(seed).normal(size=len(bars))
    ahead = np.concatenate([bars.returns[1:], [0.0]])
    signal = correlation * ahead / ahead.std() + np.sqrt(1 - correlation**2) * noise
    return replace(bars, covariates={"signal": signal})
