"""Test what a policy costs on rows in which a better policy is planted."""

import pytest

from tsfm_pipeline.studies.policy_search.evaluation import evaluate
from tsfm_pipeline.studies.policy_search.policy import policy_of
from tsfm_pipeline_tests.studies.policy_search import planted

pytestmark = pytest.mark.heavy
DEFAULT, BETTER = (
    policy_of({**planted.QUICK, **change}).settings for change in ({}, planted.BETTER)
)


def _gain(where: planted.Where, folds: tuple[int, ...]) -> float:
    """Return by how much the planted change lowers the mean loss, as a share."""
    rows = planted.rows(where)
    default, better = (
        evaluate(rows, search, folds, 1.0, planted.LINE).loss() for search in (DEFAULT, BETTER)
    )
    return 1 - float(better.mean() / default.mean())


def test_a_better_policy_costs_less_in_all_folds() -> None:
    assert _gain("everywhere", planted.CHOOSING) > 0.1
    assert _gain("everywhere", planted.CONFIRMING) > 0.1


def test_a_policy_that_is_better_for_those_that_chose_it_costs_more_elsewhere() -> None:
    assert _gain("choosing", planted.CHOOSING) > 0.1
    assert _gain("choosing", planted.CONFIRMING) < -0.05
