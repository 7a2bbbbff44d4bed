"""The plugin of the forecaster: what the pipeline loads through its entry point.

What belongs here: which policy and which frozen model the forecaster is made of. What does not: the
forecaster (`forecaster`), and which policy is in use (`checkpoints`).

The pipeline loads this module whenever fingerprints are compared, so everything heavy is imported
when a forecaster is made.
"""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.time_r1.checkpoints import load_promoted, policy_in_use_digest

if TYPE_CHECKING:
    from tsfm_pipeline.studies.time_r1.forecaster import SlowThinkingForecaster


class Maker:
    """Makes the forecaster `slow_thinking` of the policy in use, over the frozen model of the
    settings.
    """

    def __call__(self, fit_end: int | npt.NDArray[np.integer]) -> "SlowThinkingForecaster":
        """Return the forecaster.

        fit_end: not used, because nothing is fitted. Raises CheckpointError where there is no
        policy.
        """
        settings = Settings()
        return _forecaster(policy_in_use_digest(settings), settings.model_dump_json())

    def digest(self) -> str:
        """Return what identifies the policy in fingerprints. Raises CheckpointError where there is
        no policy.
        """
        return policy_in_use_digest(Settings())


make = Maker()


@cache
def _forecaster(policy_digest: str, settings_json: str) -> "SlowThinkingForecaster":
    from tsfm_pipeline.catalogue.shards import model_of
    from tsfm_pipeline.studies.time_r1.asking import Asker
    from tsfm_pipeline.studies.time_r1.codecs import NumberCodec
    from tsfm_pipeline.studies.time_r1.forecaster import SlowThinkingForecaster

    settings = Settings.model_validate_json(settings_json)
    in_use = load_promoted(settings)
    asked = in_use.asked_with
    asker = Asker(in_use.policy, NumberCodec(), asked.prompt, asked.thinking)
    return SlowThinkingForecaster(asker, model_of(settings), asked.contexts, asked.look_back)
