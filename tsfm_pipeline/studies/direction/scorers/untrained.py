"""Scorers without training: one number that is known at the close, turned into a score.

What belongs here: which feature, and which way round it was fixed before any result. What does not:
anything that is fitted, and computing features (`features`).
"""

from dataclasses import dataclass

import polars as pl

from tsfm_pipeline.studies.direction.problem import Problem, Target, score_rows, together

RISING: dict[str, str] = {
    "drawdown": "drawdown",
    "ewma": "ewma",
    "atr": "atr_14",
    "volume": "volume_ratio",
}
"""Scorers that rise with their feature: scorer, feature."""
FALLING: dict[str, str] = {"rsi": "rsi_daily", "last_return": "last_return"}
"""Scorers that fall with their feature: after losses, more movement and a reversal are expected."""


@dataclass(frozen=True)
class UntrainedScorer:
    """A feature as it is (sign 1) or its negative (sign -1), the same for every target."""

    name: str
    feature: str
    sign: int = 1

    def score(self, problem: Problem, target: Target) -> pl.DataFrame:
        """Return rows of `SCORE_SCHEMA`, without probabilities; see `problem.Scorer`."""
        values = self.sign * problem.feature(self.feature)
        return together(
            [score_rows(self.name, target, fold, values) for fold in problem.folds[target.horizon]]
        )


def untrained(problem: Problem) -> list[UntrainedScorer]:
    """Return a scorer for each of `FALLING` and `RISING` that the market has a feature for (a
    market with given indicators may have no RSI), and one for each covariate.
    """
    scorers = [
        *(UntrainedScorer(f"untrained_{name}", of, -1) for name, of in FALLING.items()),
        *(UntrainedScorer(f"untrained_{name}", of) for name, of in RISING.items()),
    ]
    names = {scorer.name for scorer in scorers}
    scorers = [scorer for scorer in scorers if scorer.feature in problem.feature_names]
    for covariate in problem.bars.covariates:
        name = f"untrained_{covariate}"
        if name in names:
            raise ValueError(
                f"covariate {covariate!r}: its scorer would be called {name}, as another one is; "
                f"rename the column; taken are {', '.join(sorted(names))}"
            )
        scorers.append(UntrainedScorer(name, covariate))
    return scorers
