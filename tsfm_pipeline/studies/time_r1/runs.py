"""Runs: from an experiment whose tables are made to its record, and from a record back to it.

What belongs here: digests and figures of the tables, the hash, and an experiment that reads a
stored configuration instead of files. What does not: where records are kept (`run_records`), and
comparing two runs (`replay`).
"""

import hashlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import polars as pl

from tsfm_pipeline import distribution
from tsfm_pipeline.catalogue.scopes import open_tables
from tsfm_pipeline.files import fingerprint
from tsfm_pipeline.lake import FleetLake
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.time_r1.datasets import DataSet
from tsfm_pipeline.studies.time_r1.environment import packages, together
from tsfm_pipeline.studies.time_r1.evaluation import evaluation_json
from tsfm_pipeline.studies.time_r1.evaluation_columns import over
from tsfm_pipeline.studies.time_r1.methods import DRAFT
from tsfm_pipeline.studies.time_r1.options import Profile, Recipe
from tsfm_pipeline.studies.time_r1.run_records import (
    Configuration,
    Digests,
    Figure,
    RunError,
    RunRecord,
    RunRecords,
)
from tsfm_pipeline.studies.time_r1.scope import MISSING, Experiment
from tsfm_pipeline.studies.time_r1.tables import ADAPTERS, EVALUATED, RECIPE, SAMPLES, TABLES

WEIGHTS = "adapter_model.safetensors"
"""The file of an adapter whose bytes are compared."""


def _with_inputs(names: Iterable[str]) -> tuple[str, ...]:
    needed: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        needed.add(name)
        waiting += TABLES[name].inputs
    return tuple(name for name in TABLES if name in needed)


COMPARED = _with_inputs((SAMPLES, ADAPTERS, EVALUATED))
"""Tables that digests depend on, each after its inputs. Latency is not among them."""


class StoredExperiment(Experiment):
    """A recipe as a run's record has it, whatever its files say now.

    folder: the data folder whose lake holds its tables; data sets and the frozen model are those of
    the settings. Data sets that were missing are missing again.
    """

    def __init__(self, settings: Settings, stored: Configuration, folder: Path) -> None:
        frozen = {"checkpoint": stored.checkpoint, "dtype": stored.dtype}
        super().__init__(settings.model_copy(update=frozen), stored.recipe.name)
        self.stored, self.folder = stored, folder

    @cached_property
    def recipe(self) -> Recipe:
        return self.stored.recipe

    @cached_property
    def profile(self) -> Profile:
        return self.stored.profile

    @cached_property
    def sets(self) -> dict[str, DataSet]:
        return self.stored.data_sets

    @cached_property
    def missing(self) -> dict[str, str]:
        absent = (name for name, source in self.stored.sources.items() if source == MISSING)
        return {name: f"data set {name!r} was missing when the run was recorded" for name in absent}

    @cached_property
    def tables(self) -> FleetLake:
        place = self.settings.model_copy(update={"data_dir": self.folder})
        return open_tables(place, RECIPE, self.name, TABLES, self.context)


def record_of(experiment: Experiment) -> RunRecord:
    """Return the record of an experiment whose tables are made. Raises `StorageError` where one is
    missing or stale.
    """
    context, tables = experiment.context, experiment.tables
    prints = {name: tables.expected[name] for name in COMPARED}
    environment = together(tables.record(name).get("environment", {}) for name in COMPARED)
    return RunRecord(
        hash=fingerprint(prints, packages(environment)),
        commit=distribution.commit() or distribution.UNKNOWN,
        configuration=Configuration(
            recipe=context.recipe,
            profile=context.profile,
            data_sets=experiment.sets,
            sources=dict(context.sources),
            checkpoint=experiment.settings.checkpoint,
            checkpoint_sha256=context.checkpoint_digest,
            dtype=experiment.settings.dtype,
            policy_sha256=context.policy,
            table_versions={name: TABLES[name].version for name in COMPARED},
            fingerprints=prints,
        ),
        environment=environment,
        digests=digests_of(experiment),
        figures=figures_of(tables.read(EVALUATED)),
    )


def leave_record(experiment: Experiment) -> RunRecord:
    """Record a finished run, unless it is recorded already; return its record."""
    record = record_of(experiment)
    RunRecords(experiment.settings).add(record)
    return record


def digests_of(experiment: Experiment) -> Digests:
    """Return the digests of samples, adapters and metrics as they stand in the tables."""
    tables, recipe = experiment.tables, experiment.recipe
    metrics = evaluation_json(tables.read(EVALUATED), recipe.draws, recipe.seed)
    return Digests(
        samples=_sha256(tables.read(SAMPLES).write_ndjson().encode()),
        adapters=adapter_digests(tables.read(ADAPTERS)),
        metrics=_sha256(metrics.encode()),
    )


def recorded_adapters(experiment: StoredExperiment, record: RunRecord) -> pl.DataFrame:
    """Return the rows of `grip_adapter` of a recorded run. Raises RunError where they are not in
    the lake any more.
    """
    adapters = experiment.tables.read(ADAPTERS)
    if adapter_digests(adapters) != record.digests.adapters:
        raise RunError(
            f"the adapters in {experiment.tables.path} are not those of run {record.hash}; run the "
            f"recipe {experiment.name!r} again, which leaves a record of its own"
        )
    return adapters


def adapter_digests(adapters: pl.DataFrame) -> dict[str, str]:
    """Return the SHA-256 of the weights of each adapter, by variant; adapters: rows of
    `grip_adapter`.
    """
    found = {}
    for row in adapters.iter_rows(named=True):
        content = {file["name"]: file["content"] for file in row["files"]}
        found[row["variant"]] = _sha256(content[WEIGHTS])
    return found


def figures_of(evaluated: pl.DataFrame) -> tuple[Figure, ...]:
    """Return the main figures of every method; evaluated: rows of `slow_thinking_evaluation`."""
    ratio = over(DRAFT)
    columns = {"over_draft": ratio, "low": f"{ratio}_low", "high": f"{ratio}_high"}
    same = ("data_set", "window_set", "method", "mase", "mae")
    return tuple(
        Figure(**{name: row[name] for name in same}, **{k: row[v] for k, v in columns.items()})
        for row in evaluated.iter_rows(named=True)
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
