"""Test the way from a kept experiment to an adopted policy: what is computed once, what is recorded,
and what an interruption leaves.
"""

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.policy_file import PolicyFileError
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search.adoption import adopted_file, policy_in_force
from tsfm_pipeline.studies.policy_search.apart import ApartError
from tsfm_pipeline.studies.policy_search.policy import Policy, policy_of
from tsfm_pipeline.studies.policy_search.promotion import complete, consider
from tsfm_pipeline.studies.policy_search.promotion_records import (
    Look,
    Promotion,
    PromotionRecords,
    n_looks,
)
from tsfm_pipeline.studies.policy_search.results import FleetResult, Outcome
from tsfm_pipeline_tests.studies.policy_search.test_promotion import cheaper, result, tenants

BETTER = policy_of({"portfolio_size": 6})
BEST = policy_of({"portfolio_size": 12})
WORSE = policy_of({"recent_origins": 2})


@dataclass(frozen=True)
class Rules:
    """What a promotion reads of a yardstick."""

    digest: str = "0123456789abcdef"
    fleets: tuple[str, ...] = ("first", "second")
    confirming: tuple[int, ...] = (3, 4)
    budget_ms: float = 200.0


RULES: Any = Rules()


@dataclass
class Lines:
    """A ledger of so many experiments."""

    n: int = 30

    def read(self, yardstick: Any = None) -> pl.DataFrame:
        assert yardstick is None  # the experiments of every yardstick count
        return pl.DataFrame({"experiment": [str(i) for i in range(self.n)]})


@dataclass
class Study:
    """Policies with a known gain on the confirming folds, and a count of everything that is asked
    of them.
    """

    settings: Settings
    p95_ms: float = 120.0
    p95_in_force_ms: float = 130.0
    lines: Lines = field(default_factory=Lines)
    ran: list[str] = field(default_factory=list)
    timed: list[str] = field(default_factory=list)
    looked: list[tuple[str, str]] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)
    look_fails: bool = False

    def run(
        self,
        settings: Settings,
        yardstick: Any,
        policy: Policy,
        incumbent: None,
        folds: Sequence[int],
        screen: bool,
    ) -> Outcome:
        assert (tuple(folds), incumbent, screen) == ((3, 4), None, False)
        self.ran.append(policy.digest)
        if policy.search.get("neighbours") == 7:
            return Outcome(status="crash", seconds=1.0, peak_mib=1.0, message="no such thing")
        return Outcome(status=None, results=_results(policy), seconds=1.0, peak_mib=100.0)

    def measure(self, settings: Settings, yardstick: Any, policy: Policy) -> float:
        self.timed.append(policy.digest)
        return self.p95_ms if policy.n_changes else self.p95_in_force_ms

    def look(
        self, settings: Settings, yardstick: Any, challenger: Policy, replaced: Policy
    ) -> list[Look]:
        if self.look_fails:
            raise ApartError("too little memory")
        self.looked.append((challenger.digest, replaced.digest))
        shared = {"low": 0.9, "high": 0.99, "loss": 1.0, "loss_replaced": 1.05, "n_requests": 9}
        sizes = {"n_tenants": 3, "n_days": 3, "n_failed": 0}
        return [
            Look(fleet=fleet, tier="standard", ratio=0.95, **shared, **sizes)
            for fleet in yardstick.fleets
        ]

    def consider(self, policy: Policy) -> Promotion:
        row = {"changes": json.dumps(policy.search), "experiment": "ab" * 8, "commit": "1.2.3"}
        return consider(
            self.settings,
            RULES,
            self.lines,
            row,
            self.run,
            measure=self.measure,
            look=self.look,
            log=self.logged.append,
        )


def _results(policy: Policy) -> tuple[FleetResult, ...]:
    gains = {BETTER.digest: 0.06, BEST.digest: 0.12, WORSE.digest: -0.04}
    gain = gains.get(policy.digest, 0.0)
    return tuple(
        result(fleet, cheaper(tenants(60, seed=n), gain, seed=n, noise=0.02))
        for n, fleet in enumerate(RULES.fleets)
    )


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(Settings(data_dir=tmp_path))


def test_a_better_policy_is_adopted_with_its_provenance_and_looked_at_once(study: Study) -> None:
    promotion = study.consider(BETTER)
    assert promotion.promoted
    assert promotion.verdict.p95_measured
    assert promotion.verdict.p95_ms == 120.0
    assert study.looked == [(BETTER.digest, Policy().digest)]
    assert [look.fleet for look in promotion.looks] == ["first", "second"]
    assert n_looks(study.settings) == 1

    again = Settings(data_dir=study.settings.data_dir)
    assert again.search.portfolio_size == 6
    assert again.policy is not None
    assert policy_in_force(again) == BETTER
    provenance = again.policy.provenance
    assert again.policy.since == promotion.time.isoformat(timespec="seconds")
    assert provenance["promotion"] == promotion.promotion
    assert (provenance["policy"], provenance["replaced"]) == (BETTER.digest, Policy().digest)
    assert provenance["n_experiments"] == 30
    assert 0 < provenance["gains"]["first"]["low"] < provenance["gains"]["first"]["gain"]


def test_the_next_policy_is_compared_with_the_promoted_one(study: Study) -> None:
    study.consider(BETTER)
    assert not study.consider(WORSE).promoted
    assert study.consider(BEST).promoted
    assert policy_in_force(study.settings) == BEST
    assert study.looked[-1] == (BEST.digest, BETTER.digest)
    assert n_looks(study.settings) == 2
    assert sorted(study.ran) == sorted({p.digest for p in (Policy(), BETTER, WORSE, BEST)})


def test_a_worse_policy_is_recorded_and_changes_nothing(study: Study) -> None:
    promotion = study.consider(WORSE)
    assert not promotion.promoted
    assert not adopted_file(study.settings).exists()
    assert not study.timed
    assert not study.looked
    rows = PromotionRecords(study.settings).promotions()
    assert rows["promoted"].to_list() == [False]
    assert rows["reasons"].item().startswith("0 of 2 fleets show a gain whose interval excludes 0")
    assert any("kept, but not promoted" in line for line in study.logged)


def test_a_policy_that_is_too_slow_in_truth_is_refused_and_may_be_timed_again(
    study: Study,
) -> None:
    study.p95_ms = 260.0
    refused = study.consider(BETTER)
    assert not refused.promoted
    assert refused.verdict.reasons == ("p95 is 260 ms (measured); allowed: 200 ms",)
    study.p95_ms = 150.0
    assert study.consider(BETTER).promoted


def test_a_policy_that_is_too_slow_twice_is_not_timed_again(study: Study) -> None:
    study.p95_ms = 260.0
    first, second = study.consider(BETTER), study.consider(BETTER)
    assert first.promotion != second.promotion
    study.p95_ms = 150.0
    assert study.consider(BETTER) == second


def test_a_policy_may_be_as_slow_as_the_slow_one_that_it_replaces(study: Study) -> None:
    study.p95_ms, study.p95_in_force_ms = 240.0, 250.0
    promotion = study.consider(BETTER)
    assert promotion.promoted
    assert promotion.verdict.budget_ms == 250.0


def test_asked_again_the_first_verdict_stands(study: Study) -> None:
    first = study.consider(WORSE)
    assert study.consider(WORSE) == first
    assert PromotionRecords(study.settings).promotions().height == 1


def test_the_policy_in_force_is_not_promoted_again(study: Study) -> None:
    study.consider(BETTER)
    again = study.consider(BETTER)
    assert not again.promoted
    assert again.verdict.reasons == ("it is the policy in force",)
    assert PromotionRecords(study.settings).promotions().height == 1
    assert n_looks(study.settings) == 1


def test_a_crash_on_the_confirming_folds_refuses(study: Study) -> None:
    promotion = study.consider(policy_of({"neighbours": 7}))
    assert not promotion.promoted
    assert (
        "ended with a crash on the confirming folds: no such thing"
        in (promotion.verdict.reasons[0])
    )


def test_a_promotion_that_was_interrupted_before_its_look_is_completed(study: Study) -> None:
    study.look_fails = True
    promotion = study.consider(BETTER)
    assert promotion.promoted
    assert promotion.looks == ()
    assert "the look at test tenants failed (too little memory)" in study.logged[-1]
    with pytest.raises(ApartError):
        complete(study.settings, RULES, study.look)

    study.look_fails = False
    assert not study.consider(WORSE).promoted
    assert study.looked == [(BETTER.digest, Policy().digest)]
    assert policy_in_force(study.settings) == BETTER


def test_a_promotion_whose_file_was_never_written_is_completed(study: Study) -> None:
    study.look_fails = True
    study.consider(BETTER)
    adopted_file(study.settings).unlink()
    study.look_fails = False
    complete(study.settings, RULES, study.look)
    assert policy_in_force(study.settings) == BETTER


def test_whoever_goes_back_to_the_default_is_not_overruled(study: Study) -> None:
    study.consider(BETTER)
    adopted_file(study.settings).unlink()
    complete(study.settings, RULES, study.look)
    assert not adopted_file(study.settings).exists()
    assert len(study.looked) == 1


def test_a_promotion_that_was_killed_before_its_adoption_is_completed_under_the_next_yardstick(
    study: Study,
) -> None:
    study.look_fails = True
    study.consider(BETTER)
    adopted_file(study.settings).unlink()  # as if the process had been killed before it was written
    later: Any = Rules(digest="f" * 16)
    with pytest.raises(ApartError):
        complete(study.settings, later, study.look)
    assert policy_in_force(study.settings) == BETTER
    study.look_fails = False
    complete(study.settings, later, study.look)
    complete(study.settings, later, study.look)
    assert study.looked == [(BETTER.digest, Policy().digest)]


def test_a_look_that_fails_does_not_keep_a_later_promotion_from_being_adopted(study: Study) -> None:
    study.look_fails = True
    study.consider(BETTER)
    study.consider(BEST)
    adopted_file(study.settings).unlink()
    with pytest.raises(ApartError):
        complete(study.settings, RULES, study.look)
    assert policy_in_force(study.settings) == BEST


def test_an_outcome_on_the_confirming_folds_that_was_edited_is_computed_again(
    study: Study,
) -> None:
    study.consider(WORSE)
    folder = study.settings.lake_dir / ".policy_search" / "confirmed" / RULES.digest
    [edited] = folder.glob(f"{Policy().digest}-*.json")
    edited.write_text(edited.read_text().replace('"seconds":1.0', '"seconds":2.0'))
    (folder / f"{WORSE.digest}-by-hand.json").write_text(edited.read_text())
    study.ran.clear()
    assert study.consider(BEST).promoted
    assert sorted(study.ran) == sorted([Policy().digest, BEST.digest])


def test_a_second_look_is_refused(study: Study) -> None:
    promotion = study.consider(BETTER)
    records = PromotionRecords(study.settings)
    with pytest.raises(ValueError, match="there is one per promotion"):
        records.add_looks(promotion, promotion.looks)
    refused = study.consider(WORSE)
    with pytest.raises(ValueError, match="was refused"):
        records.add_looks(refused, promotion.looks)
    assert records.looks().height == 2


def test_two_loops_that_consider_one_policy_reach_one_verdict(study: Study) -> None:
    found: list[Promotion] = []
    loops = [
        threading.Thread(target=lambda: found.append(study.consider(BETTER))) for _ in range(3)
    ]
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join()
    assert sorted(promotion.promoted for promotion in found) == [False, False, True]
    assert n_looks(study.settings) == 1


def test_verdicts_survive_the_record(study: Study) -> None:
    promotion = study.consider(BETTER)
    [read] = PromotionRecords(study.settings).read()
    assert read == promotion
    assert np.isfinite(read.verdict.fleets[0].corrected.low)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("search: [", "cannot be read as YAML"),
        ("portfolio_size: 4", "must have the key `search`"),
        ("search: {portfolio_sise: 4}", r"field 'search\.portfolio_sise' is unknown"),
    ],
)
def test_a_wrong_file_in_force_is_named(study: Study, text: str, message: str) -> None:
    path = adopted_file(study.settings)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(PolicyFileError, match=message) as error:
        study.consider(BETTER)
    assert str(path) in str(error.value)
