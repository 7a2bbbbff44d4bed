"""The across-fleets report in words, tables and one markdown page.

What belongs here: sentences, tables and the page of `evidence_report`. What does not: its figure
(`figures`), one fleet's answer (`reports.headline.words`), how effects are pooled
(`evaluation.pooling`).
"""

from tsfm_pipeline.evaluation.methods import SEARCH
from tsfm_pipeline.reports.across_fleets.model import EffectRow, EvidenceReport, PooledRow, SeedsRow
from tsfm_pipeline.reports.shared.answer import Answer, Effect, effect_of
from tsfm_pipeline.reports.shared.markdown import escape, table_markdown
from tsfm_pipeline.reports.shared.table import Table, positions_of
from tsfm_pipeline.reports.shared.wording import (
    count,
    method_label,
    number,
    percent,
    percent_interval,
    ratio_interval,
    ratio_texts,
    whole,
)

GROUP_LABELS = {"real": "real fleets", "synthetic": "synthetic fleets", "all": "all fleets"}
METHOD = (
    "Pooled: random effects on log ratios (DerSimonian and Laird, 1986) with the interval of "
    "Hartung and Knapp (2001), which is wide where fleets are few. Synthetic fleets of one seed "
    "share tenants, so only the largest counts. All synthetic seeds together count as one fleet "
    "beside the real ones."
)


def evidence_answer(report: EvidenceReport) -> Answer:
    """Say on which fleets the search pays, on which it does not, and what they show together."""
    tier = report.headline_tier
    rows = [row for row in report.table_effects if row.tier == tier]
    if not rows:
        return Answer(
            "unknown",
            f"No fleet has current scores at the {tier} tier. {not_current(report)}".strip(),
        )
    by_effect: dict[Effect, list[str]] = {"gain": [], "null": [], "loss": [], "unknown": []}
    for row in rows:
        by_effect[effect_of(*row.ratio)].append(f"{row.fleet} {ratio_interval(*row.ratio)}")
    pays = by_effect["gain"]
    sentences = [
        f"At the {tier} tier the search costs less than the best fixed configuration, with an "
        f"interval below 1, on {len(pays) or 'none'} "
        f"of {count(len(rows), 'fleet')}{': ' if pays else ''}{', '.join(pays)}."
    ]
    words: dict[Effect, str] = {
        "null": "No effect is shown on",
        "loss": "It costs more on",
        "unknown": "Without an interval:",
    }
    sentences += [
        f"{text} {', '.join(by_effect[effect])}."
        for effect, text in words.items()
        if by_effect[effect]
    ]
    pools = [row for row in report.table_pooled if row.tier == tier and row.n_fleets > 1]
    if pools:
        normal = " to ".join(ratio_texts(pools[-1].normal_low, pools[-1].normal_high))
        parts = [f"{ratio_interval(*row.ratio)} over {_members(row)}" for row in pools]
        sentences.append(
            f"The pooled ratio is {', '.join(parts)} (with the normal approximation, "
            f"which few fleets do not support, {normal})."
        )
    sentences += [_spread(row) for row in report.table_seeds if row.tier == tier]
    sentences += [does_not_pay(report), not_current(report)]
    last = pools[-1].ratio if pools else rows[-1].ratio
    return Answer(effect_of(*last), " ".join(sentence for sentence in sentences if sentence))


def does_not_pay(report: EvidenceReport) -> str:
    """Name every fleet and tier where no gain is shown, in one sentence."""
    places: dict[str, list[str]] = {}
    for row in report.table_effects:
        if effect_of(*row.ratio) != "gain":
            places.setdefault(row.fleet, []).append(row.tier)
    if not places:
        return "There is no fleet and tier where it does not pay." if report.table_effects else ""
    names = ", ".join(
        f"{fleet} ({', '.join(sorted(tiers, key=report.tiers.index))})"
        for fleet, tiers in places.items()
    )
    return f"Over all tiers it does not demonstrably pay on {names}."


def not_current(report: EvidenceReport) -> str:
    """Name the fleets that are left out because their scores are outdated."""
    names = ", ".join(report.not_current)
    if not names:
        return ""
    return f"Left out because their scores are outdated: {names}. Re-materialise headline_scores."


def effects(report: EvidenceReport) -> Table:
    """Return the search's effect on every fleet and tier."""
    cells = tuple(
        (
            row.fleet,
            row.group,
            row.tier,
            ratio_interval(*row.ratio),
            percent_interval(*row.win_rate),
            f"{percent(row.violation_rate)} ({percent(row.violation_rate_target)})",
            whole(row.n_tenants),
            whole(row.n_requests),
            {
                "gain": "pays",
                "loss": "costs more",
                "null": "no effect shown",
                "unknown": "no interval",
            }[effect_of(*row.ratio)],
            _is_pooled(row),
        )
        for row in sorted(report.table_effects, key=lambda row: (row.group, row.fleet))
    )
    columns = (
        "fleet",
        "kind",
        "tier",
        "search : fixed",
        "win rate",
        "violations (target)",
        "tenants",
        "requests",
        "verdict",
        "pooled",
    )
    return Table("The search on every fleet", columns, cells, frozenset({0, 1, 2, 8, 9}))


def pooled(report: EvidenceReport) -> Table:
    """Return the pooled effects, with the narrower normal interval beside them."""
    cells = tuple(
        (
            row.tier,
            GROUP_LABELS[row.group],
            whole(row.n_fleets),
            ratio_interval(*row.ratio),
            ratio_interval(row.ratio.figure, row.normal_low, row.normal_high),
            number(row.tau),
        )
        for row in report.table_pooled
        if row.n_fleets > 1
    )
    columns = (
        "tier",
        "over",
        "fleets",
        "search : fixed",
        "with the normal interval",
        "tau, log ratio between fleets",
    )
    return Table("Pooled effects", columns, cells, frozenset({0, 1}))


def methods(report: EvidenceReport) -> Table:
    """Return every method that all fleets have, pooled like the search."""
    tier = report.headline_tier
    rows = [row for row in report.table_methods if row.tier == tier and row.n_fleets > 1]
    cells = tuple(
        (method_label(row.method), whole(row.n_fleets), ratio_interval(*row.ratio)) for row in rows
    )
    emphasised = positions_of([row.method for row in rows], SEARCH)
    return Table(
        f"All methods pooled, {tier} tier",
        ("method", "fleets", "ratio to fixed"),
        cells,
        emphasised=emphasised,
    )


def seeds(report: EvidenceReport) -> Table:
    """Return the spread of the synthetic effect over fleet seeds."""
    cells = tuple(
        (
            row.tier,
            row.fleets,
            " to ".join(ratio_texts(row.lowest, row.highest)),
            number(row.log_deviation),
        )
        for row in report.table_seeds
    )
    return Table(
        "Spread over fleet seeds",
        ("tier", "fleets (seed)", "search : fixed", "deviation of its log"),
        cells,
        frozenset({0, 1}),
    )


def fleets(report: EvidenceReport) -> Table:
    """Return the state of every fleet."""
    cells = tuple(
        (row.fleet, row.title, row.group, row.status, row.note) for row in report.table_fleets
    )
    return Table(
        "Fleets",
        ("fleet", "title", "kind", "scores", "what to do"),
        cells,
        frozenset({0, 1, 2, 3, 4}),
    )


def evidence_markdown(report: EvidenceReport, figure: str = "") -> str:
    """Return the page: the answer, the figure at that address, the tables."""
    blocks = ["# Does the search pay, and where not?", escape(evidence_answer(report).sentence)]
    if figure:
        blocks.append(
            f"![Effect of the search on every fleet and tier, and pooled effects]({figure})"
        )
    blocks.append(escape(METHOD))
    blocks += [
        table_markdown(table)
        for make in (effects, pooled, seeds, methods, fleets)
        if (table := make(report)).rows
    ]
    return "\n\n".join(blocks) + "\n"


def _is_pooled(row: EffectRow) -> str:
    if row.contained_in:
        return f"no: its tenants are in {row.contained_in}"
    return "yes" if row.pooled else "no"


def _members(row: PooledRow) -> str:
    if row.group == "all":
        return f"the {count(row.n_fleets - 1, 'real fleet')} and the synthetic one"
    return count(row.n_fleets, f"{row.group} fleet")


def _spread(row: SeedsRow) -> str:
    low, high = ratio_texts(row.lowest, row.highest)
    return f"Over {row.n_seeds} seeds of the synthetic fleet it lies between {low} and {high}."
