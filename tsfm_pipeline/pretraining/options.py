"""Hold the options of a training run, and the learning rate that follows from them.

What belongs here: everything that decides the weights of a run. What does not: its state
(`trainer`) and the command lines (`train`, `continue_training`).
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

from tsfm_pipeline.pretraining.corpus import PoolShape
from tsfm_pipeline.pretraining.objective import SEGMENT_PATCHES

LENGTHS: dict[str, tuple[tuple[int, ...], tuple[float, ...]]] = {
    "2": ((16, 32, 64, 128), (0.15, 0.25, 0.35, 0.25)),
    "3": ((2, 4, 8, 16, 32, 64, 128), (0.04, 0.06, 0.08, 0.12, 0.20, 0.27, 0.23)),
    "4": ((2, 4, 8, 16, 32, 64, 128), (0.03, 0.05, 0.07, 0.10, 0.18, 0.28, 0.29)),
}
"""Context patches of a step's windows and the share of steps with each, by corpus version.

Every patch of a window is a forecast, so a long window also holds short histories. But there they
are a few of many patches of one loss; in a short window they count by themselves.
"""


@dataclass(frozen=True)
class TrainOptions:
    """Everything that decides the weights of a run."""

    seed: int = 0
    steps: int | None = None
    minutes: float | None = None
    open_ended: bool = False
    """The rate stays constant after the warm-up, so that the run may stop at any step.
    `cooled_down` gives the options of the run that ends it.
    """
    cooled_from: int | None = None
    """The step at which an open-ended run stopped and its cool-down began."""
    batch_patches: int = 2048
    micro_batches: int = 4
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warmup_steps: int = 300
    decay_from: float = 0.65
    ema_decay: float = 0.999
    clip_norm: float = 1.0
    optimizer: str = "muon"
    start: str | None = None
    """sha256 of the released weights that the run starts from; None trains from scratch."""
    corpus: str = "2"
    pool: PoolShape = field(default_factory=PoolShape)
    window_patches: tuple[int, ...] | None = None
    """Context patches of windows, each in an equal share of steps; None: those of the corpus. For
    a task of one's own (`tasks.Task`), which may have short histories only.
    """

    def __post_init__(self) -> None:
        if (self.steps is not None) + (self.minutes is not None) + self.open_ended != 1:
            raise ValueError(
                "give exactly one of steps, minutes and open_ended: the length of the run decides "
                "its schedule"
            )
        if not 0 <= self.decay_from < 1:
            raise ValueError(
                f"decay_from is {self.decay_from}; allowed: a share of the run from 0 to below 1"
            )
        if self.corpus not in LENGTHS:
            raise ValueError(f"corpus is {self.corpus!r}; allowed: {', '.join(LENGTHS)}")
        if self.window_patches is not None and not _are_lengths(self.window_patches):
            raise ValueError(
                f"window_patches is {self.window_patches}; allowed: one or more lengths of 1 to "
                f"{SEGMENT_PATCHES} patches, or multiples of {SEGMENT_PATCHES}"
            )
        longest = max(self.context_patches)
        if self.batch_patches % (4 * longest):
            raise ValueError(
                f"batch_patches {self.batch_patches} is not a multiple of "
                f"{4 * longest}: four windows of the longest context"
            )
        if self.batch_patches // longest % self.micro_batches:
            raise ValueError(
                f"micro_batches {self.micro_batches} does not divide a batch of "
                f"{self.batch_patches // longest} windows of the longest context"
            )

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> "TrainOptions":
        """Return the options that `dataclasses.asdict` turned into a dictionary."""
        patches = saved.get("window_patches")
        return cls(
            **{
                **saved,
                "pool": PoolShape(**saved["pool"]),
                "window_patches": None if patches is None else tuple(patches),
            }
        )

    @property
    def context_patches(self) -> tuple[int, ...]:
        """The context patches that windows may have."""
        if self.window_patches is not None:
            return self.window_patches
        return LENGTHS[self.corpus][0]

    @property
    def context_shares(self) -> tuple[float, ...]:
        """The share of steps with windows of each length."""
        if self.window_patches is not None:
            return (1 / len(self.window_patches),) * len(self.window_patches)
        return LENGTHS[self.corpus][1]

    def cooled_down(self, from_step: int, steps: int) -> "TrainOptions":
        """Return the options of a run that goes on from an open-ended one and lowers its rate
        linearly to zero over `steps` more steps.
        """
        if steps < 1:
            raise ValueError(f"a cool-down of {steps} steps; allowed: 1 or more")
        end = from_step + steps
        return replace(
            self, open_ended=False, cooled_from=from_step, steps=end, decay_from=from_step / end
        )

    def progress(self, step: int, train_s: float) -> float:
        """Return the share of the run that is done; 0 for an open-ended run."""
        if self.open_ended:
            return 0.0
        return (
            step / self.steps
            if self.steps is not None
            else train_s / 60 / (self.minutes or math.inf)
        )

    def rate_factor(self, step: int, progress: float) -> float:
        """Return the factor of the learning rate: warm-up, constant, then linear decay to zero."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        if self.open_ended:
            return warm
        return warm * min(1.0, max(0.0, (1 - progress) / (1 - self.decay_from)))


def _are_lengths(patches: tuple[int, ...]) -> bool:
    """Return whether the loss can split windows of these many patches into equal segments."""
    return bool(patches) and all(
        n > 0 and (n <= SEGMENT_PATCHES or n % SEGMENT_PATCHES == 0) for n in patches
    )
