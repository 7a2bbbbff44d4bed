"""How good three kinds of intervals are on the same forecasts.

What belongs here: sums per forecast, their ratios with two-way bootstrap intervals, and the rows of
the report. What does not: which forecasts are judged (`numbers`), scores of single intervals
(`evaluation.intervals`).
Axes: R forecasts of one series each, H steps.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.conformal import GLOBAL, MIN_GLOBAL, Calibration, segment_keys
from tsfm_pipeline.evaluation.intervals import (
    covered,
    first_breaches,
    nested,
    width_at_coverage,
    winkler_score,
)
from tsfm_pipeline.evaluation.losses import pinball_loss
from tsfm_pipeline.evaluation.quantiles import TARGETS
from tsfm_pipeline.evaluation.statistics import mean_log_ratio, two_way_bootstrap_ratios
from tsfm_pipeline.reports.served.model import (
    BASELINE,
    CONFORMAL,
    RAW,
    BandRow,
    SegmentRow,
    WidthRow,
)
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.steps.serving_alerts import SeriesOf
from tsfm_pipeline.steps.serving_rows import MEDIAN, PastForecasts

Floats = NDArray[np.floating]
Pair = tuple[Floats, Floats]
"""Numerators and denominators of a ratio, one per forecast [R] each."""

FEWEST_VALUES = MIN_GLOBAL
"""Known values from which a segment is shown."""
MOST_SEGMENTS = 100
"""Segments that are shown at most: those with the most values."""
_PAIRS_AT_ONCE = 40


class Band(NamedTuple):
    """One kind of intervals: the ends of each target, and the median, [R, H] each."""

    ends: Mapping[float, tuple[Floats, Floats]]
    median: Floats


class Judged(NamedTuple):
    """The rows of one split."""

    bands: tuple[BandRow, ...]
    widths: tuple[WidthRow, ...]
    segments: tuple[SegmentRow, ...]


class Judgeable(Protocol):
    """What `judge` reads of a split."""

    @property
    def forecasts(self) -> PastForecasts: ...

    @property
    def baseline(self) -> PastForecasts: ...

    @property
    def calibration(self) -> Calibration | None: ...


def judge(fleet: Fleet, name: str, split: Judgeable) -> Judged:
    """Return the rows of a split; without a calibration, those of the baseline and of the raw
    intervals alone.
    """
    rows = split.forecasts
    bands = {BASELINE: _raw(fleet, split.baseline), RAW: _raw(fleet, rows)}
    if split.calibration is not None:
        bands[CONFORMAL] = calibrated(fleet, rows, split.calibration)
    scale = _scales(fleet)[rows.tenant, rows.metric]  # [R]
    intervals = _Bootstrap(fleet, rows)
    moved = _follow_through(fleet, rows, bands)
    figures = {band: _pairs(rows.actual, own, scale, moved[band]) for band, own in bands.items()}
    estimates = intervals.of([pair for own in figures.values() for pair in own.values()])
    size = {
        "n_forecasts": len(rows),
        "n_tenants": len(np.unique(rows.tenant)),
        "n_days": len(np.unique(intervals.day)),
    }
    found = iter(estimates)
    shown = tuple(
        BandRow(split=name, band=band, **{key: next(found) for key in own}, **size)
        for band, own in figures.items()
    )
    if CONFORMAL not in bands:
        return Judged(shown, (), ())
    width = _width_row(name, rows, bands, scale, intervals)
    return Judged(shown, (width,), _segment_rows(name, rows, bands[CONFORMAL], intervals))


def calibrated(fleet: Fleet, rows: PastForecasts, calibration: Calibration) -> Band:
    """Return the intervals as the service would answer them: calibrated where the calibration holds
    for every target, else raw; the wider one holds the narrower one, and that the median; all
    within the limits of their metric.
    """
    groups: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for row, segments in enumerate(rows.segments):
        groups.setdefault(tuple(sorted(segments.items())), []).append(row)
    ends = {
        target: (low.astype(np.float64), high.astype(np.float64))
        for target, (low, high) in rows.intervals.items()
    }
    for own, members in groups.items():
        answers = {
            target: calibration.apply(low[members], high[members], target, dict(own))
            for target, (low, high) in ends.items()
        }
        if all(answers.values()):
            for target, answer in answers.items():
                assert answer is not None
                ends[target][0][members], ends[target][1][members] = answer.low, answer.high
    median = rows.quantiles[..., MEDIAN].astype(np.float64)
    wider = nested(median, *(ends[target] for target in TARGETS))
    within = [(_within(fleet, rows, low), _within(fleet, rows, high)) for low, high in wider]
    return Band(dict(zip(TARGETS, within, strict=True)), _within(fleet, rows, median))


def _raw(fleet: Fleet, rows: PastForecasts) -> Band:
    ends = {
        target: (_within(fleet, rows, low), _within(fleet, rows, high))
        for target, (low, high) in rows.intervals.items()
    }
    return Band(ends, _within(fleet, rows, rows.quantiles[..., MEDIAN]))


def _within(fleet: Fleet, rows: PastForecasts, values: Floats) -> Floats:
    return fleet.arrays.limits.take(rows.metric).clip(np.asarray(values, dtype=np.float64))


def _scales(fleet: Fleet) -> Floats:
    """Return the scale of each series [N, D]; NaN where it has none."""
    scales = np.full((fleet.manifest.height, len(fleet.grid.metrics)), np.nan)
    metrics = {metric: d for d, metric in enumerate(fleet.grid.metrics)}
    rows = fleet.tables.scan("request_targets").select("tenant_number", "metric", "scale")
    for tenant, metric, scale in rows.unique(["tenant_number", "metric"]).collect().iter_rows():
        scales[tenant, metrics[metric]] = scale
    return scales


class _Bootstrap:
    """Ratios of sums over forecasts with their intervals over tenants and days."""

    def __init__(self, fleet: Fleet, rows: PastForecasts) -> None:
        per_day = 86_400_000_000
        start = round(fleet.grid.start.timestamp() * 1e6)
        self.day = (start + rows.origin * round(fleet.grid.step_minutes * 60e6)) // per_day
        self.tenant = rows.tenant
        self.draws = fleet.settings.evaluation.group_bootstrap

    def of(self, pairs: Sequence[Pair]) -> list[Estimate]:
        """Return the ratio of each pair, all under the same draws."""
        estimates: list[Estimate] = []
        for first in range(0, len(pairs), _PAIRS_AT_ONCE):  # to limit memory
            some = pairs[first : first + _PAIRS_AT_ONCE]
            above, below = (np.stack([pair[side] for pair in some]) for side in (0, 1))
            found = two_way_bootstrap_ratios(above, below, self.tenant, self.day, **self.draws)
            estimates += [Estimate(*row) for row in found.tolist()]
        return estimates


def _pairs(actual: Floats, band: Band, scale: Floats, moved: Floats) -> dict[str, Pair]:
    """Return the ratios of one kind of interval, by their key in the report."""
    known = ~np.isnan(actual)
    n = known.sum(axis=1).astype(np.float64)
    scaled = np.isfinite(scale)
    n_scaled = np.where(scaled, n, 0.0)

    def per_value(values: Floats) -> Pair:
        total = np.where(known, values, 0.0).sum(axis=1)
        return np.where(scaled, total / np.where(scaled, scale, 1.0), 0.0), n_scaled

    pairs: dict[str, Pair] = {}
    for target in TARGETS:
        pairs[f"coverage_{100 * target:.0f}"] = _coverage(actual, *band.ends[target])
    for target in TARGETS:
        low, high = band.ends[target]
        pairs[f"width_{100 * target:.0f}"] = per_value(high - low)
    low, high = band.ends[0.8]
    quantiles = ((0.1, low), (0.5, band.median), (0.9, high))
    losses = [pinball_loss(actual, forecast, level) for level, forecast in quantiles]
    pairs["pinball"] = per_value(np.mean(losses, axis=0))
    for target in TARGETS:
        score = winkler_score(actual, *band.ends[target], target)
        pairs[f"winkler_{100 * target:.0f}"] = per_value(score)
    breached = first_breaches(actual, *band.ends[0.9]).sign != 0
    pairs["breach_rate"] = breached.astype(np.float64), (n > 0).astype(np.float64)
    pairs["follow_through"] = np.nan_to_num(moved), (~np.isnan(moved)).astype(np.float64)
    return pairs


def _coverage(actual: Floats, low: Floats, high: Floats) -> Pair:
    inside = covered(actual, low, high)
    return np.nansum(inside, axis=1), (~np.isnan(inside)).sum(axis=1).astype(np.float64)


def _follow_through(
    fleet: Fleet, rows: PastForecasts, bands: Mapping[str, Band]
) -> dict[str, Floats]:
    """Return whether the first breach of each forecast was followed by a move [R] for each kind of
    interval; NaN without a breach, and where it is not known yet.
    """
    events: list[tuple[str, NDArray[np.int64], Any]] = []
    for name, band in bands.items():
        found = first_breaches(rows.actual, *band.ends[0.9])
        events.append((name, np.flatnonzero(found.sign), found))
    everything = np.concatenate([members for _, members, _ in events])
    moved = {name: np.full(len(rows), np.nan) for name in bands}
    if not len(everything):
        return moved
    steps = np.concatenate([rows.origin[m] + 1 + found.step[m] for _, m, found in events])
    sign = np.concatenate([found.sign[members] for _, members, found in events])
    metrics = [fleet.grid.metrics[d] for d in rows.metric[everything].tolist()]
    series = SeriesOf(fleet, rows.tenant[everything], metrics)
    _, known = series.moves(steps, sign, int(rows.origin.min()) + 1)
    for (name, members, _), part in zip(
        events, np.split(known, np.cumsum([len(m) for _, m, _ in events])[:-1]), strict=True
    ):
        moved[name][members] = part
    return moved


def _width_row(
    name: str,
    rows: PastForecasts,
    bands: Mapping[str, Band],
    scale: Floats,
    intervals: _Bootstrap,
) -> WidthRow:
    """Return the width of the calibrated 80 % interval over that of the baseline, after the latter
    has been stretched about its median to cover the same share of the same values in hindsight.
    """
    low, high = bands[CONFORMAL].ends[0.8]
    inside, known = _coverage(rows.actual, low, high)
    coverage = float(inside.sum() / known.sum()) if known.sum() else float("nan")
    baseline = bands[BASELINE]
    below, above = baseline.ends[0.8]
    factor = width_at_coverage(rows.actual, below, baseline.median, above, coverage)
    comparable = np.isfinite(scale) & np.isfinite(factor)
    weight = np.where(comparable, 1.0 / np.where(comparable, scale, 1.0), 0.0)
    observed = ~np.isnan(rows.actual)
    pair = (
        weight * np.where(observed, high - low, 0.0).sum(axis=1),
        weight * factor * np.where(observed, above - below, 0.0).sum(axis=1),
    )
    if not comparable.any():
        return WidthRow(
            split=name, coverage=coverage, factor=factor, ratio=Estimate(), ratio_per_series=np.nan
        )
    series = rows.tenant * (rows.metric.max() + 1) + rows.metric
    return WidthRow(
        split=name,
        coverage=coverage,
        factor=factor,
        ratio=intervals.of([pair])[0],
        ratio_per_series=mean_log_ratio(*pair, series).ratio,
    )


def _segment_rows(
    name: str, rows: PastForecasts, band: Band, intervals: _Bootstrap
) -> tuple[SegmentRow, ...]:
    """Return the coverage of the segments with at least `FEWEST_VALUES` known values, and of the
    `MOST_SEGMENTS` largest of them.
    """
    members: dict[str, list[int]] = {}
    for row, segments in enumerate(rows.segments):
        for key in segment_keys(segments):
            if key != GLOBAL:
                members.setdefault(key, []).append(row)
    coverage = {target: _coverage(rows.actual, *band.ends[target]) for target in TARGETS}
    n_known = coverage[0.9][1]
    sizes = {key: int(n_known[own].sum()) for key, own in members.items()}
    largest = sorted(sizes, key=lambda key: (-sizes[key], key))[:MOST_SEGMENTS]
    shown = {
        key: np.isin(np.arange(len(rows)), members[key])
        for key in sorted(largest)
        if sizes[key] >= FEWEST_VALUES
    }
    found = iter(
        intervals.of(
            [
                (np.where(own, inside, 0.0), np.where(own, known, 0.0))
                for own in shown.values()
                for inside, known in coverage.values()
            ]
        )
    )
    return tuple(
        SegmentRow(
            split=name,
            segment=key,
            coverage_80=next(found),
            coverage_90=next(found),
            n_forecasts=int(own.sum()),
            n_values=sizes[key],
        )
        for key, own in shown.items()
    )
