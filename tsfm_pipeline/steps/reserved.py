"""What is reserved today, beside what would have been recommended, at every test request.

What belongs here: the columns of a table fleet that hold today's reservations, and their scores
beside those of the recommended constants. What does not: the recommended constants
(`steps.blocks`), means and intervals over requests (`reports.recommendations`).
Axes: N tenants, O origins, R = N * O requests, D metrics with such a column, A tiers, H horizon.

The columns are read from the fleet's own table, which the fingerprint of its telemetry covers, when
a report asks for them. They are no telemetry, so no table of the lake holds them.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.catalogue.arrays import Requests
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.rows import keyed_rows
from tsfm_pipeline.evaluation.arrays import targets_after
from tsfm_pipeline.evaluation.methods import BLOCK_CONSTANTS, SEARCH, SEARCH_PEAK
from tsfm_pipeline.fleets import open_fleet
from tsfm_pipeline.fleets.fields import Bounds
from tsfm_pipeline.fleets.kinds import SqlFleet, TableFleet
from tsfm_pipeline.steps.evidence import Floats, by_request, target_arrays
from tsfm_pipeline.steps.recommendations import intermittent


class Scores(NamedTuple):
    """The mean of a reservation, the share of steps above it, and the mean slack and shortfall,
    each [...].
    """

    reservation: Floats
    violation_rate: Floats
    slack: Floats
    shortfall: Floats


def reserved_metrics(fleet: Fleet) -> tuple[str, ...]:
    """Return the metrics of which the fleet's table says what is reserved today, in their order."""
    spec = fleet.spec
    if not isinstance(spec, TableFleet | SqlFleet):
        return ()
    return tuple(metric for metric in fleet.grid.metrics if metric in spec.reserved_columns)


def reserved_scores(fleet: Fleet) -> pl.DataFrame:
    """Return one row per valid test request, metric with a reserved column, and tier: `Scores` of
    what was reserved (`<name>_today`) and of what would have been recommended (`<name>`), over the
    steps at which both the load and today's reservation are known; NaN where there are none.
    """
    frames = [_shard_scores(fleet, *part) for part in _shards(fleet)]
    return pl.concat(frames)


def _shards(fleet: Fleet) -> Iterator[tuple[Requests, NDArray[np.float32], Floats]]:
    """Yield the test requests of each shard, the telemetry [N, ., T] of their tenants, and what is
    reserved after them [R, D, H].
    """
    spec, metrics = fleet.spec, reserved_metrics(fleet)
    assert isinstance(spec, TableFleet | SqlFleet)
    columns = tuple(dict.fromkeys(spec.reserved_columns[metric] for metric in metrics))
    as_metrics = {
        "metrics": (*fleet.grid.metrics, *columns),
        "bounds": spec.bounds | dict.fromkeys(columns, Bounds()),
        "reserved_columns": {},
    }
    source = open_fleet(
        spec.model_copy(update=as_metrics),
        fleets_dir=fleet.settings.fleet_tables_dir,
        raw_dir=fleet.raw_dir,
    )
    rows = [len(fleet.grid.metrics) + columns.index(spec.reserved_columns[m]) for m in metrics]
    for shard in fleet.cohort_shards:
        requests = fleet.arrays.requests("test", shard)
        if not len(requests.rows):
            continue
        reserved = source.values(requests.tenant_numbers.tolist())[:, rows]
        flat = np.ascontiguousarray(reserved).reshape(-1, reserved.shape[-1])
        after = targets_after(flat, requests.series_origins(len(rows)), fleet.spec.horizon)
        telemetry = fleet.arrays.values(shard)[requests.rows]
        yield requests, telemetry, by_request(after, len(rows))


def _shard_scores(
    fleet: Fleet, requests: Requests, telemetry: NDArray[np.float32], today: Floats
) -> pl.DataFrame:
    metrics, tiers = reserved_metrics(fleet), list(fleet.protocol.tiers)
    positions = [fleet.grid.metrics.index(metric) for metric in metrics]
    actual = target_arrays(fleet, requests)[0][:, positions]
    (constants,) = fleet.arrays.of(
        "recommendation_scores",
        requests,
        ["reservation"],
        (len(fleet.grid.metrics), len(BLOCK_CONSTANTS), len(tiers)),
    )
    names = list(BLOCK_CONSTANTS)
    steps, peak = (
        constants[:, positions, names.index(name)].astype(np.float64)
        for name in (SEARCH, SEARCH_PEAK)
    )
    seldom = np.repeat(
        np.isfinite(intermittent(fleet, requests.tenant_numbers, telemetry))[:, positions],
        requests.ids.shape[1],
        axis=0,
    )  # [R, D]
    recommended = np.where(seldom[..., None] & np.isfinite(peak), peak, steps)  # [R, D, A]
    known = np.isfinite(actual) & np.isfinite(today)
    of_today = scores(actual, today, known)
    columns = {
        f"{name}_today": np.repeat(part[..., None], len(tiers), axis=-1)
        for name, part in of_today._asdict().items()
    }
    per_tier = [
        scores(actual, np.broadcast_to(recommended[..., a, None], actual.shape), known)
        for a in range(len(tiers))
    ]
    columns |= {
        name: np.stack([getattr(part, name) for part in per_tier], axis=-1)
        for name in Scores._fields
    }
    axes: dict[str, Sequence[str]] = {"metric": metrics, "tier": tiers}
    rows = keyed_rows(requests.ids.ravel(), requests.tenants, axes, columns)
    valid = requests.frame.filter(pl.col("valid")).select(
        "request_id", day=pl.col("origin_time").cast(pl.Date)
    )
    return rows.join(valid, on="request_id", how="inner", maintain_order="left")


def scores(actual: Floats, reserved: Floats, known: NDArray[np.bool_]) -> Scores:
    """Return the scores of reservations at the steps that are known: all [..., H]."""
    n_known = known.sum(axis=-1)

    def mean(values: NDArray[Any]) -> Floats:
        total = np.where(known, values, 0.0).sum(axis=-1)
        return np.where(n_known > 0, total / np.maximum(n_known, 1), np.nan)

    above = reserved - actual
    return Scores(
        mean(reserved), mean(above < 0), mean(np.maximum(above, 0)), mean(-np.minimum(above, 0))
    )
