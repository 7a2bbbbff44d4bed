"""Promotion: whether a candidate may take the place of the shipped policy.

What belongs here: the gate, the windows it is judged on, and the record of every verdict. What does
not: writing and loading checkpoints (`checkpoints`), and slow thinking itself (`slow_thinking`).

The gate reads validation windows only, so that no test window chooses anything. The same windows
chose the step at which a training ended, where the data set was trained on: what they say of it is
somewhat too good, and the study's evaluation on test windows is the figure to quote.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict

from tsfm_pipeline.catalogue.records import RecordTable, held
from tsfm_pipeline.evaluation.statistics import two_way_bootstrap_ratios
from tsfm_pipeline.forecaster.registry import StagedCheckpoint
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.time_r1.checkpoints import asked_with, find_staged, restate
from tsfm_pipeline.studies.time_r1.measures import scaled_error
from tsfm_pipeline.studies.time_r1.run_records import FOLDER, LOCK_FILE, RunError, RunRecords
from tsfm_pipeline.studies.time_r1.windows import Floats, Windows

if TYPE_CHECKING:
    from tsfm_pipeline.studies.time_r1.runs import StoredExperiment

SCHEMA: dict[str, Any] = {
    "time": pl.Datetime("us", "UTC"),
    "checkpoint": pl.String,
    "sha256": pl.String,
    "hash": pl.String,
    "promoted": pl.Boolean,
    "reasons": pl.String,
    "ratio": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n_windows": pl.Int64,
    "by_data_set": pl.String,
}
"""Columns of the record table `promotions`, one row per verdict. hash: of the run. reasons: one per
line. by_data_set: `Verdict.by_data_set` as JSON."""
Log = Callable[[str], Any]


@dataclass(frozen=True)
class HeldOut:
    """N validation windows of one data set, and what was forecast for them.

    scale: what MASE divides by, of each window [N], NaN where its channel has none. draft,
    forecast: of slow thinking, float64 [N, H], finite.
    """

    windows: Windows
    scale: Floats
    draft: Floats
    forecast: Floats


class Gain(BaseModel):
    """MASE of slow thinking over that of its draft on the same windows, with its two-way 95 %
    interval over channels and origins; None where there is no figure. Below 1 is better.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_windows: int
    ratio: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.ratio is None:
            return f"no figure on {self.n_windows} windows"
        if self.low is None or self.high is None:
            return f"{self.ratio:.4f} without an interval on {self.n_windows} windows"
        return f"{self.ratio:.4f} ({self.low:.4f} to {self.high:.4f}) on {self.n_windows} windows"


class Verdict(BaseModel):
    """What the gate found. reasons: why a checkpoint is refused; empty for a promoted one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gain: Gain
    by_data_set: dict[str, Gain]
    reasons: tuple[str, ...]

    @property
    def promoted(self) -> bool:
        """Whether the checkpoint is promoted."""
        return not self.reasons


def judge(held_out: Sequence[HeldOut], draws: int, seed: int) -> Verdict:
    """Return the verdict on a policy by its forecasts of validation windows.

    It passes if the ratio of all windows lies below 1 and its upper limit is at most 1, and if no
    data set shows harm (a lower limit above 1). draws, seed: of the bootstrap.
    """
    gains = {each.windows.data_set: _gain([each], draws, seed) for each in held_out}
    gain = _gain(held_out, draws, seed)
    reasons = []
    if gain.ratio is None or gain.high is None or gain.ratio >= 1 or gain.high > 1:
        reasons.append(
            f"MASE of slow thinking over that of its draft is {gain}; allowed: below 1 with an "
            "upper limit of at most 1"
        )
    for name, of_set in gains.items():
        if of_set.low is not None and of_set.low > 1:
            reasons.append(
                f"on {name} it is {of_set}, which is harm; allowed: a lower limit of at most 1"
            )
    return Verdict(gain=gain, by_data_set=gains, reasons=tuple(reasons))


def promote(settings: Settings, name: str, log: Log = lambda _: None) -> Verdict:
    """Judge a checkpoint by validation windows of the data sets that its recipe evaluates, record
    the verdict, and promote it if it passes. The checkpoint that was promoted last is in use, so
    that promoting an earlier one again goes back to it.

    Raises RunError for an unknown checkpoint or run, and where data, base or frozen model are not
    those of the run; CheckpointError for a checkpoint that was altered.
    """
    from tsfm_pipeline.studies.time_r1.replay import require_same
    from tsfm_pipeline.studies.time_r1.runs import StoredExperiment

    checkpoint = find_staged(settings, name)
    stored = RunRecords(settings).find(checkpoint.config["run"]["hash"]).configuration
    require_same(stored, settings)
    experiment = StoredExperiment(settings, stored, settings.data_dir)
    held_out = held_out_of(experiment, checkpoint, log)
    return decide(settings, checkpoint, judge(held_out, stored.recipe.draws, stored.recipe.seed))


def decide(settings: Settings, checkpoint: StagedCheckpoint, verdict: Verdict) -> Verdict:
    """Record a verdict on a checkpoint, and change its stage if it passed. The record comes first,
    so that no checkpoint is promoted without one.
    """
    now, gain = datetime.now(UTC), verdict.gain
    folder = settings.records_dir / FOLDER
    row = {
        "time": now,
        "checkpoint": checkpoint.name,
        "sha256": checkpoint.sha256,
        "hash": checkpoint.config["run"]["hash"],
        "promoted": verdict.promoted,
        "reasons": "\n".join(verdict.reasons),
        **gain.model_dump(),
        "by_data_set": json.dumps({k: v.model_dump() for k, v in verdict.by_data_set.items()}),
    }
    with held(folder / LOCK_FILE):
        _records(settings).append(pl.DataFrame([row], schema=SCHEMA))
        if verdict.promoted:
            stage = {"stage": "promoted", "promoted_at": now.isoformat(), "gate": gain.model_dump()}
            restate(checkpoint, stage)
    return verdict


def verdicts(settings: Settings) -> pl.DataFrame:
    """Return every verdict, oldest first (`SCHEMA`)."""
    return _records(settings).read()


def held_out_of(
    experiment: "StoredExperiment", checkpoint: StagedCheckpoint, log: Log = lambda _: None
) -> list[HeldOut]:
    """Return the validation windows of every data set that the recipe evaluates and that was there,
    with what slow thinking of a checkpoint forecasts for them. Raises RunError if none was there.
    """
    from tsfm_pipeline.catalogue.shards import model_of
    from tsfm_pipeline.studies.time_r1.asking import Asker
    from tsfm_pipeline.studies.time_r1.own_policy import load_policy
    from tsfm_pipeline.studies.time_r1.slow_thinking import think
    from tsfm_pipeline.studies.time_r1.splits import scales_of

    recipe, asked = experiment.recipe, asked_with(checkpoint)
    names = experiment.present(recipe.evaluate)
    if not names:
        raise RunError(
            f"none of {', '.join(recipe.evaluate)} was there when the run was recorded: there is "
            "nothing to judge on"
        )
    policy, forecaster = load_policy(checkpoint.folder), model_of(experiment.settings)
    found = []
    for name in names:
        windows = experiment.windows(name, "validation", recipe.validation_windows)
        asker = Asker(
            policy,
            experiment.codec,
            asked.prompt,
            asked.thinking,
            recipe.seed,
            experiment.about(name),
        )
        log(f"{name}: {len(windows)} validation windows")
        thought = think(asker, windows, forecaster, asked.contexts)
        scale = scales_of(experiment.series(name), windows)
        found.append(HeldOut(windows, scale, thought.draft, thought.forecast))
    return found


def _gain(held_out: Sequence[HeldOut], draws: int, seed: int) -> Gain:
    """Return the gain on the windows of one or more data sets."""
    above, below = (
        np.concatenate([np.nan_to_num(errors) for errors in of_each])
        for of_each in (
            [scaled_error(each.windows.truth, each.forecast, each.scale) for each in held_out],
            [scaled_error(each.windows.truth, each.draft, each.scale) for each in held_out],
        )
    )
    channels = [
        f"{each.windows.data_set}/{channel}"
        for each in held_out
        for channel in each.windows.channels
    ]
    origins = np.concatenate([each.windows.origins for each in held_out])
    ((ratio, low, high),) = two_way_bootstrap_ratios(
        [above], [below], np.array(channels), origins, draws, seed
    ).tolist()
    return Gain(n_windows=len(channels), ratio=_finite(ratio), low=_finite(low), high=_finite(high))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _records(settings: Settings) -> RecordTable:
    return RecordTable(settings.records_dir / FOLDER / "promotions", SCHEMA)
