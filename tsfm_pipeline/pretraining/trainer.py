"""Hold the state of a training run: its weights, averages, optimisers and clock.

What belongs here: one update of the weights, and saving and resuming the state. What does not: the
options (`options`), windows and losses (`tasks`), the loops over updates and the command lines
(`train`, `continue_training`).
"""

import json
import math
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsfm_pipeline.files import write_atomically
from tsfm_pipeline.forecaster.architecture import Architecture, build_module
from tsfm_pipeline.forecaster.registry import CONFIG_FILE, find_checkpoint, read_tensors
from tsfm_pipeline.pretraining import provenance
from tsfm_pipeline.pretraining.network import initialise
from tsfm_pipeline.pretraining.options import TrainOptions
from tsfm_pipeline.pretraining.tasks import Batch, CorpusTask, Task

UNTRAINED_HEAD = "output_projection_quantiles."
"""The continuous quantile head receives a copy of the point head at export."""
TASK_HEAD = "task_head."
"""Prefix of the names of a task's own parameters."""


@dataclass(frozen=True)
class _MicroBatch:
    """Sums over what is scored in one micro-batch."""

    gradients: tuple[Tensor, ...]
    loss: float
    pinball: float
    count: float


def one_thread_each() -> None:
    """Limit the calling thread to one core and flush denormal numbers to zero. Both settings hold
    per thread. Decaying filters produce denormals, which are a hundred times slower.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def _load_release(
    module: torch.nn.Module, folder: Path, architecture: Architecture
) -> dict[str, Any]:
    """Load a release's weights into the module and return its provenance, as far as its config.json
    states it. Raises ValueError if the release has another architecture.
    """
    info, released, weights = find_checkpoint(folder)
    if released != architecture:
        raise ValueError(f"{folder} holds {released}, this run is {architecture}")
    module.load_state_dict(read_tensors(weights), strict=True)
    config = weights.with_name(CONFIG_FILE)
    stated = json.loads(config.read_text(encoding="utf-8")) if config.exists() else {}
    return {"sha256": info.sha256, **stated.get("provenance", {})}


class Trainer:
    """Weights, averages, optimisers and clock of one run.

    On a CPU, each worker thread takes whole micro-batches. When other programs compete for the
    cores, threads that synchronise once per update lose far less time than threads that synchronise
    at every matrix product. The sum over micro-batches has a fixed order, so the number of workers
    does not change the weights.

    With `threads_per_operator`, the calling thread computes the micro-batches one after the other,
    with so many threads in every operator. For whole batches and a compiled loss this is the
    fastest on cores without other work, because compiled operators hold Python's lock and worker
    threads would wait for each other; but a sum inside an operator may depend on that number.
    """

    def __init__(
        self,
        options: TrainOptions,
        architecture: Architecture,
        device: torch.device,
        workers: int = 1,
        release: Path | None = None,
        task: Task | None = None,
        threads_per_operator: int | None = None,
    ) -> None:
        """Begin a run; by default it learns to forecast the options' corpus.

        release: folder of a release to start from. task: what to learn instead; a state that is
        saved and resumed then needs the same task.
        """
        self.options, self.architecture, self.device = options, architecture, device
        self.workers = workers
        self.in_workers = threads_per_operator is None
        if threads_per_operator is not None:
            torch.set_num_threads(threads_per_operator)
        self.source: dict[str, Any] = {
            "commit": provenance.commit(),
            "hardware": provenance.hardware(str(device), workers),
        }
        self.executor = ThreadPoolExecutor(workers, initializer=one_thread_each)
        self.module = build_module(architecture).train()
        initialise(self.module, options.seed)
        if release is not None:
            self.source["base"] = _load_release(self.module, release, architecture)
        self.module.to(device)
        self.named = {
            n: p for n, p in self.module.named_parameters() if not n.startswith(UNTRAINED_HEAD)
        }
        self.task: Task = task or CorpusTask(options, device)
        if self.task.head is not None:
            own = self.task.head.to(device).named_parameters()
            self.named |= {TASK_HEAD + name: parameter for name, parameter in own}
        self.ema = {name: parameter.detach().clone() for name, parameter in self.named.items()}
        self.optimizers = self._optimizers()
        self.losses = self.task.losses
        self.prefetched: Future[Batch] | None = None
        self.step, self.patches, self.skipped = 0, 0, 0
        self.train_s, self.cpu_s = 0.0, 0.0

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        options = self.options
        layer_matrices = [
            p for n, p in self.named.items() if p.ndim == 2 and n.startswith("stacked_xf")
        ]
        other_matrices = [
            p for n, p in self.named.items() if p.ndim == 2 and not n.startswith("stacked_xf")
        ]
        vectors = [p for p in self.named.values() if p.ndim < 2]
        groups: list[dict[str, Any]] = [
            {"params": other_matrices, "weight_decay": options.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        built: list[torch.optim.Optimizer] = []
        if options.optimizer == "muon":
            # Two halves let two threads orthogonalise at the same time.
            built = [
                torch.optim.Muon(
                    half,
                    lr=options.learning_rate,
                    weight_decay=options.weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
                for half in (layer_matrices[0::2], layer_matrices[1::2])
            ]
        else:
            groups[0]["params"] = layer_matrices + other_matrices
        return [
            torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.95), fused=True),
            *built,
        ]

    def compile(self) -> None:
        """Compile the loss once for windows of all lengths. This takes minutes and saves a third of
        the time of a step on a CPU.
        """
        self.source["compiled"] = True
        self.losses = torch.compile(self.task.losses, dynamic=True)
        for n_patches in self.options.context_patches:
            n = self.options.batch_patches // n_patches
            batch = self.task.batch(self.step, n, n_patches)
            self._gradients(batch.at(slice(n // self.options.micro_batches)))

    def train_step(self) -> dict[str, float]:
        """Make one update; return loss (log), pinball (window units), gradient norm and rate
        factor.
        """
        started, started_cpu = time.perf_counter(), time.process_time()
        options = self.options
        batch = (self.prefetched or self.executor.submit(self._batch, self.step)).result()
        n = options.batch_patches // self._n_patches(self.step)
        size = n // options.micro_batches
        compute = self.executor.map if self.in_workers else map
        parts_to_come = compute(
            self._gradients, [batch.at(slice(first, first + size)) for first in range(0, n, size)]
        )
        self.prefetched = self.executor.submit(self._batch, self.step + 1)
        parts = list(parts_to_come)
        count = sum(part.count for part in parts)
        for parameter, *pieces in zip(
            self.named.values(), *(part.gradients for part in parts), strict=True
        ):
            total = pieces[0]
            for piece in pieces[1:]:
                total = total + piece
            parameter.grad = total / max(count, 1.0)
        norm = float(torch.nn.utils.clip_grad_norm_(list(self.named.values()), options.clip_norm))
        factor = options.rate_factor(self.step, options.progress(self.step, self.train_s))
        if math.isfinite(norm):
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = options.learning_rate * factor
            for _ in self.executor.map(lambda optimizer: optimizer.step(), self.optimizers):
                pass
        else:
            self.skipped += 1
        decay = min(options.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(
            list(self.ema.values()), [p.detach() for p in self.named.values()], 1 - decay
        )
        self.step += 1
        self.patches += options.batch_patches
        result = {
            "loss": sum(part.loss for part in parts) / max(count, 1.0),
            "pinball": sum(part.pinball for part in parts) / max(count, 1.0),
            "grad_norm": norm,
            "rate_factor": factor,
        }
        self.train_s += time.perf_counter() - started
        self.cpu_s += time.process_time() - started_cpu
        return result

    def _n_patches(self, step: int) -> int:
        """Return the context patches of the windows of one step."""
        options = self.options
        rng = np.random.default_rng([options.seed, step])
        return int(rng.choice(options.context_patches, p=options.context_shares))

    def _batch(self, step: int) -> Batch:
        """Return the windows of one step. Steps must be requested in order."""
        n_patches = self._n_patches(step)
        return self.task.batch(step, self.options.batch_patches // n_patches, n_patches)

    def _gradients(self, batch: Batch) -> "_MicroBatch":
        sums = self.task.sums(self.losses(self.module, *batch))
        # A task may leave a head unused; its gradient is zero.
        gradients = torch.autograd.grad(
            sums.total, list(self.named.values()), materialize_grads=True
        )
        return _MicroBatch(
            gradients=gradients,
            loss=float(sums.total.detach()),
            pinball=float(sums.plain),
            count=float(sums.number),
        )

    @torch.no_grad()
    def validation(self) -> dict[str, float]:
        """Return the validation losses of the averaged weights, by name (see `tasks.Task`)."""
        live = {name: parameter.detach().clone() for name, parameter in self.named.items()}
        self.assign(self.ema)
        result = self.task.validation(self.module)
        self.assign(live)
        return result

    @torch.no_grad()
    def assign(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the weights, by name."""
        for name, parameter in self.named.items():
            parameter.copy_(tensors[name])

    def save(self, path: Path, averages_only: bool = False) -> None:
        """Write the whole state, so that the file is either the old state or the new one. Random
        numbers need no state: they follow from the seed and the step.

        averages_only: leave out what only a run that resumes needs. A release can be made of the
            rest, which is a third of the size.
        """
        to_resume = {
            "model": {name: parameter.detach() for name, parameter in self.named.items()},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        state = {
            **({} if averages_only else to_resume),
            "ema": self.ema,
            "counters": {
                "step": self.step,
                "patches": self.patches,
                "skipped": self.skipped,
                "train_s": self.train_s,
                "cpu_s": self.cpu_s,
            },
            "options": asdict(self.options),
            "architecture": self.architecture.model_dump(),
            "corpus_version": self.options.corpus,
            "threads": self.workers,
            "device": str(self.device),
            **self.source,
        }
        write_atomically(path, lambda temporary: torch.save(state, temporary))

    def resume(self, path: Path) -> None:
        """Continue from a saved state. Raises ValueError if it has another architecture."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["architecture"] != self.architecture.model_dump():
            raise ValueError(
                f"{path} holds {state['architecture']}, this run is "
                f"{self.architecture.model_dump()}"
            )
        self.assign(state["model"])
        self.ema = {name: state["ema"][name].to(self.device) for name in self.named}
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if "base" in state:
            self.source["base"] = state["base"]
        counters = state["counters"]
        self.step, self.patches, self.skipped = (
            counters["step"],
            counters["patches"],
            counters["skipped"],
        )
        self.train_s, self.cpu_s = counters["train_s"], counters.get("cpu_s", 0.0)
