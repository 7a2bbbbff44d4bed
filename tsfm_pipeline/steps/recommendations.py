"""Recommendations: one constant reservation per tenant, metric and tier for the block that follows
the tenant's telemetry.

What belongs here: the table `recommendations`, made by the search of the fleet's bundle. What does
not: the evidence and decisions (`steps.live`), the constants (`steps.blocks`), the published files
(`reports.recommendations.publication`), their later review (`reports.recommendations.review`).
Axes: N tenants, O origins, R = N * O requests, D metrics, K configurations, A tiers, H steps of a
block.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch.basis import bases_of
from tsfm_pipeline.autoresearch.bundle import LoadedForecaster
from tsfm_pipeline.catalogue.arrays import Requests
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.rows import keyed_rows
from tsfm_pipeline.evaluation.blocks import expected_excess, pooled_quantiles
from tsfm_pipeline.evaluation.intermittence import demand_intervals
from tsfm_pipeline.evaluation.requests import request_validity
from tsfm_pipeline.steps.blocks import (
    fixed_deciles,
    last_block_constants,
    step_constants,
)
from tsfm_pipeline.steps.live import LiveBatch, Recommender, next_requests
from tsfm_pipeline.steps.requests import fleet_history, history_needed, plain_contexts

UNSCORED = "not covered by the backtest: "
INTERMITTENT = "intermittent: "
"""How the notes begin of series that are idle at most steps."""


@lru_cache(maxsize=1)
def _recommender(fleet: Fleet, forecaster: LoadedForecaster) -> Recommender:
    """Return the recommender that the shards of one run share."""
    return Recommender(fleet, forecaster)


def recommendations_shard(
    fleet: Fleet,
    shard: Sequence[int],
    forecaster: LoadedForecaster,
) -> pl.DataFrame:
    """Return the recommendations for the shard's tenants: tenant x metric x tier."""
    recommender = _recommender(fleet, forecaster)  # type: ignore[arg-type]
    return rows_of(recommender.batch(next_requests(fleet, shard), fleet.arrays.values(shard)))


def rows_of(batch: LiveBatch) -> pl.DataFrame:
    """Return the table's rows for requests with one origin per tenant."""
    fleet, requests, decided, constants = (
        batch.fleet,
        batch.requests,
        batch.decision,
        batch.constants,
    )
    shape = constants.steps.shape  # [R, D, A]
    fresh, notes = _notes(fleet, batch.values, requests.origins[:, 0])
    made = fresh[..., None] & np.isfinite(constants.steps)
    names = np.array([config.name for config in batch.configs])
    weights = np.nan_to_num(decided.weights)  # [R, D, A, K]
    heaviest = weights.argmax(axis=-1)
    deciles_of_fixed, fixed = fixed_deciles(batch, batch.recommender.fixed)
    loss_of_heaviest = np.take_along_axis(decided.posterior, heaviest[..., None], axis=-1)[..., 0]
    loss_of_fixed = np.where(fixed > 0, decided.posterior, 0.0).sum(axis=-1)
    limits = fleet.arrays.limits
    metric = np.broadcast_to(np.arange(shape[1])[None, :, None], shape)
    expected = expected_excess(batch.searched, constants.steps, limits.take(metric.ravel()))
    median = limits.clip(pooled_quantiles(batch.searched, (0.5,))[..., 0], axis=1)
    # Ordered tiers may have exchanged constants; no tier from 0.5 on reserves less than its median.
    upper_half = np.asarray(fleet.protocol.alphas) >= 0.5
    median = np.where(upper_half, np.minimum(median, constants.steps), median)
    intervals = intermittent(fleet, requests.tenant_numbers, batch.values)  # [R, D]
    violations = np.stack(
        [batch.recommender.calibration.violations[int(fold)] for fold in batch.folds]
    )
    n_windows = np.isfinite(batch.evidence[0][..., 0]).any(axis=2).sum(axis=-1)  # [R, D]
    archetypes, alike = batch.groups
    own_tier = np.array(
        [tier == np.array(list(fleet.protocol.tiers)) for tier in _of(fleet, requests, "tier")]
    )

    def per_row(values: NDArray[Any], *axes: int) -> NDArray[Any]:
        """Broadcast an array over some of the axes (R, D, A) to all of them."""
        return np.broadcast_to(
            values.reshape([n if axis in axes else 1 for axis, n in enumerate(shape)]), shape
        )

    last_block = last_block_constants(fleet, batch.values, requests)
    figures = {
        "reservation": constants.steps,
        "reservation_max": constants.peak,
        "reservation_median": median,
        "reservation_fixed": step_constants(fleet, deciles_of_fixed),
        "reservation_last_block": last_block,
        "config_weight": weights.max(axis=-1),
        "expected_violation_rate": violations,
        "relative_validation_loss": loss_of_heaviest
        / np.where(loss_of_fixed > 0, loss_of_fixed, np.nan),
        "expected_slack": expected.slack,
        "expected_shortfall": expected.shortfall,
    }
    unmade = np.where(
        notes[..., None] != "",
        notes[..., None],
        "no configuration can be used on so little history",
    )
    columns: dict[str, NDArray[Any]] = {
        "tenant_id": per_row(np.array(_of(fleet, requests, "tenant_id"), dtype=str), 0),
        "own_tier": per_row(own_tier, 0, 2),
        "origin": per_row(requests.origins[:, 0], 0),
        "made": made,
        "note": np.where(made, _advised(notes, intervals, constants.peak), unmade).astype(str),
        **{
            name: np.where(made, figure, np.nan).astype(np.float32)
            for name, figure in figures.items()
        },
        "config": np.where(made, names[heaviest], ""),
        "archetype": per_row(archetypes, 0),
        "look_alike": per_row(alike, 0),
        "n_validation_origins": per_row(n_windows.astype(np.int64), 0, 1),
        "basis": per_row(_bases(fleet, requests, batch.values, n_windows.min(axis=1)), 0),
        "demand_interval": per_row(intervals.astype(np.float32), 0, 1),
    }
    axes = {"metric": fleet.grid.metrics, "tier": list(fleet.protocol.tiers)}
    rows = keyed_rows(requests.ids.ravel(), requests.tenant_numbers, axes, columns)
    first, step_us = fleet.grid.time_of(0), round(fleet.grid.step_minutes * 60_000_000)
    after = (pl.col("origin") + 1) * step_us
    empty_as_null = [
        pl.col(name).replace("", None) for name in ("config", "archetype", "look_alike")
    ]
    return rows.select(
        "tenant_number",
        "tenant_id",
        "metric",
        "tier",
        "own_tier",
        (pl.lit(first).cast(pl.Datetime("us", "UTC")) + after.cast(pl.Duration("us"))).alias(
            "block_start"
        ),
        (
            pl.lit(first).cast(pl.Datetime("us", "UTC"))
            + (after + (fleet.spec.horizon - 1) * step_us).cast(pl.Duration("us"))
        ).alias("block_end"),
        "made",
        "note",
        *(pl.col(name).fill_nan(None) for name in figures),
        *empty_as_null,
        "n_validation_origins",
        "basis",
        pl.col("demand_interval").fill_nan(None),
    )


def intermittent(
    fleet: Fleet, tenants: NDArray[np.integer], values: NDArray[np.float32]
) -> NDArray[np.floating]:
    """Return the demand interval of each series [N, D], from before the tenant's test period; NaN
    where it is not intermittent. tenants [N], values [N, D, T].
    """
    ends = fleet.manifest["test_start_step"].gather(tenants.tolist()).to_numpy()
    flat = values.reshape(-1, values.shape[-1])
    found = demand_intervals(flat, np.repeat(ends, values.shape[1]), fleet.spec.horizon)
    return found.reshape(values.shape[:2])


def _advised(
    notes: NDArray[np.str_], intervals: NDArray[np.floating], peak: NDArray[np.floating]
) -> NDArray[np.str_]:
    """Return the notes [N, D, A], with what to take where a series is intermittent: notes and
    intervals [N, D], peak [N, D, A].
    """
    advised = np.repeat(notes[..., None].astype(object), peak.shape[-1], axis=-1)
    for n, d in np.argwhere(np.isfinite(intervals)):
        busy = f"{INTERMITTENT}busy at one step in {intervals[n, d]:.3g}"
        for a in range(peak.shape[-1]):
            take = "take reservation_max" if np.isfinite(peak[n, d, a]) else "no maximum is known"
            parts = [advised[n, d, a], f"{busy}, {take}"]
            advised[n, d, a] = "; ".join(part for part in parts if part)
    return advised.astype(str)


def _of(fleet: Fleet, requests: Requests, column: str) -> list[Any]:
    return fleet.manifest[column].gather(requests.tenant_numbers.tolist()).to_list()


def _notes(
    fleet: Fleet, values: NDArray[np.float32], origins: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.str_]]:
    """Return which series [N, D] have a recent value at their origin [N], and a note on what is
    wrong with a history by the rules for scored requests [N, D]; "" if nothing is wrong.
    """
    spec, needed = fleet.spec, history_needed(fleet.manifest)
    fresh = np.ones(values.shape[:2], dtype=bool)
    notes = np.full(values.shape[:2], "", dtype=object)
    for n, origin in enumerate(origins):
        for d, observed in enumerate(~np.isnan(values[n, :, : origin + 1])):
            # The block is still to come, so its values must not count as missing.
            ahead = np.concatenate([observed, np.ones(spec.horizon, dtype=bool)])
            _, (reason,) = request_validity(ahead, [origin], spec.horizon, needed)
            silent = int(observed[::-1].argmax()) if observed.any() else len(observed)
            if silent > spec.max_gap:
                fresh[n, d] = False
                notes[n, d] = (
                    f"no value in the last {silent} steps (at most {spec.max_gap} are filled)"
                )
            elif reason:
                notes[n, d] = UNSCORED + reason
    return fresh, notes.astype(str)


def _bases(
    fleet: Fleet,
    requests: Requests,
    values: NDArray[np.float32],
    n_validated: NDArray[np.int64],
) -> NDArray[np.str_]:
    """Return what the answer to each request rests on [R]; values [N, D, T], n_validated [R]: at
    how many earlier origins every metric could be validated.
    """
    facts = [
        fleet_history(fleet, own).facts(origins)
        for own, origins in zip(values[requests.rows], requests.origins, strict=True)
    ]
    joined = {name: np.concatenate([of[name] for of in facts]) for name in facts[0]}
    joined["validation"] = n_validated
    return np.array(bases_of(joined, plain_contexts(fleet.settings), shortest=1), dtype=str)
