"""Test further training on a real market: a run's record, the choice of a rate, and its scores."""

from functools import cache

import numpy as np
import polars as pl
import pytest
import torch

from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline.studies.direction.options import FineTuningOptions, SplitOptions, StudyOptions
from tsfm_pipeline.studies.direction.problem import SCORE_SCHEMA, Problem
from tsfm_pipeline.studies.direction.problems import build_problem
from tsfm_pipeline.studies.direction.scorers.fine_tuned import (
    fine_tuned_scores,
    fine_tuning_runs,
)
from tsfm_pipeline.studies.direction.tuning_runs import (
    SWEEP_SCHEMA,
    Block,
    Check,
    Record,
    blocks,
    chosen,
    sweep,
)
from tsfm_pipeline_tests.studies.direction.prices import sp500

BUNDLED = PROJECT_ROOT / "data" / "checkpoints" / "bundled"
OPTIONS = StudyOptions(
    splits=SplitOptions(last_years=2),
    fine_tuning=FineTuningOptions(learning_rates=(1e-5, 3e-2), steps=6, context=64),
)
BLOCK = Block((2017, 2018), {})


@cache
def problem() -> Problem:
    return build_problem(sp500(), OPTIONS)


@pytest.fixture(scope="module")
def runs() -> pl.DataFrame:
    return fine_tuning_runs(problem(), BUNDLED)


def test_blocks_have_the_years_that_one_training_serves_and_train_before_them():
    options = StudyOptions(fine_tuning=FineTuningOptions(refit_years=5))
    found = list(blocks(build_problem(sp500(), options)))
    assert [block.years for block in found] == [
        (2005, 2006, 2007, 2008, 2009),
        (2010, 2011, 2012, 2013, 2014),
        (2015, 2016, 2017, 2018),
    ]
    years = sp500().years
    assert {years[fold.train].max() for block in found for fold in block.first.values()} == {
        2003,
        2008,
        2013,
    }


def record(rate: float, *losses: float) -> Record:
    checks = tuple(Check(10 * i, loss) for i, loss in enumerate(losses))
    return Record("forecast", BLOCK, rate, checks)


def test_the_rate_with_the_least_validation_loss_after_an_update_is_chosen():
    records = [record(1e-5, 0.1, 0.5, 0.4), record(1e-3, 0.1, 0.3, 0.9), record(1, 0.1, np.nan)]
    assert chosen(records) == {("forecast", (2017, 2018)): 1e-3}
    rows = sweep(records)
    assert rows.schema == SWEEP_SCHEMA
    assert rows["chosen"].to_list() == [False, True, False]
    assert rows["best_step"].to_list() == [20, 10, 10]


def test_a_run_that_ends_well_above_its_start_has_diverged():
    assert [record(1, *losses).diverged for losses in [(0.3, 0.31), (0.3, 0.5), (0.3, np.nan)]] == [
        False,
        True,
        True,
    ]


@pytest.mark.heavy
def test_every_rate_is_scored_on_the_same_days_and_the_chosen_one_under_its_own_name(
    runs: pl.DataFrame,
):
    scores = fine_tuned_scores(runs)
    assert scores.schema == SCORE_SCHEMA
    names = scores["scorer"].unique()
    assert set(names) == {
        f"fine_tuned_{kind}"
        for rate in ("", "_1e-05", "_3e-02")
        for kind in (f"forecast{rate}_spread", f"forecast{rate}_probability", f"labels{rate}")
    }
    days = scores.group_by("scorer").agg(pl.len(), pl.col("day").n_unique())
    assert days["len"].n_unique() == days["day"].n_unique() == 1
    for horizon, folds in problem().folds.items():
        rows = scores.filter(
            pl.col("horizon") == horizon, scorer="fine_tuned_labels", label="sign", part="test"
        )
        assert rows["day"].to_list() == np.concatenate([fold.test for fold in folds]).tolist()
    best = runs.filter("chosen", kind="labels")["learning_rate"].item()
    shown = {1e-5: "1e-05", 3e-2: "3e-02"}[best]
    own, rate = (
        scores.filter(scorer=name)["score"]
        for name in ("fine_tuned_labels", f"fine_tuned_labels_{shown}")
    )
    assert own.equals(rate)


@pytest.mark.heavy
def test_a_rate_far_too_high_is_recorded_as_such(runs: pl.DataFrame):
    low, high = runs.filter(kind="forecast").sort("learning_rate").iter_rows(named=True)
    assert low["loss_before"] == high["loss_before"]
    assert low["last_loss"] < 1.02 * low["loss_before"]
    assert high["last_loss"] > low["last_loss"]


@pytest.mark.slow
def test_the_result_is_the_same_on_any_number_of_threads(runs: pl.DataFrame):
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = fine_tuning_runs(problem(), BUNDLED)
    finally:
        torch.set_num_threads(n_threads)
    assert again.equals(runs)
