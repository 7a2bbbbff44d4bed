"""The answers in sentences: what the figures of each report say, and no more than that.

What belongs here: one function per report, from its figures to one or two sentences, honest about a
gain, a loss, a null and a missing figure. What does not: tables, figures, and verdicts on criteria
(`reports.acceptance.criteria`).
"""

import math
from typing import Literal, NamedTuple

Effect = Literal["gain", "loss", "null", "unknown"]


class Answer(NamedTuple):
    """One sentence or two, and which way the effect goes."""

    effect: Effect
    sentence: str


def effect_of(ratio: float, low: float, high: float) -> Effect:
    """Which way a cost ratio points: gain below 1, loss above, null if the interval holds 1,
    unknown without one.
    """
    if not all(math.isfinite(value) for value in (ratio, low, high)):
        return "unknown"
    if high < 1:
        return "gain"
    return "loss" if low > 1 else "null"
