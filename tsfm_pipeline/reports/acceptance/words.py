"""The acceptance criteria and the ledger in words and tables.

What belongs here: sentences and tables. What does not: verdicts (`criteria`), drawings (`figures`).
"""

import re

from tsfm_pipeline.reports.acceptance.model import CriteriaReport, Criterion, LedgerReport, Verdict
from tsfm_pipeline.reports.shared.answer import Answer, Effect, effect_of
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.table import Table
from tsfm_pipeline.reports.shared.wording import (
    count,
    interval,
    percent_interval,
    ratio_interval,
    whole,
)


def criteria_answer(report: CriteriaReport) -> Answer:
    """Say how many criteria are met, missed, undecided, or not answerable on this fleet."""
    rows = report.table_criteria
    if not rows:
        return Answer("unknown", "No criteria were judged.")
    words: dict[Verdict, str] = {
        "PASS": "met",
        "FAIL": "missed",
        "NULL": "without a demonstrable effect",
        "N/A": "not answerable here",
    }
    ids = {verdict: [row.id for row in rows if row.verdict == verdict] for verdict in words}
    parts = [
        f"{len(ids[verdict])} {text} ({', '.join(ids[verdict])})"
        for verdict, text in words.items()
        if ids[verdict]
    ]
    effect: Effect = "loss" if ids["FAIL"] else "gain"
    return Answer(effect, f"Of {count(len(rows), 'criterion', 'criteria')}: {'; '.join(parts)}.")


def ledger_answer(report: LedgerReport) -> Answer:
    """Say what the latest materialisation measured."""
    if not report.table_ledger:
        return Answer("unknown", "Nothing was measured yet.")
    tier, latest = report.headline_tier, report.table_ledger[-1]
    ratio = latest.tiers[tier].ratio if tier in latest.tiers else Estimate()
    return Answer(
        effect_of(*ratio),
        f"The latest measurement, {str(latest.time)[:16]} UTC: {ratio_interval(*ratio)} at the "
        f"{tier} tier.",
    )


def criteria(report: CriteriaReport) -> Table:
    """Return the acceptance criteria with figure, interval and verdict."""
    cells = tuple(
        (
            row.id,
            row.verdict,
            row.title,
            row.target.replace(">=", "≥").replace("<=", "≤"),
            criterion_figure(row),
            row.note,
        )
        for row in report.table_criteria
    )
    columns = ("id", "verdict", "criterion", "target", "figure (95 % interval)", "note")
    return Table("Acceptance criteria", columns, cells, frozenset({0, 1, 2, 3, 5}))


def criterion_figure(row: Criterion) -> str:
    """Return a criterion's figure in the unit of its target, with its interval; counts as whole
    numbers.
    """
    figure, low, _ = row.reached
    if re.match(r"[<>]=? [\d.]+ %", row.target):
        return percent_interval(*row.reached)
    return whole(figure) if figure.is_integer() and low != low else interval(*row.reached)


def ledger(report: LedgerReport) -> Table:
    """Return what was measured when, with which code and checkpoint, newest first."""
    tier = report.headline_tier
    cells = tuple(
        (
            str(row.time)[:16],
            (row.git_commit or "none")[:10],
            row.checkpoint_sha256[:10],
            whole(row.n_requests),
            ratio_interval(*(row.tiers[tier].ratio if tier in row.tiers else Estimate())),
        )
        for row in reversed(report.table_ledger)
    )
    columns = ("time (UTC)", "commit", "checkpoint", "requests", f"ratio, {tier} tier")
    return Table("Earlier and present measurements", columns, cells, frozenset({0, 1, 2}))
