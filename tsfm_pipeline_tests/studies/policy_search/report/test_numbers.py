"""Test that the report's numbers are those of the ledger and of the records of promotions.

What belongs here: numbers. What does not: sentences and figures (`test_shown`).
"""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.reports.shared.files import json_text
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search.ledger import Ledger
from tsfm_pipeline.studies.policy_search.policy import Policy
from tsfm_pipeline.studies.policy_search.promotion_records import PromotionRecords
from tsfm_pipeline.studies.policy_search.report import importance
from tsfm_pipeline.studies.policy_search.report.importance import field_importance
from tsfm_pipeline.studies.policy_search.report.model import PolicySearchReport
from tsfm_pipeline.studies.policy_search.report.numbers import policy_search_report, report_of
from tsfm_pipeline.studies.policy_search.results import Outcome
from tsfm_pipeline_tests.studies.policy_search import simulated
from tsfm_pipeline_tests.studies.policy_search.conftest import Study

pytestmark = pytest.mark.heavy


def records(study: Study) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    kept = PromotionRecords(study.settings)
    return Ledger(study.settings).read(study.yardstick.digest), kept.promotions(), kept.looks()


def test_every_line_of_the_ledger_is_counted_once(study: Study) -> None:
    report, (ledger, _, _) = study.report, records(study)
    ends = (
        report.n_kept,
        report.n_discarded,
        report.n_screened_out,
        report.n_crashed,
        report.n_timed_out,
    )
    assert sum(ends) == report.n_experiments == ledger.height
    assert all(ends), "the simulated study has every kind of end"
    statuses = dict(ledger.group_by("status").len().iter_rows())
    assert report.n_discarded + report.n_screened_out == statuses["discard"]
    assert [row.experiment for row in report.table_experiments] == ledger["experiment"].to_list()
    assert report.experiment_seconds == pytest.approx(ledger["seconds"].sum())


def test_the_incumbent_is_the_last_kept_policy(study: Study) -> None:
    ledger, _, _ = records(study)
    last = ledger.filter(pl.col("status") == "keep").row(-1, named=True)
    report = study.report
    assert report.incumbent == last["policy"]
    assert report.incumbent_objective == last["objective"] < 1
    assert json.loads(report.incumbent_changes) == json.loads(last["changes"])


def test_the_search_is_compared_with_the_fixed_configuration_of_the_default_policy(
    study: Study,
) -> None:
    ledger, _, _ = records(study)
    kept = ledger.filter(pl.col("status") == "keep")["outcome"]
    default, incumbent = (Outcome.model_validate_json(kept[n]).results for n in (0, -1))
    rows = {(row.fleet, row.tier, row.group): row for row in study.report.table_fixed}
    groups = simulated.GROUPS
    assert len(rows) == len(simulated.N_TENANTS) * (len(default[0].losses) + len(groups))
    for first, last in zip(default, incumbent, strict=True):
        fixed = np.mean(first.fixed["premium"])
        row = rows[first.fleet, "premium", ""]
        assert row.default.figure == pytest.approx(1 - first.loss("premium").mean() / fixed)
        assert row.incumbent.figure == pytest.approx(1 - last.loss("premium").mean() / fixed)
        own = [n for n, group in enumerate(first.groups) if group == groups[1]]
        row = rows[first.fleet, "standard", groups[1]]
        assert row.n_tenants == len(own)
        costs = last.loss()[own].mean() / np.array(first.fixed["standard"])[own].mean()
        assert row.incumbent.figure == pytest.approx(1 - costs)
        assert row.incumbent.low < row.incumbent.figure < row.incumbent.high


def test_no_policy_of_the_front_is_beaten_in_both_and_every_other_one_is(study: Study) -> None:
    finished = [row for row in study.report.table_experiments if row.end in ("keep", "discard")]
    assert any(row.on_front for row in finished)
    for row in finished:
        beaten = any(
            (other.objective <= row.objective and other.p95_ms < row.p95_ms)
            or (other.objective < row.objective and other.p95_ms <= row.p95_ms)
            for other in finished
        )
        assert row.on_front != beaten or any(
            (other.objective, other.p95_ms) == (row.objective, row.p95_ms)
            for other in finished
            if other is not row
        )
    rest = [row for row in study.report.table_experiments if row.end not in ("keep", "discard")]
    assert not any(row.on_front for row in rest)


def test_a_field_counts_where_it_differs_from_the_parent_and_not_from_the_default(
    tmp_path: Path,
) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    yardstick = simulated.sealed(settings)
    default, first = Policy(), Policy(search={"neighbours": 12})
    second = first.changed(gate_ridge=10.0)
    row = {
        "time": None,
        "description": "",
        "driver": "file",
        "screened_out": False,
        "p95_ms": 50.0,
        "tokens": 600.0,
        "seconds": 10.0,
        "yardstick": yardstick.digest,
        "outcome": Outcome(status=None, seconds=10.0, peak_mib=300.0).model_dump_json(),
    }
    lines = [
        (default, "", "keep", 1.0),
        (first, default.digest, "keep", 0.98),
        (second, first.digest, "discard", 0.99),
        (second.changed(gate_ridge=30.0), first.digest, "crash", None),
    ]
    ledger = Ledger(settings).read().clear()
    rows = [
        {
            **row,
            "experiment": str(n),
            "policy": policy.digest,
            "parent": parent,
            "status": status,
            "objective": objective,
            "changes": json.dumps(policy.search),
            "n_changes": policy.n_changes,
        }
        for n, (policy, parent, status, objective) in enumerate(lines)
    ]
    times = pl.datetime_range(
        pl.datetime(2026, 1, 1), pl.datetime(2026, 1, 4), "1d", time_zone="UTC", eager=True
    )
    ledger = pl.DataFrame(rows, schema=ledger.schema).with_columns(time=times)
    promotions = PromotionRecords(settings)
    report = report_of(yardstick, ledger, promotions.promotions(), promotions.looks(), seed=0)
    moved = {row.field: row for row in report.table_fields}
    assert set(moved) == {"neighbours", "gate_ridge"}
    assert (moved["neighbours"].n_tried, moved["neighbours"].n_kept) == (1, 1)
    assert moved["neighbours"].best_ratio == pytest.approx(0.98)
    ridge = moved["gate_ridge"]
    assert (ridge.n_tried, ridge.n_finished, ridge.n_failed, ridge.n_values) == (2, 1, 1, 2)
    assert (ridge.best_ratio, ridge.best_value) == (pytest.approx(0.99 / 0.98), "10.0")
    assert "portfolio_size" in report.untried_fields
    assert not {"neighbours", "gate_ridge"} & set(report.untried_fields)


def test_gains_stand_at_three_distances_from_the_folds_that_chose(study: Study) -> None:
    report, (ledger, promotions, looks) = study.report, records(study)
    assert report.n_promoted >= 1, "the simulated study promotes a policy"
    for number, promotion in enumerate(promotions.iter_rows(named=True), 1):
        rows = {row.fleet: row for row in report.table_gains if row.promotion == number}
        own, other = (
            Outcome.model_validate_json(
                ledger.filter(pl.col("policy") == promotion[name])["outcome"][-1]
            )
            for name in ("policy", "replaced")
        )
        for result, before in zip(own.results, other.results, strict=True):
            row = rows[result.fleet]
            assert row.choosing.figure == pytest.approx(
                1 - result.loss().mean() / before.loss().mean()
            )
            assert row.choosing.low < row.choosing.figure < row.choosing.high
            assert result.folds == (0, 1, 2)
            verdict = json.loads(promotion["verdict"])
            (fleet,) = [one for one in verdict["fleets"] if one["fleet"] == result.fleet]
            assert row.confirming.figure == fleet["corrected"]["gain"]
            look = looks.filter(
                (pl.col("promotion") == promotion["promotion"])
                & (pl.col("fleet") == result.fleet)
                & (pl.col("tier") == "standard")
                & (pl.col("group") == "")
            )
            assert look.height == promotion["promoted"]
            if promotion["promoted"]:
                assert row.test == pytest.approx(
                    (1 - look["ratio"][0], 1 - look["high"][0], 1 - look["low"][0])
                )
            else:
                assert math.isnan(row.test.figure)


def test_optimism_is_what_is_lost_beyond_the_folds_that_chose(study: Study) -> None:
    gains = study.report.table_gains
    excess = [row.choosing.figure - row.confirming.figure for row in gains]
    assert study.report.optimism == pytest.approx(np.mean(excess))
    tested = [row.choosing.figure - row.test.figure for row in gains if row.promoted]
    assert study.report.test_optimism == pytest.approx(np.mean(tested))


def test_looks_of_an_earlier_yardstick_are_counted_too(study: Study) -> None:
    ledger, promotions, looks = records(study)
    earlier = looks.with_columns(promotion=pl.lit("0123456789abcdef"), yardstick=pl.lit("old"))
    both = pl.concat([earlier, looks])
    report = report_of(study.yardstick, ledger, promotions, both, seed=0)
    assert report.n_final_looks == study.report.n_final_looks + 1
    assert {row.promotion for row in report.table_looks} >= {0}
    assert report.table_gains == study.report.table_gains or str(report.table_gains) == str(
        study.report.table_gains
    )


def test_without_experiments_there_is_a_report_too(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    report = policy_search_report(settings, simulated.sealed(settings))
    assert (report.n_experiments, report.incumbent, report.promoted) == (0, "", None)
    assert math.isnan(report.incumbent_objective)
    assert report.table_experiments == report.table_importance == ()


def test_the_json_holds_the_whole_report(study: Study) -> None:
    text = json_text(study.report.flat())
    assert json_text(PolicySearchReport.from_flat(json.loads(text)).flat()) == text


def planted(n: int, effect: float) -> tuple[list[dict[str, object]], np.ndarray]:
    """Experiments on two fields, of which one has an effect, and their objectives."""
    rng = np.random.default_rng(3)
    ridges, sizes = rng.choice([0.3, 1.0, 10.0, 30.0], n), rng.choice([4, 6, 10, 16], n)
    changes = [
        {"gate_ridge": float(ridge), "portfolio_size": int(size), "rules": ["gate", "argmin"]}
        for ridge, size in zip(ridges, sizes, strict=True)
    ]
    return changes, 1 - effect * np.log2(sizes) + rng.normal(0, 0.01, n)


def test_the_field_with_an_effect_is_the_most_important_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importance, "N_FORESTS", 15)
    rows, r2 = field_importance(*planted(120, effect=0.02), seed=0)
    assert next(row.field for row in rows) == "portfolio_size"
    assert rows[0].importance.low > 0.5
    others = {row.field: row.importance for row in rows[1:]}
    assert others["gate_ridge"].low < 0.1
    assert "rules" not in others, "no experiment differs in it"
    assert r2.low > 0.2


def test_without_any_effect_the_forest_says_that_it_predicts_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importance, "N_FORESTS", 15)
    _, r2 = field_importance(*planted(120, effect=0.0), seed=0)
    assert r2.low < 0


def test_a_few_experiments_say_nothing_about_fields() -> None:
    rows, r2 = field_importance(*planted(importance.LEAST_EXPERIMENTS - 1, effect=0.02), seed=0)
    assert rows == ()
    assert math.isnan(r2.figure)


def test_importance_does_not_depend_on_a_few_very_poor_policies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importance, "N_FORESTS", 15)
    changes, objectives = planted(120, effect=0.02)
    poor = objectives.copy()
    poor[np.argsort(objectives)[-3:]] *= 100
    assert field_importance(changes, poor, seed=0) == field_importance(changes, objectives, seed=0)
