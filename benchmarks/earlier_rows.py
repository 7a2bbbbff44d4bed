"""Compare checkpoints on real rows that no yardstick uses, to choose a release by.

`python benchmarks/earlier_rows.py CHECKPOINT OTHER [OTHER ...]` prints one JSON object: for each
other checkpoint (a name, a folder, or the `state.pt` of a training run) the mean over machines of
the log of its pinball loss to that of the first, in percent, with its standard error over machines;
less than 0 is better. The rows are the first 80 % of smd's and asd's tuning tenants and of nab, and
the first year of ETT; forecasts start in the last fifth of them. TSFM_BENCHMARKS_DIR and
TSFM_FLEETS_DIR name the folders of the data.

What belongs here: this comparison. What does not: the yardsticks of a release
(`tsfm_pipeline.pretraining.yardsticks`), which are computed after the choice.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from measuring import ran_on
from numpy.typing import NDArray

from tsfm_pipeline.evaluation.requests import TUNING_FOLD, split_tenants
from tsfm_pipeline.forecaster import load_forecaster
from tsfm_pipeline.forecaster.engine import FrozenForecaster
from tsfm_pipeline.pretraining.export import export_release
from tsfm_pipeline.pretraining.rolling import (
    at_levels,
    model_method,
    panel_of,
    series_losses,
    windows,
)
from tsfm_pipeline.pretraining.sources import ETT_NAMES, RealFleet, Sources

CONTEXTS = (512, 2048)
LEVELS = (0.5, 0.75, 0.9)
HORIZONS = {"smd": 60, "asd": 12, "nab": 12, "ett": 24}
WINDOWS = 60
HOURS_OF_A_YEAR = 8_640
"""The training rows of the published protocols on ETT."""
SEED, DAY_OF_HOURS = 0, 24

Losses = dict[tuple[int, float], NDArray[np.float64]]
"""(context, level) -> mean pinball loss of each series [S]."""


def forecaster_of(checkpoint: str) -> FrozenForecaster:
    """Return the forecaster of a checkpoint's name or folder, or of a training state."""
    if not checkpoint.endswith(".pt"):
        return load_forecaster(checkpoint)
    with TemporaryDirectory() as folder:
        export_release(Path(checkpoint), Path(folder) / "candidate")
        return load_forecaster(Path(folder) / "candidate")


def parts(sources: Sources) -> Iterator[tuple[RealFleet, NDArray[np.str_]]]:
    """Yield the earlier rows of each fleet, with the machine that each series belongs to [S]."""
    for name in ("smd", "asd", "nab"):
        fleet = sources.fleet(name)
        machines = np.array([label.split()[0] for label in fleet.labels])
        rows = np.arange(fleet.n_series)
        if name != "nab":
            tenants = np.unique(machines).tolist()
            folds = split_tenants(tenants, [""] * len(tenants), SEED, min_disjoint=2)
            tuning = [t for t, fold in zip(tenants, folds, strict=True) if fold == TUNING_FOLD]
            rows = np.flatnonzero(np.isin(machines, tuning))
        yield earlier(fleet, rows), machines[rows]
    values = np.concatenate([sources.ett(name)[:, :HOURS_OF_A_YEAR] for name in ETT_NAMES])
    values -= values.min(axis=1, keepdims=True)  # `panel_of` takes zero for the lower bound
    labels = tuple(f"series {row}" for row in range(len(values)))
    lengths = np.full(len(values), HOURS_OF_A_YEAR)
    yield (
        RealFleet(
            "ett", values.astype(np.float32), lengths, labels, labels, DAY_OF_HOURS, 60, (24,), 0
        ),
        np.array(labels),
    )


def earlier(fleet: RealFleet, rows: NDArray[np.int64]) -> RealFleet:
    """Return the first 80 % of some series of a fleet."""
    lengths = np.floor(0.8 * fleet.lengths[rows]).astype(np.int64)
    values = fleet.values[rows, : lengths.max()]
    values[np.arange(values.shape[1]) >= lengths[:, None]] = np.nan
    labels = tuple(fleet.labels[row] for row in rows)
    return replace(fleet, values=values, lengths=lengths, groups=labels, labels=labels)


def losses(forecaster: FrozenForecaster, fleet: RealFleet) -> Losses:
    """Return the mean pinball loss of each series at each context and level."""
    horizon = HORIZONS[fleet.name]
    asked = windows(fleet, horizon, WINDOWS)
    result: Losses = {}
    for context in CONTEXTS:
        deciles = model_method(forecaster, context)(panel_of(fleet), asked.origins, horizon)
        mean = series_losses(fleet, asked.actual, at_levels(deciles)).mean
        result |= {(context, level): mean[level] for level in LEVELS}
    return result


def compared(first: Losses, other: Losses, machines: NDArray[np.str_]) -> dict[str, list[float]]:
    """Return the mean log ratio over machines in percent, and its standard error, of each context
    and level.
    """
    rows = {}
    for (context, level), loss in other.items():
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.log(loss / first[context, level])
        seen = np.isfinite(ratio)  # not where a series at rest was forecast without any loss
        each = [ratio[seen & (machines == m)].mean() for m in np.unique(machines[seen])]
        error = np.std(each, ddof=1) / np.sqrt(len(each))
        rows[f"ctx{context} pb{level * 100:.0f}"] = [
            round(100 * float(np.mean(each)), 2),
            round(100 * float(error), 2),
        ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first")
    parser.add_argument("others", nargs="+")
    options = parser.parse_args()
    forecasters = {name: forecaster_of(name) for name in (options.first, *options.others)}
    result: dict[str, dict[str, dict[str, list[float]]]] = {name: {} for name in options.others}
    for fleet, machines in parts(Sources.from_environment()):
        of = {name: losses(forecaster, fleet) for name, forecaster in forecasters.items()}
        for name in options.others:
            result[name][fleet.name] = compared(of[options.first], of[name], machines)
    json.dump({f"percent_over_{options.first}": result, **ran_on()}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
