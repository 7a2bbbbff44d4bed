"""The frozen model: checkpoint registry, architecture and grid engine.

What belongs here: the way from telemetry to decile forecasts through one frozen checkpoint. What
does not: the choice of a configuration (`autoresearch`), training (`pretraining`), and reading
telemetry (`fleets`). Importing this package does not import torch; loading a model does.
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
    matrix_product: str = "auto",
) -> "FrozenForecaster":
    """Load a checkpoint and return a forecaster whose weights never change.

    name_or_path: a registered checkpoint (`bundled`, `timesfm-2.5-200m`) or a local directory.
    device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:<n>`.
    dtype: `float32` or `bfloat16`, the type of the model's matrices.
    revision: commit of a checkpoint on the hub; None means the registry's.
    matrix_product: what multiplies on a CPU: `auto` (the fastest of this machine, measured once),
    `loops`, `onednn`, or `float32` in place of bfloat16.

    Returns a `FrozenForecaster`; call its `forecast_grid`.

    Raises `registry.CheckpointError` where the checkpoint is absent, unsafe, altered or of another
    architecture, and ValueError for a device, dtype or product that is not allowed.
    """
    from tsfm_pipeline.forecaster import engine

    return engine.load_forecaster(
        name_or_path,
        device=device,
        dtype=dtype,
        revision=revision,
        matrix_product=matrix_product,
    )
