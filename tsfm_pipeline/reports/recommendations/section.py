"""The page's section on recommendations.

What belongs here: what the section holds. What does not: its sentences and tables (`words`), its figure (`figures`).
"""

from typing import TYPE_CHECKING

from tsfm_pipeline.evaluation.protocol import HEADLINE_TIER
from tsfm_pipeline.reports.recommendations.figures import recommendation_figure
from tsfm_pipeline.reports.recommendations.words import (
    FILES,
    Report,
    coverage,
    drifted,
    kept_promises,
    methods,
    misses,
    money,
    money_answer,
    not_made,
    recommendations_answer,
    review_answer,
    reviewed_runs,
)
from tsfm_pipeline.reports.shared.layout import Section

if TYPE_CHECKING:
    pass


def recommendations_section(section: Section, report: Report, review: Report) -> None:
    """What to reserve next, what it cost in the backtest, and what became of earlier recommendations."""
    section.answer = recommendations_answer(report).sentence
    section.points += kept_promises(report)
    if saved := money_answer(report):
        section.points.append(("Money", saved))
    if review:
        section.points.append(("Since the last run", review_answer(review).sentence))
    section.notes.append(f"The reservations themselves, per tenant, metric and tier, lie beside this page: {FILES}.")
    section.draw(
        recommendation_figure(report),
        f"One constant per block at the {HEADLINE_TIER} tier, 95 % intervals. Left: for every step, cheaper than the fixed configuration's "
        "left of the line. Right: for the block's maximum, which should lie on the line.",
    )
    section.show(coverage(report))
    section.fold(methods(report))
    section.fold(money(report))
    section.fold(not_made(report))
    for table in (reviewed_runs(review), misses(review), drifted(review)):
        section.fold(table)
