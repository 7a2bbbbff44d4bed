"""Test that the report's numbers are those of the scores, their evaluation and the verdict.

What belongs here: numbers. What does not: sentences and figures (`test_shown`).
"""

import json
import math

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.reports.shared.files import json_text
from tsfm_pipeline.studies.direction.checks import Check
from tsfm_pipeline.studies.direction.options import LABELS
from tsfm_pipeline.studies.direction.problem import Target
from tsfm_pipeline.studies.direction.report.model import DirectionReport
from tsfm_pipeline.studies.direction.report.names import FAMILIES
from tsfm_pipeline.studies.direction.report.numbers import direction_report_of
from tsfm_pipeline.studies.direction.verdict import Finding, Verdict
from tsfm_pipeline_tests.studies.direction.report import made

pytestmark = pytest.mark.heavy


def test_every_scorer_stands_once_in_every_question(report: DirectionReport) -> None:
    names = {*made.LOGITS, *made.READ}
    assert report.n_variants == len(names)
    assert [(row.label, row.horizon) for row in report.table_targets] == [
        (label, horizon) for label in sorted(LABELS) for horizon in (1, 5)
    ]
    order = list(FAMILIES)
    for row in report.table_targets:
        rows = report.scores(row.label, row.horizon)
        assert {each.scorer for each in rows} == names
        assert len(rows) == len(names)
        positions = [order.index(each.family) for each in rows]
        assert positions == sorted(positions)


def test_figures_are_those_of_the_evaluation(report: DirectionReport) -> None:
    row = report.score("patchtst", "touch_up")
    assert row is not None
    source = (
        made.evaluated().filter(scorer="patchtst", label="touch_up", horizon=1).row(0, named=True)
    )
    assert row.auc == (source["auc"], source["auc_low"], source["auc_high"])
    assert row.minus_volatility.figure == source["minus_volatility"]
    assert math.isnan(row.log_loss), "null in the table is no figure"
    target = report.target("touch_up")
    assert target is not None
    assert (target.n_days, target.base_rate) == (source["n_days"], source["base_rate"])


def test_variants_are_chosen_before_any_test_day(report: DirectionReport) -> None:
    problem, target = made.problem(), Target("touch_up", 1)
    first = problem.folds[1][0]
    assert first.validation[-1] < first.test[0]
    noise = np.random.default_rng(0)
    scores = made.scores()
    later = pl.col("day") > int(first.validation[-1])
    spoilt = scores.with_columns(
        score=pl.when(later).then(pl.lit(noise.normal(size=len(scores)))).otherwise("score")
    )
    again = direction_report_of(made.evidence(scores=spoilt))
    assert [row.scorer for row in again.chosen(*target)] == [
        row.scorer for row in report.chosen(*target)
    ]
    assert len({row.family for row in report.chosen(*target)}) == len(report.chosen(*target))
    for row in report.chosen(*target):
        family = [r for r in report.scores(*target) if r.family == row.family]
        assert row.validation_auc == max(r.validation_auc for r in family)


def test_what_the_checks_and_the_verdict_say_decides_gate_and_answer(
    report: DirectionReport,
) -> None:
    mean = "zero_shot_returns_80_mean"
    collapsed = Check("collapse", mean, False, "It is one value.")
    found = (Finding("patchtst", 5),)
    verdict = Verdict("undecided", "direction here, not yet confirmed", ("It is.",), found)
    nothing_tuned = made.sweep().clear()
    again = direction_report_of(made.evidence(verdict, checks=[collapsed], sweep=nothing_tuned))
    gates, before = (
        {row.scorer: row.seed_gate for row in each.table_gates} for each in (again, report)
    )
    assert (gates.pop(mean), before.pop(mean)) == ("stop", "undecided")
    assert gates == before
    assert (again.direction_scorer, again.direction_horizon, again.n_found) == ("patchtst", 5, 1)
    assert again.table_learning_rates == ()


def test_deciles_show_that_a_touch_is_a_matter_of_volatility(report: DirectionReport) -> None:
    rows = [row for row in report.table_deciles if row.label == "touch_up"]
    calmest, stormiest = (
        {row.base_rate for row in rows if row.decile == decile} for decile in (1, 10)
    )
    assert len(calmest) == len(stormiest) == 1, "the same days for every scorer"
    assert max(calmest) < min(stormiest) / 2
    assert {row.label for row in report.table_deciles} == {"touch_up", "sign"}


def test_reliability_is_of_scorers_that_give_a_probability(report: DirectionReport) -> None:
    assert {row.label for row in report.table_reliability} == {"touch_up", "close_up"}
    for label in ("touch_up", "close_up"):
        rows = [row for row in report.table_reliability if row.label == label]
        shown = {row.scorer for row in rows}
        assert {"volatility_logit", "zero_shot_returns_80_probability"} <= shown
        assert shown <= set(made.LOGITS)
        target = report.target(label)
        assert target is not None
        for scorer in shown:
            bins = [row for row in rows if row.scorer == scorer]
            assert sum(row.n_days for row in bins) == target.n_days


def test_the_sweep_is_summed_up_by_kind_and_rate(report: DirectionReport) -> None:
    assert len(report.table_learning_rates) == 8
    row = next(
        r for r in report.table_learning_rates if (r.kind, r.learning_rate) == ("labels", 1e-4)
    )
    assert (row.n_trainings, row.n_chosen, row.n_diverged) == (2, 2, 0)
    assert row.best_loss == pytest.approx(0.98 * row.loss_before)


def test_what_takes_no_part_adds_up(report: DirectionReport) -> None:
    counts = {row.what: row.n for row in report.table_excluded}
    problem = made.problem()
    used = sum(len(fold.test) for fold in problem.folds[1])
    outside = (
        "first days",
        "last days",
        "days before the first test year",
        "days of years that are not tested",
    )
    assert sum(counts[what] for what in outside) + used == len(problem.bars)
    gap = 1 + made.OPTIONS.splits.embargo
    assert counts["days between the parts, over all folds"] == 2 * gap * len(problem.folds[1])
    switched_off = next(r for r in report.table_excluded if r.what == "groups of scorers")
    assert (switched_off.n, "covariates" in switched_off.why) == (1, True)


def test_the_json_holds_the_whole_report(report: DirectionReport) -> None:
    text = json_text(report.flat())
    assert json_text(DirectionReport.from_flat(json.loads(text)).flat()) == text
