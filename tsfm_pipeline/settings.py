"""All settings: paths, forecaster, search and evaluation.

What belongs here: settings with their defaults, and where they are read from. What does not: the
fields of the search (`search_settings`) and the file that may hold some (`policy_file`), facts
about one fleet (its YAML file, `fleets.spec`), the constants of the protocol, which cannot be set
(`evaluation.protocol`), and computation.

Each value comes from the first of these that has it: the caller, a `TSFM_*` environment variable,
the policy file (fields of `search` only), the default. Nested values are set with a double
underscore, e.g. `TSFM_EVALUATION__BOOTSTRAP_DRAWS=2000`.
"""

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from tsfm_pipeline.distribution import CHECKOUT, packaged
from tsfm_pipeline.policy_file import (
    PolicyFile,
    PolicySource,
    absolute,
    find_policy_file,
    read_policy_file,
)
from tsfm_pipeline.search_settings import SearchSettings

PROJECT_ROOT = CHECKOUT or Path.cwd()
"""The folder that contains `data/`: the checkout or, for an installed wheel, the working directory.
"""


class EvaluationSettings(BaseModel):
    """The protocol of the experiment, except for what a fleet's YAML file sets."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    seed: int = 20_250_101
    tuning_share: float = Field(0.5, gt=0, lt=1)
    cross_fitting_folds: int = Field(5, ge=2)
    cohort_tenants: int | None = Field(
        None,
        ge=2,
        description="tenants that the backtest, the policy, the priors, the index and the reports "
        "work on, drawn by tier and by tuning and test tenants; recommendations are made for all; "
        "default: all tenants",
    )
    bootstrap_draws: int = Field(10_000, ge=200)
    group_bootstrap_draws: int = Field(
        2_000,
        ge=200,
        description="of groups and secondary figures; never more than bootstrap_draws",
    )
    latency_bootstrap_draws: int = Field(1_000, ge=200, description="of the p95 latency's interval")
    control_bootstrap_draws: int = Field(
        500,
        ge=200,
        description="of the interval after each permutation of the label-swap control",
    )
    permutations: int = Field(2_000, ge=100)
    headroom_permutations: int = Field(
        999,
        ge=100,
        description="of the headroom's null; never more than permutations",
    )
    control_permutations: int = Field(4_000, ge=100, description="of the label-swap control")
    cold_start_minutes: tuple[int, ...] = (30, 60, 120, 240, 480)
    latency_requests: int = Field(
        500,
        ge=10,
        description="timed requests at the portfolio's K, a tenth of them (at least 20) at "
        "others; warm-up excluded",
    )
    latency_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)

    @property
    def bootstrap(self) -> dict[str, int]:
        """`n_draws` and `seed` of the bootstrap behind headline figures."""
        return {"n_draws": self.bootstrap_draws, "seed": self.seed}

    @property
    def group_bootstrap(self) -> dict[str, int]:
        """`n_draws` and `seed` of the bootstrap behind groups and secondary figures."""
        n_draws = min(self.group_bootstrap_draws, self.bootstrap_draws)
        return {"n_draws": n_draws, "seed": self.seed}

    @property
    def latency_bootstrap(self) -> dict[str, int]:
        """`n_draws` and `seed` of the bootstrap behind the p95 latency's interval."""
        return {"n_draws": self.latency_bootstrap_draws, "seed": self.seed}

    @property
    def label_swaps(self) -> dict[str, int]:
        """`n_permutations` and `seed` of the headline's p-value."""
        return {"n_permutations": self.permutations, "seed": self.seed}

    @property
    def headroom_null(self) -> dict[str, int]:
        """`n_permutations` and `seed` of the headroom's null, in which tenants are exchangeable."""
        n_permutations = min(self.headroom_permutations, self.permutations)
        return {"n_permutations": n_permutations, "seed": self.seed}

    @property
    def control(self) -> dict[str, int]:
        """`n_permutations`, `n_draws` and `seed` of the label-swap control."""
        n_permutations, n_draws = self.control_permutations, self.control_bootstrap_draws
        return {"n_permutations": n_permutations, "n_draws": n_draws, "seed": self.seed}


class ExecutionSettings(BaseModel):
    """Where the shards of a table are made. None of this is part of a fingerprint."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    engine: Literal["in_process", "ray"] = Field(
        "in_process",
        description="in_process: one shard after the other, in the step's process; ray: on the "
        "hosts of a Ray network. Tables without shards are always made in the step's process",
    )
    address: str = Field(
        "auto",
        min_length=1,
        description="of the Ray network: host:port of its head; auto: the network that the step's "
        "host belongs to, or that RAY_ADDRESS names; local: one that starts and ends with the step",
    )
    cpus: float = Field(
        1, gt=0, description="of Ray, per shard; the forecaster computes with as many threads"
    )
    gpus: float = Field(
        0, ge=0, description="of Ray, per shard of a table that the model is needed for"
    )
    memory: int | None = Field(
        None, ge=1, description="MiB that Ray sets aside per shard; none are by default"
    )
    in_flight: int = Field(
        4, ge=1, description="shards per slot that Ray is given at a time; one of them runs"
    )
    deadline_s: float = Field(
        1800,
        gt=0,
        description="seconds from the start of a shard, or from when a slot was free for it, to "
        "its next attempt on another host; set it to a few times what the longest shard takes",
    )
    attempts: int = Field(
        3,
        ge=1,
        description="per shard, before the step fails; those that never started do not count",
    )


RESAMPLES = tuple(
    name for name in EvaluationSettings.model_fields if name.endswith(("draws", "permutations"))
)
"""Fields that hold a number of bootstrap draws or permutations."""


Profile = Literal["full", "cheap"]
CHEAP: dict[str, dict[str, int]] = {
    "search": {
        "portfolio_size": 4,
        "ranked_size": 8,
        "portfolio_tenants": 12,
        "portfolio_origins": 2,
        "single_requests": 100,
        "policy_requests": 300,
    },
    "evaluation": {
        "bootstrap_draws": 1000,
        "group_bootstrap_draws": 1000,
        "latency_bootstrap_draws": 500,
        "control_bootstrap_draws": 200,
        "permutations": 200,
        "headroom_permutations": 200,
        "control_permutations": 100,
        "latency_requests": 40,
    },
}
"""Upper limits of the cheap profile, under which every step takes a fraction of its time: for a
first look at a fleet or a change. Its intervals are wider and its search is smaller. It writes
below `<data_dir>/cheap`, so that its results cannot be taken for those of a full run."""

OBJECT_STORES = ("s3", "gs", "az")
"""Schemes of the URLs at which tables may lie."""
Section = TypeVar("Section", SearchSettings, EvaluationSettings)


class Settings(BaseSettings):
    """The settings of a whole run; built once by `definitions.py`, by a command, or by the caller
    of the library.

    Raises `pydantic.ValidationError` for an unknown or ill-typed `TSFM_*` value, and
    `PolicyFileError` for a policy file that cannot be used.
    """

    model_config = SettingsConfigDict(env_prefix="TSFM_", env_nested_delimiter="__", frozen=True)

    data_dir: Path = PROJECT_ROOT / "data"
    specs_dir: Path | None = Field(
        None,
        description="the only folder of fleet YAML files; default: <data_dir>/fleets and the "
        "fleets of the distribution",
    )
    fleets_dir: Path | None = Field(
        None, description="tables of real fleets; default: <data_dir>/external"
    )
    lake_url: str | None = Field(
        None,
        description="an object store for the fleets' tables: s3://bucket/folder, "
        "gs://bucket/folder or az://container/folder (the account is "
        "AZURE_STORAGE_ACCOUNT_NAME); default: the data folder",
    )
    cache_dir: Path | None = Field(
        None,
        description="this machine's copies of what lies at lake_url, on a disk of its own; "
        "default: .cache in the folder of the lake",
    )
    checkpoint: str = Field(
        "bundled", description="registry name or local directory of the frozen model"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    matrix_product: Literal["auto", "loops", "onednn", "float32"] = Field(
        "auto",
        description="what multiplies the model's matrices on a CPU: auto (the fastest, measured "
        "once per machine), our own loops, oneDNN, or loops in float32 in place of bfloat16",
    )
    profile: Profile = Field("full", description="full, or cheap: no more than `CHEAP` allows")
    shard_tenants: int = Field(
        25, ge=1, description="tenants per Parquet file: the unit of work, memory and resumption"
    )
    policy_file: Literal["none"] | Path | None = Field(
        None,
        description="file with promoted values of `search` (`policy_file`); none: no file; "
        "default: <data_dir>/policies/search.yaml, else that of the distribution",
    )
    search: SearchSettings = SearchSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    execution: ExecutionSettings = ExecutionSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the usual sources, and the policy file as the one that counts least."""
        usual = (init_settings, env_settings, dotenv_settings, file_secret_settings)
        return (*usual, PolicySource(settings_cls))

    @field_validator("data_dir", "specs_dir", "fleets_dir", "cache_dir", "policy_file")
    @classmethod
    def _absolute(cls, path: Path | str | None) -> Path | str | None:
        return absolute(path) if isinstance(path, Path) else path

    @field_validator("lake_url")
    @classmethod
    def _is_of_an_object_store(cls, url: str | None) -> str | None:
        if url and url.split("://")[0] not in OBJECT_STORES:
            raise ValueError(
                f"{url!r} is not the URL of an object store; allowed: s3://bucket/folder, "
                "gs://bucket/folder or az://container/folder"
            )
        return url.rstrip("/") if url else None

    @field_validator("search", "evaluation")
    @classmethod
    def _within_the_profile(cls, section: Section, info: ValidationInfo) -> Section:
        limits = CHEAP[str(info.field_name)] if info.data.get("profile") == "cheap" else {}
        return section.model_copy(
            update={name: min(getattr(section, name), limit) for name, limit in limits.items()}
        )

    @property
    def policy(self) -> PolicyFile | None:
        """The policy file as it is now; None if no file counts. `search` has its values, except
        where something of more weight sets another one. Raises `PolicyFileError`.
        """
        path = find_policy_file(self.data_dir, self.policy_file)
        return None if path is None else read_policy_file(path)

    @property
    def output_dir(self) -> Path:
        return self.data_dir if self.profile == "full" else self.data_dir / self.profile

    @property
    def lake_dir(self) -> Path:
        """The folder of the tables; if `lake_url` is set, only that of studies' tables and, unless
        `cache_dir` is set, of this machine's copies.
        """
        return self.output_dir / "lake"

    @property
    def copies_dir(self) -> Path | None:
        """The profile's folder in `cache_dir`; None if the copies lie in the lake's folder."""
        return None if self.cache_dir is None else self.cache_dir / "parts" / self.profile

    @property
    def reports_dir(self) -> Path:
        return self.output_dir / "reports"

    @property
    def records_root(self) -> Path:
        """The folder of data that cannot be made again. Only the command `fleet forget` deletes
        files in it.
        """
        return self.data_dir / "records"

    @property
    def records_dir(self) -> Path:
        """The parent of the fleets' folders of records. Every profile has its own, so that the
        records of a cheap run are never taken for those of a full one.
        """
        return self.records_root / self.profile

    @property
    def fleet_specs_dir(self) -> Path:
        """The folder of the user's own fleet files; commands write new files here, and the schedule
        and sensors watch it.
        """
        return self.specs_dir or self.data_dir / "fleets"

    @property
    def known_specs_dirs(self) -> tuple[Path, ...]:
        """Folders that are searched for fleet files; if two have the same name, the later folder's
        is used.

        First the fleets of the distribution, then the user's own; only `specs_dir` if it is set.
        """
        own, shipped = self.fleet_specs_dir, packaged("data/fleets")
        if self.specs_dir is not None or own == shipped:
            return (own,)
        return (shipped, own) if own.is_dir() else (shipped,)

    @property
    def fleet_tables_dir(self) -> Path:
        return self.fleets_dir or self.data_dir / "external"

    @property
    def dagster_home(self) -> Path:
        """The folder in which Dagster keeps its runs unless DAGSTER_HOME is set: `.dagster` in the
        data folder.

        For the data of a checkout it is `.dagster` in the checkout, as in the Makefile.
        """
        in_checkout = CHECKOUT is not None and self.data_dir == CHECKOUT / "data"
        return (PROJECT_ROOT if in_checkout else self.data_dir) / ".dagster"
