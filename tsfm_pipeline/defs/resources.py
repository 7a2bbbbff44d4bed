"""Resources: the frozen model and the workspace of fleets, configurable in the launchpad.

What belongs here: turning run configuration into `Settings`, fleets and a loaded model. What does not: their behaviour.
"""

from typing import TYPE_CHECKING, Literal

import dagster as dg

from tsfm_pipeline.forecaster import load_forecaster
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.workspace import Fleet, open_workspace_fleet

if TYPE_CHECKING:
    from tsfm_pipeline.forecaster.engine import FrozenForecaster


class ForecasterResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The frozen model: a registry name or a local directory, and where and how precisely it runs."""

    checkpoint: str = "bundled"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"

    def load(self) -> "FrozenForecaster":
        """Load and verify the weights. Raises `dg.Failure`, without retry, for a checkpoint or device that cannot be used."""
        try:
            return load_forecaster(self.checkpoint, device=self.device, dtype=self.dtype)
        except ValueError as error:
            raise dg.Failure(description=str(error), metadata={"checkpoint": self.checkpoint}, allow_retries=False) from error


class Workspace(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Fleets, their tables and reports, under the settings of this code location (`settings_json`)."""

    settings_json: str
    forecaster: dg.ResourceDependency[ForecasterResource]

    @property
    def settings(self) -> Settings:
        settings = Settings.model_validate_json(self.settings_json)
        model = self.forecaster
        return settings.model_copy(update={"checkpoint": model.checkpoint, "device": model.device, "dtype": model.dtype})

    def fleet(self, name: str) -> Fleet:
        """The fleet of that name; raises ValueError for an unknown one."""
        return open_workspace_fleet(self.settings, name)


def resources(settings: Settings) -> dict[str, dg.ConfigurableResource]:  # type: ignore[type-arg]
    """The resources of a code location under these settings."""
    forecaster = ForecasterResource(checkpoint=settings.checkpoint, device=settings.device, dtype=settings.dtype)
    return {"forecaster": forecaster, "workspace": Workspace(settings_json=settings.model_dump_json(), forecaster=forecaster)}
