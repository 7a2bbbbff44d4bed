"""Fetching the telemetry of a fleet for a command that examines it.

What belongs here: when a command fetches, and what it says. What does not: fetching itself
(`fleets.fetched_days`).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from tsfm_pipeline.cli.screen import say

if TYPE_CHECKING:
    from tsfm_pipeline.fleets.kinds import AnyFleet
    from tsfm_pipeline.settings import Settings


def fetch_if_needed(
    spec: "AnyFleet", settings: "Settings", raw_dir: Path | None, always: bool
) -> None:
    """Fetch a Prometheus or SQL fleet if it was never fetched or if `always`. New telemetry makes
    the fleet's tables stale.
    """
    from tsfm_pipeline.fleets import FetchedFleet, is_fetched, refresh_fleet

    if not isinstance(spec, FetchedFleet) or raw_dir is None:
        return
    from tsfm_pipeline.lake import open_lake

    if always or not is_fetched(spec, raw_dir):
        with open_lake(settings).fleet(spec.name).lock("tsfm-pipeline fleet check"):
            done = refresh_fleet(
                spec,
                raw_dir=raw_dir,
                fleets_dir=settings.fleet_tables_dir,
                always=always,
                log=say,
            )
        say(
            f"{spec.name}: {done['n_new_rows']} new rows through {done['fetched_through']} from "
            f"{done['n_requests_sent']} requests"
        )
