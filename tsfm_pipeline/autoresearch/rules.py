"""From evidence and priors to weights over configurations: the arithmetic of every decision.

What belongs here: pure functions of losses. What does not: where the losses come from (`evidence`), which constants are used (`policy`).
Axes: K configurations, J validation origins; any leading axes. NaN marks a configuration that is unavailable there.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def relative(losses: Floats) -> Floats:
    """Losses [..., K] over their mean over the available configurations, so that evidence and prior share a unit.

    Where every available loss is 0 (a constant series), all of them are 1: nothing speaks for one over the other.
    """
    available = np.isfinite(losses)
    total = np.where(available, losses, 0.0).sum(axis=-1, keepdims=True)
    mean = total / np.maximum(available.sum(axis=-1, keepdims=True), 1)
    return np.where(mean > 0, losses / np.where(mean > 0, mean, 1.0), np.where(available, 1.0, np.nan))


def mean_on_shared_windows(losses: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Mean loss of each configuration over the windows that all of them share: losses [..., K, J] -> mean and number of windows [..., K].

    A window is shared where every configuration that has any loss has one: a mean over other windows would compare windows, not
    configurations. A configuration without any loss has mean NaN and number 0.
    """
    seen = np.isfinite(losses)
    usable = seen.any(axis=-1, keepdims=True)  # [..., K, 1]
    shared = (seen | ~usable).all(axis=-2, keepdims=True) & usable  # [..., K, J]
    n = shared.sum(axis=-1)  # [..., K]
    mean = np.where(shared, losses, 0.0).sum(axis=-1) / np.maximum(n, 1)
    return np.where(n > 0, mean, np.nan), n


def posterior_losses(evidence: Floats, prior: Floats, kappa: float) -> Floats:
    """The shrunken loss (n * evidence + kappa * prior) / (n + kappa) of each configuration.

    evidence [..., K, J] validation losses, prior [..., K] relative losses of other tenants -> [..., K], relative. n counts the
    validation origins that `mean_on_shared_windows` compares on. A configuration without evidence keeps its prior, one without a prior
    (NaN) its evidence. Evidence on some of the configurations says how these compare, not how they compare with the others: it is
    put on the level that the prior gives to the configurations that have both. Source: issue "A search that wins", rule of
    shrinkage; it is the posterior mean of a normal mean with prior weight kappa.
    """
    mean, n = mean_on_shared_windows(evidence)
    mean, prior = relative(mean), relative(prior)
    both = np.isfinite(mean) & np.isfinite(prior)
    level_of_mean, level_of_prior = (np.where(both, part, 0.0).sum(axis=-1, keepdims=True) for part in (mean, prior))
    mean = mean * np.where(level_of_mean * level_of_prior > 0, level_of_prior / np.where(level_of_mean > 0, level_of_mean, 1.0), 1.0)
    blended = (n * np.nan_to_num(mean) + kappa * np.nan_to_num(prior)) / (n + kappa)
    return np.where(n == 0, prior, np.where(np.isnan(prior), mean, blended))


def weights(posterior: Floats, available: NDArray[np.bool_], temperature: float) -> Floats:
    """Weights [..., K] over the available configurations, summing to 1 (all NaN where none is available).

    Temperature 0 puts all weight on the lowest posterior loss (the first of equals); otherwise softmax of -posterior / temperature,
    with the temperature in units of the mean loss. A configuration of unknown posterior counts as average.
    """
    score = np.where(np.isnan(posterior), 1.0, posterior)
    score = np.where(available, score, np.inf)
    best = score.min(axis=-1, keepdims=True)
    finite_best = np.where(np.isfinite(best), best, 0.0)
    if temperature == 0:
        raw = (np.arange(score.shape[-1]) == score.argmin(axis=-1)[..., None]).astype(np.float64)
        raw = np.where(available, raw, 0.0)
    else:
        raw = np.where(available, np.exp(-(np.where(available, score, finite_best) - finite_best) / temperature), 0.0)
    total = raw.sum(axis=-1, keepdims=True)
    return np.where(total > 0, raw / np.where(total > 0, total, 1.0), np.nan)


def combine(weight: Floats, deciles: Floats) -> Floats:
    """Quantile-wise average: weight [..., K], deciles [..., K, H, Q] -> [..., H, Q]; NaN where a weighted configuration is unavailable."""
    used = np.asarray(weight > 0)
    terms = np.where(used[..., None, None], deciles, 0.0)
    combined = np.einsum("...k,...khq->...hq", np.where(used, weight, 0.0), terms)
    return np.where(np.asarray(used.any(axis=-1))[..., None, None], combined, np.nan)


def level_correction(violations: Floats, weight: Floats, alpha: float, gain: float) -> Floats:
    """How far the decision quantile moves, in units of q.9 - q.5: gain x (mean violation rate in the validation windows - (1 - alpha)).

    violations [..., K, J] shares of steps above the decision quantile of each configuration, weight [..., K] -> [...]. Positive raises the
    reservation. Source: the proportional term of conformal PID control (Angelopoulos, Candes and Tibshirani, 2023).
    """
    if gain == 0:
        return np.zeros(weight.shape[:-1])
    seen = np.isfinite(violations)
    mean = np.where(seen, np.nan_to_num(violations), 0.0).sum(axis=-1) / np.maximum(seen.sum(axis=-1), 1)  # [..., K]
    usable = np.where(seen.any(axis=-1) & (weight > 0), weight, 0.0)
    total = usable.sum(axis=-1)
    rate = np.where(total > 0, (usable * mean).sum(axis=-1) / np.where(total > 0, total, 1.0), 1 - alpha)
    return gain * (rate - (1 - alpha))
