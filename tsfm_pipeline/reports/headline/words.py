"""The headline in words.

What belongs here: sentences from the report's figures. What does not: tables (`tables`), the
figures themselves (`numbers`), drawings (`figures`).
"""

import math
from collections.abc import Mapping, Sequence

from tsfm_pipeline.evaluation.methods import FIXED, SEARCH
from tsfm_pipeline.reports.headline.model import GroupRow, HeadlineReport
from tsfm_pipeline.reports.headline.tables import (
    basis_label,
    by_method,
    is_single,
    methods_at,
    missing_last,
)
from tsfm_pipeline.reports.shared.answer import Answer, Effect, effect_of
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.wording import (
    NO_FIGURE,
    count,
    is_part_of_the_search,
    method_label,
    number,
    percent,
    percent_interval,
    ratio_interval,
    ratio_texts,
    tier_label,
    whole,
)


def headline_answer(report: HeadlineReport) -> Answer:
    """Say whether choosing the configuration per request costs less than the best fixed one."""
    tier = report.headline_tier
    own = report.tiers[tier]
    ratio, low, high = own.ratio
    effect = effect_of(*own.ratio)
    if not math.isfinite(ratio):
        return Answer(
            "unknown",
            f"On {report.fleet}, the question is not answered: there is no cost ratio at the "
            f"{tier} tier.",
        )
    sample = f"{count(own.n_requests_scored, 'request')} of {count(own.n_tenants_scored, 'tenant')}"
    subject = f"On {report.fleet}, choosing the configuration per request cost"
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
    alike = _companions(report)
    if effect == "null":
        return Answer(
            effect,
            f"{subject} neither demonstrably less nor more than {rival}: the interval holds 1 "
            f"{figures}. {alike}",
        )
    return Answer(effect, f"{subject} {change} {rival} {figures}. {alike}")


def _companions(report: HeadlineReport) -> str:
    """Return the ratios in which every tenant counts alike and in which scales have a floor, and
    how much one request weighs where the effects differ.
    """
    own = report.tiers[report.headline_tier]
    sentence = (
        f"Every tenant counted alike, the ratio is {ratio_interval(*own.tenant_ratio)}; with a "
        f"floor under the scales of series at rest, {ratio_interval(*own.floored_ratio)}"
    )
    if len({effect_of(*one) for one in (own.ratio, own.tenant_ratio, own.floored_ratio)}) == 1:
        return f"{sentence}."
    return (
        f"{sentence}. The three do not agree; the dearest request alone is "
        f"{percent(own.largest_request_share)} of the fixed configuration's cost, and "
        f"{percent(own.floored_largest_request_share)} with the floor."
    )


def worth_answer(report: HeadlineReport) -> Answer:
    """Say at which tiers the search costs less than the fixed configuration, and at which more."""
    by_effect: dict[Effect, list[str]] = {"gain": [], "loss": [], "null": [], "unknown": []}
    for tier, own in report.tiers.items():
        by_effect[effect_of(*own.ratio)].append(f"{tier} {ratio_interval(*own.ratio)}")
    words: dict[Effect, str] = {
        "gain": "less at",
        "loss": "more at",
        "null": "no demonstrable difference at",
        "unknown": "without interval at",
    }
    parts = [f"{words[effect]} {', '.join(tiers)}" for effect, tiers in by_effect.items() if tiers]
    effects = [effect for effect, tiers in by_effect.items() if tiers]
    overall = effects[0] if len(effects) == 1 else "null"
    return Answer(
        overall,
        "At each tier's prices the search costs, relative to the fixed configuration: "
        f"{'; '.join(parts)}.",
    )


def worth_points(
    report: HeadlineReport,
    violation_rates: Mapping[tuple[str, str], Estimate],
) -> list[tuple[str, str]]:
    """Return cost, violations and slack of the search beside the fixed configuration, per tier.

    violation_rates: rates with intervals by tier and method, where they were measured.
    """
    methods = by_method(report)
    points = []
    for tier, own in report.tiers.items():
        rates = [
            percent_interval(*violation_rates.get((tier, method), Estimate(rate)))
            for method, rate in (
                (SEARCH, own.violation_rate_search),
                (FIXED, own.violation_rate_fixed),
            )
        ]
        slack = [
            number(row.mean_scaled_slack) if (row := methods.get((tier, method))) else NO_FIGURE
            for method in (SEARCH, FIXED)
        ]
        fixed = f" ({own.fixed_config})" if own.fixed_config else ""
        text = (
            f"Cost {ratio_interval(*own.ratio)} times the fixed configuration's{fixed}. Demand "
            "exceeds the reservation in "
            f"{rates[0]} of the steps, fixed {rates[1]}, target "
            f"{percent(own.violation_rate_target)}. "
            f"Mean slack {slack[0]} scale units, fixed {slack[1]}."
        )
        points.append((tier_label(tier, own.alpha), text))
    return points


def strata_point(report: HeadlineReport) -> tuple[str, str]:
    """Say how many test requests were answered, and on what history."""
    n_answered = report.n_requests - report.n_invalid_requests
    parts = [
        f"{basis_label(row.basis)} {whole(row.n_requests)} ({percent(row.share)})"
        for row in report.table_strata
        if row.tier == report.headline_tier
    ]
    sentence = (
        f"{whole(n_answered)} of {count(report.n_requests, 'test request')} could be asked"
        f"{': ' if parts else ''}{', '.join(parts)}."
    )
    if report.n_invalid_requests:
        sentence += " The others are counted with their reasons under data quality."
    return "Answered", sentence


def for_whom_answer(report: HeadlineReport) -> Answer:
    """Say for which groups and for how many tenants the search pays, and for which it does not."""
    scope, tier = report.group_scopes[0], report.headline_tier
    groups = groups_by_effect(report, scope)
    n_groups = sum(map(len, groups.values()))
    if not n_groups:
        return Answer("unknown", f"The search was not compared per {scope}.")

    def named(rows: Sequence[GroupRow]) -> str:
        return f"{len(rows)} ({', '.join(row.scope_value for row in rows)})" if rows else "none"

    open_ones = len(groups["null"]) + len(groups["unknown"])
    sentence = (
        f"At the {tier} tier, of {count(n_groups, scope)} it pays (interval below 1) for "
        f"{named(groups['gain'])}, costs more (above 1) for "
        f"{named(groups['loss'])}, and {open_ones} {'is' if open_ones == 1 else 'are'} not decided"
    )
    own = report.tiers[tier]
    if own.n_tenants_cheaper is not None:
        sentence += (
            f"; {whole(own.n_tenants_cheaper)} of {count(own.n_tenants_scored, 'tenant')} "
            "cost less, some of them by chance"
        )
    effect: Effect = "loss" if groups["loss"] else "gain" if groups["gain"] else "null"
    return Answer(effect, f"{sentence}.")


def groups_by_effect(report: HeadlineReport, scope: str) -> dict[Effect, list[GroupRow]]:
    """Return the headline tier's groups by the effect that their own interval shows, lowest ratio
    first.
    """
    groups: dict[Effect, list[GroupRow]] = {"gain": [], "loss": [], "null": [], "unknown": []}
    rows = [row for row in report.groups(scope) if row.tier == report.headline_tier]
    for row in sorted(rows, key=lambda row: missing_last(row.ratio)):
        groups[effect_of(*row.ratio)].append(row)
    return groups


def rivals_answer(report: HeadlineReport) -> Answer:
    """Say whether anything simpler than the search is as cheap.

    Compares mean losses on the same requests. Single configurations are left out: the best of them
    is known only in hindsight.
    """
    tier = report.headline_tier
    rows = [
        row
        for row in methods_at(report, tier)
        if math.isfinite(row.ratio.figure) and not is_single(row)
    ]
    rows.sort(key=lambda row: (row.ratio.figure, row.method))
    search = next((row for row in rows if row.method == SEARCH), None)
    rivals = [row for row in rows if row.method != SEARCH and not is_part_of_the_search(row.method)]
    if search is None or not rivals:
        return Answer("unknown", "The search was not compared with rivals.")
    cheaper = [row for row in rivals if row.ratio.figure < search.ratio.figure]
    own = f"{ratio_interval(*search.ratio)} times the fixed configuration's cost"
    if not cheaper:
        nearest = rivals[0]
        return Answer(
            "gain",
            f"No rival of {len(rivals)} costs less than the search at the {tier} tier, {own}; "
            f"the nearest is {method_label(nearest.method)} with {ratio_interval(*nearest.ratio)}.",
        )
    names = ", ".join(f"{method_label(row.method)} {ratio_interval(*row.ratio)}" for row in cheaper)
    return Answer(
        "loss",
        f"{len(cheaper)} of {count(len(rivals), 'rival')} cost{'s' if len(cheaper) == 1 else ''} "
        "less than the search at the "
        f"{tier} tier, {own}: {names}.",
    )


def ratio_sentence(row: GroupRow) -> str:
    """Return a group's name with its ratio, for lists in running text."""
    return f"{row.scope_value} {ratio_interval(*row.ratio)}"
