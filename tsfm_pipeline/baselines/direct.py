"""The registry of direct baselines: every forecaster that needs no model, by name.

Here: names and factories. Not here: the baselines themselves, and those that read the model's grid.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from tsfm_pipeline.baselines.arima import Arima101
from tsfm_pipeline.baselines.empirical import (
    LastDayQuantiles,
    LastValueChangeQuantiles,
    PercentileMargin,
    SameHourQuantiles,
)
from tsfm_pipeline.baselines.point import LastValue, SeasonalNaive
from tsfm_pipeline.baselines.protocol import Forecaster

FitEnd = int | npt.NDArray[np.integer]

DIRECT_BASELINES: Mapping[str, Callable[[FitEnd], Forecaster]] = {
    LastValue.name: lambda fit_end: LastValue(),
    SeasonalNaive.name: lambda fit_end: SeasonalNaive(),
    LastValueChangeQuantiles.name: lambda fit_end: LastValueChangeQuantiles(),
    Arima101.name: lambda fit_end: Arima101(fit_end),
    LastDayQuantiles.name: lambda fit_end: LastDayQuantiles(),
    SameHourQuantiles.name: lambda fit_end: SameHourQuantiles(),
    PercentileMargin.name: lambda fit_end: PercentileMargin(),
}
"""Name -> factory. A factory takes `fit_end`, the first step of the test period (one, or one per series [S]); only
fitted baselines use it."""
