"""Measure all yardsticks of one checkpoint: `python -m tsfm_pipeline.pretraining.yardsticks
CHECKPOINT --out FOLDER`.

What belongs here: which protocols run with which contexts, and the choice of context. What does
not: the protocols (`published`, `rolling`, `behaviour`), verdicts (`bars`), figures and text
(`report`, `card`). The naive methods must reproduce the reference before anything else is measured
(`reproduction`).
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tsfm_pipeline import plugins
from tsfm_pipeline.baselines.point import LastValue, SeasonalNaive
from tsfm_pipeline.evaluation.methods import LAST_VALUE_CHANGE_QUANTILES, SEASONAL_NAIVE
from tsfm_pipeline.forecaster import load_forecaster
from tsfm_pipeline.forecaster.allocator import keep_large_buffers
from tsfm_pipeline.forecaster.engine import FrozenForecaster
from tsfm_pipeline.forecaster.panel import FloatArray, Panel
from tsfm_pipeline.pretraining.behaviour import constants, random_walks
from tsfm_pipeline.pretraining.published import fev_bench_ett_1h, published_protocols
from tsfm_pipeline.pretraining.reproduction import reproduce
from tsfm_pipeline.pretraining.rolling import (
    ALPHAS,
    IntArray,
    Method,
    Windows,
    at_levels,
    by_group,
    change_quantiles,
    coverage,
    model_method,
    panel_of,
    series_losses,
    windows,
)
from tsfm_pipeline.pretraining.sources import ETT_NAMES, FLEET_NAMES, RealFleet, Sources

CANDIDATE_CONTEXTS = (512, 1024, 2048)
"""The context for one group of data is chosen among these on the other groups; at most three."""
LENGTH_CONTEXTS = (64, 128, 256, 512, 1024, 2048, 4096)
LENGTH_ORIGINS = {"smd": 12, "asd": 5}
"""Few origins per series, spaced so that they do not all fall on the same hour of the day."""
N_ORIGINS = 200
BASELINES = (LastValue(), SeasonalNaive())
GALLERY_SHARES = {"smd": 34, "asd": 35, "nab": 17}
ETT_GALLERY_HORIZON = 96

STAGES = ("reproduction", "ett", *FLEET_NAMES, "context_length", "behaviour", "gallery")
"""What is measured for every checkpoint, under the names in `durations_s`."""

Log = Callable[[str], None]
Yardstick = Callable[[FrozenForecaster, Sources], Mapping[str, float]]
"""A yardstick that another package provides: returns figures by name."""


def further_yardsticks() -> dict[str, Yardstick]:
    """Return the yardsticks of other packages, by name.

    Raises `plugins.PluginError` for one that cannot be used.
    """
    return plugins.found(plugins.YARDSTICKS, STAGES)


def measure(
    forecaster: FrozenForecaster, sources: Sources, n_origins: int = N_ORIGINS, log: Log = print
) -> dict[str, Any]:
    """Return every figure of the report, and under `gallery` the series that it draws. Raises
    ReproductionError before measuring the model if the naive figures differ from the reference.

    The figures of yardsticks from other packages are under `further`, if any are installed.
    """
    further = further_yardsticks()
    durations: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        durations[name] = round(time.perf_counter() - started, 1)
        log(f"{name}: {durations[name]:.1f} s")

    fleets = {name: sources.fleet(name) for name in FLEET_NAMES}
    methods = {f"ctx{context}": model_method(forecaster, context) for context in CANDIDATE_CONTEXTS}
    with timed("reproduction"):
        reproduction = reproduce(sources, fleets.values())
    with timed("ett"):
        naive: dict[str, Method] = {baseline.name: baseline.forecast for baseline in BASELINES}
        ett = {
            name: published_protocols(sources, method) for name, method in (naive | methods).items()
        }
    measured = {}
    for name, fleet in fleets.items():
        with timed(name):
            measured[name] = measure_fleet(fleet, methods, n_origins)
    scores = context_scores(ett, measured, tuple(methods))
    chosen = {group: chosen_context(group, scores) for group in scores}
    with timed("context_length"):
        lengths = context_lengths(
            forecaster,
            sources,
            fleets,
            {name: ett[name]["fev_bench_ETT_1H"]["MASE"] for name in methods},
        )
    with timed("behaviour"):
        walks = {
            name: random_walks(method, int(name.removeprefix("ctx")))
            for name, method in methods.items()
        }
        flat = {
            name: constants(method, int(name.removeprefix("ctx")))
            for name, method in methods.items()
        }
    with timed("gallery"):
        gallery = draw_samples(
            sources, fleets, {group: methods[name] for group, name in chosen.items()}
        )
    figures = {}
    for name, yardstick in further.items():
        with timed(name):
            figures[name] = dict(yardstick(forecaster, sources))
    return {
        "checkpoint": forecaster.checkpoint.model_dump()
        | {"source": Path(forecaster.checkpoint.source).name},
        "n_origins_per_series": n_origins,
        "contexts": list(methods),
        "chosen_context": chosen,
        "context_scores": scores,
        "reproduction": reproduction,
        "ett": ett,
        "fleets": measured,
        "context_length": lengths,
        "random_walks": walks,
        "constants": flat,
        "durations_s": durations | {"total": round(sum(durations.values()), 1)},
        "n_threads": torch.get_num_threads(),
        "device": str(forecaster.device),
        "gallery": gallery,
        **({"further": figures} if figures else {}),
    }


def measure_fleet(fleet: RealFleet, models: dict[str, Method], n_origins: int) -> dict[str, Any]:
    """Score all methods at the same origins of one fleet. Return the metrics by group, pinball loss
    relative to change quantiles, and coverage.
    """
    longest = max(fleet.horizons)
    whole, panel = windows(fleet, longest, n_origins), panel_of(fleet)
    table: dict[str, dict[str, Any]] = {str(horizon): {} for horizon in fleet.horizons}

    def score(name: str, forecast: dict[float, FloatArray]) -> None:
        for horizon in fleet.horizons:
            part: Windows = whole.first(horizon)
            losses = series_losses(
                fleet,
                part.actual,
                {level: values[:, :, :horizon] for level, values in forecast.items()},
            )
            table[str(horizon)][name] = {"by_group": by_group(fleet, losses)}

    score(LAST_VALUE_CHANGE_QUANTILES, change_quantiles(panel, whole.origins, longest))
    for baseline in BASELINES:
        score(baseline.name, at_levels(baseline.forecast(panel, whole.origins, longest)))
    covered = {}
    for name, method in models.items():
        deciles = method(panel, whole.origins, longest)
        score(name, at_levels(deciles))
        covered[name] = coverage(whole.actual, deciles)
    for rows in table.values():
        reference = rows[LAST_VALUE_CHANGE_QUANTILES]["by_group"]
        for row in rows.values():
            row["ratio_to_change_quantiles"] = {
                key: float(
                    np.mean(
                        [
                            figures[key] / reference[group][key]
                            for group, figures in row["by_group"].items()
                        ]
                    )
                )
                for key in (f"pb{alpha * 100:.0f}" for alpha in ALPHAS)
            }
    return {
        "n_series": fleet.n_series,
        "n_constant_left_out": fleet.n_constant,
        "n_windows_per_series": n_origins,
        "horizons": table,
        "coverage": covered,
    }


def context_scores(
    ett: dict[str, Any], fleets: dict[str, Any], contexts: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return one score per group of data and context for the choice of context. For ETT it is the
    mean of four errors relative to seasonal naive, for a fleet the mean pb75 relative to change
    quantiles.
    """
    naive = ett[SEASONAL_NAIVE]
    scores = {
        "ett": {
            name: float(np.mean([figures[p][m] / naive[p][m] for p, m in ETT_FIGURES]))
            for name, figures in ett.items()
        }
    }
    scores["ett"] = {name: scores["ett"][name] for name in contexts}
    for fleet, measured in fleets.items():
        rows = measured["horizons"].values()
        scores[fleet] = {
            name: float(np.mean([row[name]["ratio_to_change_quantiles"]["pb75"] for row in rows]))
            for name in contexts
        }
    return scores


ETT_FIGURES = (
    ("fev_bench_ETT_1H", "MASE"),
    ("fev_ETTh", "MASE"),
    ("timesfm_v1_longhorizon_ETTh1_96", "WAPE"),
    ("timesfm_v1_longhorizon_ETTh2_96", "WAPE"),
)


def chosen_context(group: str, scores: dict[str, dict[str, float]]) -> str:
    """Return the context with the lowest mean score over the *other* groups, each relative to its
    best context. The shorter context wins a tie.
    """
    other_groups = [table for name, table in scores.items() if name != group]
    return min(
        scores[group],
        key=lambda context: float(
            np.mean([table[context] / min(table.values()) for table in other_groups])
        ),
    )


def context_lengths(
    forecaster: FrozenForecaster,
    sources: Sources,
    fleets: dict[str, RealFleet],
    known: dict[str, float],
) -> dict[str, Any]:
    """Return the loss at contexts from 64 to 4,096 points, to see whether a longer context hurts:
    MASE for ETT_1H (`known` figures are not measured again), mean pb75 for fleets.
    """
    rows: dict[str, list[float]] = {"ETT_1H": [], **{name: [] for name in LENGTH_ORIGINS}}
    for context in LENGTH_CONTEXTS:
        method = model_method(forecaster, context)
        name = f"ctx{context}"
        rows["ETT_1H"].append(
            known[name] if name in known else fev_bench_ett_1h(sources, method)["MASE"]
        )
        for name, n_origins in LENGTH_ORIGINS.items():
            fleet, horizon = fleets[name], max(fleets[name].horizons)
            sampled = windows(fleet, horizon, n_origins)
            losses = series_losses(
                fleet, sampled.actual, at_levels(method(panel_of(fleet), sampled.origins, horizon))
            )
            rows[name].append(
                float(np.mean([figures["pb75"] for figures in by_group(fleet, losses).values()]))
            )
    return {"contexts": list(LENGTH_CONTEXTS), "losses": rows}


def draw_samples(
    sources: Sources, fleets: dict[str, RealFleet], methods: dict[str, Method]
) -> list[dict[str, Any]]:
    """Return one hundred series with the forecast of their last full horizon: history, actual, and
    deciles .1, .5 and .9.
    """
    samples = []
    for name in ETT_NAMES:
        series = sources.ett(name).astype(np.float32)
        lengths = np.full(len(series), series.shape[1])
        samples += _samples(
            Panel(series),
            lengths,
            [f"{name} {i + 1}" for i in range(len(series))],
            ETT_GALLERY_HORIZON,
            methods["ett"],
        )
    for name, count in GALLERY_SHARES.items():
        fleet = fleets[name]
        rows = (
            np.linspace(0, fleet.n_series - 1, min(count, fleet.n_series)).round().astype(np.int64)
        )
        labels = [f"{name} {fleet.labels[row]}" for row in rows]
        samples += _samples(
            Panel(fleet.values[rows], lower=0.0),
            fleet.lengths[rows],
            labels,
            max(fleet.horizons),
            methods[name],
        )
    return samples


def _samples(
    panel: Panel, lengths: IntArray, labels: list[str], horizon: int, method: Method
) -> list[dict[str, Any]]:
    origins = lengths - horizon - 1
    deciles = method(panel, origins[:, None], horizon)[:, 0]
    samples = []
    for values, origin, label, forecast in zip(panel.values, origins, labels, deciles, strict=True):
        shown = values[origin - 3 * horizon + 1 : origin + horizon + 1]
        low, median, high = (forecast[:, i].round(6).tolist() for i in (0, 4, 8))
        listed = [None if np.isnan(value) else round(float(value), 6) for value in shown]
        samples.append(
            {
                "label": label,
                "history": listed[:-horizon],
                "actual": listed[-horizon:],
                "low": low,
                "median": median,
                "high": high,
            }
        )
    return samples


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the checkpoint that the command line names, and write its report."""
    parser = argparse.ArgumentParser(
        prog="python -m tsfm_pipeline.pretraining.yardsticks", description=__doc__
    )
    parser.add_argument(
        "checkpoint", help="a registered name or a folder with model.safetensors and config.json"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the report: JSON, markdown and figures"
    )
    parser.add_argument(
        "--origins", type=int, default=N_ORIGINS, help="origins per series; fewer for a quick look"
    )
    options = parser.parse_args(arguments)
    keep_large_buffers()
    from tsfm_pipeline.pretraining.report import write_report

    measured = measure(
        load_forecaster(options.checkpoint), Sources.from_environment(os.environ), options.origins
    )
    report = write_report(measured, options.out)
    print(
        json.dumps({bar["id"]: [bar["figure"], bar["verdict"]] for bar in report["bars"]}, indent=1)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
