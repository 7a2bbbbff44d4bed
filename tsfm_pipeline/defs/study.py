"""Code locations of studies that are one job over the tables of a scope, and a report.

What belongs here: what such locations have in common. What does not: a study's tables and its
report's body (the study's `definitions`, which brings them).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from tsfm_pipeline.catalogue.registry import Table
from tsfm_pipeline.catalogue.scopes import M, Scope
from tsfm_pipeline.defs.code_references import with_references_to_bodies
from tsfm_pipeline.defs.materialise import table_asset
from tsfm_pipeline.defs.progress import ANSWER
from tsfm_pipeline.defs.report import shown_png
from tsfm_pipeline.defs.resources import resources
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.steps.makers import Maker

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def study_definitions(
    settings: Settings,
    scope: Scope[M],
    tables: Mapping[str, Table],
    makers: Mapping[str, Maker],
    partitions: dg.PartitionsDefinition,
    report: dg.AssetsDefinition,
    job: str,
    description: str,
    purpose: str,
) -> dg.Definitions:
    """Return a study's tables and report as assets, with a job of all of them and the resources.

    job, description: of the job that makes everything about one partition. purpose: its tag.
    """
    assets = [table_asset(scope, table, makers[name], partitions) for name, table in tables.items()]
    whole = dg.define_asset_job(
        job, dg.AssetSelection.all(), description=description, tags={"purpose": purpose}
    )
    return dg.Definitions(
        assets=[*assets, *with_references_to_bodies([report])],
        jobs=[whole],
        resources=resources(settings),
        executor=dg.in_process_executor,
    )


def report_metadata(
    summary: str, answer: str, page: Path, figures: "Iterable[tuple[str, Figure]]"
) -> dict[str, Any]:
    """Return what the UI shows of a study's report: a summary as markdown, its answer, the page's
    path, and the figures by name.
    """
    from tsfm_pipeline.reports.shared.style import to_png

    return {
        "summary": dg.MetadataValue.md(summary),
        ANSWER: answer,
        "path": dg.MetadataValue.path(str(page)),
        **{name: shown_png(name, to_png(figure, dpi=80)) for name, figure in figures},
    }
