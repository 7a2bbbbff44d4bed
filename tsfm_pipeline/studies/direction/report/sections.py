"""The sections of the study's page, and its summary for Dagster.

What belongs here: what stands in which section. What does not: sentences (`words`), tables
(`tables`), figures (`figures`), rendering (`page`).
"""

from tsfm_pipeline.reports.shared.layout import Section
from tsfm_pipeline.reports.shared.markdown import escape, table_markdown
from tsfm_pipeline.studies.direction.options import LABELS
from tsfm_pipeline.studies.direction.report import figures, tables, words
from tsfm_pipeline.studies.direction.report.model import DirectionReport

COMMAND = (
    "dagster asset materialize -m tsfm_pipeline.studies.direction.definitions --select '*' "
    "--partition {market}"
)


def sections(report: DirectionReport) -> list[Section]:
    """Return the sections of the page in their order."""
    return [
        _scores(report),
        _direction(report),
        _volatility(report),
        _probability(report),
        _gates(report),
        _fine_tuning(report),
        _checks(report),
        _questions(report),
        _days(report),
    ]


def summary(report: DirectionReport) -> str:
    """Return the first five lines and the main tables, which Dagster shows, as markdown."""
    headline = words.verdict_answer(report).sentence
    lines = [f"{n}. {escape(text)}" for n, (_, text) in enumerate(words.first_lines(report), 1)]
    shown = (tables.chosen(report), tables.chosen_on_sign(report))
    blocks = ["\n".join(lines), f"**{escape(headline)}**"]
    blocks += [table_markdown(table) for table in shown if table.rows]
    return "\n\n".join(blocks) + "\n"


def _scores(report: DirectionReport) -> Section:
    section = Section("scores", "Scores", "Does anything know more than volatility?")
    section.answer = words.touch_sentence(report)
    section.notes = [words.AUC, words.TOUCH, words.CHOSEN]
    section.draw(
        figures.forest_figure(report),
        "Left: touch up; the orange line is the volatility logit. Right: sign, on an axis of its "
        "own. Blue: uses the foundation model. Bold: the best of its family on touch up in the "
        "first validation year.",
    )
    section.show(tables.chosen(report))
    return section


def _direction(report: DirectionReport) -> Section:
    section = Section("direction", "Direction", "Does anything know the direction?")
    section.answer = words.direction_line(report)
    section.notes = [words.sign_sentence(report), words.rule_sentence(report)]
    section.points = words.reason_points(report)
    section.show(tables.chosen_on_sign(report))
    return section


def _volatility(report: DirectionReport) -> Section:
    section = Section(
        "volatility", "Volatility", "What is left of a touch where volatility is the same?"
    )
    section.answer = words.volatility_sentence(report)
    section.notes = [words.MIRROR]
    section.draw(
        figures.decile_figure(report),
        "Left: base rates from the calmest to the stormiest tenth of days. Then the AUC among the "
        "days of one tenth: .5 means that a scorer knows nothing beyond volatility there.",
    )
    for label in dict.fromkeys(row.label for row in report.table_deciles):
        section.fold(tables.deciles(report, label))
    return section


def _probability(report: DirectionReport) -> Section:
    section = Section("probability", "Probability", "Can its probabilities be believed?")
    section.answer = words.reliability_sentence(report)
    section.draw(
        figures.reliability_figure(report),
        "Observed share of days with the label by tenth of the given probability, with 95 % "
        "intervals; on the line, what is said is what happens. A forecast of closes states the "
        "probability of a close, and none of a touch within the day.",
    )
    for label in dict.fromkeys(row.label for row in report.table_reliability):
        section.fold(tables.reliability(report, label))
    return section


def _gates(report: DirectionReport) -> Section:
    section = Section("gates", "Gates", "What would the earlier work's gates have decided?")
    section.answer = words.gate_sentence(report)
    section.notes = [words.gate_side_note()]
    section.draw(
        figures.gate_figure(report),
        "One variant per family, chosen in the first validation year. Orange: the volatility "
        "logit. Last row: the earlier work's own days.",
    )
    section.show(tables.gates(report))
    return section


def _fine_tuning(report: DirectionReport) -> Section:
    section = Section("fine-tuning", "Fine-tuning", "Does further training help, at which rate?")
    section.answer = words.rates_sentence(report)
    section.draw(
        figures.learning_rate_figure(report),
        "Below 1: the training lowered the loss on validation days. What the chosen weights score "
        "on test days is in the tables above.",
    )
    section.fold(tables.learning_rates(report))
    return section


def _checks(report: DirectionReport) -> Section:
    section = Section("checks", "Checks", "Are the forecasts sound, and read the right way?")
    section.answer = words.checks_sentence(report)
    section.badges = True
    section.show(tables.checks(report, passed=False))
    section.fold(tables.checks(report, passed=True))
    return section


def _questions(report: DirectionReport) -> Section:
    section = Section("tables", "Tables", "What does every scorer score on every question?")
    section.notes = [words.statistics_note(report)]
    section.show(tables.questions(report))
    for horizon in report.horizons:
        for label in LABELS:
            section.fold(tables.target(report, label, horizon))
    return section


def _days(report: DirectionReport) -> Section:
    section = Section("days", "Days", "Which days were used, and how is this repeated?")
    section.answer = words.days_sentence(report)
    section.notes = [words.NO_PROMISE]
    section.commands = COMMAND.format(market=report.market)
    section.show(tables.excluded(report))
    for horizon in report.horizons:
        section.fold(tables.folds(report, horizon))
    return section
