"""The cohort: the tenants that the backtest works on, where a fleet has more than it needs.

What belongs here: which tenants are drawn. What does not: how many (`settings`), the split into
tuning and test tenants (`evaluation.requests`), which tables cover the cohort
(`catalogue.fleet_scope`).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.evaluation.requests import OUTSIDE, tested_folds, tuning_mask

_STREAM = 1
"""Keeps these draws apart from those of the split, which have the same seed."""


def cohort_folds(
    folds: NDArray[np.int64], tiers: Sequence[str], tenant_ids: Sequence[str], size: int, seed: int
) -> NDArray[np.int64]:
    """Return the fold of each tenant, with `OUTSIDE` for those that are not in the cohort: int64
    [N] -> int64 [N]. A fleet of `size` tenants or fewer is its own cohort.

    tiers [N], tenant_ids [N] (unique). Tenants of the cohort keep their folds. Raises ValueError
    for a cohort without a test tenant, or with a test fold that no tenant tunes.
    """
    if len(folds) <= size:
        return folds
    strata = list(zip(folds.tolist(), tiers, strict=True))
    drawn = np.where(drawn_by_stratum(strata, tenant_ids, size, seed), folds, OUTSIDE)
    tested = tested_folds(drawn)
    if not tested or not all(tuning_mask(drawn, fold).any() for fold in tested):
        raise ValueError(
            f"a cohort of {size} of {len(folds)} tenants holds {int((drawn >= 0).sum())} test "
            f"tenants and {int((drawn != OUTSIDE).sum())} tenants in all, so that nothing can be "
            "tuned or tested; allowed: a cohort with tuning and test tenants. Raise "
            "TSFM_EVALUATION__COHORT_TENANTS"
        )
    return drawn


def drawn_by_stratum(
    strata: Sequence[tuple[int, str]], tenant_ids: Sequence[str], size: int, seed: int
) -> NDArray[np.bool_]:
    """Return which of N tenants are drawn, bool [N]: `size` of them, from every stratum in
    proportion to its tenants.

    Seats are given by the method of Webster and Sainte-Lague (Balinski and Young, "Fair
    Representation", 1982): the tenant of rank r (from 0) in the seeded order of a stratum of m
    tenants has the key (r + 1/2) / m, and the tenants with the lowest keys are drawn. A smaller
    sample of the same seed is therefore part of a larger one, and the order of the tenants changes
    nothing.
    """
    order = sorted(range(len(strata)), key=lambda i: (strata[i], tenant_ids[i]))
    members: dict[tuple[int, str], list[int]] = {}
    for index in order:
        members.setdefault(strata[index], []).append(index)
    rng = np.random.default_rng(np.random.SeedSequence((seed, _STREAM)))
    keys = np.empty(len(strata))
    for indices in members.values():
        keys[rng.permutation(indices)] = (np.arange(len(indices)) + 0.5) / len(indices)
    by_key = np.asarray(order)[np.argsort(keys[order], kind="stable")]
    drawn = np.zeros(len(strata), dtype=bool)
    drawn[by_key[:size]] = True
    return drawn
