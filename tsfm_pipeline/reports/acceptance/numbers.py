"""The acceptance criteria, judged from the other reports.

What belongs here: which figure of which report decides a criterion. What does not: the rules of the
verdicts (`criteria`), the ledger (`ledger`).
"""

from typing import Literal

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.reports.acceptance import criteria
from tsfm_pipeline.reports.acceptance.model import CriteriaReport, Criterion
from tsfm_pipeline.reports.cold_start.model import ColdStartReport
from tsfm_pipeline.reports.headline.model import HeadlineReport
from tsfm_pipeline.reports.latency.model import LatencyReport, size_name
from tsfm_pipeline.reports.shared.files import read_report
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.sla.model import SlaReport

COLD_START_MINUTES = 120


def acceptance_criteria(fleet: Fleet) -> CriteriaReport:
    """Judge C1 to C10 with figure, interval and verdict, from the four reports."""
    headline = HeadlineReport.from_flat(read_report(fleet, "headline_report"))
    latency = LatencyReport.from_flat(read_report(fleet, "latency_report"))
    cold = ColdStartReport.from_flat(read_report(fleet, "cold_start_report"))
    sla = SlaReport.from_flat(read_report(fleet, "sla_report"))
    tier = headline.headline_tier
    judged = [
        criteria.judge_win_rate(headline.tiers[tier].win_rate),
        criteria.judge_loss_cut(_cut(headline.tiers[tier].ratio)),
        criteria.judge_hard_archetypes(
            {row.scope_value: row.win_rate for row in headline.table_archetypes if row.tier == tier}
        ),
        *_latency(latency),
        _retrieval("C6", cold, "full"),
        _retrieval("C7", cold, str(COLD_START_MINUTES)),
        _cold_start(cold, tier),
        criteria.judge_tier_order(
            {f"{row.higher_tier} - {row.lower_tier}": row.difference for row in sla.table_steps}
        ),
        criteria.judge_tier_losses(
            {
                f"{row.scored_tier} against {row.forecast_tier}": _inverse(row.ratio)
                for row in sla.table_cross
            }
        ),
    ]
    counts = {
        verdict: sum(c.verdict == verdict for c in judged)
        for verdict in ("PASS", "FAIL", "NULL", "N/A")
    }
    return CriteriaReport(
        fleet=fleet.name,
        n_pass=counts["PASS"],
        n_fail=counts["FAIL"],
        n_null=counts["NULL"],
        n_na=counts["N/A"],
        table_criteria=tuple(
            criteria.with_tiers(criterion, headline.tiers) for criterion in judged
        ),
    )


def _latency(latency: LatencyReport) -> list[Criterion]:
    """Judge the latency of `criteria.LATENCY_K` configurations, also if the portfolio is smaller;
    where so many were not timed, that of the portfolio.
    """
    judged = size_name(criteria.LATENCY_K)
    own = judged if judged in latency.sizes else size_name(latency.portfolio_size)
    p95 = latency.sizes[own].p95_latency_ms
    by_k = {row.k: row.p95_ms.figure for row in latency.whole_requests}
    return [criteria.judge_latency(p95, latency.n_requests), criteria.judge_largest_k(by_k)]


def _retrieval(criterion_id: Literal["C6", "C7"], cold: ColdStartReport, history: str) -> Criterion:
    row = next((row for row in cold.table_retrieval if row.history == history), None)
    if row is None:
        return criteria.not_applicable(
            criterion_id, "this fleet has no known archetypes, or no window of this length"
        )
    return criteria.judge_retrieval(
        criterion_id, row.top1_accuracy, row.balanced_accuracy, row.majority_share
    )


def _cold_start(cold: ColdStartReport, tier: str) -> Criterion:
    row = cold.gaps_at(tier).get((COLD_START_MINUTES, "retrieved_prior"))
    if row is None:
        return criteria.not_applicable(
            "C8", f"{COLD_START_MINUTES} minutes of history were not evaluated"
        )
    return criteria.judge_cold_start(row.gap_closed, row.gap, row.advantage_over_fleet_prior)


def _inverse(ratio: Estimate) -> Estimate:
    return Estimate(1 / ratio.figure, 1 / ratio.high, 1 / ratio.low)


def _cut(ratio: Estimate) -> Estimate:
    return Estimate(1 - ratio.figure, 1 - ratio.high, 1 - ratio.low)
