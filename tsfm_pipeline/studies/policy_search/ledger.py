"""The ledger: one line per experiment, appended under a lock and never rewritten.

What belongs here: the record table of the experiments and `results.tsv` beside it, the claims of
experiments that are running, and reading all of it. What does not: deciding what a line says
(`judging`, `loop`).
"""

import polars as pl

SCHEMA = {
    "time": pl.Datetime("us", "UTC"),
    "experiment": pl.String,
    "yardstick": pl.String,
    "commit": pl.String,
    "policy": pl.String,
    "parent": pl.String,
    "driver": pl.String,
    "status": pl.String,
    "description": pl.String,
    "changes": pl.String,
    "n_changes": pl.Int64,
    "fleets": pl.String,
    "screened_out": pl.Boolean,
    "objective": pl.Float64,
    "loss_premium": pl.Float64,
    "loss_premium_low": pl.Float64,
    "loss_premium_high": pl.Float64,
    "loss_standard": pl.Float64,
    "loss_standard_low": pl.Float64,
    "loss_standard_high": pl.Float64,
    "loss_basic": pl.Float64,
    "loss_basic_low": pl.Float64,
    "loss_basic_high": pl.Float64,
    "mae": pl.Float64,
    "p50_ms": pl.Float64,
    "p95_ms": pl.Float64,
    "tokens": pl.Float64,
    "peak_mib": pl.Float64,
    "seconds": pl.Float64,
    "outcome": pl.String,
}
"""Columns of the record table. experiment: random, 16 hex digits. changes: the policy's fields as
JSON. objective: exp of the mean over fleets of log(loss / loss of the default policy), at the
standard tier; below 1 is better. loss_*: mean over fleets of the mean scaled loss, with 95 %
limits over tenants. outcome: the `Outcome` as JSON. `results.tsv` has all columns but the last."""
