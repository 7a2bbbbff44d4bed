"""What one forecast is asked for: the search space's point and the order of the model's output
columns.

Here: `ForecastConfig`, and the column that the deciles (`evaluation.protocol`) start at. Not here:
anything that touches telemetry or weights.
"""

import re

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tsfm_pipeline.evaluation.protocol import DECILES
from tsfm_pipeline.forecaster.transforms import TRANSFORMS

QUANTILE_LEVELS = DECILES
MEAN_COLUMN = 0
"""The model returns ten columns: the mean, then the deciles."""
DECILE_COLUMNS = slice(1, 10)
MEDIAN_COLUMN = 5
N_COLUMNS = 1 + len(QUANTILE_LEVELS)
PATCH_LEN = 32
"""Points per token."""

_NAME = re.compile(
    r"ctx(?P<context_len>[0-9]+)(?:-r(?P<resolution>[0-9]+))?(?:-s(?P<season>[12])x(?P<cycles>[0-9]+))?(?:-(?P<transform>[a-z]+))?"
)


class ForecastConfig(BaseModel):
    """One point of the search space: how far back the model looks, how coarsely, and in which
    terms.

    `context_len` counts steps of the telemetry, whatever the resolution: a week of minutes at
    resolution 15 is `ForecastConfig(context_len=10080, resolution=15)`, of which the model sees 672
    points. With a season the model sees and forecasts the residual from a profile of the last
    `cycles` cycles (`panel.Representation`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    context_len: int = Field(
        ge=1, le=16_384, description="steps of telemetry that the forecast looks back on"
    )
    resolution: int = Field(
        default=1, ge=1, description="steps averaged into one point of the model"
    )
    season: int = Field(
        default=0,
        ge=0,
        le=2,
        description="which of the panel's seasons is taken off first; 0: none",
    )
    cycles: int = Field(
        default=0,
        ge=0,
        le=14,
        description="past cycles of that season that form its profile; 0 without a season",
    )
    transform: str = Field(
        default="none",
        description="scale that the model sees, `none` or an entry of `transforms.TRANSFORMS`",
    )

    @field_validator("transform")
    @classmethod
    def _known_transform(cls, transform: str) -> str:
        if transform != "none" and transform not in TRANSFORMS:
            raise ValueError(f"no transform {transform!r}; allowed: none, {', '.join(TRANSFORMS)}")
        return transform

    @model_validator(mode="after")
    def _whole_blocks(self) -> "ForecastConfig":
        if self.context_len % self.resolution:
            raise ValueError(
                f"context_len {self.context_len} is no multiple of resolution {self.resolution}: "
                "a context is made of "
                "whole blocks, as in "
                f"{max(self.context_len // self.resolution, 1) * self.resolution}"
            )
        if bool(self.season) != bool(self.cycles):
            raise ValueError(
                f"season {self.season} with cycles {self.cycles}; give both, as in season 1 with "
                "cycles 5, or neither"
            )
        return self

    @property
    def name(self) -> str:
        """`ctx512`; `ctx7200-r15` at a coarser resolution, `ctx512-s1x5` and `ctx512-log` in other
        terms.
        """
        parts = [f"ctx{self.context_len}"]
        if self.resolution > 1:
            parts.append(f"r{self.resolution}")
        if self.season:
            parts.append(f"s{self.season}x{self.cycles}")
        if self.transform != "none":
            parts.append(self.transform)
        return "-".join(parts)

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
        """The configuration of that `name`; raises ValueError for any other string."""
        match = _NAME.fullmatch(name)
        if match is None or match["transform"] not in (None, *TRANSFORMS):
            raise ValueError(
                f"no configuration is named {name!r}; allowed: ctx<steps>, then -r<steps>, -s<1 "
                "or 2>x<cycles>, "
                f"{' or '.join(f'-{transform}' for transform in TRANSFORMS)} as needed, as in "
                "ctx7200-r15 or ctx512-s1x5"
            )
        return cls(
            context_len=int(match["context_len"]),
            resolution=int(match["resolution"] or 1),
            season=int(match["season"] or 0),
            cycles=int(match["cycles"] or 0),
            transform=match["transform"] or "none",
        )
