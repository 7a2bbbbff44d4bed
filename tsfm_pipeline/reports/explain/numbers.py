"""Why this is what a tenant should reserve, collected from the stored tables.

What belongs here: the contents of a `TenantExplanation`, and which tenants the fleet's page
explains. What does not: reading the tenant's rows (`tenant`), making any of these figures
(`steps`), wording them (`words`).
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.methods import FIXED, LAST_BLOCK, SEARCH, SEARCH_PEAK
from tsfm_pipeline.evaluation.requests import BASES
from tsfm_pipeline.reports.explain.model import (
    BacktestRow,
    CorrectionRow,
    MissRow,
    NeighbourRow,
    ReservationRow,
    TenantExplanation,
    ValidationRow,
    WeightRow,
)
from tsfm_pipeline.reports.explain.tenant import Tenant

SHOWN_TENANTS = 4
"""Tenants that the fleet's page explains."""
SHOWN_MISSES = 5
SHOWN_CONFIGS = 5
"""Configurations that are shown of a tenant for which no weights are stored."""
LEAST_WEIGHT = 0.01
"""Weight below which a configuration's evidence is not shown."""
WEAKEST_FIRST = BASES[::-1]
TIME = "%Y-%m-%d %H:%M"


class UnknownTenantError(ValueError):
    """The fleet has no tenant of that name; the message names the nearest ones."""


def explain(fleet: Fleet, tenant_id: str) -> TenantExplanation:
    """Return why this is what the tenant should reserve.

    Raises `UnknownTenantError` if the fleet has no such tenant, and `LakeError` if a table that is
    needed is missing or stale.
    """
    tenant = Tenant(fleet, _number_of(fleet, tenant_id))
    reservations = tenant.reservations
    own = [row for row in reservations if row["own_tier"]]
    made = [row for row in own if row["made"]]
    weights, validation = _evidence(tenant)
    return TenantExplanation(
        fleet=fleet.name,
        profile=fleet.settings.profile,
        tenant_id=tenant_id,
        tier=tenant.tier,
        alpha=fleet.protocol.tiers[tenant.tier],
        archetype=own[0]["archetype"],
        basis=min((row["basis"] for row in made or own), key=WEAKEST_FIRST.index),
        block_start=f"{own[0]['block_start']:{TIME}}",
        block_end=f"{own[0]['block_end']:{TIME}}",
        block_minutes=fleet.spec.horizon * fleet.grid.step_minutes,
        rule=tenant.policy.tiers[tenant.tier].default,
        scored_request=tenant.scored and f"{tenant.scored.time:{TIME}}",
        scored_role=tenant.scored and tenant.scored.role,
        table_reservations=tuple(
            ReservationRow.from_flat(
                {name: row[name] for name in ReservationRow.model_fields if name in row}
            )
            for row in reservations
        ),
        table_weights=weights,
        table_validation=validation,
        table_corrections=_corrections(tenant),
        table_neighbours=_neighbours(tenant),
        table_backtest=_backtest(tenant),
        table_misses=_misses(tenant),
    )


def most_expensive_misses(fleet: Fleet) -> tuple[TenantExplanation, ...]:
    """Return the explanations of the tenants whose worst misses cost most, in units of each series'
    scale: the largest shortfall of the search's constants at the tenant's own tier.
    """
    own = fleet.manifest.select("tenant_number", "tenant_id", "tier")
    scores = fleet.tables.scan("recommendation_scores").filter(pl.col("method") == SEARCH)
    scales = fleet.tables.scan("request_targets").select("request_id", "metric", "scale")
    requests = fleet.tables.scan("forecast_requests").filter("valid").select("request_id")
    worst = (
        scores.select("request_id", "tenant_number", "metric", "tier", "shortfall")
        .join(own.lazy(), on=["tenant_number", "tier"])
        .join(requests, on="request_id")
        .join(scales, on=["request_id", "metric"])
        .with_columns((pl.col("shortfall") / pl.col("scale")).alias("scaled"))
        .filter(pl.col("scaled").is_finite())
        .group_by("tenant_id")
        .agg(pl.col("scaled").max())
        .sort("scaled", "tenant_id", descending=[True, False])
        .head(SHOWN_TENANTS)
        .collect()
    )
    return tuple(explain(fleet, tenant_id) for tenant_id in worst["tenant_id"])


def _number_of(fleet: Fleet, tenant_id: str) -> int:
    ids = fleet.manifest["tenant_id"].to_list()
    if tenant_id in ids:
        return ids.index(tenant_id)
    lower = {name.lower(): name for name in ids}
    near = [
        lower[name]
        for name in difflib.get_close_matches(tenant_id.lower(), lower, n=SHOWN_MISSES, cutoff=0.5)
    ]
    names = (
        f"did you mean {', '.join(map(repr, near))}?"
        if near
        else f"it has {len(ids)} tenants, such as {', '.join(map(repr, ids[:SHOWN_MISSES]))}"
    )
    raise UnknownTenantError(f"fleet {fleet.name!r} has no tenant {tenant_id!r}; {names}")


def _evidence(tenant: Tenant) -> tuple[tuple[WeightRow, ...], tuple[ValidationRow, ...]]:
    """Return weights and validation losses of the configurations with weight and of the fixed one,
    at the scored request: heaviest first, for a tuning tenant cheapest first.
    """
    if tenant.scored is None:
        return (), ()
    step_minutes, column = tenant.fleet.grid.step_minutes, f"loss_{tenant.tier}"
    losses = tenant.scored_rows("validation_losses").select(
        "metric", "config", "offset_steps", loss=pl.col(column).fill_nan(None)
    )
    losses = losses.filter(pl.col("offset_steps").is_in(tenant.heard_offsets))
    if not losses.height:  # a test tenant without a valid test request, which never tunes either
        return (), ()
    weights: list[WeightRow] = []
    validation: list[ValidationRow] = []
    for metric in tenant.fleet.grid.metrics:
        decided = tenant.decided.get(metric)
        of_metric = losses.filter(pl.col("metric") == metric)
        rows = []
        for k, config in enumerate(tenant.configs):
            own = of_metric.filter(pl.col("config") == config)
            rows.append(
                WeightRow(
                    metric=metric,
                    config=config,
                    is_fixed=config == tenant.fixed,
                    weight=decided and decided["weights"][k],
                    posterior=decided and decided["posterior"][k],
                    mean_validation_loss=own["loss"].mean(),
                    n_validation_origins=own["loss"].count(),
                )
            )
        rows.sort(
            key=lambda row: (
                -np.nan_to_num(row.weight),
                np.nan_to_num(row.mean_validation_loss, nan=np.inf),
            )
        )
        cheapest = rows[:SHOWN_CONFIGS] if decided is None else []
        shown = [
            row for row in rows if row.is_fixed or row in cheapest or row.weight >= LEAST_WEIGHT
        ]
        weights += shown
        for row in shown:
            own = of_metric.filter(pl.col("config") == row.config).sort("offset_steps")
            validation += [
                ValidationRow(
                    metric=metric,
                    config=row.config,
                    offset_steps=offset,
                    offset_minutes=offset * step_minutes,
                    loss=loss,
                )
                for offset, loss in own.select("offset_steps", "loss").iter_rows()
            ]
    return tuple(weights), tuple(validation)


def _corrections(tenant: Tenant) -> tuple[CorrectionRow, ...]:
    known = tenant.fleet.tables.read("block_calibration").filter(
        (pl.col("fold") == tenant.fold) & (pl.col("tier") == tenant.tier)
    )
    by_metric = {row["metric"]: row for row in known.iter_rows(named=True)}
    return tuple(
        CorrectionRow(
            metric=metric,
            shift=tenant.decided[metric]["shift"] if metric in tenant.decided else None,
            violation_rate=by_metric[metric]["violation_rate"],
            violation_rate_target=round(1 - tenant.fleet.protocol.tiers[tenant.tier], 10),
            peak_factor=by_metric[metric]["peak_factor"],
            n_blocks=by_metric[metric]["n_blocks"],
        )
        for metric in tenant.fleet.grid.metrics
    )


def _neighbours(tenant: Tenant) -> tuple[NeighbourRow, ...]:
    """Return the tuning tenants whose experience the recommendation drew on, nearest first."""
    from tsfm_pipeline.steps.archetypes import retrieve, window_index

    fleet, fold = tenant.fleet, tenant.fold
    found = retrieve(fleet, fold, tenant.upcoming, k=fleet.settings.search.neighbours)
    known = window_index(fleet, fold, "request").index
    return tuple(
        NeighbourRow(
            rank=rank,
            tenant_id=str(known.tenant_ids[row]),
            archetype=str(known.archetypes[row]) or None,
            similarity=float(similarity),
        )
        for rank, (row, similarity) in enumerate(
            zip(found.rows[0], found.similarity[0], strict=True), start=1
        )
    )


def _backtest(tenant: Tenant) -> tuple[BacktestRow, ...]:
    scores = tenant.constants(SEARCH, FIXED, LAST_BLOCK, SEARCH_PEAK)
    if not scores.height:
        return ()

    def ratio(rows: pl.DataFrame, rival: str) -> float | None:
        """Return the ratio of summed losses at the requests that both could answer."""
        pairs = rows.filter(pl.col("method").is_in([SEARCH, rival])).pivot(
            on="method", index="request_id", values="loss"
        )
        both = pairs.filter(pl.all_horizontal(pl.col(SEARCH, rival).is_finite()))
        cost = float(both[rival].sum())
        return float(both[SEARCH].sum()) / cost if cost > 0 else None

    rows = []
    for metric in tenant.fleet.grid.metrics:
        own = scores.filter(pl.col("metric") == metric)
        searched = own.filter(pl.col("method") == SEARCH)
        peak = own.filter(pl.col("method") == SEARCH_PEAK)
        rows.append(
            BacktestRow(
                metric=metric,
                n_requests=searched.height,
                ratio_fixed=ratio(own, FIXED),
                ratio_last_block=ratio(own, LAST_BLOCK),
                violation_rate=searched["violation_rate"].fill_nan(None).mean(),
                violation_rate_target=round(1 - tenant.fleet.protocol.tiers[tenant.tier], 10),
                covered=peak["covered"].fill_nan(None).mean(),
            )
        )
    return tuple(rows)


def _misses(tenant: Tenant) -> tuple[MissRow, ...]:
    """Return the latest test requests in which the load exceeded the reservation."""
    scores, grid = tenant.constants(SEARCH), tenant.fleet.grid
    if not scores.height:
        return ()
    # Not by the shortfall, which rounding leaves a little above 0 where nothing was lacking.
    missed = scores.filter(pl.col("violation_rate").fill_nan(0) > 0).sort(
        "origin_step", "shortfall", descending=True, maintain_order=True
    )
    targets = tenant.fleet.arrays.rows("request_targets", tenant.tested).select(
        "request_id", "metric", "actual"
    )
    latest = missed.head(SHOWN_MISSES).join(
        targets.collect(), on=["request_id", "metric"], maintain_order="left"
    )
    return tuple(_miss(row, grid) for row in latest.iter_rows(named=True))


def _miss(row: Mapping[str, Any], grid: Any) -> MissRow:
    actual: Sequence[float] = row["actual"]
    observed = np.array(actual, dtype=np.float64)
    n_observed = int((~np.isnan(observed)).sum())
    n_above = round(row["violation_rate"] * n_observed)
    return MissRow(
        metric=row["metric"],
        block_start=f"{grid.time_of(row['origin_step'] + 1):{TIME}}",
        block_end=f"{grid.time_of(row['origin_step'] + len(actual)):{TIME}}",
        reservation=row["reservation"],
        highest=float(np.nanmax(observed)),
        n_above=n_above,
        n_observed=n_observed,
        minutes_above=n_above * grid.step_minutes,
        shortfall=row["shortfall"],
    )
