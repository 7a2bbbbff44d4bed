"""The ablation report in tables.

What belongs here: tables of `ablation_report`. What does not: sentences (`words`), figures
(`figures`), markup (`reports.page.markdown`).
"""

from tsfm_pipeline.evaluation.methods import FIXED, SEARCH
from tsfm_pipeline.reports.ablation.model import AblationReport, StepRow
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.table import Table, positions_of
from tsfm_pipeline.reports.shared.wording import (
    method_label,
    percent,
    percent_interval,
    plain,
    ratio_interval,
    whole,
)


def steps(report: AblationReport) -> Table:
    """Return every step at every tier, against the step before and the fixed configuration."""
    rows = overall_steps(report)
    by_key = {(row.method, row.tier): row for row in rows}
    adds = {row.method: row.adds for row in rows}

    def ratios(method: str, tier: str) -> tuple[str, str]:
        row = by_key.get((method, tier))
        both = (row.step_ratio, row.ratio) if row else (Estimate(), Estimate())
        return ratio_interval(*both[0]), ratio_interval(*both[1])

    cells = tuple(
        (
            text,
            method_label(method),
            *(ratio for tier in report.tiers for ratio in ratios(method, tier)),
        )
        for method, text in adds.items()
    )
    columns = (
        "step",
        "method",
        *(
            f"{text}, {tier}"
            for tier in report.tiers
            for text in ("to the step before", "to fixed")
        ),
    )
    return Table(
        "What each step adds (cost ratio)",
        columns,
        cells,
        frozenset({0, 1}),
        positions_of(adds, SEARCH),
    )


def step_groups(report: AblationReport) -> Table:
    """Return the ratio to the fixed configuration after every step, by group.

    Groups that are worse off are marked.
    """
    tier, scope = report.headline_tier, report.group_scope
    rows = [row for row in report.table_steps if row.scope != "all" and row.tier == tier]
    by_key = {(row.scope_value, row.method): row for row in rows}
    groups = list(dict.fromkeys(row.scope_value for row in rows))
    methods = [method for method in dict.fromkeys(row.method for row in rows) if method != FIXED]

    def ratio(group: str, method: str) -> Estimate:
        row = by_key.get((group, method))
        return row.ratio if row else Estimate()

    cells = tuple(
        (group, *(ratio_interval(*ratio(group, method)) for method in methods)) for group in groups
    )
    harmed = {row.scope_value for row in rows if row.method == SEARCH and row.harmed}
    return Table(
        f"Cost ratio to fixed after each step by {scope}, {tier} tier",
        (scope, *map(method_label, methods)),
        cells,
        emphasised=frozenset(i for i, group in enumerate(groups) if group in harmed),
    )


def rivals(report: AblationReport) -> Table:
    """Return all rules and rivals side by side, cheapest first, and the search's ratio to each."""
    tier = report.headline_tier
    rows = [row for row in report.table_rivals if row.tier == tier]
    cells = tuple(
        (
            method_label(row.method),
            row.forecasts,
            ratio_interval(*row.ratio),
            "1" if row.method == SEARCH else ratio_interval(*row.search_ratio),
            "" if row.method == SEARCH else row.beaten,
            whole(row.n_failed),
        )
        for row in rows
    )
    columns = (
        "method",
        "forecasts per request",
        "ratio to fixed",
        "search to this",
        "beaten by the search",
        "failed",
    )
    emphasised = positions_of([row.method for row in rows], SEARCH)
    return Table(
        f"The search against every rule and rival, {tier} tier",
        columns,
        cells,
        frozenset({0, 1, 4}),
        emphasised,
    )


def trust(report: AblationReport) -> Table:
    """Return headroom beside its null, what the search captures and leaves, and the label-swap
    control.
    """
    cells = tuple(
        (
            tier,
            plain(own.default_rule),
            percent(own.headroom_cross_fitted.figure),
            f"{percent(own.headroom_null_low)} to {percent(own.headroom_null_high)}",
            percent_interval(*own.headroom_captured),
            percent_interval(*own.regret),
            percent(own.label_swap_rejection_rate),
        )
        for tier, own in report.tiers.items()
    )
    columns = (
        "tier",
        "default rule",
        "headroom",
        "by chance",
        "captured",
        "regret",
        "label swaps rejected (nominal 5 %)",
    )
    return Table("Headroom, regret and the label-swap control", columns, cells, frozenset({0, 1}))


def controls(report: AblationReport) -> Table:
    """Return the gain of the neighbours' prior over a random tenant's and the whole fleet's."""
    cells = tuple(
        (
            row.tier,
            f"neighbours' prior against {row.control}",
            ratio_interval(*row.ratio),
            row.verdict,
        )
        for row in report.table_controls
    )
    return Table(
        "Controls of the prior (cost ratio)",
        ("tier", "control", "ratio", "verdict"),
        cells,
        frozenset({0, 1, 3}),
    )


def events(report: AblationReport) -> Table:
    """Return the search's cost with against without the fleet's known events."""
    cells = tuple(
        (
            row.tier,
            whole(row.n_requests),
            percent(row.share),
            ratio_interval(*row.ratio),
            row.verdict,
        )
        for row in report.table_events
    )
    return Table(
        "Known events, on the requests that they change (cost ratio)",
        ("tier", "requests", "share", "with : without", "verdict"),
        cells,
        frozenset({0, 4}),
    )


def dimensions(report: AblationReport) -> Table:
    """Return the cost with against without each dimension of the search space."""
    cells = tuple(
        (
            row.tier,
            row.dimension,
            method_label(row.method),
            whole(row.n_configs),
            ratio_interval(*row.ratio),
            row.verdict,
            whole(row.n_failed),
        )
        for row in report.table_dimensions
    )
    columns = (
        "tier",
        "dimension",
        "method",
        "configurations with it",
        "with : without",
        "verdict",
        "failed without",
    )
    return Table(
        "Which dimension earns its place (cost ratio)", columns, cells, frozenset({0, 1, 2, 5})
    )


def violations(report: AblationReport) -> Table:
    """Return how often demand exceeds the decision, against 1 - alpha."""
    cells = tuple(
        (
            row.tier,
            method_label(row.method),
            percent_interval(*row.violation_rate),
            percent(row.target),
            percent(row.excess),
        )
        for row in report.table_violations
    )
    return Table(
        "Violation rates",
        ("tier", "method", "violations", "target", "excess"),
        cells,
        frozenset({0, 1}),
    )


def floor(report: AblationReport) -> Table:
    """Return every method as a multiple of the irreducible loss."""
    tier = report.headline_tier
    rows = [row for row in report.table_floor if row.tier == tier and row.scope == "all"]
    cells = tuple((method_label(row.method), ratio_interval(*row.multiple)) for row in rows)
    error = percent(report.tiers[tier].floor_monte_carlo_share)
    caption = (
        f"Multiples of the irreducible loss, {tier} tier (finitely many simulated paths "
        f"raise the floor by about {error})"
    )
    return Table(
        caption,
        ("method", "multiple"),
        cells,
        emphasised=positions_of([row.method for row in rows], SEARCH),
    )


def selection(report: AblationReport) -> Table:
    """Return which configurations the search weighs, overall."""
    tier = report.headline_tier
    rows = [row for row in report.table_selection if row.tier == tier and row.scope == "all"]
    rows.sort(key=lambda row: -row.mean_weight)
    cells = tuple((row.config, percent(row.mean_weight), percent(row.share_chosen)) for row in rows)
    return Table(
        f"Which configurations the search uses, {tier} tier",
        ("configuration", "mean weight", "weighs most"),
        cells,
    )


TABLES = (steps, rivals, step_groups, trust, controls, dimensions, violations, selection, floor)
"""In the order in which they are shown."""


def overall_steps(report: AblationReport) -> list[StepRow]:
    """Return the rows of all tenants together."""
    return [row for row in report.table_steps if row.scope == "all"]
