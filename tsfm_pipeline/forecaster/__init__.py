"""The frozen model: checkpoint registry, architecture and grid engine.

Here: telemetry in, decile forecasts out, through one frozen checkpoint. Not here: which
configuration to believe (`autoresearch`), training (`pretraining`), or where telemetry comes from
(`fleets`). Importing this package imports no torch; loading a model does.
"""

from typing import TYPE_CHECKING

from tsfm_pipeline.forecaster.config import QUANTILE_LEVELS, ForecastConfig
from tsfm_pipeline.forecaster.panel import Panel

if TYPE_CHECKING:
    from pathlib import Path

    from tsfm_pipeline.forecaster.engine import FrozenForecaster

__all__ = ["QUANTILE_LEVELS", "ForecastConfig", "Panel", "load_forecaster"]


def load_forecaster(
    name_or_path: "str | Path",
    device: str = "auto",
    dtype: str = "float32",
    revision: str | None = None,
) -> "FrozenForecaster":
    """Load a frozen forecaster: a registered checkpoint (`bundled`, `timesfm-2.5-200m`) or a local
    directory.

    device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:<n>`. dtype: `float32` or
    `bfloat16`. revision: commit of a hub checkpoint; by default the registry's. Raises
    `registry.CheckpointError` where the checkpoint is absent, unsafe, altered or of another
    architecture.
    """
    from tsfm_pipeline.forecaster import engine

    return engine.load_forecaster(name_or_path, device=device, dtype=dtype, revision=revision)
