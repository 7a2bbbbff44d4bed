"""The study's report in tables.

What belongs here: tables about its figures. What does not: sentences (`words`), figures
(`figures`), how they are computed (`numbers`).
"""

import math

from tsfm_pipeline.reports.shared.table import Table
from tsfm_pipeline.reports.shared.wording import (
    interval,
    milliseconds,
    number,
    percent,
    percent_interval,
    ratio_interval,
    whole,
)
from tsfm_pipeline.studies.time_r1.methods import (
    DRAFT,
    GRIP_MEDIAN,
    METHODS,
    SEASONAL_NAIVE,
    SFT_PLAIN_GREEDY,
    SLOW_THINKING,
    title_of,
)
from tsfm_pipeline.studies.time_r1.report.model import Question, SlowThinkingReport
from tsfm_pipeline.studies.time_r1.report.names import (
    GLOSSARY,
    OUTCOME_TEXTS,
    question_text,
    run_text,
    term_text,
)


def methods(report: SlowThinkingReport, question: Question) -> Table:
    """Return every method of a question by all measures."""
    rows = report.methods(question)
    cells = tuple(
        (
            title_of(row.method),
            interval(*row.mase),
            ratio_interval(*report.over(DRAFT, row.method, question)),
            interval(*row.mse),
            interval(*row.mae),
            percent_interval(*row.mape),
            interval(*row.r2),
            interval(*row.nrmse),
            interval(*row.wql),
            percent(row.gate_rate.figure),
            whole(row.n_failed),
        )
        for row in rows
    )
    columns = (
        "method",
        "MASE",
        "over the draft's",
        "MSE",
        "MAE",
        "MAPE",
        "R2",
        "NRMSE",
        "WQL",
        "gate rate",
        "failed",
    )
    caption = question_text(question)
    if rows:
        caption += (
            f": {whole(rows[0].n_windows)} windows, {whole(rows[0].n_channels)} channels, "
            f"{whole(rows[0].n_origins)} origins; {whole(rows[0].n_left_out)} windows left out for "
            "values that were not observed"
        )
    slow = frozenset(i for i, row in enumerate(rows) if row.method == SLOW_THINKING)
    return Table(caption, columns, cells, emphasised=slow)


def comparisons(report: SlowThinkingReport, method: str) -> Table:
    """Return a method of the headline against every reference."""
    cells = tuple(
        (title_of(row.reference), ratio_interval(*row.ratio), interval(*row.difference))
        for row in report.comparisons(method)
    )
    caption = f"MASE of {title_of(method)} against others, on the same windows"
    return Table(caption, ("against", "ratio", "difference"), cells)


def meanings(report: SlowThinkingReport) -> Table:
    """Return what each method of the report is."""
    shown = {row.method for row in report.table_methods}
    cells = tuple((each.title, each.meaning) for each in METHODS.values() if each.name in shown)
    return Table("What the methods are", ("method", "what it is"), cells, frozenset({0, 1}))


def glossary() -> Table:
    """Return the words of the report that not every forecaster knows."""
    return Table(
        "Words of this page", ("word", "meaning"), tuple(GLOSSARY.items()), frozenset({0, 1})
    )


def gate(report: SlowThinkingReport) -> Table:
    """Return the decisions of the gate by kind."""
    cells = tuple(
        (OUTCOME_TEXTS[row.outcome], whole(row.n), percent(row.share), number(row.difference))
        for row in report.table_gate
    )
    columns = ("the gate was", "windows", "share", "mean MASE, refined minus draft")
    return Table("Decisions of the gate", columns, cells)


def validations(report: SlowThinkingReport) -> Table:
    """Return the rewards on validation windows."""
    cells = tuple(
        (
            run_text(row.run),
            whole(row.step),
            number(row.reward),
            interval(*row.gain),
            "kept" if row.kept else "",
        )
        for row in report.table_validations
    )
    columns = ("training", "step", "reward", "gain (± 2 standard errors)", "")
    return Table("Reward on validation windows", columns, cells)


def terms(report: SlowThinkingReport) -> Table:
    """Return each term's contribution at both ends of a training, and its share of variance."""
    cells = []
    for run, term in dict.fromkeys((row.run, row.term) for row in report.table_terms):
        rows = [row for row in report.table_terms if (row.run, row.term) == (run, term)]
        ends = (number(row.contribution) for row in (rows[0], rows[-1]))
        shares = (percent(row.variance_share) for row in (rows[0], rows[-1]))
        cells.append((run_text(run), term_text(term), *ends, *shares))
    columns = (
        "training",
        "term",
        "contribution, first",
        "contribution, last",
        "share of variance, first",
        "share of variance, last",
    )
    return Table("Terms of the reward", columns, tuple(cells), frozenset({0, 1}))


def costs(report: SlowThinkingReport) -> Table:
    """Return what each method costs."""
    cells = tuple(
        (
            title_of(row.method),
            whole(row.n_answers),
            number(row.tokens),
            milliseconds(row.p50_ms),
            milliseconds(row.p95_ms),
            number(row.training_cpu_s / 60),
        )
        for row in report.table_costs
    )
    columns = (
        "method",
        "answers",
        "tokens",
        "median",
        "95th percentile",
        "GRIP's training, CPU min",
    )
    slow = frozenset(i for i, r in enumerate(report.table_costs) if r.method == SLOW_THINKING)
    return Table("Cost of one request, and of the training", columns, cells, emphasised=slow)


def parsing(report: SlowThinkingReport) -> Table:
    """Return how many completions could be read."""
    how = {"free": "without a grammar", "constrained": "with the grammar"}
    cells = tuple(
        (how[row.mode], whole(row.n), whole(row.n_read), percent_interval(*row.rate))
        for row in report.table_parsing
        if row.n
    )
    columns = ("completions", "sampled", "readable", "rate")
    return Table("Readable completions at temperature 1", columns, cells)


def divergence(report: SlowThinkingReport) -> Table:
    """Return the distance of the policy from its reference after GRIP, exact and estimated."""
    cells = tuple(
        (how, whole(report.n_prompts), interval(*estimate))
        for how, estimate in (
            ("exact over the vocabulary", report.exact_kl),
            ("estimated by k3 on fresh completions", report.k3),
        )
        if math.isfinite(estimate.figure)
    )
    columns = (
        "KL divergence from the reference",
        "held-out prompts",
        "nats per token of the answer",
    )
    return Table("Distance from the policy before GRIP", columns, cells)


def data_sets(report: SlowThinkingReport) -> Table:
    """Return the data sets that were used, and those that were not."""
    cells = tuple(
        (
            row.name,
            row.title,
            row.role or "not used",
            "pinned" if row.pinned else "not pinned",
            row.licence,
            "; ".join((*row.problems, *([row.note] if row.note else []))),
        )
        for row in report.table_data_sets
    )
    columns = ("data set", "what it is", "used for", "content", "licence", "note")
    return Table("Data sets", columns, cells, frozenset(range(len(columns))))


def headline(report: SlowThinkingReport) -> Table:
    """Return the methods of the headline by MASE alone, against draft and seasonal naive."""
    rows = report.methods()
    against = (DRAFT, SEASONAL_NAIVE, SFT_PLAIN_GREEDY)
    cells = tuple(
        (
            title_of(row.method),
            interval(*row.mase),
            *(ratio_interval(*report.over(name, row.method)) for name in against),
        )
        for row in rows
    )
    columns = ("method", "MASE", *(f"over {title_of(name)}" for name in against))
    slow = frozenset(i for i, row in enumerate(rows) if row.method in (SLOW_THINKING, GRIP_MEDIAN))
    return Table(question_text(report.headline), columns, cells, emphasised=slow)
