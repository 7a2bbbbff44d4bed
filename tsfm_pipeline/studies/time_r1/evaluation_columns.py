"""Columns of the evaluation: one row per data set, horizon, window set and method.

What belongs here: name, type, meaning and unit of each column. What does not: computing them
(`evaluation`).
"""

from collections.abc import Iterator

import polars as pl

from tsfm_pipeline.catalogue.columns import FLOAT64, INT64, TEXT
from tsfm_pipeline.catalogue.registry import Column
from tsfm_pipeline.studies.time_r1.measure_units import MEASURES
from tsfm_pipeline.studies.time_r1.methods import METHODS, REFERENCES


def with_limits(name: str, meaning: str, unit: str) -> tuple[Column, ...]:
    """Return the columns of a figure and of the limits of its interval."""
    return (
        Column(name, FLOAT64, meaning, unit),
        Column(f"{name}_low", FLOAT64, f"low limit of the 95 % interval of {name}", unit),
        Column(f"{name}_high", FLOAT64, f"high limit of the 95 % interval of {name}", unit),
    )


def over(reference: str) -> str:
    """Return the column of the ratio of MASE to a reference's."""
    return f"mase_over_{reference}"


def minus(reference: str) -> str:
    """Return the column of the difference of MASE from a reference's."""
    return f"mase_minus_{reference}"


def _paired() -> Iterator[Column]:
    for reference in REFERENCES:
        title = METHODS[reference].title
        yield from with_limits(
            over(reference),
            f"MASE over that of {title}, on the same windows; null where it took no part",
            "ratio",
        )
        yield from with_limits(
            minus(reference),
            f"MASE minus that of {title}, on the same windows; null where it took no part",
            "ratio",
        )


EVALUATED: tuple[Column, ...] = (
    Column("data_set", TEXT, "name of the data set"),
    Column("horizon", INT64, "how far ahead is forecast", "steps"),
    Column("window_set", TEXT, "own: 203 windows of ETT; paper: as in Time-R1; fleet: of a fleet"),
    Column("method", TEXT, "name of the method"),
    Column("n_windows", INT64, "test windows, the same for every method", "count"),
    Column("n_channels", INT64, "channels of these windows", "count"),
    Column("n_origins", INT64, "origins of these windows", "count"),
    Column("n_unscaled", INT64, "windows without a scale, which MASE leaves out", "count"),
    Column("n_floored", INT64, "steps whose actual the floor of MAPE replaced", "count"),
    Column("n_failed", INT64, "windows whose answer failed, so that the draft stands", "count"),
    *with_limits(
        "gate_rate", "windows whose refined answer the gate kept; null without a gate", "share"
    ),
    *(
        column
        for name, (meaning, unit) in MEASURES.items()
        for column in with_limits(name, meaning, unit)
    ),
    *_paired(),
    Column(
        "n_left_out",
        INT64,
        "further windows of this set, left out because values in them were not observed",
        "count",
    ),
)
EVALUATION_SCHEMA = pl.Schema({column.name: column.dtype for column in EVALUATED})
