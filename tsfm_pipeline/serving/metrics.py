"""What the service counts, as Prometheus metrics.

What belongs here: every metric with its closed set of labels, one method per event, and the text
of /metrics. What does not: alert rules and dashboards (`deploy`), and per-request details, which
are logged (`logs`) and recorded (`recorder`).

No label takes a value from a request: a market or a model's name would make as many series as
there are markets. After any number of requests there are fewer than 400 series; a test counts.
"""

import math
from collections import Counter as Sizes
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from tsfm_pipeline import __version__
from tsfm_pipeline.serving.contract import BreakerState, DegradationState, RolloutStage
from tsfm_pipeline.serving.reasoning_metrics import ReasoningMetrics

LATENCY_BUCKETS_MS = (5, 10, 20, 40, 60, 80, 100, 150, 200, 300, 400, 600, 1_000, 1_600, 2_500)
CYCLE_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60)
WIDTH_BUCKETS = ("0.8", "0.9")
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 200)
STATES: tuple[BreakerState, ...] = get_args(BreakerState)
LEVELS: tuple[DegradationState, ...] = get_args(DegradationState)
STAGES: tuple[RolloutStage, ...] = get_args(RolloutStage)

disable_created_metrics()  # else every counter and histogram has a second series per label set

RuntimeName = Literal["local", "tollama"]
RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)


class Status(StrEnum):
    """How a request ended; `answered` and `fallback` are HTTP 200."""

    ANSWERED = "answered"
    FALLBACK = "fallback"
    INVALID = "invalid"
    UNAUTHORISED = "unauthorised"
    REFUSED = "refused"
    LIMITED = "limited"
    UNAVAILABLE = "unavailable"
    ERROR = "error"
    GONE = "gone"


class Reason(StrEnum):
    """Why a baseline answered. The part of a reason before a colon must be one of these."""

    TOO_FEW_POINTS = "too_few_points"
    MAX_GAP_EXCEEDED = "max_gap_exceeded"
    LOW_LIQUIDITY = "baseline_only_liquidity_bucket"
    LOW_VOLUME = "baseline_only_low_volume"
    ROUTE_POLICY = "route_policy_baseline"
    ROLLOUT = "rollout_baseline"
    SHADOW = "rollout_shadow"
    BREAKER_OPEN = "circuit_breaker_open"
    DEGRADED = "degradation_baseline_only"
    DEADLINE = "deadline"
    STALE = "stale_if_error"
    LOCAL_ERROR = "runtime_error"
    TOLLAMA_ERROR = "tollama_error"
    INVALID_OUTPUT = "invalid_output"
    INTERNAL = "internal_error"


class Metrics:
    """The metrics of one process, in a registry of their own. reasoning: those of models that
    reason.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = registry or CollectorRegistry()
        self._requests = Counter(
            "tsfm_request_total",
            "Requests by outcome",
            ["rollout_stage", "status"],
            registry=registry,
        )
        self._routes = Counter(
            "tsfm_route_selected_total", "Forecasts by who was asked", ["route"], registry=registry
        )
        self._fallbacks = Counter(
            "tsfm_fallback_total",
            "Forecasts that a baseline answered",
            ["reason"],
            registry=registry,
        )
        self._cache_hits = Counter(
            "tsfm_cache_hit_total", "Answers from the cache", ["freshness"], registry=registry
        )
        self._crossings = Counter(
            "tsfm_quantile_crossing_total",
            "Answers with crossing quantiles, mended",
            registry=registry,
        )
        self._invalid = Counter(
            "tsfm_invalid_output_total",
            "Answers of a runtime that were refused",
            ["runtime"],
            registry=registry,
        )
        self._opened = Counter(
            "tsfm_breaker_open_total",
            "Times that a circuit breaker opened",
            ["runtime"],
            registry=registry,
        )
        self._breaker = Gauge(
            "tsfm_breaker_state",
            "1 for the state that a circuit breaker is in",
            ["runtime", "state"],
            registry=registry,
        )
        self._degradation = Gauge(
            "tsfm_degradation_state",
            "1 for the state that the service is in",
            ["state"],
            registry=registry,
        )
        self._latency = Histogram(
            "tsfm_request_latency_ms",
            "Time from arrival to answer of one forecast",
            ["route"],
            buckets=LATENCY_BUCKETS_MS,
            registry=registry,
        )
        self._cycle = Histogram(
            "tsfm_cycle_time_seconds",
            "Time of one batch request",
            buckets=CYCLE_BUCKETS_S,
            registry=registry,
        )
        self._runtime_time = Histogram(
            "tsfm_runtime_latency_ms",
            "Time that a runtime took, with its queue",
            ["runtime"],
            buckets=LATENCY_BUCKETS_MS,
            registry=registry,
        )
        self._batches = _BatchSizes()
        registry.register(self._batches)
        self._waiting = Gauge(
            "tsfm_queue_length", "Series that wait for a runtime", ["runtime"], registry=registry
        )
        self._width = Gauge(
            "tsfm_interval_width",
            "Mean width of the last interval that was sent",
            ["bucket"],
            registry=registry,
        )
        self._coverage = Gauge(
            "tsfm_target_coverage",
            "Share of later values inside the interval, as last measured",
            ["bucket"],
            registry=registry,
        )
        self._calibration_age = Gauge(
            "tsfm_calibration_age_seconds",
            "Time since the calibration was published; NaN: none is loaded",
            registry=registry,
        )
        self._stage = Gauge(
            "tsfm_rollout_stage_info",
            "1 for the stage of the rollout",
            ["stage"],
            registry=registry,
        )
        self._unmatched = Counter(
            "tsfm_unmatched_market_total",
            "Forecasts of markets that the fleet does not have",
            registry=registry,
        )
        self._recorded = Counter(
            "tsfm_recorded_total",
            "Answers by what became of their record",
            ["result"],
            registry=registry,
        )
        Gauge(
            "tsfm_build_info", "1; the version is a label", ["version"], registry=registry
        ).labels(__version__).set(1)
        self.reasoning = ReasoningMetrics(registry)
        self._declare()

    def _declare(self) -> None:
        """Create the series that alerts read, so that they exist before the first event."""
        for runtime in RUNTIMES:
            self._opened.labels(runtime)
            self._invalid.labels(runtime)
            self.breaker(runtime, "closed")
        for reason in Reason:
            self._fallbacks.labels(reason.value)
        for status in Status:
            self._requests.labels("off", status.value)
        self.degradation("normal")
        self.rollout("off")
        self._calibration_age.set(float("nan"))

    # -- one forecast

    def request(self, status: Status, stage: RolloutStage = "off") -> None:
        """Count one request, or one item of a batch."""
        self._requests.labels(stage, status.value).inc()

    def answered(self, route: Literal["model", "baseline", "shadow"], latency_ms: float) -> None:
        """Count a forecast by who was asked, and its time."""
        self._routes.labels(route).inc()
        self._latency.labels(route).observe(latency_ms)

    def fallback(self, reason: Reason) -> None:
        """Count a forecast that a baseline answered."""
        self._fallbacks.labels(reason.value).inc()

    def cache_hit(self, stale: bool) -> None:
        """Count an answer from the cache."""
        self._cache_hits.labels("stale" if stale else "fresh").inc()

    def crossing(self) -> None:
        """Count an answer whose quantiles crossed."""
        self._crossings.inc()

    def widths(self, by_bucket: Mapping[str, float]) -> None:
        """Set the mean width of the intervals that were sent: {"0.8": ..., "0.9": ...}."""
        for bucket in WIDTH_BUCKETS:
            if bucket in by_bucket:
                self._width.labels(bucket).set(by_bucket[bucket])

    def unmatched(self) -> None:
        """Count a forecast of a market that is not one of the fleet's."""
        self._unmatched.inc()

    def cycle(self, seconds: float) -> None:
        """Observe the time of one batch request."""
        self._cycle.observe(seconds)

    # -- runtimes

    def runtime(self, name: RuntimeName, latency_ms: float) -> None:
        """Observe the time of one series in a runtime."""
        self._runtime_time.labels(name).observe(latency_ms)

    def batches(self, name: RuntimeName, sizes: Mapping[int, int]) -> None:
        """Observe batches: how many of them had which number of series."""
        self._batches.add(name, sizes)

    def waiting(self, name: RuntimeName, n_series: int) -> None:
        """Set how many series wait for a runtime."""
        self._waiting.labels(name).set(n_series)

    def invalid_output(self, name: RuntimeName) -> None:
        """Count an answer of a runtime that was refused."""
        self._invalid.labels(name).inc()

    def breaker(self, name: RuntimeName, state: BreakerState, opened: bool = False) -> None:
        """Set the state of a runtime's circuit breaker, and count that it opened."""
        for other in STATES:
            self._breaker.labels(name, other).set(float(other == state))
        if opened:
            self._opened.labels(name).inc()

    # -- the whole service

    def degradation(self, state: DegradationState) -> None:
        """Set the state of degradation."""
        for other in LEVELS:
            self._degradation.labels(other).set(float(other == state))

    def rollout(self, stage: RolloutStage) -> None:
        """Set the stage of the rollout."""
        for other in STAGES:
            self._stage.labels(other).set(float(other == stage))

    def calibration(self, age_s: float, coverage: Mapping[str, float]) -> None:
        """Set the calibration's age, and the coverage that was measured with it."""
        self._calibration_age.set(age_s)
        for bucket in WIDTH_BUCKETS:
            if bucket in coverage:
                self._coverage.labels(bucket).set(coverage[bucket])

    def recorded(self, n: int, result: Literal["written", "dropped", "failed"]) -> None:
        """Count records by what became of them."""
        self._recorded.labels(result).inc(n)

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self.registry)


class _BatchSizes(Collector):
    """A histogram that takes many observations at once: batches are counted where they are formed,
    and a day without a scrape brings millions of them.
    """

    def __init__(self) -> None:
        self._sizes: dict[str, Sizes[int]] = {}

    def add(self, runtime: str, sizes: Mapping[int, int]) -> None:
        self._sizes.setdefault(runtime, Sizes()).update(sizes)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(
            "tsfm_batch_series", "Series that were forecast together", labels=["runtime"]
        )
        for runtime, sizes in self._sizes.items():
            bounds = [*map(float, BATCH_BUCKETS), math.inf]
            below = [sum(n for size, n in sizes.items() if size <= bound) for bound in bounds]
            family.add_metric(
                [runtime],
                [(floatToGoString(bound), n) for bound, n in zip(bounds, below, strict=True)],
                sum(size * n for size, n in sizes.items()),
            )
        yield family


def recommended(rows: Iterable[tuple[str, str, str, float]]) -> bytes:
    """Return `tsfm_recommended{tenant,metric,tier}`: what to reserve, in the metric's unit.

    rows: tenant, metric, tier and reservation. It has a registry of its own and is sent on request
    only, because it has one series per tenant, metric and tier.
    """
    registry = CollectorRegistry()
    gauge = Gauge(
        "tsfm_recommended",
        "Recommended reservation of the next block, in the metric's unit",
        ["tenant", "metric", "tier"],
        registry=registry,
    )
    for tenant, metric, tier, reservation in rows:
        gauge.labels(tenant, metric, tier).set(reservation)
    return generate_latest(registry)
