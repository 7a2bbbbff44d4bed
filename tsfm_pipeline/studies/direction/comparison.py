"""Tests over all variants at once: is any of them better, and which?

What belongs here: the tests of Hansen and of Romano and Wolf, on daily series of many variants.
What does not: the series (`evaluation`), and intervals of single scorers (`bootstrap`).

The more variants are tried, the likelier one of them looks good by chance. Hansen's test of
superior predictive ability (2005) asks whether the best of them is better than the benchmark, given
that all were tried; the stepwise test of Romano and Wolf (2005) names those that are, and is wrong
about any of them with a probability of `size` at most.
"""

from typing import NamedTuple

import numpy as np

from tsfm_pipeline.studies.direction.bars import Floats
from tsfm_pipeline.studies.direction.bootstrap import day_counts


class Comparison(NamedTuple):
    """p_value: of Hansen's test, that no variant is better. survives: [S], which variants are."""

    p_value: float
    survives: tuple[bool, ...]


def compare(gains: Floats, block: int, size: float, n_draws: int, seed: int) -> Comparison:
    """Test whether any of S variants is better than the benchmark, and which of them are.

    gains: [n, S], by how much each variant is better on each day: the benchmark's loss less its
    own. block: mean block length in days. size: the probability of naming a variant that is not
    better. Series are divided by their standard errors first, as Hansen does and arch does not: a
    noisy variant would otherwise set the standard for all. A series without variation never
    survives.
    """
    from arch.bootstrap import StepM

    n_days = len(gains)
    counts = day_counts(n_days, block, n_draws, seed) / n_days
    errors = np.std(counts.T @ gains, axis=0)
    # A series of one value has an error of rounding only.
    varying = errors > 1e-12 * (np.abs(gains).max() or 1.0)
    if not varying.any():
        return Comparison(1.0, (False,) * gains.shape[1])
    # The benchmark is compared with itself too. It is never better, and arch's loop needs a column
    # that is left when all others are.
    losses = np.column_stack([np.zeros(n_days), -gains[:, varying] / errors[varying]])
    test = StepM(
        np.zeros(n_days),
        losses,
        size=size,
        block_size=block,
        reps=n_draws,
        seed=np.random.default_rng(seed),
    )
    test.compute()
    # The stepwise test leaves Hansen's without the variants that it named.
    test.spa.subset(np.ones(losses.shape[1], dtype=np.bool_))
    test.spa.compute()
    survives = np.zeros(gains.shape[1], dtype=np.bool_)
    survives[np.flatnonzero(varying)[np.array(test.superior_models, dtype=np.int64) - 1]] = True
    return Comparison(float(test.spa.pvalues["consistent"]), tuple(survives.tolist()))
