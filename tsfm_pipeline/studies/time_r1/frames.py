"""Frames: the units in which the numbers of one window are written.

What belongs here: the scale of a window, and what an answer is a correction of. What does not: how
a number becomes a token or a text (`codecs`).
"""

from dataclasses import dataclass

import numpy as np

from tsfm_pipeline.studies.time_r1.windows import Floats, Ints, Windows

LEAST_DEVIATION = 1e-6
"""Of the look-back, relative to its largest absolute value: a constant window has no scale."""


@dataclass(frozen=True)
class Frames:
    """Level and scale of N windows, and what their answers are corrections of.

    mean, deviation: float64 [N], of the look-back's known values. base: float64 [N, H] in the units
    of the data, which an answer is added to: a draft, or the mean where there is none, so that an
    answer of zeros is the base itself.
    """

    mean: Floats
    deviation: Floats
    base: Floats

    def at(self, rows: Ints | slice) -> "Frames":
        """Return the frames of some windows."""
        return Frames(self.mean[rows], self.deviation[rows], self.base[rows])

    def scaled(self, values: Floats) -> Floats:
        """Return values [N, ...] in deviations from the mean."""
        shape = (-1,) + (1,) * (values.ndim - 1)
        return (values - self.mean.reshape(shape)) / self.deviation.reshape(shape)

    def correction(self, values: Floats) -> Floats:
        """Return values [N, H] as corrections of the base, in deviations."""
        return (values - self.base) / self.deviation[:, None]

    def corrected(self, corrections: Floats) -> Floats:
        """Return the base plus corrections [N, H], in the units of the data."""
        return self.base + corrections * self.deviation[:, None]


def frames_of(windows: Windows, draft: Floats | None = None) -> Frames:
    """Return the frames of windows: only the look-back decides the scale, and a draft [N, H] is
    what answers correct; without one they are corrections of the mean.
    """
    history = windows.history
    mean = np.nanmean(history, axis=1)
    largest = np.nanmax(np.abs(history), axis=1)
    # A look-back of zeros has no scale either: its deviation is one unit of the data.
    least = np.where(largest == 0, 1.0, LEAST_DEVIATION * largest)
    deviation = np.maximum(np.nanstd(history, axis=1), least)
    base = np.repeat(mean[:, None], windows.horizon, axis=1) if draft is None else draft
    return Frames(mean, deviation, base)
