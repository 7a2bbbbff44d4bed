"""Test that the same code fingerprints, locks, seals, checks, makes and shows a table of another
scope than fleets.

What belongs here: what must hold of any scope. What does not: fleets.
"""

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from tsfm_pipeline.catalogue.registry import expected_fingerprints
from tsfm_pipeline.catalogue.scopes import schema_of
from tsfm_pipeline.catalogue.tables import TABLES as FLEET_TABLES
from tsfm_pipeline.defs.materialise import OWNERS, table_asset
from tsfm_pipeline.defs.partitions import partitions_of
from tsfm_pipeline.defs.resources import resources
from tsfm_pipeline.files import LakeError
from tsfm_pipeline.parts import SCHEMA_VERSION
from tsfm_pipeline.settings import Settings
from tsfm_pipeline_tests.catalogue import market
from tsfm_pipeline_tests.catalogue.market import MAKERS, TABLES, Feed, Market, Markets

pytestmark = pytest.mark.heavy

MARKETS = Markets()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


def run(settings: Settings, *names: str, **options: Any) -> dg.ExecuteInProcessResult:
    """Materialise tables of the market, or all of them."""
    partitions = partitions_of(MARKETS, settings)
    assets = [
        table_asset(MARKETS, table, MAKERS[name], partitions) for name, table in TABLES.items()
    ]
    return dg.materialize(
        assets,
        partition_key="spot",
        resources=resources(settings),
        selection=list(names or TABLES),
        raise_on_error=False,
        **options,
    )


def failures(result: dg.ExecuteInProcessResult) -> str:
    """What failed steps say."""
    failed = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    return " ".join(str(data.error.to_string()) for data in failed if data.error)


def test_tables_are_made_in_a_folder_of_their_own_and_sealed(settings: Settings) -> None:
    assert run(settings).success
    folder = settings.lake_dir / ".market" / "spot"
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == sorted(TABLES)
    tables = Market(settings, "spot").tables
    assert tables.read("day_ranges")["high_price"].to_list() == [51.0, 101.0]
    assert len(tables.record("daily_prices")["parts"]) == 2, "a part per shard"
    assert len(tables.record("day_ranges")["parts"]) == 1
    assert tables.record("day_ranges")["first_day"] == "2024-01-01"
    assert tables.record("day_ranges")["made_from"] == {
        "schema_version": SCHEMA_VERSION,
        "version": 1,
        "inputs": {"daily_prices": tables.expected["daily_prices"]},
        "parameters": None,
    }
    part = folder / "daily_prices" / tables.record("daily_prices")["parts"][0]["name"]
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(LakeError, match="is damaged"):
        Market(settings, "spot").tables.read("daily_prices")


def test_the_asset_says_what_the_record_says(settings: Settings) -> None:
    partitions = partitions_of(MARKETS, settings)
    asset = table_asset(MARKETS, TABLES["day_ranges"], MAKERS["day_ranges"], partitions)
    (spec,) = asset.specs
    assert spec.description == "Between which prices did every good move?"
    assert (spec.group_name, spec.code_version) == ("prices", "1")
    assert list(spec.owners) == OWNERS
    assert [dep.asset_key.to_user_string() for dep in spec.deps] == ["daily_prices"]
    assert [check.name for check in asset.check_specs] == ["schema", "row_count"]
    assert asset.partitions_def is not None
    assert list(asset.partitions_def.get_partition_keys()) == ["spot"]
    (reference,) = spec.metadata["dagster/code_references"].code_references
    assert Path(reference.file_path) == Path(market.__file__)


def test_a_materialisation_shows_rows_columns_lineage_and_what_the_maker_adds(
    settings: Settings,
) -> None:
    result = run(settings)
    shown = result.asset_materializations_for_node("day_ranges")[0].metadata
    assert shown["dagster/row_count"].value == 2
    columns = {column.name: column for column in shown["dagster/column_schema"].schema.columns}
    assert columns["low_price"].description == "the low end"
    assert columns["path"].type == "Array(Float64, shape=(3,))"
    lineage = shown["dagster/column_lineage"].value.deps_by_column
    assert lineage == {"good": [dg.TableColumnDep(dg.AssetKey("daily_prices"), "good")]}
    prices = result.asset_materializations_for_node("daily_prices")[0].metadata
    assert prices["goods"].value == ["wheat", "maize"]


def test_a_schema_has_types_and_the_scope_s_own_dimensions(settings: Settings) -> None:
    assert schema_of(MARKETS, Market(settings, "spot"), TABLES["day_ranges"]) == pl.Schema(
        {
            "good": pl.String(),
            "low_price": pl.Float64(),
            "high_price": pl.Float64(),
            "path": pl.Array(pl.Float64(), 3),
        }
    )


def test_another_type_than_declared_fails_the_check(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = market.daily_prices_shard
    as_text = pl.col("price").cast(pl.String)
    monkeypatch.setattr(
        market, "daily_prices_shard", lambda *given: made(*given).with_columns(as_text)
    )
    result = run(settings)
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert not checks["schema"].passed
    differences = checks["schema"].metadata["differences"].value
    assert differences == ["price: expected Float64, stored String"]
    assert not result.asset_materializations_for_node("day_ranges"), "what reads it is not made"


def test_a_repeated_key_fails_the_check(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = market.daily_prices_shard
    monkeypatch.setattr(market, "daily_prices_shard", lambda *given: pl.concat([made(*given)] * 2))
    checks = {check.check_name: check for check in run(settings).get_asset_check_evaluations()}
    assert checks["row_count"].metadata["n_repeated_keys"].value == 6
    assert not checks["row_count"].passed


def test_a_second_run_keeps_what_is_there_and_new_prices_make_all_of_it_stale(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(settings)
    again = run(settings, "daily_prices")
    kept = again.asset_materializations_for_node("daily_prices")[0].metadata["n_shards_kept"]
    assert kept.value == 2
    dearer = {
        "spot": {
            good: [2 * price for price in path] for good, path in market.PRICES["spot"].items()
        }
    }
    monkeypatch.setattr(market, "PRICES", dearer)
    for table in TABLES:
        with pytest.raises(LakeError, match="made by other code, settings or inputs"):
            Market(settings, "spot").tables.read(table)


def test_what_parameters_do_not_read_makes_nothing_stale() -> None:
    context = Feed("prices", 0)
    before = expected_fingerprints(TABLES, context)
    assert expected_fingerprints(TABLES, Feed("prices", 1)) == before
    after = expected_fingerprints(TABLES, Feed("other prices", 0))
    assert all(after[table] != before[table] for table in TABLES)


def test_a_second_writer_of_a_market_is_refused_by_name(settings: Settings) -> None:
    with Market(settings, "spot").tables.lock("another-run"):
        result = run(settings, "daily_prices")
    assert not result.success
    assert "is being written by process" in failures(result)


def test_no_table_of_a_fleet_is_touched_by_it() -> None:
    assert not set(TABLES) & set(FLEET_TABLES)
    assert {table.scope for table in FLEET_TABLES.values()} == {"fleet"}
