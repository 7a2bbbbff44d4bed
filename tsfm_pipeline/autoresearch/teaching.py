"""Learning the gate's declared coefficients on several fleets, for fleets that taught nothing.

What belongs here: what one fleet teaches, and the coefficients that cost all of them least. What
does not: fitting the gate to one fleet, which starts from the declared coefficients (`gate`,
`tuning`), and the fleets (`benchmarks/strangers.py`).
Axes: M rows, each one metric of one tuning request; K configurations, P traits, H horizon.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch.calibration import Outcomes
from tsfm_pipeline.autoresearch.constants import grids, tune
from tsfm_pipeline.autoresearch.gate import even_and, loss_of_scores, trait_names
from tsfm_pipeline.autoresearch.tuning import usable_rows
from tsfm_pipeline.autoresearch.tuning_rows import Schedule, TierRows, TuningEvidence
from tsfm_pipeline.baselines.combinations import TuningSample, choose
from tsfm_pipeline.settings import SearchSettings

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Lesson:
    """The tuning rows of one fleet, fold and tier.

    traits {name: [M, K]}, start [K]: the logarithms of the weights before traits are heard,
    decisions [M, K, H] (0 where unavailable), available [M, K], fixed_loss: the mean scaled loss of
    the fixed configuration.
    """

    traits: Mapping[str, Floats]
    start: Floats
    decisions: Floats
    available: NDArray[np.bool_]
    outcomes: Outcomes
    alpha: float
    fixed_loss: float

    def ratio_and_slope(self, coefficients: Mapping[str, float]) -> tuple[float, dict[str, float]]:
        """Return the loss of the gate with these coefficients over that of the fixed configuration,
        and its derivative by each coefficient.
        """
        heard = {name: trait for name, trait in self.traits.items() if name in coefficients}
        scores = self.start + sum(
            np.float32(coefficients[name]) * trait for name, trait in heard.items()
        )
        loss, by_score = loss_of_scores(
            scores, self.decisions, self.available, self.outcomes, self.alpha
        )
        slopes = {
            name: float((trait * by_score).sum(dtype=np.float64)) / self.fixed_loss
            for name, trait in heard.items()
        }
        return loss / self.fixed_loss, slopes


def lessons_of(
    settings: SearchSettings,
    offsets: Sequence[int],
    season: int | None,
    sample: TuningSample,
    evidence: TuningEvidence,
    alphas: Mapping[str, float],
) -> list[Lesson]:
    """Return what the tuning requests of one fleet and fold teach, one lesson per tier; arguments
    and errors are those of `tuning.fit_policy`. Configurations that are never available are left
    out.
    """
    horizon = sample.actual.shape[-1]
    half_lives = tuple(half_life * horizon for half_life in settings.half_lives)
    schedule = Schedule(tuple(offsets), season, half_lives)
    usable, available = usable_rows(sample)
    choices = choose(sample, alphas)
    lessons = []
    for a, (tier, alpha) in enumerate(alphas.items()):
        rows = TierRows.of(sample, evidence, usable, available, a, alpha, schedule)
        rival = choices.tiers[tier]
        everybody = np.ones(len(rows.outcomes.n_rows), dtype=bool)
        shrinking = tune(grids(settings, schedule, rival)["softmax"], rows, everybody)
        members = rows.available.any(axis=0)
        start = even_and(rival.ensemble_weights, settings.gate_even_share, rows.available)
        traits = np.moveaxis(rows.traits(shrinking)[:, members].astype(np.float32), -1, 0)
        fixed = rows.decide(rival.fixed_weights(rows.available))
        lessons.append(
            Lesson(
                traits=dict(zip(trait_names(offsets, season), traits, strict=True)),
                start=start[members],
                decisions=rows.decisions[:, members],
                available=rows.available[:, members],
                outcomes=rows.outcomes,
                alpha=alpha,
                fixed_loss=float(rows.losses(fixed).mean()),
            )
        )
    return lessons


def learned_coefficients(
    fleets: Sequence[Sequence[Lesson]], names: Sequence[str], ridge: float = 1e-4
) -> dict[str, float]:
    """Return the coefficient of each trait that costs these fleets least.

    Every fleet counts alike, and so does each of its lessons, by its ratio to the fixed
    configuration. ridge: the penalty, ridge / 2 times the squared coefficients, which decides where
    the fleets do not. The minimisation is by L-BFGS from 0; the loss of an average is not convex in
    the scores, so the result is a local minimum. Raises ValueError without a lesson.
    """
    from scipy.optimize import minimize

    counted = [
        (1 / (len(fleets) * len(lessons)), lesson) for lessons in fleets for lesson in lessons
    ]
    if not counted:
        raise ValueError("no fleet has a lesson; give at least one")

    def penalised(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        coefficients = dict(zip(names, values.tolist(), strict=True))
        ratio, slope = 0.0, np.zeros(len(names))
        for share, lesson in counted:
            own, slopes = lesson.ratio_and_slope(coefficients)
            ratio += share * own
            slope += share * np.array([slopes.get(name, 0.0) for name in names])
        return ratio + ridge / 2 * float(values @ values), slope + ridge * values

    solution = minimize(penalised, np.zeros(len(names)), jac=True, method="L-BFGS-B").x
    return dict(zip(names, np.round(solution, 3).tolist(), strict=True))
