"""`tsfm-pipeline benchmark`: forecasters under the protocols of GIFT-Eval and BOOM.

What belongs here: the command's options and its output. What does not: the work
(`cli.benchmarking`).
"""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tsfm_pipeline.cli.screen import plain_errors, refuse, say, show

if TYPE_CHECKING:
    import polars as pl

OUT_SUFFIXES = (".csv", ".parquet")


class Term(StrEnum):
    """How far a benchmark forecasts: once, ten and fifteen times the short length."""

    SHORT = "short"
    MEDIUM = "medium"
    LONG = "long"


class Protocol(StrEnum):
    """Whose aggregates and reference are used."""

    BOOM = "boom"
    GIFT_EVAL = "gift-eval"


def benchmark(
    folder: Annotated[
        Path,
        typer.Argument(help="a data set that `datasets` saved, or a folder of such data sets"),
    ],
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="model (the longest configuration that fits), a configuration such as ctx512, "
            "search, or a direct baseline such as last_value; repeatable (default: model and "
            "search)"
        ),
    ] = None,
    term: Annotated[list[Term] | None, typer.Option(help="repeatable (default: short)")] = None,
    protocol: Annotated[
        Protocol | None,
        typer.Option(help="whose aggregates (default: by the names of the data sets)"),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="a run's search.bundle, for --method search; without it the search weighs "
            "configurations by the series' own past alone"
        ),
    ] = None,
    apart: Annotated[
        list[str] | None,
        typer.Option(
            help="a data set to aggregate apart and not relative to the seasonal naive, as BOOM's "
            "leaderboard does with those of low variance; repeatable"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="a .csv or .parquet file: one row per data set, term and method"),
    ] = None,
) -> None:
    """Score forecasters on a public benchmark's data by its own protocol (windows, MASE, CRPS),
    beside the seasonal naive of its leaderboard.
    """
    with plain_errors():
        from tsfm_pipeline.cli.benchmarking import aggregated, relative_to_reference, run_benchmark
        from tsfm_pipeline.cli.forecasting import write_table
        from tsfm_pipeline.forecaster.allocator import keep_large_buffers

        if out is not None and out.suffix not in OUT_SUFFIXES:
            refuse(f"--out {out}: allowed: an ending {' or '.join(OUT_SUFFIXES)}")
        keep_large_buffers()
        name, results = run_benchmark(
            folder,
            method or ["model", "search"],
            [own.value for own in term or [Term.SHORT]],
            benchmark=None if protocol is None else protocol.value,
            bundle=bundle,
            log=say,
        )
        results = relative_to_reference(results)
        totals = aggregated(results, name, apart or ())
        if out is not None:
            write_table(results, out)
    _show_scores(results)
    mean = "shifted geometric mean" if name == "boom" else "geometric mean"
    say(f"all data sets, relative to the seasonal naive ({mean}, as {name}):")
    rows = [[_cell(value) for value in row] for row in totals.iter_rows()]
    show("", totals.columns, rows)
    if out is not None:
        say(f"{out}: {results.height} rows")


def _show_scores(results: "pl.DataFrame") -> None:
    columns = {
        "method": "method",
        "mase": "MASE",
        "crps": "CRPS",
        "mase_relative": "MASE, relative",
        "crps_relative": "CRPS, relative",
        "n_stand_ins": "windows answered by the reference",
    }
    rows = [
        [f"{row['dataset']}/{row['term']}", *(_cell(row[name]) for name in columns)]
        for row in results.iter_rows(named=True)
    ]
    show("scores", ("data set", *columns.values()), rows)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
