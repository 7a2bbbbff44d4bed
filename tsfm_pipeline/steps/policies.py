"""Everything that is fitted on tuning tenants: priors, the search's constants, and every rival's
shared choice.

What belongs here: the two tables `config_priors` and `search_policy`, per test fold. What does not:
the arithmetic (`autoresearch`, `baselines`).
Axes: N tuning tenants, R requests, D metrics, K configurations of all folds (those outside of a
fold's portfolio are NaN), A tiers.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch import fitting
from tsfm_pipeline.autoresearch.policy import level_unit
from tsfm_pipeline.autoresearch.priors import TenantExperience
from tsfm_pipeline.autoresearch.tuning_rows import TuningEvidence
from tsfm_pipeline.baselines.combinations import SharedChoices, TuningSample
from tsfm_pipeline.catalogue.arrays import Requests
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.rows import keyed_rows
from tsfm_pipeline.evaluation.losses import decision_quantile
from tsfm_pipeline.evaluation.requests import tested_folds, tuning_mask
from tsfm_pipeline.steps.archetypes import Retrieved, retrieve
from tsfm_pipeline.steps.evidence import (
    Floats,
    grid_arrays,
    loss_columns,
    prior_arrays,
    validation_arrays,
    violation_columns,
)


def folds_and_tuners(fleet: Fleet) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each test fold with the numbers of its tuning tenants."""
    folds = fleet.folds
    for fold in tested_folds(folds):
        yield fold, np.flatnonzero(tuning_mask(folds, fold))


def tuning_experience(fleet: Fleet) -> dict[int, TenantExperience]:
    """Return the experience of the tuning tenants of each test fold. It is read from all parts of
    its tables, and every shard of the priors needs all of it.
    """
    return {
        fold: experience(fleet, tuners, fleet.portfolio_mask(fold))
        for fold, tuners in folds_and_tuners(fleet)
    }


def experience(
    fleet: Fleet, tuners: NDArray[np.int64], members: NDArray[np.bool_]
) -> TenantExperience:
    """Return the scaled loss and the violation rate of each configuration over the valid tuning
    requests of each tuning tenant.

    members: the portfolio, bool [K]; all other configurations are NaN.
    """
    requests = fleet.arrays.requests("tuning", only=tuners.tolist())
    losses, violations, scale = tuning_losses(fleet, requests, members)
    invalid = ~requests.valid.ravel()
    scaled = losses[..., : len(fleet.protocol.tiers)] / scale[..., None, None]
    scaled[invalid], violations[invalid] = np.nan, np.nan
    ids = fleet.tenant_ids[requests.tenant_numbers]
    by_request = (*requests.ids.shape, *violations.shape[1:])
    return TenantExperience.from_requests(
        scaled.reshape(by_request), ids, violations.reshape(by_request)
    )


def request_priors(
    known: TenantExperience, found: Retrieved, tenant_ids: Sequence[str]
) -> dict[str, Floats]:
    """Return both priors of R requests {kind: [R, D, K, A]}, each without the request's own tenant
    (`tenant_ids` [R]).
    """
    fleet_prior = {
        tenant_id: known.fleet_prior(tenant_id) for tenant_id in dict.fromkeys(tenant_ids)
    }
    nearest = zip(found.rows, found.similarity, tenant_ids, strict=True)
    return {
        "fleet": np.stack([fleet_prior[tenant_id] for tenant_id in tenant_ids]),
        "retrieved": np.stack(
            [
                known.retrieved_prior(rows, similarity, tenant_id)
                for rows, similarity, tenant_id in nearest
            ]
        ),
    }


def request_violations(
    known: TenantExperience, found: Retrieved, tenant_ids: Sequence[str]
) -> Floats:
    """Return the prior violation rates of R requests [R, D, K, A], each without the request's own
    tenant (`tenant_ids` [R]).
    """
    nearest = zip(found.rows, found.similarity, tenant_ids, strict=True)
    return np.stack(
        [
            known.retrieved_violations(rows, similarity, tenant_id)
            for rows, similarity, tenant_id in nearest
        ]
    )


def config_priors_shard(
    fleet: Fleet, shard: Sequence[int], experience_of: Mapping[int, TenantExperience]
) -> pl.DataFrame:
    """Return the priors of every request of the shard that the search answers or is tuned on: each
    configuration's losses and violations at (other) tuning tenants.

    experience_of: what `tuning_experience` returns.
    """
    names = [config.name for config in fleet.configs]
    tenant_ids = fleet.manifest["tenant_id"]
    frames = []
    for fold, tuners in folds_and_tuners(fleet):
        known = experience_of[fold]
        tested = np.flatnonzero(fleet.folds == fold)
        of_shard = [np.intersect1d(tenants, shard).tolist() for tenants in (tuners, tested)]
        by_role = (
            fleet.arrays.requests("tuning", shard, only=of_shard[0]),
            fleet.arrays.requests("test", shard, only=of_shard[1]),
        )
        for requests in (requests for requests in by_role if requests.ids.size):
            ids = requests.ids.ravel()
            numbers = requests.tenants
            neighbours = retrieve(fleet, fold, requests, k=fleet.settings.search.neighbours)
            request_tenants = tenant_ids.gather(numbers).to_list()
            priors = {
                **request_priors(known, neighbours, request_tenants),
                "violations": request_violations(known, neighbours, request_tenants),
            }
            columns = {
                f"{kind}_{tier}": prior[..., a].astype(np.float32)
                for kind, prior in priors.items()
                for a, tier in enumerate(fleet.protocol.tiers)
            }
            rows = keyed_rows(
                ids, numbers, {"metric": fleet.grid.metrics, "config": names}, columns
            )
            per_request = len(fleet.grid.metrics) * len(names)
            archetypes = pl.Series(
                "archetype",
                np.repeat(np.asarray(neighbours.labels, dtype=object), per_request),
                dtype=pl.String,
            )
            frames.append(rows.with_columns(archetypes, pl.lit(fold, pl.Int32).alias("fold")))
    return pl.concat(frames).sort("fold", "request_id", maintain_order=True)


def search_policy(fleet: Fleet) -> pl.DataFrame:
    """Return one row per test fold: the search's policy and the rivals' shared choices as JSON, all
    fitted on tuning tenants before the test period.

    Choices that need only losses are made on all tuning requests. Choices that need forecasts are
    made on the requests of a seeded draw of tenants.
    """
    rows = []
    for fold, tuners in folds_and_tuners(fleet):
        fitted = fit_search(TuningView(fleet, fold, tuners, fleet.portfolio_mask(fold)))
        rows.append(
            {
                "fold": fold,
                "n_tuning_tenants": len(tuners),
                "n_tuning_requests": fitted.n_requests,
                "policy": fitted.policy.model_dump_json(),
                "shared_choices": fitted.choices.model_dump_json(),
            }
        )
    return pl.DataFrame(rows, schema_overrides={"fold": pl.Int32})


class TuningView:
    """The data that the search of one test fold is fitted on: tuners [N], the numbers of the fold's
    tuning tenants; members bool [K], its portfolio.
    """

    def __init__(
        self, fleet: Fleet, fold: int, tuners: NDArray[np.int64], members: NDArray[np.bool_]
    ) -> None:
        self.fleet = fleet
        self.fold = fold
        self.tuners = tuners
        self.members = members

    def archetypes(self, requests: Requests) -> NDArray[np.str_]:
        """Return the retrieved archetype of each tuning request [R], "" if the fleet has none."""
        return _archetypes(self.fleet, requests, self.fold)

    def priors(self, requests: Requests) -> tuple[dict[str, Floats], Floats]:
        """Return the priors of tuning requests from the other tuning tenants: relative losses
        {kind: [R, D, K, A]} and violation rates [R, D, K, A].
        """
        return prior_arrays(self.fleet, requests, self.fold)


def fit_search(view: TuningView) -> fitting.Fitted:
    """Fit the search's policy and the rivals' shared choices to the requests of the view's tuning
    tenants.
    """
    fleet = view.fleet
    sample, evidence = tuning_data(view)
    return fitting.fit_search(
        fleet.settings.search,
        [config.name for config in fleet.configs],
        view.members,
        fleet.offsets,
        fleet.grid.first_season,
        sample,
        evidence,
        fleet.protocol.tiers,
    )


def tuning_data(view: TuningView) -> tuple[TuningSample, TuningEvidence]:
    """Return the requests of the view's tuning tenants that the search is fitted to: a seeded draw
    of whole tenants where there are more than `search.policy_requests`.
    """
    fleet, search = view.fleet, view.fleet.settings.search
    known = fleet.arrays.requests("tuning", only=view.tuners.tolist())
    losses, _, scale = tuning_losses(fleet, known, view.members)
    seed = (fleet.settings.evaluation.seed, view.fold)
    drawn = fitting.draw_for_requests(
        known.tenant_numbers, search.policy_requests, known.ids.shape[1], seed
    )
    requests = fleet.arrays.requests("tuning", only=drawn.tolist())
    valid, used = known.valid.ravel(), requests.valid.ravel()
    limits = fleet.arrays.limits
    every_decile, actual, scale_of_drawn = grid_arrays(fleet, requests)
    deciles = np.where(view.members[:, None, None], every_decile, np.float32(np.nan))
    sample = TuningSample(
        losses=(losses / scale[..., None, None])[valid],
        owners=known.tenants[valid],
        archetypes=view.archetypes(known)[valid].tolist(),
        decisions=limits.clip(
            np.stack(
                [decision_quantile(deciles[used], alpha) for alpha in fleet.protocol.alphas], axis=3
            ),
            axis=1,
        ),
        spread=level_unit(deciles[used]),
        actual=actual[used],
        scale=scale_of_drawn[used],
        tenants=requests.tenants[used],
        limits=limits,
    )
    evidence, violations = (
        np.where(view.members[:, None, None], part, np.nan)
        for part in validation_arrays(fleet, requests)
    )
    priors, violation_priors = view.priors(requests)
    tuning_evidence = TuningEvidence(
        losses=evidence[used],
        violations=violations[used],
        priors={kind: prior[used] for kind, prior in priors.items()},
        violation_priors=violation_priors[used],
    )
    return sample, tuning_evidence


@lru_cache(maxsize=2)
def read_shared_choices(fleet: Fleet) -> dict[int, SharedChoices]:
    """Return the rivals' shared choices of each test fold."""
    frame = fleet.tables.read("search_policy")
    return {
        row["fold"]: SharedChoices.model_validate_json(row["shared_choices"])
        for row in frame.iter_rows(named=True)
    }


def tuning_losses(
    fleet: Fleet, requests: Requests, members: NDArray[np.bool_]
) -> tuple[Floats, Floats, Floats]:
    """Return raw losses of the tuning requests [R, D, K, A + 1] (last: at the median), violation
    rates [R, D, K, A], and scales of the series [R, D].

    members: the portfolio, bool [K]; all other configurations are NaN.
    """
    shape = (len(fleet.grid.metrics), len(fleet.configs))
    tiers = fleet.protocol.tiers
    columns = fleet.arrays.of(
        "tuning_losses",
        requests,
        [*loss_columns(tiers), "loss_median", *violation_columns(tiers)],
        shape,
    )
    (scale,) = fleet.arrays.of("request_targets", requests, ["scale"], shape[:1])
    known = np.where(members[:, None], np.stack(columns, axis=-1), np.nan).astype(np.float64)
    n_losses = len(tiers) + 1
    return known[..., :n_losses], known[..., n_losses:], scale


def _archetypes(fleet: Fleet, requests: Requests, fold: int) -> NDArray[np.str_]:
    """Return the retrieved archetype of each request [R], "" if the fleet has none."""
    frame = (
        fleet.tables.scan("config_priors")
        .filter(pl.col("fold") == fold)
        .select("request_id", "archetype")
        .unique()
        .collect()
    )
    labels = dict(
        zip(frame["request_id"].to_list(), frame["archetype"].fill_null("").to_list(), strict=True)
    )
    return np.array([labels[int(i)] for i in requests.ids.ravel()], dtype=str)


def describe_policies(fleet: Fleet) -> dict[str, Any]:
    """Return every fold's constants and shared choices, for display."""
    frame = fleet.tables.read("search_policy")
    policies = {
        f"fold {row['fold']}": {
            "tuning tenants": row["n_tuning_tenants"],
            "tuning requests": row["n_tuning_requests"],
            "search": json.loads(row["policy"]),
            "shared choices": json.loads(row["shared_choices"]),
        }
        for row in frame.iter_rows(named=True)
    }
    return {"policies": policies}
