"""A yardstick for releases of a checkpoint: what its spread knows of a market's volatility.

What belongs here: the measure that `pretraining.yardsticks` finds through its entry point. What
does not: the study's own scores and their uncertainty. The import of `arch`, whose prices it needs,
makes the plugin be left out, with a word about the extra to install, where that package is absent.
"""

import arch as arch
import numpy as np

from tsfm_pipeline.forecaster.engine import FrozenForecaster
from tsfm_pipeline.pretraining.sources import Sources
from tsfm_pipeline.studies.direction.auc import auc
from tsfm_pipeline.studies.direction.options import LabelOptions, StudyOptions
from tsfm_pipeline.studies.direction.problem import Target, test_days
from tsfm_pipeline.studies.direction.problems import build_problem
from tsfm_pipeline.studies.direction.readings import spread
from tsfm_pipeline.studies.direction.scorers.zero_shot import market_paths
from tsfm_pipeline.studies.direction.sources import read_bars
from tsfm_pipeline.studies.direction.spec import ArchMarket

CONTEXTS = (80, 512)
"""Trading days: the context of the earlier work, and a long one."""
TOUCH = Target("touch_up", 1)


def volatility_skill(forecaster: FrozenForecaster, sources: Sources) -> dict[str, float]:
    """Return the AUC of the distance between the deciles .1 and .9 of the next day's return on the
    S&P 500, for the label that the next high reaches 1 % above the close.

    The checkpoint is given returns. The label is decided by volatility, so .5 means that the spread
    knows nothing of it. All test days of 2005 to 2018 are compared with each other, because nothing
    is fitted; within years the AUC is lower (for the checkpoint of 2026-11: .66 and .69 instead of
    .75 and .76), because volatility differs most between years. sources: not read.
    """
    market = ArchMarket(name="sp500", title="S&P 500", kind="arch", dataset="sp500")
    problem = build_problem(read_bars(market), StudyOptions(labels=LabelOptions(horizons=(1,))))
    days = test_days(problem.folds[1])
    together = np.zeros_like(days)
    reached = problem.labels[TOUCH][days]
    every_context = market_paths(problem.bars, forecaster, "returns", CONTEXTS, 1)
    return {
        f"touch_up_auc_context_{context}": auc(
            spread(paths, problem, TOUCH)[days], reached, together
        )
        for context, paths in zip(CONTEXTS, every_context, strict=True)
    }
