"""What the command line and Dagster both do with a recipe: make its tables and its report.

What belongs here: putting the study's parts together. What does not: arguments and output
(`commands`), assets (`definitions`), the parts themselves.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tsfm_pipeline.settings import Settings
from tsfm_pipeline.steps.making import make
from tsfm_pipeline.studies.time_r1 import methods
from tsfm_pipeline.studies.time_r1.quality import problems_of
from tsfm_pipeline.studies.time_r1.scope import SCOPE, Experiment
from tsfm_pipeline.studies.time_r1.tables import (
    ANSWERS,
    COSTS,
    DRAFTED,
    EVALUATED,
    FACTS,
    GRIP,
    GRPO,
    MAKERS,
    MORE_SFT,
    MORE_SFT_LOSSES,
    PLAIN,
    POLICY,
    RUNS,
    SFT,
    TABLES,
)

if TYPE_CHECKING:
    from tsfm_pipeline.studies.time_r1.report.evidence import Curve, DataSetNote, Evidence
    from tsfm_pipeline.studies.time_r1.report.model import SlowThinkingReport

Log = Callable[[str], Any]


def run_recipe(settings: Settings, name: str, log: Log = lambda _: None) -> Path:
    """Make the tables of a recipe that are missing or stale, its report and its record; return the
    report's page.

    Raises ValueError if there is no such recipe or none of its training data is on this machine,
    and `FleetLockedError` if another process holds it.
    """
    experiment = SCOPE.open(settings, name)
    experiment.prepare(log)
    with experiment.tables.lock(experiment.run_id):
        for table in TABLES.values():
            make(SCOPE, experiment, table, MAKERS[table.name], settings, log=log)
            if table.name == FACTS:
                for problems in problems_of(experiment.tables.read(FACTS)).values():
                    for problem in problems:
                        log(f"check failed: {problem}")
        return finish(experiment)[1]


def evaluation_text(settings: Settings, name: str) -> str:
    """Return the stored evaluation of a recipe as JSON. Raises `StorageError` where it is missing
    or stale.
    """
    from tsfm_pipeline.studies.time_r1.evaluation import evaluation_json

    experiment = SCOPE.open(settings, name)
    recipe = experiment.recipe
    return evaluation_json(experiment.tables.read(EVALUATED), recipe.draws, recipe.seed)


def evaluated_rows(settings: Settings, name: str) -> list[tuple[str, ...]]:
    """Return data set, windows, method, MASE with its interval, and MAE of every method, as they
    are shown. Raises as `evaluation_text` does.
    """
    rows: list[tuple[str, ...]] = []
    for row in SCOPE.open(settings, name).tables.read(EVALUATED).iter_rows(named=True):
        limits = [row[f"mase{end}"] for end in ("", "_low", "_high")]
        mase = "–" if limits[0] is None else f"{limits[0]:.3f}"
        if None not in limits:
            mase += f" ({limits[1]:.3f} to {limits[2]:.3f})"
        shown = (row["data_set"], row["window_set"], row["method"], mase, f"{row['mae']:.4g}")
        rows.append(shown)
    return rows


def finish(experiment: Experiment) -> "tuple[SlowThinkingReport, Path]":
    """Write the report and the record of a recipe whose tables are made; return report and page."""
    from tsfm_pipeline.studies.time_r1.runs import leave_record

    written = report_of(experiment)
    leave_record(experiment)
    return written


def report_of(experiment: Experiment) -> "tuple[SlowThinkingReport, Path]":
    """Compute and write the report of a recipe whose tables are made; return it and the page."""
    from tsfm_pipeline.studies.time_r1.report.numbers import slow_thinking_report_of
    from tsfm_pipeline.studies.time_r1.report.page import write_report

    report = slow_thinking_report_of(_evidence(experiment))
    return report, write_report(experiment.reports_dir, report)


def _evidence(experiment: Experiment) -> "Evidence":
    from tsfm_pipeline.studies.time_r1.making import matrix
    from tsfm_pipeline.studies.time_r1.making_answers import cases
    from tsfm_pipeline.studies.time_r1.report.evidence import (
        Cost,
        Divergence,
        Evidence,
        Parsing,
        Thoughts,
        base_curves,
    )
    from tsfm_pipeline.studies.time_r1.starts import base_curve

    tables, recipe = experiment.tables, experiment.recipe
    headline = next(cases(experiment))
    thoughts = tables.read(ANSWERS).filter(
        data_set=headline.windows.data_set,
        window_set=headline.window_set,
        method=methods.SLOW_THINKING,
    )
    checks = {
        row["name"]: json.loads(row["figures"]) for row in tables.read(POLICY).iter_rows(named=True)
    }
    sft = tables.read(SFT)
    runs = {row["variant"]: row for row in tables.read(RUNS).iter_rows(named=True)}
    costs = tables.read(COSTS).drop("n_requests").iter_rows(named=True)
    return Evidence(
        recipe=recipe,
        profile=experiment.profile,
        n_parameters=int(sft["parameters"][0]),
        n_trained=int(sft["trained"][0]),
        evaluated=tables.read(EVALUATED),
        headline=headline,
        thoughts=Thoughts(matrix(thoughts["refined"]), tuple(thoughts["reason"])),
        base=base_curves(base_curve(experiment.profile)),
        warm_ups=warm_ups(experiment),
        reinforced=reinforced(experiment),
        parsing=Parsing(**checks["parsing"]),
        divergence=Divergence(*(np.array(checks["divergence"][name]) for name in ("exact", "k3"))),
        costs=tuple(Cost(**row, training_cpu_s=runs[GRIP]["cpu_s"]) for row in costs),
        data_sets=data_set_notes(experiment),
        draws=recipe.draws,
        seed=recipe.seed,
    )


def warm_ups(experiment: Experiment) -> "tuple[Curve, ...]":
    from tsfm_pipeline.studies.time_r1.report.evidence import warm_up_curve
    from tsfm_pipeline.studies.time_r1.training import COLUMNS

    tables = experiment.tables
    curves = [
        warm_up_curve(
            row["variant"], COLUMNS, np.array(row["curve"]), json.loads(row["validations"])
        )
        for variant in (PLAIN, DRAFTED)
        for row in tables.read(SFT).filter(variant=variant).iter_rows(named=True)
    ]
    for row in tables.read(RUNS).filter(variant=MORE_SFT).iter_rows(named=True):
        validations = [
            {"step": step, **dict(zip(MORE_SFT_LOSSES, losses, strict=True))}
            for step, losses in zip(row["validated"], row["validation"], strict=True)
        ]
        curves.append(warm_up_curve(MORE_SFT, COLUMNS, np.array(row["curve"]), validations))
    return tuple(curves)


def reinforced(experiment: Experiment) -> "tuple[Curve, ...]":
    from tsfm_pipeline.studies.time_r1.grip_measures import COLUMNS
    from tsfm_pipeline.studies.time_r1.report.evidence import reinforced_curve

    return tuple(
        reinforced_curve(
            row["variant"],
            COLUMNS,
            np.array(row["curve"]),
            row["validated"],
            np.array(row["validation"]),
            row["best_step"],
        )
        for row in experiment.tables.read(RUNS).iter_rows(named=True)
        if row["variant"] in (GRIP, GRPO)
    )


def data_set_notes(experiment: Experiment) -> "tuple[DataSetNote, ...]":
    """Return what the report says about each data set of a recipe whose facts are made."""
    from tsfm_pipeline.studies.time_r1.report.evidence import DataSetNote

    notes = []
    problems = problems_of(experiment.tables.read(FACTS))
    for name, spec in experiment.sets.items():
        roles = [
            role
            for role, names in (
                ("training", experiment.recipe.train),
                ("evaluation", experiment.recipe.evaluate),
            )
            if name in names
        ]
        absent = experiment.missing.get(name, "")
        role = "" if absent else " and ".join(roles)
        found = problems.get(name, ())
        notes.append(DataSetNote(name, spec.title, spec.licence, role, absent, spec.pinned, found))
    return tuple(notes)
