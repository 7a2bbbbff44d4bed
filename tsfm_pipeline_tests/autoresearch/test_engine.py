"""Test that a live request gets the decision that the batch path scores, reports its stages' times,
and keeps to its budget.
"""

from collections.abc import Sequence
from time import sleep

import numpy as np
import pytest

from tsfm_pipeline.archetypes.features import retrieval_features
from tsfm_pipeline.archetypes.index import WindowIndex
from tsfm_pipeline.autoresearch.engine import AutoresearchEngine
from tsfm_pipeline.autoresearch.evidence import validation_losses
from tsfm_pipeline.autoresearch.policy import PRIOR_KINDS
from tsfm_pipeline.autoresearch.priors import TenantExperience
from tsfm_pipeline.evaluation.protocol import ALPHAS, TIERS
from tsfm_pipeline.forecaster import ForecastConfig, Panel
from tsfm_pipeline.forecaster.engine import FrozenForecaster
from tsfm_pipeline_tests.autoresearch.conftest import search_policy

NAMES = ("ctx32", "ctx96", "ctx240-r15", "ctx64")
CONFIGS = tuple(ForecastConfig.from_name(name) for name in NAMES)
HORIZON, OFFSETS, WINDOW, N_TUNERS = 20, (20, 40, 96), 120, 6
STEPS = 240 + 96
"""What the longest configuration sees from the farthest validation origin."""
POLICY = search_policy(NAMES, OFFSETS, HORIZON)
IDS = np.array([f"tuner-{i}" for i in range(N_TUNERS)])


@pytest.fixture(scope="module")
def index(telemetry: np.ndarray) -> WindowIndex:
    rng = np.random.default_rng(1)
    windows = telemetry[:, 100 : 100 + WINDOW] * rng.uniform(0.5, 2, (N_TUNERS, 3, 1)) + rng.normal(
        size=(N_TUNERS, 3, WINDOW)
    )
    return WindowIndex.fit(
        retrieval_features(windows.astype(np.float32))[:, None], IDS.tolist(), None, WINDOW
    )


@pytest.fixture(scope="module")
def priors() -> TenantExperience:
    return TenantExperience(
        np.random.default_rng(2).uniform(0.5, 1.5, (N_TUNERS, 3, len(NAMES), len(TIERS))), IDS
    )


@pytest.fixture(scope="module")
def engine(
    forecaster: FrozenForecaster, priors: TenantExperience, index: WindowIndex
) -> AutoresearchEngine:
    return AutoresearchEngine(forecaster, POLICY, priors, index, n_neighbours=3)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("is_a_tuner", [False, True])
def test_it_decides_what_the_policy_decides_on_the_same_evidence(
    engine: AutoresearchEngine,
    telemetry: np.ndarray,
    priors: TenantExperience,
    index: WindowIndex,
    tier: str,
    is_a_tuner: bool,
) -> None:
    """A tuning tenant that asks (here the nearest one of all) is left out of its own prior and of
    its neighbours.
    """
    origin, a = 650, list(TIERS).index(tier)
    nearest = index.query(telemetry[None, :, origin + 1 - WINDOW : origin + 1], 1).indices[0, 0]
    asks = str(IDS[nearest]) if is_a_tuner else None
    panel = Panel(telemetry, lower=0.0)
    origins = np.full((3, 1), origin)
    losses, violations = validation_losses(
        engine.forecaster, panel, origins, CONFIGS, HORIZON, OFFSETS, ALPHAS
    )
    deciles = engine.forecaster.forecast_grid(panel, origins, CONFIGS, HORIZON)[:, 0, ..., 1:]
    rows, similarity = index.query(telemetry[None, :, origin + 1 - WINDOW : origin + 1], 3, [asks])
    known = {
        "fleet": priors.fleet_prior(asks),
        "retrieved": priors.retrieved_prior(rows[0], similarity[0], asks),
    }
    expected = POLICY.decide(
        deciles, losses[:, 0], violations[:, 0], known, np.full_like(known["fleet"], np.nan)
    )

    response = engine.forecast(
        Panel(telemetry[:, : origin + 1], lower=0.0), tier, exclude_tenant=asks
    )
    scale = np.abs(np.diff(telemetry)).mean(axis=1)
    assert response.decision.shape == (HORIZON, 3)
    assert response.quantiles.shape == (HORIZON, 3, 9)
    np.testing.assert_allclose(
        response.decision / scale, expected.decision[:, a].T / scale, atol=1e-2
    )
    np.testing.assert_allclose(
        response.quantiles[..., 4] / scale, expected.deciles[:, a, :, 4].T / scale, atol=1e-2
    )
    assert response.chosen == tuple(CONFIGS[k] for k in expected.weights[:, a].argmax(axis=-1))
    found = {candidate.config.name: candidate for candidate in response.candidates}
    for k, name in enumerate(NAMES):
        assert found[name].weight == pytest.approx(expected.weights[:, a, k].mean(), abs=1e-3)
        assert found[name].relative_loss == pytest.approx(
            expected.posterior[:, a, k].mean(), abs=1e-3
        )


def test_tiers_get_different_forecasts(engine: AutoresearchEngine, telemetry: np.ndarray) -> None:
    premium, standard, basic = (
        engine.forecast(telemetry.T, tier).decision.mean(axis=0) for tier in TIERS
    )
    assert (premium > standard).all()
    assert (standard > basic).all()


def test_all_tiers_at_once_are_what_each_tier_gets_alone_for_one_evaluation(
    forecaster: FrozenForecaster,
    priors: TenantExperience,
    index: WindowIndex,
    telemetry: np.ndarray,
) -> None:
    counting = _Slow(forecaster)
    engine = AutoresearchEngine(counting, POLICY, priors, index, n_neighbours=3)
    together = engine.forecast_tiers(telemetry.T)
    assert list(together) == list(TIERS)
    assert len(counting.asked) == 1
    for tier, answer in together.items():
        alone = engine.forecast(telemetry.T, tier)
        np.testing.assert_array_equal(answer.decision, alone.decision)
        np.testing.assert_array_equal(answer.quantiles, alone.quantiles)
        assert (answer.chosen, answer.candidates, answer.n_evaluated) == (
            alone.chosen,
            alone.candidates,
            alone.n_evaluated,
        )
        assert set(answer.timing_ms) == set(alone.timing_ms)
    assert list(engine.forecast_tiers(telemetry.T, ["basic", "premium"])) == ["basic", "premium"]


def test_a_small_budget_for_several_tiers_tries_each_tier_s_favourite_first(
    forecaster: FrozenForecaster, index: WindowIndex, telemetry: np.ndarray
) -> None:
    losses = np.ones((N_TUNERS, 3, len(NAMES), len(TIERS)))
    for a, favourite in enumerate((2, 1, 1)):
        losses[:, :, favourite, a] = 0.2
    engine = AutoresearchEngine(
        _Slow(forecaster), POLICY, TenantExperience(losses, IDS), index, n_neighbours=3
    )
    engine.forecast_tiers(telemetry.T, budget_ms=1e6)
    asked = [name for names in engine.forecaster.asked for name in names]  # type: ignore[attr-defined]
    assert sorted(asked[:2]) == sorted([NAMES[1], NAMES[2]])
    assert asked[0] == NAMES[1], "the favourite of two tiers before the favourite of one"


def test_an_array_of_steps_by_metrics_and_a_panel_are_the_same_history(
    engine: AutoresearchEngine, telemetry: np.ndarray
) -> None:
    from_array, from_panel = (
        engine.forecast(telemetry.T, "standard"),
        engine.forecast(Panel(telemetry), "standard"),
    )
    np.testing.assert_array_equal(from_array.decision, from_panel.decision)


def test_only_the_recent_history_is_looked_at(
    engine: AutoresearchEngine, telemetry: np.ndarray
) -> None:
    assert engine.history_steps(()) == 240 + 96
    changed = telemetry.copy()
    changed[:, :-STEPS] *= 100
    np.testing.assert_array_equal(
        *(engine.forecast(values.T, "basic").decision for values in (telemetry, changed))
    )


def test_a_gap_that_began_before_the_recent_history_is_filled_as_in_the_whole_one(
    engine: AutoresearchEngine, forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    values = telemetry.copy()
    values[1, -STEPS - 5 : -STEPS + 5] = np.nan
    names = ("ctx240-r15",)
    policy = search_policy(names, OFFSETS, HORIZON)
    response = AutoresearchEngine(forecaster, policy).forecast(values.T, "premium")
    config = (ForecastConfig.from_name(names[0]),)
    evidence = validation_losses(
        forecaster, Panel(values), np.full((3, 1), 699), config, HORIZON, OFFSETS, ALPHAS
    )
    deciles = forecaster.forecast_grid(values, [699], config, HORIZON)[:, 0, ..., 1:]
    unknown = dict.fromkeys(PRIOR_KINDS, np.full((3, 1, len(TIERS)), np.nan))
    expected = policy.decide(
        deciles, evidence[0][:, 0], evidence[1][:, 0], unknown, unknown["fleet"]
    )
    assert np.isfinite(evidence[0]).all()
    np.testing.assert_allclose(response.decision, expected.decision[:, 0].T, rtol=1e-3)


def test_missing_values_are_no_obstacle(engine: AutoresearchEngine, telemetry: np.ndarray) -> None:
    values = telemetry.copy()
    values[:, -7:] = np.nan
    values[2, -200:-150] = np.nan
    assert np.isfinite(engine.forecast(values.T, "standard").decision).all()


def test_a_short_history_has_fewer_configurations_and_an_empty_one_is_refused(
    engine: AutoresearchEngine, telemetry: np.ndarray
) -> None:
    response = engine.forecast(telemetry[:, :70].T, "standard")
    assert np.isfinite(response.decision).all()
    used = {candidate.config.name for candidate in response.candidates if candidate.weight > 0}
    assert used == {"ctx32", "ctx64"}
    hopeless = engine.forecast(telemetry[:, :10].T, "standard")
    assert hopeless.chosen == (None, None, None)
    assert np.isnan(hopeless.decision).all()
    with pytest.raises(ValueError, match="history has no steps"):
        engine.forecast(telemetry[:, :0].T, "standard")


def test_candidates_come_best_first(engine: AutoresearchEngine, telemetry: np.ndarray) -> None:
    response = engine.forecast(telemetry.T, "standard")
    weights = [candidate.weight for candidate in response.candidates]
    assert weights == sorted(weights, reverse=True)
    assert sum(weights) == pytest.approx(1.0)
    assert {candidate.config for candidate in response.candidates} == set(CONFIGS)
    assert response.n_evaluated == len(CONFIGS)


def test_every_stage_is_timed_and_the_stages_are_the_total(
    engine: AutoresearchEngine, telemetry: np.ndarray
) -> None:
    timing = dict(engine.forecast(telemetry.T, "standard").timing_ms)
    total = timing.pop("total")
    assert list(timing) == ["prepare", "retrieval", "forecast", "decision"]
    assert min(timing.values()) >= 0
    assert timing["forecast"] > 0
    assert sum(timing.values()) == pytest.approx(total, abs=1e-6)


class _Slow:
    """The model with 30 ms more per call, and a record of what was asked."""

    def __init__(self, forecaster: FrozenForecaster) -> None:
        self.forecaster, self.asked = forecaster, []

    def forecast_offsets(
        self,
        panel: Panel,
        origins: np.ndarray,
        offsets: Sequence[int],
        configs: Sequence[ForecastConfig],
        horizon: int,
        wanted: Sequence[int] | None = None,
    ) -> np.ndarray:
        sleep(0.03)
        self.asked.append([config.name for config in configs])
        return self.forecaster.forecast_offsets(panel, origins, offsets, configs, horizon, wanted)


def _by_prior(
    priors: TenantExperience, index: WindowIndex, telemetry: np.ndarray, tier: str
) -> list[str]:
    rows, similarity = index.query(telemetry[None, :, -WINDOW:], 3)
    prior = priors.retrieved_prior(rows[0], similarity[0])
    return [
        NAMES[k]
        for k in POLICY.prior_order({"retrieved": prior, "fleet": priors.fleet_prior()}, tier)
    ]


@pytest.mark.parametrize("budget_ms", [0.0, 1e-3])
@pytest.mark.parametrize("tier", TIERS)
def test_the_smallest_budget_buys_the_one_configuration_that_the_prior_likes_best(
    engine: AutoresearchEngine,
    priors: TenantExperience,
    index: WindowIndex,
    telemetry: np.ndarray,
    budget_ms: float,
    tier: str,
) -> None:
    response = engine.forecast(telemetry.T, tier, budget_ms=budget_ms)
    best = _by_prior(priors, index, telemetry, tier)[0]
    assert response.n_evaluated == 1
    assert [candidate.config.name for candidate in response.candidates] == [best]
    assert {config.name for config in response.chosen if config} == {best}
    assert np.isfinite(response.decision).all()


def test_a_small_budget_buys_some_in_the_order_of_their_prior(
    forecaster: FrozenForecaster,
    priors: TenantExperience,
    index: WindowIndex,
    telemetry: np.ndarray,
) -> None:
    slow = _Slow(forecaster)
    response = AutoresearchEngine(slow, POLICY, priors, index, n_neighbours=3).forecast(
        telemetry.T, "standard", budget_ms=100
    )
    order = _by_prior(priors, index, telemetry, "standard")
    asked = [name for names in slow.asked for name in names]
    assert 1 <= response.n_evaluated < len(CONFIGS)
    assert asked == [name for name in order if name in asked]
    assert asked[0] == order[0]


def test_an_ample_budget_changes_nothing(engine: AutoresearchEngine, telemetry: np.ndarray) -> None:
    free, ample = (
        engine.forecast(telemetry.T, "standard", budget_ms=budget) for budget in (None, 1e9)
    )
    assert ample.n_evaluated == len(CONFIGS)
    np.testing.assert_allclose(ample.decision, free.decision, rtol=1e-3)


@pytest.mark.filterwarnings("error")
def test_without_priors_and_index_evidence_alone_decides(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    engine = AutoresearchEngine(forecaster, POLICY)
    for budget in (None, 0.0):
        response = engine.forecast(telemetry.T, "standard", budget_ms=budget)
        assert np.isfinite(response.decision).all()
    assert response.candidates[0].config == CONFIGS[0]


def test_the_callers_array_is_left_alone(
    engine: AutoresearchEngine, forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    """Row 9 of docs/evidence-protocol.md#mistakes-made-impossible: the model's own package
    appends padding to the caller's list.
    """
    single = telemetry[:1].copy()
    single[0, -STEPS] = np.nan
    before = single.tobytes()
    AutoresearchEngine(forecaster, POLICY).forecast(Panel(single), "standard")
    assert single.tobytes() == before
    values = telemetry.T.copy()
    values[-STEPS] = np.nan
    values.setflags(write=False)
    kept = values.tobytes()
    engine.forecast(values, "standard")
    assert values.tobytes() == kept


def test_what_cannot_be_answered_is_refused(
    engine: AutoresearchEngine,
    forecaster: FrozenForecaster,
    priors: TenantExperience,
    index: WindowIndex,
    telemetry: np.ndarray,
) -> None:
    with pytest.raises(ValueError, match="tier is 'gold'; allowed: premium, standard, basic"):
        engine.forecast(telemetry.T, "gold")
    with pytest.raises(ValueError, match="no tier; allowed: premium, standard, basic"):
        engine.forecast_tiers(telemetry.T, ())
    with pytest.raises(ValueError, match="horizon is 30; this policy was fitted for 20 steps"):
        engine.forecast(telemetry.T, "basic", horizon=30)
    for history in (telemetry[:2].T, telemetry, telemetry[0]):
        with pytest.raises(ValueError, match="expected 3 metrics"):
            engine.forecast(history, "basic")
    with pytest.raises(ValueError, match="priors cover 5 tuning tenants, the index 6"):
        AutoresearchEngine(forecaster, POLICY, TenantExperience(priors.losses[1:], IDS[1:]), index)
    with pytest.raises(ValueError, match="both must cover the same tenants in the same order"):
        AutoresearchEngine(forecaster, POLICY, TenantExperience(priors.losses, IDS[::-1]), index)
    with pytest.raises(ValueError, match="priors cover 4 configurations, the policy 2"):
        AutoresearchEngine(forecaster, search_policy(NAMES[:2], OFFSETS, HORIZON), priors, index)


def test_a_fleet_s_own_tiers_are_answered_in_their_place(
    forecaster: FrozenForecaster, telemetry: np.ndarray, index: WindowIndex
) -> None:
    """The tier of an alpha is answered alike whatever it is called, and others are not known. (The
    order of the tiers' decisions is the only thing that one tier has from another.)
    """
    own = {"gold": ALPHAS[0], "iron": ALPHAS[2]}
    known = TenantExperience(
        np.random.default_rng(2).uniform(0.5, 1.5, (N_TUNERS, 3, len(NAMES), 3)), IDS
    )
    of_two = TenantExperience(known.losses[..., [0, 2]], IDS)
    one_tier = POLICY.tiers["premium"]
    policy = POLICY.model_copy(update={"tiers": dict.fromkeys(own, one_tier), "alphas": own})
    theirs = AutoresearchEngine(forecaster, POLICY, known, index, n_neighbours=3)
    mine = AutoresearchEngine(forecaster, policy, of_two, index, n_neighbours=3)
    answers = mine.forecast_tiers(telemetry.T)
    assert list(answers) == ["gold", "iron"]
    for tier, other in (("gold", "premium"), ("iron", "basic")):
        expected = theirs.forecast(telemetry.T, other)
        np.testing.assert_array_equal(answers[tier].quantiles, expected.quantiles)
        assert answers[tier].chosen == expected.chosen
    with pytest.raises(ValueError, match="tier is 'premium'; allowed: gold, iron"):
        mine.forecast(telemetry.T, "premium")
    with pytest.raises(ValueError, match="no tier; allowed: gold, iron"):
        mine.forecast_tiers(telemetry.T, ())
