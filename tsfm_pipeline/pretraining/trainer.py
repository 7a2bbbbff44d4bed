"""Hold the state of a training run: its options, weights, averages, optimisers and clock.

What belongs here: the options that decide the weights, one update of the weights, and saving and
resuming the state. What does not: the corpus (`corpus`), the loss (`objective`), the loop over
updates and the command line (`train`).
"""

import json
import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from tsfm_pipeline.forecaster.architecture import Architecture, build_module
from tsfm_pipeline.forecaster.registry import CONFIG_FILE, WEIGHTS_FILE
from tsfm_pipeline.pretraining import provenance
from tsfm_pipeline.pretraining.corpus import (
    CORPUS_VERSION,
    PATCH,
    TARGET_LEN,
    Pool,
    PoolShape,
    sample_windows,
)
from tsfm_pipeline.pretraining.heldout import held_out_windows
from tsfm_pipeline.pretraining.network import (
    forward_points,
    initialise,
    normalised_inputs,
    rotary_table,
    running_statistics,
)
from tsfm_pipeline.pretraining.objective import SegmentLosses, objective, segment_losses

CONTEXT_PATCHES = (16, 32, 64, 128)
CONTEXT_SHARES = (0.15, 0.25, 0.35, 0.25)
UNTRAINED_HEAD = "output_projection_quantiles."
"""The continuous quantile head receives a copy of the point head at export."""


@dataclass(frozen=True)
class TrainOptions:
    """Everything that decides the weights of a run."""

    seed: int = 0
    steps: int | None = None
    minutes: float | None = None
    batch_patches: int = 2048
    micro_batches: int = 4
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warmup_steps: int = 300
    decay_from: float = 0.65
    ema_decay: float = 0.999
    clip_norm: float = 1.0
    optimizer: str = "muon"
    start: str | None = None
    """sha256 of the released weights that the run starts from; None trains from scratch."""
    pool: PoolShape = field(default_factory=PoolShape)

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError(
                "give exactly one of steps and minutes: the length of the run decides its schedule"
            )
        if self.batch_patches % (4 * max(CONTEXT_PATCHES)):
            raise ValueError(
                f"batch_patches {self.batch_patches} is not a multiple of "
                f"{4 * max(CONTEXT_PATCHES)}: four windows of the longest context"
            )
        if self.batch_patches // max(CONTEXT_PATCHES) % self.micro_batches:
            raise ValueError(
                f"micro_batches {self.micro_batches} does not divide a batch of "
                f"{self.batch_patches // max(CONTEXT_PATCHES)} windows of the longest context"
            )

    def progress(self, step: int, train_s: float) -> float:
        """Return the share of the run that is done."""
        return (
            step / self.steps
            if self.steps is not None
            else train_s / 60 / (self.minutes or math.inf)
        )

    def rate_factor(self, step: int, progress: float) -> float:
        """Return the factor of the learning rate: warm-up, constant, then linear decay to zero."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        return warm * min(1.0, max(0.0, (1 - progress) / (1 - self.decay_from)))


@dataclass(frozen=True)
class _MicroBatch:
    """Sums over the scored segments of one micro-batch."""

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
    """Load a release's weights into the module and return its provenance. Raises ValueError if the
    release has another architecture.
    """
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    released = Architecture(**{name: config[name] for name in Architecture.model_fields})
    if released != architecture:
        raise ValueError(f"{folder} holds {released}, this run is {architecture}")
    module.load_state_dict(load_file(folder / WEIGHTS_FILE), strict=True)
    return {"sha256": config["sha256"], **config["provenance"]}


class Trainer:
    """Weights, averages, optimisers and clock of one run.

    On a CPU, each worker thread takes whole micro-batches. When other programs compete for the
    cores, threads that synchronise once per update lose far less time than threads that synchronise
    at every matrix product. The sum over micro-batches has a fixed order, so the number of workers
    does not change the weights.
    """

    def __init__(
        self,
        options: TrainOptions,
        architecture: Architecture,
        device: torch.device,
        workers: int = 1,
        release: Path | None = None,
    ) -> None:
        self.options, self.architecture, self.device = options, architecture, device
        self.workers = workers
        self.source = {
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
        self.ema = {name: parameter.detach().clone() for name, parameter in self.named.items()}
        self.optimizers = self._optimizers()
        self.pool = Pool(options.seed, device, options.pool)
        self.fast_losses = self.losses
        self.prefetched: Future[tuple[Tensor, Tensor]] | None = None
        self.step, self.patches, self.skipped, self.train_s = 0, 0, 0, 0.0

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

    def losses(self, values: Tensor, masked_points: Tensor) -> SegmentLosses:
        """Return the losses of windows float32 [B, N * 32 + 128] whose first 0 to 31 points are
        masked.
        """
        n_patches = (values.shape[1] - TARGET_LEN) // PATCH
        context = values[:, : n_patches * PATCH]
        masked = (torch.arange(n_patches * PATCH, device=values.device)[None] < masked_points).view(
            -1, n_patches, PATCH
        )
        patches = context.reshape(-1, n_patches, PATCH)
        mu, sigma = running_statistics(patches, masked)
        cos, sin = rotary_table(n_patches, self.architecture.head_dims, values.device)
        with torch.autocast(values.device.type, dtype=torch.bfloat16):
            points = forward_points(
                self.module, normalised_inputs(patches, masked, mu, sigma), cos, sin
            )
        return segment_losses(points, values, mu, sigma)

    def compile(self) -> None:
        """Compile the loss for every window length. This takes minutes and saves a third of the
        time of a step on a CPU.
        """
        self.fast_losses = torch.compile(self.losses, dynamic=False)
        for n_patches in CONTEXT_PATCHES:
            n = self.options.batch_patches // n_patches // self.options.micro_batches
            values = torch.randn(n, n_patches * PATCH + TARGET_LEN, device=self.device)
            self._gradients(values, torch.zeros(n, 1, dtype=torch.long, device=self.device))

    def train_step(self) -> dict[str, float]:
        """Make one update; return loss (log), pinball (window units), gradient norm and rate
        factor.
        """
        started = time.perf_counter()
        options = self.options
        values, masked_points = (
            self.prefetched or self.executor.submit(self._windows, self.step)
        ).result()
        work = [
            self.executor.submit(self._gradients, *chunk)
            for chunk in zip(
                values.chunk(options.micro_batches),
                masked_points.chunk(options.micro_batches),
                strict=True,
            )
        ]
        self.prefetched = self.executor.submit(self._windows, self.step + 1)
        parts = [future.result() for future in work]
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
        return result

    def _windows(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the windows of one step. Steps must be requested in order."""
        options = self.options
        n_patches = int(
            np.random.default_rng([options.seed, step]).choice(CONTEXT_PATCHES, p=CONTEXT_SHARES)
        )
        n = options.batch_patches // n_patches
        values, masked_points = sample_windows(self.pool.at(step), options.seed, step, n, n_patches)
        # Each quarter has one aggregation. Interleaving them gives every micro-batch the same mix.
        order = torch.arange(n, device=self.device).view(4, -1).T.reshape(-1)
        return values[order], masked_points[order]

    def _gradients(self, values: Tensor, masked_points: Tensor) -> "_MicroBatch":
        losses = self.fast_losses(values, masked_points)
        total = objective(losses)
        gradients = torch.autograd.grad(total, list(self.named.values()))
        return _MicroBatch(
            gradients=gradients,
            loss=float(total.detach()),
            pinball=float((losses.pinball.detach() * losses.scored).sum()),
            count=float(losses.scored.sum()),
        )

    @torch.no_grad()
    def validation(self) -> dict[str, float]:
        """Return the mean log pinball loss of the averaged weights on every held-out family."""
        live = {name: parameter.detach().clone() for name, parameter in self.named.items()}
        self._assign(self.ema)
        result = {}
        for name, values in held_out_windows(self.device, 48, 32 * PATCH + TARGET_LEN).items():
            losses = self.losses(
                values, torch.zeros(len(values), 1, dtype=torch.long, device=self.device)
            )
            result[name] = float(torch.log(losses.pinball).mean())
        self._assign(live)
        return result

    @torch.no_grad()
    def _assign(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self.named.items():
            parameter.copy_(tensors[name])

    def save(self, path: Path) -> None:
        """Write the whole state under a temporary name, then rename it."""
        state = {
            "model": {name: parameter.detach() for name, parameter in self.named.items()},
            "ema": self.ema,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "counters": {
                "step": self.step,
                "patches": self.patches,
                "skipped": self.skipped,
                "train_s": self.train_s,
            },
            "options": asdict(self.options),
            "architecture": self.architecture.model_dump(),
            "corpus_version": CORPUS_VERSION,
            "threads": self.workers,
            "device": str(self.device),
            **self.source,
        }
        temporary = path.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(path)

    def resume(self, path: Path) -> None:
        """Continue from a saved state. Raises ValueError if it has another architecture."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["architecture"] != self.architecture.model_dump():
            raise ValueError(
                f"{path} holds {state['architecture']}, this run is "
                f"{self.architecture.model_dump()}"
            )
        self._assign(state["model"])
        self.ema = {name: state["ema"][name].to(self.device) for name in self.named}
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        counters = state["counters"]
        self.step, self.patches, self.skipped = (
            counters["step"],
            counters["patches"],
            counters["skipped"],
        )
        self.train_s = counters["train_s"]
