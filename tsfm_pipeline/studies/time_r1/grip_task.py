"""What a GRIP run learns from and how.

What belongs here: questions, options and seed of one run. What does not: the run (`grip_loop`).
"""

from dataclasses import dataclass
from typing import Any

from tsfm_pipeline.studies.time_r1.options import GripOptions, LoraOptions, RewardOptions
from tsfm_pipeline.studies.time_r1.output_filter import OutputFilter
from tsfm_pipeline.studies.time_r1.questions import Questions


@dataclass(frozen=True)
class GripTask:
    """Questions and settings of one run.

    validation: questions that choose among checkpoints and measure the divergence; never test
    windows. max_new_tokens: of a completion; longer ones are cut. Raises ValueError if there are
    fewer training questions than a step asks.
    """

    train: Questions
    validation: Questions
    lora: LoraOptions
    options: GripOptions
    reward: RewardOptions
    output_filter: OutputFilter
    seed: int
    max_new_tokens: int

    def __post_init__(self) -> None:
        if len(self.train) < self.options.questions:
            raise ValueError(
                f"{len(self.train)} training questions; a step asks {self.options.questions} "
                f"different ones"
            )

    def settings(self) -> dict[str, Any]:
        """Return what decides the run besides policy and questions. More steps, or another number
        of checkpoints, continue the same run.
        """
        return {
            "options": self.options.model_dump(mode="json", exclude={"steps", "checkpoints"}),
            "reward": self.reward.model_dump(mode="json"),
            "lora": self.lora.model_dump(mode="json"),
            "seed": self.seed,
            "max_new_tokens": self.max_new_tokens,
        }
