"""Resources: the frozen model and the workspace of fleets, configurable in the launchpad.

What belongs here: turning run configuration into `Settings`, fleets and a loaded model. What does
not: what these then do.
"""

from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import dagster as dg
from pydantic import Field, PrivateAttr, create_model

from tsfm_pipeline.catalogue.fleet import NO_RUN, Fleet, open_workspace_fleet
from tsfm_pipeline.catalogue.shards import frozen_model
from tsfm_pipeline.forecaster.allocator import keep_large_buffers
from tsfm_pipeline.settings import CHEAP, Profile, Settings

if TYPE_CHECKING:
    from tsfm_pipeline.forecaster.engine import FrozenForecaster

PROFILE_TAG = "profile"
LIMITS = ", ".join(
    f"{name} <= {limit}" for section in CHEAP.values() for name, limit in section.items()
)
Resource = TypeVar("Resource", bound=dg.ConfigurableResource)


class ForecasterResource(dg.ConfigurableResource):
    """The frozen model: its checkpoint, its device, its precision and what multiplies."""

    checkpoint: str = Field("bundled", description="registry name or local directory")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: the GPU where there is one"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="type of the weights; tables made with one are stale under the other"
    )
    matrix_product: Literal["auto", "loops", "onednn", "float32"] = Field(
        "auto", description="what multiplies on a CPU; auto: the fastest, measured once per machine"
    )

    def load(self) -> "FrozenForecaster":
        """Load and verify the weights. Raises `dg.Failure`, without retry, if the checkpoint, the
        device or the product cannot be used.
        """
        keep_large_buffers()  # a setting of the whole process, which runs only this step
        try:
            return frozen_model(self.checkpoint, self.device, self.dtype, self.matrix_product)
        except ValueError as error:
            raise dg.Failure(
                description=str(error),
                metadata={"checkpoint": self.checkpoint},
                allow_retries=False,
            ) from error


class Workspace(dg.ConfigurableResource):
    """Fleets, their tables and reports, under the settings of this code location (`TSFM_*`) and the
    run's profile.
    """

    location_settings: ClassVar[Settings]
    profile: Profile = Field(
        "full",
        description="full: the settings as they are. cheap: a first look in a fraction of the "
        f"time, written below <data_dir>/cheap, with {LIMITS}",
    )
    force: bool = Field(
        False,
        description="make every shard again, even those that exist with the right fingerprint",
    )
    forecaster: dg.ResourceDependency[ForecasterResource]
    _run_id: str = PrivateAttr(NO_RUN)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Raise `dg.Failure` if the run's tag and its config name different profiles: then a job
        was launched without its config.
        """
        self._run_id = context.run_id or NO_RUN
        tagged = context.run.tags.get(PROFILE_TAG) if context.run else None
        if tagged not in (None, self.profile):
            raise dg.Failure(
                f"the run is tagged {PROFILE_TAG}={tagged}, but its config says resources > "
                f"workspace > config > profile: {self.profile}; "
                f"launch the job `{self.profile}`, or give the config profile: {tagged}",
                allow_retries=False,
            )

    @property
    def settings(self) -> Settings:
        """The settings under the run's profile and model. Raises `dg.Failure` for a full run in a
        code location whose profile is cheap.
        """
        stored = self.location_settings.model_dump()
        if (self.profile, stored["profile"]) == ("full", "cheap"):
            raise dg.Failure(
                "a full run was requested, but this code location runs with TSFM_PROFILE=cheap; "
                "unset it and start Dagster again",
                allow_retries=False,
            )
        model = self.forecaster
        chosen = {
            "profile": self.profile,
            "checkpoint": model.checkpoint,
            "device": model.device,
            "dtype": model.dtype,
            "matrix_product": model.matrix_product,
        }
        return Settings.model_validate(stored | chosen)

    def fleet(self, name: str) -> Fleet:
        """Return the fleet of that name. Raises ValueError if there is none."""
        return open_workspace_fleet(self.settings, name, self._run_id)


def resources(settings: Settings) -> dict[str, Any]:
    """Return the resources of a code location under these settings. Run config may change what is
    set per run (profile, model, device).
    """
    model = _with_defaults(
        ForecasterResource,
        checkpoint=settings.checkpoint,
        device=settings.device,
        dtype=settings.dtype,
        matrix_product=settings.matrix_product,
    )
    workspace = _with_defaults(Workspace, profile=settings.profile)
    workspace.location_settings = settings
    # At launch, so that the workspace's fingerprints hold the model that the run config sets.
    forecaster = model.configure_at_launch()
    return {"forecaster": forecaster, "workspace": workspace(forecaster=forecaster)}  # type: ignore[call-arg]


def _with_defaults(resource: type[Resource], **defaults: str) -> type[Resource]:
    """Return the resource class with other defaults, so that run config that sets one field leaves
    the other fields as they are.

    The arguments of a resource do not work for this: they are its whole config, and run config
    replaces all of it.
    """
    fields: dict[str, Any] = {
        name: (
            resource.model_fields[name].annotation,
            Field(value, description=resource.model_fields[name].description),
        )
        for name, value in defaults.items()
    }
    return create_model(resource.__name__, __base__=resource, __doc__=resource.__doc__, **fields)
