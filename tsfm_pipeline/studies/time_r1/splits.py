"""Windows of a series: which rows belong to which part, and which of them are asked for.

What belongs here: cutting windows out of one part, the two sets of test windows on which figures
are reported, batches for training, and the scale of MASE. What does not: reading (`sources`), and
the arrays' own rules (`windows`).

No window has a target after its part, so nothing that is learned or chosen on training and
validation windows has seen a later target. Inputs may reach back before their part.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tsfm_pipeline.evaluation.losses import series_scale
from tsfm_pipeline.studies.time_r1.sources import Series
from tsfm_pipeline.studies.time_r1.windows import Floats, Ints, Windows

Part = Literal["train", "validation", "test"]
PAPER_WINDOWS = 10
"""Test windows of each channel in Time-R1."""
OWN_WINDOWS, OWN_LOOK_BACK, OWN_STRIDE = 29, 96, 96
"""The first targets of our own test windows are rows 11,520 + 96 i of ETTh1, i from 0 to 28."""


def part_rows(series: Series, part: Part) -> tuple[int, int]:
    """Return the first row of a part and the row after its last."""
    borders = series.borders
    return {
        "train": (0, borders.train),
        "validation": (borders.train, borders.validation),
        "test": (borders.validation, borders.test),
    }[part]


def first_targets(
    series: Series,
    part: Part,
    look_back: int,
    horizon: int,
    stride: int | None = None,
    count: int | None = None,
) -> Ints:
    """Return the rows of the first targets of a part, int64 [K].

    They begin with the part (in training, after the first look-back) and are `stride` apart
    (default: the horizon, so that no target occurs twice), as long as all targets lie in the part;
    at most `count`. Raises ValueError if there is none.
    """
    begin, end = part_rows(series, part)
    firsts = np.arange(max(begin, look_back), end - horizon + 1, stride or horizon)[:count]
    if not len(firsts):
        raise ValueError(
            f"{series.data_set}: the {part} rows {begin} to {end - 1} hold no window of "
            f"{look_back} + {horizon} steps"
        )
    return firsts.astype(np.int64)


def windows_of(
    series: Series,
    part: Part,
    look_back: int,
    horizon: int,
    *,
    past: int | None = None,
    stride: int | None = None,
    count: int | None = None,
    most: int | None = None,
    seed: int = 0,
) -> Windows:
    """Return the windows of a part: all `first_targets` of the first channel, then of the next.

    past: known values per window, at least the look-back (the default); a backtest needs the
    look-back plus the horizon, and NaN fills what lies before the series. count: of first targets.
    most: of windows; where there are more, so many are drawn without replacement from `seed`, and
    their order is kept. Windows with an unobserved value in the look-back or among the targets are
    left out before that, and counted in `Windows.left_out`; a part without any other is refused
    with a ValueError.
    """
    firsts = first_targets(series, part, look_back, horizon, stride, count)
    unknown = np.isnan(series.values).cumsum(axis=0, dtype=np.int64)
    unknown = np.concatenate([np.zeros_like(unknown[:1]), unknown])  # [T + 1, C]
    complete = unknown[firsts + horizon] == unknown[firsts - look_back]  # [K, C]
    channel, position = np.nonzero(complete.T)
    if not len(channel):
        raise ValueError(
            f"{series.data_set}: every {part} window of {look_back} + {horizon} steps has "
            "unobserved values"
        )
    if most is not None and most < len(channel):
        drawn = np.random.default_rng(seed).choice(len(channel), most, replace=False)
        channel, position = channel[np.sort(drawn)], position[np.sort(drawn)]
    windows = _cut(series, channel, firsts[position], look_back, horizon, past or look_back)
    return replace(windows, left_out=int((~complete).sum()))


def paper_windows(
    series: Series, look_back: int, horizon: int, *, past: int | None = None
) -> Windows:
    """Return the test windows of Time-R1 (its `eval/dataLoader.py`): for each channel the first ten
    look-backs that follow one another from one look-back before the test part on (NASDAQ: one step
    apart), each with the targets after it.

    With a horizon above the look-back, targets of neighbouring windows overlap. Values keep their
    units.
    """
    stride = series.paper_stride or look_back
    return windows_of(
        series, "test", look_back, horizon, past=past, stride=stride, count=PAPER_WINDOWS
    )


def own_windows(series: Series, horizon: int = 24, *, past: int | None = None) -> Windows:
    """Return our own test windows: a look-back of 96, and for each channel the first 29 origins
    that are 96 steps apart from the begin of the test part on.

    On ETTh1 and ETTh2 these are 29 x 7 = 203 windows with first targets in rows 11,520 + 96 i;
    training ends before row 8,640 and validation before row 11,520. Since 96 steps are four days,
    every first target is the hour of midnight, as in the paper's windows.
    """
    return windows_of(
        series, "test", OWN_LOOK_BACK, horizon, past=past, stride=OWN_STRIDE, count=OWN_WINDOWS
    )


def seasonal_scales(series: Series) -> Floats:
    """Return the mean absolute seasonal difference of each channel on the training rows, float64
    [C]: what MASE divides by. NaN for a channel that does not change.
    """
    return series_scale(series.values.T, series.borders.train, series.season, floor=0.0)


def scales_of(series: Series, windows: Windows) -> Floats:
    """Return the scale of each window's channel, float64 [N]."""
    scales = dict(zip(series.channels, seasonal_scales(series), strict=True))
    return np.array([scales[channel] for channel in windows.channels])


@dataclass(frozen=True)
class WindowBatches:
    """Batches of windows of each part, in order of time where order matters: for a trainer that
    reads windows. The study's own reads tokens of stored samples (`sequences`).

    batch: windows per batch; the last of a part may be smaller. past, stride: as in `windows_of`.
    seed: of the order of the training windows, another one in every epoch.
    """

    series: Series
    look_back: int
    horizon: int
    batch: int
    past: int | None = None
    stride: int | None = None
    seed: int = 0

    def train(self, epoch: int = 0) -> Iterator[Windows]:
        """Yield each training window once, in a random order that (seed, epoch) decides."""
        windows = self._part("train")
        order = np.random.default_rng((self.seed, epoch)).permutation(len(windows))
        yield from self._batches(windows, order)

    def validation(self) -> Iterator[Windows]:
        """Yield each validation window once."""
        windows = self._part("validation")
        yield from self._batches(windows, np.arange(len(windows)))

    def test(self) -> Iterator[Windows]:
        """Yield each test window once."""
        windows = self._part("test")
        yield from self._batches(windows, np.arange(len(windows)))

    def _part(self, part: Part) -> Windows:
        return windows_of(
            self.series, part, self.look_back, self.horizon, past=self.past, stride=self.stride
        )

    def _batches(self, windows: Windows, order: Ints) -> Iterator[Windows]:
        for begin in range(0, len(order), self.batch):
            yield windows.at(order[begin : begin + self.batch])


def _cut(
    series: Series, channel: Ints, firsts: Ints, look_back: int, horizon: int, past: int
) -> Windows:
    """Return windows of channels [N] with first targets [N]."""
    before = firsts[:, None] + np.arange(-past, 0)
    known = series.values[np.maximum(before, 0), channel[:, None]]
    times = None
    if series.times is not None:
        step = series.times[1] - series.times[0]
        times = series.times[0] + before * step
    return Windows(
        data_set=series.data_set,
        step=series.step,
        season=series.season,
        channels=tuple(series.channels[number] for number in channel),
        origins=firsts - 1,
        past=np.where(before >= 0, known, np.nan),
        truth=series.values[firsts[:, None] + np.arange(horizon), channel[:, None]],
        look_back=look_back,
        times=times,
    )
