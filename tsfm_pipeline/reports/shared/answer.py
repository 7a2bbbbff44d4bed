"""An answer in a sentence, and which way an effect goes.

What belongs here: the type of an answer, and the rule that turns a ratio and its interval into an
effect. What does not: the sentences of a report (its `words`), verdicts on criteria
(`reports.acceptance.criteria`).
"""

import math
from typing import Literal, NamedTuple

Effect = Literal["gain", "loss", "null", "unknown"]


class Answer(NamedTuple):
    """One or two sentences, and the direction of the effect."""

    effect: Effect
    sentence: str


def effect_of(ratio: float, low: float, high: float) -> Effect:
    """Return the direction of a cost ratio: gain below 1, loss above 1, null if the interval holds
    1, unknown without an interval.
    """
    if not all(math.isfinite(value) for value in (ratio, low, high)):
        return "unknown"
    if high < 1:
        return "gain"
    return "loss" if low > 1 else "null"
