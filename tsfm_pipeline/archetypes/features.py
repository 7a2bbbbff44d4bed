"""Features of tenants: a few numbers per metric that describe telemetry.

What belongs here: feature matrices [N, F] from values [N, D, T], for all tenants at once, and the
windows to which short histories are compared. What does not: scaling over tenants and finding
neighbours (`index`).

NaN is a value that was not observed, and no feature uses it. A metric without any observed value
has NaN features, which the index replaces by those of the average tenant. Steps are the fleet's
own; no feature depends on their duration.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

BASE_FEATURES = ("mean", "std", "min", "max", "p90", "autocorrelation", "share_high")
MOVEMENT_FEATURES = ("typical_step", "jumps_per_1000_steps", "comovement")
HIGH_IN_STANDARD_DEVIATIONS = 1.5
JUMP_IN_TYPICAL_STEPS = 8.0
LOG_UNIT = 1e-3
_VALUES_PER_BLOCK = 1 << 19
_GOLDEN_RATIO = (5**0.5 - 1) / 2


def feature_names(metrics: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the columns of `tenant_features`, such as cpu_util_mean: seven per
    metric.
    """
    return tuple(f"{metric}_{name}" for metric in metrics for name in BASE_FEATURES)


def movement_feature_names(metrics: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the columns of `movement_features`: three per metric."""
    return tuple(f"{metric}_{name}" for metric in metrics for name in MOVEMENT_FEATURES)


def retrieval_feature_names(metrics: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the columns of `retrieval_features`: the raw ones, then the same with the
    prefix log_.
    """
    names = feature_names(metrics) + movement_feature_names(metrics)
    return names + tuple(f"log_{name}" for name in names)


def tenant_features(values: ArrayLike) -> NDArray[np.float64]:
    """Return the seven base features of every metric.

    values [N, D, T] (float32 is kept as it is, sums are taken in float64) -> float64 [N, D * 7],
    metric by metric: mean, standard deviation, minimum, maximum, 90th percentile, lag-1
    autocorrelation and share of observed points above mean + 1.5 standard deviations. A constant
    series has autocorrelation 0 and share 0. Raises ValueError for fewer than two steps, and for
    values of another shape or dtype.
    """
    values = _checked(values)
    n_tenants, n_metrics, n_steps = values.shape
    features = np.empty((n_tenants, n_metrics, len(BASE_FEATURES)))
    for rows in _blocks(values):
        block = values[rows].reshape(-1, n_steps)
        features[rows] = _base_statistics(block).reshape(-1, n_metrics, len(BASE_FEATURES))
    return features.reshape(n_tenants, -1)


def movement_features(values: ArrayLike) -> NDArray[np.float64]:
    """Return three features of every metric's one-step differences; they distinguish tenants of
    similar level.

    values [N, D, T] -> float64 [N, D * 3], metric by metric: the median absolute difference (the
    size of a typical step, insensitive to spikes), the number of rises of more than eight such
    steps per 1,000 steps (spikes), and the mean agreement in sign with the differences of the other
    metrics, -1 to 1 (high where a common load moves the metrics; 0 where there is only one metric).
    """
    values = _checked(values)
    features = np.empty((*values.shape[:2], len(MOVEMENT_FEATURES)))
    for rows in _blocks(values):
        features[rows] = _movement_statistics(np.diff(values[rows], axis=2))
    return features.reshape(len(values), -1)


def log_features(features: ArrayLike) -> NDArray[np.float64]:
    """Return the features, followed by their signed logarithms, sign(x) log(1 + |x| / 0.001).

    features [N, F] -> float64 [N, 2 F]. Levels differ by orders of magnitude between tenants, and
    the largest ones dominate a standardised raw feature. The unit of 0.001 makes the logarithm
    effective for metrics that are fractions as well.
    """
    features = np.asarray(features, dtype=np.float64)
    return np.concatenate(
        [features, np.sign(features) * np.log1p(np.abs(features) / LOG_UNIT)], axis=1
    )


def retrieval_features(values: ArrayLike) -> NDArray[np.float64]:
    """Return the features that both indexes store: values [N, D, T] -> float64 [N, D * 20], all
    features and their logarithms.
    """
    return log_features(
        np.concatenate([tenant_features(values), movement_features(values)], axis=1)
    )


def window_starts(
    tenant_numbers: Sequence[int], first: int, last: int, length: int, n_windows: int, seed: int
) -> NDArray[np.int64]:
    """Return the steps at which each tenant's windows begin, spread evenly over its steps first ..
    last.

    -> int64 [N, n_windows]; a window is [start, start + length) and lies within first .. last.
    Positions follow the golden ratio from an offset that depends on (seed, tenant number) alone.
    Raises ValueError where the steps are fewer than `length`.
    """
    room = last - first + 2 - length
    if room < 1 or length < 2:
        raise ValueError(
            f"windows of {length} steps do not fit into steps {first} to {last}; at least 2 and "
            "at most all fit"
        )
    offsets = [
        np.random.default_rng(np.random.SeedSequence((seed, number))).random()
        for number in tenant_numbers
    ]
    position = (np.array(offsets).reshape(-1, 1) + np.arange(n_windows) * _GOLDEN_RATIO) % 1.0
    return first + np.floor(position * room).astype(np.int64)


def window_features(values: ArrayLike, starts: ArrayLike, length: int) -> NDArray[np.float64]:
    """Return the retrieval features of windows: values [N, D, T], starts int [N, W] -> float64 [N,
    W, D * 20].
    """
    values, starts = _checked(values), np.asarray(starts)
    windows = np.lib.stride_tricks.sliding_window_view(
        values, length, axis=2
    )  # [N, D, T - length + 1, length], a view
    features = [
        retrieval_features(np.moveaxis(windows[n][:, starts[n]], 1, 0)) for n in range(len(values))
    ]
    return np.stack(features)


def _base_statistics(block: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the base features of rows [R, T] -> [R, 7]."""
    observed = ~np.isnan(block)
    n_observed = observed.sum(axis=1)
    n = np.where(n_observed > 0, n_observed, np.nan)
    deviation = np.where(observed, block, 0.0).astype(np.float64)
    mean = deviation.sum(axis=1) / n
    deviation -= mean[:, None]
    deviation[~observed] = 0.0
    variance = np.einsum("rt,rt->r", deviation, deviation) / n
    std = np.sqrt(variance)
    lowest, highest = (
        np.fmin.reduce(block, axis=1).astype(np.float64),
        np.fmax.reduce(block, axis=1).astype(np.float64),
    )
    varies = highest > lowest
    n_pairs = np.maximum((observed[:, 1:] & observed[:, :-1]).sum(axis=1), 1)
    covariance = np.einsum("rt,rt->r", deviation[:, 1:], deviation[:, :-1]) / n_pairs
    autocorrelation = np.divide(covariance, variance, out=np.zeros_like(mean), where=varies)
    share_high = np.where(
        varies, (deviation > HIGH_IN_STANDARD_DEVIATIONS * std[:, None]).sum(axis=1) / n, 0.0
    )
    statistics = [
        mean,
        np.where(varies, std, 0.0),
        lowest,
        highest,
        _quantile(block, n_observed, 0.9),
        np.clip(autocorrelation, -1.0, 1.0),
        share_high,
    ]
    return np.where((n_observed > 0)[:, None], np.stack(statistics, axis=1), np.nan)


def _movement_statistics(steps: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the movement features of one-step differences [N, D, T - 1] -> [N, D, 3]."""
    n_tenants, n_metrics, n_steps = steps.shape
    observed = ~np.isnan(steps)
    n_observed = observed.sum(axis=2)
    typical = _quantile(np.abs(steps).reshape(-1, n_steps), n_observed.ravel(), 0.5).reshape(
        n_tenants, n_metrics
    )
    threshold = (JUMP_IN_TYPICAL_STEPS * typical).astype(steps.dtype)
    jumps = (steps > threshold[..., None]).sum(axis=2) / np.maximum(n_observed, 1)
    sign = np.where(observed, np.sign(steps), 0.0).astype(np.float32)
    both = observed.astype(np.float32)
    agreement = (sign @ sign.swapaxes(1, 2)) / np.maximum(
        both @ both.swapaxes(1, 2), 1.0
    )  # [N, D, D]
    agreement[:, np.arange(n_metrics), np.arange(n_metrics)] = 0.0
    comovement = agreement.sum(axis=2) / max(n_metrics - 1, 1)
    statistics = np.stack([typical, 1000.0 * jumps, comovement], axis=2)
    return np.where((n_observed > 0)[..., None], statistics, np.nan)


def _quantile(
    rows: NDArray[np.floating], n_observed: NDArray[np.int64], level: float
) -> NDArray[np.float64]:
    """Return the linearly interpolated quantile of each row [R, T] -> [R], over observed values,
    NaN where there is none.

    NaN sorts after every number, so rows with the same number of observed values are partitioned
    together.
    """
    quantiles = np.full(len(rows), np.nan)
    for n in np.unique(n_observed[n_observed > 0]):
        rows_with_n = n_observed == n
        position = level * (n - 1)
        lower = int(position)
        upper = min(lower + 1, int(n) - 1)
        partitioned = np.partition(
            rows if rows_with_n.all() else rows[rows_with_n], (lower, upper), axis=1
        )[:, [lower, upper]]
        low, high = partitioned.astype(np.float64).T
        quantiles[rows_with_n] = low + (position - lower) * (high - low)
    return quantiles


def _blocks(values: NDArray[np.floating]) -> Iterator[slice]:
    """Yield slices of tenants, small enough that a block and its float64 copies stay in cache."""
    per_block = max(1, _VALUES_PER_BLOCK // max(1, values.shape[1] * values.shape[2]))
    for start in range(0, len(values), per_block):
        yield slice(start, start + per_block)


def _checked(values: ArrayLike) -> NDArray[np.floating]:
    values = np.asarray(values)
    if values.ndim != 3 or values.shape[2] < 2 or not np.issubdtype(values.dtype, np.floating):
        raise ValueError(
            f"values are {values.dtype} {values.shape}; expected floats [tenants, metrics, "
            "steps], two steps or more"
        )
    return values
