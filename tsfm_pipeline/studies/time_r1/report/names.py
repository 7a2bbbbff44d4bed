"""Trainings, losses, terms of the reward and window sets as people read them.

What belongs here: plain names. What does not: methods (`methods`), sentences (`words`).
"""

from collections.abc import Mapping

from tsfm_pipeline.studies.time_r1.report.model import Question

RUNS: Mapping[str, str] = {
    "sft_plain": "SFT without a draft",
    "sft_draft": "SFT with the draft",
    "sft_more": "more SFT",
    "grip": "GRIP",
    "grpo": "GRPO",
}
PART_TEXTS: Mapping[str, str] = {"template": "Tags", "think": "Reason", "number": "Numbers"}
"""Parts of a completion whose losses the report shows, as `training.COLUMNS` names them."""
TERM_TEXTS: Mapping[str, str] = {
    "format": "format",
    "length": "length",
    "error": "squared error",
    "season": "season",
    "trend": "trend",
    "change_points": "change points",
}
"""Terms of a reward, as `rewards.TERMS` names them."""
WINDOW_SETS: Mapping[str, str] = {
    "own": "the study's own windows",
    "paper": "the paper's windows",
    "fleet": "windows of a fleet",
}
OUTCOME_TEXTS: Mapping[str, str] = {
    "kept, lower": "right: kept an answer of lower error",
    "dropped, higher": "right: dropped an answer of higher error",
    "kept, higher": "wrong: kept an answer of higher error",
    "dropped, lower": "wrong: dropped an answer of lower error",
    "equal": "no difference between answer and draft",
}


def run_text(run: str) -> str:
    """Return the plain name of a training."""
    return RUNS.get(run, run.replace("_", " "))


def term_text(term: str) -> str:
    """Return the plain name of a reward's term."""
    return TERM_TEXTS.get(term, term.replace("_", " "))


def question_text(question: Question) -> str:
    """Return a question, e.g. "ETTh1, 24 steps ahead, the paper's windows"."""
    data_set, horizon, window_set = question
    ahead = "1 step" if horizon == 1 else f"{horizon} steps"
    return f"{data_set}, {ahead} ahead, {WINDOW_SETS[window_set]}"
