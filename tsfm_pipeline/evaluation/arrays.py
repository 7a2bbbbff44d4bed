"""Array helpers of the protocol: the steps after an origin, and losses of many forecasts at every
tier.

What belongs here: gathering targets and reducing forecasts [..., H, 9] to one loss or violation
rate per tier. What does not: which origins there are (`requests`), single losses (`losses`).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.evaluation.limits import UNLIMITED, Limits
from tsfm_pipeline.evaluation.losses import decision_quantile, mean_pinball

Floats = NDArray[np.floating]


def targets_after(values: Floats, origins: NDArray[np.integer], horizon: int) -> Floats:
    """Return the H steps after each origin: values [S, T], origins [S, O] -> [S, O, H]; NaN after
    the end and where nothing was observed.
    """
    n_steps = values.shape[1]
    steps = origins[..., None] + np.arange(1, horizon + 1)
    rows = np.arange(values.shape[0])[:, None, None]
    return np.where(steps < n_steps, values[rows, np.minimum(steps, n_steps - 1)], np.nan)


def tier_losses(
    actual: Floats,
    deciles: Floats,
    alphas: Sequence[float],
    limits: Limits = UNLIMITED,
    axis: int = 0,
) -> tuple[Floats, Floats]:
    """Return the mean pinball loss and the violation rate of the decision quantile at each alpha,
    over the observed steps.

    actual [..., H], deciles [..., H, 9] -> two float32 arrays [..., A]; NaN where nothing was
    observed or the forecast is unavailable. limits: of the metrics or series along `axis`, which
    the assumed tail above the .9 decile may leave.
    """
    losses, violations = [], []
    for alpha in alphas:
        decision = limits.clip(decision_quantile(deciles, alpha), axis)
        losses.append(mean_pinball(actual, decision, alpha))
        violations.append(violation_rate(actual, decision))
    return np.stack(losses, axis=-1).astype(np.float32), np.stack(violations, axis=-1).astype(
        np.float32
    )


def given(deciles: Floats) -> NDArray[np.bool_]:
    """Return which forecasts are available: deciles [..., H, 9] -> bool [...]. A forecast is
    available if all its deciles at all its steps are finite.
    """
    return np.asarray(np.isfinite(deciles).all(axis=(-1, -2)))


def violation_rate(actual: Floats, decision: Floats) -> Floats:
    """Return the share of the observed steps at which the actual exceeds the decision: both [...,
    H] -> [...]; NaN as in `mean_pinball`.
    """
    observed = ~np.isnan(actual)
    n_observed = observed.sum(axis=-1)
    exceeded = ((actual > decision) & observed).sum(axis=-1)
    unavailable = (np.isnan(decision) & observed).any(axis=-1) | (n_observed == 0)
    return np.where(unavailable, np.nan, exceeded / np.maximum(n_observed, 1))


def mean_of_known(values: Floats, axis: int) -> Floats:
    """Return the mean of the finite values over an axis; NaN, without a warning, where there is
    none. (A series without a scale has no finite values.)
    """
    known = np.isfinite(values)
    mean = np.where(known, values, 0.0).sum(axis=axis) / np.maximum(known.sum(axis=axis), 1)
    return np.where(known.any(axis=axis), mean, np.nan)
