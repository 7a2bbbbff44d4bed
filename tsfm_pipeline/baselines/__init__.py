"""Forecasters to compare the search with: one protocol, and the baselines that use no model.

What belongs here: the `Forecaster` protocol and the direct baselines (point, empirical, ARIMA,
smoothing). What does not: anything that reads the model's grid to choose a configuration
(`autoresearch`), and scoring (`evaluation`). Importing this package does not import statsmodels.
"""

from tsfm_pipeline.baselines.direct import DIRECT_BASELINES, direct_forecasters, plugin_forecasters
from tsfm_pipeline.baselines.protocol import Forecaster

__all__ = ["DIRECT_BASELINES", "Forecaster", "direct_forecasters", "plugin_forecasters"]
