"""Aggregated scores: every method beside the fixed configuration, and the headline with everything that could undermine it.

What belongs here: which requests are paired, grouping by tier, archetype and metric, and the contents of `headline_scores` and
`headline_report`. What does not: single scores (`steps.scores`), statistics (`evaluation.statistics`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.headroom import Headroom, cross_fitted_headroom
from tsfm_pipeline.evaluation.methods import CONFIG_PREFIX, FIXED, SEARCH
from tsfm_pipeline.evaluation.protocol import HEADLINE_TIER, TIERS
from tsfm_pipeline.evaluation.statistics import (
    label_swap_pvalue,
    leave_one_out_ratios,
    mean_log_ratio,
)
from tsfm_pipeline.steps.headline import compared, per_request, request_losses, require_paired
from tsfm_pipeline.steps.policies import read_shared_choices
from tsfm_pipeline.steps.requests import tenants_without_requests

EXTREME_TENANTS = 5
"""How many of the tenants that the search serves worst, and best, the headline names."""


def headline_report(fleet: Fleet) -> dict[str, Any]:
    """The headline's JSON: per tier the two losses, their ratio and win rate with intervals and p-value, robustness, and the counts."""
    evaluation = fleet.settings.evaluation
    scores = fleet.tables.read("headline_scores")
    names = [config.name for config in fleet.configs]
    losses = request_losses(fleet, [SEARCH, FIXED])
    requests = fleet.tables.read("forecast_requests").filter(pl.col("role") == "test")
    singles = (per_request(request_losses(fleet, _singles(fleet), [tier])) for tier in TIERS)
    overall, by_series = pl.concat([per_request(losses), *singles]), per_request(losses, by_metric=True)
    choices = read_shared_choices(fleet)
    report: dict[str, Any] = {
        "fleet": fleet.name,
        "horizon_steps": fleet.spec.horizon,
        "n_requests": requests.height,
        "n_invalid_requests": int((~requests["valid"]).sum()),
        "n_test_tenants": requests["tenant_number"].n_unique(),
        "n_excluded_series": _excluded_series(fleet),
        "invalid_reasons": _reasons(requests),
        "n_tenants_without_requests": len(tenants_without_requests(requests)),
    }
    for tier in TIERS:
        search = _row(scores, tier, SEARCH)
        fixed = _row(scores, tier, FIXED)
        a, b = (_of(overall, tier, method) for method in (SEARCH, FIXED))
        tenant, day = a["tenant_number"].to_numpy(), a["day"].cast(pl.Int32).to_numpy()
        std = compared(a, b, "std_scaled_loss", **evaluation.group_bootstrap)
        series_a, series_b = (_of(by_series, tier, method) for method in (SEARCH, FIXED))
        require_paired(series_a, series_b)
        labels = (series_a["tenant_number"].cast(pl.String) + "/" + series_a["metric"]).to_numpy()
        pair = (series_a["scaled_loss"].to_numpy(), series_b["scaled_loss"].to_numpy(), labels)
        left_out, log_ratio = leave_one_out_ratios(*pair), mean_log_ratio(*pair)
        headroom, _ = tenant_headroom(fleet, overall, tier)
        fixed_configs = dict.fromkeys(names[choice.tiers[tier].fixed_config] for choice in choices.values())
        report |= {
            f"{tier}_mean_loss_fixed": fixed["mean_scaled_loss"],
            f"{tier}_mean_loss_search": search["mean_scaled_loss"],
            f"{tier}_ratio": search["ratio"],
            f"{tier}_ratio_low": search["ratio_low"],
            f"{tier}_ratio_high": search["ratio_high"],
            f"{tier}_win_rate": search["win_rate"],
            f"{tier}_win_rate_low": search["win_rate_low"],
            f"{tier}_win_rate_high": search["win_rate_high"],
            f"{tier}_p_value": label_swap_pvalue(
                a["scaled_loss"].to_numpy(),
                b["scaled_loss"].to_numpy(),
                tenant,
                day,
                **evaluation.label_swaps,
            ),
            f"{tier}_violation_rate_fixed": fixed["violation_rate"],
            f"{tier}_violation_rate_search": search["violation_rate"],
            f"{tier}_violation_rate_target": round(1 - TIERS[tier], 10),
            f"{tier}_n_requests_scored": search["n_requests"],
            f"{tier}_n_tenants_scored": search["n_tenants"],
            f"{tier}_n_failed_search": search["n_failed"],
            f"{tier}_n_failed_fixed": fixed["n_failed"],
            f"{tier}_fixed_config": ", ".join(fixed_configs),
            f"{tier}_std_scaled_ratio": std.ratio,
            f"{tier}_std_scaled_ratio_low": std.low,
            f"{tier}_std_scaled_ratio_high": std.high,
            f"{tier}_leave_one_out_ratio_min": left_out.lowest,
            f"{tier}_leave_one_out_ratio_max": left_out.highest,
            f"{tier}_mean_log_ratio": log_ratio.mean,
            f"{tier}_headroom_cross_fitted": headroom.cross_fitted,
            f"{tier}_headroom_null_low": headroom.null_low,
            f"{tier}_headroom_null_high": headroom.null_high,
            f"{tier}_headroom_oracle_tenant": headroom.oracle_per_tenant,
            f"{tier}_headroom_oracle_request": headroom.oracle_per_request,
        }
    report["table_methods"] = scores.filter(pl.col("scope") == "all").drop("scope", "scope_value").to_dicts()
    for scope in ("archetype", "metric"):
        report[f"table_{scope}s"] = scores.filter((pl.col("scope") == scope) & (pl.col("method") == SEARCH)).to_dicts()
    report["table_unscaled"] = _unscaled(losses).to_dicts()
    return report | _tenants(fleet, by_series)


@dataclass(frozen=True)
class TenantLosses:
    """Losses of some methods at one tier by tenant and origin.

    losses [N, O, M] with origins in time order, NaN where there is none; `frame`: the requests [R] in that order, and the tenant and
    origin [R] that each of them is.
    """

    losses: NDArray[np.float64]
    frame: pl.DataFrame
    tenant: NDArray[np.int64]
    origin: NDArray[np.int64]

    def folds(self, fleet: Fleet) -> NDArray[np.int64]:
        """The test fold of each tenant [N]."""
        return fleet.manifest["fold"].to_numpy()[np.unique(self.frame["tenant_number"].to_numpy())].astype(np.int64)

    def rows(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values [N, O] in the order of `frame` [R]."""
        return values[self.tenant, self.origin]


def tenant_losses(overall: pl.DataFrame, tier: str, methods: Sequence[str]) -> TenantLosses:
    """Scaled losses of the given methods at one tier."""
    frames = [_of(overall, tier, method).sort("tenant_number", "origin_step") for method in methods]
    for frame in frames:
        require_paired(frame, frames[0])
    tenants, tenant = np.unique(frames[0]["tenant_number"].to_numpy(), return_inverse=True)
    origin = np.arange(len(tenant)) - np.searchsorted(tenant, tenant)
    losses = np.full((len(tenants), origin.max() + 1, len(methods)), np.nan)
    for m, frame in enumerate(frames):
        losses[tenant, origin, m] = frame["scaled_loss"].to_numpy()
    return TenantLosses(losses, frames[0], tenant, origin)


def tenant_headroom(fleet: Fleet, overall: pl.DataFrame, tier: str) -> tuple[Headroom, TenantLosses]:
    """What choosing one configuration per tenant would gain over the fixed one, and the losses it follows from (the fixed one's last)."""
    singles = _singles(fleet)
    table = tenant_losses(overall, tier, [*singles, FIXED])
    null = fleet.settings.evaluation.headroom_null
    return cross_fitted_headroom(table.losses, len(singles), **null, strata=table.folds(fleet)), table


def _singles(fleet: Fleet) -> list[str]:
    """The methods that take one configuration of the portfolio for every request."""
    return [f"{CONFIG_PREFIX}{config.name}" for config in fleet.configs]


def _tenants(fleet: Fleet, by_series: pl.DataFrame, tier: str = HEADLINE_TIER) -> dict[str, Any]:
    """How many tenants cost less with the search at one tier, and the tenants that it serves worst and best.

    A tenant's interval resamples its series (in place of tenants) and days.
    """
    search, fixed = (_of(by_series, tier, method) for method in (SEARCH, FIXED))
    require_paired(search, fixed)
    both = search.with_columns(fixed["scaled_loss"].alias("fixed_loss")).filter(
        pl.col("scaled_loss").is_finite(), pl.col("fixed_loss").is_finite()
    )
    means = both.group_by("tenant_number").agg(pl.col("scaled_loss", "fixed_loss").mean(), pl.col("request_id").n_unique())
    ratios = means.with_columns((pl.col("scaled_loss") / pl.col("fixed_loss")).alias("ratio")).filter(pl.col("ratio").is_finite())
    ratios = ratios.sort("ratio", "tenant_number")
    extremes = pl.concat([ratios.head(EXTREME_TENANTS), ratios.tail(EXTREME_TENANTS)]).unique(maintain_order=True)
    rows = []
    for row in extremes.iter_rows(named=True):
        own_search, own_fixed = (
            frame.filter(pl.col("tenant_number") == row["tenant_number"]).with_columns(
                pl.col("metric").rank("dense").alias("tenant_number")
            )
            for frame in (search, fixed)
        )
        interval = compared(own_search, own_fixed, "scaled_loss", **fleet.settings.evaluation.group_bootstrap)
        tenant = fleet.manifest.row(row["tenant_number"], named=True)
        rows.append(
            {
                "tier": tier,
                "tenant_id": tenant["tenant_id"],
                "archetype": tenant["archetype"],
                "ratio": interval.ratio,
                "ratio_low": interval.low,
                "ratio_high": interval.high,
                "mean_loss_search": row["scaled_loss"],
                "mean_loss_fixed": row["fixed_loss"],
                "n_requests": row["request_id"],
            }
        )
    return {f"{tier}_n_tenants_cheaper": ratios.filter(pl.col("ratio") < 1).height, "table_tenants": rows}


def _unscaled(losses: pl.DataFrame) -> pl.DataFrame:
    """Mean loss, slack, shortfall and violation rate per metric, in its own unit."""
    keys = ["tier", "metric", "method"]
    return losses.group_by(keys).agg(pl.col("loss", "slack", "shortfall", "violation_rate").mean()).sort(keys)


def _excluded_series(fleet: Fleet) -> int:
    """Series of test tenants without a scale (constant at 0 before the test period)."""
    sql = """
        SELECT count(DISTINCT (t.tenant_number, t.metric)) AS n
        FROM request_targets t JOIN forecast_requests r USING (request_id)
        WHERE r.role = 'test' AND isnan(t.scale)
    """
    return int(fleet.tables.query(sql, "request_targets", "forecast_requests").item())


def _reasons(requests: pl.DataFrame) -> dict[str, int]:
    """How many requests are invalid for which kind of reason (figures within the reasons left out)."""
    kinds = requests.filter(~pl.col("valid"))["reason"].str.replace_all(r"\d+", "N")
    return {row["reason"]: row["count"] for row in kinds.value_counts(sort=True).iter_rows(named=True)}


def _of(table: pl.DataFrame, tier: str, method: str) -> pl.DataFrame:
    return table.filter((pl.col("tier") == tier) & (pl.col("method") == method))


def _row(scores: pl.DataFrame, tier: str, method: str) -> dict[str, Any]:
    return _of(scores, tier, method).filter(pl.col("scope") == "all").row(0, named=True)
