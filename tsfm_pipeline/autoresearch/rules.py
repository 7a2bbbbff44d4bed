"""The decision rules: they turn evidence and priors into weights over configurations.

What belongs here: pure functions of losses, and the decision rules as small interchangeable
objects. What does not: making the losses (`evidence`), choosing a rule's constants (`tuning`), the
level of the decision (`calibration`).
Axes: K configurations, J validation origins; any leading axes. NaN marks an unavailable
configuration.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from tsfm_pipeline.search_settings import RULES as RULES

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]
PriorKind = Literal["fleet", "retrieved"]
PRIOR_KINDS: tuple[PriorKind, ...] = ("fleet", "retrieved")

HOUR_CONCENTRATION = 8.0
"""Concentration of the von Mises bump that defines "the same hour": it falls to half at a distance
of 1.6 hours of a day, and to a tenth at 3 hours.
"""


def relative(losses: Floats) -> Floats:
    """Return losses [..., K] divided by their mean over the available configurations, so that
    evidence and prior share a unit.

    Where every available loss is 0 (a constant series), all of them are 1.
    """
    available = np.isfinite(losses)
    total = np.where(available, losses, 0.0).sum(axis=-1, keepdims=True)
    mean = total / np.maximum(available.sum(axis=-1, keepdims=True), 1)
    return np.where(
        mean > 0, losses / np.where(mean > 0, mean, 1.0), np.where(available, 1.0, np.nan)
    )


def evidence_weights(
    offsets: Sequence[int], season: int | None, half_life: float, same_hour: float
) -> Floats:
    """Return the weight of each validation origin [J]: by recency, and by its distance from the
    request's hour of the day.

    offsets [J] in steps before the request. The weight is 2^(-offset / half_life) + same_hour *
    s(offset), with s = exp(c (cos(2 pi offset / season) - 1)), which is 1 at whole seasons before
    the request. half_life in steps; inf gives all origins the same weight by recency. The two parts
    are added, so that a short half-life does not remove the same hour of earlier days. The largest
    weight is 1.
    """
    before = np.asarray(offsets, dtype=np.float64)
    weight = np.exp2(-(before - before.min()) / half_life)
    if season is not None:
        weight = weight + same_hour * np.exp(
            HOUR_CONCENTRATION * (np.cos(2 * np.pi * before / season) - 1.0)
        )
    return np.asarray(weight / weight.max())


def mean_on_shared_windows(losses: Floats, weights: Floats | None = None) -> tuple[Floats, Floats]:
    """Return the weighted mean loss of each configuration over the windows that all of them share,
    and the effective number of these windows.

    losses [..., K, J], weights [J] (None: all equal) -> two arrays [..., K]. A window is shared if
    every configuration that has any loss has a loss there. A mean over other windows would compare
    windows, not configurations. The effective number is (sum w)^2 / sum w^2 (Kish, 1965). A
    configuration without any loss has mean NaN and number 0.
    """
    seen = np.isfinite(losses)
    usable = seen.any(axis=-1, keepdims=True)  # [..., K, 1]
    shared = (seen | ~usable).all(axis=-2, keepdims=True) & usable  # [..., K, J]
    weight = (
        shared.astype(losses.dtype) if weights is None else shared * weights.astype(losses.dtype)
    )
    total, squares = weight.sum(axis=-1), (weight**2).sum(axis=-1)
    known = total > 0
    mean = (np.where(shared, losses, 0.0) * weight).sum(axis=-1) / np.where(known, total, 1.0)
    return np.where(known, mean, np.nan), np.where(
        known, total**2 / np.where(known, squares, 1.0), 0.0
    )


def shrunken(mean: Floats, n: Floats, prior: Floats, kappa: float) -> Floats:
    """Return the posterior (n * mean + kappa * prior) / (n + kappa) of each configuration: mean, n
    and prior [..., K] -> relative losses [..., K].

    A configuration without evidence (n = 0) keeps its prior, one without a prior (NaN) keeps its
    evidence. If only some configurations have evidence, it compares these with each other and not
    with the rest. The evidence is therefore rescaled to the level that the prior gives to the
    configurations that have both. The formula is the posterior mean of a normal mean with prior
    weight kappa.
    """
    mean, prior = relative(mean), relative(prior)
    both = np.isfinite(mean) & np.isfinite(prior)
    level_of_mean, level_of_prior = (
        np.where(both, part, 0.0).sum(axis=-1, keepdims=True) for part in (mean, prior)
    )
    mean = mean * np.where(
        level_of_mean * level_of_prior > 0,
        level_of_prior / np.where(level_of_mean > 0, level_of_mean, 1.0),
        1.0,
    )
    weight = np.where(n + kappa > 0, n + kappa, 1.0)
    blended = (n * np.nan_to_num(mean) + kappa * np.nan_to_num(prior)) / weight
    return np.where(n == 0, prior, np.where(np.isnan(prior), mean, blended))


def posterior_losses(
    evidence: Floats, prior: Floats, kappa: float, weights: Floats | None = None
) -> Floats:
    """Return each configuration's posterior loss, from its own evidence and the prior: relative
    losses [..., K].

    evidence [..., K, J] validation losses, weights [J] over their origins, prior [..., K] relative
    losses of other tenants.
    """
    return shrunken(*mean_on_shared_windows(evidence, weights), prior, kappa)


def weights(posterior: Floats, available: Bools, temperature: float) -> Floats:
    """Return softmax weights [..., K] of -posterior / temperature over the available configurations
    (all NaN where none is available).

    The temperature is in units of the mean loss; 0 puts all weight on the lowest posterior loss
    (the first one in a tie).
    """
    score = _scores(posterior, available)
    best = score.min(axis=-1, keepdims=True)
    if temperature == 0:
        return _normalised(
            np.arange(score.shape[-1]) == score.argmin(axis=-1)[..., None], available
        )
    excess = np.where(available, score - np.where(np.isfinite(best), best, 0.0), 0.0)
    return _normalised(np.exp(-excess / temperature), available)


def combine(weight: Floats, deciles: Floats) -> Floats:
    """Return the quantile-wise average: weight [..., K], deciles [..., K, H, Q] -> [..., H, Q];
    NaN where a weighted configuration is unavailable.
    """
    used = np.asarray(weight > 0)
    terms = np.where(used[..., None, None], deciles, 0.0)
    combined = np.einsum("...k,...khq->...hq", np.where(used, weight, 0.0), terms)
    return np.where(np.asarray(used.any(axis=-1))[..., None, None], combined, np.nan)


def weighted(weight: Floats, values: Floats) -> Floats:
    """Return the average of values [M, K, H], all known, under weights [M, K] -> [M, H], in the
    type of the values.
    """
    return np.asarray(np.matmul(weight[:, None, :].astype(values.dtype), values)[:, 0])


class DecisionRule(BaseModel):
    """The fields of every rule: the prior, the strength of the shrinkage toward it, and the weights
    of the validation origins.

    kappa is in validation origins, half_life in steps; see `shrunken` and `evidence_weights`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    prior: PriorKind
    kappa: float = Field(ge=0)
    half_life: float = Field(gt=0)
    same_hour: float = Field(ge=0)

    def judged(self, posterior: Floats, traits: Callable[[], Floats]) -> Floats:
        """Return the values [..., K] that `weights` judges by, lower being better: the posterior
        losses, or for the gate a score of the traits (`gate.traits`).
        """
        return posterior

    @abstractmethod
    def weights(self, judged: Floats, available: Bools) -> Floats:
        """Return weights [..., K] over the available configurations, which sum to 1 (all NaN where
        none is available).
        """

    def over(self, positions: Sequence[int | None]) -> "DecisionRule":
        """Return the same rule over other configurations: for each of them its position among the
        present ones, or None if it is new.
        """
        return self


class Argmin(DecisionRule):
    """The configuration with the lowest validation loss; the prior is used only where there is no
    evidence.
    """

    name: Literal["argmin"] = "argmin"
    kappa: float = Field(0.0, ge=0, le=0)

    def weights(self, judged: Floats, available: Bools) -> Floats:
        return weights(judged, available, 0.0)


class ShrunkenArgmin(DecisionRule):
    """The configuration with the lowest posterior loss."""

    name: Literal["shrunken_argmin"] = "shrunken_argmin"

    def weights(self, judged: Floats, available: Bools) -> Floats:
        return weights(judged, available, 0.0)


class Softmax(DecisionRule):
    """Weights that fall exponentially with the posterior loss; the temperature is in units of the
    mean loss.
    """

    name: Literal["softmax"] = "softmax"
    temperature: float = Field(ge=0)

    def weights(self, judged: Floats, available: Bools) -> Floats:
        return weights(judged, available, self.temperature)


class TopM(DecisionRule):
    """The plain average of the m configurations with the lowest posterior losses, or of all
    available ones if there are fewer.
    """

    name: Literal["top_m"] = "top_m"
    m: int = Field(ge=1)

    def weights(self, judged: Floats, available: Bools) -> Floats:
        rank = (
            _scores(judged, available)
            .argsort(axis=-1, kind="stable")
            .argsort(axis=-1, kind="stable")
        )
        return _normalised(rank < self.m, available)


class NoHarm(DecisionRule):
    """The tier's fixed configuration, unless another's posterior loss is lower by more than a
    margin in units of the mean loss.

    Where the fixed configuration is unavailable, the one with the lowest posterior loss is used.
    """

    name: Literal["no_harm"] = "no_harm"
    margin: float = Field(ge=0)
    fixed: int = Field(ge=0)

    def weights(self, judged: Floats, available: Bools) -> Floats:
        score = _scores(judged, available)
        best, keeps = score.argmin(axis=-1), available[..., self.fixed]
        gain = np.where(keeps, score[..., self.fixed], 0.0) - np.where(
            keeps, score.min(axis=-1), 0.0
        )
        pick = np.where(keeps & ~(gain > self.margin), self.fixed, best)
        return _normalised(np.arange(score.shape[-1]) == pick[..., None], available)

    def over(self, positions: Sequence[int | None]) -> "NoHarm":
        """Return the rule with the same fixed configuration, or with the first of the new ones if
        the fixed one is not among them.
        """
        return self.model_copy(
            update={"fixed": positions.index(self.fixed) if self.fixed in positions else 0}
        )


class TiltedEnsemble(DecisionRule):
    """The static ensemble's weights, tilted by the posterior: ((1 - epsilon) base + epsilon / K) *
    exp(-posterior / temperature).

    K counts the available configurations. An infinite temperature with epsilon 0 is the static
    ensemble itself. Where no member is available, all available configurations have equal base
    weights.
    """

    name: Literal["tilted_ensemble"] = "tilted_ensemble"
    temperature: float = Field(gt=0)
    epsilon: float = Field(ge=0, le=1)
    base: tuple[float, ...]

    def weights(self, judged: Floats, available: Bools) -> Floats:
        score = _scores(judged, available)
        alike = self.epsilon / np.maximum(available.sum(axis=-1, keepdims=True), 1)
        base = np.where(available, (1 - self.epsilon) * np.asarray(self.base) + alike, 0.0)
        base = np.where(base.any(axis=-1, keepdims=True), base, available)
        members = base > 0
        best = np.where(members, score, np.inf).min(axis=-1, keepdims=True)
        excess = np.where(members, score - np.where(np.isfinite(best), best, 0.0), 0.0)
        return _normalised(base * np.exp(-excess / self.temperature), available)

    def over(self, positions: Sequence[int | None]) -> "TiltedEnsemble":
        """Return the rule with the members' weights kept; if no member is among the new
        configurations, all of them get equal weights.
        """
        base = [0.0 if position is None else self.base[position] for position in positions]
        total = sum(base)
        return self.model_copy(
            update={"base": tuple(b / total if total else 1 / len(base) for b in base)}
        )


class Gate(DecisionRule):
    """Softmax of a linear score of the traits: coefficients by trait, and an intercept per
    configuration.
    """

    name: Literal["gate"] = "gate"
    coefficients: dict[str, float]
    intercepts: tuple[float, ...]

    def judged(self, posterior: Floats, traits: Callable[[], Floats]) -> Floats:
        return self.scored(traits())

    def scored(self, traits: Floats) -> Floats:
        """Return the negative score [..., K] of traits [..., K, P]."""
        return np.asarray(
            -(traits @ np.array(list(self.coefficients.values())) + np.asarray(self.intercepts))
        )

    def weights(self, judged: Floats, available: Bools) -> Floats:
        return weights(judged, available, 1.0)

    def over(self, positions: Sequence[int | None]) -> "Gate":
        """Return the rule with each configuration's intercept kept; a new one gets 0, the mean."""
        intercepts = tuple(
            0.0 if position is None else self.intercepts[position] for position in positions
        )
        return self.model_copy(update={"intercepts": intercepts})


Rule = Annotated[
    Argmin | ShrunkenArgmin | Softmax | TopM | NoHarm | TiltedEnsemble | Gate,
    Field(discriminator="name"),
]


def _scores(posterior: Floats, available: Bools) -> Floats:
    """Return the posterior losses [..., K] with unknown ones at 1, the average, and unavailable
    configurations at inf.
    """
    return np.where(available, np.where(np.isnan(posterior), 1.0, posterior), np.inf)


def _normalised(raw: Floats | Bools, available: Bools) -> Floats:
    raw = np.where(available, raw, 0.0)
    total = raw.sum(axis=-1, keepdims=True)
    return np.where(total > 0, raw / np.where(total > 0, total, 1.0), np.nan)
