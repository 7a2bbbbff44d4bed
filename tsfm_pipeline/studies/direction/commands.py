"""The commands `tsfm-pipeline market ...`.

What belongs here: arguments, and what is printed. What does not: the work behind a command
(`describing`, `checking`, `operations`), and the program that these commands are added to (`cli`;
it finds them through the entry point in pyproject.toml).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tsfm_pipeline.cli.screen import alarm, plain_errors, say, show

if TYPE_CHECKING:
    from tsfm_pipeline.studies.direction.checking import Checked

application = typer.Typer(
    help="The study of markets: does a model know where prices go, or only how much they move?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="a market: the stem of its YAML file")]


@application.callback()
def _study() -> None:
    """The study of markets: does a model know where prices go, or only how much they move?"""


@application.command("init")
def init_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="of the new market")],
    table: Annotated[
        Path, typer.Option("--from", help="a .csv or .parquet file, one row per trading day")
    ],
) -> None:
    """Write the market file that describes a table of daily prices, each field with its reason."""
    with plain_errors():
        from tsfm_pipeline.settings import Settings
        from tsfm_pipeline.studies.direction.describing import write_market_file

        path = write_market_file(Settings(), name, table)
    say(f"wrote {path}", "green")
    say(f"next: read the file, then `tsfm-pipeline market check {name}`")


@application.command("check")
def check_command(name: Name) -> None:
    """Apply every quality rule to a market, and show how often its labels hold. Exit status: 0 no
    error, 1 the study refuses these prices, 2 the market file is wrong.
    """
    from tsfm_pipeline.cli.screen import Status

    with plain_errors():
        from tsfm_pipeline.settings import Settings
        from tsfm_pipeline.studies.direction.checking import check_market

        checked = check_market(Settings(), name)
    _show(checked)
    if checked.n_errors:
        raise typer.Exit(Status.PROBLEMS)


@application.command("run")
def run_command(name: Name) -> None:
    """Run the whole study of a market, write its report, and print the page's path. What is current
    is kept.
    """
    with plain_errors():
        from tsfm_pipeline.settings import Settings
        from tsfm_pipeline.studies.direction.operations import run_market

        page = run_market(Settings(), name, alarm)
    say(str(page), "green")


@application.command("list")
def list_command() -> None:
    """List the markets, and the files that cannot be read."""
    with plain_errors():
        from tsfm_pipeline.settings import Settings
        from tsfm_pipeline.studies.direction.spec import market_files

        files = market_files(Settings())
        specs, wrong = files.readable()
    rows = [(name, spec.kind, spec.title, files.paths[name]) for name, spec in specs.items()]
    show("markets", ("market", "kind", "title", "file"), rows)
    for reason in wrong.values():
        alarm(reason)


def _show(checked: "Checked") -> None:
    spec, bars = checked.spec, checked.bars
    if bars is not None:
        say(f"{spec.title}: {len(bars)} trading days, {bars.dates.min()} to {bars.dates.max()}")
    if checked.findings:
        rows = [(finding.severity, finding.rule, finding.problem) for finding in checked.findings]
        styles = ["red" if severity == "error" else "yellow" for severity, _, _ in rows]
        show("findings", ("severity", "rule", "problem"), rows, styles)
    else:
        say("no findings")
    if checked.base_rates:
        horizons = sorted({target.horizon for target in checked.base_rates})
        rates = checked.base_rates
        names = dict.fromkeys(target.label for target in rates)
        show(
            "share of days on which a label holds, by horizon in trading days",
            ("label", *map(str, horizons)),
            [
                (name, *(f"{rates[target]:.3f}" for target in rates if target.label == name))
                for name in names
            ],
            right=[False, *(True for _ in horizons)],
        )
    if checked.n_errors:
        say(f"{checked.n_errors} errors: the study refuses market {spec.name}", "red")
    else:
        say(f"next: tsfm-pipeline market run {spec.name}", "green")
