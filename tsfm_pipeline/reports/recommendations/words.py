"""The recommendations and their review in words and tables.

What belongs here: sentences and tables of `recommendation_report` and `recommendation_review`. What
does not: the figures themselves (`numbers`, `review`), the published files (`publication`),
drawings (`figures`).
"""

import math
from collections.abc import Callable

from tsfm_pipeline.evaluation.methods import (
    BLOCK_CONSTANTS,
    FIXED,
    SEARCH,
)
from tsfm_pipeline.reports.recommendations.model import (
    ConstantRow,
    DriftRow,
    RecommendationReport,
    RecommendationReview,
)
from tsfm_pipeline.reports.shared.answer import Answer, Effect, effect_of
from tsfm_pipeline.reports.shared.table import Table
from tsfm_pipeline.reports.shared.wording import (
    NO_FIGURE,
    count,
    duration,
    interval,
    number,
    percent,
    percent_interval,
    ratio_interval,
    tier_label,
    whole,
)

METHOD_LABELS = {name: constant.label for name, constant in BLOCK_CONSTANTS.items()}
FILES = "recommendations.csv, recommendations.parquet and recommendations.vpa.json"


def recommendations_answer(report: RecommendationReport) -> Answer:
    """Say what is recommended, and what such constants cost in the backtest."""
    tier = report.headline_tier
    own = report.tiers[tier]
    made = (
        f"{count(report.n_series - report.n_not_made, 'series', 'series')} of "
        f"{count(report.n_tenants, 'tenant')}"
    )
    effect = effect_of(*own.ratio)
    words: dict[Effect, str] = {
        "gain": "cost less than the fixed configuration's",
        "loss": "cost more than the fixed configuration's",
        "null": "are not shown to cost more or less than the fixed configuration's",
        "unknown": "are scored beside the fixed configuration's, without an interval",
    }
    return Answer(
        effect,
        f"{made} have a constant reservation for their next {duration(report.block_minutes)}. In "
        "the backtest such constants "
        f"{words[effect]}: ratio {ratio_interval(*own.ratio)} at the {tier} tier, and "
        f"{ratio_interval(*own.ratio_last_block)} to the last block's, and "
        f"{ratio_interval(*own.ratio_eight_day_quantile)} to the quantile of the last eight days.",
    )


def kept_promises(report: RecommendationReport) -> list[tuple[str, str]]:
    """Return how often constants held, for every step and for the maximum, as points of the
    section.
    """
    tier = report.headline_tier
    own = report.tiers[tier]
    return [
        (
            "Every step",
            f"Demand exceeded them at {percent(own.violation_rate_search)} of the steps; the "
            f"{tier} tier allows "
            f"{percent(own.violation_rate_target)}.",
        ),
        (
            "The maximum",
            f"The reservation for the block's maximum held in {percent_interval(*own.covered)} of "
            "the blocks; the target is "
            f"{percent(own.covered_target)}. The largest of the steps' quantiles would have held "
            f"in {percent(own.covered_largest_step)}.",
        ),
    ]


def intermittent_answer(report: RecommendationReport) -> str:
    """Say what to take where series are intermittent, and how often it held; "" if none are."""
    if not report.n_intermittent:
        return ""
    parts = [
        f"{count(report.n_intermittent, 'series', 'series')} of {whole(report.n_series)} are idle "
        "at most steps and busy at single ones. A constant for every step reserves next to nothing "
        "for these: take reservation_max."
    ]
    for covered, what in (
        (report.intermittent_covered_max, "In the backtest it held in"),
        (report.intermittent_covered, "The constant for every step would have held in"),
    ):
        if covered and math.isfinite(covered.figure):
            parts.append(f"{what} {percent_interval(*covered)} of their blocks.")
    return " ".join(parts)


def reserved_answer(report: RecommendationReport) -> str:
    """Say what the recommendations would have saved and risked against what is reserved today, at
    the headline tier; "" if the fleet's table does not say what is reserved.
    """
    parts = [
        f"{row.metric} {number(row.recommended)} instead of {number(row.reserved_today)} (saved "
        f"{interval(*row.saved)}), exceeded at {percent(row.violation_rate)} of the steps instead "
        f"of {percent(row.violation_rate_today)}"
        for row in report.table_reserved
        if row.tier == report.headline_tier and row.n_requests
    ]
    if not parts:
        return ""
    return (
        f"In the backtest, at the {report.headline_tier} tier, means per step: {'; '.join(parts)}."
    )


def money_answer(report: RecommendationReport) -> str:
    """Say what the search's constants save per tenant and day; "" if the fleet has no prices."""
    saved = {
        "the fixed configuration": report.saved_per_tenant_day_vs_fixed_quantile,
        "the last block": report.saved_per_tenant_day_vs_last_block,
        "the percentile of the week + 15 %": report.saved_per_tenant_day_vs_percentile_margin,
    }
    parts = [
        f"{interval(*each)} against {rival}"
        for rival, each in saved.items()
        if each and math.isfinite(each.figure)
    ]
    if not report.currency or not parts:
        return ""
    return (
        f"Saved per tenant and day, in {report.currency}, every tenant at its own tier: "
        f"{'; '.join(parts)}."
    )


def methods(report: RecommendationReport) -> Table:
    """Return every way to set one constant at the headline tier, cheapest first, constants for the
    maximum last.
    """
    tier = report.headline_tier
    rows = sorted(
        report.methods_at(tier),
        key=lambda row: (row.for_maximum, *missing_last(row.mean_scaled_loss)),
    )
    cells = tuple(
        (
            METHOD_LABELS.get(row.method, row.method),
            "the block's maximum" if row.for_maximum else "every step",
            "1" if row.method == FIXED else ratio_interval(*row.ratio),
            percent(row.violation_rate),
            percent_interval(*row.covered),
            number(row.mean_scaled_slack),
            whole(row.n_failed),
        )
        for row in rows
    )
    columns = (
        "constant",
        "meant for",
        "cost ratio to fixed",
        "steps above it",
        "blocks wholly below it",
        "slack",
        "failed",
    )
    shown = frozenset(i for i, row in enumerate(rows) if row.method in (SEARCH, "search_peak"))
    return Table(f"One constant per block, {tier} tier", columns, cells, frozenset({0, 1}), shown)


def coverage(report: RecommendationReport) -> Table:
    """Return how often the constants for the maximum held per tier, beside their target."""
    rows: dict[tuple[str, str], ConstantRow] = {
        (row.tier, row.method): row for row in report.table_methods
    }
    peaks = [name for name, constant in BLOCK_CONSTANTS.items() if constant.for_maximum]

    def held(tier: str, method: str) -> str:
        row = rows.get((tier, method))
        return percent_interval(*row.covered) if row else NO_FIGURE

    cells = tuple(
        (
            tier_label(tier, own.covered_target),
            percent(own.covered_target),
            *(held(tier, method) for method in peaks),
        )
        for tier, own in report.tiers.items()
    )
    return Table(
        "Blocks whose maximum stayed below the constant",
        ("tier", "target", *(METHOD_LABELS[peak] for peak in peaks)),
        cells,
    )


def money(report: RecommendationReport) -> Table:
    """Return the cost of reservations per tenant and day, by tier."""
    rows = [row for row in report.table_money if row.method in METHOD_LABELS]
    cells = tuple(
        (
            row.tier,
            METHOD_LABELS[row.method],
            number(row.slack_cost_per_tenant_day),
            number(row.sla_cost_per_tenant_day),
            number(row.cost_per_tenant_day),
            whole(row.n_requests),
        )
        for row in rows
    )
    columns = ("tier", "constant", "slack", "SLA", "together", "requests")
    shown = frozenset(i for i, row in enumerate(rows) if row.method == SEARCH)
    return Table(
        f"Cost per tenant and day, {report.currency or ''}",
        columns,
        cells,
        frozenset({0, 1}),
        shown,
    )


def reserved(report: RecommendationReport) -> Table:
    """Return what is reserved today beside what would have been recommended, by metric and tier."""
    priced = any(row.saved_cost_per_tenant_day for row in report.table_reserved)
    cells = tuple(
        (
            row.metric,
            row.tier,
            number(row.reserved_today),
            number(row.recommended),
            interval(*row.saved),
            percent(row.violation_rate_today),
            percent(row.violation_rate),
            number(row.slack_today),
            number(row.slack),
            number(row.shortfall_today),
            number(row.shortfall),
            *([interval(*(row.saved_cost_per_tenant_day or (math.nan,) * 3))] if priced else []),
            whole(row.n_requests),
        )
        for row in report.table_reserved
    )
    columns = (
        "metric",
        "tier",
        "reserved today",
        "recommended",
        "saved",
        "steps above, today",
        "steps above",
        "slack, today",
        "slack",
        "shortfall, today",
        "shortfall",
        *([f"saved per tenant and day, {report.currency}"] if priced else []),
        "requests",
    )
    return Table("Reserved today and recommended", columns, cells, frozenset({0, 1}))


def not_made(report: RecommendationReport) -> Table:
    """Return why series have no recommendation."""
    cells = tuple((row.reason, whole(row.n_series)) for row in report.table_not_made)
    return Table("Series without a recommendation", ("reason", "series"), cells)


def review_answer(review: RecommendationReview) -> Answer:
    """Say what became of earlier recommendations, and what changed since the last run."""
    drifted = review.drift_status
    if review.n_series_compared is not None:
        drifted = (
            f"{drifted}: {whole(review.n_configs_changed)} of "
            f"{count(review.n_series_compared, 'series', 'series')} have a different heaviest "
            f"configuration, {count(review.n_groups_changed, 'tenant')} a different archetype or "
            "look-alike"
        )
    if not review.n_reviewed:
        return Answer("unknown", f"{capital(review.status)}. {capital(drifted)}.")
    tier = review.headline_tier
    own = review.tiers[tier]
    return Answer(
        effect_of(*own.ratio_fixed),
        f"Recommendations of {count(review.n_runs_reviewed, 'earlier run')} were reviewed. "
        f"At the {tier} tier demand exceeded the reservations at {percent(own.violation_rate)} of "
        "the steps (target "
        f"{percent(own.violation_rate_target)}); those for the maximum held in "
        f"{percent(own.covered)} of the blocks (target "
        f"{percent(own.covered_target)}); cost ratio to the fixed configuration "
        f"{ratio_interval(*own.ratio_fixed)}, to the last block "
        f"{ratio_interval(*own.ratio_last_block)}. {capital(drifted)}.",
    )


def reviewed_runs(review: RecommendationReview) -> Table:
    """Return earlier runs at the headline tier, latest first."""
    tier = review.headline_tier
    cells = tuple(
        (
            whole(row.run),
            row.first_block,
            whole(row.n_blocks),
            percent(row.violation_rate),
            percent(row.expected_violation_rate),
            percent(row.covered),
            number(row.ratio_fixed),
            number(row.ratio_last_block),
        )
        for row in review.table_runs
        if row.tier == tier
    )
    columns = (
        "run",
        "first block",
        "blocks",
        "steps above",
        "expected",
        "maximum held",
        "cost ratio to fixed",
        "to the last block",
    )
    return Table(f"Earlier recommendations, {tier} tier", columns, cells, frozenset({1}))


def misses(review: RecommendationReview) -> Table:
    """Return the largest shortfalls, in units of each series' scale."""
    cells = tuple(
        (
            row.tenant_id,
            row.metric,
            row.tier,
            row.block_start,
            number(row.reservation),
            percent(row.violation_rate),
            number(row.shortfall),
        )
        for row in review.table_misses
    )
    columns = ("tenant", "metric", "tier", "block", "reservation", "steps above", "mean shortfall")
    return Table("Worst misses of earlier recommendations", columns, cells, frozenset(range(4)))


def drifted(review: RecommendationReview) -> Table:
    """Return the tenants whose configuration or group changed since the last run.

    Shows the first of them; tenant_drift.parquet holds all.
    """
    cells = tuple(
        (row.tenant_id, row.metric or NO_FIGURE, row.what, *_old_and_new(row))
        for row in review.table_drift
    )
    return Table(
        "Changed since the last run",
        ("tenant", "metric", "what", "old", "new"),
        cells,
        frozenset(range(5)),
    )


def _old_and_new(row: DriftRow) -> tuple[str, str]:
    return _weighted(row.old, row.old_weight), _weighted(row.new, row.new_weight)


def _weighted(name: str, weight: float) -> str:
    return name if math.isnan(weight) else f"{name} ({percent(weight)})"


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def missing_last(value: float) -> tuple[bool, float]:
    """Return a sort key for a figure: the lowest first, missing ones last."""
    return math.isnan(value), value


TABLES: tuple[Callable[[RecommendationReport], Table], ...] = (
    methods,
    coverage,
    money,
    reserved,
    not_made,
)
REVIEW_TABLES: tuple[Callable[[RecommendationReview], Table], ...] = (
    reviewed_runs,
    misses,
    drifted,
)
