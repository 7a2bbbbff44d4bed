"""From evidence and priors to weights over configurations: the arithmetic of every decision, and
the rules that decide.

What belongs here: pure functions of losses, and the decision rules as small interchangeable
objects. What does not: where the losses come from (`evidence`), which constants a rule has
(`tuning`), the level of the decision (`calibration`). Axes: K configurations, J validation origins;
any leading axes. NaN marks a configuration that is unavailable there.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]
PriorKind = Literal["fleet", "retrieved"]
PRIOR_KINDS: tuple[PriorKind, ...] = ("fleet", "retrieved")

HOUR_CONCENTRATION = 8.0
"""How narrow "the same hour" is: a von Mises bump that falls to half at 1.6 hours of a day, to a
tenth at 3 hours.
"""


def relative(losses: Floats) -> Floats:
    """Losses [..., K] over their mean over the available configurations, so that evidence and prior
    share a unit.

    Where every available loss is 0 (a constant series), all of them are 1: nothing speaks for one
    over the other.
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
    """How much each validation origin counts [J]: by recency, and by how near it lies to the
    request's hour.

    offsets [J] in steps before the request. The weight is 2^(-offset / half_life) + same_hour *
    s(offset), with s = exp(c (cos(2 pi offset / season) - 1)), which is 1 at whole seasons before
    the request. half_life in steps, inf: all recent origins alike. The two parts add, so that a
    short half-life does not silence the same hour of days ago. The largest weight is 1.
    """
    before = np.asarray(offsets, dtype=np.float64)
    weight = np.exp2(-(before - before.min()) / half_life)
    if season is not None:
        weight = weight + same_hour * np.exp(
            HOUR_CONCENTRATION * (np.cos(2 * np.pi * before / season) - 1.0)
        )
    return np.asarray(weight / weight.max())


def mean_on_shared_windows(losses: Floats, weights: Floats | None = None) -> tuple[Floats, Floats]:
    """Weighted mean loss of each configuration over the windows that all of them share, and the
    effective number of these windows.

    losses [..., K, J], weights [J] (None: all alike) -> two arrays [..., K]. A window is shared
    where every configuration that has any loss has one: a mean over other windows would compare
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
    """The posterior (n * mean + kappa * prior) / (n + kappa) of each configuration: mean, n and
    prior [..., K] -> relative losses [..., K].

    A configuration without evidence (n = 0) keeps its prior, one without a prior (NaN) its
    evidence. Evidence on some of the configurations says how these compare, not how they compare
    with the others: it is put on the level that the prior gives to the configurations that have
    both. Source: issue "A search that wins", rule of shrinkage; it is the posterior mean of a
    normal mean with prior weight kappa.
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
    """Each configuration's loss after hearing its own evidence and other tenants': relative losses
    [..., K].

    evidence [..., K, J] validation losses, weights [J] over their origins, prior [..., K] relative
    losses of other tenants.
    """
    return shrunken(*mean_on_shared_windows(evidence, weights), prior, kappa)


def weights(posterior: Floats, available: Bools, temperature: float) -> Floats:
    """Softmax weights [..., K] of -posterior / temperature over the available configurations (all
    NaN where none is available).

    The temperature is in units of the mean loss; 0 puts all weight on the lowest posterior loss
    (the first of equals).
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
    """Quantile-wise average: weight [..., K], deciles [..., K, H, Q] -> [..., H, Q]; NaN where a
    weighted configuration is unavailable.
    """
    used = np.asarray(weight > 0)
    terms = np.where(used[..., None, None], deciles, 0.0)
    combined = np.einsum("...k,...khq->...hq", np.where(used, weight, 0.0), terms)
    return np.where(np.asarray(used.any(axis=-1))[..., None, None], combined, np.nan)


def weighted(weight: Floats, values: Floats) -> Floats:
    """Weights [M, K] over values [M, K, H] that are all known -> [M, H], in the type of the
    values.
    """
    return np.asarray(np.matmul(weight[:, None, :].astype(values.dtype), values)[:, 0])


class DecisionRule(BaseModel):
    """What every rule has: which prior, how strongly its evidence is shrunken toward it, and how
    its validation origins count.

    kappa is in validation origins, half_life in steps; see `shrunken` and `evidence_weights`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    prior: PriorKind
    kappa: float = Field(ge=0)
    half_life: float = Field(gt=0)
    same_hour: float = Field(ge=0)

    def judged(self, posterior: Floats, traits: Callable[[], Floats]) -> Floats:
        """What `weights` weighs by [..., K], lower being better: the posterior losses, unless the
        rule hears the traits (`gate.traits`).
        """
        return posterior

    @abstractmethod
    def weights(self, judged: Floats, available: Bools) -> Floats:
        """Weights [..., K] over the available configurations, summing to 1 (all NaN where none is
        available).
        """

    def over(self, positions: Sequence[int | None]) -> "DecisionRule":
        """The same rule over other configurations: for each of them its position among the present
        ones, None where it is new.
        """
        return self


class Argmin(DecisionRule):
    """The configuration with the lowest validation loss; the prior speaks only where there is no
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
    """The plain average of the m configurations with the lowest posterior losses, of all where
    fewer are available.
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

    Where the fixed configuration is unavailable, the lowest posterior loss takes its place.
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
        """The fixed configuration keeps its role; where it is not among the new ones, their first
        takes it.
        """
        return self.model_copy(
            update={"fixed": positions.index(self.fixed) if self.fixed in positions else 0}
        )


class TiltedEnsemble(DecisionRule):
    """The static ensemble's weights, tilted by the posterior: ((1 - epsilon) base + epsilon / K) *
    exp(-posterior / temperature).

    K counts the available configurations. An infinite temperature with epsilon 0 is the static
    ensemble itself. Where none of its members is available, all that are count alike.
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
        """Members keep their weights; without any of them, all of the new configurations count
        alike.
        """
        base = [0.0 if position is None else self.base[position] for position in positions]
        total = sum(base)
        return self.model_copy(
            update={"base": tuple(b / total if total else 1 / len(base) for b in base)}
        )


class Gate(DecisionRule):
    """Softmax of a linear score of the traits: coefficients by trait, and what each configuration
    is worth beyond them.
    """

    name: Literal["gate"] = "gate"
    coefficients: dict[str, float]
    intercepts: tuple[float, ...]

    def judged(self, posterior: Floats, traits: Callable[[], Floats]) -> Floats:
        return self.scored(traits())

    def scored(self, traits: Floats) -> Floats:
        """The negative score [..., K] of traits [..., K, P]."""
        return np.asarray(
            -(traits @ np.array(list(self.coefficients.values())) + np.asarray(self.intercepts))
        )

    def weights(self, judged: Floats, available: Bools) -> Floats:
        return weights(judged, available, 1.0)

    def over(self, positions: Sequence[int | None]) -> "Gate":
        """What a configuration is worth beyond its traits stays with it; a new one is worth the
        average.
        """
        intercepts = tuple(
            0.0 if position is None else self.intercepts[position] for position in positions
        )
        return self.model_copy(update={"intercepts": intercepts})


Rule = Annotated[
    Argmin | ShrunkenArgmin | Softmax | TopM | NoHarm | TiltedEnsemble | Gate,
    Field(discriminator="name"),
]
RULES: tuple[str, ...] = (
    "argmin",
    "shrunken_argmin",
    "no_harm",
    "top_m",
    "softmax",
    "tilted_ensemble",
    "gate",
)
"""Every rule's name, simplest first."""


def _scores(posterior: Floats, available: Bools) -> Floats:
    """What the available configurations compete by: their posterior loss, 1 (average) where it is
    unknown; inf for the others.
    """
    return np.where(available, np.where(np.isnan(posterior), 1.0, posterior), np.inf)


def _normalised(raw: Floats | Bools, available: Bools) -> Floats:
    raw = np.where(available, raw, 0.0)
    total = raw.sum(axis=-1, keepdims=True)
    return np.where(total > 0, raw / np.where(total > 0, total, 1.0), np.nan)
