"""How much a choice per tenant could gain; the headline and the ablation report read it.

What belongs here: losses by tenant and origin, and their headroom. What does not: the arithmetic of
headroom (`evaluation.headroom`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.headroom import Headroom, cross_fitted_headroom
from tsfm_pipeline.evaluation.methods import CONFIG_PREFIX, FIXED
from tsfm_pipeline.steps.headline import require_paired


@dataclass(frozen=True)
class TenantLosses:
    """Losses of some methods at one tier by tenant and origin.

    losses [N, O, M]: origins in time order, NaN where there is no loss. frame: the requests [R] in
    that order. tenant, origin [R]: position of each request on the first two axes of `losses`.
    """

    losses: NDArray[np.float64]
    frame: pl.DataFrame
    tenant: NDArray[np.int64]
    origin: NDArray[np.int64]

    def folds(self, fleet: Fleet) -> NDArray[np.int64]:
        """Return the test fold of each tenant [N]."""
        return (
            fleet.manifest["fold"]
            .to_numpy()[np.unique(self.frame["tenant_number"].to_numpy())]
            .astype(np.int64)
        )

    def rows(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return values [N, O] in the order of `frame` [R]."""
        return values[self.tenant, self.origin]


def tenant_losses(overall: pl.DataFrame, tier: str, methods: Sequence[str]) -> TenantLosses:
    """Return the scaled losses of the given methods at one tier."""
    frames = [
        losses_of(overall, tier, method).sort("tenant_number", "origin_step") for method in methods
    ]
    for frame in frames:
        require_paired(frame, frames[0])
    tenants, tenant = np.unique(frames[0]["tenant_number"].to_numpy(), return_inverse=True)
    origin = np.arange(len(tenant)) - np.searchsorted(tenant, tenant)
    losses = np.full((len(tenants), origin.max() + 1, len(methods)), np.nan)
    for m, frame in enumerate(frames):
        losses[tenant, origin, m] = frame["scaled_loss"].to_numpy()
    return TenantLosses(losses, frames[0], tenant, origin)


def tenant_headroom(
    fleet: Fleet, overall: pl.DataFrame, tier: str
) -> tuple[Headroom, TenantLosses]:
    """Return how much one configuration per tenant would gain over the fixed one, and the losses
    behind that figure (the fixed configuration's last).
    """
    singles = single_methods(fleet)
    table = tenant_losses(overall, tier, [*singles, FIXED])
    null = fleet.settings.evaluation.headroom_null
    return cross_fitted_headroom(
        table.losses, len(singles), **null, strata=table.folds(fleet)
    ), table


def single_methods(fleet: Fleet) -> list[str]:
    """Return the methods that use one configuration of the portfolio for every request."""
    return [f"{CONFIG_PREFIX}{config.name}" for config in fleet.configs]


def losses_of(table: pl.DataFrame, tier: str, method: str) -> pl.DataFrame:
    """Return the rows of one method at one tier."""
    return table.filter((pl.col("tier") == tier) & (pl.col("method") == method))
