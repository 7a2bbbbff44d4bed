"""An export in the summary format of fev (autogluon/fev, `Task.evaluation_summary`): one row per
task and method; a task is a metric.

What belongs here: fev's columns, and what each of them means here. What does not: the scores
themselves (`evaluation.quality`). No figure here is computed by fev: `fev_version` is the version
whose format and formulas this export follows, so that `fev.leaderboard` accepts the file.
"""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import polars as pl

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.losses import DECILE_LEVELS
from tsfm_pipeline.evaluation.methods import method_of
from tsfm_pipeline.evaluation.quality import terms
from tsfm_pipeline.files import write_atomically

FILE = "fev_summary.csv"
FEV_VERSION = "0.10.0"
EVAL_METRIC, EXTRA_METRICS = "WQL", ("MASE", "SQL")


def write_fev_summary(fleet: Fleet, rows: pl.DataFrame) -> int:
    """Write `fev_summary.csv` into the fleet's reports, and return its number of rows.

    rows: of `reports.quality.numbers.request_quality`.
    """
    frame = pl.DataFrame(fev_summary(fleet, rows), infer_schema_length=None)
    write_atomically(fleet.reports_dir / FILE, lambda path: frame.write_csv(path))
    return frame.height


def fev_summary(fleet: Fleet, rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Return one record per metric (task), method and tier, in fev's columns and order.

    Window i consists of the i-th request of every tenant: origins differ between tenants, so there
    is no `initial_cutoff` and no `window_step_size`. As in fev, an error is the mean over windows.
    The seasonal error is from before the test period, where fev takes it from before each window.
    Times were not measured per task and stay empty.
    """
    records = []
    for (metric, method, tier), part in rows.partition_by(
        "metric", "method", "tier", as_dict=True, maintain_order=True
    ).items():
        errors = {
            name: _mean_over_windows(part, name.lower()) for name in (EVAL_METRIC, *EXTRA_METRICS)
        }
        records.append(
            {
                "model_name": f"{method}[{tier}]" if tier in fleet.protocol.tiers else method,
                **_task(fleet, str(metric)),
                "test_error": errors[EVAL_METRIC],
                "training_time_s": None,
                "inference_time_s": None,
                "num_forecasts": int(part["quantile_loss_sum"].is_not_nan().sum()),
                "dataset_fingerprint": fleet.tables.expected["tenant_telemetry"],
                "trained_on_this_dataset": method_of(str(method)).tuned,
                "fev_version": FEV_VERSION,
                **errors,
                "computed_by": f"tsfm-pipeline {version('tsfm-pipeline')}",
            }
        )
    return sorted(records, key=lambda record: (record["target"], record["model_name"]))


def _task(fleet: Fleet, metric: str) -> Mapping[str, Any]:
    """Return the fields of `fev.Task`, lists as text; null where the protocol has no equal."""
    nothing = str([])
    return {
        "dataset_path": f"lake/{fleet.name}/tenant_telemetry",
        "dataset_config": None,
        "horizon": fleet.spec.horizon,
        "num_windows": fleet.spec.origins_per_tenant,
        "initial_cutoff": None,
        "window_step_size": None,
        "min_context_length": None,
        "max_context_length": None,
        "seasonality": fleet.grid.season,
        "eval_metric": EVAL_METRIC,
        "extra_metrics": str(list(EXTRA_METRICS)),
        "quantile_levels": str(DECILE_LEVELS.round(1).tolist()),
        "id_column": "tenant_id",
        "timestamp_column": "timestamp",
        "target": metric,
        "generate_univariate_targets_from": None,
        "known_dynamic_columns": nothing,
        "past_dynamic_columns": nothing,
        "static_columns": nothing,
        "task_name": f"{fleet.name}/{metric}",
    }


def _mean_over_windows(part: pl.DataFrame, score: str) -> float | None:
    """Return a score of one task and method, averaged over the windows that have one; None if none
    has.
    """
    above, below = terms(
        {name: part[name].to_numpy() for name in part.columns if part[name].dtype.is_numeric()},
        score,
    )
    number = part["origin_number"].to_numpy()
    sums = [np.bincount(number, weights=values) for values in (above, below)]
    has_one = sums[1] > 0
    return float(np.mean(sums[0][has_one] / sums[1][has_one])) if has_one.any() else None
