"""Requests: the (tenant, origin) pairs of a fleet, and which of them are valid.

What belongs here: the table `forecast_requests`. What does not: the rules behind it
(`evaluation.requests`), the forecasts at a request (`forecasts`).
"""

from typing import Any

import numpy as np
import polars as pl

from tsfm_pipeline.autoresearch.space import candidates
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.requests import (
    ROLES,
    minimum_history,
    request_origins,
    request_validity,
    tested_folds,
    tuning_mask,
)
from tsfm_pipeline.steps.workloads import spans_of

MAX_ORIGINS = 10_000
"""The requests of one tenant are numbered tenant_number * MAX_ORIGINS + 0, 1, ...; its test
requests follow its tuning requests.
"""


def forecast_requests(fleet: Fleet) -> pl.DataFrame:
    """Return every request: tuning requests of all tenants from before the test period, and test
    requests of the test tenants.

    A tenant whose history is too short for its requests still has rows, marked invalid with the
    reason. They are counted and do not affect other tenants. Raises ValueError if the tuning
    tenants of a fold, or the test tenants together, have no valid request.
    """
    spec, grid, manifest = fleet.spec, fleet.grid, fleet.manifest
    n_origins = spec.origins_per_tenant
    seed = fleet.settings.evaluation.seed
    lookback = max(
        config.context_len for config in candidates(fleet.settings.search) if config.resolution == 1
    )
    needed = minimum_history(grid.seasons)
    spans = spans_of(manifest, grid, spec.horizon)
    frames = []
    for shard in fleet.shards:
        observed = np.asarray(~np.isnan(fleet.arrays.values(shard)).any(axis=1))  # [N, T]
        for row, tenant in enumerate(
            manifest.filter(pl.col("tenant_number").is_in(shard)).iter_rows(named=True)
        ):
            number = tenant["tenant_number"]
            for role in ROLES if tenant["fold"] >= 0 else ROLES[:1]:
                begin, stop = (int(step) for step in spans.steps[role][number])
                role_seed = seed if role == "test" else seed + 1
                origins, placed = request_origins(
                    n_origins, begin, stop, number, role_seed, steps_per_day=grid.steps_per_day
                )
                valid, reasons = request_validity(
                    observed[row],
                    origins,
                    lookback,
                    spec.horizon,
                    spec.max_gap,
                    minimum_history=needed,
                )
                no_room = (
                    f"no room: {stop - begin} of {n_origins} {role} requests fit into the "
                    f"tenant's {role} period"
                )
                base = number * MAX_ORIGINS + (n_origins if role == "test" else 0)
                frames.append(
                    pl.DataFrame(
                        {
                            "request_id": base + np.arange(n_origins),
                            "tenant_number": np.full(n_origins, number, np.int32),
                            "tenant_id": [tenant["tenant_id"]] * n_origins,
                            "fold": np.full(n_origins, tenant["fold"], np.int32),
                            "role": [role] * n_origins,
                            "origin_step": origins.astype(np.int32),
                            "origin_time": [grid.time_of(step) for step in origins],
                            "valid": valid & placed,
                            "reason": np.where(placed, reasons, no_room).tolist(),
                        }
                    )
                )
    requests = pl.concat(frames).sort("request_id")
    _require_some_valid(fleet, requests, needed)
    return requests


def _require_some_valid(fleet: Fleet, requests: pl.DataFrame, needed: int) -> None:
    folds = fleet.manifest["fold"].to_numpy().astype(np.int64)
    groups = [
        ("test", np.ones(len(folds), dtype=bool)),
        *(("tuning", tuning_mask(folds, fold)) for fold in tested_folds(folds)),
    ]
    for role, is_member in groups:
        role_requests = requests.filter(
            (pl.col("role") == role)
            & pl.col("tenant_number").is_in(np.flatnonzero(is_member).tolist())
        )
        if not role_requests["valid"].any():
            reasons = "; ".join(
                f"{reason} ({n} requests)"
                for reason, n in role_requests["reason"].value_counts(sort=True).head(3).iter_rows()
            )
            n_tenants, horizon = role_requests["tenant_id"].n_unique(), fleet.spec.horizon
            raise ValueError(
                f"fleet {fleet.name!r}: none of the {role_requests.height} {role} requests of "
                f"{n_tenants} tenants is valid: {reasons}; "
                f"allowed: at least one tenant with {needed} steps of history and {horizon} steps "
                "after them in its test period (the last "
                "seven days, or 20 %), and one in the equally long period before it. Give more "
                "history, lower 'horizon' or raise 'max_gap'"
            )


def tenants_without_requests(requests: pl.DataFrame) -> dict[str, str]:
    """Return the tenants without a valid request, with the most frequent reason; `requests` must
    all have the same role.
    """
    reasons = requests.group_by("tenant_id", maintain_order=True).agg(
        pl.col("valid").any(), pl.col("reason").mode().sort().first()
    )
    return dict(reasons.filter(~pl.col("valid")).select("tenant_id", "reason").iter_rows())


def describe_requests(fleet: Fleet) -> dict[str, Any]:
    """Return counts of requests by role, of invalid requests, and of tenants without a valid one,
    with an excerpt of the invalid requests.
    """
    frame = fleet.tables.read("forecast_requests")
    invalid = frame.filter(~pl.col("valid"))
    counts = {
        f"n_{role}_requests": n for role, n in frame.group_by("role").len().sort("role").iter_rows()
    }
    counts |= {
        f"n_tenants_without_{role}_requests": len(
            tenants_without_requests(frame.filter(pl.col("role") == role))
        )
        for role in ROLES
    }
    excerpt = invalid.select("tenant_id", "origin_time", "role", "reason").head(20)
    lines = ["| tenant | origin | role | reason |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(str(value) for value in row)} |" for row in excerpt.iter_rows()]
    return (
        counts
        | {"n_invalid_requests": invalid.height}
        | ({"invalid_requests": "\n".join(lines)} if invalid.height else {})
    )
