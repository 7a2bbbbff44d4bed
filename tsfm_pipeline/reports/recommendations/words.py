"""The recommendations in words, tables and a figure: what to reserve next, what that cost in the backtest, what became of it since.

What belongs here: sentences, tables, figure and section of `recommendation_report` and `recommendation_review`. What does not: computing
them (`reports.recommendations.numbers`, `reports.recommendations.review`), the files that are handed out
(`reports.recommendations.publication`).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tsfm_pipeline.evaluation.protocol import HEADLINE_TIER
from tsfm_pipeline.reports.shared.answer import Answer, row_effect
from tsfm_pipeline.reports.shared.table import Table
from tsfm_pipeline.reports.shared.wording import (
    NO_FIGURE,
    count,
    duration,
    figure_of,
    interval,
    number,
    percent,
    percent_interval,
    row_ratio,
    tier_label,
    tiers_in,
    whole,
)

if TYPE_CHECKING:
    pass

Report = Mapping[str, Any]
Row = Mapping[str, Any]

METHOD_LABELS = {
    "search": "search",
    "fixed_quantile": "fixed configuration",
    "last_block": "last block",
    "day_ago_block": "same block a day ago",
    "last_value": "last value",
    "percentile_margin": "percentile of the week + 15 %, as VPA",
    "search_peak": "search, calibrated",
    "largest_step": "largest of the steps' quantiles",
    "last_block_peak": "maximum of the last block",
}
MONEY_RIVALS = {
    "fixed_quantile": "the fixed configuration",
    "last_block": "the last block",
    "percentile_margin": "the percentile of the week + 15 %",
}
FILES = "recommendations.csv, recommendations.parquet and recommendations.vpa.json"


def recommendations_answer(report: Report) -> Answer:
    """What is recommended, and what such constants cost in the backtest."""
    n_series, n_missing = figure_of(report, "n_series"), figure_of(report, "n_not_made")
    made = f"{count(n_series - n_missing, 'series', 'series')} of {count(figure_of(report, 'n_tenants'), 'tenant')}"
    tier = HEADLINE_TIER
    effect = row_effect(report, f"{tier}_ratio")
    words = {
        "gain": "cost less than the fixed configuration's",
        "loss": "cost more than the fixed configuration's",
        "null": "are not shown to cost more or less than the fixed configuration's",
        "unknown": "are scored beside the fixed configuration's, without an interval",
    }
    to_last_block = row_ratio(report, f"{tier}_ratio_last_block")
    return Answer(
        effect,
        f"{made} have a constant reservation for their next {duration(figure_of(report, 'block_minutes'))}. In the backtest such constants "
        f"{words[effect]}: ratio {row_ratio(report, f'{tier}_ratio')} at the {tier} tier, and {to_last_block} to the last block's.",
    )


def kept_promises(report: Report, tier: str = HEADLINE_TIER) -> list[tuple[str, str]]:
    """How often constants held, those for every step and those for the maximum, as points of the section."""
    above, naive = (percent(figure_of(report, f"{tier}_{name}")) for name in ("violation_rate_search", "covered_largest_step"))
    target_above, target_held = (percent(figure_of(report, f"{tier}_{name}_target")) for name in ("violation_rate", "covered"))
    held = percent_interval(*(figure_of(report, f"{tier}_covered{limit}") for limit in ("", "_low", "_high")))
    return [
        ("Every step", f"Demand exceeded them at {above} of the steps; the {tier} tier allows {target_above}."),
        (
            "The maximum",
            f"The reservation for the block's maximum held in {held} of the blocks; it should in {target_held}. The largest of the steps' "
            f"quantiles would have held in {naive}.",
        ),
    ]


def money_answer(report: Report) -> str:
    """What the search's constants save per tenant and day, where the fleet has prices; "" where it has none."""
    currency = report.get("currency")
    parts = []
    for rival, label in MONEY_RIVALS.items():
        saved = [figure_of(report, f"saved_per_tenant_day_vs_{rival}{limit}") for limit in ("", "_low", "_high")]
        if currency and saved[0] == saved[0]:
            parts.append(f"{interval(*saved)} against {label}")
    if not parts:
        return ""
    return f"Saved per tenant and day, in {currency}, every tenant at its own tier: {'; '.join(parts)}."


def methods(report: Report, tier: str = HEADLINE_TIER) -> Table:
    """Every way to set one constant at one tier, cheapest first, those for the maximum last."""
    rows = [row for row in report.get("table_methods") or [] if row.get("tier") == tier]
    rows.sort(key=lambda row: (bool(row.get("for_maximum")), sortable_figure(figure_of(row, "mean_scaled_loss"))))
    cells = tuple(
        (
            METHOD_LABELS.get(str(row.get("method")), str(row.get("method"))),
            "the block's maximum" if row.get("for_maximum") else "every step",
            "1" if row.get("method") == "fixed_quantile" else row_ratio(row),
            percent(figure_of(row, "violation_rate")),
            percent_interval(*(figure_of(row, f"covered{limit}") for limit in ("", "_low", "_high"))),
            number(figure_of(row, "mean_scaled_slack")),
            whole(row.get("n_failed")),
        )
        for row in rows
    )
    columns = ("constant", "meant for", "cost ratio to fixed", "steps above it", "blocks wholly below it", "slack", "failed")
    shown = frozenset(i for i, row in enumerate(rows) if row.get("method") in ("search", "search_peak"))
    return Table(f"One constant per block, {tier} tier", columns, cells, frozenset({0, 1}), shown)


def coverage(report: Report) -> Table:
    """Per tier: how often the constants for the maximum held, beside what they should."""
    by_key = {(row.get("tier"), row.get("method")): row for row in report.get("table_methods") or []}
    tiers = tiers_in(list({str(tier) for tier, _ in by_key}))
    peaks = ("search_peak", "largest_step", "last_block_peak")

    def held(tier: str, method: str) -> str:
        return percent_interval(*(figure_of(by_key.get((tier, method), {}), f"covered{limit}") for limit in ("", "_low", "_high")))

    cells = tuple(
        (tier_label(tier), percent(figure_of(report, f"{tier}_covered_target")), *(held(tier, method) for method in peaks))
        for tier in tiers
    )
    return Table("Blocks whose maximum stayed below the constant", ("tier", "target", *(METHOD_LABELS[peak] for peak in peaks)), cells)


def money(report: Report) -> Table:
    """What reservations would have cost per tenant and day, by tier."""
    rows = [row for row in report.get("table_money") or [] if row.get("method") in METHOD_LABELS]
    cells = tuple(
        (
            str(row.get("tier")),
            METHOD_LABELS[str(row.get("method"))],
            *(number(figure_of(row, f"{name}_per_tenant_day")) for name in ("slack_cost", "sla_cost", "cost")),
            whole(row.get("n_requests")),
        )
        for row in rows
    )
    columns = ("tier", "constant", "slack", "SLA", "together", "requests")
    shown = frozenset(i for i, row in enumerate(rows) if row.get("method") == "search")
    return Table(f"Cost per tenant and day, {report.get('currency', '')}", columns, cells, frozenset({0, 1}), shown)


def not_made(report: Report) -> Table:
    """Why series have no recommendation."""
    cells = tuple((str(row.get("reason")), whole(row.get("n_series"))) for row in report.get("table_not_made") or [])
    return Table("Series without a recommendation", ("reason", "series"), cells)


def review_answer(review: Report) -> Answer:
    """What became of earlier recommendations, and what changed since the last run."""
    drifted = f"{review.get('drift_status', '')}"
    if figure_of(review, "n_series_compared") >= 0:
        compared = count(figure_of(review, "n_series_compared"), "series", "series")
        groups = count(figure_of(review, "n_groups_changed"), "tenant")
        drifted = (
            f"{drifted}: {whole(review.get('n_configs_changed'))} of {compared} have another heaviest configuration, "
            f"{groups} another archetype or look-alike"
        )
    if not figure_of(review, "n_reviewed") > 0:
        return Answer("unknown", f"{capital(str(review.get('status', 'nothing to review yet')))}. {capital(drifted)}.")
    tier = HEADLINE_TIER
    return Answer(
        row_effect(review, f"{tier}_ratio_fixed"),
        f"Recommendations of {count(figure_of(review, 'n_runs_reviewed'), 'earlier run')} were reviewed. "
        f"At the {tier} tier demand exceeded the reservations at "
        f"{percent(figure_of(review, f'{tier}_violation_rate'))} of the steps (target "
        f"{percent(figure_of(review, f'{tier}_violation_rate_target'))}); those for the maximum held in "
        f"{percent(figure_of(review, f'{tier}_covered'))} of the blocks (target {percent(figure_of(review, f'{tier}_covered_target'))}); "
        f"cost ratio to the fixed configuration {row_ratio(review, f'{tier}_ratio_fixed')}, to the last block "
        f"{row_ratio(review, f'{tier}_ratio_last_block')}. {capital(drifted)}.",
    )


def reviewed_runs(review: Report, tier: str = HEADLINE_TIER) -> Table:
    """Earlier runs at one tier, latest first."""
    cells = tuple(
        (
            whole(row.get("run")),
            str(row.get("first_block")),
            whole(row.get("n_blocks")),
            percent(figure_of(row, "violation_rate")),
            percent(figure_of(row, "expected_violation_rate")),
            percent(figure_of(row, "covered")),
            *(number(figure_of(row, f"ratio_{rival}")) for rival in ("fixed", "last_block")),
        )
        for row in review.get("table_runs") or []
        if row.get("tier") == tier
    )
    columns = ("run", "first block", "blocks", "steps above", "expected", "maximum held", "cost ratio to fixed", "to the last block")
    return Table(f"Earlier recommendations, {tier} tier", columns, cells, frozenset({1}))


def misses(review: Report) -> Table:
    """The largest shortfalls, in units of each series' scale."""
    cells = tuple(
        (
            *(str(row.get(key)) for key in ("tenant_id", "metric", "tier", "block_start")),
            number(figure_of(row, "reservation")),
            percent(figure_of(row, "violation_rate")),
            number(figure_of(row, "shortfall")),
        )
        for row in review.get("table_misses") or []
    )
    columns = ("tenant", "metric", "tier", "block", "reservation", "steps above", "mean shortfall")
    return Table("Worst misses of earlier recommendations", columns, cells, frozenset(range(4)))


def drifted(review: Report) -> Table:
    """Tenants whose configuration or group is another than at the last run; the first of them, the rest is in tenant_drift.parquet."""
    cells = tuple(
        (
            str(row.get("tenant_id")),
            str(row.get("metric") or NO_FIGURE),
            str(row.get("what")),
            *(_weighted(row, side) for side in ("old", "new")),
        )
        for row in review.get("table_drift") or []
    )
    return Table("Changed since the last run", ("tenant", "metric", "what", "old", "new"), cells, frozenset(range(5)))


def _weighted(row: Row, side: str) -> str:
    weight = figure_of(row, f"{side}_weight")
    return f"{row.get(side)} ({percent(weight)})" if weight == weight else str(row.get(side))


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def sortable_figure(value: float) -> tuple[bool, float]:
    return value != value, value


TABLES: tuple[Any, ...] = (methods, coverage, money, not_made)
REVIEW_TABLES: Sequence[Any] = (reviewed_runs, misses, drifted)
