"""`tsfm-pipeline fleet init` for a folder that `datasets` saved, and `fleet fetch` for one of a
public benchmark.

What belongs here: the two commands and their output. What does not: reading such a folder
(`fleets.saved_items`), describing it (`fleets.saved_description`), bringing it from the hub
(`fleets.hub`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tsfm_pipeline.cli.screen import plain_errors, say, show

if TYPE_CHECKING:
    from tsfm_pipeline.fleets.saved_description import Description

_TENANT_OF = {"tenants": "variate", "metrics": "item"}


def write_fleet_file(
    folder: Path, target: Path, *, fleets_dir: Path, horizon: int | None, command: str
) -> None:
    """Describe a saved data set as the fleet that the file `target` is named after, write the file
    and show what was found. Raises `FleetDataError`.
    """
    from tsfm_pipeline.files import write_text_atomically
    from tsfm_pipeline.fleets.hub import origin_of
    from tsfm_pipeline.fleets.saved_description import describe, description_yaml
    from tsfm_pipeline.fleets.spec import parse_spec

    found = describe(
        folder,
        name=target.stem,
        fleets_dir=fleets_dir,
        horizon=horizon,
        origin=origin_of(folder),
    )
    text = description_yaml(found, command)
    parse_spec(text, target)
    write_text_atomically(target, text)
    _show(folder, found)
    say(f"wrote {target}", "green")
    say(
        f"next: read the file, then `tsfm-pipeline fleet check {target.stem}`, then "
        f"`tsfm-pipeline run {target.stem}`"
    )


def _show(folder: Path, found: "Description") -> None:
    source, fields = found.source, found.fields
    end = source.start + (source.n_steps - 1) * source.step
    rows: list[tuple[str, object]] = [
        ("data set", folder),
        ("tenants", f"{source.n_tenants}, one per {_TENANT_OF[fields['variates']]}"),
        (
            "from, to",
            f"{source.start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, {source.n_steps:,} steps "
            f"of {source.step}",
        ),
        ("seasons", "; ".join(f"{s.steps} steps ({s.called})" for s in found.seasons)),
        ("horizon", f"{fields['horizon']} steps ({fields['horizon'] * source.step})"),
        *(("note", note) for note in found.notes),
    ]
    show(f"fleet {source.spec.name}", ("what", "found"), rows)
    show(
        "metrics",
        ("metric", "lowest", "highest"),
        [(own.metric, f"{own.low:.4g}", f"{own.high:.4g}") for own in found.ranges],
    )


def fetch(
    benchmark: Annotated[str, typer.Argument(help="boom or gift-eval")],
    name: Annotated[
        str, typer.Argument(help="the data set's folder in it, such as ds-0-T or electricity/15T")
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            help="the folder to write (default: benchmarks/BENCHMARK/NAME in the folder "
            "of the fleets' tables)",
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(help="the commit to take (default: the pinned one)"),
    ] = None,
) -> None:
    """Bring one data set of a public benchmark from the Hugging Face hub, for `fleet init` or
    `benchmark`.
    """
    with plain_errors():
        from tsfm_pipeline.fleets.hub import bring
        from tsfm_pipeline.settings import Settings

        root = Settings().fleet_tables_dir / "benchmarks" / benchmark
        folder = bring(benchmark, name, to or root / name, revision=revision)
    say(f"wrote {folder}", "green")
    say(f"next: `tsfm-pipeline benchmark {folder}`, or `tsfm-pipeline fleet init {folder}`")
