"""Test that every method has exactly one record, and that the record is correct."""

import ast
from pathlib import Path

import numpy as np
import pytest

from tsfm_pipeline.autoresearch.rules import RULES
from tsfm_pipeline.baselines import DIRECT_BASELINES
from tsfm_pipeline.evaluation import methods
from tsfm_pipeline.evaluation.methods import (
    BLOCK_CONSTANTS,
    FIXED,
    MATCHED_COMPUTE,
    METHODS,
    RULE_PREFIX,
    SEARCH,
    SEARCH_DESPITE_EVENTS,
    SEARCH_UNCORRECTED,
    STATIC_ENSEMBLE,
    UNIFORM_AVERAGE,
    is_part_of_the_search,
    method_label,
    method_of,
)
from tsfm_pipeline.forecaster import Panel

PACKAGE = Path(methods.__file__).parents[1]
MARKET_FEATURES = ("features", "scorers/covariates", "scorers/untrained")
OTHER_WORDS = {
    ("autoresearch/tuning.py", "fixed_corrected"),
    *((f"studies/direction/{path}.py", "ewma") for path in MARKET_FEATURES),
}
"""Where a name is not that of a method: a stored policy's key for a decision on tuning requests, and
a market's feature."""


def test_every_direct_baseline_and_every_rule_has_a_record_and_no_record_is_left_over() -> None:
    direct = [name for name, method in METHODS.items() if method.is_direct]
    assert direct == list(DIRECT_BASELINES)
    rules = {name for name, method in METHODS.items() if method.family == "rule"}
    assert rules == {f"{RULE_PREFIX}{rule}" for rule in RULES}


def test_names_and_labels_tell_methods_apart() -> None:
    for registry in (methods._METHODS, methods._BLOCK_CONSTANTS):
        assert (
            len({one.name for one in registry})
            == len({one.label for one in registry})
            == len(registry)
        )


def test_stages_of_the_search_are_no_rivals_and_everything_else_is() -> None:
    stages = {name for name in METHODS if is_part_of_the_search(name)}
    assert stages == {SEARCH_UNCORRECTED} | {f"{RULE_PREFIX}{rule}" for rule in RULES}
    assert is_part_of_the_search(SEARCH_DESPITE_EVENTS), "scored on some fleets only"
    assert not is_part_of_the_search("config:ctx512")
    assert not is_part_of_the_search("brought_by_a_package")


def test_what_a_request_costs_of_the_model() -> None:
    assert set(MATCHED_COMPUTE) == {STATIC_ENSEMBLE, UNIFORM_AVERAGE}
    assert {method_of(name).forecasts for name in (SEARCH, "rule:softmax")} == {"K, validated"}
    assert {method_of(name).forecasts for name in DIRECT_BASELINES} == {"none"}
    names = ("fixed_corrected", "config_per_tenant", "config:ctx512", "brought_by_a_package")
    assert [method_of(name).forecasts for name in names] == ["1, validated", "1", "1", "none"]


def test_only_what_tuning_tenants_chose_is_tuned() -> None:
    assert not any(method_of(name).tuned for name in (*DIRECT_BASELINES, "config:ctx512"))
    assert all(method.tuned for method in METHODS.values() if not method.is_direct)


def test_methods_without_a_record_are_named_after_what_they_are() -> None:
    assert method_label("config:ctx512") == "always ctx512"
    assert method_label("brought_by_a_package") == "brought by a package"
    assert method_of("brought_by_a_package").is_direct


@pytest.mark.parametrize("name", DIRECT_BASELINES)
def test_a_direct_baseline_s_deciles_come_from_where_its_record_says(name: str) -> None:
    values = np.random.default_rng(0).gamma(2.0, size=(2, 600)).astype(np.float32)
    deciles = DIRECT_BASELINES[name](500).forecast(
        Panel(values, seasons=(48,)), np.full((2, 1), 599), 6
    )
    below, above = deciles[..., 4] - deciles[..., 0], deciles[..., 8] - deciles[..., 4]
    quantiles = METHODS[name].quantiles
    assert (below.max() + above.max() == 0) == (quantiles == "degenerate")
    if quantiles != "degenerate":
        assert np.allclose(below, above, rtol=1e-4) == (quantiles == "gaussian")


def test_names_of_methods_stand_in_one_place() -> None:
    """Elsewhere they are constants. (`search` is a word of settings and keys too.)"""
    names = {*METHODS, *BLOCK_CONSTANTS} - {SEARCH}
    found = set()
    for module in sorted(PACKAGE.rglob("*.py")):
        path = module.relative_to(PACKAGE).as_posix()
        if path == "evaluation/methods.py" or path.startswith("reports/"):
            continue
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in names:
                found.add((path, node.value))
    assert found == OTHER_WORDS
    assert FIXED in names
