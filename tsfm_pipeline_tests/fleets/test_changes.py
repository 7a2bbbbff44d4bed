"""Test which changes of a fleet's source are detected, and when."""

import os
from pathlib import Path

import pytest

from tsfm_pipeline.fleets import FleetDataError, fleet_fingerprint
from tsfm_pipeline.fleets.changes import Look, State, look_again
from tsfm_pipeline.fleets.spec import AnyFleet, parse_spec

ROWS = "tenant_id,timestamp,cpu\n" + "".join(
    f"a,2024-01-{day:02d}T00:00:00Z,{day}\n" for day in range(1, 9)
)


def table(folder: Path, text: str = ROWS) -> AnyFleet:
    (folder / "shop.csv").write_text(text)
    return parse_spec(
        "kind: table\ntitle: Shop\nsource: a test\npath: ${TSFM_FLEETS_DIR}/shop.csv\n",
        folder / "shop.yaml",
    )


def looks(
    spec: AnyFleet, folder: Path, n: int, before: Look | None = None, made_from: str | None = None
) -> tuple[Look, list[State]]:
    """What n looks one after the other say; each remembers the one before."""
    states: list[State] = []
    for _ in range(n):
        before, state = look_again(spec, folder, before, made_from)
        states.append(state)
    assert before is not None
    return before, states


def test_a_table_that_lies_still_is_the_same_and_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = table(tmp_path)
    look, states = looks(spec, tmp_path, 2)
    assert states == ["same", "same"]

    def read(*_: object, **__: object) -> str:
        raise AssertionError("bytes are read again although nothing changed")

    monkeypatch.setattr("tsfm_pipeline.fleets.changes.fleet_fingerprint", read)
    assert looks(spec, tmp_path, 3, look) == (look, ["same"] * 3)


def test_a_changed_table_counts_once_it_lies_still(tmp_path: Path) -> None:
    look, _ = looks(table(tmp_path), tmp_path, 2)
    spec = table(tmp_path, ROWS + "b,2024-01-01T00:00:00Z,1\n")
    look, states = looks(spec, tmp_path, 1, look)
    assert states == ["being written"]
    spec = table(tmp_path, ROWS + "b,2024-01-01T00:00:00Z,1\nb,2024-01-02T00:00:00Z,1\n")
    look, states = looks(spec, tmp_path, 3, look)
    assert states == ["being written", "changed", "same"]
    assert look.fingerprint == fleet_fingerprint(spec, fleets_dir=tmp_path)


def test_a_touched_table_is_no_change(tmp_path: Path) -> None:
    spec = table(tmp_path)
    look, _ = looks(spec, tmp_path, 2)
    os.utime(tmp_path / "shop.csv", (1, 1))
    assert looks(spec, tmp_path, 3, look)[1] == ["being written", "same", "same"]


def test_a_fleet_that_is_new_to_the_looker_is_compared_with_its_telemetry(tmp_path: Path) -> None:
    spec = table(tmp_path)
    assert looks(spec, tmp_path, 2, made_from="another source")[1] == ["same", "changed"]
    assert looks(spec, tmp_path, 2, made_from=fleet_fingerprint(spec, fleets_dir=tmp_path))[1] == [
        "same",
        "same",
    ]


def test_a_change_that_someone_has_run_already_is_none(tmp_path: Path) -> None:
    look, _ = looks(table(tmp_path), tmp_path, 2)
    spec = table(tmp_path, ROWS + "b,2024-01-01T00:00:00Z,1\n")
    run_by_hand = fleet_fingerprint(spec, fleets_dir=tmp_path)
    assert looks(spec, tmp_path, 2, look, made_from=run_by_hand)[1] == ["being written", "same"]


def test_a_field_of_the_spec_that_changes_values_is_a_change(tmp_path: Path) -> None:
    spec = table(tmp_path)
    look, _ = looks(spec, tmp_path, 2)
    assert looks(spec.model_copy(update={"title": "Another"}), tmp_path, 2, look)[1] == [
        "being written",
        "same",
    ]
    assert looks(spec.model_copy(update={"upper": 9.0}), tmp_path, 2, look)[1] == [
        "being written",
        "changed",
    ]


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    spec = table(tmp_path)
    (tmp_path / "shop.csv").unlink()
    with pytest.raises(FleetDataError, match=r"fleet 'shop': no table at .*shop\.csv"):
        look_again(spec, tmp_path, None, None)
