"""Make a report on the online service of plausible size and shape."""

from typing import Any

from tsfm_pipeline.reports.served.model import (
    BASELINE,
    CONFORMAL,
    RAW,
    TENANTS,
    TIME,
    BandRow,
    SegmentRow,
    ServedReport,
    WidthRow,
)
from tsfm_pipeline.reports.shared.model import Estimate

NAN = float("nan")
COVERAGE = {BASELINE: 0.91, RAW: 0.87, CONFORMAL: 0.905}


def around(figure: float, by: float = 0.02) -> Estimate:
    return Estimate(figure, figure - by, figure + by)


def served(**replaced: Any) -> ServedReport:
    """A report on some thousand answers whose calibrated intervals hold."""
    fields: dict[str, Any] = {
        "fleet": "demo",
        "n_answers": 4_000,
        "n_with_outcomes": 3_900,
        "n_unmatched": 20,
        "served_from": "2026-01-01 00:00:00+00:00",
        "served_to": "2026-01-14 23:55:00+00:00",
        "fallback_rate": 0.012,
        "p50_latency_ms": 14.0,
        "p95_latency_ms": 38.0,
        "rollout_stage": "10",
        "rollout_percent": 10,
        "rollout_reason": "30 minutes of clean windows in a row at stage shadow",
        "n_alerts": 310,
        "alerts_followed": 0.61,
        "judged_on": "served",
        "calibration_version": "0123456789abcdef",
        "calibrated_until": "2026-01-15T00:00:00+00:00",
        "calibration_source": "served",
        "calibration_scores": 3_900,
        "n_values_after_as_of": 0,
        "n_judged_before_as_of": 0,
        "table_bands": tuple(
            band(split, name) for split in (TIME, TENANTS) for name in (BASELINE, RAW, CONFORMAL)
        ),
        "table_widths": tuple(
            WidthRow(
                split=split,
                coverage=0.81,
                factor=1.1,
                ratio=around(0.85),
                ratio_per_series=0.9,
            )
            for split in (TIME, TENANTS)
        ),
        "table_segments": tuple(
            SegmentRow(
                split=split,
                segment=f"metric={metric}",
                coverage_80=around(0.8),
                coverage_90=around(coverage),
                n_forecasts=500,
                n_values=6_000,
            )
            for split in (TIME, TENANTS)
            for metric, coverage in (("cpu_util", 0.9), ("mem_util", 0.86))
        ),
    }
    return ServedReport(**fields | replaced)


def unserved(**replaced: Any) -> ServedReport:
    """A report of a fleet of which nothing was served."""
    nothing: dict[str, Any] = dict.fromkeys(("n_answers", "n_with_outcomes", "n_unmatched"), 0)
    nothing |= dict.fromkeys(("served_from", "served_to"), "")
    nothing |= dict.fromkeys(("fallback_rate", "p50_latency_ms", "p95_latency_ms"), NAN)
    nothing |= {"n_alerts": 0, "alerts_followed": NAN, "rollout_percent": NAN}
    nothing |= {"rollout_stage": "off", "rollout_reason": "nothing was decided"}
    backtest = {"judged_on": "backtest", "calibration_source": "backtest"}
    return served(**nothing | backtest | replaced)


def band(split: str, name: str, **replaced: Any) -> BandRow:
    fields: dict[str, Any] = {
        "split": split,
        "band": name,
        "coverage_80": around(COVERAGE[name] - 0.1),
        "coverage_90": around(COVERAGE[name]),
        "width_80": around(4.0, 0.4),
        "width_90": around(6.0, 0.4),
        "pinball": around(0.6, 0.1),
        "winkler_80": around(9.0, 1.0),
        "winkler_90": around(12.0, 1.0),
        "breach_rate": around(0.5),
        "follow_through": around(0.6),
        "n_forecasts": 800,
        "n_tenants": 24,
        "n_days": 3,
    }
    return BandRow(**fields | replaced)
