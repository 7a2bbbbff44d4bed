"""Test that simulated futures have the distribution from which the realised future was drawn."""

import numpy as np
import pytest

from tsfm_pipeline.fleets import SyntheticFleet
from tsfm_pipeline.fleets.profiles import ARCHETYPES, archetype_of
from tsfm_pipeline.fleets.synthetic import (
    generate,
    simulate_forward,
    simulate_from_state,
    tenant_state,
)

DAY = 1440
SPEC = SyntheticFleet(name="fleet", title="A fleet", kind="synthetic", tenants=100, days=10, seed=3)
HORIZON = 30


@pytest.mark.parametrize("archetype", ARCHETYPES)
def test_realised_values_have_uniform_ranks_among_the_paths(archetype):
    """Where values are clipped, ranks tie; ties are broken at random, so that they stay uniform."""
    rng = np.random.default_rng(0)
    ranks = []
    n_paths = 99
    numbers = [i for i in range(100) if archetype_of(i).name == archetype][:8]
    values = generate(SPEC, numbers)
    for row, number in enumerate(numbers):
        state = tenant_state(SPEC, number)
        for origin in range(2 * DAY, 10 * DAY - HORIZON, 301):
            paths = simulate_from_state(state.until(origin), HORIZON, n_paths, rng)
            realised = values[row, :, origin + 1 : origin + 1 + HORIZON].T
            below, tied = (paths < realised).sum(axis=0), (paths == realised).sum(axis=0)
            ranks.append((below + rng.integers(0, tied + 1))[[0, -1]])
    ranks = np.array(ranks)  # [requests, first and last step, metric]
    tenths = np.stack([(ranks // 10 == tenth).mean(axis=(0, 1)) for tenth in range(10)])
    np.testing.assert_allclose(tenths, 0.1, atol=0.06)
    np.testing.assert_allclose(ranks.mean(axis=(0, 1)), n_paths / 2, atol=6)


def test_the_mean_of_the_paths_agrees_with_the_series():
    errors = []
    for number in range(0, 100, 5):
        paths = simulate_forward(
            SPEC, number, origin=7 * DAY, horizon=HORIZON, n_paths=200, seed=1
        ).astype(np.float64)
        realised = generate(SPEC, [number])[0, :, 7 * DAY + 1 : 7 * DAY + 1 + HORIZON].T
        spread = np.maximum(paths.std(axis=0), 1e-9)
        errors.append(((realised - paths.mean(axis=0)) / spread)[::10])
    errors = np.array(errors)
    assert abs(errors.mean()) < 0.25
    assert errors.std() == pytest.approx(1, abs=0.25)


def test_paths_start_from_the_latent_state_and_widen():
    number = next(i for i in range(100) if archetype_of(i).name == "compute-heavy")
    paths = simulate_forward(SPEC, number, origin=5000, horizon=60, n_paths=400, seed=0)
    spread = paths[..., 0].std(axis=0)
    parameters = tenant_state(SPEC, number, 10).parameters
    assert spread[0] == pytest.approx(parameters.sigma, rel=0.15)
    assert spread[-1] == pytest.approx(parameters.sigma / np.sqrt(1 - parameters.phi**2), rel=0.2)


def test_a_future_knows_its_hour():
    """A b2b tenant is simulated across nine o'clock on a Monday."""
    number = next(i for i in range(100) if archetype_of(i).name == "b2b-saas")
    paths = simulate_forward(
        SPEC, number, origin=7 * DAY + 8 * 60 + 29, horizon=60, n_paths=50, seed=0
    )
    net = paths[..., 2].mean(axis=0)
    assert net[30:].mean() > 5 * net[:30].mean()


def test_a_simulation_is_a_function_of_its_seed():
    arguments = {"tenant_number": 5, "origin": 3000, "horizon": 20, "n_paths": 7}
    one = simulate_forward(SPEC, **arguments, seed=1)
    assert one.shape == (7, 20, 4)
    assert one.dtype == np.float32
    np.testing.assert_array_equal(one, simulate_forward(SPEC, **arguments, seed=1))
    assert not np.array_equal(one, simulate_forward(SPEC, **arguments, seed=2))


def test_the_state_until_an_origin_is_the_state_of_a_shorter_fleet():
    state, short = tenant_state(SPEC, 5), tenant_state(SPEC, 5, minutes=3001)
    for name in ("mask", "traffic", "noise", "spikes"):
        np.testing.assert_array_equal(getattr(state.until(3000), name), getattr(short, name))
