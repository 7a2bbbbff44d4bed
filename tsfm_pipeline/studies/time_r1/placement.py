"""Placement: where a profile's policy computes, in which numbers, and how much at once.

What belongs here: the device, dtype and micro-batch of a profile, applied to a loaded policy. What
does not: loading (`own_policy`, `hub`), and what is computed there (`policy`).
"""

from dataclasses import replace

import torch

from tsfm_pipeline.forecaster.registry import CheckpointError
from tsfm_pipeline.studies.time_r1.options import Profile
from tsfm_pipeline.studies.time_r1.policy import LanguagePolicy

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def device_of(name: str) -> torch.device:
    """Return a device by its name in a profile.

    Raises CheckpointError, with what this machine has, for one that it does not have.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        known = ["auto", "cpu", *(f"cuda:{index}" for index in range(count))]
        raise CheckpointError(
            f"the profile's device is {name!r}, which this machine does not have; allowed here: "
            f"{', '.join(known)}"
        )
    return device


def placed(policy: LanguagePolicy, profile: Profile) -> LanguagePolicy:
    """Return a policy without adapters as its profile places it; the given one must not be used any
    more. Raises as `device_of` does.
    """
    model: torch.nn.Module = policy.plain
    model.to(device=device_of(profile.device), dtype=DTYPES[profile.dtype])
    return replace(policy, rows=profile.micro_batch)
