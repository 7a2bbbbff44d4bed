"""Measure what the grid of number words costs, on data that nothing is reported on.

    python -m pytest -s tsfm_pipeline_tests/studies/time_r1/test_r1_number_grid.py

prints the mean and the root mean squared error in deviations for each bend.
"""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from tsfm_pipeline.pretraining.corpus3 import generate_block
from tsfm_pipeline.pretraining.sources import BENCHMARKS_VARIABLE
from tsfm_pipeline.studies.time_r1.codecs import BEND, LARGEST, NumberCodec, sinh_grid
from tsfm_pipeline.studies.time_r1.frames import frames_of
from tsfm_pipeline.studies.time_r1.vocabulary import N_NUMBERS
from tsfm_pipeline.studies.time_r1.windows import Floats
from tsfm_pipeline_tests.studies.time_r1.text_windows import hand_made

BESIDE_THE_CHECKOUT = Path(__file__).resolve().parents[4] / "shared" / "benchmarks"
LOOK_BACK, HORIZON, DAY = 96, 24, 24


def etth1() -> Floats:
    """The training rows [7, 8640], or a skip."""
    path = Path(os.environ.get(BENCHMARKS_VARIABLE, BESIDE_THE_CHECKOUT)) / "ETTh1.csv"
    if not path.is_file():
        pytest.skip(f"needs ETTh1.csv in the folder that {BENCHMARKS_VARIABLE} names")
    return pl.read_csv(path).head(8640).drop("date").to_numpy().T


def corpus() -> Floats:
    """Series of the synthetic corpus without missing points [S, 480]."""
    series = generate_block(1, 0, 400, torch.device("cpu"), 480).double().numpy()
    return series[~np.isnan(series).any(axis=1)]


def deviations(series: Floats) -> dict[str, Floats]:
    """What the policy writes, in deviations: look-backs and targets, and corrections of two simple
    drafts. Look-backs that are constant but for rounding are left out.
    """
    length = LOOK_BACK + HORIZON
    every = np.lib.stride_tricks.sliding_window_view(series, length, axis=1)[:, ::DAY]
    every = every.reshape(-1, length)
    past, truth = every[:, :LOOK_BACK], every[:, LOOK_BACK:]
    scaled = past.std(axis=1) > 1e-3 * np.abs(past).max(axis=1)
    windows = hand_made(past[scaled], truth[scaled])
    days = windows.history.reshape(len(windows), -1, DAY)
    frames = frames_of(windows)
    return {
        "values": np.hstack([frames.scaled(windows.history), frames.scaled(windows.truth)]),
        "corrections": np.hstack(
            [
                frames_of(windows, draft).correction(windows.truth)
                for draft in (days.mean(axis=1), days[:, -1])
            ]
        ),
    }


def rounded(values: Floats, bend: float) -> Floats:
    """The errors of rounding to a grid, of the values that lie within it."""
    grid = sinh_grid(N_NUMBERS, LARGEST, bend)
    within = values[np.abs(values) <= LARGEST]
    return grid[np.searchsorted((grid[1:] + grid[:-1]) / 2, within)] - within


@pytest.mark.heavy
@pytest.mark.parametrize("source", [etth1, corpus], ids=lambda source: source.__name__)
def test_no_other_bend_has_a_clearly_smaller_error_than_the_shipped_one(source):
    for name, values in deviations(source()).items():
        mean = {}
        for bend in (2.0, 2.5, 3.0, 3.5, BEND, 4.5, 5.0, 6.0):
            errors = rounded(values, bend)
            mean[bend] = np.abs(errors).mean()
            print(
                f"{source.__name__} {name} bend {bend}: mean {mean[bend]:.5f}, "
                f"RMS {np.sqrt((errors**2).mean()):.4f}"
            )
        print(f"{source.__name__} {name}: {(np.abs(values) > LARGEST).mean():.5f} are cut")
        assert mean[BEND] < 0.012
        assert mean[BEND] <= 1.04 * min(mean.values())


def test_the_codec_rounds_as_measured():
    values = np.random.default_rng(0).normal(0, 2, 1000)
    codec = NumberCodec()
    assert codec.values[codec.numbers(values)] - values == pytest.approx(rounded(values, BEND))


def test_no_look_back_of_96_values_is_cut():
    spike = np.zeros((1, LOOK_BACK))
    spike[0, 17] = 1
    largest = frames_of(hand_made(spike, spike[:, :HORIZON])).scaled(spike).max()
    assert largest == pytest.approx(np.sqrt(95))
    assert largest < LARGEST
