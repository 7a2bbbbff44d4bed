"""The sections of the fleet's page that show a report: its answer, its figure, its tables.

What belongs here: what each section holds and what of it starts folded. What does not: the sections' order (`html`), those about the page
itself (`background`), sentences (`answers`, `ablation`), tables (`tables`), figures (`figures`).
"""

from collections.abc import Mapping
from typing import Any

from tsfm_pipeline.evaluation.protocol import HEADLINE_TIER, TIERS
from tsfm_pipeline.reports.ablation import figures as ablation_figures
from tsfm_pipeline.reports.ablation import words as ablation
from tsfm_pipeline.reports.acceptance import words as acceptance_words
from tsfm_pipeline.reports.cold_start import words as cold_start_words
from tsfm_pipeline.reports.cold_start.figures import cold_start_figure, retrieval_figure
from tsfm_pipeline.reports.headline import words as headline_words
from tsfm_pipeline.reports.headline.figures import archetype_figure, headline_figure
from tsfm_pipeline.reports.latency import words as latency_words
from tsfm_pipeline.reports.latency.figures import latency_figure
from tsfm_pipeline.reports.quality import figures as quality_figures
from tsfm_pipeline.reports.quality import words as quality_words
from tsfm_pipeline.reports.shared import answer as shared_answer
from tsfm_pipeline.reports.shared.layout import Section
from tsfm_pipeline.reports.sla import words as sla_words
from tsfm_pipeline.reports.sla.figures import sla_figure

Report = Mapping[str, Any]

EFFECT_WORDS: dict[shared_answer.Effect, str] = {"gain": "Pays", "loss": "Costs more", "null": "Not decided", "unknown": "No interval"}


def worth(section: Section, report: Report, ablation_report: Report) -> None:
    """Cost at each tier's prices, violations and slack, in words and as a table."""
    section.answer = headline_words.worth_answer(report).sentence
    section.points = headline_words.worth_points(report, ablation_report)
    section.show(headline_words.worth(report))
    section.fold(headline_words.unscaled(report))
    section.fold(headline_words.robustness(report))


def for_whom(section: Section, report: Report) -> None:
    """Groups and single tenants that gain or lose, with intervals."""
    section.answer = headline_words.for_whom_answer(report).sentence
    scope, *further = headline_words.group_scopes(report)
    if scope == "metric":
        section.notes.append("This fleet has no archetypes; the search is compared per metric.")
    groups = headline_words.groups_by_effect(report.get(f"table_{scope}s") or [])
    for effect, rows in groups.items():
        if rows:
            section.points.append((EFFECT_WORDS[effect], ", ".join(headline_words.ratio_sentence(row) for row in rows)))
    caption = "The search's cost over the fixed configuration's per {}, with 95 % intervals; left of the line it costs less."
    section.draw(archetype_figure(report, scope), caption.format(scope))
    section.show(headline_words.tenants(report))
    for scope_of_figure in further:
        figure = archetype_figure(report, scope_of_figure)
        section.fold(headline_words.groups(report, scope_of_figure), figure=figure, caption=caption.format(scope_of_figure))
    section.fold(headline_words.groups(report, scope))


def rivals(section: Section, report: Report, ablation_report: Report) -> None:
    """Every other method on the same requests."""
    section.answer = headline_words.rivals_answer(report).sentence
    if paired := ablation.rivals_answer(ablation_report).sentence:
        section.notes.append(paired)
    section.draw(
        headline_figure(report),
        "Cost ratio to the fixed configuration with 95 % interval; left of the line is cheaper, an arrow names what is off the scale. "
        "Solid dots use the same frozen model, hollow squares none. Static ensemble and uniform average compute as much as the search.",
    )
    section.fold(
        ablation.rivals(ablation_report),
        figure=ablation_figures.rivals_figure(ablation_report),
        caption="The search's cost over each rival's on the same requests; italic: rivals without a model.",
    )
    for tier in sorted(TIERS, key=lambda tier: tier != HEADLINE_TIER):
        section.fold(headline_words.methods(report, tier))
    section.fold(headline_words.methods(report, singles=True))


def latency(section: Section, report: Report) -> None:
    """What each number of configurations costs in time, and what loss it buys."""
    section.answer = latency_words.latency_answer(report).sentence
    section.draw(
        latency_figure(report),
        "K: how many configurations a request may choose among. Left: one request from history array to decision, warm, with the budget "
        "and the interval of p95. Right: what the same engine's answers cost, with 95 % intervals; the filled point is the portfolio, "
        "beyond it other tenants' experience is unknown.",
    )
    section.fold(latency_words.latency(report))


def cold_start(section: Section, report: Report) -> None:
    """What a tenant with little history may expect."""
    section.answer = cold_start_words.cold_start_answer(report).sentence
    section.draw(cold_start_figure(report), "Cost with little history over cost with full history, with 95 % intervals.")
    section.fold(cold_start_words.cold_start(report))
    section.fold(cold_start_words.gap(report))
    section.fold(
        cold_start_words.retrieval(report),
        figure=retrieval_figure(report),
        caption="Held-out tenants whose archetype is found, 95 % intervals.",
    )


def tiers(section: Section, report: Report) -> None:
    """What each tier reserves and how often demand exceeds it."""
    section.answer = sla_words.sla_answer(report).sentence
    section.draw(
        sla_figure(report),
        "95 % intervals. The middle ones overlap because tenants differ; on the right each tenant is compared with itself.",
    )
    section.show(sla_words.tiers(report), sla_words.cross(report))
    section.fold(sla_words.steps(report))


def criteria(section: Section, report: Report) -> None:
    """The acceptance criteria."""
    section.answer = acceptance_words.criteria_answer(report).sentence
    section.badges = True
    section.show(acceptance_words.criteria(report))


def quality(section: Section, report: Report) -> None:
    """Scores of whole forecasts, apart from what a decision costs."""
    section.answer = quality_words.quality_answer(report).sentence
    section.fold(
        quality_words.methods(report),
        figure=quality_figures.quality_figure(report),
        caption="WQL and MASE over those of seasonal naive, with 95 % intervals; left of the line is better.",
    )


def parts(section: Section, report: Report) -> None:
    """What each step and each dimension of the search adds, and how near perfect it is; for readers who want to know why."""
    section.answer = ablation.steps_answer(report).sentence
    others = {
        "Worse off": ablation.harm_answer,
        "Headroom": ablation.headroom_answer,
        "Dimensions": ablation.dimensions_answer,
        "Floor": ablation.floor_answer,
    }
    section.points = [(word, sentence) for word, answer in others.items() if (sentence := answer(report).sentence)]
    section.draw(
        ablation_figures.steps_figure(report),
        "Cost ratio after each step on top of the ones before; × is the step's own ratio, coloured where its interval excludes 1.",
    )
    section.fold(ablation.steps(report))
    section.fold(
        ablation.step_groups(report),
        figure=ablation_figures.groups_figure(report),
        caption="Cost after each step, group by group; a bold red name is worse off by more than 2 %.",
    )
    section.fold(
        ablation.selection(report),
        figure=ablation_figures.selection_figure(report),
        caption="How much each configuration weighs in the search's decisions, on average, in %.",
    )
    section.fold(
        ablation.dimensions(report),
        ablation.controls(report),
        figure=ablation_figures.controls_figure(report),
        caption="What is lost when a dimension of the search space, or the neighbours, are taken away.",
    )
    section.fold(ablation.trust(report))
    section.fold(ablation.violations(report))
    section.fold(
        ablation.floor(report),
        figure=ablation_figures.floor_figure(report),
        caption="The truth is known here: 1 is what a forecaster would lose who knew the generator.",
    )
