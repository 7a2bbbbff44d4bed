"""Conversion of telemetry to the values that the model sees, and of its points back to steps in the
units of the telemetry.

What belongs here: cutting windows out of a panel, averaging them to a coarser resolution, and
converting a coarse forecast to single steps with their spread restored. What does not: the choice
of windows (`plan`) and the model (`model`).
"""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from tsfm_pipeline.forecaster.config import (
    DECILE_COLUMNS,
    MEDIAN_COLUMN,
    QUANTILE_LEVELS,
    ForecastConfig,
)
from tsfm_pipeline.forecaster.panel import FloatArray, Panel, Representation

DoubleArray = npt.NDArray[np.float64]

DEVIATION_BLOCKS = 64
"""Blocks before the origin that show how steps deviate from their block's mean."""
N_ATOMS = 20
ATOM_LEVELS = tuple((i + 0.5) / N_ATOMS for i in range(N_ATOMS))


def cut_windows(
    filled: FloatArray,
    series: npt.NDArray[np.int64],
    origins: npt.NDArray[np.int64],
    context_len: int,
) -> FloatArray:
    """Return the `context_len` steps up to and including each origin: float32 [N, context_len] out
    of filled [S, T].
    """
    windows = np.empty((len(series), context_len), dtype=filled.dtype)
    for window, one, origin in zip(windows, series.tolist(), origins.tolist(), strict=True):
        window[:] = filled[one, origin + 1 - context_len : origin + 1]
    return windows


def centred_points(
    windows: FloatArray, resolution: int
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.float64]]:
    """Return what the model sees of windows [N, L]: means of blocks of `resolution` steps [N, L /
    resolution], and the level [N] that was subtracted from them.

    The last block ends at the origin. The level is the window's last value, so that small changes
    at a high level keep their precision.
    """
    level = windows[:, -1:]
    if resolution == 1:
        return windows - level, level[:, 0].astype(np.float64)
    points = windows.reshape(len(windows), -1, resolution).mean(axis=2, dtype=np.float64)
    return points - level, level[:, 0].astype(np.float64)


def within_block_deviations(windows: FloatArray, resolution: int) -> FloatArray:
    """Return the quantiles .025 to .975 of single steps' deviations from the mean of their block,
    over the last blocks of each window: [N, L] -> float32 [N, 20].
    """
    windows = windows[:, -DEVIATION_BLOCKS * resolution :]
    blocks = windows.reshape(len(windows), -1, resolution)
    deviations = (
        (blocks - blocks.mean(axis=2, keepdims=True, dtype=np.float64))
        .astype(np.float32)
        .reshape(windows.shape)
    )
    deviations.sort(axis=1)
    return _sorted_quantiles(deviations, ATOM_LEVELS)


def restore_spread(forecast: DoubleArray, deviations: FloatArray) -> DoubleArray:
    """Return the distribution of single steps, given that of their block's mean [N, B, 10] and the
    deviations from it [N, 20].

    The deciles are those of the sum of two independent variables: 20 equally likely values
    represent the block's mean (quantiles of a piecewise normal distribution through its deciles),
    20 represent the deviation, and the result is the deciles of the 400 sums. Without deviations a
    block's deciles are returned unchanged. The mean stays that of the block, because deviations
    have mean zero.
    """
    median = forecast[..., MEDIAN_COLUMN, None]
    deciles = (forecast[..., DECILE_COLUMNS] - median).astype(np.float32)
    atoms = deciles @ _ATOMS_OF_DECILES
    sums = (atoms[..., :, None] + deviations[:, None, None, :]).reshape(*atoms.shape[:2], -1)
    sums.sort(axis=-1)
    of_steps = _sorted_quantiles(sums, QUANTILE_LEVELS) + (
        deciles - _sorted_quantiles(atoms, QUANTILE_LEVELS)
    )
    steps = forecast.copy()
    steps[..., DECILE_COLUMNS] = median + np.sort(of_steps, axis=-1)
    return steps


def _sorted_quantiles(values: FloatArray, levels: Sequence[float]) -> FloatArray:
    """Return quantiles [..., Q] of sorted, equally likely values [..., N], linear between the
    middles of their steps.
    """
    n = values.shape[-1]
    position = np.clip(np.array(levels) * n - 0.5, 0, n - 1)
    below = np.floor(position).astype(np.int64)
    lower, upper = values[..., below], values[..., np.minimum(below + 1, n - 1)]
    return lower + (upper - lower) * (position - below).astype(np.float32)


def _atoms_of_deciles() -> FloatArray:
    """Return matrix [9, 20] that reads quantiles .025 to .975 off nine deciles, linear in normal
    scores between and beyond them.
    """
    scores = np.array([NormalDist().inv_cdf(level) for level in QUANTILE_LEVELS])
    matrix = np.zeros((len(scores), len(ATOM_LEVELS)), dtype=np.float32)
    for j, level in enumerate(ATOM_LEVELS):
        score = NormalDist().inv_cdf(level)
        i = int(np.clip(np.searchsorted(scores, score), 1, len(scores) - 1))
        share = (score - scores[i - 1]) / (scores[i] - scores[i - 1])
        matrix[i - 1, j], matrix[i, j] = 1 - share, share
    return matrix


_ATOMS_OF_DECILES = _atoms_of_deciles()


def to_steps(
    forecast: DoubleArray, windows: FloatArray, config: ForecastConfig, horizon: int
) -> DoubleArray:
    """Return a forecast of points [N, B, 10] as a forecast of steps [N, horizon, 10]. The spread
    within blocks comes from the last steps before the origins, windows [N, L].
    """
    if config.resolution == 1:
        return forecast[:, :horizon]
    steps = restore_spread(forecast, within_block_deviations(windows, config.resolution))
    return np.repeat(steps, config.resolution, axis=1)[:, :horizon]


def representation_of(panel: Panel, config: ForecastConfig, horizon: int) -> Representation:
    """Return the panel's representation for a configuration that is known to have one
    (`Panel.representation`).
    """
    representation = panel.representation(config, horizon)
    assert representation is not None
    return representation


def to_units(
    panel: Panel,
    config: ForecastConfig,
    forecast: DoubleArray,
    series: npt.NDArray[np.int64],
    origins: npt.NDArray[np.int64],
    horizon: int,
) -> DoubleArray:
    """Convert forecasts of points in a configuration's representation [N, B, 10], where B points
    cover the horizon, to steps [N, horizon, 10] in the units of the panel and within its bounds;
    series and origins [N].
    """
    representation = representation_of(panel, config, horizon)
    recent = cut_windows(
        representation.values,
        series,
        origins,
        min(config.context_len, DEVIATION_BLOCKS * config.resolution),
    )
    begins = np.maximum(origins + 1 - config.context_len, panel.known_from_at(series, origins))
    steps = representation.restore(
        to_steps(forecast, recent, config, horizon), series, origins, begins
    )
    return np.asarray(panel.limits.take(series).clip(steps), dtype=np.float64)
