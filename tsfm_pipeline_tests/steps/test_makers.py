"""Test that every table has a maker, and every maker has one of the two signatures."""

import inspect
from pkgutil import resolve_name

import pytest

from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.steps.makers import MAKERS


def parameters(function: str) -> list[str]:
    return list(inspect.signature(resolve_name(function)).parameters)


def test_every_table_has_one_maker() -> None:
    assert MAKERS.keys() == TABLES.keys()


@pytest.mark.parametrize("table", MAKERS)
def test_a_maker_takes_the_member_then_the_shard_and_the_model_where_it_needs_them(
    table: str,
) -> None:
    maker = MAKERS[table]
    model = ["forecaster"] if maker.needs_model else []
    shard = ["shard"] if TABLES[table].sharded else []
    shared = ["experience_of"] if maker.share else []
    assert parameters(maker.function) == ["fleet", *shard, *model, *shared]
    if maker.leakage:
        assert parameters(maker.leakage) == ["fleet", *model]
    for function in filter(None, (maker.describe, maker.provenance, maker.share)):
        assert parameters(function) == ["fleet"]


def test_what_needs_the_model_says_so_and_runs_alone() -> None:
    for table, maker in MAKERS.items():
        assert ("torch" in maker.kinds) == maker.needs_model, table
        assert maker.heavy or not maker.needs_model, table
