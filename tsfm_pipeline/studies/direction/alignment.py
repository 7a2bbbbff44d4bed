"""Scores of all scorers of a target on the same days.

What belongs here: taking the days that every scorer has, and refusing a scorer that lacks too many.
What does not: scoring, and statistics of the scores (`evaluation`).
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from tsfm_pipeline.studies.direction.auc import Ints
from tsfm_pipeline.studies.direction.bars import Floats
from tsfm_pipeline.studies.direction.problem import TEST, VALIDATION, Fold, Problem, Target

MOST_DROPPED = 0.05
"""Share of a part's days that may be lost because some scorer lacks them."""


@dataclass(frozen=True)
class Part:
    """The validation or test days of a target, with everybody's scores.

    days, folds: [n], ascending by fold and day. scores: [S, n]. probabilities: [S, n], NaN where a
    scorer gives none. n_dropped: days that are left out because some scorer lacks them.
    """

    days: Ints
    folds: Ints
    scores: Floats
    probabilities: Floats
    n_dropped: int


@dataclass(frozen=True)
class Aligned:
    """A target's scores on the same days. scorers: S names, ascending."""

    target: Target
    scorers: tuple[str, ...]
    validation: Part
    test: Part


def align(problem: Problem, scores: pl.DataFrame, target: Target) -> Aligned:
    """Return the scores of a target on the days that all its scorers have.

    scores: rows of `SCORE_SCHEMA`; scorers without a row for this target do not take part. Raises
    ValueError if a scorer has two scores for a day, if a day is not one of its fold's, or if more
    than `MOST_DROPPED` of the days would be dropped, naming the scorer that lacks the most.
    """
    rows = scores.filter(label=target.label, horizon=target.horizon)
    scorers = tuple(rows["scorer"].unique().sort())
    if not scorers:
        raise ValueError(f"no scorer has a score for {target.label} at horizon {target.horizon}")
    folds = problem.folds[target.horizon]
    return Aligned(
        target,
        scorers,
        *(_part(rows, target, folds, part, len(scorers)) for part in (VALIDATION, TEST)),
    )


def _part(
    rows: pl.DataFrame, target: Target, folds: tuple[Fold, ...], part: str, n_scorers: int
) -> Part:
    asked = pl.DataFrame(
        {
            "fold": np.concatenate([np.full(len(getattr(f, part)), f.year) for f in folds]),
            "day": np.concatenate([getattr(f, part) for f in folds]),
        },
        schema={"fold": pl.Int32, "day": pl.Int32},
    )
    rows = rows.filter(part=part)
    where = f"on {part} days of {target.label} at horizon {target.horizon}"
    twice = rows.filter(pl.struct("scorer", "fold", "day").is_duplicated())
    if len(twice):
        scorer, day = twice.row(0, named=True)["scorer"], twice.row(0, named=True)["day"]
        raise ValueError(f"{scorer} has more than one score for day {day} {where}")
    strange = rows.join(asked, on=["fold", "day"], how="anti")
    if len(strange):
        row = strange.row(0, named=True)
        raise ValueError(
            f"{row['scorer']} has a score for day {row['day']} {where}, which is no {part} day of "
            f"fold {row['fold']}"
        )
    common = rows.group_by("fold", "day").len().filter(pl.col("len") == n_scorers)
    n_dropped = len(asked) - len(common)
    if n_dropped > MOST_DROPPED * len(asked):
        had = rows.group_by("scorer").len().sort("len", "scorer").row(0)
        raise ValueError(
            f"only {len(common)} of {len(asked)} days have a score of every scorer {where}; "
            f"{had[0]} lacks the most ({len(asked) - had[1]}). At most {MOST_DROPPED:.0%} may be "
            "dropped: let it score these days, or leave it out"
        )
    kept = rows.join(common.drop("len"), on=["fold", "day"], how="semi").sort(
        "scorer", "fold", "day"
    )
    n_days = len(common)
    return Part(
        kept["day"][:n_days].cast(pl.Int64).to_numpy(),
        kept["fold"][:n_days].cast(pl.Int64).to_numpy(),
        kept["score"].to_numpy().reshape(n_scorers, n_days),
        kept["probability"].fill_null(np.nan).to_numpy().reshape(n_scorers, n_days),
        n_dropped,
    )
