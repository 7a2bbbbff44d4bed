"""Scorers that read volatility only: a logit of several estimators, and two GARCH models.

What belongs here: what a label's probability is when nothing but the size of movements is known;
every other scorer is compared with the first of them. What does not: the estimators (`features`).

GJR-GARCH: Glosten, Jagannathan and Runkle, Journal of Finance 48:5 (1993). EGARCH: Nelson,
Econometrica 59:2 (1991). Both with Student-t innovations, fitted by the package arch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from arch.univariate import EGARCH, GARCH, ConstantMean, StudentsT
from arch.univariate.volatility import VolatilityProcess

from tsfm_pipeline.studies.direction.bars import Floats
from tsfm_pipeline.studies.direction.features import VOLATILITIES, log_volatility
from tsfm_pipeline.studies.direction.problem import Problem
from tsfm_pipeline.studies.direction.scorers.logistic import FittedScorer

NAME = "volatility_logit"
PERCENT = 100.0
"""arch's optimiser is made for returns in percent."""
WIDE_BOUNDS = (1e-10, 1e10)
"""Of the variance in percent squared while filtering: so wide that they never bind. arch computes
bounds from all observations, which would look ahead."""


@dataclass(frozen=True)
class _Model:
    """A volatility process of arch, and the variance it expects a day later on average.

    next_variance: from parameters and variances [T] of a day to those of the day after it.
    """

    name: str
    process: Callable[[], VolatilityProcess]
    next_variance: Callable[[Floats, Floats], Floats]


def _gjr_next(parameters: Floats, variance: Floats) -> Floats:
    """A negative innovation has probability 1/2, so half of gamma is expected."""
    omega, alpha, gamma, beta = parameters
    return omega + (alpha + gamma / 2 + beta) * variance


def _egarch_next(parameters: Floats, variance: Floats) -> Floats:
    """The expected logarithm: the innovations' terms have mean (nearly) zero."""
    omega, _, _, beta = parameters
    return np.exp(omega + beta * np.log(variance))


MODELS = (
    _Model("garch", lambda: GARCH(p=1, o=1, q=1), _gjr_next),
    _Model("egarch", lambda: EGARCH(p=1, o=1, q=1), _egarch_next),
)


def volatility(problem: Problem) -> list[FittedScorer]:
    """Return `volatility_logit`, `garch` and `egarch`.

    The first is linear in the logarithms of the estimators in `VOLATILITIES`. The other two are
    linear in the logarithm of a model's volatility of the next `horizon` days.
    """
    return [
        FittedScorer(NAME, log_volatilities(problem)),
        *(FittedScorer(model.name, _forecasts(problem, model)) for model in MODELS),
    ]


def log_volatilities(problem: Problem) -> Floats:
    """Return the logarithms of the market's volatility features, float64 [T, len(VOLATILITIES)];
    NaN where there is not enough history.
    """
    columns = np.stack([problem.feature(name) for name in VOLATILITIES], axis=1)
    return log_volatility(columns)


def _forecasts(problem: Problem, model: _Model) -> dict[tuple[int, int], Floats]:
    """Return the log volatilities [T, 1] of each horizon and test year.

    One fit serves the folds of all horizons that test a year: it ends with the earliest of their
    last training days.
    """
    last: dict[int, int] = {}
    for folds in problem.folds.values():
        for fold in folds:
            day = int(fold.train[-1])
            last[fold.year] = min(day, last.get(fold.year, day))
    made: dict[tuple[int, int], Floats] = {}
    start: Floats | None = None
    for year in sorted(last):
        parameters, variance = filtered_variance(
            problem.bars.returns, last[year], model.process(), start
        )
        start = parameters
        for horizon, folds in problem.folds.items():
            if any(fold.year == year for fold in folds):
                total = total_variance(parameters[1:5], variance, horizon, model)
                made[horizon, year] = 0.5 * np.log(total)[:, None]
    return made


def filtered_variance(
    returns: Floats, last: int, process: VolatilityProcess, start: Floats | None = None
) -> tuple[Floats, Floats]:
    """Fit a process and filter its variance forward with the fitted parameters.

    returns: log returns [T]; the first one is not known. last: the last day of the fit. start:
    parameters to start from, or those that arch proposes.

    Return the parameters (mean, those of the process, degrees of freedom) and the variance of the
    next day's return in percent squared as known at the close of each day [T]. Days after `last`
    do not change what is returned for earlier days.
    """
    percent = PERCENT * returns[1:]
    model = ConstantMean(percent[:last], volatility=process, distribution=StudentsT())
    fit = model.fit(disp="off", show_warning=False, starting_values=start)
    parameters = np.asarray(fit.params, dtype=np.float64)
    residuals = percent - parameters[0]
    # The recursion gives day t's variance from the days before it; one more day, whose own
    # residual is never read, gives the variance of the day after the last one.
    extended = np.append(residuals, 0.0)
    bounds = np.tile(np.array(WIDE_BOUNDS), (len(extended), 1))
    variance = process.compute_variance(
        parameters[1:-1],
        extended,
        np.empty_like(extended),
        process.backcast(residuals[:last]),
        bounds,
    )
    return parameters, np.asarray(variance, dtype=np.float64)


def total_variance(parameters: Floats, variance: Floats, horizon: int, model: _Model) -> Floats:
    """Return the expected variance [T] of the next `horizon` days' return, in percent squared.

    variance: that of the next day [T]. Returns of different days are taken as uncorrelated.
    """
    total = variance.copy()
    for _ in range(horizon - 1):
        variance = model.next_variance(parameters, variance)
        total += variance
    return total
