"""The tables of a fleet: one record each, with its meaning, its inputs and its parameters.

What belongs here: the registry, joined from one module per group of the asset graph; dependencies,
fingerprints, checks, the codebook and the UI are derived from it. What does not: the class of a
record (`registry`), columns (`columns`), making a table (`steps`).
"""

from tsfm_pipeline.catalogue.registry import Table, registry
from tsfm_pipeline.catalogue.tables import (
    archetypes,
    forecasts,
    recommendations,
    scores,
    serving,
    workloads,
)

TABLES: dict[str, Table] = registry(
    (
        *workloads.TABLES,
        *archetypes.TABLES,
        *forecasts.TABLES,
        *scores.TABLES,
        *recommendations.TABLES,
        *serving.TABLES,
    )
)
"""Every table of a fleet by name, each after its inputs."""
