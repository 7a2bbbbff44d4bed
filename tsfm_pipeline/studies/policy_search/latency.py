"""Latency of one request, predicted from its tokens, so that an experiment needs no clock.

What belongs here: counting the tokens of a request, the measured line of milliseconds over tokens,
and measuring it. What does not: the budget (`yardstick`), and the true latency of one fleet's
requests (`reports.latency`).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict

from tsfm_pipeline.archetypes.features import window_features
from tsfm_pipeline.archetypes.index import WindowIndex
from tsfm_pipeline.autoresearch import portfolio
from tsfm_pipeline.autoresearch.calibration import LevelCorrection
from tsfm_pipeline.autoresearch.engine import AutoresearchEngine
from tsfm_pipeline.autoresearch.evidence import GridForecaster
from tsfm_pipeline.autoresearch.gate import trait_names
from tsfm_pipeline.autoresearch.policy import SearchPolicy, TierPolicy
from tsfm_pipeline.autoresearch.priors import TenantExperience
from tsfm_pipeline.autoresearch.rules import Gate
from tsfm_pipeline.autoresearch.space import validation_offsets
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.forecaster.config import ForecastConfig
from tsfm_pipeline.forecaster.panel import Panel
from tsfm_pipeline.settings import EvaluationSettings
from tsfm_pipeline.studies.policy_search.policy import DEFAULT

DAY, WEEK, HORIZON = 1440, 10_080, 60
HISTORY_DAYS = 30
N_HISTORIES = 8
N_TUNERS = 50
"""Tenants that the timed requests retrieve from."""
N_REQUESTS = 40
WARM_UP = 5
SIZES = ((4, 1), (4, 2), (4, 4), (4, 8), (4, 16), (12, 4), (12, 8), (20, 4), (20, 8))
"""Metrics and configurations of the timed requests. The largest have more tokens than any request
of the fleets that come with the distribution."""
QUANTILES = (0.5, 0.95)

Answer = Callable[[AutoresearchEngine, Panel, str], float]
"""Answers one request at one tier and returns how many milliseconds it took."""


class Line(BaseModel):
    """Milliseconds of one request: `fixed_ms + ms_per_token * tokens`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fixed_ms: float
    ms_per_token: float

    def ms(self, tokens: float) -> float:
        """Return the milliseconds of a request with this many tokens."""
        return self.fixed_ms + self.ms_per_token * tokens


class LatencyLine(BaseModel):
    """The measured lines of the median and the 95 % quantile of a request's latency.

    machine: the device that they were measured on; they say nothing about another one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    p50: Line
    p95: Line
    machine: str

    def predict(self, tokens: float) -> tuple[float, float]:
        """Return the median and the 95 % quantile of the latency of a request with this many
        tokens, in milliseconds.
        """
        return self.p50.ms(tokens), self.p95.ms(tokens)


def request_tokens(candidates: Sequence[str], offsets: Sequence[int], n_metrics: int) -> int:
    """Return the tokens that one request sends through the model: those of every configuration's
    shared passes over the request and its validation origins, for each metric.

    candidates: names of the portfolio's configurations. offsets: the validation origins in steps
    before the request, ascending. A request with too short a history for a shared pass takes more.
    """
    configs = [ForecastConfig.from_name(name) for name in candidates]
    return n_metrics * int(portfolio.request_tokens(configs, offsets).sum())


def fit_line(tokens: ArrayLike, ms: ArrayLike) -> Line:
    """Return the least-squares line of milliseconds [P] over tokens [P].

    Raises ValueError for fewer than two different numbers of tokens, and if the time does not grow
    with the tokens: the machine was too busy to measure.
    """
    x, y = np.asarray(tokens, dtype=np.float64), np.asarray(ms, dtype=np.float64)
    centred = x - x.mean()
    spread = float(centred @ centred)
    if not spread:
        raise ValueError(f"a line needs requests of different sizes; all have {x[0]:.0f} tokens")
    slope = float(centred @ y) / spread
    if not slope > 0:
        raise ValueError(
            f"latency does not grow with a request's tokens ({slope:.3g} ms per token over "
            f"{x.min():.0f} to {x.max():.0f} tokens): the machine was too busy to measure; "
            "prepare again when it is quiet"
        )
    return Line(fixed_ms=float(y.mean()) - slope * float(x.mean()), ms_per_token=slope)


def measured_ms(engine: AutoresearchEngine, history: Panel, tier: str) -> float:
    """Answer one request and return how many milliseconds it took."""
    return engine.forecast(history, tier).timing_ms["total"]


def measure_line(
    forecaster: GridForecaster,
    machine: str,
    *,
    sizes: Sequence[tuple[int, int]] = SIZES,
    n_requests: int = N_REQUESTS,
    answer: Answer = measured_ms,
) -> LatencyLine:
    """Time requests of different sizes and return the lines through their quantiles.

    Requests are made of random daily series at one-minute steps, with the default schedule and
    retrieval among `N_TUNERS` tenants. Constants are neutral, because decisions do not change the
    latency. All sizes take turns, so that a slow minute of the machine slows each of them. sizes:
    (metrics, configurations) of each. n_requests: timed requests of each size, warm-up excluded.
    Raises as `fit_line` does.
    """
    timed = [_requests(forecaster, *size) for size in sizes]
    tokens = [
        request_tokens(request.engine.policy.portfolio, request.engine.policy.offsets, n_metrics)
        for request, (n_metrics, _) in zip(timed, sizes, strict=True)
    ]
    ms: NDArray[np.float64] = np.empty((WARM_UP + n_requests, len(sizes)))
    for i in range(len(ms)):
        for j, request in enumerate(timed):
            tiers = list(request.engine.policy.alphas)
            history = request.histories[i % len(request.histories)]
            ms[i, j] = answer(request.engine, history, tiers[i % len(tiers)])
    p50, p95 = (fit_line(tokens, row) for row in np.quantile(ms[WARM_UP:], QUANTILES, axis=0))
    return LatencyLine(p50=p50, p95=p95, machine=machine)


class _Requests(NamedTuple):
    engine: AutoresearchEngine
    histories: list[Panel]


def _requests(forecaster: GridForecaster, n_metrics: int, n_configs: int) -> _Requests:
    """Return an engine over configurations that are spread evenly over the default search space,
    and histories that are long enough for each of them.
    """
    rng = np.random.default_rng((EvaluationSettings().seed, n_metrics))
    long = np.stack(list(_daily_series(rng, N_HISTORIES, n_metrics, HISTORY_DAYS * DAY)))
    histories = [Panel(values, seasons=(DAY, WEEK), lower=0.0) for values in long]
    offsets = validation_offsets(DEFAULT, HORIZON, DAY)
    names = _spread(_usable(histories[0], offsets), n_configs)
    ids = [f"tenant-{n}" for n in range(N_TUNERS)]
    shape = (N_TUNERS, n_metrics, n_configs, len(_policy(names, offsets).alphas))
    known = TenantExperience(
        rng.uniform(0.5, 1.5, shape), np.array(ids), rng.uniform(0.1, 0.4, shape)
    )
    tuners = np.stack(list(_daily_series(rng, N_TUNERS, n_metrics, DAY)))
    features = window_features(tuners, np.zeros((N_TUNERS, 1), dtype=np.int64), DAY)
    index = WindowIndex.fit(features, ids, None, DAY)
    return _Requests(
        AutoresearchEngine(forecaster, _policy(names, offsets), known, index), histories
    )


def _usable(history: Panel, offsets: Sequence[int]) -> list[str]:
    """Return the default candidates that every validation origin of a history has room for."""
    reach = history.n_steps - max(offsets)
    return [
        name
        for name in DEFAULT.candidates
        if ForecastConfig.from_name(name).lookback(history.seasons) <= reach
    ]


def _spread(names: Sequence[str], n: int) -> tuple[str, ...]:
    """Return n of the names, evenly spread over them."""
    return tuple(names[len(names) * i // n] for i in range(n))


def _policy(names: tuple[str, ...], offsets: tuple[int, ...]) -> SearchPolicy:
    """Return a policy with neutral constants that decides by the rule that takes longest, the gate,
    and corrects its level.
    """
    common: dict[str, Any] = {"kappa": 4.0, "half_life": float("inf"), "same_hour": 0.0}
    gate = Gate(
        prior="retrieved",
        coefficients=dict.fromkeys(trait_names(offsets, DAY), -1.0),
        intercepts=(0.0,) * len(names),
        **common,
    )
    correction = LevelCorrection(base_shift=0.0, gain=0.25, **common)
    tier = TierPolicy(
        rules={"gate": gate},
        default="gate",
        correction=correction,
        fixed_config=0,
        fixed_correction=correction,
        figures={},
    )
    return SearchPolicy(
        portfolio=names,
        offsets=offsets,
        horizon=HORIZON,
        season=DAY,
        tiers=dict.fromkeys(TIERS, tier),
    )


def _daily_series(
    rng: np.random.Generator, n: int, n_metrics: int, n_steps: int
) -> Iterator[NDArray[np.float32]]:
    """Yield n tenants' random series [D, T], non-negative, with a daily cycle."""
    hours = 2 * np.pi * np.arange(n_steps) / DAY
    for _ in range(n):
        phase = rng.uniform(0, 2 * np.pi, (n_metrics, 1))
        noise = rng.normal(0.0, 0.1, (n_metrics, n_steps))
        yield np.maximum(1.0 + 0.5 * np.cos(hours - phase) + noise, 0.0).astype(np.float32)
