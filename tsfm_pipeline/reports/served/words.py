"""The report on the online service in words and tables.

What belongs here: sentences and tables from the report's figures. What does not: the figures
themselves (`numbers`), drawings (`figures`).
"""

from tsfm_pipeline.reports.served.model import (
    CONFORMAL,
    LABELS,
    RAW,
    TENANTS,
    TIME,
    BandRow,
    ServedReport,
)
from tsfm_pipeline.reports.shared.answer import Answer, Effect
from tsfm_pipeline.reports.shared.table import Table, positions_of
from tsfm_pipeline.reports.shared.wording import (
    count,
    interval,
    milliseconds,
    number,
    percent,
    percent_interval,
    ratio_interval,
    whole,
)

TARGET_90 = 0.9
NEAR = 0.03


def served_answer(report: ServedReport) -> Answer:
    """Say what was served, and whether the calibrated intervals hold what they promise."""
    parts = (_served(report), _intervals(report))
    return Answer(_effect(report), " ".join(parts if report.n_answers else parts[::-1]))


def holds(row: BandRow, target: float = TARGET_90) -> bool:
    """Return whether the interval of a target covers it within `NEAR`, or the confidence interval
    of its coverage holds the target.
    """
    figure, low, high = row.coverage(target)
    return abs(figure - target) <= NEAR or low <= target <= high


def _effect(report: ServedReport) -> Effect:
    row = report.band(TIME, CONFORMAL)
    if row is None:
        return "unknown"
    return "gain" if holds(row) else "loss"


def _served(report: ServedReport) -> str:
    if not report.n_answers:
        return "The online service has answered nothing yet."
    return (
        f"The online service gave {count(report.n_answers, 'answer')}, "
        f"{percent(report.fallback_rate)} of them by a baseline because the model did not, within "
        f"{milliseconds(report.p95_latency_ms)} (95th percentile). Rollout: {report.rollout_stage}."
    )


def _intervals(report: ServedReport) -> str:
    row, raw = report.band(TIME, CONFORMAL), report.band(TIME, RAW)
    if row is None or raw is None:
        return "There are too few past forecasts to calibrate its intervals."
    rows = "the backtest"
    if report.judged_on == "served":
        rows = "its own answers, under a calibration that was fitted on earlier ones for this check"
    words = (
        f"On later days of {rows}, {percent_interval(*row.coverage_90)} of what happened lay "
        "within the service's calibrated 90 % interval (without calibration "
        f"{percent(raw.coverage_90.figure)})"
    )
    width = next((each for each in report.table_widths if each.split == TIME), None)
    if width is None:
        return f"{words}."
    return (
        f"{words}; its 80 % interval is {ratio_interval(*width.ratio)} times as wide as that of "
        "last value and quantiles of changes at the same coverage."
    )


def bands(report: ServedReport) -> Table:
    """Return every kind of interval on both splits."""
    rows = report.table_bands
    cells = tuple(
        (
            row.split,
            LABELS[row.band],
            percent_interval(*row.coverage_80),
            percent_interval(*row.coverage_90),
            interval(*row.width_80),
            interval(*row.width_90),
            interval(*row.winkler_90),
            interval(*row.pinball),
            percent_interval(*row.breach_rate),
            percent_interval(*row.follow_through),
            whole(row.n_forecasts),
        )
        for row in rows
    )
    columns = (
        "not seen before",
        "interval",
        "coverage of 80 %",
        "coverage of 90 %",
        "width of 80 %",
        "width of 90 %",
        "Winkler score of 90 %",
        "pinball loss",
        "forecasts breached",
        "followed by a move",
        "forecasts",
    )
    emphasised = positions_of([row.band for row in rows], CONFORMAL)
    on = "the service's answers" if report.judged_on == "served" else "the backtest"
    return Table(
        f"Intervals on {on}, in units of the scale", columns, cells, frozenset({0, 1}), emphasised
    )


def widths(report: ServedReport) -> Table:
    """Return what the same coverage costs with the calibrated intervals and with the baseline's."""
    cells = tuple(
        (
            row.split,
            percent(row.coverage),
            number(row.factor),
            ratio_interval(*row.ratio),
            number(row.ratio_per_series),
        )
        for row in report.table_widths
    )
    columns = (
        "not seen before",
        "coverage",
        "baseline stretched by",
        "calibrated over baseline",
        "mean over series",
    )
    return Table("Width of the calibrated 80 % interval at the same coverage", columns, cells)


def segments(report: ServedReport) -> Table:
    """Return the coverage of every segment on later days, furthest from its target first."""
    rows = sorted(
        (row for row in report.table_segments if row.split == TIME),
        key=lambda row: (-abs(row.coverage_90.figure - TARGET_90), row.segment),
    )
    cells = tuple(
        (
            row.segment,
            percent_interval(*row.coverage_80),
            percent_interval(*row.coverage_90),
            whole(row.n_forecasts),
            whole(row.n_values),
        )
        for row in rows
    )
    columns = ("segment", "coverage of 80 %", "coverage of 90 %", "forecasts", "values")
    return Table("Calibrated intervals by segment, on later days", columns, cells)


def service(report: ServedReport) -> Table:
    """Return what the service answered; no rows before it has."""
    if not report.n_answers:
        return Table("The service", ("", ""), ())
    followed = percent(report.alerts_followed)
    cells = (
        ("answers", whole(report.n_answers)),
        ("asked for", f"{report.served_from[:16]} to {report.served_to[:16]} UTC"),
        ("with known outcomes", whole(report.n_with_outcomes)),
        ("of no market, step or time of the fleet", whole(report.n_unmatched)),
        ("by a baseline, because the model did not answer", percent(report.fallback_rate)),
        ("median time", milliseconds(report.p50_latency_ms)),
        ("95th percentile of the time", milliseconds(report.p95_latency_ms)),
        ("rollout", f"{report.rollout_stage}: {report.rollout_reason}"),
        ("values outside their band", f"{whole(report.n_alerts)}, {followed} followed by a move"),
    )
    return Table("The service", ("", ""), cells, frozenset({0, 1}))


def calibration_sentence(report: ServedReport) -> str:
    """Say where the published calibration comes from."""
    if not report.calibration_version:
        return "No calibration is published: there are too few past forecasts."
    source = {
        "served": "the service's own answers of the 14 days",
        "backtest": "the backtest's forecasts of the tuning tenants",
    }[report.calibration_source]
    return (
        f"Calibration {report.calibration_version} was fitted on {source} before "
        f"{report.calibrated_until[:16]} UTC, from at least "
        f"{count(report.calibration_scores, 'past interval')} per bucket of steps. The rows of "
        f'"{TENANTS}" are judged with a calibration that was fitted without these tenants.'
    )
