"""Telemetry in: fleet specs, the synthetic generator, tables, Prometheus, and one entry for all of
them.

What belongs here: everything between a fleet's YAML file and its values on a regular grid. What
does not: writing telemetry (`lake`), features (`archetypes`), requests and scores (`evaluation`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tsfm_pipeline.fleets.kinds import (
    AnyFleet,
    FleetSpecError,
    PrometheusFleet,
    SyntheticFleet,
    TableFleet,
)
from tsfm_pipeline.fleets.source import MANIFEST_SCHEMA, FleetDataError, FleetSource
from tsfm_pipeline.fleets.spec import FleetSpec, load_spec, load_specs

__all__ = [
    "MANIFEST_SCHEMA",
    "OPENERS",
    "FleetDataError",
    "FleetSource",
    "FleetSpec",
    "FleetSpecError",
    "PrometheusFleet",
    "SyntheticFleet",
    "TableFleet",
    "fleet_fingerprint",
    "load_spec",
    "load_specs",
    "open_fleet",
    "raw_folder",
    "refresh_fleet",
]


def raw_folder(records_dir: Path) -> Path:
    """Where a fleet keeps what it fetched from elsewhere, among its records."""
    return records_dir / "fetched"


def refresh_fleet(
    spec: AnyFleet,
    *,
    raw_dir: Path | None,
    always: bool = False,
    log: Callable[[str], Any] = lambda _: None,
) -> dict[str, Any]:
    """Fetch what is new where the fleet's telemetry comes from, and say what was done, as figures;
    the caller holds the fleet's lock.

    Only Prometheus fleets are fetched; for every other kind there is nothing to do and nothing to
    say. Call it before `open_fleet`, in the step that writes the telemetry and nowhere else: every
    later step must see what that one saw. always: fetch even where what is there is fresh enough by
    the fleet file. Raises `FleetDataError`.
    """
    if not isinstance(spec, PrometheusFleet) or raw_dir is None:
        return {}
    from tsfm_pipeline.fleets.prometheus_store import refresh

    done = refresh(spec, raw_dir, always=always, log=log)
    return {
        "n_requests_sent": done.n_requests,
        "n_new_rows": done.n_new_rows,
        "fetched_through": done.through.isoformat(),
        "server_warnings": list(done.warnings),
    }


def fleet_fingerprint(spec: AnyFleet, *, fleets_dir: Path, raw_dir: Path | None = None) -> str:
    """What `open_fleet(...).fingerprint()` says, without reading and checking any row: for steps
    that need to know only whether the telemetry is still the same. Raises `FleetDataError` for
    files that are missing or have other columns.
    """
    if isinstance(spec, TableFleet):
        from tsfm_pipeline.fleets.table import table_fingerprint
        from tsfm_pipeline.fleets.table_files import open_files

        return table_fingerprint(open_files(spec, fleets_dir))
    if isinstance(spec, PrometheusFleet) and raw_dir is not None:
        from tsfm_pipeline.fleets.prometheus import stored_fingerprint, what_is_stored

        return stored_fingerprint(spec, what_is_stored(spec, raw_dir))
    return open_fleet(spec, fleets_dir=fleets_dir, raw_dir=raw_dir).fingerprint()


def open_fleet(spec: AnyFleet, *, fleets_dir: Path, raw_dir: Path | None = None) -> FleetSource:
    """The fleet that a spec describes; tables are looked for in `fleets_dir` and checked in full,
    what was fetched in `raw_dir`.

    Raises `FleetDataError` for a table that is missing or cannot be used, and for a fleet of which
    nothing was fetched yet.
    """
    return OPENERS[spec.kind](spec, fleets_dir, raw_dir)


def _open_synthetic(spec: SyntheticFleet, fleets_dir: Path, raw_dir: Path | None) -> FleetSource:
    from tsfm_pipeline.fleets.synthetic import SyntheticSource

    return SyntheticSource(spec)


def _open_table(spec: TableFleet, fleets_dir: Path, raw_dir: Path | None) -> FleetSource:
    from tsfm_pipeline.fleets.table import TableSource

    return TableSource(spec, fleets_dir=fleets_dir)


def _open_prometheus(spec: PrometheusFleet, fleets_dir: Path, raw_dir: Path | None) -> FleetSource:
    from tsfm_pipeline.fleets.prometheus import PrometheusSource

    if raw_dir is None:
        raise FleetDataError(
            f"fleet {spec.name!r} is of kind {spec.kind}; say in 'raw_dir' where what was fetched "
            "is kept"
        )
    return PrometheusSource(spec, raw_dir=raw_dir)


OPENERS: dict[str, Callable[[Any, Path, Path | None], FleetSource]] = {
    "synthetic": _open_synthetic,
    "table": _open_table,
    "prometheus": _open_prometheus,
}
"""How a fleet of each kind is opened: (spec, folder of tables, folder of what was fetched) ->
source.
"""
