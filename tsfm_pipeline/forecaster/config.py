"""What one forecast is asked for: the search space's point and the order of the model's output columns.

Here: `ForecastConfig`, the decile levels and the column they start at. Not here: anything that touches telemetry or
weights.
"""

import re

from pydantic import BaseModel, ConfigDict, Field, model_validator

QUANTILE_LEVELS: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MEAN_COLUMN = 0
"""The model returns ten columns: the mean, then the deciles."""
DECILE_COLUMNS = slice(1, 10)
MEDIAN_COLUMN = 5
N_COLUMNS = 1 + len(QUANTILE_LEVELS)
PATCH_LEN = 32
"""Points per token."""

_NAME = re.compile(r"ctx(?P<context_len>[0-9]+)(?:-r(?P<resolution>[0-9]+))?")


class ForecastConfig(BaseModel):
    """One point of the search space: how far back the model looks, and how coarsely.

    `context_len` counts steps of the telemetry, whatever the resolution: a week of minutes at resolution 15 is
    `ForecastConfig(context_len=10080, resolution=15)`, of which the model sees 672 points.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    context_len: int = Field(ge=1, le=16_384, description="steps of telemetry that the forecast looks back on")
    resolution: int = Field(default=1, ge=1, description="steps averaged into one point of the model")

    @model_validator(mode="after")
    def _whole_blocks(self) -> "ForecastConfig":
        if self.context_len % self.resolution:
            raise ValueError(
                f"context_len {self.context_len} is no multiple of resolution {self.resolution}: a context is made of "
                f"whole blocks, as in {max(self.context_len // self.resolution, 1) * self.resolution}"
            )
        return self

    @property
    def name(self) -> str:
        """`ctx512`, or `ctx7200-r15` for a coarser resolution."""
        return f"ctx{self.context_len}" + (f"-r{self.resolution}" if self.resolution > 1 else "")

    @property
    def n_points(self) -> int:
        """Points that the model sees."""
        return self.context_len // self.resolution

    @property
    def n_tokens(self) -> int:
        """Patches of 32 points that the model sees; the first may be partial."""
        return -(-self.n_points // PATCH_LEN)

    @classmethod
    def from_name(cls, name: str) -> "ForecastConfig":
        """The configuration of that name; raises ValueError for anything else than `ctx<steps>[-r<steps>]`."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"no configuration is named {name!r}; allowed: ctx<steps> or ctx<steps>-r<steps>, as in ctx7200-r15")
        return cls(context_len=int(match["context_len"]), resolution=int(match["resolution"] or 1))
