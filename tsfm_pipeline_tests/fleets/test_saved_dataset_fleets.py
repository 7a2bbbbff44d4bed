"""Test that saved data sets become fleets: which item is which tenant, on which grid."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tsfm_pipeline.fleets import (
    FleetSource,
    SavedDatasetFleet,
    fleet_fingerprint,
    open_fleet,
)
from tsfm_pipeline.fleets.changes import look_again
from tsfm_pipeline.fleets.quality import check_fleet
from tsfm_pipeline.fleets.saved_description import describe, description_yaml
from tsfm_pipeline.fleets.source import FleetDataError
from tsfm_pipeline.fleets.spec import parse_spec
from tsfm_pipeline_tests.fleets.saved_datasets import START, item, save


def spec(**fields: object) -> SavedDatasetFleet:
    return SavedDatasetFleet.model_validate(
        {
            "name": "mine",
            "title": "Mine",
            "kind": "saved_dataset",
            "path": "d",
            "source": "made up in a test",
            **fields,
        }
    )


def opened(folder: Path, rows: list[dict[str, Any]], **fields: object) -> FleetSource:
    save(folder / "d", rows)
    return open_fleet(spec(**fields), fleets_dir=folder)


def test_items_are_tenants_on_the_grid_of_all(tmp_path: Path) -> None:
    later = START + timedelta(hours=2)
    source = opened(tmp_path, [item("b", [1.0, 2.0], start=later), item("a", [5.0, 6.0, 7.0])])
    assert (source.start, source.step, source.n_steps) == (
        datetime(2024, 1, 1, tzinfo=UTC),
        timedelta(hours=1),
        4,
    )
    assert source.metrics == ("target",)
    assert source.manifest()["tenant_id"].to_list() == ["a", "b"]
    assert source.manifest()["first_step"].to_list() == [0, 2]
    assert source.manifest()["last_step"].to_list() == [2, 3]
    nan = np.nan
    np.testing.assert_array_equal(source.values([0, 1])[:, 0], [[5, 6, 7, nan], [nan, nan, 1, 2]])
    assert source.seasons == (24, 168)


def test_variates_without_names_are_tenants(tmp_path: Path) -> None:
    source = opened(tmp_path, [item("a", [[1.0, 2.0], [3.0, 4.0]]), item("b", [[5.0, 6.0]])])
    assert source.manifest()["tenant_id"].to_list() == ["a_dim0", "a_dim1", "b"]
    np.testing.assert_array_equal(source.values([1])[0], [[3, 4]])


def test_variates_may_be_metrics(tmp_path: Path) -> None:
    rows = [item("a", [[1.0, 2.0], [3.0, 4.0]]), item("b", [[5.0, 6.0], [7.0, 8.0]])]
    source = opened(tmp_path, rows, variates="metrics", metrics=["cpu", "memory"])
    assert source.metrics == ("cpu", "memory")
    np.testing.assert_array_equal(source.values([1])[0], [[5, 6], [7, 8]])


def test_another_number_of_variates_than_metrics_names_the_items(tmp_path: Path) -> None:
    rows = [item("a", [[1.0], [2.0]]), item("b", [[1.0]])]
    with pytest.raises(FleetDataError, match=r"2 names, and the items have 1 or 2 .*: 'b'"):
        opened(tmp_path, rows, variates="metrics", metrics=["cpu", "memory"])


def test_starts_off_the_grid_are_moved_up_and_counted(tmp_path: Path) -> None:
    off = START + timedelta(minutes=20)
    source = opened(tmp_path, [item("a", [1.0, 2.0]), item("b", [3.0], start=off)])
    np.testing.assert_array_equal(source.values([1])[0], [[np.nan, 3]])
    assert any("1 items start off the grid" in note for note in source.notes)


def test_a_grid_that_all_starts_share_is_kept(tmp_path: Path) -> None:
    off = START + timedelta(minutes=20)
    source = opened(tmp_path, [item("a", [1.0, 2.0], start=off)])
    assert source.start == off.replace(tzinfo=UTC)


def test_what_is_not_read_and_what_has_no_value_is_said(tmp_path: Path) -> None:
    rows = [item("a", [1.0], past_feat_dynamic_real=[1.0]), item("b", [None])]
    rows[1]["past_feat_dynamic_real"] = [1.0]
    source = opened(tmp_path, rows)
    assert dict(source.left_out) == {"b": "no value in any step"}
    assert "columns that are not read: past_feat_dynamic_real" in source.notes


@pytest.mark.parametrize(("hours", "said"), [(1, False), (2, True)])
def test_items_that_never_overlap_are_said(tmp_path: Path, hours: int, said: bool) -> None:
    later = START + timedelta(hours=hours)
    source = opened(tmp_path, [item("a", [1.0, 2.0]), item("b", [3.0, 4.0], start=later)])
    assert any("no two items overlap" in note for note in source.notes) is said


@pytest.mark.parametrize(
    ("freq", "called"), [("MS", "1 month"), ("QE", "1 quarter"), ("Y", "1 year")]
)
def test_months_and_longer_are_refused_by_name(tmp_path: Path, freq: str, called: str) -> None:
    with pytest.raises(FleetDataError, match=f"one step is {called}; .*`tsfm-pipeline benchmark`"):
        opened(tmp_path, [item("a", [1.0, 2.0], freq=freq)])


def test_a_grid_that_items_hardly_fill_is_refused(tmp_path: Path) -> None:
    later = START + timedelta(days=400)
    with pytest.raises(FleetDataError, match=r"of which items fill 0\.\d+%; allowed: at least 1%"):
        opened(tmp_path, [item("a", [1.0, 2.0]), item("b", [3.0], start=later)])


def test_the_fingerprint_follows_values_and_fields_and_not_the_place(tmp_path: Path) -> None:
    rows = [item("a", [1.0, 2.0])]
    save(tmp_path / "d", rows)
    save(tmp_path / "elsewhere", rows)
    save(tmp_path / "other", [item("a", [1.0, 3.0])])

    def fingerprint(**fields: object) -> str:
        return fleet_fingerprint(spec(**fields), fleets_dir=tmp_path)

    assert fingerprint() == open_fleet(spec(), fleets_dir=tmp_path).fingerprint()
    assert fingerprint() == fingerprint(path=str(tmp_path / "elsewhere"), title="Other")
    assert len({fingerprint(), fingerprint(path="other"), fingerprint(seasons=[2])}) == 3


def test_a_changed_file_is_seen_without_reading_it(tmp_path: Path) -> None:
    save(tmp_path / "d", [item("a", [1.0, 2.0])])
    first, _ = look_again(spec(), tmp_path, None, None)
    with (tmp_path / "d" / "data-00000-of-00001.arrow").open("ab") as file:
        file.write(b"\0")
    second, state = look_again(spec(), tmp_path, first, None)
    assert second.stamp != first.stamp
    assert state == "being written"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"variates": "columns"}, "variates"),
        ({"metrics": ["a", "b"]}, "several metrics need 'variates: metrics'"),
        ({"metrics": ["a", "a"], "variates": "metrics"}, "each be given once"),
        ({"metrics": ["timestamp"]}, "'timestamp' cannot be the name of a metric"),
        ({"metrics": []}, "metrics"),
        ({"bounds": {"cpu": {"lower": 0}}}, "the metrics are target"),
    ],
)
def test_a_spec_with_a_wrong_field_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec(**fields)


def test_the_description_is_a_fleet_that_passes_its_own_check(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    hours = np.arange(24 * 30)
    rows = [
        item(name, (5 + np.sin(hours * 2 * np.pi / 24) + rng.random(hours.size)).tolist())
        for name in "abcdef"
    ]
    save(tmp_path / "d", rows)
    found = describe(tmp_path / "d", name="mine", fleets_dir=tmp_path)
    text = description_yaml(found, "tsfm-pipeline fleet init d")
    read = parse_spec(text, tmp_path / "mine.yaml")
    assert isinstance(read, SavedDatasetFleet)
    assert read.path == "${TSFM_FLEETS_DIR}/d"
    assert (read.horizon, read.max_gap, read.seasons, read.lower) == (12, 6, (24, 168), 0.0)
    assert (read.variates, read.metrics) == ("tenants", ("target",))
    checked = check_fleet(read, fleets_dir=tmp_path)
    assert checked.worst in (None, "note"), checked.findings


def test_named_variates_are_described_as_metrics_with_bounds_of_their_own(tmp_path: Path) -> None:
    rows = [item("a", [[1.0, 2.0] * 30, [-1.0, 2.0] * 30], labels=["cpu", "drift"])]
    save(tmp_path / "d", rows)
    fields = describe(tmp_path / "d", name="mine", fleets_dir=tmp_path).fields
    assert (fields["variates"], fields["metrics"]) == ("metrics", ["cpu", "drift"])
    assert fields["bounds"] == {"cpu": {"lower": 0}}
