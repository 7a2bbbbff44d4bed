"""Test that folders which `datasets` saved are read as they are, or refused with what is allowed."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tsfm_pipeline.evaluation.frequencies import Frequency
from tsfm_pipeline.fleets.saved_folders import is_saved_dataset
from tsfm_pipeline.fleets.saved_items import open_dataset
from tsfm_pipeline.fleets.source import FleetDataError
from tsfm_pipeline_tests.fleets.saved_datasets import START, item, save


def test_one_series_per_item_is_read_with_its_missing_values(tmp_path: Path) -> None:
    rows = [
        item("a", [1.0, None, 3.0], freq="15T"),
        item("b", [4.0, float("nan")], freq="15min", start=START + timedelta(hours=6)),
    ]
    dataset = open_dataset(save(tmp_path / "d", rows, n_files=2))
    assert dataset.frequency == Frequency(15, "T")
    a, b = dataset.items
    assert (a.item_id, a.start, a.n_variates, a.n_steps) == ("a", START.replace(tzinfo=UTC), 1, 3)
    assert b.start == datetime(2024, 1, 1, 6, tzinfo=UTC)
    assert dataset.values(a).dtype == np.float32
    np.testing.assert_array_equal(dataset.values(a), [[1, np.nan, 3]])
    np.testing.assert_array_equal(dataset.values(b), [[4, np.nan]])


def test_variates_are_read_in_order_and_other_columns_are_named(tmp_path: Path) -> None:
    rows = [
        item("a", [[1.0, 2.0], [3.0, None]], past_feat_dynamic_real=[[9.0, 9.0]]),
        item("b", [[5.0, 6.0, 7.0], [8.0, 9.0, 10.0]], past_feat_dynamic_real=[[9.0]]),
    ]
    dataset = open_dataset(save(tmp_path / "d", rows))
    assert [own.n_variates for own in dataset.items] == [2, 2]
    np.testing.assert_array_equal(dataset.values(dataset.items[0]), [[1, 2], [3, np.nan]])
    np.testing.assert_array_equal(dataset.values(dataset.items[1])[1], [8, 9, 10])
    assert dataset.left_out == ("past_feat_dynamic_real",)
    assert dataset.variate_names == ()


def test_infinities_and_numbers_too_large_for_the_model_are_missing(tmp_path: Path) -> None:
    dataset = open_dataset(save(tmp_path / "d", [item("a", [1.0, np.inf, -np.inf, 2e33])]))
    np.testing.assert_array_equal(dataset.values(dataset.items[0]), [[1, np.nan, np.nan, np.nan]])


def test_variates_have_the_names_that_every_item_gives_them(tmp_path: Path) -> None:
    target = [[1.0], [2.0]]
    same = [item(name, target, labels=["cpu", "memory"]) for name in "ab"]
    assert open_dataset(save(tmp_path / "same", same)).variate_names == ("cpu", "memory")
    differing = [item("a", target, labels=["cpu", "x"]), item("b", target, labels=["cpu", "y"])]
    assert open_dataset(save(tmp_path / "differing", differing)).variate_names == ()
    other = [item("a", target, labels=["one", "two", "three"])]
    assert open_dataset(save(tmp_path / "other", other)).variate_names == ()


@pytest.mark.parametrize(
    "start", ["2024-01-01T06:00:00", "2024-01-01 06:00", "2024-01-01T08:00:00+02:00"]
)
def test_starts_may_be_text(tmp_path: Path, start: str) -> None:
    dataset = open_dataset(save(tmp_path / "d", [item("a", [1.0], start=start)]))
    assert dataset.items[0].start == datetime(2024, 1, 1, 6, tzinfo=UTC)


def test_starts_may_be_dates(tmp_path: Path) -> None:
    dataset = open_dataset(save(tmp_path / "d", [item("a", [1.0], start=date(2024, 1, 1))]))
    assert dataset.items[0].start == datetime(2024, 1, 1, tzinfo=UTC)


def test_a_folder_is_recognised_by_its_state(tmp_path: Path) -> None:
    assert is_saved_dataset(save(tmp_path / "d", [item("a", [1.0])]))
    assert not is_saved_dataset(tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([item("a", [1.0]), item("a", [1.0])], "1 ids are given to more than one item: 'a'"),
        ([item("a", [1.0], freq="X")], "column 'freq': the frequency is 'X'; allowed"),
        (
            [item("a", [1.0]), item("b", [1.0], freq="D")],
            "it holds 'D', 'h'; allowed: one frequency",
        ),
        ([item("a", [1.0]), item("b", [])], "item 'b': its target holds nothing"),
        ([item("a", [[1.0, 2.0], [1.0]])], r"its target holds \[1, 2\] steps; allowed: .* as many"),
        ([item("a", [1.0], start="soon")], "item 'a': its start is 'soon'; allowed: a time"),
        ([{"id": "a", "target": [1.0]}], "no column 'item_id', 'start', 'freq'; it holds id"),
        ([{**item("a", [1.0]), "target": "1 2 3"}], "column 'target': it is string; allowed"),
    ],
)
def test_items_that_cannot_be_read_are_refused_by_name(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    folder = save(tmp_path / "d", rows)
    with pytest.raises(FleetDataError, match=message):
        open_dataset(folder)


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "d", [item("a", [1.0])])
    data = folder / "data-00000-of-00001.arrow"
    data.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(FleetDataError, match=f"{data.name} is not an Arrow IPC stream"):
        open_dataset(folder)
    data.unlink()
    with pytest.raises(FleetDataError, match=f"1 of the 1 data files .* missing: '{data.name}'"):
        open_dataset(folder)
    (folder / "state.json").write_text("{")
    with pytest.raises(FleetDataError, match=r"state\.json is not valid JSON"):
        open_dataset(folder)


def test_a_state_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "d", [item("a", [1.0])])
    state = {"_data_files": [{"filename": "../secret.arrow"}]}
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(FleetDataError, match="a file in the same folder"):
        open_dataset(folder)


def test_a_selection_of_rows_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "d", [item("a", [1.0])])
    state = json.loads((folder / "state.json").read_text())
    state["_indices_data_files"] = [{"filename": "indices.arrow"}]
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(FleetDataError, match="an indices mapping"):
        open_dataset(folder)


def test_splits_are_named_and_an_ordinary_folder_is_no_data_set(tmp_path: Path) -> None:
    save(tmp_path / "d" / "train", [item("a", [1.0])])
    (tmp_path / "d" / "dataset_dict.json").write_text(json.dumps({"splits": ["train"]}))
    with pytest.raises(FleetDataError, match=r"several data sets; give the folder .*/train"):
        open_dataset(tmp_path / "d")
    with pytest.raises(FleetDataError, match=r"no state\.json"):
        open_dataset(tmp_path)
