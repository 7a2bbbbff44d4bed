"""Measure a forecaster on series with a known best forecast: constants and random walks.

What belongs here: synthetic series with an exact answer. What does not: real series (`published`,
`rolling`).
"""

from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from tsfm_pipeline.evaluation.losses import DECILE_LEVELS
from tsfm_pipeline.forecaster.panel import Panel
from tsfm_pipeline.pretraining.rolling import DoubleArray, Method

LEVELS_OF_CONSTANTS = (0.0, 1e-3, 0.5, 1.0, 123.456, 1e6)
HORIZON = 60
N_WALKS = 256
WALK_SEED = 11


def constants(method: Method, context: int) -> dict[str, Any]:
    """Forecast constant series of six sizes. Return the largest deviation of any decile relative to
    the level (it must be zero), and whether it is exactly zero.
    """
    levels = np.array(LEVELS_OF_CONSTANTS, dtype=np.float32)
    panel = Panel(np.repeat(levels[:, None], context, axis=1))
    deciles = method(panel, np.full((len(levels), 1), context - 1), HORIZON)
    deviation = np.abs(deciles - levels[:, None, None, None]).max(axis=(1, 2, 3)) / np.maximum(
        levels, 1e-3
    )
    return {
        "largest_relative_deviation": float(deviation.max()),
        "exact": bool((deviation == 0).all()),
    }


def random_walks(method: Method, context: int) -> dict[str, float]:
    """Forecast Gaussian random walks. The ideal forecast after h steps is normal around the last
    value, with standard deviation sqrt(h).

    drift_rms, drift_mean: distance of the median from the last value, in units of sqrt(h).
    spread: width between the outer deciles, divided by the ideal width.
    excess_loss: expected pinball loss averaged over the deciles, divided by the loss of the ideal
    forecast, minus one. excess_loss_median: the same at the median alone.
    The expectations are exact for the given forecast.
    """
    walks = (
        np.random.default_rng(WALK_SEED)
        .normal(size=(N_WALKS, context))
        .cumsum(1)
        .astype(np.float32)
    )
    deciles = method(Panel(walks), np.full((N_WALKS, 1), context - 1), HORIZON)[:, 0].astype(
        np.float64
    )
    z = (deciles - walks[:, -1, None, None]) / np.sqrt(np.arange(1, HORIZON + 1))[:, None]
    loss, ideal = _expected_pinball(z), _expected_pinball(ndtri(DECILE_LEVELS))
    weight = np.sqrt(np.arange(1, HORIZON + 1))[:, None] / np.sqrt(np.arange(1, HORIZON + 1)).sum()
    mean_loss = (loss * weight).sum(axis=1).mean(axis=0)  # [9]
    return {
        "drift_rms": float(np.sqrt(np.square(z[..., 4]).mean())),
        "drift_mean": float(z[..., 4].mean()),
        "spread": float((z[..., 8] - z[..., 0]).mean() / (2 * ndtri(0.9))),
        "excess_loss": float(mean_loss.sum() / ideal.sum() - 1),
        "excess_loss_median": float(mean_loss[4] / ideal[4] - 1),
    }


def _expected_pinball(z: DoubleArray) -> DoubleArray:
    """Return E[pinball(Y, z)] at the nine deciles, for standard normal Y and z [..., 9]."""
    density = np.exp(-0.5 * np.square(z)) / np.sqrt(2 * np.pi)
    return density + z * (ndtr(z) - DECILE_LEVELS)
