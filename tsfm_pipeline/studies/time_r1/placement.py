"""Placement: where a profile's policy computes, in which numbers, and how much at once.

What belongs here: the device, dtype and micro-batch of a profile, applied to a loaded policy. What
does not: loading (`own_policy`, `hub`), and what is computed there (`policy`).
"""

from dataclasses import replace

import torch

from tsfm_pipeline.forecaster.devices import device_named
from tsfm_pipeline.studies.time_r1.options import Profile
from tsfm_pipeline.studies.time_r1.policy import LanguagePolicy

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def placed(policy: LanguagePolicy, profile: Profile) -> LanguagePolicy:
    """Return a policy without adapters as its profile places it; the given one must not be used any
    more. Raises ValueError for a device that this machine does not have.
    """
    model: torch.nn.Module = policy.plain
    model.to(device=device_named(profile.device), dtype=DTYPES[profile.dtype])
    return replace(policy, rows=profile.micro_batch)
