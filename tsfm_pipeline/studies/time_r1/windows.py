"""Windows: what one request of the study shows, and what came after it.

What belongs here: the arrays that every part of the study passes on. What does not: which rows
become windows (`sources`), and how they are written as text (`prompts`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Times = NDArray[np.datetime64]


@dataclass(frozen=True)
class Windows:
    """N windows of one data set, each of one channel.

    data_set, step: its name, and how far apart its rows are as people say it ("1 hour"). season:
    steps of its day, or whatever repeats first. channels: name of each window's channel [N].
    origins: row of the last known value [N]. past: float64 [N, P], known values up to the origin,
    NaN before the series begins; the last `look_back` of them are what a prompt shows. times: of
    `past` [N, P], or None where the data set has no clock. truth: float64 [N, H], the values after
    the origin; it is never part of a prompt, a draft or a finding. left_out: how many further ones
    were asked for and left out, because values in them were not observed (`splits.windows_of`).
    """

    data_set: str
    step: str
    season: int
    channels: tuple[str, ...]
    origins: Ints
    past: Floats
    truth: Floats
    look_back: int
    times: Times | None = None
    left_out: int = 0

    def __post_init__(self) -> None:
        n = len(self.past)
        if not (len(self.channels) == len(self.origins) == len(self.truth) == n):
            raise ValueError(
                f"{self.data_set}: {len(self.channels)} channels, {len(self.origins)} origins, "
                f"{len(self.truth)} truths for {n} windows; all must be equally many"
            )
        if self.past.shape[1] < self.look_back:
            raise ValueError(
                f"{self.data_set}: {self.past.shape[1]} past values are fewer than the look-back "
                f"of {self.look_back}"
            )

    def __len__(self) -> int:
        return len(self.past)

    @property
    def history(self) -> Floats:
        """The look-back [N, L]."""
        return self.past[:, -self.look_back :]

    @property
    def horizon(self) -> int:
        """H."""
        return self.truth.shape[1]

    def at(self, rows: Sequence[int] | Ints | slice) -> "Windows":
        """Return some of the windows."""
        index = np.arange(len(self))[rows]
        return replace(
            self,
            channels=tuple(self.channels[i] for i in index),
            origins=self.origins[index],
            past=self.past[index],
            truth=self.truth[index],
            times=None if self.times is None else self.times[index],
        )

    def earlier(self) -> "Windows":
        """Return the windows one horizon earlier, whose truth is the last H known values: what a
        backtest reads. Nothing after the origin is in them.
        """
        return replace(
            self,
            origins=self.origins - self.horizon,
            past=self.past[:, : -self.horizon],
            truth=self.past[:, -self.horizon :],
            times=None if self.times is None else self.times[:, : -self.horizon],
        )


def padded(windows: Windows, n_earlier: int) -> Windows:
    """Return windows with enough past for so many earlier origins; it is unknown where it was
    short.
    """
    missing = windows.look_back + n_earlier * windows.horizon - windows.past.shape[1]
    if missing <= 0:
        return windows
    times = windows.times
    if times is not None:
        unknown = np.full((len(windows), missing), np.datetime64("NaT"), dtype=times.dtype)
        times = np.concatenate([unknown, times], axis=1)
    past = np.pad(windows.past, ((0, 0), (missing, 0)), constant_values=np.nan)
    return replace(windows, past=past, times=times)


def stacked(windows: Sequence[Windows]) -> Windows:
    """Return windows of several origins below each other, with nothing but their look-backs."""
    first = windows[0]
    shown = first.look_back
    times = None
    if first.times is not None:
        times = np.concatenate([some.times[:, -shown:] for some in windows])  # type: ignore[index]
    return replace(
        first,
        channels=tuple(channel for some in windows for channel in some.channels),
        origins=np.concatenate([some.origins for some in windows]),
        past=np.concatenate([some.history for some in windows]),
        truth=np.concatenate([some.truth for some in windows]),
        times=times,
    )
