"""What the tuning tenants teach: their experience as priors, the search's constants, and every rival's shared choice.

What belongs here: the two tables `config_priors` and `search_policy`, per test fold. What does not: the arithmetic (`autoresearch`,
`baselines`).
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch.policy import PRIOR_KINDS, fit_policy, level_unit
from tsfm_pipeline.autoresearch.priors import TenantExperience
from tsfm_pipeline.baselines.combinations import SharedChoices, TuningSample, choose
from tsfm_pipeline.evaluation.losses import decision_quantile
from tsfm_pipeline.evaluation.requests import tested_folds, tuning_mask
from tsfm_pipeline.settings import ALPHAS, TIERS
from tsfm_pipeline.stages.archetypes import Retrieved, retrieve
from tsfm_pipeline.stages.forecasts import LOSS_COLUMNS, Floats, grid_arrays, prior_arrays, validation_arrays
from tsfm_pipeline.stages.rows import keyed_rows
from tsfm_pipeline.workspace import Fleet, Requests


def folds_and_tuners(fleet: Fleet) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each test fold with the numbers of its tuning tenants."""
    folds = fleet.manifest["fold"].to_numpy().astype(np.int64)
    for fold in tested_folds(folds):
        yield fold, np.flatnonzero(tuning_mask(folds, fold))


def experience(fleet: Fleet, tuners: NDArray[np.int64]) -> TenantExperience:
    """Mean scaled loss of each configuration over the valid tuning requests of each tuning tenant [N, D, K, A]."""
    requests = fleet.requests("tuning", only=tuners.tolist())
    losses, scale = _tuning_losses(fleet, requests)
    scaled = losses[..., : len(TIERS)] / scale[..., None, None]
    scaled[~requests.valid.ravel()] = np.nan
    ids = np.array(fleet.manifest["tenant_id"].to_list(), dtype=str)[requests.tenant_numbers]
    return TenantExperience.from_requests(scaled.reshape(*requests.ids.shape, *scaled.shape[1:]), ids)


def request_priors(known: TenantExperience, found: Retrieved, tenant_ids: Sequence[str]) -> dict[str, Floats]:
    """Both priors of R requests {kind: [R, D, K, A]}, each request's own tenant (`tenant_ids` [R]) left out."""
    fleet_prior = {tenant_id: known.fleet_prior(tenant_id) for tenant_id in dict.fromkeys(tenant_ids)}
    nearest = zip(found.rows, found.similarity, tenant_ids, strict=True)
    return {
        "fleet": np.stack([fleet_prior[tenant_id] for tenant_id in tenant_ids]),
        "retrieved": np.stack([known.retrieved_prior(rows, similarity, tenant_id) for rows, similarity, tenant_id in nearest]),
    }


def config_priors(fleet: Fleet) -> pl.DataFrame:
    """For every request that is searched or tunes: what the (other) tuning tenants' losses say about each configuration."""
    names = [config.name for config in fleet.configs]
    tenant_ids = fleet.manifest["tenant_id"].to_list()
    frames = []
    for fold, tuners in folds_and_tuners(fleet):
        known = experience(fleet, tuners)
        tested = np.flatnonzero(fleet.manifest["fold"].to_numpy() == fold)
        for requests in (fleet.requests("tuning", only=tuners.tolist()), fleet.requests("test", only=tested.tolist())):
            ids = requests.ids.ravel()
            numbers = np.repeat(requests.tenant_numbers, requests.ids.shape[1])
            found = retrieve(fleet, fold, requests, k=fleet.settings.search.neighbours)
            priors = request_priors(known, found, [tenant_ids[number] for number in numbers.tolist()])
            columns = {f"{kind}_{tier}": prior[..., a].astype(np.float32) for kind, prior in priors.items() for a, tier in enumerate(TIERS)}
            rows = keyed_rows(ids, numbers, {"metric": fleet.grid.metrics, "config": names}, columns)
            per_request = len(fleet.grid.metrics) * len(names)
            archetypes = pl.Series("archetype", np.repeat(np.asarray(found.labels, dtype=object), per_request), dtype=pl.String)
            frames.append(rows.with_columns(archetypes, pl.lit(fold, pl.Int32).alias("fold")))
    return pl.concat(frames).sort("fold", "request_id", maintain_order=True)


def search_policy(fleet: Fleet) -> pl.DataFrame:
    """One row per test fold: the search's policy and the rivals' shared choices as JSON, all from tuning tenants before the test period."""
    rows = []
    for fold, tuners in folds_and_tuners(fleet):
        requests = fleet.requests("tuning", only=tuners.tolist())
        valid = requests.valid.ravel()
        deciles, actual, scale = grid_arrays(fleet, requests)
        losses, _ = _tuning_losses(fleet, requests)
        sample = TuningSample(
            losses=(losses / scale[..., None, None])[valid],
            decisions=np.stack([decision_quantile(deciles[valid], alpha) for alpha in ALPHAS], axis=3),
            spread=level_unit(deciles[valid]),
            actual=actual[valid],
            scale=scale[valid],
            archetypes=_archetypes(fleet, requests, fold)[valid].tolist(),
        )
        evidence, violations = validation_arrays(fleet, requests)
        priors = prior_arrays(fleet, requests, fold)
        policy = fit_policy(
            fleet.settings.search,
            fleet.offsets,
            fleet.spec.horizon,
            sample,
            evidence[valid],
            violations[valid],
            {kind: priors[kind][valid] for kind in PRIOR_KINDS},
        )
        rows.append(
            {
                "fold": fold,
                "n_tuning_tenants": len(tuners),
                "n_tuning_requests": int(valid.sum()),
                "policy": policy.model_dump_json(),
                "shared_choices": choose(sample, TIERS).model_dump_json(),
            }
        )
    return pl.DataFrame(rows, schema_overrides={"fold": pl.Int32})


def read_shared_choices(fleet: Fleet) -> dict[int, SharedChoices]:
    """The rivals' shared choices of each test fold."""
    frame = fleet.tables.read("search_policy")
    return {row["fold"]: SharedChoices.model_validate_json(row["shared_choices"]) for row in frame.iter_rows(named=True)}


def _tuning_losses(fleet: Fleet, requests: Requests) -> tuple[Floats, Floats]:
    """Raw losses of the tuning requests [R, D, K, A + 1] (last: at the median) and their series' scales [R, D]."""
    shape = (len(fleet.grid.metrics), len(fleet.configs))
    columns = fleet.arrays("tuning_losses", requests, [*LOSS_COLUMNS, "loss_median"], shape)
    (scale,) = fleet.arrays("request_targets", requests, ["scale"], shape[:1])
    return np.stack(columns, axis=-1).astype(np.float64), scale


def _archetypes(fleet: Fleet, requests: Requests, fold: int) -> NDArray[np.str_]:
    """The retrieved archetype of each request [R], "" where the fleet has none."""
    frame = fleet.tables.scan("config_priors").filter(pl.col("fold") == fold).select("request_id", "archetype").collect()
    labels = dict(zip(frame["request_id"].to_list(), frame["archetype"].fill_null("").to_list(), strict=True))
    return np.array([labels[int(i)] for i in requests.ids.ravel()], dtype=str)


def describe_policies(fleet: Fleet) -> dict[str, Any]:
    """Every fold's constants and shared choices, for people."""
    frame = fleet.tables.read("search_policy")
    return {
        f"fold {row['fold']}": {
            "tuning tenants": row["n_tuning_tenants"],
            "tuning requests": row["n_tuning_requests"],
            "search": json.loads(row["policy"]),
            "shared choices": json.loads(row["shared_choices"]),
        }
        for row in frame.iter_rows(named=True)
    }
