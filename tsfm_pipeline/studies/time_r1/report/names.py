"""Trainings, losses, terms of the reward and window sets as people read them.

What belongs here: plain names. What does not: methods (`methods`), sentences (`words`).
"""

from collections.abc import Mapping

from tsfm_pipeline.studies.time_r1.report.model import Question

RUNS: Mapping[str, str] = {
    "with a draft": "prompts with a draft",
    "without": "prompts without a draft",
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
GLOSSARY: Mapping[str, str] = {
    "policy": "the language model that is trained",
    "draft": "the forecast that the policy corrects, by the frozen model or a simple method",
    "SFT": "supervised fine-tuning: the policy learns to write given reasons and answers",
    "GRIP": "training by rewards, after SFT: the policy writes many answers to a question, some "
    "are kept, and it learns from how each compares with the others (Time-R1, equation 6)",
    "GRPO": "the same, with all answers kept and of equal weight",
    "completion, rollout": "one text that the policy wrote: a reason and an answer",
    "greedy": "an answer without chance: the middle of the distribution at each step",
    "backtest": "the same forecast from an earlier row, after which the values are known",
    "gate": "what decides between draft and refined answer, by the backtest",
    "MASE": "mean absolute error over that of repeating the last season in the training rows",
    "KL divergence": "how far the policy's probabilities of the next token are from those before "
    "GRIP, in nats per token of the answer; 0: they are equal",
    "k3": "an estimate of the KL divergence from the sampled tokens alone",
}
"""Words of the report that not every forecaster knows."""
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


def problem_text(problem: str) -> str:
    """Return the plain name of what is wrong with a completion (`answers.Problem`)."""
    return problem.replace("_", " ").replace("think", "reason")


def question_text(question: Question) -> str:
    """Return a question, e.g. "ETTh1, 24 steps ahead, the paper's windows"."""
    data_set, horizon, window_set = question
    ahead = "1 step" if horizon == 1 else f"{horizon} steps"
    return f"{data_set}, {ahead} ahead, {WINDOW_SETS[window_set]}"
