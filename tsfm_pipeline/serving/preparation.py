"""From a request to the series that is forecast: which values count, and on which scale.

What belongs here: the rules of a request that depend on settings, laying values onto the grid of
the frequency, filling gaps, the transform, and the reasons for which a baseline answers at once.
What does not: what a client may send at all (`contract`), and answering.

Gaps. The grid ends at as_of_ts. A step without a value is filled with the value before it. Its age
is the time since that value; where an age exceeds the tolerance, a baseline answers
(`max_gap_exceeded`), and it is given the observed values as they came, nothing filled. Only steps
that the model would see count. The tolerance is the server's, or the client's if that is less.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from tsfm_pipeline.evaluation.limits import Bounds
from tsfm_pipeline.serving import quotes
from tsfm_pipeline.serving.contract import ErrorCode, ForecastRequest, minutes_of
from tsfm_pipeline.serving.errors import InvalidRequest, problem
from tsfm_pipeline.serving.markets import UNBOUNDED, Markets
from tsfm_pipeline.serving.request_checks import TIME_TOLERANCE_S
from tsfm_pipeline.serving.runtimes import Query
from tsfm_pipeline.serving.settings import InputSettings

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

COVARIATES_IGNORED = "covariates_ignored"
"""Warning: the one who answers cannot use the request's covariates."""
PARAMS_IGNORED = "params_ignored"
"""Warning: the one who answers has no use for the model's parameters."""
GAPS_FILLED = "gaps_filled"
"""Warning, counted in steps: values that were carried forward."""


class BaselineReason(StrEnum):
    """Why a baseline answers a request without the model being asked, in the order of the rules."""

    TOO_FEW_POINTS = "too_few_points"
    MAX_GAP_EXCEEDED = "max_gap_exceeded"
    LIQUIDITY = "baseline_only_liquidity_bucket"
    LOW_VOLUME = "baseline_only_low_volume"


@dataclass(frozen=True, eq=False)
class Covariates:
    """Other series by name: past float64 [T], as long as the prepared values; future [H]."""

    past: Mapping[str, Floats] = field(default_factory=dict)
    future: Mapping[str, Floats] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.past or self.future)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A request's series, ready to be forecast.

    values: float64 [T] on the model's scale, finite, oldest first; T >= 1. y_last: the last
    observed value, in the client's unit. end: time of the last value, as_of_ts. freq: minutes per
    step. baseline_reason: why a baseline must answer, if so. share_missing: share of the steps that
    the model would see which were not observed, 0 to 1. limits: of values in the client's unit.
    segments: what kind of series this is, by name. matched: whether it is one of the fleet's.
    """

    request: ForecastRequest
    values: Floats
    y_last: float
    end: datetime
    freq: float
    covariates: Covariates
    baseline_reason: BaselineReason | None
    share_missing: float
    warnings: Counter[str]
    limits: Bounds
    segments: dict[str, str]
    matched: bool

    @property
    def is_logit(self) -> bool:
        """Whether the model works on the logit scale."""
        return self.request.transform.space == "logit"

    def to_client(self, values: Floats) -> Floats:
        """Return values of the model's scale in the client's unit, of the same shape."""
        return np.asarray(expit(values)) if self.is_logit else values


@dataclass(frozen=True, eq=False)
class _Observed:
    """The values that a request brings: float64 [N], of each its index in the request, int64 [N],
    and how many whole steps before as_of it lies, int64 [N], never rising.
    """

    values: Floats
    index: Ints
    steps: Ints


def ignored(*, covariates: bool, params: bool) -> tuple[str, ...]:
    """Return the warnings of one who can use neither, about those that a request has."""
    given = {COVARIATES_IGNORED: covariates, PARAMS_IGNORED: params}
    return tuple(code for code, has in given.items() if has)


def _nothing_more(freq: float, horizon: int) -> int:
    return 0


def prepare(
    request: ForecastRequest,
    settings: InputSettings,
    markets: Markets,
    lookback: Callable[[float, int], int] = _nothing_more,
) -> Prepared:
    """Return the series to forecast.

    lookback: of the model, as `Lane.lookback`; as many values are kept if there are so many.

    Raises `InvalidRequest` for more values than the settings allow, for values outside [0, 1] on
    the logit scale, and for quotes of which fewer than two have a value.
    """
    _check_size(request, settings.max_points)
    freq = minutes_of(request.freq)
    observed = _observed(request, 60.0 * freq, settings.last_trade_minutes)
    _check_scale(request, observed)
    horizon = request.horizon_steps
    most = max(settings.input_len, markets.steps_back(freq, horizon), lookback(freq, horizon))
    chosen, ages = _on_grid(observed.steps, most, _steps_since(request, 60.0 * freq))
    n_missing = int(np.count_nonzero(ages))
    too_old = float(ages.max()) * freq > _tolerance(request, settings)
    if too_old:
        chosen = np.arange(max(0, len(observed.values) - most), len(observed.values))
    n_points = len(observed.values) if too_old else len(ages) - n_missing
    reason = _baseline_reason(request, settings, n_points, too_old)
    covariates = _covariates(request, observed.index[chosen])
    segments = _segments(request, markets)
    warnings = Counter({GAPS_FILLED: 0 if too_old else n_missing})
    return Prepared(
        request=request,
        values=_on_model_scale(observed.values[chosen], request),
        y_last=float(observed.values[-1]),
        end=request.as_of_ts,
        freq=float(freq),
        covariates=covariates,
        baseline_reason=reason,
        share_missing=n_missing / len(ages),
        warnings=+warnings,  # only what occurred
        limits=_limits(request, markets, segments.get("metric")),
        segments=segments,
        matched="metric" in segments,
    )


def _check_size(request: ForecastRequest, most: int) -> None:
    n, field_name = request.n_given, "y" if request.quotes is None else "quotes"
    if n > most:
        raise InvalidRequest(
            problem(
                ErrorCode.TOO_LARGE,
                f"{field_name} is too large: it has {n} values",
                field_name,
                n,
                f"2 to {most} values",
            )
        )


def _observed(request: ForecastRequest, step_s: float, last_trade_minutes: float) -> _Observed:
    """Return the values that the request brings, without quotes that have none."""
    n = request.n_given
    if request.seconds is None:
        steps = np.arange(n - 1, -1, -1)
    else:
        steps = _whole_steps(request.as_of_ts.timestamp() - request.seconds, step_s)
    if request.quotes is None:
        return _Observed(np.array(request.y, dtype=np.float64), np.arange(n), steps)
    values = quotes.values_of(request.quotes, last_trade_minutes)
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < 2:
        raise InvalidRequest(
            problem(
                ErrorCode.TOO_FEW_POINTS,
                f"too_few_points: {len(known)} of {n} quotes have a value",
                "quotes",
                n,
                "at least 2 quotes with bid and ask, or a last trade of at most "
                f"{last_trade_minutes:g} minutes",
            )
        )
    return _Observed(values[known], known, steps[known])


def _whole_steps(seconds: Floats, step_s: float) -> Ints:
    """Return spans as whole steps, rounded down, but up within the tolerance of times."""
    return np.floor((seconds + TIME_TOLERANCE_S) / step_s).astype(np.int64)


def _check_scale(request: ForecastRequest, observed: _Observed) -> None:
    if request.transform.space != "logit":
        return
    outside = np.flatnonzero((observed.values < 0.0) | (observed.values > 1.0))
    if len(outside):
        first = int(outside[0])
        where = f"{'y' if request.quotes is None else 'quotes'}[{int(observed.index[first])}]"
        detail = f"malformed input: {where} lies outside [0, 1], the range of the logit scale"
        allowed = "0 to 1; other values with transform.space identity"
        raise InvalidRequest(
            problem(
                ErrorCode.MALFORMED_INPUT, detail, where, float(observed.values[first]), allowed
            )
        )


def _steps_since(request: ForecastRequest, step_s: float) -> int:
    """Return the whole steps from the last real observation to as_of, where the client says it."""
    if request.observed_ts is None:
        return 0
    since_s = (request.as_of_ts - request.observed_ts).total_seconds()
    return int(_whole_steps(np.array(since_s), step_s))


def _on_grid(steps: Ints, most: int, unobserved: int) -> tuple[Ints, Ints]:
    """Return for each of at most `most` steps up to as_of which value stands there, int64 [T], and
    its age in steps, int64 [T]; 0 where it was observed.

    unobserved: last steps for which the client sent values that are no observations.
    """
    grid = np.arange(min(most, int(steps[0]) + 1) - 1, -1, -1)  # steps before as_of
    chosen = np.searchsorted(-steps, -grid, side="right") - 1
    return chosen, np.maximum(steps[chosen] - grid, unobserved - grid).clip(min=0)


def _tolerance(request: ForecastRequest, settings: InputSettings) -> float:
    """Return the longest gap that is filled, in minutes."""
    if request.max_gap_minutes is None:
        return settings.max_gap_minutes
    return min(settings.max_gap_minutes, request.max_gap_minutes)


def _baseline_reason(
    request: ForecastRequest, settings: InputSettings, n_points: int, too_old: bool
) -> BaselineReason | None:
    if n_points < settings.min_points:
        return BaselineReason.TOO_FEW_POINTS
    if too_old:
        return BaselineReason.MAX_GAP_EXCEEDED
    if request.liquidity_bucket in settings.baseline_liquidity:
        return BaselineReason.LIQUIDITY
    if request.volume_24h is not None and request.volume_24h < settings.min_volume_24h:
        return BaselineReason.LOW_VOLUME
    return None


def _covariates(request: ForecastRequest, index: Ints) -> Covariates:
    """Return the covariates, the past ones cut and carried forward as the values are."""
    return Covariates(
        {name: np.array(own, dtype=np.float64)[index] for name, own in request.x_past.items()},
        {name: np.array(own, dtype=np.float64) for name, own in request.x_future.items()},
    )


def _on_model_scale(values: Floats, request: ForecastRequest) -> Floats:
    if request.transform.space == "identity":
        return values
    eps = request.transform.eps
    return np.asarray(logit(np.clip(values, eps, 1.0 - eps)))


def _segments(request: ForecastRequest, markets: Markets) -> dict[str, str]:
    given = {
        "category": request.segment.category,
        "liquidity_bucket": request.liquidity_bucket,
        "tte_bucket": request.segment.tte_bucket,
    }
    stated = {name: value for name, value in given.items() if value is not None}
    return stated | markets.segments_of(request.market_id)


def _limits(request: ForecastRequest, markets: Markets, metric: str | None) -> Bounds:
    if request.transform.space == "logit":
        return (0.0, 1.0)
    return UNBOUNDED if metric is None else markets.bounds[metric]


def query_of(prepared: Prepared) -> Query:
    """Return what a model is asked for a prepared request."""
    lower, upper = (None, None) if prepared.is_logit else prepared.limits
    return Query(
        market=prepared.request.market_id,
        values=prepared.values,
        freq=prepared.freq,
        end=prepared.end,
        horizon=prepared.request.horizon_steps,
        levels=tuple(prepared.request.quantiles),
        lower=lower,
        upper=upper,
        past=prepared.covariates.past,
        future=prepared.covariates.future,
        params=prepared.request.model.params,
    )
