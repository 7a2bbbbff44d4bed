"""The model of each report by the name of its asset.

What belongs here: the list, in the order of the codebook. What does not: the models themselves
(each report's `model`).
"""

from collections.abc import Mapping
from typing import Any

from tsfm_pipeline.reports.ablation.model import AblationReport
from tsfm_pipeline.reports.acceptance.model import CriteriaReport, LedgerReport
from tsfm_pipeline.reports.across_fleets.model import EvidenceReport
from tsfm_pipeline.reports.cold_start.model import ColdStartReport
from tsfm_pipeline.reports.headline.model import HeadlineReport
from tsfm_pipeline.reports.latency.model import LatencyReport
from tsfm_pipeline.reports.quality.model import QualityReport
from tsfm_pipeline.reports.recommendations.model import RecommendationReport, RecommendationReview
from tsfm_pipeline.reports.served.model import ServedReport
from tsfm_pipeline.reports.shared.model import Figures
from tsfm_pipeline.reports.sla.model import SlaReport

REPORTS: dict[str, type[Figures]] = {
    "headline_report": HeadlineReport,
    "forecast_quality_report": QualityReport,
    "ablation_report": AblationReport,
    "cold_start_report": ColdStartReport,
    "sla_report": SlaReport,
    "latency_report": LatencyReport,
    "acceptance_criteria": CriteriaReport,
    "recommendation_report": RecommendationReport,
    "recommendation_review": RecommendationReview,
    "interval_evaluation": ServedReport,
    "experiment_ledger": LedgerReport,
    "evidence_report": EvidenceReport,
}


def model_of(name: str, content: Mapping[str, Any]) -> Any:
    """Return the model of a report's JSON."""
    return REPORTS[name].from_flat(content)
