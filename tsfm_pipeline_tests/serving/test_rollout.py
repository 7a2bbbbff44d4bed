"""Test a market's place and its route: row D-18 of the service's conformance table."""

from datetime import UTC, datetime
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsfm_pipeline.evaluation.rollout import RolloutDecision, Stage
from tsfm_pipeline.serving.contract import RolloutStage
from tsfm_pipeline.serving.rollout import Rollout, share_of

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PUBLISHED = Rollout("published")


def decided(percent: int, stage: Stage = "pinned") -> RolloutDecision:
    return RolloutDecision(
        stage=stage, percent=percent, since=NOW, reason="so", by="ada", as_of=NOW
    )


def test_d18_places_are_the_same_in_every_release() -> None:
    # printf '%s' NAME | b2sum -l 64, modulo 10,000
    golden = {"": 0.9876, "tenant-0001/cpu_util": 0.1453, "markt/größe": 0.1769}
    assert {market: share_of(market) for market in golden} == golden


SHARES = [decided(percent) for percent in range(101)]


@given(market=st.text())
def test_d18_raising_the_share_never_moves_a_market_back(market: str) -> None:
    routes = [PUBLISHED.route(market, share) for share in SHARES]
    assert routes == sorted(routes)  # baseline before model
    assert routes[0] == "baseline"
    assert routes[-1] == "model"


@pytest.mark.parametrize("percent", [10, 50])
def test_d18_the_share_of_10_000_markets_is_within_three_standard_errors(percent: int) -> None:
    n, p = 10_000, percent / 100
    routes = [PUBLISHED.route(f"tenant-{i:04}/cpu", SHARES[percent]) for i in range(n)]
    assert abs(routes.count("model") / n - p) <= 3 * np.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize("market", ["a", "\ud800"])
def test_stages_that_hold_for_all_markets(market: str) -> None:
    assert PUBLISHED.route(market, None) == "shadow"
    assert PUBLISHED.route(market, decided(0, "shadow")) == "shadow"
    assert PUBLISHED.route(market, decided(100, "100")) == "model"
    assert PUBLISHED.route(market, decided(0, "rolled-back")) == "baseline"
    assert PUBLISHED.route(market, decided(0)) == "baseline"
    assert Rollout("off").route(market, decided(0, "rolled-back")) == "model"


def test_the_stage_is_the_decisions_and_shadow_until_there_is_one() -> None:
    assert PUBLISHED.stage(None) == "shadow"
    assert PUBLISHED.stage(decided(50, "50")) == "50"
    assert Rollout("off").stage(decided(50, "50")) == "off"


def test_the_contract_knows_every_stage() -> None:
    assert set(get_args(RolloutStage)) == {"off", *get_args(Stage)}
