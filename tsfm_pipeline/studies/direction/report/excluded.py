"""What takes no part in the comparison, and why.

What belongs here: counting days, years and scorers that are left out. What does not: leaving them
out (`problems`, `splits`, `evaluation`).
"""

import numpy as np
import polars as pl

from tsfm_pipeline.studies.direction.options import GROUPS
from tsfm_pipeline.studies.direction.problem import Problem, Target
from tsfm_pipeline.studies.direction.report.model import ExcludedRow


def excluded(problem: Problem, evaluated: pl.DataFrame) -> tuple[ExcludedRow, ...]:
    """Return everything that is left out, of days at the shortest horizon; counts of 0 too."""
    bars, options = problem.bars, problem.options
    horizon = min(options.labels.horizons)
    folds = problem.folds[horizon]
    known = np.isfinite(problem.features).all(axis=1)
    labelled = np.isfinite(problem.labels[Target("sign", horizon)])
    usable = known & labelled
    first = folds[0].test[0]
    gaps = sum(
        int(usable[: fold.test[0]].sum()) - len(fold.train) - len(fold.validation) for fold in folds
    )
    tested = {fold.year for fold in folds}
    later = usable & (bars.years > folds[0].year) & ~np.isin(bars.years, sorted(tested))
    short = sorted(set(bars.years[later].tolist()))
    dropped = evaluated.filter(pl.col("horizon") == horizon)["n_dropped"].max()
    off = [group for group in GROUPS if group not in options.scorers]
    return (
        ExcludedRow(
            what="first days",
            n=int((~known).sum()),
            why="too little history for a feature (the longest needs 252 trading days)",
        ),
        ExcludedRow(
            what="last days", n=int((known & ~labelled).sum()), why="what follows is not known yet"
        ),
        ExcludedRow(
            what="days before the first test year",
            n=int(usable[:first].sum()),
            why="for training and validation only",
        ),
        ExcludedRow(
            what="days between the parts, over all folds",
            n=gaps,
            why="their label looks into the next part, or the embargo of "
            f"{options.splits.embargo} days",
        ),
        ExcludedRow(
            what="days of years that are not tested",
            n=int(later.sum()),
            why=f"a part of the fold has fewer than {options.splits.least_days} days"
            + (f": {', '.join(map(str, short))}" if short else ""),
        ),
        ExcludedRow(
            what="test days",
            n=dropped if isinstance(dropped, int) else 0,
            why="at least one scorer has no score there; all are compared on the same days",
        ),
        ExcludedRow(
            what="groups of scorers",
            n=len(off),
            why=f"switched off in the market's file: {', '.join(off)}" if off else "all take part",
        ),
    )
