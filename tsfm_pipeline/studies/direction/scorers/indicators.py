"""Scorers that are trained on indicators: two logits and boosted trees.

What belongs here: which columns they read, and the settings of the trees. What does not: the
formulas of the indicators, and scorers that read volatility only (`volatility`).
"""

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from tsfm_pipeline.studies.direction.bars import Floats
from tsfm_pipeline.studies.direction.features import indicator_names
from tsfm_pipeline.studies.direction.problem import Problem, Scorer
from tsfm_pipeline.studies.direction.scorers.logistic import FittedScorer, fitted_logits
from tsfm_pipeline.studies.direction.scorers.volatility import log_volatilities

LEARNING_RATE = 0.1
TREES = 30
LEAVES = 4
LEAST_DAYS_OF_A_LEAF = 40
"""Of the trees. Of six settings on the S&P 500 these had the lowest validation loss for the time,
over touches and signs at both horizons; more trees fit the noise of the signs."""


def indicators(problem: Problem) -> list[Scorer]:
    """Return `indicator_logit`, `all_logit` and `boosted`.

    The first reads the market's indicators (the twenty, or those that were given), the other two
    also the logarithms of the volatilities, the drawdown and the covariates.
    """
    own = np.stack([problem.feature(name) for name in indicator_names(problem.bars)], axis=1)
    others = [problem.feature(name) for name in ("drawdown", *problem.bars.covariates)]
    every = np.column_stack([own, log_volatilities(problem), *others])
    return [
        FittedScorer("indicator_logit", own),
        FittedScorer("all_logit", every),
        FittedScorer("boosted", every, _boosted_logits),
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
