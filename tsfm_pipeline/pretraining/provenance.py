"""Which source and which machine a run was made with.

Here: the commit and the hardware record that go into a training state and from there into a
release. Not here: what a release contains (`export`).
"""

import platform
import subprocess
from pathlib import Path

import torch

from tsfm_pipeline import distribution

DECIDING = (
    "corpus.py",
    "processes.py",
    "objective.py",
    "network.py",
    "train.py",
    "../forecaster/architecture.py",
)
"""The files that decide the weights."""


def commit() -> str:
    """The commit of this source tree, with "-dirty" if a file that decides the weights differs from
    it; "unknown" outside of git.
    """
    if distribution.CHECKOUT is None:
        return distribution.commit() or "unknown"
    here = Path(__file__).resolve().parent
    head = _git(here, "rev-parse", "HEAD")
    if head is None:
        return "unknown"
    return f"{head}-dirty" if _git(here, "status", "--porcelain", "--", *DECIDING) else head


def hardware(device: str, threads: int) -> dict[str, str | int | None]:
    """Device, CPU model, threads, and the GPU's name where there is one."""
    gpu = (
        torch.cuda.get_device_name(device)
        if device.startswith("cuda") and torch.cuda.is_available()
        else None
    )
    return {"device": device, "cpu": _cpu_model(), "threads": threads, "gpu": gpu}


def _git(folder: Path, *arguments: str) -> str | None:
    """Git's answer; None where it has none."""
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
