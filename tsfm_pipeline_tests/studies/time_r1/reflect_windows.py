"""Windows with a daily cycle for tests of drafts, findings, teachers and samples.

What belongs here: the windows, and ways to break them. What does not: what is expected of them.
"""

from dataclasses import replace

import numpy as np

from tsfm_pipeline.studies.time_r1.windows import Floats, Windows

SEASON, HORIZON, LOOK_BACK = 24, 24, 96
PAST = 672
"""Enough for a context of 512 and its backtest, and some more."""


def daily(n: int = 3, past: int = PAST, horizon: int = HORIZON, seed: int = 0) -> Windows:
    """Return n hourly windows of a daily cycle with noise, drift and a level of their own; the last
    known value is that of 23 h, and the channels have the names of tenants.
    """
    rng = np.random.default_rng(seed)
    hours = np.arange(past + horizon)
    level, size, drift = rng.normal(20, 5, (n, 1)), rng.uniform(1, 4, (n, 1)), rng.normal(size=n)
    values = level + size * np.sin(2 * np.pi * (hours - 8) / SEASON)
    values += drift[:, None] * hours / 200 + rng.normal(0, 0.8, values.shape)
    clock = np.datetime64("2024-01-01T00:00:00") + hours * np.timedelta64(1, "h")
    return Windows(
        data_set="fleet-of-acme",
        step="1 hour",
        season=SEASON,
        channels=tuple(f"tenant-{4700 + i}" for i in range(n)),
        origins=np.full(n, past - 1),
        past=values[:, :past],
        truth=values[:, past:],
        look_back=LOOK_BACK,
        times=np.tile(clock[:past], (n, 1)),
    )


def of(past: Floats, truth: Floats, season: int = SEASON, look_back: int | None = None) -> Windows:
    """Return windows without a clock that know these values [N, P] and get these [N, H]."""
    return Windows(
        data_set="by hand",
        step="1 hour",
        season=season,
        channels=tuple(f"c{i}" for i in range(len(past))),
        origins=np.full(len(past), past.shape[1] - 1),
        past=past,
        truth=truth,
        look_back=past.shape[1] if look_back is None else look_back,
    )


def with_other_truth(windows: Windows, seed: int = 1) -> Windows:
    """Return the windows with noise after the origin."""
    truth = np.random.default_rng(seed).normal(1e3, 1e2, windows.truth.shape)
    return replace(windows, truth=truth)
