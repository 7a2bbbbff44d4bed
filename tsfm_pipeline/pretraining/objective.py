"""Define the training objective: the mean logarithm of each series' loss over all patches, steps
and deciles.

What belongs here: the targets of every patch and the loss over them. What does not: the forward
pass (`network`) and the loop (`train`). Errors are measured in the window's own units, after
undoing the running normalisation. Otherwise a quiet start would inflate the error of a later burst.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tsfm_pipeline.pretraining.corpus import PATCH, TARGET_LEN

SEGMENT_PATCHES = 32
"""A long window counts as several series of this many patches. Otherwise a part with large values
would dominate the loss of a quiet part.
"""
LOSS_FLOOR = 1e-3
"""Added before the logarithm, in standard deviations of the window, so that errors below this size
hardly change the objective.
"""
SIGMA_FLOOR = 1e-3
"""Patches with a smaller running deviation (constant so far) are not scored."""
MEAN_WEIGHT = 0.05


@dataclass(frozen=True)
class SegmentLosses:
    """Losses per segment [B, segments]: decile loss and squared error of the mean in window units,
    and whether any patch was scored.
    """

    pinball: Tensor
    squared: Tensor
    scored: Tensor


def step_weights(device: torch.device) -> Tensor:
    """Return the weights of the 128 target steps, summing to one. Near steps have larger weights
    because their errors are smaller.
    """
    weight = (torch.arange(TARGET_LEN, device=device, dtype=torch.float32) + 8.0).rsqrt()
    return weight / weight.sum()


def patch_targets(values: Tensor, n_patches: int) -> Tensor:
    """Return the 128 points after each patch, a view [B, N, 128] of values [B, N * 32 + 128]."""
    return values[:, PATCH:].unfold(1, TARGET_LEN, PATCH)[:, :n_patches]


def segment_losses(
    points: Tensor, values: Tensor, mu: Tensor, sigma: Tensor, observed: Tensor | None = None
) -> SegmentLosses:
    """Return the losses of normalised forecasts.

    Args:
        points: [B, N, 128, 10], mean first, in normalised units.
        values: float32 [B, N * 32 + 128], of unit spread.
        mu, sigma: running statistics [B, N].
        observed: bool [B, N * 32 + 128], the points that are scored; None scores all of them. A
            patch without any counts no more than one whose running deviation is too small.
    """
    batch, n_patches = mu.shape
    target = (patch_targets(values, n_patches) - mu[..., None])[..., None]
    error = target - points.float() * sigma[..., None, None]
    levels = torch.arange(1, 10, device=points.device, dtype=torch.float32) / 10
    deciles = error[..., 1:]
    weight, counted = step_weights(points.device), sigma > SIGMA_FLOOR
    if observed is not None:
        weight = weight * patch_targets(observed, n_patches)
        total = weight.sum(-1)
        counted = counted & (total > 0)
        weight = weight / total.clamp_min(1e-9)[..., None]
    # pinball(d) = level * d + relu(-d)
    pinball = ((levels * deciles + torch.relu(-deciles)).mean(-1) * weight).sum(-1)
    squared = (error[..., 0].square() * weight).sum(-1)
    size = min(SEGMENT_PATCHES, n_patches)
    counts = counted.float().view(batch, -1, size).sum(-1)
    divisor = counts.clamp_min(1.0)
    return SegmentLosses(
        pinball=(pinball * counted).view(batch, -1, size).sum(-1) / divisor,
        squared=(squared * counted).view(batch, -1, size).sum(-1) / divisor,
        scored=counts >= 1,
    )


def objective(losses: SegmentLosses) -> Tensor:
    """Return the sum over the scored segments of the log decile loss plus a small multiple of the
    log error of the mean.
    """
    weight = losses.scored.float()
    pinball = torch.log(losses.pinball + LOSS_FLOOR)
    spread = 0.5 * torch.log(losses.squared + LOSS_FLOOR**2)
    return ((pinball + MEAN_WEIGHT * spread) * weight).sum()
