"""Latency: what one request costs from history array to decision, by the number of candidate configurations.

What belongs here: which requests are timed, warm-up, and the contents of `latency_report`. What does not: the request path
(`autoresearch.engine`).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch.engine import AutoresearchEngine
from tsfm_pipeline.autoresearch.policy import SearchPolicy
from tsfm_pipeline.forecaster.config import ForecastConfig
from tsfm_pipeline.forecaster.panel import Panel
from tsfm_pipeline.settings import LATENCY_BUDGET_MS, TIERS
from tsfm_pipeline.stages.archetypes import window_index
from tsfm_pipeline.stages.forecasts import read_policies
from tsfm_pipeline.stages.policies import experience, folds_and_tuners
from tsfm_pipeline.workspace import Fleet

WARM_UP_REQUESTS = 5
QUANTILES = {"p50_ms": 0.50, "p95_ms": 0.95, "p99_ms": 0.99}
BOOTSTRAP_DRAWS = 1_000


def build_engine(fleet: Fleet, forecaster: Any, fold: int) -> AutoresearchEngine:
    """The engine that answers the fold's test tenants exactly as the batch path does."""
    tuners = dict(folds_and_tuners(fleet))[fold]
    return AutoresearchEngine(
        forecaster,
        read_policies(fleet)[fold],
        experience(fleet, tuners),
        window_index(fleet, fold, "request"),
        n_neighbours=fleet.settings.search.neighbours,
    )


def latency_report(fleet: Fleet, forecaster: Any) -> dict[str, Any]:
    """Time requests at every K: the portfolio's K with its policy and priors, the other sizes on the same path without priors.

    The portfolio's K gets `latency_requests` timed requests, every other size a tenth of them (at least 20); warm-up excluded. Sizes
    beyond the configurations that `search.latency_portfolio` lists are left out.
    """
    evaluation = fleet.settings.evaluation
    requests = _histories(fleet)
    fold = min(read_policies(fleet))
    engine = build_engine(fleet, forecaster, fold)
    portfolio_size = len(engine.configs)
    rows: list[dict[str, Any]] = []
    report: dict[str, Any] = {
        "fleet": fleet.name,
        "device": _device_name(forecaster),
        "dtype": fleet.settings.dtype,
        "checkpoint": forecaster.checkpoint.name,
        "n_parameters": forecaster.checkpoint.n_parameters,
        "n_metrics": len(fleet.grid.metrics),
        "n_validation_origins": len(fleet.offsets),
        "budget_ms": LATENCY_BUDGET_MS,
        "portfolio_size": portfolio_size,
    }
    sizes = {k for k in evaluation.latency_sizes if k <= len(fleet.settings.search.latency_portfolio)}
    for k in sorted(sizes | {portfolio_size}):
        sized = engine if k == portfolio_size else _resized(engine, fleet.settings.search.latency_portfolio[:k])
        n_timed = evaluation.latency_requests if k == portfolio_size else max(20, evaluation.latency_requests // 10)
        timings = _time(sized, requests, n_timed)
        report[f"k{k}_n_requests"] = n_timed
        for stage, samples in timings.items():
            row = {"k": k, "stage": stage, **_summary(samples, evaluation.seed)}
            rows.append(row)
            if stage == "total":
                report[f"k{k}_p50_latency_ms"] = row["p50_ms"]
                report[f"k{k}_p95_latency_ms"] = row["p95_ms"]
                report[f"k{k}_p95_low_ms"] = row["p95_low_ms"]
                report[f"k{k}_p95_high_ms"] = row["p95_high_ms"]
                report[f"k{k}_p99_latency_ms"] = row["p99_ms"]
    totals = {row["k"]: row["p95_ms"] for row in rows if row["stage"] == "total"}
    report["n_requests"] = report[f"k{portfolio_size}_n_requests"]
    report["largest_k_within_budget"] = max((k for k, p95 in totals.items() if p95 <= LATENCY_BUDGET_MS), default=0)
    report["table_latency"] = rows
    return report


def _histories(fleet: Fleet) -> list[Panel]:
    """History panels of the valid test requests of the first fold's tenants, in one shard's memory."""
    for shard in fleet.shards:
        requests = fleet.requests("test", shard)
        pairs = np.argwhere(requests.valid)
        if len(pairs):
            values = fleet.values(shard)
            return [
                fleet.panel(np.ascontiguousarray(values[requests.rows[n] : requests.rows[n] + 1, :, : requests.origins[n, o] + 1]))
                for n, o in pairs[np.argsort(pairs[:, 1], kind="stable")][:96]
            ]
    raise ValueError(f"fleet {fleet.name!r} has no valid test request to time")


def _resized(engine: AutoresearchEngine, names: tuple[str, ...]) -> AutoresearchEngine:
    """The same path over other configurations; their priors are unknown, retrieval is timed all the same."""
    names = tuple(ForecastConfig.from_name(name).name for name in names)
    policy = SearchPolicy(portfolio=names, offsets=engine.policy.offsets, horizon=engine.policy.horizon, tiers=engine.policy.tiers)
    return AutoresearchEngine(engine.forecaster, policy, None, engine.index, n_neighbours=engine.n_neighbours)


def _time(engine: AutoresearchEngine, requests: list[Panel], n_timed: int) -> dict[str, NDArray[np.float64]]:
    """Milliseconds of each stage [n_timed], requests taken in turn and tiers too."""
    tiers = list(TIERS)
    samples: dict[str, list[float]] = {}
    for i in range(WARM_UP_REQUESTS + n_timed):
        response = engine.forecast(requests[i % len(requests)], tiers[i % len(tiers)])
        if i >= WARM_UP_REQUESTS:
            for stage, ms in response.timing_ms.items():
                samples.setdefault(stage, []).append(ms)
    return {stage: np.asarray(values) for stage, values in samples.items()}


def _summary(samples: NDArray[np.float64], seed: int) -> dict[str, float]:
    """Quantiles of the samples, and the bootstrap interval of the 95 % one."""
    figures = {name: float(np.quantile(samples, q)) for name, q in QUANTILES.items()}
    draws = np.random.default_rng(seed).choice(samples, size=(BOOTSTRAP_DRAWS, len(samples)))
    low, high = np.quantile(np.quantile(draws, 0.95, axis=1), [0.025, 0.975])
    return {**figures, "p95_low_ms": float(low), "p95_high_ms": float(high)}


def _device_name(forecaster: Any) -> str:
    if forecaster.device.type == "cuda":
        import torch

        return str(torch.cuda.get_device_name(forecaster.device))
    import os
    import platform
    from pathlib import Path

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {n_cores} cores"
