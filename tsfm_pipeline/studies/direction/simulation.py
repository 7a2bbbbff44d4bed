"""Simulated markets, whose volatility and direction are known: what a method must find, or not.

What belongs here: prices by a GARCH or GJR-GARCH model, a planted signal, and the truth behind
them. What does not: the fields of a market file (`spec`), scoring.

The variance of a day's log return r = sigma z follows Glosten, Jagannathan and Runkle (1993):
sigma^2 of the next day = omega + (alpha + gamma [r < 0]) r^2 + beta sigma^2; gamma = 0 is GARCH
(Bollerslev, 1986). z has Student's t distribution with 6 degrees of freedom, scaled to variance 1.
A day is a walk of equal normal steps, whose common variance is drawn so that their sum has that
distribution; the first step leads from the last close to the open. The planted signal s is standard
normal, known at the close, and independent from day to day: the next day's z is rho s +
sqrt(1 - rho^2) times such a t variable, so that its correlation with s is rho.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.studies.direction.bars import Bars, Floats
from tsfm_pipeline.studies.direction.spec import SIGNAL, SyntheticMarket

DEGREES_OF_FREEDOM = 6
FIRST_DAY = np.datetime64("2000-01-03")
FIRST_CLOSE = 100.0
DAILY_VOLATILITY = 0.0125
"""Standard deviation of a day's log return in the long run, about that of a share index."""
BURN_IN = 500
"""Days before the first, by which the volatility has forgotten where it began."""


class Dynamics(NamedTuple):
    """Coefficients of the variance: of the last squared return (alpha; gamma more after a loss),
    and of the last variance (beta).
    """

    alpha: float
    gamma: float
    beta: float

    @property
    def omega(self) -> float:
        """The constant for which the long-run variance is that of `DAILY_VOLATILITY`."""
        return float(DAILY_VOLATILITY**2 * (1 - self.alpha - self.gamma / 2 - self.beta))


DYNAMICS = {"garch": Dynamics(0.07, 0.0, 0.915), "gjr": Dynamics(0.0, 0.175, 0.9)}
"""gjr: about what `arch` 8 estimates from the S&P 500 of 1999 to 2018 with t innovations (alpha
0.00, gamma 0.18, beta 0.90). garch: calmer than its estimate there (0.10 and 0.90).
"""


@dataclass(frozen=True)
class Oracle:
    """The truth about the next day, as of the close of each day; no scorer may read it.

    sigma: the standard deviation of the next day's log return, float64 [T]. mean: its expected
    value given the signal, float64 [T]; 0 where the direction cannot be known.
    """

    sigma: Floats
    mean: Floats


def simulate(spec: SyntheticMarket) -> Bars:
    """Return the prices of a simulated market, with the covariate `signal`. Equal fields give equal
    bytes.
    """
    return _simulated(spec)[0]


def oracle(spec: SyntheticMarket) -> Oracle:
    """Return the truth behind the prices that `simulate` gives for the same fields."""
    return _simulated(spec)[1]


def _simulated(spec: SyntheticMarket) -> tuple[Bars, Oracle]:
    n_days, m = BURN_IN + spec.days, spec.intraday_steps
    shocks, signals, volumes = np.random.default_rng(spec.seed).spawn(3)
    signal = signals.standard_normal(n_days + 1)  # signal[t] is known before day t begins
    steps = _day_steps(shocks, n_days, m) * np.sqrt(1 - spec.correlation**2)
    steps += spec.correlation * signal[:n_days, None] / m
    sigma = _volatility(steps.sum(axis=1), DYNAMICS[spec.model])  # [n_days + 1]
    logs = np.cumsum((sigma[:n_days, None] * steps).ravel()).reshape(n_days, m)
    logs = logs[BURN_IN:] - logs[BURN_IN - 1, -1] + np.log(FIRST_CLOSE)
    prices = np.exp(logs)
    days = slice(BURN_IN, n_days)
    bars = Bars(
        dates=np.busday_offset(FIRST_DAY, np.arange(spec.days)).astype("datetime64[D]"),
        open=prices[:, 0],
        high=prices.max(axis=1),
        low=prices.min(axis=1),
        close=prices[:, -1],
        volume=_volume(volumes, sigma[days], steps[days]),
        covariates={SIGNAL: signal[BURN_IN + 1 :]},
    )
    following = sigma[BURN_IN + 1 :]
    return bars, Oracle(following, spec.correlation * bars.covariates[SIGNAL] * following)


def _day_steps(generator: np.random.Generator, n_days: int, m: int) -> NDArray[np.float64]:
    """Return the steps of each day [n_days, m], whose sum has variance 1 and is Student's t."""
    spread = (DEGREES_OF_FREEDOM - 2) / generator.chisquare(DEGREES_OF_FREEDOM, n_days)
    return np.sqrt(spread / m)[:, None] * generator.standard_normal((n_days, m))


def _volatility(z: Floats, dynamics: Dynamics) -> Floats:
    """Return sigma of each day and of the one after the last [len(z) + 1]."""
    alpha, gamma, beta = dynamics
    omega, variance = dynamics.omega, DAILY_VOLATILITY**2
    variances = [variance]
    for shock in z.tolist():
        weight = alpha + (gamma if shock < 0 else 0.0)
        variance = omega + (weight * shock * shock + beta) * variance
        variances.append(variance)
    return np.sqrt(np.array(variances))


def _volume(generator: np.random.Generator, sigma: Floats, steps: NDArray[np.float64]) -> Floats:
    """Return shares traded per day [T], more on days on which prices move more."""
    moved = sigma * np.abs(steps).sum(axis=1)
    noise = 0.25 * generator.standard_normal(len(sigma))
    return np.round(1e9 * np.sqrt(moved / moved.mean()) * np.exp(noise))
