"""Compose the synthetic corpus from the elementary processes, and cut training windows out of it.

What belongs here: recipes (which processes are summed and multiplied), measurement effects
(clipping, rounding, gaps, quiet stretches), the pool of long series and its renewal, and windows
with random aggregation, reflection and mixing. What does not: the processes themselves
(`processes`), what corpus 3 does differently (`corpus3`), and the training (`train`). Everything is
a pure function of (seed, block number) or (seed, step), so a run that is stopped and resumed sees
the same windows as an uninterrupted run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tsfm_pipeline.pretraining.draw import (
    Draw,
    Process,
    autoregression,
    event_mask,
    held,
    standardised,
)
from tsfm_pipeline.pretraining.processes import PROCESSES, heavy_tailed, level_shifts, on_off

SERIES_LEN = 16_384
PATCH = 32
TARGET_LEN = 128
AGGREGATIONS = (1, 1, 1, 2, 2, 3, 4, 5, 6, 8, 10, 12, 15, 24)

BLOCK_STREAM, WINDOW_STREAM = 0, 1
"""Even stream numbers belong to blocks, odd ones to windows."""


@dataclass(frozen=True)
class Recipe:
    """What series are composed of: the processes, and the groups from which each part of a series
    takes one (a process that stands twice is twice as likely).
    """

    processes: Mapping[str, Process]
    groups: Mapping[str, tuple[str, ...]]


GROUPS: dict[str, tuple[str, ...]] = {
    "seasonal": ("harmonics", "periodic_template", "pulses", "calendar", "calendar"),
    "slow": (
        "trend",
        "level_shifts",
        "random_walk",
        "near_unit_root",
        "smooth_process",
        "cycle_levels",
        "rough_process",
    ),
    "noise": ("white_noise", "arma", "volatility", "near_unit_root"),
    "event": ("bursts", "scheduled_spikes", "level_shifts", "on_off"),
    "bare": ("random_walk", "random_walk", "integrated_trend", "resting", "few_levels"),
}
CORPUS_2 = Recipe(PROCESSES, GROUPS)


class Windows(NamedTuple):
    """Training windows of N context patches and 128 points after them.

    values: float32 [B, N * 32 + 128]. masked: bool [B, N * 32], points that the model is not shown.
    observed: bool [B, N * 32 + 128], points that count as targets; None where all do.
    """

    values: Tensor
    masked: Tensor
    observed: Tensor | None = None

    def at(self, rows: Tensor | slice) -> "Windows":
        """Return some of the windows."""
        observed = None if self.observed is None else self.observed[rows]
        return Windows(self.values[rows], self.masked[rows], observed)

    def to(self, device: torch.device) -> "Windows":
        """Return the windows on a device."""
        observed = None if self.observed is None else self.observed.to(device)
        return Windows(self.values.to(device), self.masked.to(device), observed)


def _amplitudes(draw: Draw, n: int, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Return the amplitude of each process in each series' signal and in its noise, both [n,
    processes].
    """
    names, groups = tuple(recipe.processes), recipe.groups
    signal = torch.zeros(n, len(names), device=draw.device)
    noise = torch.zeros_like(signal)

    def add(target: Tensor, rows: Tensor, group: tuple[str, ...], amplitude: Tensor) -> None:
        table = torch.tensor([names.index(name) for name in group], device=draw.device)
        column = table[draw.integers(n, 0, len(group))]
        target.scatter_add_(1, column, rows * amplitude)

    kind = draw.uniform(n)
    pure, structured, mixed = kind < 0.35, (kind >= 0.35) & (kind < 0.8), kind >= 0.8
    bare = pure & draw.chance(n, 0.2)
    add(signal, bare, groups["bare"], torch.ones(n, 1, device=draw.device))
    add(signal, pure & ~bare, names, torch.ones(n, 1, device=draw.device))
    add(noise, pure & ~bare & draw.chance(n, 0.4), groups["noise"], draw.log_uniform(n, 0.005, 0.3))
    add(
        signal,
        structured & draw.chance(n, 0.9),
        groups["seasonal"],
        torch.ones(n, 1, device=draw.device),
    )
    add(
        signal,
        structured & draw.chance(n, 0.35),
        groups["seasonal"],
        draw.log_uniform(n, 0.1, 2.0),
    )
    add(signal, structured & draw.chance(n, 0.6), groups["slow"], draw.log_uniform(n, 0.05, 4.0))
    add(signal, structured & draw.chance(n, 0.3), groups["event"], draw.log_uniform(n, 0.1, 2.0))
    add(noise, structured & draw.chance(n, 0.9), groups["noise"], draw.log_uniform(n, 0.01, 1.5))
    add(noise, structured & draw.chance(n, 0.3), groups["noise"], draw.log_uniform(n, 0.01, 0.7))
    for share in (1.0, 1.0, 0.5, 0.25):
        add(signal, mixed & draw.chance(n, share), names, draw.log_uniform(n, 0.1, 3.0))
    return signal, noise


def _summed(draw: Draw, amplitudes: Tensor, length: int, recipe: Recipe) -> Tensor:
    """Return weighted sums of processes, [n, length]. Draw each process only for the series that
    contain it.
    """
    total = torch.zeros(amplitudes.shape[0], length, device=draw.device)
    for column, process in enumerate(recipe.processes.values()):
        rows = amplitudes[:, column].nonzero().squeeze(-1)
        if len(rows):
            total[rows] += amplitudes[rows, column, None] * process(draw, len(rows), length)
    return total


def _transformed(draw: Draw, x: Tensor) -> Tensor:
    """Pass four series in ten through an exponential, a square, a fold or a soft threshold."""
    n = x.shape[0]
    kind = draw.uniform(n)
    z = standardised(x)
    exponential = torch.exp((draw.log_uniform(n, 0.1, 1.2) * z).clamp(-12, 5))
    threshold = torch.nn.functional.softplus(4 * (z - draw.uniform(n, -1.5, 1.5)))
    out = torch.where(kind < 0.2, exponential, x)
    out = torch.where((kind >= 0.2) & (kind < 0.3), threshold, out)
    out = torch.where((kind >= 0.3) & (kind < 0.35), z.square(), out)
    return torch.where((kind >= 0.35) & (kind < 0.4), z.abs(), out)


def measured(draw: Draw, x: Tensor) -> Tensor:
    """Apply the effects of measuring: saturation at a floor and a ceiling, quiet and dead
    stretches, outliers, rounding, and gaps filled with the last value.
    """
    n, length = x.shape
    z = standardised(x)
    sorted_some = z[:, :: max(1, length // 256)].sort(dim=-1).values
    last = sorted_some.shape[-1] - 1

    def level(share: Tensor) -> Tensor:
        return sorted_some.gather(-1, (share * last).long())

    z = torch.where(draw.chance(n, 0.15), z.maximum(level(draw.uniform(n, 0.02, 0.7))), z)
    z = torch.where(draw.chance(n, 0.10), z.minimum(level(draw.uniform(n, 0.6, 0.98))), z)
    quiet = (on_off(draw, n, length) < 0) & draw.chance(n, 0.12)
    z = torch.where(quiet, level(draw.uniform(n, 0.0, 0.5)), z)
    z = torch.where(
        draw.chance(n, 0.07) & event_mask(draw, n, length, 50.0, 3000.0),
        6 * heavy_tailed(draw, n, length),
        z,
    )
    start = torch.arange(length, device=x.device)[None] < draw.uniform(n, 0.0, 0.7) * length
    z = torch.where(start & draw.chance(n, 0.05), level(draw.uniform(n)), z)
    grid = draw.log_uniform(n, 0.005, 1.5)
    z = torch.where(draw.chance(n, 0.25), (z / grid).round() * grid, z)
    long_gap = (level_shifts(draw, n, length) > 1.2) & draw.chance(n, 0.05)
    lost = long_gap | (draw.chance(n, 0.08) & draw.chance(n, 0.2, length))
    return held(z, ~lost)


def composed(draw: Draw, n: int, length: int, recipe: Recipe) -> Tensor:
    """Return n series [n, length] as they are before they are measured."""
    signal_amplitude, noise_amplitude = _amplitudes(draw, n, recipe)
    signal = _summed(draw, signal_amplitude, length, recipe)
    noise = _summed(draw, noise_amplitude, length, recipe)
    scale_follows = draw.chance(n, 0.35) * draw.uniform(n, -0.5, 1.2)
    noise = noise * torch.exp((scale_follows * standardised(signal)).clamp(-4, 3))
    slow_scale = torch.exp(
        draw.uniform(n, 0.1, 0.8) * autoregression(draw, n, length, 300.0, 10_000.0)
    )
    noise = torch.where(draw.chance(n, 0.2), noise * slow_scale, noise)
    return _transformed(draw, signal + noise)


def bounded(x: Tensor) -> Tensor:
    """Return series of zero mean and unit spread, without numbers that are not finite."""
    return torch.nan_to_num(standardised(x), nan=0.0, posinf=0.0, neginf=0.0).clamp_(-300, 300)


def generate_block(
    seed: int, block: int, n: int, device: torch.device, length: int = SERIES_LEN
) -> Tensor:
    """Return one block of corpus 2, float32 [n, length]. It is a pure function of the arguments and
    of the kind of device.
    """
    draw = Draw(seed, 2 * block + BLOCK_STREAM, device)
    return bounded(measured(draw, composed(draw, n, length, CORPUS_2)))


@dataclass(frozen=True)
class PoolShape:
    """Size of the pool: `blocks` blocks of `block_series` series each. One block is replaced every
    `renew_every` steps.
    """

    blocks: int = 64
    block_series: int = 64
    renew_every: int = 8


class Pool:
    """The pool that windows are cut from: the newest blocks of an endless sequence, in a ring
    buffer on the device.
    """

    def __init__(
        self,
        seed: int,
        device: torch.device,
        shape: PoolShape,
        generate: Callable[[int, int, int, torch.device], Tensor] = generate_block,
    ) -> None:
        self.seed, self.device, self.shape, self.generate = seed, device, shape, generate
        self._newest = -1
        self._series = torch.empty(shape.blocks * shape.block_series, SERIES_LEN, device=device)

    def at(self, step: int) -> Tensor:
        """Return the pool at this step, float32 [series, SERIES_LEN]. Raises ValueError if an
        earlier call asked for a later block.
        """
        newest = self.shape.blocks - 1 + step // self.shape.renew_every
        if newest < self._newest:
            raise ValueError(
                f"the pool has moved on to block {self._newest}; step {step} needs block {newest}"
            )
        for block in range(max(self._newest + 1, newest - self.shape.blocks + 1), newest + 1):
            slot = (block % self.shape.blocks) * self.shape.block_series
            series = self.generate(self.seed, block, self.shape.block_series, self.device)
            self._series[slot : slot + self.shape.block_series] = series
        self._newest = newest
        return self._series


def sample_windows(
    pool: Tensor, seed: int, step: int, n: int, patches: int
) -> tuple[Tensor, Tensor]:
    """Cut training windows out of a pool.

    Args:
        pool: float32 [series, SERIES_LEN].
        n: windows wanted, a multiple of 4 (each quarter has its own aggregation).
        patches: context patches of each window.

    Returns:
        values float32 [n, patches * 32 + 128] of unit spread, and the number of masked leading
        points [n, 1] (0 to 31).
    """
    draw = Draw(seed, 2 * step + WINDOW_STREAM, pool.device)
    length = patches * PATCH + TARGET_LEN
    allowed = [factor for factor in AGGREGATIONS if factor * length <= pool.shape[1]]
    quarters = []
    for _ in range(4):
        factor = allowed[int(draw.integers(1, 0, len(allowed)))]
        quarter = n // 4
        first = _crop(draw, pool, quarter, length, factor)
        second = _crop(draw, pool, quarter, length, factor)
        blend = draw.chance(quarter, 0.12) * draw.uniform(quarter, 0.1, 1.0)
        quarters.append(first + blend * second)
    x = torch.cat(quarters)
    x = torch.where(draw.chance(n, 0.25), -x, x)
    x = torch.where(draw.chance(n, 0.05), x.flip(-1), x)
    masked = draw.chance(n, 0.2) * draw.integers(n, 0, PATCH)
    return standardised(x), masked


def _crop(draw: Draw, pool: Tensor, n: int, length: int, factor: int) -> Tensor:
    """Return random crops of unit spread, each point the mean of `factor` steps, [n, length]."""
    rows = draw.integers(n, 0, pool.shape[0])
    starts = draw.integers(n, 0, pool.shape[1] - length * factor + 1)
    index = starts + torch.arange(length * factor, device=pool.device)[None]
    x = pool[rows, index].view(n, length, factor)
    return standardised(x.mean(dim=-1))
