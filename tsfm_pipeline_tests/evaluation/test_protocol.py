"""Test the protocol: its constants agree with each other, and values that cannot be evaluated are
refused.
"""

import pytest
from pydantic import ValidationError

from tsfm_pipeline.evaluation.losses import DECILE_LEVELS
from tsfm_pipeline.evaluation.protocol import (
    ALPHAS,
    HEADLINE_TIER,
    PROTOCOL,
    TIER_SHARES,
    TIERS,
    Protocol,
)
from tsfm_pipeline.forecaster.config import DECILE_COLUMNS, QUANTILE_LEVELS


def test_tiers_descend_and_stay_within_the_deciles() -> None:
    assert list(TIERS) == ["premium", "standard", "basic"] == list(TIER_SHARES)
    assert sorted(ALPHAS, reverse=True) == list(ALPHAS)
    assert all(0.1 <= alpha <= 0.9 for alpha in ALPHAS)
    assert sum(TIER_SHARES.values()) == pytest.approx(1)
    assert HEADLINE_TIER in TIERS


def test_losses_and_forecaster_have_the_deciles_of_the_protocol() -> None:
    assert tuple(DECILE_LEVELS.tolist()) == QUANTILE_LEVELS == PROTOCOL.deciles
    assert DECILE_COLUMNS.stop - DECILE_COLUMNS.start == len(PROTOCOL.deciles)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"tiers": {"gold": 0.98}, "tier_shares": {"gold": 1}},
            "alpha of tier gold is 0.98; allowed: 0.1 to 0.975",
        ),
        ({"tiers": {}}, "at least one"),
        ({"tier_shares": {"gold": 1}}, "no tier gold to share; allowed: premium, standard, basic"),
        ({"tier_shares": {"premium": 0.5}}, "sum to 0.5"),
        ({"latency_budget_ms": 0}, "greater than 0"),
    ],
)
def test_a_protocol_that_cannot_be_evaluated_is_refused(
    changes: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Protocol(**{**PROTOCOL.model_dump(), **changes})


@pytest.mark.parametrize(
    ("tiers", "headline"),
    [
        (TIERS, "standard"),
        ({"gold": 0.9, "standard": 0.6, "bronze": 0.55}, "standard"),
        ({"gold": 0.9, "silver": 0.8, "bronze": 0.7}, "silver"),
        ({"gold": 0.9, "silver": 0.8}, "silver"),
        ({"only": 0.8}, "only"),
    ],
)
def test_one_tier_of_every_fleet_is_shown_alone(tiers: dict[str, float], headline: str) -> None:
    protocol = Protocol(tiers=tiers, tier_shares=dict.fromkeys(tiers, 1 / len(tiers)))
    assert protocol.headline_tier == headline
    assert protocol.alphas == tuple(tiers.values())
