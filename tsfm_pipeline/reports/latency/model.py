"""The latency report's figures: the time of each number of candidate configurations, and its loss.

What belongs here: their names, units and meanings. What does not: measuring (`numbers`), wording
(`words`) and drawing (`figures`) them.
"""

from tsfm_pipeline.reports.shared.fields import common
from tsfm_pipeline.reports.shared.model import (
    Estimate,
    Figures,
    Number,
    Report,
    group,
    item,
    table,
)

TOTAL = "total"
"""The stage that is the whole request."""

_P95_LIMITS = ("p95_low_ms", "p95_high_ms")


class LatencyOfSize(Figures):
    """Time and loss of requests that choose among K configurations."""

    n_requests: int = item("count", "timed requests")
    p50_latency_ms: Number = item("ms", "50th percentile from history to decision")
    p95_latency_ms: Estimate = item(
        "ms",
        "95th percentile from history to decision",
        limits=_P95_LIMITS,
    )
    p99_latency_ms: Number = item("ms", "99th percentile from history to decision")
    mean_scaled_loss: Number = item("units of the scale", "what the timed decisions cost")
    loss_ratio: Estimate = item(
        "ratio",
        "of that to the fixed configuration's on the same requests",
    )
    floor_ms: Number = item("ms", "least time that the request's arithmetic takes on this device")
    achieved_share_of_floor: Number = item("ratio", "floor over the measured time")


class StageRow(Figures):
    """One stage of a request that chooses among K configurations."""

    k: int = item("count", "configurations")
    stage: str = item("", "part of the request; total: all of it")
    p50_ms: Number = item("ms", "50th percentile")
    p95_ms: Estimate = item("ms", "95th percentile", limits=_P95_LIMITS)
    p99_ms: Number = item("ms", "99th percentile")


class SizeRow(Figures):
    """The time that K configurations take, and their loss."""

    k: int = item("count", "configurations")
    p50_ms: Number = item("ms", "50th percentile of the whole request")
    p95_ms: Number = item("ms", "95th percentile of the whole request")
    mean_scaled_loss: Number = common("mean_scaled_loss")
    ratio: Estimate = common("ratio")
    n_requests: int = common("n_requests")
    floor_ms: Number = item("ms", "as in <k>_floor_ms")
    achieved_share_of_floor: Number = item("ratio", "as in <k>_achieved_share_of_floor")


class LatencyReport(Report):
    """How long one request takes, and how many configurations fit into the budget."""

    device: str = item("", "where it was measured")
    threads: int = item("count", "threads of the forecaster")
    dtype: str = item("", "of the weights")
    checkpoint: str = item("", "name of the model")
    checkpoint_size_mib: Number = item("MiB", "its weights")
    n_parameters: int = item("count", "of the model")
    n_metrics: int = item("count", "series of one request")
    n_validation_origins: int = item("count", "past origins that a request validates at")
    budget_ms: float = item("ms", "latency that a request may take")
    portfolio_size: int = item("count", "configurations of the search, its K")
    matmul_gflops_per_s: Number = item("GFLOP/s", "what the device reaches in a matrix product")
    copy_gb_per_s: Number = item("GB/s", "what the device reaches in a copy")
    sizes: dict[str, LatencyOfSize] = group("<k>")
    n_requests: int = item("count", "timed requests at the portfolio's K")
    n_scored_requests: int = item("count", "requests whose decisions are scored")
    scored_tier: str = item("", "the tier they are scored at")
    largest_k_within_budget: int = item(
        "count",
        "largest K whose 95th percentile is within the budget",
    )
    table_latency: tuple[StageRow, ...] = table()
    table_pareto: tuple[SizeRow, ...] = table()

    @property
    def whole_requests(self) -> tuple[StageRow, ...]:
        """Return the rows of the whole request, the smallest K first."""
        rows = (row for row in self.table_latency if row.stage == TOTAL)
        return tuple(sorted(rows, key=lambda row: row.k))

    @property
    def stages(self) -> dict[str, dict[int, StageRow]]:
        """Return the parts of a request by name, in their order, each by K."""
        stages: dict[str, dict[int, StageRow]] = {}
        for row in self.table_latency:
            if row.stage != TOTAL:
                stages.setdefault(row.stage, {})[row.k] = row
        return stages


def size_name(k: int) -> str:
    """Return the key of K configurations in `LatencyReport.sizes`."""
    return f"k{k}"
