"""Our model as a runner of tollama: a process that a daemon starts and asks over pipes.

What belongs here: the runner's protocol, checking a request, and forecasting its series together.
What does not: the daemon's HTTP routes (`tollama`, which is the other direction) and the command's
options (`cli`). Nothing of tollama is imported.

The protocol is one JSON object per line: `{id, method, params}` in, `{id, result}` or `{id, error:
{code, message}}` out. Methods are hello, forecast and unload. Standard output is the protocol
alone; what else is printed goes to standard error.
"""

import logging
import os
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json, to_json

from tsfm_pipeline.evaluation.protocol import DECILES
from tsfm_pipeline.evaluation.quantiles import quantiles_at
from tsfm_pipeline.forecaster.config import DECILE_COLUMNS, MEAN_COLUMN, N_COLUMNS, PATCH_LEN
from tsfm_pipeline.forecaster.registry import CheckpointError, find_checkpoint
from tsfm_pipeline.serving.configurations import Configurations, Setup
from tsfm_pipeline.serving.contract import MAX_MAGNITUDE
from tsfm_pipeline.serving.local import forecast_batch
from tsfm_pipeline.serving.runtimes import Query

if TYPE_CHECKING:
    from tsfm_pipeline.forecaster.engine import FrozenForecaster

NAME = "tsfm-pipeline"
FAMILY = "tsfm"
METHODS = ("hello", "forecast", "unload")
BAD_REQUEST, UNSUPPORTED, INTERNAL = "BAD_REQUEST", "MODEL_UNSUPPORTED", "INTERNAL"
INVALID_REQUEST, UNKNOWN_METHOD = -32600, -32601
UNKNOWN_ID = "unknown"
MODEL_ERRORS = (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
"""What a model may raise. The runner goes on, because the daemon's way to restart it is to fail
everybody's call.
"""
EPOCH = datetime.fromtimestamp(0, UTC)
MOST_STEPS = 1_024
LOWEST_LEVEL, HIGHEST_LEVEL = 0.01, 0.99

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]


class _Series(BaseModel):
    """One series; a missing value is null or NaN."""

    model_config = ConfigDict(strict=True)

    id: Annotated[str, Field(min_length=1)]
    freq: str = "auto"
    timestamps: list[str] = Field(min_length=1)
    target: list[float | None] = Field(min_length=1)
    past_covariates: dict[str, Any] | None = None
    future_covariates: dict[str, Any] | None = None
    static_covariates: dict[str, Any] | None = None


class _Params(BaseModel):
    """The parameters of `forecast`. The daemon adds some that this runner does not need."""

    model_config = ConfigDict(strict=True)

    model: Annotated[str, Field(min_length=1)]
    horizon: int = Field(ge=1, le=MOST_STEPS)
    quantiles: list[Annotated[float, Field(ge=LOWEST_LEVEL, le=HIGHEST_LEVEL)]] = []
    series: list[_Series] = Field(min_length=1)
    options: dict[str, Any] = {}


class Refused(Exception):
    """An error that is answered as `{code, message}`."""

    def __init__(self, code: str | int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class Runner:
    """Answers the lines of one daemon, with one model."""

    def __init__(self, checkpoint: str) -> None:
        """Take the registry name or directory of the model, and load nothing yet."""
        self._checkpoint = checkpoint
        self._forecaster: FrozenForecaster | None = None

    def load(self) -> "FrozenForecaster":
        """Return the model, loaded and warmed up if it is not. Raises `CheckpointError`."""
        from tsfm_pipeline.forecaster import load_forecaster

        if self._forecaster is None:
            forecaster = load_forecaster(self._checkpoint)
            forecast_together(forecaster, [np.zeros(PATCH_LEN)], 1)
            self._forecaster = forecaster
        return self._forecaster

    def answer(self, line: bytes) -> bytes:
        """Return the line that answers a line, which may be an error."""
        request_id = UNKNOWN_ID
        code: str | int
        try:
            request = _request(line)
            request_id = request["id"]
            result = self._result(request.get("method"), request.get("params", {}))
            return to_json({"id": request_id, "result": result}) + b"\n"
        except Refused as error:
            code, message = error.code, error.message
        except CheckpointError as error:
            code, message = UNSUPPORTED, str(error)
        except MODEL_ERRORS as error:
            log.exception("a request failed")
            code, message = INTERNAL, f"{type(error).__name__} in the runner; see its log"
        return to_json({"id": request_id, "error": {"code": code, "message": message}}) + b"\n"

    def _result(self, method: object, params: object) -> dict[str, Any]:
        if method not in METHODS:
            raise Refused(UNKNOWN_METHOD, f"no method {method!r}; allowed: {', '.join(METHODS)}")
        if not isinstance(params, dict):
            raise Refused(BAD_REQUEST, "params are not an object; allowed: an object")
        if method == "hello":
            from tsfm_pipeline import __version__

            return {
                "name": NAME,
                "version": __version__,
                "capabilities": list(METHODS),
                "supported_families": [FAMILY],
            }
        if method == "unload":
            self._forecaster = None
            return {"unloaded": True, "model": params.get("model")}
        return self._forecast(_checked(params))

    def _forecast(self, params: _Params) -> dict[str, Any]:
        started = time.perf_counter()
        series = [_values(i, one) for i, one in enumerate(params.series)]
        forecaster = self.load()
        columns = forecast_together(forecaster, series, params.horizon)
        quantiles = quantiles_at(DECILES, columns[:, :, DECILE_COLUMNS], params.quantiles or [0.5])
        forecasts = [
            {
                "id": one.id,
                "freq": one.freq or "auto",
                "start_timestamp": _next_time(one.timestamps),
                "mean": columns[i, :, MEAN_COLUMN].tolist(),
                "quantiles": {
                    format(level, "g"): quantiles[i, :, q].tolist()
                    for q, level in enumerate(params.quantiles)
                }
                or None,
            }
            for i, one in enumerate(params.series)
        ]
        usage = {
            "runner": NAME,
            "device": str(forecaster.device),
            "checkpoint": forecaster.checkpoint.sha256[:12],
            "series_count": len(series),
            "inference_ms": round(1e3 * (time.perf_counter() - started), 3),
        }
        answer: dict[str, Any] = {"model": params.model, "forecasts": forecasts, "usage": usage}
        warnings = _warnings(params)
        return answer | {"warnings": warnings} if warnings else answer


def forecast_together(
    forecaster: "FrozenForecaster", series: Sequence[Floats], horizon: int
) -> Floats:
    """Return mean and deciles, float64 [S, H, 10], of finite series of any lengths.

    Each uses the longest plain context that it fills, as the service's own model does, and series
    with the same context share a pass.
    """
    limit = forecaster.checkpoint.dims["context_limit"]
    setups = Configurations()
    queries = [
        Query(market="", values=values, freq=1.0, end=EPOCH, horizon=horizon, levels=DECILES)
        for values in series
    ]
    groups: dict[Setup, list[int]] = {}
    for i, query in enumerate(queries):
        groups.setdefault(setups.setup_of(query, limit), []).append(i)
    columns = np.empty((len(queries), horizon, N_COLUMNS))
    for setup, rows in groups.items():
        columns[rows] = forecast_batch(
            forecaster, setup, [queries[i] for i in rows], columns=slice(N_COLUMNS)
        )
    if not np.isfinite(columns).all():
        raise RuntimeError("the model's forecast is not finite")
    return columns


def _request(line: bytes) -> dict[str, Any]:
    """Return a request with a text as id. Raises `Refused`."""
    try:
        request = from_json(line)
    except ValueError as error:
        raise Refused(INVALID_REQUEST, f"the line is not JSON: {error}") from error
    if not isinstance(request, dict) or not isinstance(request.get("id"), str):
        raise Refused(INVALID_REQUEST, "the line is not an object with a text as id")
    return request


def _checked(params: dict[str, Any]) -> _Params:
    """Return the parameters. Raises `Refused` with place, value and what is allowed."""
    try:
        checked = _Params.model_validate(params)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        given = "nothing" if first["type"] == "missing" else repr(first["input"])[:60]
        allowed = first["msg"].removeprefix("Input should be ")
        raise Refused(BAD_REQUEST, f"{where}: {given}; allowed: {allowed}") from error
    for i, one in enumerate(checked.series):
        if len(one.timestamps) != len(one.target):
            raise Refused(
                BAD_REQUEST,
                f"series.{i}.timestamps: {len(one.timestamps)} times; allowed: one per value of "
                f"target, {len(one.target)}",
            )
    return checked


def _values(i: int, series: _Series) -> Floats:
    """Return a target from its first value on, with gaps filled by the value before them. Raises
    `Refused`.
    """
    values = np.array(series.target, dtype=np.float64)
    known = ~np.isnan(values)
    if not known.any():
        raise Refused(BAD_REQUEST, f"series.{i}.target: no value; allowed: one or more")
    wrong = known & ~(np.abs(values) <= MAX_MAGNITUDE)
    if wrong.any():
        step = int(wrong.argmax())
        raise Refused(
            BAD_REQUEST,
            f"series.{i}.target.{step}: {values[step]}; allowed: finite numbers up to "
            f"{MAX_MAGNITUDE:g} in size, null or NaN for a missing one",
        )
    last_known = np.maximum.accumulate(np.where(known, np.arange(len(values)), 0))
    return np.asarray(values[last_known][int(known.argmax()) :])


def _next_time(timestamps: list[str]) -> str:
    """Return the time of the first step, or the last one given where times cannot be read."""
    try:
        before, last = (datetime.fromisoformat(text) for text in timestamps[-2:])
        following = last + (last - before)
    except (ValueError, TypeError, OverflowError):
        return timestamps[-1]
    return following.isoformat().replace("+00:00", "Z")


def _warnings(params: _Params) -> list[str]:
    """Return what of a request was not used."""
    covariates = {
        name
        for one in params.series
        for columns in (one.past_covariates, one.future_covariates, one.static_covariates)
        for name in columns or {}
    }
    texts = [f"ignoring unsupported covariate: {name!r}" for name in sorted(covariates)]
    return texts + [f"ignoring unknown option: {name!r}" for name in sorted(params.options)]


def manifest(name: str, checkpoint: str) -> dict[str, Any]:
    """Return the manifest by which a daemon knows the model. Raises `CheckpointError`."""
    info, _, path = find_checkpoint(checkpoint)
    digest = info.sha256[:12]
    return {
        "name": name,
        "family": FAMILY,
        "source": {"repo_id": f"{NAME}/{info.name}", "revision": digest, "type": "local"},
        "resolved": {"commit_sha": digest, "snapshot_path": None},
        "size_bytes": path.stat().st_size,
        "license": {"type": info.licence.lower(), "needs_acceptance": False, "accepted": True},
    }


def take_over_stdout() -> IO[bytes]:
    """Return a stream to standard output, and let all that is printed from now on go to standard
    error. Call it before anything is imported that may print.
    """
    protocol = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return protocol


def serve(
    checkpoint: str, lines: Iterable[bytes] | None = None, out: IO[bytes] | None = None
) -> None:
    """Answer line by line until the input ends or the daemon is gone.

    lines, out: in place of standard input and output. Raises `CheckpointError` before the first
    answer where the model cannot be loaded.
    """
    out = take_over_stdout() if out is None else out
    runner = Runner(checkpoint)
    runner.load()
    try:
        for line in sys.stdin.buffer if lines is None else lines:
            if line.strip():
                out.write(runner.answer(line))
                out.flush()
    except (BrokenPipeError, KeyboardInterrupt):
        log.info("the daemon is gone")
