"""Findings about fleets: whether the file can be read, whether telemetry exists, and which tables
are stale and why.

What belongs here: the findings about one fleet. What does not: why a table is stale
(`catalogue.staleness`), rules of quality (`tsfm-pipeline fleet check`).
"""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tsfm_pipeline.catalogue import records
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.moves import left_behind
from tsfm_pipeline.catalogue.registry import made_from
from tsfm_pipeline.catalogue.staleness import why_stale
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.cli.doctor.findings import TABLE, Finding, Section, Verdict
from tsfm_pipeline.cli.doctor.folders import MIB, SKEW_S, free_bytes
from tsfm_pipeline.files import StorageError, appended_at
from tsfm_pipeline.fleets import FleetDataError, SyntheticFleet, TableFleet, fleet_fingerprint
from tsfm_pipeline.fleets.kinds import AnyFleet, FetchedFleet, FleetSpecError
from tsfm_pipeline.fleets.spec import fleet_files
from tsfm_pipeline.lake import FleetLake, open_lake
from tsfm_pipeline.plugins import PluginError
from tsfm_pipeline.settings import Settings

BYTES_PER_VALUE = 15
"""Estimated size of all tables together, per tenant, step and metric. Synthetic fleets of 16 to 48
tenants and 14 to 21 days took 7 to 13.
"""
SOURCE_BYTES_PER_VALUE = 6
"""Estimated size of a value in a user's table of telemetry. CSV takes more, Parquet less."""


def fleet_sections(settings: Settings, names: Sequence[str]) -> list[Section]:
    """Return a section on the fleets' files, and one per named fleet, or per fleet if none is
    named.

    Raises ValueError, with the known names, for an unknown fleet.
    """
    files = fleet_files(*settings.known_specs_dirs)
    for name in sorted(set(names) - files.paths.keys()):
        files.spec(name)
    specs, wrong = files.readable()
    readable = f"{len(specs)} of {len(files.paths)} fleet files can be read"
    findings = [
        Finding("fleet files", readable),
        *(_wrong_file(path, reason, names) for path, reason in wrong.items()),
    ]
    shown = [name for name in specs if not names or name in names]
    return [
        Section("fleets", "fleets", findings),
        *(
            _fleet_section(settings, specs[name], files.paths[name], name in names)
            for name in shown
        ),
    ]


def _wrong_file(path: Path, reason: str, names: Sequence[str]) -> Finding:
    """Return what to do about a path that gives no fleet. It is no problem of the other fleets that
    somebody named.
    """
    remedies = {".yaml": "correct the file, or move it away", ".yml": "rename it"}
    remedy = remedies.get(path.suffix, "make the folder, or set TSFM_SPECS_DIR to another")
    concern: Verdict = "problem" if not names or path.stem in names else "warning"
    return Finding(path.name if path.suffix in remedies else str(path), reason, concern, remedy)


def _fleet_section(settings: Settings, spec: AnyFleet, path: Path, named: bool) -> Section:
    """Return all findings about one fleet. An unreadable folder ends this section, but no other."""
    findings = [Finding("spec", f"{path}: {spec.kind}")]
    try:
        for finding in _findings(settings, spec, named):
            findings.append(finding)
    except (OSError, StorageError) as error:
        said = f"cannot be looked at any further: {error}"
        findings.append(Finding("fleet", said, "problem", "see the section 'folders'"))
    return Section(f"fleet {spec.name}", f"fleet {spec.name}", findings)


def _findings(settings: Settings, spec: AnyFleet, named: bool) -> Iterator[Finding]:
    disk = open_lake(settings).fleet(spec.name)
    used = {name: disk.size(name) for name in TABLES}
    # A fleet that nobody has run and nobody asked about is no reason for a problem.
    concern: Verdict = "problem" if named or any(used.values()) else "warning"
    old = left_behind(settings, spec.name)
    if old:
        said = f"{len(old)} files lie where an earlier release kept them, such as {old[0]}"
        remedy = f"`tsfm-pipeline run {spec.name}` moves them"
        yield Finding("earlier records", said, "warning", remedy)
    yield _lock(disk)
    yield from _records(settings.records_dir / spec.name)
    if old and isinstance(spec, FetchedFleet):
        # To open the fleet would move them.
        yield Finding("telemetry", "not looked at until the earlier release's files are moved")
        return
    fleet = Fleet(settings, spec)
    telemetry = _telemetry(fleet, concern)
    yield telemetry
    if telemetry.status == "ok":
        yield from _tables(fleet)
    yield _room(fleet, used, concern)


def _lock(disk: FleetLake) -> Finding:
    holder = disk.holder()
    if holder is None:
        return Finding("lock", "no run holds the fleet")
    said = f"held by process {holder['pid']} of run {holder['run_id']} since {holder['since']}"
    return Finding("lock", said, "warning", "wait for it, or end that process, before a run")


def _telemetry(fleet: Fleet, concern: Verdict) -> Finding:
    try:
        digest = fleet_fingerprint(
            fleet.spec, fleets_dir=fleet.settings.fleet_tables_dir, raw_dir=fleet.raw_dir
        )
    except (FleetDataError, FleetSpecError, OSError) as error:
        unfetched = isinstance(fleet.spec, FetchedFleet)
        remedy = f"`tsfm-pipeline fleet check {fleet.name}` says more"
        return Finding("telemetry", str(error), "warning" if unfetched else concern, remedy)
    said = "is there" if not isinstance(fleet.spec, SyntheticFleet) else "is generated"
    return Finding("telemetry", f"{said}, fingerprint {digest[:10]}")


def _tables(fleet: Fleet) -> Iterator[Finding]:
    """Yield the state of every table, with the reasons of stale ones, and that of the reports."""
    try:
        tables, context = fleet.tables, fleet.context
    except (ValueError, PluginError) as error:
        yield Finding("tables", f"cannot be judged: {error}", "problem", "see the section 'model'")
        return
    again = f"`tsfm-pipeline run {fleet.name}` makes it again"
    states = {name: tables.state(name) for name in TABLES}
    for name, table in TABLES.items():
        what = f"{TABLE}{name}"
        match states[name]:
            case "current":
                yield Finding(what, "current")
            case "stale":
                reasons = why_stale(
                    tables.recorded(name), made_from(table, context, tables.expected)
                )
                yield Finding(what, f"stale: {'; '.join(reasons)}", "warning", again)
            case "missing":
                yield Finding(what, "missing: not made yet")
            case "interrupted":
                said = "interrupted: a run stopped before it was finished"
                yield Finding(what, said, "warning", f"`tsfm-pipeline run {fleet.name}` goes on")
            case "damaged":
                said = "damaged: a part is gone, or not what was written"
                yield Finding(what, said, "problem", again)
    yield _reports(fleet, tables.expected["headline_scores"], again)


def _reports(fleet: Fleet, scores: str, again: str) -> Finding:
    """Say whether the reports were made from the scores that now apply. `recommendations.vpa.json`
    is none: another program reads it, and its layout has no room for them.
    """
    paths = [p for p in sorted(fleet.reports_dir.glob("*.json")) if p.suffixes == [".json"]]
    stale, damaged = [], []
    for path in paths:
        try:
            made = json.loads(path.read_text(encoding="utf-8"))["scores_fingerprint"]
        except (ValueError, KeyError, TypeError, OSError):
            damaged.append(path.stem)
        else:
            stale += [path.stem] if made != scores else []
    said = [
        f"{word}: {', '.join(names)}"
        for word, names in (("made from other scores", stale), ("not readable", damaged))
        if names
    ]
    if said:
        return Finding("reports", "; ".join(said), "warning", again)
    return Finding("reports", f"{len(paths)} current" if paths else "none yet")


def _records(folder: Path) -> Iterator[Finding]:
    """Say whether the ledger can be read, and whether any row or file is dated in the future."""
    latest = datetime.now(UTC) + timedelta(seconds=SKEW_S)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    ahead = [path for path in files if (at := appended_at(path)) and at > latest]
    try:
        rows = records.RecordTable(folder / records.LEDGER).read()
    except StorageError as error:
        yield Finding("ledger", str(error), "problem", "restore the file, or move it away")
    else:
        times = rows["time"].drop_nulls().to_list() if "time" in rows.columns else []
        future = [time for time in times if time > latest]
        said = f"{rows.height} rows"
        if future:
            said += f", {len(future)} of them later than now, up to {max(future):%Y-%m-%d %H:%M}"
            yield Finding("ledger", said, "warning", "set the clock; rows are never rewritten")
        else:
            yield Finding("ledger", said)
    if ahead:
        said = f"{len(ahead)} of {len(files)} files are dated later than now, such as {ahead[-1]}"
        yield Finding("records", said, "warning", "set the clock; files are never renamed")
    else:
        yield Finding("records", f"{len(files)} files")


def _room(fleet: Fleet, used: dict[str, int], concern: Verdict) -> Finding:
    """Compare free disk space with what the next run writes.

    At worst, every table is written anew. A forced run keeps a table's old parts until the new ones
    are written, so that the largest table needs its space twice.
    """
    free, there = free_bytes(fleet.settings.lake_dir), sum(used.values())
    estimate = 0 if all(used.values()) else _estimate(fleet)
    if estimate is None:
        return Finding("room", f"{free / MIB:,.0f} MiB free; the telemetry's size is not known yet")
    size = max(there, estimate)
    besides = max(used.values())
    needed = size - there + besides
    source = (
        f"{size / MIB:,.0f} MiB of tables as the last run left them"
        if size == there
        else f"about {size / MIB:,.0f} MiB of tables, an estimate of {BYTES_PER_VALUE} bytes per "
        "tenant, step and metric"
    )
    said = (
        f"the next run writes {source}; it needs {needed / MIB:,.0f} MiB beside the "
        f"{there / MIB:,.0f} MiB that are there, and {free / MIB:,.0f} MiB are free"
    )
    if needed > free:
        return Finding("room", said, concern, "make room, or set TSFM_DATA_DIR to another disk")
    return Finding("room", said)


def _estimate(fleet: Fleet) -> int | None:
    """Estimate the bytes of all tables of a fleet without a finished run; None if unknown."""
    if isinstance(fleet.spec, SyntheticFleet):
        source = fleet.source
        n_values = source.n_tenants * source.n_steps * len(source.metrics)
    elif isinstance(fleet.spec, TableFleet):
        from tsfm_pipeline.fleets.table_files import find_files

        try:
            files = find_files(fleet.spec, fleet.settings.fleet_tables_dir)
        except (FleetDataError, FleetSpecError):
            return None
        n_values = sum(path.stat().st_size for path in files) // SOURCE_BYTES_PER_VALUE
    else:
        return None
    return n_values * BYTES_PER_VALUE
