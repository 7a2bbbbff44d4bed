"""What multiplies the matrices of the compiled decoder: measured once per machine, and kept.

What belongs here: the products to choose from, the rule of the choice, the measurement, and the
file that keeps it. What does not: the products themselves (`kernels`, `compiled_decoder`), and the
rates of a whole plan (`cost`). Importing this module raises ImportError where the compiled loops
are not available.
"""

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import get_clock_info, perf_counter, thread_time

import numba
import torch

from tsfm_pipeline.files import StorageError, fingerprint, put_if_absent, write_text_atomically
from tsfm_pipeline.forecaster import kernels
from tsfm_pipeline.forecaster.architecture import Architecture
from tsfm_pipeline.forecaster.compiled_decoder import (
    PackedMatrix,
    compiled_cache,
    compiling,
    library_of,
    onednn,
)

log = logging.getLogger(__name__)

AUTO = "auto"
PRODUCTS = {
    "loops": "the compiled loops, in the decoder's dtype",
    "onednn": "oneDNN's small blocks, called from the loops, in the decoder's dtype",
    "float32": "the compiled loops in float32, for a decoder in bfloat16",
}
"""What may multiply, by name."""
CLEARLY_FASTER = 1.25
"""How many times as fast as the loops another product must be to be chosen. In float32
oneDNN was measured at 1.04 to 1.14 times the loops on one Xeon: such a choice would change with the
load of the machine.
"""
ROWS = 128
ROUNDS = 5
SECONDS = 0.03
"""The measurement lasts for at least so many rounds of all products and this many seconds."""
_CLOCK = thread_time if get_clock_info("thread_time").resolution < 1e-5 else perf_counter
"""Processor time, where it is fine enough: it does not pass while another process runs."""


@dataclass(frozen=True)
class Choice:
    """A product, and why it was chosen, in words."""

    product: str
    reason: str


def usable_products(dtype: torch.dtype) -> tuple[str, ...]:
    """Return the products that a decoder in this dtype can use on this machine."""
    names = ["loops"]
    if onednn(dtype) is not None:
        names.append("onednn")
    if dtype != torch.float32:
        names.append("float32")
    return tuple(names)


def choose(rates: Mapping[str, float], dtype: torch.dtype) -> str:
    """Return the product to use at these rates (of `usable_products`, in any one unit).

    The loops are preferred unless another product is clearly faster. A bfloat16 product that is
    slower than float32 is never chosen, because it would cost accuracy and time.
    """
    rivals = {name: rate for name, rate in rates.items() if name != "float32"}
    if dtype != torch.float32:
        rivals = {name: rate for name, rate in rivals.items() if rate >= rates["float32"]}
    if not rivals:
        return "float32"
    fastest = max(rivals, key=lambda name: rivals[name])
    if rivals[fastest] < CLEARLY_FASTER * rivals.get("loops", 0.0):
        return "loops"
    return fastest


def product_for(
    architecture: Architecture,
    dtype: torch.dtype,
    wanted: str = AUTO,
    measure: Callable[[Architecture, torch.dtype], dict[str, float]] | None = None,
) -> Choice:
    """Return the wanted product, or for `auto` the one that the kept rates of this machine choose.

    If no rates are kept, measure them (`measured_rates` by default; a few hundredths of a second)
    and keep them beside the compiled loops. Where several processes measure at once, the rates that
    were kept first count for all. Where none can be kept, each process measures its own.

    Raises ValueError for a product that this machine or dtype does not have, and `LoopsUnavailable`
    if the loops cannot be compiled.
    """
    usable = usable_products(dtype)
    if wanted != AUTO:
        if wanted not in usable:
            allowed = ", ".join((AUTO, *usable))
            raise ValueError(
                f"matrix_product (TSFM_MATRIX_PRODUCT) is {wanted!r}; allowed for {_name(dtype)} "
                f"on this machine: {allowed}"
            )
        return Choice(wanted, "as set")
    if len(usable) == 1:
        return Choice(usable[0], "the only one here")
    rates = kept_rates(architecture, dtype)
    if rates is None:
        rates = (measure or measured_rates)(architecture, dtype)
        try:
            rates = _keep(architecture, dtype, rates)
        except (OSError, StorageError) as error:
            log.info("the rates of the matrix products cannot be kept: %s", error)
    return Choice(choose(rates, dtype), in_words(rates))


def kept_choice(
    architecture: Architecture, dtype: torch.dtype, wanted: str = AUTO
) -> Choice | None:
    """Return what `product_for` would, without compiling or measuring; None if nothing is kept.
    Raises ValueError as it does.
    """
    if wanted == AUTO and len(usable_products(dtype)) > 1:
        rates = kept_rates(architecture, dtype)
        return None if rates is None else Choice(choose(rates, dtype), in_words(rates))
    return product_for(architecture, dtype, wanted)


def in_words(rates: Mapping[str, float]) -> str:
    """Return rates, in GFLOP/s, as a reason."""
    return ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items()) + " GFLOP/s"


def measured_rates(architecture: Architecture, dtype: torch.dtype) -> dict[str, float]:
    """Return the rate of each usable product, in GFLOP/s, on one thread, as a batch uses it: the
    products of a layer with `ROWS` tokens.

    The products take turns, and the fastest turn of each counts, because other load on the machine
    can only lower a rate.
    """
    sizes = (
        (2 * architecture.model_dims, architecture.model_dims),
        (architecture.ff_dims, architecture.model_dims),
        (architecture.model_dims, architecture.ff_dims),
    )
    works = {name: _work(name, dtype, sizes) for name in usable_products(dtype)}
    with compiling(), torch.inference_mode():
        for work in works.values():
            work()
        fastest = dict.fromkeys(works, float("inf"))
        started = _CLOCK()
        n_rounds = 0
        while n_rounds < ROUNDS or _CLOCK() - started < SECONDS:
            for name, work in works.items():
                before = _CLOCK()
                work()
                fastest[name] = min(fastest[name], _CLOCK() - before)
            n_rounds += 1
    flops = 2 * ROWS * sum(n_outputs * n_inputs for n_outputs, n_inputs in sizes)
    return {name: flops / seconds / 1e9 for name, seconds in fastest.items()}


def kept_rates(architecture: Architecture, dtype: torch.dtype) -> dict[str, float] | None:
    """Return the rates that this machine keeps; None if there are none or they cannot be read."""
    try:
        content = json.loads(_file(architecture, dtype).read_text(encoding="utf-8"))
        rates = {name: float(rate) for name, rate in content["gflops_per_s"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    usable = usable_products(dtype)
    if set(rates) != set(usable) or not all(0 < rate < float("inf") for rate in rates.values()):
        return None
    return {name: rates[name] for name in usable}


def _keep(
    architecture: Architecture, dtype: torch.dtype, rates: dict[str, float]
) -> dict[str, float]:
    """Keep these rates unless others are kept already; return those that count. Raises OSError or
    `StorageError` if they cannot be kept.
    """
    path = _file(architecture, dtype)
    text = json.dumps({"gflops_per_s": rates, **_key(architecture, dtype)}, indent=1)
    with suppress(StorageError):  # a file system without hard links: the last one counts
        if put_if_absent(path, partial(_write, text)):
            return rates
        if first := kept_rates(architecture, dtype):
            return first
    write_text_atomically(path, text)
    return rates


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _work(
    product: str, dtype: torch.dtype, sizes: tuple[tuple[int, int], ...]
) -> Callable[[], None]:
    """Return a function that multiplies some rows by matrices of these sizes [N, K]."""
    of_matrices = torch.float32 if product == "float32" else dtype
    generator = torch.Generator().manual_seed(0)
    library = library_of(product, of_matrices)
    pairs = [
        (
            PackedMatrix.of(torch.randn(n, k, generator=generator).to(of_matrices), library),
            torch.randn(ROWS, k, generator=generator).to(of_matrices),
        )
        for n, k in sizes
    ]

    def work() -> None:
        for matrix, x in pairs:
            matrix.times(x)

    return work


def _file(architecture: Architecture, dtype: torch.dtype) -> Path:
    folder, _ = compiled_cache()
    return folder / f"products-{fingerprint(_key(architecture, dtype))}.json"


def _key(architecture: Architecture, dtype: torch.dtype) -> dict[str, object]:
    """Return what rates depend on. The number of threads is not part of it: a batch runs on one,
    and a choice that depended on it would make forecasts depend on it.
    """
    return {
        "processor": _processor(),
        "target": kernels.TARGET,
        "torch": torch.__version__,
        "numba": numba.__version__,
        "dtype": _name(dtype),
        "usable": usable_products(dtype),
        "dims": [architecture.model_dims, architecture.ff_dims],
    }


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name and flags as Linux gives them; empty elsewhere, where numba's
    target must do.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    first = {line.split(":")[0].strip(): line for line in reversed(lines) if ":" in line}
    return " ".join(first[name] for name in ("model name", "flags") if name in first)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
