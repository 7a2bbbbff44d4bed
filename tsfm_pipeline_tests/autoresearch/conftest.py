"""Provide a small frozen model with random weights, telemetry, and policies for the search."""

from collections.abc import Sequence

import numpy as np
import pytest

from tsfm_pipeline.autoresearch.calibration import LevelCorrection
from tsfm_pipeline.autoresearch.gate import trait_names
from tsfm_pipeline.autoresearch.policy import SearchPolicy, TierPolicy
from tsfm_pipeline.autoresearch.rules import (
    Argmin,
    Gate,
    NoHarm,
    ShrunkenArgmin,
    Softmax,
    TiltedEnsemble,
    TopM,
)
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.forecaster import load_forecaster
from tsfm_pipeline.forecaster.engine import FrozenForecaster
from tsfm_pipeline_tests.forecaster.conftest import random_module, save_checkpoint

N_STEPS = 700


@pytest.fixture(scope="session")
def forecaster(tmp_path_factory: pytest.TempPathFactory) -> FrozenForecaster:
    return load_forecaster(
        save_checkpoint(tmp_path_factory.mktemp("search") / "checkpoint", random_module()),
        device="cpu",
    )


@pytest.fixture(scope="session")
def telemetry() -> np.ndarray:
    """Three metrics of one tenant [3, 700], of very different units."""
    rng = np.random.default_rng(3)
    steps = np.arange(N_STEPS)
    share = 0.3 + 0.2 * np.sin(2 * np.pi * steps / 96) + 0.02 * rng.normal(size=N_STEPS)
    bytes_per_second = 3e6 + 1e5 * rng.normal(size=N_STEPS).cumsum()
    bursts = 2 + rng.exponential(size=N_STEPS) * (rng.random(N_STEPS) < 0.1)
    return np.stack([share, bytes_per_second, bursts]).astype(np.float32)


def search_policy(
    portfolio: Sequence[str],
    offsets: Sequence[int],
    horizon: int,
    *,
    temperature: float = 0.05,
    kappa: float = 4.0,
    gain: float = 0.25,
    default: str = "softmax",
    season: int | None = None,
) -> SearchPolicy:
    """A policy with the same constants at every tier, every rule, and the retrieved prior; all
    validation origins count alike.
    """
    common = {"prior": "retrieved", "half_life": np.inf, "same_hour": 0.0}
    shrunken = common | {"kappa": kappa}
    coefficients = {name: -1.0 - 0.1 * i for i, name in enumerate(trait_names(offsets, season))}
    base = (1.0, *(0.0 for _ in portfolio[1:]))
    rules = {
        "argmin": Argmin(**common),
        "shrunken_argmin": ShrunkenArgmin(**shrunken),
        "no_harm": NoHarm(**shrunken, margin=0.1, fixed=0),
        "top_m": TopM(**shrunken, m=2),
        "softmax": Softmax(**shrunken, temperature=temperature),
        "tilted_ensemble": TiltedEnsemble(**shrunken, temperature=0.2, epsilon=0.1, base=base),
        "gate": Gate(
            **shrunken,
            coefficients=coefficients,
            intercepts=tuple(0.1 * k for k in range(len(portfolio))),
        ),
    }
    correction = LevelCorrection(
        base_shift=0.0, gain=gain, kappa=0.0, half_life=np.inf, same_hour=0.0
    )
    tier = TierPolicy(
        rules=rules,
        default=default,
        correction=correction,
        fixed_config=0,
        fixed_correction=correction,
        figures={},
    )
    return SearchPolicy(
        portfolio=tuple(portfolio),
        offsets=tuple(offsets),
        horizon=horizon,
        season=season,
        tiers=dict.fromkeys(TIERS, tier),
    )
