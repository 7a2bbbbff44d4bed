"""The ablation report in words and tables: what each step adds, which rivals the search does not beat, and what the controls say.

What belongs here: sentences and tables of `ablation_report`. What does not: its figures (`ablation_figures`), markup (`markdown`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tsfm_pipeline.evaluation.protocol import HEADLINE_TIER
from tsfm_pipeline.reports.shared.answer import Answer, row_effect
from tsfm_pipeline.reports.shared.table import Table
from tsfm_pipeline.reports.shared.wording import (
    count,
    figure_of,
    is_part_of_the_search,
    method_label,
    percent,
    percent_interval,
    plain,
    row_ratio,
    tiers_in,
    whole,
)

Report = Mapping[str, Any]
Row = Mapping[str, Any]

SEARCH, FIXED = "search", "fixed_quantile"
MATCHED_COMPUTE = ("static_ensemble", "uniform_average")


def ablation_answer(report: Report, tier: str = HEADLINE_TIER) -> Answer:
    """What the steps add, whether the headline survives its rivals, who is worse off, and which dimensions earn nothing."""
    steps = steps_answer(report, tier)
    others = (rivals_answer(report, tier), harm_answer(report), headroom_answer(report, tier), dimensions_answer(report, tier))
    return Answer(steps.effect, " ".join(answer.sentence for answer in (steps, *others, floor_answer(report, tier)) if answer.sentence))


def steps_answer(report: Report, tier: str = HEADLINE_TIER) -> Answer:
    """Which steps from the fixed configuration to the search lower the cost, each against the step before it?"""
    rows = [row for row in _rows(report, "table_steps") if row.get("tier") == tier and row.get("scope") == "all"]
    if not rows:
        return Answer("unknown", "The steps were not measured.")
    first, last = rows[0], rows[-1]
    after = rows[[row.get("method") for row in rows].index(FIXED) + 1 :]
    groups: dict[str, list[str]] = {"gain": [], "loss": [], "null": [], "unknown": []}
    for row in after:
        groups[row_effect(row, "step_ratio")].append(f"{row.get('adds')} {row_ratio(row, 'step_ratio')}")
    words = {"gain": "lower the cost: ", "loss": "raise it: ", "null": "no effect is shown for: ", "unknown": "no interval for: "}
    parts = [f"{words[effect]}{', '.join(members)}" for effect, members in groups.items() if members]
    return Answer(
        row_effect(last),
        f"At the {tier} tier the median of the best fixed configuration costs {row_ratio(first)} times the configuration to beat, the "
        f"search {row_ratio(last)} times. Of the steps after that configuration, each against the one before: {'; '.join(parts)}.",
    )


def rivals_answer(report: Report, tier: str = HEADLINE_TIER) -> Answer:
    """Does the headline survive its rivals, and if not, which of them does the search not beat?"""
    rows = [row for row in _rows(report, "table_rivals") if row.get("tier") == tier and row.get("method") != SEARCH]
    rivals = [row for row in rows if not is_part_of_the_search(str(row.get("method")))]
    if not rivals:
        return Answer("unknown", "")
    undecided = [row for row in rivals if row_effect(row, "search_ratio") in ("null", "unknown")]
    lost = [row for row in rivals if row_effect(row, "search_ratio") == "loss"]
    n_beaten = len(rivals) - len(undecided) - len(lost)

    def named(members: Sequence[Row]) -> str:
        return ", ".join(f"{method_label(str(row.get('method')))} {row_ratio(row, 'search_ratio')}" for row in members)

    parts = [f"Against {n_beaten} of {count(len(rivals), 'rival')} the search costs less with an interval below 1."]
    if undecided:
        parts.append(f"It does not demonstrably beat {named(undecided)}.")
    if lost:
        parts.append(f"It loses to {named(lost)}.")
    matched = [row for row in rivals if row.get("method") in MATCHED_COMPUTE]
    if matched:
        parts.append(f"At matched compute (the same K forecasts) its ratio is {named(matched)}.")
    parts.append(f"So the search is {'' if not undecided and not lost else 'not '}shown to beat all of them.")
    return Answer("gain" if not undecided and not lost else "loss" if lost else "null", " ".join(parts))


def harm_answer(report: Report) -> Answer:
    """Which groups are made worse by more than 2 %, with an interval above 1?"""
    harmed = [row for row in _rows(report, "table_steps") if row.get("harmed")]
    scope = str(report.get("group_scope", "group"))
    if not harmed:
        return Answer("gain", f"No {scope} is made worse by more than 2 % with an interval above 1, at any tier.")
    names = ", ".join(f"{row.get('scope_value')} at {row.get('tier')} {row_ratio(row)}" for row in harmed)
    return Answer("loss", f"Made worse by more than 2 % with an interval above 1: {names}.")


def headroom_answer(report: Report, tier: str = HEADLINE_TIER) -> Answer:
    """How much of what a choice per tenant could gain does the search gain?"""
    headroom, low, high = (figure_of(report, f"{tier}_headroom_{key}") for key in ("cross_fitted", "null_low", "null_high"))
    if not math.isfinite(headroom):
        return Answer("unknown", "")
    sentence = f"One configuration per tenant, cross-fitted, would gain {percent(headroom)} (by chance {percent(low)} to {percent(high)})"
    captured = percent_interval(*(figure_of(report, f"{tier}_headroom_captured{limit}") for limit in ("", "_low", "_high")))
    if headroom <= 0:
        return Answer("null", f"{sentence}: choosing per tenant has no headroom here that its own noise does not eat.")
    if not math.isfinite(figure_of(report, f"{tier}_headroom_captured_low")):
        return Answer("null", f"{sentence}: too little to say which share of it the search captures.")
    return Answer("gain" if headroom > high else "null", f"{sentence}; the search captures {captured} of it.")


def dimensions_answer(report: Report, tier: str = HEADLINE_TIER) -> Answer:
    """Which dimensions of the search space earn their place, and which show no effect?"""
    rows = [row for row in _rows(report, "table_dimensions") if row.get("tier") == tier and row.get("method") == SEARCH]
    if not rows:
        return Answer("unknown", "")
    parts = [f"{row.get('dimension')} {row.get('verdict')} {row_ratio(row)}" for row in rows]
    earns = any(row_effect(row) == "gain" for row in rows)
    return Answer("gain" if earns else "null", f"Search with against without each dimension: {', '.join(parts)}.")


def floor_answer(report: Report, tier: str = HEADLINE_TIER) -> Answer:
    """How near is perfect?"""
    rows = {row.get("method"): row for row in _rows(report, "table_floor") if row.get("tier") == tier and row.get("scope") == "all"}
    if SEARCH not in rows or FIXED not in rows:
        return Answer("unknown", "")
    captured = percent_interval(*(figure_of(report, f"{tier}_reducible_captured{limit}") for limit in ("", "_low", "_high")))
    return Answer(
        "gain",
        f"The search costs {row_ratio(rows[SEARCH], 'multiple')} times the irreducible loss, the fixed configuration "
        f"{row_ratio(rows[FIXED], 'multiple')} times; of what lies between that configuration and the floor the search takes {captured}.",
    )


def steps(report: Report) -> Table:
    """Every step at every tier, against the one before and against the fixed configuration."""
    rows = [row for row in _rows(report, "table_steps") if row.get("scope") == "all"]
    tiers = tiers_in([str(row.get("tier")) for row in rows])
    by_key = {(row.get("method"), row.get("tier")): row for row in rows}
    methods = list(dict.fromkeys(str(row.get("method")) for row in rows))
    cells = tuple(
        (
            str(by_key[method, tiers[0]].get("adds")),
            method_label(method),
            *(row_ratio(by_key.get((method, tier), {}), key) for tier in tiers for key in ("step_ratio", "ratio")),
        )
        for method in methods
    )
    columns = ("step", "method", *(f"{text}, {tier}" for tier in tiers for text in ("to the step before", "to fixed")))
    emphasised = frozenset(i for i, method in enumerate(methods) if method == SEARCH)
    return Table("What each step adds (cost ratio)", columns, cells, frozenset({0, 1}), emphasised)


def step_groups(report: Report, tier: str = HEADLINE_TIER) -> Table:
    """The ratio to the fixed configuration after every step, by archetype, tenant or metric; groups that are worse off are marked."""
    rows = [row for row in _rows(report, "table_steps") if row.get("scope") != "all" and row.get("tier") == tier]
    groups = list(dict.fromkeys(str(row.get("scope_value")) for row in rows))
    methods = [m for m in dict.fromkeys(str(row.get("method")) for row in rows) if m != FIXED]
    by_key = {(row.get("scope_value"), row.get("method")): row for row in rows}
    cells = tuple((group, *(row_ratio(by_key.get((group, method), {})) for method in methods)) for group in groups)
    harmed = frozenset(i for i, group in enumerate(groups) if by_key.get((group, SEARCH), {}).get("harmed"))
    scope = str(report.get("group_scope", "group"))
    return Table(
        f"Cost ratio to fixed after each step by {scope}, {tier} tier", (scope, *map(method_label, methods)), cells, emphasised=harmed
    )


def rivals(report: Report, tier: str = HEADLINE_TIER) -> Table:
    """All rules and rivals side by side, cheapest first, and the search's ratio to each of them."""
    rows = [row for row in _rows(report, "table_rivals") if row.get("tier") == tier]
    cells = tuple(
        (
            method_label(str(row.get("method"))),
            str(row.get("forecasts")),
            row_ratio(row),
            "1" if row.get("method") == SEARCH else row_ratio(row, "search_ratio"),
            "" if row.get("method") == SEARCH else str(row.get("beaten")),
            whole(row.get("n_failed")),
        )
        for row in rows
    )
    columns = ("method", "forecasts per request", "ratio to fixed", "search to this", "beaten by the search", "failed")
    emphasised = frozenset(i for i, row in enumerate(rows) if row.get("method") == SEARCH)
    return Table(f"The search against every rule and rival, {tier} tier", columns, cells, frozenset({0, 1, 4}), emphasised)


def trust(report: Report) -> Table:
    """Headroom beside its null, what the search captures and leaves, the rule in charge, and the label-swap control."""
    tiers = tiers_in([key.removesuffix("_regret") for key in report if key.endswith("_regret")])

    def triple(tier: str, name: str) -> str:
        return percent_interval(*(figure_of(report, f"{tier}_{name}{limit}") for limit in ("", "_low", "_high")))

    cells = tuple(
        (
            tier,
            plain(report.get(f"{tier}_default_rule")),
            percent(figure_of(report, f"{tier}_headroom_cross_fitted")),
            f"{percent(figure_of(report, f'{tier}_headroom_null_low'))} to {percent(figure_of(report, f'{tier}_headroom_null_high'))}",
            triple(tier, "headroom_captured"),
            triple(tier, "regret"),
            percent(figure_of(report, f"{tier}_label_swap_rejection_rate")),
        )
        for tier in tiers
    )
    columns = ("tier", "default rule", "headroom", "by chance", "captured", "regret", "label swaps rejected (nominal 5 %)")
    return Table("Headroom, regret and the label-swap control", columns, cells, frozenset({0, 1}))


def controls(report: Report) -> Table:
    """What the neighbours' prior gains over a stranger's and over the whole fleet's."""
    cells = tuple(
        (str(row.get("tier")), f"neighbours' prior against {row.get('control')}", row_ratio(row), str(row.get("verdict")))
        for row in _rows(report, "table_controls")
    )
    return Table("Controls of the prior (cost ratio)", ("tier", "control", "ratio", "verdict"), cells, frozenset({0, 1, 3}))


def dimensions(report: Report) -> Table:
    """With against without each dimension of the search space."""
    cells = tuple(
        (
            str(row.get("tier")),
            str(row.get("dimension")),
            method_label(str(row.get("method"))),
            whole(row.get("n_configs")),
            row_ratio(row),
            str(row.get("verdict")),
            whole(row.get("n_failed")),
        )
        for row in _rows(report, "table_dimensions")
    )
    columns = ("tier", "dimension", "method", "configurations with it", "with : without", "verdict", "failed without")
    return Table("Which dimension earns its place (cost ratio)", columns, cells, frozenset({0, 1, 2, 5}))


def violations(report: Report) -> Table:
    """How often demand exceeds the decision, against 1 - alpha."""
    cells = tuple(
        (
            str(row.get("tier")),
            method_label(str(row.get("method"))),
            percent_interval(*(figure_of(row, f"violation_rate{limit}") for limit in ("", "_low", "_high"))),
            percent(figure_of(row, "target")),
            percent(figure_of(row, "excess")),
        )
        for row in _rows(report, "table_violations")
    )
    return Table("Violation rates", ("tier", "method", "violations", "target", "excess"), cells, frozenset({0, 1}))


def floor(report: Report, tier: str = HEADLINE_TIER) -> Table:
    """Every method as a multiple of the irreducible loss."""
    rows = [row for row in _rows(report, "table_floor") if row.get("tier") == tier and row.get("scope") == "all"]
    cells = tuple((method_label(str(row.get("method"))), row_ratio(row, "multiple")) for row in rows)
    error = percent(figure_of(report, f"{tier}_floor_monte_carlo_share"))
    caption = f"Multiples of the irreducible loss, {tier} tier (finitely many simulated paths raise the floor by about {error})"
    return Table(caption, ("method", "multiple"), cells, emphasised=frozenset(i for i, r in enumerate(rows) if r.get("method") == SEARCH))


def selection(report: Report, tier: str = HEADLINE_TIER) -> Table:
    """Which configurations the search weighs, overall."""
    rows = [row for row in _rows(report, "table_selection") if row.get("tier") == tier and row.get("scope") == "all"]
    rows.sort(key=lambda row: -figure_of(row, "mean_weight"))
    cells = tuple((str(row.get("config")), *(percent(figure_of(row, key)) for key in ("mean_weight", "share_chosen"))) for row in rows)
    return Table(f"Which configurations the search uses, {tier} tier", ("configuration", "mean weight", "weighs most"), cells)


TABLES = (steps, rivals, step_groups, trust, controls, dimensions, violations, selection, floor)
"""In the order in which they are shown."""


def _rows(report: Report, key: str) -> Sequence[Row]:
    return report.get(key) or ()
