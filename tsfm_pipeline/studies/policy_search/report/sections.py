"""The sections of the study's page.

What belongs here: which sentence, figure and table each section shows. What does not: their
contents (`words`, `figures`), the page around them (`page`).
"""

from tsfm_pipeline.reports.shared.layout import Section
from tsfm_pipeline.reports.shared.markdown import escape, table_markdown
from tsfm_pipeline.studies.policy_search.report import figures, tables, words
from tsfm_pipeline.studies.policy_search.report.model import PolicySearchReport

COMMANDS = """tsfm-pipeline policy-search prepare {fleets}
tsfm-pipeline policy-search run --driver optuna --hours 1
tsfm-pipeline policy-search try my-policy.yaml --describe "one sentence"
tsfm-pipeline policy-search status
tsfm-pipeline policy-search report"""


def sections(report: PolicySearchReport) -> list[Section]:
    """Return the sections of the page in their order."""
    return [
        _progress(report),
        _optimism(report),
        _promotions(report),
        _weak(report),
        _front(report),
        _fields(report),
        _ledger(report),
        _yardstick(report),
    ]


def summary(report: PolicySearchReport) -> str:
    """Return the answer and the tables that Dagster shows, as markdown."""
    sentences = (words.search_answer(report).sentence, words.optimism_sentence(report))
    shown = (tables.policy(report), tables.gains(report), tables.fields(report))
    blocks = [escape(sentence) for sentence in sentences]
    blocks += [table_markdown(table) for table in shown if table.rows]
    return "\n\n".join(blocks) + "\n"


def _progress(report: PolicySearchReport) -> Section:
    section = Section("found", "Found", "What did the loop find?")
    section.answer = words.progress_sentence(report)
    section.draw(
        figures.progress_figure(report),
        "Every experiment's loss on the choosing folds; triangles lie above the axis, and what "
        "has no loss on all requests lies at its upper edge. Below 1 is better than the default "
        "policy.",
    )
    section.show(tables.policy(report))
    section.fold(tables.kept(report))
    return section


def _optimism(report: PolicySearchReport) -> Section:
    section = Section("real", "Real", "How much of the gain is left where nothing was chosen?")
    section.answer = words.optimism_sentence(report)
    section.notes = [words.FOLDS]
    section.draw(
        figures.optimism_figure(report),
        "The gain of every compared policy over the policy in force at that time. The intervals "
        "of the confirming folds allow for the number of experiments; the others are 95 %. "
        "An arrow: it goes on.",
    )
    section.show(tables.looks(report))
    section.fold(tables.gains(report))
    section.fold(tables.looks_by_group(report))
    return section


def _promotions(report: PolicySearchReport) -> Section:
    section = Section(
        "promotions", "Promotions", "Which policies were promoted or refused, and why?"
    )
    section.answer = words.promotions_sentence(report)
    section.points = words.promotion_points(report)
    section.fold(tables.promotions(report))
    return section


def _weak(report: PolicySearchReport) -> Section:
    section = Section("weak", "Weak points", "Where does the search not beat one configuration?")
    section.answer = words.fixed_sentence(report)
    section.show(tables.fixed(report))
    return section


def _front(report: PolicySearchReport) -> Section:
    section = Section("latency", "Latency", "What does a lower loss cost in latency?")
    section.answer = words.front_sentence(report)
    section.draw(
        figures.front_figure(report),
        "Every policy that ran on all requests, and the front of those that no other one beats in "
        "both.",
    )
    section.show(tables.front(report))
    return section


def _fields(report: PolicySearchReport) -> Section:
    section = Section("fields", "Fields", "Which settings matter, and what was tried in vain?")
    section.answer = words.importance_sentence(report)
    section.notes = [words.IMPORTANCE, *filter(None, [words.untried(report)])]
    section.draw(
        figures.importance_figure(report),
        "Blue: the interval lies above 0. In brackets: experiments that moved the field.",
    )
    section.show(tables.fields(report))
    section.fold(tables.importance(report))
    return section


def _ledger(report: PolicySearchReport) -> Section:
    section = Section("ledger", "Ledger", "What was tried last, and what failed?")
    section.notes = ["The whole ledger is in results.tsv, beside the records of the study."]
    section.fold(tables.ledger(report))
    section.fold(tables.failures(report))
    return section


def _yardstick(report: PolicySearchReport) -> Section:
    section = Section("yardstick", "Yardstick", "What was it judged by, and how is it repeated?")
    section.show(tables.yardstick(report))
    section.commands = COMMANDS.format(fleets=" ".join(f"--fleet {name}" for name in report.fleets))
    return section
