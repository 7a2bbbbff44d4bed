"""The headline's figures: search and fixed configuration per tier, and the checks of their
comparison.

What belongs here: the contents of `headline_report`. What does not: aggregated scores
(`steps.headline`), single scores (`steps.scores`), statistics (`evaluation.statistics`).
"""

import polars as pl

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.methods import FIXED, LAST_VALUE_CHANGE_QUANTILES, SEARCH
from tsfm_pipeline.evaluation.requests import BASES
from tsfm_pipeline.evaluation.resampling import ratio_of
from tsfm_pipeline.evaluation.statistics import (
    geometric_mean_ratio,
    label_swap_pvalue,
    leave_one_out_ratios,
    mean_log_ratio,
)
from tsfm_pipeline.reports.headline.model import (
    DearRequestRow,
    GroupRow,
    HeadlineOfTier,
    HeadlineReport,
    MethodRow,
    StratumRow,
    TenantRow,
    UnscaledRow,
)
from tsfm_pipeline.reports.shared.headroom import losses_of, single_methods, tenant_headroom
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.steps.headline import compared, per_request, request_losses, require_paired
from tsfm_pipeline.steps.policies import read_shared_choices
from tsfm_pipeline.steps.requests import tenants_without_requests

SIMPLE = (FIXED, LAST_VALUE_CHANGE_QUANTILES)
"""The search's cost on a stratum stands beside the better of these."""
EXTREME_TENANTS = 5
"""How many tenants the headline names at each end: the largest gains and the largest losses."""
DEAR_REQUESTS = 5
"""How many requests the headline names per tier: those that move the ratio of sums most."""


def headline_report(fleet: Fleet) -> HeadlineReport:
    """Compute losses, ratio, win rate, p-value and robustness per tier, and counts."""
    evaluation, protocol = fleet.settings.evaluation, fleet.protocol
    scores = fleet.tables.read("headline_scores")
    names = [config.name for config in fleet.configs]
    losses = request_losses(fleet, [SEARCH, FIXED], list(protocol.tiers))
    requests = fleet.tables.read("forecast_requests").filter(pl.col("role") == "test")
    singles = (
        per_request(request_losses(fleet, single_methods(fleet), [tier])) for tier in protocol.tiers
    )
    overall, by_series = (
        pl.concat([per_request(losses), *singles]),
        per_request(losses, by_metric=True),
    )
    choices = read_shared_choices(fleet)
    cheaper, extremes = _tenants(fleet, by_series)
    tiers = {}
    dear: list[DearRequestRow] = []
    for tier, alpha in protocol.tiers.items():
        search, fixed = (_row(scores, tier, method) for method in (SEARCH, FIXED))
        a, b = (losses_of(overall, tier, method) for method in (SEARCH, FIXED))
        tenant, day = a["tenant_number"].to_numpy(), a["day"].cast(pl.Int32).to_numpy()
        std = compared(a, b, "std_scaled_loss", **evaluation.group_bootstrap)
        floored = compared(a, b, "floored_loss", **evaluation.bootstrap)
        losses_a, losses_b = (frame["scaled_loss"].to_numpy() for frame in (a, b))
        alike = geometric_mean_ratio(losses_a, losses_b, tenant, day, **evaluation.bootstrap)
        dear += _dear_requests(tier, a, b, requests)
        series_a, series_b = (losses_of(by_series, tier, method) for method in (SEARCH, FIXED))
        require_paired(series_a, series_b)
        labels = (series_a["tenant_number"].cast(pl.String) + "/" + series_a["metric"]).to_numpy()
        pair = (series_a["scaled_loss"].to_numpy(), series_b["scaled_loss"].to_numpy(), labels)
        left_out, log_ratio = leave_one_out_ratios(*pair), mean_log_ratio(*pair)
        headroom, _ = tenant_headroom(fleet, overall, tier)
        fixed_configs = dict.fromkeys(
            names[choice.tiers[tier].fixed_config] for choice in choices.values()
        )
        tiers[tier] = HeadlineOfTier(
            mean_loss_fixed=fixed.mean_scaled_loss,
            mean_loss_search=search.mean_scaled_loss,
            ratio=search.ratio,
            win_rate=search.win_rate,
            p_value=label_swap_pvalue(losses_a, losses_b, tenant, day, **evaluation.label_swaps),
            violation_rate_fixed=fixed.violation_rate,
            violation_rate_search=search.violation_rate,
            violation_rate_target=round(1 - alpha, 10),
            n_requests_scored=search.n_requests,
            n_tenants_scored=search.n_tenants,
            n_failed_search=search.n_failed,
            n_failed_fixed=fixed.n_failed,
            fixed_config=", ".join(fixed_configs),
            std_scaled_ratio=Estimate(std.ratio, std.low, std.high),
            floored_ratio=Estimate(floored.ratio, floored.low, floored.high),
            floored_largest_request_share=_largest_share(b["floored_loss"]),
            leave_one_out_ratio_min=left_out.lowest,
            leave_one_out_ratio_max=left_out.highest,
            tenant_ratio=Estimate(alike.ratio, alike.low, alike.high),
            largest_request_share=_largest_share(b["scaled_loss"]),
            mean_log_ratio=log_ratio.mean,
            n_tenants_cheaper=cheaper if tier == protocol.headline_tier else None,
            headroom_cross_fitted=headroom.cross_fitted,
            headroom_null_low=headroom.null_low,
            headroom_null_high=headroom.null_high,
            headroom_oracle_tenant=headroom.oracle_per_tenant,
            headroom_oracle_request=headroom.oracle_per_request,
        )
    return HeadlineReport(
        fleet=fleet.name,
        horizon_steps=fleet.spec.horizon,
        n_requests=requests.height,
        n_invalid_requests=int((~requests["valid"]).sum()),
        n_test_tenants=requests["tenant_number"].n_unique(),
        n_excluded_series=_excluded_series(fleet),
        invalid_reasons=_reasons(requests),
        n_tenants_without_requests=len(tenants_without_requests(requests)),
        tiers=tiers,
        table_methods=MethodRow.from_rows(
            scores.filter(pl.col("scope") == "all").drop("scope", "scope_value")
        ),
        table_archetypes=_groups(scores, "archetype"),
        table_metrics=_groups(scores, "metric"),
        table_unscaled=UnscaledRow.from_rows(_unscaled(losses)),
        table_tenants=extremes,
        table_strata=_strata(fleet, requests),
        table_dear_requests=tuple(dear),
    )


def _dear_requests(
    tier: str, search: pl.DataFrame, fixed: pl.DataFrame, requests: pl.DataFrame
) -> tuple[DearRequestRow, ...]:
    """Return the requests at which the two paired methods differ most, the largest difference
    first. requests: with tenant and time of each request.
    """
    pairs = search.select("request_id", loss_search="scaled_loss").with_columns(
        loss_fixed=fixed["scaled_loss"]
    )
    known = pairs.filter(pl.col("loss_search").is_finite(), pl.col("loss_fixed").is_finite())
    difference = (pl.col("loss_search") - pl.col("loss_fixed")).abs()
    dearest = known.with_columns(share=pl.col("loss_fixed") / pl.col("loss_fixed").sum()).join(
        requests.select("request_id", "tenant_id", "origin_time"), on="request_id"
    )
    rows = dearest.sort(difference, "request_id", descending=[True, False]).head(DEAR_REQUESTS)
    return DearRequestRow.from_rows(
        rows.drop("request_id").with_columns(
            pl.col("origin_time").dt.strftime("%Y-%m-%dT%H:%M:%S%:z"), tier=pl.lit(tier)
        )
    )


def _largest_share(losses: pl.Series) -> float:
    """Return the largest one's share in the sum of the losses that are known."""
    known = losses.drop_nans().to_numpy()
    return float(ratio_of(known.max(initial=0.0), known.sum()))


def _groups(scores: pl.DataFrame, scope: str) -> tuple[GroupRow, ...]:
    """Return the rows of the search per archetype or per metric."""
    own = scores.filter((pl.col("scope") == scope) & (pl.col("method") == SEARCH))
    return GroupRow.from_rows(own)


def _tenants(fleet: Fleet, by_series: pl.DataFrame) -> tuple[int, tuple[TenantRow, ...]]:
    """Return how many tenants cost less with the search, and the tenants that gain or lose most.

    At the headline tier. A tenant's interval resamples its series (in place of tenants) and days.
    """
    tier = fleet.protocol.headline_tier
    search, fixed = (losses_of(by_series, tier, method) for method in (SEARCH, FIXED))
    require_paired(search, fixed)
    both = search.with_columns(fixed["scaled_loss"].alias("fixed_loss")).filter(
        pl.col("scaled_loss").is_finite(), pl.col("fixed_loss").is_finite()
    )
    means = both.group_by("tenant_number").agg(
        pl.col("scaled_loss", "fixed_loss").mean(), pl.col("request_id").n_unique()
    )
    ratios = means.with_columns(
        (pl.col("scaled_loss") / pl.col("fixed_loss")).alias("ratio")
    ).filter(pl.col("ratio").is_finite())
    ratios = ratios.sort("ratio", "tenant_number")
    extremes = pl.concat([ratios.head(EXTREME_TENANTS), ratios.tail(EXTREME_TENANTS)]).unique(
        maintain_order=True
    )
    rows = []
    for row in extremes.iter_rows(named=True):
        own_search, own_fixed = (
            frame.filter(pl.col("tenant_number") == row["tenant_number"]).with_columns(
                pl.col("metric").rank("dense").alias("tenant_number")
            )
            for frame in (search, fixed)
        )
        interval = compared(
            own_search, own_fixed, "scaled_loss", **fleet.settings.evaluation.group_bootstrap
        )
        tenant = fleet.manifest.row(row["tenant_number"], named=True)
        rows.append(
            TenantRow(
                tier=tier,
                tenant_id=tenant["tenant_id"],
                archetype=tenant["archetype"],
                ratio=Estimate(interval.ratio, interval.low, interval.high),
                mean_loss_search=row["scaled_loss"],
                mean_loss_fixed=row["fixed_loss"],
                n_requests=row["request_id"],
            )
        )
    return ratios.filter(pl.col("ratio") < 1).height, tuple(rows)


def _strata(fleet: Fleet, requests: pl.DataFrame) -> tuple[StratumRow, ...]:
    """Return the search's cost per tier and stratum beside the cheaper of the fixed configuration
    and the last value with quantiles of its changes; `requests` are the test requests.
    """
    draws = fleet.settings.evaluation.group_bootstrap
    basis = requests.select("request_id", "basis")
    losses = per_request(request_losses(fleet, [SEARCH, *SIMPLE])).join(
        basis, on="request_id", how="left", maintain_order="left"
    )
    n_asked = max(1, requests.height)
    rows = []
    for tier in fleet.protocol.tiers:
        for stratum in BASES:
            own = losses.filter(pl.col("basis") == stratum)
            search, *rivals = (losses_of(own, tier, name) for name in (SEARCH, *SIMPLE))
            if not search.height:
                continue
            cheapest = min(range(len(SIMPLE)), key=lambda i: _mean(rivals[i]))
            interval = compared(search, rivals[cheapest], "scaled_loss", **draws)
            n_requests = int((requests["basis"] == stratum).sum())
            rows.append(
                StratumRow(
                    tier=tier,
                    basis=stratum,
                    n_requests=n_requests,
                    share=n_requests / n_asked,
                    n_tenants=search["tenant_number"].n_unique(),
                    mean_loss_search=_mean(search),
                    rival=SIMPLE[cheapest],
                    mean_loss_rival=_mean(rivals[cheapest]),
                    ratio=Estimate(interval.ratio, interval.low, interval.high),
                )
            )
    return tuple(rows)


def _mean(losses: pl.DataFrame) -> float:
    """Return the mean scaled loss over the requests that were answered, inf where none was."""
    answered = losses["scaled_loss"].drop_nans()
    return float(answered.mean()) if len(answered) else float("inf")  # type: ignore[arg-type]


def _unscaled(losses: pl.DataFrame) -> pl.DataFrame:
    """Return mean loss, slack, shortfall and violation rate per metric, in its own unit."""
    keys = ["tier", "metric", "method"]
    return (
        losses.group_by(keys)
        .agg(pl.col("loss", "slack", "shortfall", "violation_rate").mean())
        .sort(keys)
    )


def _excluded_series(fleet: Fleet) -> int:
    """Count the series of test tenants without a scale (constant at 0 before the test period)."""
    sql = """
        SELECT count(DISTINCT (t.tenant_number, t.metric)) AS n
        FROM request_targets t JOIN forecast_requests r USING (request_id)
        WHERE r.role = 'test' AND isnan(t.scale)
    """
    return int(fleet.tables.query(sql, "request_targets", "forecast_requests").item())


def _reasons(requests: pl.DataFrame) -> dict[str, int]:
    """Count invalid requests by kind of reason; numbers within a reason are replaced by N."""
    kinds = requests.filter(~pl.col("valid"))["reason"].str.replace_all(r"\d+", "N")
    return {
        row["reason"]: row["count"] for row in kinds.value_counts(sort=True).iter_rows(named=True)
    }


def _row(scores: pl.DataFrame, tier: str, method: str) -> MethodRow:
    own = losses_of(scores, tier, method).filter(pl.col("scope") == "all")
    return MethodRow.from_rows(own.drop("scope", "scope_value"))[0]
