"""Base training: the own policy before it has seen any sample, trained on the synthetic corpus.

What belongs here: what is written of corpus windows, the loop, and the folder of the checkpoint.
What does not: the windows and their drafts (`corpus_windows`), one update (`training`), and the
text of the card (`base_card`).

A sequence is a prompt of the own template, with or without a draft, a reason from the history, and
the truth as the answer. Besides the completion, the numbers of the prompt are learnt with a small
weight: each value from those before it and from the draft, where one stands before the look-back.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from tsfm_pipeline.files import fingerprint
from tsfm_pipeline.pretraining import corpus3
from tsfm_pipeline.pretraining.corpus import PoolShape
from tsfm_pipeline.pretraining.heldout import HELD_OUT_SEED
from tsfm_pipeline.pretraining.train import StopSignals
from tsfm_pipeline.pretraining.trainer import one_thread_each
from tsfm_pipeline.studies.time_r1.answers import completion
from tsfm_pipeline.studies.time_r1.base_card import write_card
from tsfm_pipeline.studies.time_r1.codecs import NumberCodec
from tsfm_pipeline.studies.time_r1.corpus_windows import (
    DraftedWindows,
    LinearMap,
    corpus_pool,
    cut_windows,
    fit_linear_map,
    with_drafts,
)
from tsfm_pipeline.studies.time_r1.frames import frames_of
from tsfm_pipeline.studies.time_r1.own_policy import (
    OwnShape,
    new_policy,
    save_policy,
    vocabulary_digest,
)
from tsfm_pipeline.studies.time_r1.prompts import About, render
from tsfm_pipeline.studies.time_r1.samples import thoughts_of
from tsfm_pipeline.studies.time_r1.sequences import Batch, Part, Sequences, encode, epoch_rows
from tsfm_pipeline.studies.time_r1.teacher import Bools
from tsfm_pipeline.studies.time_r1.tokenizer import number_ids, own_tokenizer
from tsfm_pipeline.studies.time_r1.training import Objective, Schedule, Training, UpdateOptions
from tsfm_pipeline.studies.time_r1.vocabulary import CHANNEL_KINDS
from tsfm_pipeline.studies.time_r1.windows import Floats, Ints

STATE_FILE = "state.safetensors"
OWN_TEMPLATE = "own"
_BLOCK_BATCHES = 16
"""Batches that are written at once: grouping windows by season costs little per window then."""
_POOL = PoolShape(blocks=8, block_series=64, renew_every=1)
_FIT_BLOCK, _FIT_SERIES, _FIT_LENGTH = 2**20, 256, 4096
_HELD_OUT_WINDOWS = 128
_SAVE_EVERY, _VALIDATE_EVERY = 100, 500
"""Steps: a killed run loses a minute or two."""
_ABOUT = About(channels={kind: kind for kind in CHANNEL_KINDS})


class BaseOptions(BaseModel):
    """All that decides the weights of the base, but for the length of a run with a budget."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0)
    shape: OwnShape = OwnShape()
    steps: int | None = Field(None, ge=1, description="updates; None: the budget decides")
    batch: int = Field(16, ge=1, description="sequences per update")
    look_back: int = Field(96, ge=96, description="steps shown: two of the longest season")
    horizons: dict[int, float] = Field(
        {24: 0.8, 96: 0.2}, min_length=1, description="steps asked for, and the share of windows"
    )
    draft_share: float = Field(0.6, ge=0, le=1, description="share of prompts that show a draft")
    learning_rate: float = Field(2e-3, gt=0)
    warm_up_steps: int = Field(100, ge=0)
    decay: float = Field(0.25, gt=0, lt=1, description="last share of the steps, to a rate of 0")
    weight_decay: float = Field(0.01, ge=0)
    history_weight: float = Field(0.3, ge=0, description="of a number in the prompt; 1: an answer")
    number_smoothing: float = Field(1.0, ge=0, description="as in WarmUpOptions")


@dataclass(frozen=True)
class BaseResult:
    """Where a run stands.

    finished: whether its checkpoint is written. steps: of the whole run; None while its length is
    open. cpu_s: processor time of all updates. tokens: read in all of them. held_out: by the kind
    of prompt, then by part, mean negative log likelihoods in nats per token on windows of blocks
    that no run trains on; empty where the run is not finished. curve: the same during the run, by
    step.
    """

    finished: bool
    step: int
    steps: int | None
    cpu_s: float
    tokens: int
    held_out: dict[str, dict[str, float]]
    curve: dict[int, dict[str, dict[str, float]]]


def train_base(
    folder: Path, options: BaseOptions, budget_s: float | None = None, threads: int = 1
) -> BaseResult:
    """Train the base, or go on with its training, and write its checkpoint into `folder`.

    budget_s: seconds of processor time, of all calls for this folder together. Without
    `options.steps`, it decides the length: the rate begins to fall when the share of it is spent
    that is not `decay`, and the card states the steps that give the same bytes again. With them, it
    ends this call early; the next call goes on. So does a call after SIGTERM, SIGINT or a kill.

    Raises ValueError if neither length nor budget is given, and if the folder holds the state of a
    run with other options.
    """
    if options.steps is None and budget_s is None:
        raise ValueError("give options.steps or budget_s: one of them must end the run")
    policy = new_policy(options.seed, options.shape)
    numbers = number_ids()
    weights = {Part.TEMPLATE: 1.0, Part.THINK: 1.0, Part.NUMBER: 1.0}
    weights[Part.HISTORY] = options.history_weight
    run = Training(
        policy.plain,
        Objective(numbers, options.number_smoothing, weights=weights),
        UpdateOptions(
            Schedule(options.learning_rate, options.warm_up_steps, "trapezoid", options.decay),
            options.weight_decay,
        ),
        fingerprint(options.model_dump(), vocabulary_digest()),
        options.steps,
        threads,
    )
    state = folder / STATE_FILE
    if state.exists():
        run.resume(state)
    batches = CorpusBatches(options)
    with StopSignals() as stop:
        while run.steps is None or run.step < run.steps:
            spent = budget_s is not None and run.cpu_s >= budget_s
            if stop.received or (spent and options.steps is not None):
                run.save(state)
                return _result(run, finished=False, held_out={})
            if run.steps is None and budget_s is not None:
                run.steps = _length(run.step, run.cpu_s, budget_s, options.decay)
            run.update(batches)
            if run.step % _VALIDATE_EVERY == 0:
                run.notes[str(run.step)] = _measured(run, batches.held_out)
            if run.step % _SAVE_EVERY == 0:
                run.save(state)
    measured = _measured(run, batches.held_out)
    run.save(state)
    result = _result(run, finished=True, held_out=measured)
    facts = {
        "name": folder.name,
        "licence": "Apache-2.0",
        "trained_on": "synthetic corpus 3",
        "options": {**options.model_dump(mode="json"), "steps": run.step},
        "held_out": measured,
        "curve": {
            str(step): losses for step, losses in {**result.curve, run.step: measured}.items()
        },
    }
    digest = save_policy(policy, folder, facts)
    write_card(folder, options.model_dump(mode="json"), result, digest, run.history)
    return result


def _length(step: int, cpu_s: float, budget_s: float, decay: float) -> int | None:
    """Return the steps of a run whose rate begins to fall now, None while it is too early."""
    if cpu_s < (1 - decay) * budget_s:
        return None
    steps = step + 1
    while steps - max(1, round(steps * decay)) < step:
        steps += 1
    return steps


def _result(run: Training, *, finished: bool, held_out: dict[str, dict[str, float]]) -> BaseResult:
    curve = {int(step): losses for step, losses in run.notes.items()}
    return BaseResult(finished, run.step, run.steps, run.cpu_s, run.tokens, held_out, curve)


def _measured(run: Training, held_out: dict[str, list[Batch]]) -> dict[str, dict[str, float]]:
    return {name: run.evaluate(batches) for name, batches in held_out.items()}


class CorpusBatches:
    """The batches of a run, a function of its options and the step alone.

    held_out: batches by the kind of prompt, of blocks that no run trains on.
    """

    def __init__(self, options: BaseOptions) -> None:
        self.options = options
        self._pool = corpus_pool(options.seed, _POOL)
        # One block is written while the one before it is learnt from.
        self._executor = ThreadPoolExecutor(1, initializer=one_thread_each)
        self._linear = self._executor.submit(self._fit).result()
        self._ahead: dict[int, Future[tuple[Sequences, list[Ints]]]] = {}
        self.held_out = self._executor.submit(self._held_out).result()

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step. Steps must be asked for in order."""
        block, at = divmod(step, _BLOCK_BATCHES)
        for number in (block, block + 1):
            if number not in self._ahead:
                self._ahead[number] = self._executor.submit(self._block, number)
        self._ahead.pop(block - 1, None)
        sequences, rows = self._ahead[block].result()
        return sequences.batch(rows[at])

    def _block(self, number: int) -> tuple[Sequences, list[Ints]]:
        options = self.options
        n = options.batch * _BLOCK_BATCHES
        series = self._pool.at(number)
        sequences = self._written(series, options.seed, number, n, options.draft_share)
        return sequences, epoch_rows(sequences.lengths, options.batch, options.seed, number)

    def _written(
        self, series: Tensor, seed: int, number: int, n: int, draft_share: float
    ) -> Sequences:
        """Return n sequences of all horizons."""
        rng = np.random.default_rng([seed, number, 4])
        shares = np.cumsum(list(self.options.horizons.values()))
        ends = np.round(n * shares / shares[-1]).astype(int)
        texts: list[tuple[str, str]] = []
        for i, horizon in enumerate(self.options.horizons):
            count = int(ends[i] - (ends[i - 1] if i else 0))
            # Each horizon has a stream of windows of its own.
            stream = number * len(ends) + i
            if not count:
                continue
            for windows in cut_windows(
                series, seed, stream, count, self.options.look_back, horizon
            ):
                drafted = with_drafts(windows, self._linear[horizon], rng)
                texts += written(drafted, rng.random(len(windows)) < draft_share)
        prompts, completions = zip(*texts, strict=True)
        return encode(own_tokenizer(), prompts, completions, number_ids())

    def _fit(self) -> dict[int, LinearMap]:
        seed, look_back = self.options.seed, self.options.look_back
        series = corpus3.generate_block(
            seed, _FIT_BLOCK, _FIT_SERIES, torch.device("cpu"), _FIT_LENGTH
        )
        return {h: fit_linear_map(series, seed, look_back, h) for h in self.options.horizons}

    def _held_out(self) -> dict[str, list[Batch]]:
        series = corpus3.generate_block(
            HELD_OUT_SEED, 0, _FIT_SERIES, torch.device("cpu"), _FIT_LENGTH
        )
        sets = {}
        for name, draft_share in (("with a draft", 1.0), ("without", 0.0)):
            sequences = self._written(series, HELD_OUT_SEED, 0, _HELD_OUT_WINDOWS, draft_share)
            rows = epoch_rows(sequences.lengths, self.options.batch, HELD_OUT_SEED, 0)
            sets[name] = [sequences.batch(some) for some in rows]
        return sets


def written(drafted: DraftedWindows, shows: Bools) -> list[tuple[str, str]]:
    """Return prompt and completion of each window, in any order; shows: bool [N], whether the
    prompt shows its draft.
    """
    codec = NumberCodec()
    windows, drafts, chosen = drafted.windows, drafted.drafts, drafted.chosen
    thoughts = thoughts_of(windows, drafts, chosen, codec)
    draft = drafts.taken(chosen)
    texts: list[tuple[str, str]] = []
    for rows, shown in ((np.flatnonzero(shows), True), (np.flatnonzero(~shows), False)):
        if not len(rows):
            continue
        some = windows.at(rows)
        given: Floats | None = draft[rows] if shown else None
        frames = frames_of(some, given)
        prompts = render(some, frames, codec, OWN_TEMPLATE, given, _ABOUT)
        words = codec.write_answer(some.truth, frames)
        completions = (
            completion(thoughts[row], answer, codec)
            for row, answer in zip(rows, words, strict=True)
        )
        texts += zip(prompts, completions, strict=True)
    return texts
