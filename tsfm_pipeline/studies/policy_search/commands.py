"""The commands `tsfm-pipeline policy-search ...`.

What belongs here: arguments, and what is printed. What does not: the work behind a command
(`operations`), and the program that these commands are added to (`cli`; it finds them through the
entry point in pyproject.toml).
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tsfm_pipeline.cli.screen import alarm, plain_errors, refuse, say, show

if TYPE_CHECKING:
    from tsfm_pipeline.studies.policy_search.operations import Line, Status

application = typer.Typer(
    help="The study of the outer loop: experiments that improve the settings of the search.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
COLUMNS = ("UTC", "experiment", "driver", "status", "objective", "p95", "s", "description")
NONE = "–"


class DriverName(StrEnum):
    """Drivers that propose policies by themselves."""

    RANDOM = "random"
    OPTUNA = "optuna"
    AGENT = "agent"


AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object with the same content")]


@application.callback()
def _study() -> None:
    """The study of the outer loop: experiments that improve the settings of the search."""


@application.command("prepare")
def prepare_command(
    fleet: Annotated[
        list[str],
        typer.Option(
            "--fleet", help="a fleet to judge policies on; repeatable, two are needed to promote"
        ),
    ],
) -> None:
    """Compute every candidate's forecasts at the tuning requests of some fleets, and seal them as
    the yardstick. What is current is kept; an interrupted preparation resumes.
    """
    with _errors():
        from tsfm_pipeline.settings import Settings
        from tsfm_pipeline.studies.policy_search.operations import prepare_study

        yardstick = prepare_study(Settings(), fleet, alarm)
    say(f"yardstick {yardstick.digest} over {', '.join(yardstick.fleets)}", "green")
    if len(yardstick.fleets) < 2:
        say("with one fleet no policy can be promoted: prepare two or more", "yellow")
    say("next: tsfm-pipeline policy-search run --driver random --hours 1")


@application.command()
def run(
    driver: Annotated[DriverName, typer.Option(help="who proposes policies")],
    hours: Annotated[
        float | None, typer.Option(min=0, help="begin no experiment that would end later")
    ] = None,
    experiments: Annotated[
        int | None, typer.Option(min=1, help="try so many policies of the driver")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="of the drivers random and optuna")] = 0,
) -> None:
    """Run experiments until the time is up, so many policies were tried, or Ctrl-C. Several loops
    may run at once; a loop that was killed is resumed by the next one.
    """
    with _errors():
        from tsfm_pipeline.settings import Settings
        from tsfm_pipeline.studies.policy_search.operations import search

        end = search(
            Settings(),
            driver.value,
            hours=hours,
            experiments=experiments,
            seed=seed,
            log=alarm,
        )
    say(f"{len(end.experiments)} experiments: {end.reason}", "green")


@application.command("try")
def try_command(
    file: Annotated[Path, typer.Argument(help="a policy file: YAML with the key `search`")],
    describe: Annotated[
        str, typer.Option("--describe", help="one sentence for the ledger: what is tried, and why")
    ],
    as_json: AsJson = False,
) -> None:
    """Run one experiment on the policy in a file, and print its line of the ledger. Exit status: 0
    whatever the policy costs, 1 if it crashed or timed out, 2 if it is no policy.
    """
    from tsfm_pipeline.cli.screen import Status as Exit

    with _errors():
        from tsfm_pipeline.settings import Settings
        from tsfm_pipeline.studies.policy_search.operations import try_policy

        line = try_policy(Settings(), file, describe, alarm)
    if as_json:
        typer.echo(line.model_dump_json(indent=1))
    else:
        _show_lines("its line in the ledger", [line])
    if line.status in ("crash", "timeout"):
        raise typer.Exit(Exit.PROBLEMS)


@application.command("status")
def status_command(as_json: AsJson = False) -> None:
    """Show the incumbent, the policy in force, how experiments ended, and the last lines."""
    with _errors():
        from tsfm_pipeline.settings import Settings
        from tsfm_pipeline.studies.policy_search.operations import status

        state = status(Settings())
    if as_json:
        typer.echo(state.model_dump_json(indent=1))
    else:
        _show_status(state)


@application.command("promote")
def promote_command(as_json: AsJson = False) -> None:
    """Compare the incumbent with the policy in force on folds that chose neither, and adopt it if
    it is shown to be better and harms nothing. The reasons stand in the report alone, because
    whoever drives the loop must not know them. Exit status: 0 promoted, 1 refused.
    """
    from tsfm_pipeline.cli.screen import Status as Exit

    with _errors():
        from tsfm_pipeline.settings import Settings
        from tsfm_pipeline.studies.policy_search.operations import promote

        promotion = promote(Settings(), alarm)
    if as_json:
        said = {
            "promotion": promotion.promotion,
            "policy": promotion.policy.digest,
            "replaced": promotion.replaced.digest,
            "promoted": promotion.promoted,
        }
        typer.echo(json.dumps(said, indent=1))
    else:
        verdict = "promoted" if promotion.promoted else "refused"
        colour = "green" if promotion.promoted else "yellow"
        say(f"policy {promotion.policy.digest} is {verdict}; the report has the reasons", colour)
    if not promotion.promoted:
        raise typer.Exit(Exit.PROBLEMS)


@application.command("program")
def program_command() -> None:
    """Print program.md: the aim, what a policy may change, how an experiment is run and read."""
    from tsfm_pipeline.studies.policy_search.program import text

    typer.echo(text(), nl=False)


@application.command("report")
def report_command(
    browser: Annotated[
        bool, typer.Option(help="open the page in the browser, or only print its path")
    ] = False,
) -> None:
    """Write the study's report as one HTML page, JSON and figures, and print the page's path."""
    with _errors():
        import webbrowser

        from tsfm_pipeline.settings import Settings
        from tsfm_pipeline.studies.policy_search.report.page import make_report
        from tsfm_pipeline.studies.policy_search.report.words import search_answer

        report, page = make_report(Settings())
        say(search_answer(report).sentence)
        say(str(page), "green")
        if browser and not webbrowser.open(page.as_uri()):
            say("no browser could be opened; the page is self-contained", "yellow")


@contextmanager
def _errors() -> Iterator[None]:
    """Turn errors that the user must correct into a message without a traceback."""
    from tsfm_pipeline.studies.policy_search.apart import ApartError
    from tsfm_pipeline.studies.policy_search.drivers import DriverError
    from tsfm_pipeline.studies.policy_search.loop import LoopError
    from tsfm_pipeline.studies.policy_search.operations import StudyError

    with plain_errors():
        try:
            yield
        except (ApartError, DriverError, LoopError, StudyError) as error:
            refuse(str(error))


def _show_status(state: "Status") -> None:
    counts = ", ".join(f"{n} {status}" for status, n in state.counts.items()) or "none"
    say(f"yardstick {state.yardstick} over {', '.join(state.fleets)}")
    say(
        f"experiments: {state.n_experiments} ({counts}; {state.n_screened_out} of the discarded "
        f"after a third of the requests), {state.n_running} running"
    )
    if state.incumbent is None:
        say("incumbent: none yet; the first experiment is the default policy")
    else:
        say(
            f"incumbent: {state.incumbent.policy}, objective "
            f"{_figure(state.incumbent.objective, 4)} (the default policy has 1), "
            f"p95 {_figure(state.incumbent.p95_ms, 0)} ms (predicted)"
        )
        say(f"  changes: {_changes(state.incumbent.changes)}")
    since = state.provenance.get("time")
    origin = f", promoted {since}" if since else ""
    say(f"policy in force: {state.in_force}{origin}")
    say(f"  changes: {_changes(state.in_force_changes)}")
    say(
        f"promotions: {state.n_considered} considered, {state.n_promoted} promoted; looks at test "
        f"requests so far: {state.n_final_looks}"
    )
    if state.last:
        _show_lines("last experiments, newest last", state.last)


def _show_lines(title: str, lines: "Sequence[Line]") -> None:
    rows = [
        (
            f"{line.time:%Y-%m-%d %H:%M:%S}",
            line.experiment,
            line.driver,
            "screened out" if line.screened_out else line.status,
            _figure(line.objective, 4),
            _figure(line.p95_ms, 0),
            _figure(line.seconds, 1),
            line.description,
        )
        for line in lines
    ]
    right = [name in ("objective", "p95", "s") for name in COLUMNS]
    show(title, COLUMNS, rows, right=right)


def _figure(value: float | None, decimals: int) -> str:
    return NONE if value is None else f"{value:.{decimals}f}"


def _changes(changes: dict[str, object]) -> str:
    return json.dumps(changes) if changes else "none, it is the default"
