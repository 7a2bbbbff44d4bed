"""Make small fleets with odd histories, values and names.

What belongs here: making them. What does not: what a run does with them.
"""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from tsfm_pipeline_tests.cli.conftest import add_table_fleet
from tsfm_pipeline_tests.project import Project

STEP = timedelta(minutes=5)
START = datetime(2024, 2, 26, tzinfo=UTC)
"""Four days on is the leap day."""
STEPS_PER_DAY = 288
FAST = {
    "SHARD_TENANTS": "3",
    "DEVICE": "cpu",
    "SEARCH__CANDIDATES": '["ctx64", "ctx256", "ctx512-s1x5"]',
    "SEARCH__PORTFOLIO_SIZE": "2",
    "SEARCH__RECENT_ORIGINS": "3",
    "SEARCH__DAILY_ORIGINS": "[1]",
    "EVALUATION__LATENCY_REQUESTS": "10",
    "EVALUATION__LATENCY_SIZES": "[2]",
    "EVALUATION__BOOTSTRAP_DRAWS": "200",
    "EVALUATION__PERMUTATIONS": "100",
}
CPU, MEM = "../cpu", "mem <b>\"'; DROP TABLE tenant_manifest; --"
"""Metrics whose names lead out of a folder, end a quotation, and are markup."""
HOSTILE = (
    "../../outside",
    "/tmp/outside",
    "<script>alert(1)</script>",
    "=1+1",
    "$\\frac{a}$",
    "| a | 'b' \"c\" |",
)
"""Tenants whose names do the same, and are a formula to a spreadsheet, to a typesetter, and a row
of a table.
"""
FLAT, ZEROS, NO_MEM, GAPPY, NEW, GONE = "flat", "zeros", "no mem", "gappy", "new", "gone"
N_DAYS = 5


def telemetry(
    tenant: str, n_days: float, *, seed: int = 0, start: datetime = START
) -> pl.DataFrame:
    """Rows of one tenant every five minutes: a daily cycle and noise, two metrics."""
    rng = np.random.default_rng(seed)
    n_steps = round(n_days * STEPS_PER_DAY)
    cycle = 2 + np.sin(2 * np.pi * np.arange(n_steps) / STEPS_PER_DAY)
    return pl.DataFrame(
        {
            "tenant_id": [tenant] * n_steps,
            "timestamp": [start + step * STEP for step in range(n_steps)],
            CPU: cycle + 0.2 * rng.random(n_steps),
            MEM: 10 * cycle + rng.random(n_steps),
        }
    )


def odd_table() -> pl.DataFrame:
    """Twelve tenants over five days, of which six have values or histories as odd as the names of
    the other six.
    """
    frames = {
        name: telemetry(name, N_DAYS, seed=i)
        for i, name in enumerate((*HOSTILE, FLAT, ZEROS, NO_MEM, GAPPY))
    }
    frames[FLAT] = frames[FLAT].with_columns(pl.lit(3.0).alias(CPU), pl.lit(7.0).alias(MEM))
    frames[ZEROS] = frames[ZEROS].with_columns(pl.lit(0.0).alias(CPU), pl.lit(0.0).alias(MEM))
    frames[NO_MEM] = frames[NO_MEM].with_columns(pl.lit(float("nan")).alias(MEM))
    frames[GAPPY] = pl.concat([frames[GAPPY][:700], frames[GAPPY][760:]])
    frames[NEW] = telemetry(NEW, 1, start=START + timedelta(days=N_DAYS - 1))
    frames[GONE] = telemetry(GONE, 3)
    return pl.concat(frames.values())


def add_odd_fleet(project: Project, name: str, **fields: object) -> None:
    add_table_fleet(
        project, name, odd_table(), "parquet", horizon=6, seasons=[STEPS_PER_DAY], **fields
    )


def add_single_fleet(project: Project, name: str) -> None:
    """One tenant with one metric."""
    frame = telemetry("the only one", N_DAYS).select(
        "tenant_id", "timestamp", pl.col(CPU).alias("cpu")
    )
    add_table_fleet(project, name, frame, "csv", horizon=6, seasons=[STEPS_PER_DAY])
