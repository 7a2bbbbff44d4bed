"""The GRIP loop: completions are sampled, rewarded and selected, and an adapter learns from them.

What belongs here: one step of the loop, validation, checkpoints, and the state that a stopped run
goes on from. What does not: equation 6 (`grip`), its gradients (`grip_pieces`), which completions
are kept (`sampling`), rewards (`rewards`, `questions`), and adapters themselves (`adapters`).

The questions of a step are split into a fixed number of pieces, each of which one thread takes
alone, and their gradients are added in a fixed order: the number of threads does not change a bit
of the result. Everything random is a function of seed and step, so that no generator belongs to the
state. The model is in evaluation mode throughout: with dropout, the ratio to the policy that
sampled would not be 1 before the first update.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor

from tsfm_pipeline.files import fingerprint, write_text_atomically
from tsfm_pipeline.pretraining.trainer import one_thread_each
from tsfm_pipeline.studies.time_r1 import grip
from tsfm_pipeline.studies.time_r1.adapters import (
    ADAPTER_FILE,
    merged,
    reference,
    save_adapter,
    with_adapter,
)
from tsfm_pipeline.studies.time_r1.grip_measures import (
    COLUMNS,
    Rollouts,
    distances,
    divergence,
    metrics_text,
    of_update,
)
from tsfm_pipeline.studies.time_r1.grip_pieces import Piece, gradients, known_log_probs, split
from tsfm_pipeline.studies.time_r1.grip_task import GripTask
from tsfm_pipeline.studies.time_r1.policy import Completions, LanguagePolicy, Sampling
from tsfm_pipeline.studies.time_r1.questions import Questions
from tsfm_pipeline.studies.time_r1.run_state import restore, trained_tensors, write_state
from tsfm_pipeline.studies.time_r1.sampling import kept
from tsfm_pipeline.studies.time_r1.warm_up import weights_digest
from tsfm_pipeline.studies.time_r1.windows import Floats

STATE_FILE, METRICS_FILE, TIMINGS_FILE = "state.safetensors", "metrics.jsonl", "timings.jsonl"
CHECKPOINTS = "checkpoints"
PROBES = 16
"""Held-out questions on which the divergence is measured after every step."""
VALIDATION_SAMPLES = 4
"""Completions of each validation window, with the same random numbers at every validation."""
CLIP_NORM = 1.0
_VALIDATION_STREAM, _PROBE_STREAM = 1, 2
T = TypeVar("T")


@dataclass(frozen=True)
class GripResult:
    """What came of a run.

    history: float64 [step, COLUMNS]. validated: the steps after which validation was made [V].
    validation: float64 [V, windows], mean reward of each validation window. best_step: the step
    whose adapter is returned, by the mean of its validation rewards. seconds: of processor time in
    each step, validation included.
    """

    history: Floats
    validated: tuple[int, ...]
    validation: Floats
    best_step: int
    seconds: Floats


def train_grip(
    policy: LanguagePolicy, task: GripTask, folder: Path, save_every: int = 5, threads: int = 1
) -> tuple[LanguagePolicy, GripResult]:
    """Train a fresh adapter by GRIP, write the best one into `folder`, and return the policy with
    it merged into its weights. The given policy is the reference; it must not be used any more.

    Nothing but the validation rewards decides which of the checkpoints within the limit of the
    divergence is best; that of step 0, which is the reference itself, is one of them. A killed run
    goes on from the state in `folder`, which is written every `save_every` steps, to the same
    bytes. Raises ValueError if the folder holds the state of a run with another policy, other
    questions or other options.
    """
    run = GripRun(policy, task, folder, threads)
    run.resume()
    while run.step < task.options.steps:
        run.update()
        if run.step % save_every == 0:
            run.save()
    run.save()
    return run.finish()


class GripRun:
    """Adapter, optimiser, step and history of one run.

    step: how many were made. history: a row of COLUMNS for each. validated, validation: steps and
    rewards of the validations so far. seconds: of processor time in each step.
    """

    def __init__(
        self, policy: LanguagePolicy, task: GripTask, folder: Path, threads: int = 1
    ) -> None:
        self.task, self.options, self.folder = task, task.options, folder
        asked = [each.digest() for each in (*task.train, *task.validation)]
        self.identity = fingerprint(task.settings(), weights_digest(policy), len(task.train), asked)
        self.policy = with_adapter(policy, task.lora, task.seed)
        self.policy.model.eval()
        self.named = {n: p for n, p in self.policy.model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.named.values(), lr=task.options.learning_rate, weight_decay=0.0
        )
        # Threads would hold several parts in memory at once.
        n_threads = threads if policy.rows is None else 1
        self.executor = ThreadPoolExecutor(n_threads, initializer=one_thread_each)
        self.step = 0
        self.history: list[list[float]] = []
        self.validated: list[int] = []
        self.validation: list[Floats] = []
        self.seconds: list[float] = []
        self._started = time.process_time()

    def update(self) -> dict[str, float]:
        """Make one step and return its row by name: sample, reward, keep, and update the adapter
        `options.updates` times. Before the first step, and then every `validate_every`, validate.
        """
        if not self.validated:
            self.validate()
        options = self.options
        rng = np.random.default_rng([self.task.seed, self.step])
        of_set = self.task.train[self.step % len(self.task.train)]
        asked = of_set.at(rng.choice(len(of_set), options.questions, replace=False))
        drawn = self._sampled(asked, options.group * options.oversampling, self._seed(self.step))
        judged = asked.judged([text for part in drawn for text in part.texts], self.task.reward)
        rewards = judged.rewards.total.reshape(len(asked), -1)
        keep = kept(rewards, options.group, options.sampling, rng)
        of_kept = np.take_along_axis(rewards, keep, axis=1)
        pieces = self._pieces(asked, drawn, keep, of_kept)
        norms, weights = [], list(self.named.values())
        for _ in range(options.updates):
            results = self._map(
                lambda piece: gradients(self.policy, piece, options, weights, len(asked)), pieces
            )
            norms.append(self.executor.submit(self._apply, [g for _, g in results]).result())
        rollouts = Rollouts(drawn, judged, of_kept, rewards.shape[1])
        row = rollouts.measures(self.task.output_filter)
        row |= of_update([o for o, _ in results], [len(p.advantage) for p in pieces], norms)
        row |= self._probe()
        self.history.append([row[name] for name in COLUMNS])
        self.step += 1
        if self.step % options.validate_every == 0 or self.step == options.steps:
            self.validate()
        self.seconds.append(time.process_time() - self._started)
        self._started = time.process_time()
        return row

    def validate(self) -> None:
        """Measure the mean reward of each validation window, and write a checkpoint if it is among
        the best.
        """
        seed = self._seed(0, _VALIDATION_STREAM)
        rewards = []
        for held in self.task.validation:
            drawn = self._sampled(held, VALIDATION_SAMPLES, seed)
            texts = [text for part in drawn for text in part.texts]
            judged = held.judged(texts, self.task.reward)
            rewards.append(judged.rewards.total.reshape(len(held), -1).mean(axis=1))
        self.validated.append(self.step)
        self.validation.append(np.concatenate(rewards))
        if self.step in self.best_steps:
            save_adapter(self.policy, self._checkpoint(self.step), self._facts(self.step))

    @property
    def best_steps(self) -> list[int]:
        """The steps with the highest validation rewards, best first, without those beyond
        `options.kl_limit`; of equal ones the earlier.
        """
        limit = math.inf if self.options.kl_limit is None else self.options.kl_limit
        means = np.array([rewards.mean() for rewards in self.validation])
        order = np.argsort(-means, kind="stable")
        near = [self.validated[i] for i in order if self._divergence(self.validated[i]) <= limit]
        return near[: self.options.checkpoints]

    def save(self) -> None:
        """Write the whole state, so that the file is either the old state or the new one, then the
        history as text, and remove checkpoints that are no longer among the best.

        State, history and checkpoints are functions of the run's identity; the seconds, which are
        not, have a file of their own.
        """
        tensors = trained_tensors(self.named, self.optimizer)
        tensors["history"] = torch.tensor(self.history, dtype=torch.float64)
        tensors["validated"] = torch.tensor(self.validated)
        tensors["validation"] = torch.from_numpy(np.array(self.validation))
        self.folder.mkdir(parents=True, exist_ok=True)
        seconds = "".join(
            f'{{"step": {i}, "cpu_s": {s:.4f}}}\n' for i, s in enumerate(self.seconds)
        )
        # Longer than the state after a crash, but never shorter.
        write_text_atomically(self.folder / TIMINGS_FILE, seconds)
        header = {"identity": self.identity, "step": self.step}
        write_state(self.folder / STATE_FILE, tensors, header)
        write_text_atomically(
            self.folder / METRICS_FILE, metrics_text(self.history, self.validated, self.validation)
        )
        best = {self._checkpoint(step) for step in self.best_steps}
        for folder in set((self.folder / CHECKPOINTS).glob("*")) - best:
            shutil.rmtree(folder)

    def resume(self) -> None:
        """Go on from the state in the folder, if there is one. Raises ValueError if it is of
        another run.
        """
        path = self.folder / STATE_FILE
        if not path.exists():
            return
        decided_by = "another policy, other questions or options"
        tensors, header = restore(path, self.identity, decided_by, self.named, self.optimizer)
        self.step = header["step"]
        self.history = tensors["history"].tolist()
        self.validated = tensors["validated"].tolist()
        self.validation = list(tensors["validation"].numpy())
        lines = (self.folder / TIMINGS_FILE).read_text(encoding="utf-8").splitlines()
        self.seconds = [json.loads(line)["cpu_s"] for line in lines[: self.step]]

    def finish(self) -> tuple[LanguagePolicy, GripResult]:
        """Return to the best checkpoint, write it into the folder, and return the policy with the
        adapter merged.
        """
        best = self.best_steps[0]
        weights = load_file(self._checkpoint(best) / ADAPTER_FILE)
        set_peft_model_state_dict(self.policy.model, weights)
        save_adapter(self.policy, self.folder, self._facts(best))
        result = GripResult(
            np.array(self.history).reshape(-1, len(COLUMNS)),
            tuple(self.validated),
            np.array(self.validation),
            best,
            np.array(self.seconds),
        )
        return merged(self.policy), result

    def _sampled(self, asked: Questions, n: int, seed: int) -> list[Completions]:
        """Return n completions of each question by piece, at temperature 1 and without a grammar:
        the ratio of equation 6 needs the probabilities that the tokens were drawn with.
        """
        sampling = Sampling(seed, self.task.max_new_tokens)
        return self._map(
            lambda some: self.policy.sample(some.prompts, n, sampling, forced=some.forced),
            split(asked),
        )

    def _pieces(
        self, asked: Questions, drawn: list[Completions], keep: Any, rewards: Floats
    ) -> list[Piece]:
        """Return the kept completions of each piece with what the objective needs of them."""
        options, target = self.options, torch.from_numpy(rewards)
        advantage = grip.advantages(target)
        weight = grip.weights(target, options.weights, options.weight_temperature)
        rest, prepared = 0, []
        for some, part in zip(split(asked), drawn, strict=True):
            here = slice(rest, rest + len(some))
            rest += len(some)
            first = np.arange(len(some))[:, None] * (len(part) // len(some))
            rows = torch.from_numpy((first + keep[here]).ravel())
            prepared.append((some.prompts, part.at(rows), advantage[here], weight[here]))
        sampled = [part.log_probs for _, part, *_ in prepared]
        if self.policy.plain.dtype != torch.float32:
            # Sampling adds the adapter to the weights, whose rounding would then move the ratio to
            # the policy that sampled away from 1 before the first update.
            sampled = self._map(lambda x: known_log_probs(self.policy, x[0], x[1]), prepared)
        with reference(self.policy) as old:
            known = self._map(lambda x: known_log_probs(old, x[0], x[1]), prepared)
        return [
            Piece(*each, old=of_sampling, reference=of_reference)
            for each, of_sampling, of_reference in zip(prepared, sampled, known, strict=True)
        ]

    def _apply(self, parts: list[list[Tensor]]) -> float:
        """Add up the gradients and update the adapter, unless one is not finite; return the norm
        before it is clipped.
        """
        for parameter, *pieces in zip(self.named.values(), *parts, strict=True):
            total = pieces[0]
            for piece in pieces[1:]:
                total = total + piece
            parameter.grad = total
        norm = float(torch.nn.utils.clip_grad_norm_(self.named.values(), CLIP_NORM))
        if math.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _probe(self) -> dict[str, float]:
        """Return divergence from the reference and entropy on fresh completions of held-out
        questions.
        """
        first = self.task.validation[0]
        held = first.at(np.arange(min(PROBES, len(first))))
        drawn = self._sampled(held, 1, self._seed(self.step, _PROBE_STREAM))
        pairs = [
            (some.prompts, part)
            for some, whole in zip(split(held), drawn, strict=True)
            for part in self.policy.parts(whole)
        ]

        @torch.no_grad()
        def distributions(pair: tuple[tuple[str, ...], Completions]) -> Tensor:
            return self.policy.log_distributions(*pair)

        # All at once on threads, unless memory holds only the distributions of a few completions.
        together = len(pairs) if self.policy.rows is None else 1
        found = []
        for begin in range(0, len(pairs), together):
            some_pairs = pairs[begin : begin + together]
            own = self._map(distributions, some_pairs)
            with reference(self.policy):
                other = self._map(distributions, some_pairs)
            measured = zip(own, other, some_pairs, strict=True)
            found += [distances(mine, its, part) for mine, its, (_, part) in measured]
        return divergence(found)

    def _seed(self, *parts: int) -> int:
        return int(np.random.SeedSequence([self.task.seed, *parts]).generate_state(1)[0])

    def _map(self, function: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
        return list(self.executor.map(function, items))

    def _checkpoint(self, step: int) -> Path:
        return self.folder / CHECKPOINTS / f"step-{step:06d}"

    def _facts(self, step: int) -> dict[str, Any]:
        rewards = self.validation[self.validated.index(step)]
        return {
            "algorithm": "GRIP",
            "identity": self.identity,
            **self.task.settings(),
            "step": step,
            "validation_reward": float(rewards.mean()),
            "validation_windows": len(rewards),
            "kl_nats_per_token": self._divergence(step),
        }

    def _divergence(self, step: int) -> float:
        """Return the exact divergence after a step. Before the first update the policy is its
        reference.
        """
        return self.history[step - 1][COLUMNS.index("exact_kl")] if step else 0.0
