"""Test a fleet whose backtest covers a cohort of its tenants, from telemetry to reports, with a
stand-in for the model.

What belongs here: which tables hold whom, which parts a shard opens, and what the reports say. What
does not: who is drawn (`evaluation/test_cohort`), the quality of forecasts.
"""

from types import ModuleType

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.fleet_scope import FLEETS, OF_EVERY_TENANT
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.defs.checks import check_results
from tsfm_pipeline.evaluation.requests import OUTSIDE
from tsfm_pipeline.reports.explain.numbers import explain
from tsfm_pipeline.reports.headline.model import HeadlineReport
from tsfm_pipeline.reports.headline.numbers import headline_report
from tsfm_pipeline.reports.page.html import render_fleet_report
from tsfm_pipeline.reports.page.markdown import summary
from tsfm_pipeline.reports.recommendations.numbers import recommendation_report
from tsfm_pipeline.reports.shared.files import read_report, write_report
from tsfm_pipeline.steps.workloads import describe_manifest, tenant_manifest
from tsfm_pipeline_tests.counted_fleet import CountedFleet, counted_fleet

pytestmark = pytest.mark.heavy

N_TENANTS, PER_SHARD, COHORT = 30, 3, 10
NOTE = f"The backtest covers a cohort of {COHORT} tenants, drawn from the {N_TENANTS} of the fleet"


@pytest.fixture(scope="module")
def built(scaling: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> CountedFleet:
    settings = {
        "shard_tenants": PER_SHARD,
        "search": {"candidates": ("ctx64", "ctx256", "ctx128-s1x5"), "portfolio_size": 2},
        "evaluation": {
            "bootstrap_draws": 200,
            "permutations": 100,
            "cold_start_minutes": (60,),
            "cohort_tenants": COHORT,
        },
    }
    return counted_fleet(scaling, tmp_path_factory.mktemp("cohort"), N_TENANTS, settings)


@pytest.fixture
def fleet(built: CountedFleet) -> Fleet:
    return built.fleet


@pytest.fixture
def cohort(fleet: Fleet) -> list[int]:
    """The numbers of its tenants."""
    return np.flatnonzero(fleet.folds != OUTSIDE).tolist()


def test_the_manifest_names_everybody_and_who_is_in_the_cohort(
    fleet: Fleet, cohort: list[int]
) -> None:
    assert fleet.manifest.height == N_TENANTS
    assert len(cohort) == COHORT
    assert fleet.cohort == (COHORT, N_TENANTS)
    described = describe_manifest(fleet)
    assert described["n_tuning_tenants"] + described["n_test_tenants"] == COHORT
    assert described["n_tenants_outside_the_cohort"] == N_TENANTS - COHORT


def test_telemetry_features_and_recommendations_hold_every_tenant_the_other_tables_the_cohort(
    fleet: Fleet, cohort: list[int]
) -> None:
    for name, table in TABLES.items():
        if "tenant_number" in {column.name for column in table.columns} and table.sharded:
            held = set(fleet.tables.read(name)["tenant_number"])
            expected = set(range(N_TENANTS)) if name in OF_EVERY_TENANT else set(cohort)
            assert held <= expected, name
            assert name not in OF_EVERY_TENANT or held == expected, name
    assert set(fleet.tables.read("forecast_requests")["tenant_number"]) == set(cohort)
    assert fleet.tables.read("recommendations")["made"].all()


@pytest.mark.parametrize("table", TABLES)
def test_the_checks_of_a_table_pass_though_shards_may_hold_nobody(fleet: Fleet, table: str) -> None:
    results = check_results(FLEETS, fleet, TABLES[table])
    assert [result.check_name for result in results if not result.passed] == []


def test_a_shard_without_test_tenants_has_an_empty_part(fleet: Fleet) -> None:
    """Else the test above proves nothing."""
    parts = fleet.tables.parts("autoresearch_forecasts")
    rows = [fleet.tables.read("autoresearch_forecasts", n).height for n in range(len(parts))]
    assert min(rows) == 0 < max(rows)


def test_an_index_holds_the_tuning_tenants_of_the_cohort(fleet: Fleet) -> None:
    tuners = fleet.manifest.filter(pl.col("fold") == -1)["tenant_id"]
    arrays = fleet.arrays.archetype_index
    assert arrays["0/full/tenant_ids"].tolist() == tuners.to_list()
    assert arrays["0/request/tenant_ids"].tolist() == tuners.to_list()


@pytest.mark.parametrize("table", [name for name in TABLES if TABLES[name].sharded])
def test_a_shard_of_a_sparse_cohort_opens_at_most_two_parts_of_an_input(
    built: CountedFleet, table: str
) -> None:
    """What every shard needs whole is read before the first one, and sent with the work."""
    fleet, opened = built
    expected = fleet.shards if table in OF_EVERY_TENANT else fleet.cohort_shards
    assert len(opened[table]) == len(expected)
    for shard in opened[table]:
        assert {name: len(parts) for name, parts in shard.items() if len(parts) > 2} == {}


def test_arrays_of_a_sparse_shard_are_those_of_its_tenants(fleet: Fleet, cohort: list[int]) -> None:
    assert [number for shard in fleet.cohort_shards for number in shard] == cohort
    assert len(fleet.cohort_shards) < len(fleet.shards)
    for shard in fleet.cohort_shards:
        np.testing.assert_array_equal(fleet.arrays.values(shard), fleet.source.values(shard))
        requests = fleet.arrays.requests("tuning", shard)
        assert [shard[row] for row in requests.rows] == requests.tenant_numbers.tolist() == shard
        rows = fleet.arrays.rows("request_targets", requests).collect()
        assert set(rows["tenant_number"]) == set(shard)


def test_reports_say_that_they_rest_on_a_cohort_and_of_how_many(
    fleet: Fleet, cohort: list[int]
) -> None:
    computed = headline_report(fleet)
    assert computed.n_test_tenants == int((fleet.folds >= 0).sum())
    write_report(fleet, "headline_report", computed.flat())
    content = read_report(fleet, "headline_report")
    assert (content["cohort_tenants"], content["fleet_tenants"]) == (COHORT, N_TENANTS)
    report = HeadlineReport.from_flat(content)
    assert NOTE in summary("headline_report", report)
    assert NOTE not in summary("headline_report", computed)
    provenance = {"fleet": fleet.name, "cohort_tenants": COHORT, "fleet_tenants": N_TENANTS}
    for shown, contains in ((provenance, True), ({"fleet": fleet.name}, False)):
        page = render_fleet_report(
            reports={"headline_report": report}, gallery=(), provenance=shown, data_quality={}
        )
        assert (NOTE in page) == contains
    assert recommendation_report(fleet).n_tenants == N_TENANTS


def test_a_tenant_outside_of_the_cohort_is_explained_by_its_recommendation(
    fleet: Fleet, cohort: list[int]
) -> None:
    outside = next(number for number in range(N_TENANTS) if number not in cohort)
    explanation = explain(fleet, fleet.manifest["tenant_id"][outside])
    assert explanation.scored_request is None
    assert all(np.isfinite(row.reservation) for row in explanation.table_reservations)
    assert not explanation.table_backtest


def test_a_cohort_of_all_tenants_changes_no_byte_of_the_manifest(fleet: Fleet) -> None:
    def with_cohort(size: int | None) -> pl.DataFrame:
        evaluation = fleet.settings.evaluation.model_copy(update={"cohort_tenants": size})
        settings = fleet.settings.model_copy(update={"evaluation": evaluation})
        other = Fleet(settings, fleet.spec)
        other.__dict__["grid"] = fleet.grid
        return tenant_manifest(other)

    assert with_cohort(N_TENANTS).equals(with_cohort(None))
    assert not with_cohort(COHORT).equals(with_cohort(None))
