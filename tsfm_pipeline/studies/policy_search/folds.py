"""The folds of tuning tenants: which of them choose a policy, and which confirm it.

What belongs here: dealing tenants into folds, and the role of each fold. What does not: the split
into tuning and test tenants (`evaluation.requests`), which comes before.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.evaluation.requests import split_tenants
from tsfm_pipeline.settings import EvaluationSettings

N_FOLDS = 5
CHOOSING = (0, 1, 2)
"""Folds whose losses drivers see, and which decide what is kept."""
CONFIRMING = (3, 4)
"""Folds whose losses only a promotion sees."""


def deal_folds(
    tenant_ids: Sequence[str],
    groups: Sequence[str],
    n_folds: int = N_FOLDS,
    seed: int = EvaluationSettings().seed,
) -> NDArray[np.int64]:
    """Return the fold of each tuning tenant, 0 to n_folds - 1: int64 [N], independent of their
    order.

    tenant_ids [N] (unique), groups [N]: archetypes, "" where unknown; each is spread evenly over
    the folds. Raises ValueError for fewer tenants than folds, and as `split_tenants` does.
    """
    if len(tenant_ids) < n_folds:
        raise ValueError(
            f"{len(tenant_ids)} tuning tenants cannot be dealt into {n_folds} folds; a fleet of "
            "the study needs at least one tuning tenant per fold"
        )
    return split_tenants(
        tenant_ids, groups, seed, min_disjoint=len(tenant_ids) + 1, n_folds=n_folds
    )
