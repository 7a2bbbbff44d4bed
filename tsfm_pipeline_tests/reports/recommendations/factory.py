"""Make a recommendation report and a review of plausible size and shape."""

from collections.abc import Mapping

from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.reports.recommendations.model import (
    BacktestOfTier,
    ConstantRow,
    DriftRow,
    NotMadeRow,
    RecommendationReport,
    RecommendationReview,
    ReservedRow,
    ReviewOfTier,
)
from tsfm_pipeline.reports.recommendations.words import METHOD_LABELS
from tsfm_pipeline.reports.shared.model import Estimate

PEAKS = ("search_peak", "largest_step", "last_block_peak")


def recommendations(alphas: Mapping[str, float] = TIERS) -> RecommendationReport:
    """Recommendations that cost less than the fixed configuration's; one series has none."""
    return RecommendationReport(
        fleet="demo",
        block_steps=60,
        block_minutes=60.0,
        n_tenants=3,
        n_series=6,
        n_not_made=1,
        first_block_start="2024-01-15T00:00:00Z",
        last_block_start="2024-01-15T00:00:00Z",
        median_relative_validation_loss=0.98,
        tiers={tier: _backtest(alpha) for tier, alpha in alphas.items()},
        table_methods=tuple(_constant(tier, method) for tier in alphas for method in METHOD_LABELS),
        table_not_made=(
            NotMadeRow(reason="no value in the last N steps (at most N are filled)", n_series=1),
        ),
    )


def reserved() -> ReservedRow:
    """What is reserved of one metric today and what would have been recommended, in money too."""
    return ReservedRow(
        metric="cpu",
        tier="standard",
        n_requests=48,
        n_tenants=12,
        reserved_today=2.5,
        recommended=1.0,
        saved=Estimate(1.5, 1.2, 1.8),
        violation_rate_today=0.01,
        violation_rate=0.2,
        slack_today=1.7,
        slack=0.3,
        shortfall_today=0.0,
        shortfall=0.1,
        saved_cost_per_tenant_day=Estimate(0.5, 0.4, 0.6),
    )


def _backtest(alpha: float) -> BacktestOfTier:
    return BacktestOfTier(
        ratio=Estimate(0.9, 0.85, 0.95),
        ratio_last_block=Estimate(0.7),
        ratio_percentile_margin=Estimate(0.6, 0.5, 0.7),
        ratio_eight_day_quantile=Estimate(0.9, 0.8, 1.1),
        ratio_usage_histogram=Estimate(0.65, 0.6, 0.7),
        violation_rate_search=1 - alpha - 0.01,
        violation_rate_fixed=1 - alpha + 0.01,
        violation_rate_target=round(1 - alpha, 10),
        covered_target=alpha,
        covered=Estimate(alpha + 0.01, alpha - 0.05, alpha + 0.07),
        covered_largest_step=0.21,
        n_requests_scored=48,
    )


def _constant(tier: str, method: str) -> ConstantRow:
    return ConstantRow(
        tier=tier,
        method=method,
        for_maximum=method in PEAKS,
        mean_scaled_loss=1.4,
        ratio=Estimate(1.1, 1.0, 1.2),
        n_requests=48,
        violation_rate=0.2,
        covered=Estimate(0.5, 0.4, 0.6),
        mean_scaled_slack=2.4,
        n_failed=0,
    )


def review(alphas: Mapping[str, float] = TIERS) -> RecommendationReview:
    """A review of one earlier run whose reservations cost more than the fixed configuration's."""
    return RecommendationReview(
        fleet="demo",
        n_runs=5,
        n_reviewed=12,
        status="earlier recommendations were reviewed",
        n_runs_reviewed=1,
        first_block_start="2024-01-15T00:00:00Z",
        last_block_start="2024-01-15T00:00:00Z",
        tiers={tier: _reviewed(alpha) for tier, alpha in alphas.items()},
        drift_status="compared with run 4",
        n_series_compared=6,
        n_configs_changed=2,
        n_tenants_changed=1,
        n_groups_changed=1,
        n_new_tenants=0,
        n_gone_tenants=0,
        table_drift=(
            DriftRow(
                tenant_id="a",
                metric=None,
                what="archetype",
                old="batch",
                new="web",
                old_weight=None,
                new_weight=None,
            ),
            DriftRow(
                tenant_id="a",
                metric="cpu",
                what="configuration",
                old="ctx64",
                new="ctx256",
                old_weight=0.5,
                new_weight=0.3,
            ),
        ),
    )


def _reviewed(alpha: float) -> ReviewOfTier:
    return ReviewOfTier(
        violation_rate=1 - alpha + 0.05,
        violation_rate_target=round(1 - alpha, 10),
        covered=0.5,
        covered_target=alpha,
        n_blocks=12,
        ratio_fixed=Estimate(1.1, 1.02, 1.2),
        ratio_last_block=Estimate(0.8),
    )


def nothing_to_review() -> RecommendationReview:
    """The review of a fleet's first run."""
    return RecommendationReview(
        fleet="demo",
        n_runs=1,
        n_reviewed=0,
        status="nothing to review yet: x",
        tiers={},
        drift_status="nothing to compare yet: y",
        n_configs_changed=0,
        n_tenants_changed=0,
    )
