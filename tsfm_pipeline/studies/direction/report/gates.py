"""The gates of the earlier work: what its plan does at which AUC of a foundation model.

What belongs here: the rule, as the plan states it, and what it measures. What does not: this
study's own verdict (`verdict`).

The plan compares one figure, the AUC of touch_up on validation days, with fixed numbers: above .718
(PatchTST's) investigate, from .65 try fine-tuning, below .60 with collapsed predictions stop. What
is between has no rule. The base rate and the volatility of other days move every AUC by more than
the distance between the gates, so the gate is shown beside the verdict and decides nothing.
"""

from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.studies.direction.report.model import Gate

STOP, FINE_TUNE, INVESTIGATE = 0.60, 0.65, 0.718
RSI_ON_THE_SAME_DAYS = 0.723
"""AUC of minus the 14-day RSI, untrained, on the 422 days of the .718 (SPY, 2023 and 2024)."""
ORDER: tuple[Gate, ...] = ("stop", "undecided", "fine_tune", "investigate")


def seed_gate(auc: float, has_collapsed: bool) -> Gate:
    """Return the gate of an AUC of touch_up; NaN is undecided."""
    if auc > INVESTIGATE:
        return "investigate"
    if auc >= FINE_TUNE:
        return "fine_tune"
    return "stop" if auc < STOP and has_collapsed else "undecided"


def gates_in(auc: Estimate, has_collapsed: bool) -> tuple[Gate, ...]:
    """Return every gate that the interval of an AUC reaches, lowest first."""
    inside = [auc.low, auc.high, *(g for g in (STOP, FINE_TUNE) if auc.low <= g <= auc.high)]
    reached = {seed_gate(each, has_collapsed) for each in inside if each == each}
    return tuple(gate for gate in ORDER if gate in reached)
