"""Causal normalisation of windows: the running mean and standard deviation that the architecture sees, patch by patch.

Here: the statistics of `timesfm.torch.util.update_running_stats` and `revin`, for a whole batch of windows at once. Not
here: the decoder, and which windows there are.
"""

from dataclasses import dataclass

import torch

from tsfm_pipeline.forecaster.config import PATCH_LEN

RELATIVE_TOLERANCE = 1e-6
"""A running deviation below this share of the window's own counts as none. The package compares with 1e-6 in the units
of the series, which for a series of ordinary size is the same, and forecasts a series of size 1e-9 as if it were
constant.
"""


@dataclass(frozen=True)
class RunningStatistics:
    """Count, mean and sum of squared deviations [B] after the last patch (float64), and the unit [B] of a patch without
    deviation.
    """

    count: torch.Tensor
    mean: torch.Tensor
    squares: torch.Tensor
    unit: torch.Tensor

    @property
    def sigma(self) -> torch.Tensor:
        """Standard deviation [B] of everything seen."""
        return (self.squares / self.count).sqrt()

    def denormalise(self, outputs: torch.Tensor) -> torch.Tensor:
        """Model outputs [B, N, 10] in the units of the (centred) window, float64."""
        return outputs.double() * self.sigma[:, None, None] + self.mean[:, None, None]


def normalise(patches: torch.Tensor, n_padding: torch.Tensor) -> tuple[torch.Tensor, RunningStatistics]:
    """Normalise whole windows: patches float64 [B, P, 32], of which the first `n_padding` [B] < 32 points are no data.

    Returns the normalised patches float64 [B, P, 32] (0 where there is no data) and the statistics to go on with.
    Accurate at any level and scale (the deviations of each patch are taken from the patch's own mean, and patches are
    merged by Chan's formula, so nothing cancels), as long as the window is centred to float32's own precision by the
    caller.
    """
    batch, n_patches, _ = patches.shape
    zeros = patches.new_zeros(batch)
    count = patches.new_full((batch, n_patches), PATCH_LEN)
    count[:, 0] -= n_padding
    is_padding = torch.arange(PATCH_LEN, device=patches.device) < n_padding[:, None]
    first = patches[:, 0].masked_fill(is_padding, 0.0)
    patches = torch.cat([first[:, None], patches[:, 1:]], dim=1)
    patch_mean = patches.sum(-1) / count
    deviations = patches - patch_mean[..., None]
    deviations[:, 0].masked_fill_(is_padding, 0.0)
    start = RunningStatistics(zeros, zeros, zeros, zeros)
    counts, means, squares = _merge(start, count, patch_mean, deviations.square().sum(-1))
    sigmas = (squares / counts).sqrt()
    unit = torch.where(sigmas[:, -1] > 0, sigmas[:, -1], 1.0)
    normed = (patches - means[..., None]) / _divisor(sigmas, unit)[..., None]
    normed[:, 0].masked_fill_(is_padding, 0.0)
    return normed, RunningStatistics(counts[:, -1], means[:, -1], squares[:, -1], unit)


def normalise_more(statistics: RunningStatistics, patches: torch.Tensor) -> tuple[torch.Tensor, RunningStatistics]:
    """The same for whole patches float64 [B, P, 32] that follow a window, as an autoregressive decode appends them."""
    count = patches.new_full(patches.shape[:2], PATCH_LEN)
    patch_mean = patches.mean(-1)
    patch_squares = (patches - patch_mean[..., None]).square().sum(-1)
    counts, means, squares = _merge(statistics, count, patch_mean, patch_squares)
    normed = (patches - means[..., None]) / _divisor((squares / counts).sqrt(), statistics.unit)[..., None]
    return normed, RunningStatistics(counts[:, -1], means[:, -1], squares[:, -1], statistics.unit)


def _merge(
    start: RunningStatistics, count: torch.Tensor, mean: torch.Tensor, squares: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Running count, mean and sum of squared deviations [B, P] from each patch's (Chan, Golub, LeVeque 1979)."""
    counts = start.count[:, None] + count.cumsum(1)
    means = ((start.count * start.mean)[:, None] + (count * mean).cumsum(1)) / counts
    means_before = torch.cat([start.mean[:, None], means[:, :-1]], dim=1)
    between = (mean - means_before).square() * (counts - count) * count / counts
    return counts, means, start.squares[:, None] + (squares + between).cumsum(1)


def _divisor(sigmas: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    return torch.where(sigmas < RELATIVE_TOLERANCE * unit[:, None], unit[:, None], sigmas)
