"""Scorers that are trained on indicators: two logits and boosted trees.

What belongs here: which columns they read, and the settings of the trees. What does not: the
formulas of the indicators, and scorers that read volatility only (`volatility`).
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from sklearn.ensemble import HistGradientBoostingClassifier

from tsfm_pipeline.studies.direction.bars import Floats
from tsfm_pipeline.studies.direction.features import indicator_names
from tsfm_pipeline.studies.direction.problem import Problem, Scorer, Target, score_rows, together
from tsfm_pipeline.studies.direction.scorers.logistic import (
    LogitScorer,
    fitted_logits,
    probabilities_of,
)
from tsfm_pipeline.studies.direction.scorers.volatility import log_volatilities

LEARNING_RATE = 0.1
TREES = 30
LEAVES = 4
LEAST_DAYS_OF_A_LEAF = 40
"""Of the trees. Of six settings on the S&P 500 these had the lowest validation loss for the time,
over touches and signs at both horizons; more trees fit the noise of the signs."""


@dataclass(frozen=True)
class BoostedScorer:
    """The logit of a label's probability by boosted trees of a fixed, small size.

    columns: float64 [T, F].
    """

    name: str
    columns: Floats

    def score(self, problem: Problem, target: Target) -> pl.DataFrame:
        """Return rows of `SCORE_SCHEMA`; see `problem.Scorer`."""
        rows = []
        for fold in problem.folds[target.horizon]:
            days = np.concatenate([fold.validation, fold.test])
            logits = _boosted_logits(
                self.columns[fold.train], problem.labels[target][fold.train], self.columns[days]
            )
            rows.append(score_rows(self.name, target, fold, logits, probabilities_of(logits), days))
        return together(rows)


def indicators(problem: Problem) -> list[Scorer]:
    """Return `indicator_logit`, `all_logit` and `boosted`.

    The first reads the market's indicators (the twenty, or those that were given), the other two
    also the logarithms of the volatilities, the drawdown and the covariates.
    """
    own = np.stack([problem.feature(name) for name in indicator_names(problem.bars)], axis=1)
    others = [problem.feature(name) for name in ("drawdown", *problem.bars.covariates)]
    every = np.column_stack([own, log_volatilities(problem), *others])
    return [
        LogitScorer("indicator_logit", own),
        LogitScorer("all_logit", every),
        BoostedScorer("boosted", every),
    ]


def _boosted_logits(train: Floats, labels: Floats, asked: Floats) -> Floats:
    if labels.min() == labels.max():
        return fitted_logits(train, labels, asked)
    model = HistGradientBoostingClassifier(
        learning_rate=LEARNING_RATE,
        max_iter=TREES,
        max_leaf_nodes=LEAVES,
        min_samples_leaf=LEAST_DAYS_OF_A_LEAF,
        early_stopping=False,
        random_state=0,
    )
    model.fit(train, labels)
    return np.asarray(model.decision_function(asked), dtype=np.float64)
