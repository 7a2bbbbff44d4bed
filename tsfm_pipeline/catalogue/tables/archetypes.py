"""Group `archetypes`: features of tenants, the index over the tuning tenants, and what it
retrieves.

What belongs here: the records of the group's tables. What does not: how they are made (`steps`).
"""

from tsfm_pipeline.catalogue import parameters
from tsfm_pipeline.catalogue.columns import TEXT, columns
from tsfm_pipeline.catalogue.parameters import FLEET
from tsfm_pipeline.catalogue.registry import Column, Table
from tsfm_pipeline.catalogue.tables import counts

TRUE_ARCHETYPE = Column("actual", TEXT, "true archetype")

TABLES = (
    Table(
        "tenant_features",
        FLEET,
        "archetypes",
        1,
        question="What does each tenant's telemetry look like, in seven numbers per metric from "
        "before any test period?",
        row="tenant",
        inputs=("tenant_telemetry", "tenant_manifest"),
        columns=columns("tenant_number", "{feature}"),
        key=("tenant_number",),
        n_rows=counts.n_tenants,
        sharded=True,
    ),
    Table(
        "archetype_index",
        FLEET,
        "archetypes",
        1,
        question="Which tuning tenants resemble a tenant, given its full history, its last week, "
        "or its first minutes?",
        row="array of an index; not meant to be read by others",
        inputs=("tenant_telemetry", "tenant_manifest"),
        parameters=parameters.index,
        columns=columns("name", "dtype", "shape", "data"),
    ),
    Table(
        "archetype_retrieval",
        FLEET,
        "archetypes",
        3,
        question="How often does retrieval name a held-out tenant's true archetype, from full "
        "history and from 30 to 480 minutes?",
        row="test tenant and history that its query sees",
        inputs=("tenant_telemetry", "tenant_manifest", "archetype_index", "forecast_requests"),
        parameters=parameters.cold_start,
        columns=(
            *columns("tenant_number", "tenant_id", "fold", "history", "query_step"),
            TRUE_ARCHETYPE,
            *columns("retrieved"),
        ),
        sharded=True,
    ),
)
