"""Baselines over the frozen model's grid: each is a set of weights over the K configurations,
chosen without the search.

What belongs here: the rivals that the tuning tenants choose (one configuration for all, per metric,
per archetype, a static ensemble, a level shift) and those that need no choice (random, uniform).
What does not: the search itself (`autoresearch`), baselines without the model (`direct`). Axes: R
requests, D metrics, K configurations, A tiers, H horizon.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from tsfm_pipeline.evaluation.limits import UNLIMITED, Limits
from tsfm_pipeline.evaluation.losses import mean_pinball

Floats = NDArray[np.floating]

SHIFTS = tuple(round(float(s), 2) for s in np.linspace(-0.5, 0.5, 21))
"""Level shifts that tuning tenants choose from, in units of q.9 - q.5."""
ENSEMBLE_SIZE = 8
LEAST_AVAILABLE = 0.5
"""Share of the tuning requests at which a configuration must be available to become a shared choice
or a member of a portfolio.
"""


class TierChoices(BaseModel):
    """What the tuning tenants chose for one tier, by mean scaled loss.

    fallback_config: the best of the configurations with the highest availability (usually 100 %).
    It replaces a choice where that is unavailable, and its cost there counts towards the choice's
    mean loss. A few short histories therefore do not exclude a long context.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fixed_config: int
    fallback_config: int
    metric_configs: tuple[int, ...]
    archetype_configs: dict[str, int]
    ensemble_weights: tuple[float, ...]
    shift: float

    def fixed_weights(self, available: NDArray[np.bool_]) -> Floats:
        """Return weights on the fixed configuration, given which are available: both [..., K]."""
        return reachable(
            one_hot(self.fixed_config, available.shape[-1]), available, self.fallback_config
        )


class SharedChoices(BaseModel):
    """Every rival's shared choice, per tier; `median_config` is the best configuration at alpha .5,
    which a naive deployment would use.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    median_config: int
    tiers: dict[str, TierChoices]


@dataclass(frozen=True)
class TuningSample:
    """Requests of tuning tenants before the test period: the losses of all requests, and the
    forecasts of a sample of R.

    losses [all, D, K, A + 1] scaled (last: alpha .5), archetypes [all] as retrieved ("" where
    unknown), owners [all]: their tenants; decisions [R, D, K, A, H], spread (q.9 - q.5) [R, D, K,
    H] and actual [R, D, H] in units of the values, scale [R, D], tenants [R]; limits of the metrics
    [D].
    """

    losses: Floats
    owners: NDArray[np.integer]
    decisions: Floats
    spread: Floats
    actual: Floats
    scale: Floats
    tenants: NDArray[np.integer]
    archetypes: Sequence[str]
    limits: Limits = UNLIMITED

    def without(self, tenants: NDArray[np.integer]) -> "TuningSample":
        """Return the same sample without the requests of some tenants."""
        known, drawn = (~np.isin(own, tenants) for own in (self.owners, self.tenants))
        return replace(
            self,
            losses=self.losses[known],
            owners=self.owners[known],
            decisions=self.decisions[drawn],
            spread=self.spread[drawn],
            actual=self.actual[drawn],
            scale=self.scale[drawn],
            tenants=self.tenants[drawn],
            archetypes=list(compress(self.archetypes, known)),
        )


def best_config(losses: Floats, fallback: int) -> int:
    """Return the index of the lowest mean loss over all leading axes of [..., K], among
    configurations available at half of the places or more.

    A place counts if any configuration has a loss there. Where a configuration has none, its loss
    is that of `fallback`, which replaces it there. Returns `fallback` where no configuration is
    available that often.
    """
    candidates = often_available(losses)
    flat = with_stand_in(losses, fallback).reshape(-1, losses.shape[-1])
    shared = flat[np.isfinite(flat[:, candidates]).all(axis=1)]
    if not candidates.any() or not len(shared):
        return fallback
    return int(
        np.where(candidates, np.where(candidates, shared, 0.0).mean(axis=0), np.inf).argmin()
    )


def best_available(losses: Floats) -> int:
    """Return the index of the lowest mean loss over all leading axes of [..., K], among the
    configurations with the highest availability (usually 100 %).

    Raises ValueError where no configuration has a loss.
    """
    seen = np.isfinite(losses.reshape(-1, losses.shape[-1]))
    if not seen.any():
        raise ValueError(
            "no configuration has a loss at any tuning request; add a shorter context to "
            "search.candidates"
        )
    most = seen.sum(axis=0) == seen.sum(axis=0).max()
    return best_config(np.where(most, losses, np.nan), int(most.argmax()))


def with_stand_in(values: Floats, fallback: int) -> Floats:
    """Return values [..., K], with the fallback's value where a configuration has none."""
    return np.where(np.isfinite(values), values, values[..., fallback, None])


def often_available(losses: Floats) -> NDArray[np.bool_]:
    """Return which configurations have a loss at half or more of the places where any has one:
    losses [..., K] -> bool [K]; all False where none has a loss.
    """
    seen = np.isfinite(losses.reshape(-1, losses.shape[-1]))
    anywhere = seen.any(axis=1)
    return (
        np.asarray(seen[anywhere].mean(axis=0) >= LEAST_AVAILABLE)
        if anywhere.any()
        else np.zeros(seen.shape[1], dtype=bool)
    )


def reachable(
    weight: Floats, available: NDArray[np.bool_], fallback: NDArray[np.integer] | int
) -> Floats:
    """Return weights [..., K] over the available configurations [..., K]: what remains of a partly
    unavailable choice, otherwise the fallback [...].

    Where the fallback is unavailable too, all available configurations have equal weight, so that a
    choice is defined wherever the search is.
    """
    stand_in = one_hot(fallback, weight.shape[-1])
    left = np.where(available, weight, 0.0)
    for instead in (stand_in, available):
        left = np.where(left.any(axis=-1, keepdims=True), left, np.where(available, instead, 0.0))
    total = left.sum(axis=-1, keepdims=True)
    return np.where(total > 0, left / np.where(total > 0, total, 1.0), stand_in)


def choose(sample: TuningSample, tiers: Mapping[str, float]) -> SharedChoices:
    """Make every rival's choice from the tuning tenants; `tiers` are alphas in the order of the
    arrays' axis.
    """
    archetypes = np.asarray(sample.archetypes)
    chosen = {}
    for a, (tier, alpha) in enumerate(tiers.items()):
        losses = sample.losses[..., a]  # [all, D, K]
        fallback = best_available(losses)
        fixed = best_config(losses, fallback)

        def best_of(part: Floats, fixed: int = fixed, fallback: int = fallback) -> int:
            return best_config(part, fallback) if np.isfinite(part).any() else fixed

        chosen[tier] = TierChoices(
            fixed_config=fixed,
            fallback_config=fallback,
            metric_configs=tuple(best_of(losses[:, d]) for d in range(losses.shape[1])),
            archetype_configs={
                str(name): best_of(losses[archetypes == name])
                for name in np.unique(archetypes)
                if name
            },
            ensemble_weights=_greedy_ensemble(sample, a, alpha, often_available(losses), fixed),
            shift=_best_shift(sample, a, alpha, fixed, fallback),
        )
    return SharedChoices(median_config=best_available(sample.losses[..., -1]), tiers=chosen)


def _best_shift(sample: TuningSample, a: int, alpha: float, fixed: int, fallback: int) -> float:
    decision, spread = (
        np.where(np.isfinite(values[:, :, fixed]), values[:, :, fixed], values[:, :, fallback])
        for values in (sample.decisions[:, :, :, a], sample.spread)
    )

    def loss(shift: float) -> float:
        shifted = sample.limits.clip(decision + shift * spread, axis=1)
        return float(np.nanmean(mean_pinball(sample.actual, shifted, alpha) / sample.scale))

    losses = [loss(shift) for shift in SHIFTS]
    return SHIFTS[int(np.argmin(losses))]


def _greedy_ensemble(
    sample: TuningSample, a: int, alpha: float, members: NDArray[np.bool_], fixed: int
) -> tuple[float, ...]:
    """Select members greedily with replacement (Caruana et al., 2004), averaging decisions at the
    alpha of tier number `a`; return the weights.

    members [K]: the configurations that may take part, at least one; they are compared where all of
    them are available. Where the sample has no such place, the fixed configuration has all the
    weight.
    """
    n_configs = len(members)
    decisions = np.asarray(sample.decisions[..., a, :], dtype=np.float32)
    scored = (
        np.isfinite(decisions[:, :, members]).all(axis=(2, 3))
        & np.isfinite(sample.scale)
        & ~np.isnan(sample.actual).all(axis=-1)
    )
    if not scored.any():
        return tuple(float(w) for w in one_hot(fixed, n_configs))
    decisions, actual, scale = (
        decisions[scored],
        np.asarray(sample.actual[scored], dtype=np.float32),
        sample.scale[scored],
    )
    counts = np.zeros(n_configs)
    total = np.zeros_like(actual)
    for size in range(1, ENSEMBLE_SIZE + 1):
        losses = [
            float((mean_pinball(actual, (total + decisions[:, k]) / size, alpha) / scale).mean())
            if members[k]
            else np.inf
            for k in range(n_configs)
        ]
        pick = int(np.argmin(losses))
        counts[pick] += 1
        total = total + decisions[:, pick]
    return tuple(float(w) for w in counts / counts.sum())


def one_hot(index: NDArray[np.integer] | int, n_configs: int) -> Floats:
    """Return weights [..., K] with all the weight on one configuration."""
    return np.eye(n_configs)[index]


def random_weights(request_ids: NDArray[np.integer], n_configs: int, seed: int) -> Floats:
    """Return weights on one random configuration per request, drawn from (seed, request id): [R] ->
    [R, K].
    """
    picks = [
        int(np.random.default_rng(np.random.SeedSequence((seed, int(request)))).integers(n_configs))
        for request in request_ids
    ]
    return one_hot(np.asarray(picks, dtype=np.int64), n_configs)


def last_window_weights(evidence: Floats, fallback: NDArray[np.integer] | int) -> Floats:
    """Return weights on the configuration with the lowest loss in the latest validation window:
    evidence [R, D, K, J] -> [R, D, K].

    A request whose latest window has no loss uses its configuration `fallback`, an int or [R, 1].
    """
    latest = evidence[..., 0]
    known = np.isfinite(latest).any(axis=-1)
    best = np.where(np.isfinite(latest), latest, np.inf).argmin(axis=-1)
    return one_hot(np.where(known, best, fallback), evidence.shape[2])


def per_tenant_weights(own_losses: Floats, fallback: NDArray[np.integer] | int) -> Floats:
    """Return weights on one configuration per series, chosen once from its own requests before the
    test period: own_losses [N, D, O, K] -> [N, D, K].

    A series without a configuration that is available throughout uses `fallback`, an int or [N, 1].
    """
    seen = np.isfinite(own_losses)
    complete = seen.any(axis=2) & (
        seen.sum(axis=2) == seen.any(axis=3).sum(axis=2)[..., None]
    )  # [N, D, K]
    mean = np.where(seen, np.nan_to_num(own_losses), 0.0).sum(axis=2) / np.maximum(
        seen.sum(axis=2), 1
    )
    best = np.where(complete, mean, np.inf).argmin(axis=-1)
    return one_hot(np.where(complete.any(axis=-1), best, fallback), own_losses.shape[-1])
