"""The learned gate: it computes weights from the traits of each configuration at a request.

What belongs here: the traits, and the choice of their coefficients on tuning rows. What does not:
the rule that applies them (`rules.Gate`), the choice of the default rule (`tuning`).

The other rules judge each configuration by one number, its posterior loss. The gate uses separate
inputs: parts of the evidence, the priors, the width of a configuration's forecast relative to the
others, and an intercept per configuration. Its weights are a softmax of a linear score. The
coefficients minimise the loss of the weighted average, so that a configuration counts for what it
adds to the others. Source of the idea: feature-based forecast model averaging (Montero-Manso,
Athanasopoulos, Hyndman and Talagala, 2020), who use boosted trees.
Axes: M rows, each one metric of one tuning request; K configurations, J validation origins, P
traits, H horizon; any leading axes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch import rules
from tsfm_pipeline.autoresearch.calibration import Outcomes

Floats = NDArray[np.floating]

SMALLEST_SHARE = 0.05
"""Added to relative losses before their logarithm, so that a tenth of the mean loss counts for
nearly as much as no loss.
"""
SMALLEST_START = 1e-6
"""Lower limit of the weight that a configuration starts with."""
MAX_ITERATIONS = 100


def trait_names(offsets: Sequence[int], season: int | None) -> tuple[str, ...]:
    """Return the names of the traits, in order; each validation origin that lies whole seasons
    before the request has a trait of its own.
    """
    return (
        "posterior",
        *rules.PRIOR_KINDS,
        "spread",
        "every_origin",
        "other_hours",
        *_seasonal(offsets, season),
    )


def traits(
    posterior: Floats,
    priors: Mapping[str, Floats],
    evidence: Floats,
    spread: Floats,
    offsets: Sequence[int],
    season: int | None,
) -> Floats:
    """Return the traits of each configuration at a request [..., K, P], ordered as `trait_names`.

    posterior, priors {kind: ...} and spread (q.9 - q.5, mean over the horizon) [..., K], evidence
    [..., K, J]. Each trait is the logarithm of the value relative to its mean over the
    configurations that have one. An unknown trait is 0, which is neutral.
    """
    seasonal = list(_seasonal(offsets, season).values())
    shared = [
        rules.mean_on_shared_windows(part)[0]
        for part in (evidence, np.delete(evidence, seasonal, axis=-1))
    ]
    parts = [
        posterior,
        *(priors[kind] for kind in rules.PRIOR_KINDS),
        spread,
        *shared,
        *np.moveaxis(evidence[..., seasonal], -1, 0),
    ]
    return np.stack([_log_relative(part) for part in parts], axis=-1)


def even_and(weights: Sequence[float], even_share: float, available: NDArray[np.bool_]) -> Floats:
    """Return the logarithms [K] of weights of which a share is even and the rest is given [K].

    available [M, K], at least one somewhere: only configurations that are available at some row
    have a part of the even share; all others get the mean of the logarithms.
    """
    here = available.any(axis=0)
    mixed = (1 - even_share) * np.asarray(weights) + even_share / here.sum()
    logs = np.log(np.maximum(mixed, SMALLEST_START))
    return np.where(here, logs, logs[here].mean())


def fit_gate(
    declared: Sequence[float],
    intercepts: Floats,
    traits: Floats,
    decisions: Floats,
    available: NDArray[np.bool_],
    outcomes: Outcomes,
    alpha: float,
    ridge: float,
) -> Floats:
    """Return the coefficients of the traits, then an intercept per configuration [P + K], that
    minimise the mean scaled pinball loss of the average.

    declared [P] and intercepts [K]: the coefficients of the traits [M, K, P] and the intercepts
    before any tenant is fitted; decisions [M, K, H] (0 where unavailable), available [M, K]. The
    penalty is ridge / (2 x tenants) times the squared distance from these, in units of each trait's
    standard deviation and of the loss that they have. With few tenants the result stays close to
    them; they are also the start of the minimisation by L-BFGS.
    The loss of a weighted average is not convex in the scores, so the result is a local minimum.
    Intercepts have mean 0.
    """
    from scipy.optimize import minimize

    n_configs, n_traits = traits.shape[1:]
    at_first = np.array([*declared, *(intercepts - intercepts.mean())])
    if not len(traits):
        return at_first
    deviation = traits[available].std(axis=0, dtype=np.float64)
    unit = np.where(deviation > 0, deviation, 1.0)
    start = at_first * np.concatenate([unit, np.ones(n_configs)])
    scaled = np.concatenate(
        [traits / unit, np.broadcast_to(np.eye(n_configs), (*available.shape, n_configs))], axis=-1
    )
    penalty = ridge / len(outcomes.n_rows)

    def of_average(coefficients: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        loss, of_score = loss_of_scores(
            scaled @ coefficients, decisions, available, outcomes, alpha
        )
        return loss, np.einsum("mkp,mk->p", scaled, of_score)

    declared_loss = of_average(start)[0] or 1.0

    def penalised(coefficients: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        loss, gradient = of_average(coefficients)
        moved = coefficients - start
        return loss / declared_loss + penalty / 2 * float(
            moved @ moved
        ), gradient / declared_loss + penalty * moved

    solution = minimize(
        penalised, start, jac=True, method="L-BFGS-B", options={"maxiter": MAX_ITERATIONS}
    ).x
    intercepts = solution[n_traits:]
    return np.concatenate([solution[:n_traits] / unit, intercepts - intercepts.mean()])


def loss_of_scores(
    scores: Floats,
    decisions: Floats,
    available: NDArray[np.bool_],
    outcomes: Outcomes,
    alpha: float,
) -> tuple[float, Floats]:
    """Return the mean scaled pinball loss of the average of decisions [M, K, H] under a softmax of
    scores [M, K], and its derivative by the scores [M, K].
    """
    weight = rules.weights(-scores, available, 1.0)
    loss, slope = outcomes.loss_and_slope(rules.weighted(weight, decisions), alpha)
    of_weight = np.matmul(decisions, slope[..., None])[..., 0]
    return loss, weight * (of_weight - (weight * of_weight).sum(axis=1, keepdims=True))


def _seasonal(offsets: Sequence[int], season: int | None) -> dict[str, int]:
    """Return the validation origins whole seasons before the request: position by trait name."""
    return (
        {
            f"seasons_ago_{offset // season}": j
            for j, offset in enumerate(offsets)
            if offset % season == 0
        }
        if season
        else {}
    )


def _log_relative(values: Floats) -> Floats:
    relative = rules.relative(np.asarray(values, dtype=np.float64))
    return np.nan_to_num(np.log((relative + SMALLEST_SHARE) / (1 + SMALLEST_SHARE)))
