"""The table `headline_scores`: every method against the fixed configuration, by tier and scope.

What belongs here: pairing and grouping of requests. What does not: the report (`reports.headline`),
statistics (`evaluation.statistics`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.methods import CONFIG_PREFIX, FIXED
from tsfm_pipeline.evaluation.statistics import (
    RatioInterval,
    two_way_bootstrap,
)

SCALE_FLOOR = 0.5
"""Least scale of a series under `floored_loss`, in units of the median standard deviation of its
metric's series before the test period. Without a floor, one jump of a series that was at rest can
cost more than all other requests.
"""
METHODS_AT_ONCE = 8
"""Number of methods whose scores are joined with their requests at the same time."""


def request_losses(
    fleet: Fleet, methods: Sequence[str], tiers: Sequence[str] | None = None
) -> pl.DataFrame:
    """Return scores of the valid test requests with tenant, archetype, day and scales: one row per
    request x metric x method x tier.

    methods, tiers: the ones to read; all of the fleet's tiers by default. All methods at all tiers
    would take a gigabyte of memory for 500 test tenants; `series_losses` reads them in parts.
    """
    wanted = _quoted(fleet.protocol.tiers if tiers is None else tiers)
    sql = f"""
        WITH series AS (
            SELECT metric, tenant_number, min(std_scale) AS std_scale
            FROM request_targets WHERE NOT isnan(scale) GROUP BY metric, tenant_number
        ), typical AS (SELECT metric, median(std_scale) AS std_scale FROM series GROUP BY metric)
        SELECT s.*, t.scale, t.std_scale, r.tenant_id,
               CAST(r.origin_time AS DATE) AS day, r.origin_step,
               COALESCE(m.archetype, '') AS archetype, s.slack / t.scale AS scaled_slack,
               s.shortfall / t.scale AS scaled_shortfall,
               s.loss / t.std_scale AS std_scaled_loss,
               s.loss / greatest(t.scale, {SCALE_FLOOR} * typical.std_scale) AS floored_loss,
               s.crps / t.scale AS scaled_crps
        FROM scored_forecasts s
        JOIN request_targets t USING (request_id, metric)
        JOIN typical USING (metric)
        JOIN forecast_requests r USING (request_id)
        JOIN tenant_manifest m ON m.tenant_number = s.tenant_number
        WHERE r.valid AND NOT isnan(t.scale)
              AND s.tier IN ({wanted}) AND s.method IN ({_quoted(methods)})
        ORDER BY s.tier, s.method, s.request_id, s.metric
    """
    return fleet.tables.query(
        sql, "scored_forecasts", "request_targets", "forecast_requests", "tenant_manifest"
    )


def _quoted(names: Iterable[str]) -> str:
    """Return names as a list of SQL strings."""
    return ", ".join("'" + name.replace("'", "''") + "'" for name in names)


def per_request(losses: pl.DataFrame, by_metric: bool = False) -> pl.DataFrame:
    """Return means over a request's metrics (its series with a scale): one row per tier, method,
    request; NaN where any metric failed.
    """
    keys = ["tier", "method", "request_id"] + (["metric"] if by_metric else [])
    means = [
        "scaled_loss",
        "std_scaled_loss",
        "floored_loss",
        "violation_rate",
        "scaled_slack",
        "scaled_shortfall",
        "scaled_crps",
    ]
    firsts = ["tenant_number", "archetype", "day", "origin_step"]
    rows = losses.group_by(keys).agg(pl.col(means).mean(), pl.col(firsts).first()).sort(keys)
    # A selected string column keeps the whole buffer of its source in memory. The round trip
    # through categories copies each string once and releases the buffer.
    return rows.with_columns(pl.col(pl.String).cast(pl.Categorical).cast(pl.String))


def series_losses(fleet: Fleet, tier: str) -> Iterator[pl.DataFrame]:
    """Yield `per_request` by metric for every method at one tier, `METHODS_AT_ONCE` methods at a
    time to limit memory.
    """
    methods = fleet.tables.query(
        "SELECT DISTINCT method FROM scored_forecasts", "scored_forecasts"
    )["method"].sort()
    for start in range(0, len(methods), METHODS_AT_ONCE):
        yield per_request(
            request_losses(fleet, methods[start : start + METHODS_AT_ONCE].to_list(), [tier]),
            by_metric=True,
        )


def headline_scores(fleet: Fleet) -> pl.DataFrame:
    """Compare every method with the fixed configuration at the alpha-quantile: tier x method x
    scope, with two-way bootstrap intervals.
    """
    rows = []
    for tier in fleet.protocol.tiers:
        fixed = _by_scope(per_request(request_losses(fleet, [FIXED], [tier]), by_metric=True))
        for series in series_losses(fleet, tier):
            for (method,), frame in series.partition_by(
                "method", as_dict=True, maintain_order=True
            ).items():
                rows += _scope_rows(fleet, tier, str(method), _by_scope(frame), fixed)
    return pl.DataFrame(rows).sort("tier", "scope", "scope_value", "mean_scaled_loss", "method")


def _by_scope(series: pl.DataFrame) -> dict[tuple[str, str], pl.DataFrame]:
    """Return one method's losses by scope and value, from its losses by metric: a row per request,
    or per series if the scope is metric.
    """
    overall = per_request(series)
    frames = {("all", ""): overall}
    for scope, table in (("archetype", overall), ("metric", series)):
        values = [value for value in table[scope].unique().sort().to_list() if value]
        frames |= {(scope, value): table.filter(pl.col(scope) == value) for value in values}
    return frames


def _scope_rows(
    fleet: Fleet,
    tier: str,
    method: str,
    scopes: Mapping[tuple[str, str], pl.DataFrame],
    fixed: Mapping[tuple[str, str], pl.DataFrame],
) -> list[dict[str, Any]]:
    """Return one method's rows of `headline_scores` at one tier; single configurations have only
    the scope "all".
    """
    evaluation = fleet.settings.evaluation
    rows = []
    for (scope, value), frame in scopes.items():
        if scope != "all" and method.startswith(CONFIG_PREFIX):
            continue
        draws = evaluation.bootstrap if scope == "all" else evaluation.group_bootstrap
        interval = compared(frame, fixed[scope, value], "scaled_loss", **draws)
        rows.append(
            {
                "tier": tier,
                "scope": scope,
                "scope_value": value,
                "method": method,
                "mean_scaled_loss": _mean(frame["scaled_loss"]),
                "ratio": interval.ratio,
                "ratio_low": interval.low,
                "ratio_high": interval.high,
                "win_rate": interval.win_rate,
                "win_rate_low": interval.win_low,
                "win_rate_high": interval.win_high,
                "violation_rate": _mean(frame["violation_rate"]),
                "mean_scaled_slack": _mean(frame["scaled_slack"]),
                "mean_scaled_crps": _mean(frame["scaled_crps"]),
                "n_requests": interval.n_requests,
                "n_tenants": interval.n_tenants,
                "n_days": interval.n_days,
                "n_failed": int(frame["scaled_loss"].is_nan().sum()),
            }
        )
    return rows


def compared(
    a: pl.DataFrame, b: pl.DataFrame, column: str, n_draws: int, seed: int
) -> RatioInterval:
    """Compare the losses of two methods, request by request. If no request has both, all figures
    are NaN and every request counts as failed.

    Raises ValueError if the rows of `a` and `b` are not the same requests in the same order.
    """
    require_paired(a, b)
    losses = a[column].to_numpy(), b[column].to_numpy()
    if np.isnan(losses).any(axis=0).all():
        nothing = float("nan")
        return RatioInterval(
            nothing, nothing, nothing, nothing, nothing, nothing, 0, 0, 0, a.height
        )
    return two_way_bootstrap(
        *losses,
        a["tenant_number"].to_numpy(),
        a["day"].cast(pl.Int32).to_numpy(),
        n_draws=n_draws,
        seed=seed,
    )


def require_paired(a: pl.DataFrame, b: pl.DataFrame) -> None:
    keys = [key for key in ("tier", "request_id", "metric") if key in a.columns]
    if not a.select(keys).equals(b.select(keys)):
        raise ValueError(
            f"cannot compare {a.height} with {b.height} losses: they are not of the same requests "
            "in the same order"
        )


def _mean(series: pl.Series) -> float:
    return (
        float(np.nanmean(series.to_numpy()))
        if len(series) and not series.is_nan().all()
        else float("nan")
    )
