"""How much faster is the grid engine than the `timesfm` package, on the same weights and the same windows?

`python benchmarks/forecast_grid.py [--quick] [--checkpoint random] [--dtype float32]` prints one JSON object. The
package is given every advantage that its interface has: it is compiled for each context length and called with batches
of 128, once without flip invariance and without the continuous head (the plain forward pass that the engine computes,
too) and once with both at its defaults. Runs alternate, so that a machine that slows down slows all; ratios are medians
of the ratios of neighbouring runs. Here: the measurement alone. Not here: what the engine does
(`tsfm_pipeline.forecaster`) and whether it is right (its tests).
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import timesfm
import torch

from tsfm_pipeline.forecaster import ForecastConfig
from tsfm_pipeline.forecaster.architecture import BUNDLED, Architecture, build_module
from tsfm_pipeline.forecaster.engine import DTYPES, FrozenForecaster, load_forecaster
from tsfm_pipeline.forecaster.model import FrozenDecoder
from tsfm_pipeline.forecaster.registry import CheckpointInfo, find_checkpoint, read_tensors

HORIZON = 60
PACKAGE_BATCH = 128


def random_weights(architecture: Architecture, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights with which nothing is zero or infinite; what they are does not change how long a pass takes."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.ones_like(tensor) if tensor.ndim == 1 else torch.randn(tensor.shape, generator=generator) / tensor.shape[-1] ** 0.5
        for name, tensor in build_module(architecture).state_dict().items()
    }


def engine_and_module(checkpoint: str, dtype: str) -> tuple[FrozenForecaster, torch.nn.Module]:
    """The engine on the CPU and the package's module, on the same weights."""
    if checkpoint == "random":
        architecture, tensors = BUNDLED, random_weights(BUNDLED)
        n_parameters = sum(tensor.numel() for tensor in tensors.values())
        info = CheckpointInfo(
            name="random",
            source="random",
            revision=None,
            sha256="",
            licence="",
            n_parameters=n_parameters,
            dims=architecture.model_dump(),
        )
        engine = FrozenForecaster(info, FrozenDecoder(architecture, tensors, torch.device("cpu"), DTYPES[dtype]))
    else:
        engine = load_forecaster(checkpoint, device="cpu", dtype=dtype)
        _, architecture, path = find_checkpoint(checkpoint)
        tensors = read_tensors(path)
    module = build_module(architecture)
    module.load_state_dict(tensors)
    return engine, module


def package_grid(module: torch.nn.Module, values: np.ndarray, origins: np.ndarray, context_lens: list[int], defaults: bool) -> np.ndarray:
    """The package's forecasts [S, O, K, H, 10], batched per context length."""
    package = timesfm.TimesFM_2p5_200M_torch.__new__(timesfm.TimesFM_2p5_200M_torch)
    package.model, package.torch_compile = module, False
    grids = []
    for context_len in context_lens:
        package.compile(
            timesfm.ForecastConfig(
                max_context=context_len,
                max_horizon=HORIZON,
                per_core_batch_size=PACKAGE_BATCH,
                use_continuous_quantile_head=defaults,
                force_flip_invariance=defaults,
                infer_is_positive=False,
                fix_quantile_crossing=True,
            )
        )
        windows = [series[origin + 1 - context_len : origin + 1] for series in values for origin in origins]
        forecast = package.forecast(HORIZON, windows)[1]
        grids.append(forecast.reshape(len(values), len(origins), HORIZON, 10))
    return np.stack(grids, axis=2)


def seconds(run: Callable[[], np.ndarray]) -> tuple[float, float]:
    """Wall and processor time of one run."""
    start, start_cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start, time.process_time() - start_cpu


def ratios(theirs: list[tuple[float, float]], ours: list[tuple[float, float]], clock: int) -> dict[str, float]:
    """Of neighbouring runs, by the wall clock (0) or by processor time (1)."""
    return spread([them[clock] / us[clock] for them, us in zip(theirs, ours, strict=True)])


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def measure(checkpoint: str, dtype: str, quick: bool, repeats: int, threads: int | None) -> dict[str, object]:
    """Alternate the three contestants `repeats` times and compare."""
    engine, module = engine_and_module(checkpoint, dtype)
    torch.set_num_threads(threads or os.cpu_count() or 1)
    n_series, n_origins = (16, 8) if quick else (64, 8)
    context_lens = [64, 256, 1024] if quick else [64, 128, 256, 512, 1024, 2048]
    rng = np.random.default_rng(0)
    n_steps = max(context_lens) + 100
    values = (np.sin(np.arange(n_steps) / 50) + 0.1 * rng.normal(size=(n_series, n_steps)).cumsum(1)).astype(np.float32)
    origins = np.linspace(max(context_lens), n_steps - 1, n_origins).astype(np.int64)
    configs = [ForecastConfig(context_len=context_len) for context_len in context_lens]
    contestants: dict[str, Callable[[], np.ndarray]] = {
        "engine": lambda: engine.forecast_grid(values, origins, configs, HORIZON),
        "package_plain": lambda: package_grid(module, values, origins, context_lens, defaults=False),
        "package_defaults": lambda: package_grid(module, values, origins, context_lens, defaults=True),
    }
    ours, theirs = contestants["engine"](), contestants["package_plain"]()
    contestants["package_defaults"]()
    deviation = np.stack([np.stack([values[:, o + 1 - c : o + 1].std(axis=1) for o in origins], axis=1) for c in context_lens], axis=2)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            times[name].append(seconds(run))
    n_tokens = n_series * n_origins * sum(config.n_tokens for config in configs)
    return {
        "benchmark": "forecast_grid",
        "ratio_to_package": ratios(times["package_plain"], times["engine"], 0),
        "ratio_to_package_defaults": ratios(times["package_defaults"], times["engine"], 0),
        "processor_time_ratio_to_package": ratios(times["package_plain"], times["engine"], 1),
        "processor_time_ratio_to_package_defaults": ratios(times["package_defaults"], times["engine"], 1),
        "largest_difference_in_context_std": float(f"{(np.abs(ours - theirs).max(axis=(3, 4)) / deviation).max():.3g}"),
        **{f"{name}_s": spread([wall for wall, _ in runs]) for name, runs in times.items()},
        "engine_tokens_per_s": round(n_tokens / statistics.median(wall for wall, _ in times["engine"])),
        "engine_tokens_per_processor_s": round(n_tokens / statistics.median(cpu for _, cpu in times["engine"])),
        "n_series": n_series,
        "n_origins": n_origins,
        "context_lens": context_lens,
        "horizon": HORIZON,
        "repeats": repeats,
        "checkpoint": engine.checkpoint.name,
        "n_parameters": engine.checkpoint.n_parameters,
        "dtype": dtype,
        "token_budget": engine.token_budget,
        "package_batch": PACKAGE_BATCH,
        "threads": torch.get_num_threads(),
        "load_average_1min": round(os.getloadavg()[0], 2),
        "machine": cpu_name(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "timesfm", "numpy")},
        },
    }


def cpu_name() -> str:
    """Processor and number of cores."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    return f"{names[0].split(':')[1].strip() if names else platform.processor()}, {os.cpu_count()} cores"


def main() -> int:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="16 series and contexts to 1024, for a look")
    parser.add_argument("--checkpoint", default="random", help="random (the bundled size), or what load_forecaster takes")
    parser.add_argument("--dtype", default="float32", choices=list(DTYPES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="1 makes processor times comparable on a busy machine")
    options = parser.parse_args()
    print(json.dumps(measure(options.checkpoint, options.dtype, options.quick, options.repeats, options.threads)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
