"""The problem that every scorer of a market solves: the same days, labels, features and folds.

What belongs here: the arrays a scorer is given and the shape of what it returns. What does not:
computing labels (`labels`), features (`features`) or folds (`splits`), and the scorers.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.studies.direction.bars import Bars, Floats
from tsfm_pipeline.studies.direction.options import LABELS, LabelName, StudyOptions

Days = NDArray[np.int64]
VALIDATION, TEST = "validation", "test"


class Target(NamedTuple):
    """A label at a horizon, in trading days."""

    label: LabelName
    horizon: int

    @property
    def is_touch(self) -> bool:
        """Whether it asks for the high or the low of a day."""
        return self.label.startswith("touch")

    @property
    def falls(self) -> bool:
        """Whether it asks for a fall."""
        return self.label.startswith("touch_down")


class Fold(NamedTuple):
    """One test year at one horizon.

    train, validation, test: day numbers, ascending, disjoint, and purged: no label of an earlier
    part looks into a later one. validation is the last training year.
    """

    year: int
    train: Days
    validation: Days
    test: Days

    @property
    def scored(self) -> Days:
        """The validation and test days, ascending."""
        return np.concatenate([self.validation, self.test])


def scored_days(folds: Iterable[Fold]) -> Days:
    """Return the validation and test days of some folds, each once, ascending."""
    return np.unique(np.concatenate([fold.scored for fold in folds]))


def test_days(folds: Iterable[Fold]) -> Days:
    """Return the test days of the folds of one horizon, ascending."""
    return np.concatenate([fold.test for fold in folds])


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
    asked = np.concatenate([fold.validation, fold.test])
    at = asked if days is None else np.searchsorted(days, asked)
    kept = np.isfinite(scores[at])
    n_kept = int(kept.sum())
    parts = np.repeat([VALIDATION, TEST], [len(fold.validation), len(fold.test)])
    # Columns of full length: polars runs a query for every scalar that it has to repeat.
    return pl.DataFrame(
        {
            "scorer": [scorer] * n_kept,
            "label": [target.label] * n_kept,
            "horizon": np.full(n_kept, target.horizon, np.int32),
            "fold": np.full(n_kept, fold.year, np.int32),
            "part": parts[kept].tolist(),
            "day": asked[kept].astype(np.int32),
            "score": scores[at][kept],
            "probability": ([None] * n_kept if probabilities is None else probabilities[at][kept]),
        },
        schema=SCORE_SCHEMA,
    )


def targets(options: StudyOptions) -> Iterator[Target]:
    """Yield the targets of a study."""
    for horizon in options.labels.horizons:
        for label in LABELS:
            yield Target(label, horizon)


def together(rows: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return rows of several scorers as one frame of `SCORE_SCHEMA`, which may be empty."""
    return pl.concat([pl.DataFrame(schema=SCORE_SCHEMA), *rows])
