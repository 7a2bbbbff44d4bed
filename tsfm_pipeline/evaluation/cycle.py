"""Which series a cycle of forecasts is for, where there are more than a cycle can hold.

What belongs here: ranking series by what depends on them. What does not: forecasting them.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

SIZE = 200
"""Series of one cycle."""
VOLUME_WEIGHT, INTEREST_WEIGHT = 0.6, 0.4


def most_important(
    volume: ArrayLike, open_interest: ArrayLike, size: int = SIZE
) -> NDArray[np.int64]:
    """Return the positions of the `size` most important of N series, most important first.

    volume, open_interest [N], NaN where unknown, which counts as none at all. The rank is .6 z of
    volume + .4 z of open interest, z over the N series; of equals, the earlier one comes first.
    Raises ValueError for arrays of different lengths, and a size below 1.
    """
    figures = [
        np.nan_to_num(np.asarray(part, dtype=np.float64)) for part in (volume, open_interest)
    ]
    if figures[0].ndim != 1 or figures[0].shape != figures[1].shape:
        raise ValueError(
            f"volume has shape {figures[0].shape}, open interest {figures[1].shape}; expected one "
            "value per series in both"
        )
    if size < 1:
        raise ValueError(f"size is {size}; a cycle has at least one series")
    score = VOLUME_WEIGHT * _z(figures[0]) + INTEREST_WEIGHT * _z(figures[1])
    return np.argsort(-score, kind="stable")[:size]


def _z(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return standard scores; 0 where all values are equal."""
    if not len(values):
        return values
    spread = values.std()
    return (values - values.mean()) / spread if spread > 0 else np.zeros_like(values)
