"""The reports' tables as text cells, one definition for markdown and HTML.

What belongs here: which columns a reader sees, in which order and precision. What does not: markup (`markdown`, `html`).
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tsfm_pipeline.evaluation.protocol import HEADLINE_TIER, TIERS
from tsfm_pipeline.reporting.wording import (
    CONFIG_PREFIX,
    NO_FIGURE,
    STRATEGY_LABELS,
    figure_of,
    interval,
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

Report = Mapping[str, Any]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Cells as text; `text_columns` are set flush left, all others are figures; `emphasised` rows are the ones to look at."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: frozenset[int] = frozenset({0})
    emphasised: frozenset[int] = frozenset()


def worth(report: Report) -> Table:
    """What the search is worth at each tier: cost, win rate, violations and slack beside the fixed configuration."""
    tiers = [tier for tier in TIERS if f"{tier}_ratio" in report]
    methods = {(row.get("tier"), row.get("method")): row for row in _rows(report, "table_methods")}

    def pair(tier: str, key: str, form: Callable[[float], str]) -> str:
        figures = [figure_of(methods.get((tier, method), {}), key) for method in ("search", "fixed_quantile")]
        return " / ".join(form(figure) for figure in figures)

    rows = tuple(
        (
            tier,
            price_ratio(TIERS[tier]),
            row_ratio(report, f"{tier}_ratio"),
            _percent_row(report, f"{tier}_win_rate"),
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
        emphasised=_positions(tiers, HEADLINE_TIER),
    )


def methods(report: Report, tier: str = HEADLINE_TIER, singles: bool = False) -> Table:
    """Every method of one tier beside the fixed configuration, cheapest first; `singles`: the single configurations instead."""
    rows = [
        row
        for row in _rows(report, "table_methods")
        if row.get("tier") == tier and str(row.get("method", "")).startswith(CONFIG_PREFIX) == singles
    ]
    rows.sort(key=lambda row: (figure_of(row, "ratio") != figure_of(row, "ratio"), figure_of(row, "ratio")))
    cells = tuple(
        (
            method_label(str(row.get("method"))),
            number(figure_of(row, "mean_scaled_loss")),
            *(("1", NO_FIGURE) if row.get("method") == "fixed_quantile" else (row_ratio(row), _percent_row(row, "win_rate"))),
            percent(figure_of(row, "violation_rate")),
            number(figure_of(row, "mean_scaled_slack")),
            number(figure_of(row, "mean_scaled_crps")),
            whole(row.get("n_failed")),
        )
        for row in rows
    )
    columns = ("method", "scaled loss", "ratio to fixed", "win rate", "violations", "slack", "CRPS", "failed")
    kind = "Single configurations" if singles else "All rivals"
    return Table(f"{kind}, {tier} tier", columns, cells, emphasised=_positions([str(r.get("method")) for r in rows], "search"))


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
    rows = _rows(report, f"table_{scope}s")
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
            _percent_row(by_key.get((value, lead), {}), "win_rate"),
            whole(by_key.get((value, lead), {}).get("n_tenants")),
            whole(by_key.get((value, lead), {}).get("n_requests")),
        )
        for value in values
    )
    columns = (scope, *(f"ratio, {tier}" for tier in tiers), f"win rate, {lead}", "tenants", "requests")
    return Table(f"The search per {scope}", columns, cells)


def unscaled(report: Report, tier: str = HEADLINE_TIER) -> Table:
    """Mean cost, slack, shortfall and violations per metric in the metric's own unit, search beside fixed."""
    rows = {(row.get("metric"), row.get("method")): row for row in _rows(report, "table_unscaled") if row.get("tier") == tier}

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
    rows = sorted(_rows(report, "table_tenants"), key=lambda row: -figure_of(row, "ratio"))
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


def latency(report: Report) -> Table:
    """Latency of a whole request by the number of candidate configurations, with the stages' medians and what each number buys."""
    rows = _rows(report, "table_latency")
    bought = {row.get("k"): row for row in _rows(report, "table_pareto")}
    stages = list(dict.fromkeys(str(row.get("stage")) for row in rows if row.get("stage") != "total"))
    by_key = {(row.get("k"), row.get("stage")): row for row in rows}
    sizes = sorted({int(row["k"]) for row in rows if row.get("k") is not None})
    cells = tuple(
        (
            str(k),
            number(figure_of(by_key.get((k, "total"), {}), "p50_ms")),
            row_interval_ms(by_key.get((k, "total"), {})),
            number(figure_of(by_key.get((k, "total"), {}), "p99_ms")),
            *(number(figure_of(by_key.get((k, stage), {}), "p50_ms")) for stage in stages),
            number(figure_of(bought.get(k, {}), "floor_ms")),
            row_ratio(bought.get(k, {})),
        )
        for k in sizes
    )
    columns = ("K", "p50, ms", "p95, ms", "p99, ms", *(f"{stage} p50, ms" for stage in stages), "floor, ms", "cost ratio")
    return Table("Latency of one request", columns, cells)


def row_interval_ms(row: Row) -> str:
    """The 95th percentile of a latency record with its interval, in milliseconds."""
    return interval(figure_of(row, "p95_ms"), figure_of(row, "p95_low_ms"), figure_of(row, "p95_high_ms"))


def cold_start(report: Report, tier: str = HEADLINE_TIER) -> Table:
    """Cost relative to full history by minutes of history, one column per strategy."""
    rows = [row for row in _rows(report, "table_cold_start") if row.get("tier") == tier]
    present = {str(row.get("strategy")) for row in rows}
    strategies = [name for name in STRATEGY_LABELS if name in present]
    strategies += sorted(present - set(strategies))
    by_key = {(row.get("minutes"), row.get("strategy")): row for row in rows}
    cells = tuple(
        (number_of_minutes(minutes), *(row_ratio(by_key.get((minutes, name), {})) for name in strategies))
        for minutes in sorted({row["minutes"] for row in rows if row.get("minutes") is not None})
    )
    columns = ("minutes", *(STRATEGY_LABELS.get(name, name) for name in strategies))
    return Table(f"Cost relative to full history, {tier} tier", columns, cells)


def number_of_minutes(minutes: float) -> str:
    """Minutes as a plain count."""
    return f"{minutes:g}"


def gap(report: Report, tier: str = HEADLINE_TIER) -> Table:
    """Which share of the gap between no prior and full history each prior closes."""
    rows = [row for row in _rows(report, "table_gap") if row.get("tier") == tier]
    priors = [name for name in STRATEGY_LABELS if any(row.get("prior") == name for row in rows)]
    by_key = {(row.get("minutes"), row.get("prior")): row for row in rows}
    cells = []
    for minutes in sorted({row["minutes"] for row in rows if row.get("minutes") is not None}):
        own = [by_key[minutes, prior] for prior in priors if (minutes, prior) in by_key]
        cells.append(
            (
                number_of_minutes(minutes),
                _percent_row(own[0] if own else {}, "gap"),
                *(_percent_row(by_key.get((minutes, prior), {}), "gap_closed") for prior in priors),
            )
        )
    columns = (
        "minutes",
        "gap: no prior above full history",
        *(f"closed, {STRATEGY_LABELS[p].split(', ')[-1]}" for p in priors),
    )
    return Table(f"How much of the cold-start gap a prior closes, {tier} tier", columns, tuple(cells))


def retrieval(report: Report) -> Table:
    """How often the archetype of a held-out tenant is found, by the history that it brings."""
    cells = tuple(
        (
            str(row.get("history")),
            percent_interval(*(figure_of(row, key) for key in ("top1_accuracy", "top1_low", "top1_high"))),
            percent(figure_of(row, "balanced_accuracy")),
            whole(row.get("n_queries")),
        )
        for row in _rows(report, "table_retrieval")
    )
    return Table("Archetype retrieval", ("history, minutes", "top-1 accuracy", "balanced accuracy", "queries"), cells)


def tiers(report: Report) -> Table:
    """What each tier reserves, and how often demand exceeds it."""
    cells = tuple(
        (
            tier_label(str(row.get("tier"))),
            interval(*(figure_of(row, key) for key in ("mean_scaled_decision", "low", "high"))),
            _percent_row(row, "violation_rate"),
            percent(figure_of(row, "violation_rate_target")),
            number(figure_of(row, "mean_scaled_slack")),
            number(figure_of(row, "mean_scaled_shortfall")),
            whole(row.get("n_requests")),
        )
        for row in _rows(report, "table_tiers")
    )
    columns = ("tier (price ratio)", "mean reservation", "violations", "target", "slack", "shortfall", "requests")
    return Table("The tiers", columns, cells)


def cross(report: Report) -> Table:
    """The cost of serving one tier with another's forecast, relative to its own forecast."""
    rows = _rows(report, "table_cross")
    scored = tiers_in([str(row.get("scored_tier")) for row in rows])
    forecast = tiers_in([str(row.get("forecast_tier")) for row in rows])
    by_key = {(row.get("scored_tier"), row.get("forecast_tier")): row for row in rows}
    cells = tuple((f"priced as {s}", *(row_ratio(by_key.get((s, f), {})) for f in forecast)) for s in scored)
    return Table("A tier served with another tier's forecast: cost ratio", ("", *(f"forecast of {f}" for f in forecast)), cells)


def steps(report: Report) -> Table:
    """How much more a tier reserves than the next lower one."""
    cells = tuple(
        (
            f"{row.get('higher_tier')} over {row.get('lower_tier')}",
            interval(*(figure_of(row, key) for key in ("difference", "low", "high"))),
        )
        for row in _rows(report, "table_steps")
    )
    return Table("Difference of mean reservations", ("tiers", "scale units"), cells)


def criteria(report: Report) -> Table:
    """The acceptance criteria with figure, interval and verdict."""
    cells = tuple(
        (
            str(row.get("id")),
            str(row.get("verdict")),
            str(row.get("title")),
            str(row.get("target")).replace(">=", "≥").replace("<=", "≤"),
            criterion_figure(row),
            str(row.get("note") or ""),
        )
        for row in _rows(report, "table_criteria")
    )
    columns = ("id", "verdict", "criterion", "target", "figure (95 % interval)", "note")
    return Table("Acceptance criteria", columns, cells, frozenset({0, 1, 2, 3, 5}))


def criterion_figure(row: Row) -> str:
    """A criterion's figure in the unit of its target, with its interval; counts as counts."""
    figure, low, high = (figure_of(row, key) for key in ("figure", "low", "high"))
    if re.match(r"[<>]=? [\d.]+ %", str(row.get("target"))):
        return percent_interval(figure, low, high)
    return whole(figure) if figure.is_integer() and low != low else interval(figure, low, high)


def _rows(report: Report, key: str) -> Sequence[Row]:
    return report.get(key) or ()


def _percent_row(row: Row, key: str) -> str:
    return percent_interval(figure_of(row, key), figure_of(row, f"{key}_low"), figure_of(row, f"{key}_high"))


def _positions(names: Iterable[str], wanted: str) -> frozenset[int]:
    return frozenset(i for i, name in enumerate(names) if name == wanted)
