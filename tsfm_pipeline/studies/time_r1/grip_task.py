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

    train, validation: of each data set. A step asks about one data set, and the next step about the
    next. validation: questions that choose among checkpoints; those of the first data set measure
    the divergence; never test windows. max_new_tokens: of a completion; longer ones are cut. Raises
    ValueError if a data set has fewer training questions than a step asks.
    """

    train: tuple[Questions, ...]
    validation: tuple[Questions, ...]
    lora: LoraOptions
    options: GripOptions
    reward: RewardOptions
    output_filter: OutputFilter
    seed: int
    max_new_tokens: int

    def __post_init__(self) -> None:
        fewest = min(map(len, self.train), default=0)
        if fewest < self.options.questions or not self.validation:
            raise ValueError(
                f"{fewest} training questions of a data set and validation questions of "
                f"{len(self.validation)}; a step asks {self.options.questions} different ones, and "
                "at least one data set must validate"
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
