"""The search replayed with something changed: without a dimension of its space, or with the
experience of strangers as its prior.

What belongs here: deciding the test requests again from the stored forecasts, evidence and priors,
and what the decisions cost. What does not: the decision itself (`autoresearch`), comparing it with
what was decided (`reports.ablation.numbers`). Axes: R requests, D metrics, K configurations, J
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
"""Which configurations use a dimension of the search space; the context length is the one that all
of them have.
"""
WITHOUT = "without "
VIOLATIONS = "violations"
RETRIEVED, SHUFFLED, FLEET_WIDE = "retrieved prior", "shuffled prior", "fleet-wide prior"


def dimension_masks(fleet: Fleet) -> dict[str, NDArray[np.bool_]]:
    """Which of the fleet's configurations [K] use each dimension; dimensions that none uses, or
    all, are left out: nothing is compared.
    """
    masks = {
        name: np.array([uses(config) for config in fleet.configs])
        for name, uses in DIMENSIONS.items()
    }
    return {name: mask for name, mask in masks.items() if mask.any() and not mask.all()}


def replayed_losses(fleet: Fleet) -> pl.DataFrame:
    """Scaled loss of every replay at every test request: request x metric x method x tier."""
    everyone = fleet.arrays.requests("test").tenant_numbers
    shuffled = shuffled_priors(fleet)
    n_metrics, tiers = len(fleet.grid.metrics), fleet.protocol.tiers
    frames = []
    for shard in fleet.shards:
        requests = fleet.arrays.requests("test", shard)
        if not len(requests.rows):
            continue
        numbers = requests.tenants
        actual, scale = fleet.arrays.of(
            "request_targets", requests, ["actual", "scale"], (n_metrics,)
        )
        mine = np.isin(everyone, requests.tenant_numbers)
        dealt = {
            kind: prior[mine].reshape(-1, *prior.shape[2:]) for kind, prior in shuffled.items()
        }
        for name, decision in _replays(SearchBatch(fleet, requests), dealt):  # [R, D, A, H]
            losses = [
                mean_pinball(actual, decision[:, :, a], alpha) / scale
                for a, alpha in enumerate(tiers.values())
            ]
            axes = {"metric": fleet.grid.metrics, "method": [name], "tier": list(tiers)}
            columns = {"scaled_loss": np.stack(losses, axis=-1)[:, :, None].astype(np.float32)}
            frames.append(keyed_rows(requests.ids.ravel(), numbers, axes, columns))
    return pl.concat(frames)


def _replays(batch: SearchBatch, shuffled: Mapping[str, Floats]) -> Iterator[tuple[str, Floats]]:
    """Each replay's decisions [R, D, A, H]. Whichever kind of prior the policy chose, it gets the
    one in question: the rest stays.
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
    """The retrieved priors of all test tenants {kind: [N, O, D, K, A]}, each tenant's dealt to
    another one of its fold.

    Within a fold, because priors come from the fold's tuning tenants; to another tenant, so that
    nobody keeps its own (a cycle through a seeded order). A fold of one tenant keeps its priors.
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
    """The best fixed configuration of each (test fold, tier) among those that are not hidden [K],
    chosen as ever on tuning tenants.

    Among those available most often, for no other stands in here. Folds whose portfolio holds no
    other are left out.
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
