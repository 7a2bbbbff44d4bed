"""How good every method is on the same windows, with intervals, and against which others.

What belongs here: which figures are computed from which forecasts. What does not: the measures of
single windows (`measures`), which windows are asked (`splits`), making forecasts, and sentences
about the figures (`report`).

Nothing is chosen here. Errors of one channel resemble each other, and so do errors at one origin,
so that intervals resample both (`evaluation.statistics`). R2 and NRMSE are no ratios of sums; their
intervals are those of their linearisation, whose value is the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.evaluation.losses import crps_from_deciles
from tsfm_pipeline.evaluation.statistics import two_way_bootstrap_ratios
from tsfm_pipeline.reports.shared.files import json_text
from tsfm_pipeline.studies.time_r1 import measures
from tsfm_pipeline.studies.time_r1.evaluation_columns import (
    EVALUATED,
    EVALUATION_SCHEMA,
    minus,
    over,
)
from tsfm_pipeline.studies.time_r1.measure_units import MEASURES
from tsfm_pipeline.studies.time_r1.methods import METHODS, REFERENCES, require_known
from tsfm_pipeline.studies.time_r1.windows import Floats, Windows

WINDOW_SETS = ("own", "paper", "fleet")

Flags = NDArray[np.bool_]
Row = dict[str, Any]


@dataclass(frozen=True)
class Forecast:
    """What one method forecast for N windows.

    points: float64 [N, H], medians, finite. deciles: float64 [N, H, 9] at levels .1 to .9; None for
    a method without. failed: bool [N], windows whose answer failed, so that the points are the
    draft's; None where nothing can fail. kept: bool [N], windows where the gate kept the refined
    answer; None for a method without a gate.
    """

    points: Floats
    deciles: Floats | None = None
    failed: Flags | None = None
    kept: Flags | None = None


@dataclass(frozen=True)
class Case:
    """The windows of one data set and one window set, and what every method forecast for them.

    window_set: own, paper or fleet. scale: what MASE divides by, of each window [N], NaN where its
    channel has none (`splits.scales_of`). floor: least denominator of MAPE [N], above 0
    (`measures.percentage_floor`). forecasts: by the name of the method (`methods`).
    """

    windows: Windows
    window_set: str
    scale: Floats
    floor: Floats
    forecasts: Mapping[str, Forecast]

    def __post_init__(self) -> None:
        if self.window_set not in WINDOW_SETS:
            raise ValueError(f"window set {self.window_set!r}; allowed: {', '.join(WINDOW_SETS)}")
        n, shape = len(self.windows), self.windows.truth.shape
        if not n or not np.isfinite(self.windows.truth).all():
            raise ValueError(f"{self._where}: at least one window, and finite truths are needed")
        if not self.scale.shape == self.floor.shape == (n,):
            raise ValueError(
                f"{self._where}: {self.scale.shape} scales and {self.floor.shape} floors for {n} "
                f"windows; allowed: one of each per window"
            )
        for name, forecast in self.forecasts.items():
            require_known(name)
            expected = {"points": shape, "deciles": (*shape, 9), "failed": (n,), "kept": (n,)}
            for part, allowed in expected.items():
                given = getattr(forecast, part)
                if given is not None and given.shape != allowed:
                    raise ValueError(
                        f"{self._where}: {part} of {name} have shape {given.shape}; allowed: "
                        f"{allowed}"
                    )
            if not np.isfinite(forecast.points).all():
                raise ValueError(
                    f"{self._where}: {name} has points that are not finite; a failed answer must "
                    f"be replaced by the draft and counted in `failed`"
                )

    @property
    def _where(self) -> str:
        return f"{self.windows.data_set}, {self.window_set} windows"

    def scaled_errors(self, method: str) -> Floats:
        """Return the absolute scaled error of each window [N], NaN without a scale."""
        return measures.scaled_error(self.windows.truth, self.forecasts[method].points, self.scale)


@dataclass
class _Ratios:
    """Named ratios of sums over windows, whose intervals come from the same draws."""

    names: list[str] = field(default_factory=list)
    above: list[Floats] = field(default_factory=list)
    below: list[Floats] = field(default_factory=list)

    def add(self, name: str, above: Floats, below: Floats) -> None:
        """Add sum(above) / sum(below) over windows, both [N]; both 0 where a window has no part."""
        self.names.append(name)
        self.above.append(above)
        self.below.append(below)

    def columns(self, windows: Windows, draws: int, seed: int) -> Row:
        """Return each ratio with its limits by name of the column."""
        estimates = two_way_bootstrap_ratios(
            np.array(self.above),
            np.array(self.below),
            np.array(windows.channels),
            windows.origins,
            draws,
            seed,
        )
        return {
            f"{name}{end}": value
            for name, estimate in zip(self.names, estimates.tolist(), strict=True)
            for end, value in zip(("", "_low", "_high"), estimate, strict=True)
        }


def evaluate(cases: Sequence[Case], draws: int, seed: int) -> pl.DataFrame:
    """Return a row of `EVALUATED` per case and method, cases in their order and methods in that of
    `METHODS`.

    draws: of the two-way bootstrap over channels and origins, the same for every method of a case;
    limits are null where there is only one channel or one origin. Raises ValueError for two cases
    of the same data set, horizon and window set.
    """
    keys = [(case.windows.data_set, case.windows.horizon, case.window_set) for case in cases]
    if len(set(keys)) < len(keys):
        raise ValueError(f"cases are {keys}; allowed: each once")
    rows = [
        _row(case, method, draws, seed)
        for case in cases
        for method in METHODS
        if method in case.forecasts
    ]
    return pl.DataFrame(rows, schema=EVALUATION_SCHEMA).with_columns(
        pl.col(pl.Float64).fill_nan(None)
    )


def evaluation_json(evaluated: pl.DataFrame, draws: int, seed: int) -> str:
    """Return the rows as JSON: what `tsfm-pipeline time-r1 evaluate --json` prints. Absent figures
    are null; `table_columns` has the unit and the meaning of each key.
    """
    columns = [
        {"name": each.name, "unit": each.unit, "meaning": each.meaning} for each in EVALUATED
    ]
    return json_text(
        {
            "study": "time-r1",
            "confidence_share": 0.95,
            "bootstrap_draws_count": draws,
            "bootstrap_seed": seed,
            "table_evaluation": evaluated.to_dicts(),
            "table_columns": columns,
        }
    )


def _row(case: Case, method: str, draws: int, seed: int) -> Row:
    windows, forecast = case.windows, case.forecasts[method]
    n = len(windows)
    ratios = _Ratios()
    n_floored = _add_measures(ratios, case, forecast)
    if forecast.kept is not None:
        ratios.add("gate_rate", forecast.kept.astype(np.float64), np.ones(n))
    _add_comparisons(ratios, case, method)
    failed = 0 if forecast.failed is None else int(forecast.failed.sum())
    return {
        **dict.fromkeys(EVALUATION_SCHEMA),
        "data_set": windows.data_set,
        "horizon": windows.horizon,
        "window_set": case.window_set,
        "method": method,
        "n_windows": n,
        "n_channels": len(set(windows.channels)),
        "n_origins": len(np.unique(windows.origins)),
        "n_unscaled": int(np.isnan(case.scale).sum()),
        "n_floored": n_floored,
        "n_failed": failed,
        **ratios.columns(windows, draws, seed),
        "n_left_out": windows.left_out,
    }


def _add_measures(ratios: _Ratios, case: Case, forecast: Forecast) -> int:
    """Add all of `MEASURES`, and return how many steps the floor of MAPE replaced."""
    truth, points = case.windows.truth, forecast.points
    one = np.ones(len(truth))
    squared = measures.squared_error(truth, points)
    percentage, floored = measures.percentage_error(truth, points, case.floor)
    scaled = measures.scaled_error(truth, points, case.scale)
    known = (~np.isnan(scaled)).astype(np.float64)
    size = np.abs(truth).sum(axis=1)
    parts = {
        "mse": (squared, one),
        "mae": (measures.absolute_error(truth, points), one),
        "mape": (percentage, one),
        "mase": (np.nan_to_num(scaled), known),
        "r2": _r2(case.windows, squared),
        "nrmse": _nrmse(case.windows, squared),
    }
    if forecast.deciles is not None:
        parts["wql"] = (crps_from_deciles(truth, forecast.deciles) * truth.shape[1], size)
    for name in MEASURES:
        if name in parts:
            ratios.add(name, *parts[name])
    return int(floored.sum())


def _add_comparisons(ratios: _Ratios, case: Case, method: str) -> None:
    """Add the ratio and the difference of MASE to each reference that took part, except itself."""
    scaled = case.scaled_errors(method)
    known = (~np.isnan(scaled)).astype(np.float64)
    for reference in REFERENCES:
        if reference in case.forecasts and reference != method:
            other = case.scaled_errors(reference)
            ratios.add(over(reference), np.nan_to_num(scaled), np.nan_to_num(other))
            ratios.add(minus(reference), np.nan_to_num(scaled - other), known)


def _r2(windows: Windows, squared: Floats) -> tuple[Floats, Floats]:
    """Return parts whose ratio of sums is the mean over channels of R2, and whose terms are its
    linearisation by window; squared: mean squared error of each window [N].
    """
    values = np.zeros(len(windows))
    for rows in _channels(windows):
        truth = windows.truth[rows]
        total = np.mean((truth - truth.mean()) ** 2, axis=1)
        if total.mean() == 0:
            return np.full(len(windows), np.nan), np.full(len(windows), np.nan)
        share = squared[rows].mean() / total.mean()
        values[rows] = 1 - share - (squared[rows] - share * total) / total.mean()
    return _mean_over_channels(windows, values)


def _nrmse(windows: Windows, squared: Floats) -> tuple[Floats, Floats]:
    """Return the same parts of NRMSE."""
    values = np.zeros(len(windows))
    for rows in _channels(windows):
        size = np.abs(windows.truth[rows]).mean(axis=1)
        if size.mean() == 0:
            return np.full(len(windows), np.nan), np.full(len(windows), np.nan)
        error = squared[rows].mean()
        if error > 0:
            bend = 0.5 * (squared[rows] / error - 1) - (size / size.mean() - 1)
            values[rows] = np.sqrt(error) / size.mean() * (1 + bend)
    return _mean_over_channels(windows, values)


def _mean_over_channels(windows: Windows, values: Floats) -> tuple[Floats, Floats]:
    """Return parts whose ratio of sums is the mean over channels of the means of values [N]."""
    weights = np.zeros(len(windows))
    for rows in _channels(windows):
        weights[rows] = 1 / rows.sum()
    return weights * values, weights


def _channels(windows: Windows) -> list[Flags]:
    names = np.array(windows.channels)
    return [names == name for name in dict.fromkeys(windows.channels)]
