"""The makers of the study's tables.

What belongs here: one function per table, which calls the functions that do the work. What does
not: that work, and which tables there are (`tables`). torch is imported by the makers that need it.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from tsfm_pipeline.catalogue.scopes import schema_of
from tsfm_pipeline.studies.chat import ChatError
from tsfm_pipeline.studies.time_r1.datasets import DataSet
from tsfm_pipeline.studies.time_r1.drafts import Drafts, make_drafts
from tsfm_pipeline.studies.time_r1.quality import drift_problems, facts_of, schema_problems
from tsfm_pipeline.studies.time_r1.raw_values import raw_values
from tsfm_pipeline.studies.time_r1.recipes import RecipeError
from tsfm_pipeline.studies.time_r1.samples import make_samples, usable_rows
from tsfm_pipeline.studies.time_r1.scope import SCOPE, Experiment
from tsfm_pipeline.studies.time_r1.sources import Series
from tsfm_pipeline.studies.time_r1.splits import Part, windows_of
from tsfm_pipeline.studies.time_r1.tables import (
    CANDIDATES,
    DRAFTED,
    FACTS,
    PLAIN,
    SAMPLES,
    TABLES,
)
from tsfm_pipeline.studies.time_r1.teacher import ANSWER, RecordedTeacher, Teacher, teach
from tsfm_pipeline.studies.time_r1.teachers import teacher_of
from tsfm_pipeline.studies.time_r1.windows import Floats, Windows

if TYPE_CHECKING:
    from tsfm_pipeline.forecaster.engine import FrozenForecaster

Row = dict[str, Any]
TRAIN_PARTS: tuple[Part, ...] = ("train", "validation")


def training_windows(experiment: Experiment, name: str, part: Part) -> Windows:
    """Return the windows of a data set that training reads: in the training part they may begin at
    any row, in the validation part no two share a target.
    """
    recipe = experiment.recipe
    if part == "train":
        return experiment.windows(name, part, recipe.train_windows, stride=1)
    return experiment.windows(name, part, recipe.validation_windows)


def data_set_facts(experiment: Experiment) -> pl.DataFrame:
    """Return what is known of every channel of every data set of a recipe."""
    rows: list[Row] = []
    for name, spec in experiment.sets.items():
        known = {"data_set": name, "pinned": spec.pinned, "todo": experiment.missing.get(name, "")}
        if name in experiment.missing:
            rows.append({**known, "is_present": False})
            continue
        series = experiment.series(name)
        problems = [*schema_problems(series, spec), *_drift(experiment, series, spec)]
        rows += [
            {
                **known,
                "is_present": True,
                "channel": facts.channel,
                "n_rows": facts.n_rows,
                "n_missing": facts.n_missing,
                "mean": facts.mean,
                "deviation": facts.deviation,
                "deciles": list(facts.deciles),
                "problems": problems,
            }
            for facts in facts_of(series.values, series.channels)
        ]
    return frame(experiment, FACTS, rows)


def _drift(experiment: Experiment, series: Series, spec: DataSet) -> list[str]:
    """Return what changed from the source, read again in another way, to the series, and to what
    training windows show and ask for. The corpus lies nowhere: only its windows are compared, with
    its series.
    """
    recipe, again = experiment.recipe, raw_values(spec, experiment.settings, series.channels)
    raw = series.values if again is None else again
    problems = [*drift_problems(raw, series.values, series.channels)]
    if not problems:
        windows = windows_of(series, "train", recipe.look_back, recipe.horizon)
        steps = np.arange(1 - recipe.look_back, 1 + recipe.horizon)
        of_channel = np.array(windows.channels)
        for number, channel in enumerate(series.channels):
            own = windows.at(np.flatnonzero(of_channel == channel))
            if len(own):
                shown = np.concatenate([own.history, own.truth], axis=1).reshape(-1, 1)
                rows = (own.origins[:, None] + steps).reshape(-1)
                problems += drift_problems(raw[rows, number, None], shown, (channel,))
    return [f"data set {series.data_set!r}, {problem}" for problem in problems]


def sft_candidates(experiment: Experiment, forecaster: "FrozenForecaster") -> pl.DataFrame:
    """Return every draft of every training and validation window, every answer of a teacher that is
    asked for its own, and the teacher's choice. Raises RecipeError for a teacher that does not
    answer, and as `teacher_of` does.
    """
    teacher = teacher_of(experiment.profile, experiment.recipe)
    frames = []
    for name in experiment.present(experiment.recipe.train):
        for part in TRAIN_PARTS:
            windows = training_windows(experiment, name, part)
            drafts = make_drafts(windows, forecaster, experiment.recipe.contexts)
            usable = usable_rows(windows, drafts)
            windows, drafts = windows.at(usable), drafts.at(usable)
            try:
                joined, choice = teach(teacher, windows, drafts)
            except ChatError as error:
                raise RecipeError(f"{name}: the teacher gave no answer: {error}") from error
            by_candidate = []
            for candidate in joined.names:
                chosen = np.array([taken == candidate for taken in choice.names])
                columns = {
                    "data_set": [name] * len(windows),
                    "part": [part] * len(windows),
                    "channel": list(windows.channels),
                    "origin": windows.origins,
                    "candidate": [candidate] * len(windows),
                    "forecast": joined.values[candidate].tolist(),
                    "backtest": joined.backtests[candidate].tolist(),
                    "chosen": chosen,
                    "mape": [e if c else None for e, c in zip(choice.errors, chosen, strict=True)],
                    "floored": chosen & choice.floored,
                }
                by_candidate.append(frame(experiment, CANDIDATES, columns))
            # Rows of one window stand together, in the order of the drafts.
            row = pl.Series("row", np.tile(np.arange(len(windows)), len(joined.names)))
            of_part = pl.concat(by_candidate).with_columns(row)
            frames.append(of_part.sort("row", maintain_order=True).drop("row"))
    return pl.concat(frames)


def drafted_windows(
    experiment: Experiment, part: Part
) -> Iterator[tuple[str, Windows, Drafts, Teacher]]:
    """Yield each data set to train on with its windows, their drafts and what the teacher offered
    for them, as stored: an endpoint need not be asked twice, nor answer the same again.
    """
    stored = experiment.tables.read(CANDIDATES)
    for name in experiment.present(experiment.recipe.train):
        windows = training_windows(experiment, name, part)
        own = stored.filter(data_set=name, part=part)
        names = own["candidate"].unique(maintain_order=True).to_list()
        by_name = {each: own.filter(candidate=each) for each in names}
        first = by_name[names[0]]
        at = {
            key: row
            for row, key in enumerate(zip(windows.channels, windows.origins.tolist(), strict=True))
        }
        kept = [at[key] for key in first.select("channel", "origin").iter_rows()]
        values = {each: matrix(rows["forecast"]) for each, rows in by_name.items()}
        answers = {each: found for each, found in values.items() if each.startswith(ANSWER)}
        drafts = Drafts(
            values={each: found for each, found in values.items() if each not in answers},
            deciles={},
            backtests={
                each: matrix(rows["backtest"])
                for each, rows in by_name.items()
                if each not in answers
            },
        )
        yield name, windows.at(kept), drafts, RecordedTeacher(answers or drafts.values)


def matrix(lists: pl.Series) -> Floats:
    """Return a column of lists of equal length as an array [rows, length]."""
    return np.array(lists.to_list(), dtype=np.float64)


def sft_samples(experiment: Experiment) -> pl.DataFrame:
    """Return prompts and completions of every variant."""
    profile, frames = experiment.profile, []
    for part, variant in product(TRAIN_PARTS, (PLAIN, DRAFTED)):
        for name, windows, drafts, teacher in drafted_windows(experiment, part):
            samples = make_samples(
                windows,
                drafts,
                teacher,
                experiment.codec,
                profile.prompt,
                with_draft=variant == DRAFTED,
                answer=profile.answer,
                about=experiment.about(name),
            )
            of_samples, n = windows.at(samples.rows), len(samples)
            columns = {
                "variant": [variant] * n,
                "data_set": [name] * n,
                "part": [part] * n,
                "channel": list(of_samples.channels),
                "origin": of_samples.origins,
                "shown": samples.shown or [None] * n,
                "candidate": samples.choice.names,
                "prompt": samples.prompts,
                "thought": samples.thoughts,
                "completion": samples.completions,
            }
            frames.append(frame(experiment, SAMPLES, columns))
    return pl.concat(frames)


def frame(
    experiment: Experiment, table: str, content: Sequence[Row] | Mapping[str, Any]
) -> pl.DataFrame:
    """Return rows, or columns, as a table of the study; columns that a row lacks are null."""
    return pl.DataFrame(content, schema=schema_of(SCOPE, experiment, TABLES[table]), strict=False)
