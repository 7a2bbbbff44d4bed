"""Compose corpus 3: corpus 2 with more time scales, heavier tails and missing points. Corpus 4 has
the same series, but some of its windows change from one to another (`spliced`).

What belongs here: the recipe, which points are missing, and windows that show a missing point as
masked or as filled. What does not: what corpus 2 has too (`corpus`), and the processes
(`processes`, `added_processes`). As there, everything is a pure function of (seed, block number) or
(seed, step).

A missing point is NaN in the pool, and no loss is taken on it. Half of the windows mask their
missing points, and half fill them with the last value before, as the forecaster does. The gaps of
corpus 2, in which a sensor goes on reporting its last value, remain: there the repeated values
count.
"""

import torch
from torch import Tensor

from tsfm_pipeline.pretraining.added_processes import PROCESSES_3, ROWS_PER_DAY
from tsfm_pipeline.pretraining.corpus import (
    BLOCK_STREAM,
    GROUPS,
    PATCH,
    SERIES_LEN,
    TARGET_LEN,
    WINDOW_STREAM,
    Recipe,
    Windows,
    bounded,
    composed,
    measured,
)
from tsfm_pipeline.pretraining.draw import Draw, clock, event_mask, held

AGGREGATIONS = (1, 1, 1, 1, 2, 2, 3, 4, 5, 6, 8, 10, 12, 15, 24, 24, 48, 60)
MASKED_SHARE = 0.5
SPLICED_SHARE = 0.4
"""Share of the windows of `LONGEST_CONTEXT` points in which another series comes first; shorter
windows have proportionately fewer, because such a change comes at any time.
"""
LONGEST_CONTEXT = 4096
CORPUS_3 = Recipe(
    PROCESSES_3,
    {
        # Harmonics keep the share that they have in corpus 2.
        "seasonal": (*GROUPS["seasonal"], "harmonics", *["workweek"] * 3, "daily_rows"),
        "slow": (*GROUPS["slow"], "heavy_jumps", "capacity_ramp"),
        "noise": (*GROUPS["noise"], "clustered_bursts"),
        "event": (
            *GROUPS["event"],
            "clustered_bursts",
            "plateaus",
            "seasonal_spikes",
            "heavy_jumps",
        ),
        "bare": (*GROUPS["bare"], "daily_rows", "daily_rows", "resting_jobs", "bursty_counts"),
    },
)


def generate_block(
    seed: int, block: int, n: int, device: torch.device, length: int = SERIES_LEN
) -> Tensor:
    """Return one block of corpus 3, float32 [n, length], NaN where a point is missing. It is a pure
    function of the arguments and of the kind of device.
    """
    draw = Draw(seed, 2 * block + BLOCK_STREAM, device)
    x = bounded(measured(draw, composed(draw, n, length, CORPUS_3)))
    return torch.where(missing_points(draw, n, length), torch.nan, x)


def missing_points(draw: Draw, n: int, length: int) -> Tensor:
    """Return which points are missing, bool [n, length]: in six of ten series none, else single
    points, outages, regular pauses (nights, weekends, maintenance) or two of these.
    """
    single = draw.uniform(n, 0.0, 1.0, length) < draw.log_uniform(n, 0.002, 0.6)
    renew = event_mask(draw, n, length, 4.0, 1500.0)
    outage = held(draw.uniform(n, 0.0, 1.0, length) < draw.log_uniform(n, 0.01, 0.4), renew)
    table = torch.tensor([*ROWS_PER_DAY, 7.0, 168.0, 672.0, 1440.0], device=draw.device)
    period = table[draw.integers(n, 0, len(table))]
    phase = (clock(draw, length) / period + draw.uniform(n)) % 1.0
    pause = phase < draw.uniform(n, 0.03, 0.65)
    kind = draw.uniform(n)
    return (
        (single & (kind < 0.2))
        | (outage & (kind >= 0.1) & (kind < 0.34))
        | (pause & (kind >= 0.3) & (kind < 0.4))
    )


def sample_windows(
    pool: Tensor, seed: int, step: int, n: int, patches: int, splices: bool = False
) -> Windows:
    """Cut training windows out of a pool, as `corpus.sample_windows` does, with missing points.

    Args:
        pool: float32 [series, SERIES_LEN]; NaN = missing.
        n: windows wanted, a multiple of 4 (each quarter has its own aggregation).
        patches: context patches of each window.
        splices: let some windows change from one series to another, as corpus 4 does (`spliced`).

    Returns:
        windows of unit spread. Missing points are masked, or filled with the last value before, and
        are not observed; one window in five has 1 to 31 masked leading points.
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
        blended = first + draw.uniform(quarter, 0.1, 1.0) * second
        window = torch.where(draw.chance(quarter, 0.12), blended, first)
        if splices:
            changes = draw.chance(quarter, SPLICED_SHARE * patches * PATCH / LONGEST_CONTEXT)
            window = torch.where(changes, spliced(draw, window, second), window)
        quarters.append(window)
    x = torch.cat(quarters)
    x = torch.where(draw.chance(n, 0.25), -x, x)
    x = torch.where(draw.chance(n, 0.05), x.flip(-1), x)
    leading = draw.chance(n, 0.2) * draw.integers(n, 0, PATCH)
    return windows_of(x, draw.chance(n, MASKED_SHARE), leading)


def spliced(draw: Draw, x: Tensor, earlier: Tensor) -> Tensor:
    """Return series that follow another one up to a random point of the context, as a machine does
    that was restarted, moved or given another job: level, spread and dynamics change at once.

    x, earlier: float32 [n, length], both of unit spread; NaN = missing.
    """
    n, length = x.shape
    change = draw.uniform(n, 0.0, length - TARGET_LEN)
    before = torch.arange(length, device=x.device)[None] < change
    other = 2.0 * draw.normal(n) + draw.log_uniform(n, 0.1, 10.0) * earlier
    return torch.where(before, other, x)


def windows_of(x: Tensor, masks: Tensor, leading: Tensor) -> Windows:
    """Return series [B, N * 32 + 128] with NaN as windows of unit spread.

    Args:
        masks: bool [B, 1], whether to mask missing points or to fill them with the last value
            before. What is missing before the first value is always masked.
        leading: int [B, 1], how many of the first points are masked in any case.
    """
    x = standardised_observed(x)
    observed = ~x.isnan()
    filled = held(x, observed)
    hidden = (~observed & masks) | filled.isnan()
    hidden |= torch.arange(x.shape[1], device=x.device)[None] < leading
    return Windows(filled.nan_to_num(0.0), hidden[:, :-TARGET_LEN], observed)


def standardised_observed(x: Tensor) -> Tensor:
    """Return each row with zero mean and unit deviation of the points that are not NaN; a constant
    row becomes zero.
    """
    observed = ~x.isnan()
    count = observed.sum(-1, keepdim=True).clamp_min(1)
    known = x.nan_to_num(0.0)
    centred = torch.where(observed, known - known.sum(-1, keepdim=True) / count, 0.0)
    spread = (centred.square().sum(-1, keepdim=True) / count).sqrt()
    return torch.where(observed, centred / spread.clamp_min(1e-6), torch.nan)


def _crop(draw: Draw, pool: Tensor, n: int, length: int, factor: int) -> Tensor:
    """Return random crops of unit spread [n, length]. Each point is the mean of those of `factor`
    steps that are not missing, and missing where all are.
    """
    rows = draw.integers(n, 0, pool.shape[0])
    starts = draw.integers(n, 0, pool.shape[1] - length * factor + 1)
    index = starts + torch.arange(length * factor, device=pool.device)[None]
    x = pool[rows, index].view(n, length, factor)
    return standardised_observed(x.nanmean(dim=-1) if factor > 1 else x[..., 0])
