"""The base scores of a market: every scorer that is neither a network nor a foundation model.

What belongs here: running them on one thread, so that two machines give the same bytes. What does
not: the scorers.
"""

import polars as pl
from threadpoolctl import threadpool_limits

from tsfm_pipeline.studies.direction.problem import Problem, Scorer, targets, together
from tsfm_pipeline.studies.direction.scorers.indicators import indicators
from tsfm_pipeline.studies.direction.scorers.untrained import untrained
from tsfm_pipeline.studies.direction.scorers.volatility import volatility


def base_scores(problem: Problem) -> pl.DataFrame:
    """Return rows of `SCORE_SCHEMA` of all untrained, volatility and indicator scorers at every
    target of the study, in a fixed order of scorers, targets, folds, parts and days.
    """
    # Sums over days that several threads share depend on how they are divided.
    with threadpool_limits(limits=1):
        scorers: list[Scorer] = [*untrained(problem), *volatility(problem), *indicators(problem)]
        return together(
            [
                scorer.score(problem, target)
                for scorer in scorers
                for target in targets(problem.options)
            ]
        )
