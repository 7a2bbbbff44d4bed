"""The search replayed with one change: without a dimension of its space, or with the experience of
other tenants as its prior.

What belongs here: deciding the test requests again from the stored forecasts, evidence and priors,
and the cost of these decisions. What does not: the decision itself (`autoresearch`), comparing it
with the original one (`reports.ablation.numbers`). Axes: R requests, D metrics, K configurations, J
validation origins, A tiers.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch.policy import PRIOR_KINDS
from tsfm_pipeline.baselines.combinations import best_available
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.rows import keyed_rows
from tsfm_pipeline.evaluation.losses import mean_pinball
from tsfm_pipeline.forecaster.config import ForecastConfig
from tsfm_pipeline.steps.evidence import Floats, SearchBatch, loss_columns, prior_arrays
from tsfm_pipeline.steps.policies import folds_and_tuners

DIMENSIONS: dict[str, Callable[[ForecastConfig], bool]] = {
    "resolution": lambda config: config.resolution > 1,
    "season profile": lambda config: config.season > 0,
    "transform": lambda config: config.transform != "none",
}
"""Which configurations use each dimension of the search space. All use the context length, so it
is not listed.
"""
WITHOUT = "without "
VIOLATIONS = "violations"
RETRIEVED, SHUFFLED, FLEET_WIDE = "retrieved prior", "shuffled prior", "fleet-wide prior"


def dimension_masks(fleet: Fleet) -> dict[str, NDArray[np.bool_]]:
    """Return which of the fleet's configurations [K] use each dimension.

    Dimensions that no configuration uses, or all use, are left out: there is nothing to compare.
    """
    masks = {
        name: np.array([uses(config) for config in fleet.configs])
        for name, uses in DIMENSIONS.items()
    }
    return {name: mask for name, mask in masks.items() if mask.any() and not mask.all()}


def replayed_losses(fleet: Fleet) -> pl.DataFrame:
    """Return the scaled loss of every replay at every test request: request x metric x method x
    tier.
    """
    everyone = fleet.arrays.requests("test").tenant_numbers
    shuffled = shuffled_priors(fleet)
    n_metrics, tiers = len(fleet.grid.metrics), fleet.protocol.tiers
    frames = []
    for shard in fleet.cohort_shards:
        requests = fleet.arrays.requests("test", shard)
        if not len(requests.rows):
            continue
        numbers = requests.tenants
        actual, scale = fleet.arrays.of(
            "request_targets", requests, ["actual", "scale"], (n_metrics,)
        )
        in_shard = np.isin(everyone, requests.tenant_numbers)
        shard_priors = {
            kind: prior[in_shard].reshape(-1, *prior.shape[2:]) for kind, prior in shuffled.items()
        }
        for name, decision in _replays(SearchBatch(fleet, requests), shard_priors):  # [R, D, A, H]
            losses = [
                mean_pinball(actual, decision[:, :, a], alpha) / scale
                for a, alpha in enumerate(tiers.values())
            ]
            axes = {"metric": fleet.grid.metrics, "method": [name], "tier": list(tiers)}
            columns = {"scaled_loss": np.stack(losses, axis=-1)[:, :, None].astype(np.float32)}
            frames.append(keyed_rows(requests.ids.ravel(), numbers, axes, columns))
    return pl.concat(frames)


def _replays(batch: SearchBatch, shuffled: Mapping[str, Floats]) -> Iterator[tuple[str, Floats]]:
    """Yield each replay's decisions [R, D, A, H].

    Every kind of prior that a policy may choose is replaced by the prior in question; nothing else
    changes.
    """
    priors, violation_priors = batch.priors
    for name, hidden in dimension_masks(batch.fleet).items():
        deciles = np.where(hidden[:, None, None], np.float32(np.nan), batch.deciles)
        yield f"{WITHOUT}{name}", batch.decide(deciles=deciles).decision
    for name, prior, violation_prior in (
        (RETRIEVED, priors["retrieved"], violation_priors),
        (SHUFFLED, shuffled["retrieved"], shuffled[VIOLATIONS]),
        (FLEET_WIDE, priors["fleet"], violation_priors),
    ):
        yield (
            name,
            batch.decide(priors=(dict.fromkeys(PRIOR_KINDS, prior), violation_prior)).decision,
        )


def shuffled_priors(fleet: Fleet) -> dict[str, Floats]:
    """Return the retrieved priors of all test tenants {kind: [N, O, D, K, A]}, each tenant's given
    to another tenant of its fold.

    Within a fold, because priors come from the fold's tuning tenants. A cycle through a seeded
    order makes sure that no tenant keeps its own prior, except in a fold of one tenant.
    """
    requests = fleet.arrays.requests("test")
    folds = fleet.manifest["fold"].to_numpy()[requests.tenant_numbers]
    rng = np.random.default_rng(fleet.settings.evaluation.seed)
    taken_from = np.arange(len(folds))
    for fold in np.unique(folds):
        order = rng.permutation(np.flatnonzero(folds == fold))
        taken_from[order] = np.roll(order, 1)
    losses, violations = prior_arrays(fleet, requests)
    kinds = {"retrieved": losses["retrieved"], VIOLATIONS: violations}
    return {
        kind: prior.reshape(*requests.ids.shape, *prior.shape[1:])[taken_from]
        for kind, prior in kinds.items()
    }


def restricted_fixed(fleet: Fleet, hidden: NDArray[np.bool_]) -> dict[tuple[int, str], str]:
    """Return the best fixed configuration of each (test fold, tier) that is not hidden [K], chosen
    on tuning tenants as always.

    Only the configurations with the highest availability compete, because no other one stands in
    here. Folds whose portfolio has only hidden configurations are left out.
    """
    names = [config.name for config in fleet.configs]
    shape = (len(fleet.grid.metrics), len(names))
    chosen = {}
    for fold, tuners in folds_and_tuners(fleet):
        requests = fleet.arrays.requests("tuning", only=tuners.tolist())
        losses = fleet.arrays.of(
            "tuning_losses", requests, loss_columns(fleet.protocol.tiers), shape
        )
        (scale,) = fleet.arrays.of("request_targets", requests, ["scale"], shape[:1])
        usable = fleet.portfolio_mask(fold) & ~hidden
        for tier, loss in zip(fleet.protocol.tiers, losses, strict=True):
            left = np.where(usable, loss / scale[..., None], np.nan)[requests.valid.ravel()]
            if np.isfinite(left).any():
                chosen[fold, tier] = names[best_available(left)]
    return chosen
