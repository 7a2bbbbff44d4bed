"""Training: what the base's training and the warm-up share, one update of the weights at a time.

What belongs here: the loss in parts, the schedule, AdamW, and the state that a stopped run goes on
from. What does not: what is learnt from (`base_training`, `warm_up`), and GRIP (`grip_loop`).

A batch is split into a fixed number of pieces, each of which one thread takes alone, and their
gradients are added in a fixed order: the number of threads does not change a bit of the result.
Batches are pure functions of seed and step, so that no generator belongs to the state.
"""

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tsfm_pipeline.pretraining.trainer import one_thread_each
from tsfm_pipeline.studies.time_r1.run_state import restore, trained_tensors, write_state
from tsfm_pipeline.studies.time_r1.sequences import Batch, Part
from tsfm_pipeline.studies.time_r1.windows import Floats

if TYPE_CHECKING:
    from peft import PeftModel

COLUMNS = (
    "objective",
    *(part.name.lower() for part in Part if part is not Part.PROMPT),
    "gradient_norm",
    "learning_rate",
)
"""What the history of a run holds of each step: what was minimised, the mean negative log
likelihood of each part in nats per token (NaN where a batch has none), and so on.
"""
PIECES = 2
"""Parts of a batch that threads take, where memory does not ask for more."""


@dataclass(frozen=True)
class Objective:
    """What is minimised: a weighted mean over tokens.

    numbers: ids of the tokens that are a number each, neighbours next to each other; empty where
    the codec writes numbers as text. smoothing: standard deviation, in number tokens, of the
    Gaussian that a number's target is spread by; 0: the number itself alone. kinds: int64
    [vocabulary], the kind of each token (a number, another word, each tag by itself); None where
    tokens have none. form_weight: of the negative log probability that a token has its target's
    kind. The likelihood of the token has this term already, once; a completion of 70 tokens can be
    read only if each is of the right kind, so that mistakes of one in a thousand spoil 7 % of them.
    weights: of a token of each part; parts that are not named are not scored.
    """

    numbers: range = range(0)
    smoothing: float = 0.0
    kinds: Tensor | None = None
    form_weight: float = 0.0
    weights: Mapping[Part, float] = field(
        default_factory=lambda: {Part.TEMPLATE: 1.0, Part.THINK: 1.0, Part.NUMBER: 1.0}
    )

    def token_weights(self) -> Tensor:
        """Return the weight of each part, float32 [parts]."""
        return torch.tensor([self.weights.get(part, 0.0) for part in Part])


@dataclass(frozen=True)
class LossSums:
    """Sums over the scored tokens of a batch.

    objective: scalar, the weighted sum that is minimised. weight: the sum of the weights.
    negative_log_likelihood, tokens: float64 [parts], in nats, without smoothing and weights.
    """

    objective: Tensor
    weight: float
    negative_log_likelihood: Floats
    tokens: Floats


def loss_sums(model: "PreTrainedModel | PeftModel", batch: Batch, objective: Objective) -> LossSums:
    """Return the sums of one batch. The output layer is applied to scored positions only."""
    # An adapter lives inside the layers of the model that it wraps.
    causal: Any = model if isinstance(model, PreTrainedModel) else model.get_base_model()
    batch = batch.to(causal.device)
    weights = objective.token_weights().to(causal.device)[batch.parts[:, 1:]]
    scored = weights > 0
    hidden = causal.get_decoder()(input_ids=batch.ids[:, :-1], use_cache=False).last_hidden_state
    logits = causal.get_output_embeddings()(hidden[scored]).float()
    targets, parts = batch.ids[:, 1:][scored], batch.parts[:, 1:][scored]
    log_probs = logits.log_softmax(-1)
    exact = -log_probs.gather(1, targets[:, None])[:, 0]
    lost = exact
    if objective.smoothing > 0 and objective.numbers:
        lost = torch.where(
            _is_number(targets, objective.numbers), _smoothed(log_probs, targets, objective), exact
        )
    if objective.form_weight > 0 and objective.kinds is not None:
        kinds = objective.kinds.to(targets.device)
        same = kinds == kinds[targets][:, None]
        of_kind = log_probs.masked_fill(~same, -math.inf).logsumexp(-1)
        lost = lost - objective.form_weight * of_kind
    parts = parts.cpu()
    nll = torch.zeros(len(Part), dtype=torch.float64)
    nll.index_add_(0, parts, exact.detach().cpu().double())
    return LossSums(
        (weights[scored] * lost).sum(),
        float(weights.sum()),
        nll.numpy(),
        np.bincount(parts.numpy(), minlength=len(Part)).astype(np.float64),
    )


def _is_number(ids: Tensor, numbers: range) -> Tensor:
    return (ids >= numbers.start) & (ids < numbers.stop)


def _smoothed(log_probs: Tensor, targets: Tensor, objective: Objective) -> Tensor:
    """Return the cross entropy [M] to a Gaussian over the numbers about each target, cut at three
    deviations and at the ends of the grid.
    """
    reach = math.ceil(3 * objective.smoothing)
    offsets = torch.arange(-reach, reach + 1, device=targets.device)
    near = targets[:, None] + offsets
    mass = torch.exp(-0.5 * (offsets / objective.smoothing).square())
    mass = torch.where(_is_number(near, objective.numbers), mass, 0.0)
    # Targets that are no numbers have no mass at all; their result is not used.
    share = mass / mass.sum(-1, keepdim=True).clamp_min(1e-30)
    near = near.clamp(objective.numbers.start, objective.numbers.stop - 1)
    return -(share * log_probs.gather(1, near)).sum(-1)


@dataclass(frozen=True)
class Schedule:
    """The learning rate of each step: linear warm-up, then a cosine to zero, or a trapezoid, which
    stays constant until the last `decay` share of the steps takes it linearly to zero.
    """

    learning_rate: float
    warm_up_steps: int
    shape: Literal["cosine", "trapezoid"] = "cosine"
    decay: float = 0.2

    def rate(self, step: int, steps: int | None) -> float:
        """Return the rate of a step of a run of `steps`, which only a trapezoid may leave open."""
        warm = min(1.0, (step + 1) / self.warm_up_steps) if self.warm_up_steps else 1.0
        if self.shape == "trapezoid":
            if steps is None:
                return self.learning_rate * warm
            falling = max(1, round(steps * self.decay))
            return self.learning_rate * warm * min(1.0, (steps - step) / falling)
        if steps is None:
            raise ValueError("a cosine needs the number of steps; a trapezoid may leave it open")
        done = max(0, step - self.warm_up_steps) / max(1, steps - self.warm_up_steps)
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class UpdateOptions:
    """How weights are updated. pieces: parts of a batch that threads take, which decide in what
    order gradients are added; the rest is of AdamW.
    """

    schedule: Schedule
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float = 1.0
    pieces: int = PIECES


class Training:
    """Trainable weights, optimiser, step and history of one run.

    identity: a fingerprint of all that decides the run; a saved state of another identity is
    refused. threads: threads at work, which change no result. steps: of the whole run; None while
    its length is open. history: what happened in each step, float64 [step, COLUMNS].
    """

    def __init__(
        self,
        model: "PreTrainedModel | PeftModel",
        objective: Objective,
        options: UpdateOptions,
        identity: str,
        steps: int | None = None,
        threads: int = 1,
    ) -> None:
        self.model, self.objective, self.options = model.train(), objective, options
        self.identity, self.steps = identity, steps
        self.named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if not self.named:
            raise ValueError("the model has no trainable weights: add an adapter first")
        # Dropout draws from the one global generator, which threads would take turns at.
        self._random = any(_dropout(module) > 0 for module in model.modules())
        self.executor = ThreadPoolExecutor(
            1 if self._random else threads, initializer=one_thread_each
        )
        matrices = [p for p in self.named.values() if p.ndim >= 2]
        vectors = [p for p in self.named.values() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": options.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=options.schedule.learning_rate,
            betas=options.betas,
            fused=True,
        )
        self.step, self.cpu_s, self.tokens = 0, 0.0, 0
        self.best: dict[str, Tensor] = {}
        self.notes: dict[str, Any] = {}
        self._history: list[list[float]] = []
        self._next: Future[Batch] | None = None

    @property
    def history(self) -> Floats:
        """What happened in each step, float64 [step, COLUMNS]."""
        return np.array(self._history, np.float64).reshape(-1, len(COLUMNS))

    def update(self, batch_at: Callable[[int], Batch]) -> dict[str, float]:
        """Make one update by the batch of this step and return its row of the history by name.

        A step whose gradient is not finite changes nothing but the history.
        """
        started = time.process_time()
        batch = (self._next or self.executor.submit(batch_at, self.step)).result()
        work = [
            self.executor.submit(self._gradients, piece, number)
            for number, piece in enumerate(batch.pieces(self.options.pieces))
        ]
        self._next = self.executor.submit(batch_at, self.step + 1)
        row = self.executor.submit(self._apply, [future.result() for future in work]).result()
        self._history.append(row)
        self.step += 1
        self.tokens += batch.ids.numel()
        self.cpu_s += time.process_time() - started
        return dict(zip(COLUMNS, row, strict=True))

    def _gradients(self, piece: Batch, number: int) -> tuple[LossSums, tuple[Tensor, ...]]:
        if not self._random:
            sums = loss_sums(self.model, piece, self.objective)
            return sums, self._gradients_of(sums)
        with torch.random.fork_rng(devices=[]):
            seed = np.random.SeedSequence([self.step, number]).generate_state(1)[0]
            torch.manual_seed(int(seed))
            sums = loss_sums(self.model, piece, self.objective)
            return sums, self._gradients_of(sums)

    def _gradients_of(self, sums: LossSums) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            sums.objective, list(self.named.values()), materialize_grads=True
        )

    def _apply(self, parts: list[tuple[LossSums, tuple[Tensor, ...]]]) -> list[float]:
        """Add up the gradients, update the weights, and return the row of the history."""
        weight = max(sum(sums.weight for sums, _ in parts), 1e-9)
        for parameter, *pieces in zip(
            self.named.values(), *(gradients for _, gradients in parts), strict=True
        ):
            total = pieces[0]
            for piece in pieces[1:]:
                total = total + piece
            parameter.grad = total / weight
        norm = float(torch.nn.utils.clip_grad_norm_(self.named.values(), self.options.clip_norm))
        rate = self.options.schedule.rate(self.step, self.steps)
        if math.isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        objective = sum(float(sums.objective.detach()) for sums, _ in parts) / weight
        return [objective, *_means([sums for sums, _ in parts]), norm, rate]

    def evaluate(self, batches: list[Batch]) -> dict[str, float]:
        """Return the objective and the mean negative log likelihood of each scored part by name,
        over all tokens of some batches.
        """
        self.model.eval()
        work = [self.executor.submit(self._losses, batch) for batch in batches]
        sums = [future.result() for future in work]
        self.model.train()
        objective = sum(float(part.objective.detach()) for part in sums) / sum(
            part.weight for part in sums
        )
        means = zip(Part, [math.nan, *_means(sums)], strict=True)
        parts = {part.name.lower(): mean for part, mean in means if not math.isnan(mean)}
        return {"objective": objective, **parts}

    @torch.no_grad()
    def _losses(self, batch: Batch) -> LossSums:
        return loss_sums(self.model, batch, self.objective)

    def keep_best(self) -> None:
        """Remember the weights of this moment, which `restore_best` returns to."""
        self.best = {name: p.detach().clone() for name, p in self.named.items()}

    @torch.no_grad()
    def restore_best(self) -> None:
        """Return to the weights of the last `keep_best`."""
        for name, tensor in self.best.items():
            self.named[name].copy_(tensor)

    def save(self, path: Path) -> None:
        """Write the whole state, so that the file is either the old state or the new one.

        It holds weights, best weights, both moments of AdamW and the history as safetensors, and
        everything else (with `notes`, which must be of JSON) in its header.
        """
        tensors = trained_tensors(self.named, self.optimizer)
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        tensors["history"] = torch.from_numpy(self.history)
        header = {
            "identity": self.identity,
            "step": self.step,
            "steps": self.steps,
            "cpu_s": self.cpu_s,
            "tokens": self.tokens,
            "notes": self.notes,
        }
        write_state(path, tensors, header)

    def resume(self, path: Path) -> None:
        """Go on from a saved state. Raises ValueError if it is of another run."""
        decided_by = "other options or other data"
        tensors, header = restore(path, self.identity, decided_by, self.named, self.optimizer)
        best = {name: tensors.get(f"best.{name}") for name in self.named}
        self.best |= {name: tensor for name, tensor in best.items() if tensor is not None}
        self._history = tensors["history"].tolist()
        self.step, self.steps = header["step"], header["steps"]
        self.cpu_s, self.tokens = header["cpu_s"], header["tokens"]
        self.notes = header["notes"]
        self._next = None


def _dropout(module: torch.nn.Module) -> float:
    """Return the share of values that a module drops, which attention keeps by another name."""
    share = module.p if isinstance(module, torch.nn.Dropout) else None
    return float(getattr(module, "attention_dropout", 0.0) if share is None else share)


def _means(sums: list[LossSums]) -> list[float]:
    """Return the mean negative log likelihood of each part but the prompt; NaN without tokens."""
    nll = np.sum([part.negative_log_likelihood for part in sums], axis=0)[1:]
    tokens = np.sum([part.tokens for part in sums], axis=0)[1:]
    return [float(total / n) if n else math.nan for total, n in zip(nll, tokens, strict=True)]
