"""The base scores of a market: every scorer that is neither a network nor a foundation model.

What belongs here: running all of them at every target. What does not: the scorers.
"""

from itertools import product

import polars as pl
from threadpoolctl import threadpool_limits

from tsfm_pipeline.studies.direction.problem import Problem, Scorer, targets, together
from tsfm_pipeline.studies.direction.scorers.indicators import indicators
from tsfm_pipeline.studies.direction.scorers.untrained import untrained
from tsfm_pipeline.studies.direction.scorers.volatility import volatility
from tsfm_pipeline.studies.direction.threads import side_by_side


def base_scores(problem: Problem) -> pl.DataFrame:
    """Return rows of `SCORE_SCHEMA` of all untrained, volatility and indicator scorers at every
    target of the study, in a fixed order of scorers, targets, folds, parts and days.
    """
    with threadpool_limits(limits=1):  # of the fits of volatility models
        scorers: list[Scorer] = [*untrained(problem), *volatility(problem), *indicators(problem)]
    asked = list(product(scorers, targets(problem.options)))
    return together(side_by_side(lambda each: each[0].score(problem, each[1]), asked))
