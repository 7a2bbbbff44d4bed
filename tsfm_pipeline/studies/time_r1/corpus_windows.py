"""Corpus windows: what the base learns from, windows of the synthetic corpus with cheap drafts.

What belongs here: windows of `pretraining`'s corpus in the form of the study, their seasons, and
drafts of several kinds and qualities. What does not: the corpus itself (`pretraining.corpus3`), the
drafts of real requests (`drafts`), and the loop (`base_training`).

The frozen model drafts none of them: it would take longer than the training. Its place is taken by
one linear map from look-back to horizon, and by the truth with errors that persist, so that a draft
is something to start from and to doubt. A draft that repeats earlier seasons is made of values that
the prompt shows, which is what teaches to look back by a season and to copy.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tsfm_pipeline.pretraining import corpus3
from tsfm_pipeline.pretraining.corpus import PATCH, TARGET_LEN, Pool, PoolShape
from tsfm_pipeline.studies.time_r1.windows import Floats, Ints

SEASONS = (6, 7, 8, 10, 12, 14, 16, 18, 20, 24, 28, 30, 36, 42, 48)
"""Candidates for the season of a window, in steps: at least two of each are in a look-back of 96,
and each has a word of its own in the own policy's vocabulary.
"""
DRAFT_KINDS = {"linear": 0.35, "seasons": 0.2, "naive": 0.15, "last": 0.05, "truth": 0.25}
"""Kinds of drafts and their shares: the linear map; the mean of the last seasons; the last season;
the last value; the truth with an error.
"""
_STRANGE_SEASON = 0.15
"""Share of windows that state a season which is not theirs: a clock's day need not be in the data.
"""
_LEAST_DEVIATION = 1e-3
"""Of a look-back, in deviations of its whole window: a constant has nothing to learn from."""
_FARTHEST = 6.0
"""Of a true value from the mean of the look-back, in its deviations: beyond it no number is near.
"""
_FIT_STREAM, _FIT_WINDOWS, _PENALTY = 1_000_000_007, 2048, 30.0


@dataclass(frozen=True)
class CorpusWindows:
    """N windows: values float64 [N, L + H], known ones first; season int64 [N], in steps."""

    values: Floats
    seasons: Ints
    look_back: int

    @property
    def past(self) -> Floats:
        """The look-back [N, L]."""
        return self.values[:, : self.look_back]

    @property
    def truth(self) -> Floats:
        """What comes after it [N, H]."""
        return self.values[:, self.look_back :]


def corpus_pool(seed: int, shape: PoolShape) -> Pool:
    """Return the endless pool of series of corpus 3 that a seed begins."""
    return Pool(seed, torch.device("cpu"), shape, corpus3.generate_block)


def cut_windows(
    series: Tensor, seed: int, step: int, n: int, look_back: int, horizon: int
) -> CorpusWindows:
    """Return n windows of float32 series [S, T], a function of the arguments alone.

    Gaps are filled with the last value before. Windows with a constant look-back or a truth far
    outside of it are passed over. Raises ValueError for more steps than the corpus cuts.
    """
    patches = -(-max(look_back + horizon - TARGET_LEN, PATCH) // PATCH)
    length = patches * PATCH + TARGET_LEN
    if length > series.shape[1]:
        raise ValueError(
            f"{look_back} + {horizon} steps are longer than the series of {series.shape[1]}"
        )
    # Somewhat more than half of all windows pass.
    cut = corpus3.sample_windows(series, seed, step, 4 * n, patches)
    values = cut.values[:, length - look_back - horizon :].double().numpy()
    deviation = values[:, :look_back].std(axis=1)
    centred = np.abs(values - values[:, :look_back].mean(axis=1, keepdims=True))
    fair = deviation > _LEAST_DEVIATION
    fair &= centred.max(axis=1) < _FARTHEST * np.maximum(deviation, _LEAST_DEVIATION)
    rows = np.flatnonzero(fair)
    if not len(rows):
        raise ValueError(f"no window of step {step} has a look-back that varies; none can be used")
    rng = np.random.default_rng([seed, step, 2])
    values = values[rng.permuted(np.resize(rows, max(n, len(rows))))[:n]]
    own = seasons_of(values[:, :look_back])
    strange = rng.choice(SEASONS, n)
    return CorpusWindows(values, np.where(rng.random(n) < _STRANGE_SEASON, strange, own), look_back)


def seasons_of(past: Floats) -> Ints:
    """Return the season [N] of the past [N, L], of `SEASONS`: that by which the past repeats best,
    by the mean absolute difference.
    """
    errors = np.stack([np.abs(past[:, s:] - past[:, :-s]).mean(axis=1) for s in SEASONS])
    return np.array(SEASONS, np.int64)[errors.argmin(axis=0)]


@dataclass(frozen=True)
class LinearDraft:
    """A linear map [L, H] from a scaled look-back to the values after it."""

    weights: Floats

    def draft(self, past: Floats) -> Floats:
        """Return drafts [N, H] of the past [N, L]."""
        mean, deviation = past.mean(axis=1, keepdims=True), past.std(axis=1, keepdims=True)
        return mean + deviation * (((past - mean) / deviation) @ self.weights)


def fit_linear_draft(series: Tensor, seed: int, look_back: int, horizon: int) -> LinearDraft:
    """Return the ridge regression of what follows on the look-back, over windows of some series."""
    windows = cut_windows(series, seed, _FIT_STREAM, _FIT_WINDOWS, look_back, horizon)
    mean = windows.past.mean(axis=1, keepdims=True)
    deviation = windows.past.std(axis=1, keepdims=True)
    inputs, targets = (windows.past - mean) / deviation, (windows.truth - mean) / deviation
    gram = inputs.T @ inputs + _PENALTY * np.eye(look_back)
    return LinearDraft(np.linalg.solve(gram, inputs.T @ targets))


def cheap_drafts(windows: CorpusWindows, linear: LinearDraft, seed: int, step: int) -> Floats:
    """Return one draft [N, H] per window, of a kind drawn from `DRAFT_KINDS`."""
    rng = np.random.default_rng([seed, step, 3])
    n, horizon = windows.truth.shape
    kinds = rng.choice(list(DRAFT_KINDS), n, p=list(DRAFT_KINDS.values()))
    drafts = {
        "linear": linear.draft(windows.past),
        "seasons": _seasons_mean(windows, horizon),
        "naive": windows.past[_rows(n), _season_ago(windows, horizon, 1)],
        "last": np.repeat(windows.past[:, -1:], horizon, axis=1),
        "truth": _with_error(windows, rng),
    }
    result = np.empty_like(windows.truth)
    for kind, values in drafts.items():
        result[kinds == kind] = values[kinds == kind]
    return result


def _rows(n: int) -> NDArray[np.int64]:
    return np.arange(n)[:, None]


def _season_ago(windows: CorpusWindows, horizon: int, k: int) -> Ints:
    """Return the index [N, H] into the look-back of each step's phase, k seasons before it was
    last known.
    """
    season = windows.seasons[:, None]
    return windows.look_back - k * season + np.arange(horizon) % season


def _seasons_mean(windows: CorpusWindows, horizon: int) -> Floats:
    """Return the mean of the same phase in up to four whole seasons of the look-back."""
    n = len(windows.past)
    total, count = np.zeros((n, horizon)), np.zeros((n, 1))
    for k in range(1, 5):
        whole = windows.look_back >= k * windows.seasons[:, None]
        index = np.maximum(_season_ago(windows, horizon, k), 0)
        total += np.where(whole, windows.past[_rows(n), index], 0.0)
        count += whole
    return total / count


def _with_error(windows: CorpusWindows, rng: np.random.Generator) -> Floats:
    """Return the truth with an error that persists: a shift, and an autoregression."""
    n, horizon = windows.truth.shape
    size = windows.past.std(axis=1, keepdims=True) * np.exp(
        rng.uniform(np.log(0.05), np.log(1.0), (n, 1))
    )
    memory = rng.uniform(0.0, 0.95, (n, 1))
    error, errors = rng.standard_normal((n, 1)), []
    for _ in range(horizon):
        errors.append(error)
        noise = rng.standard_normal((n, 1))
        error = memory * error + np.sqrt(1 - memory**2) * noise
    shift = rng.standard_normal((n, 1)) * rng.uniform(0.0, 1.0, (n, 1))
    return windows.truth + size * (np.concatenate(errors, axis=1) + shift)
