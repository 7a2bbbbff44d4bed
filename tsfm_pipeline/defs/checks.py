"""Asset checks: the conditions that every table must meet, checked in the step that wrote it.

What belongs here: which checks a table has and their severity. What does not: repairs, and
mathematics. A failed blocking check stops everything downstream; the checks of
`acceptance_criteria` only warn.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from tsfm_pipeline.catalogue.registry import Column, Table
from tsfm_pipeline.catalogue.scopes import M, Member, Scope, schema_of
from tsfm_pipeline.lake import FleetLake
from tsfm_pipeline.steps.makers import Maker

if TYPE_CHECKING:
    from tsfm_pipeline.reports.acceptance.model import Criterion
    from tsfm_pipeline.reports.served.model import ServedReport
LEAKAGE_TOLERANCE = 1e-5
N_DECILES = 9
"""Number of deciles: the last values per step in a column of quantile forecasts."""


def check_specs(table: Table, maker: Maker) -> list[dg.AssetCheckSpec]:
    """Return the blocking checks of a table."""
    checks = {"schema": "Every column exists, in the declared order and with the declared type."}
    if table.key:
        checks["row_count"] = (
            "There is one row for every combination of keys; no key is null or repeated."
        )
    if table.deciles:
        checks["finite"] = "No forecast is infinite; a forecast is NaN only as a whole."
        checks["ordered_quantiles"] = "The nine deciles of every forecast never decrease."
    if maker.leakage:
        checks["future_shuffle_leakage"] = (
            "Replacing everything after the origin by noise changes no forecast."
        )
    return [
        dg.AssetCheckSpec(name, asset=table.name, description=text, blocking=True)
        for name, text in checks.items()
    ]


def check_results(
    scope: Scope[M],
    member: M,
    table: Table,
    leakage: float | None = None,
) -> list[dg.AssetCheckResult]:
    """Run a table's checks on the stored table.

    leakage: the largest relative change under the future shuffle, if it was measured.
    """
    results = [_schema(schema_of(scope, member, table), member.tables, table.name)]
    if table.key:
        results.append(_row_count(member, table))
    if table.deciles:
        results.extend(_quantiles(member.tables, table.name, table.deciles))
    if leakage is not None:
        results.append(
            _result(
                "future_shuffle_leakage",
                leakage <= LEAKAGE_TOLERANCE,
                {"largest_relative_change": leakage},
            )
        )
    return results


def criteria_specs() -> list[dg.AssetCheckSpec]:
    """Return one warning check per acceptance criterion."""
    from tsfm_pipeline.reports.acceptance.criteria import CRITERIA

    return [
        dg.AssetCheckSpec(
            name, asset="acceptance_criteria", description=f"{target.title}: {target.target}"
        )
        for name, target in CRITERIA.items()
    ]


def plain_row(row: "Criterion") -> dict[str, Any]:
    """Return a criterion as in the JSON: None in place of NaN."""
    return {key: None if value != value else value for key, value in row.flat().items()}


def criteria_results(rows: "Sequence[Criterion]") -> list[dg.AssetCheckResult]:
    """Return one check result per criterion. A missed criterion or one without a figure warns; one
    that this fleet cannot answer passes as N/A.
    """
    return [
        dg.AssetCheckResult(
            check_name=row.id,
            passed=row.verdict in ("PASS", "N/A"),
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                key: str(value)
                for key, value in plain_row(row).items()
                if key not in ("id", "title")
            },
        )
        for row in rows
    ]


INTERVAL_CHECKS = {
    "coverage_80": "On later days, the calibrated 80 % interval covers .80 +- .03, or its "
    "confidence interval holds .80.",
    "coverage_90": "On later days, the calibrated 90 % interval covers .90 +- .03, or its "
    "confidence interval holds .90.",
    "enough_scores": "Every bucket of steps of all series has 500 past intervals or more; passes "
    "where nothing is calibrated.",
    "no_value_after_as_of": "The calibration used no value after its as-of date, and is judged on "
    "none before it.",
}


def interval_specs() -> list[dg.AssetCheckSpec]:
    """Return the warning checks of `interval_evaluation`."""
    return [
        dg.AssetCheckSpec(name, asset="interval_evaluation", description=text)
        for name, text in INTERVAL_CHECKS.items()
    ]


def interval_results(report: "ServedReport") -> list[dg.AssetCheckResult]:
    """Return the check results of the calibrated intervals. Coverage passes where there is none to
    judge. Only the use of later values is an error.
    """
    from tsfm_pipeline.evaluation.conformal import MIN_GLOBAL
    from tsfm_pipeline.reports.served.model import CONFORMAL, TIME
    from tsfm_pipeline.reports.served.words import holds

    row = report.band(TIME, CONFORMAL)
    shown: dict[str, tuple[bool, dict[str, Any]]] = {}
    for target in (0.8, 0.9):
        figures = {} if row is None else row.coverage(target)._asdict()
        passed = row is None or holds(row, target)
        shown[f"coverage_{100 * target:.0f}"] = passed, figures
    scores = report.calibration_scores
    shown["enough_scores"] = scores >= MIN_GLOBAL or not report.calibration_version, {"n": scores}
    leaked = report.n_values_after_as_of, report.n_judged_before_as_of
    shown["no_value_after_as_of"] = (
        leaked == (0, 0),
        {"n_values_after_as_of": leaked[0], "n_judged_before_as_of": leaked[1]},
    )
    return [
        dg.AssetCheckResult(
            check_name=name,
            passed=passed,
            severity=dg.AssetCheckSeverity.ERROR
            if name == "no_value_after_as_of"
            else dg.AssetCheckSeverity.WARN,
            metadata=metadata,
        )
        for name, (passed, metadata) in shown.items()
    ]


def _schema(declared: pl.Schema, tables: FleetLake, table: str) -> dg.AssetCheckResult:
    expected = {name: str(dtype) for name, dtype in declared.items()}
    stored = {name: str(dtype) for name, dtype in tables.scan(table).collect_schema().items()}
    differences = [
        f"{name}: expected {expected.get(name)}, stored {stored.get(name)}"
        for name in dict.fromkeys((*expected, *stored))
        if expected.get(name) != stored.get(name)
    ]
    return _result(
        "schema",
        list(expected.items()) == list(stored.items()),
        {"differences": differences, "columns": list(stored)},
    )


def _row_count(member: Member, table: Table) -> dg.AssetCheckResult:
    null_keys = " + ".join(f"count(*) FILTER ({key} IS NULL)" for key in table.key)
    counts = ["count(*) AS n", f"{null_keys} AS n_null"]
    if not table.key_by_construction:
        counts.append(f"count(*) - count(DISTINCT ({', '.join(table.key)})) AS n_repeated")
    counted = member.tables.query(f"SELECT {', '.join(counts)} FROM {table.name}", table.name)
    n_rows, n_null, n_repeated = (*counted.row(0), 0)[:3]
    expected = table.n_rows(member) if table.n_rows else None
    passed = n_rows > 0 and n_null == 0 and n_repeated == 0 and expected in (None, n_rows)
    metadata = {
        "n_rows": int(n_rows),
        "n_null_keys": int(n_null),
        "n_repeated_keys": int(n_repeated),
    }
    return _result(
        "row_count", passed, metadata | ({} if expected is None else {"n_expected": expected})
    )


def _quantiles(tables: FleetLake, table: str, column: Column) -> list[dg.AssetCheckResult]:
    import numpy as np

    n_infinite = n_partly_nan = n_disordered = n_unavailable = 0
    for number in range(len(tables.record(table)["parts"])):
        values = tables.read(table, number, columns=[column.name])[column.name].to_numpy()
        if not len(values):
            continue  # a shard without a tenant of the backtest
        values = values.reshape(len(values), -1, column.per_entry)
        missing = np.isnan(values)
        whole = missing.all(axis=(1, 2))
        n_infinite += int(np.isinf(values).any(axis=(1, 2)).sum())
        n_partly_nan += int((missing.any(axis=(1, 2)) & ~whole).sum())
        n_unavailable += int(whole.sum())
        n_disordered += int(
            (np.diff(values[~whole][..., -N_DECILES:], axis=-1) < 0).any(axis=(1, 2)).sum()
        )
    return [
        _result(
            "finite",
            n_infinite == 0 and n_partly_nan == 0,
            {
                "n_infinite": n_infinite,
                "n_partly_nan": n_partly_nan,
                "n_unavailable": n_unavailable,
            },
        ),
        _result("ordered_quantiles", n_disordered == 0, {"n_disordered": n_disordered}),
    ]


def _result(name: str, passed: bool, metadata: dict[str, Any]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=name,
        passed=bool(passed),
        severity=dg.AssetCheckSeverity.ERROR,
        metadata=metadata,
    )
