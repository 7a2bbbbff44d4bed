"""Test the gates of the earlier work.

What belongs here: which AUC meets which gate. What does not: how they are shown.
"""

import math

import pytest

from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.studies.direction.report.gates import gates_in, seed_gate


@pytest.mark.parametrize(
    ("auc", "has_collapsed", "gate"),
    [
        (0.719, False, "investigate"),
        (0.718, False, "fine_tune"),
        (0.65, False, "fine_tune"),
        (0.649, False, "undecided"),
        (0.60, True, "undecided"),
        (0.599, True, "stop"),
        (0.599, False, "undecided"),
        (math.nan, True, "undecided"),
    ],
)
def test_the_gate_is_that_of_the_plan(auc: float, has_collapsed: bool, gate: str) -> None:
    assert seed_gate(auc, has_collapsed) == gate


def test_an_interval_may_hold_several_gates() -> None:
    assert gates_in(Estimate(0.7, 0.55, 0.8), True) == (
        "stop",
        "undecided",
        "fine_tune",
        "investigate",
    )
    assert gates_in(Estimate(0.68, 0.66, 0.70), False) == ("fine_tune",)
    assert gates_in(Estimate(), False) == ()
