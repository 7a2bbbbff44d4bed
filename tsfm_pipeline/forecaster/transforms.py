"""The scales on which a model may see telemetry, by the name that a configuration gives them.

What belongs here: one entry per scale, with its forward and inverse function. What does not:
applying a scale to telemetry (`panel`), and the configuration's name (`config`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

LARGEST_VALUE = np.float32(1e33)
"""Leaves room for a forecast in float32, whose largest value is 3.4e38."""
LOGIT_MARGIN = 1e-3
"""Shares of the range are clipped to this value and to one minus it."""


@dataclass(frozen=True)
class Transform:
    """A strictly increasing scale for telemetry that has a lower bound, so that quantiles stay
    quantiles.

    forward: (height above the lower bound, at least 0, [S, T]; upper - lower) -> the same on the
    scale, float32. inverse: (forecasts on the scale [N, H, 10]; upper - lower) -> height above the
    lower bound. Without needs_upper, upper - lower may be infinite and is not used. slope: the
    derivative of inverse, for a scale whose way back must not be followed beyond what was seen.
    """

    forward: Callable[[Floats, float], Floats]
    inverse: Callable[[Floats, float], Floats]
    needs_upper: bool = False
    slope: Callable[[Floats], Floats] | None = None

    def height(self, steps: Floats, span: float, largest: Floats) -> Floats:
        """Return forecasts on the scale [N, H, 10] as height above the lower bound. largest: the
        largest value on the scale in each forecast's window, in a shape that broadcasts to theirs.

        With a slope, the way back beyond that value begins with this slope and flattens. In a
        series with bursts, a high decile may lie as far above the largest value as that lies above
        the smallest. The exponential would turn that into 100,000 times the largest value; this
        curve turns it into four times.
        """
        if self.slope is None:
            return self.inverse(steps, span)
        beyond = np.log1p(np.maximum(steps - largest, 0.0))
        inside = self.inverse(np.minimum(steps, largest), span)
        return np.minimum(inside + self.slope(largest) * beyond, float(LARGEST_VALUE))


def _logit(above: Floats, span: float) -> Floats:
    share = np.clip(above / np.float32(span), LOGIT_MARGIN, 1 - LOGIT_MARGIN)
    return np.asarray(np.log(share / (1 - share)))


TRANSFORMS: dict[str, Transform] = {
    "log": Transform(
        forward=lambda above, span: np.log1p(above),
        inverse=lambda steps, span: np.expm1(steps),
        slope=np.exp,
    ),
    "logit": Transform(
        forward=_logit, inverse=lambda steps, span: span / (1.0 + np.exp(-steps)), needs_upper=True
    ),
}
"""By name. `none`, which stands for the telemetry's own units, has no entry."""
