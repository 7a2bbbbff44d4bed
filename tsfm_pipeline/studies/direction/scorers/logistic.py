"""Scorers that are fitted anew for every fold, and the logistic regression that most of them are.

What belongs here: the fit on a fold's training days and its rows. What does not: which columns a
scorer reads (`volatility`, `indicators`), and boosted trees (`indicators`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tsfm_pipeline.studies.direction.bars import Floats
from tsfm_pipeline.studies.direction.problem import Problem, Target, score_rows, together

INVERSE_RIDGE = 0.03
"""scikit-learn's C: a ridge of 17 times the squares of the standardised coefficients, against the
sum of a thousand or more days' losses. Between .001 and 1 it had the lowest validation losses on
the S&P 500, where many columns are nearly collinear."""
HIGHEST_LOGIT = 20.0
"""Probabilities are kept within what this logit gives, so that a logarithmic loss stays finite."""


Fit = Callable[[Floats, Floats, Floats], Floats]
"""(training days [M, F], labels [M], asked days [N, F]) -> logits [N]."""


def fitted_logits(train: Floats, labels: Floats, asked: Floats) -> Floats:
    """Return logits [N] of `asked` [N, F] after a fit on `train` [M, F] and `labels` [M].

    If the training days have one class only, there is nothing to fit, and all logits are those of
    the rule of succession, (events + 1) / (days + 2).
    """
    if labels.min() == labels.max():
        events = float(labels.sum())
        return np.full(len(asked), np.log((events + 1) / (len(labels) - events + 1)))
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=INVERSE_RIDGE, solver="newton-cholesky")
    )
    return np.asarray(model.fit(train, labels).decision_function(asked), dtype=np.float64)


@dataclass(frozen=True)
class FittedScorer:
    """The logit of a label's probability, by a fit on the training days of every fold.

    columns: float64 [T, F], or one per fold of a target's horizon if their values depend on what
    was fitted on the fold's training days: horizon and test year -> [T, F]. fit: by default linear
    in the standardised columns.
    """

    name: str
    columns: Floats | dict[tuple[int, int], Floats]
    fit: Fit = fitted_logits

    def score(self, problem: Problem, target: Target) -> pl.DataFrame:
        """Return rows of `SCORE_SCHEMA`; see `problem.Scorer`."""
        rows = []
        for fold in problem.folds[target.horizon]:
            columns = (
                self.columns[target.horizon, fold.year]
                if isinstance(self.columns, dict)
                else self.columns
            )
            labels = problem.labels[target][fold.train]
            logits = self.fit(columns[fold.train], labels, columns[fold.scored])
            chances = probabilities_of(logits)
            rows.append(score_rows(self.name, target, fold, logits, chances, fold.scored))
        return together(rows)


def probabilities_of(logits: Floats) -> Floats:
    """Return the probabilities of logits."""
    return 1.0 / (1.0 + np.exp(-np.clip(logits, -HIGHEST_LOGIT, HIGHEST_LOGIT)))
