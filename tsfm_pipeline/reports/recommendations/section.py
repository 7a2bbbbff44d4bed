"""The page's section on recommendations.

What belongs here: the contents of the section. What does not: its sentences and tables (`words`),
its figure (`figures`).
"""

from tsfm_pipeline.reports.recommendations import words
from tsfm_pipeline.reports.recommendations.figures import recommendation_figure
from tsfm_pipeline.reports.recommendations.model import RecommendationReport, RecommendationReview
from tsfm_pipeline.reports.shared.layout import Section


def recommendations_section(
    section: Section,
    report: RecommendationReport,
    review: RecommendationReview | None,
) -> None:
    """Show what to reserve next, its cost in the backtest, and the outcome of earlier
    recommendations.
    """
    section.answer = words.recommendations_answer(report).sentence
    section.points += words.kept_promises(report)
    if seldom := words.intermittent_answer(report):
        section.points.append(("Intermittent series", seldom))
    if against := words.reserved_answer(report):
        section.points.append(("Reserved today", against))
    if saved := words.money_answer(report):
        section.points.append(("Money", saved))
    if review:
        section.points.append(("Since the last run", words.review_answer(review).sentence))
    section.notes.append(
        "The reservations themselves, per tenant, metric and tier, lie beside this page: "
        f"{words.FILES}."
    )
    section.draw(
        recommendation_figure(report),
        f"One constant per block at the {report.headline_tier} tier, 95 % intervals. Left: for "
        "every step, cheaper than the fixed "
        "configuration's left of the line. Right: for the block's maximum, which should lie on "
        "the line.",
    )
    section.show(words.coverage(report))
    section.fold(words.methods(report))
    section.fold(words.money(report))
    section.fold(words.reserved(report))
    section.fold(words.not_made(report))
    if review:
        for table in words.REVIEW_TABLES:
            section.fold(table(review))
