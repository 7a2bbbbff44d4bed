"""The configuration of one forecast, and the order of the model's output columns.

What belongs here: `ForecastConfig`, a point of the search space, and the column at which the
deciles (`evaluation.protocol`) start. What does not: anything that reads telemetry or weights.
"""

import re
from collections.abc import Sequence

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
    """One point of the search space: how far back the model looks, at which resolution, and on
    which scale.

    context_len: steps of telemetry up to the origin, 1 to 16,384; a multiple of `resolution`.
    resolution: steps averaged into one point that the model sees, 1 or more.
    season: which of the panel's seasons is subtracted first, 1 or 2; 0 subtracts none.
    cycles: past cycles of that season that form its profile, up to 14; 0 without a season.
    transform: scale that the model sees, `none`, `log` or `logit` (`transforms.TRANSFORMS`).

    A week of minutes at resolution 15 is `ForecastConfig(context_len=10080, resolution=15)`, and
    the model sees 672 points of it. With a season, the model sees and forecasts the residual from
    the season's profile (`panel.Representation`).

    Raises `pydantic.ValidationError` for any other value, and for a season without cycles or
    cycles without a season.
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
                f"context_len {self.context_len} is not a multiple of resolution "
                f"{self.resolution}: a context consists of whole blocks, for example "
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
        """The name, such as `ctx512`, `ctx7200-r15` (a coarser resolution), `ctx512-s1x5` (a
        season) or `ctx512-log` (a transform).
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

    def lookback(self, seasons: Sequence[int]) -> int:
        """Return how many steps of history a forecast uses at most, on telemetry with these
        seasons: the context, and the cycles of its season with one more to smooth the profile over.
        """
        return self.context_len + (self.cycles + 1) * sum(seasons[self.season - 1 : self.season])

    @classmethod
    def from_name(cls, name: str) -> "ForecastConfig":
        """Return the configuration with that `name`. Raises ValueError for any other string."""
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
