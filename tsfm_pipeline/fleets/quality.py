"""What is wrong with a fleet's telemetry, tenant by tenant, and the consequences.

What belongs here: all quality rules of the sources, each applied to the end instead of only up to
the first fault. What does not: the rules of requests, scales and splits (`evaluation`).

A finding is `unusable` (the fleet cannot be read as it is), `implausible` (values are read as they
are, and look wrong), `excludes` (a tenant, a series or requests will be left out) or a `note`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.fleets import open_fleet
from tsfm_pipeline.fleets.kinds import AnyFleet, SqlFleet, TableFleet
from tsfm_pipeline.fleets.names import usual_name
from tsfm_pipeline.fleets.plausibility import Plausibility
from tsfm_pipeline.fleets.row_rules import cells_breaking, row_rules, unit_rules
from tsfm_pipeline.fleets.source import SHOWN, FleetDataError, FleetSource, gap_lengths
from tsfm_pipeline.fleets.sql import stored_files
from tsfm_pipeline.fleets.table_files import open_files
from tsfm_pipeline.fleets.table_rows import TableFiles, collect

Severity = Literal["unusable", "implausible", "excludes", "note"]
EVERYONE = "(all)"
MISSING_WORTH_A_NOTE = 0.05
UNIT_COLUMNS = ("unit", "units", "uom")
_TENANTS_AT_ONCE = 32


@dataclass(frozen=True)
class Finding:
    """One problem of one tenant, or of `EVERYONE`; and what a person can do about it: a line of the
    fleet file, or a change of the source.
    """

    severity: Severity
    tenant: str
    problem: str
    remedy: str = ""


@dataclass(frozen=True)
class Checked:
    """The fleet, if it can be read, and the findings, worst first. reasons: complete sentences that
    say why the fleet cannot be read.
    """

    source: FleetSource | None
    findings: tuple[Finding, ...]
    reasons: tuple[str, ...] = ()

    @property
    def worst(self) -> Severity | None:
        """Return the worst severity, or None without findings."""
        return self.findings[0].severity if self.findings else None


def check_fleet(
    spec: AnyFleet,
    *,
    fleets_dir: Path,
    raw_dir: Path | None = None,
    further: Callable[[FleetSource], Iterable[Finding]] = lambda _: (),
) -> Checked:
    """Apply every rule to a fleet: the rules of rows (all tenants that break each), of the grid, of
    each tenant's values, and the `further` rules.
    """
    findings: list[Finding] = []
    reasons: list[str] = []
    source = None
    try:
        files = None
        if isinstance(spec, TableFleet):
            files = open_files(spec, fleets_dir)
        elif isinstance(spec, SqlFleet) and raw_dir is not None:
            files = stored_files(spec, raw_dir)
        if files is not None:
            findings += [*_broken_rows(files), *_mixed_units(files)]
        source = open_fleet(spec, fleets_dir=fleets_dir, raw_dir=raw_dir)
    except FleetDataError as error:
        reasons.append(str(error))
        findings += [
            Finding("unusable", tenant, problem, error.remedy)
            for tenant, problem in error.tenants.items()
        ]
        if not findings:
            findings.append(Finding("unusable", EVERYONE, "cannot be read; see below"))
    else:
        findings += [*_of_source(source), *further(source)]
    order: list[Severity] = ["unusable", "implausible", "excludes", "note"]
    return Checked(
        source,
        tuple(sorted(findings, key=lambda finding: order.index(finding.severity))),
        tuple(reasons),
    )


def _broken_rows(files: TableFiles) -> Iterator[Finding]:
    """Yield every tenant with rows that break a rule, rule by rule."""
    for rule, _ in files.broken([*row_rules(files), *unit_rules(files)]):
        remedy = "" if rule.hint is None else rule.hint(list(cells_breaking(files, rule)))
        for tenant, n_rows in files.tenants_breaking(rule).items():
            problem = f"{n_rows} {rule.what} in {rule.column}"
            yield Finding("unusable", tenant or "(no tenant)", problem, remedy)


def _mixed_units(files: TableFiles) -> Iterator[Finding]:
    """Yield the metrics of a long table for which a column of units says more than one."""
    columns = [left.column for left in files.left_out if usual_name(left.column) in UNIT_COLUMNS]
    if files.spec.layout != "long" or not columns:
        return
    unit = pl.col(f"label:{columns[0]}").str.strip_chars()
    units = unit.filter(unit.str.len_chars() > 0).unique().sort().alias("units")
    rows = files.rows(labels=columns[:1]).drop_nulls("metric").group_by("metric").agg(units)
    for number, found in collect(files.spec, rows.sort("metric")).iter_rows():
        if len(found) > 1:
            yield Finding(
                "implausible",
                EVERYONE,
                f"{files.metrics[number]} is in several units by the column {columns[0]!r}: "
                f"{', '.join(found[:SHOWN])}; its values are read as if they were in one",
                "convert its values to one unit",
            )


def _of_source(source: FleetSource) -> Iterator[Finding]:
    for note in source.notes:
        yield Finding("note", EVERYONE, note)
    for tenant, reason in source.left_out.items():
        yield Finding("excludes", tenant, f"left out: {reason}")
    manifest = source.manifest()
    plausibility = Plausibility(source)
    n_silent = 0
    for numbers in source.shards(_TENANTS_AT_ONCE):
        for number, values in zip(numbers, source.values(numbers), strict=True):
            row = manifest.row(number, named=True)
            silent = [source.metrics[d] for d in np.flatnonzero(np.isnan(values).all(axis=1))]
            n_silent += bool(silent)
            plausibility.look(row["tenant_id"], values)
            for severity, problem, *remedy in _of_tenant(
                source, row["first_step"], row["last_step"], values, silent
            ):
                yield Finding(severity, row["tenant_id"], problem, *remedy)
            if row["n_duplicates"]:
                yield _repeats(source, row["tenant_id"], row["n_duplicates"])
    for doubt in plausibility.doubts():
        yield Finding("implausible", doubt.tenant or EVERYONE, doubt.problem, doubt.remedy)
    if source.n_tenants == 1:
        yield Finding(
            "note",
            EVERYONE,
            "one tenant: it is tuned on its own past, and its figures have no confidence interval",
        )
    if n_silent == source.n_tenants:
        yield Finding(
            "unusable",
            EVERYONE,
            "every tenant lacks a metric: no request can be asked, because a request needs all "
            "metrics",
        )


def _repeats(source: FleetSource, tenant: str, n_repeats: int) -> Finding:
    spec, n_other = source.spec, source.contradictions.get(tenant, 0)
    if isinstance(spec, TableFleet | SqlFleet) and spec.aggregate not in (None, "last"):
        return Finding("note", tenant, f"{n_repeats} rows are identical to others and count once")
    other = f", {n_other} of them with other values" if n_other else ""
    return Finding(
        "note",
        tenant,
        f"{n_repeats} rows repeat a time{other}; the last of each counts",
        "aggregate: sum, mean or max; or tenant_column: [A, B]" if n_other else "",
    )


def _of_tenant(
    source: FleetSource, first: int, last: int, values: NDArray[np.float32], silent: Sequence[str]
) -> Iterator[tuple[Severity, str] | tuple[Severity, str, str]]:
    """Yield the problems of one tenant's values [D, T], observed from step `first` to step `last`,
    some with a remedy; the metrics in `silent` have no value.
    """
    spec = source.spec
    own = values[:, first : last + 1]
    missing = np.isnan(own)
    if silent:
        yield (
            "excludes",
            f"no value of {', '.join(silent)}: none of its requests can be asked, because a "
            "request needs all metrics",
            f"leave {', '.join(silent)} out of 'metrics:', or the tenant out of the table",
        )
        return
    gaps = gap_lengths(np.atleast_2d(missing.any(axis=0)))
    long = gaps[gaps > spec.max_gap]
    if long.size:
        longest = int(long.max()) * source.step
        yield (
            "note",
            f"{long.size} gaps of more than {spec.max_gap} steps, the longest {longest}: what lies "
            "before one is not used, once 32 values have been observed after it",
        )
    share = float(missing.mean())
    if share > MISSING_WORTH_A_NOTE:
        yield "note", f"{share:.0%} of its values are missing"
    constant = [
        metric
        for metric, series in zip(source.metrics, own, strict=True)
        if np.nanmin(series) == np.nanmax(series)
    ]
    zero = [metric for metric in constant if np.nanmax(own[source.metrics.index(metric)]) == 0]
    if zero:
        yield (
            "excludes",
            f"nothing but zeros in {', '.join(zero)}: such a series has no scale and is not scored",
            f"leave {', '.join(zero)} out of 'metrics:' where it is zero for all tenants",
        )
    if nonzero := [metric for metric in constant if metric not in zero]:
        yield "note", f"constant values in {', '.join(nonzero)}"
    day = timedelta(days=1)
    if first * source.step > day or (source.n_steps - 1 - last) * source.step > day:
        begin, end = (source.start + step * source.step for step in (first, last))
        yield "note", f"has values only from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}"
