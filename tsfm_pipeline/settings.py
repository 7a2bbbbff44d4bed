"""Everything that can be set: paths, forecaster, search and evaluation protocol.

What belongs here: constants and defaults that more than one room needs, and the reading of `TSFM_*` environment variables.
What does not: anything about one fleet (that is its YAML file, `fleets.spec`) and anything that computes.

Nested values are set with a double underscore, e.g. `TSFM_EVALUATION__BOOTSTRAP_DRAWS=2000`.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

TIERS: dict[str, float] = {"premium": 0.90, "standard": 0.75, "basic": 0.65}
TIER_SHARES: dict[str, float] = {"premium": 0.2, "standard": 0.5, "basic": 0.3}
ALPHAS: tuple[float, ...] = tuple(TIERS.values())

LATENCY_BUDGET_MS = 200.0

PROJECT_ROOT = Path(__file__).resolve().parent.parent


class SearchSettings(BaseModel):
    """What the search may choose among, what evidence it looks at, and the constants that tuning tenants choose from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    portfolio: tuple[str, ...] = (
        "ctx64",
        "ctx128",
        "ctx256",
        "ctx512",
        "ctx1024",
        "ctx2048",
        "ctx2560-r5",
        "ctx7200-r15",
    )
    latency_portfolio: tuple[str, ...] = Field(
        (
            *("ctx64", "ctx128", "ctx256", "ctx512", "ctx1024", "ctx2048", "ctx2560-r5", "ctx7200-r15"),
            *("ctx96", "ctx192", "ctx384", "ctx768", "ctx1440", "ctx640-r5", "ctx1280-r5", "ctx4800-r15"),
            *("ctx160", "ctx320", "ctx448", "ctx576", "ctx896", "ctx1152", "ctx320-r5", "ctx1920-r5"),
            *("ctx960-r15", "ctx1920-r15", "ctx2880-r15", "ctx3840-r15", "ctx1920-r30", "ctx3840-r30", "ctx5760-r30", "ctx7200-r30"),
        ),
        description="32 distinct configurations; the latency report times the first K of them",
    )
    recent_origins: int = Field(4, ge=1, description="validation origins one horizon apart, the last one horizon ago")
    daily_origins: int = Field(2, ge=0, description="validation origins at the request's hour of the days before")
    temperatures: tuple[float, ...] = Field(
        (0.0, 0.02, 0.05, 0.1), description="softmax temperatures in units of the mean loss; 0 is argmin"
    )
    shrinkages: tuple[float, ...] = Field((1.0, 4.0, 16.0, 64.0), description="prior weight kappa, in validation origins")
    correction_gains: tuple[float, ...] = Field(
        (0.0, 0.25, 0.5, 1.0), description="online level correction, in units of q.9 - q.5 per unit of excess violations"
    )
    neighbours: int = Field(5, ge=1, description="tuning tenants whose losses form the retrieved prior")


class EvaluationSettings(BaseModel):
    """The protocol of the experiment, apart from what a fleet's YAML file fixes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 20_250_101
    tuning_share: float = Field(0.5, gt=0, lt=1)
    cross_fitting_folds: int = Field(5, ge=2)
    bootstrap_draws: int = Field(10_000, ge=200)
    permutations: int = Field(2_000, ge=100)
    cold_start_minutes: tuple[int, ...] = (30, 60, 120, 240, 480)
    latency_requests: int = Field(500, ge=10, description="timed requests at each K, warm-up excluded")
    latency_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)


class Settings(BaseSettings):
    """One object for a whole run; built once by `definitions.build_definitions` or by the caller of the library.

    Raises `pydantic.ValidationError` for an unknown or ill-typed `TSFM_*` value.
    """

    model_config = SettingsConfigDict(env_prefix="TSFM_", env_nested_delimiter="__", frozen=True)

    data_dir: Path = PROJECT_ROOT / "data"
    specs_dir: Path | None = Field(None, description="fleet YAML files; default: <data_dir>/fleets")
    fleets_dir: Path | None = Field(None, description="tables of real fleets; default: <data_dir>/external")
    checkpoint: str = Field("bundled", description="registry name or local directory of the frozen model")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    shard_tenants: int = Field(25, ge=1, description="tenants per Parquet file: the unit of work, memory and resumption")
    search: SearchSettings = SearchSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @field_validator("data_dir", "specs_dir", "fleets_dir")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().absolute()

    @property
    def lake_dir(self) -> Path:
        return self.data_dir / "lake"

    @property
    def reports_dir(self) -> Path:
        return self.data_dir / "reports"

    @property
    def fleet_specs_dir(self) -> Path:
        return self.specs_dir or self.data_dir / "fleets"

    @property
    def fleet_tables_dir(self) -> Path:
        return self.fleets_dir or self.data_dir / "external"
