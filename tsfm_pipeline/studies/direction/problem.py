"""The problem that every scorer of a market solves: the same days, labels, features and folds.

What belongs here: the arrays a scorer is given and the shape of what it returns. What does not:
computing labels (`labels`), features (`features`) or folds (`splits`), and the scorers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.studies.direction.bars import Bars, Floats
from tsfm_pipeline.studies.direction.options import StudyOptions

Days = NDArray[np.int64]
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
VALIDATION, TEST = "validation", "test"


class Target(NamedTuple):
    """A label at a horizon, in trading days."""

    label: LabelName
    horizon: int


class Fold(NamedTuple):
    """One test year at one horizon.

    train, validation, test: day numbers, ascending, disjoint, and purged: no label of an earlier
    part looks into a later one. validation is the last training year.
    """

    year: int
    train: Days
    validation: Days
    test: Days


@dataclass(frozen=True)
class Problem:
    """What a scorer may read.

    labels: float64 [T] per target, 1 or 0, NaN where it is not known. features: names and float64
    [T, F], NaN where there is not enough history. sigma: volatility of the next day's return as
    known at the close of each day [T]. folds: per horizon, ascending by year; only days with all
    features and labels known. Nothing here stops a scorer from reading labels of its test days: the
    leakage checks and `Fold` do.
    """

    bars: Bars
    options: StudyOptions
    labels: Mapping[Target, Floats]
    feature_names: tuple[str, ...]
    features: Floats
    sigma: Floats
    folds: Mapping[int, tuple[Fold, ...]]

    def feature(self, name: str) -> Floats:
        """Return one feature [T]."""
        return self.features[:, self.feature_names.index(name)]


class Scorer(Protocol):
    """A named way of giving every day a score; a higher score says that the label is likelier.

    name: unique in the study, and stable, because it is written to tables. group: as in `options`.
    """

    @property
    def name(self) -> str: ...

    def score(self, problem: Problem, target: Target) -> pl.DataFrame:
        """Return rows of `SCORE_SCHEMA` for the validation and test days of every fold of the
        target's horizon. Whatever is fitted is fitted on a fold's training days; what is chosen
        (early stopping, a learning rate) is chosen on its validation days.
        """
        ...


SCORE_SCHEMA = pl.Schema(
    {
        "scorer": pl.String,
        "label": pl.String,
        "horizon": pl.Int32,
        "fold": pl.Int32,
        "part": pl.String,
        "day": pl.Int32,
        "score": pl.Float64,
        "probability": pl.Float64,
    }
)
"""fold: the test year. part: validation or test. day: number of the day in the market. probability:
of the label, where the scorer gives one; otherwise null, and the evaluation calibrates the score on
validation days."""


def score_rows(
    scorer: str,
    target: Target,
    fold: Fold,
    scores: Floats,
    probabilities: Floats | None = None,
    days: Days | None = None,
) -> pl.DataFrame:
    """Return a fold's rows of `SCORE_SCHEMA`.

    scores, probabilities: float64 [T], indexed by day number; or, if `days` are given, one value
    for each of them, in their order. Rows without a finite score are left out.
    """
    rows = []
    for part, wanted in ((VALIDATION, fold.validation), (TEST, fold.test)):
        at = wanted if days is None else np.searchsorted(days, wanted)
        values = scores[at]
        rows.append(
            pl.DataFrame(
                {
                    "scorer": scorer,
                    "label": target.label,
                    "horizon": target.horizon,
                    "fold": fold.year,
                    "part": part,
                    "day": wanted,
                    "score": values,
                    "probability": None if probabilities is None else probabilities[at],
                },
                schema=SCORE_SCHEMA,
                strict=False,
            ).filter(np.isfinite(values))
        )
    return pl.concat(rows)


def targets(options: StudyOptions) -> Iterator[Target]:
    """Yield the targets of a study."""
    for horizon in options.labels.horizons:
        for label in LABELS:
            yield Target(label, horizon)


def together(rows: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return rows of several scorers as one frame of `SCORE_SCHEMA`, which may be empty."""
    return pl.concat([pl.DataFrame(schema=SCORE_SCHEMA), *rows])
