"""Test how often chance is promoted, and how often a real gain is, by whole simulated studies."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from tsfm_pipeline.studies.policy_search.promotion import judge_promotion
from tsfm_pipeline.studies.policy_search.verdict import mean_limits
from tsfm_pipeline_tests.studies.policy_search.test_promotion import result

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Floats]
N_STUDIES = 400
N_EXPERIMENTS = 200
SPREAD = 0.05
"""Standard deviation of a tenant's relative difference between two policies."""


def heavy_tails(rng: np.random.Generator, n: int) -> Floats:
    """Relative differences of n tenants, heavy on both sides (Student's t, 3 degrees)."""
    return SPREAD * rng.standard_t(3, n) / np.sqrt(3)


def rare_harm(rng: np.random.Generator, n: int) -> Floats:
    """Relative differences of n tenants: most are helped a little, few are harmed much."""
    sigma = 1.5
    mean, variance = np.exp(sigma**2 / 2), (np.exp(sigma**2) - 1) * np.exp(sigma**2)
    return SPREAD * (rng.lognormal(0.0, sigma, n) - mean) / np.sqrt(variance)


def share_promoted(draw: Draw, sizes: dict[str, tuple[int, int]], gain: float = 0.0) -> float:
    """Return the share of studies in which something is promoted over the first policy.

    sizes {fleet: (choosing, confirming tenants)}. A loop keeps whatever is better on the choosing
    tenants than all before; every kept policy is judged. gain: of the last experiment alone.
    """
    n_promoted = 0
    for study in range(N_STUDIES):
        rng = np.random.default_rng((study, 11))
        levels = {fleet: rng.lognormal(0.0, 0.5, n) for fleet, (_, n) in sizes.items()}
        first = [result(fleet, level) for fleet, level in levels.items()]
        best = 0.0
        for number in range(2, N_EXPERIMENTS + 1):
            own = gain if number == N_EXPERIMENTS else 0.0
            seen = np.mean([draw(rng, n).mean() for n, _ in sizes.values()]) - own
            if seen >= best - 0.0005:
                continue
            best = seen
            losses = {
                fleet: level * (1 - own + draw(rng, len(level))) for fleet, level in levels.items()
            }
            policy = [result(fleet, loss) for fleet, loss in losses.items()]
            if judge_promotion(policy, first, number, 200.0, 80.0).promoted:
                n_promoted += 1
                break
    return n_promoted / N_STUDIES


@pytest.mark.slow
@pytest.mark.parametrize("draw", [heavy_tails, rare_harm])
@pytest.mark.parametrize(
    "sizes",
    [{"a": (120, 80), "b": (120, 80)}, {"a": (120, 80), "b": (10, 7), "c": (8, 5)}],
    ids=["two fleets", "three fleets, two of them small"],
)
def test_a_loop_without_any_better_policy_promotes_in_few_studies(
    draw: Draw, sizes: dict[str, tuple[int, int]]
) -> None:
    assert share_promoted(draw, sizes) <= 0.05


@pytest.mark.slow
def test_a_gain_of_three_percent_is_promoted_mostly() -> None:
    sizes = {"a": (120, 80), "b": (120, 80)}
    assert share_promoted(heavy_tails, sizes, gain=0.03) >= 0.6


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("draw", "n", "most"), [(heavy_tails, 80, 0.025), (heavy_tails, 7, 0.025), (rare_harm, 80, 0.1)]
)
def test_how_often_the_upper_limit_misses_the_mean(draw: Draw, n: int, most: float) -> None:
    rng = np.random.default_rng(5)
    missed = [mean_limits(-draw(rng, n), 0.95)[0] > 0 for _ in range(4000)]
    assert np.mean(missed) <= most + 0.005
