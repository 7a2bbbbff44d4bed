"""The commands `tsfm-pipeline time-r1 ...`.

What belongs here: arguments, and what is printed. What does not: the work behind a command
(`operations`), and the program that these commands are added to (`cli`; it finds them through the
entry point in pyproject.toml).
"""

from pathlib import Path
from typing import Annotated

import typer

from tsfm_pipeline.cli.screen import Status, alarm, plain_errors, say, show

application = typer.Typer(
    help="The study of slow thinking: does a language model improve a forecast by thinking?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="a recipe: the stem of its YAML file")]
Hash = Annotated[
    str,
    typer.Argument(metavar="HASH", help="the hash of a run, or how it begins: 4 digits or more"),
]


@application.callback()
def _study() -> None:
    """The study of slow thinking: does a language model improve a forecast by thinking?"""


@application.command("list")
def list_command() -> None:
    """List the recipes, and the files that cannot be read."""
    with plain_errors():
        from tsfm_pipeline.settings import Settings
        from tsfm_pipeline.studies.time_r1.recipes import recipe_files

        files = recipe_files(Settings())
        recipes, wrong = files.readable()
    rows = [
        (
            name,
            recipe.profile,
            ", ".join(recipe.train),
            ", ".join(recipe.evaluate),
            recipe.horizon,
            recipe.title,
        )
        for name, recipe in recipes.items()
    ]
    columns = ("recipe", "profile", "trained on", "asked about", "horizon", "title")
    show("recipes", columns, rows, right=[column == "horizon" for column in columns])
    for reason in wrong.values():
        alarm(reason)


@application.command("datasets")
def datasets_command() -> None:
    """List the data sets, and what to do about those that are not on this machine."""
    with plain_errors():
        from tsfm_pipeline.settings import Settings
        from tsfm_pipeline.studies.time_r1.datasets import data_sets, missing

        settings = Settings()
        sets = data_sets(settings)
        absent = missing(sets.values(), settings)
    rows = [
        (name, spec.kind, "missing" if name in absent else "present", spec.licence, spec.title)
        for name, spec in sets.items()
    ]
    show("data sets", ("data set", "kind", "here", "licence", "title"), rows)
    for reason in absent.values():
        alarm(reason)


@application.command("run")
def run_command(name: Name) -> None:
    """Run the whole study of a recipe, write its report, and print the page's path. What is current
    is kept, and a training that was stopped goes on.
    """
    with plain_errors():
        from tsfm_pipeline.settings import Settings
        from tsfm_pipeline.studies.time_r1.operations import run_recipe

        page = run_recipe(Settings(), name, alarm)
    say(str(page), "green")


@application.command("evaluate")
def evaluate_command(
    name: Name,
    as_json: Annotated[
        bool, typer.Option("--json", help="print one JSON object with every measure")
    ] = False,
) -> None:
    """Show how good every method of a recipe is on test windows, as it was stored by `run`."""
    with plain_errors():
        from tsfm_pipeline.settings import Settings
        from tsfm_pipeline.studies.time_r1.operations import evaluated_rows, evaluation_text

        if as_json:
            typer.echo(evaluation_text(Settings(), name))
            return
        rows = evaluated_rows(Settings(), name)
    show("measures", ("data set", "windows", "method", "MASE (95 % interval)", "MAE"), rows)


@application.command("export-mlflow")
def export_mlflow_command(name: Name) -> None:
    """Copy parameters, training curves and measures of a recipe's run to an MLflow store, an SQLite
    file in the data folder. A run that is there already is not copied again.
    """
    with plain_errors():
        from tsfm_pipeline.settings import Settings
        from tsfm_pipeline.studies.time_r1.mlflow_export import export

        exported = export(Settings(), name)
    done = "written" if exported.is_new else "is there already"
    say(f"{exported.store}: run {exported.run_id} {done}", "green")


@application.command("runs")
def runs_command() -> None:
    """List the recorded runs, oldest first: what `replay` and `register` take."""
    with plain_errors():
        from tsfm_pipeline.settings import Settings
        from tsfm_pipeline.studies.time_r1.shown import run_rows

        rows = run_rows(Settings())
    columns = ("hash", "UTC", "recipe", "data set", "windows", "MASE", "over its draft (95 %)")
    show("runs", columns, rows)


@application.command("replay")
def replay_command(hash_: Hash) -> None:
    """Make a recorded run again from its stored configuration, in a temporary folder, and compare
    the digests of samples, adapters and metrics. Exit status: 0 if all are equal, 1 if one differs,
    2 if the run cannot be made again.
    """
    with plain_errors():
        from tsfm_pipeline.settings import Settings
        from tsfm_pipeline.studies.time_r1.replay import replay
        from tsfm_pipeline.studies.time_r1.shown import replay_rows

        done = replay(Settings(), hash_, alarm)
        rows = replay_rows(done)
    show(f"replay of run {done.record.hash}", ("what", "recorded", "here", ""), rows)
    if not done.equal:
        raise typer.Exit(Status.PROBLEMS)


@application.command("register")
def register_command(
    hash_: Hash,
    variant: Annotated[str, typer.Option(help="grip, grpo, sft_draft or sft_more")] = "grip",
) -> None:
    """Write the policy of a recorded run as a checkpoint of stage candidate, and print its name."""
    with plain_errors():
        from tsfm_pipeline.settings import Settings
        from tsfm_pipeline.studies.time_r1.checkpoints import register

        written = register(Settings(), hash_, variant)
    say(written.name, "green")
    alarm(f"{written.stage}: {written.folder}")


@application.command("export-adapters")
def export_adapters_command(
    hash_: Hash,
    folder: Annotated[Path, typer.Argument(help="gets the folders `sft` and `grip`")],
) -> None:
    """Write the adapters of a recorded run as folders in the format of peft."""
    with plain_errors():
        from tsfm_pipeline.settings import Settings
        from tsfm_pipeline.studies.time_r1.adapter_export import export_adapters

        written = export_adapters(Settings(), hash_, folder)
    for path in written:
        say(str(path), "green")


@application.command("checkpoints")
def checkpoints_command() -> None:
    """List the registered checkpoints, their stage, and what the gate found of promoted ones."""
    with plain_errors():
        from tsfm_pipeline.settings import Settings
        from tsfm_pipeline.studies.time_r1.shown import checkpoint_rows

        rows = checkpoint_rows(Settings())
    columns = ("checkpoint", "stage", "run", "variant", "over its draft (95 %)", "in use")
    show("checkpoints", columns, rows)


@application.command("promote")
def promote_command(
    checkpoint: Annotated[str, typer.Argument(help="a name that `checkpoints` lists")],
) -> None:
    """Judge a checkpoint on validation windows, and promote it if slow thinking with it is better
    than its draft. Exit status: 0 if it is promoted, 1 if it is refused.
    """
    with plain_errors():
        from tsfm_pipeline.settings import Settings
        from tsfm_pipeline.studies.time_r1.promotion import promote

        verdict = promote(Settings(), checkpoint, alarm)
    for reason in verdict.reasons:
        alarm(f"refused: {reason}")
    if not verdict.promoted:
        raise typer.Exit(Status.PROBLEMS)
    say(f"promoted: MASE of slow thinking over that of its draft is {verdict.gain}", "green")


@application.command("train-base")
def train_base_command(
    folder: Annotated[Path, typer.Argument(help="where the checkpoint and the state are kept")],
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="updates of the whole training: equal ones give equal bytes"),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            help="processor time of the whole training, in minutes; without --steps it decides how "
            "many updates there are, which depends on the machine",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="threads; they do not change a bit")] = 1,
) -> None:
    """Train the base of the own policy on the synthetic corpus, or go on with its training. Its
    length is given by --steps, by --minutes, or by whichever of them is reached first.
    """
    if steps is None and minutes is None:
        raise typer.BadParameter("give --steps or --minutes: one of them must end the training")
    with plain_errors():
        from tsfm_pipeline.studies.time_r1.base_training import BaseOptions, train_base

        budget_s = None if minutes is None else 60 * minutes
        result = train_base(folder, BaseOptions(steps=steps), budget_s, threads)
    say(f"{result.step} updates, {result.tokens} tokens, {result.cpu_s / 60:.1f} minutes")
    if result.finished:
        say(str(folder), "green")
    else:
        say("stopped; the same command goes on")
