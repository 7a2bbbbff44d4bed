"""The protocol of every forecaster, and the rules that all direct baselines share.

What belongs here: the `Forecaster` protocol, and `DirectBaseline`, which checks the arguments and
completes the forecasts (bounds, order, availability). What does not: the forecast of any single
baseline.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from tsfm_pipeline.forecaster.config import QUANTILE_LEVELS
from tsfm_pipeline.forecaster.panel import Panel

SEASONLESS_DAY = 256
"""Steps over which empirical baselines look back, instead of a day, where there is no season."""
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.integer]


class Forecaster(Protocol):
    """Anything that turns history up to an origin into deciles of the steps after it."""

    @property
    def name(self) -> str:
        """The method's name in the score tables."""
        ...

    def forecast(self, panel: Panel, origins: IntArray, horizon: int) -> FloatArray:
        """Return deciles [S, O, H, 9] of the `horizon` steps after each origin [S, O].

        Deciles never decrease and lie within the panel's bounds. Only values up to the origin are
        used. A request whose history is too short is NaN throughout.
        """
        ...


class DirectBaseline(ABC):
    """A forecaster that reads only the panel. Subclasses define a name and `_deciles`.

    All subclasses share this: origins int [S, O] are indices of the last observed step, and the
    output is float32 [S, O, H, 9], clipped to the panel's bounds. Where one step of a request's
    horizon has no forecast, all its steps are NaN. The first season of the panel is the day; in a
    panel without seasons, `SEASONLESS_DAY` steps stand for it.

    Raises ValueError for origins of another shape or outside of the panel, and for a horizon below
    1.
    """

    name: ClassVar[str]

    def forecast(self, panel: Panel, origins: IntArray, horizon: int) -> FloatArray:
        """Return deciles [S, O, H, 9] of the `horizon` steps after each origin [S, O]."""
        origins = np.asarray(origins)
        if (
            origins.ndim != 2
            or origins.shape[0] != panel.n_series
            or not np.issubdtype(origins.dtype, np.integer)
        ):
            raise ValueError(
                f"{self.name}: origins are {origins.dtype} {origins.shape}; allowed: integers [S, "
                f"O] with S = {panel.n_series}"
            )
        if origins.size and not (origins.min() >= 0 and origins.max() < panel.n_steps):
            raise ValueError(
                f"{self.name}: origins span {origins.min()} to {origins.max()}; allowed: 0 to "
                f"{panel.n_steps - 1}, the panel's steps"
            )
        if horizon < 1:
            raise ValueError(f"{self.name}: horizon is {horizon}; allowed: 1 step or more")
        deciles = np.empty((*origins.shape, horizon, len(QUANTILE_LEVELS)), dtype=np.float32)
        deciles[...] = self._deciles(panel, origins.astype(np.int64), horizon)
        deciles[np.isnan(deciles).any(axis=(2, 3))] = np.nan
        deciles = panel.limits.clip(deciles)
        # Interpolation rounds, so neighbouring deciles may cross in the last bit.
        return np.maximum.accumulate(deciles, axis=-1, out=deciles)

    @abstractmethod
    def _deciles(self, panel: Panel, origins: npt.NDArray[np.int64], horizon: int) -> FloatArray:
        """Return deciles, broadcastable to [S, O, H, 9]; NaN where the history is too short."""

    def _day(self, panel: Panel) -> int:
        """Return the steps of a day: the panel's first season, or `SEASONLESS_DAY`."""
        return panel.seasons[0] if panel.seasons else SEASONLESS_DAY
