"""Test that lakes are compared by the content of their tables and reports, not by their files.

What belongs here: `benchmarks/content.py`. What does not: how lakes are written (`test_lake`).
"""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest

from tsfm_pipeline.lake import Lake
from tsfm_pipeline.settings import PROJECT_ROOT

FRAME = pl.DataFrame(
    {
        "request_id": [3, 1, 2],
        "metric": ["b", "a", None],
        "loss": [0.5, float("nan"), None],
        "deciles": pl.Series([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=pl.Array(pl.Float32, 2)),
    }
)


@pytest.fixture
def content(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(PROJECT_ROOT / "benchmarks"))
    return importlib.import_module("content")


def lake_of(root: Path, frame: pl.DataFrame, n_parts: int = 1, **report: object) -> Path:
    tables = Lake(root / "lake").fleet("demo", {"numbers": "v1"})
    shards = [[number] for number in range(n_parts)]
    rows = -(-frame.height // n_parts)
    tables.map_shards(
        "numbers", lambda shard: frame[shard[0] * rows : (shard[0] + 1) * rows], shards
    )
    folder = root / "reports" / "demo"
    folder.mkdir(parents=True)
    (folder / "latency_report.json").write_text(json.dumps(report))
    return root / "lake"


def test_order_and_parts_do_not_count(content: ModuleType, tmp_path: Path) -> None:
    one = lake_of(tmp_path / "one", FRAME, ratio=0.9)
    other = lake_of(tmp_path / "other", FRAME[::-1], n_parts=2, ratio=0.9)
    assert content.digests(one) == content.digests(other)
    assert content.compare(one, other) == []


@pytest.mark.parametrize(
    "other",
    [
        FRAME.with_columns(loss=pl.Series([0.5, float("nan"), 0.0])),
        FRAME.with_columns(pl.col("request_id").cast(pl.Int32)),
        FRAME.rename({"loss": "losses"}),
        FRAME[:2],
        FRAME.with_columns(
            deciles=pl.Series([[1.0, 2.0], [3.0, 4.0], [5.0, 6.5]], dtype=pl.Array(pl.Float32, 2))
        ),
    ],
    ids=["null", "type", "name", "rows", "array"],
)
def test_values_types_and_names_count(
    content: ModuleType, tmp_path: Path, other: pl.DataFrame
) -> None:
    assert content.compare(
        lake_of(tmp_path / "one", FRAME), lake_of(tmp_path / "other", other)
    ) == ["demo/numbers: other content"]


def test_a_table_that_only_one_has_is_named(content: ModuleType, tmp_path: Path) -> None:
    one, other = lake_of(tmp_path / "one", FRAME), lake_of(tmp_path / "other", FRAME)
    Lake(one).fleet("demo", {"more": "v1"}).map_shards("more", lambda shard: FRAME, [[0]])
    assert content.compare(one, other) == [f"demo/more: only in {one}"]
    assert content.compare(other, one) == [f"demo/more: only in {one}"]


@pytest.mark.parametrize("empty", ["missing", "without_tables"])
@pytest.mark.parametrize("position", ["alone", "first", "second", "both"])
def test_a_folder_without_tables_is_an_error(
    content: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    empty: str,
    position: str,
) -> None:
    full, folder = lake_of(tmp_path / "one", FRAME), tmp_path / empty
    if empty == "without_tables":
        (folder / "demo" / "unfinished").mkdir(parents=True)
    lakes = {
        "alone": [folder],
        "first": [folder, full],
        "second": [full, folder],
        "both": [folder, folder],
    }[position]
    monkeypatch.setattr(sys, "argv", ["content.py", *map(str, lakes)])
    with pytest.raises(SystemExit) as stopped:
        content.main()
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert printed.out == ""
    expected = "there is no folder" if empty == "missing" else "<fleet>/<table>/_table.json"
    assert str(folder) in printed.err
    assert expected in printed.err


def test_reports_are_compared_but_for_clocks(content: ModuleType, tmp_path: Path) -> None:
    one = lake_of(
        tmp_path / "one",
        FRAME,
        ratio=0.9,
        p95_latency_ms=12.0,
        table=[{"a": 1.0}],
        scores_fingerprint="x",
    )
    other = lake_of(
        tmp_path / "other",
        FRAME,
        ratio=0.9,
        p95_latency_ms=13.0,
        table=[{"a": 1.0 + 1e-15}],
        extra=1,
    )
    assert content.compare(one, other) == [
        "reports.demo/latency_report.json.extra: only in the other",
        "reports.demo/latency_report.json.table[0].a: 1.0 and 1.000000000000001",
    ]
    assert content.compare(one, other, digits=12) == [
        "reports.demo/latency_report.json.extra: only in the other"
    ]
