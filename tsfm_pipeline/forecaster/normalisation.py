"""Causal normalisation of windows by the running mean and standard deviation that the architecture
uses, patch by patch.

What belongs here: the statistics of `timesfm.torch.util.update_running_stats` and `revin`, for a
whole batch of windows at once. What does not: the decoder, and the choice of windows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from tsfm_pipeline.forecaster.config import PATCH_LEN

RELATIVE_TOLERANCE = 1e-9
"""A running deviation below this share of the largest value so far counts as zero, because it is a
rounding error. The package compares it with 1e-6 in the units of the series, and therefore
forecasts a series of size 1e-9 as if it were constant.
"""


@dataclass(frozen=True)
class RunningStatistics:
    """Count, mean and sum of squared deviations of all points so far, and the divisor to use where
    the deviation is zero.

    All are float64 of one shape: [B, P] after every patch, or [M] after selected patches.
    """

    count: torch.Tensor
    mean: torch.Tensor
    squares: torch.Tensor
    unit: torch.Tensor

    def at(self, rows: torch.Tensor) -> "RunningStatistics":
        """Return the statistics [M] at these rows of [T]."""
        return RunningStatistics(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def concatenated(cls, parts: "Sequence[RunningStatistics]") -> "RunningStatistics":
        """Return the statistics [B, P] of several groups of windows, concatenated to [T]."""
        return cls(
            *(
                torch.cat([getattr(part, field.name).flatten() for part in parts])
                for field in fields(cls)
            )
        )

    def denormalise(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return model outputs [M, N, 10] in the units of the (centred) windows, float64, by these
        statistics [M].
        """
        return (
            outputs.double() * (self.squares / self.count).sqrt()[:, None, None]
            + self.mean[:, None, None]
        )


def normalise(
    patches: torch.Tensor, n_padding: torch.Tensor
) -> tuple[torch.Tensor, RunningStatistics]:
    """Normalise whole windows: patches float64 [B, P, 32], whose first `n_padding` [B] < 32 points
    are padding.

    Returns the normalised patches float64 [B, P, 32] (0 in the padding) and the statistics [B, P].
    A normalised patch does not depend on later patches. The result is accurate at any level and
    scale if the caller centres the window to float32's own precision: deviations are taken from
    each patch's own mean, and patches are merged by Chan's formula, so nothing cancels.
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
    statistics = _merge(
        start, count, patch_mean, deviations.square().sum(-1), patches.abs().amax(-1)
    )
    normed = (patches - statistics.mean[..., None]) / _divisor(statistics)[..., None]
    normed[:, 0].masked_fill_(is_padding, 0.0)
    return normed, statistics


def normalise_more(
    before: RunningStatistics, patches: torch.Tensor
) -> tuple[torch.Tensor, RunningStatistics]:
    """Normalise patches float64 [B, P, 32] that follow the points counted in `before` [B];
    otherwise as `normalise`.
    """
    count = patches.new_full(patches.shape[:2], PATCH_LEN)
    patch_mean = patches.mean(-1)
    patch_squares = (patches - patch_mean[..., None]).square().sum(-1)
    statistics = _merge(before, count, patch_mean, patch_squares, patches.abs().amax(-1))
    return (patches - statistics.mean[..., None]) / _divisor(statistics)[..., None], statistics


def _merge(
    before: RunningStatistics,
    count: torch.Tensor,
    mean: torch.Tensor,
    squares: torch.Tensor,
    largest: torch.Tensor,
) -> RunningStatistics:
    """Merge the statistics before [B] with each patch's own into statistics [B, P] (Chan, Golub,
    LeVeque 1979).
    """
    counts = before.count[:, None] + count.cumsum(1)
    means = ((before.count * before.mean)[:, None] + (count * mean).cumsum(1)) / counts
    means_before = torch.cat([before.mean[:, None], means[:, :-1]], dim=1)
    between = (mean - means_before).square() * (counts - count) * count / counts
    unit = torch.maximum(largest.cummax(1).values, before.unit[:, None])
    return RunningStatistics(
        counts, means, before.squares[:, None] + (squares + between).cumsum(1), unit
    )


def _divisor(statistics: RunningStatistics) -> torch.Tensor:
    """Return the divisor of each patch [B, P]: the running deviation, or the unit where there is
    none; never 0.
    """
    sigma = (statistics.squares / statistics.count).sqrt()
    unit = torch.where(statistics.unit > 0, statistics.unit, 1.0)
    return torch.where(sigma < RELATIVE_TOLERANCE * unit, unit, sigma)
