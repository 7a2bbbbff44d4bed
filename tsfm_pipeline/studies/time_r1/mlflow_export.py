"""A copy of a recipe's run for those who read their runs in MLflow.

What belongs here: what is exported, and the local store that it goes to. What does not: the tables
that it is read from (`tables`), and reports (`report`). MLflow is an extra: it is imported only
when a run is exported.
"""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tsfm_pipeline.files import fingerprint
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.time_r1.evaluation_columns import over
from tsfm_pipeline.studies.time_r1.measure_units import MEASURES
from tsfm_pipeline.studies.time_r1.methods import DRAFT, SLOW_THINKING_ONE_PASS
from tsfm_pipeline.studies.time_r1.operations import reinforced, warm_ups
from tsfm_pipeline.studies.time_r1.scope import SCOPE, Experiment
from tsfm_pipeline.studies.time_r1.tables import ADAPTERS, COSTS, EVALUATED, POLICY, RUNS, SFT

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "time_r1"
"""Name of MLflow's experiment; its runs are recipes."""
IDENTITY = "tsfm.identity"
"""Tag by which a run that was exported before is found."""
DECIDED_BY = (SFT, RUNS, ADAPTERS, POLICY, COSTS, EVALUATED)
"""Tables whose fingerprints are the identity of a run."""
FIGURES = (*MEASURES, "gate_rate", over(DRAFT), over(SLOW_THINKING_ONE_PASS))
"""Columns of the evaluation that are exported, each with the limits of its interval."""
MOST_PER_BATCH = 1000
"""Metrics, and 100 parameters, are what MLflow takes in one call."""
MOST_PARAMETERS = 100
MISSING = "MLflow is not installed; install the extra: pip install 'tsfm-pipeline[mlflow]'"


class Point(NamedTuple):
    """One figure of a run; step: updates done, 0 for a figure of the whole run."""

    name: str
    value: float
    step: int


@dataclass(frozen=True)
class RunRecord:
    """What is exported of a run.

    name: of the recipe. identity: equal for equal runs. parameters: of recipe and profile, as text.
    tags: digests of all that the run was made from and of its adapters. points: finite figures.
    """

    name: str
    identity: str
    parameters: Mapping[str, str]
    tags: Mapping[str, str]
    points: tuple[Point, ...]


class Exported(NamedTuple):
    """Where a run lies in MLflow: the database, the run's id, and whether it is new there."""

    store: Path
    run_id: str
    is_new: bool


def store_of(settings: Settings) -> Path:
    """Return the SQLite file that runs are exported to."""
    return settings.output_dir / "mlflow" / "runs.db"


def export(settings: Settings, name: str) -> Exported:
    """Export the run of a recipe, unless the same run was exported before.

    Raises ValueError if MLflow is not installed or there is no such recipe, and `StorageError` if a
    table of the recipe is missing or stale.
    """
    if find_spec("mlflow") is None:
        raise ValueError(MISSING)
    record = record_of(SCOPE.open(settings, name))
    store = store_of(settings)
    store.parent.mkdir(parents=True, exist_ok=True)
    # MLflow tells its makers how it is used unless this is set before it is imported.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient

    address = f"sqlite:///{store}"
    run_id, is_new = _written(MlflowClient(address, address), record, store.parent)
    return Exported(store, run_id, is_new)


def record_of(experiment: Experiment) -> RunRecord:
    """Return what is exported of a recipe's run. Raises `StorageError` if a table that it is read
    from is missing or stale.
    """
    context = experiment.context
    adapters = experiment.tables.read(ADAPTERS).select("variant", "sha256").iter_rows()
    digests = {
        "base": context.policy,
        "frozen_model": context.checkpoint_digest,
        **{f"data.{name}": digest for name, digest in context.sources.items()},
        **{f"adapter.{variant}": digest for variant, digest in adapters},
    }
    options = {
        "recipe": context.recipe.model_dump(mode="json"),
        "profile": context.profile.model_dump(mode="json"),
    }
    return RunRecord(
        experiment.name,
        fingerprint(experiment.name, {t: experiment.tables.expected[t] for t in DECIDED_BY}),
        dict(_flat(options)),
        {f"tsfm.{name}": digest for name, digest in digests.items()},
        tuple(point for point in _points(experiment) if math.isfinite(point.value)),
    )


def _flat(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield names with dots and values as text; a list is one value, as JSON."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)


def _points(experiment: Experiment) -> Iterator[Point]:
    """Yield curves of trainings, and the figures of the whole run; some are NaN."""
    for curve in (*warm_ups(experiment), *reinforced(experiment)):
        for part, steps, columns in (
            ("", curve.steps, curve.columns),
            ("validation/", curve.validation_steps, curve.validations),
        ):
            for name, values in columns.items():
                for step, value in zip(steps.tolist(), values.tolist(), strict=True):
                    yield Point(f"{curve.run}/{part}{name}", value, step)
    for name, value in _finals(experiment):
        yield Point(name, math.nan if value is None else float(value), 0)


def _finals(experiment: Experiment) -> Iterator[tuple[str, float | None]]:
    tables = experiment.tables
    for row in tables.read(RUNS).iter_rows(named=True):
        for name in ("best_step", "n_tokens", "cpu_s"):
            yield f"{row['variant']}/{name}", row[name]
    checks = dict(tables.read(POLICY).select("name", "figures").iter_rows())
    parsing, divergence = (json.loads(checks[name]) for name in ("parsing", "divergence"))
    for mode in ("free", "constrained"):
        sampled = parsing[f"n_{mode}"]
        yield f"policy/readable_{mode}", parsing[f"n_{mode}_read"] / sampled if sampled else None
    for name, values in divergence.items():
        yield f"policy/kl_{name}", float(np.mean(values))
    for row in tables.read(COSTS).iter_rows(named=True):
        for name in ("n_answers", "tokens", "p50_ms", "p95_ms"):
            yield f"request/{row['method']}/{name}", row[name]
    for row in tables.read(EVALUATED).iter_rows(named=True):
        where = f"{row['data_set']}/{row['horizon']}/{row['window_set']}/{row['method']}"
        for figure in FIGURES:
            for end in ("", "_low", "_high"):
                yield f"test/{where}/{figure}{end}", row[f"{figure}{end}"]


def _written(client: "MlflowClient", record: RunRecord, folder: Path) -> tuple[str, bool]:
    """Write a record, and return the run's id and whether it was written now."""
    from mlflow.entities import Metric, Param

    known = client.get_experiment_by_name(EXPERIMENT)
    at = (
        known.experiment_id
        if known is not None
        else client.create_experiment(EXPERIMENT, (folder / "artifacts").as_uri())
    )
    for run in client.search_runs([at], f"tags.`{IDENTITY}` = '{record.identity}'"):
        if run.info.status == "FINISHED":
            return str(run.info.run_id), False
        # An export that was stopped; it is written again from its beginning.
        client.delete_run(run.info.run_id)
    tags = {**record.tags, IDENTITY: record.identity}
    run_id = str(client.create_run(at, tags=tags, run_name=record.name).info.run_id)
    now = int(1000 * time.time())
    parameters = [Param(name, value) for name, value in record.parameters.items()]
    for begin in range(0, len(parameters), MOST_PARAMETERS):
        client.log_batch(run_id, params=parameters[begin : begin + MOST_PARAMETERS])
    metrics = [Metric(point.name, point.value, now, point.step) for point in record.points]
    for begin in range(0, len(metrics), MOST_PER_BATCH):
        client.log_batch(run_id, metrics=metrics[begin : begin + MOST_PER_BATCH])
    client.set_terminated(run_id)
    return run_id, True
