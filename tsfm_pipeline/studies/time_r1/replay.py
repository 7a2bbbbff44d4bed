"""Replay: make a recorded run again from its stored configuration, and compare what it comes to.

What belongs here: what must be as it was, what may differ, and the comparison. What does not: the
records (`run_records`), and an experiment that reads a stored configuration (`runs`).
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsfm_pipeline.forecaster.registry import checkpoint_digest
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.steps.making import make
from tsfm_pipeline.studies.time_r1.datasets import MissingDataSetError
from tsfm_pipeline.studies.time_r1.environment import environment, packages, threads
from tsfm_pipeline.studies.time_r1.run_records import (
    Configuration,
    Digests,
    Figure,
    RunError,
    RunRecord,
    RunRecords,
)
from tsfm_pipeline.studies.time_r1.runs import COMPARED, StoredExperiment, digests_of, figures_of
from tsfm_pipeline.studies.time_r1.scope import MISSING, SCOPE
from tsfm_pipeline.studies.time_r1.sources import source_digest
from tsfm_pipeline.studies.time_r1.starts import policy_digest
from tsfm_pipeline.studies.time_r1.tables import EVALUATED, MAKERS, TABLES

Log = Callable[[str], Any]
ACROSS_MACHINES = 1e-4
"""Relative difference of a figure that another machine or another package may bring."""


@dataclass(frozen=True)
class Compared:
    """One digest of the run and of its replay; None where one of them has no such part."""

    part: str
    recorded: str | None
    here: str | None

    @property
    def equal(self) -> bool:
        return self.recorded == self.here


@dataclass(frozen=True)
class Replay:
    """What a replay came to.

    notes: what differs from the recorded run and is allowed to. figure_difference: the largest
    relative difference of a main figure. seconds: how long the replay took.
    """

    record: RunRecord
    notes: tuple[str, ...]
    compared: tuple[Compared, ...]
    figure_difference: float
    seconds: float

    @property
    def equal(self) -> bool:
        """Whether every digest is equal."""
        return all(each.equal for each in self.compared)


def replay(settings: Settings, prefix: str, log: Log = lambda _: None) -> Replay:
    """Make a run again in a temporary data folder, on as many threads, and compare.

    prefix: the beginning of the run's hash. Raises RunError for an unknown or ambiguous hash, and
    where data, base or frozen model are not those of the run.
    """
    begin = time.perf_counter()
    record = RunRecords(settings).find(prefix)
    stored = record.configuration
    require_same(stored, settings)
    notes = differences(record)
    for note in notes:
        log(note)
    with (
        tempfile.TemporaryDirectory(prefix="time-r1-replay-") as folder,
        _on_threads(threads(record.environment)),
    ):
        experiment = StoredExperiment(settings, stored, Path(folder))
        with experiment.tables.lock(experiment.run_id):
            for name in COMPARED:
                own = experiment.settings
                make(SCOPE, experiment, TABLES[name], MAKERS[name], own, log=log)
        compared = compare(record.digests, digests_of(experiment))
        figures = figures_of(experiment.tables.read(EVALUATED))
    return Replay(
        record,
        tuple(notes),
        compared,
        largest_difference(record.figures, figures),
        time.perf_counter() - begin,
    )


def require_same(stored: Configuration, settings: Settings) -> None:
    """Raise RunError, one line for each, if a data set, the weights that training starts from or
    the frozen model are not those of a run.
    """
    wrong = []
    for name, spec in stored.data_sets.items():
        recorded = stored.sources[name]
        if recorded == MISSING:
            continue
        try:
            here = source_digest(spec, settings)
        except MissingDataSetError as error:
            wrong.append(str(error))
            continue
        if here != recorded:
            wrong.append(
                f"data set {name!r} has changed: its fingerprint is {here}, the run's was "
                f"{recorded}; allowed: the data that the run read"
            )
    for what, here, recorded in (
        (f"the base {stored.profile.model}", policy_digest(stored.profile), stored.policy_sha256),
        (
            f"the frozen model {stored.checkpoint}",
            checkpoint_digest(stored.checkpoint),
            stored.checkpoint_sha256,
        ),
    ):
        if here != recorded:
            wrong.append(
                f"{what} has changed: its digest is {here}, the run's was {recorded}; allowed: "
                "the weights that the run began with"
            )
    if wrong:
        raise RunError("\n".join(wrong))


def differences(record: RunRecord) -> list[str]:
    """Return what differs from a run and is allowed to: versions of packages and of tables. Digests
    may differ then, which the comparison shows.
    """
    here, recorded = environment(), packages(record.environment)
    notes: list[str] = []
    for name, version in packages(here).items():
        if recorded.get(name) != version:
            notes.append(
                f"{name} is {version}, the run's was {recorded.get(name, 'unknown')}: allowed, but "
                f"bytes may differ, and figures by {ACROSS_MACHINES:g}"
            )
    for name, recorded_version in record.configuration.table_versions.items():
        if name not in TABLES or TABLES[name].version != recorded_version:
            now = TABLES[name].version if name in TABLES else "gone"
            notes.append(
                f"table {name} has version {now}, the run's was {recorded_version}: allowed, but "
                "its content has another meaning or other values"
            )
    if threads(record.environment) is None:
        notes.append("the run's number of threads is not known: those of this process are used")
    return notes


def compare(recorded: Digests, here: Digests) -> tuple[Compared, ...]:
    """Return every pair of digests: samples, each adapter, metrics."""
    variants = dict.fromkeys((*recorded.adapters, *here.adapters))
    return (
        Compared("samples", recorded.samples, here.samples),
        *(
            Compared(f"adapter {name}", recorded.adapters.get(name), here.adapters.get(name))
            for name in variants
        ),
        Compared("metrics", recorded.metrics, here.metrics),
    )


def largest_difference(recorded: tuple[Figure, ...], here: tuple[Figure, ...]) -> float:
    """Return the largest relative difference of MASE or MAE between the same methods; infinite
    where one of them has a figure that the other one lacks.
    """

    def values(figures: tuple[Figure, ...]) -> dict[tuple[str, ...], float | None]:
        named = {(f.data_set, f.window_set, f.method): f for f in figures}
        return {
            (*key, measure): getattr(figure, measure)
            for key, figure in named.items()
            for measure in ("mase", "mae")
        }

    first, second = values(recorded), values(here)
    largest = 0.0
    for key in first.keys() | second.keys():
        a, b = first.get(key), second.get(key)
        if a == b:
            continue
        if a is None or b is None:
            return float("inf")
        largest = max(largest, abs(a - b) / max(abs(a), abs(b)))
    return largest


@contextmanager
def _on_threads(count: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
