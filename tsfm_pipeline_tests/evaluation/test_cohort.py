"""Test which tenants are drawn for the cohort: how many, of which strata, and that neither their
folds nor their order matter.
"""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from tsfm_pipeline.evaluation.cohort import cohort_folds, drawn_by_stratum
from tsfm_pipeline.evaluation.requests import (
    OUTSIDE,
    TUNING_FOLD,
    split_tenants,
    tuning_mask,
)

N = 600
IDS = [f"tenant-{number}" for number in range(N)]
TIERS = ["premium" if i % 5 == 0 else "standard" if i % 5 < 3 else "basic" for i in range(N)]
FOLDS = split_tenants(IDS, [""] * N, seed=3)
STRATA = list(zip(FOLDS.tolist(), TIERS, strict=True))


def drawn(size: int, seed: int = 3) -> NDArray[np.bool_]:
    return drawn_by_stratum(STRATA, IDS, size, seed)


@pytest.mark.parametrize("size", [60, 61, 150, 599])
def test_every_stratum_is_drawn_from_in_proportion(size: int) -> None:
    members = np.flatnonzero(drawn(size))
    assert len(members) == size
    of_stratum, all_of = Counter(STRATA[i] for i in members), Counter(STRATA)
    for stratum, n in all_of.items():
        assert abs(of_stratum[stratum] - Fraction(n * size, N)) <= 1, stratum


def test_the_seed_decides_and_a_smaller_cohort_is_part_of_a_larger_one() -> None:
    assert np.array_equal(drawn(100), drawn(100))
    assert not np.array_equal(drawn(100), drawn(100, seed=4))
    assert not (drawn(100) & ~drawn(137)).any()


def test_the_order_of_the_tenants_does_not_matter() -> None:
    order = np.random.default_rng(0).permutation(N)
    moved = drawn_by_stratum([STRATA[i] for i in order], [IDS[i] for i in order], 100, 3)
    assert np.array_equal(moved, drawn(100)[order])


def test_the_cohort_keeps_its_folds_and_the_others_neither_tune_nor_are_tested() -> None:
    folds = cohort_folds(FOLDS, TIERS, IDS, 100, 3)
    inside = folds != OUTSIDE
    assert np.array_equal(inside, drawn(100))
    assert np.array_equal(folds[inside], FOLDS[inside])
    assert np.array_equal(np.flatnonzero(tuning_mask(folds, 0)), np.flatnonzero(folds == -1))


@pytest.mark.parametrize("size", [N, N + 1])
def test_a_fleet_that_is_no_larger_is_its_own_cohort(size: int) -> None:
    assert np.array_equal(cohort_folds(FOLDS, TIERS, IDS, size, 3), FOLDS)


@pytest.mark.parametrize("fold", [0, TUNING_FOLD])
def test_a_cohort_that_cannot_be_tuned_and_tested_is_refused(fold: int) -> None:
    with pytest.raises(ValueError, match=r"a cohort of 2 of 10 .*COHORT_TENANTS"):
        cohort_folds(np.full(10, fold), TIERS[:10], IDS[:10], 2, 3)
