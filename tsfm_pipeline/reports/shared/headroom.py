"""What a choice per tenant could gain at all: read by the headline and by the ablation report.

What belongs here: losses by tenant and origin, and the headroom that follows from them. What does
not: its arithmetic (`evaluation.headroom`).
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

    losses [N, O, M] with origins in time order, NaN where there is none; `frame`: the requests [R]
    in that order, and the tenant and origin [R] that each of them is.
    """

    losses: NDArray[np.float64]
    frame: pl.DataFrame
    tenant: NDArray[np.int64]
    origin: NDArray[np.int64]

    def folds(self, fleet: Fleet) -> NDArray[np.int64]:
        """The test fold of each tenant [N]."""
        return (
            fleet.manifest["fold"]
            .to_numpy()[np.unique(self.frame["tenant_number"].to_numpy())]
            .astype(np.int64)
        )

    def rows(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values [N, O] in the order of `frame` [R]."""
        return values[self.tenant, self.origin]


def tenant_losses(overall: pl.DataFrame, tier: str, methods: Sequence[str]) -> TenantLosses:
    """Scaled losses of the given methods at one tier."""
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
    """What choosing one configuration per tenant would gain over the fixed one, and the losses it
    follows from (the fixed one's last).
    """
    singles = single_methods(fleet)
    table = tenant_losses(overall, tier, [*singles, FIXED])
    null = fleet.settings.evaluation.headroom_null
    return cross_fitted_headroom(
        table.losses, len(singles), **null, strata=table.folds(fleet)
    ), table


def single_methods(fleet: Fleet) -> list[str]:
    """The methods that take one configuration of the portfolio for every request."""
    return [f"{CONFIG_PREFIX}{config.name}" for config in fleet.configs]


def losses_of(table: pl.DataFrame, tier: str, method: str) -> pl.DataFrame:
    """The rows of one method at one tier."""
    return table.filter((pl.col("tier") == tier) & (pl.col("method") == method))
