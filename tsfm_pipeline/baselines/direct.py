"""The registry of direct baselines: every forecaster that uses no model, by name.

What belongs here: the names and factories of the baselines and of other packages' forecasters. What
does not: the baselines themselves, and those that read the model's grid.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from tsfm_pipeline import plugins
from tsfm_pipeline.baselines.arima import Arima101
from tsfm_pipeline.baselines.empirical import (
    LastDayQuantiles,
    LastValueChangeQuantiles,
    PercentileMargin,
    SameHourQuantiles,
)
from tsfm_pipeline.baselines.point import LastValue, SeasonalNaive
from tsfm_pipeline.baselines.protocol import Forecaster
from tsfm_pipeline.baselines.smoothing import Ewma, LocalLevelKalman, RollingQuantile
from tsfm_pipeline.evaluation.methods import BLOCK_CONSTANTS, METHODS

FitEnd = int | npt.NDArray[np.integer]
Make = Callable[[FitEnd], Forecaster]

DIRECT_BASELINES: Mapping[str, Make] = {
    LastValue.name: lambda fit_end: LastValue(),
    SeasonalNaive.name: lambda fit_end: SeasonalNaive(),
    LastValueChangeQuantiles.name: lambda fit_end: LastValueChangeQuantiles(),
    Arima101.name: lambda fit_end: Arima101(fit_end),
    LastDayQuantiles.name: lambda fit_end: LastDayQuantiles(),
    SameHourQuantiles.name: lambda fit_end: SameHourQuantiles(),
    PercentileMargin.name: lambda fit_end: PercentileMargin(),
    Ewma.name: lambda fit_end: Ewma(),
    LocalLevelKalman.name: lambda fit_end: LocalLevelKalman(),
    RollingQuantile.name: lambda fit_end: RollingQuantile(),
}
"""Name -> factory. A factory takes `fit_end`, the first step of the test period (one for all, or
one per series [S]); only fitted baselines use it.
"""


def direct_forecasters() -> dict[str, Make]:
    """Return the direct baselines and, after them, the forecasters of other packages, by name.

    Raises `plugins.PluginError` for a forecaster that cannot be used, and for one whose name an
    existing method has.
    """
    taken = {*METHODS, *BLOCK_CONSTANTS, *DIRECT_BASELINES}
    return {**DIRECT_BASELINES, **plugins.found(plugins.FORECASTERS, taken)}


def plugin_forecasters() -> tuple[tuple[str, str, str], ...]:
    """Return name, distribution and version of every forecaster of another package."""
    installed = plugins.installed(plugins.FORECASTERS)
    return tuple((plugin.name, plugin.distribution, plugin.version) for plugin in installed)
