"""Make a latency report of plausible size and shape."""

from tsfm_pipeline.reports.latency.model import (
    TOTAL,
    LatencyOfSize,
    LatencyReport,
    SizeRow,
    StageRow,
    size_name,
)
from tsfm_pipeline.reports.shared.model import Estimate

SIZES = (1, 2, 4, 8, 16, 32)
SHARES = {TOTAL: 1.0, "retrieval": 0.06, "validation": 0.66, "forecast": 0.23, "decision": 0.05}


def latency(device: str = "2 cores, Intel Xeon") -> LatencyReport:
    """A latency report whose largest K within the budget is 8."""
    return LatencyReport(
        fleet="demo",
        device=device,
        threads=2,
        dtype="float32",
        checkpoint="bundled",
        checkpoint_size_mib=18.8,
        n_parameters=4_920_000,
        n_metrics=4,
        n_validation_origins=8,
        budget_ms=200.0,
        portfolio_size=8,
        matmul_gflops_per_s=107.0,
        copy_gb_per_s=9.7,
        sizes={size_name(k): _size(k) for k in SIZES},
        n_requests=500,
        n_scored_requests=60,
        scored_tier="standard",
        largest_k_within_budget=8,
        table_latency=tuple(
            _stage(k, stage, share) for k in SIZES for stage, share in SHARES.items()
        ),
        table_pareto=tuple(_bought(k) for k in SIZES),
    )


def _median(k: int) -> float:
    return 18 + 14.5 * k


def _ratio(k: int) -> Estimate:
    ratio = 0.92 + 0.09 / k
    return Estimate(ratio, ratio - 0.03, ratio + 0.025)


def _stage(k: int, stage: str, share: float) -> StageRow:
    p = share * _median(k)
    return StageRow(
        k=k, stage=stage, p50_ms=p, p95_ms=Estimate(1.25 * p, 1.2 * p, 1.32 * p), p99_ms=1.6 * p
    )


def _size(k: int) -> LatencyOfSize:
    whole, bought = _stage(k, TOTAL, 1.0), _bought(k)
    return LatencyOfSize(
        n_requests=500 if k == 8 else 50,
        p50_latency_ms=whole.p50_ms,
        p95_latency_ms=whole.p95_ms,
        p99_latency_ms=whole.p99_ms,
        mean_scaled_loss=bought.mean_scaled_loss,
        loss_ratio=bought.ratio,
        floor_ms=bought.floor_ms,
        achieved_share_of_floor=bought.achieved_share_of_floor,
    )


def _bought(k: int) -> SizeRow:
    p50 = _median(k)
    return SizeRow(
        k=k,
        p50_ms=p50,
        p95_ms=1.25 * p50,
        mean_scaled_loss=1.4,
        ratio=_ratio(k),
        n_requests=60,
        floor_ms=0.5 * p50,
        achieved_share_of_floor=0.5,
    )
