"""A small search bundle for the bundled model, fitted to nothing.

What belongs here: the bundle, and telemetry that fits it. What does not: the tests.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tsfm_pipeline.archetypes.features import retrieval_features
from tsfm_pipeline.archetypes.index import WindowIndex
from tsfm_pipeline.autoresearch.bundle import (
    BundleFacts,
    Checkpoint,
    FittedSearch,
    FixedChoice,
    Member,
    SearchBundle,
)
from tsfm_pipeline.autoresearch.priors import TenantExperience
from tsfm_pipeline.evaluation.protocol import PROTOCOL, TIERS
from tsfm_pipeline.forecaster.registry import checkpoint_digest
from tsfm_pipeline_tests.autoresearch.conftest import search_policy

PORTFOLIO = ("ctx64", "ctx128", "ctx256", "ctx96-s1x2")
METRICS = ("cpu_util", "net_bytes")
HORIZON, STEP, SEASON = 24, 15.0, 96
OFFSETS, WINDOW = (24, 48, 96), 192
TUNERS, TESTED = ("a", "b", "c"), ("d", "e")


def fitted(portfolio: Sequence[str], fixed: FixedChoice, seed: int = 0) -> FittedSearch:
    """A search with random experience of its tuners."""
    rng = np.random.default_rng(seed)
    shape = (len(TUNERS), len(METRICS), len(portfolio), len(TIERS))
    windows = rng.normal(size=(len(TUNERS), len(METRICS), WINDOW)).astype(np.float32).cumsum(-1)
    index = WindowIndex.fit(retrieval_features(windows)[:, None], TUNERS, None, WINDOW)
    experience = TenantExperience(
        rng.uniform(0.5, 1.5, shape), index.index.tenant_ids, rng.uniform(size=shape)
    )
    policy = search_policy(portfolio, OFFSETS, HORIZON)
    return FittedSearch(
        policy, dict.fromkeys(TIERS, fixed), experience, index, np.array(TESTED, dtype=np.str_)
    )


def small_bundle(
    portfolio: Sequence[str] = PORTFOLIO,
    fixed: str = "ctx96-s1x2",
    stand_in: str = "ctx128",
    sha256: str | None = None,
    **facts: Any,
) -> SearchBundle:
    """A bundle of one search: fifteen-minute steps, a season of a day, two metrics."""
    given = {
        "fleet": "small",
        "metrics": METRICS,
        "step_minutes": STEP,
        "horizon": HORIZON,
        "seasons": (SEASON,),
        "bounds": {"cpu_util": (0.0, 1.0), "net_bytes": (0.0, None)},
        "max_gap": 8,
        "protocol": PROTOCOL,
        "checkpoint": Checkpoint(
            name="bundled", sha256=sha256 or checkpoint_digest("bundled"), dtype="float32"
        ),
        "offsets": OFFSETS,
        "members": tuple(Member(name=name) for name in portfolio),
        "n_neighbours": 2,
    }
    search = fitted(portfolio, FixedChoice(member=fixed, stand_in=stand_in))
    return SearchBundle(BundleFacts(**given | facts), {0: search}, search)


def telemetry(n_steps: int, seed: int = 3) -> np.ndarray:
    """One tenant's metrics, float32 [2, n_steps], of very different units."""
    rng = np.random.default_rng(seed)
    steps = np.arange(n_steps)
    share = 0.4 + 0.2 * np.sin(2 * np.pi * steps / SEASON) + 0.02 * rng.normal(size=n_steps)
    rate = 3e6 + 1e5 * rng.normal(size=n_steps).cumsum()
    return np.stack([share, rate]).astype(np.float32)
