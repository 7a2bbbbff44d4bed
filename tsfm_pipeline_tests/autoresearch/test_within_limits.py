"""Test that every method keeps within the limits of each series, in the order of deciles and tiers:
baselines, configurations, and the search by every rule, corrected, cold and live.

What belongs here: forecasts of series at and near their limits. What does not: the two rules by
themselves (`evaluation.test_limits`), and stored tables (`steps.test_intermittent_fleet`).
"""

import numpy as np
import pytest

from tsfm_pipeline.autoresearch.calibration import LevelCorrection
from tsfm_pipeline.autoresearch.engine import AutoresearchEngine
from tsfm_pipeline.autoresearch.evidence import forecast_with_evidence
from tsfm_pipeline.autoresearch.policy import PRIOR_KINDS, SearchPolicy
from tsfm_pipeline.autoresearch.rules import RULES
from tsfm_pipeline.baselines import DIRECT_BASELINES
from tsfm_pipeline.evaluation.limits import Limits
from tsfm_pipeline.evaluation.methods import ARIMA_101
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.evaluation.scoring import MethodForecast
from tsfm_pipeline.forecaster import ForecastConfig, Panel
from tsfm_pipeline.forecaster.engine import FrozenForecaster
from tsfm_pipeline_tests.autoresearch.conftest import search_policy

HORIZON, DAY, N_STEPS = 24, 96, 700
OFFSETS = (32, 64, 96)
KINDS = ("ctx64", "ctx256", "ctx240-r5", "ctx64-s1x3", "ctx64-log", "ctx64-logit")
ALPHAS = {"gold": 0.975, **TIERS, "low": 0.2}
"""Also an alpha above the deciles, whose tail is assumed, and one below the median."""
EXTREME = {"base_shift": 3.0, "gain": 4.0, "kappa": 0.0, "half_life": np.inf, "same_hour": 0.0}


def _series() -> dict[str, tuple[np.ndarray, tuple[float | None, float | None]]]:
    """Series [700] at and near their limits, with the limits of each."""
    rng = np.random.default_rng(5)
    steps = np.arange(N_STEPS)
    busy = 600.0 * (steps % 12 == 0) + 0.5 * (steps % 12 == 0) * rng.normal(size=N_STEPS)
    return {
        "zeros": (np.zeros(N_STEPS), (0.0, None)),
        "busy one step in twelve": (busy, (0.0, None)),
        "constant at its highest": (np.full(N_STEPS, 0.1), (0.0, 0.1)),
        "falls to its lowest": (np.where(steps < 600, 80.0, 0.0), (0.0, 100.0)),
        "rises to its highest": (np.where(steps < 600, 5.0, 100.0), (0.0, 100.0)),
        "noise at its lowest": (np.maximum(rng.normal(size=N_STEPS), -0.3), (-0.3, None)),
        "noise between both": (np.clip(rng.normal(size=N_STEPS), -0.3, 0.3), (-0.3, 0.3)),
        "below a highest of zero": (-rng.exponential(size=N_STEPS), (None, 0.0)),
    }


SERIES = _series()
BOUNDS = [bounds for _, bounds in SERIES.values()]
LIMITS = Limits.of(BOUNDS)


def _panel(same_bounds: tuple[float, float] | None = None) -> Panel:
    values = np.stack([values for values, _ in SERIES.values()]).astype(np.float32)
    if same_bounds is None:
        return Panel.of_tenants(values, (DAY,), BOUNDS)
    low, high = same_bounds
    return Panel(np.clip(values, low, high), (DAY,), low, high)


def _require_within(values: np.ndarray, limits: Limits = LIMITS) -> None:
    """values [S, ...] are known, and each series is within its limits."""
    assert np.isfinite(values).all()
    flat = values.reshape(len(values), -1)
    for name, row, low, high in zip(SERIES, flat, limits.lower, limits.upper, strict=True):
        assert low <= row.min(), name
        assert row.max() <= high, name


def _shifted(policy: SearchPolicy, sign: float) -> SearchPolicy:
    """The policy with a level correction far beyond any limit, downwards or upwards."""
    fields = {**EXTREME, "base_shift": sign * EXTREME["base_shift"]}
    correction = LevelCorrection(**fields)
    tier = next(iter(policy.tiers.values())).model_copy(update={"correction": correction})
    return policy.model_copy(update={"tiers": dict.fromkeys(ALPHAS, tier), "alphas": ALPHAS})


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(ARIMA_101, marks=pytest.mark.heavy),
        *sorted(set(DIRECT_BASELINES) - {ARIMA_101}),
    ],
)
def test_every_baseline_forecasts_within_the_limits_of_each_series(name: str) -> None:
    origins = np.tile([450, 605, N_STEPS - 1], (len(SERIES), 1))
    deciles = DIRECT_BASELINES[name](400).forecast(_panel(), origins, HORIZON)
    _require_within(deciles)
    assert (np.diff(deciles, axis=-1) >= 0).all()
    decided = MethodForecast.from_deciles(deciles.swapaxes(0, 1), tuple(ALPHAS.values()))
    emitted = decided.emitted(tuple(ALPHAS.values()), LIMITS)
    _require_within(emitted.decision.swapaxes(0, 1))
    assert (np.diff(emitted.decision, axis=2) <= 0).all()


@pytest.mark.parametrize("bounds", [None, (0.0, 100.0)])
def test_every_kind_of_configuration_forecasts_within_the_limits_of_each_series(
    forecaster: FrozenForecaster, bounds: tuple[float, float] | None
) -> None:
    configs = [ForecastConfig.from_name(name) for name in KINDS]
    panel = _panel(bounds)
    grid = forecaster.forecast_grid(panel, [450, 605, N_STEPS - 1], configs, HORIZON)[..., 1:]
    known = np.isfinite(grid).all(axis=(0, 1, 3, 4))
    scaled = [config.transform != "none" for config in configs]
    assert known.tolist() == [not (bounds is None and scale) for scale in scaled], (
        "a scale needs a bound that all series share"
    )
    _require_within(grid[:, :, known], panel.limits)
    assert (np.diff(grid[:, :, known], axis=-1) >= 0).all()


def test_evidence_above_the_deciles_is_scored_within_the_limits(
    forecaster: FrozenForecaster,
) -> None:
    """A decision that is never exceeded costs 0.025 of what it reserves in vain, and that is at most
    the distance between the limits.
    """
    panel = _panel()
    origins = np.full((len(SERIES), 1), N_STEPS - 1)
    configs = [ForecastConfig.from_name(name) for name in KINDS[:3]]
    _, losses, violations = forecast_with_evidence(
        forecaster, panel, origins, configs, HORIZON, OFFSETS, (0.975,)
    )
    span = (LIMITS.upper - LIMITS.lower)[:, None, None, None, None]
    never = (violations == 0) & np.isfinite(span)
    assert never.any()
    assert (losses <= 0.025 * span * (1 + 1e-5))[never].all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("n_steps", [N_STEPS, 70], ids=["full history", "cold"])
def test_the_search_decides_within_the_limits_by_every_rule_however_far_it_is_corrected(
    forecaster: FrozenForecaster, rule: str, sign: float, n_steps: int
) -> None:
    policy = _shifted(search_policy(KINDS[:3], OFFSETS, HORIZON, season=DAY), sign)
    panel = Panel.of_tenants(_panel().values[:, -n_steps:].copy(), (DAY,), BOUNDS)
    configs = [ForecastConfig.from_name(name) for name in KINDS[:3]]
    alphas = tuple(ALPHAS.values())
    origins = np.full((len(SERIES), 1), n_steps - 1)
    deciles, losses, violations = (
        part[:, 0]
        for part in forecast_with_evidence(
            forecaster, panel, origins, configs, HORIZON, OFFSETS, alphas
        )
    )
    unknown = np.full((len(SERIES), len(configs), len(alphas)), np.nan)
    priors: dict[str, np.ndarray] = dict.fromkeys(PRIOR_KINDS, unknown)
    for correct in (True, False):
        decided = policy.decide(
            deciles, losses, violations, priors, unknown, rule, correct, limits=panel.limits
        )
        _require_within(decided.decision)
        _require_within(decided.deciles)
        assert (np.diff(decided.decision, axis=1) <= 0).all()
        assert (np.diff(decided.deciles, axis=-1) >= -1e-6).all()
    loose = policy.decide(deciles, losses, violations, priors, unknown, rule)
    assert (loose.decision < LIMITS.lower[:, None, None]).any() or (
        loose.decision > LIMITS.upper[:, None, None]
    ).any(), "without limits these corrections lead beyond them"


def test_a_live_request_is_answered_within_the_limits_of_its_history(
    forecaster: FrozenForecaster,
) -> None:
    policy = search_policy(KINDS[:3], OFFSETS, HORIZON, season=DAY)
    for sign in (-1.0, 1.0):
        engine = AutoresearchEngine(forecaster, _shifted(policy, sign))
        for response in engine.forecast_tiers(_panel()).values():
            _require_within(response.decision.T)
            _require_within(response.quantiles.swapaxes(0, 1))
