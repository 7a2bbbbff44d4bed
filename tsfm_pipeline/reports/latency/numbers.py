"""Latency: the time of one request from history array to decision by the number of candidate
configurations, and the loss at each number.

What belongs here: which requests are timed and scored, warm-up, and the contents of
`latency_report`. What does not: the request path (`autoresearch.engine`), the least cost of a plan
(`forecaster.cost`). Axes: R requests of the sample, D metrics, K configurations, H horizon.
"""

import os
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch.engine import AutoresearchEngine, resized
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.losses import mean_pinball
from tsfm_pipeline.evaluation.methods import FIXED
from tsfm_pipeline.evaluation.protocol import Protocol
from tsfm_pipeline.evaluation.statistics import two_way_bootstrap
from tsfm_pipeline.forecaster.panel import Panel
from tsfm_pipeline.reports.latency.model import (
    TOTAL,
    LatencyOfSize,
    LatencyReport,
    SizeRow,
    StageRow,
    size_name,
)
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.steps.bundle import open_bundle

if TYPE_CHECKING:
    from tsfm_pipeline.forecaster.cost import Cost, Rates

Floats = NDArray[np.floating]

WARM_UP_REQUESTS = 5
SCORED_REQUESTS = 60
"""Maximum number of requests that are scored at each K: the first of the timed ones."""


@dataclass(frozen=True)
class Sample:
    """R test requests, and the loss of the fixed configuration at the tier that they are scored at.

    times: of the last step of each history. tenant, day [R], actual [R, D, H], scale and fixed_loss
    (scaled) [R, D].
    """

    tier: str
    alpha: float
    histories: list[Panel]
    times: list[datetime]
    tenant: NDArray[np.int64]
    day: NDArray[np.int64]
    actual: Floats
    scale: Floats
    fixed_loss: Floats


@dataclass(frozen=True)
class Bought:
    """The loss of decisions, and its ratio to the fixed configuration's on the same requests."""

    mean_scaled_loss: float
    ratio: Estimate
    n_requests: int


@dataclass(frozen=True)
class Measured:
    """What was measured at one K.

    stages: their times, the whole request last. cost: one request's arithmetic. bought: the loss of
    the timed decisions.
    """

    n_timed: int
    stages: tuple[StageRow, ...]
    cost: "Cost"
    bought: Bought

    @property
    def total(self) -> StageRow:
        """Return the row of the whole request."""
        return self.stages[-1]


def latency_report(fleet: Fleet, forecaster: Any) -> LatencyReport:
    """Time and score requests at every K of `latency_sizes` and at the portfolio's own.

    Sizes larger than the number of the fold's ranked configurations are left out. The portfolio's K
    gets `latency_requests` timed requests, every other size a tenth of them (at least 20); warm-up
    is excluded. The first requests of each size, `SCORED_REQUESTS` at most and the same at every K,
    are answered at the headline tier and scored on what happened. A size beyond the portfolio runs
    the same policy without other tenants' experience of the added configurations, because that was
    not collected.
    """
    import torch

    from tsfm_pipeline.forecaster.cost import measure_rates

    evaluation, protocol = fleet.settings.evaluation, fleet.protocol
    requests = fleet.tables.scan("forecast_requests").filter(
        (pl.col("role") == "test") & pl.col("valid")
    )
    fold = int(requests.select(pl.col("fold").min()).collect().item())
    bundle = open_bundle(fleet)
    engine = bundle.engine_of(bundle.folds[fold], forecaster)
    ranked = [config.name for config in fleet.ranked_configs(fold)]
    portfolio_size = len(engine.configs)
    n_others = max(20, evaluation.latency_requests // 10)
    sample = _sample(fleet, fold, min(SCORED_REQUESTS, n_others))
    before = measure_rates(forecaster)
    sizes = {k for k in evaluation.latency_sizes if k <= len(ranked)} | {portfolio_size}
    measured = {}
    for k in sorted(sizes):
        sized = engine if k == portfolio_size else resized(engine, ranked[:k])
        n_timed = (
            max(evaluation.latency_requests, len(sample.histories))
            if k == portfolio_size
            else n_others
        )
        timings, decisions = _answer(sized, sample.histories, sample.times, n_timed, protocol)
        measured[k] = Measured(
            n_timed=n_timed,
            stages=tuple(
                _summary(k, stage, times, **evaluation.latency_bootstrap)
                for stage, times in timings.items()
            ),
            cost=_request_cost(sized, sample.histories[0]),
            bought=_bought(sample, decisions, **evaluation.bootstrap),
        )
    rates = before.or_faster(measure_rates(forecaster))
    pareto = tuple(_row(k, size, rates) for k, size in measured.items())
    return LatencyReport(
        fleet=fleet.name,
        device=device_name(forecaster.device),
        threads=torch.get_num_threads(),
        dtype=fleet.settings.dtype,
        checkpoint=forecaster.checkpoint.name,
        checkpoint_size_mib=_size_mib(forecaster.checkpoint),
        n_parameters=forecaster.checkpoint.n_parameters,
        n_metrics=len(fleet.grid.metrics),
        n_validation_origins=len(fleet.offsets),
        budget_ms=protocol.latency_budget_ms,
        portfolio_size=portfolio_size,
        matmul_gflops_per_s=rates.matmul_flops_per_s / 1e9,
        copy_gb_per_s=rates.copy_bytes_per_s / 1e9,
        sizes={size_name(row.k): _figures(row, measured[row.k]) for row in pareto},
        n_requests=measured[portfolio_size].n_timed,
        n_scored_requests=len(sample.histories),
        scored_tier=sample.tier,
        largest_k_within_budget=max(
            (row.k for row in pareto if row.p95_ms <= protocol.latency_budget_ms), default=0
        ),
        table_latency=tuple(row for size in measured.values() for row in size.stages),
        table_pareto=pareto,
    )


def _row(k: int, size: Measured, rates: "Rates") -> SizeRow:
    """Return time and loss of K configurations, beside the least time at these rates."""
    floor = size.cost.floor_ms(rates)
    return SizeRow(
        k=k,
        p50_ms=size.total.p50_ms,
        p95_ms=size.total.p95_ms.figure,
        mean_scaled_loss=size.bought.mean_scaled_loss,
        ratio=size.bought.ratio,
        n_requests=size.bought.n_requests,
        floor_ms=floor,
        achieved_share_of_floor=floor / size.total.p50_ms,
    )


def _figures(row: SizeRow, size: Measured) -> LatencyOfSize:
    """Return the same figures for the flat keys, with the interval of p95."""
    return LatencyOfSize(
        n_requests=size.n_timed,
        p50_latency_ms=size.total.p50_ms,
        p95_latency_ms=size.total.p95_ms,
        p99_latency_ms=size.total.p99_ms,
        mean_scaled_loss=row.mean_scaled_loss,
        loss_ratio=row.ratio,
        floor_ms=row.floor_ms,
        achieved_share_of_floor=row.achieved_share_of_floor,
    )


def _sample(fleet: Fleet, fold: int, n: int) -> Sample:
    """Return a seeded sample of the fold's valid test requests.

    Every tenant gets one request before any tenant gets a second one.
    """
    tested = np.flatnonzero(fleet.folds == fold)
    requests = fleet.arrays.requests("test", only=tested.tolist())
    pairs = np.random.default_rng(fleet.settings.evaluation.seed).permutation(
        np.argwhere(requests.valid)
    )
    if not len(pairs):
        raise ValueError(f"fleet {fleet.name!r} has no valid test request to time")
    seen: Counter[int] = Counter()
    rounds = []
    for tenant in pairs[:, 0].tolist():
        rounds.append(seen[tenant])
        seen[tenant] += 1
    pairs = pairs[np.argsort(rounds, kind="stable")[:n]]
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]  # in the order of the request ids
    histories = []
    for shard in fleet.cohort_shards:
        pairs_of_shard = pairs[np.isin(requests.tenant_numbers[pairs[:, 0]], shard)]
        values = fleet.arrays.values(shard) if len(pairs_of_shard) else None
        for tenant, origin in pairs_of_shard:
            row = shard.index(int(requests.tenant_numbers[tenant]))
            assert values is not None
            histories.append(
                fleet.arrays.panel(
                    values[row : row + 1, :, : requests.origins[tenant, origin] + 1].copy()
                )
            )
    ids = requests.ids[pairs[:, 0], pairs[:, 1]]
    shape = (len(pairs), len(fleet.grid.metrics))
    is_sampled = pl.col("request_id").is_in(ids.tolist())
    targets = (
        fleet.tables.scan("request_targets")
        .filter(is_sampled)
        .collect()
        .sort("request_id", maintain_order=True)
    )
    tier = fleet.protocol.headline_tier
    fixed = fleet.tables.scan("scored_forecasts").filter(
        is_sampled & (pl.col("method") == FIXED) & (pl.col("tier") == tier)
    )
    frame = requests.frame.filter(is_sampled).sort("request_id")
    return Sample(
        tier=tier,
        alpha=fleet.protocol.tiers[tier],
        histories=histories,
        times=frame["origin_time"].to_list(),
        tenant=frame["tenant_number"].to_numpy().astype(np.int64),
        day=frame["origin_time"].cast(pl.Date).cast(pl.Int32).to_numpy().astype(np.int64),
        actual=targets["actual"].to_numpy().reshape(*shape, -1),
        scale=targets["scale"].to_numpy().reshape(shape),
        fixed_loss=fixed.collect()
        .sort("request_id", maintain_order=True)["scaled_loss"]
        .to_numpy()
        .reshape(shape),
    )


def _answer(
    engine: AutoresearchEngine,
    histories: Sequence[Panel],
    times: Sequence[datetime],
    n_timed: int,
    protocol: Protocol,
) -> tuple[dict[str, NDArray[np.float64]], Floats]:
    """Return milliseconds of each stage [n_timed], the total last, and decisions [R, D, H].

    Requests are taken in turn, and the tier changes with each round; the decisions are those of the
    first round, at the headline tier.
    """
    tiers = sorted(protocol.tiers, key=lambda tier: tier != protocol.headline_tier)
    for history in histories[:WARM_UP_REQUESTS]:
        engine.forecast(history, protocol.headline_tier)
    samples: dict[str, list[float]] = {}
    decisions = []
    for i in range(n_timed):
        turn, r = divmod(i, len(histories))
        response = engine.forecast(histories[r], tiers[turn % len(tiers)], as_of=times[r])
        if not turn:
            decisions.append(response.decision.T)
        for stage, ms in response.timing_ms.items():
            samples.setdefault(stage, []).append(ms)
    total = samples.pop(TOTAL)
    return {
        stage: np.asarray(values) for stage, values in {**samples, TOTAL: total}.items()
    }, np.stack(decisions)


def _bought(sample: Sample, decisions: Floats, n_draws: int, seed: int) -> Bought:
    """Return the loss of the decisions [R, D, H] at the sample's tier."""
    known = np.isfinite(sample.scale)
    n_known = known.sum(axis=1)

    def over_metrics(scaled: Floats) -> Floats:
        total = np.where(known, scaled, 0.0).sum(axis=1)
        return np.where(n_known > 0, total / np.maximum(n_known, 1), np.nan)

    loss = over_metrics(mean_pinball(sample.actual, decisions, sample.alpha) / sample.scale)
    interval = two_way_bootstrap(
        loss, over_metrics(sample.fixed_loss), sample.tenant, sample.day, n_draws=n_draws, seed=seed
    )
    ratio = Estimate(interval.ratio, interval.low, interval.high)
    return Bought(
        mean_scaled_loss=float(np.nanmean(loss)), ratio=ratio, n_requests=interval.n_requests
    )


def _request_cost(engine: AutoresearchEngine, history: Panel) -> "Cost":
    """Return the cost of one request's plan."""
    from tsfm_pipeline.forecaster.cost import plan_cost
    from tsfm_pipeline.forecaster.plan import plan_grid

    forecaster: Any = engine.forecaster
    origins = np.full((history.n_series, 1), history.n_steps - 1, dtype=np.int64)
    offsets = (0, *engine.policy.offsets)
    plan = plan_grid(
        history, origins, engine.configs, engine.policy.horizon, forecaster.token_budget, offsets
    )
    decoder = forecaster.decoder
    return plan_cost(plan, decoder.architecture, engine.policy.horizon, decoder.dtype.itemsize)


def _summary(k: int, stage: str, samples: NDArray[np.float64], n_draws: int, seed: int) -> StageRow:
    """Return quantiles of a stage's times, and the bootstrap interval of the 95 % one."""
    p50, p95, p99 = (float(np.quantile(samples, q)) for q in (0.50, 0.95, 0.99))
    draws = np.random.default_rng(seed).choice(samples, size=(n_draws, len(samples)))
    low, high = np.quantile(np.quantile(draws, 0.95, axis=1), [0.025, 0.975])
    return StageRow(
        k=k, stage=stage, p50_ms=p50, p95_ms=Estimate(p95, float(low), float(high)), p99_ms=p99
    )


def device_name(device: Any) -> str:
    """Return the name of the GPU, or of the processor and the number of cores available."""
    if device.type == "cuda":
        import torch

        return str(torch.cuda.get_device_name(device))
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {n_cores} cores"


def _size_mib(checkpoint: Any) -> float:
    """Return the size of the weights file.

    A checkpoint from the hub has no path here and counts four bytes per parameter.
    """
    path = Path(checkpoint.source)
    return (path.stat().st_size if path.is_file() else 4 * checkpoint.n_parameters) / 2**20
