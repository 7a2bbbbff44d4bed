"""Measure on a GPU whether the forecaster is right there, and how fast it is.

`python benchmarks/cuda.py [--quick]` takes at most eight minutes on a machine with CUDA and prints
one JSON object: `checks`, which need no GPU, and `rows`. Each row runs in its own process with its
own time limit, so no row stops another. A row without figures gives the reason: no GPU, no time
left, or an error. Without a GPU, every row is "not measured", and the exit status is that of the
checks. `--rehearse` runs the code of every row on the CPU, with torch's operators and at toy sizes,
to find mistakes before a GPU is available. Its figures mean nothing and are not printed.

What belongs here: measurements that need a GPU, and checks for them that do not. What does not: the
entry point (`cuda`) and measurements on the CPU (`forecast_grid`, `request_latency`), whose helpers
this module uses.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from forecast_grid import STRIDE, difference, package_grid
from measuring import HORIZON, PLAIN, ran_on, ratios, seconds, spread, telemetry
from numpy.typing import NDArray
from request_latency import DAY, N_TENANTS, histories, search_engine, stages, usable_names
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tsfm_pipeline.autoresearch.space import validation_offsets
from tsfm_pipeline.forecaster import ForecastConfig, Panel
from tsfm_pipeline.forecaster.allocator import keep_large_buffers
from tsfm_pipeline.forecaster.architecture import (
    BUNDLED,
    INPUT_PATCH_LEN,
    N_OUTPUT_COLUMNS,
    TIMESFM_2_5_200M,
    Architecture,
    build_module,
)
from tsfm_pipeline.forecaster.cost import measure_rates, pass_flops, plan_cost
from tsfm_pipeline.forecaster.decoders import Decoder, frozen_decoder
from tsfm_pipeline.forecaster.engine import DTYPES, FrozenForecaster
from tsfm_pipeline.forecaster.plan import plan_grid
from tsfm_pipeline.forecaster.registry import CheckpointInfo, find_checkpoint, read_tensors
from tsfm_pipeline.forecaster.torch_decoder import TorchDecoder
from tsfm_pipeline.pretraining.network import initialise
from tsfm_pipeline.settings import PROJECT_ROOT, SearchSettings

TOTAL_S = 470
"""Seconds for all rows, which leaves time for start and end within eight minutes."""
TESTS = ("test_equality", "test_grid", "test_passes", "test_representation")
TEST_DEVICE = "FORECASTER_TEST_DEVICE"
"""Names the device for the tests' forecaster (`tsfm_pipeline_tests/forecaster/conftest.py`)."""
TOY = Architecture(
    model_dims=320,
    ff_dims=128,
    num_layers=2,
    num_heads=4,
    output_quantile_len=128,
    context_limit=16_384,
)
"""A small model whose heads are as wide as those of the 200M model."""
WAITS = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::is_nonzero",
    "aten::equal",
    "aten::nonzero",
    "aten::masked_select",
    "aten::unique_dim",
    "aten::_unique2",
}
"""Operators that make the host wait for their result or for its size."""
COPIES = {"aten::_to_copy", "aten::copy_"}
SEED = 0


class Trace(TorchDispatchMode):
    """Count the operators that are called. Record those that make the host wait or mix devices."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()
        self.waits: set[str] = set()
        self.mixed: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Record the operator and call it."""
        name = func.name().split(".")[0]
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        self.operators[name] += 1
        masks = name.startswith("aten::index") and any(
            tensor.dtype == torch.bool for tensor in tensors[1:]
        )
        if name in WAITS or masks:
            self.waits.add(name)
        if (
            name not in COPIES
            and len({tensor.device.type for tensor in tensors if tensor.ndim}) > 1
        ):
            self.mixed.add(name)
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Question:
    """A request to a decoder: the lengths of its windows in patches, and the horizon."""

    lengths: tuple[int, ...]
    horizon: int

    def put_to(self, decoder: Decoder) -> torch.Tensor:
        """Return a decoder's forecasts: after every patch for short horizons, and at the ends of
        windows for long ones.
        """
        groups = []
        for length, count in sorted(Counter(self.lengths).items()):
            padding = torch.arange(count, dtype=torch.int64) % INPUT_PATCH_LEN
            groups.append(
                (
                    torch.ones(count, length * INPUT_PATCH_LEN).to(decoder.device),
                    padding.to(decoder.device),
                )
            )
        lengths = np.sort(np.array(self.lengths))
        if self.horizon > 128:
            return decoder.decode(groups, np.arange(len(lengths)), lengths - 1, self.horizon)
        token = np.concatenate([np.arange(length) for length in lengths])
        return decoder.decode(
            groups, np.repeat(np.arange(len(lengths)), lengths), token, self.horizon
        )

    @property
    def n_forecasts(self) -> int:
        """Return the number of forecasts in the answer."""
        return len(self.lengths) if self.horizon > 128 else sum(self.lengths)


QUESTIONS = (Question((1, 3, 3, 17), 60), Question((5,), 128), Question((4, 4), 300))
SMALL_QUESTIONS = QUESTIONS[:1] + QUESTIONS[2:]


def check_on_meta(
    architecture: Architecture, dtype: torch.dtype, decoder_class: type[TorchDecoder] = TorchDecoder
) -> None:
    """Decode without data. Check the shapes, that all tensors are on one device, and that the host
    waits for nothing.

    The meta device refuses operators that need values. Like a GPU, it is a different device from
    the host's. Raises AssertionError with the problem.
    """
    with torch.device("meta"):
        module = build_module(architecture)
    decoder = decoder_class(architecture, module.state_dict(), torch.device("meta"), dtype)
    other_devices = {str(tensor.device) for tensor in decoder.parameters()} - {"meta"}
    assert not other_devices, f"weights stayed on {other_devices}"
    for question in QUESTIONS:
        with Trace() as trace:
            forecast = question.put_to(decoder)
        shape = (question.n_forecasts, question.horizon, N_OUTPUT_COLUMNS)
        assert tuple(forecast.shape) == shape, (
            f"{question}: shape {tuple(forecast.shape)}, expected {shape}"
        )
        assert forecast.device.type == "meta", f"{question}: the forecast is on {forecast.device}"
        _assert_clean(trace, question)


def check_trace(
    architecture: Architecture, dtype: torch.dtype, decoder_class: type[TorchDecoder] = TorchDecoder
) -> Counter[str]:
    """Decode on the CPU with torch's operators, and check that the host waits for none of them.

    Returns the operators that were called. Raises AssertionError naming those that wait.
    """
    module = build_module(architecture)
    initialise(module, SEED)
    decoder = decoder_class(architecture, module.state_dict(), torch.device("cpu"), dtype)
    operators: Counter[str] = Counter()
    for question in SMALL_QUESTIONS:
        with Trace() as trace:
            question.put_to(decoder)
        _assert_clean(trace, question)
        operators += trace.operators
    return operators


def _assert_clean(trace: Trace, question: Question) -> None:
    assert trace.operators, "nothing was traced"
    assert not trace.waits, f"{question}: the host waits for {sorted(trace.waits)}"
    assert not trace.mixed, f"{question}: tensors of two devices meet in {sorted(trace.mixed)}"


def checks() -> dict[str, Any]:
    """Run the checks that need no GPU. Return `passed`, or the error, for each."""
    results: dict[str, Any] = {}
    sizes = {"bundled": BUNDLED, "200m": TIMESFM_2_5_200M}
    for dtype in (torch.float32, torch.bfloat16):
        kind = str(dtype).removeprefix("torch.")
        for name, architecture in sizes.items():
            results[f"meta_{name}_{kind}"] = _result(
                lambda a=architecture, d=dtype: check_on_meta(a, d)
            )  # type: ignore[misc]
        results[f"trace_{kind}"] = _result(lambda d=dtype: check_trace(TOY, d))  # type: ignore[misc]
    return results


def _result(check: Callable[[], object]) -> str:
    try:
        check()
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "passed"


@dataclass(frozen=True)
class Setting:
    """The device and the sizes of the measurements."""

    device: str
    quick: bool
    rehearsal: bool

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Return the dtypes to measure."""
        return ("bfloat16",) if self.quick else ("float32", "bfloat16")

    def architecture(self, model: str) -> Architecture:
        """Return the architecture of a model, `bundled` or `200m`; in a rehearsal, the toy
        architecture.
        """
        if self.rehearsal:
            return TOY
        return {"bundled": BUNDLED, "200m": TIMESFM_2_5_200M}[model]

    def module(self, model: str) -> torch.nn.Module:
        """Return the package's module on the CPU, with the bundled weights or random ones."""
        module = build_module(self.architecture(model))
        if model == "bundled" and not self.rehearsal:
            module.load_state_dict(read_tensors(find_checkpoint("bundled")[2]))
        else:
            initialise(module, SEED)
        return module

    def forecaster(
        self, model: str, module: torch.nn.Module, dtype: str, device: str | None = None
    ) -> FrozenForecaster:
        """Return our forecaster with the module's weights on `device`, by default the setting's.
        With device="cpu" it uses the compiled loops.
        """
        architecture, place = self.architecture(model), torch.device(device or self.device)
        decoder = frozen_decoder(
            architecture, module.state_dict(), place, DTYPES[dtype], use_kernels=device == "cpu"
        )
        info = CheckpointInfo(
            name=model,
            source="this benchmark",
            revision=None,
            sha256="",
            licence="none",
            n_parameters=sum(parameter.numel() for parameter in module.parameters()),
            dims=architecture.model_dump(),
        )
        return FrozenForecaster(info, decoder)


def tests(setting: Setting) -> dict[str, Any]:
    """Run the forecaster's own tests with the forecaster on this device."""
    paths = [f"tsfm_pipeline_tests/forecaster/{name}.py" for name in TESTS]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "tests.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--junit-xml={log}",
            *paths,
        ]
        if setting.quick or setting.rehearsal:
            command += ["-k", "shortest_contexts or no_input_is_modified"]
        environment = {**os.environ, TEST_DEVICE: setting.device, "PYTHONPATH": str(PROJECT_ROOT)}
        run = subprocess.run(
            command, cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, check=False
        )
        if not log.exists():
            raise RuntimeError(f"pytest wrote no results: {(run.stdout + run.stderr)[-500:]}")
        cases = list(ElementTree.parse(log).iter("testcase"))
    failed = [
        str(case.get("name"))
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    if not cases or failed:
        raise RuntimeError(f"{len(failed)} of {len(cases)} tests failed: {', '.join(failed[:10])}")
    return {"n_passed": len(cases), "n_failed": 0}


def equality(setting: Setting) -> dict[str, Any]:
    """Return the difference of forecasts from the CPU's in float32, in units of each context's
    standard deviation.
    """
    values, origins, context_lens = grid_of(setting, n_series=8, context_lens=(64, 512, 1024))
    configs = [ForecastConfig(context_len=context_len) for context_len in context_lens]
    figures: dict[str, Any] = {}
    for model in ("bundled", "200m"):
        module = setting.module(model)
        on_cpu = setting.forecaster(model, module, "float32", device="cpu")
        for horizon in (HORIZON, 256):
            exact = on_cpu.forecast_grid(values, origins, configs, horizon)
            for dtype in ("float32", "bfloat16"):
                ours = setting.forecaster(model, module, dtype).forecast_grid(
                    values, origins, configs, horizon
                )
                name = f"{model}_{dtype}_horizon_{horizon}_difference_in_context_std"
                figures[name] = difference(ours, exact, deviation(values, origins, context_lens))
    return figures


def latency(setting: Setting, model: str) -> dict[str, Any]:
    """Time requests of four metrics, stage by stage, with K = 8 and 32 configurations."""
    values = telemetry(N_TENANTS)
    requests = histories(values)
    settings = SearchSettings()
    offsets = validation_offsets(settings, HORIZON, DAY)
    usable = usable_names(requests[0], settings)
    module, n_requests = (
        setting.module(model),
        2 if setting.rehearsal else 30 if setting.quick else 100,
    )
    figures: dict[str, Any] = {"n_metrics": values.shape[1], "n_requests": n_requests}
    for dtype in setting.dtypes:
        forecaster = setting.forecaster(model, module, dtype)
        for k in (8, 32):
            names = tuple(usable[i] for i in np.linspace(0, len(usable) - 1, k).round().astype(int))
            figures[f"{dtype}_k{k}"] = stages(
                search_engine(forecaster, values, names, offsets), requests, n_requests
            )
    return figures


def grid(setting: Setting, model: str) -> dict[str, Any]:
    """Time a large grid alternately with the package. Return the ratio, and the share of the rate
    of matrix products that the engine reaches.
    """
    values, origins, context_lens = grid_of(
        setting, n_series=64, context_lens=(64, 128, 256, 512, 1024, 2048)
    )
    configs = [ForecastConfig(context_len=context_len) for context_len in context_lens]
    module = setting.module(model)
    architecture, repeats = setting.architecture(model), 1 if setting.rehearsal else 3
    forecasters = {dtype: setting.forecaster(model, module, dtype) for dtype in setting.dtypes}
    module = module.to(setting.device)
    module.device = torch.device(setting.device)  # type: ignore[assignment]
    batch = 16 if setting.rehearsal else 512

    def of_package() -> NDArray[np.float32]:
        return package_grid(module, values, origins, context_lens, PLAIN, batch)

    exact = of_package()
    figures: dict[str, Any] = {
        "n_series": len(values),
        "n_origins": len(origins),
        "context_lens": context_lens,
        "package_batch": batch,
    }
    for dtype, forecaster in forecasters.items():

        def of_engine(forecaster: FrozenForecaster = forecaster) -> NDArray[np.float32]:
            return forecaster.forecast_grid(values, origins, configs, HORIZON)

        largest = difference(of_engine(), exact, deviation(values, origins, context_lens))
        ours, theirs = [], []
        for _ in range(repeats):
            ours.append(seconds(of_engine))
            theirs.append(seconds(of_package))
        table = np.broadcast_to(origins, (len(values), len(origins)))
        plan = plan_grid(Panel(values), table, configs, HORIZON, forecaster.token_budget)
        flops = plan_cost(plan, architecture, HORIZON, DTYPES[dtype].itemsize).flops
        median_s = statistics.median(wall for wall, _ in ours)
        own = measure_rates(
            forecaster, rows=256 if setting.rehearsal else 16_384, repeats=5
        ).matmul_flops_per_s
        square = product_rate(setting, DTYPES[dtype])
        figures[dtype] = {
            "ratio_to_package": ratios(theirs, ours, 0),
            "engine_s": spread([wall for wall, _ in ours]),
            "package_s": spread([wall for wall, _ in theirs]),
            "engine_tokens_per_s": round(plan.n_tokens / median_s),
            "share_of_rate_of_its_own_products": round(flops / median_s / own, 4),
            "share_of_rate_of_a_large_product": round(flops / median_s / square, 4),
            "tflops_per_s_of_a_large_product": round(square / 1e12, 2),
            "difference_to_package_in_context_std": largest,
        }
    return figures


def training(setting: Setting, model: str) -> dict[str, Any]:
    """Time training steps on batches that are large enough to keep the device busy, in patches per
    second.
    """
    from tsfm_pipeline.pretraining.corpus import PoolShape
    from tsfm_pipeline.pretraining.options import TrainOptions
    from tsfm_pipeline.pretraining.trainer import Trainer

    architecture, n_steps = setting.architecture(model), 2 if setting.rehearsal else 8
    sizes = (
        (512,) if setting.rehearsal else (16_384, 65_536) if model == "bundled" else (8_192, 32_768)
    )
    figures: dict[str, Any] = {}
    for batch_patches in sizes:
        pool = PoolShape(
            blocks=1, block_series=8 if setting.rehearsal else 512, renew_every=1_000_000
        )
        options = TrainOptions(seed=SEED, steps=1_000, batch_patches=batch_patches, pool=pool)
        trainer = Trainer(options, architecture, torch.device(setting.device))
        for _ in range(2):
            trainer.train_step()
        synchronise(setting)
        started = time.perf_counter()
        losses = [trainer.train_step()["loss"] for _ in range(n_steps)]
        synchronise(setting)
        rate = n_steps * batch_patches / (time.perf_counter() - started)
        flops = (
            3 * pass_flops(architecture, 64, 64, 128) / 64
        )  # per patch of a window of 64 patches; the backward pass costs twice the forward pass
        square = product_rate(setting, torch.bfloat16)
        figures[f"batch_{batch_patches}"] = {
            "patches_per_s": round(rate),
            "share_of_rate_of_a_large_product": round(rate * flops / square, 4),
            "loss_is_finite": bool(np.isfinite(losses).all()),
        }
        trainer.executor.shutdown()
    return figures


def grid_of(
    setting: Setting, n_series: int, context_lens: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.int64], tuple[int, ...]]:
    """Return telemetry [S, T], origins [O] and contexts; a rehearsal gets only a few of each."""
    n_origins = 8
    if setting.rehearsal:
        n_series, n_origins, context_lens = 4, 2, context_lens[:2]
    n_steps = max(context_lens) + n_origins * STRIDE
    values = np.ascontiguousarray(telemetry(n_series // 4).reshape(n_series, -1)[:, -n_steps:])
    return values, n_steps - 1 - STRIDE * np.arange(n_origins)[::-1], context_lens


def deviation(
    values: NDArray[np.float32], origins: NDArray[np.int64], context_lens: Sequence[int]
) -> NDArray[np.float64]:
    """Return the standard deviation of every context [S, O, K], NaN where a context is nearly
    constant.
    """
    by_context = [
        np.stack(
            [values[:, o + 1 - c : o + 1].std(axis=1, dtype=np.float64) for o in origins], axis=1
        )
        for c in context_lens
    ]
    std = np.stack(by_context, axis=2)
    return np.where(std > 1e-6 * np.abs(values).mean(axis=1)[:, None, None], std, np.nan)


def product_rate(setting: Setting, dtype: torch.dtype) -> float:
    """Return the operations per second that the device reaches on a large square matrix product."""
    size = 256 if setting.rehearsal else 8_192
    a, b = (torch.randn(size, size, device=setting.device).to(dtype) for _ in range(2))
    durations_s = []
    for _ in range(6):
        synchronise(setting)
        started = time.perf_counter()
        a @ b
        synchronise(setting)
        durations_s.append(time.perf_counter() - started)
    return float(2 * size**3 / min(durations_s[1:]))


def synchronise(setting: Setting) -> None:
    """Wait until the device has finished its work."""
    if setting.device == "cuda":
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Row:
    """A measurement and its time limit in seconds, including the start of its process."""

    measure: Callable[[Setting], dict[str, Any]]
    budget_s: float


ROWS = {
    "equality_with_the_cpu": Row(equality, 50),
    "latency_bundled": Row(lambda setting: latency(setting, "bundled"), 45),
    "latency_200m": Row(lambda setting: latency(setting, "200m"), 60),
    "grid_bundled": Row(lambda setting: grid(setting, "bundled"), 45),
    "grid_200m": Row(lambda setting: grid(setting, "200m"), 75),
    "training_bundled": Row(lambda setting: training(setting, "bundled"), 40),
    "training_200m": Row(lambda setting: training(setting, "200m"), 45),
    "tests": Row(tests, 100),
}


def measured(name: str, arguments: Sequence[str], limit_s: float) -> dict[str, Any]:
    """Run one row in its own process. Return its figures, or the reason why there are none."""
    started = time.perf_counter()
    command = [
        sys.executable,
        str(Path(__file__).with_name("cuda.py").absolute()),
        "--row",
        name,
        *arguments,
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return not_measured(f"its time ran out after {limit_s:.0f} s")
    if process.returncode:
        return {
            "status": "error",
            "error": err.strip()[-500:] or f"its process ended with status {process.returncode}",
        }
    figures: dict[str, Any] = json.loads(out.splitlines()[-1])
    return {"status": "measured", "wall_s": round(time.perf_counter() - started, 1), **figures}


def not_measured(reason: str) -> dict[str, Any]:
    """Return a row without figures."""
    return {"status": "not measured", "reason": reason}


def measure(
    names: Sequence[str], setting: Setting, arguments: Sequence[str], total_s: float
) -> dict[str, Any]:
    """Run all checks, then the named rows one after the other until the time is spent."""
    started = time.perf_counter()
    has_gpu = torch.cuda.is_available()
    result: dict[str, Any] = {
        "benchmark": "gpu",
        "gpu": torch.cuda.get_device_name() if has_gpu else None,
        "checks": checks(),
    }
    rows: dict[str, dict[str, Any]] = {}
    for name in names:
        left_s = total_s - (time.perf_counter() - started)
        if not has_gpu and not setting.rehearsal:
            rows[name] = not_measured("no GPU: torch sees no CUDA device here")
        elif left_s < 1:
            rows[name] = not_measured(f"the {total_s:.0f} s for all rows are spent")
        else:
            row = measured(
                name, arguments, left_s if setting.rehearsal else min(ROWS[name].budget_s, left_s)
            )
            if setting.rehearsal and row["status"] == "measured":
                row = not_measured("a rehearsal on the CPU; it finished without an error")
            rows[name] = row
    return result | {
        "rows": rows,
        "quick": setting.quick,
        "wall_s": round(time.perf_counter() - started, 1),
        **ran_on(),
    }


def failed(result: dict[str, Any]) -> bool:
    """Return whether a check did not pass or a row met an error."""
    return any(check != "passed" for check in result["checks"].values()) or any(
        row["status"] == "error" for row in result["rows"].values()
    )


def main() -> int:
    """Measure with the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a quick look: bfloat16 only, fewer requests, and three tests",
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=list(ROWS),
        default=list(ROWS),
        metavar="ROW",
        help=f"rows to measure, from {', '.join(ROWS)}",
    )
    parser.add_argument(
        "--seconds", type=float, default=TOTAL_S, help="time limit in seconds for all rows"
    )
    parser.add_argument(
        "--rehearse", action="store_true", help="run every row's code on the CPU, at toy sizes"
    )
    parser.add_argument("--row", choices=list(ROWS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    setting = Setting(
        device="cpu" if options.rehearse else "cuda",
        quick=options.quick,
        rehearsal=options.rehearse,
    )
    if options.row:
        keep_large_buffers()
        print(json.dumps(ROWS[options.row].measure(setting)))
        return 0
    arguments = [f"--{name}" for name in ("quick", "rehearse") if getattr(options, name)]
    result = measure(options.rows, setting, arguments, options.seconds)
    print(json.dumps(result))
    return int(failed(result))
