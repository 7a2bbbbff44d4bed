"""Test that a column of a table marks the steps of known events, tenant by tenant, and is no metric.

What belongs here: reading the column. What does not: what an event does to the search
(`steps.test_events`).
"""

from typing import Any

import polars as pl
import pytest

from tsfm_pipeline.fleets import FleetDataError, FleetSource
from tsfm_pipeline_tests.fleets.tables import HOUR, N_HOURS, START, opened, opened_csv, spec, table

pytestmark = pytest.mark.heavy


def marked(source: FleetSource) -> list[tuple[int, int]]:
    return list(source.marked_steps().iter_rows())


def with_cells(cells: dict[tuple[str, int], Any], otherwise: Any) -> pl.DataFrame:
    """The table with a column `campaign`; cells by tenant and hour."""
    frame = table()
    hours = [(time - START) // HOUR for time in frame["timestamp"]]
    column = [
        cells.get((tenant, hour), otherwise)
        for tenant, hour in zip(frame["tenant_id"], hours, strict=True)
    ]
    return frame.with_columns(pl.Series("campaign", column))


@pytest.mark.parametrize(
    ("mark", "otherwise"),
    [(True, False), (1, 0), (0.5, 0.0), (2, None), ("Black Friday", ""), ("yes", "No"), ("1", "0")],
)
def test_any_cell_but_an_empty_one_zero_false_and_no_marks_its_step(tmp_path, mark, otherwise):
    frame = with_cells({("a", 3): mark, ("a", 4): mark, ("b", 50): mark}, otherwise)
    source = opened(tmp_path, frame, event_column="campaign")
    assert source.metrics == ("cpu", "mem")
    assert source.columns_left_out == ()
    assert marked(source) == [(0, 3), (0, 4), (1, 50)]
    csv = opened_csv(tmp_path, frame, event_column="campaign")
    assert csv.metrics == ("cpu", "mem")
    assert marked(csv) == marked(source)
    assert marked(opened(tmp_path, frame)) == []


def test_rows_off_the_grid_and_repeated_rows_mark_the_step_that_they_are_read_at(tmp_path):
    frame = with_cells({("a", 3): 1}, 0).with_columns(pl.col("timestamp") - pl.duration(minutes=9))
    twice = pl.concat([frame, frame.with_columns(campaign=pl.lit(0, frame.schema["campaign"]))])
    source = opened(tmp_path, twice, event_column="campaign", align="up")
    assert source.n_steps == N_HOURS
    assert marked(source) == [(0, 3)]


def test_a_long_table_marks_events_beside_its_values(tmp_path):
    frame = with_cells({("b", 7): "deployment"}, None).unpivot(
        ["cpu", "mem"], index=["tenant_id", "timestamp", "campaign"]
    )
    names = {"tenant_column": "tenant_id", "timestamp_column": "timestamp"}
    columns = {"value_column": "value", "metric_column": "variable"}
    source = opened(tmp_path, frame, layout="long", event_column="campaign", **names, **columns)
    assert source.metrics == ("cpu", "mem")
    assert marked(source) == [(1, 7)]


def test_a_file_without_any_event_may_have_an_empty_column(tmp_path):
    frame = with_cells({("b", 50): "Black Friday"}, None)
    early = pl.col("timestamp") < START + 30 * HOUR
    nothing = frame.filter(early).with_columns(campaign=pl.lit(None, pl.Null))
    nothing.write_parquet(tmp_path / "day-1.parquet")
    frame.filter(~early).write_parquet(tmp_path / "day-2.parquet")
    source = opened(tmp_path, frame, path="day-*.parquet", event_column="campaign")
    assert marked(source) == [(1, 50)]


def test_a_column_that_is_not_there_or_has_another_role_is_refused(tmp_path):
    with pytest.raises(FleetDataError, match="no column 'campaign'"):
        opened(tmp_path, table(), event_column="campaign")
    with pytest.raises(ValueError, match="'mem' is given more than one role"):
        spec(metrics=["cpu", "mem"], event_column="mem")
    with pytest.raises(ValueError, match="leave event_column out"):
        spec(layout="series", event_column="campaign")
