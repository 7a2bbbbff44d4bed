"""The page's sections on the parts of the search, and on rivals from the ablation.

What belongs here: the contents of the sections. What does not: their sentences (`words`), tables
(`tables`) and figures (`figures`).
"""

from tsfm_pipeline.reports.ablation import figures, tables, words
from tsfm_pipeline.reports.ablation.model import AblationReport
from tsfm_pipeline.reports.shared.layout import Section


def paired_rivals(section: Section, report: AblationReport) -> None:
    """Show the search's cost over each rival's."""
    if paired := words.rivals_answer(report).sentence:
        section.notes.append(paired)
    section.fold(
        tables.rivals(report),
        figure=figures.rivals_figure(report),
        caption="The search's cost over each rival's on the same requests; italic: rivals without "
        "a model.",
    )


def parts(section: Section, report: AblationReport) -> None:
    """Show what each step and each dimension of the search adds, and how far it is from the
    irreducible loss.
    """
    section.answer = words.steps_answer(report).sentence
    answers = {
        "Worse off": words.harm_answer,
        "Headroom": words.headroom_answer,
        "Dimensions": words.dimensions_answer,
        "Known events": words.events_answer,
        "Floor": words.floor_answer,
    }
    section.points = [
        (word, sentence)
        for word, answer in answers.items()
        if (sentence := answer(report).sentence)
    ]
    section.draw(
        figures.steps_figure(report),
        "Cost ratio after each step on top of the ones before; × is the step's own ratio, "
        "coloured where its interval excludes 1.",
    )
    section.fold(tables.steps(report))
    section.fold(
        tables.step_groups(report),
        figure=figures.groups_figure(report),
        caption="Cost after each step, group by group; a bold red name is worse off by more than "
        "2 %.",
    )
    section.fold(
        tables.selection(report),
        figure=figures.selection_figure(report),
        caption="How much each configuration weighs in the search's decisions, on average, in %.",
    )
    section.fold(
        tables.dimensions(report),
        tables.controls(report),
        figure=figures.controls_figure(report),
        caption="The effect of a dimension of the search space, or of the neighbours' prior: cost "
        "with it over cost without it.",
    )
    section.fold(tables.events(report))
    section.fold(tables.trust(report))
    section.fold(tables.violations(report))
    section.fold(
        tables.floor(report),
        figure=figures.floor_figure(report),
        caption="The generator is known here: 1 is the loss of a forecaster that knows it.",
    )
