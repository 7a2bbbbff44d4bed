"""Test promotion on rows in which a policy is planted: what is better everywhere is promoted, what
is better only for those that chose it is not.
"""

import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search.adoption import policy_in_force
from tsfm_pipeline.studies.policy_search.evaluation import evaluate
from tsfm_pipeline.studies.policy_search.policy import Policy, policy_of
from tsfm_pipeline.studies.policy_search.promotion import consider
from tsfm_pipeline.studies.policy_search.promotion_records import Look, Promotion
from tsfm_pipeline.studies.policy_search.results import Outcome
from tsfm_pipeline.studies.policy_search.rows import FleetRows
from tsfm_pipeline_tests.studies.policy_search import planted

pytestmark = pytest.mark.heavy

N_EXPERIMENTS = 200
N_TENANTS = 60
FLEETS = ("first", "second")
YARDSTICK: Any = SimpleNamespace(
    digest="0123456789abcdef", fleets=FLEETS, confirming=planted.CONFIRMING, budget_ms=200.0
)
LEDGER = SimpleNamespace(read=lambda yardstick=None: pl.DataFrame({"line": range(N_EXPERIMENTS)}))


@cache
def rows(where: planted.Where, fleet: str) -> FleetRows:
    return planted.rows(where, seed=FLEETS.index(fleet), fleet=fleet, n_tenants=N_TENANTS)


def run(where: dict[str, planted.Where]) -> Any:
    """Evaluate policies in this process; where: by fleet, for whom the planted one is better."""

    def run_policy(
        settings: Settings,
        yardstick: Any,
        policy: Policy,
        incumbent: None,
        folds: tuple[int, ...],
        screen: bool,
    ) -> Outcome:
        quick = policy_of({**planted.QUICK, **policy.search}).settings
        results = tuple(
            evaluate(rows(where[fleet], fleet), quick, folds, 1.0, planted.LINE) for fleet in FLEETS
        )
        return Outcome(status=None, results=results, seconds=1.0, peak_mib=100.0)

    return run_policy


def look(*_: Any) -> list[Look]:
    figures: dict[str, Any] = dict.fromkeys(("ratio", "low", "high", "loss", "loss_replaced"), 1.0)
    counts = dict.fromkeys(("n_requests", "n_tenants", "n_days", "n_failed"), 1)
    return [Look(fleet="first", tier="standard", **figures, **counts)]


def considered(folder: Path, where: dict[str, planted.Where]) -> Promotion:
    better = policy_of(planted.BETTER)
    row = {"changes": json.dumps(better.search), "experiment": "ab" * 8, "commit": "1.2.3"}
    settings = Settings(data_dir=folder)
    promotion = consider(
        settings, YARDSTICK, LEDGER, row, run(where), measure=lambda *_: 100.0, look=look
    )
    assert policy_in_force(settings) == (better if promotion.promoted else Policy())
    return promotion


def test_what_is_better_for_all_is_promoted_after_two_hundred_experiments(tmp_path: Path) -> None:
    promotion = considered(tmp_path, dict.fromkeys(FLEETS, "everywhere"))
    assert promotion.promoted, promotion.verdict.reasons
    assert promotion.verdict.confidence == 1 - 0.05 / N_EXPERIMENTS
    assert all(fleet.corrected.gain > 0.05 for fleet in promotion.verdict.fleets)


def test_what_is_better_for_those_that_chose_it_is_refused(tmp_path: Path) -> None:
    promotion = considered(tmp_path, dict.fromkeys(FLEETS, "choosing"))
    assert not promotion.promoted
    assert any("tier standard is harmed" in reason for reason in promotion.verdict.reasons)


def test_what_is_better_on_one_fleet_alone_is_refused(tmp_path: Path) -> None:
    promotion = considered(tmp_path, {"first": "everywhere", "second": "nowhere"})
    assert not promotion.promoted
    assert promotion.verdict.reasons[0].startswith(
        "1 of 2 fleets show a gain whose interval excludes 0"
    )
