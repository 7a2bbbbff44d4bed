"""The state of a training as one safetensors file: what a stopped run goes on from.

What belongs here: weights and moments of AdamW by name, a header of JSON, and refusing the state of
another run. What does not: what else a training keeps (`training`, `grip_loop`).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tsfm_pipeline.files import write_atomically

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def trained_tensors(
    named: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Return the trained weights and their moments by the names that they have in a state."""
    tensors = {f"weight.{name}": p.detach().contiguous() for name, p in named.items()}
    for name, parameter in named.items():
        for moment in _MOMENTS:
            if parameter in optimizer.state:
                tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
    return tensors


def write_state(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write a state, so that the file is either the old state or the new one. header: JSON, with
    the run's `identity`.
    """
    metadata = {"state": json.dumps(header)}
    write_atomically(path, lambda temporary: save_file(dict(tensors), temporary, metadata))


@torch.no_grad()
def restore(
    path: Path,
    identity: str,
    decided_by: str,
    named: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Put the weights and moments of a state back; return all of its tensors and its header.

    decided_by: what makes another run, for the message. Raises ValueError if the state is of
    another identity.
    """
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["state"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if header["identity"] != identity:
        raise ValueError(
            f"{path} is the state of the run {header['identity']}, this run is {identity}: "
            f"{decided_by}; take another folder"
        )
    for name, parameter in named.items():
        parameter.copy_(tensors[f"weight.{name}"])
        if f"exp_avg.{name}" in tensors:
            moments = {m: tensors[f"{m}.{name}"] for m in _MOMENTS}
            # AdamW counts steps on the CPU, unless it is fused.
            optimizer.state[parameter] = {
                m: x if m == "step" and not optimizer.defaults["fused"] else x.to(parameter.device)
                for m, x in moments.items()
            }
    return tensors, header
