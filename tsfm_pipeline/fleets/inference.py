"""What a table contains: step, span, bounds, horizon; and the fields that describe it as a fleet.

What belongs here: facts about all rows together, and the defaults that follow from them. What does
not: the text of the fleet file (`fleets.fleet_text`), the roles of the columns (`fleets.columns`),
seasons (`fleets.seasons`), the verdict on single rows and tenants (`fleets.quality`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.fleets.columns import find_columns, unknown_tiers
from tsfm_pipeline.fleets.defaults import fitting_fields, zero_bounds
from tsfm_pipeline.fleets.field_lines import path_field
from tsfm_pipeline.fleets.kinds import TableFleet
from tsfm_pipeline.fleets.row_rules import row_rules
from tsfm_pipeline.fleets.seasons import Season, find_seasons
from tsfm_pipeline.fleets.source import FleetDataError, LeftOut
from tsfm_pipeline.fleets.table import TableSource, moved_up, tenants_of
from tsfm_pipeline.fleets.table_files import open_files
from tsfm_pipeline.fleets.table_rows import TableFiles, collect
from tsfm_pipeline.fleets.table_step import off_grid_rule, step_of

SUFFIXES = (".parquet", ".csv")
_TENANTS_FOR_SEASONS = 20


@dataclass(frozen=True)
class MetricFacts:
    """One metric over all tenants: its lowest and highest finite value, and how many rows have no
    value of it.
    """

    name: str
    low: float
    high: float
    n_missing: int


@dataclass(frozen=True)
class TableFacts:
    """The facts about a table. spec: the fleet that describes it. problem: why the table cannot be
    used as it is; empty if it can.
    """

    spec: TableFleet
    paths: tuple[Path, ...]
    n_rows: int
    n_tenants: int
    start: datetime
    end: datetime
    step: timedelta
    n_steps: int
    metrics: tuple[MetricFacts, ...]
    seasons: tuple[Season, ...]
    notes: tuple[str, ...] = ()
    problem: str = ""
    remedy: str = ""
    """The lines of the fleet file that would solve the problem, where that is known."""
    fields: dict[str, Any] = field(default_factory=dict)
    """The fields of the fleet file."""
    why: Mapping[str, str] = field(default_factory=dict)
    """Why a field was chosen, by its name."""
    left_out: tuple[LeftOut, ...] = ()
    """The columns that are not read."""


def table_paths(path: Path) -> tuple[Path, ...]:
    """Return the file itself, or all Parquet files (else all CSV files) of a directory or of its
    partitions (folders like `week=3`). Raises `FleetDataError` where there are none.
    """
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise FleetDataError(
                f"{path}: the ending is {path.suffix!r}; allowed: {' or '.join(SUFFIXES)}, or a "
                "directory of either"
            )
        return (path,)
    if not path.is_dir():
        raise FleetDataError(f"{path}: no such file or directory")
    pattern = files_of(path)
    by_suffix = {suffix: tuple(sorted(path.glob(pattern + suffix))) for suffix in SUFFIXES}
    if all(by_suffix.values()):
        counts = ", ".join(f"{len(paths)} {suffix}" for suffix, paths in by_suffix.items())
        raise FleetDataError(
            f"{path}: {counts} files in one directory; allowed: one kind (or name a single file)"
        )
    if not any(by_suffix.values()):
        below = next(
            (deeper for suffix in SUFFIXES for deeper in sorted(path.rglob(f"*{suffix}"))), None
        )
        hint = (
            f"; there are some in {below.parent}: give that directory, or name the folders between "
            "like 'week=3', so that all of them are one table"
            if below
            else ""
        )
        raise FleetDataError(f"{path}: neither .parquet nor .csv files in this directory{hint}")
    return by_suffix[".parquet"] or by_suffix[".csv"]


def files_of(directory: Path) -> str:
    """Return the pattern, without ending, of the files that are a table's in a directory: those in
    it, or those in the partitions below it if it holds nothing else.
    """
    partitioned = any("=" in below.name for below in directory.iterdir() if below.is_dir())
    files = any(below.suffix in SUFFIXES for below in directory.iterdir() if below.is_file())
    return "**/*" if partitioned and not files else "*"


def look_at_table(
    path: Path,
    *,
    name: str,
    fleets_dir: Path,
    tenant: Sequence[str] | None = None,
    timestamp: str | None = None,
    layout: str | None = None,
    step: float | None = None,
    horizon: int | None = None,
    reading: Mapping[str, Any] = MappingProxyType({}),
) -> TableFacts:
    """Read a file or a directory and describe it as the fleet `name`.

    tenant: names of columns, none of them where each file is a tenant. timestamp: the name of a
    column (of a date and a time of day with a comma between them). layout: 'series' or 'wide'.
    step: in minutes. horizon: in steps. What is not given is inferred. reading: the fields of
    `TableReading` with which cells and rows are read.

    Raises `FleetDataError` where columns or step cannot be inferred; the message says what the
    table holds and what would help.
    """
    path = path.expanduser().absolute()
    paths = table_paths(path)
    found = find_columns(paths, tenant=tenant, timestamp=timestamp, layout=layout, reading=reading)
    columns = found.fields()
    own_tiers = () if "tier" in columns.values() else unknown_tiers(paths[0])
    pattern = f"/{files_of(path)}{paths[0].suffix}" if path.is_dir() else ""
    base: dict[str, Any] = {
        "kind": "table",
        "title": name.replace("-", " ").replace("_", " ").capitalize(),
        "source": f"{path.name}; write here what it is and where it comes from",
        "path": path_field(path, fleets_dir, of_patterns=True) + pattern,
        **columns,
        **reading,
        **({} if step is None else {"step": step}),
    }
    files = open_files(TableFleet.model_validate({**base, "name": name}), fleets_dir)
    tenants = tenants_of(files)
    if tenants["first"].null_count():
        files.check(row_rules(files))
    step_us, n_off_grid = _step(files, tenants["tenant"].to_list())
    notes: tuple[str, ...] = found.notes
    if n_off_grid:
        base["align"] = "up"
        tenants = moved_up(tenants, step_us)
        notes = (
            *notes,
            f"{n_off_grid} timestamps lie off the grid of the others; each is moved up to the "
            "next step",
        )
    if own_tiers:
        notes = (
            *notes,
            f"column 'tier' holds {', '.join(own_tiers)}: set the alpha of each in 'tiers', and "
            "add 'tier_column: tier'",
        )
    length = timedelta(microseconds=step_us)
    first, last = (
        datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)  # type: ignore[arg-type]
        for us in (tenants["first"].min(), tenants["last"].max())
    )
    metrics = _metric_facts(files)
    lowest = {metric.name: metric.low for metric in metrics}
    fields = base | zero_bounds(lowest) | {"step": _number(length / timedelta(minutes=1))}
    begins, ends = (
        ((tenants[end] - tenants["first"].min()) // step_us).to_numpy() for end in ("first", "last")
    )
    fields |= fitting_fields(length, begins, ends, horizon)
    problem, remedy, values, of_rows = _readable(
        TableFleet.model_validate({**fields, "name": name, "seasons": []}), fleets_dir
    )
    seasons, of_seasons = find_seasons(length, values)
    fields["seasons"] = [season.steps for season in seasons]
    return TableFacts(
        spec=TableFleet.model_validate({**fields, "name": name}),
        paths=paths,
        n_rows=int(tenants["rows"].sum()),
        n_tenants=tenants.height,
        start=first,
        end=last,
        step=length,
        n_steps=(last - first) // length + 1,
        metrics=metrics,
        seasons=seasons,
        notes=(*files.notes, *notes, *of_rows, *of_seasons),
        problem=problem,
        remedy=remedy,
        fields=fields,
        why=found.why,
        left_out=found.left_out,
    )


def _step(files: TableFiles, tenants: list[str]) -> tuple[int, int]:
    """Return the step in microseconds, and how many rows lie off its grid; a step that jitters is
    recognised too.
    """
    try:
        step_us, phase = step_of(files, tenants)
    except FleetDataError:
        files = replace(files, spec=files.spec.model_copy(update={"align": "up"}))
        step_us, phase = step_of(files, tenants)
    return step_us, sum(
        n_rows for _, n_rows in files.broken([off_grid_rule(files.spec, step_us, phase)])
    )


def _metric_facts(files: TableFiles) -> tuple[MetricFacts, ...]:
    rows = files.rows()

    def of(value: pl.Expr) -> list[pl.Expr]:
        finite = value.filter(value.is_finite())
        missing = (value.is_null() | value.is_nan()).sum()
        return [finite.min().alias("low"), finite.max().alias("high"), missing.alias("missing")]

    if files.spec.layout != "wide":
        grouped = collect(files.spec, rows.group_by("metric").agg(of(pl.col("value"))))
        by_metric = {row["metric"]: row for row in grouped.iter_rows(named=True)}
        facts = [(name, by_metric[number]) for number, name in enumerate(files.metrics)]
    else:
        selected = [
            expression.name.suffix(f":{name}")
            for name in files.metrics
            for expression in of(pl.col(f"metric:{name}"))
        ]
        row = collect(files.spec, rows.select(selected)).row(0, named=True)
        facts = [
            (name, {key: row[f"{key}:{name}"] for key in ("low", "high", "missing")})
            for name in files.metrics
        ]
    empty = [name for name, own in facts if own["low"] is None]
    if empty:
        files.check(row_rules(files))
        raise FleetDataError(
            f"{files.paths[0]}: not a single number in {', '.join(map(repr, empty))}; allowed: "
            "metrics with values. Remove these columns from the table, or write the fleet file by "
            "hand"
        )
    return tuple(
        MetricFacts(name, float(own["low"]), float(own["high"]), int(own["missing"]))
        for name, own in facts
    )


def _readable(
    spec: TableFleet, fleets_dir: Path
) -> tuple[str, str, NDArray[np.float32] | None, tuple[str, ...]]:
    """Return what is wrong with the table, or '', and its remedy; the values [S, T] of some
    tenants' series, and the notes on the rows.
    """
    try:
        source = TableSource(spec, fleets_dir=fleets_dir)
    except FleetDataError as error:
        return str(error), error.remedy, None, ()
    numbers = np.unique(
        np.linspace(0, source.n_tenants - 1, _TENANTS_FOR_SEASONS).round().astype(int)
    ).tolist()
    values = source.values(numbers)
    return "", "", values.reshape(-1, values.shape[-1]), source.row_notes


def _number(minutes: float) -> float | int:
    return int(minutes) if minutes == int(minutes) else minutes
