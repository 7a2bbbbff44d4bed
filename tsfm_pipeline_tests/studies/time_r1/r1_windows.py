"""Windows for tests: of ETTh1 before its test rows, and drawn ones."""

import os
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.studies.time_r1.windows import Floats, Windows

SHARED = Path(__file__).resolve().parents[4] / "shared"
FIRST_TEST_ROW = 11_520
DAY = 24


@cache
def _ett(path: Path) -> pl.DataFrame:
    return pl.read_csv(path, n_rows=FIRST_TEST_ROW).drop("date")


def ett_windows(n: int, horizon: int = DAY, look_back: int = 96, seed: int = 0) -> Windows:
    """Return windows of ETTh1 at random channels and rows before the test period; skip the test
    where the file is absent.
    """
    path = Path(os.environ.get("TSFM_BENCHMARKS_DIR", SHARED / "benchmarks")) / "ETTh1.csv"
    if not path.is_file():
        pytest.skip(f"{path} is absent; TSFM_BENCHMARKS_DIR names the folder of public benchmarks")
    frame = _ett(path)
    rng = np.random.default_rng(seed)
    data = frame.to_numpy().astype(np.float64)
    columns = rng.integers(data.shape[1], size=n)
    origins = rng.integers(look_back - 1, FIRST_TEST_ROW - horizon, size=n)
    steps = origins[:, None] + np.arange(1 - look_back, horizon + 1)
    values = data[steps, columns[:, None]]
    names = tuple(frame.columns[c] for c in columns)
    past, truth = values[:, :look_back], values[:, look_back:]
    return Windows("ETTh1", "1 hour", DAY, names, origins, past, truth, look_back)


def drawn_windows(n: int, horizon: int = 8, look_back: int = 32, seed: int = 0) -> Windows:
    """Return windows of noisy waves with a season of 8 steps."""
    rng = np.random.default_rng(seed)
    steps = np.arange(look_back + horizon)
    waves = np.sin(2 * np.pi * (steps / 8 + rng.random((n, 1))))
    values: Floats = 5 + 2 * waves + 0.2 * rng.normal(size=waves.shape)
    return Windows(
        "waves",
        "1 hour",
        8,
        ("wave",) * n,
        np.full(n, look_back - 1),
        values[:, :look_back],
        values[:, look_back:],
        look_back,
    )
