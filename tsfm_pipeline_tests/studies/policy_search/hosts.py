"""A small fleet of hosts that the study prepares with the real model.

What belongs here: its telemetry and its size. What does not: what any test expects.
"""

from pathlib import Path

import polars as pl

from tsfm_pipeline_tests.cli.conftest import add_table_fleet, telemetry
from tsfm_pipeline_tests.project import Project

FLEET = "hosts"
N_TENANTS, N_METRICS, N_ORIGINS = 6, 2, 3


def project_with_hosts(folder: Path) -> Project:
    """Six hosts over 20 days at half an hour, cross-fitted, one of them late: small enough that the
    model answers in seconds.
    """
    project = Project(folder, {"SHARD_TENANTS": "4"})
    frame = telemetry(N_TENANTS, n_days=20)
    late = (pl.col("tenant_id") == "host-01") & (pl.int_range(pl.len()).over("tenant_id") < 400)
    add_table_fleet(project, FLEET, frame.filter(~late), origins_per_tenant=N_ORIGINS)
    return project
