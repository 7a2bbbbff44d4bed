"""Make a forecast quality report of plausible size and shape."""

from tsfm_pipeline.reports.quality.model import ALL_TIERS, MethodRow, QualityReport, Scores
from tsfm_pipeline.reports.shared.model import Estimate

OVER_FIXED = Estimate(0.05, 0.02, 0.08)


def quality(over_fixed: Estimate = OVER_FIXED, tier: str = "standard") -> QualityReport:
    """A forecast quality report of a fleet with two tiers, this one and basic.

    over_fixed: how much of the fixed configuration's WQL the search cuts.
    """
    rows = (
        row("search", tier, 0.2, 0.45),
        row("search", "basic", 0.21, 0.48),
        row("seasonal_naive", ALL_TIERS, 0.4, 0.0),
        row("fixed_quantile", tier, 0.25, 0.4),
        row("config:ctx64", ALL_TIERS, 0.3, 0.2),
    )
    return QualityReport(
        fleet="shop",
        horizon_steps=60,
        season_steps=1440,
        n_requests=120,
        n_series_without_seasonal_error=0,
        reference="seasonal_naive",
        headline_tier=tier,
        coverage_80_target=0.8,
        scores={each.method: scores(each) for each in (rows[0], rows[2], rows[3])},
        search_wql_skill_over_fixed=over_fixed,
        search_mase_skill_over_fixed=over_fixed,
        fev_summary_rows=20,
        table_methods=rows,
        table_metrics=(),
    )


def row(method: str, tier: str, wql: float, skill: float) -> MethodRow:
    return MethodRow(
        method=method,
        tier=tier,
        wql=around(wql),
        wql_skill=around(skill),
        sql=around(wql),
        mase=around(2 * wql),
        mase_skill=around(skill),
        coverage_80=around(0.79),
        n_failed=0,
    )


def scores(of: MethodRow) -> Scores:
    return Scores(**of.model_dump(include=set(Scores.model_fields)))


def around(figure: float) -> Estimate:
    return Estimate(figure, figure - 0.05, figure + 0.05)
