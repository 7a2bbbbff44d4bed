"""What other tenants' experience says about each configuration, before a request's own evidence is heard.

What belongs here: fleet-wide and retrieved priors from tuning tenants' losses. What does not: similarity of tenants (`archetypes`),
blending with evidence (`rules`).
Axes: N tuning tenants, D metrics, K configurations, A tiers.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch.rules import mean_on_shared_windows, relative

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class TenantExperience:
    """Mean scaled losses of the tuning tenants before the test period: losses [N, D, K, A], tenant_ids [N]."""

    losses: Floats
    tenant_ids: NDArray[np.str_]

    @classmethod
    def from_requests(cls, losses: Floats, tenant_ids: NDArray[np.str_]) -> "TenantExperience":
        """Mean over each tenant's requests at which all its configurations have a loss: scaled losses [N, O, D, K, A], NaN = invalid."""
        mean, _ = mean_on_shared_windows(losses.transpose(0, 2, 4, 3, 1))  # [N, D, A, K]
        return cls(mean.swapaxes(-1, -2), tenant_ids)

    def without(self, tenant_id: str | None) -> Floats:
        """Losses of all tuning tenants but this one; of itself alone where there is no other."""
        others = self.losses[self.tenant_ids != tenant_id] if tenant_id is not None else self.losses
        return others if len(others) else self.losses

    def fleet_prior(self, tenant_id: str | None = None) -> Floats:
        """Relative loss of each configuration over the tuning tenants [D, K, A], the tenant's own entry left out."""
        return _relative_over_configs(_mean_over_tenants(self.without(tenant_id)))

    def retrieved_prior(self, neighbours: NDArray[np.integer], similarity: Floats, tenant_id: str | None = None) -> Floats:
        """The same over the nearest tuning tenants: row numbers [M] into `losses` with their cosine similarities [M].

        Neighbours count by similarity, those below 0 not at all. Where no neighbour that counts has a loss, the fleet-wide prior
        stands, `tenant_id`'s own entry left out.
        """
        weight = np.clip(similarity, 0.0, None)
        retrieved = _relative_over_configs(_mean_over_tenants(self.losses[neighbours], weight))
        unknown = np.isnan(retrieved)
        return np.where(unknown, self.fleet_prior(tenant_id), retrieved) if unknown.any() else retrieved


def _mean_over_tenants(losses: Floats, weight: Floats | None = None) -> Floats:
    """Mean of each tenant's relative losses [N, D, K, A] -> [D, K, A], so that a tenant with large losses decides no more than others."""
    shares = _relative_over_configs(losses)
    seen = np.isfinite(shares)
    weights = seen * (np.ones(len(losses)) if weight is None else weight)[:, None, None, None]
    total = weights.sum(axis=0)
    mean = (np.where(seen, shares, 0.0) * weights).sum(axis=0) / np.where(total > 0, total, 1.0)
    return np.where(total > 0, mean, np.nan)


def _relative_over_configs(losses: Floats) -> Floats:
    return np.moveaxis(relative(np.moveaxis(losses, -2, -1)), -1, -2)
