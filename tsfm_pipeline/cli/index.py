"""`tsfm-pipeline index`: the archetype index of a fleet in a vector database.

What belongs here: the command's arguments and what it prints. What does not: copying the index
(`serving.archetypes`).
"""

from pathlib import Path
from typing import Annotated

import typer

from tsfm_pipeline.cli.screen import plain_errors, refuse, say

index = typer.Typer(help="A fleet's archetype index, in Qdrant.", no_args_is_help=True)


@index.callback()
def _index() -> None:
    """A fleet's archetype index, in Qdrant."""


@index.command("export")
def export(
    to: Annotated[str, typer.Option(help="Qdrant's URL, or a folder for its local mode")],
    fleet: Annotated[str | None, typer.Option(help="the fleet, which must have been run")] = None,
    bundle: Annotated[Path | None, typer.Option(help="or a run's search.bundle")] = None,
) -> None:
    """Copy the index of a fleet's search to Qdrant, for `TSFM_SERVING_ARCHETYPES_URL`."""
    with plain_errors():
        from tsfm_pipeline.autoresearch.bundle import SearchBundle
        from tsfm_pipeline.catalogue.fleet import open_workspace_fleet
        from tsfm_pipeline.serving.archetypes import export_bundle
        from tsfm_pipeline.settings import Settings
        from tsfm_pipeline.steps.bundle import open_bundle

        if (fleet is None) == (bundle is None):
            refuse("give either --fleet or --bundle")
        opened = (
            SearchBundle.open(bundle)
            if bundle is not None
            else open_bundle(open_workspace_fleet(Settings(), str(fleet)))
        )
        for name in export_bundle(opened, to):
            say(name)
