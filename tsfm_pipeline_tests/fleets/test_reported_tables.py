"""Test the tables that people have reported, where they are at hand: each is read right, or refused
for what it is.

What belongs here: times, headers, files and steps. What does not: tables that a test writes itself
(`test_times`, `test_dialects`).
"""

from pathlib import Path

import pytest

from tsfm_pipeline.fleets import FleetDataError
from tsfm_pipeline.fleets.inference import look_at_table
from tsfm_pipeline_tests.baselines.conftest import shared_file

pytestmark = pytest.mark.heavy

READ = {
    "clickhouse-parquet/binary-host.parquet": ("wide", "time", 4, 60, "2024-03-01 00:00"),
    "clickhouse-parquet/decimal-struct-cat.parquet": ("wide", "time", 4, 60, "2024-03-01 00:00"),
    "clickhouse-parquet/ns-berlin.parquet": ("wide", "time", 4, 60, "2024-02-29 23:00"),
    "clickhouse-parquet/string-ns-time.parquet": ("wide", "time", 4, 60, "2024-03-01 00:00"),
    "clickhouse-parquet/uint32-time.parquet": ("wide", "time", 4, 60, "2024-03-01 00:00"),
    "dst-offsets/t.csv": ("wide", "time", 4, 60, "2024-03-24 00:00"),
    "epoch-times/both.csv": ("wide", "time", 4, 60, "2024-03-01 00:00"),
    "epoch-times/float.csv": ("long", "timestamp", 4, 60, "2024-03-01 00:00"),
    "epoch-times/ms-and-date.csv": ("wide", "timestamp", 4, 60, "2024-03-01 00:00"),
    "epoch-times/ms.csv": ("wide", "Time", 4, 60, "2024-03-01 00:00"),
    "grafana-wide/panel-labels.csv": ("series", "Time", 2, 60, "2024-03-01 00:00"),
    "grafana-wide/panel-sep.csv": ("series", "Time", 4, 60, "2024-03-01 00:00"),
    "grafana-wide/panel.csv": ("series", "Time", 4, 60, "2024-03-01 00:00"),
    "hive": ("wide", "time", 4, 60, "2024-03-01 00:00"),
    "influx-annotated/query-stripped.csv": ("long", "_time", 4, 60, "2024-03-01 00:00"),
    "influx-annotated/query.csv": ("long", "_time", 4, 60, "2024-03-01 00:00"),
    "pg-offset/t.csv": ("wide", "time", 4, 60, "2024-03-01 00:00"),
    "weekly/t.csv": ("long", "ds", 3, 10080, "2020-01-06 00:00"),
    "daily/t.csv": ("wide", "day", 12, 1440, "2021-01-01 00:00"),
    "daily/twelve-hours.csv": ("wide", "at", 12, 720, "2021-01-01 00:00"),
}
REFUSED = {
    "epoch-times/excel.csv": "serial number of Excel",
    "no-header/export.csv": "line 1: .* reads as a row of data",
}


def case(name: str) -> Path:
    return shared_file(f"cases/{name}")


@pytest.mark.parametrize("name", READ)
def test_a_reported_table_is_read(tmp_path: Path, name: str) -> None:
    facts = look_at_table(case(name), name="mine", fleets_dir=tmp_path)
    fields = facts.fields
    assert (
        fields["layout"],
        fields["timestamp_column"],
        facts.n_tenants,
        fields["step"],
        f"{facts.start:%Y-%m-%d %H:%M}",
        facts.problem,
    ) == (*READ[name], "")


@pytest.mark.parametrize("name", REFUSED)
def test_a_reported_table_is_refused_for_what_it_is(tmp_path: Path, name: str) -> None:
    with pytest.raises(FleetDataError, match=REFUSED[name]):
        look_at_table(case(name), name="mine", fleets_dir=tmp_path)
