"""Reading a data set as series: from a file, from a fleet of the lake, or from the corpus.

What belongs here: `Series`, and the three readers with the checks without which values must not be
used (digest, columns, numbers, times). What does not: what a set is (`datasets`), whether processed
values still are the raw ones (`quality`), and windows (`splits`). Nothing is repaired, sorted or
filled.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from tsfm_pipeline.catalogue.fleet import open_workspace_fleet
from tsfm_pipeline.files import fingerprint, sha256_of
from tsfm_pipeline.fleets.dialects import scan
from tsfm_pipeline.fleets.numbers import MISSING_WORDS
from tsfm_pipeline.fleets.source import FleetDataError, cell_text, readable
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.time_r1.datasets import (
    Borders,
    CorpusSet,
    DataSet,
    FleetSet,
    TableSet,
    duration,
    step_text,
)
from tsfm_pipeline.studies.time_r1.windows import Floats, Times

_NOT_READ = {"title", "description", "licence", "path", "url", "sha256", "horizon", "look_back"}
"""Fields of a set that change no value, no name and no border."""


class SourceError(ValueError):
    """Raised for data that cannot be used as it is; the message names set, file, column and row."""


@dataclass(frozen=True)
class Series:
    """All values of one data set on one regular time grid.

    data_set, step, season: as in `windows.Windows`. values: float64 [T, C], NaN where nothing was
    observed, never infinite. times: datetime64[s] [T], ascending in equal steps; None where the set
    has no clock. channels: their names [C]. borders: rows where the parts end. paper_stride: steps
    between the test windows of Time-R1, None for one look-back. fingerprint: 16 hex digits
    of the data and of the fields by which they are read.
    """

    data_set: str
    step: str
    season: int
    values: Floats
    times: Times | None
    channels: tuple[str, ...]
    borders: Borders
    paper_stride: int | None
    fingerprint: str

    def __post_init__(self) -> None:
        n_rows, n_channels = self.values.shape
        if n_channels != len(self.channels) or (
            self.times is not None and len(self.times) != n_rows
        ):
            raise ValueError(
                f"{self.data_set}: values {self.values.shape} need {n_rows} times and {n_channels} "
                f"channels; there are {'no' if self.times is None else len(self.times)} times and "
                f"{len(self.channels)} channels"
            )

    @property
    def n_rows(self) -> int:
        """T."""
        return len(self.values)

    @property
    def n_missing(self) -> int:
        """How many values were not observed."""
        return int(np.isnan(self.values).sum())


def read(spec: DataSet, settings: Settings) -> Series:
    """Return the series of a data set.

    Raises `MissingDataSetError` where it is not on this machine, and `SourceError` where it is not
    what its description says: another digest, a column that is missing, a cell that is no finite
    number, times that do not ascend in equal steps, or too few rows for its split.
    """
    spec.require(settings)
    if isinstance(spec, TableSet):
        return _read_table(spec, spec.file(settings))
    if isinstance(spec, FleetSet):
        return _read_fleet(spec, settings)
    return _read_corpus(spec)


def source_digest(spec: DataSet, settings: Settings) -> str:
    """Return 16 hex digits of what decides the values of a data set on this machine, without
    reading them: the file, the fleet's telemetry, or the corpus, and the fields of its description.
    Raises `MissingDataSetError` where it is not there.
    """
    spec.require(settings)
    if isinstance(spec, TableSet):
        return _fingerprint(spec, sha256_of(spec.file(settings)))
    if isinstance(spec, FleetSet):
        fleet = open_workspace_fleet(settings, spec.fleet)
        return _fingerprint(spec, fleet.tables.record("tenant_telemetry")["fingerprint"])
    return _fingerprint(spec)


def _fingerprint(spec: DataSet, *parts: str) -> str:
    return fingerprint(spec.model_dump(exclude=_NOT_READ), *parts)


def _read_table(spec: TableSet, path: Path) -> Series:
    where = f"data set {spec.name!r}, {path}"
    digest = sha256_of(path)
    if spec.sha256 is not None and digest != spec.sha256:
        raise SourceError(
            f"{where}: its SHA-256 is {digest}; allowed: {spec.sha256}. Download it again from "
            f"{spec.url}"
        )
    try:
        with readable(where):
            table = scan(path).collect()
    except FleetDataError as error:
        raise SourceError(str(error)) from error
    if absent := [c for c in (spec.time_column, *spec.channels) if c not in table.columns]:
        raise SourceError(
            f"{where}: no column {', '.join(map(repr, absent))}; there are: "
            f"{', '.join(table.columns)}"
        )
    values = np.stack([_numbers(table[c], where) for c in spec.channels], axis=1)
    return Series(
        data_set=spec.name,
        step=spec.step,
        season=spec.season,
        values=values,
        times=_times(table[spec.time_column], spec, where),
        channels=tuple(spec.channels),
        borders=_borders(spec, len(values), where),
        paper_stride=spec.paper_stride,
        fingerprint=_fingerprint(spec, digest),
    )


def _read_fleet(spec: FleetSet, settings: Settings) -> Series:
    """Read the committed telemetry; nothing is made or written. Missing values stay NaN."""
    fleet = open_workspace_fleet(settings, spec.fleet)
    grid = fleet.grid
    shards = [fleet.arrays.values(shard) for shard in fleet.shards]  # each [n, D, T]
    values = np.concatenate(shards).astype(np.float64).reshape(-1, grid.n_steps).T
    tenants = [
        tenant
        for number in range(len(fleet.shards))
        for tenant in fleet.tables.read("tenant_telemetry", number, ["tenant_id"])["tenant_id"]
        .unique(maintain_order=True)
        .to_list()
    ]
    start = np.datetime64(int(grid.start.timestamp()), "s")
    steps = np.round(np.arange(grid.n_steps) * grid.step_minutes * 60).astype("timedelta64[s]")
    return Series(
        data_set=spec.name,
        step=step_text(grid.step_minutes),
        season=grid.season,
        values=values,
        times=start + steps,
        channels=tuple(f"{tenant}/{metric}" for tenant in tenants for metric in grid.metrics),
        borders=_borders(spec, len(values), f"data set {spec.name!r}"),
        paper_stride=None,
        fingerprint=_fingerprint(spec, fleet.tables.record("tenant_telemetry")["fingerprint"]),
    )


def _read_corpus(spec: CorpusSet) -> Series:
    """Generate blocks of the corpus, each with the mean of as many steps as its turn says, so that
    all time scales of the training occur.

    Block b is a pure function of (seed, b) on one kind of device.
    """
    import torch

    from tsfm_pipeline.pretraining.corpus import AGGREGATIONS, generate_block

    blocks = []
    for block in range(spec.blocks):
        factor = AGGREGATIONS[block % len(AGGREGATIONS)]
        series = generate_block(
            spec.seed, block, spec.block_series, torch.device("cpu"), spec.length * factor
        )
        means = series.reshape(spec.block_series, spec.length, factor).mean(dim=-1)
        blocks.append(means.numpy().astype(np.float64))
    values = np.concatenate(blocks).T
    return Series(
        data_set=spec.name,
        step="1 step",
        season=spec.season,
        values=values,
        times=None,
        channels=tuple(f"series {number}" for number in range(values.shape[1])),
        borders=_borders(spec, len(values), f"data set {spec.name!r}"),
        paper_stride=None,
        fingerprint=_fingerprint(spec),
    )


def _borders(spec: DataSet, n_rows: int, where: str) -> Borders:
    try:
        return spec.split.borders(n_rows)
    except ValueError as error:
        raise SourceError(f"{where}: {error}") from error


def _numbers(column: pl.Series, where: str) -> Floats:
    """Return a column as float64 [T], NaN where a cell is empty or a word for a missing value."""
    if column.dtype == pl.String:
        text = column.str.strip_chars()
        values = text.cast(pl.Float64, strict=False)
        missing = text.str.to_lowercase().is_in(sorted(MISSING_WORDS)).fill_null(True)
        _refuse(column, values.is_null() & ~missing, where, "no number; allowed: 1234.5")
    elif column.dtype.is_numeric():
        values = column.cast(pl.Float64)
    else:
        raise SourceError(
            f"{where}, column {column.name!r}: its type is {column.dtype}; allowed: numbers"
        )
    _refuse(column, values.is_infinite().fill_null(False), where, "not finite; allowed: 1234.5")
    return values.fill_null(np.nan).to_numpy().astype(np.float64)


def _times(column: pl.Series, spec: TableSet, where: str) -> Times | None:
    """Return the times as datetime64[s] [T], or None where the column counts the rows; raise where
    they do not ascend in equal steps.
    """
    if spec.time_format is None:
        counted = pl.Series(column.name, _numbers(column, where))
        steps = counted.diff().fill_null(1)
        _refuse(column, (steps != 1) | counted.is_nan(), where, "not one more than the row before")
        return None
    if column.dtype == pl.Date or isinstance(column.dtype, pl.Datetime):
        times = column.cast(pl.Datetime("us"))
    else:
        text = column.cast(pl.String).str.strip_chars()
        times = text.str.to_datetime(spec.time_format, strict=False, time_unit="us")
    _refuse(column, times.is_null(), where, f"no time; allowed: the format {spec.time_format!r}")
    step = duration(spec.step)
    wrong = times.diff().fill_null(step) != step
    _refuse(column, wrong, where, f"not {spec.step} after the row before; times must ascend so")
    return times.to_numpy().astype("datetime64[s]")


def _refuse(column: pl.Series, wrong: pl.Series, where: str, reason: str) -> None:
    if not wrong.any():
        return
    row = int(wrong.arg_true()[0])
    raise SourceError(
        f"{where}, column {column.name!r}, row {row + 1}: {cell_text(column[row])!r} is {reason} "
        f"({wrong.sum()} such rows)"
    )
