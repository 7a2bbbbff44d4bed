"""The headline in tables.

What belongs here: tables from the report's figures. What does not: sentences (`words`), the figures
themselves (`numbers`), drawings (`figures`).
"""

import math
from collections.abc import Callable, Iterable

from tsfm_pipeline.evaluation.methods import CONFIG_PREFIX, FIXED, SEARCH
from tsfm_pipeline.reports.headline.model import HeadlineReport, MethodRow
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.table import Table, positions_of
from tsfm_pipeline.reports.shared.wording import (
    NO_FIGURE,
    method_label,
    number,
    p_value,
    percent,
    percent_interval,
    price_ratio,
    ratio_interval,
    ratio_texts,
    whole,
)


def worth(report: HeadlineReport) -> Table:
    """Return cost, win rate, violations and slack of search and fixed configuration per tier."""
    methods = by_method(report)

    def slack(tier: str) -> str:
        rows = [methods.get((tier, method)) for method in (SEARCH, FIXED)]
        return " / ".join(number(row.mean_scaled_slack) if row else NO_FIGURE for row in rows)

    rows = tuple(
        (
            tier,
            price_ratio(own.alpha),
            ratio_interval(*own.ratio),
            percent_interval(*own.win_rate),
            f"{percent(own.violation_rate_search)} / {percent(own.violation_rate_fixed)}",
            percent(own.violation_rate_target),
            slack(tier),
            whole(own.n_requests_scored),
        )
        for tier, own in report.tiers.items()
    )
    columns = (
        "tier",
        "price ratio",
        "cost ratio, search to fixed",
        "win rate",
        "violations, search / fixed",
        "target",
        "slack, search / fixed",
        "requests",
    )
    return Table(
        "Search against the fixed configuration, per tier (price of shortage : surplus; slack in "
        "scale units)",
        columns,
        rows,
        emphasised=positions_of(report.tiers, report.headline_tier),
    )


def strata(report: HeadlineReport) -> Table:
    """Return the search's cost per stratum and tier beside the better simple method's."""
    rows = tuple(
        (
            row.tier,
            basis_label(row.basis),
            f"{whole(row.n_requests)} ({percent(row.share)})",
            whole(row.n_tenants),
            number(row.mean_loss_search),
            f"{method_label(row.rival)} {number(row.mean_loss_rival)}",
            ratio_interval(*row.ratio),
        )
        for row in report.table_strata
    )
    columns = (
        "tier",
        "history",
        "test requests",
        "tenants",
        "cost of the search",
        "cost of the better simple method",
        "ratio, search to that",
    )
    return Table(
        "What the answers rest on: full history, shortened by a gap or a late start, or cold "
        "(nothing of the tenant's own past can be validated)",
        columns,
        rows,
    )


def basis_label(basis: str) -> str:
    """Return the name of a stratum for people."""
    return {"full": "full history"}.get(basis, basis)


def methods(report: HeadlineReport, tier: str | None = None, singles: bool = False) -> Table:
    """Return every method of one tier beside the fixed configuration, cheapest first.

    tier: the headline tier by default. singles: return the single configurations instead.
    """
    tier = tier or report.headline_tier
    rows = [row for row in methods_at(report, tier) if is_single(row) == singles]
    rows.sort(key=lambda row: missing_last(row.ratio))
    cells = tuple(
        (
            method_label(row.method),
            number(row.mean_scaled_loss),
            *(
                ("1", NO_FIGURE)
                if row.method == FIXED
                else (ratio_interval(*row.ratio), percent_interval(*row.win_rate))
            ),
            percent(row.violation_rate),
            number(row.mean_scaled_slack),
            number(row.mean_scaled_crps),
            whole(row.n_failed),
        )
        for row in rows
    )
    columns = (
        "method",
        "scaled loss",
        "ratio to fixed",
        "win rate",
        "violations",
        "slack",
        "CRPS",
        "failed",
    )
    kind = "Single configurations" if singles else "All rivals"
    return Table(
        f"{kind}, {tier} tier",
        columns,
        cells,
        emphasised=positions_of([row.method for row in rows], SEARCH),
    )


def robustness(report: HeadlineReport) -> Table:
    """Return the checks of the headline, and the headroom."""

    def spread(low: float, high: float, form: Callable[[float], str]) -> str:
        return f"{form(low)} to {form(high)}"

    rows = tuple(
        (
            tier,
            p_value(own.p_value),
            ratio_interval(*own.std_scaled_ratio),
            ratio_interval(*own.floored_ratio),
            spread(
                own.leave_one_out_ratio_min,
                own.leave_one_out_ratio_max,
                lambda x: ratio_texts(x)[0],
            ),
            ratio_interval(*own.tenant_ratio),
            percent(own.largest_request_share),
            percent(own.floored_largest_request_share),
            percent(own.headroom_cross_fitted),
            spread(own.headroom_null_low, own.headroom_null_high, percent),
            percent(own.headroom_oracle_request),
        )
        for tier, own in report.tiers.items()
    )
    columns = (
        "tier",
        "p",
        "ratio, scaled by standard deviation",
        "ratio, scales with a floor",
        "ratio, each series left out in turn",
        "ratio, every tenant alike",
        "dearest request's share of the cost",
        "the same, scales with a floor",
        "headroom, cross-fitted",
        "headroom expected by chance",
        "oracle per request (upper bound, inflated)",
    )
    return Table("How far the headline can be trusted", columns, rows)


def dear_requests(report: HeadlineReport) -> Table:
    """Return the requests that move the ratio of sums most, the headline tier's first."""
    rows = sorted(report.table_dear_requests, key=lambda row: row.tier != report.headline_tier)
    cells = tuple(
        (
            row.tier,
            row.tenant_id,
            row.origin_time,
            number(row.loss_search),
            number(row.loss_fixed),
            percent(row.share),
        )
        for row in rows
    )
    columns = ("tier", "tenant", "asked at", "search", "fixed", "share of the fixed's cost")
    return Table(
        "Requests that move the ratio most (scaled losses)", columns, cells, frozenset({0, 1, 2})
    )


def groups(report: HeadlineReport, scope: str) -> Table:
    """Return the search per archetype or per metric, all tiers side by side, ordered by the
    headline tier's ratio.
    """
    by_key = {(row.scope_value, row.tier): row for row in report.groups(scope)}
    tiers, lead = list(report.tiers), report.headline_tier

    def ratio(value: str, tier: str) -> Estimate:
        row = by_key.get((value, tier))
        return row.ratio if row else Estimate()

    def of_lead(value: str) -> tuple[str, ...]:
        row = by_key.get((value, lead))
        return (
            (percent_interval(*row.win_rate), whole(row.n_tenants), whole(row.n_requests))
            if row
            else (NO_FIGURE,) * 3
        )

    values = sorted(
        {value for value, _ in by_key},
        key=lambda value: (*missing_last(ratio(value, lead)), value),
    )
    cells = tuple(
        (value, *(ratio_interval(*ratio(value, tier)) for tier in tiers), *of_lead(value))
        for value in values
    )
    columns = (
        scope,
        *(f"ratio, {tier}" for tier in tiers),
        f"win rate, {lead}",
        "tenants",
        "requests",
    )
    return Table(f"The search per {scope}", columns, cells)


def unscaled(report: HeadlineReport) -> Table:
    """Return cost, slack, shortfall and violations per metric in its own unit, search and fixed."""
    tier = report.headline_tier
    rows = {(row.metric, row.method): row for row in report.table_unscaled if row.tier == tier}

    def cells_of(metric: str) -> Iterable[str]:
        both = [rows.get((metric, method)) for method in (SEARCH, FIXED)]
        yield " / ".join(number(row.loss) if row else NO_FIGURE for row in both)
        yield " / ".join(number(row.slack) if row else NO_FIGURE for row in both)
        yield " / ".join(number(row.shortfall) if row else NO_FIGURE for row in both)
        yield " / ".join(percent(row.violation_rate) if row else NO_FIGURE for row in both)

    cells = tuple(
        (metric, *cells_of(metric)) for metric in dict.fromkeys(metric for metric, _ in rows)
    )
    columns = ("metric", "cost per step", "slack", "shortfall", "violations")
    return Table(f"In the metrics' own units, search / fixed, {tier} tier", columns, cells)


def tenants(report: HeadlineReport) -> Table:
    """Return the tenants that gain or lose most from the search, worst first."""
    rows = sorted(report.table_tenants, key=lambda row: -row.ratio.figure)
    kinds = ("archetype",) if any(row.archetype for row in rows) else ()
    cells = tuple(
        (
            row.tenant_id,
            *(row.archetype or NO_FIGURE for _ in kinds),
            ratio_interval(*row.ratio),
            f"{number(row.mean_loss_search)} / {number(row.mean_loss_fixed)}",
            whole(row.n_requests),
        )
        for row in rows
    )
    columns = (
        "tenant",
        *kinds,
        "cost ratio, search to fixed",
        "scaled cost, search / fixed",
        "requests",
    )
    caption = (
        f"The tenants that gain and lose most, {report.headline_tier} tier (extremes "
        "are partly chance)"
    )
    return Table(caption, columns, cells, frozenset(range(1 + len(kinds))))


def by_method(report: HeadlineReport) -> dict[tuple[str, str], MethodRow]:
    """Return the methods' rows by tier and method."""
    return {(row.tier, row.method): row for row in report.table_methods}


def methods_at(report: HeadlineReport, tier: str) -> list[MethodRow]:
    """Return the rows of one tier."""
    return [row for row in report.table_methods if row.tier == tier]


def is_single(row: MethodRow) -> bool:
    """Say whether a row is of a single configuration."""
    return row.method.startswith(CONFIG_PREFIX)


def missing_last(ratio: Estimate) -> tuple[bool, float]:
    """Return a sort key for a ratio: the lowest first, missing ones last."""
    return math.isnan(ratio.figure), ratio.figure
