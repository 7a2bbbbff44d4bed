"""Making the problem of a market from its bars.

What belongs here: which days can be used, and bringing labels, features and folds together. What
does not: the shape of a problem (`problem`), and each of its parts.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.studies.direction.bars import Bars, Floats
from tsfm_pipeline.studies.direction.features import features, sigma
from tsfm_pipeline.studies.direction.labels import labels
from tsfm_pipeline.studies.direction.options import LABELS, StudyOptions
from tsfm_pipeline.studies.direction.problem import Problem, Target
from tsfm_pipeline.studies.direction.splits import folds


def build_problem(bars: Bars, options: StudyOptions) -> Problem:
    """Return what every scorer of a market is given.

    The days of a horizon's folds are those whose features are all finite and whose labels at that
    horizon are all known, so that every label and scorer has the same days.
    Raises ValueError as `features` and `splits.folds` do, and if a feature is never known.
    """
    named = features(bars)
    known = labels(bars, options.labels)
    finite = _days_with_all(named)
    return Problem(
        bars=bars,
        options=options,
        labels=known,
        feature_names=tuple(named),
        features=np.stack(list(named.values()), axis=1),
        sigma=sigma(bars),
        folds={
            horizon: folds(bars, finite & _labelled(known, horizon), horizon, options.splits)
            for horizon in options.labels.horizons
        },
    )


def _days_with_all(named: Mapping[str, Floats]) -> NDArray[np.bool_]:
    """Whether all features of a day are finite [T]."""
    finite = {name: np.isfinite(values) for name, values in named.items()}
    never = [name for name, days in finite.items() if not days.any()]
    if never:
        raise ValueError(
            f"no day has a value of {', '.join(never)}: a feature needs up to 252 trading days of "
            f"history, a covariate or given column at least one value; the market has "
            f"{len(next(iter(named.values())))} days"
        )
    return np.all(list(finite.values()), axis=0)


def _labelled(known: Mapping[Target, Floats], horizon: int) -> NDArray[np.bool_]:
    """Whether all labels of a day at a horizon are known [T]."""
    return np.all([np.isfinite(known[Target(label, horizon)]) for label in LABELS], axis=0)
