"""Headroom: the gain from choosing a configuration per tenant, cross-fitted, with its permutation
null.

What belongs here: oracles over losses [N, O, K] that already exist. What does not: intervals of
ratios (`statistics`), and any choice that a method makes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Headroom:
    """The gain of a choice per tenant over the fixed configuration, as a share of the fixed
    configuration's loss.

    `cross_fitted` is chosen on one half of the origins and scored on the other; `null_*` are its
    mean, 2.5 % and 97.5 % quantile where the choices are assigned to random tenants. `oracle_*` are
    chosen and scored on the same losses, so they show a gain even where there is none.
    """

    cross_fitted: float
    null_mean: float
    null_low: float
    null_high: float
    p_value: float
    oracle_per_tenant: float
    oracle_per_request: float
    n_tenants: int


@dataclass(frozen=True)
class _Choices:
    """Choices that are made on one half of the origins and scored on the other.

    answered [N, O, K]: losses, with the fixed configuration's where another is unavailable, and 0
    where the fixed one is missing too. asked [N, O]: where the fixed one is not missing. halves:
    the origins of each half. chosen: the configurations [N] with which each half is scored.
    """

    answered: Floats
    asked: NDArray[np.bool_]
    halves: tuple[slice, slice]
    chosen: tuple[NDArray[np.int64], NDArray[np.int64]]


def cross_fitted_headroom(
    losses: ArrayLike, fixed: int, n_permutations: int, seed: int, strata: ArrayLike | None = None
) -> Headroom:
    """Return the gain of the best configuration per tenant over the fixed one, chosen and scored on
    different origins.

    losses [N, O, K]: scaled losses by tenant, origin (in time order) and configuration, NaN =
    unavailable; `fixed`: index of the fixed configuration in K. Each tenant's configuration is
    chosen on its odd origins by the mean paired difference to the fixed one (over the origins where
    both are available), scored on its even origins, and the other way round. Where the chosen
    configuration is unavailable, the fixed one replaces it; requests without the fixed one are left
    out. Raises ValueError for another shape, or `fixed` outside of K.

    The null hypothesis is that tenants do not differ in which configuration suits them. Under it
    one tenant's choice is as good for any other tenant, so each permutation assigns the choices of
    each half to randomly permuted tenants. The chosen configurations and their frequencies stay the
    same; only the link to the tenant is removed. A configuration that is better for every tenant
    gains equally in both. `strata` [N] groups the tenants that may have the same configurations,
    such as the tenants of one test fold; choices are permuted only within a group. Source:
    docs/evidence-protocol.md, "How sure".
    """
    choices = _cross_fit(losses, fixed)
    answered = choices.answered
    total = answered[:, :, fixed].sum()
    scored = [answered[:, half].sum(axis=1) for half in choices.halves]  # 2 x [N, K]
    tenants = np.arange(len(answered))
    group = np.zeros(len(answered)) if strata is None else np.asarray(strata)
    in_order = np.argsort(group, kind="stable")

    def gain(*permutations: NDArray[np.int64]) -> float:
        costs = [
            scored[side][tenants, choices.chosen[side][order]].sum()
            for side, order in enumerate(permutations)
        ]
        return _saved(sum(costs), total)

    def permuted() -> NDArray[np.int64]:
        order = np.empty_like(tenants)
        order[in_order] = np.lexsort((rng.random(len(tenants)), group))
        return order

    rng = np.random.default_rng(seed)
    observed = gain(tenants, tenants)
    null = np.array([gain(permuted(), permuted()) for _ in range(n_permutations)])
    low, high = np.quantile(null, [0.025, 0.975])
    return Headroom(
        cross_fitted=observed,
        null_mean=float(null.mean()),
        null_low=float(low),
        null_high=float(high),
        p_value=float((1 + (null >= observed - 1e-12).sum()) / (1 + n_permutations)),
        oracle_per_tenant=_saved(answered.sum(axis=1).min(axis=1).sum(), total),
        oracle_per_request=_saved(answered.min(axis=2).sum(), total),
        n_tenants=len(answered),
    )


def cross_fitted_losses(losses: ArrayLike, fixed: int) -> Floats:
    """Return the loss of each request under its tenant's cross-fitted choice [N, O]; NaN where the
    fixed one is missing. Arguments as in `cross_fitted_headroom`.
    """
    choices = _cross_fit(losses, fixed)
    cost = np.full(choices.asked.shape, np.nan)
    for half, chosen in zip(choices.halves, choices.chosen, strict=True):
        cost[:, half] = np.take_along_axis(
            choices.answered[:, half], chosen[:, None, None], axis=2
        )[..., 0]
    return np.where(choices.asked, cost, np.nan)


def _cross_fit(losses: ArrayLike, fixed: int) -> _Choices:
    losses = np.asarray(losses, dtype=np.float64)
    if losses.ndim != 3 or not 0 <= fixed < losses.shape[2]:
        raise ValueError(
            f"losses {losses.shape} must be [N, O, K], and the fixed index {fixed} must lie "
            "within K"
        )
    reference = losses[:, :, [fixed]]  # [N, O, 1]
    asked = ~np.isnan(reference)
    answered = np.where(asked, np.where(np.isnan(losses), reference, losses), 0.0)
    odd, even = slice(1, None, 2), slice(0, None, 2)
    chosen = (
        _best_against(losses[:, even], reference[:, even], fixed),
        _best_against(losses[:, odd], reference[:, odd], fixed),
    )
    return _Choices(answered, asked[..., 0], (odd, even), chosen)


def _best_against(losses: Floats, reference: Floats, fixed: int) -> NDArray[np.int64]:
    """Return the index [N] of the configuration with the lowest mean difference to the fixed one,
    which takes part itself.
    """
    difference = losses - reference  # [N, O / 2, K]
    comparable = ~np.isnan(difference)
    n_comparable = comparable.sum(axis=1)
    mean = np.where(comparable, difference, 0.0).sum(axis=1) / np.maximum(n_comparable, 1)
    mean[n_comparable == 0] = np.inf
    mean[:, fixed] = 0.0
    return mean.argmin(axis=1)


def _saved(cost: float, total: float) -> float:
    """Return the share of `total` that `cost` saves; NaN where `total` is 0."""
    return float(1.0 - cost / total) if total else float("nan")
