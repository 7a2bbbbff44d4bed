"""The headline in words and tables.

What belongs here: sentences and tables from the report's figures. What does not: the figures themselves (`numbers`), drawings (`figures`).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from tsfm_pipeline.evaluation.protocol import HEADLINE_TIER, TIERS
from tsfm_pipeline.reports.shared.answer import Answer, Effect, Report, effect_of, row_effect
from tsfm_pipeline.reports.shared.table import Table, percent_row, positions_of, rows_of
from tsfm_pipeline.reports.shared.wording import (
    CONFIG_PREFIX,
    NO_FIGURE,
    count,
    figure_of,
    is_part_of_the_search,
    method_label,
    number,
    p_value,
    percent,
    percent_interval,
    price_ratio,
    ratio_texts,
    row_ratio,
    tier_label,
    tiers_in,
    whole,
)


def headline_answer(report: Report, tier: str = HEADLINE_TIER) -> Answer:
    """Does choosing the configuration per request cost less than the best fixed configuration?"""
    ratio, low, high = (figure_of(report, f"{tier}_ratio{limit}") for limit in ("", "_low", "_high"))
    fleet = report.get("fleet", "this fleet")
    effect = effect_of(ratio, low, high)
    if not math.isfinite(ratio):
        return Answer("unknown", f"On {fleet}, the question is not answered: there is no cost ratio at the {tier} tier.")
    sample = (
        f"{count(figure_of(report, f'{tier}_n_requests_scored'), 'request')} of "
        f"{count(figure_of(report, f'{tier}_n_tenants_scored'), 'tenant')}"
    )
    subject = f"On {fleet}, choosing the configuration per request cost"
    rival = f"the best fixed configuration at the {tier} tier"
    change = f"{percent(abs(1 - ratio))} {'less' if ratio < 1 else 'more'} than"
    if effect == "unknown":
        (text,) = ratio_texts(ratio)
        return Answer(
            effect,
            f"{subject} {change} {rival} (ratio {text}, {sample}), but without an interval "
            "(one tenant or one day gives none): this says nothing beyond these requests.",
        )
    value, lower, upper = ratio_texts(ratio, low, high)
    figures = f"(ratio {value}, 95 % interval {lower} to {upper}, {sample})"
    if effect == "null":
        return Answer(effect, f"{subject} neither demonstrably less nor more than {rival}: the interval holds 1 {figures}.")
    return Answer(effect, f"{subject} {change} {rival} {figures}.")


def worth_answer(report: Report) -> Answer:
    """At which tiers does the search cost less than the fixed configuration, at which more?"""
    tiers = [{"tier": tier, **ratio_of(report, tier)} for tier in TIERS if f"{tier}_ratio" in report]
    if not tiers:
        return Answer("unknown", "The search was not compared with the fixed configuration.")
    words: dict[Effect, str] = {
        "gain": "less at",
        "loss": "more at",
        "null": "no demonstrable difference at",
        "unknown": "without interval at",
    }
    parts = []
    for effect, text in words.items():
        if rows := [row for row in tiers if row_effect(row) == effect]:
            parts.append(f"{text} " + ", ".join(f"{row['tier']} {row_ratio(row)}" for row in rows))
    effects = {row_effect(row) for row in tiers}
    overall = effects.pop() if len(effects) == 1 else "null"
    return Answer(overall, f"At each tier's prices the search costs, relative to the fixed configuration: {'; '.join(parts)}.")


def worth_points(report: Report, ablation_report: Report) -> list[tuple[str, str]]:
    """Per tier: cost, how often demand exceeds the reservation, and how much is reserved in vain, search beside fixed.

    The violation rates' intervals come from the ablation report, where there is one.
    """
    violations = {(row.get("tier"), row.get("method")): row for row in ablation_report.get("table_violations") or []}
    methods = {(row.get("tier"), row.get("method")): row for row in report.get("table_methods") or []}
    points = []
    for tier in TIERS:
        if f"{tier}_ratio" not in report:
            continue
        rates = [
            percent_interval(*(figure_of(row, f"violation_rate{limit}") for limit in ("", "_low", "_high")))
            if (row := violations.get((tier, method)))
            else percent(figure_of(report, f"{tier}_violation_rate_{name}"))
            for method, name in (("search", "search"), ("fixed_quantile", "fixed"))
        ]
        slack = [number(figure_of(methods.get((tier, method), {}), "mean_scaled_slack")) for method in ("search", "fixed_quantile")]
        fixed = f" ({report[f'{tier}_fixed_config']})" if report.get(f"{tier}_fixed_config") else ""
        target = percent(figure_of(report, f"{tier}_violation_rate_target"))
        text = (
            f"Cost {row_ratio(report, f'{tier}_ratio')} times the fixed configuration's{fixed}. Demand exceeds the reservation in "
            f"{rates[0]} of the steps, fixed {rates[1]}, target {target}. Mean slack {slack[0]} scale units, fixed {slack[1]}."
        )
        points.append((tier_label(tier), text))
    return points


def group_scopes(report: Report) -> list[str]:
    """What the search is compared by: archetype where the fleet has archetypes, and metric."""
    return ["archetype", "metric"] if report.get("table_archetypes") else ["metric"]


def for_whom_answer(report: Report, tier: str = HEADLINE_TIER) -> Answer:
    """For which groups and for how many tenants does it pay, and for which not?"""
    scope = group_scopes(report)[0]
    groups = groups_by_effect(report.get(f"table_{scope}s") or [], tier)
    n_groups = sum(map(len, groups.values()))
    if not n_groups:
        return Answer("unknown", f"The search was not compared per {scope}.")

    def named(rows: Sequence[Report]) -> str:
        return f"{len(rows)} ({', '.join(str(row.get('scope_value')) for row in rows)})" if rows else "none"

    open_ones = len(groups["null"]) + len(groups["unknown"])
    sentence = (
        f"At the {tier} tier, of {count(n_groups, scope)} it pays (interval below 1) for {named(groups['gain'])}, costs more (above 1) for "
        f"{named(groups['loss'])}, and {open_ones} {'is' if open_ones == 1 else 'are'} not decided"
    )
    n_cheaper, n_tenants = (figure_of(report, f"{tier}_{name}") for name in ("n_tenants_cheaper", "n_tenants_scored"))
    if math.isfinite(n_cheaper):
        sentence += f"; {whole(n_cheaper)} of {count(n_tenants, 'tenant')} cost less, chance included"
    effect: Effect = "loss" if groups["loss"] else "gain" if groups["gain"] else "null"
    return Answer(effect, f"{sentence}.")


def groups_by_effect(rows: Sequence[Report], tier: str = HEADLINE_TIER) -> dict[Effect, list[Report]]:
    """Rows of one tier (archetypes or metrics) by the effect that their own interval shows, lowest ratio first."""
    groups: dict[Effect, list[Report]] = {"gain": [], "loss": [], "null": [], "unknown": []}
    own_tier = [row for row in rows if row.get("tier") == tier]
    for row in sorted(own_tier, key=lambda row: (math.isnan(figure_of(row, "ratio")), figure_of(row, "ratio"))):
        groups[row_effect(row)].append(row)
    return groups


def rivals_answer(report: Report, tier: str = HEADLINE_TIER) -> Answer:
    """Is anything simpler than the search just as cheap? By mean loss on the same requests; single configurations, whose
    best is only known in hindsight, are left out."""
    rows = [
        row
        for row in report.get("table_methods") or []
        if row.get("tier") == tier and not str(row.get("method")).startswith(CONFIG_PREFIX) and math.isfinite(figure_of(row, "ratio"))
    ]
    rows.sort(key=lambda row: (figure_of(row, "ratio"), str(row.get("method"))))
    search = [row for row in rows if row.get("method") == "search"]
    rivals = [row for row in rows if row.get("method") != "search" and not is_part_of_the_search(str(row.get("method")))]
    if not search or not rivals:
        return Answer("unknown", "The search was not compared with rivals.")
    cheaper = [row for row in rivals if figure_of(row, "ratio") < figure_of(search[0], "ratio")]
    if not cheaper:
        nearest = rivals[0]
        return Answer(
            "gain",
            f"No rival of {len(rivals)} costs less than the search at the {tier} tier, {row_ratio(search[0])} times the fixed "
            f"configuration's cost; the nearest is {method_label(str(nearest['method']))} with {row_ratio(nearest)}.",
        )
    names = ", ".join(f"{method_label(str(row['method']))} {row_ratio(row)}" for row in cheaper)
    return Answer(
        "loss",
        f"{len(cheaper)} of {count(len(rivals), 'rival')} cost{'s' if len(cheaper) == 1 else ''} less than the search at the "
        f"{tier} tier, {row_ratio(search[0])} times the fixed configuration's cost: {names}.",
    )


def ratio_sentence(row: Report) -> str:
    """A group's name with its ratio, for lists in running text."""
    return f"{row.get('scope_value')} {row_ratio(row)}"


def ratio_of(report: Report, tier: str) -> dict[str, float]:
    """A tier's ratio and its limits as a record of their own."""
    return {f"ratio{limit}": figure_of(report, f"{tier}_ratio{limit}") for limit in ("", "_low", "_high")}


def worth(report: Report) -> Table:
    """What the search is worth at each tier: cost, win rate, violations and slack beside the fixed configuration."""
    tiers = [tier for tier in TIERS if f"{tier}_ratio" in report]
    methods = {(row.get("tier"), row.get("method")): row for row in rows_of(report, "table_methods")}

    def pair(tier: str, key: str, form: Callable[[float], str]) -> str:
        figures = [figure_of(methods.get((tier, method), {}), key) for method in ("search", "fixed_quantile")]
        return " / ".join(form(figure) for figure in figures)

    rows = tuple(
        (
            tier,
            price_ratio(TIERS[tier]),
            row_ratio(report, f"{tier}_ratio"),
            percent_row(report, f"{tier}_win_rate"),
            f"{percent(figure_of(report, f'{tier}_violation_rate_search'))} / {percent(figure_of(report, f'{tier}_violation_rate_fixed'))}",
            percent(figure_of(report, f"{tier}_violation_rate_target")),
            pair(tier, "mean_scaled_slack", number),
            whole(report.get(f"{tier}_n_requests_scored")),
        )
        for tier in tiers
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
        "Search against the fixed configuration, per tier (price of shortage : surplus; slack in scale units)",
        columns,
        rows,
        emphasised=positions_of(tiers, HEADLINE_TIER),
    )


def methods(report: Report, tier: str = HEADLINE_TIER, singles: bool = False) -> Table:
    """Every method of one tier beside the fixed configuration, cheapest first; `singles`: the single configurations instead."""
    rows = [
        row
        for row in rows_of(report, "table_methods")
        if row.get("tier") == tier and str(row.get("method", "")).startswith(CONFIG_PREFIX) == singles
    ]
    rows.sort(key=lambda row: (figure_of(row, "ratio") != figure_of(row, "ratio"), figure_of(row, "ratio")))
    cells = tuple(
        (
            method_label(str(row.get("method"))),
            number(figure_of(row, "mean_scaled_loss")),
            *(("1", NO_FIGURE) if row.get("method") == "fixed_quantile" else (row_ratio(row), percent_row(row, "win_rate"))),
            percent(figure_of(row, "violation_rate")),
            number(figure_of(row, "mean_scaled_slack")),
            number(figure_of(row, "mean_scaled_crps")),
            whole(row.get("n_failed")),
        )
        for row in rows
    )
    columns = ("method", "scaled loss", "ratio to fixed", "win rate", "violations", "slack", "CRPS", "failed")
    kind = "Single configurations" if singles else "All rivals"
    return Table(f"{kind}, {tier} tier", columns, cells, emphasised=positions_of([str(r.get("method")) for r in rows], "search"))


def robustness(report: Report) -> Table:
    """What could undermine the headline: other scales, single series, the mean of logs, and how much there is to gain at all."""
    tiers = [tier for tier in TIERS if f"{tier}_ratio" in report]

    def spread(tier: str, low: str, high: str, form: Callable[[float], str]) -> str:
        return f"{form(figure_of(report, f'{tier}_{low}'))} to {form(figure_of(report, f'{tier}_{high}'))}"

    rows = tuple(
        (
            tier,
            p_value(figure_of(report, f"{tier}_p_value")),
            row_ratio(report, f"{tier}_std_scaled_ratio"),
            spread(tier, "leave_one_out_ratio_min", "leave_one_out_ratio_max", lambda x: ratio_texts(x)[0]),
            number(figure_of(report, f"{tier}_mean_log_ratio")),
            percent(figure_of(report, f"{tier}_headroom_cross_fitted")),
            spread(tier, "headroom_null_low", "headroom_null_high", percent),
            percent(figure_of(report, f"{tier}_headroom_oracle_request")),
        )
        for tier in tiers
    )
    columns = (
        "tier",
        "p",
        "ratio, scaled by standard deviation",
        "ratio, each series left out in turn",
        "mean log ratio",
        "headroom, cross-fitted",
        "headroom expected by chance",
        "oracle per request (upper bound, inflated)",
    )
    return Table("How far the headline can be trusted", columns, rows)


def groups(report: Report, scope: str) -> Table:
    """The search per archetype or per metric, all tiers side by side, sorted by the headline tier's ratio."""
    rows = rows_of(report, f"table_{scope}s")
    tiers = tiers_in([str(row.get("tier")) for row in rows])
    by_key = {(row.get("scope_value"), row.get("tier")): row for row in rows}
    lead = HEADLINE_TIER if HEADLINE_TIER in tiers else (tiers[0] if tiers else "")
    values = sorted(
        {str(row.get("scope_value")) for row in rows},
        key=lambda value: (
            (r := figure_of(by_key.get((value, lead), {}), "ratio")) != r,
            r,
            value,
        ),
    )
    cells = tuple(
        (
            value,
            *(row_ratio(by_key.get((value, tier), {})) for tier in tiers),
            percent_row(by_key.get((value, lead), {}), "win_rate"),
            whole(by_key.get((value, lead), {}).get("n_tenants")),
            whole(by_key.get((value, lead), {}).get("n_requests")),
        )
        for value in values
    )
    columns = (scope, *(f"ratio, {tier}" for tier in tiers), f"win rate, {lead}", "tenants", "requests")
    return Table(f"The search per {scope}", columns, cells)


def unscaled(report: Report, tier: str = HEADLINE_TIER) -> Table:
    """Mean cost, slack, shortfall and violations per metric in the metric's own unit, search beside fixed."""
    rows = {(row.get("metric"), row.get("method")): row for row in rows_of(report, "table_unscaled") if row.get("tier") == tier}

    def pair(metric: Any, key: str, form: Callable[[float], str]) -> str:
        return " / ".join(form(figure_of(rows.get((metric, method), {}), key)) for method in ("search", "fixed_quantile"))

    cells = tuple(
        (str(metric), *(pair(metric, key, number) for key in ("loss", "slack", "shortfall")), pair(metric, "violation_rate", percent))
        for metric in dict.fromkeys(metric for metric, _ in rows)
    )
    columns = ("metric", "cost per step", "slack", "shortfall", "violations")
    return Table(f"In the metrics' own units, search / fixed, {tier} tier", columns, cells)


def tenants(report: Report) -> Table:
    """The tenants that the search serves best and worst, worst first."""
    rows = sorted(rows_of(report, "table_tenants"), key=lambda row: -figure_of(row, "ratio"))
    kinds = ("archetype",) if any(row.get("archetype") for row in rows) else ()
    cells = tuple(
        (
            str(row.get("tenant_id")),
            *(str(row.get(kind) or NO_FIGURE) for kind in kinds),
            row_ratio(row),
            " / ".join(number(figure_of(row, f"mean_loss_{name}")) for name in ("search", "fixed")),
            whole(row.get("n_requests")),
        )
        for row in rows
    )
    columns = ("tenant", *kinds, "cost ratio, search to fixed", "scaled cost, search / fixed", "requests")
    caption = f"The tenants that it serves worst and best, {HEADLINE_TIER} tier (extremes owe something to chance)"
    return Table(caption, columns, cells, frozenset(range(1 + len(kinds))))
