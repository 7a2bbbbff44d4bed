"""What the study's report says about trainings and completions.

What belongs here: sentences about losses, rewards, their terms and answers that fail. What does
not: sentences about methods, the gate and the whole (`words`), figures (`training_figures`).
"""

import math

from tsfm_pipeline.reports.shared.wording import (
    count,
    interval,
    number,
    percent,
    percent_interval,
    whole,
)
from tsfm_pipeline.studies.time_r1.methods import SLOW_THINKING
from tsfm_pipeline.studies.time_r1.report.model import SlowThinkingReport, TermRow
from tsfm_pipeline.studies.time_r1.report.names import problem_text, run_text, term_text
from tsfm_pipeline.studies.time_r1.report.words import names_text

LOSSES = (
    "Losses are mean negative log-likelihoods per token. Tags can be learned to 0. Numbers cannot: "
    "their loss ends at the uncertainty of the data."
)
SELECTION = (
    "The reward of the kept completions is higher than that of all by selection alone; what the "
    "policy has learned shows in that of all, and on validation windows. k3 is measured on fresh "
    "completions, where its expectation is the exact divergence."
)
TERM_NOTE = (
    "Advantages are relative to a group's mean, so a term teaches only by how it varies within the "
    "groups: its share of their variance, not its weight, says how much of the reward it is."
)


def training_sentence(report: SlowThinkingReport) -> str:
    """Say what each supervised training ended at, by part of the completion."""
    parts = []
    for run in dict.fromkeys(row.run for row in report.table_warm_ups):
        rows = [row for row in report.table_warm_ups if row.run == run]
        last = next((row for row in reversed(rows) if row.part == "validation"), rows[-1])
        parts.append(
            f"{run_text(run)}: tags {number(last.template)}, reason {number(last.think)}, numbers "
            f"{number(last.number)}"
        )
    if not parts:
        return "No supervised training was logged."
    return f"Losses at the last validation, in nats per token. {'; '.join(parts)}."


def reward_sentence(report: SlowThinkingReport) -> str:
    """Say whether the validation reward rose, for GRIP and GRPO."""
    parts = []
    for run in dict.fromkeys(row.run for row in report.table_validations):
        rows = [row for row in report.table_validations if row.run == run]
        kept = report.kept_validation(run)
        before = f"{number(rows[0].reward)} before training"
        if kept is None or kept.step == rows[0].step:
            parts.append(f"{run_text(run)}: no step is better than none; the reward was {before}")
            continue
        said = "rose" if kept.gain.low > 0 else "did not rise by more than two standard errors"
        parts.append(
            f"{run_text(run)}: the validation reward {said}, from {before} to "
            f"{number(kept.reward)} at step {whole(kept.step)}, whose state is kept, a gain of "
            f"{interval(*kept.gain)}"
        )
    if not parts:
        return "No reinforced training was logged."
    return (
        f"{'. '.join(parts)}. The step that is kept has the highest reward of those within the "
        "limit of the KL divergence, which flatters its gain; the test windows decide."
    )


def terms_sentence(report: SlowThinkingReport) -> str:
    """Say which terms own the variance that GRIP learns from."""
    shares = {
        term: _mean([r for r in report.table_terms if (r.run, r.term) == ("grip", term)])
        for term in dict.fromkeys(row.term for row in report.table_terms)
    }
    known = {term: share for term, share in shares.items() if math.isfinite(share)}
    if not known:
        return "The reward's terms were not logged."
    if not any(known.values()):
        return "The rewards of a question's answers never differed, so no term taught anything."
    parts = [
        f"{term_text(term)} {percent(share)}"
        for term, share in sorted(known.items(), key=lambda x: -x[1])
    ]
    return f"Mean share of the reward's variance within groups during GRIP: {', '.join(parts)}."


def failures_sentence(report: SlowThinkingReport) -> str:
    """Say how many answers failed, and what was wrong with completions."""
    row = report.method(SLOW_THINKING)
    failed = "" if row is None else f"{count(row.n_failed, 'window')} fell back to the draft. "
    free = report.parsing("free")
    if free is None or not free.n:
        return f"{failed}No completion was counted."
    said = (
        f"{percent_interval(*free.rate)} of {count(free.n, 'completion')} without a grammar can be "
        "read"
    )
    kinds = ", ".join(
        f"{problem_text(each.problem)} {whole(each.n)}" for each in report.table_problems
    )
    return f"{failed}{said}{f'; the others: {kinds}' if kinds else ''}."


def model_sentence(report: SlowThinkingReport) -> str:
    """Say which policy was trained, on what, and how."""
    model = "our own policy" if report.model == "own" else report.model
    return (
        f"The policy is {model}: {report.n_parameters:,} parameters, of which adapters trained "
        f"{report.n_trained:,} ({percent(report.n_trained / report.n_parameters)}) on "
        f"{names_text(list(report.trained_on))}. GRIP draws {report.oversampling} × {report.group} "
        f"completions per question and keeps {report.group} ({report.sampling} sampling)."
    )


def _mean(rows: list[TermRow]) -> float:
    known = [row.variance_share for row in rows if math.isfinite(row.variance_share)]
    return sum(known) / len(known) if known else math.nan
