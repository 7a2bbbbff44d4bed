"""Real and made-up data sets for tests of the study.

What belongs here: finding ETT where it lies, and small series that tests cut windows from. What
does not: what is expected of them.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.pretraining.sources import BENCHMARKS_VARIABLE
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.time_r1.datasets import Borders, TableSet, data_sets
from tsfm_pipeline.studies.time_r1.sources import Series, read

BESIDE_THE_CHECKOUT = Path(__file__).resolve().parents[4] / "shared" / "benchmarks"


def ett(name: str) -> Series:
    """ETTh1 or ETTh2, read in place; skips the test where it is absent."""
    folder = Path(os.environ.get(BENCHMARKS_VARIABLE, BESIDE_THE_CHECKOUT))
    if not (folder / f"{name}.csv").is_file():
        pytest.skip(f"needs {name}.csv in the folder that {BENCHMARKS_VARIABLE} names")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(BENCHMARKS_VARIABLE, str(folder))
        settings = Settings()
        return read(data_sets(settings)[name], settings)


def made_up(
    values: np.ndarray, borders: tuple[int, int, int], *, season: int = 4, clock: bool = True
) -> Series:
    """A series of values [T, C] with hourly times."""
    start = np.datetime64("2024-01-01T00:00:00", "s")
    hours = np.arange(len(values)) * np.timedelta64(3600, "s")
    return Series(
        data_set="made-up",
        step="1 hour",
        season=season,
        values=values.astype(np.float64),
        times=start + hours if clock else None,
        channels=tuple(f"c{number}" for number in range(values.shape[1])),
        borders=Borders(*borders),
        paper_stride=None,
        fingerprint="0" * 16,
    )


def hourly_table(n_rows: int = 60) -> pl.DataFrame:
    """Two channels, one row per hour, as text like that of ETT."""
    hours = np.datetime64("2024-01-01T00:00:00", "s") + np.arange(n_rows) * np.timedelta64(
        3600, "s"
    )
    rng = np.random.default_rng(1)
    return pl.DataFrame(
        {
            "date": [str(hour).replace("T", " ") for hour in hours],
            "load": rng.normal(size=n_rows),
            "oil": rng.normal(size=n_rows),
        }
    )


def table_set(path: Path, **fields: Any) -> TableSet:
    """The set of such a table."""
    return TableSet(
        **{
            "name": "mine",
            "kind": "table",
            "title": "Mine",
            "path": str(path),
            "url": "https://example.org/mine.csv",
            "sha256": None,
            "licence": "none stated",
            "time_format": "%Y-%m-%d %H:%M:%S",
            "step": "1 hour",
            "season": 24,
            "horizon": 4,
            "look_back": 8,
            "split": {"shares": [0.7, 0.1, 0.2]},
            "channels": {"load": "the load", "oil": "the oil's temperature"},
            **fields,
        }
    )
