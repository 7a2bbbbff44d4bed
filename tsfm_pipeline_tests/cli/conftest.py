"""Provide small table fleets for tests that run commands: hours of made-up telemetry with a daily
pattern.

What belongs here: making such tables and the projects around them. What does not: the fleet that
many tests read.
"""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from tsfm_pipeline_tests.project import Project

STEP = timedelta(minutes=30)
START = datetime(2024, 3, 4, tzinfo=UTC)
SOURCE = "made up in a test; published nowhere"
FIRST_TABLES = ("tenant_telemetry", "tenant_manifest", "forecast_requests")


def telemetry(n_tenants: int = 4, n_days: int = 10, seed: int = 0) -> pl.DataFrame:
    """Half-hourly rows of two metrics with a daily cycle and autocorrelated noise."""
    rng = np.random.default_rng(seed)
    n_steps = n_days * 48
    step = np.arange(n_steps)
    frames = []
    for tenant in range(n_tenants):
        noise = rng.normal(size=(2, n_steps))
        for t in range(1, n_steps):
            noise[:, t] += 0.7 * noise[:, t - 1]
        cycle = 1 + 0.5 * np.sin(2 * np.pi * (step / 48 + tenant / n_tenants))
        frames.append(
            pl.DataFrame(
                {
                    "tenant_id": [f"host-{tenant:02d}"] * n_steps,
                    "timestamp": [START + int(t) * STEP for t in step],
                    "cpu": np.maximum(0, (tenant + 1) * (cycle + 0.1 * noise[0])),
                    "mem": np.maximum(0, 10 + 2 * cycle + 0.3 * noise[1]),
                }
            )
        )
    return pl.concat(frames)


def add_table_fleet(
    project: Project, name: str, frame: pl.DataFrame, suffix: str = "csv", **fields: object
) -> None:
    """Write the table below the fleets folder, and a spec that finds it there."""
    path = f"${{TSFM_FLEETS_DIR}}/{name}.{suffix}"
    defaults = {
        "kind": "table",
        "path": path,
        "source": SOURCE,
        "horizon": 4,
        "origins_per_tenant": 3,
        "max_gap": 4,
        "lower": 0,
    }
    project.add_fleet(name, **defaults | fields)
    target = project.fleets_dir / f"{name}.{suffix}"
    frame.write_csv(target) if suffix == "csv" else frame.write_parquet(target)
