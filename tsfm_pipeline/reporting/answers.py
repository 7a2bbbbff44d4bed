"""The answers in sentences: what the figures of each report say, and no more than that.

What belongs here: one function per report, from its figures to one or two sentences, honest about a gain, a loss, a
null and a missing figure. What does not: tables, figures, and verdicts on criteria (`evaluation.criteria`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from tsfm_pipeline.evaluation.protocol import HEADLINE_TIER, LATENCY_BUDGET_MS, TIERS
from tsfm_pipeline.reporting.wording import (
    CONFIG_PREFIX,
    count,
    duration,
    figure_of,
    interval,
    is_part_of_the_search,
    method_label,
    milliseconds,
    number,
    percent,
    percent_interval,
    ratio_texts,
    row_ratio,
    tier_label,
    tiers_in,
    whole,
)

Report = Mapping[str, Any]
Effect = Literal["gain", "loss", "null", "unknown"]

COLD_START_MINUTES = 120


class Answer(NamedTuple):
    """One sentence or two, and which way the effect goes."""

    effect: Effect
    sentence: str


def effect_of(ratio: float, low: float, high: float) -> Effect:
    """Which way a cost ratio points: gain below 1, loss above, null if the interval holds 1, unknown without one."""
    if not all(math.isfinite(value) for value in (ratio, low, high)):
        return "unknown"
    if high < 1:
        return "gain"
    return "loss" if low > 1 else "null"


def row_effect(row: Report, key: str = "ratio") -> Effect:
    """Which way the ratio of a record points, by its own interval."""
    return effect_of(*(figure_of(row, f"{key}{limit}") for limit in ("", "_low", "_high")))


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
    tiers = [{"tier": tier, **_ratio_of(report, tier)} for tier in TIERS if f"{tier}_ratio" in report]
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


def latency_answer(report: Report) -> Answer:
    """How many candidate configurations fit into the latency budget?"""
    budget = figure_of(report, "budget_ms")
    budget_text = milliseconds(budget if math.isfinite(budget) else LATENCY_BUDGET_MS)
    device = report.get("device") or "an unnamed device"
    largest = figure_of(report, "largest_k_within_budget")
    if math.isnan(largest):
        return Answer("unknown", f"Latency on {device} was not measured.")
    if largest < 1:
        return Answer("loss", f"On {device}, not even one configuration answers within {budget_text} at the 95th percentile.")
    p95 = figure_of(report, f"k{int(largest)}_p95_latency_ms")
    measured = f" (K = {int(largest)}: {milliseconds(p95)})" if math.isfinite(p95) else ""
    return Answer(
        "gain",
        f"On {device}, up to {count(largest, 'candidate configuration')} {'fits' if largest == 1 else 'fit'} into {budget_text} at the "
        f"95th percentile{measured}." + _portfolio_sentence(report),
    )


def _portfolio_sentence(report: Report) -> str:
    """What the portfolio's own number of configurations takes and what its answers cost, where both were measured."""
    size = figure_of(report, "portfolio_size")
    bought: Report = next((row for row in report.get("table_pareto") or [] if row.get("k") == size), {})
    if not math.isfinite(figure_of(bought, "ratio")):
        return ""
    totals = [row for row in report.get("table_latency") or [] if row.get("k") == size and row.get("stage") == "total"]
    taken = interval(*(figure_of(totals[0], key) for key in ("p95_ms", "p95_low_ms", "p95_high_ms"))) if totals else ""
    sample = f" on {count(n, 'timed request')}" if math.isfinite(n := figure_of(bought, "n_requests")) else ""
    portfolio = f"K = {int(size)} and takes {taken} ms" if taken else f"K = {int(size)}"
    return f" The portfolio has {portfolio}; its answers cost {row_ratio(bought)} times the fixed configuration's{sample}."


def cold_start_answer(report: Report, minutes: int = COLD_START_MINUTES, tier: str = HEADLINE_TIER) -> Answer:
    """What may a tenant with two hours of history expect, compared with one whose whole history is known?"""
    rows = [r for r in report.get("table_cold_start") or [] if r.get("minutes") == minutes and r.get("tier") == tier]
    by_strategy = {row.get("strategy"): row for row in rows if math.isfinite(figure_of(row, "ratio"))}
    retrieved = by_strategy.get("retrieved_prior")
    if retrieved is None:
        return Answer("unknown", f"Cold start at {duration(minutes)} of history was not measured.")
    others = [
        f"{words} {row_ratio(by_strategy[name])}"
        for name, words in (("no_prior", "without a prior"), ("fixed_config", "with the fixed configuration"))
        if name in by_strategy
    ]
    sentence = (
        f"With {duration(minutes)} of history and a retrieved prior, a tenant's forecasts at the {tier} tier cost "
        f"{row_ratio(retrieved)} times what they cost with full history" + ("; " + ", ".join(others) if others else "")
    )
    gaps = [r for r in report.get("table_gap") or [] if r.get("minutes") == minutes and r.get("tier") == tier]
    low, high = (figure_of(gaps[0], key) if gaps else math.nan for key in ("gap_low", "gap_high"))
    if low <= 0 <= high:
        return Answer("null", f"{sentence}. Whether more history helps at all is not decided: the gap's interval holds 0.")
    return Answer(row_effect(retrieved), f"{sentence}.")


def sla_answer(report: Report) -> Answer:
    """Do the tiers get different forecasts, and violations near their target?"""
    rows = {row.get("tier"): row for row in report.get("table_tiers") or []}
    if not rows:
        return Answer("unknown", "The tiers were not compared.")
    steps = report.get("table_steps") or []
    separated = [figure_of(step, "low") > 0 for step in steps]
    effect: Effect = "unknown"
    sentence = "Whether the tiers' reservations differ was not measured"
    if steps:
        effect = "gain" if all(separated) else "null"
        names = " > ".join(tiers_in([str(tier) for tier in rows]))
        pairs = ", ".join(
            f"{step.get('higher_tier')} over {step.get('lower_tier')} {number(figure_of(step, 'difference'))}" for step in steps
        )
        sentence = (
            f"Reservations are ordered {names}, every step beyond its interval ({pairs} scale units)"
            if all(separated)
            else f"Reservations are not separated at every step ({pairs} scale units)"
        )
    violations = ", ".join(
        f"{tier} {percent(figure_of(rows[tier], 'violation_rate'))} (target {percent(figure_of(rows[tier], 'violation_rate_target'))})"
        for tier in tiers_in([str(tier) for tier in rows])
    )
    return Answer(effect, f"{sentence}. Demand exceeded the reservation in {violations} of the steps.")


def criteria_answer(report: Report) -> Answer:
    """How many acceptance criteria are met, missed, undecided, or not answerable on this fleet?"""
    rows = report.get("table_criteria") or []
    if not rows:
        return Answer("unknown", "No criteria were judged.")
    ids = {v: [str(row.get("id")) for row in rows if row.get("verdict") == v] for v in ("PASS", "FAIL", "NULL", "N/A")}
    words = {"PASS": "met", "FAIL": "missed", "NULL": "without a demonstrable effect", "N/A": "not answerable here"}
    parts = [f"{len(ids[verdict])} {text} ({', '.join(ids[verdict])})" for verdict, text in words.items() if ids[verdict]]
    effect: Effect = "loss" if ids["FAIL"] else "gain"
    return Answer(effect, f"Of {count(len(rows), 'criterion', 'criteria')}: {'; '.join(parts)}.")


def data_answer(record: Report) -> Answer:
    """How complete are the data, and what was left out because of it?"""
    invalid, excluded = (figure_of(record, key) for key in ("n_invalid_requests", "n_excluded_series"))
    missing = figure_of(record, "missing_share")
    asked = count(figure_of(record, "n_requests"), "test request")
    left_out = len(record.get("left_out") or {})
    if invalid == excluded == missing == left_out == 0:
        return Answer("gain", f"No value is missing: all {asked} could be asked and scored, and every series has a scale.")
    return Answer(
        "null",
        f"{percent(missing)} of the values of {count(figure_of(record, 'n_tenants'), 'tenant')} are missing. Left out of every figure: "
        f"{whole(invalid)} of {asked} that could not be asked or scored, {whole(excluded)} series without a scale, and "
        f"{count(left_out, 'tenant')}. Imputed values are never scored.",
    )


def ledger_answer(report: Report, tier: str = HEADLINE_TIER) -> Answer:
    """What did the latest materialisation measure?"""
    rows = report.get("table_ledger") or []
    if not rows:
        return Answer("unknown", "Nothing was measured yet.")
    latest = _ratio_of(rows[-1], tier)
    return Answer(
        row_effect(latest), f"The latest measurement, {str(rows[-1].get('time'))[:16]} UTC: {row_ratio(latest)} at the {tier} tier."
    )


def ratio_sentence(row: Report) -> str:
    """A group's name with its ratio, for lists in running text."""
    return f"{row.get('scope_value')} {row_ratio(row)}"


def _ratio_of(report: Report, tier: str) -> dict[str, float]:
    """A tier's ratio and its limits as a record of their own."""
    return {f"ratio{limit}": figure_of(report, f"{tier}_ratio{limit}") for limit in ("", "_low", "_high")}
