"""Scores of one method's forecasts: cost of the decisions, violations, and over-reservation.

What belongs here: from decisions and deciles to one number per request, metric and tier. What does
not: aggregating over requests (`statistics`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.evaluation.arrays import violation_rate
from tsfm_pipeline.evaluation.limits import Limits, emitted
from tsfm_pipeline.evaluation.losses import crps_from_deciles, decision_quantile, mean_pinball

Floats = NDArray[np.floating]
SCORE_COLUMNS = ("loss", "violation_rate", "slack", "shortfall", "crps")


@dataclass(frozen=True)
class MethodForecast:
    """Decisions [R, D, A, H] and deciles [R, D, A, H, 9] of one method; NaN where it could not
    forecast.

    The axis of tiers in the deciles may have length 1 where a method has the same deciles for every
    tier.
    """

    decision: Floats
    deciles: Floats

    @classmethod
    def from_deciles(cls, deciles: Floats, alphas: Sequence[float]) -> "MethodForecast":
        """Return a forecast that decides by the quantile of deciles [R, D, H, 9] at each alpha."""
        decision = np.stack([decision_quantile(deciles, alpha) for alpha in alphas], axis=2)
        return cls(decision, deciles[:, :, None])

    def emitted(self, alphas: Sequence[float], limits: Limits) -> "MethodForecast":
        """Return the forecast as it may be emitted, with limits of the metrics [D]; see
        `limits.emitted`.
        """
        return MethodForecast(
            emitted(self.decision, alphas, limits, metric_axis=1, tier_axis=2),
            limits.clip(self.deciles, axis=1),
        )


def score(actual: Floats, forecast: MethodForecast, alphas: Sequence[float]) -> dict[str, Floats]:
    """Return the scores of every request, metric and tier: actual [R, D, H] -> {score: float32 [R,
    D, A]}.

    loss: mean pinball loss at the tier's alpha; violation_rate: share of steps above the decision;
    slack and shortfall: mean reserved but unused, and used but not reserved, both in units of the
    metric; crps: of the deciles. NaN where nothing was observed or forecast.
    """
    crps = crps_from_deciles(actual[:, :, None], forecast.deciles)  # [R, D, A or 1]
    columns: dict[str, list[Floats]] = {name: [] for name in SCORE_COLUMNS}
    observed = ~np.isnan(actual)
    n_observed = np.maximum(observed.sum(axis=-1), 1)
    for a, alpha in enumerate(alphas):
        decision = forecast.decision[:, :, a]
        columns["loss"].append(mean_pinball(actual, decision, alpha))
        rate = violation_rate(actual, decision)
        columns["violation_rate"].append(rate)
        difference = np.where(observed, decision - actual, 0.0)
        unavailable = np.isnan(rate)
        for name, part in (("slack", difference), ("shortfall", -difference)):
            columns[name].append(
                np.where(unavailable, np.nan, np.maximum(part, 0.0).sum(axis=-1) / n_observed)
            )
        columns["crps"].append(crps[:, :, a if crps.shape[2] > 1 else 0])
    return {name: np.stack(parts, axis=-1).astype(np.float32) for name, parts in columns.items()}
