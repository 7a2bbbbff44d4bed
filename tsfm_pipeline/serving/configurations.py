"""The configuration with which the local model forecasts a series.

What belongs here: the choice between a bundle's fixed configuration, its stand-in, and a plain
context; how much history each needs. What does not: choosing a configuration by evidence (the
search, `autoresearch`), and forecasting (`local`).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tsfm_pipeline.autoresearch.bundle import BundleFacts, SearchBundle
from tsfm_pipeline.forecaster.config import PATCH_LEN, ForecastConfig
from tsfm_pipeline.forecaster.panel import Panel
from tsfm_pipeline.forecaster.plan import LONGEST_PASS, OUTPUT_PATCH_LEN, decode_steps
from tsfm_pipeline.forecaster.transforms import LARGEST_VALUE
from tsfm_pipeline.serving.runtimes import Query


@dataclass(frozen=True)
class Setup:
    """How a series is forecast; series with equal setups can share a batch.

    seasons, max_gap: of the panel. lower, upper: of the panel too, but only where the
    configuration's scale needs them; None otherwise. asked: steps of history that the
    configuration looks at.
    """

    config: ForecastConfig
    horizon: int
    asked: int
    seasons: tuple[int, ...] = ()
    max_gap: int | None = None
    lower: float | None = None
    upper: float | None = None


class Configurations:
    """The choice of a configuration per series.

    On the bundle's time step: the live search's fixed configuration of the tier nearest to the
    median, or its stand-in where the history cannot fill it. Otherwise, and without a bundle: the
    longest plain context that fits, in whole patches where it has more than one, so that few
    different ones occur.
    """

    def __init__(self, bundle: SearchBundle | None = None) -> None:
        self._facts: BundleFacts | None = None if bundle is None else bundle.facts
        choice = None if bundle is None else bundle.median_choice
        names = () if choice is None else (choice.member, choice.stand_in)
        self.fixed = tuple(ForecastConfig.from_name(name) for name in names)

    def setup_of(self, query: Query, context_limit: int) -> Setup:
        """Return the setup of a query; context_limit: points that the model can take, those of the
        forecast included.
        """
        n_steps, horizon, facts = len(query.values), query.horizon, self._facts
        if facts is None or facts.step_minutes != query.freq:
            config = plain_context(n_steps, horizon, context_limit)
            return Setup(config, horizon, config.context_len)
        for config in self.fixed:
            if _points(config, horizon) > context_limit:
                continue
            lower, upper = _bounds(config, query)
            needed = steps_needed(config, horizon, facts.seasons, lower, upper)
            if needed is not None and needed <= n_steps:
                return Setup(config, horizon, needed, facts.seasons, facts.max_gap, lower, upper)
        config = plain_context(n_steps, horizon, context_limit)
        return Setup(config, horizon, config.context_len, facts.seasons, facts.max_gap)

    def lookback(self, horizon: int) -> int:
        """Return how many steps of history the fixed configurations look at; 0 without a bundle."""
        if self._facts is None:
            return 0
        seasons = self._facts.seasons
        needed = (steps_needed(config, horizon, seasons, 0.0, 1.0) for config in self.fixed)
        return max((steps for steps in needed if steps is not None), default=0)


def _bounds(config: ForecastConfig, query: Query) -> tuple[float | None, float | None]:
    """Return the bounds that a configuration's scale needs: none without a transform, and none for
    values that are too large for a transform in float32, so that it is not available.
    """
    if config.transform == "none" or np.abs(query.values).max() > LARGEST_VALUE:
        return None, None
    return query.lower, query.upper


@lru_cache(maxsize=1024)
def steps_needed(
    config: ForecastConfig,
    horizon: int,
    seasons: tuple[int, ...],
    lower: float | None,
    upper: float | None,
) -> int | None:
    """Return how many steps of unbroken history a configuration needs; None where it cannot
    forecast a panel with these seasons and bounds at this horizon.
    """
    one_step = Panel(np.zeros((1, 1), dtype=np.float32), seasons, lower, upper)
    representation = one_step.representation(config, horizon)
    return None if representation is None else config.context_len + representation.lead


def plain_context(n_steps: int, horizon: int, context_limit: int) -> ForecastConfig:
    """Return the longest plain context that a history of that many steps fills."""
    longest = context_limit - decode_steps(_context(PATCH_LEN), horizon) * OUTPUT_PATCH_LEN
    n_points = max(1, min(n_steps, longest, LONGEST_PASS))
    return _context(n_points - n_points % PATCH_LEN if n_points > PATCH_LEN else n_points)


@lru_cache(maxsize=1024)
def _context(n_points: int) -> ForecastConfig:
    return ForecastConfig(context_len=n_points)


def _points(config: ForecastConfig, horizon: int) -> int:
    """Return the points that the model takes: context and forecast, in whole patches."""
    return config.n_tokens * PATCH_LEN + decode_steps(config, horizon) * OUTPUT_PATCH_LEN
