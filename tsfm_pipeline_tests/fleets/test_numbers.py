"""Test the reading of cells: words for missing values, separators, units, and numbers that mean no
value.

What belongs here: cells of metrics. What does not: times (`fleets.test_table`), which columns are
metrics (`fleets.test_roles`).
"""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsfm_pipeline.fleets import FleetDataError, load_spec
from tsfm_pipeline.fleets.numbers import MISSING_WORDS, UNITS
from tsfm_pipeline_tests.fleets.tables import N_HOURS, edited, opened, opened_csv, table

pytestmark = pytest.mark.heavy

WORDS = (
    *("null", "NULL", "nan", "NaN", "N/A", "n/a", "NA", "-", "\\N", "None", "undefined", "#N/A"),
    *("", " ", "<NA>", "NaT", "nil", "\u2013"),
)
ODD_CELLS = (
    *("1,234.5", "4,31", "1.234,5", "915 MiB", "45%", "12ms", "1_000", "0x1F", "12 34", "--5"),
    *("inf", "-inf", "1e39", "error", "TRUE", "2024-01-01", "9223372036854771712", "1/2", "#REF!"),
)
METRICS = ("cpu", "mem")


def text_table() -> pl.DataFrame:
    return table().with_columns(pl.col(METRICS).cast(pl.String))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    return opened_csv(tmp_path_factory.mktemp("clean"), text_table()).values([0, 1])


@given(
    cell=st.sampled_from((*WORDS, *ODD_CELLS)),
    row=st.integers(1, 2 * N_HOURS),
    metric=st.integers(0, 1),
    listed=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_one_spoilt_cell_is_missing_or_named_and_changes_nothing_else(
    tmp_path_factory, clean, cell: str, row: int, metric: int, listed: bool
) -> None:
    frame = edited(text_table(), row, METRICS[metric], cell)
    folder = tmp_path_factory.mktemp("spoilt")
    fields = {"metrics": METRICS} if listed else {}
    if cell not in WORDS:
        with pytest.raises(FleetDataError) as error:
            opened_csv(folder, frame, **fields)
        for part in (f"column {METRICS[metric]!r}", f"row {row} (tenant", "allowed: "):
            assert part in str(error.value)
        return
    found = opened_csv(folder, frame, **fields)
    expected = clean.copy()
    expected[(row - 1) // N_HOURS, metric, (row - 1) % N_HOURS] = np.nan
    assert found.metrics == METRICS
    np.testing.assert_array_equal(found.values([0, 1]), expected)


def test_words_for_missing_are_counted_by_column_and_word(tmp_path: Path) -> None:
    frame = text_table()
    for row, word in ((3, "null"), (9, "null"), (70, "N/A")):
        frame = edited(frame, row, "mem", word)
    notes = opened_csv(tmp_path, frame).notes
    assert "column 'mem': 3 cells are read as missing: 'null' (2), 'N/A' (1)" in notes
    assert not any("cpu" in note for note in notes)


def test_words_for_missing_are_words_in_lower_case_and_no_numbers() -> None:
    assert {word.strip().lower() for word in MISSING_WORDS} == MISSING_WORDS
    for word in MISSING_WORDS - {"nan", "+nan", "-nan"}:
        with pytest.raises(ValueError, match="could not convert"):
            float(word)


@pytest.mark.parametrize("read", [opened, opened_csv])
def test_further_words_and_numbers_for_missing_are_those_of_the_fleet_file(
    tmp_path: Path, read
) -> None:
    frame = edited(edited(table(), 5, "cpu", -999.9), 70, "cpu", -1.0)
    source = read(tmp_path, frame, missing=[-999.9, "-1"])
    assert np.argwhere(np.isnan(source.values([0, 1]))).tolist() == [[0, 0, 4], [1, 0, 9]]
    assert any("'cpu': 2 cells are read as missing" in note for note in source.notes)
    assert not np.isnan(read(tmp_path, frame).values([0, 1])).any()


def test_a_further_word_for_missing_is_read_in_any_case(tmp_path: Path) -> None:
    frame = edited(text_table(), 7, "mem", " Offline ")
    with pytest.raises(FleetDataError, match=r"set 'missing: \['Offline'\]'"):
        opened_csv(tmp_path, frame)
    source = opened_csv(tmp_path, frame, missing=["offline"])
    assert np.argwhere(np.isnan(source.values([0]))).tolist() == [[0, 1, 6]]


NO_LIMITS = [(2**63 - 1, pl.Int64), (2**63 - 4096, pl.Int64), (2**64 - 1, pl.UInt64)]


@pytest.mark.parametrize(("cell", "dtype"), NO_LIMITS)
@pytest.mark.parametrize("read", [opened, opened_csv])
def test_the_end_of_64_bit_integers_is_no_load(tmp_path: Path, read, cell: int, dtype) -> None:
    frame = edited(table().with_columns(pl.col("mem").cast(dtype)), 7, "mem", cell)
    with pytest.raises(FleetDataError, match=r"'mem': 1 values at an end of the 64-bit integers"):
        read(tmp_path, frame)
    source = read(tmp_path, frame, missing=[cell])
    assert np.argwhere(np.isnan(source.values([0]))).tolist() == [[0, 1, 6]]


DECIMAL_COMMAS = {"4,31": 4.31, "1.234,5": 1234.5, "-0,5": -0.5, "7": 7, "1.234": 1234}


def test_decimal_commas_are_read_where_the_fleet_file_says_so(tmp_path: Path) -> None:
    frame = text_table()
    for row, cell in enumerate(DECIMAL_COMMAS, 1):
        frame = edited(frame, row, "cpu", cell)
    frame = frame.with_columns(pl.col("mem").str.replace(".", ",", literal=True))
    frame = frame.with_columns(
        pl.when(pl.int_range(pl.len()) < len(DECIMAL_COMMAS))
        .then("cpu")
        .otherwise(pl.col("cpu").str.replace(".", ",", literal=True))
    )
    source = opened_csv(tmp_path, frame, decimal="comma")
    found = source.values([0, 1])
    np.testing.assert_allclose(found[0, 0, : len(DECIMAL_COMMAS)], list(DECIMAL_COMMAS.values()))
    assert (found[:, 1] == 0.5).all()
    with pytest.raises(FleetDataError, match=r"'mem': 1 values that are not numbers: row 9 .*4.31"):
        opened_csv(tmp_path, edited(frame, 9, "mem", "4.31"), decimal="comma")


UNIT_CELLS = {
    "915 MiB": 915 * 2**20,
    "1.5GB": 1.5e9,
    "1,234.5 kB": 1_234_500,
    "0": 0,
    "3 B": 3,
    "-": np.nan,
}


def test_units_are_read_in_bytes_where_the_fleet_file_says_so(tmp_path: Path) -> None:
    frame = text_table().with_columns(pl.lit("2 KiB").alias("mem"))
    for row, cell in enumerate(UNIT_CELLS, 1):
        frame = edited(frame, row, "mem", cell)
    with pytest.raises(FleetDataError, match=r"set 'units: parse'"):
        opened_csv(tmp_path, frame, metrics=METRICS)
    found = opened_csv(tmp_path, frame, units="parse").values([0])[0]
    np.testing.assert_allclose(found[1, : len(UNIT_CELLS)], list(UNIT_CELLS.values()))
    assert (found[1, len(UNIT_CELLS) :] == 2048).all()
    np.testing.assert_array_equal(found[0], np.arange(N_HOURS))


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("45%", 0.45),
        ("12ms", 0.012),
        ("2 min", 120),
        ("500m", 0.5),
        ("2Gi", 2**31),
        ("3k", 3000),
        ("8 Mbit/s", 8e6),
        ("10 MiB/s", 10 * 2**20),
    ],
)
def test_a_unit_has_one_meaning(tmp_path: Path, cell: str, expected: float) -> None:
    frame = text_table().with_columns(pl.lit(cell).alias("mem"))
    found = opened_csv(tmp_path, frame, units="parse").values([0])[0, 1]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("other", ["915", "915 ms", "915%"])
def test_units_of_another_kind_in_one_column_are_refused_with_their_row(
    tmp_path: Path, other: str
) -> None:
    frame = edited(text_table().with_columns(pl.lit("2 KiB").alias("mem")), 61, "mem", other)
    with pytest.raises(
        FleetDataError, match=r"measure something else than the rest: bytes \(119 rows\).*row 61"
    ):
        opened_csv(tmp_path, frame, units="parse")


def test_an_unknown_unit_is_refused(tmp_path: Path) -> None:
    frame = edited(text_table(), 4, "mem", "3 parsecs")
    with pytest.raises(FleetDataError, match=r"not numbers: row 4 .*'3 parsecs'"):
        opened_csv(tmp_path, frame, units="parse", metrics=METRICS)
    assert "parsecs" not in UNITS


def test_a_column_of_nine_tenths_numbers_is_a_metric_and_its_words_are_refused(
    tmp_path: Path,
) -> None:
    here = pl.int_range(pl.len())
    for share, is_metric in ((10, True), (9, False)):
        odd = pl.when(here % share == 0).then(pl.lit("broken")).otherwise("mem").alias("mem")
        frame = text_table().with_columns(odd)
        if is_metric:
            with pytest.raises(FleetDataError, match="'mem': 12 values that are not numbers"):
                opened_csv(tmp_path, frame)
        else:
            source = opened_csv(tmp_path, frame)
            assert source.metrics == ("cpu",)
            (left,) = source.columns_left_out
            assert (left.column, left.cell) == ("mem", "broken")
            assert "106 of its 120 cells are numbers" in left.reason
            assert "row 1 is not a number" in left.reason
            assert any("'mem' (like 'broken')" in note for note in source.notes)


def test_a_word_beyond_the_first_ten_thousand_rows_counts_like_any_other(tmp_path: Path) -> None:
    frame = table(("a",), n_hours=12_000).with_columns(pl.col(METRICS).cast(pl.String))
    frame = edited(frame, 11_000, "mem", "null")
    source = opened_csv(tmp_path, frame)
    assert source.metrics == METRICS
    assert np.flatnonzero(np.isnan(source.values([0])[0, 1])).tolist() == [10_999]


def test_fields_of_cells_and_rows_leave_fleets_without_them_their_fingerprint(
    tmp_path: Path,
) -> None:
    plain = opened(tmp_path, table()).fingerprint()
    unused = {"missing": [], "decimal": "point", "units": "refuse", "aggregate": None}
    assert opened(tmp_path, table(), **unused, one_tenant=None).fingerprint() == plain
    for used in ({"missing": [-1]}, {"decimal": "comma"}, {"units": "parse"}, {"aggregate": "sum"}):
        assert opened(tmp_path, table(), **used).fingerprint() != plain


def test_a_fleet_that_was_read_without_a_spoilt_column_is_read_again(tmp_path: Path) -> None:
    """Earlier releases left the column out; its tables must not pass for those of today."""
    clean = opened_csv(tmp_path, text_table())
    listed = opened_csv(tmp_path, text_table(), metrics=METRICS)
    assert clean.fingerprint() != listed.fingerprint()
    frame = edited(text_table(), 4, "mem", "null")
    spoilt = opened_csv(tmp_path, frame)
    assert spoilt.fingerprint() == opened_csv(tmp_path, frame, metrics=METRICS).fingerprint()


@pytest.mark.parametrize(
    "line",
    ["units: maybe", "decimal: ','", "missing: [.inf]", "aggregate: median", "missing: [true]"],
)
def test_other_ways_of_reading_are_refused_by_name(tmp_path: Path, line: str) -> None:
    text = f"kind: table\ntitle: T\npath: t.csv\nsource: s\n{line}\n"
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"field '{line.split(':')[0]}"):
        load_spec(tmp_path / "t.yaml")
