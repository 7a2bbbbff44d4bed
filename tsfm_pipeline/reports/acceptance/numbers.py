"""The acceptance criteria, judged from the reports; and the ledger of what was measured when.

What belongs here: reading figures out of report JSONs, one row per materialisation in the ledger. What does not: the verdicts' rules
(`reports.acceptance.criteria`).
"""

from collections.abc import Mapping
from typing import Any

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.protocol import HEADLINE_TIER
from tsfm_pipeline.reports.acceptance import criteria
from tsfm_pipeline.reports.acceptance.criteria import Criterion, Estimate
from tsfm_pipeline.reports.shared.files import read_report

COLD_START_MINUTES = 120


def acceptance_criteria(fleet: Fleet) -> dict[str, Any]:
    """C1 to C10 with figure, interval and verdict, from the four reports."""
    headline, latency = read_report(fleet, "headline_report"), read_report(fleet, "latency_report")
    cold, sla = read_report(fleet, "cold_start_report"), read_report(fleet, "sla_report")
    judged = [
        criteria.judge_win_rate(_estimate(headline, "standard_win_rate")),
        criteria.judge_loss_cut(_cut(_estimate(headline, "standard_ratio"))),
        _hard_archetypes(headline),
        *_latency(latency),
        _retrieval("C6", cold, "full"),
        _retrieval("C7", cold, str(COLD_START_MINUTES)),
        _cold_start(cold),
        criteria.judge_tier_order(
            {f"{row['higher_tier']} - {row['lower_tier']}": _row(row, "difference", "low", "high") for row in sla["table_steps"]}
        ),
        criteria.judge_tier_losses(
            {
                f"{row['scored_tier']} against {row['forecast_tier']}": _inverse(_row(row, "ratio", "ratio_low", "ratio_high"))
                for row in sla["table_cross"]
            }
        ),
    ]
    counts = {verdict: sum(c.verdict == verdict for c in judged) for verdict in ("PASS", "FAIL", "NULL", "N/A")}
    return {
        "fleet": fleet.name,
        **{f"n_{verdict.lower().replace('/', '')}": n for verdict, n in counts.items()},
        "table_criteria": [criterion.model_dump() for criterion in judged],
    }


def _hard_archetypes(headline: Mapping[str, Any]) -> Criterion:
    rows = [row for row in headline["table_archetypes"] if row["tier"] == HEADLINE_TIER]
    rates = {row["scope_value"]: _row(row, "win_rate", "win_rate_low", "win_rate_high") for row in rows}
    return criteria.judge_hard_archetypes(rates)


def _latency(latency: Mapping[str, Any]) -> list[Criterion]:
    k = latency["portfolio_size"]
    p95 = _row(latency, f"k{k}_p95_latency_ms", f"k{k}_p95_low_ms", f"k{k}_p95_high_ms")
    by_k = {row["k"]: row["p95_ms"] for row in latency["table_latency"] if row["stage"] == "total"}
    return [criteria.judge_latency(p95, latency["n_requests"]), criteria.judge_largest_k(by_k)]


def _retrieval(criterion_id: Any, cold: Mapping[str, Any], history: str) -> Criterion:
    row = next((row for row in cold["table_retrieval"] if row["history"] == history), None)
    if row is None:
        return criteria.not_applicable(criterion_id, "this fleet has no known archetypes, or no window of this length")
    accuracy = _row(row, "top1_accuracy", "top1_low", "top1_high")
    return criteria.judge_retrieval(criterion_id, accuracy, row["balanced_accuracy"], row["majority_share"])


def _cold_start(cold: Mapping[str, Any]) -> Criterion:
    row = next(
        (
            row
            for row in cold["table_gap"]
            if (row["minutes"], row["tier"], row["prior"]) == (COLD_START_MINUTES, HEADLINE_TIER, "retrieved_prior")
        ),
        None,
    )
    if row is None:
        return criteria.not_applicable("C8", f"{COLD_START_MINUTES} minutes of history were not evaluated")
    return criteria.judge_cold_start(
        _row(row, "gap_closed", "gap_closed_low", "gap_closed_high"),
        _row(row, "gap", "gap_low", "gap_high"),
        _row(row, "advantage_over_fleet_prior", "advantage_low", "advantage_high"),
    )


def _estimate(report: Mapping[str, Any], name: str) -> Estimate:
    return _row(report, name, f"{name}_low", f"{name}_high")


def _row(row: Mapping[str, Any], figure: str, low: str, high: str) -> Estimate:
    return Estimate(*(float("nan") if row[key] is None else float(row[key]) for key in (figure, low, high)))


def _inverse(ratio: Estimate) -> Estimate:
    return Estimate(1 / ratio.figure, 1 / ratio.high, 1 / ratio.low)


def _cut(ratio: Estimate) -> Estimate:
    return Estimate(1 - ratio.figure, 1 - ratio.high, 1 - ratio.low)
