"""The settings of the online service: `TSFM_SERVING_*`, or the same keys in `serve --config FILE`.

What belongs here: settings with their defaults, and for those that the two services before this one
also had, their values and why ours differ; docs/serving.md shows them as a table made from here.
What does not: what a setting does (the module that reads it).

Nested values are set with a double underscore, e.g. `TSFM_SERVING_BREAKER__PROBE_EVERY_S=5`.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from tsfm_pipeline.evaluation.methods import EWMA, LOCAL_LEVEL_KALMAN, ROLLING_QUANTILE
from tsfm_pipeline.evaluation.served import SERVED_POINTS
from tsfm_pipeline.serving.contract import MAX_POINTS

TOKEN_NAMES = ("TSFM_SERVING_TOKEN", "FORECAST_API_TOKEN", "TSFM_FORECAST_API_TOKEN")
"""Environment variables of the token; the first that is set counts. The later two are the names of
the services before this one."""


def _setting(default: Any, description: str, seed: str = "", why: str = "", **limits: Any) -> Any:
    """Return a field with what the earlier services had (`seed`) and why ours differs (`why`)."""
    extra: dict[str, Any] = {n: text for n, text in (("seed", seed), ("why", why)) if text}
    return Field(default, description=description, json_schema_extra=extra or None, **limits)


def _queue_s(default: float, why: str) -> Any:
    return _setting(
        default,
        "longest wait of a series for its batch; then a baseline answers",
        seed="0.1, never read",
        why=why,
        gt=0,
    )


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputSettings(_Section):
    """Which part of a series is used, and what is too little."""

    input_len: int = _setting(
        288,
        "values of y that are used; more where the bundle's configuration looks back further",
        seed="288",
        ge=2,
        le=MAX_POINTS,
    )
    max_points: int = _setting(
        SERVED_POINTS,
        "values of y that a request may have",
        seed="20,000 in code, 2,000 in the plan",
        why="the plan's",
        ge=2,
        le=MAX_POINTS,
    )
    min_points: int = _setting(
        32, "with fewer values a baseline answers: `too_few_points`", seed="32", ge=2
    )
    max_gap_minutes: float = _setting(
        60.0,
        "gaps up to this are filled with the last value; behind a longer one a baseline "
        "answers: `max_gap_exceeded`",
        seed="60",
        ge=0,
    )
    last_trade_minutes: float = _setting(
        15.0, "age up to which a last trade stands for the mid of a quote", seed="15", ge=0
    )
    min_volume_24h: float = _setting(
        5_000.0, "below this a baseline answers: `baseline_only_low_volume`", seed="5,000", ge=0
    )
    baseline_liquidity: tuple[str, ...] = _setting(
        ("low",), "liquidity buckets that a baseline answers", seed="low"
    )


class SafetySettings(_Section):
    """What any answer on the logit scale must obey."""

    width_min: float = _setting(0.02, "narrowest interval", seed="0.02", ge=0, le=1)
    width_max: float = _setting(0.60, "widest interval", seed="0.60", gt=0, le=1)


class FallbackSettings(_Section):
    """The baselines that answer where the model does not."""

    chain: tuple[str, ...] = _setting(
        (EWMA, LOCAL_LEVEL_KALMAN, ROLLING_QUANTILE),
        "direct baselines in the order in which they are tried",
        seed="EWMA only",
        why="the plan's chain",
        min_length=1,
    )
    least_spread: float = _setting(
        0.05,
        "standard deviation of the first step where no baseline answers and the values have never "
        "changed, as a share of the last value (of 1 where that is 0)",
        gt=0,
        le=1,
    )


class LocalSettings(_Section):
    """The model in this process."""

    checkpoint: str = _setting("bundled", "registry name or local directory of the frozen model")
    dtype: Literal["float32", "bfloat16"] | None = _setting(
        None, "type of the model's matrices; default: the bundle's, float32 without one"
    )
    matrix_product: Literal["auto", "loops", "onednn", "float32"] = _setting(
        "auto",
        "what multiplies the model's matrices: auto (the fastest, measured once per machine), our "
        "own loops, oneDNN, or loops in float32 in place of bfloat16",
    )
    max_batch: int = _setting(64, "series that are forecast together", ge=1)
    max_wait_ms: float = _setting(4.0, "longest wait for further series of a batch", ge=0)
    queue: int = _setting(512, "series that may wait; more are answered by a baseline", ge=1)
    queue_s: float = _queue_s(0.8, "a batch takes up to .1 s, and a cycle of 200 has four")
    threads: int | None = _setting(None, "threads of the model; default: one per core", ge=1)


class TollamaSettings(_Section):
    """The tollama daemon."""

    url: str = _setting("http://127.0.0.1:11435", "address of the daemon", seed="the same")
    model: str = _setting("chronos2", "model of the daemon", seed="chronos")
    api_key: SecretStr | None = _setting(None, "bearer token of the daemon")
    timeout_s: float = _setting(
        1.2,
        "timeout of one attempt",
        seed="2.0 and 1.2",
        why="two attempts fit in the deadline",
        gt=0,
    )
    retries: int = _setting(1, "further attempts where time is left", seed="1", ge=0, le=3)
    backoff_ms: float = _setting(
        100.0, "wait before a further attempt", seed="200 and 120", why="the deadline", ge=0
    )
    jitter_ms: float = _setting(80.0, "random extra wait", seed="100 and 80", ge=0)
    min_left_ms: float = _setting(300.0, "time that must be left for a further attempt", ge=0)
    max_connections: int = _setting(100, "connections at once", seed="100", ge=1)
    max_keepalive: int = _setting(20, "idle connections that are kept", seed="20", ge=0)
    max_batch: int = _setting(64, "series per call", ge=1)
    max_wait_ms: float = _setting(4.0, "longest wait for further series of a call", ge=0)
    queue: int = _setting(512, "series that may wait", ge=1)
    queue_s: float = _queue_s(
        1.0, "what waits behind a call that hangs must find out, so that the breaker opens in 2 s"
    )


class CacheSettings(_Section):
    """Answers of the model that are kept."""

    ttl_s: float = _setting(60.0, "time for which an answer is fresh", seed="60", ge=0)
    stale_s: float = _setting(
        120.0, "further time in which it stands in for a model that fails", seed="120", ge=0
    )
    max_entries: int = _setting(50_000, "answers that are kept", seed="50,000", ge=1)


class BreakerSettings(_Section):
    """When a runtime that fails is left alone."""

    failures_in_a_row: int = _setting(
        5, "failures in a row that open the breaker", seed="3 and 5", ge=1
    )
    window_s: float = _setting(30.0, "window of the failure rate", seed="30 and 300", gt=0)
    min_calls: int = _setting(10, "calls in the window before the rate counts", seed="5", ge=1)
    failure_rate: float = _setting(
        0.5,
        "rate that opens the breaker",
        seed="1.0",
        why="with 1.0, one success in the window keeps calling a peer that fails 99 %",
        gt=0,
        le=1,
    )
    probe_every_s: float = _setting(
        2.0,
        "time between two probes of an open breaker",
        seed="30 and 120",
        why="a probe costs one request, an open breaker all of them",
        gt=0,
    )
    successes_to_close: int = _setting(2, "probes that must succeed", seed="2", ge=1)


class DegradationSettings(_Section):
    """When the service stops relying on the model."""

    window_s: float = _setting(300.0, "window of the fallback rate", seed="300", gt=0)
    min_requests: int = _setting(
        20, "requests in the window before the rate counts", seed="5", ge=1
    )
    degraded_above: float = _setting(0.3, "fallback rate of `degraded`", seed="0.30", gt=0, le=1)
    baseline_above: float = _setting(
        0.5, "fallback rate of `baseline-only`", seed="0.70", why="the plan's", gt=0, le=1
    )
    recover_below: float = _setting(0.15, "fallback rate of `normal`", seed="0.15", ge=0, lt=1)
    degraded_deadline_s: float = _setting(0.6, "deadline while degraded; no retries", gt=0)
    probe_every_s: float = _setting(
        30.0,
        "time between two probes while baseline-only",
        seed="every n-th request",
        why="with little traffic the seed never recovers",
        gt=0,
    )
    successes_to_recover: int = _setting(
        2, "probes that must succeed for the next better state", ge=1
    )


class RateLimitSettings(_Section):
    """Requests that one caller may send."""

    enabled: bool = _setting(True, "whether callers are limited")
    per_minute: float = _setting(
        600.0, "forecasts per minute and caller", seed="6", why="a cycle has 200 markets", gt=0
    )
    burst: int = _setting(200, "forecasts at once", seed="6", why="a cycle has 200 markets", ge=1)
    max_callers: int = _setting(1_000, "callers that are remembered", ge=1)


class RouteSettings(_Section):
    """Who is asked: the model or a baseline."""

    default: Literal["model", "baseline"] = _setting(
        "model", "who answers where no segment decides", seed="baseline"
    )
    model_segments: tuple[str, ...] = _setting(
        (),
        "segments that the model answers although the default is a baseline, e.g. "
        "`category=politics|liquidity_bucket=high`",
    )
    rollout: Literal["off", "published"] = _setting(
        "off", "`published`: obey the fleet's rollout decision; shadow until there is one"
    )


class ServingSettings(BaseSettings):
    """All settings of the service.

    Raises `pydantic.ValidationError` for an unknown or ill-typed value.
    """

    model_config = SettingsConfigDict(
        env_prefix="TSFM_SERVING_",
        env_nested_delimiter="__",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
        extra="forbid",
    )

    host: str = _setting("127.0.0.1", "address to listen on")
    port: int = _setting(8000, "port to listen on; 0: any free one", ge=0, le=65_535)
    token: SecretStr | None = Field(
        None,
        description="bearer token of callers",
        validation_alias=AliasChoices(*TOKEN_NAMES),
    )
    metrics_token: SecretStr | None = _setting(
        None, "bearer token of /metrics; default: the callers' token"
    )
    environment: Literal["dev", "prod"] = _setting(
        "dev", "`prod` refuses models whose licence does not allow commercial use"
    )
    fleet: str | None = _setting(None, "name of the served fleet")
    bundle: Path | None = _setting(None, "file of the search; default: the fleet's")
    published_dir: Path | None = _setting(
        None, "folder of calibration.json and rollout.json; default: the fleet's"
    )
    records_dir: Path | None = _setting(
        None, "folder to which answers are recorded, one file per minute; default: the fleet's"
    )
    recommendations: Path | None = _setting(
        None, "file of /metrics?recommended=1; default: the fleet's recommendations.parquet"
    )
    archetypes_url: str | None = _setting(
        None, "Qdrant that finds look-alikes: a URL, or a folder; default: in this process"
    )
    provider: Literal["local", "tollama"] = _setting(
        "local", "runtime that answers where the request names none", seed="tollama"
    )
    deadline_s: float = _setting(
        1.6, "time in which a request is answered", seed="2.6 in the worst case", gt=0, le=60
    )
    max_body_mib: float = _setting(8.0, "largest body of a request", gt=0, le=64)
    max_waiting: int = _setting(
        256,
        "requests in work at once; further ones get 503. More could not be answered by the model "
        "before their deadline, at 200 requests/s",
        ge=1,
    )
    drain_s: float = _setting(8.0, "time to finish running requests after SIGTERM", ge=0, le=60)
    reload_s: float = _setting(5.0, "time between two looks at the published files", gt=0)

    input: InputSettings = InputSettings()
    safety: SafetySettings = SafetySettings()
    fallback: FallbackSettings = FallbackSettings()
    local: LocalSettings = LocalSettings()
    tollama: TollamaSettings = TollamaSettings()
    cache: CacheSettings = CacheSettings()
    breaker: BreakerSettings = BreakerSettings()
    degradation: DegradationSettings = DegradationSettings()
    rate_limit: RateLimitSettings = RateLimitSettings()
    route: RouteSettings = RouteSettings()
