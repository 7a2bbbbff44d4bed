"""Market files: one YAML file in `data/markets/` says where the prices of one market come from.

What belongs here: the fields of each kind of market, their limits, and finding the files. What does
not: reading prices (`sources`), judging them (`quality`), simulating them (`simulation`), and the
options of the study, which every market file may set (`options`).

A file's stem is the market's name, and the market is a partition of the study.
"""

import datetime as dt
from importlib.metadata import Distribution, PackageNotFoundError, PackagePath, distribution
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from tsfm_pipeline.distribution import packaged
from tsfm_pipeline.files import fingerprint, sha256_of
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.spec_files import SpecFiles, SpecKinds, expanded_path, path_safe
from tsfm_pipeline.studies.direction.options import StudyOptions

ARCH = "arch"
SIMULATION_VERSION = 1
"""Raised whenever `simulation` gives other prices for the same fields."""
PRICES = ("open", "high", "low", "close")
SIGNAL = "signal"
"""The covariate of a simulated market that may announce the next day's return."""


class MarketSpecError(ValueError):
    """Raised for a market file with a field that is not allowed; the message names the file, the
    field, the value and what is allowed.
    """


class _Fields(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Market(_Fields):
    """The fields that all kinds of market share."""

    name: str = Field(
        description="the stem of the file's name: a-z, 0-9, '_' and '-', beginning with a letter "
        "or digit, at most 64"
    )
    title: str = Field(min_length=1, description="a short title for reports")
    description: str = Field("", description="a sentence or two for the UI")
    source: str = Field("", description="what the data is, who published it, under which licence")
    listed_gaps: tuple[dt.date, ...] = Field(
        (),
        description="dates YYYY-MM-DD, one within each gap of more than 7 calendar days that is "
        "real, such as a closed exchange",
    )
    study: StudyOptions = Field(
        StudyOptions(), description="options of the study: scorers, labels, splits and so on"
    )

    second: str | None = Field(
        None,
        description="the name of another market that must confirm a direction found here; null: "
        "a direction stays unconfirmed",
    )

    @field_validator("name")
    @classmethod
    def _path_safe(cls, name: str) -> str:
        return path_safe(name, "market")

    @property
    def source_fingerprint(self) -> str:
        """What the prices depend on, as 16 hex digits: the content of the data and the fields that
        say how it is read. Raises `MarketSpecError` where the data is missing.
        """
        return fingerprint(*self._price_parts())

    @property
    def covariate_names(self) -> tuple[str, ...]:
        """The names of the covariates, in their order."""
        return ()

    @property
    def truth(self) -> str:
        """What a simulated market was made with, as part of a sentence; empty for a real one."""
        return ""

    @property
    def given_names(self) -> tuple[str, ...]:
        """The names of the indicators that the data has ready-made, in their order."""
        return ()

    def _price_parts(self) -> tuple[Any, ...]:
        raise NotImplementedError


class ArchMarket(_Market):
    """Daily prices of an index that the installed package `arch` ships, 1999 to 2018."""

    kind: Literal["arch"]
    dataset: Literal["sp500", "nasdaq"] = Field(description="'sp500' or 'nasdaq'")

    @property
    def file(self) -> Path:
        """The data set's file in the installed package. Raises `MarketSpecError` if it is not
        there.
        """
        package = self._package()
        names = [file for file in package.files or () if _is_data(file, self.dataset)]
        if len(names) != 1:
            raise MarketSpecError(
                f"market {self.name!r}, field 'dataset': the installed {ARCH} {package.version} "
                f"has no file of {self.dataset!r}; allowed: {ARCH} 8"
            )
        return Path(str(names[0].locate()))

    def _package(self) -> Distribution:
        try:
            return distribution(ARCH)
        except PackageNotFoundError as error:
            raise MarketSpecError(
                f"market {self.name!r}, field 'kind': the package {ARCH!r}, whose prices these "
                "are, is not installed; install tsfm-pipeline[studies]"
            ) from error

    def _price_parts(self) -> tuple[Any, ...]:
        return (self.kind, self.dataset, self._package().version, sha256_of(self.file))


class Columns(_Fields):
    """The names of a table's columns."""

    date: str = Field("date", min_length=1, description="the name of a column")
    open: str = Field("open", min_length=1, description="the name of a column")
    high: str = Field("high", min_length=1, description="the name of a column")
    low: str = Field("low", min_length=1, description="the name of a column")
    close: str = Field("close", min_length=1, description="the name of a column")
    volume: str = Field("volume", min_length=1, description="the name of a column")
    adjusted_close: str | None = Field(
        None,
        min_length=1,
        description="the name of the column of the close that is adjusted for splits and "
        "dividends, by which open, high and low are then adjusted too; null: there is none",
    )

    @model_validator(mode="after")
    def _each_once(self) -> "Columns":
        names = [name for name in self.model_dump().values() if name is not None]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{', '.join(map(repr, twice))} is given for two of them")
        return self


class TableMarket(_Market):
    """A market of the user's own, one row per trading day, in a CSV or Parquet file."""

    kind: Literal["table"]
    path: Path = Field(
        description="a .csv or .parquet file; ~ and environment variables like ${HOME} are "
        "expanded, and a relative path starts in the folder of the market file"
    )
    columns: Columns = Field(Columns(), description="the name of the column of each field")
    covariates: tuple[str, ...] = Field(
        (),
        description="names of columns of further series that are known at the close of each day, "
        "such as VIX, each given once",
    )
    features: Literal["computed", "given"] = Field(
        "computed",
        description="'computed': indicators are computed from the prices; 'given': those of the "
        "columns in 'given' are used instead",
    )
    given: tuple[str, ...] = Field(
        (),
        description="with 'features: given', names of columns of ready-made indicators that are "
        "known at the close of each day, each given once",
    )
    adjusted: bool = Field(
        False,
        description="true: open, high, low and close are already adjusted for splits, all four in "
        "the same way; false: they are not, or only columns.adjusted_close is",
    )

    @field_validator("path", mode="before")
    @classmethod
    def _found_from_the_file(cls, path: Any, info: ValidationInfo) -> Any:
        if not isinstance(path, str | Path):
            return path
        if not str(path).endswith((".csv", ".parquet")):
            raise ValueError("it ends in neither .csv nor .parquet")
        file = (info.context or {}).get("file")
        return expanded_path(str(path), (Path(file).parent if file else Path()).absolute())

    @model_validator(mode="after")
    def _agree(self) -> "TableMarket":
        if (self.features == "given") != bool(self.given):
            raise ValueError(
                f"features is {self.features!r} and given lists {len(self.given)} columns; "
                "allowed: 'features: given' with columns in 'given', or neither"
            )
        if self.adjusted and self.columns.adjusted_close is not None:
            raise ValueError(
                "with 'adjusted: true' open, high, low and close are used as they are, so "
                "columns.adjusted_close must be left out"
            )
        prices = self.columns.model_dump().values()
        further = [*self.covariates, *self.given]
        if twice := sorted({n for n in further if n in prices or further.count(n) > 1}):
            raise ValueError(
                f"column {', '.join(map(repr, twice))} has two roles; allowed: one of 'columns', "
                "'covariates' and 'given'"
            )
        return self

    @property
    def covariate_names(self) -> tuple[str, ...]:
        return self.covariates

    @property
    def given_names(self) -> tuple[str, ...]:
        return self.given

    def _price_parts(self) -> tuple[Any, ...]:
        if not self.path.is_file():
            raise MarketSpecError(f"market {self.name!r}, field 'path': no file {self.path}")
        fields = {"kind", "columns", "covariates", "features", "given", "adjusted"}
        return (self.model_dump(include=fields), sha256_of(self.path))


class SyntheticMarket(_Market):
    """A simulated market, whose volatility and direction are known (`simulation`)."""

    kind: Literal["synthetic"]
    model: Literal["garch", "gjr"] = Field(
        "gjr",
        description="'garch': volatility rises as much after losses as after gains; 'gjr': only "
        "after losses, as that of share indices does",
    )
    days: int = Field(5000, ge=500, le=100_000, description="trading days, from 500 to 100000")
    intraday_steps: int = Field(
        24,
        ge=2,
        le=500,
        description="prices per day, from 2 to 500: the highest and the lowest are the day's",
    )
    correlation: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="a number from 0 to below 1: the correlation of the covariate 'signal' with "
        "the next day's return, in units of its volatility; 0: the direction cannot be known",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="a whole number, at least 0")

    @property
    def covariate_names(self) -> tuple[str, ...]:
        return (SIGNAL,)

    @property
    def truth(self) -> str:
        planted = (
            f"a signal whose correlation with the next day's return is {self.correlation:.2f}"
            if self.correlation
            else "no direction"
        )
        return f"{self.model.upper()}{'-GARCH' if self.model == 'gjr' else ''} with {planted}"

    def _price_parts(self) -> tuple[Any, ...]:
        fields = {"kind", "model", "days", "intraday_steps", "correlation", "seed"}
        return (SIMULATION_VERSION, self.model_dump(include=fields))


MarketSpec = Annotated[ArchMarket | TableMarket | SyntheticMarket, Field(discriminator="kind")]
MARKETS: SpecKinds[MarketSpec] = SpecKinds(
    noun="market",
    models={"arch": ArchMarket, "table": TableMarket, "synthetic": SyntheticMarket},
    error=MarketSpecError,
)


def own_markets_dir(settings: Settings) -> Path:
    """Return the folder of the user's own market files, beside that of their fleet files."""
    return settings.fleet_specs_dir.with_name("markets")


def market_files(settings: Settings) -> SpecFiles[MarketSpec]:
    """Find the market files: those of the distribution, then the user's own, which count where two
    have the same name. Reads none of them.
    """
    shipped, own = packaged("data/markets"), own_markets_dir(settings)
    return MARKETS.find(*([shipped, own] if own != shipped and own.is_dir() else [shipped]))


def _is_data(file: PackagePath, dataset: str) -> bool:
    return file.parent.as_posix() == f"arch/data/{dataset}" and file.name.endswith(".csv.gz")
