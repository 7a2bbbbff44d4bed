"""Measure the latency of one request, stage by stage, and how much faster its search is than
separate calls of the `timesfm` package.

`python benchmarks/request_latency.py [--quick] [--dtype bfloat16]` prints one JSON object.

`k8` and `k32` time `AutoresearchEngine.forecast` from the history array to the decision: 4 metrics,
the settings' validation schedule, candidates spread evenly over the search space, and retrieval
among 50 tenants. The result has p50, p95 and p99, with bootstrap intervals of p50 and p95.

`search` times K = 8 contexts of 512 to 4,096 points at J = 16 validation origins, and K x (J + 1)
calls of the package. Each call forecasts the 4 series at one origin. The package is compiled (in
its own sense) for exactly that context and batch, without flip invariance and continuous head. The
two alternate, and the ratio is the median over neighbouring runs.

Histories are synthetic and in memory. The policy has neutral constants, because its decisions do
not change the latency.

What belongs here: the measurement. What does not: the latency of a fleet's own portfolio, which is
an asset (`reports.latency.numbers`).
"""

import argparse
import json
import statistics
import sys
import time
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from measuring import (
    HORIZON,
    PLAIN,
    package_forecaster,
    package_module,
    ran_on,
    ratios,
    seconds,
    spread,
    telemetry,
)
from numpy.typing import NDArray

from tsfm_pipeline.archetypes.features import window_features
from tsfm_pipeline.archetypes.index import WindowIndex
from tsfm_pipeline.autoresearch import AutoresearchEngine, SearchPolicy
from tsfm_pipeline.autoresearch.calibration import LevelCorrection
from tsfm_pipeline.autoresearch.policy import TierPolicy
from tsfm_pipeline.autoresearch.priors import TenantExperience
from tsfm_pipeline.autoresearch.rules import Softmax
from tsfm_pipeline.autoresearch.space import candidates, validation_offsets
from tsfm_pipeline.evaluation.protocol import PROTOCOL
from tsfm_pipeline.forecaster import Panel
from tsfm_pipeline.forecaster.allocator import keep_large_buffers
from tsfm_pipeline.forecaster.engine import DTYPES, FrozenForecaster, load_forecaster
from tsfm_pipeline.settings import SearchSettings

DAY, WEEK = 1440, 10_080
N_TUNERS, N_TENANTS = 50, 60
INDEX_WINDOW = DAY
SEARCH_CONTEXTS = (512, 768, 1024, 1536, 2048, 2560, 3072, 4096)
SEARCH_OFFSETS = tuple(160 * (i + 1) for i in range(16))
CALLS_PER_REPEAT = 5
WARM_UP = 5
SEED = 0


def search_engine(
    forecaster: FrozenForecaster,
    values: NDArray[np.float32],
    names: tuple[str, ...],
    offsets: tuple[int, ...],
) -> AutoresearchEngine:
    """Return an engine with neutral constants over these configurations. It retrieves from the
    first tenants of values [N, D, T].
    """
    common: dict[str, Any] = {"kappa": 4.0, "half_life": float("inf"), "same_hour": 0.0}
    correction = LevelCorrection(base_shift=0.0, gain=0.25, **common)
    rule = Softmax(prior="retrieved", temperature=0.05, **common)
    tier = TierPolicy(
        rules={"softmax": rule},
        default="softmax",
        correction=correction,
        fixed_config=0,
        fixed_correction=correction,
        figures={},
    )
    policy = SearchPolicy(
        portfolio=names,
        offsets=offsets,
        horizon=HORIZON,
        season=DAY,
        tiers=dict.fromkeys(PROTOCOL.tiers, tier),
    )
    ids = [f"tenant-{n}" for n in range(N_TUNERS)]
    rng = np.random.default_rng(SEED)
    shape = (N_TUNERS, values.shape[1], len(names), len(PROTOCOL.tiers))
    known = TenantExperience(
        rng.uniform(0.5, 1.5, shape), np.array(ids), rng.uniform(0.1, 0.4, shape)
    )
    starts = np.full((N_TUNERS, 1), values.shape[2] - INDEX_WINDOW)
    index = WindowIndex.fit(
        window_features(values[:N_TUNERS], starts, INDEX_WINDOW), ids, None, INDEX_WINDOW
    )
    return AutoresearchEngine(forecaster, policy, known, index)


def usable_names(history: Panel, settings: SearchSettings) -> list[str]:
    """Return the names of the candidate configurations that can forecast from a history."""
    return [
        config.name
        for config in candidates(settings)
        if history.representation(config, HORIZON) is not None
    ]


def histories(values: NDArray[np.float32]) -> list[Panel]:
    """Return one history of every tenant outside the retrieval set, each ending at a different
    minute.
    """
    ends = values.shape[2] - 97 * np.arange(len(values) - N_TUNERS)
    return [
        Panel(tenant[:, :end].copy(), seasons=(DAY, WEEK), lower=0.0)
        for tenant, end in zip(values[N_TUNERS:], ends.tolist(), strict=True)
    ]


def stages(
    engine: AutoresearchEngine, requests: list[Panel], n_timed: int
) -> dict[str, dict[str, float]]:
    """Return the quantiles of every stage over requests taken in turn, with 95 % bootstrap
    intervals of p50 and p95.
    """
    samples: dict[str, list[float]] = {}
    for i, request in enumerate(islice(cycle(requests), WARM_UP + n_timed)):
        timing = engine.forecast(request, list(PROTOCOL.tiers)[i % len(PROTOCOL.tiers)]).timing_ms
        if i >= WARM_UP:
            for stage, ms in timing.items():
                samples.setdefault(stage, []).append(ms)
    return {stage: quantiles(np.array(ms)) for stage, ms in samples.items()}


def quantiles(ms: NDArray[np.float64]) -> dict[str, float]:
    """Return p50, p95 and p99 of samples, and intervals of the first two."""
    draws = np.random.default_rng(SEED).choice(ms, size=(1_000, len(ms)))
    figures = {f"p{q}_ms": float(np.quantile(ms, q / 100)) for q in (50, 95, 99)}
    for q in (50, 95):
        low, high = np.quantile(np.quantile(draws, q / 100, axis=1), [0.025, 0.975])
        figures |= {f"p{q}_low_ms": float(low), f"p{q}_high_ms": float(high)}
    return {name: round(value, 2) for name, value in figures.items()}


def separate_calls(module: torch.nn.Module, history: Panel) -> list[NDArray[np.float32]]:
    """Run a search with the package: one forecast of the D series per context and origin."""
    results = []
    for context_len in SEARCH_CONTEXTS:
        package = package_forecaster(module, context_len, history.n_series, PLAIN)
        for offset in (0, *SEARCH_OFFSETS):
            end = history.n_steps - offset
            results.append(
                package.forecast(HORIZON, list(history.values[:, end - context_len : end]))[1]
            )
    return results


def beside_the_package(
    forecaster: FrozenForecaster,
    module: torch.nn.Module,
    values: NDArray[np.float32],
    requests: list[Panel],
    repeats: int,
) -> dict[str, Any]:
    """Run the same search alternately through the engine and through separate calls. Return the
    ratio and the seconds per search.
    """
    engine = search_engine(
        forecaster, values, tuple(f"ctx{length}" for length in SEARCH_CONTEXTS), SEARCH_OFFSETS
    )
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    for i in range(-1, repeats):
        request = requests[i % len(requests)]
        own = [
            seconds(lambda request=request: engine.forecast(request, "standard"))
            for _ in range(CALLS_PER_REPEAT)
        ]  # type: ignore[misc]
        package = seconds(lambda request=request: separate_calls(module, request))  # type: ignore[misc]
        if i >= 0:  # the first round only warms up both
            ours.append(
                (
                    statistics.median(wall for wall, _ in own),
                    statistics.median(cpu for _, cpu in own),
                )
            )
            theirs.append(package)
    return {
        "contexts": SEARCH_CONTEXTS,
        "n_validation_origins": len(SEARCH_OFFSETS),
        "n_package_calls": len(SEARCH_CONTEXTS) * (1 + len(SEARCH_OFFSETS)),
        "ratio_to_package": ratios(theirs, ours, 0),
        "processor_time_ratio_to_package": ratios(theirs, ours, 1),
        "engine_s": spread([wall for wall, _ in ours]),
        "package_s": spread([wall for wall, _ in theirs]),
        "repeats": repeats,
    }


def measure(
    checkpoint: str,
    dtype: str,
    quick: bool,
    repeats: int,
    requests: int,
    threads: int | None,
    matrix_product: str,
) -> dict[str, object]:
    """Measure latency at both sizes, then compare the search with the package."""
    forecaster = load_forecaster(
        checkpoint, device="cpu", dtype=dtype, n_threads=threads, matrix_product=matrix_product
    )
    values = telemetry(N_TENANTS)
    request_histories = histories(values)
    settings = SearchSettings()
    offsets = validation_offsets(settings, HORIZON, DAY)
    usable = usable_names(request_histories[0], settings)
    n_requests, repeats = (20, 1) if quick else (requests, repeats)
    started = time.perf_counter()
    result: dict[str, object] = {"benchmark": "request_latency"}
    for k in (8, 32):
        names = tuple(usable[i] for i in np.linspace(0, len(usable) - 1, k).round().astype(int))
        result[f"k{k}"] = {
            "stages": stages(
                search_engine(forecaster, values, names, offsets), request_histories, n_requests
            ),
            "portfolio": names,
        }
    result["search"] = beside_the_package(
        forecaster, package_module(checkpoint), values, request_histories, repeats
    )
    return result | {
        "n_requests": n_requests,
        "n_metrics": values.shape[1],
        "offsets": offsets,
        "horizon": HORIZON,
        "checkpoint": forecaster.checkpoint.name,
        "n_parameters": forecaster.checkpoint.n_parameters,
        "dtype": dtype,
        "token_budget": forecaster.token_budget,
        "matrix_product": forecaster.decoder.product,
        "wall_s": round(time.perf_counter() - started, 1),
        **ran_on(),
    }


def main() -> int:
    """Measure with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a quick look: 20 requests per size and one repeat"
    )
    parser.add_argument(
        "--checkpoint", default="bundled", help="checkpoint name or folder, as in load_forecaster"
    )
    parser.add_argument("--dtype", default="float32", choices=list(DTYPES))
    parser.add_argument(
        "--matrix-product",
        default="auto",
        choices=["auto", "loops", "onednn", "float32"],
        help="what multiplies the engine's matrices (TSFM_MATRIX_PRODUCT)",
    )
    parser.add_argument("--requests", type=int, default=500, help="timed requests per size")
    parser.add_argument(
        "--repeats", type=int, default=5, help="repeats of the comparison with the package"
    )
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    keep_large_buffers()
    print(json.dumps(measure(**vars(options))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
