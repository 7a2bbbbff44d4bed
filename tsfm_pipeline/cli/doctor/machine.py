"""Findings about the program and the machine: versions, processor, BLAS, the model and its decoder.

What belongs here: what decides the speed and the last digits of forecasts. What does not:
folders and disks (`folders`), fleets (`fleets`).
"""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from tsfm_pipeline.cli.doctor.findings import Finding, Section
from tsfm_pipeline.cli.doctor.folders import refusal
from tsfm_pipeline.settings import Settings

if TYPE_CHECKING:
    from tsfm_pipeline.forecaster.architecture import Architecture

PACKAGES = ("numpy", "torch", "polars", "duckdb", "dagster", "numba")
FEATURES = {
    "AVX2": "avx2",
    "FMA": "fma",
    "AVX-512": "avx512f",
    "AVX-512 bfloat16": "avx512_bf16",
    "AMX": "amx_tile",
    "AMX bfloat16": "amx_bf16",
}
"""Linux's name of each feature, by its usual name."""


def program_section() -> Section:
    """Return the versions of the program, Python and the packages that decide results."""
    from tsfm_pipeline import __version__
    from tsfm_pipeline.distribution import commit

    own = Finding("tsfm-pipeline", f"{__version__} (commit {commit() or 'unknown'})")
    python = Finding("Python", platform.python_version())
    return Section("program", "program", [own, python, *map(_package, PACKAGES)])


def _package(name: str) -> Finding:
    try:
        return Finding(name, version(name))
    except PackageNotFoundError:
        return Finding(name, "not installed", "problem", "install tsfm-pipeline again with pip")


def numerics_section() -> Section:
    """Return the BLAS library and kernel, the processor's features, cores and threads."""
    from tsfm_pipeline.catalogue.shards import blas_kernel

    kernel = Finding("BLAS kernel", blas_kernel() or "unknown")
    return Section("numerics", "numerics", [kernel, _processor(), _threads()])


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Finding:
    if not cpuinfo.is_file():
        return Finding("processor", f"{platform.machine()}; its features are not known here")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    said = ", ".join(
        f"{name} {'yes' if flag in flags else 'no'}" for name, flag in FEATURES.items()
    )
    if {"avx2", "fma"} <= flags:
        return Finding("processor", said)
    remedy = "forecast on a processor with AVX2 and FMA to use the compiled loops"
    return Finding("processor", said, "warning", remedy)


def _threads() -> Finding:
    affinity = getattr(os, "sched_getaffinity", None)
    usable = len(affinity(0)) if affinity else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    said = f"{usable} cores usable of {os.cpu_count()}, OMP_NUM_THREADS {wanted or 'unset'}"
    if wanted.isdecimal() and int(wanted) > usable:
        return Finding("threads", said, "warning", f"set OMP_NUM_THREADS to at most {usable}")
    return Finding("threads", said)


def model_section(settings: Settings) -> Section:
    """Return the checkpoint, the device, the decoder and the folder of its compiled loops."""
    import torch

    from tsfm_pipeline.forecaster.decoders import loops_refused
    from tsfm_pipeline.forecaster.registry import CheckpointError, find_checkpoint

    cuda = torch.cuda.is_available()
    findings = [_cuda(settings, cuda)]
    try:
        info, architecture, _ = find_checkpoint(settings.checkpoint)
    except CheckpointError as error:
        remedy = "set TSFM_CHECKPOINT to a registered name or a folder with a checkpoint"
        problem = Finding("checkpoint", str(error), "problem", remedy)
        return Section("model", "model", [problem, *findings])
    said = f"{info.name}, SHA-256 {info.sha256}, licence {info.licence}"
    findings.insert(0, Finding("checkpoint", said))
    if settings.device == "cuda" or (settings.device == "auto" and cuda):
        findings.append(Finding("decoder", "torch, on CUDA"))
    elif reason := loops_refused(architecture):
        remedy = "forecasts take 1.5 to 2 times as long; see docs/performance.md"
        findings.append(Finding("decoder", f"torch, because {reason}", "warning", remedy))
    else:
        findings += [
            Finding("decoder", "compiled loops, on the CPU"),
            _matrix_product(settings, architecture),
            _compiled_cache(),
        ]
    return Section("model", "model", findings)


def _cuda(settings: Settings, available: bool) -> Finding:
    import torch

    if available:
        properties = torch.cuda.get_device_properties(0)
        memory = f"{properties.total_memory / 2**30:.0f} GiB"
        return Finding("CUDA", f"{torch.version.cuda}: {properties.name}, {memory}")
    if settings.device == "cuda":
        remedy = "set TSFM_DEVICE=auto, or install the driver and torch for CUDA"
        return Finding("CUDA", "none, but TSFM_DEVICE asks for it", "problem", remedy)
    return Finding("CUDA", "none")


def _matrix_product(settings: Settings, architecture: "Architecture") -> Finding:
    """Say which product answers in each dtype, and why. Nothing is compiled or measured for it."""
    from tsfm_pipeline.forecaster.engine import DTYPES
    from tsfm_pipeline.forecaster.products import AUTO, kept_choice

    said = []
    for name, dtype in DTYPES.items():
        wanted = settings.matrix_product if name == settings.dtype else AUTO
        try:
            choice = kept_choice(architecture, dtype, wanted)
        except ValueError as error:
            remedy = "set TSFM_MATRIX_PRODUCT to one that is allowed, or unset it"
            return Finding("matrix product", str(error), "problem", remedy)
        if choice is None:
            said.append(f"{name}: measured when a model is first loaded")
        else:
            said.append(f"{name}: {choice.product} ({choice.reason})")
    return Finding("matrix product", "; ".join(said))


def _compiled_cache() -> Finding:
    from tsfm_pipeline.forecaster.compiled_decoder import compiled_cache

    folder, warm = compiled_cache()
    if reason := refusal(folder):
        remedy = "make it writable, or set NUMBA_CACHE_DIR to a folder that is"
        # Loops that lie there can be read; others cannot be kept.
        return Finding("compiled cache", reason, "ok" if warm else "warning", remedy)
    state = "warm" if warm else "cold: the first forecast compiles the loops, about a minute"
    return Finding("compiled cache", f"{folder}: writable, {state}")
