"""Warm-up: supervised training of a policy on samples, by a low-rank adapter.

What belongs here: the loop over epochs, early stopping, and what came of it. What does not: the
samples (`samples`), one update (`training`), and adapters themselves (`adapters`).
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from tsfm_pipeline.files import fingerprint
from tsfm_pipeline.studies.time_r1.adapters import (
    ParameterCounts,
    merged,
    parameter_counts,
    save_adapter,
    with_adapter,
)
from tsfm_pipeline.studies.time_r1.options import LoraOptions, WarmUpOptions
from tsfm_pipeline.studies.time_r1.policy import LanguagePolicy
from tsfm_pipeline.studies.time_r1.sequences import Batch, Sequences, encode, epoch_rows
from tsfm_pipeline.studies.time_r1.tokenizer import word_kinds
from tsfm_pipeline.studies.time_r1.training import (
    PIECES,
    Objective,
    Schedule,
    Training,
    UpdateOptions,
)
from tsfm_pipeline.studies.time_r1.windows import Floats

STATE_FILE = "state.safetensors"
_WARM_UP_SHARE = 0.05
"""Of the steps, in which the rate rises."""
_VALIDATIONS, _PATIENCE = 10, 3
"""Validations of a run, and how many of them in a row may bring nothing before it stops."""


class Texts(Protocol):
    """What a policy reads and what it should write, pair by pair; `samples.Samples` are such."""

    @property
    def prompts(self) -> Sequence[str]: ...

    @property
    def completions(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class WarmUpResult:
    """What came of a warm-up.

    history: float64 [step, training.COLUMNS]. validations: of each validation, its step, the
    objective, and the mean negative log likelihood of each part, in nats per token. best_step: the
    step whose weights were kept, by the objective on validation windows. losses: of the validation
    at that step. stopped_early: whether steps were left. counts: trained parameters and all.
    """

    history: Floats
    validations: tuple[dict[str, float], ...]
    best_step: int
    losses: dict[str, float]
    stopped_early: bool
    counts: ParameterCounts

    @property
    def format_loss(self) -> float:
        """Of the tags, in nats per token: what the bar on the format loss reads."""
        return self.losses["template"]


def warm_up(
    policy: LanguagePolicy,
    train: Texts,
    validation: Texts,
    numbers: range,
    lora: LoraOptions,
    options: WarmUpOptions,
    folder: Path,
    seed: int,
    threads: int = 1,
    steps: int | None = None,
) -> tuple[LanguagePolicy, WarmUpResult]:
    """Train an adapter on samples, write it into `folder`, and return the policy with the adapter
    merged into it. The given policy must not be used any more.

    numbers: ids of the tokens that are a number each; empty for a codec of plain text. steps: make
    exactly so many updates, whatever the options' epochs say and however validation goes; None:
    the epochs, unless validation stops earlier. Nothing but the validation samples decides which
    weights are kept. A killed run goes on
    from the state in `folder`, to the same bytes. Raises ValueError if the folder holds the state
    of a run with another policy, other samples or other options.
    """
    learnt = encode(policy.tokenizer, train.prompts, train.completions, numbers)
    held = encode(policy.tokenizer, validation.prompts, validation.completions, numbers)
    identity = fingerprint(
        options.model_dump(),
        lora.model_dump(),
        seed,
        weights_digest(policy),
        *map(_digest, (learnt, held)),
        *([] if steps is None else [steps]),
    )
    adapted = with_adapter(policy, lora, seed)
    batches = _EpochBatches(learnt, options.batch, seed)
    patience = _PATIENCE if steps is None else math.inf
    steps = options.epochs * batches.per_epoch if steps is None else steps
    schedule = Schedule(options.learning_rate, math.ceil(_WARM_UP_SHARE * steps))
    pieces = PIECES if policy.rows is None else math.ceil(options.batch / policy.rows)
    run = Training(
        adapted.model,
        Objective(
            numbers,
            options.number_smoothing,
            word_kinds() if numbers else None,
            options.form_weight,
        ),
        UpdateOptions(schedule, pieces=pieces),
        identity,
        steps,
        # Threads would hold several parts in memory at once.
        threads if policy.rows is None else 1,
    )
    state = folder / STATE_FILE
    if state.exists():
        run.resume(state)
    rows = epoch_rows(held.lengths, options.batch, seed, 0)
    held_out = [held.batch(some) for some in rows]
    if policy.rows is not None:
        held_out = [piece for batch in held_out for piece in batch.pieces(pieces)]
    _train(run, steps, patience, batches, held_out, state)
    run.restore_best()
    notes = run.notes
    result = WarmUpResult(
        run.history,
        tuple(notes["validations"]),
        notes["best"]["step"],
        notes["best"],
        run.step < steps,
        parameter_counts(adapted),
    )
    facts = {
        "options": options.model_dump(mode="json"),
        "lora": lora.model_dump(mode="json"),
        "seed": seed,
        "best_step": result.best_step,
        "losses": result.losses,
    }
    save_adapter(adapted, folder, facts)
    return merged(adapted), result


def _train(
    run: Training,
    steps: int,
    patience: float,
    batches: "_EpochBatches",
    held: list[Batch],
    state: Path,
) -> None:
    """Update until the last step, or until so many validations in a row have brought nothing."""
    every = max(1, steps // _VALIDATIONS)
    validations = run.notes.setdefault("validations", [])
    while run.step < steps and run.notes.get("waited", 0) < patience:
        run.update(batches)
        if run.step % every and run.step < steps:
            continue
        losses = {"step": run.step, **run.evaluate(held)}
        validations.append(losses)
        if losses["objective"] < run.notes.get("best", {}).get("objective", math.inf):
            run.keep_best()
            run.notes |= {"best": losses, "waited": 0}
        else:
            run.notes["waited"] += 1
        run.save(state)


class _EpochBatches:
    """The batches of a run over some sequences, a function of seed and step."""

    def __init__(self, sequences: Sequences, batch: int, seed: int) -> None:
        self.sequences, self.batch, self.seed = sequences, batch, seed
        self.per_epoch = -(-len(sequences) // batch)
        self._epoch, self._rows = -1, epoch_rows(sequences.lengths, batch, seed, 0)

    def __call__(self, step: int) -> Batch:
        epoch, at = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            rows = epoch_rows(self.sequences.lengths, self.batch, self.seed, epoch)
            self._epoch, self._rows = epoch, rows
        return self.sequences.batch(self._rows[at])


def weights_digest(policy: LanguagePolicy) -> str:
    """Return the SHA-256 of a policy's weights, by the names of its tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(policy.plain.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _digest(sequences: Sequences) -> str:
    """Return the SHA-256 of sequences."""
    parts = (sequences.ids, sequences.parts, sequences.ends)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
