"""Fitting a search on tuning tenants: which of their requests it is fitted on, and the whole fit.

What belongs here: the draws of tuning tenants and requests, and the rivals' choices together with
the policy that must beat them. What does not: each part's own fit (`portfolio`, `tuning`,
`baselines.combinations`), and reading the arrays from tables (`steps.policies`).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch.policy import SearchPolicy
from tsfm_pipeline.autoresearch.tuning import fit_policy
from tsfm_pipeline.autoresearch.tuning_rows import TuningEvidence
from tsfm_pipeline.baselines.combinations import SharedChoices, TuningSample, choose
from tsfm_pipeline.settings import SearchSettings


class Fitted(NamedTuple):
    """A policy over its portfolio, the rivals' choices (positions among all K configurations of the
    sample), and the number of tuning requests that the choices were made on.
    """

    policy: SearchPolicy
    choices: SharedChoices
    n_requests: int


def fit_search(
    settings: SearchSettings,
    names: Sequence[str],
    members: NDArray[np.bool_],
    offsets: Sequence[int],
    season: int | None,
    sample: TuningSample,
    evidence: TuningEvidence,
    alphas: Mapping[str, float],
    *,
    only_deciding: bool = False,
) -> Fitted:
    """Make the rivals' choices on tuning requests, and fit the policy that must beat them.

    names [K] of the sample's configurations; members bool [K]: the portfolio (the arrays hold NaN
    at all others). offsets, season, evidence, alphas and only_deciding: as in `tuning.fit_policy`,
    whose errors it raises.
    """
    choices = choose(sample, alphas)
    policy = fit_policy(
        settings,
        names,
        offsets,
        season,
        sample,
        evidence,
        choices,
        alphas,
        only_deciding=only_deciding,
    )
    portfolio = [name for name, member in zip(names, members, strict=True) if member]
    return Fitted(policy.over(portfolio), choices, len(sample.losses))


def draw_tenants(tenants: NDArray[np.int64], n: int, seed: tuple[int, ...]) -> NDArray[np.int64]:
    """Return up to n of the tenants, drawn without replacement, in ascending order."""
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    return np.sort(rng.choice(tenants, size=min(n, len(tenants)), replace=False))


def draw_for_requests(
    tenants: NDArray[np.int64], n_requests: int, n_origins: int, seed: tuple[int, ...]
) -> NDArray[np.int64]:
    """Return drawn tenants, in ascending order, that have up to n_requests requests together, each
    n_origins of them; one tenant at least.
    """
    return draw_tenants(tenants, max(1, n_requests // n_origins), seed)


def spread_origins(n_origins: int, n: int) -> NDArray[np.int64]:
    """Return up to n of the positions 0 .. n_origins - 1, evenly spread, in ascending order."""
    even = np.linspace(0, n_origins - 1, min(n, n_origins)).round().astype(np.int64)
    return np.unique(even)
