"""Test record tables: every append is kept and read in order with one schema, and a damaged file is
reported by name.
"""

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from tsfm_pipeline.catalogue.records import RecordTable
from tsfm_pipeline.files import StorageError

SCHEMA = {"time": pl.Datetime("us", "UTC"), "figure": pl.Float64, "verdict": pl.String}
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def row(figure: float | None, **more: object) -> pl.DataFrame:
    return pl.DataFrame([{"time": NOON, "figure": figure, "verdict": None, **more}])


def test_rows_come_back_in_the_order_in_which_they_were_appended(tmp_path: Path) -> None:
    table = RecordTable(tmp_path / "ledger", SCHEMA)
    assert table.read().schema == SCHEMA
    assert table.read().height == 0
    before: dict[Path, bytes] = {}
    for figure in (3.0, 1.0, 2.0):
        table.append(row(figure))
        assert all(path.read_bytes() == content for path, content in before.items()), (
            "no file is written again"
        )
        before = {path: path.read_bytes() for path in table.paths()}
    assert table.read()["figure"].to_list() == [3.0, 1.0, 2.0]
    assert len(before) == 3


def test_a_column_without_a_value_has_its_declared_type(tmp_path: Path) -> None:
    table = RecordTable(tmp_path, SCHEMA)
    table.append(row(None))
    assert table.read().schema == SCHEMA
    assert pl.read_parquet(table.paths()[0]).schema == SCHEMA, (
        "also for those who read the file itself"
    )


def test_files_of_an_earlier_and_of_a_later_release_are_read_together(tmp_path: Path) -> None:
    RecordTable(tmp_path).append(pl.DataFrame({"time": [NOON], "figure": [1], "gone": ["kept"]}))
    RecordTable(tmp_path, SCHEMA).append(row(2.0, later="new"))
    rows = RecordTable(tmp_path, SCHEMA).read()
    assert rows.columns == ["time", "figure", "verdict", "gone", "later"]
    assert rows["figure"].dtype == pl.Float64
    assert rows.select("figure", "verdict", "gone", "later").rows() == [
        (1.0, None, "kept", None),
        (2.0, None, None, "new"),
    ]


def test_two_hosts_that_append_at_once_both_find_their_rows(tmp_path: Path) -> None:
    here, there = RecordTable(tmp_path, SCHEMA), RecordTable(tmp_path, SCHEMA)
    for figure in range(5):
        here.append(row(figure))
        there.append(row(10 + figure))
    assert sorted(here.read()["figure"]) == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]


@pytest.mark.parametrize("damage", ["half", "a flipped byte", "noise", "empty"])
def test_a_damaged_file_is_named_and_never_passed_over(tmp_path: Path, damage: str) -> None:
    table = RecordTable(tmp_path, SCHEMA)
    for figure in range(3):
        table.append(row(figure))
    path = table.paths()[1]
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(
        {
            "half": content[: len(content) // 2],
            "a flipped byte": content,
            "noise": b"noise",
            "empty": b"",
        }[damage]
    )
    with pytest.raises(
        StorageError,
        match=rf"{path.name} cannot be read: .*restore it from a backup, or move it away",
    ):
        table.read()
    table.append(row(3.0))
    with pytest.raises(StorageError, match=path.name):
        table.read()
    path.rename(tmp_path / "away")
    assert table.read()["figure"].to_list() == [0, 2, 3]


def test_what_an_unfinished_append_left_is_no_record(tmp_path: Path) -> None:
    table = RecordTable(tmp_path, SCHEMA)
    table.append(row(1.0))
    (tmp_path / ".append.parquet.123-abcd.tmp").write_bytes(b"half")
    assert table.read()["figure"].to_list() == [1.0]


@pytest.mark.heavy
def test_thousands_of_appends_are_one_table(tmp_path: Path) -> None:
    table = RecordTable(tmp_path, SCHEMA)
    first = table.append(row(0.0))
    for i in range(1, 2000):
        # The name an append of that time would have had; the digest is that of the same bytes.
        _, host, _, digest = first.stem.rsplit("-", 3)
        (tmp_path / f"20270101T000000.{i:06d}Z-{host}-{i:08x}-{digest}.parquet").write_bytes(
            first.read_bytes()
        )
    assert table.read().height == 2000
    table.append(row(1.0))
    assert table.read()["figure"].to_list()[-1] == 1.0
