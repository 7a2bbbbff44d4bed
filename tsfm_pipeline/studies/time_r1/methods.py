"""Methods: the names of what is compared, and how people call them.

What belongs here: every name that the evaluation knows, its title, and what it is compared with.
What does not: making forecasts (`drafts`, `slow_thinking`), and figures about them (`evaluation`).
It imports nothing of the study, so that a report's words can read it.
"""

from dataclasses import dataclass
from typing import Literal

from tsfm_pipeline.evaluation.methods import LAST_VALUE, SEASONAL_NAIVE

DRAFT, FROZEN = "draft", "frozen"
SEASONS_MEAN = "seasons_mean"
"""Named as the drafts that they are (`drafts.SIMPLE`)."""
SFT_PLAIN_GREEDY, SFT_PLAIN_MEDIAN = "sft_plain_greedy", "sft_plain_median"
SFT_DRAFT_GREEDY, SFT_DRAFT_MEDIAN = "sft_draft_greedy", "sft_draft_median"
SFT_MORE_MEDIAN = "sft_more_median"
GRPO_MEDIAN, GRIP_MEDIAN = "grpo_median", "grip_median"
GRIP_GREEDY = "grip_greedy"
SLOW_THINKING, SLOW_THINKING_ONE_PASS = "slow_thinking", "slow_thinking_one_pass"

Kind = Literal["baseline", "policy", "slow thinking"]


@dataclass(frozen=True)
class Method:
    """A method that is evaluated.

    title: as the subject of a sentence. meaning: one sentence. kind: baseline: no policy took part;
    policy: answers of a policy alone; slow thinking: answers with reflection and gate.
    """

    name: str
    title: str
    meaning: str
    kind: Kind


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            DRAFT,
            "the draft",
            "The forecast that slow thinking starts from and falls back to.",
            "baseline",
        ),
        Method(
            FROZEN,
            "the frozen model",
            "The median forecast of the frozen model at the recipe's longest context.",
            "baseline",
        ),
        Method(
            SEASONAL_NAIVE,
            "seasonal naive",
            "Each step repeats the value one season earlier.",
            "baseline",
        ),
        Method(
            SEASONS_MEAN,
            "the four-day mean",
            "Each step is the mean of the same step in the last four seasons.",
            "baseline",
        ),
        Method(LAST_VALUE, "the last value", "Each step repeats the last value.", "baseline"),
        Method(
            SFT_PLAIN_GREEDY,
            "greedy SFT without a draft",
            "The supervised policy that sees no draft; one answer, without chance: the middle of "
            "the distribution at each step.",
            "policy",
        ),
        Method(
            SFT_PLAIN_MEDIAN,
            "the median of SFT without a draft",
            "The same policy, median of as many sampled answers as slow thinking takes.",
            "policy",
        ),
        Method(
            SFT_DRAFT_GREEDY,
            "greedy SFT with the draft",
            "The supervised policy that corrects the draft; one answer, without chance.",
            "policy",
        ),
        Method(
            SFT_DRAFT_MEDIAN,
            "the median of SFT with the draft",
            "The same policy, median of as many sampled answers as GRIP's.",
            "policy",
        ),
        Method(
            SFT_MORE_MEDIAN,
            "the median of more SFT",
            "The supervised policy, trained on for as many tokens as GRIP cost.",
            "policy",
        ),
        Method(
            GRPO_MEDIAN,
            "the median of GRPO",
            "Group-relative policy optimisation of the supervised policy, on as many rollouts as "
            "GRIP.",
            "policy",
        ),
        Method(
            GRIP_MEDIAN,
            "the median of GRIP",
            "The supervised policy after GRIP, median of sampled answers, without the gate.",
            "policy",
        ),
        Method(
            GRIP_GREEDY,
            "greedy GRIP",
            "The same policy; one answer, without chance.",
            "policy",
        ),
        Method(
            SLOW_THINKING,
            "slow thinking",
            "Draft, findings, GRIP's answers, further passes while the backtest improves, and the "
            "gate.",
            "slow thinking",
        ),
        Method(
            SLOW_THINKING_ONE_PASS,
            "slow thinking in one pass",
            "The same with a single pass.",
            "slow thinking",
        ),
    )
}
"""Every method by its name, in the order of tables and figures."""
REFERENCES: tuple[str, ...] = (
    DRAFT,
    SEASONAL_NAIVE,
    SEASONS_MEAN,
    SFT_PLAIN_GREEDY,
    SFT_DRAFT_GREEDY,
    SFT_DRAFT_MEDIAN,
    SFT_MORE_MEDIAN,
    GRPO_MEDIAN,
    SLOW_THINKING_ONE_PASS,
)
"""What the MASE of every method is compared with, window by window."""
MATCHED_WITH_GRIP: tuple[str, ...] = (SFT_DRAFT_MEDIAN, SFT_MORE_MEDIAN, GRPO_MEDIAN)
"""What GRIP's median is compared with to see its own share: the same policy before GRIP, and two
other ways to spend the same cost on it.
"""


def title_of(name: str) -> str:
    """Return the title of a method. Raises ValueError for an unknown one."""
    return require_known(name).title


def require_known(name: str) -> Method:
    """Return a method by its name. Raises ValueError for an unknown one."""
    if name not in METHODS:
        raise ValueError(f"no method {name!r}; allowed: {', '.join(METHODS)}")
    return METHODS[name]
