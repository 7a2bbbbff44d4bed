"""The figures of the report on the online service: what it answered, and how its intervals hold.

What belongs here: their names, units and meanings. What does not: computing (`numbers`), wording
(`words`) and drawing (`figures`) them.
"""

from tsfm_pipeline.reports.shared.fields import common
from tsfm_pipeline.reports.shared.model import Estimate, Figures, Number, Report, item, table

TIME, TENANTS = "later days", "other tenants"
"""The two splits: intervals are fitted on earlier days, or on other tenants, than they are judged
on."""
BASELINE, RAW, CONFORMAL = "baseline", "raw", "conformal"
"""The three bands: last value and quantiles of changes; the model's own; the calibrated one."""
LABELS = {BASELINE: "baseline", RAW: "raw", CONFORMAL: "calibrated"}
"""Their names in figures and tables."""


class _OfSplit(Figures):
    split: str = item("", "later days, or other tenants: what the calibration had not seen")


class BandRow(_OfSplit):
    """One kind of interval on the rows of one split; the same rows for all three kinds."""

    band: str = item("", "baseline, raw or conformal")
    coverage_80: Estimate = item("share", "known values within the 80 % interval")
    coverage_90: Estimate = item("share", "known values within the 90 % interval")
    width_80: Estimate = item("units of the scale", "mean width of the 80 % interval")
    width_90: Estimate = item("units of the scale", "mean width of the 90 % interval")
    pinball: Estimate = item("units of the scale", "mean pinball loss at .1, .5 and .9")
    winkler_80: Estimate = item("units of the scale", "mean Winkler score of the 80 % interval")
    winkler_90: Estimate = item("units of the scale", "mean Winkler score of the 90 % interval")
    breach_rate: Estimate = item("share", "forecasts with a value outside the 90 % interval")
    follow_through: Estimate = item(
        "share",
        "of their first breaches: the series moved on by .03 of its range within six hours",
    )
    n_forecasts: int = item("count", "forecasts of one series")
    n_tenants: int = common("n_tenants")
    n_days: int = common("n_days")

    def coverage(self, target: float) -> Estimate:
        """Return the coverage of the interval of a target."""
        estimate: Estimate = getattr(self, f"coverage_{100 * target:.0f}")
        return estimate


class WidthRow(_OfSplit):
    """The price of coverage: widths of two kinds of intervals at the same coverage."""

    coverage: Number = item("share", "what the calibrated 80 % interval covered")
    factor: Number = item("ratio", "by which the baseline must be stretched to cover the same")
    ratio: Estimate = item("ratio", "calibrated width over the stretched baseline's")
    ratio_per_series: Number = item(
        "ratio", "the same as the geometric mean over series, so that all weigh the same"
    )


class SegmentRow(_OfSplit):
    """The calibrated intervals of one segment."""

    segment: str = item("", "name=value, sorted by name, joined by |")
    coverage_80: Estimate = item("share", "known values within the 80 % interval")
    coverage_90: Estimate = item("share", "known values within the 90 % interval")
    n_forecasts: int = item("count", "forecasts of one series")
    n_values: int = item("count", "known values")


class ServedReport(Report):
    """What the online service answered, and whether its intervals hold what they promise.

    Before enough was served, intervals are judged on the backtest: those that the service would
    have answered.
    """

    n_answers: int = item("count", "answers of the last 18 days that were taken in")
    n_with_outcomes: int = item("count", "answers of which at least one value is known")
    n_unmatched: int = item("count", "answers to no market, step or time of the fleet")
    served_from: str = item("", "when the first of these answers was asked for; empty: none")
    served_to: str = item("", "when the last one was asked for")
    fallback_rate: Number = item(
        "share",
        "of the answers that the model was asked for: a baseline stood in because it failed",
    )
    p50_latency_ms: Number = item("ms", "median time to an answer")
    p95_latency_ms: Number = item("ms", "95th percentile of the time to an answer")
    rollout_stage: str = item("", "off, shadow, 10, 50, 100, rolled-back or pinned")
    rollout_percent: Number = item("percent", "share of the markets that the model answers")
    rollout_reason: str = item("", "why")
    n_alerts: int = item("count", "values outside the last 90 % interval before them")
    alerts_followed: Number = item("share", "of the alerts whose six hours have passed")
    judged_on: str = item("", "served or backtest")
    calibration_version: str = item("", "of the published calibration; empty: none")
    calibrated_until: str = item("", "no value after this time was used for it")
    calibration_source: str = item("", "served or backtest")
    calibration_scores: int = item("count", "scores behind its smallest bucket for all series")
    n_values_after_as_of: int = item("count", "values after its as-of date that it used")
    n_judged_before_as_of: int = item(
        "count", "forecasts on later days that begin before its as-of date"
    )
    table_bands: tuple[BandRow, ...] = table()
    table_widths: tuple[WidthRow, ...] = table()
    table_segments: tuple[SegmentRow, ...] = table()

    def band(self, split: str, band: str) -> BandRow | None:
        """Return the row of a kind of interval on a split; None where nothing was judged."""
        rows = (row for row in self.table_bands if (row.split, row.band) == (split, band))
        return next(rows, None)
