"""Conformal calibration: how far intervals must be moved so that they cover what they promise.

What belongs here: the scores of past intervals, their order statistics by segment and step, and
`Calibration`, the file by which a run hands them to the online service. What does not: where past
intervals come from (`steps.serving`), how good intervals are (`intervals`), the level of a tier's
decision (`autoresearch.calibration.LevelCorrection`, which moves one quantile; this sets the
coverage of an interval).

A past interval [low, high] with half width u has the score max(low - y, y - high) / u at a step
whose value was y: how many half widths each end had to move outwards (negative: could move inwards)
to hold y exactly (conformalised quantile regression, Romano, Patterson and Candes 2019, with the
half width as the scale, so that series of any unit share one distribution). Of n scores the k-th
smallest, k = ceil((n + 1) c), moves both ends of the next interval. If past and next steps are
exchangeable, it then covers with a probability of at least c, and without ties of at most c + 1 /
(n + 1). Where k > n there is no such score, and nothing is calibrated.

Both ends move by the same score. A score of each end's own, at (1 + c) / 2, gave wider intervals
and a higher Winkler score on the tuning requests of `demo` and `asd`: where a metric rests at its
bound, the lower end never fails, and the upper end alone must not use up only half of the failures.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from itertools import combinations
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from tsfm_pipeline.evaluation.losses import SCALE_FLOOR
from tsfm_pipeline.evaluation.quantiles import TARGETS
from tsfm_pipeline.files import fingerprint

Floats = NDArray[np.float64]

_NOTHING = np.empty(0), np.empty(0, dtype=np.int64)
GLOBAL = "global"
"""The key of the segment that holds everything."""
MIN_SEGMENT = 100
MIN_GLOBAL = 500
"""Fewest scores from which a bucket of a segment, or of everything, is calibrated."""
DAYS = 14
"""A calibration sees the days before its as-of date; earlier errors say less about the next."""


class Calibrated(NamedTuple):
    """Intervals after calibration: low and high float64 [..., H], the segment's key, and the scores
    behind the bucket that has fewest.
    """

    low: Floats
    high: Floats
    segment: str
    n: int


def bucket_of(steps: ArrayLike) -> NDArray[np.int64]:
    """Return the first step of the bucket that each step from 1 lies in: 1, 2-3, 4-6, 7-12, 13-24,
    25-48 and so on, each as long as all before it from 7 on.
    """
    at = np.asarray(steps, dtype=np.int64)
    if at.size and at.min() < 1:
        raise ValueError(f"step {at.min()} is none; the first step after an origin is 1")
    last = int(at.max(initial=1))
    return _starts(last)[np.searchsorted(_starts(last), at, side="right") - 1]


def _starts(last: int) -> NDArray[np.int64]:
    starts = [1, 2, 4, 7]
    while starts[-1] <= last:
        starts.append(2 * starts[-1] - 1)
    return np.array(starts, dtype=np.int64)


def half_widths(low: ArrayLike, high: ArrayLike) -> Floats:
    """Return the scale of the scores of intervals: half their width, but at least `SCALE_FLOOR`
    times the larger absolute end, so that the rounding errors of a resting series are no scores.
    """
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    floor = SCALE_FLOOR * np.maximum(np.abs(low), np.abs(high))
    return np.maximum((high - low) / 2, floor)


def interval_scores(low: ArrayLike, high: ArrayLike, actual: ArrayLike) -> Floats:
    """Return the score of each interval, NaN where a value or an end is unknown.

    An interval of width 0 at 0 has no scale: its score is 0 if the value is 0 too, else infinite.
    The three arrays broadcast against each other.
    """
    low, high, actual = (np.asarray(part, dtype=np.float64) for part in (low, high, actual))
    outside = np.maximum(low - actual, actual - high)
    unit = np.broadcast_to(half_widths(low, high), outside.shape)
    resting = np.where(outside > 0, np.inf, np.where(np.isnan(outside), np.nan, 0.0))
    with np.errstate(over="ignore"):
        return np.divide(outside, unit, out=resting, where=unit > 0)


def order_statistic(scores: ArrayLike, coverage: float) -> float:
    """Return the k-th smallest of n scores, k = ceil((n + 1) * coverage); infinite where k > n. NaN
    are left out. Raises ValueError unless 0 < coverage < 1.
    """
    if not 0.0 < coverage < 1.0:
        raise ValueError(f"coverage is {coverage!r}; allowed: between 0 and 1")
    values = np.asarray(scores, dtype=np.float64).ravel()
    known = values[~np.isnan(values)]
    # Without the rounding, (999 + 1) * .9 would be a little more than 900.
    k = math.ceil(round((len(known) + 1) * coverage, 9))
    return float(np.partition(known, k - 1)[k - 1]) if k <= len(known) else math.inf


def segment_keys(segments: Mapping[str, str]) -> Iterator[str]:
    """Yield the keys of a request's segments in the order in which they are tried: all its names,
    pairs, single names, everything. A key is `name=value`, sorted by name, joined by `|`.
    """
    pairs = sorted((name, value) for name, value in segments.items() if value)
    seen: set[str] = set()
    for size in (len(pairs), 2, 1):
        for chosen in combinations(pairs, size):
            key = segment_key(chosen)
            if key and key not in seen:
                seen.add(key)
                yield key
    yield GLOBAL


def segment_key(pairs: Iterable[tuple[str, str]]) -> str:
    """Return the key of a segment's names and values, which are sorted by name; empty for none."""
    return "|".join(f"{name}={value}" for name, value in pairs)


def segments_of(key: str) -> dict[str, str]:
    """Return the names and values of a segment's key; none for an empty one and for `global`."""
    pairs = (part.partition("=") for part in key.split("|"))
    return {name: value for name, found, value in pairs if found}


class Bucket(BaseModel):
    """The steps from `first_step` to the next bucket, and how far their intervals are moved."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    first_step: int = Field(ge=1)
    n: int = Field(ge=1, description="scores of past intervals")
    score: float = Field(description="half widths by which both ends move outwards")


Fitted = dict[str, dict[str, tuple[Bucket, ...]]]
"""By key of the segment, then by the target's text (`0.9`): its buckets, ascending."""


def fit(
    intervals: Mapping[float, tuple[ArrayLike, ArrayLike]],
    actual: ArrayLike,
    segments: Sequence[Mapping[str, str]],
    *,
    min_segment: int = MIN_SEGMENT,
    min_global: int = MIN_GLOBAL,
) -> Fitted:
    """Return the calibrated buckets of every segment.

    intervals: by target, the lower and the upper ends of R past forecasts [R, H]. actual [R, H]:
    what happened; NaN where it is unknown. segments [R]: of each forecast, e.g. metric and tier. A
    bucket with fewer scores than `min_segment` (`min_global` for everything), or whose order
    statistic is infinite, is left out, and so is a segment without buckets. Raises ValueError for
    arrays of other shapes.
    """
    values = np.asarray(actual, dtype=np.float64)
    if values.ndim != 2 or len(segments) != len(values):
        raise ValueError(
            f"actual has shape {values.shape} and there are segments of {len(segments)} forecasts; "
            "expected [R, H] and R"
        )
    members: dict[str, list[int]] = {}
    for row, own in enumerate(segments):
        for key in segment_keys(own):
            members.setdefault(key, []).append(row)
    bucket = bucket_of(np.arange(1, values.shape[1] + 1))
    fitted: Fitted = {}
    for target, (low, high) in intervals.items():
        scores = interval_scores(low, high, values)
        if scores.shape != values.shape:
            raise ValueError(f"intervals of {target:g} have shape {scores.shape}; expected [R, H]")
        for key, rows in members.items():
            least = min_global if key == GLOBAL else min_segment
            buckets = tuple(_buckets(scores[rows], bucket, target, least))
            if buckets:
                fitted.setdefault(key, {})[f"{target:g}"] = buckets
    return dict(sorted(fitted.items()))


def _buckets(
    scores: Floats, bucket: NDArray[np.int64], target: float, least: int
) -> Iterator[Bucket]:
    for first in np.unique(bucket).tolist():
        own = scores[:, bucket == first]
        n = int(np.count_nonzero(~np.isnan(own)))
        moved = order_statistic(own, target)
        if n >= least and math.isfinite(moved):
            yield Bucket(first_step=first, n=n, score=moved)


class Calibration(BaseModel):
    """A fleet's calibration, as its run publishes it and the service reads it.

    It holds for the answers of one version of one model at one length of step. Two calibrations of
    equal content have equal versions. Raises `pydantic.ValidationError` for a file whose version is
    not that of its content.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1] = 1
    version: str = Field(description="digest of everything else")
    as_of: AwareDatetime = Field(description="no value after this time was used")
    source: Literal["served", "backtest"] = Field(description="where the past intervals come from")
    runtime: Literal["local", "tollama"]
    model: str
    model_version: str
    step_minutes: float = Field(gt=0)
    horizon: int = Field(ge=1, description="steps beyond this one are not calibrated")
    targets: tuple[float, ...] = TARGETS
    segments: Fitted

    @classmethod
    def of(
        cls,
        segments: Fitted,
        *,
        as_of: datetime,
        source: Literal["served", "backtest"],
        runtime: Literal["local", "tollama"],
        model: str,
        model_version: str,
        step_minutes: float,
        horizon: int,
    ) -> Self:
        """Return the calibration of fitted segments, with its version."""
        unversioned = cls.model_construct(
            version="",
            as_of=as_of,
            source=source,
            runtime=runtime,
            model=model,
            model_version=model_version,
            step_minutes=step_minutes,
            horizon=horizon,
            segments=segments,
        )
        return cls.model_validate({**dict(unversioned), "version": unversioned.digest()})

    def digest(self) -> str:
        """Return the digest of everything but the version."""
        return fingerprint(self.model_dump(mode="json", exclude={"version"}))

    @model_validator(mode="after")
    def _as_versioned(self) -> Self:
        if self.version != self.digest():
            raise ValueError(
                f"version {self.version!r} is not that of the content ({self.digest()}): the file "
                "was changed after it was published; materialise 'conformal_calibration' again"
            )
        return self

    def fits(self, runtime: str, model: str, model_version: str, step_minutes: float) -> bool:
        """Return whether the calibration holds for answers of this model at this step."""
        own = (self.runtime, self.model, self.model_version)
        return own == (runtime, model, model_version) and math.isclose(
            self.step_minutes, step_minutes
        )

    def apply(
        self,
        lower: ArrayLike,
        upper: ArrayLike,
        target: float,
        segments: Mapping[str, str],
        first_step: int = 1,
    ) -> Calibrated | None:
        """Return intervals [..., H] of a target after calibration, in their own units.

        The first of the request's segments whose buckets hold all steps decides; None where there
        is none, or a step lies beyond the horizon. first_step: the step of the first interval.
        Where the ends would cross, both are put in the middle between them.
        """
        low, high = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
        steps = slice(first_step - 1, first_step - 1 + low.shape[-1])
        if not low.size or first_step < 1 or steps.stop > self.horizon:
            return None
        for key in segment_keys(segments):
            scores, counts = self._by_step.get((key, f"{target:g}"), _NOTHING)
            own = scores[steps]
            if len(own) < low.shape[-1] or np.isnan(own).any():
                continue
            by = own * half_widths(low, high)
            low, high = low - by, high + by
            middle, crossed = (low + high) / 2, low > high
            low, high = np.where(crossed, middle, low), np.where(crossed, middle, high)
            return Calibrated(low, high, key, int(counts[steps].min()))
        return None

    @cached_property
    def _by_step(self) -> dict[tuple[str, str], tuple[Floats, NDArray[np.int64]]]:
        """Score and count of each step [horizon], NaN and 0 where there is none, by segment and
        target.
        """
        bucket = bucket_of(np.arange(1, self.horizon + 1))
        by_step = {}
        for key, by_target in self.segments.items():
            for target, buckets in by_target.items():
                scores, counts = np.full(len(bucket), np.nan), np.zeros(len(bucket), dtype=np.int64)
                for own in buckets:
                    scores[bucket == own.first_step] = own.score
                    counts[bucket == own.first_step] = own.n
                by_step[key, target] = scores, counts
        return by_step
