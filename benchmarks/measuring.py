"""Share helpers among the benchmarks: clocks, spread, telemetry, the package's model with our
weights, and a description of the machine.

What belongs here: helpers without figures of their own. What does not: what is measured (the other
files). This file prints nothing.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import timesfm
import torch
from numpy.typing import NDArray

from tsfm_pipeline.fleets import SyntheticFleet, load_spec
from tsfm_pipeline.fleets.synthetic import SyntheticSource
from tsfm_pipeline.forecaster.architecture import build_module
from tsfm_pipeline.forecaster.registry import find_checkpoint, read_tensors
from tsfm_pipeline.settings import PROJECT_ROOT

HORIZON = 60
PLAIN = {"use_continuous_quantile_head": False, "force_flip_invariance": False}
"""The package without flip invariance and without its continuous head: the same plain forward pass
as the engine's.
"""
DEFAULTS: dict[str, bool] = {}
"""The package's own defaults for both options."""


def telemetry(n_tenants: int) -> NDArray[np.float32]:
    """Generate telemetry [N, D, T] of the synthetic fleet's first tenants: 30 days, one step per
    minute.
    """
    spec = load_spec(PROJECT_ROOT / "data" / "fleets" / "synthetic.yaml")
    assert isinstance(spec, SyntheticFleet)
    return SyntheticSource(spec).values(list(range(n_tenants)))


def package_module(checkpoint: str, compiled: bool = False) -> torch.nn.Module:
    """Return the package's module with the weights of our checkpoint. With `compiled`, compile its
    forward pass as the package's loader does with torch_compile=True.
    """
    _, architecture, path = find_checkpoint(checkpoint)
    module = build_module(architecture)
    module.load_state_dict(read_tensors(path))
    if compiled:
        module.forward = torch.compile(module.forward)
    return module


def package_forecaster(
    module: torch.nn.Module, context_len: int, batch: int, options: dict[str, bool]
) -> timesfm.TimesFM_2p5_200M_torch:
    """Return the package's forecaster, compiled (in the package's sense) for one context length and
    batch size.
    """
    package = timesfm.TimesFM_2p5_200M_torch.__new__(timesfm.TimesFM_2p5_200M_torch)
    package.model, package.torch_compile = module, False
    package.compile(
        timesfm.ForecastConfig(
            max_context=context_len,
            max_horizon=HORIZON,
            per_core_batch_size=batch,
            infer_is_positive=False,
            fix_quantile_crossing=True,
            **options,
        )
    )
    return package


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Return the wall-clock time and the processor time of one run."""
    start, start_cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start, time.process_time() - start_cpu


def ratios(
    theirs: Sequence[tuple[float, float]], ours: Sequence[tuple[float, float]], clock: int
) -> dict[str, float]:
    """Return the spread of the ratios of neighbouring runs, by wall-clock time (clock 0) or by
    processor time (clock 1).
    """
    return spread([them[clock] / us[clock] for them, us in zip(theirs, ours, strict=True)])


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, minimum and maximum."""
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def ran_on() -> dict[str, Any]:
    """Return the machine, threads, load and versions."""
    info = Path("/proc/cpuinfo")
    names = (
        [line for line in info.read_text().splitlines() if "model name" in line]
        if info.exists()
        else []
    )
    return {
        "threads": torch.get_num_threads(),
        "load_average_1min": round(os.getloadavg()[0], 2),
        "machine": f"{names[0].split(':')[1].strip() if names else platform.processor()}, "
        f"{os.cpu_count()} cores",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numba", "timesfm", "numpy")},
        },
    }
