"""`tsfm-pipeline fleet`: describe a table as a fleet, check a fleet, list all fleets, delete a
fleet's records.

What belongs here: the commands and their output. What does not: examining telemetry
(`fleets.inference`, `fleets.quality`).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tsfm_pipeline.cli import table_options
from tsfm_pipeline.cli.fetching import fetch_if_needed
from tsfm_pipeline.cli.fleet_summary import (
    facts_rows,
    findings_rows,
    fleet_rows,
    requests_rows,
    summarise,
)
from tsfm_pipeline.cli.screen import Status, plain_errors, refuse, say, show

if TYPE_CHECKING:
    from tsfm_pipeline.fleets.inference import TableFacts
    from tsfm_pipeline.fleets.kinds import AnyFleet
    from tsfm_pipeline.fleets.quality import Checked
    from tsfm_pipeline.settings import Settings

STYLES = {"unusable": "red", "implausible": "yellow", "excludes": "yellow", "note": ""}
MEANINGS = {
    "unusable": "cannot be used",
    "implausible": "looks wrong",
    "excludes": "left out",
    "note": "note",
}


fleets = typer.Typer(help="Fleets, each described by one YAML file.", no_args_is_help=True)


@fleets.callback()
def _fleets() -> None:
    """Fleets, each described by one YAML file."""


@fleets.command("list")
def list_fleets() -> None:
    """List all fleets and say which of them have a report. Exit status: 1 where a fleet file is
    wrong; its error follows the list.
    """
    from tsfm_pipeline.fleets.spec import load_specs
    from tsfm_pipeline.settings import Settings

    with plain_errors():
        settings = Settings()
        wrong: list[str] = []
        specs = load_specs(*settings.known_specs_dirs, log=wrong.append)
    rows = []
    for name, spec in specs.items():
        report = settings.reports_dir / name / "report.html"
        rows.append(
            (
                name,
                spec.kind,
                "yes" if spec.nightly else "",
                "yes" if report.is_file() else "",
                spec.title,
            )
        )
    folders = " and ".join(map(str, settings.known_specs_dirs))
    show(f"fleets in {folders}", ("fleet", "kind", "nightly", "report", "title"), rows)
    for reason in wrong:
        say(f"left out: {reason}", "red")
    if wrong:
        raise typer.Exit(Status.PROBLEMS)


@fleets.command()
def init(
    path: Annotated[
        Path,
        typer.Argument(
            help="a Parquet or CSV file, a directory of them, or a folder that `datasets` saved"
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="the fleet's name (default: after the file)")
    ] = None,
    tenant: table_options.Tenant = None,
    tenant_per_file: table_options.TenantPerFile = False,
    one_tenant: table_options.OneTenant = None,
    timestamp: table_options.Timestamp = None,
    layout: table_options.TableLayout = None,
    step: table_options.Step = None,
    horizon: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="steps of one forecast (default: one hour, at least 12)"
        ),
    ] = None,
    aggregate: table_options.Aggregate = None,
    missing: table_options.Missing = None,
    decimal: table_options.Decimal = None,
    units: table_options.Units = None,
    force: Annotated[
        bool, typer.Option("--force", help="overwrite the fleet's file if it exists")
    ] = False,
) -> None:
    """Examine a table and write the YAML file that describes it as a fleet."""
    with plain_errors():
        from tsfm_pipeline.cli.fleet_options import as_told
        from tsfm_pipeline.cli.requests import as_checked
        from tsfm_pipeline.cli.saved_datasets import write_fleet_file
        from tsfm_pipeline.files import write_text_atomically
        from tsfm_pipeline.fleets.fields import fleet_name
        from tsfm_pipeline.fleets.fleet_text import fleet_yaml
        from tsfm_pipeline.fleets.inference import look_at_table
        from tsfm_pipeline.fleets.saved_folders import is_saved_dataset
        from tsfm_pipeline.fleets.spec import parse_spec
        from tsfm_pipeline.settings import Settings

        settings = Settings()
        name = fleet_name(name) if name is not None else _name_from(path)
        target = settings.fleet_specs_dir / f"{name}.yaml"
        if target.exists() and not force:
            refuse(f"{target} already exists; choose another --name, or overwrite it with --force")
        command = " ".join(f"tsfm-pipeline fleet init {path}".split())
        if is_saved_dataset(path.expanduser()):
            of_tables = (tenant, timestamp, layout, step, aggregate, missing, decimal, units)
            if any(of_tables) or tenant_per_file or one_tenant:
                refuse(
                    f"{path} is a data set that `datasets` saved; --tenant, --timestamp and --step "
                    "are for tables, like --layout and what says how cells and rows are read. Its "
                    "items are tenants, and its frequency is the step"
                )
            write_fleet_file(
                path,
                target,
                fleets_dir=settings.fleet_tables_dir,
                horizon=horizon,
                command=command,
            )
            return
        facts = look_at_table(
            path,
            name=name,
            fleets_dir=settings.fleet_tables_dir,
            horizon=horizon,
            **as_told(
                path,
                tenant=tenant,
                tenant_per_file=tenant_per_file,
                one_tenant=one_tenant,
                timestamp=timestamp,
                layout=layout,
                step=step,
                aggregate=aggregate,
                missing=missing,
                decimal=decimal,
                units=units,
            ),
        )
        text = fleet_yaml(facts, command)
        spec = parse_spec(text, target)
        problems, asked = ([facts.problem], {}) if facts.problem else as_checked(spec, settings)
        write_text_atomically(target, text)
    _show_facts(facts, asked)
    say(f"wrote {target}", "green")
    for problem in problems:
        say(f"It cannot be used as it is: {problem}", "yellow")
    say(
        f"next: read the file, then `tsfm-pipeline fleet check {name}`, then `tsfm-pipeline run "
        f"{name}`"
    )


@fleets.command()
def check(
    fleet: Annotated[str, typer.Argument(help="a fleet's name, or its YAML file")],
    fetch: Annotated[
        bool,
        typer.Option(
            "--fetch",
            help="of a Prometheus or SQL fleet, fetch what is new (the first check always does)",
        ),
    ] = False,
) -> None:
    """Apply every quality rule to a fleet. Exit status: 0 no problem, 1 values look wrong, or
    tenants or requests will be left out, 2 the fleet cannot be used.
    """
    with plain_errors():
        from tsfm_pipeline.catalogue.fleet import Fleet
        from tsfm_pipeline.cli.requests import asked_of, request_findings
        from tsfm_pipeline.fleets.quality import check_fleet
        from tsfm_pipeline.settings import Settings

        settings = Settings()
        spec = _spec_of(fleet, settings)
        raw_dir = Fleet(settings, spec).raw_dir
        fetch_if_needed(spec, settings, raw_dir, fetch)
        checked = check_fleet(
            spec, fleets_dir=settings.fleet_tables_dir, raw_dir=raw_dir, further=request_findings
        )
        asked = asked_of(checked, settings)
    _show_checked(spec, checked, asked)
    if checked.worst in ("unusable", "implausible", "excludes"):
        raise typer.Exit(Status.UNUSABLE if checked.worst == "unusable" else Status.PROBLEMS)


@fleets.command()
def forget(
    name: Annotated[str, typer.Argument(help="the fleet")],
    yes: Annotated[bool, typer.Option("--yes", help="delete without asking, for scripts")] = False,
) -> None:
    """Delete the records of one fleet: ledger, recommendation history, fetched samples. They cannot
    be recreated.
    """
    import sys
    from contextlib import ExitStack

    with plain_errors(), ExitStack() as locks:
        from tsfm_pipeline.catalogue import records
        from tsfm_pipeline.catalogue.moves import move_records
        from tsfm_pipeline.fleets.fields import fleet_name
        from tsfm_pipeline.lake import open_lake
        from tsfm_pipeline.settings import Settings

        name, run_id = fleet_name(name), "tsfm-pipeline fleet forget"
        profiles = [Settings(profile=profile) for profile in ("full", "cheap")]
        for settings in profiles:
            move_records(settings, name, run_id, say)
        folders = {
            settings.records_dir / name: settings
            for settings in profiles
            if (settings.records_dir / name).is_dir()
        }
        if not folders:
            say(f"fleet {name} has no records below {profiles[0].records_root}")
            return
        for settings in folders.values():
            locks.enter_context(open_lake(settings).fleet(name).lock(run_id))
        root = profiles[0].records_root
        tables = [kept for folder in folders for kept in records.what_is_kept(folder)]
        rows = [
            (
                kept.folder.relative_to(root),
                kept.n_files,
                f"{kept.n_rows:,}",
                f"{kept.n_bytes / 2**20:.2f} MiB",
                kept.n_unreadable or "",
            )
            for kept in tables
        ]
        show(
            f"records of fleet {name} in {root}",
            ("record table", "files", "rows", "size", "unreadable files"),
            rows,
        )
        if not yes and not sys.stdin.isatty():
            refuse(
                "there is no terminal to ask on, and nothing was deleted; run `tsfm-pipeline "
                f"fleet forget {name} --yes`"
            )
        if not yes and not typer.confirm(
            f"Delete all of them? The records of {name} cannot be recreated"
        ):
            refuse("nothing was deleted")
        for folder in folders:
            records.forget(folder)
    say(
        f"the records of fleet {name} are deleted; its YAML file, tables and reports are unchanged",
        "green",
    )


def _spec_of(fleet: str, settings: "Settings") -> "AnyFleet":
    """Return the spec of a fleet, by its name or from a YAML file."""
    from tsfm_pipeline.catalogue.fleet import open_workspace_fleet
    from tsfm_pipeline.fleets.spec import load_spec

    return (
        load_spec(fleet)
        if fleet.endswith((".yaml", ".yml"))
        else open_workspace_fleet(settings, fleet).spec
    )


def _name_from(path: Path) -> str:
    """Return a fleet's name, derived from a file's name."""
    from tsfm_pipeline.fleets.fields import fleet_name

    name = re.sub(r"[^a-z0-9_-]+", "-", path.expanduser().absolute().stem.lower()).strip("-_")
    if not name:
        refuse(f"no fleet name can be derived from {path.name!r}; give a --name")
    return fleet_name(name)


def _show_facts(facts: "TableFacts", asked: Mapping[str, Mapping[str, int]]) -> None:
    metrics = [
        (
            m.name,
            f"{m.low:.4g}",
            f"{m.high:.4g}",
            m.n_missing or "",
            "0" if facts.spec.bounds_of(m.name)[0] == 0 else "none",
        )
        for m in facts.metrics
    ]
    show("metrics", ("metric", "lowest", "highest", "empty cells", "lower bound"), metrics)
    summarise(facts.spec.name, [*facts_rows(facts), *requests_rows(facts.spec, asked)])


def _show_checked(
    spec: "AnyFleet", checked: "Checked", asked: Mapping[str, Mapping[str, int]]
) -> None:
    source = checked.source
    if source is not None:
        span = f"{source.n_steps:,} steps of {source.step} from {source.start:%Y-%m-%d %H:%M} UTC"
        say(f"fleet {spec.name}: {source.n_tenants} tenants, {len(source.metrics)} metrics, {span}")
    column = getattr(spec, "tier_column", None)
    shares = "by shares" if column is None else f"by column {column!r}"
    tiers = [f"{tier} {alpha:.3g}" for tier, alpha in spec.tiers.items()]
    say(f"tiers and their alphas: {', '.join(tiers)}; tenants get their tier {shares}")
    if checked.findings:
        rows = [
            (finding.tenant, MEANINGS[finding.severity], finding.problem)
            for finding in checked.findings
        ]
        styles = [STYLES[finding.severity] for finding in checked.findings]
        show(f"fleet {spec.name}: findings", ("tenant", "consequence", "problem"), rows, styles)
    for reason in checked.reasons:
        say(reason, "red")
    rows = findings_rows(checked.findings)
    if source is not None:
        rows = [*fleet_rows(spec, source), *requests_rows(spec, asked), *rows]
    if rows:
        summarise(spec.name, rows)
    verdicts = {
        None: ("no problem found", "green"),
        "note": ("usable; only notes", "green"),
        "implausible": (
            "usable, but some values look wrong; they are read as they are until you correct them",
            "yellow",
        ),
        "excludes": (
            "usable; some tenants, series or requests will be left out, and counted in the report",
            "yellow",
        ),
        "unusable": (f"fleet {spec.name} cannot be used as it is", "red"),
    }
    say(*verdicts[checked.worst])
