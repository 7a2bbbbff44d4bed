"""Measure checkpoints on rows of days: daily means of ETT, and the S&P 500 and the NASDAQ.

`python benchmarks/daily_rows.py [CHECKPOINT ...]` prints one JSON object: for each checkpoint (a
name or a folder; `bundled` by default) the MASE of the median and of the last value over 30 days,
at context 512, in the last window of each of 16 series, in the last six, and in each of the six
from old to new. Errors are scaled by the mean absolute change before the window.
TSFM_BENCHMARKS_DIR names the folder of ETTh1.csv and ETTh2.csv; the indices come with the package
`arch`.

What belongs here: this measurement. What does not: the yardsticks of a release
(`tsfm_pipeline.pretraining.yardsticks`).
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import arch.data.nasdaq
import arch.data.sp500
import numpy as np
import polars as pl
from measuring import ran_on
from numpy.typing import NDArray

from tsfm_pipeline.forecaster import ForecastConfig, Panel, load_forecaster

DAYS, CONTEXT, WINDOWS = 30, 512, 6
WEEK = 7
MEDIAN = 5
"""Column of the median among mean and deciles."""


def daily(folder: Path) -> NDArray[np.float32]:
    """Return the series, float32 [16, T]: the columns of ETTh1 and ETTh2 as means of days, and the
    last T closes of the indices.
    """
    ett = [
        pl.read_csv(folder / f"{name}.csv", try_parse_dates=True)
        .sort("date")
        .group_by_dynamic("date", every="1d")
        .agg(pl.exclude("date").mean())
        .drop("date")
        .to_numpy()
        .T
        for name in ("ETTh1", "ETTh2")
    ]
    rows = np.concatenate(ett)
    closes = [
        index.load()["Adj Close"].dropna().to_numpy()[-rows.shape[1] :]
        for index in (arch.data.sp500, arch.data.nasdaq)
    ]
    return np.concatenate([rows, closes]).astype(np.float32)


def mase(values: NDArray[np.float32], checkpoint: str) -> dict[str, dict[str, Any]]:
    """Return the MASE of a checkpoint and of the last value in the last window of series [S, T], in
    the last `WINDOWS`, and in each of them.
    """
    origins = values.shape[1] - 1 - DAYS * np.arange(WINDOWS, 0, -1)
    grid = load_forecaster(checkpoint).forecast_grid(
        Panel(values, seasons=(WEEK,), lower=None, upper=None),
        origins,
        [ForecastConfig(context_len=CONTEXT)],
        DAYS,
    )
    actual = np.stack([values[:, o + 1 : o + 1 + DAYS] for o in origins], axis=1)
    last = np.stack([np.repeat(values[:, [o]], DAYS, axis=1) for o in origins], axis=1)
    scale = np.stack([np.abs(np.diff(values[:, : o + 1])).mean(axis=1) for o in origins], axis=1)
    errors = {
        name: np.abs(actual - forecast).mean(axis=-1) / scale  # [S, O]
        for name, forecast in (("median", grid[:, :, 0, :, MEDIAN]), ("last_value", last))
    }
    windows = {name: e.mean(axis=0, dtype=np.float64) for name, e in errors.items()}
    return {
        f"last_{n}_windows": {name: round(float(w[-n:].mean()), 4) for name, w in windows.items()}
        for n in (1, WINDOWS)
    } | {"each_window": {name: w.round(4).tolist() for name, w in windows.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="*", default=["bundled"])
    values = daily(Path(os.environ["TSFM_BENCHMARKS_DIR"]))
    rows = {checkpoint: mase(values, checkpoint) for checkpoint in parser.parse_args().checkpoints}
    json.dump({"mase": rows, **ran_on()}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
