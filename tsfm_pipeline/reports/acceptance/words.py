"""The acceptance criteria and the ledger in words and tables.

What belongs here: sentences and tables. What does not: verdicts (`criteria`), drawings (`figures`).
"""

import re

from tsfm_pipeline.evaluation.protocol import HEADLINE_TIER
from tsfm_pipeline.reports.headline.words import ratio_of
from tsfm_pipeline.reports.shared.answer import Answer, Effect, Report, row_effect
from tsfm_pipeline.reports.shared.table import Row, Table, rows_of
from tsfm_pipeline.reports.shared.wording import count, figure_of, interval, percent_interval, row_ratio, whole


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


def ledger_answer(report: Report, tier: str = HEADLINE_TIER) -> Answer:
    """What did the latest materialisation measure?"""
    rows = report.get("table_ledger") or []
    if not rows:
        return Answer("unknown", "Nothing was measured yet.")
    latest = ratio_of(rows[-1], tier)
    return Answer(
        row_effect(latest), f"The latest measurement, {str(rows[-1].get('time'))[:16]} UTC: {row_ratio(latest)} at the {tier} tier."
    )


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
        for row in rows_of(report, "table_criteria")
    )
    columns = ("id", "verdict", "criterion", "target", "figure (95 % interval)", "note")
    return Table("Acceptance criteria", columns, cells, frozenset({0, 1, 2, 3, 5}))


def criterion_figure(row: Row) -> str:
    """A criterion's figure in the unit of its target, with its interval; counts as counts."""
    figure, low, high = (figure_of(row, key) for key in ("figure", "low", "high"))
    if re.match(r"[<>]=? [\d.]+ %", str(row.get("target"))):
        return percent_interval(figure, low, high)
    return whole(figure) if figure.is_integer() and low != low else interval(figure, low, high)
