"""Asset checks: what must hold of every table, run inside the step that wrote it.

What belongs here: which checks a table has and their severity. What does not: repairing anything, and mathematics.
Blocking checks stop what is downstream; the warning ones of `acceptance_criteria` only report.
"""

from typing import Any

import dagster as dg

from tsfm_pipeline.catalogue.columns import expected_schema
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.protocol import TIERS

KEYS: dict[str, tuple[str, ...]] = {
    "tenant_telemetry": ("tenant_id", "timestamp"),
    "tenant_manifest": ("tenant_number",),
    "tenant_features": ("tenant_number",),
    "forecast_requests": ("request_id",),
    "request_targets": ("request_id", "metric"),
    "config_portfolio": ("fold", "rank"),
    "forecast_grid": ("request_id", "metric", "config"),
    "validation_losses": ("request_id", "metric", "config", "offset_steps"),
    "baseline_forecasts": ("request_id", "metric", "method"),
    "tuning_losses": ("request_id", "metric", "config"),
    "config_priors": ("fold", "request_id", "metric", "config"),
    "autoresearch_forecasts": ("request_id", "metric", "tier"),
    "scored_forecasts": ("request_id", "metric", "method", "tier"),
    "forecast_quality": ("request_id", "metric", "method", "tier"),
    "block_calibration": ("fold", "metric", "tier"),
    "recommendation_scores": ("request_id", "metric", "method", "tier"),
    "recommendations": ("tenant_number", "metric", "tier"),
}
"""The columns that name a row; they are present, never null, and never repeat."""
DECILES: dict[str, tuple[str, int]] = {
    "forecast_grid": ("forecast", 10),
    "baseline_forecasts": ("deciles", 9),
    "autoresearch_forecasts": ("deciles", 9),
}
"""Tables of quantile forecasts: their column and its values per step (the mean comes before the nine deciles)."""
LEAKAGE = ("forecast_grid", "validation_losses", "baseline_forecasts")
LEAKAGE_TOLERANCE = 1e-5


def check_specs(table: str) -> list[dg.AssetCheckSpec]:
    """The blocking checks of a table."""
    checks = {"schema": "Every column is there, in its order, with the type that its meaning asks for."}
    if table in KEYS:
        checks["row_count"] = "There is a row for every combination of keys, none is null and none repeats."
    if table in DECILES:
        checks["finite"] = "No forecast is infinite; a forecast is NaN only as a whole."
        checks["ordered_quantiles"] = "The nine deciles of every forecast never decrease."
    if table in LEAKAGE:
        checks["future_shuffle_leakage"] = "Replacing everything after the origin by noise changes no forecast."
    return [dg.AssetCheckSpec(name, asset=table, description=text, blocking=True) for name, text in checks.items()]


def check_results(fleet: Fleet, table: str, leakage: float | None = None) -> list[dg.AssetCheckResult]:
    """Run a table's checks on what is stored; `leakage` is the largest relative change under the future shuffle."""
    results = [_schema(fleet, table)]
    if table in KEYS:
        results.append(_row_count(fleet, table))
    if table in DECILES:
        results.extend(_quantiles(fleet, table))
    if table in LEAKAGE:
        assert leakage is not None, f"{table} is checked for leakage, but nothing was measured"
        results.append(_result("future_shuffle_leakage", leakage <= LEAKAGE_TOLERANCE, {"largest_relative_change": leakage}))
    return results


def criteria_specs() -> list[dg.AssetCheckSpec]:
    """One warning check per acceptance criterion."""
    from tsfm_pipeline.reports.acceptance.criteria import CRITERIA

    return [
        dg.AssetCheckSpec(name, asset="acceptance_criteria", description=f"{target.title}: {target.target}")
        for name, target in CRITERIA.items()
    ]


def criteria_results(rows: list[dict[str, Any]]) -> list[dg.AssetCheckResult]:
    """A criterion that is missed or null warns; one that this fleet cannot answer passes and says so."""
    return [
        dg.AssetCheckResult(
            check_name=row["id"],
            passed=row["verdict"] in ("PASS", "N/A"),
            severity=dg.AssetCheckSeverity.WARN,
            metadata={key: str(row[key]) for key in ("verdict", "figure", "low", "high", "target", "note")},
        )
        for row in rows
    ]


def fleet_schema(fleet: Fleet, table: str) -> dict[str, tuple[str, str]]:
    """{column: (type, meaning)} that a table of this fleet has."""
    n_configs = len(fleet.configs) if table == "autoresearch_forecasts" else 0  # the portfolio is not yet known to what it is made from
    return expected_schema(table, fleet.grid.metrics, fleet.spec.horizon, n_configs)


def _schema(fleet: Fleet, table: str) -> dg.AssetCheckResult:
    expected = {name: dtype for name, (dtype, _) in fleet_schema(fleet, table).items()}
    stored = {name: str(dtype) for name, dtype in fleet.tables.scan(table).collect_schema().items()}
    differences = [
        f"{name}: expected {expected.get(name)}, stored {stored.get(name)}"
        for name in dict.fromkeys((*expected, *stored))
        if expected.get(name) != stored.get(name)
    ]
    return _result("schema", list(expected.items()) == list(stored.items()), {"differences": differences, "columns": list(stored)})


def _expected_rows(fleet: Fleet, table: str) -> int | None:
    """Rows that follow from the tables above, or None where only the keys can be checked."""
    if table == "tenant_telemetry":
        return int(fleet.tables.record(table)["n_tenants"]) * fleet.grid.n_steps
    if table in ("tenant_manifest", "tenant_features"):
        return int(fleet.tables.record("tenant_telemetry")["n_tenants"])
    if table in ("forecast_requests", "config_portfolio", "config_priors", "validation_losses", "scored_forecasts"):
        return None
    n_metrics = len(fleet.grid.metrics)
    by_role = dict(fleet.tables.scan("forecast_requests").group_by("role").len().collect().iter_rows())
    n_tuning, n_test = by_role.get("tuning", 0), by_role.get("test", 0)
    per_request = {
        "request_targets": (n_tuning + n_test) * n_metrics,
        "autoresearch_forecasts": n_test * n_metrics * len(TIERS),
    }
    if table in ("forecast_grid", "tuning_losses"):
        n_requests = n_tuning + (n_test if table == "forecast_grid" else 0)
        return n_requests * n_metrics * len(fleet.configs)
    return per_request.get(table)


def _row_count(fleet: Fleet, table: str) -> dg.AssetCheckResult:
    keys = KEYS[table]
    null_keys = " + ".join(f"count(*) FILTER ({key} IS NULL)" for key in keys)
    if table == "tenant_telemetry":
        # Sorted by construction, and far too long to be counted distinct.
        counted = fleet.tables.query(f"SELECT count(*) AS n, {null_keys} AS n_null FROM {table}", table)
        n_rows, n_null, n_repeated = *counted.row(0), 0
    else:
        counted = fleet.tables.query(
            f"SELECT count(*) AS n, {null_keys} AS n_null, count(*) - count(DISTINCT ({', '.join(keys)})) AS n_repeated FROM {table}", table
        )
        n_rows, n_null, n_repeated = counted.row(0)
    expected = _expected_rows(fleet, table)
    passed = n_rows > 0 and n_null == 0 and n_repeated == 0 and expected in (None, n_rows)
    counts = {"n_rows": int(n_rows), "n_null_keys": int(n_null), "n_repeated_keys": int(n_repeated)}
    return _result("row_count", passed, counts | ({} if expected is None else {"n_expected": expected}))


def _quantiles(fleet: Fleet, table: str) -> list[dg.AssetCheckResult]:
    import numpy as np

    column, width = DECILES[table]
    n_infinite = n_partly_nan = n_disordered = n_unavailable = 0
    for number in range(len(fleet.tables.record(table)["parts"])):
        values = fleet.tables.read(table, number, columns=[column])[column].to_numpy()
        values = values.reshape(len(values), -1, width)
        missing = np.isnan(values)
        whole = missing.all(axis=(1, 2))
        n_infinite += int(np.isinf(values).any(axis=(1, 2)).sum())
        n_partly_nan += int((missing.any(axis=(1, 2)) & ~whole).sum())
        n_unavailable += int(whole.sum())
        n_disordered += int((np.diff(values[~whole][..., width - 9 :], axis=-1) < 0).any(axis=(1, 2)).sum())
    return [
        _result(
            "finite",
            n_infinite == 0 and n_partly_nan == 0,
            {"n_infinite": n_infinite, "n_partly_nan": n_partly_nan, "n_unavailable": n_unavailable},
        ),
        _result("ordered_quantiles", n_disordered == 0, {"n_disordered": n_disordered}),
    ]


def _result(name: str, passed: bool, metadata: dict[str, Any]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(check_name=name, passed=bool(passed), severity=dg.AssetCheckSeverity.ERROR, metadata=metadata)
