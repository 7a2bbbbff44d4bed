"""The decision policy: portfolio, validation schedule and the constants that tuning tenants chose; and its fitting.

What belongs here: `SearchPolicy`, what it decides from evidence and priors, and the choice of its constants on tuning tenants.
What does not: the arithmetic of single rules (`rules`), the timing of a live request (`engine`).
Axes: D metrics, K configurations, J validation origins, A tiers in the order of `settings.TIERS`, H horizon.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, field_validator

from tsfm_pipeline.autoresearch import rules
from tsfm_pipeline.autoresearch.space import require_distinct
from tsfm_pipeline.baselines.combinations import TuningSample
from tsfm_pipeline.evaluation.arrays import given
from tsfm_pipeline.evaluation.losses import decision_quantile, mean_pinball
from tsfm_pipeline.settings import TIERS, SearchSettings

Floats = NDArray[np.floating]
PriorKind = Literal["fleet", "retrieved"]
PRIOR_KINDS: tuple[PriorKind, ...] = ("fleet", "retrieved")


class TierPolicy(BaseModel):
    """The constants of one tier; `tuning_loss` is the mean scaled loss that they reached on tuning tenants."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float
    kappa: float
    prior: PriorKind
    gain: float
    tuning_loss: float


def level_unit(deciles: Floats) -> Floats:
    """The unit of level shifts, q.9 - q.5: deciles [..., 9] -> [...]."""
    unit: Floats = deciles[..., 8] - deciles[..., 4]
    return unit


@dataclass(frozen=True)
class Decision:
    """What the search answers: weights [..., A, K], deciles [..., A, H, 9], decision [..., A, H], shift [..., A], posterior [..., A, K]."""

    weights: Floats
    deciles: Floats
    decision: Floats
    shift: Floats
    posterior: Floats


class SearchPolicy(BaseModel):
    """Everything a request's decision depends on besides its own history and the priors; frozen and serialisable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    portfolio: tuple[str, ...]
    offsets: tuple[int, ...]
    horizon: int
    tiers: dict[str, TierPolicy]

    @field_validator("portfolio")
    @classmethod
    def _distinct(cls, portfolio: tuple[str, ...]) -> tuple[str, ...]:
        require_distinct(portfolio)
        return portfolio

    def decide(self, deciles: Floats, losses: Floats, violations: Floats, priors: Mapping[str, Floats]) -> Decision:
        """Weigh the configurations for every tier and average their quantiles.

        deciles [..., K, H, 9], losses and violations [..., K, J, A], priors {kind: [..., K, A]} -> `Decision`.
        """
        available = given(deciles)  # [..., K]
        per_tier = []
        for a, (tier, alpha) in enumerate(TIERS.items()):
            constants = self.tiers[tier]
            posterior = rules.posterior_losses(losses[..., a], priors[constants.prior][..., a], constants.kappa)
            weight = rules.weights(posterior, available, constants.temperature)
            combined = rules.combine(weight, deciles)
            shift = rules.level_correction(violations[..., a], weight, alpha, constants.gain)
            decision = decision_quantile(combined, alpha) + shift[..., None] * level_unit(combined)
            per_tier.append((weight, combined, decision, shift, posterior))
        stacked = zip(*per_tier, strict=True)
        axes = (-2, -3, -2, -1, -2)
        return Decision(*(np.stack(parts, axis=axis) for parts, axis in zip(stacked, axes, strict=True)))


def fit_policy(
    settings: SearchSettings,
    offsets: tuple[int, ...],
    horizon: int,
    sample: TuningSample,
    evidence: Floats,
    violations: Floats,
    priors: Mapping[PriorKind, Floats],
) -> SearchPolicy:
    """Choose temperature, shrinkage, prior and correction gain per tier by mean scaled loss on tuning requests.

    sample as in `TuningSample` [R, D, ...]; evidence and violations [R, D, K, J, A]; priors {kind: [R, D, K, A]}, each request's own tenant
    left out. All choices end before the test period because the sample does. Raises ValueError where nothing can be scored.
    """
    available = given(sample.decisions)  # [R, D, K]
    answered = np.asarray(available.any(axis=-1))  # [R, D]
    if not (answered & np.isfinite(sample.scale) & ~np.isnan(sample.actual).all(axis=-1)).any():
        raise ValueError(
            f"none of the {len(sample.scale)} valid tuning requests has a forecast, an observed outcome and a scale, so the search cannot "
            "be tuned on this fleet; give it more history before the test period, or shorter contexts in search.portfolio"
        )
    tiers = {}
    for a, (tier, alpha) in enumerate(TIERS.items()):
        decisions = np.where(available[..., None], sample.decisions[..., a, :], 0.0)  # [R, D, K, H]
        spread = np.where(available[..., None], sample.spread, 0.0)
        best: tuple[float, TierPolicy] | None = None
        for prior, kappa in product(PRIOR_KINDS, settings.shrinkages):
            posterior = rules.posterior_losses(evidence[..., a], priors[prior][..., a], kappa)
            for temperature in settings.temperatures:
                weight = np.nan_to_num(rules.weights(posterior, available, temperature))
                decision = np.where(answered[..., None], np.einsum("rdk,rdkh->rdh", weight, decisions), np.nan)
                width = np.einsum("rdk,rdkh->rdh", weight, spread)
                for gain in settings.correction_gains:
                    shift = rules.level_correction(violations[..., a], weight, alpha, gain)
                    loss = mean_pinball(sample.actual, decision + shift[..., None] * width, alpha) / sample.scale
                    mean = float(np.nanmean(loss))
                    if best is None or mean < best[0]:
                        constants = TierPolicy(temperature=temperature, kappa=kappa, prior=prior, gain=gain, tuning_loss=mean)
                        best = (mean, constants)
        if best is None:
            raise ValueError("search settings list no temperature, shrinkage or correction gain; list at least one of each")
        tiers[tier] = best[1]
    return SearchPolicy(portfolio=settings.portfolio, offsets=offsets, horizon=horizon, tiers=tiers)
