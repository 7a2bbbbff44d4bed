"""The seasonal naive with Gaussian deciles, the reference of GIFT-Eval's and BOOM's leaderboards.

What belongs here: that one baseline. What does not: the pipeline's own seasonal naive, which has no
spread (`point`), and the scores of the benchmarks (`evaluation.benchmark_scores`).
"""

from statistics import NormalDist
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from tsfm_pipeline.baselines.protocol import FloatArray, IntArray
from tsfm_pipeline.forecaster.config import QUANTILE_LEVELS
from tsfm_pipeline.forecaster.panel import Panel


class GaussianSeasonalNaive:
    """The value one season before each step; beyond a season, the last season repeats.

    Quantile rule: Gaussian, with variance s^2 (k + 1), where s^2 is the mean squared difference of
    the history from itself one season earlier and k the number of whole seasons before the step
    (Hyndman & Athanasopoulos, Forecasting: Principles and Practice, 3rd ed., section 5.5; as
    `statsforecast`'s SeasonalNaive). Missing steps repeat the last value before them, and at the
    beginning the first value after them. A history that is shorter than a season, for which the
    leaderboards' code has no forecast, is forecast at its last value; one without any value at 0.

    season: in steps. most_history: only so many steps up to the origin are used; None uses all.
    """

    name: ClassVar[str] = "seasonal_naive_gaussian"

    def __init__(self, season: int, most_history: int | None = None) -> None:
        self.season = season
        self.most_history = most_history

    def forecast(self, panel: Panel, origins: IntArray, horizon: int) -> FloatArray:
        """Return deciles [S, O, H, 9] of the `horizon` steps after each origin [S, O]."""
        normal = np.array([NormalDist().inv_cdf(level) for level in QUANTILE_LEVELS])
        deciles = np.empty((*origins.shape, horizon, len(QUANTILE_LEVELS)), dtype=np.float32)
        for series, values in enumerate(panel.values):
            for request, origin in enumerate(origins[series]):
                history = values[: origin + 1][-(self.most_history or 0) :]
                mean, spread = self._mean_and_spread(_without_gaps(history), horizon)
                deciles[series, request] = mean[:, None] + spread[:, None] * normal
        return deciles

    def _mean_and_spread(
        self, history: npt.NDArray[np.float64], horizon: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        season = self.season if self.season <= len(history) else 1
        ahead = np.arange(horizon)
        mean = history[len(history) - season + ahead % season]
        residuals = history[season:] - history[: len(history) - season]
        width = float(np.sqrt(np.mean(residuals**2))) if len(residuals) else 0.0
        return mean, width * np.sqrt(ahead // season + 1)


def _without_gaps(history: FloatArray) -> npt.NDArray[np.float64]:
    """Return a history [T] with each missing step replaced by the last value before it, else by the
    first one after it, else by 0.
    """
    known = np.flatnonzero(~np.isnan(history))
    if not len(known):
        return np.zeros(len(history))
    last = np.maximum(np.searchsorted(known, np.arange(len(history)), side="right") - 1, 0)
    return history[known[last]].astype(np.float64)
