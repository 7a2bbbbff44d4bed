"""The plugin of the forecaster: what the pipeline loads through its entry point.

What belongs here: which policy and which frozen model the forecaster is made of. What does not: the
forecaster (`forecaster`).

The pipeline loads this module whenever fingerprints are compared, so everything heavy is imported
when a forecaster is made.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tsfm_pipeline.distribution import packaged
from tsfm_pipeline.files import fingerprint
from tsfm_pipeline.forecaster.registry import CONFIG_FILE, CheckpointError

if TYPE_CHECKING:
    from tsfm_pipeline.studies.time_r1.forecaster import SlowThinkingForecaster

POLICY_VARIABLE = "TSFM_TIME_R1_POLICY"
"""Names the folder of other checkpoints than the shipped ones."""
SHIPPED = "data/checkpoints/time-r1"
BASE, ADAPTERS = "base", ("sft", "grip")
"""Folders of the base, and of the adapters that are merged into it in this order, if they exist."""


class Maker:
    """Makes the forecaster `slow_thinking` of the own policy, over the frozen model of the
    settings.
    """

    def __call__(self, fit_end: int | npt.NDArray[np.integer]) -> "SlowThinkingForecaster":
        """Return the forecaster.

        fit_end: not used, because nothing is fitted. Raises CheckpointError where there is no
        policy.
        """
        from tsfm_pipeline.settings import Settings

        settings = Settings()
        return _forecaster(checkpoints(), settings.checkpoint, settings.device, settings.dtype)

    def digest(self) -> str:
        """Return what identifies the policy in fingerprints: of the weights of base and adapters,
        as their config.json states them. Raises CheckpointError where there is no policy.
        """
        found = {}
        for name in (BASE, *ADAPTERS):
            config = checkpoints() / name / CONFIG_FILE
            if config.is_file():
                found[name] = json.loads(config.read_text(encoding="utf-8"))["sha256"]
            elif name == BASE:
                raise CheckpointError(
                    f"{config} does not exist; {POLICY_VARIABLE} names the folder of a base and "
                    "its adapters"
                )
        return fingerprint(found)


make = Maker()


def checkpoints() -> Path:
    """Return the folder of base and adapters."""
    return Path(os.environ.get(POLICY_VARIABLE) or packaged(SHIPPED)).resolve()


@cache
def _forecaster(folder: Path, checkpoint: str, device: str, dtype: str) -> "SlowThinkingForecaster":
    from tsfm_pipeline.forecaster import load_forecaster
    from tsfm_pipeline.studies.time_r1.adapters import load_adapter, merged
    from tsfm_pipeline.studies.time_r1.asking import Asker
    from tsfm_pipeline.studies.time_r1.codecs import NumberCodec
    from tsfm_pipeline.studies.time_r1.forecaster import SlowThinkingForecaster
    from tsfm_pipeline.studies.time_r1.options import ThinkingOptions
    from tsfm_pipeline.studies.time_r1.own_policy import load_policy

    policy = load_policy(folder / BASE)
    for adapter in ADAPTERS:
        if (folder / adapter).is_dir():
            policy = merged(load_adapter(policy, folder / adapter, trainable=False))
    asker = Asker(policy, NumberCodec(), "own", ThinkingOptions())
    return SlowThinkingForecaster(asker, load_forecaster(checkpoint, device=device, dtype=dtype))
