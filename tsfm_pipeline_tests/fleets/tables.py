"""Make and read small tables for the tests of table fleets."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from tsfm_pipeline.fleets import FleetSource, TableFleet, open_fleet

HOUR = timedelta(hours=1)
START = datetime(2024, 1, 1, tzinfo=UTC)
N_HOURS = 60


def table(
    tenants: tuple[str, ...] = ("a", "b"), n_hours: int = N_HOURS, start: datetime = START
) -> pl.DataFrame:
    """Hourly rows of two metrics: cpu counts up from 0 (tenant a) and from 1000 (tenant b), mem is
    0.5.
    """
    return pl.concat(
        pl.DataFrame(
            {
                "tenant_id": [tenant] * n_hours,
                "timestamp": [start + hour * HOUR for hour in range(n_hours)],
                "cpu": np.arange(n_hours, dtype=np.float32) + 1000.0 * i,
                "mem": np.full(n_hours, 0.5, dtype=np.float32),
            },
            schema_overrides={"timestamp": pl.Datetime("us", "UTC"), "cpu": pl.Float32},
        )
        for i, tenant in enumerate(tenants)
    )


def spec(path: str = "t.parquet", **fields: object) -> TableFleet:
    return TableFleet.model_validate(
        {
            "name": "mine",
            "title": "Mine",
            "kind": "table",
            "path": path,
            "source": "made up in a test",
            **fields,
        }
    )


def opened(folder: Path, frame: pl.DataFrame, **fields: object) -> FleetSource:
    frame.write_parquet(folder / "t.parquet")
    return open_fleet(spec(**fields), fleets_dir=folder)


def opened_csv(folder: Path, text: str | pl.DataFrame, **fields: object) -> FleetSource:
    path = folder / "t.csv"
    path.write_text(text if isinstance(text, str) else text.write_csv(), encoding="utf-8")
    return open_fleet(spec("t.csv", **fields), fleets_dir=folder)


def panel(source: FleetSource) -> tuple[object, ...]:
    """Grid, bytes and manifest, read before another table takes the file's place."""
    values = source.values(list(range(source.n_tenants)))
    return source.start, source.step, source.n_steps, values.tobytes(), source.manifest().rows()


def edited(frame: pl.DataFrame, row: int, column: str, value: object) -> pl.DataFrame:
    """The frame with one value replaced; rows count from 1, as in messages."""
    here = pl.int_range(pl.len()) == row - 1
    return frame.with_columns(
        pl.when(here).then(pl.lit(value, frame.schema[column])).otherwise(column).alias(column)
    )


def as_text(frame: pl.DataFrame, form: str = "%Y-%m-%d %H:%M:%S") -> pl.DataFrame:
    return frame.with_columns(pl.col("timestamp").dt.strftime(form))
