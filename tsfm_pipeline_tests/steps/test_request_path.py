"""Test that the timed path is the scored one: the engine gives the same answers as the batch path,
and neither reads beyond the origin.
"""

import numpy as np
import pytest

from tsfm_pipeline.autoresearch.engine import AutoresearchEngine
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.forecaster import Panel
from tsfm_pipeline.forecaster.engine import FrozenForecaster
from tsfm_pipeline.steps.bundle import open_bundle

TOLERANCE = 1e-5
"""Of a series' scale."""
N_ROUNDINGS = 4
"""Of the level in float32: the profile that is taken off, the values, the forecast, the table."""
N_SAMPLED = 12


@pytest.fixture(scope="module")
def engine(mini_fleet: Fleet, mini_forecaster: FrozenForecaster) -> AutoresearchEngine:
    """As it comes out of the file that the run wrote."""
    bundle = open_bundle(mini_fleet)
    return bundle.engine_of(bundle.folds[0], mini_forecaster)


class Request:
    """One test request: its history, and the rows that the batch path stored for it."""

    def __init__(self, fleet: Fleet, tenant: int, origin: int) -> None:
        shard = next(shard for shard in fleet.shards if tenant in shard)
        self.fleet = fleet
        self.values = fleet.arrays.values(shard)[tenant - shard[0]]  # [D, T]
        requests = fleet.arrays.requests("test", only=[tenant])
        self.origin = int(requests.origins[0, origin])
        n_metrics, horizon = len(self.values), fleet.spec.horizon
        columns = ["decision", "deciles", "chosen", "weights", "shift"]
        decision, deciles, chosen, weights, shift = fleet.arrays.of(
            "autoresearch_forecasts", requests, columns, (n_metrics, len(TIERS))
        )
        self.decision = decision[origin]  # [D, A, H]
        self.deciles = deciles[origin].reshape(n_metrics, len(TIERS), horizon, 9)
        self.chosen, self.weights, self.shift = chosen[origin], weights[origin], shift[origin]
        (scale,) = fleet.arrays.of("request_targets", requests, ["scale"], (n_metrics,))
        self.scale = scale[origin]  # [D]

    def history(self, values: np.ndarray | None = None) -> Panel:
        values = self.values if values is None else values
        return self.fleet.arrays.panel(np.ascontiguousarray(values[None, :, : self.origin + 1]))


@pytest.fixture(scope="module")
def requests(mini_fleet: Fleet) -> list[Request]:
    """A sample over tenants, shards and origins."""
    test = mini_fleet.arrays.requests("test")
    pairs = [
        (int(tenant), origin)
        for origin in range(test.ids.shape[1])
        for tenant in test.tenant_numbers
    ]
    return [
        Request(mini_fleet, *pairs[i])
        for i in np.linspace(0, len(pairs) - 1, N_SAMPLED).astype(int)
    ]


def test_the_engine_reproduces_the_stored_forecasts(
    engine: AutoresearchEngine, requests: list[Request]
) -> None:
    for request in requests:
        for a, tier in enumerate(TIERS):
            response = engine.forecast(request.history(), tier)
            # Telemetry, profiles and tables are float32: where the level is a hundred times the
            # scale, one rounding is 1e-5 of the scale.
            for answered, stored in (
                (response.decision.T, request.decision[:, a]),
                (response.quantiles.swapaxes(0, 1), request.deciles[:, a]),
            ):
                excess = np.abs(answered - stored) - N_ROUNDINGS * np.spacing(
                    np.abs(stored, dtype=np.float32)
                )
                assert (
                    excess / request.scale.reshape(-1, *(1 for _ in stored.shape[1:]))
                ).max() <= TOLERANCE


def test_the_engine_chooses_what_the_batch_path_chose(
    engine: AutoresearchEngine, requests: list[Request]
) -> None:
    for request in requests:
        response = engine.forecast(request.history(), "standard")
        a = list(TIERS).index("standard")
        names = [config.name if config else "" for config in response.chosen]
        # Two configurations of the same weight may swap places by rounding; a heavier one may not
        # lose.
        portfolio = [config.name for config in engine.configs]
        for metric, name in enumerate(names):
            assert request.weights[metric, a, portfolio.index(name)] == pytest.approx(
                request.weights[metric, a].max(), abs=1e-4
            )


def test_noise_after_the_origin_changes_nothing_on_the_whole_request_path(
    engine: AutoresearchEngine, requests: list[Request]
) -> None:
    rng = np.random.default_rng(3)
    for request in requests[:4]:
        noisy = request.values.copy()
        future = noisy[:, request.origin + 1 :]
        future[:] = rng.exponential(10 * np.abs(request.values).mean(), future.shape)
        for tier in TIERS:
            before, after = (
                engine.forecast(request.history(values), tier) for values in (request.values, noisy)
            )
            np.testing.assert_array_equal(before.decision, after.decision)
            np.testing.assert_array_equal(before.quantiles, after.quantiles)


def test_noise_before_the_origin_does_change_the_forecast(
    engine: AutoresearchEngine, requests: list[Request]
) -> None:
    request = requests[0]
    other = request.values.copy()
    other[:, request.origin - 30 : request.origin + 1] *= 3
    before, after = (
        engine.forecast(request.history(values), "standard") for values in (request.values, other)
    )
    assert not np.allclose(before.decision, after.decision)


def test_the_engine_leaves_the_history_as_it_was_and_answers_twice_alike(
    engine: AutoresearchEngine, requests: list[Request]
) -> None:
    history = requests[1].history()
    copy = history.values.copy()
    first, second = engine.forecast(history, "premium"), engine.forecast(history, "premium")
    np.testing.assert_array_equal(history.values, copy)
    np.testing.assert_array_equal(first.decision, second.decision)


def test_only_the_recent_history_matters_and_arrays_are_as_good_as_panels(
    engine: AutoresearchEngine, requests: list[Request]
) -> None:
    request = requests[2]
    history = request.history()
    recent = np.ascontiguousarray(history.values[:, -engine.history_steps(history.seasons) :])
    tail = Panel(recent, seasons=history.seasons, lower=history.lower, upper=history.upper)
    np.testing.assert_array_equal(
        engine.forecast(history, "basic").decision, engine.forecast(tail, "basic").decision
    )
    bare = engine.forecast(np.ascontiguousarray(history.values.T), "basic")
    np.testing.assert_array_equal(
        bare.decision, engine.forecast(Panel(history.values), "basic").decision
    )


def test_a_response_says_what_was_chosen_and_where_the_time_went(
    engine: AutoresearchEngine, requests: list[Request]
) -> None:
    response = engine.forecast(requests[0].history(), "standard", horizon=60)
    n_metrics = len(requests[0].values)
    assert response.decision.shape == (60, n_metrics)
    assert response.quantiles.shape == (60, n_metrics, 9)
    assert (np.diff(response.quantiles, axis=-1) >= 0).all()
    assert len(response.candidates) == response.n_evaluated == len(engine.configs)
    weights = [candidate.weight for candidate in response.candidates]
    assert weights == sorted(weights, reverse=True)
    assert sum(weights) == pytest.approx(1, abs=1e-5)
    stages = {"prepare", "retrieval", "forecast", "decision"}
    assert set(response.timing_ms) == stages | {"total"}
    assert sum(response.timing_ms[stage] for stage in stages) <= response.timing_ms["total"] + 1e-6


def test_a_budget_limits_what_is_evaluated_to_at_least_one(
    engine: AutoresearchEngine, requests: list[Request]
) -> None:
    hurried = engine.forecast(requests[0].history(), "standard", budget_ms=1e-3)
    assert hurried.n_evaluated == 1
    assert np.isfinite(hurried.decision).all()
    assert engine.forecast(requests[0].history(), "standard", budget_ms=1e6).n_evaluated == len(
        engine.configs
    )


def test_a_tenant_with_little_history_is_answered(
    engine: AutoresearchEngine, requests: list[Request]
) -> None:
    values = requests[0].history().values[:, -240:]
    response = engine.forecast(
        Panel(np.ascontiguousarray(values), seasons=(1440,), lower=0.0), "standard"
    )
    assert np.isfinite(response.decision).all()
    assert all(config is not None and config.context_len <= 240 for config in response.chosen)


def test_missing_values_before_the_origin_are_bridged(
    engine: AutoresearchEngine, requests: list[Request]
) -> None:
    values = requests[0].history().values.copy()
    values[:, -5:] = np.nan
    response = engine.forecast(Panel(values, seasons=(1440, 10080), lower=0.0), "standard")
    assert np.isfinite(response.decision).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tier": "gold"}, "tier is 'gold'; allowed: premium, standard, basic"),
        ({"tier": "basic", "horizon": 61}, "horizon is 61; this policy was fitted for 60 steps"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    engine: AutoresearchEngine, requests: list[Request], arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        engine.forecast(requests[0].history(), **arguments)  # type: ignore[arg-type]


def test_a_history_of_other_metrics_is_refused(
    engine: AutoresearchEngine, requests: list[Request]
) -> None:
    with pytest.raises(ValueError, match="expected 4 metrics"):
        engine.forecast(requests[0].history().values[:2].T, "basic")
