"""Record the source and the machine of a training run.

What belongs here: the commit and the hardware, as a training state and its releases store them.
What does not: the rest of a release (`export`).
"""

import platform
import subprocess
from pathlib import Path

import torch

from tsfm_pipeline import distribution

DECIDING = (
    "corpus.py",
    "corpus3.py",
    "draw.py",
    "processes.py",
    "added_processes.py",
    "objective.py",
    "network.py",
    "options.py",
    "train.py",
    "continue_training.py",
    "trainer.py",
    "../forecaster/architecture.py",
)
"""The files that decide the weights."""


def commit() -> str:
    """Return the commit of this source tree, with "-dirty" appended if a file that decides the
    weights has uncommitted changes. Return "unknown" outside of git.
    """
    if distribution.CHECKOUT is None:
        return distribution.commit() or "unknown"
    here = Path(__file__).resolve().parent
    head = _git(here, "rev-parse", "HEAD")
    if head is None:
        return "unknown"
    return f"{head}-dirty" if _git(here, "status", "--porcelain", "--", *DECIDING) else head


def hardware(device: str, threads: int) -> dict[str, str | int | None]:
    """Return the device, CPU model, threads, and the GPU's name (None without a GPU)."""
    gpu = (
        torch.cuda.get_device_name(device)
        if device.startswith("cuda") and torch.cuda.is_available()
        else None
    )
    return {"device": device, "cpu": _cpu_model(), "threads": threads, "gpu": gpu}


def _git(folder: Path, *arguments: str) -> str | None:
    """Return git's output, or None if git is missing or fails."""
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
