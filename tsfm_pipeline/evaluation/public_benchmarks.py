"""The protocols of two public benchmarks, GIFT-Eval and BOOM: lengths, windows and aggregates.

What belongs here: which steps of a data set are forecast, and how the scores of many data sets
become one figure. What does not: the scores themselves (`evaluation.benchmark_scores`), reading the
data sets (`fleets.saved_items`), and our own protocol (`evaluation.protocol`).

Sources: Aksu et al., GIFT-Eval, arXiv:2410.10393, and `src/gift_eval/data.py` of
SalesforceAIResearch/gift-eval (4fd98a9); Cohen et al., This Time is Different, arXiv:2505.14766,
and `boom/utils/leaderboard.py` of DataDog/toto (46bd92a). BOOM takes lengths and windows from
GIFT-Eval, and has a rule of its own for aggregating.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.evaluation.frequencies import Frequency

Floats = NDArray[np.float64]

TERMS: Mapping[str, int] = {"short": 1, "medium": 10, "long": 15}
"""How many times the length of a short forecast each term's forecast has."""
TEST_SHARE = 0.1
"""Share of the shortest series that the windows of a data set cover."""
MOST_WINDOWS = 20
SHIFT = 1e-5
"""Added to every score by BOOM's geometric mean, so that a score of 0 does not decide alone."""
_LENGTHS = {"M": 12, "W": 8, "D": 30, "H": 48, "T": 48, "S": 60}
_M4_LENGTHS = {"A": 6, "Q": 8, "M": 18, "W": 13, "D": 14, "H": 48}


@dataclass(frozen=True)
class Windows:
    """The steps of each series that a benchmark scores: the last `count` windows of `length` steps,
    one beside the other.
    """

    length: int
    count: int

    def origins(self, n_steps: int) -> NDArray[np.int64]:
        """Return the last step before each window of a series of `n_steps` [count].

        Raises ValueError for a series that has no step before its first window.
        """
        first = n_steps - self.length * self.count
        if first < 1:
            raise ValueError(
                f"a series of {n_steps} steps; its {self.count} windows of {self.length} steps "
                f"need at least {self.length * self.count + 1}"
            )
        return first - 1 + self.length * np.arange(self.count, dtype=np.int64)


def is_m4(name: str) -> bool:
    """Return whether a data set of this name is part of the M4 competition, which keeps its own
    lengths and one window.
    """
    return "m4" in name


def forecast_length(frequency: Frequency, term: str, *, m4: bool = False) -> int:
    """Return how many steps a benchmark forecasts.

    Raises ValueError for an unknown term, and for a frequency without a length.
    """
    if term not in TERMS:
        raise ValueError(f"the term is {term!r}; allowed: {', '.join(TERMS)}")
    lengths = _M4_LENGTHS if m4 else _LENGTHS
    if frequency.unit not in lengths:
        of = "M4" if m4 else "GIFT-Eval and BOOM"
        raise ValueError(
            f"one step is {frequency.called}; {of} forecast steps of {', '.join(lengths)} (in the "
            "letters of pandas 1)"
        )
    return TERMS[term] * lengths[frequency.unit]


def windows_of(length: int, shortest: int, *, m4: bool = False) -> Windows:
    """Return the windows of a data set whose shortest series has `shortest` steps: a tenth of that
    series, at least one window and at most 20; one window for M4.
    """
    covered = 1 if m4 else math.ceil(TEST_SHARE * shortest / length)
    return Windows(length, min(max(1, covered), MOST_WINDOWS))


def with_means(scores: Floats) -> Floats:
    """Return scores [N] with each one that is not finite replaced by the mean of the others, as
    BOOM's leaderboard does before it divides by the reference; NaN where none is finite.
    """
    finite = np.isfinite(scores)
    mean = scores[finite].mean() if finite.any() else np.nan
    return np.where(finite, scores, mean)


def shifted_geometric_mean(scores: Floats, shift: float = SHIFT) -> float:
    """Return exp(mean(log(scores + shift))) - shift of scores [N], each at least 0; NaN for none.

    BOOM's aggregate (`shifted_gmean`); with a shift of 0 it is GIFT-Eval's plain geometric mean.
    """
    if not len(scores):
        return math.nan
    with np.errstate(divide="ignore"):
        return float(np.exp(np.log(scores + shift).mean()) - shift)


def zero_inflated(names: Sequence[str], reference_mase: Floats) -> set[str]:
    """Return the data sets that BOOM aggregates apart and does not divide by the reference: those
    for which the seasonal naive has a MASE of 0 in any term.

    names, reference_mase [N]: one entry per data set and term. BOOM's leaderboard also sets a fixed
    list of data sets of low variance apart.
    """
    return {name for name, mase in zip(names, reference_mase, strict=True) if mase == 0}
