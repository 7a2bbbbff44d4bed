"""The figures of the forecast quality report: scores of whole forecasts, and skill.

What belongs here: their names, units and meanings. What does not: computing (`numbers`), wording
(`words`) and drawing (`figures`) them.
"""

from tsfm_pipeline.evaluation.methods import CONFIG_PREFIX
from tsfm_pipeline.reports.shared.fields import common
from tsfm_pipeline.reports.shared.model import (
    Estimate,
    Figures,
    Number,
    Report,
    group,
    item,
    table,
)

ALL_TIERS = "all"
"""The tier of methods whose deciles are the same at every tier."""


class Scores(Figures):
    """The scores of one method's forecasts."""

    wql: Estimate = item(
        "ratio",
        "sum of quantile losses over sum of absolute values, mean over metrics",
    )
    wql_skill: Estimate = item(
        "share",
        "cut of seasonal naive's WQL: 1 - ratio of the two, 0: as good, 1: perfect",
    )
    sql: Estimate = item(
        "ratio",
        "mean quantile loss in units of the seasonal error, mean over metrics",
    )
    mase: Estimate = item(
        "ratio",
        "mean absolute error of the median in units of the seasonal error, mean over metrics",
    )
    mase_skill: Estimate = item("share", "cut of seasonal naive's MASE")
    coverage_80: Estimate = item(
        "share",
        "observed values between the deciles .1 and .9, mean over metrics",
    )


class _OfMethod(Figures):
    method: str = common("method")
    tier: str = item("", "SLA tier; all where the method's deciles are the same at every tier")


class _OfMetric(Figures):
    metric: str = common("metric")


class MethodRow(Scores, _OfMethod):  # fields of the last base come first
    """One method at one tier, over all metrics."""

    n_failed: int = common("n_failed")


class MetricRow(MethodRow, _OfMetric):
    """One method at one tier on one metric."""


class QualityReport(Report):
    """The quality of whole forecasts, apart from what a decision costs."""

    horizon_steps: int = item("steps", "length of every forecast")
    season_steps: int = item(
        "steps",
        "the season of seasonal naive and of the seasonal error: the fleet's first",
    )
    n_requests: int = item("count", "valid test requests")
    n_series_without_seasonal_error: int = item("count", "series that have no MASE and no SQL")
    reference: str = item("", "the method that skill is measured against")
    headline_tier: str = item(
        "",
        "the tier whose deciles the keys of search and fixed_quantile are about",
    )
    coverage_80_target: Number = item("share", "what coverage_80 should be")
    scores: dict[str, Scores] = group("<method>")
    search_wql_skill_over_fixed: Estimate = item(
        "share",
        "cut of the fixed configuration's WQL by the search",
    )
    search_mase_skill_over_fixed: Estimate = item(
        "share",
        "cut of the fixed configuration's MASE by the search",
    )
    fev_summary_rows: int = item("count", "rows of fev_summary.csv")
    table_methods: tuple[MethodRow, ...] = table()
    table_metrics: tuple[MetricRow, ...] = table()

    @property
    def headline_methods(self) -> tuple[MethodRow, ...]:
        """Return the methods at the headline tier, without single configurations."""
        return tuple(
            row
            for row in self.table_methods
            if row.tier in (self.headline_tier, ALL_TIERS)
            and not row.method.startswith(CONFIG_PREFIX)
        )
