"""What the report shows of trainings: their curves, thinned to what a figure can show.

What belongs here: means over neighbouring steps. What does not: reading tables (`numbers`).
"""

from collections.abc import Iterator, Sequence

import numpy as np

from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.studies.time_r1.report.evidence import Curve
from tsfm_pipeline.studies.time_r1.report.model import (
    RewardRow,
    TermRow,
    ValidationRow,
    WarmUpRow,
)
from tsfm_pipeline.studies.time_r1.report.names import PART_TEXTS, TERM_TEXTS
from tsfm_pipeline.studies.time_r1.windows import Floats, Ints

MOST_POINTS = 60
"""Points of one curve."""
STANDARD_ERRORS = 2.0
"""Of a validation gain to each side: what the bar on GRIP's validation reward reads."""


def warm_up_rows(curves: Sequence[Curve]) -> tuple[WarmUpRow, ...]:
    """Return the losses of supervised trainings, on training and on validation windows."""
    return tuple(
        WarmUpRow.model_validate({"run": curve.run, "part": part, "step": step, **losses})
        for curve in curves
        for part, points in (
            ("training", _thinned(curve.steps, {name: curve.column(name) for name in PART_TEXTS})),
            ("validation", _points(curve, tuple(PART_TEXTS))),
        )
        for step, losses in points
    )


def reward_rows(curves: Sequence[Curve]) -> tuple[RewardRow, ...]:
    """Return rewards and KL divergence of reinforced trainings."""
    names = ("reward_all", "reward_kept", "exact_kl", "k3")
    return tuple(
        RewardRow.model_validate({"run": curve.run, "step": step, **values})
        for curve in curves
        for step, values in _thinned(curve.steps, {name: curve.column(name) for name in names})
    )


def validation_rows(curves: Sequence[Curve]) -> tuple[ValidationRow, ...]:
    """Return the rewards of reinforced trainings on validation windows."""
    rows = []
    for curve in curves:
        for step, values in _points(curve, ("reward", "gain", "gain_standard_error", "kept")):
            gain, half = values["gain"], STANDARD_ERRORS * values["gain_standard_error"]
            rows.append(
                ValidationRow(
                    run=curve.run,
                    step=step,
                    reward=values["reward"],
                    gain=Estimate(gain, gain - half, gain + half),
                    kept=values["kept"] == 1,
                )
            )
    return tuple(rows)


def term_rows(curves: Sequence[Curve]) -> tuple[TermRow, ...]:
    """Return what each term of the reward contributes, and its share of the variance."""
    return tuple(
        TermRow(
            run=curve.run,
            step=step,
            term=term,
            contribution=values["term"],
            variance_share=values["share"],
        )
        for curve in curves
        for term in TERM_TEXTS
        for step, values in _thinned(
            curve.steps,
            {"term": curve.column(f"term_{term}"), "share": curve.column(f"share_{term}")},
        )
    )


def _points(curve: Curve, names: Sequence[str]) -> Iterator[tuple[float, dict[str, float]]]:
    """Yield the validations of a curve: step, and figures by name."""
    columns = {name: curve.validation(name) for name in names}
    for row, step in enumerate(curve.validation_steps):
        yield float(step), {name: float(values[row]) for name, values in columns.items()}


def _thinned(steps: Ints, columns: dict[str, Floats]) -> Iterator[tuple[float, dict[str, float]]]:
    """Yield the mean step and the mean figures of at most `MOST_POINTS` runs of steps, which are of
    equal length but for the last; NaN where a run has no figure.
    """
    length = max(1, -(-len(steps) // MOST_POINTS))
    for begin in range(0, len(steps), length):
        rows = slice(begin, begin + length)
        yield (
            float(steps[rows].mean()),
            {name: _known_mean(values[rows]) for name, values in columns.items()},
        )


def _known_mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
