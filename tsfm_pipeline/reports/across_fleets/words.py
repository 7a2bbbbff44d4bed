"""The evidence report in words, tables and one markdown page: where the search pays, where it does not, and what follows from all fleets.

What belongs here: sentences, tables and the page of `evidence_report`. What does not: its figure (`evidence_figures`), one fleet's answer
(`answers`), how effects are pooled (`evaluation.pooling`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tsfm_pipeline.evaluation.protocol import HEADLINE_TIER
from tsfm_pipeline.reports.page.markdown import escape, table_markdown
from tsfm_pipeline.reports.shared.answer import Answer, Effect, row_effect
from tsfm_pipeline.reports.shared.table import Table
from tsfm_pipeline.reports.shared.wording import (
    count,
    figure_of,
    method_label,
    number,
    percent,
    percent_interval,
    ratio_interval,
    ratio_texts,
    row_ratio,
    tiers_in,
    whole,
)

Report = Mapping[str, Any]
Row = Mapping[str, Any]

GROUP_LABELS = {"real": "real fleets", "synthetic": "synthetic fleets", "all": "all fleets"}
METHOD = (
    "Pooled: random effects on log ratios (DerSimonian and Laird, 1986) with the interval of Hartung and Knapp (2001), which counts how "
    "few fleets there are: two say little about a third. Synthetic fleets of one seed share tenants, so the largest counts; all synthetic "
    "seeds together count as one fleet beside the real ones."
)


def evidence_answer(report: Report, tier: str = HEADLINE_TIER) -> Answer:
    """On which fleets does the search pay, on which does it not, and what do they say together?"""
    rows = [row for row in _rows(report, "table_effects") if row.get("tier") == tier]
    if not rows:
        return Answer("unknown", f"No fleet has current scores at the {tier} tier. {not_current(report)}".strip())
    by_effect: dict[Effect, list[str]] = {"gain": [], "null": [], "loss": [], "unknown": []}
    for row in rows:
        by_effect[row_effect(row)].append(f"{row.get('fleet')} {row_ratio(row)}")
    pays = by_effect["gain"]
    sentences = [
        f"At the {tier} tier the search costs less than the best fixed configuration, with an interval below 1, on {len(pays) or 'none'} "
        f"of {count(len(rows), 'fleet')}{': ' if pays else ''}{', '.join(pays)}."
    ]
    words: dict[Effect, str] = {"null": "No effect is shown on", "loss": "It costs more on", "unknown": "Without an interval:"}
    sentences += [f"{text} {', '.join(by_effect[effect])}." for effect, text in words.items() if by_effect[effect]]
    pools = [row for row in _rows(report, "table_pooled") if row.get("tier") == tier and figure_of(row, "n_fleets") > 1]
    if pools:
        normal = " to ".join(ratio_texts(*(figure_of(pools[-1], key) for key in ("normal_low", "normal_high"))))
        parts = [f"{row_ratio(row)} over {_members(row)}" for row in pools]
        sentences.append(f"Pooled it is {', '.join(parts)} (with the normal approximation, which few fleets do not support, {normal}).")
    sentences += [_spread(row) for row in _rows(report, "table_seeds") if row.get("tier") == tier]
    sentences += [does_not_pay(report), not_current(report)]
    effect = row_effect((pools or rows)[-1])
    return Answer(effect, " ".join(sentence for sentence in sentences if sentence))


def does_not_pay(report: Report) -> str:
    """Every fleet and tier where no gain is shown, in one sentence."""
    places: dict[str, list[str]] = {}
    for row in _rows(report, "table_effects"):
        if row_effect(row) != "gain":
            places.setdefault(str(row.get("fleet")), []).append(str(row.get("tier")))
    if not places:
        return "There is no fleet and tier where it does not pay." if _rows(report, "table_effects") else ""
    names = ", ".join(f"{fleet} ({', '.join(tiers_in(tiers))})" for fleet, tiers in places.items())
    return f"Over all tiers it does not demonstrably pay on {names}."


def not_current(report: Report) -> str:
    """Which fleets are left out because their scores are out of date."""
    names = list(report.get("not_current") or [])
    return f"Not current, and left out: re-materialise headline_scores of {', '.join(names)}." if names else ""


def effects(report: Report) -> Table:
    """The search's effect on every fleet and tier."""
    rows = _rows(report, "table_effects")
    cells = tuple(
        (
            str(row.get("fleet")),
            str(row.get("group")),
            str(row.get("tier")),
            row_ratio(row),
            percent_interval(*(figure_of(row, f"win_rate{limit}") for limit in ("", "_low", "_high"))),
            f"{percent(figure_of(row, 'violation_rate'))} ({percent(figure_of(row, 'violation_rate_target'))})",
            whole(row.get("n_tenants")),
            whole(row.get("n_requests")),
            {"gain": "pays", "loss": "costs more", "null": "no effect shown", "unknown": "no interval"}[row_effect(row)],
            f"no: among those of {row['contained_in']}" if row.get("contained_in") else "yes" if row.get("pooled") else "no",
        )
        for row in sorted(rows, key=lambda row: (str(row.get("group")), str(row.get("fleet"))))
    )
    columns = ("fleet", "kind", "tier", "search : fixed", "win rate", "violations (target)", "tenants", "requests", "verdict", "pooled")
    return Table("The search on every fleet", columns, cells, frozenset({0, 1, 2, 8, 9}))


def pooled(report: Report) -> Table:
    """The pooled effects, with the narrower normal interval beside."""
    cells = tuple(
        (
            str(row.get("tier")),
            GROUP_LABELS.get(str(row.get("group")), str(row.get("group"))),
            whole(row.get("n_fleets")),
            row_ratio(row),
            ratio_interval(*(figure_of(row, key) for key in ("ratio", "normal_low", "normal_high"))),
            number(figure_of(row, "tau")),
        )
        for row in _rows(report, "table_pooled")
        if figure_of(row, "n_fleets") > 1
    )
    columns = ("tier", "over", "fleets", "search : fixed", "with the normal interval", "tau, log ratio between fleets")
    return Table("Pooled effects", columns, cells, frozenset({0, 1}))


def methods(report: Report, tier: str = HEADLINE_TIER) -> Table:
    """Every method that all fleets have, pooled like the search."""
    rows = [row for row in _rows(report, "table_methods") if row.get("tier") == tier and figure_of(row, "n_fleets") > 1]
    cells = tuple((method_label(str(row.get("method"))), whole(row.get("n_fleets")), row_ratio(row)) for row in rows)
    emphasised = frozenset(i for i, row in enumerate(rows) if row.get("method") == "search")
    return Table(f"All methods pooled, {tier} tier", ("method", "fleets", "ratio to fixed"), cells, emphasised=emphasised)


def seeds(report: Report) -> Table:
    """The spread of the synthetic effect over fleet seeds."""
    cells = tuple(
        (
            str(row.get("tier")),
            str(row.get("fleets")),
            " to ".join(ratio_texts(figure_of(row, "lowest"), figure_of(row, "highest"))),
            number(figure_of(row, "log_deviation")),
        )
        for row in _rows(report, "table_seeds")
    )
    return Table("Spread over fleet seeds", ("tier", "fleets (seed)", "search : fixed", "deviation of its log"), cells, frozenset({0, 1}))


def fleets(report: Report) -> Table:
    """The state of every fleet."""
    cells = tuple(
        (str(row.get("fleet")), str(row.get("title")), str(row.get("group")), str(row.get("status")), str(row.get("note") or ""))
        for row in _rows(report, "table_fleets")
    )
    return Table("Fleets", ("fleet", "title", "kind", "scores", "what to do"), cells, frozenset({0, 1, 2, 3, 4}))


def evidence_markdown(report: Report, figure: str = "") -> str:
    """The page: the sentence, the figure under that address, the tables."""
    blocks = ["# Does the search pay, and where not?", escape(evidence_answer(report).sentence)]
    if figure:
        blocks.append(f"![Effect of the search on every fleet and tier, and pooled effects]({figure})")
    blocks.append(escape(METHOD))
    blocks += [table_markdown(table) for make in (effects, pooled, seeds, methods, fleets) if (table := make(report)).rows]
    return "\n\n".join(blocks) + "\n"


def _members(row: Row) -> str:
    n, group = int(figure_of(row, "n_fleets")), str(row.get("group"))
    if group == "all":
        return f"the {count(n - 1, 'real fleet')} and the synthetic one"
    return count(n, f"{group} fleet")


def _spread(row: Row) -> str:
    low, high = ratio_texts(figure_of(row, "lowest"), figure_of(row, "highest"))
    return f"Over {row.get('n_seeds')} seeds of the synthetic fleet it lies between {low} and {high}."


def _rows(report: Report, key: str) -> Sequence[Row]:
    return report.get(key) or ()
