"""The sections of the study's page, and its summary for Dagster.

What belongs here: what stands in which section. What does not: sentences (`words`,
`training_words`), tables (`tables`), figures (`figures`, `training_figures`), rendering (`page`).
"""

from markupsafe import Markup

from tsfm_pipeline.reports.shared.layout import Section
from tsfm_pipeline.reports.shared.markdown import escape, table_markdown
from tsfm_pipeline.reports.shared.style import to_svg
from tsfm_pipeline.studies.time_r1.methods import GRIP_MEDIAN, SLOW_THINKING
from tsfm_pipeline.studies.time_r1.report import (
    figures,
    tables,
    training_figures,
    training_words,
    words,
)
from tsfm_pipeline.studies.time_r1.report.bars import bars_sentence, bars_table
from tsfm_pipeline.studies.time_r1.report.model import SlowThinkingReport

COMMAND = (
    "dagster asset materialize -m tsfm_pipeline.studies.time_r1.definitions --select '*' "
    "--partition {recipe}"
)


def sections(report: SlowThinkingReport) -> list[Section]:
    """Return the sections of the page in their order."""
    return [
        _scores(report),
        _bars(report),
        _share(report),
        _nulls(report),
        _gate(report),
        _gallery(report),
        _reward(report),
        _terms(report),
        _warm_up(report),
        _form(report),
        _cost(report),
        _data(report),
        _tables(report),
    ]


def summary(report: SlowThinkingReport) -> str:
    """Return the first five lines and the main table, which Dagster shows, as markdown."""
    headline = words.verdict_answer(report).sentence
    lines = [f"{n}. {escape(text)}" for n, (_, text) in enumerate(words.first_lines(report), 1)]
    table = tables.headline(report)
    blocks = ["\n".join(lines), f"**{escape(headline)}**"]
    blocks += [table_markdown(table)] if table.rows else []
    return "\n\n".join(blocks) + "\n"


def _scores(report: SlowThinkingReport) -> Section:
    section = Section("scores", "Scores", "Does slow thinking lower the error of its draft?")
    section.answer = words.baseline_sentence(report)
    section.notes = [words.MASE, words.FOUR_DAYS, words.passes_sentence(report)]
    section.notes = [text for text in section.notes if text]
    section.draw(
        figures.forest_figure(report),
        "Left: MASE; the orange line is the draft's. Right: the same over the draft's, paired. "
        "Grey: no policy; black: a policy alone; blue: slow thinking.",
    )
    section.show(tables.headline(report))
    section.draw(
        figures.across_figure(report),
        "Slow thinking on every data set, horizon and set of windows that was evaluated.",
    )
    section.notes.append(words.across_sentence(report))
    section.fold(tables.glossary())
    section.fold(tables.meanings(report))
    return section


def _bars(report: SlowThinkingReport) -> Section:
    section = Section("bars", "Bars", "Does it reach what was asked of it?")
    section.answer = bars_sentence(report)
    section.badges = True
    section.show(bars_table(report))
    return section


def _share(report: SlowThinkingReport) -> Section:
    section = Section("share", "GRIP's share", "How much of it is owed to GRIP?")
    section.answer = words.share_line(report)
    section.notes = [words.OWN_SHARE]
    section.draw(
        figures.share_figure(report),
        "The median of GRIP against that of SFT with the draft is GRIP alone; against more SFT and "
        "GRPO it is GRIP at matched cost. Slow thinking adds further passes and the gate.",
    )
    section.fold(tables.comparisons(report, SLOW_THINKING))
    section.fold(tables.comparisons(report, GRIP_MEDIAN))
    return section


def _nulls(report: SlowThinkingReport) -> Section:
    section = Section("nulls", "Null results", "What did not help, or is not known?")
    section.answer = words.null_sentence(report)
    section.points = words.null_points(report)
    return section


def _gate(report: SlowThinkingReport) -> Section:
    section = Section("gate", "Gate", "Does the gate know when to keep the draft?")
    section.answer = words.gate_sentence(report)
    section.notes = [words.GATE_NOTE]
    section.draw(
        figures.gate_figure(report),
        "Left: windows by what the gate did and what would have been right. Right: what other "
        "rules would score, on the same windows.",
    )
    section.fold(tables.gate(report))
    return section


def _gallery(report: SlowThinkingReport) -> Section:
    section = Section("gallery", "Gallery", "What does it look like at its best and worst?")
    if not report.table_gallery:
        section.missing = "No refined answer differs from its draft."
        return section
    section.answer = (
        "The windows where refining lowers the error most, and those where it raises it most; "
        "typical windows lie between them."
    )
    for index, row in enumerate(report.table_gallery):
        title, details = words.example_caption(report, index)
        svg = Markup(to_svg(figures.example_figure(row)))
        section.gallery.append((svg, title, details))
    return section


def _reward(report: SlowThinkingReport) -> Section:
    section = Section("reward", "GRIP", "Does the policy learn from its rewards?")
    section.answer = training_words.reward_sentence(report)
    section.notes = [training_words.SELECTION]
    section.draw(
        training_figures.reward_figure(report),
        "Bars: two standard errors of the gain over the first validation, paired by window. The "
        "line at 0.1 is the bar on the divergence.",
    )
    section.fold(tables.validations(report))
    return section


def _terms(report: SlowThinkingReport) -> Section:
    section = Section("terms", "Terms", "Which terms of the reward does it learn from?")
    section.answer = training_words.terms_sentence(report)
    section.notes = [training_words.TERM_NOTE]
    section.draw(
        training_figures.terms_figure(report),
        "A share below 0 belongs to a term that falls where the whole reward rises.",
    )
    section.fold(tables.terms(report))
    return section


def _warm_up(report: SlowThinkingReport) -> Section:
    section = Section("sft", "SFT", "What does supervised training reach?")
    section.answer = training_words.training_sentence(report)
    section.notes = [training_words.LOSSES, training_words.model_sentence(report)]
    section.draw(
        training_figures.warm_up_figure(report),
        "Lines: means over training steps. Marks: validation windows.",
    )
    section.draw(
        training_figures.base_figure(report),
        "How the base was trained, before it saw any sample: losses on held-out windows of the "
        "synthetic corpus.",
    )
    return section


def _form(report: SlowThinkingReport) -> Section:
    section = Section("form", "Form", "Can its answers be read?")
    section.answer = training_words.failures_sentence(report)
    section.notes = [words.form_line(report), words.KL_NOTE]
    section.show(tables.parsing(report), tables.divergence(report))
    return section


def _cost(report: SlowThinkingReport) -> Section:
    section = Section("cost", "Cost", "What does a request cost?")
    section.answer = words.cost_line(report)
    section.show(tables.costs(report))
    return section


def _data(report: SlowThinkingReport) -> Section:
    section = Section("data", "Data", "Which data were used, and how is this repeated?")
    section.answer = words.data_sentence(report)
    section.notes = [words.checks_sentence(report), words.CHOICE]
    section.commands = COMMAND.format(recipe=report.recipe)
    section.show(tables.data_sets(report))
    return section


def _tables(report: SlowThinkingReport) -> Section:
    section = Section("tables", "Tables", "What does every method score by every measure?")
    section.notes = [words.statistics_note(report)]
    for question in report.questions:
        section.fold(tables.methods(report, question))
    return section
