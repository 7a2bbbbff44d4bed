"""Make an SLA report of plausible size and shape."""

from collections.abc import Mapping
from itertools import pairwise, permutations

from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.sla.model import CrossRow, SlaReport, StepRow, TierRow


def sla(alphas: Mapping[str, float] = TIERS) -> SlaReport:
    """An SLA report whose tiers are ordered and separated."""
    return SlaReport(
        fleet="demo",
        table_tiers=tuple(_tier(*tier) for tier in alphas.items()),
        table_steps=tuple(
            StepRow(higher_tier=higher, lower_tier=lower, difference=Estimate(0.9, 0.7, 1.1))
            for higher, lower in pairwise(alphas)
        ),
        table_cross=tuple(_cross(*pair, alphas) for pair in permutations(alphas, 2)),
    )


def _tier(tier: str, alpha: float) -> TierRow:
    level, rate = 8 * alpha - 4, 1 - alpha
    return TierRow(
        tier=tier,
        alpha=alpha,
        mean_scaled_decision=Estimate(level, level - 0.3, level + 0.3),
        violation_rate=Estimate(rate + 0.012, rate - 0.01, rate + 0.03),
        violation_rate_target=round(rate, 10),
        mean_scaled_slack=2.4,
        mean_scaled_shortfall=0.31,
        n_requests=288,
    )


def _cross(scored: str, forecast: str, alphas: Mapping[str, float]) -> CrossRow:
    ratio = 1 + 0.3 * abs(alphas[forecast] - alphas[scored])
    return CrossRow(
        forecast_tier=forecast,
        scored_tier=scored,
        mean_scaled_loss=1.4 * ratio,
        own_mean_scaled_loss=1.4,
        ratio=Estimate(ratio, ratio - 0.01, ratio + 0.02),
    )
