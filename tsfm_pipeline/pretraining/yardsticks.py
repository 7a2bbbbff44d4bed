"""Early evaluation of a checkpoint on outside yardsticks: `python -m tsfm_pipeline.pretraining.yardsticks CHECKPOINT`.

Here: the published ETT protocols, a small one for the server fleet, a random-walk check and the behaviour by context
length, each beside
its naive rows. Not here: the pipeline's own evaluation (`tsfm_pipeline.evaluation`). Series are read in place, never
copied.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from tsfm_pipeline.forecaster.architecture import INPUT_PATCH_LEN, Architecture, build_module

LEVELS = np.arange(1, 10) / 10
TIER_ALPHAS = (0.9, 0.75, 0.65)
ETT_SEASON = 24
SMD_METRICS = ("cpu_r", "load_1", "mem_u", "eth1_fi", "eth1_fo", "tcp_use")
SMD_HORIZON, SMD_SEASON, SMD_CHANGE_STEPS = 60, 1440, 7 * 1440

Array = NDArray[np.float64]
Forecast = Callable[[Array, int], Array]
"""(contexts [n, length], horizon) -> deciles [n, horizon, 9]."""


def checkpoint_forecast(folder: Path, max_patches: int = 32_768) -> Forecast:
    """Deciles of a release through the package's own decode; contexts must be multiples of the patch length."""
    config = json.loads((folder / "config.json").read_text())
    module = build_module(Architecture(**{name: config[name] for name in Architecture.model_fields}))
    module.load_state_dict(load_file(folder / "model.safetensors"), strict=True)

    def forecast(contexts: Array, horizon: int) -> Array:
        if contexts.shape[1] % INPUT_PATCH_LEN:
            raise ValueError(f"context of {contexts.shape[1]} points is not a multiple of {INPUT_PATCH_LEN}")
        size = max(1, max_patches * INPUT_PATCH_LEN // contexts.shape[1])
        parts = []
        for start in range(0, len(contexts), size):
            values = torch.from_numpy(contexts[start : start + size].astype(np.float32))
            first, _, later = module.decode(horizon, values, torch.zeros_like(values, dtype=torch.bool))
            whole = first[:, -1] if later is None else torch.cat([first[:, -1], later.flatten(1, 2)], dim=1)
            parts.append(whole[:, :horizon, 1:].double().numpy())
        return np.sort(np.concatenate(parts), axis=-1)

    return forecast


def naive(contexts: Array, horizon: int) -> Array:
    """Last value, at every decile."""
    return np.broadcast_to(contexts[:, -1:, None], (len(contexts), horizon, 9))


def seasonal_naive(season: int) -> Forecast:
    """The value one season ago, at every decile."""

    def forecast(contexts: Array, horizon: int) -> Array:
        index = contexts.shape[1] - season + np.arange(horizon) % season
        return np.broadcast_to(contexts[:, index, None], (len(contexts), horizon, 9))

    return forecast


def pinball(actual: Array, forecast: Array, level: float | Array) -> Array:
    """Pinball loss, elementwise."""
    error = actual - forecast
    return np.maximum(level * error, (level - 1) * error)


def at_level(deciles: Array, alpha: float) -> Array:
    """The alpha-quantile between neighbouring deciles, [..., 9] -> [...]."""
    position = alpha * 10 - 1
    low = min(int(np.floor(position + 1e-9)), 7)
    share = position - low
    return (1 - share) * deciles[..., low] + share * deciles[..., low + 1]


def _windows(series: Array, ends: NDArray[np.int64], length: int) -> Array:
    """The `length` points before each end, [series, ends, length], from series [series, time]."""
    return series[:, ends[:, None] + np.arange(-length, 0)[None]]


def _ett(folder: Path, name: str) -> Array:
    table = pl.read_csv(folder / f"{name}.csv")
    return table.drop("date").to_numpy().astype(np.float64).T


def fev_etth(folder: Path, forecast: Forecast, context: int) -> dict[str, float]:
    """ETTh1 and ETTh2, the last 24 hours of 14 series: MASE and WQL over deciles."""
    scaled, losses, sizes = [], 0.0, 0.0
    for name in ("ETTh1", "ETTh2"):
        series = _ett(folder, name)
        past, actual = series[:, :-24], series[:, -24:]
        deciles = forecast(past[:, -context:], 24)
        scale = np.abs(past[:, ETT_SEASON:] - past[:, :-ETT_SEASON]).mean(1)
        scaled.append(np.abs(actual - deciles[..., 4]).mean(1) / scale)
        losses += 2 * pinball(actual[..., None], deciles, LEVELS).mean(-1).sum()
        sizes += np.abs(actual).sum()
    return {"MASE": float(np.concatenate(scaled).mean()), "WQL": float(losses / sizes)}


def fev_bench_ett_1h(folder: Path, forecast: Forecast, context: int) -> dict[str, float]:
    """ETTh1 and ETTh2, 7 targets each, 20 windows of 168 hours ending at the end: MASE."""
    ratios = []
    for name in ("ETTh1", "ETTh2"):
        series = _ett(folder, name)
        ends = series.shape[1] - 168 * np.arange(20, 0, -1)
        deciles = forecast(_windows(series, ends, context).reshape(-1, context), 168).reshape(7, 20, 168, 9)
        for i, end in enumerate(ends):
            scale = np.abs(series[:, ETT_SEASON:end] - series[:, : end - ETT_SEASON]).mean(1)
            ratios.append(np.abs(series[:, end : end + 168] - deciles[:, i, :, 4]).mean(1) / scale)
    return {"MASE": float(np.mean(ratios))}


def long_horizon(folder: Path, name: str, forecast: Forecast, context: int) -> dict[str, float]:
    """z-scored on rows 0-8639, disjoint windows of 96 over rows 11520-14399: WAPE."""
    series = _ett(folder, name)
    train = series[:, :8640]
    z = (series - train.mean(1, keepdims=True)) / train.std(1, keepdims=True)
    ends = np.arange(11_520, 14_400, 96)
    median = forecast(_windows(z, ends, context).reshape(-1, context), 96)[..., 4].reshape(7, len(ends), 96)
    actual = _windows(z, ends + 96, 96)
    return {"WAPE": float(np.abs(actual - median).sum() / np.abs(actual).sum())}


def load_smd(path: Path) -> dict[str, list[Array]]:
    """Each metric as one array [time] per machine."""
    table = pl.read_parquet(path).sort("tenant_id", "timestamp")
    machines = table.partition_by("tenant_id", maintain_order=True)
    return {metric: [machine[metric].to_numpy().astype(np.float64) for machine in machines] for metric in SMD_METRICS}


def smd_rows(fleet: dict[str, list[Array]], forecasts: dict[str, tuple[Forecast, int]], origins: int) -> dict[str, Any]:
    """Mean pinball loss at H = 60 by method, metric and alpha, in units of each series' mean |y|, averaged over series.

    Windows as in the reference figures: first targets at `linspace(floor(0.8 n), n - H, origins)`. Constant series are
    left out. The last row is last value plus the quantiles of h-step changes of the trailing seven days. `coverage` is
    the share of actuals at or below each decile.
    """
    rows: dict[str, Any] = {name: {} for name in (*forecasts, "last_value_change_quantiles")}
    coverage: dict[str, list[Array]] = {name: [] for name in forecasts}
    for metric, machines in fleet.items():
        series = [values for values in machines if np.ptp(values) > 0]
        ends = [np.round(np.linspace(np.floor(0.8 * len(y)), len(y) - SMD_HORIZON, origins)).astype(np.int64) for y in series]
        size = np.array([np.abs(y).mean() for y in series])
        actual = _each_window(series, ends, 0, SMD_HORIZON)
        for name, (forecast, context) in forecasts.items():
            deciles = forecast(_each_window(series, ends, -context, 0).reshape(-1, context), SMD_HORIZON)
            deciles = np.maximum(deciles.reshape(*actual.shape, 9), 0.0)
            rows[name][metric] = [
                float((pinball(actual, at_level(deciles, alpha), alpha).mean((1, 2)) / size).mean()) for alpha in TIER_ALPHAS
            ]
            coverage[name].append((actual[..., None] <= deciles).mean((0, 1, 2)))
        past = [_change_quantile_losses(y, e, a) for y, e, a in zip(series, ends, actual, strict=True)]
        rows["last_value_change_quantiles"][metric] = (np.array(past) / size[:, None]).mean(0).tolist()
    reference = np.array(list(rows["last_value_change_quantiles"].values()))
    table: dict[str, Any] = {}
    for name, by_metric in rows.items():
        ratio = (np.array(list(by_metric.values())) / reference).mean(0)
        table[name] = {
            "ratio_to_change_quantiles": dict(zip(map(str, TIER_ALPHAS), ratio.round(4).tolist(), strict=True)),
            "pb75_by_metric": {metric: round(values[1], 4) for metric, values in by_metric.items()},
        }
        if name in coverage:
            table[name]["coverage"] = np.mean(coverage[name], axis=0).round(3).tolist()
    return table


def _each_window(series: list[Array], ends: list[NDArray[np.int64]], first: int, last: int) -> Array:
    """Points `first` to `last` relative to each end, [series, ends, last - first]."""
    return np.stack([y[e[:, None] + np.arange(first, last)[None]] for y, e in zip(series, ends, strict=True)])


def _change_quantile_losses(series: Array, ends: NDArray[np.int64], actual: Array) -> list[float]:
    """Loss at each tier's alpha of last value + quantiles of past h-step changes; series [time], actual [ends, H]."""
    past = series[ends[:, None] + np.arange(-SMD_CHANGE_STEPS, 0)[None]]
    losses = np.zeros(len(TIER_ALPHAS))
    for h in range(1, SMD_HORIZON + 1):
        changes = np.quantile(past[:, h:] - past[:, :-h], TIER_ALPHAS, axis=1)
        for a, alpha in enumerate(TIER_ALPHAS):
            losses[a] += pinball(actual[:, h - 1], past[:, -1] + changes[a], alpha).mean() / SMD_HORIZON
    return losses.tolist()


def random_walk_check(forecast: Forecast, context: int, n: int = 256, horizon: int = 60) -> dict[str, float]:
    """Seeded Gaussian random walks: how far the median strays from the last value, in units of sqrt(h), and the share
    of the ideal spread.
    """
    walks = np.random.default_rng(11).normal(size=(n, context)).cumsum(1)
    deciles = forecast(walks, horizon)
    root = np.sqrt(np.arange(1, horizon + 1))
    stray = (deciles[..., 4] - walks[:, -1:]) / root
    spread = (deciles[..., 8] - deciles[..., 0]) / (2 * 1.2816 * root)
    return {
        "median_stray_rms": float(np.sqrt(np.square(stray).mean())),
        "median_stray_mean": float(stray.mean()),
        "spread_over_ideal": float(spread.mean()),
    }


def measure(forecast: Forecast | None, benchmarks: Path, smd: Path | None, contexts: Sequence[int], origins: int) -> dict[str, Any]:
    """All yardsticks for the naive rows and, where given, a model at each context length."""
    methods: dict[str, tuple[Forecast, int, int]] = {
        "naive": (naive, 512, 1440),
        "seasonal_naive": (seasonal_naive(24), 512, 1440),
    }
    if forecast is not None:
        methods |= {f"model ctx{context}": (forecast, context, context) for context in contexts}
    result: dict[str, Any] = {}
    for name, (method, context, _) in methods.items():
        result[name] = {
            "fev_ETTh": fev_etth(benchmarks, method, context),
            "fev_bench_ETT_1H": fev_bench_ett_1h(benchmarks, method, context),
            "long_horizon_ETTh1": long_horizon(benchmarks, "ETTh1", method, context),
            "long_horizon_ETTh2": long_horizon(benchmarks, "ETTh2", method, context),
        }
        if name.startswith("model"):
            result[name]["random_walk"] = random_walk_check(method, context)
    if smd is not None:
        smd_methods: dict[str, tuple[Forecast, int]] = {
            "naive": (naive, 32),
            "seasonal_naive": (seasonal_naive(SMD_SEASON), SMD_SEASON),
        }
        smd_methods |= {name: (method, context) for name, (method, _, context) in methods.items() if name.startswith("model")}
        for name, row in smd_rows(load_smd(smd), smd_methods, origins).items():
            result.setdefault(name, {})["smd"] = row
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tsfm_pipeline.pretraining.yardsticks", description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", help="a release folder; without it only the naive rows")
    parser.add_argument("--benchmarks", type=Path, default=os.environ.get("TSFM_BENCHMARKS_DIR"), help="default: TSFM_BENCHMARKS_DIR")
    parser.add_argument("--smd", type=Path, help="the server fleet's Parquet")
    parser.add_argument("--contexts", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--origins", type=int, default=60, help="origins per smd series")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the JSON here too")
    options = parser.parse_args(arguments)
    if options.benchmarks is None:
        parser.error("--benchmarks or TSFM_BENCHMARKS_DIR: the folder of ETTh1.csv and ETTh2.csv")
    if options.threads:
        torch.set_num_threads(options.threads)
    forecast = checkpoint_forecast(options.checkpoint) if options.checkpoint else None
    text = json.dumps(measure(forecast, options.benchmarks, options.smd, options.contexts, options.origins), indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
