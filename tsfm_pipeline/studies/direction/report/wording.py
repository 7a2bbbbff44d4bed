"""Figures of this report as people write them: AUCs, their differences, gates and learning rates.

What belongs here: formats of single figures. What does not: sentences (`words`), and formats that
other reports share (`reports.shared.wording`).
"""

import math

from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.wording import NO_FIGURE, whole


def auc_text(estimate: Estimate) -> str:
    """Return an AUC with its interval, e.g. ".787 (.766 to .807)"."""
    value, low, high = (plain_auc(each) for each in estimate)
    if NO_FIGURE in (low, high):
        return value
    return f"{value} ({low} to {high})"


def difference_text(estimate: Estimate) -> str:
    """Return a difference of AUCs with its interval and signs, e.g. "−.029 (−.039 to −.021)"."""
    value, low, high = (plain_auc(each, sign=True) for each in estimate)
    if tuple(estimate) == (0, 0, 0):  # of a scorer with itself
        return NO_FIGURE
    if NO_FIGURE in (low, high):
        return value
    return f"{value} ({low} to {high})"


def gate_text(gate: float) -> str:
    """Return a gate as the earlier work writes it: .60, .65, .718."""
    return f"{gate:.3f}".removeprefix("0").removesuffix("0")


def rate_text(rate: float) -> str:
    """Return a learning rate, e.g. "1e-4"."""
    mantissa, exponent = f"{rate:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}".replace("-", "−")


def times(n: int) -> str:
    """Return how often, e.g. "twice", "3 times"."""
    return {1: "once", 2: "twice"}.get(n, f"{whole(n)} times")


def plain_auc(value: float, sign: bool = False) -> str:
    """Return three decimals without the leading 0, as AUCs are written."""
    if not math.isfinite(value):
        return NO_FIGURE
    text = f"{value:+.3f}" if sign else f"{value:.3f}"
    if float(text) == 0:
        return ".000"
    for zero, short in (("-0.", "−."), ("+0.", "+."), ("0.", ".")):
        if text.startswith(zero):
            return f"{short}{text.removeprefix(zero)}"
    return text.replace("-", "−")
