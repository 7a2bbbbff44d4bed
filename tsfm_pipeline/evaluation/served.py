"""What is kept of an answer that the online service gave.

What belongs here: the columns of one record, which the service writes and a fleet's steps read, and
where the files lie. What does not: writing (`serving.recorder`) and reading them (`steps.serving`).

Files are appended to `<records>/<fleet>/served_forecasts`, one per minute and process, as Parquet.
No request's values are kept: the telemetry has them.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

FOLDER = "served_forecasts"
CALIBRATION_FILE = "calibration.json"
ROLLOUT_FILE = "rollout.json"
COVERAGE_FILE = "coverage.json"
"""In `<output folder>/serving/<fleet>`, written by a run, read by the service."""

SERVED_POINTS = 2_000
"""Values that a request to the service may have, unless a setting says otherwise."""

INELIGIBLE = (
    "too_few_points",
    "max_gap_exceeded",
    "baseline_only_liquidity_bucket",
    "baseline_only_low_volume",
    "rollout_shadow",
)
"""Fallback reasons for which the model was not asked, so that it did not fail: those that lie in
the request, and too many requests in shadow at once.
"""


class MeasuredCoverage(BaseModel):
    """How many later values calibrated intervals held, as the fleet's last run measured it.

    coverage: share of values by the interval's target, such as 0.9. judged_on: what was served, or
    the backtest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    coverage: dict[Literal["0.8", "0.9"], float]
    judged_on: Literal["served", "backtest"]
    calibration_version: str


@dataclass(frozen=True)
class ServedColumn:
    """One column of the records: dtype in polars' words, meaning, and unit of numbers."""

    name: str
    dtype: str
    meaning: str
    unit: str = ""


SERVED_COLUMNS: tuple[ServedColumn, ...] = (
    ServedColumn("request_id", "String", "id of the request"),
    ServedColumn("received", "Datetime", "when the request came, UTC, microseconds"),
    ServedColumn("market_id", "String", "`tenant/metric`, or the name that the client gave"),
    ServedColumn("as_of", "Datetime", "time of the last value, UTC; step h lies h * freq later"),
    ServedColumn("freq_minutes", "Float64", "length of a step", "minutes"),
    ServedColumn("horizon", "Int32", "steps of the forecast", "steps"),
    ServedColumn(
        "deciles", "List[Float32]", "raw deciles in the client's unit, step by step [H * 9]"
    ),
    ServedColumn(
        "baseline",
        "List[Float32]",
        "deciles of the fallback's first method, likewise; empty unless the route is shadow",
    ),
    ServedColumn("low_80", "List[Float32]", "lower ends of the 80 % intervals that were sent [H]"),
    ServedColumn("high_80", "List[Float32]", "upper ends of the 80 % intervals [H]"),
    ServedColumn("low_90", "List[Float32]", "lower ends of the 90 % intervals [H]"),
    ServedColumn("high_90", "List[Float32]", "upper ends of the 90 % intervals [H]"),
    ServedColumn("segment", "String", "key of the request's full segment; empty: none"),
    ServedColumn("runtime", "String", "local, tollama or baseline"),
    ServedColumn("model", "String", "name of the model or baseline"),
    ServedColumn("version", "String", "version of the model"),
    ServedColumn("calibration", "String", "version of the calibration; empty: not calibrated"),
    ServedColumn("route", "String", "model, baseline or shadow"),
    ServedColumn("stage", "String", "stage of the rollout"),
    ServedColumn("fallback_reason", "String", "why the model did not; empty: it answered"),
    ServedColumn("invalid_output", "Boolean", "whether the model's output was refused"),
    ServedColumn("breaker", "String", "state of the circuit breaker"),
    ServedColumn("cache_hit", "Boolean", "whether the answer came from the cache"),
    ServedColumn("volume_24h", "Float64", "as the client gave it", "client's unit"),
    ServedColumn("open_interest", "Float64", "as the client gave it", "client's unit"),
    ServedColumn("status", "Int32", "HTTP status of the answer", "code"),
    ServedColumn("latency_ms", "Float64", "time from arrival to answer", "ms"),
)
