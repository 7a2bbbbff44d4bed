"""Test tables that cannot be read: `init`, `check` and a run give a sentence, never a traceback and
never wrong numbers.

What belongs here: bytes and rows. What does not: values, times and columns that can be read and not
be used (`fleets`).
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tsfm_pipeline.fleets import FleetDataError, open_fleet
from tsfm_pipeline.fleets.columns import find_columns
from tsfm_pipeline.fleets.quality import check_fleet
from tsfm_pipeline_tests.cli.conftest import telemetry
from tsfm_pipeline_tests.fleets.tables import spec

TEXT = telemetry(2, 4).write_csv()


def rotten_pages(path: Path) -> str:
    """Damage on which polars panics, which is no `Exception`."""
    telemetry(2, 4).write_parquet(path.with_suffix(".parquet"))
    content = bytearray(path.with_suffix(".parquet").read_bytes())
    content[100:400] = bytes([1]) * 300
    path.with_suffix(".parquet").write_bytes(content)
    return "not readable"


def half_a_file(path: Path) -> str:
    rotten_pages(path)
    content = path.with_suffix(".parquet").read_bytes()
    path.with_suffix(".parquet").write_bytes(content[: len(content) // 2])
    return "must end with PAR1"


def another_encoding(path: Path) -> str:
    path.write_bytes(TEXT.replace("host-00", "höst").encode("latin-1"))
    return "utf-8"


def an_open_quote(path: Path) -> str:
    path.write_text(TEXT + '"host-09,2024-03-09T00:00:00')
    return "not readable"


def decimal_commas(path: Path) -> str:
    path.write_text(TEXT.replace(".", ","))
    return (
        "a row has more values than columns: quote text that has commas, and write decimals "
        "with a point"
    )


def one_long_row(path: Path) -> str:
    path.write_text(TEXT + "host-01,2024-03-09T00:00:00.000000+0000,1,5,2\n")
    return "a row has more values than columns"


FAULTS = (rotten_pages, half_a_file, another_encoding, an_open_quote, decimal_commas, one_long_row)


def test_the_first_row_with_too_many_values_is_shown(tmp_path: Path) -> None:
    one_long_row(tmp_path / "t.csv")
    number = TEXT.count("\n")  # the header's line makes up for the one that is added
    shown = rf"; row {number} \(row 1 .*\) has 5 values in 4 columns: 'host-01', '2024-03-09"
    with pytest.raises(FleetDataError, match=shown):
        find_columns([tmp_path / "t.csv"])
    with pytest.raises(FleetDataError, match=shown):
        open_fleet(spec("t.csv"), fleets_dir=tmp_path)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_read_is_said_in_a_sentence(
    tmp_path: Path, fault: Callable[[Path], str]
) -> None:
    words = fault(tmp_path / "t.csv")
    (path,) = tmp_path.iterdir()
    with pytest.raises(FleetDataError, match=words) as error:
        find_columns([path])
    assert str(path) in str(error.value)
    described = spec(
        path.name, metrics=["cpu"]
    )  # one column is not asked for: polars would read over what is wrong there
    with pytest.raises(FleetDataError, match=words):
        open_fleet(described, fleets_dir=tmp_path)
    assert any(words in reason for reason in check_fleet(described, fleets_dir=tmp_path).reasons)
