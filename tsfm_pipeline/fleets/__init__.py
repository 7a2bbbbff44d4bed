"""Telemetry in: fleet specs, the synthetic generator, tables, saved data sets, Prometheus,
databases, and one way to open all of them.

What belongs here: every step from a fleet's YAML file to its values on a regular grid. What does
not: writing telemetry (`lake`), features (`archetypes`), requests and scores (`evaluation`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tsfm_pipeline.fleets.fields import FleetSpecError
from tsfm_pipeline.fleets.kinds import (
    AnyFleet,
    FetchedFleet,
    PrometheusFleet,
    SavedDatasetFleet,
    SqlFleet,
    SyntheticFleet,
    TableFleet,
)
from tsfm_pipeline.fleets.source import MANIFEST_SCHEMA, FleetDataError, FleetSource
from tsfm_pipeline.fleets.spec import FleetSpec, load_spec, load_specs

__all__ = [
    "MANIFEST_SCHEMA",
    "OPENERS",
    "FetchedFleet",
    "FleetDataError",
    "FleetSource",
    "FleetSpec",
    "FleetSpecError",
    "PrometheusFleet",
    "SavedDatasetFleet",
    "SqlFleet",
    "SyntheticFleet",
    "TableFleet",
    "fleet_fingerprint",
    "is_fetched",
    "load_spec",
    "load_specs",
    "open_fleet",
    "raw_folder",
    "refresh_fleet",
]


def raw_folder(records_dir: Path) -> Path:
    """Return the folder, among a fleet's records, of the samples that were fetched."""
    return records_dir / "fetched"


def refresh_fleet(
    spec: AnyFleet,
    *,
    raw_dir: Path | None,
    fleets_dir: Path = Path(),
    always: bool = False,
    log: Callable[[str], Any] = lambda _: None,
) -> dict[str, Any]:
    """Fetch new telemetry from the fleet's server and return what was done, as figures. The caller
    must hold the fleet's lock.

    Only Prometheus and SQL fleets are fetched; for every other kind the function returns an empty
    dictionary. Call it before `open_fleet`, and only in the step that writes the telemetry: every
    later step must see the same samples as that step. fleets_dir: where the file of a database is
    looked up. always: fetch even where what is stored is fresh by the fleet file's `fresh_hours`.
    Raises `FleetDataError`.
    """
    if not isinstance(spec, FetchedFleet) or raw_dir is None:
        return {}
    from tsfm_pipeline.fleets import prometheus_store, sql_store

    if isinstance(spec, SqlFleet):
        done = sql_store.refresh(spec, raw_dir, fleets_dir=fleets_dir, always=always, log=log)
    else:
        done = prometheus_store.refresh(spec, raw_dir, always=always, log=log)
    return {
        "n_requests_sent": done.n_requests,
        "n_new_rows": done.n_new_rows,
        "fetched_through": done.through.isoformat(),
        "server_warnings": list(done.warnings),
    }


def is_fetched(spec: FetchedFleet, raw_dir: Path) -> bool:
    """Return whether anything has been fetched for this fleet."""
    from tsfm_pipeline.fleets import prometheus_store, sql_store
    from tsfm_pipeline.fleets.fetched_days import stored_days

    folder = (
        sql_store.store_of(spec, raw_dir)
        if isinstance(spec, SqlFleet)
        else prometheus_store.store_of(spec, raw_dir)
    )
    return any(day.paths for day in stored_days(folder, spec.lookback_days))


def fleet_fingerprint(spec: AnyFleet, *, fleets_dir: Path, raw_dir: Path | None = None) -> str:
    """Return the fingerprint that `open_fleet(...).fingerprint()` would return, without checking
    any row; those of CSV files are read where the fleet file does not list the metrics.

    Use it in steps that only need to know whether the telemetry has changed. Raises
    `FleetDataError` for files that are missing or have other columns.
    """
    if isinstance(spec, TableFleet):
        from tsfm_pipeline.fleets.table import table_fingerprint
        from tsfm_pipeline.fleets.table_files import open_files

        return table_fingerprint(open_files(spec, fleets_dir))
    if isinstance(spec, SavedDatasetFleet):
        from tsfm_pipeline.fleets.saved_dataset import saved_fingerprint

        return saved_fingerprint(spec, fleets_dir)
    if isinstance(spec, FetchedFleet) and raw_dir is not None:
        from tsfm_pipeline.fleets import prometheus, sql

        if isinstance(spec, SqlFleet):
            return sql.stored_fingerprint(spec, sql.what_is_stored(spec, raw_dir))
        return prometheus.stored_fingerprint(spec, prometheus.what_is_stored(spec, raw_dir))
    return open_fleet(spec, fleets_dir=fleets_dir, raw_dir=raw_dir).fingerprint()


def open_fleet(spec: AnyFleet, *, fleets_dir: Path, raw_dir: Path | None = None) -> FleetSource:
    """Open the fleet that a spec describes. Tables are looked up in `fleets_dir` and checked in
    full; fetched samples are read from `raw_dir`.

    Raises `FleetDataError` for a table that is missing or cannot be used, and for a fleet of which
    nothing has been fetched yet.
    """
    return OPENERS[spec.kind](spec, fleets_dir, raw_dir)


def _open_synthetic(spec: SyntheticFleet, fleets_dir: Path, raw_dir: Path | None) -> FleetSource:
    from tsfm_pipeline.fleets.synthetic import SyntheticSource

    return SyntheticSource(spec)


def _open_table(spec: TableFleet, fleets_dir: Path, raw_dir: Path | None) -> FleetSource:
    from tsfm_pipeline.fleets.table import TableSource

    return TableSource(spec, fleets_dir=fleets_dir)


def _open_saved_dataset(
    spec: SavedDatasetFleet, fleets_dir: Path, raw_dir: Path | None
) -> FleetSource:
    from tsfm_pipeline.fleets.saved_dataset import SavedDatasetSource

    return SavedDatasetSource(spec, fleets_dir=fleets_dir)


def _open_prometheus(spec: PrometheusFleet, fleets_dir: Path, raw_dir: Path | None) -> FleetSource:
    from tsfm_pipeline.fleets.prometheus import PrometheusSource

    return PrometheusSource(spec, raw_dir=_require_folder(spec, raw_dir))


def _open_sql(spec: SqlFleet, fleets_dir: Path, raw_dir: Path | None) -> FleetSource:
    from tsfm_pipeline.fleets.sql import SqlSource

    return SqlSource(spec, raw_dir=_require_folder(spec, raw_dir))


def _require_folder(spec: FetchedFleet, raw_dir: Path | None) -> Path:
    if raw_dir is None:
        raise FleetDataError(
            f"fleet {spec.name!r} is of kind {spec.kind}; pass the folder of its fetched samples "
            "as 'raw_dir'"
        )
    return raw_dir


OPENERS: dict[str, Callable[[Any, Path, Path | None], FleetSource]] = {
    "synthetic": _open_synthetic,
    "table": _open_table,
    "saved_dataset": _open_saved_dataset,
    "prometheus": _open_prometheus,
    "sql": _open_sql,
}
"""How to open a fleet of each kind: (spec, folder of tables, folder of fetched samples) -> source.
"""
