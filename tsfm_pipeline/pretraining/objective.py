"""What the trainer minimises: the mean logarithm of each series' loss over all patches, steps and
deciles.

Here: targets of every patch and the loss over them. Not here: the forward (`network`) and the loop
(`train`). Errors are taken in the window's own units after undoing the running normalisation, so a
quiet start cannot blow up the error of a later burst.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tsfm_pipeline.pretraining.corpus import PATCH, TARGET_LEN

SEGMENT_PATCHES = 32
"""A long window counts as several series of this many patches, so that a loud part cannot silence a
quiet one.
"""
LOSS_FLOOR = 1e-3
"""Added before the logarithm, in standard deviations of the window: being more exact than this
earns nothing.
"""
SIGMA_FLOOR = 1e-3
"""Patches whose running deviation is below it (nothing has happened yet) are not scored."""
MEAN_WEIGHT = 0.05


@dataclass(frozen=True)
class SegmentLosses:
    """Per segment [B, segments]: decile loss and squared error of the mean in window units, and
    whether anything was scored.
    """

    pinball: Tensor
    squared: Tensor
    scored: Tensor


def step_weights(device: torch.device) -> Tensor:
    """Weights of the 128 target steps, summing to one: near steps count more, as their errors are
    smaller.
    """
    weight = (torch.arange(TARGET_LEN, device=device, dtype=torch.float32) + 8.0).rsqrt()
    return weight / weight.sum()


def patch_targets(values: Tensor, n_patches: int) -> Tensor:
    """The 128 points after each patch, a view [B, N, 128] of values [B, N * 32 + 128]."""
    return values[:, PATCH:].unfold(1, TARGET_LEN, PATCH)[:, :n_patches]


def segment_losses(points: Tensor, values: Tensor, mu: Tensor, sigma: Tensor) -> SegmentLosses:
    """Losses of normalised forecasts.

    Args:
        points: [B, N, 128, 10], mean first, in normalised units.
        values: float32 [B, N * 32 + 128], of unit spread.
        mu, sigma: running statistics [B, N].
    """
    batch, n_patches = mu.shape
    target = (patch_targets(values, n_patches) - mu[..., None])[..., None]
    error = target - points.float() * sigma[..., None, None]
    levels = torch.arange(1, 10, device=points.device, dtype=torch.float32) / 10
    deciles = error[..., 1:]
    weight = step_weights(points.device)
    # pinball(d) = level * d + relu(-d)
    pinball = ((levels * deciles + torch.relu(-deciles)).mean(-1) * weight).sum(-1)
    squared = (error[..., 0].square() * weight).sum(-1)
    counted = (sigma > SIGMA_FLOOR).float()
    size = min(SEGMENT_PATCHES, n_patches)
    counts = counted.view(batch, -1, size).sum(-1)
    divisor = counts.clamp_min(1.0)
    return SegmentLosses(
        pinball=(pinball * counted).view(batch, -1, size).sum(-1) / divisor,
        squared=(squared * counted).view(batch, -1, size).sum(-1) / divisor,
        scored=counts >= 1,
    )


def objective(losses: SegmentLosses) -> Tensor:
    """Sum over the scored segments: logarithm of the decile loss, plus a little of the logarithm of
    the mean head's error.
    """
    weight = losses.scored.float()
    pinball = torch.log(losses.pinball + LOSS_FLOOR)
    spread = 0.5 * torch.log(losses.squared + LOSS_FLOOR**2)
    return ((pinball + MEAN_WEIGHT * spread) * weight).sum()
