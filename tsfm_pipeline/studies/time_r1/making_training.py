"""The makers of the tables of training: adapters by samples, by GRIP, and by its rivals.

What belongs here: one function per table, and adapters as rows of tables. What does not: the loops
(`warm_up`, `grip_loop`), the other tables (`making`, `making_answers`), and which tables there are
(`tables`).

A training that is stopped goes on from its folder (`Experiment.work_dir`), which is removed once
its table's rows are complete.
"""

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch

from tsfm_pipeline.studies.time_r1.adapters import ADAPTER_FILE, load_adapter, merged
from tsfm_pipeline.studies.time_r1.grip_loop import GripResult, train_grip
from tsfm_pipeline.studies.time_r1.grip_measures import COLUMNS
from tsfm_pipeline.studies.time_r1.grip_task import GripTask
from tsfm_pipeline.studies.time_r1.making import Row, drafted_windows, frame
from tsfm_pipeline.studies.time_r1.options import GripOptions
from tsfm_pipeline.studies.time_r1.output_filter import output_filter_of
from tsfm_pipeline.studies.time_r1.policy import LanguagePolicy
from tsfm_pipeline.studies.time_r1.questions import Questions, questions_of
from tsfm_pipeline.studies.time_r1.scope import Experiment
from tsfm_pipeline.studies.time_r1.splits import Part
from tsfm_pipeline.studies.time_r1.starts import starting_policy
from tsfm_pipeline.studies.time_r1.tables import (
    ADAPTERS,
    DRAFTED,
    GRIP,
    GRPO,
    MORE_SFT,
    MORE_SFT_LOSSES,
    PLAIN,
    RUNS,
    SAMPLES,
    SFT,
)
from tsfm_pipeline.studies.time_r1.tokenizer import number_ids
from tsfm_pipeline.studies.time_r1.warm_up import WarmUpResult, warm_up

FILES = ("adapter_model.safetensors", "adapter_config.json", "config.json")
"""Of a stored adapter."""
UPDATE_COST = 3
"""Tokens of a forward pass that one token of an update costs: the backward pass is twice as dear
(Kaplan et al., 2020)."""


class Texts(NamedTuple):
    """Pairs of texts for `warm_up`."""

    prompts: Sequence[str]
    completions: Sequence[str]


def sft_adapter(experiment: Experiment) -> pl.DataFrame:
    """Train the policy on the samples of each variant; return its adapters."""
    rows = []
    for variant in (PLAIN, DRAFTED):
        folder = _work(experiment, SFT, variant)
        # A policy that is kept longer than its training would be in memory beside the next one.
        result = _warmed_up(experiment, starting_policy(experiment.profile), variant, folder)[1]
        rows.append(
            {
                "variant": variant,
                "files": stored(folder),
                "curve": result.history.tolist(),
                "validations": _json(result.validations),
                "format_loss": result.format_loss,
                "best_step": result.best_step,
                "stopped_early": result.stopped_early,
                "trained": result.counts.trained,
                "parameters": result.counts.total,
            }
        )
    _remove(experiment, SFT)
    return frame(experiment, SFT, rows)


def _warmed_up(
    experiment: Experiment,
    policy: LanguagePolicy,
    variant: str,
    folder: Path,
    steps: int | None = None,
) -> tuple[LanguagePolicy, WarmUpResult]:
    profile = experiment.profile
    return warm_up(
        policy,
        _texts(experiment, variant, "train"),
        _texts(experiment, variant, "validation"),
        number_ids() if profile.codec == "number" else range(0),
        profile.lora,
        profile.warm_up,
        folder,
        experiment.recipe.seed,
        torch.get_num_threads(),
        steps,
    )


def _texts(experiment: Experiment, variant: str, part: Part) -> Texts:
    rows = experiment.tables.read(SAMPLES).filter(variant=variant, part=part)
    return Texts(rows["prompt"].to_list(), rows["completion"].to_list())


def grip_run(experiment: Experiment) -> pl.DataFrame:
    """Train the policy that corrects drafts by GRIP, by GRPO, and by more of its samples."""
    sft = experiment.tables.read(SFT)
    options = experiment.profile.grip
    rollouts = options.group * options.oversampling
    plain_group = {"group": rollouts, "oversampling": 1, "sampling": "all", "weights": "uniform"}
    rows = []
    for variant, of_variant in ((GRIP, options), (GRPO, options.model_copy(update=plain_group))):
        folder = _work(experiment, RUNS, variant)
        rows.append(_reinforced(experiment, sft, variant, of_variant, folder))
    folder = _work(experiment, RUNS, MORE_SFT)
    rows.append(_more(experiment, sft, rows[0]["n_tokens"], folder))
    _remove(experiment, RUNS)
    return frame(experiment, RUNS, rows)


def _reinforced(
    experiment: Experiment, sft: pl.DataFrame, variant: str, options: GripOptions, folder: Path
) -> Row:
    profile, recipe = experiment.profile, experiment.recipe
    task = GripTask(
        train=asked(experiment, "train"),
        validation=asked(experiment, "validation"),
        lora=profile.lora,
        options=options,
        reward=recipe.reward,
        output_filter=output_filter_of(profile.codec),
        seed=recipe.seed,
        max_new_tokens=profile.thinking.max_new_tokens,
    )
    policy = supervised(experiment, sft, DRAFTED)
    lengths = [len(policy.tokenizer(q)["input_ids"]) for each in task.train for q in each.prompts]
    _, result = train_grip(policy, task, folder, threads=torch.get_num_threads())
    return {
        "variant": variant,
        "curve": result.history.tolist(),
        "validated": list(result.validated),
        "validation": result.validation.tolist(),
        "best_step": result.best_step,
        "n_tokens": _tokens(result, options, float(np.mean(lengths))),
        "files": stored(folder),
        "cpu_s": float(result.seconds.sum()),
    }


def _tokens(result: GripResult, options: GripOptions, prompt: float) -> int:
    """Return the tokens of forward passes that a run cost: each completion is sampled once, and
    each kept one is read by the reference and learnt from. A prompt is read once per question.
    """
    completions = result.history[:, COLUMNS.index("tokens")]
    sampled = options.group * options.oversampling * completions + prompt
    kept = options.group * completions + prompt
    per_question = sampled + kept * (1 + UPDATE_COST * options.updates)
    return round(float(options.questions * per_question.sum()))


def _more(experiment: Experiment, sft: pl.DataFrame, n_tokens: int, folder: Path) -> Row:
    """Go on with supervised training for as many tokens as GRIP cost, to within half an update of
    an average batch; for one update where GRIP cost less.
    """
    policy = supervised(experiment, sft, DRAFTED)
    texts = _texts(experiment, DRAFTED, "train")
    encoded = policy.tokenizer([" ".join(pair) for pair in zip(*texts, strict=True)])["input_ids"]
    per_epoch = math.ceil(len(encoded) / experiment.profile.warm_up.batch)
    per_step = UPDATE_COST * sum(map(len, encoded)) / per_epoch
    steps = max(1, round(n_tokens / per_step))
    _, result = _warmed_up(experiment, policy, DRAFTED, folder, steps)
    losses = [[each.get(name, math.nan) for name in MORE_SFT_LOSSES] for each in result.validations]
    return {
        "variant": MORE_SFT,
        "curve": result.history.tolist(),
        "validated": [int(each["step"]) for each in result.validations],
        "validation": losses,
        "best_step": result.best_step,
        "n_tokens": round(len(result.history) * per_step),
        "files": stored(folder),
        "cpu_s": None,
    }


def grip_adapter(experiment: Experiment) -> pl.DataFrame:
    """Return every adapter that the study ends with, and what it was trained after."""
    rows = []
    for table, follows in ((SFT, ""), (RUNS, DRAFTED)):
        for row in experiment.tables.read(table).iter_rows(named=True):
            content = {file["name"]: file["content"] for file in row["files"]}
            digest = hashlib.sha256(content[ADAPTER_FILE]).hexdigest()
            known = {"variant": row["variant"], "follows": follows, "sha256": digest}
            rows.append({**known, "files": row["files"]})
    return frame(experiment, ADAPTERS, rows)


def asked(experiment: Experiment, part: Part) -> tuple[Questions, ...]:
    """Return the questions of each data set to train on: with a draft, and a given reason."""
    return tuple(
        questions_of(
            windows, drafts, experiment.codec, experiment.profile.prompt, experiment.about(name)
        )
        for name, windows, drafts, _ in drafted_windows(experiment, part)
    )


def supervised(experiment: Experiment, adapters: pl.DataFrame, variant: str) -> LanguagePolicy:
    """Return the policy after supervised training, its adapter merged.

    adapters: rows with `variant` and `files`.
    """
    return with_files(starting_policy(experiment.profile), _files_of(adapters, variant))


def trained(experiment: Experiment, adapters: pl.DataFrame, variant: str) -> LanguagePolicy:
    """Return the policy of any variant, adapters merged; adapters: rows of `grip_adapter`."""
    follows = adapters.filter(variant=variant)["follows"][0]
    policy = (
        trained(experiment, adapters, follows) if follows else starting_policy(experiment.profile)
    )
    return with_files(policy, _files_of(adapters, variant))


def with_files(policy: LanguagePolicy, files: Sequence[Mapping[str, Any]]) -> LanguagePolicy:
    """Return a policy with a stored adapter merged into it; the given one must not be used."""
    with tempfile.TemporaryDirectory(prefix="time-r1-") as name:
        folder = Path(name)
        for file in files:
            (folder / file["name"]).write_bytes(file["content"])
        return merged(load_adapter(policy, folder, trainable=False))


def _files_of(adapters: pl.DataFrame, variant: str) -> list[dict[str, Any]]:
    return list(adapters.filter(variant=variant)["files"][0])


def stored(folder: Path) -> list[dict[str, Any]]:
    """Return the files of an adapter's folder as they stand in tables."""
    return [{"name": name, "content": (folder / name).read_bytes()} for name in FILES]


def _work(experiment: Experiment, table: str, variant: str) -> Path:
    """Return the folder of one training, made if it is not there."""
    folder = experiment.work_dir(table) / variant
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _remove(experiment: Experiment, table: str) -> None:
    shutil.rmtree(experiment.work_dir(table), ignore_errors=True)


def _json(rows: Sequence[Mapping[str, float]]) -> str:
    finite = [{k: v if math.isfinite(v) else None for k, v in row.items()} for row in rows]
    return json.dumps(finite)
