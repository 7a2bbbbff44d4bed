"""Data sets of the study: what `data/time_r1/datasets.yaml` says about each of them.

What belongs here: the fields of a set, their limits, where its file lies, and which sets are
missing. What does not: reading values (`sources`), judging them (`quality`), and cutting windows
(`splits`).

A set is a table in the folder of public benchmarks, a fleet of the lake, or the synthetic corpus of
`pretraining`. Nothing is downloaded: a missing set is named with what a person must do.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from tsfm_pipeline.catalogue.fleet import open_workspace_fleet
from tsfm_pipeline.distribution import packaged
from tsfm_pipeline.files import StorageError
from tsfm_pipeline.pretraining.sources import BENCHMARKS_VARIABLE
from tsfm_pipeline.settings import Settings

DATASETS_FILE = "time_r1/datasets.yaml"
"""Below the folder `data` of the distribution; a file of the same name in the user's data folder
adds sets, and replaces those of the same name."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_STEP = re.compile(r"(\d+) (second|minute|hour|day)s?")
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}


class DataSetError(ValueError):
    """Raised for a wrong data set file; the message names file, set, field and what is allowed."""


class MissingDataSetError(FileNotFoundError):
    """Raised when a data set is not on this machine; the message says what to do."""


@dataclass(frozen=True)
class Borders:
    """Where the parts of a series end, in rows: training is [0, train), validation
    [train, validation), test [validation, test). Rows from `test` on are not used.
    """

    train: int
    validation: int
    test: int


class _Fields(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Split(_Fields):
    """How a series is split by time: by rows, or by shares of its length."""

    rows: tuple[int, int, int] | None = Field(
        None, description="three ascending row numbers: the ends of training, validation and test"
    )
    shares: tuple[float, float, float] | None = Field(
        None, description="three shares above 0 that sum to 1: training, validation, test"
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> "Split":
        if (self.rows is None) == (self.shares is None):
            raise ValueError("allowed: either 'rows' or 'shares'")
        if self.rows is not None and not 0 < self.rows[0] < self.rows[1] < self.rows[2]:
            raise ValueError(f"rows are {self.rows}; allowed: three ascending numbers above 0")
        if self.shares is not None and (min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-9):
            raise ValueError(f"shares are {self.shares}; allowed: above 0, with the sum 1")
        return self

    def borders(self, n_rows: int) -> Borders:
        """Return the borders of a series of that many rows. With shares, training and test are
        rounded down and validation takes the rest, as Time-R1 splits its sets. Raises ValueError
        for a series that is too short for its split.
        """
        if self.rows is not None:
            borders = Borders(*self.rows)
        else:
            assert self.shares is not None
            # The product of a decimal share and a length may lie just below a whole number.
            first, last = (int(share * n_rows + 1e-9) for share in (self.shares[0], self.shares[2]))
            borders = Borders(first, n_rows - last, n_rows)
        if borders.test > n_rows or not 0 < borders.train < borders.validation < borders.test:
            raise ValueError(
                f"{n_rows} rows are too few for the split into rows {borders.train}, "
                f"{borders.validation}, {borders.test}"
            )
        return borders


class _DataSet(_Fields):
    """The fields that all kinds share. `name` is the key in the file."""

    name: str = Field(description="letters, digits, '_' and '-', at most 64")
    title: str = Field(min_length=1, description="a short title for reports")
    description: str = Field("", description="a sentence or two for reports")
    licence: str = Field(min_length=1, description="the licence, or that none is stated")
    horizon: int = Field(ge=1, description="a whole number, at least 1: steps that are forecast")
    look_back: int = Field(96, ge=8, description="a whole number, at least 8: steps shown")
    split: Split = Field(description="'rows' or 'shares'")

    @field_validator("name")
    @classmethod
    def _named(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("allowed: letters, digits, '_' and '-', at most 64")
        return name

    @property
    def pinned(self) -> bool:
        """Whether the content is known beforehand: a digest, or a seed."""
        return True

    def meaning_of(self, channel: str) -> str:
        """Return what a channel of the set measures, as part of a sentence. It never contains the
        name of a tenant.
        """
        raise NotImplementedError

    def require(self, settings: Settings) -> None:
        """Raise `MissingDataSetError`, which says what to do, if the set is not on this machine."""
        raise NotImplementedError


class TableSet(_DataSet):
    """A CSV or Parquet file with one row per step and one column per channel, read in place."""

    kind: Literal["table"]
    path: str = Field(
        pattern=r"\.(csv|parquet)$",
        description="a .csv or .parquet file; a relative path starts in the folder of benchmarks",
    )
    url: str = Field(pattern="^https?://", description="where the file is published")
    sha256: str | None = Field(
        pattern="^[0-9a-f]{64}$", description="64 hex digits, or null: not pinned"
    )
    time_column: str = Field("date", min_length=1, description="the name of a column")
    time_format: str | None = Field(
        description="format of the times, like %Y-%m-%d %H:%M:%S; null: the column counts the rows"
    )
    step: str = Field(
        min_length=1,
        description="how far apart rows are: a number of seconds, minutes, hours or days, like "
        "'1 hour'; "
        "free text where the rows are counted",
    )
    season: int = Field(ge=1, description="a whole number, at least 1: steps of a day; 1: none")
    paper_stride: int | None = Field(
        None,
        ge=1,
        description="steps between the paper's test windows; null: its look-back",
    )
    channels: dict[str, str] = Field(
        min_length=1, description="a mapping from columns to their meanings"
    )

    @model_validator(mode="after")
    def _agree(self) -> "TableSet":
        if self.time_format is not None:
            duration(self.step)
        if self.time_column in self.channels:
            raise ValueError(f"column {self.time_column!r} cannot be both the time and a channel")
        return self

    @property
    def pinned(self) -> bool:
        return self.sha256 is not None

    def meaning_of(self, channel: str) -> str:
        return self.channels[channel]

    def file(self, settings: Settings) -> Path:
        """Return where the file must lie."""
        return benchmarks_dir(settings) / Path(self.path).expanduser()

    def require(self, settings: Settings) -> None:
        path = self.file(settings)
        if not path.is_file():
            raise MissingDataSetError(
                f"data set {self.name!r}: no file {path}; download {self.url} to it, or let "
                f"{BENCHMARKS_VARIABLE} name the folder that holds {Path(self.path).name}"
            )


class FleetSet(_DataSet):
    """The tenants of a fleet in the lake: one channel per tenant and metric, `tenant/metric`."""

    kind: Literal["fleet"]
    fleet: str = Field(min_length=1, description="the name of a fleet")
    channels: dict[str, str] = Field(
        {}, description="a mapping from metrics to their meanings; others are called by their name"
    )

    def meaning_of(self, channel: str) -> str:
        metric = channel.rpartition("/")[2]
        return self.channels.get(metric, metric)

    def require(self, settings: Settings) -> None:
        todo = f"materialise its telemetry with: tsfm-pipeline run {self.fleet}"
        try:
            open_workspace_fleet(settings, self.fleet).tables.record("tenant_telemetry")
        except (StorageError, ValueError) as error:
            raise MissingDataSetError(
                f"data set {self.name!r}: the fleet {self.fleet!r} cannot be read ({error}); {todo}"
            ) from error


class CorpusSet(_DataSet):
    """Series of the synthetic corpus on which the frozen model was trained."""

    kind: Literal["corpus"]
    seed: int = Field(ge=0, lt=2**31, description="a whole number, at least 0")
    blocks: int = Field(ge=1, description="a whole number, at least 1: blocks of series")
    block_series: int = Field(ge=1, description="a whole number, at least 1: series per block")
    length: int = Field(ge=64, description="a whole number, at least 64: steps per series")
    season: int = Field(ge=1, description="a whole number, at least 1: steps that drafts assume")

    def meaning_of(self, channel: str) -> str:
        return "a synthetic series"

    def require(self, settings: Settings) -> None:
        """Do nothing: the corpus is made where it is needed."""


DataSet = Annotated[TableSet | FleetSet | CorpusSet, Field(discriminator="kind")]
_KINDS: dict[str, type[_DataSet]] = {"table": TableSet, "fleet": FleetSet, "corpus": CorpusSet}
_SETS: TypeAdapter[dict[str, DataSet]] = TypeAdapter(dict[str, DataSet])


def duration(step: str) -> timedelta:
    """Return a step like '15 minutes' as a duration. Raises ValueError for other texts."""
    match = _STEP.fullmatch(step)
    if match is None or int(match[1]) == 0:
        raise ValueError(
            f"step is {step!r}; allowed: a number of seconds, minutes, hours or days, like "
            "'15 minutes'"
        )
    return timedelta(seconds=int(match[1]) * _SECONDS[match[2]])


def step_text(minutes: float) -> str:
    """Return a step in minutes as people say it: '1 hour', '5 minutes', '30 seconds'."""
    seconds = max(1, round(minutes * 60))
    unit = next(unit for unit in reversed(_SECONDS) if seconds % _SECONDS[unit] == 0)
    count = seconds // _SECONDS[unit]
    return f"{count} {unit}{'' if count == 1 else 's'}"


def benchmarks_dir(settings: Settings, environment: Mapping[str, str] | None = None) -> Path:
    """Return the folder of public benchmark files: the one that TSFM_BENCHMARKS_DIR names, else
    `<data_dir>/benchmarks`.
    """
    named = (os.environ if environment is None else environment).get(BENCHMARKS_VARIABLE)
    return Path(named).expanduser().absolute() if named else settings.data_dir / "benchmarks"


def data_sets(settings: Settings) -> dict[str, DataSet]:
    """Return the data sets of the distribution and the user's own, by name. Raises
    `DataSetError`.
    """
    shipped, own = packaged(f"data/{DATASETS_FILE}"), settings.data_dir / DATASETS_FILE
    further = read_data_sets(own) if own != shipped and own.is_file() else {}
    return read_data_sets(shipped) | further


def read_data_sets(path: Path) -> dict[str, DataSet]:
    """Return the data sets of one file, by name. Raises `DataSetError`, one line per fault."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataSetError(f"{path}: not readable: {' '.join(str(error).split())}") from error
    if not isinstance(document, Mapping) or not all(
        isinstance(name, str) and isinstance(fields, Mapping) for name, fields in document.items()
    ):
        raise DataSetError(f"{path}: it must be a mapping from names of data sets to their fields")
    for name, fields in document.items():
        if "name" in fields:
            raise DataSetError(f"{path}: {name}: leave the field 'name' out; the key is the name")
    try:
        return _SETS.validate_python(
            {name: {**fields, "name": name} for name, fields in document.items()}
        )
    except ValidationError as error:
        found = (_for_people(path, detail) for detail in error.errors())
        raise DataSetError("\n".join(dict.fromkeys(found))) from error


def chosen(sets: Mapping[str, DataSet], names: Iterable[str]) -> list[DataSet]:
    """Return the sets of these names, in their order. Raises `DataSetError` for unknown ones."""
    names = list(names)
    if unknown := [name for name in names if name not in sets]:
        raise DataSetError(
            f"no data set {', '.join(map(repr, unknown))}; there are: {', '.join(sets)}"
        )
    return [sets[name] for name in names]


def missing(sets: Iterable[DataSet], settings: Settings) -> dict[str, str]:
    """Return what to do about each set that is not on this machine, by name. The others can be
    read.
    """
    found = {}
    for spec in sets:
        try:
            spec.require(settings)
        except MissingDataSetError as error:
            found[spec.name] = str(error)
    return found


def _for_people(path: Path, detail: Any) -> str:
    """Return a pydantic error as 'file: set.field: what is wrong, what was given, what is
    allowed'.
    """
    location = [str(part) for part in detail["loc"]]
    name, kind, fields = location[0], (location[1:2] or [""])[0], location[2:]
    where = ".".join((name, *fields))
    message = str(detail["msg"]).removeprefix("Value error, ")
    if kind not in _KINDS:
        return f"{path}: {where}: field 'kind': {message}; allowed: {', '.join(_KINDS)}"
    model = _KINDS[kind].model_fields
    if detail["type"] == "extra_forbidden" and len(fields) == 1:
        return f"{path}: {where}: unknown field; allowed: {', '.join(model)}"
    field = model.get(fields[0]) if fields else None
    allowed = f"; allowed: {field.description}" if field is not None else ""
    given = "" if detail["type"] == "missing" or not fields else f" (got {detail['input']!r})"
    return f"{path}: {where}: {message}{given}{allowed}"
