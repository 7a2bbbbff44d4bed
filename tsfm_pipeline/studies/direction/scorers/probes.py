"""Probes: logistic regressions on what the frozen model makes of a window.

What belongs here: three readings of hidden states (`encoder_mean`, `encoder_last`, `all_hidden`),
their principal components, and a logit per fold with and without volatility. What does not: hidden
states (`forecaster.hidden`) and readings of forecasts (`readings`).

The model normalises its input, so its states carry the shape of a window and not its scale. A probe
without volatility is handicapped on every label with a fixed threshold, by construction; the probes
whose names end in `_sigma` are given the logarithm of sigma beside the components, and what they
gain over the volatility logit is what the states know.

Everything that is fitted, also standardisation and components, is fitted on a fold's training days.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd

from tsfm_pipeline.forecaster import ForecastConfig, Panel
from tsfm_pipeline.forecaster.panel import FloatArray
from tsfm_pipeline.studies.direction.bars import Bars, Floats
from tsfm_pipeline.studies.direction.features import log_volatility
from tsfm_pipeline.studies.direction.problem import (
    Days,
    Fold,
    Problem,
    Target,
    score_rows,
    targets,
    together,
)
from tsfm_pipeline.studies.direction.scorers.logistic import fitted_logits, probabilities_of
from tsfm_pipeline.studies.direction.scorers.zero_shot import REPRESENTATIONS, panel_of
from tsfm_pipeline.studies.direction.threads import side_by_side

PROBED = ("returns", "log_close")
"""Representations whose states are probed; those of closes are nearly those of log closes."""
N_COMPONENTS = 32
POWER_ITERATIONS = 3
"""Of the randomised decomposition (Halko, Martinsson and Tropp 2011). The leading components of
hidden states are well separated."""
LEAST_TRAINING_DAYS = 4 * N_COMPONENTS
"""A fold in which fewer training days have a whole context is left out."""
DAYS_AT_ONCE = 128
"""Days whose states of all layers and tokens are in memory together: 15 MiB of the bundled model
at 256 days of context, 110 MiB of a model with 20 layers of 1,280."""


@runtime_checkable
class ShowsHiddenStates(Protocol):
    """A frozen model that shows its states, as `forecaster.load_forecaster` returns one."""

    def hidden_states(
        self, panel: Panel, origins: NDArray[np.integer], config: ForecastConfig
    ) -> FloatArray:
        """Return states float32 [S, O, layers, tokens, dims]; NaN where there is no forecast."""
        ...


def probe_scores(problem: Problem, forecaster: object) -> pl.DataFrame:
    """Return rows of `problem.SCORE_SCHEMA` of the scorers
    `probe_<representation>_<context>_<reading>` and the same with `_sigma`, at every target.

    Raises TypeError for a forecaster without hidden states.
    """
    if not isinstance(forecaster, ShowsHiddenStates):
        raise TypeError(
            f"a {type(forecaster).__name__} shows no hidden states, so there is nothing to probe; "
            "allowed: a checkpoint of this package's architecture, such as bundled or "
            "timesfm-2.5-200m. Leave `probes` out of the market's `scorers` for other models"
        )
    read = {
        f"probe_{representation}_{context}_{reading}": values
        for representation in PROBED
        for context in problem.options.zero_shot.first_two
        for reading, values in window_states(
            problem.bars, forecaster, representation, context
        ).items()
    }
    return together(side_by_side(lambda each: _scores(*each, problem), read.items()))


def window_states(
    bars: Bars, forecaster: ShowsHiddenStates, representation: str, context: int
) -> dict[str, FloatArray]:
    """Return readings of the states at every day, each float32 [T, width]; NaN where the context is
    not known.

    encoder_mean: the last layer, averaged over the window's tokens, width dims. encoder_last: the
    last layer at the last token, which alone has seen the whole window. all_hidden: the last token
    after the tokenizer and after every layer, width (layers + 1) x dims.

    5,000 days of `all_hidden` take 34 MiB of the bundled model, and 513 MiB of `timesfm-2.5-200m`;
    `probe_scores` holds those of two representations at two contexts.
    """
    given = REPRESENTATIONS[representation]
    panel = panel_of(given.series(bars), given.lower)
    parts: dict[str, list[FloatArray]] = {}
    for start in range(0, len(bars), DAYS_AT_ONCE):
        origins = np.arange(start, min(start + DAYS_AT_ONCE, len(bars)))
        states = forecaster.hidden_states(panel, origins, ForecastConfig(context_len=context))[0]
        for reading, values in _read(states):
            parts.setdefault(reading, []).append(values)
    return {reading: np.concatenate(values) for reading, values in parts.items()}


def _read(states: FloatArray) -> Iterator[tuple[str, FloatArray]]:
    """Yield the readings [O, width] of states [O, layers, tokens, dims]."""
    yield "encoder_mean", states[:, -1].mean(axis=1)
    yield "encoder_last", states[:, -1, -1].copy()
    yield "all_hidden", states[:, :, -1].reshape(len(states), -1).copy()


def _scores(name: str, states: FloatArray, problem: Problem) -> pl.DataFrame:
    """The rows of a reading's two scorers at every target; states [T, width]."""
    known = np.isfinite(states[:, 0])
    sigma = log_volatility(problem.sigma)[:, None]
    components = _components_by_fold(states, known, problem)
    rows = []
    for end, extra in (("", sigma[:, :0]), ("_sigma", sigma)):
        for target in targets(problem.options):
            for fold in problem.folds[target.horizon]:
                columns = components.get((target.horizon, fold.year))
                if columns is not None:
                    columns = np.hstack([columns, extra])
                    rows.append(_fold_rows(name + end, target, fold, columns, problem))
    return together(rows)


def _components_by_fold(
    states: FloatArray, known: NDArray[np.bool_], problem: Problem
) -> Mapping[tuple[int, int], Floats]:
    """By horizon and test year: principal components [T, 32] of the states, NaN where not known.

    The folds of one year differ between horizons by a few training days, so all of them share the
    components of the training days that they have in common.
    """
    by_year: dict[int, list[tuple[int, Fold]]] = {}
    for horizon, folds in problem.folds.items():
        for fold in folds:
            by_year.setdefault(fold.year, []).append((horizon, fold))
    components = {}
    for year, folds_of_year in by_year.items():
        train = folds_of_year[0][1].train
        for _, fold in folds_of_year[1:]:
            train = np.intersect1d(train, fold.train, assume_unique=True)
        train = train[known[train]]
        if len(train) >= LEAST_TRAINING_DAYS:
            found = _components(states, train)
            components.update({(horizon, year): found for horizon, _ in folds_of_year})
    return components


def _components(states: FloatArray, train: Days) -> Floats:
    """Principal components [T, 32] of states [T, width], by the standardised states of the training
    days.

    States are standardised because layers differ in size: otherwise the last one would decide.
    """
    inside = states[train]
    centre, size = inside.mean(axis=0), inside.std(axis=0)
    size = np.where(size > 0, size, np.inf).astype(np.float32)
    inside -= centre
    inside /= size
    _, _, directions = randomized_svd(
        inside, min(N_COMPONENTS, states.shape[1]), n_iter=POWER_ITERATIONS, random_state=0
    )
    weights = (directions / size).T.astype(np.float32)  # [width, 32]
    return np.asarray(states @ weights - centre @ weights, dtype=np.float64)


def _fold_rows(
    name: str, target: Target, fold: Fold, columns: Floats, problem: Problem
) -> pl.DataFrame:
    """The rows of a logit on columns [T, F]; days with a missing one have none."""
    known = np.asarray(np.isfinite(columns).all(axis=1))
    train = fold.train[known[fold.train]]
    days = fold.scored[known[fold.scored]]
    logits = np.full(len(columns), np.nan)
    logits[days] = fitted_logits(columns[train], problem.labels[target][train], columns[days])
    return score_rows(name, target, fold, logits, probabilities_of(logits))
