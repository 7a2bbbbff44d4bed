"""Test judging: the objective, screening, the limits of a loss, and what is kept.

What belongs here: `judging`. What does not: the loop that acts on it (`test_loop`), and promotion
(`test_promotion`).
"""

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from tsfm_pipeline.studies.policy_search.claims import claim_of
from tsfm_pipeline.studies.policy_search.drivers import Proposal
from tsfm_pipeline.studies.policy_search.judging import (
    TIE,
    default_of,
    incumbent_of,
    is_kept,
    is_screened_out,
    judge,
    mean_loss,
    objective,
)
from tsfm_pipeline.studies.policy_search.ledger import SCHEMA
from tsfm_pipeline.studies.policy_search.loop import row_of
from tsfm_pipeline.studies.policy_search.policy import Policy, policy_of
from tsfm_pipeline.studies.policy_search.results import FleetResult, Outcome
from tsfm_pipeline_tests.studies.policy_search.looping import outcome, result, sized

ROW: dict[str, Any] = {
    "screened_out": False,
    "objective": 0.98,
    "p95_ms": 100.0,
    "n_changes": 2,
    "tokens": 500.0,
}


def with_losses(*losses: float, fleet: str = "demo") -> FleetResult:
    tiers = {"premium": losses, "standard": losses, "basic": losses}
    n = len(losses)
    plain = result(fleet=fleet, tenants=tuple(range(n)), groups=("",) * n)
    return plain.model_copy(update={"losses": tiers})


def history(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA)


def row(policy: Policy, ended: Outcome, before: pl.DataFrame) -> dict[str, Any]:
    claim = claim_of(Proposal(policy, "", "an idea"), yardstick="y", driver="file")
    return row_of(claim, judge(policy, ended, before, budget_ms=200))


def test_every_fleet_counts_alike_whatever_its_level() -> None:
    policy = [result(0.9), result(110.0, fleet="asd")]
    default = [result(1.0), result(100.0, fleet="asd")]
    assert objective(policy, default) == pytest.approx(np.sqrt(0.9 * 1.1))
    assert objective(default, default) == 1


def test_a_fleet_without_any_loss_is_a_tie_unless_somebody_has_one() -> None:
    assert objective([result(0.0)], [result(0.0)]) == 1
    assert objective([result(1.0)], [result(0.0)]) > 1e9


def test_what_was_scored_on_other_tenants_or_requests_is_not_compared() -> None:
    for other in (result(fleet="asd"), result(share=1 / 3), with_losses(1.0, 1.0)):
        with pytest.raises(ValueError, match="the same fleets, folds, shares and tenants"):
            objective([result()], [other])
        with pytest.raises(ValueError, match="the same fleets, folds, shares and tenants"):
            is_screened_out([result()], [other])


def test_a_fleet_with_tiers_of_its_own_counts_with_its_middle_one() -> None:
    losses = (1.0, 2.0)
    tiers = {"gold": (9.0, 9.0), "silver": losses, "bronze": (7.0, 7.0)}
    own = with_losses(*losses).model_copy(update={"losses": tiers, "fixed": tiers})
    read = FleetResult.model_validate_json(own.model_dump_json())
    assert read.loss().tolist() == [1.0, 2.0]
    assert objective([read], [with_losses(2.0, 4.0)]) == 0.5
    ended = outcome().model_copy(update={"results": (read,), "screening": (read,)})
    first = row(Policy(), ended, history())
    assert (first["status"], first["objective"], first["loss_standard"]) == ("keep", 1, None)


def test_screening_ends_what_is_worse_by_more_than_a_standard_error() -> None:
    incumbent = [with_losses(1.0, 1.0, 1.0, 1.0)]
    # The differences have the mean 0.1 and, up to the sign, a standard error of 0.1.
    spread = 0.1 * np.sqrt(3)
    above = [1.1 - spread, 1.1 - spread, 1.1 + spread, 1.1 + spread]
    assert not is_screened_out([with_losses(*(np.array(above) - 0.01))], incumbent)
    assert is_screened_out([with_losses(*(np.array(above) + 0.01))], incumbent)
    assert not is_screened_out(incumbent, incumbent), "an equal policy stays"


def test_screening_pairs_tenants() -> None:
    levels = np.array([0.1, 1.0, 10.0])
    incumbent = [with_losses(*levels)]
    assert is_screened_out([with_losses(*(1.01 * levels + 0.01))], incumbent) is True


def test_screening_weighs_fleets_alike() -> None:
    incumbent = [with_losses(1.0, 1.0), with_losses(100.0, 100.0, fleet="asd")]
    better = [with_losses(0.5, 0.5), with_losses(110.0, 110.0, fleet="asd")]
    assert not is_screened_out(better, incumbent)
    worse = [with_losses(0.95, 0.95), with_losses(110.0, 110.0, fleet="asd")]
    assert is_screened_out(worse, incumbent)


def test_one_tenant_alone_screens_nothing_out() -> None:
    assert not is_screened_out([with_losses(2.0)], [with_losses(1.0)])


def test_limits_of_one_fleet_are_those_of_students_t() -> None:
    losses = np.array([0.5, 0.8, 1.0, 1.7, 0.9])
    own = mean_loss([with_losses(*losses)], "standard")
    assert own is not None
    interval = stats.t.interval(0.95, len(losses) - 1, losses.mean(), stats.sem(losses))
    assert own == pytest.approx((losses.mean(), *interval))


def test_limits_of_two_fleets_are_those_of_welch() -> None:
    first, second = np.array([0.5, 0.8, 1.0, 1.7, 0.9]), np.array([3.0, 2.0, 7.0])
    own = mean_loss([with_losses(*first), with_losses(*second, fleet="asd")], "basic")
    # Half of the sum of two means has the limits of half of a difference, with one sign changed.
    welch = stats.ttest_ind(first, -second, equal_var=False).confidence_interval()
    assert own == pytest.approx(((first.mean() + second.mean()) / 2, welch.low / 2, welch.high / 2))


def test_a_tier_that_a_fleet_lacks_has_no_loss() -> None:
    assert mean_loss([result()], "gold") is None


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"objective": 0.9794}, True),
        ({"objective": 0.9796}, False),
        ({"objective": 0.9796, "n_changes": 1}, True),
        ({"objective": 0.9804, "n_changes": 1}, True),
        ({"objective": 0.9806, "n_changes": 1}, False),
        ({"tokens": 499.0}, True),
        ({"tokens": 499.0, "n_changes": 3}, False),
        ({"tokens": 501.0}, False),
        ({"objective": 0.9, "n_changes": 9, "tokens": 9e9}, True),
        ({"objective": 0.9, "p95_ms": 200.0}, True),
        ({"objective": 0.9, "p95_ms": 200.1}, False),
        ({"objective": 0.9, "screened_out": True}, False),
        ({"objective": float("inf"), "n_changes": 0}, False),
        ({}, False),
    ],
)
def test_what_is_kept(changes: dict[str, Any], kept: bool) -> None:
    assert is_kept(ROW | changes, ROW, best=0.98, budget_ms=200) is kept


def test_ties_with_the_incumbent_do_not_add_up_to_a_loss() -> None:
    rows = [row(Policy(), outcome(2.0), history())]
    for n, tokens in enumerate((400.0, 300.0, 200.0), 2):
        policy, level = sized(n), 1.8 * 1.0004 ** (n - 2)
        rows.append(row(policy, outcome(level, tokens=tokens), history(*rows)))
    assert [own["status"] for own in rows] == ["keep", "keep", "keep", "discard"]
    incumbent = incumbent_of(history(*rows))
    assert incumbent is not None
    assert incumbent.row["objective"] - min(own["objective"] for own in rows) <= TIE


def test_the_first_policy_is_kept_and_the_measure_of_all_others() -> None:
    first = row(Policy(), outcome(2.0, p95_ms=900.0), history())
    assert (first["status"], first["objective"]) == ("keep", 1)
    second = row(sized(2), outcome(1.9), history(first))
    assert (second["status"], second["objective"]) == ("keep", pytest.approx(0.95))
    third = row(sized(3), outcome(1.92), history(first, second))
    assert (third["status"], third["objective"]) == ("discard", pytest.approx(0.96))
    rows = history(first, second, third)
    default, incumbent = default_of(rows), incumbent_of(rows)
    assert default is not None
    assert incumbent is not None
    assert (default.policy, incumbent.policy) == (Policy(), sized(2))
    assert incumbent.outcome == outcome(1.9)


def test_what_was_screened_out_is_judged_by_the_screening() -> None:
    first = row(Policy(), outcome(2.0), history())
    second = row(sized(2), outcome(2.2, screened_out=True), history(first))
    assert (second["status"], second["screened_out"]) == ("discard", True)
    assert second["objective"] == pytest.approx(1.1)
    assert second["loss_standard"] == pytest.approx(2.2)


@pytest.mark.parametrize("status", ["crash", "timeout"])
def test_a_crash_and_a_timeout_have_no_figures(status: Any) -> None:
    first = row(Policy(), outcome(), history())
    ended = Outcome(status=status, seconds=9.0, peak_mib=50.0, message="out of memory")
    own = row(sized(2), ended, history(first))
    assert own["status"] == status
    assert own["description"] == f"an idea ({status}: out of memory)"
    assert (own["objective"], own["loss_standard"], own["tokens"]) == (None, None, None)
    assert (own["seconds"], own["peak_mib"]) == (9, 50)


def test_a_policy_without_an_answer_for_a_tenant_is_a_crash() -> None:
    first = row(Policy(), outcome(), history())
    broken = outcome().model_copy(update={"results": (result(float("nan")),)})
    own = row(sized(2), broken, history(first))
    assert own["status"] == "crash"
    assert "not finite" in own["description"]
    assert own["objective"] is None


def test_latency_is_that_of_the_slowest_fleet() -> None:
    results = (result(p95_ms=100.0), result(fleet="asd", p95_ms=201.0))
    default = outcome().model_copy(update={"results": (result(2.0), result(2.0, fleet="asd"))})
    first = row(Policy(), default, history())
    fast = outcome().model_copy(update={"results": results})
    own = row(sized(2), fast, history(first))
    assert (own["p95_ms"], own["status"]) == (201, "discard")
    assert (own["fleets"], own["objective"]) == ("demo,asd", 0.5)


def test_changes_are_json_that_anybody_reads() -> None:
    policy = Policy(search={"half_lives": (float("inf"), 3.0), "portfolio_size": 2})
    own = row(policy, outcome(), history())

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    changes = json.loads(own["changes"], parse_constant=refuse)
    assert policy_of(changes).digest == policy.digest
