"""One constant for a whole block of steps: its value from the steps' distributions, and its cost.

What belongs here: the quantile of a block's pooled distribution, the allowance for a block's
maximum with its calibration, and the scores of constants. What does not: the distributions
themselves (`autoresearch`), the choice of blocks (`requests`), and decisions per step (`scoring`).
Axes: S series, O origins, R requests, D metrics, A tiers, H steps of a block, B past blocks; `...`
any leading axes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.evaluation.arrays import violation_rate
from tsfm_pipeline.evaluation.limits import UNLIMITED, Limits
from tsfm_pipeline.evaluation.losses import DECILE_LEVELS, N_DECILES, mean_pinball

Floats = NDArray[np.floating]

N_POINTS = 40
"""Equally likely values that stand for the distribution of one step."""
PAST_DAYS = 7
MIN_PAST_BLOCKS = 10
"""Fewest past blocks from which a block's allowance is computed; it uses a week's blocks where
there are more.
"""
CONSTANT_SCORES = ("loss", "violation_rate", "slack", "shortfall", "covered")
_ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class Expected:
    """What the block's pooled distribution predicts for a constant [...]: the mean reserved but
    unused, and the mean used but not reserved.
    """

    slack: Floats
    shortfall: Floats


def pooled_quantiles(deciles: Floats, alphas: Sequence[float]) -> Floats:
    """Return the quantiles of a block's pooled distribution, the mixture of its steps'
    distributions with equal weights.

    deciles [..., H, 9] -> [..., len(alphas)], in the units of the deciles; NaN where a step's are.
    The alpha-quantile is the constant with the lowest expected pinball loss over all of the block's
    steps. A step's quantiles are interpolated between deciles; beyond the outer ones its tails are
    exponential, see `_points`.
    """

    def quantiles(points: Floats) -> Floats:
        return np.moveaxis(np.quantile(points, np.asarray(alphas), axis=-1, method="hazen"), 0, -1)

    parts = [quantiles(points) for points in _pooled_points(deciles)]
    empty = np.empty((0, len(alphas)))
    return np.concatenate([empty, *parts]).reshape(*deciles.shape[:-2], len(alphas))


def expected_excess(deciles: Floats, constant: Floats, limits: Limits = UNLIMITED) -> Expected:
    """Return the expected slack and shortfall of a constant [...] per step of a block with deciles
    [..., H, 9]. limits: of each constant, in order; the steps' distributions end there.
    """
    flat = constant.reshape(-1)
    slack, shortfall = np.empty(flat.shape), np.empty(flat.shape)
    first = 0
    for points in _pooled_points(deciles):
        rows = slice(first, first + len(points))
        within = limits.take(np.arange(len(flat))[rows]).clip(points)
        above = flat[rows, None] - within
        slack[rows], shortfall[rows] = (
            np.maximum(above, 0).mean(axis=-1),
            np.maximum(-above, 0).mean(axis=-1),
        )
        first += len(points)
    return Expected(slack.reshape(constant.shape), shortfall.reshape(constant.shape))


def peak_allowances(
    values: Floats,
    origins: NDArray[np.integer],
    horizon: int,
    n_blocks: int,
    alphas: Sequence[float],
) -> Floats:
    """Return how far a series' block maxima rose above their block's alpha-quantile before each
    origin: the alpha-quantile over blocks.

    values [S, T] (NaN = missing), origins [S, O], -> [S, O, A] in the units of the values. The B =
    n_blocks blocks are adjacent and end with the origin. A block counts if half or more of its
    steps are observed. NaN where fewer than `MIN_PAST_BLOCKS` blocks count.
    """
    n_series, n_origins = origins.shape
    before = np.arange(n_blocks * horizon)[::-1].reshape(
        n_blocks, horizon
    )  # steps before the origin
    allowances = np.full((n_series, n_origins, len(alphas)), np.nan)
    for s in range(n_series):
        steps = origins[s][:, None, None] - before  # [O, B, H]
        blocks = np.where(steps >= 0, values[s][np.maximum(steps, 0)], np.nan)
        counted = 2 * (~np.isnan(blocks)).sum(axis=-1) >= horizon  # [O, B]
        peak = np.fmax.reduce(blocks, axis=-1)
        rise = peak[..., None] - observed_quantiles(blocks, alphas)  # [O, B, A]
        rise = np.where(counted[..., None], rise, np.nan).swapaxes(-1, -2)  # [O, A, B]
        for a, alpha in enumerate(alphas):
            allowances[s, :, a] = observed_quantiles(rise[:, a], (alpha,), MIN_PAST_BLOCKS)[..., 0]
    return allowances


def n_past_blocks(horizon: int, steps_per_day: int) -> int:
    """Return the number of blocks in a week, but at least `MIN_PAST_BLOCKS`."""
    return max(MIN_PAST_BLOCKS, PAST_DAYS * steps_per_day // horizon)


def block_before(values: Floats, origins: NDArray[np.integer], horizon: int, ago: int) -> Floats:
    """Return the `horizon` steps that begin `ago` steps before the first one after each origin:
    values [S, T], origins [S, O] -> [S, O, H].

    NaN before the first step. Raises ValueError unless ago >= horizon, because a later block would
    contain steps after the origin.
    """
    if ago < horizon:
        raise ValueError(
            f"a block of {horizon} steps, {ago} steps ago, would reach beyond the origin; ago "
            f"must be {horizon} or more"
        )
    steps = origins[..., None] + 1 - ago + np.arange(horizon)
    return np.where(
        steps >= 0, values[np.arange(len(values))[:, None, None], np.maximum(steps, 0)], np.nan
    )


def observed_quantiles(samples: Floats, levels: Sequence[float], min_samples: int = 1) -> Floats:
    """Return quantiles [..., L] of the values among samples [..., N] that are not NaN; NaN where
    there are fewer than `min_samples`.

    Linear interpolation between order statistics (type 7 of Hyndman and Fan, 1996), as numpy's
    default.
    """
    ordered = np.sort(samples, axis=-1)  # NaN last
    n = np.count_nonzero(~np.isnan(samples), axis=-1)[..., None]
    position = np.maximum(n - 1, 0) * np.asarray(levels)  # [..., L]
    below = position.astype(np.int64)
    low = np.take_along_axis(ordered, below, axis=-1)
    high = np.take_along_axis(ordered, np.minimum(below + 1, np.maximum(n - 1, 0)), axis=-1)
    return np.where(n >= min_samples, low + (position - below) * (high - low), np.nan)


def peak_factor(peak: Floats, constant: Floats, allowance: Floats, alpha: float) -> float:
    """Return the number of allowances above the constant that a share alpha of the blocks' maxima
    stays within: all [M] -> one number, at least 0.

    Split conformal calibration of (peak - constant) / allowance, with the finite-sample rank
    ceil((M + 1) alpha) (Vovk et al., 2005; Romano, Patterson and Candes, 2019): a new, exchangeable
    block is covered with a probability of at least alpha. Blocks with NaN are left out. A block
    whose allowance is 0 is covered by every factor or by none. NaN where no block is left.
    """
    known = ~np.isnan(peak + constant + allowance)
    rise, unit = (peak - constant)[known], allowance[known]
    if not len(rise):
        return float("nan")
    needed = np.where(
        unit > 0, rise / np.where(unit > 0, unit, 1.0), np.where(rise > 0, np.inf, 0.0)
    )
    rank = min(len(needed), int(np.ceil((len(needed) + 1) * alpha)))
    factor = np.sort(needed)[rank - 1]
    if np.isinf(factor):
        factor = needed[np.isfinite(needed)].max(initial=0.0)
    return max(0.0, float(factor))


def score_constants(actual: Floats, constant: Floats, alphas: Sequence[float]) -> dict[str, Floats]:
    """Return the scores of constants: actual [R, D, H] (NaN = not observed), constant [R, D, A] ->
    {score: float32 [R, D, A]}.

    loss: pinball loss at the tier's alpha, mean over observed steps; violation_rate: share of these
    above the constant; slack and shortfall: mean reserved but unused, and used but not reserved, in
    units of the metric; covered: 1 where no observed step is above the constant, else 0. NaN where
    nothing was observed or reserved.
    """
    observed = ~np.isnan(actual)
    mean = np.where(observed, actual, 0.0).sum(axis=-1) / np.maximum(observed.sum(axis=-1), 1)
    columns: dict[str, list[Floats]] = {name: [] for name in CONSTANT_SCORES}
    for a, alpha in enumerate(alphas):
        own = np.broadcast_to(constant[..., a, None], actual.shape)
        loss, rate = mean_pinball(actual, own, alpha), violation_rate(actual, own)
        # loss = alpha shortfall + (1 - alpha) slack, and slack - shortfall = constant - mean.
        above = constant[..., a] - mean
        slack, shortfall = (
            np.maximum(loss + alpha * above, 0.0),
            np.maximum(loss - (1 - alpha) * above, 0.0),
        )
        covered = np.where(np.isnan(rate), np.nan, rate == 0)
        for name, part in zip(
            CONSTANT_SCORES, (loss, rate, slack, shortfall, covered), strict=True
        ):
            columns[name].append(part)
    return {name: np.stack(parts, axis=-1).astype(np.float32) for name, parts in columns.items()}


def _pooled_points(deciles: Floats) -> Iterator[Floats]:
    """Yield the H * N_POINTS equally likely values of each block, some rows at a time: deciles
    [..., H, 9] -> arrays [rows, H * N_POINTS].
    """
    weights = _points()
    flat = deciles.reshape(-1, *deciles.shape[-2:])
    for start in range(0, len(flat), _ROWS_AT_ONCE):
        yield (flat[start : start + _ROWS_AT_ONCE] @ weights).reshape(-1, flat.shape[1] * N_POINTS)


def _points() -> NDArray[np.float64]:
    """Return weights [9, N_POINTS] that convert deciles to quantiles at the levels (i + 1/2) /
    N_POINTS.

    Between deciles the quantile function is linear. Beyond the outer deciles it is that of an
    exponential tail through the outer two deciles: above, P(x > q.9 + t) = 0.1 * 2^(-t / (q.9 -
    q.8)), so that the quantile at level u is q.9 + (q.9 - q.8) * log2(0.1 / (1 - u)).
    """
    levels = (np.arange(N_POINTS) + 0.5) / N_POINTS
    weights = np.stack([np.interp(levels, DECILE_LEVELS, unit) for unit in np.eye(N_DECILES)])
    for outer, inner, beyond in ((8, 7, 1 - levels), (0, 1, levels)):
        tail = beyond < DECILE_LEVELS[0]
        reach = np.log2(DECILE_LEVELS[0] / beyond[tail])
        weights[:, tail] = 0.0
        weights[outer, tail], weights[inner, tail] = 1 + reach, -reach
    return weights
