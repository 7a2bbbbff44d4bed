"""Group `workloads`: the fleet's telemetry and its tenants.

What belongs here: the records of the group's tables. What does not: how they are made (`steps`).
"""

from tsfm_pipeline.catalogue import parameters
from tsfm_pipeline.catalogue.columns import columns
from tsfm_pipeline.catalogue.parameters import FLEET
from tsfm_pipeline.catalogue.registry import Table
from tsfm_pipeline.catalogue.tables import counts

TABLES = (
    Table(
        "tenant_telemetry",
        FLEET,
        "workloads",
        1,
        question="What did every tenant use at every step? Null where nothing was observed.",
        row="tenant and step of the fleet's grid",
        parameters=parameters.telemetry,
        columns=columns("tenant_id", "timestamp", "{metric}"),
        key=("tenant_id", "timestamp"),
        key_by_construction=True,
        n_rows=counts.n_tenant_steps,
        sharded=True,
    ),
    Table(
        "tenant_manifest",
        FLEET,
        "workloads",
        3,
        question="Who are the tenants, how complete is their telemetry, and who tunes and who is "
        "tested?",
        row="tenant",
        inputs=("tenant_telemetry",),
        parameters=parameters.manifest,
        columns=columns(
            "tenant_number",
            "tenant_id",
            "archetype",
            "tier",
            "first_step",
            "last_step",
            "n_observed",
            "n_missing",
            "n_duplicates",
            "n_gaps",
            "longest_gap",
            "fold",
            "test_start_step",
        ),
        key=("tenant_number",),
        n_rows=counts.n_tenants,
    ),
)
