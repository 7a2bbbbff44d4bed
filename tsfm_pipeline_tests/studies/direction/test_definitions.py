"""Test the study's code location: its assets, and one small market from prices to the report.

What belongs here: what Dagster is told, and the whole chain at a small size. What does not: the
content of each table.
"""

import json
from pathlib import Path

import dagster as dg
import pytest
import yaml

from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.direction.check_names import CHECKS
from tsfm_pipeline.studies.direction.definitions import REPORT, build_definitions
from tsfm_pipeline.studies.direction.operations import run_market
from tsfm_pipeline.studies.direction.options import GROUPS
from tsfm_pipeline.studies.direction.scope import SCOPE
from tsfm_pipeline.studies.direction.tables import EVALUATED, TABLES
from tsfm_pipeline_tests.studies.locations import require_listed_and_light

SMALL = {
    "kind": "synthetic",
    "title": "A small market",
    "days": 1600,
    "correlation": 0.3,
    "seed": 4,
    "study": {
        "labels": {"horizons": [1]},
        "splits": {"training_years": 4, "last_years": 2},
        "statistics": {"draws": 100, "comparison_draws": 100},
        "zero_shot": {"contexts": [64]},
        "patchtst": {"seeds": 1, "epochs": 1, "refit_years": 2},
        "fine_tuning": {"learning_rates": [1e-5], "steps": 2, "refit_years": 2, "context": 64},
    },
}


@pytest.mark.heavy
def test_the_location_is_listed_and_loads_nothing_heavy() -> None:
    require_listed_and_light("tsfm_pipeline.studies.direction.definitions")


@pytest.mark.heavy
def test_every_asset_is_partitioned_by_market_and_asks_a_question() -> None:
    defs = build_definitions(Settings())
    dg.Definitions.validate_loadable(defs)
    graph = defs.resolve_asset_graph()
    nodes = {key.to_user_string(): graph.get(key) for key in graph.get_all_asset_keys()}
    assert set(nodes) == {*TABLES, REPORT}
    for name, node in nodes.items():
        assert node.partitions_def is not None, name
        assert set(node.partitions_def.get_partition_keys()) >= {"sp500", "nasdaq"}
        assert "?" in (node.description or ""), name


@pytest.mark.heavy
def test_a_small_market_runs_from_prices_to_a_report_with_every_check(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    folder = tmp_path / "data" / "markets"
    folder.mkdir(parents=True)
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    defs = build_definitions(settings)
    result = defs.resolve_job_def("market").execute_in_process(partition_key="small")
    assert result.success
    checked = {
        event.check_name: event.passed
        for event in result.get_asset_check_evaluations()
        if event.asset_key == dg.AssetKey(REPORT)
    }
    assert set(checked) == set(CHECKS)
    assert checked["covariate_effect"]

    market = SCOPE.open(settings, "small")
    evaluated = market.tables.read(EVALUATED)
    families = {name.split("_")[0] for name in evaluated["scorer"].unique()}
    assert {"untrained", "volatility", "zero", "covariates", "probe", "patchtst", "fine"} < families
    assert set(market.spec.study.scorers) == set(GROUPS)
    report = json.loads((market.reports_dir / "direction_report.json").read_text())
    assert report["n_variants"] == evaluated["scorer"].n_unique()
    assert "correlation" in report["simulated_truth"]
    page = (market.reports_dir / "report.html").read_text()
    assert "market small" in page

    told: list[str] = []
    run_market(settings, "small", told.append)
    assert not any("written" in line for line in told), "what is current is kept"
