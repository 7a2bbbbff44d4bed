"""Point baselines: one value per step, repeated for every decile.

What belongs here: last value and seasonal naive (Hyndman & Athanasopoulos, Forecasting: Principles
and Practice, 3rd ed., section 5.2). What does not: baselines that estimate a spread (`empirical`,
`arima`).
"""

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from tsfm_pipeline.baselines.protocol import DirectBaseline, FloatArray
from tsfm_pipeline.evaluation.methods import LAST_VALUE, SEASONAL_NAIVE
from tsfm_pipeline.forecaster.panel import Panel


class LastValue(DirectBaseline):
    """The last value up to the origin, for every step.

    Quantile rule: degenerate, all deciles equal the point. History: one observation.
    """

    name: ClassVar[str] = LAST_VALUE

    def _deciles(self, panel: Panel, origins: npt.NDArray[np.int64], horizon: int) -> FloatArray:
        return np.take_along_axis(panel.filled, origins, axis=1)[:, :, None, None]


class SeasonalNaive(DirectBaseline):
    """The value one day before each step; beyond a day, the last day repeats.

    Quantile rule: degenerate, all deciles equal the point. History: one day since the first
    observation; a gap in it is filled with the last value before the gap. Without a season it is
    the last value.
    """

    name: ClassVar[str] = SEASONAL_NAIVE

    def _deciles(self, panel: Panel, origins: npt.NDArray[np.int64], horizon: int) -> FloatArray:
        day = self._day(panel) if panel.seasons else 1
        steps = origins[:, :, None] + 1 - day + np.arange(horizon) % day  # [S, O, H]
        series = np.arange(panel.n_series)[:, None, None]
        point = panel.filled[series, np.maximum(steps, 0)]
        return np.where(steps >= 0, point, np.float32(np.nan))[..., None]
