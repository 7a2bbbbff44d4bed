"""Write a release folder from a training state: model.safetensors, config.json with the digest of
the weights, and MODEL_CARD.md.

What belongs here: the files of a checkpoint. What does not: training (`train`), measuring
(`yardsticks`), and the command that runs all steps (`release`).
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tsfm_pipeline.files import write_atomically, write_text_atomically
from tsfm_pipeline.forecaster.architecture import Architecture, build_module
from tsfm_pipeline.forecaster.registry import CONFIG_FILE, WEIGHTS_FILE
from tsfm_pipeline.pretraining import provenance
from tsfm_pipeline.pretraining.card import write_card
from tsfm_pipeline.pretraining.trainer import UNTRAINED_HEAD

POINT_HEAD = "output_projection_point."
LICENCE = "MIT"


def release_tensors(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the averaged weights under the package's names, float32. The continuous quantile head
    is a copy of the point head.
    """
    architecture = Architecture(**state["architecture"])
    tensors = {
        name: value.detach().float().cpu().contiguous() for name, value in state["ema"].items()
    }
    if architecture.output_quantile_len != 128:
        raise ValueError(
            f"output_quantile_len is {architecture.output_quantile_len}; the point head can stand "
            "in for the continuous head only at 128"
        )
    for name in [name for name in tensors if name.startswith(POINT_HEAD)]:
        tensors[UNTRAINED_HEAD + name.removeprefix(POINT_HEAD)] = tensors[name].clone()
    build_module(architecture).load_state_dict(tensors, strict=True)
    return tensors


def release_config(state: dict[str, Any], name: str, sha256: str) -> dict[str, Any]:
    """Return the content of config.json: architecture dims, name, licence and digest at the top
    level (`forecaster.registry` reads them), and `provenance`.
    """
    counters, options = state["counters"], state["options"]
    # An open-ended run has no length; its schedule ends in the cool-down.
    length = options["steps"] or options["minutes"] or math.inf
    done = counters["step"] if options["steps"] else counters["train_s"] / 60
    own_loop = options.get("open_ended") or options.get("cooled_from") is not None
    return {
        **state["architecture"],
        "name": name,
        "licence": LICENCE,
        "sha256": sha256,
        "provenance": {
            "trainer": f"tsfm_pipeline.pretraining.{'continue_training' if own_loop else 'train'}",
            "options": options,
            "seed": options["seed"],
            "commit": state.get("commit", "not recorded"),
            "release_commit": provenance.commit(),
            "corpus_version": state["corpus_version"],
            "steps": counters["step"],
            "skipped_steps": counters["skipped"],
            "tokens": counters["patches"],
            "schedule_done": round(min(1.0, done / length), 3),
            "wall_time_min": round(counters["train_s"] / 60, 1),
            "cpu_time_min": round(counters["cpu_s"] / 60, 1) if "cpu_s" in counters else None,
            "hardware": state.get("hardware")
            or provenance.hardware(state["device"], state["threads"]),
            "compiled": state.get("compiled", False),
            "torch": torch.__version__,
            "base": state.get("base"),
        },
    }


def export_release(state_path: Path, folder: Path, name: str | None = None) -> Path:
    """Write the three files of a release into `folder` and return the folder. The card has no
    figures.

    name: name of the checkpoint; defaults to the folder's name.
    """
    state = torch.load(state_path, map_location="cpu", weights_only=True)
    weights = folder / WEIGHTS_FILE

    def save(path: Path) -> None:
        save_file(release_tensors(state), path)
        path.chmod(0o644)

    write_atomically(weights, save)
    config = release_config(
        state, name or folder.name, hashlib.sha256(weights.read_bytes()).hexdigest()
    )
    write_text_atomically(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")
    write_card(folder, None)
    return folder
