"""What a table contains: step, span, bounds, horizon; and the fleet file that describes it.

What belongs here: facts about all rows together, the defaults that follow from them, and the text
of the file. What does not: the roles of the columns (`fleets.columns`), seasons
(`fleets.seasons`), the verdict on single rows and tenants (`fleets.quality`).
"""

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from numpy.typing import NDArray

from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.fleets.columns import find_columns, unknown_tiers
from tsfm_pipeline.fleets.defaults import fitting_fields, fitting_reasons
from tsfm_pipeline.fleets.kinds import FLEETS_DIR_VARIABLE, TableFleet
from tsfm_pipeline.fleets.seasons import Season, find_seasons
from tsfm_pipeline.fleets.source import FleetDataError
from tsfm_pipeline.fleets.table import TableSource, tenants_of
from tsfm_pipeline.fleets.table_files import open_files
from tsfm_pipeline.fleets.table_rows import TableFiles, collect
from tsfm_pipeline.fleets.table_step import off_grid_rule, step_of

SUFFIXES = (".parquet", ".csv")
_TENANTS_FOR_SEASONS = 20
_RESERVED = re.compile(r"_request|limit|allocat|provision|capacity|reserv", re.I)
"""Names of columns of what is reserved today, such as cpu_requested or memory_limit_bytes."""


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
    fields: dict[str, Any] = field(default_factory=dict)
    """The fields of the fleet file."""


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
    tenant: str | None = None,
    timestamp: str | None = None,
    layout: str | None = None,
    step: float | None = None,
    horizon: int | None = None,
) -> TableFacts:
    """Read a file or a directory and describe it as the fleet `name`.

    tenant, timestamp: names of columns (a date and a time of day with a comma between them).
    layout: 'series' or 'wide'. step: in minutes. horizon: in steps. What is not given is inferred.

    Raises `FleetDataError` where columns or step cannot be inferred; the message says what the
    table holds and what would help.
    """
    path = path.expanduser().absolute()
    paths = table_paths(path)
    found = find_columns(paths, tenant=tenant, timestamp=timestamp, layout=layout)
    columns = found.fields()
    own_tiers = () if "tier" in columns.values() else unknown_tiers(paths[0])
    base: dict[str, Any] = {
        "kind": "table",
        "title": name.replace("-", " ").replace("_", " ").capitalize(),
        "source": f"{path.name}; write here what it is and where it comes from",
        "path": _path_field(path, paths, fleets_dir),
        **columns,
        **({} if step is None else {"step": step}),
    }
    files = open_files(TableFleet.model_validate({**base, "name": name}), fleets_dir)
    tenants = tenants_of(files)
    if tenants["first"].null_count():
        files.check(files.row_rules())
    step_us, n_off_grid = _step(files, tenants["tenant"].to_list())
    notes: tuple[str, ...] = (*found.notes, *files.notes)
    if n_off_grid:
        base["align"] = "up"
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
    fields = base | _bounds(metrics) | {"step": _number(length / timedelta(minutes=1))}
    begins, ends = (
        ((tenants[end] - tenants["first"].min()) // step_us).to_numpy() for end in ("first", "last")
    )
    fields |= fitting_fields(length, begins, ends, horizon)
    problem, values = _readable(
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
        notes=(*notes, *of_seasons),
        problem=problem,
        fields=fields,
    )


def fleet_yaml(facts: TableFacts, command: str) -> str:
    """Return the text of the fleet file, each field with its reason; `command` is the command line
    that writes it.
    """
    step = facts.step / timedelta(minutes=1)
    reasons = {
        "source": "for people who read the report",
        "layout": {
            "wide": "wide: one column per metric",
            "long": "long: one value per row",
            "series": f"series: one column per tenant, {facts.n_tenants} of them",
        }[facts.fields["layout"]],
        "value_column": "the name of the metric"
        if facts.fields["layout"] == "series"
        else "the column of values",
        "tenant_column": f"{facts.n_tenants} tenants"
        if facts.fields.get("tenant_column")
        else "each file is one tenant, named after the file",
        "timestamp_column": f"{facts.start:%Y-%m-%d %H:%M} to {facts.end:%Y-%m-%d %H:%M} UTC",
        "metrics": "delete those for which no capacity is reserved",
        "step": "minutes between two rows of a tenant",
        **fitting_reasons(facts.fields, step),
        "align": "some timestamps lie off the grid: each is moved up to the next step",
        "seasons": "in steps: " + ", ".join(season.called for season in facts.seasons)
        if facts.seasons
        else "the data show none",
        "lower": "no value is negative, so no forecast will be",
        "bounds": "metrics that are never negative; the others have negative values",
        "tier_column": f"{', '.join(TIERS)}, per tenant",
        "archetype_column": "a label per tenant that reports group by",
    }
    lines = [
        f"# Written by `{command}`.",
        f"# Change what is wrong, then run `tsfm-pipeline fleet check {facts.spec.name}`.",
    ]
    for name, value in facts.fields.items():
        line = f"{name}: {_scalar(value)}"
        lines.append(f"{line}  # {reasons[name]}" if name in reasons else line)
    if all(metric.high <= 1 for metric in facts.metrics):
        lines.append(
            "# upper: 1  # no value lies above 1; if 1 is a real limit, remove the first #"
        )
    reserved = _reserved_columns(facts.metrics)
    if reserved and facts.fields["layout"] == "wide":
        lines.append(
            f"# reserved_columns: {_scalar(reserved)}  # if these say what is reserved today: "
            "remove the first #, and delete them from metrics"
        )
    default = _scalar(TIERS)
    lines.append(
        f"# tiers: {default}  # the alpha of each, or its prices, like gold: "
        f"{{shortage: 19, slack: 1}}"
    )
    lines.append("nightly: false  # true: the nightly schedule runs it")
    return "\n".join(lines) + "\n"


def _reserved_columns(metrics: Sequence[MetricFacts]) -> dict[str, str]:
    """Return the metrics whose names say that they are what is reserved of another one, by that
    other metric: the one whose name begins most like theirs.
    """
    named = [metric.name for metric in metrics]
    reserved = [name for name in named if _RESERVED.search(name)]
    used = [name for name in named if name not in reserved]
    found: dict[str, str] = {}
    for name in reserved:
        shared = {other: _shared_letters(name, other) for other in used}
        like = max(shared, key=lambda other: shared[other], default="")
        if shared.get(like, 0) >= 2:
            found.setdefault(like, name)
    return found


def _shared_letters(one: str, other: str) -> int:
    """Return with how many letters both names begin."""
    pairs = zip(one.lower(), other.lower(), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _path_field(path: Path, paths: Sequence[Path], fleets_dir: Path) -> str:
    """Return the path as a fleet file holds it: relative to the fleets directory if it lies below
    it, with the characters of glob patterns escaped. Raises `FleetDataError` for a path with '$'.
    """
    if "$" in str(path):
        raise FleetDataError(
            f"{path}: '$' begins a variable in a fleet file; allowed: a path without it"
        )
    root = fleets_dir.absolute()
    below = path.is_relative_to(root) and path != root
    text = str(path.relative_to(root) if below else path)
    text = glob.escape(text) if glob.has_magic(text) else text
    if path.is_dir():
        text += f"/{files_of(path)}{paths[0].suffix}"
    return f"${{{FLEETS_DIR_VARIABLE}}}/{text}" if below else text


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
        raise FleetDataError(
            f"{files.paths[0]}: not a single number in {', '.join(map(repr, empty))}; allowed: "
            "metrics with values. Remove these columns from the table, or write the fleet file by "
            "hand"
        )
    return tuple(
        MetricFacts(name, float(own["low"]), float(own["high"]), int(own["missing"]))
        for name, own in facts
    )


def _bounds(metrics: Sequence[MetricFacts]) -> dict[str, Any]:
    """Return zero as the lower bound of all metrics that never fall below it."""
    positive = [metric.name for metric in metrics if metric.low >= 0]
    if len(positive) == len(metrics):
        return {"lower": 0}
    return {"bounds": {name: {"lower": 0} for name in positive}} if positive else {}


def _readable(spec: TableFleet, fleets_dir: Path) -> tuple[str, NDArray[np.float32] | None]:
    """Return what is wrong with the table, or '' and the values [S, T] of some tenants' series."""
    try:
        source = TableSource(spec, fleets_dir=fleets_dir)
    except FleetDataError as error:
        return str(error), None
    numbers = np.unique(
        np.linspace(0, source.n_tenants - 1, _TENANTS_FOR_SEASONS).round().astype(int)
    ).tolist()
    values = source.values(numbers)
    return "", values.reshape(-1, values.shape[-1])


def _number(minutes: float) -> float | int:
    return int(minutes) if minutes == int(minutes) else minutes


def _scalar(value: Any) -> str:
    """Return a value as one line of YAML."""
    value = list(value) if isinstance(value, tuple) else value
    return (
        yaml.safe_dump(
            value, default_flow_style=True, width=100_000, allow_unicode=True, sort_keys=False
        )
        .removesuffix("...\n")
        .strip()
    )
