"""Test records of tables: how templates of columns expand, and which registries are refused."""

from dataclasses import replace

import polars as pl
import pytest

from tsfm_pipeline.catalogue.registry import Column, Table, registry
from tsfm_pipeline.catalogue.tables import TABLES

TABLE = Table("prices", "market", "g", 1, "What?", "good", (Column("good", pl.String(), "good"),))
DIMENSIONS = {"tier": ("gold", "lead"), "H": range(4)}


def test_a_template_is_a_column_for_each_entry_of_its_dimension() -> None:
    loss = Column("loss_{tier}", pl.Float32(), "at {tier}'s alpha", "euro")
    gold, lead = loss.expanded(DIMENSIONS.__getitem__)
    assert (gold.name, gold.meaning) == ("loss_gold", "at gold's alpha")
    assert lead == replace(loss, name="loss_lead", meaning="at lead's alpha")


def test_a_fleet_s_table_has_the_columns_of_whatever_tiers_there_are() -> None:
    schema = TABLES["tuning_losses"].schema(DIMENSIONS.__getitem__)
    by_tier = ["loss_gold", "loss_lead", "loss_median", "violation_gold", "violation_lead"]
    assert schema.names()[4:] == by_tier


def test_a_template_of_lists_stands_for_one_list_per_entry() -> None:
    decision = Column("decision_{tier}", pl.Float32(), "of {tier}", axis="H")
    entries = {"tier": ("gold", "iron"), "H": range(4)}
    gold, iron = decision.expanded(lambda name: entries[name])
    assert (gold.name, gold.meaning) == ("decision_gold", "of gold")
    assert gold.dtype == iron.dtype == pl.Array(pl.Float32(), 4)


def test_a_list_has_the_length_of_its_axis_times_the_values_per_entry() -> None:
    (deciles,) = Column("deciles", pl.Float32(), "", axis="H", per_entry=9).expanded(
        DIMENSIONS.__getitem__
    )
    assert deciles.dtype == pl.Array(pl.Float32(), 36)


def test_a_single_column_stands_for_itself_and_asks_for_no_dimension() -> None:
    (column,) = TABLE.columns
    assert list(column.expanded({}.__getitem__)) == [column]


def test_tables_are_ordered_by_their_inputs_and_otherwise_stay_as_given() -> None:
    later = replace(TABLE, name="later", inputs=("prices",))
    other = replace(TABLE, name="other")
    assert list(registry([later, other, TABLE])) == ["other", "prices", "later"]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([TABLE, TABLE], "prices are declared twice"),
        ([TABLE, replace(TABLE, name="b", scope="fleet")], "one scope, not fleet, market"),
        ([replace(TABLE, key=("day",))], "'prices' has no columns day"),
        ([replace(TABLE, inputs=("gone",))], r"do not exist.*'prices': \['gone'\]"),
        (
            [replace(TABLE, inputs=("b",)), replace(TABLE, name="b", inputs=("prices",))],
            "depend on the table itself",
        ),
    ],
)
def test_a_registry_that_cannot_be_made_is_refused(tables: list[Table], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registry(tables)
