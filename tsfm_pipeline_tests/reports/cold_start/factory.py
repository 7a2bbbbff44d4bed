"""Make a cold-start report of plausible size and shape."""

from collections.abc import Iterable

from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.reports.cold_start.model import (
    ColdStartReport,
    GapRow,
    RetrievalRow,
    StrategyRow,
)
from tsfm_pipeline.reports.shared.model import Estimate

MINUTES = (30, 60, 120, 240, 480)
EXCESS = {
    "no_prior": 0.55,
    "fleet_prior": 0.33,
    "retrieved_prior": 0.22,
    "true_label_prior": 0.18,
    "fixed_config": 0.41,
    "full_history": 0.0,
}
CLOSED = {"fleet_prior": 0.4, "retrieved_prior": 0.6, "true_label_prior": 0.67}
ACCURACY = {"30": 0.5, "60": 0.61, "120": 0.74, "240": 0.8, "480": 0.83, "full": 0.92}


def cold_start(tiers: Iterable[str] = TIERS) -> ColdStartReport:
    """A cold-start report in which priors help most when there is least history."""
    at = [(minutes, tier) for minutes in MINUTES for tier in tiers]
    return ColdStartReport(
        fleet="demo",
        configs=("ctx15", "ctx30", "ctx60"),
        retrieval_full_top1=ACCURACY["full"],
        retrieval_full_balanced=ACCURACY["full"] - 0.04,
        retrieval_120_top1=ACCURACY["120"],
        retrieval_120_balanced=ACCURACY["120"] - 0.04,
        table_cold_start=tuple(
            _strategy(*each, name, excess) for each in at for name, excess in EXCESS.items()
        ),
        table_gap=tuple(
            _gap(*each, prior, share) for each in at for prior, share in CLOSED.items()
        ),
        table_retrieval=tuple(
            RetrievalRow(
                history=history,
                top1_accuracy=Estimate(accuracy, accuracy - 0.15, min(accuracy + 0.1, 1.0)),
                balanced_accuracy=accuracy - 0.04,
                majority_share=0.125,
                n_queries=24,
            )
            for history, accuracy in ACCURACY.items()
        ),
    )


def _strategy(minutes: int, tier: str, name: str, excess: float) -> StrategyRow:
    ratio = 1 + excess * 30 / minutes
    half = 0.05 if excess else 0.0
    return StrategyRow(
        minutes=minutes,
        tier=tier,
        strategy=name,
        mean_scaled_loss=1.4,
        ratio=Estimate(ratio, ratio - half, ratio + 1.2 * half),
        n_requests=288,
        n_tenants=24,
    )


def _gap(minutes: int, tier: str, prior: str, share: float) -> GapRow:
    return GapRow(
        minutes=minutes,
        tier=tier,
        prior=prior,
        gap=Estimate(16 / minutes, 9 / minutes, 24 / minutes),
        gap_closed=Estimate(share, share - 0.2, share + 0.15),
        advantage_over_fleet_prior=Estimate(0.1, 0.02, 0.2)
        if prior == "retrieved_prior"
        else Estimate(),
    )
