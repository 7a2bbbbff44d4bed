"""Turning a training state into a release: `python -m tsfm_pipeline.pretraining.export STATE FOLDER [--yardsticks
FILE]`.

Here: model.safetensors, config.json and MODEL_CARD.md of a checkpoint. Not here: training (`train`) and measuring
(`yardsticks`), whose
JSON the card quotes.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tsfm_pipeline.forecaster.architecture import Architecture, build_module
from tsfm_pipeline.pretraining.card import model_card
from tsfm_pipeline.pretraining.train import UNTRAINED_HEAD

POINT_HEAD = "output_projection_point."
WEIGHTS_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.json", "MODEL_CARD.md"


def release_tensors(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Averaged weights under the package's names, float32; the continuous head is a copy of the point head."""
    architecture = Architecture(**state["architecture"])
    tensors = {name: value.detach().float().cpu().contiguous() for name, value in state["ema"].items()}
    if architecture.output_quantile_len != 128:
        raise ValueError(
            f"output_quantile_len is {architecture.output_quantile_len}; the point head can stand in for the continuous head only at 128"
        )
    for name in [name for name in tensors if name.startswith(POINT_HEAD)]:
        tensors[UNTRAINED_HEAD + name.removeprefix(POINT_HEAD)] = tensors[name].clone()
    build_module(architecture).load_state_dict(tensors, strict=True)
    return tensors


def release_config(state: dict[str, Any]) -> dict[str, Any]:
    """Architecture dims at the top level, licence and provenance beside them."""
    counters, options = state["counters"], state["options"]
    length = options["steps"] or options["minutes"]
    done = counters["step"] if options["steps"] else counters["train_s"] / 60
    return {
        **state["architecture"],
        "name": "bundled",
        "licence": "MIT",
        "provenance": {
            "trainer": "tsfm_pipeline.pretraining.train",
            "options": options,
            "seed": options["seed"],
            "commit": _commit(),
            "corpus_version": state["corpus_version"],
            "steps": counters["step"],
            "skipped_steps": counters["skipped"],
            "tokens": counters["patches"],
            "schedule_done": round(min(1.0, done / length), 3),
            "wall_time_min": round(counters["train_s"] / 60, 1),
            "hardware": {
                "device": state["device"],
                "cpu": _cpu_model(),
                "threads": state["threads"],
                "gpu": torch.cuda.get_device_name() if state["device"].startswith("cuda") else None,
            },
            "torch": torch.__version__,
        },
    }


def export_release(state_path: Path, folder: Path, yardsticks: dict[str, Any] | None = None) -> Path:
    """Write the three files of a release into `folder`, each under a temporary name first; returns the folder."""
    state = torch.load(state_path, map_location="cpu", weights_only=True)
    folder.mkdir(parents=True, exist_ok=True)
    tensors, config = release_tensors(state), release_config(state)
    temporary = folder / (WEIGHTS_FILE + ".tmp")
    save_file(tensors, temporary)
    temporary.chmod(0o644)
    os.replace(temporary, folder / WEIGHTS_FILE)
    _write(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")
    n_parameters = sum(tensor.numel() for tensor in tensors.values())
    _write(folder / CARD_FILE, model_card(config, n_parameters, yardsticks))
    return folder


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def _commit() -> str:
    """The commit of this source tree, or "uncommitted" where there is none or the tree differs from it."""
    here = Path(__file__).resolve().parent
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    changed = subprocess.run(["git", "status", "--porcelain", "--", "."], cwd=here, capture_output=True, text=True, check=False)
    return head.stdout.strip() if head.returncode == 0 and not changed.stdout.strip() else "uncommitted"


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main(arguments: Sequence[str] | None = None) -> int:
    """Export as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tsfm_pipeline.pretraining.export", description=__doc__)
    parser.add_argument("state", type=Path, help="state.pt of a training folder")
    parser.add_argument("folder", type=Path, help="where the release is written")
    parser.add_argument("--yardsticks", type=Path, help="JSON of tsfm_pipeline.pretraining.yardsticks, quoted in the card")
    options = parser.parse_args(arguments)
    measured = json.loads(options.yardsticks.read_text()) if options.yardsticks else None
    print(export_release(options.state, options.folder, measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
