"""Test the service's metrics: valid text, closed labels, a bounded number of series.

What belongs here: `serving.metrics` and `serving.recommendations`. What does not: when an event is
counted (`test_service`).
"""

import shutil
import subprocess
from pathlib import Path
from typing import get_args

import polars as pl
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tsfm_pipeline.files import StorageError
from tsfm_pipeline.serving.contract import DegradationState
from tsfm_pipeline.serving.metrics import (
    RUNTIMES,
    STAGES,
    STATES,
    Metrics,
    Reason,
    Status,
    recommended,
)
from tsfm_pipeline.serving.recommendations import Recommendations

MAX_SERIES = 400


def _everything_happened() -> Metrics:
    """Return metrics in which each event happened with each of its labels."""
    metrics = Metrics()
    for stage in STAGES:
        metrics.rollout(stage)
        for status in Status:
            metrics.request(status, stage)
    for reason in Reason:
        metrics.fallback(reason)
    for route in ("model", "baseline", "shadow"):
        metrics.answered(route, 12.0)
    for runtime in RUNTIMES:
        metrics.runtime(runtime, 3.0)
        metrics.batches(runtime, {7: 1})
        metrics.waiting(runtime, 1)
        metrics.invalid_output(runtime)
        for state in STATES:
            metrics.breaker(runtime, state, opened=state == "open")
    for level in get_args(DegradationState):
        metrics.degradation(level)
    for result in ("written", "dropped", "failed"):
        metrics.recorded(1, result)
    metrics.cache_hit(stale=True)
    metrics.cache_hit(stale=False)
    metrics.crossing()
    metrics.unmatched()
    metrics.cycle(0.2)
    metrics.widths({"0.8": 0.1, "0.9": 0.2})
    metrics.calibration(60.0, {"0.8": 0.81, "0.9": 0.9})
    return metrics


def _series(text: bytes) -> dict[str, float]:
    families = text_string_to_metric_families(text.decode())
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in families
        for sample in family.samples
    }


def test_the_batches_of_a_week_without_a_scrape_are_counted_at_once() -> None:
    metrics = Metrics()
    metrics.batches("local", {1: 10**12, 64: 10**12})
    metrics.batches("local", {64: 1, 300: 2})
    series = _series(metrics.text())
    counts = [
        series[f"tsfm_batch_series_bucket[('le', '{bound}'), ('runtime', 'local')]"]
        for bound in ("1.0", "32.0", "64.0", "200.0", "+Inf")
    ]
    one, two = 10**12, 2 * 10**12 + 1
    assert counts == [one, one, two, two, two + 2]
    assert series["tsfm_batch_series_count[('runtime', 'local')]"] == two + 2
    assert series["tsfm_batch_series_sum[('runtime', 'local')]"] == one + 64 * (one + 1) + 600


def test_m1_no_number_of_markets_makes_more_than_400_series() -> None:
    metrics = _everything_happened()
    before = len(_series(metrics.text()))
    for _ in range(10_000):
        metrics.answered("model", 10.0)
        metrics.request(Status.ANSWERED)
        metrics.unmatched()
    after = _series(metrics.text())
    assert before == len(after) < MAX_SERIES
    assert after["tsfm_unmatched_market_total[]"] == 10_001


def test_every_metric_of_the_earlier_service_is_there() -> None:
    families = {f.name for f in text_string_to_metric_families(Metrics().text().decode())}
    assert {
        "tsfm_request",
        "tsfm_route_selected",
        "tsfm_fallback",
        "tsfm_cache_hit",
        "tsfm_quantile_crossing",
        "tsfm_breaker_open",
        "tsfm_invalid_output",
        "tsfm_request_latency_ms",
        "tsfm_cycle_time_seconds",
        "tsfm_interval_width",
        "tsfm_target_coverage",
        "tsfm_rollout_stage_info",
    } <= families


def test_series_that_alerts_read_exist_before_the_first_event() -> None:
    series = _series(Metrics().text())
    assert series["tsfm_breaker_state[('runtime', 'local'), ('state', 'open')]"] == 0
    assert series["tsfm_rollout_stage_info[('stage', 'off')]"] == 1
    assert series["tsfm_request_total[('rollout_stage', 'off'), ('status', 'error')]"] == 0
    assert series["tsfm_fallback_total[('reason', 'circuit_breaker_open')]"] == 0


def test_a_state_has_one_series_that_is_1() -> None:
    metrics = Metrics()
    metrics.breaker("local", "open", opened=True)
    metrics.breaker("local", "half-open")
    on = [
        name
        for name, value in _series(metrics.text()).items()
        if "breaker_state" in name and value and "local" in name
    ]
    assert on == ["tsfm_breaker_state[('runtime', 'local'), ('state', 'half-open')]"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_the_text() -> None:
    ran = subprocess.run(
        ["promtool", "check", "metrics"], input=_everything_happened().text(), capture_output=True
    )
    complaints = [  # milliseconds and `_total` of a gauge are this service's names since M1
        line for line in ran.stderr.decode().splitlines() if "use base unit" not in line
    ]
    assert [line for line in complaints if "error" in line.lower()] == []


def test_labels_of_reservations_are_escaped() -> None:
    text = recommended([('a"b\\c\nd', "cpu", "premium", 1.5)])
    (family,) = text_string_to_metric_families(text.decode())
    assert family.samples[0].labels["tenant"] == 'a"b\\c\nd'
    assert family.samples[0].value == 1.5


def test_reservations_follow_the_file_and_a_missing_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "recommendations.parquet"
    reservations = Recommendations(path)
    with pytest.raises(StorageError, match=r"recommendations.parquet cannot be read.*materialise"):
        reservations.text()
    row = {"tenant_id": "a", "metric": "cpu", "tier": "premium", "reservation": 1.5}
    pl.DataFrame([row, row | {"tenant_id": "b", "reservation": None}]).write_parquet(path)
    assert list(_series(reservations.text()).values()) == [1.5]
    pl.DataFrame([row, row | {"tenant_id": "b", "reservation": 2.5}]).write_parquet(path)
    assert sorted(_series(reservations.text()).values()) == [1.5, 2.5]
