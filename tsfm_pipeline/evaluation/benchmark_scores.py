"""MASE, CRPS and MAE as GIFT-Eval and BOOM define them, over all windows of a data set.

What belongs here: the arithmetic, in the definition of gluonts. What does not: which windows are
scored (`evaluation.public_benchmarks`), the pipeline's own losses (`evaluation.losses`).

The definitions are those of `gluonts.ev` and `gluonts.model.evaluation` (0.15) with axis=None and
mask_invalid_label=True. A missing actual value is not scored. Axes: W windows, H steps, Q deciles.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.evaluation.protocol import DECILES

Floats = NDArray[np.floating]

MEDIAN = DECILES.index(0.5)


def seasonal_error(history: Floats, season: int) -> float:
    """Return the mean absolute difference of a series [T] from itself one season earlier, over the
    pairs of which both values are known; NaN where there is no such pair.

    A season that is longer than the history counts as one step.
    """
    lag = 1 if season > len(history) else season
    differences = np.abs(history[lag:].astype(np.float64) - history[: len(history) - lag])
    known = np.isfinite(differences)
    return float(differences[known].mean()) if known.any() else math.nan


@dataclass
class Scores:
    """Sums over the windows of one data set, of one method; add windows with `add`.

    mase: the mean over all scored steps of |actual - median| / seasonal error of the window's
    history. Windows whose seasonal error is 0 or unknown do not enter it. crps: for each decile the
    sum of 2 * pinball loss over the sum of |actual|, mean over the deciles ("mean weighted sum
    quantile loss"). mae: the mean of |actual - median|. A ratio of two zeros is NaN.
    """

    n_series: int = 0
    n_windows: int = 0
    n_points: int = 0
    _scaled_error: float = 0.0
    _n_scaled: int = 0
    _error: float = 0.0
    _size: float = 0.0
    _losses: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(DECILES)))

    def add(self, actual: Floats, deciles: Floats, seasonal_errors: Floats) -> None:
        """Add the windows of one series: actual [W, H], NaN where missing, deciles [W, H, Q],
        seasonal_errors [W]. Raises ValueError for deciles that are not finite.
        """
        if not np.isfinite(deciles).all():
            raise ValueError("a forecast is not finite; every step of every window needs deciles")
        known = np.isfinite(actual)
        truth = np.where(known, actual, 0.0).astype(np.float64)[..., None]
        error = truth - deciles.astype(np.float64)  # [W, H, Q]
        levels = np.array(DECILES)
        loss = 2 * np.maximum(levels * error, (levels - 1) * error)
        absolute = np.abs(error[..., MEDIAN])
        scaled = known & (np.nan_to_num(seasonal_errors) > 0)[:, None]
        self.n_series += 1
        self.n_windows += len(actual)
        self.n_points += int(known.sum())
        self._losses = self._losses + loss[known].sum(axis=0)
        self._size += float(np.abs(truth).sum())
        self._error += float(absolute[known].sum())
        by_season = absolute / np.where(scaled, seasonal_errors[:, None], 1.0)
        self._scaled_error += float(by_season[scaled].sum())
        self._n_scaled += int(scaled.sum())

    @property
    def mase(self) -> float:
        """Return the mean absolute scaled error of the median; NaN where no window has a scale."""
        return self._scaled_error / self._n_scaled if self._n_scaled else math.nan

    @property
    def crps(self) -> float:
        """Return the mean weighted sum quantile loss; NaN or inf where all actual values are 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return float((self._losses / np.float64(self._size)).mean())

    @property
    def mae(self) -> float:
        """Return the mean absolute error of the median, in the data set's units."""
        return self._error / self.n_points if self.n_points else math.nan
