"""The values of a data set, read a second time in another way: what drift is measured against.

What belongs here: one reader per kind of source, which shares no code with `sources` beyond where
the source lies. What does not: refusing what cannot be used (`sources`), and the comparison
(`quality`).
"""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tsfm_pipeline.catalogue.fleet import open_workspace_fleet
from tsfm_pipeline.fleets.dialects import dialect_of
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.time_r1.datasets import DataSet, FleetSet, TableSet
from tsfm_pipeline.studies.time_r1.windows import Floats


def raw_values(spec: DataSet, settings: Settings, channels: Sequence[str]) -> Floats | None:
    """Return the values of a data set as they lie in its file or in the fleet's telemetry, float64
    [T, C]; NaN where a cell is no number. None for the corpus, which is generated and lies nowhere.

    channels: the names [C] of the columns, of a fleet `tenant/metric`. Python's own csv reader,
    pyarrow and DuckDB read the values; `sources` uses polars. Raises KeyError for a channel that is
    not there, OSError where there is no file, and StorageError where there is no telemetry.
    """
    if isinstance(spec, TableSet):
        path = spec.file(settings)
        columns = _csv_columns(path) if path.suffix == ".csv" else _parquet_columns(path, channels)
    elif isinstance(spec, FleetSet):
        columns = _telemetry(spec, settings)
    else:
        return None
    return np.stack([columns[channel] for channel in channels], axis=1)


def _csv_columns(path: Path) -> dict[str, Floats]:
    dialect = dialect_of(path)
    with path.open(encoding="utf-8-sig", newline="") as lines:
        for _ in range(dialect.blocks[0].skipped):
            next(lines)
        header, *rows = (row for row in csv.reader(lines, delimiter=dialect.separator) if row)
    return {
        name: np.array([_number(row[i] if i < len(row) else "") for row in rows])
        for i, name in enumerate(header)
    }


def _parquet_columns(path: Path, channels: Sequence[str]) -> dict[str, Floats]:
    from pyarrow import parquet

    table = parquet.read_table(path, columns=list(channels), partitioning=None)
    return {name: np.array([*map(_number, table[name].to_pylist())]) for name in channels}


def _telemetry(spec: FleetSet, settings: Settings) -> dict[str, Floats]:
    fleet = open_workspace_fleet(settings, spec.fleet)
    metrics = ", ".join(f'"{metric}"' for metric in fleet.grid.metrics)
    rows = fleet.tables.query(
        f"SELECT tenant_id, {metrics} FROM tenant_telemetry ORDER BY tenant_id, timestamp",
        "tenant_telemetry",
    )
    return {
        f"{tenant}/{metric}": of_tenant[metric].to_numpy().astype(np.float64)
        for (tenant,), of_tenant in rows.partition_by("tenant_id", as_dict=True).items()
        for metric in fleet.grid.metrics
    }


def _number(cell: object) -> float:
    try:
        return float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan
