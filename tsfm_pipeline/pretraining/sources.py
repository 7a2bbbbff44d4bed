"""Find the outside data of the yardsticks, and read their files as arrays.

What belongs here: the two folders (`TSFM_BENCHMARKS_DIR`, `TSFM_FLEETS_DIR`), messages about
missing files and where they are published, and reading ETT, the real fleets and the reference
figures. What does not: protocols (`published`, `rolling`). Files are read in place and never
copied.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tsfm_pipeline.forecaster.panel import FloatArray

BENCHMARKS_VARIABLE, FLEETS_VARIABLE = "TSFM_BENCHMARKS_DIR", "TSFM_FLEETS_DIR"
REFERENCE_FILE = "reference_figures.json"
_PUBLISHED_AT = {
    "ETTh1.csv": "https://github.com/zhouhaoyi/ETDataset (commit 1d16c8f, ETT-small/ETTh1.csv)",
    "ETTh2.csv": "https://github.com/zhouhaoyi/ETDataset (commit 1d16c8f, ETT-small/ETTh2.csv)",
    REFERENCE_FILE: "no public address: it comes with the project's shared benchmarks",
    "smd.parquet": "https://github.com/NetManAIOps/OmniAnomaly (ServerMachineDataset); the form "
    "is in data/fleets/smd.yaml",
    "asd.parquet": "https://github.com/zhhlee/InterFusion (ASD); the form is in "
    "data/fleets/asd.yaml",
    "nab_aws_raw.parquet": "https://github.com/numenta/NAB (commit ea702d7, "
    "data/realAWSCloudwatch) as series_id, timestamp, value",
}
ETT_NAMES = ("ETTh1", "ETTh2")
SMD_METRICS = ("cpu_r", "load_1", "mem_u", "eth1_fi", "eth1_fo", "tcp_use")
FLEET_NAMES = ("smd", "asd", "nab")


class MissingDataError(FileNotFoundError):
    """Raised when outside data for an evaluation are missing. The message says which files, in
    which folder, and where they are published.
    """


@dataclass(frozen=True)
class Sources:
    """The folders of the outside data. Raises MissingDataError if a file is missing."""

    benchmarks: Path
    fleets: Path

    def __post_init__(self) -> None:
        needed = [
            (self.benchmarks, name, BENCHMARKS_VARIABLE)
            for name in ("ETTh1.csv", "ETTh2.csv", REFERENCE_FILE)
        ]
        needed += [
            (self.fleets, name, FLEETS_VARIABLE)
            for name in ("smd.parquet", "asd.parquet", "nab_aws_raw.parquet")
        ]
        missing = [
            f"{folder / name} ({variable}); published at {_PUBLISHED_AT[name]}"
            for folder, name, variable in needed
            if not (folder / name).is_file()
        ]
        if missing:
            raise MissingDataError(
                "the evaluation of a checkpoint needs outside data that are missing: "
                + "; ".join(missing)
            )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Sources":
        """Return the folders that TSFM_BENCHMARKS_DIR and TSFM_FLEETS_DIR name. Raises
        MissingDataError if one is unset or incomplete.
        """
        environment = os.environ if environment is None else environment
        unset = [
            name for name in (BENCHMARKS_VARIABLE, FLEETS_VARIABLE) if not environment.get(name)
        ]
        if unset:
            files = "; ".join(f"{name}: {address}" for name, address in _PUBLISHED_AT.items())
            raise MissingDataError(
                f"{' and '.join(unset)} must name the folders with the outside data "
                f"({BENCHMARKS_VARIABLE}: ETTh1.csv, ETTh2.csv, "
                f"{REFERENCE_FILE}; {FLEETS_VARIABLE}: smd.parquet, asd.parquet, "
                f"nab_aws_raw.parquet). Published at: {files}"
            )
        return cls(
            *(
                Path(environment[name]).expanduser().absolute()
                for name in (BENCHMARKS_VARIABLE, FLEETS_VARIABLE)
            )
        )

    def ett(self, name: str) -> npt.NDArray[np.float64]:
        """Return the seven hourly series of ETTh1 or ETTh2, float64 [7, hours]."""
        return (
            pl.read_csv(self.benchmarks / f"{name}.csv")
            .drop("date")
            .to_numpy()
            .astype(np.float64)
            .T
        )

    def reference(self) -> dict[str, Any]:
        """Return the figures of the independent implementation."""
        figures: dict[str, Any] = json.loads((self.benchmarks / REFERENCE_FILE).read_text())
        return figures

    def fleet(self, name: str) -> "RealFleet":
        """Return smd, asd or nab, without constant series."""
        readers = {"smd": _smd, "asd": _asd, "nab": _nab}
        return readers[name](self.fleets)


@dataclass(frozen=True)
class RealFleet:
    """The series of one real fleet on one time grid, left-aligned.

    values: float32 [S, T], NaN where missing and after the end of a series. lengths: number of
    steps of each series [S]. groups: the key under which the reference reports each series.
    n_constant: number of constant series that were left out.
    """

    name: str
    values: FloatArray
    lengths: npt.NDArray[np.int64]
    groups: tuple[str, ...]
    labels: tuple[str, ...]
    season: int
    step_minutes: int
    horizons: tuple[int, ...]
    n_constant: int

    @property
    def n_series(self) -> int:
        """Return the number of series, S."""
        return len(self.values)

    def rows_of(self, group: str) -> npt.NDArray[np.int64]:
        """Return the row numbers of a group's series."""
        return np.flatnonzero(np.array(self.groups) == group)


def _of_series(
    name: str,
    series: list[tuple[str, str, npt.NDArray[np.floating]]],
    season: int,
    step_minutes: int,
    horizons: tuple[int, ...],
) -> RealFleet:
    """Build a fleet from (group, label, values [T]) entries, sorted by group."""
    moving = [entry for entry in series if np.nanmax(entry[2]) > np.nanmin(entry[2])]
    moving.sort(key=lambda entry: entry[0])
    lengths = np.array([len(values) for _, _, values in moving], dtype=np.int64)
    values = np.full((len(moving), lengths.max()), np.nan, dtype=np.float32)
    for row, (_, _, one) in zip(values, moving, strict=True):
        row[: len(one)] = one
    groups, labels = tuple(group for group, _, _ in moving), tuple(label for _, label, _ in moving)
    return RealFleet(
        name,
        values,
        lengths,
        groups,
        labels,
        season,
        step_minutes,
        horizons,
        len(series) - len(moving),
    )


def _smd(folder: Path) -> RealFleet:
    tables = (
        pl.read_parquet(folder / "smd.parquet")
        .sort("tenant_id", "timestamp")
        .partition_by("tenant_id", maintain_order=True)
    )
    series = [
        (metric, f"{t['tenant_id'][0]} {metric}", t[metric].to_numpy())
        for metric in SMD_METRICS
        for t in tables
    ]
    return _of_series("smd", series, season=1440, step_minutes=1, horizons=(60,))


def _asd(folder: Path) -> RealFleet:
    table = pl.read_parquet(folder / "asd.parquet").sort("tenant_id", "timestamp")
    tables = table.partition_by("tenant_id", maintain_order=True)
    metrics = [column for column in table.columns if column not in ("tenant_id", "timestamp")]
    series = [
        ("all19", f"{t['tenant_id'][0]} {metric}", t[metric].to_numpy())
        for metric in metrics
        for t in tables
    ]
    return _of_series("asd", series, season=288, step_minutes=5, horizons=(12, 48))


def _nab(folder: Path) -> RealFleet:
    """Read nab onto a five-minute grid: round timestamps down, average duplicates, and leave other
    steps missing.
    """
    table = pl.read_parquet(folder / "nab_aws_raw.parquet").with_columns(
        pl.col("timestamp").dt.truncate("5m")
    )
    table = (
        table.group_by("series_id", "timestamp")
        .agg(pl.col("value").mean())
        .sort("series_id", "timestamp")
    )
    series = []
    for one in table.partition_by("series_id", maintain_order=True):
        label = str(one["series_id"][0])
        group = "aws_cpu" if "cpu" in label else "aws_net_disk_req"
        series.append((group, label, one.upsample("timestamp", every="5m")["value"].to_numpy()))
    return _of_series("nab", series, season=288, step_minutes=5, horizons=(12, 48))
