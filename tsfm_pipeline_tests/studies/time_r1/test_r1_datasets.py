"""Test what the file of data sets may say, and that missing sets are named.

What belongs here: specs, splits of rows, and finding sets. What does not: values (`test_r1_sources`).
"""

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsfm_pipeline.distribution import packaged
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.time_r1.datasets import (
    DATASETS_FILE,
    Borders,
    DataSetError,
    MissingDataSetError,
    Split,
    TableSet,
    benchmarks_dir,
    chosen,
    data_sets,
    duration,
    missing,
    read_data_sets,
    step_text,
)
from tsfm_pipeline.studies.time_r1.sources import read
from tsfm_pipeline_tests.studies.time_r1.real_sets import hourly_table

SHIPPED = packaged(f"data/{DATASETS_FILE}")
NINE = ("ETTh1", "ETTh2", "ETTm1", "ETTm2", "Exchange", "AQWan", "AQShunyi", "Wind", "NASDAQ")
FIELDS = """
mine:
  kind: table
  title: Mine
  path: mine.csv
  url: https://example.org/mine.csv
  sha256: null
  licence: none stated
  time_format: "%Y-%m-%d %H:%M:%S"
  step: 1 hour
  season: 24
  horizon: 4
  look_back: 8
  split: {shares: [0.7, 0.1, 0.2]}
  channels: {load: the load, oil: the oil}
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a machine that has no data at all."""
    monkeypatch.delenv("TSFM_BENCHMARKS_DIR", raising=False)
    return Settings(data_dir=tmp_path, fleets_dir=tmp_path)


def written(folder: Path, text: str) -> Path:
    path = folder / "sets.yaml"
    path.write_text(text)
    return path


def test_the_shipped_file_names_the_nine_sets_the_fleets_and_the_corpus() -> None:
    sets = read_data_sets(SHIPPED)
    assert tuple(name for name, spec in sets.items() if spec.kind == "table") == NINE
    assert {name for name, spec in sets.items() if spec.kind == "fleet"} == {"demo", "smd"}
    assert sets["corpus"].kind == "corpus"
    for spec in sets.values():
        assert spec.licence, spec.name
    assert {name for name, spec in sets.items() if not spec.pinned} == {"ETTm1", "ETTm2"}
    assert (sets["NASDAQ"].look_back, sets["NASDAQ"].horizon) == (36, 36)
    assert sets["ETTh1"].meaning_of("OT") == "oil temperature of a transformer"
    assert sets["smd"].meaning_of("machine-1-1/cpu_r") == "cpu_r"


def test_every_set_that_is_missing_is_named_with_what_to_do(settings: Settings) -> None:
    sets = data_sets(settings)
    todo = missing(sets.values(), settings)
    assert set(todo) == {*NINE, "demo", "smd"}
    for name in NINE:
        spec = sets[name]
        assert isinstance(spec, TableSet)
        assert str(settings.data_dir / "benchmarks" / spec.path) in todo[name]
        assert spec.url in todo[name]
        assert "TSFM_BENCHMARKS_DIR" in todo[name]
    assert "tsfm-pipeline run demo" in todo["demo"]
    with pytest.raises(
        MissingDataSetError, match=r"data set 'Wind': no file .*wind\.csv; download"
    ):
        read(sets["Wind"], settings)


def test_a_set_of_ones_own_is_added_and_used_as_soon_as_its_file_is_there(
    settings: Settings,
) -> None:
    own = settings.data_dir / DATASETS_FILE
    own.parent.mkdir(parents=True)
    own.write_text(FIELDS)
    sets = data_sets(settings)
    assert list(sets)[-1] == "mine"
    assert "mine" in missing(sets.values(), settings)
    (settings.data_dir / "benchmarks").mkdir()
    hourly_table().write_csv(settings.data_dir / "benchmarks" / "mine.csv")
    assert "mine" not in missing(sets.values(), settings)
    assert read(sets["mine"], settings).values.shape == (60, 2)


def test_the_folder_of_benchmarks_is_the_one_that_the_variable_names(settings: Settings) -> None:
    assert benchmarks_dir(settings, {"TSFM_BENCHMARKS_DIR": "/somewhere"}) == Path("/somewhere")
    assert benchmarks_dir(settings, {}) == settings.data_dir / "benchmarks"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: table", "kind: tabel", r"mine: field 'kind': .*allowed: table, fleet, corpus"),
        ("  title: Mine\n", "", r"mine\.title: .*allowed: a short title"),
        ("season: 24", "saison: 24", r"mine\.saison: unknown field; allowed: .*season"),
        ("sha256: null", "sha256: abc", r"mine\.sha256: .*'abc'.*allowed: 64 hex digits, or null"),
        ("step: 1 hour", "step: hourly", r"mine: step is 'hourly'; allowed: a number of seconds"),
        ("[0.7, 0.1, 0.2]", "[0.7, 0.1, 0.1]", r"mine\.split: shares are .*with the sum 1"),
        ("{shares: [0.7, 0.1, 0.2]}", "{}", r"mine\.split: allowed: either 'rows' or 'shares'"),
        ("{shares: [0.7, 0.1, 0.2]}", "{rows: [9, 9, 12]}", r"mine\.split: rows are .*ascending"),
        ("load: the load", "date: the load", r"'date' cannot be both the time and a channel"),
        ("path: mine.csv", "path: mine.xls", r"mine\.path: .*a \.csv or \.parquet file"),
        ("mine:\n", "mine:\n  name: yours\n", r"mine: leave the field 'name' out"),
        ("mine:", "my set:", r"my set\.name: allowed: letters, digits"),
        ("\n  kind: table", " [", r"not readable: "),
    ],
)
def test_a_wrong_field_is_named_with_what_is_allowed(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in FIELDS
    with pytest.raises(DataSetError, match=message) as refused:
        read_data_sets(written(tmp_path, FIELDS.replace(old, new)))
    assert "sets.yaml" in str(refused.value)


def test_a_list_is_no_file_of_data_sets(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match="a mapping from names"):
        read_data_sets(written(tmp_path, "- ETTh1"))


def test_unknown_names_are_refused_with_those_that_there_are(tmp_path: Path) -> None:
    sets = read_data_sets(written(tmp_path, FIELDS))
    assert [spec.name for spec in chosen(sets, ["mine"])] == ["mine"]
    with pytest.raises(DataSetError, match=r"no data set 'ETTh9'; there are: mine"):
        chosen(sets, ["mine", "ETTh9"])


def test_shares_split_the_published_sets_as_time_r1_does() -> None:
    shares = Split(shares=(0.7, 0.1, 0.2))
    assert shares.borders(7588) == Borders(5311, 6071, 7588)  # exchange: int(.7 n), n - int(.2 n)
    assert shares.borders(10) == Borders(7, 8, 10)
    assert Split(rows=(8640, 11520, 14400)).borders(17420) == Borders(8640, 11520, 14400)


@pytest.mark.parametrize("split", [Split(rows=(5, 6, 7)), Split(shares=(0.7, 0.1, 0.2))])
def test_a_series_that_is_too_short_for_its_split_is_refused(split: Split) -> None:
    with pytest.raises(ValueError, match="3 rows are too few"):
        split.borders(3)


@given(st.integers(1, 100_000))
def test_a_step_is_read_as_it_is_written(seconds: int) -> None:
    assert duration(step_text(seconds / 60)) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("minutes", "text"), [(1, "1 minute"), (60, "1 hour"), (0.5, "30 seconds")]
)
def test_steps_are_written_as_people_say_them(minutes: float, text: str) -> None:
    assert step_text(minutes) == text
