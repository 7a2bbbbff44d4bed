"""Columns of the tables of group `serving`; `columns` joins them with all others.

What belongs here: name, type, meaning and unit of the columns that only these tables have. What
does not: the columns of the records that the service writes (`evaluation.served`), from which most
of these come.
"""

import polars as pl

from tsfm_pipeline.catalogue.registry import Column
from tsfm_pipeline.evaluation.served import SERVED_COLUMNS

METRIC = "units of the metric"
TIME = pl.Datetime("us", "UTC")
_DTYPES: dict[str, pl.DataType] = {
    "String": pl.String(),
    "Datetime": TIME,
    "Float64": pl.Float64(),
    "Int32": pl.Int32(),
    "Boolean": pl.Boolean(),
    "List[Float32]": pl.List(pl.Float32()),
}
RENAMED = {"request_id": "answer_id", "deciles": "served_deciles"}
"""Names of the records that mean something else in other tables."""

SERVED: tuple[Column, ...] = tuple(
    Column(RENAMED.get(own.name, own.name), _DTYPES[own.dtype], own.meaning, own.unit)
    for own in SERVED_COLUMNS
)
"""The columns of a served record, in their order."""

SERVING_COLUMNS: tuple[Column, ...] = (
    *SERVED,
    Column(
        "outcome",
        pl.List(pl.Float32()),
        "what happened at each step; null where it was not observed, or not yet; empty where the "
        "market is not one of the fleet's",
        METRIC,
    ),
    Column("n_known", pl.Int32(), "steps whose outcome is known", "count"),
    Column("unmatched", pl.String(), "why the answer has no outcome; empty where it can have one"),
    Column("as_of_step", pl.Int32(), "step of the fleet's grid at `as_of`", "steps"),
    Column("source", pl.String(), "where the past intervals come from: served or backtest"),
    Column("segment_key", pl.String(), "name=value, sorted by name, joined by |; or global"),
    Column("target", pl.Float64(), "coverage that the intervals promise", "share"),
    Column("first_of_bucket", pl.Int32(), "first step of the bucket, from 1", "steps"),
    Column("last_of_bucket", pl.Int32(), "last step of the bucket within the horizon", "steps"),
    Column("n_scores", pl.Int64(), "scores of past intervals", "count"),
    Column(
        "conformal_score", pl.Float64(), "half widths by which both ends move outwards", "ratio"
    ),
    Column("calibrated_until", TIME, "no value after this time was used"),
    Column("newest_value", TIME, "time of the newest value that was used"),
    Column("time", TIME, "time of the observed value"),
    Column("observed", pl.Float32(), "what was observed", METRIC),
    Column("band_low", pl.Float32(), "lower end of the 90 % interval that was answered", METRIC),
    Column("band_high", pl.Float32(), "upper end of the interval", METRIC),
    Column("band_source", pl.String(), "conformal, raw or baseline"),
    Column("fallback_used", pl.Boolean(), "whether a baseline answered"),
    Column(
        "breach_size",
        pl.Float32(),
        "how far beyond the interval, as a share of the metric's range; negative: below it",
        "share",
    ),
    Column(
        "followed",
        pl.Boolean(),
        "whether the series moved on by .03 of its range within six hours; null: not known",
    ),
    Column("percent", pl.Int32(), "share of the markets that the model answers", "percent"),
    Column("since", TIME, "when the conditions of this stage were met"),
    Column("decided_because", pl.String(), "why this stage, in words"),
    Column("decided_by", pl.String(), "automatic, or who overrode it"),
    Column("known_until", TIME, "the decision knows what was recorded until then"),
    Column(
        "windows_judged",
        pl.Int32(),
        "windows of this stage that were judged; null: decided by an earlier run",
        "count",
    ),
    Column(
        "clean_minutes",
        pl.Int32(),
        "minutes of clean windows in a row at its end; null: likewise",
        "minutes",
    ),
)

_ANSWER = ("answer_id", "received", "market_id", "tenant_number", "metric", "as_of", "as_of_step")
OUTCOMES = (
    *_ANSWER,
    "freq_minutes",
    "horizon",
    "served_deciles",
    "low_80",
    "high_80",
    "low_90",
    "high_90",
    "outcome",
    "n_known",
    "unmatched",
    "segment",
    "runtime",
    "model",
    "version",
    "calibration",
    "route",
    "stage",
    "fallback_reason",
)
CALIBRATIONS = (
    "source",
    "calibrated_until",
    "newest_value",
    "runtime",
    "model",
    "version",
    "freq_minutes",
    "horizon",
    "segment_key",
    "target",
    "first_of_bucket",
    "last_of_bucket",
    "n_scores",
    "conformal_score",
)
ALERTS = (
    *_ANSWER,
    "time",
    "observed",
    "band_low",
    "band_high",
    "band_source",
    "fallback_used",
    "breach_size",
    "followed",
)
DECISIONS = (
    "stage",
    "percent",
    "since",
    "decided_because",
    "decided_by",
    "known_until",
    "windows_judged",
    "clean_minutes",
)
"""The columns of each table, in their order."""


def schema_of_columns(*names: str) -> pl.Schema:
    """Return the types of these columns, so that a table without rows has them too."""
    types = {column.name: column.dtype for column in SERVING_COLUMNS}
    types |= {"tenant_number": pl.Int32(), "metric": pl.String()}
    return pl.Schema({name: types[name] for name in names})
