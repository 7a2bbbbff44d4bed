"""Requests: the (tenant, origin) pairs of a fleet, and which of them are valid.

What belongs here: the table `forecast_requests`. What does not: the rules behind it
(`evaluation.requests`), the forecasts at a request (`forecasts`).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch.basis import FACTS, History, bases_of
from tsfm_pipeline.autoresearch.space import candidates, is_plain, validation_offsets
from tsfm_pipeline.catalogue.arrays import panel_of
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.time_grid import TimeGrid
from tsfm_pipeline.evaluation.requests import (
    OUTSIDE,
    ROLES,
    minimum_history,
    request_origins,
    request_validity,
    tested_folds,
    tuning_mask,
)
from tsfm_pipeline.fleets.spec import FleetSpec
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.steps.workloads import spans_of

MAX_ORIGINS = 10_000
"""The requests of one tenant are numbered tenant_number * MAX_ORIGINS + 0, 1, ...; its test
requests follow its tuning requests.
"""


def forecast_requests(fleet: Fleet) -> pl.DataFrame:
    """Return every request of the cohort: tuning requests of all of its tenants from before the
    test period, and test requests of its test tenants.

    A tenant whose history is too short for its requests still has rows, marked invalid with the
    reason. They are counted and do not affect other tenants. Raises ValueError if the tuning
    tenants of a fold, or the test tenants together, have no valid request.

    The table is made whole, because two rules look at all requests together: which answers are cold
    depends on the shortest history of any valid request, and a fleet without a valid request is
    refused. It holds a few hundred bytes per request, and reads one shard of telemetry at a time.
    """

    def tenants() -> Iterator[tuple[dict[str, Any], NDArray[np.float32]]]:
        for shard in fleet.cohort_shards:
            rows = fleet.manifest[shard]
            yield from zip(rows.iter_rows(named=True), fleet.arrays.values(shard), strict=True)

    manifest = fleet.manifest
    requests = sample_requests(fleet.spec, fleet.grid, manifest, tenants(), fleet.settings)
    _require_some_valid(fleet, requests, history_needed(manifest))
    return requests


def sample_requests(
    spec: FleetSpec,
    grid: TimeGrid,
    manifest: pl.DataFrame,
    tenants: Iterable[tuple[dict[str, Any], NDArray[np.float32]]],
    settings: Settings,
) -> pl.DataFrame:
    """Return the rows of `forecast_requests` of a fleet that need not be stored.

    manifest: one row per tenant, with its fold; tenants: each of these rows with the tenant's
    values [D, T]. Tenants outside of the cohort are passed over.
    """
    n_origins, seed = spec.origins_per_tenant, settings.evaluation.seed
    needed, spans = history_needed(manifest), spans_of(manifest, grid, spec)
    offsets = validation_offsets(settings.search, spec.horizon, grid.first_season)
    frames = []
    for tenant, values in tenants:
        if tenant["fold"] == OUTSIDE:
            continue
        number, history = tenant["tenant_number"], history_of(spec, grid, offsets, values)
        for role in ROLES if tenant["fold"] >= 0 else ROLES[:1]:
            begin, stop = (int(step) for step in spans.steps[role][number])
            origins, placed = request_origins(
                n_origins,
                begin,
                stop,
                number,
                seed if role == "test" else seed + 1,
                steps_per_day=grid.steps_per_day,
                askable=history.askable(needed),
            )
            valid, reasons = request_validity(history.observed, origins, spec.horizon, needed)
            no_room = (
                f"no room: {placed.sum()} of {n_origins} {role} requests fit into the tenant's "
                f"{role} period"
            )
            nothing = stop > begin and not placed.any()
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
                        "reason": np.where(placed | nothing, reasons, no_room).tolist(),
                        **history.facts(origins),
                    }
                )
            )
    return _with_basis(pl.concat(frames).sort("request_id"), plain_contexts(settings), needed)


def history_of(
    spec: FleetSpec, grid: TimeGrid, offsets: Sequence[int], values: NDArray[np.float32]
) -> History:
    """Return one tenant's history: values [D, T]; offsets: validation origins, in steps before a
    request.
    """
    panel = panel_of(spec, grid.metrics, grid.seasons, values)
    return History(panel, offsets, spec.horizon, own=spec.calendar == "own")


def fleet_history(fleet: Fleet, values: NDArray[np.float32]) -> History:
    """Return the history of one tenant of a fleet: values [D, T]."""
    return history_of(fleet.spec, fleet.grid, fleet.offsets, values)


def _with_basis(requests: pl.DataFrame, contexts: Sequence[int], needed: int) -> pl.DataFrame:
    """Return the requests with `basis` in place of the facts that it follows from. A request is
    cold if none of the candidates could be validated, of which the shortest sees the least of
    `contexts`, or the `needed` steps where a request has fewer.
    """
    least = requests.filter("valid")["n_known"].to_list()
    shortest = min(contexts, default=needed)
    if shortest > min(least, default=shortest):
        shortest = needed
    facts = {name: requests[name].to_numpy() for name in FACTS}
    of_requests = pl.Series(bases_of(facts, contexts, shortest), dtype=pl.String)
    basis = pl.when("valid").then(of_requests).otherwise(pl.lit("")).alias("basis")
    return requests.drop(FACTS[1:]).with_columns(pl.col("n_known").cast(pl.Int32), basis)


def plain_contexts(settings: Settings) -> list[int]:
    """Return the contexts of the candidates that see the telemetry itself."""
    return [c.context_len for c in candidates(settings.search) if is_plain(c)]


def history_needed(manifest: pl.DataFrame) -> int:
    """Return the number of values that a request of these tenants needs (`minimum_history`)."""
    return minimum_history(manifest["first_step"].to_numpy(), manifest["last_step"].to_numpy())


def _require_some_valid(fleet: Fleet, requests: pl.DataFrame, needed: int) -> None:
    folds = fleet.folds
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
                f"allowed: at least one tenant with {needed} values and {horizon} steps after them "
                "in its test period (the last seven days, or 20 %), and one in the equally long "
                "period before it. Give more history, lower 'horizon', or set 'calendar: own' if "
                "tenants live at different times"
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
