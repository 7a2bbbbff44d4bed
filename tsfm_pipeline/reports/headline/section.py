"""The page's sections on the headline: what the search is worth, for whom it pays, what its rivals
cost.

What belongs here: the contents of the sections. What does not: their sentences (`words`), tables
(`tables`) and figures (`figures`).
"""

from collections.abc import Mapping

from tsfm_pipeline.reports.headline import tables, words
from tsfm_pipeline.reports.headline.figures import archetype_figure, headline_figure
from tsfm_pipeline.reports.headline.model import HeadlineReport
from tsfm_pipeline.reports.shared.answer import Effect
from tsfm_pipeline.reports.shared.layout import Section
from tsfm_pipeline.reports.shared.model import Estimate

EFFECT_WORDS: dict[Effect, str] = {
    "gain": "Pays",
    "loss": "Costs more",
    "null": "Not decided",
    "unknown": "No interval",
}


def worth(
    section: Section, report: HeadlineReport, violation_rates: Mapping[tuple[str, str], Estimate]
) -> None:
    """Show cost at each tier's prices, violations and slack, in words and as a table."""
    section.answer = words.worth_answer(report).sentence
    section.points = [words.strata_point(report), *words.worth_points(report, violation_rates)]
    section.show(tables.worth(report))
    section.show(tables.strata(report))
    section.fold(tables.unscaled(report))
    section.fold(tables.robustness(report))
    section.fold(tables.dear_requests(report))


def for_whom(section: Section, report: HeadlineReport) -> None:
    """Show groups and single tenants that gain or lose, with intervals."""
    section.answer = words.for_whom_answer(report).sentence
    scope, *further = report.group_scopes
    if scope == "metric":
        section.notes.append("This fleet has no archetypes; the search is compared per metric.")
    for effect, rows in words.groups_by_effect(report, scope).items():
        if rows:
            section.points.append(
                (EFFECT_WORDS[effect], ", ".join(words.ratio_sentence(row) for row in rows))
            )
    caption = (
        "The search's cost over the fixed configuration's per {}, with 95 % intervals; left "
        "of the line it costs less."
    )
    section.draw(archetype_figure(report, scope), caption.format(scope))
    section.show(tables.tenants(report))
    for scope_of_figure in further:
        figure = archetype_figure(report, scope_of_figure)
        section.fold(
            tables.groups(report, scope_of_figure),
            figure=figure,
            caption=caption.format(scope_of_figure),
        )
    section.fold(tables.groups(report, scope))


def rivals(section: Section, report: HeadlineReport) -> None:
    """Show every other method on the same requests."""
    section.answer = words.rivals_answer(report).sentence
    section.draw(
        headline_figure(report),
        "Cost ratio to the fixed configuration with 95 % interval; left of the line is cheaper, "
        "an arrow names what is off the scale. "
        "Solid dots use the same frozen model, hollow squares none. Static ensemble and uniform "
        "average compute as much as the search.",
    )


def every_method(section: Section, report: HeadlineReport) -> None:
    """Show every method in tables, the headline tier first; then the single configurations."""
    for tier in sorted(report.tiers, key=lambda tier: tier != report.headline_tier):
        section.fold(tables.methods(report, tier))
    section.fold(tables.methods(report, singles=True))
