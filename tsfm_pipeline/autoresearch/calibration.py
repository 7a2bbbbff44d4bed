"""Calibration of the level: how far a decision moves up or down once the configurations are
weighed.

What belongs here: the correction of the decision quantile, and the choice of its constants on
tuning requests. What does not: which configurations a decision is made of (`rules`, `tuning`).
Axes: K configurations, J validation origins, H horizon; M rows, each one metric of one tuning
request; any leading axes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from tsfm_pipeline.autoresearch.rules import evidence_weights
from tsfm_pipeline.evaluation.arrays import violation_rate
from tsfm_pipeline.evaluation.losses import mean_pinball
from tsfm_pipeline.settings import SearchSettings

Floats = NDArray[np.floating]

BASE_SHIFT_ERRORS = 2.0
"""How many standard errors over tenants a fleet-wide shift has to save."""


class LevelCorrection(BaseModel):
    """The constants of one tier's correction; half_life in steps, kappa in validation origins, the
    rest in units of q.9 - q.5.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    base_shift: float
    gain: float = Field(ge=0)
    kappa: float = Field(ge=0)
    half_life: float = Field(gt=0)
    same_hour: float = Field(ge=0)

    def shift(
        self,
        violations: Floats,
        prior: Floats,
        weight: Floats,
        alpha: float,
        offsets: Sequence[int],
        season: int | None,
    ) -> NDArray[np.float64]:
        """How far the decision quantile moves, in units of q.9 - q.5: base_shift + gain *
        (posterior violation rate - (1 - alpha)).

        violations [..., K, J] shares of steps above each configuration's decision quantile, prior
        [..., K] the same of other tenants, weight [..., K] of the configurations in the decision ->
        [...]. Positive raises the reservation: the correction is one-sided as the pinball loss is,
        it follows how often the decision was exceeded and nothing else. Source: the proportional
        term of conformal PID control (Angelopoulos, Candes and Tibshirani, 2023) on the error rate
        that adaptive conformal inference tracks (Gibbs and Candes, 2021); the rate is shrunken as
        `rules.shrunken` shrinks losses.
        """
        weights = evidence_weights(offsets, season, self.half_life, self.same_hour)
        excess = excess_violations(violations, prior, weight, alpha, self.kappa, weights)
        return np.asarray(self.base_shift + self.gain * excess)


def excess_violations(
    violations: Floats, prior: Floats, weight: Floats, alpha: float, kappa: float, weights: Floats
) -> Floats:
    """How much more often than 1 - alpha the weighed configurations were exceeded: posterior rate -
    (1 - alpha), [...].

    Per configuration, own validation rates [..., K, J] under the origins' weights [J] are shrunken
    toward the prior rate [..., K] with weight kappa; a rate that nobody knows is taken to be right.
    The configurations count by their weight in the decision.
    """
    seen = np.isfinite(violations)
    counted = seen * weights.astype(violations.dtype)
    total, squares = counted.sum(axis=-1), (counted**2).sum(axis=-1)  # [..., K]
    known = total > 0
    own = np.where(seen, violations, 0.0)
    rate = (own * counted).sum(axis=-1) / np.where(known, total, 1.0)
    n = np.where(known, total**2 / np.where(known, squares, 1.0), 0.0)
    expected = np.where(np.isfinite(prior), prior, 1 - alpha)
    posterior = np.where(
        n + kappa > 0,
        (n * rate + kappa * expected) / np.where(n + kappa > 0, n + kappa, 1.0),
        expected,
    )
    share = np.where(np.isfinite(weight), weight, 0.0)
    return np.asarray((share * (posterior - (1 - alpha))).sum(axis=-1))


@dataclass(frozen=True)
class Outcomes:
    """What happened at M rows, ready to be scored many times: actual [M, H] (NaN = not observed),
    scale [M], tenants [M].
    """

    actual: Floats
    scale: Floats
    tenants: NDArray[np.integer]

    @cached_property
    def _known(self) -> Floats:
        return np.nan_to_num(self.actual)

    @cached_property
    def _weight(self) -> Floats:
        """1 / (scale x observed steps of the row) at every observed step, 0 elsewhere [M, H]."""
        observed = ~np.isnan(self.actual)
        return np.asarray(
            observed / (observed.sum(axis=-1, keepdims=True) * self.scale[:, None]),
            dtype=np.float32,
        )

    def of(self, rows: NDArray[np.bool_]) -> "Outcomes":
        """Those of some rows [M]."""
        return Outcomes(self.actual[rows], self.scale[rows], self.tenants[rows])

    def mean_loss(self, decision: Floats, alpha: float) -> float:
        """Mean scaled pinball loss over rows: decision [M, H]. As alpha max(d, 0) + (1 - alpha)
        max(-d, 0) = (alpha - 1/2) d + |d| / 2.
        """
        shortfall = self._known - decision
        linear = float(np.vdot(self._weight, shortfall))
        absolute = float(np.vdot(self._weight, np.abs(shortfall, out=shortfall)))
        return ((alpha - 0.5) * linear + 0.5 * absolute) / len(self.actual)

    def loss_and_slope(self, decision: Floats, alpha: float) -> tuple[float, Floats]:
        """`mean_loss` of decision [M, H] and its derivative by the decision [M, H]; the same to the
        last digit whatever the threads.
        """
        shortfall = self._known - decision
        slope = np.where(shortfall > 0, np.float32(-alpha), np.float32(1 - alpha)) * self._weight
        return -float((slope * shortfall).sum(dtype=np.float64)) / len(
            self.actual
        ), slope / np.float32(len(self.actual))

    def losses(self, decision: Floats, alpha: float) -> NDArray[np.float64]:
        """Scaled pinball loss of each row [M] over its observed steps: decision [M, H]."""
        return mean_pinball(self.actual, decision, alpha) / self.scale

    def paired(self, losses: Floats, reference: Floats) -> tuple[float, float]:
        """Mean of losses - reference [M] and its standard error, clustered by tenant; that of a
        single tenant is unknown, inf.
        """
        difference = losses - reference
        mean = float(difference.mean())
        _, tenant = np.unique(self.tenants, return_inverse=True)
        sums = np.bincount(tenant, weights=difference - mean)
        n = len(sums)
        return mean, float(
            np.sqrt((sums**2).sum() * n / (n - 1)) / len(difference)
        ) if n > 1 else np.inf

    def violation_rate(self, decision: Floats) -> float:
        """Mean over rows of the share of observed steps above the decision [M, H]."""
        return float(violation_rate(self.actual, decision).mean())


def fit_correction(
    settings: SearchSettings,
    outcomes: Outcomes,
    decision: Floats,
    unit: Floats,
    excess: Callable[[float, float, float], Floats],
    half_lives: Sequence[float],
    alpha: float,
) -> LevelCorrection:
    """The constants with the lowest mean scaled loss on tuning rows: decision and unit (q.9 - q.5)
    [M, H].

    `excess(kappa, half_life, same_hour)` returns `excess_violations` [M]. First the gain and what
    it listens to, then the base shift with the gain that suits it. The shift is what the whole
    tuning period had in common, which another period need not have: it stands where it saves more
    than `BASE_SHIFT_ERRORS` standard errors over tenants.
    """

    def decided(shift: Floats) -> Floats:
        return np.asarray(decision + shift[:, None].astype(unit.dtype) * unit)

    def loss(shift: Floats) -> float:
        return outcomes.mean_loss(decided(shift), alpha)

    listening = product(settings.correction_shrinkages, half_lives, settings.same_hours)
    signals = {constants: excess(*constants) for constants in listening}
    (heard, gain) = min(
        product(signals, settings.correction_gains),
        key=lambda pair: loss(pair[1] * signals[pair[0]]),
    )
    signal = signals[heard]
    shifted_gain, base_shift = min(
        product(settings.correction_gains, settings.base_shifts),
        key=lambda pair: loss(pair[0] * signal + pair[1]),
    )
    plain, shifted = (
        outcomes.losses(decided(g * signal + s), alpha)
        for g, s in ((gain, 0.0), (shifted_gain, base_shift))
    )
    saved, error = outcomes.paired(plain, shifted)
    if not saved > BASE_SHIFT_ERRORS * error:
        shifted_gain, base_shift = gain, 0.0
    kappa, half_life, same_hour = heard
    return LevelCorrection(
        base_shift=base_shift,
        gain=shifted_gain,
        kappa=kappa,
        half_life=half_life,
        same_hour=same_hour,
    )
