"""Calibration of the level: it moves a decision up or down after the configurations are weighed.

What belongs here: the correction of the decision quantile, and the choice of its constants on
tuning requests. What does not: the weights of the configurations (`rules`, `tuning`).
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
from tsfm_pipeline.evaluation.limits import UNLIMITED, Limits
from tsfm_pipeline.evaluation.losses import mean_pinball
from tsfm_pipeline.settings import SearchSettings

Floats = NDArray[np.floating]


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
        """Return how far to move the decision quantile, in units of q.9 - q.5: base_shift + gain *
        (posterior violation rate - (1 - alpha)).

        violations [..., K, J] are shares of steps above each configuration's decision quantile,
        prior [..., K] the same shares of other tenants, weight [..., K] the configurations' weights
        in the decision -> [...]. A positive shift raises the reservation. Like the pinball loss,
        the correction is one-sided: it depends only on how often the decision was exceeded.
        Source: the proportional
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
    """Return how much more often than 1 - alpha the weighed configurations were exceeded: posterior
    rate - (1 - alpha), [...].

    For each configuration, the series' own validation rates [..., K, J] under the origins' weights
    [J] are shrunken toward the prior rate [..., K] with weight kappa. An unknown prior rate counts
    as 1 - alpha. The configurations count by their weight in the decision.
    """
    return weighed_excess(*own_rates(violations, weights), prior, weight, alpha, kappa)


def own_rates(violations: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return the series' own violation rate of each configuration and the effective number of
    validation origins behind it: violations [..., K, J], weights [J] -> two arrays [..., K].
    """
    seen = np.isfinite(violations)
    counted = seen * weights.astype(violations.dtype)
    total, squares = counted.sum(axis=-1), (counted**2).sum(axis=-1)  # [..., K]
    known = total > 0
    own = np.where(seen, violations, 0.0)
    rate = (own * counted).sum(axis=-1) / np.where(known, total, 1.0)
    return rate, np.where(known, total**2 / np.where(known, squares, 1.0), 0.0)


def weighed_excess(
    rate: Floats, n: Floats, prior: Floats, weight: Floats, alpha: float, kappa: float
) -> Floats:
    """Return `excess_violations` [...] from the own rates and their numbers [..., K]."""
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
    """The outcomes of M rows, prepared for repeated scoring: actual [M, H] (NaN = not observed),
    scale [M], tenants [M].
    """

    actual: Floats
    scale: Floats
    tenants: NDArray[np.integer]

    @cached_property
    def tenant(self) -> NDArray[np.int64]:
        """The tenant of each row [M], numbered from 0 in ascending order."""
        return np.asarray(np.unique(self.tenants, return_inverse=True)[1], dtype=np.int64)

    @cached_property
    def n_rows(self) -> NDArray[np.int64]:
        """The rows of each tenant [N]."""
        return np.bincount(self.tenant)

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
        """Return the outcomes of the selected rows, bool [M]."""
        return Outcomes(self.actual[rows], self.scale[rows], self.tenants[rows])

    def mean_loss(self, decision: Floats, alpha: float) -> float:
        """Return the mean scaled pinball loss over rows: decision [M, H].

        Uses alpha max(d, 0) + (1 - alpha) max(-d, 0) = (alpha - 1/2) d + |d| / 2.
        """
        shortfall = self._known - decision
        linear = float(np.vdot(self._weight, shortfall))
        absolute = float(np.vdot(self._weight, np.abs(shortfall, out=shortfall)))
        return ((alpha - 0.5) * linear + 0.5 * absolute) / len(self.actual)

    def loss_and_slope(self, decision: Floats, alpha: float) -> tuple[float, Floats]:
        """Return `mean_loss` of decision [M, H] and its derivative by the decision [M, H]; both are
        the same to the last digit for any number of threads.
        """
        shortfall = self._known - decision
        slope = np.where(shortfall > 0, np.float32(-alpha), np.float32(1 - alpha)) * self._weight
        return -float((slope * shortfall).sum(dtype=np.float64)) / len(
            self.actual
        ), slope / np.float32(len(self.actual))

    def losses(self, decision: Floats, alpha: float) -> NDArray[np.float64]:
        """Return the scaled pinball loss [M] of decision [M, H] over each row's observed steps."""
        return mean_pinball(self.actual, decision, alpha) / self.scale

    def tenant_sums(self, decision: Floats, alpha: float) -> NDArray[np.float64]:
        """Return the sum of each tenant's row losses [N], by ascending tenant: decision [M, H]."""
        shortfall = self._known - decision
        linear = np.einsum("mh,mh->m", self._weight, shortfall)
        absolute = np.einsum("mh,mh->m", self._weight, np.abs(shortfall, out=shortfall))
        losses = (alpha - 0.5) * linear + 0.5 * absolute
        return np.asarray(np.bincount(self.tenant, weights=losses), dtype=np.float64)

    def paired(self, losses: Floats, reference: Floats) -> tuple[float, float]:
        """Return the mean of losses - reference [M] and its standard error, clustered by tenant;
        the error is inf for a single tenant.
        """
        sums = np.bincount(self.tenant, weights=losses - reference)
        return clustered(np.asarray(sums, dtype=np.float64), self.n_rows)

    def violation_rate(self, decision: Floats) -> float:
        """Return the mean over rows of the share of observed steps above the decision [M, H]."""
        return float(violation_rate(self.actual, decision).mean())


def clustered(sums: Floats, n_rows: NDArray[np.integer]) -> tuple[float, float]:
    """Return the mean over rows and its standard error, clustered by tenant: sums of the rows [N]
    of each tenant, and their numbers n_rows [N]. The error is inf for a single tenant.
    """
    mean, n = float(sums.sum() / n_rows.sum()), len(sums)
    around = sums - mean * n_rows
    error = np.sqrt((around**2).sum() * n / (n - 1)) / n_rows.sum() if n > 1 else np.inf
    return mean, float(error)


def fit_correction(
    settings: SearchSettings,
    outcomes: Outcomes,
    decision: Floats,
    unit: Floats,
    excess: Callable[[float, float, float], Floats],
    half_lives: Sequence[float],
    alpha: float,
    limits: Limits = UNLIMITED,
) -> LevelCorrection:
    """Return the constants with the lowest mean scaled loss on tuning rows: decision and unit
    (q.9 - q.5) [M, H], limits of the rows [M]. A shifted decision is scored as it is emitted,
    within the limits.

    `excess(kappa, half_life, same_hour)` must return `excess_violations` [M]. The gain and the
    arguments of `excess` are chosen first, then the base shift together with a new gain. The base
    shift is a property of the whole tuning period, which another period need not share. It is
    therefore kept only if it saves more than `base_shift_errors` standard errors over tenants.
    """

    def decided(shift: Floats) -> Floats:
        return limits.clip(decision + shift[:, None].astype(unit.dtype) * unit)

    def loss(shift: Floats) -> float:
        return outcomes.mean_loss(decided(shift), alpha)

    options = product(settings.correction_shrinkages, half_lives, settings.same_hours)
    signals = {constants: excess(*constants) for constants in options}
    (signal_constants, gain) = min(
        product(signals, settings.correction_gains),
        key=lambda pair: loss(pair[1] * signals[pair[0]]),
    )
    signal = signals[signal_constants]
    shifted_gain, base_shift = min(
        product(settings.correction_gains, settings.base_shifts),
        key=lambda pair: loss(pair[0] * signal + pair[1]),
    )
    plain, shifted = (
        outcomes.losses(decided(g * signal + s), alpha)
        for g, s in ((gain, 0.0), (shifted_gain, base_shift))
    )
    saved, error = outcomes.paired(plain, shifted)
    if not saved > settings.base_shift_errors * error:
        shifted_gain, base_shift = gain, 0.0
    kappa, half_life, same_hour = signal_constants
    return LevelCorrection(
        base_shift=base_shift,
        gain=shifted_gain,
        kappa=kappa,
        half_life=half_life,
        same_hour=same_hour,
    )
