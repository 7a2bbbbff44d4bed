"""Measure how much faster the grid engine is than the `timesfm` package, on the same weights and
windows.

`python benchmarks/forecast_grid.py [--quick] [--dtype bfloat16] [--compiled]` prints one JSON
object.

The package gets the best conditions that its interface offers. It is compiled (in the package's
sense) for each context length and called with batches of 128. It runs once without flip invariance
and without the continuous head (the same plain forward pass as the engine's), and once with both at
its defaults. With `--compiled` it also runs with its forward pass through torch.compile, as its own
loader does. A last rival is the engine itself with torch's operators in place of its compiled loops
(`forecaster.torch_decoder`).

The contestants alternate, so that a machine that slows down affects all of them. Ratios are medians
over neighbouring runs. With another dtype than float32, the result includes the engine's difference
from its own float32; the package always computes in float32.

What belongs here: the measurement. What does not: the engine (`tsfm_pipeline.forecaster`) and its
correctness (its tests).
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
from measuring import (
    DEFAULTS,
    HORIZON,
    PLAIN,
    package_forecaster,
    package_module,
    ran_on,
    ratios,
    seconds,
    spread,
    telemetry,
)
from numpy.typing import NDArray

from tsfm_pipeline.forecaster import ForecastConfig
from tsfm_pipeline.forecaster.allocator import keep_large_buffers
from tsfm_pipeline.forecaster.engine import DTYPES, load_forecaster

PACKAGE_BATCH = 128
N_ORIGINS = 8
STRIDE = 61
"""Steps between origins. It is not a multiple of 32, so neighbouring origins have different patch
boundaries and the engine cannot share passes between them.
"""


def package_grid(
    module: torch.nn.Module,
    values: NDArray[np.float32],
    origins: NDArray[np.int64],
    context_lens: Sequence[int],
    options: dict[str, bool],
    batch: int = PACKAGE_BATCH,
) -> NDArray[np.float32]:
    """Return the package's forecasts [S, O, K, H, 10], made in batches of one context length."""
    grids = []
    for context_len in context_lens:
        package = package_forecaster(module, context_len, batch, options)
        windows = [
            series[origin + 1 - context_len : origin + 1] for series in values for origin in origins
        ]
        grids.append(
            package.forecast(HORIZON, windows)[1].reshape(len(values), len(origins), HORIZON, 10)
        )
    return np.stack(grids, axis=2)


def difference(
    ours: NDArray[np.float32], theirs: NDArray[np.float32], deviation: NDArray[np.float64]
) -> dict[str, float]:
    """Return the distribution over windows of the largest difference in each window [S, O, K, H,
    10], in units of its context's standard deviation [S, O, K].
    """
    known = np.isfinite(deviation)
    shares = np.abs(ours - theirs).max(axis=(3, 4))[known] / deviation[known]
    figures = {
        "largest": shares.max(),
        "p99": np.quantile(shares, 0.99),
        "median": np.median(shares),
    }
    return {name: float(f"{value:.3g}") for name, value in figures.items()}


def measure(
    checkpoint: str,
    dtype: str,
    quick: bool,
    repeats: int,
    compiled: bool,
    threads: int | None,
    matrix_product: str,
) -> dict[str, object]:
    """Run the contestants alternately, `repeats` times each, and compare them."""
    engine = load_forecaster(
        checkpoint, device="cpu", dtype=dtype, n_threads=threads, matrix_product=matrix_product
    )
    n_series, context_lens = (
        (16, (64, 256, 1024)) if quick else (64, (64, 128, 256, 512, 1024, 2048))
    )
    n_steps = max(context_lens) + N_ORIGINS * STRIDE
    values = np.ascontiguousarray(telemetry(n_series // 4).reshape(n_series, -1)[:, -n_steps:])
    origins = n_steps - 1 - STRIDE * np.arange(N_ORIGINS)[::-1]
    configs = [ForecastConfig(context_len=context_len) for context_len in context_lens]
    module = package_module(checkpoint)
    without_kernels = load_forecaster(
        checkpoint, device="cpu", dtype=dtype, n_threads=threads, use_kernels=False
    )
    contestants: dict[str, Callable[[], NDArray[np.float32]]] = {
        "engine": lambda: engine.forecast_grid(values, origins, configs, HORIZON),
        "package": lambda: package_grid(module, values, origins, context_lens, PLAIN),
        "package_defaults": lambda: package_grid(module, values, origins, context_lens, DEFAULTS),
        "torch_operators": lambda: without_kernels.forecast_grid(values, origins, configs, HORIZON),
    }
    if compiled:
        through_inductor = package_module(checkpoint, compiled=True)
        contestants["package_compiled"] = lambda: package_grid(
            through_inductor, values, origins, context_lens, PLAIN
        )
    warm = {name: run() for name, run in contestants.items()}
    std = np.stack(
        [
            np.stack(
                [values[:, o + 1 - c : o + 1].std(axis=1, dtype=np.float64) for o in origins], 1
            )
            for c in context_lens
        ],
        2,
    )
    deviation = np.where(std > 1e-6 * np.abs(values).mean(axis=1)[:, None, None], std, np.nan)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            times[name].append(seconds(run))
    rivals = [name for name in contestants if name != "engine"]
    n_tokens = n_series * N_ORIGINS * sum(config.n_tokens for config in configs)
    result: dict[str, object] = {
        "benchmark": "forecast_grid",
        **{f"ratio_to_{name}": ratios(times[name], times["engine"], 0) for name in rivals},
        **{
            f"processor_time_ratio_to_{name}": ratios(times[name], times["engine"], 1)
            for name in rivals
        },
        **{f"{name}_s": spread([wall for wall, _ in runs]) for name, runs in times.items()},
        "engine_tokens_per_s": round(
            n_tokens / statistics.median(wall for wall, _ in times["engine"])
        ),
        "difference_to_package_in_context_std": difference(
            warm["engine"], warm["package"], deviation
        ),
    }
    if dtype != "float32":
        exact = load_forecaster(checkpoint, device="cpu").forecast_grid(
            values, origins, configs, HORIZON
        )
        result["difference_to_float32_in_context_std"] = difference(
            warm["engine"], exact, deviation
        )
    return result | {
        "n_series": n_series,
        "n_origins": N_ORIGINS,
        "context_lens": context_lens,
        "horizon": HORIZON,
        "repeats": repeats,
        "checkpoint": engine.checkpoint.name,
        "n_parameters": engine.checkpoint.n_parameters,
        "dtype": dtype,
        "token_budget": engine.token_budget,
        "matrix_product": engine.decoder.product,
        "package_batch": PACKAGE_BATCH,
        **ran_on(),
    }


def main() -> int:
    """Measure with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a quick look: 16 series and contexts up to 1,024"
    )
    parser.add_argument(
        "--checkpoint", default="bundled", help="checkpoint name or folder, as in load_forecaster"
    )
    parser.add_argument("--dtype", default="float32", choices=list(DTYPES))
    parser.add_argument(
        "--matrix-product",
        default="auto",
        choices=["auto", "loops", "onednn", "float32"],
        help="what multiplies the engine's matrices (TSFM_MATRIX_PRODUCT)",
    )
    parser.add_argument(
        "--compiled",
        action="store_true",
        help="also run the package with torch.compile; its warm-up takes minutes",
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--threads",
        type=int,
        help="number of threads; 1 makes processor times comparable on a busy machine",
    )
    options = parser.parse_args()
    keep_large_buffers()
    print(json.dumps(measure(**vars(options))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
