"""Support for other foundation models: any function that forecasts a batch of windows.

What belongs here: the grid over configurations for a model that is given as a function of windows.
What does not: the TimesFM engine with its shared passes (`engine`), and any particular model.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.forecaster.config import N_COLUMNS, ForecastConfig
from tsfm_pipeline.forecaster.panel import FloatArray, Panel, as_panel
from tsfm_pipeline.forecaster.plan import n_blocks
from tsfm_pipeline.forecaster.windows import centred_points, cut_windows, to_units

Predict = Callable[[FloatArray, int], NDArray[np.floating]]
"""(windows float32 [N, L], without gaps; number of points H) -> float [N, H, 10]: mean, then
deciles 0.1 to 0.9, non-decreasing.
"""


class WindowForecaster:
    """A forecaster for the search (`autoresearch.evidence.GridForecaster`) around any model that
    forecasts windows.

    The configuration decides what the model sees: the number of steps and points, the seasonal
    profile that is subtracted, and the scale. Each window ends at its origin, and its last value is
    subtracted. Each origin has its own window, so J validation origins cost J windows.
    """

    def __init__(self, predict: Predict) -> None:
        self.predict = predict

    def forecast_grid(
        self,
        panel: Panel | FloatArray,
        origins: NDArray[np.integer],
        configs: Sequence[ForecastConfig],
        horizon: int,
    ) -> FloatArray:
        """Return forecasts float32 [S, O, K, H, 10] after origins [O] or [S, O]; NaN where the
        history is shorter than the context.

        Raises ValueError where the model returns another shape than [N, H, 10].
        """
        return self.forecast_offsets(panel, origins, (0,), configs, horizon)

    def forecast_offsets(
        self,
        panel: Panel | FloatArray,
        origins: NDArray[np.integer],
        offsets: Sequence[int],
        configs: Sequence[ForecastConfig],
        horizon: int,
        wanted: Sequence[int] | None = None,
    ) -> FloatArray:
        """As `forecast_grid`, at each origin minus each (wanted) offset: [S, O * len(wanted), K, H,
        10], each from its own window.
        """
        panel = as_panel(panel)
        before = np.asarray(offsets)[range(len(offsets)) if wanted is None else list(wanted)]
        table = np.broadcast_to(origins, (panel.n_series, np.shape(origins)[-1]))
        ends = (table[:, :, None] - before).reshape(panel.n_series, -1)  # [S, O * W]
        grid = np.full((*ends.shape, len(configs), horizon, N_COLUMNS), np.nan, dtype=np.float32)
        for k, config in enumerate(configs):
            seen = panel.representation(config, horizon)
            if seen is None:
                continue
            begins = ends - config.context_len + 1
            series, column = np.nonzero(begins >= panel.known_from(ends) + seen.lead)
            if not len(series):
                continue
            origin = ends[series, column]
            points, level = centred_points(
                cut_windows(seen.values, series, origin, config.context_len), config.resolution
            )
            forecast = (
                self._predicted(points.astype(np.float32), n_blocks(config, horizon))
                + level[:, None, None]
            )
            grid[series, column, k] = to_units(panel, config, forecast, series, origin, horizon)
        return grid

    def _predicted(self, windows: FloatArray, n_points: int) -> NDArray[np.float64]:
        forecast = np.asarray(self.predict(windows, n_points), dtype=np.float64)
        expected = (len(windows), n_points, N_COLUMNS)
        if forecast.shape != expected:
            raise ValueError(
                f"the model returned {forecast.shape} for {len(windows)} windows; expected "
                f"{expected}: mean, then nine deciles"
            )
        return forecast
