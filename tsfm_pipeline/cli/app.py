"""The commands of `tsfm-pipeline` and their arguments.

What belongs here: commands, arguments, options and their help. What does not: the longer work
behind a command (`cli.fleet`, `cli.forecasting`), commands of other packages (`cli.plugin_commands`
adds them).
"""

from pathlib import Path
from typing import Annotated

import typer

from tsfm_pipeline.cli import table_options
from tsfm_pipeline.cli.benchmark import benchmark
from tsfm_pipeline.cli.fleet import fleets
from tsfm_pipeline.cli.gc import gc
from tsfm_pipeline.cli.index import index
from tsfm_pipeline.cli.plugin_commands import Commands
from tsfm_pipeline.cli.rollout import rollout
from tsfm_pipeline.cli.saved_datasets import fetch
from tsfm_pipeline.cli.screen import Status, plain_errors, refuse, say
from tsfm_pipeline.cli.serve import serve
from tsfm_pipeline.cli.tollama_runner import tollama_runner

app = typer.Typer(
    name="tsfm-pipeline",
    cls=Commands,
    help="Capacity forecasts for fleets of tenants: describe a fleet, run it, read its report, "
    "forecast from its search.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
)

reports = typer.Typer(help="The reports of fleets that have been run.", no_args_is_help=True)
app.add_typer(fleets, name="fleet")
fleets.command()(fetch)
app.command()(benchmark)
app.command()(tollama_runner)
app.command()(serve)
app.command()(gc)
app.add_typer(reports, name="report")
app.add_typer(index, name="index")
app.add_typer(rollout, name="rollout")


def _say_version(asked: bool) -> None:
    """Print version and commit, and end the command."""
    if asked:
        from tsfm_pipeline import __version__
        from tsfm_pipeline.distribution import commit

        say(f"tsfm-pipeline {__version__} (commit {commit() or 'unknown'})")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="print version and commit"
        ),
    ] = False,
) -> None:
    """Handle the options that come before a command."""


@reports.callback()
def _reports() -> None:
    """The reports of fleets that have been run."""


@reports.command("open")
def report_open(
    name: Annotated[str, typer.Argument(help="the fleet")],
    browser: Annotated[
        bool, typer.Option(help="open the report in the browser, or only print its path")
    ] = True,
) -> None:
    """Print the path of a fleet's report, and open it in the browser."""
    import webbrowser

    from tsfm_pipeline.catalogue.fleet import open_workspace_fleet
    from tsfm_pipeline.settings import Settings

    with plain_errors():
        page = open_workspace_fleet(Settings(), name).reports_dir / "report.html"
        if not page.is_file():
            refuse(f"{page} does not exist; run `tsfm-pipeline run {name}` first")
        say(str(page))
        if browser and not webbrowser.open(page.as_uri()):
            say(
                "no browser could be opened; open the file yourself, or copy it: it is "
                "self-contained",
                "yellow",
            )


@app.command()
def run(name: Annotated[str, typer.Argument(help="the fleet")]) -> None:
    """Run all steps on a fleet, up to its report. An interrupted run resumes where it stopped."""
    with plain_errors():
        from tsfm_pipeline.cli.run import main

        raise typer.Exit(main([name]))


@app.command()
def explain(
    fleet: Annotated[str, typer.Argument(help="the fleet, which must have been run")],
    tenant: Annotated[str, typer.Argument(help="the tenant's name in its source")],
    as_json: Annotated[
        bool, typer.Option("--json", help="print one JSON object with the same figures")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(help="write a self-contained HTML page to this file")
    ] = None,
) -> None:
    """Say why this is what a tenant should reserve: recommendation, weights and their evidence,
    look-alikes, corrections, its own backtest and its last misses.
    """
    with plain_errors():
        from tsfm_pipeline.cli.explain import explained, print_explanation, print_json, write_html

        explanation = explained(fleet, tenant)
        if html:
            write_html(explanation, html)
        if as_json:
            print_json(explanation)
        elif html:
            say(str(html))
        else:
            print_explanation(explanation)


@app.command()
def doctor(
    fleet: Annotated[
        list[str] | None, typer.Argument(help="the fleets to look at (default: all)")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="print one JSON object with the same findings")
    ] = False,
) -> None:
    """Say what is the matter: versions, processor, model, folders, and what is stale and why. Exit
    status: 0 all is well, 1 there are problems, 2 the question cannot be answered.
    """
    with plain_errors():
        from tsfm_pipeline.cli.doctor import examine

        raise typer.Exit(examine(fleet or (), as_json=as_json))


@app.command()
def codebook() -> None:
    """Print the meaning of every column of every table and of every key of every report
    (docs/codebook.md).
    """
    from tsfm_pipeline.reports.page.codebook import codebook_markdown

    typer.echo(codebook_markdown(), nl=False)


@app.command()
def forecast(
    file: Annotated[
        Path, typer.Argument(help="a Parquet or CSV table (or a directory of them), wide or long")
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="the file to write, .csv or .parquet: one row per tenant, metric, time and tier"
        ),
    ],
    fleet: Annotated[
        str | None, typer.Option(help="use the search of this fleet, which must have been run")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="use the search in this file: a run's search.bundle, which may come from another "
            "machine"
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            help="use this one configuration, such as ctx2048 (default without --fleet or "
            "--bundle: the longest that fits the tenant's history)"
        ),
    ] = None,
    tier: Annotated[
        list[str] | None,
        typer.Option(
            help="a tier of the fleet (else premium, standard or basic); repeatable (default: all)"
        ),
    ] = None,
    horizon: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            help="steps, at most the fleet's (default: the fleet's, else one hour and at least 12 "
            "steps)",
        ),
    ] = None,
    tenant: table_options.Tenant = None,
    tenant_per_file: table_options.TenantPerFile = False,
    one_tenant: table_options.OneTenant = None,
    timestamp: table_options.Timestamp = None,
    layout: table_options.TableLayout = None,
    step: table_options.Step = None,
    aggregate: table_options.Aggregate = None,
    missing: table_options.Missing = None,
    decimal: table_options.Decimal = None,
    units: table_options.Units = None,
) -> None:
    """Forecast the steps after the last value of every tenant in a table: decisions and quantiles
    for each tier. The options from --tenant on say how the table is read, where that is not
    detected; a fleet that was made of a table says it itself.
    """
    with plain_errors():
        from tsfm_pipeline.cli.fleet_options import as_told
        from tsfm_pipeline.cli.forecasting import forecast_table, write_table
        from tsfm_pipeline.forecaster.allocator import keep_large_buffers

        keep_large_buffers()
        table, notes = forecast_table(
            file,
            fleet=fleet,
            bundle=bundle,
            config=config,
            tiers=tier,
            horizon=horizon,
            out=out,
            told=as_told(
                file,
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
        write_table(table, out)
    for note in notes:
        say(f"note: {note}", "yellow")
    say(f"{out}: {table.height} rows")
    if table["decision"].null_count():
        raise typer.Exit(Status.PROBLEMS)
