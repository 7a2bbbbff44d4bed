"""Where training starts: the policy that a profile names, before any adapter.

What belongs here: finding and loading it, and its digest for fingerprints. What does not: the
architectures (`own_policy`, `hub`) and adapters. torch is imported only when a policy is loaded.
"""

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from tsfm_pipeline.distribution import packaged
from tsfm_pipeline.files import fingerprint, sha256_of
from tsfm_pipeline.forecaster.registry import CONFIG_FILE, CheckpointError
from tsfm_pipeline.studies.time_r1.codecs import Codec, NumberCodec, TextCodec
from tsfm_pipeline.studies.time_r1.options import Profile

if TYPE_CHECKING:
    from tsfm_pipeline.studies.time_r1.policy import LanguagePolicy

OWN = "own"
OFFLINE = "HF_HUB_OFFLINE"
"""If this variable is 1, nothing is asked of the hub; it is the hub library's own."""


def base_folder() -> Path:
    """Return the folder of the shipped base of the own policy."""
    return packaged("data/checkpoints/time-r1/base")


def codec_of(profile: Profile) -> Codec:
    """Return how a profile's policy writes numbers."""
    return NumberCodec() if profile.codec == "number" else TextCodec()


def starting_policy(profile: Profile) -> "LanguagePolicy":
    """Return the policy that a profile names, without adapters, on the profile's device.

    Raises CheckpointError if it is absent, pickled, or not what its digest says, and if this
    machine lacks the device.
    """
    from tsfm_pipeline.studies.time_r1.hub import load_hub
    from tsfm_pipeline.studies.time_r1.own_policy import load_policy
    from tsfm_pipeline.studies.time_r1.placement import DTYPES, placed

    if profile.codec == "number":
        return placed(load_policy(_own_folder(profile)), profile)
    local_only = os.environ.get(OFFLINE) == "1"
    dtype = DTYPES[profile.dtype]
    return placed(load_hub(profile.model, profile.revision, local_only, dtype), profile)


def policy_digest(profile: Profile) -> str:
    """Return what identifies the starting weights in fingerprints: the digest of a folder's
    weights, or id and revision of a model of the hub. Raises CheckpointError if a folder has none.
    """
    if profile.codec == "number":
        config = _own_folder(profile) / CONFIG_FILE
        if not config.is_file():
            raise CheckpointError(
                f"{config}: no such file; train a base with: tsfm-pipeline time-r1 train-base "
                f"{shlex.quote(str(config.parent))} --minutes 40"
            )
        return str(json.loads(config.read_text(encoding="utf-8")).get("sha256"))
    folder = Path(profile.model)
    if folder.is_dir():
        return fingerprint({p.name: sha256_of(p) for p in sorted(folder.glob("*.safetensors"))})
    return f"{profile.model}@{profile.revision}"


def base_curve(profile: Profile) -> dict[str, dict[str, dict[str, float]]]:
    """Return how the base was trained: by updates, by the kind of prompt, then by part, losses on
    held-out windows; empty where that is not stored beside the weights.
    """
    if profile.codec != "number":
        return {}
    config = json.loads((_own_folder(profile) / CONFIG_FILE).read_text(encoding="utf-8"))
    return dict(config.get("curve", {}))


def _own_folder(profile: Profile) -> Path:
    return base_folder() if profile.model == OWN else Path(profile.model).expanduser()
