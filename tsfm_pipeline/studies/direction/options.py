"""Options of the study: what a market file may set about labels, protocol and scorers.

What belongs here: the fields, their limits and defaults. What does not: where prices come from
(`spec`), and any computation. All of them are part of the fingerprints of the tables they change.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Group = Literal["base", "zero_shot", "covariates", "probes", "patchtst", "fine_tuned"]
GROUPS: tuple[Group, ...] = (
    "base",
    "zero_shot",
    "covariates",
    "probes",
    "patchtst",
    "fine_tuned",
)
"""Groups of scorers, one table each. `base` has the untrained scorers and those that are trained on
volatilities and indicators; the study cannot do without it."""
LabelName = Literal[
    "touch_up", "touch_down", "touch_up_scaled", "touch_down_scaled", "close_up", "sign"
]
LABELS: tuple[LabelName, ...] = (
    "touch_up",
    "touch_down",
    "touch_up_scaled",
    "touch_down_scaled",
    "close_up",
    "sign",
)
"""What is asked of the days ahead (`labels`)."""


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LabelOptions(_Options):
    """What is asked of the days ahead."""

    threshold: float = Field(
        0.01, gt=0, lt=0.5, description="a fraction above 0 and below 0.5, of touch and close"
    )
    scaled_threshold: float = Field(
        0.5,
        gt=0,
        description="a number above 0, of the scaled touches, in standard deviations of the "
        "return over the horizon",
    )
    horizons: tuple[Annotated[int, Field(ge=1, le=60)], ...] = Field(
        (1, 5), min_length=1, description="a list of trading days ahead, from 1 to 60"
    )


class SplitOptions(_Options):
    """The yearly walk-forward."""

    training_years: int = Field(
        6,
        ge=2,
        description="a whole number, at least 2: calendar years before the first test year, the "
        "validation year included",
    )
    last_years: int | None = Field(
        None,
        ge=1,
        description="a whole number, at least 1: test so many of the last years only; null: all",
    )
    embargo: int = Field(
        5,
        ge=0,
        description="a whole number, at least 0: trading days between training and what follows",
    )
    least_days: int = Field(
        60,
        ge=20,
        description="a whole number, at least 20: days of training, of validation and of test that "
        "a test year must have",
    )


class StatisticsOptions(_Options):
    """Uncertainty."""

    draws: int = Field(
        2000, ge=100, description="a whole number, at least 100, of the stationary bootstrap"
    )
    comparison_draws: int = Field(
        1000, ge=100, description="a whole number, at least 100, of the tests over all variants"
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="a number above 0.5 and below 1")
    seed: int = Field(0, ge=0, description="a whole number, at least 0")


class ZeroShotOptions(_Options):
    """What the frozen model is given."""

    contexts: tuple[Annotated[int, Field(ge=32, le=4096)], ...] = Field(
        (80, 256, 512), min_length=1, description="a list of trading days, from 32 to 4096"
    )

    @property
    def first_two(self) -> tuple[int, ...]:
        """The contexts that covariates and probes use: the first two, because they cost more."""
        return self.contexts[:2]


class PatchTSTOptions(_Options):
    """The trained transformer."""

    seeds: int = Field(5, ge=1, description="a whole number, at least 1: trainings")
    refit_years: int = Field(
        4, ge=1, description="a whole number, at least 1: one training serves so many test years"
    )
    epochs: int = Field(
        30,
        ge=1,
        description="a whole number, at least 1: the most; the validation loss stops earlier",
    )
    context: int = Field(80, ge=16, description="trading days, at least 16")


class FineTuningOptions(_Options):
    """Further training of the foundation model."""

    learning_rates: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (1e-6, 1e-5, 1e-4, 1e-3),
        min_length=1,
        description="a list of numbers above 0, of which one is chosen on validation days",
    )
    refit_years: int = Field(
        7, ge=1, description="a whole number, at least 1: one training serves so many test years"
    )
    steps: int = Field(
        200, ge=1, description="a whole number, at least 1: updates per training at most"
    )
    context: int = Field(256, ge=32, description="trading days, at least 32")
    seed: int = Field(0, ge=0, description="a whole number, at least 0")


class StudyOptions(_Options):
    """Everything about the study of one market but its prices."""

    scorers: tuple[Group, ...] = Field(GROUPS, description=f"a list of {', '.join(GROUPS)}")
    labels: LabelOptions = LabelOptions()
    splits: SplitOptions = SplitOptions()
    statistics: StatisticsOptions = StatisticsOptions()
    zero_shot: ZeroShotOptions = ZeroShotOptions()
    patchtst: PatchTSTOptions = PatchTSTOptions()
    fine_tuning: FineTuningOptions = FineTuningOptions()
