"""The choice of a set of configurations: which few of the candidates together serve requests best.

What belongs here: greedy forward selection of a set on tuning requests. What does not: where the
forecasts come from (`steps.portfolio`), and choosing among the set per request (`rules`).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.baselines.combinations import best_available, best_config, often_available
from tsfm_pipeline.evaluation.losses import mean_pinball

Floats = NDArray[np.floating]

TEMPERATURE = 0.05
"""Of the softmax by which a set's members are averaged while the set is chosen, in units of the
best single one's loss.
"""
PRIOR_WEIGHT = 8.0
"""Validation origins that the loss over all requests counts as, beside a request's own evidence."""
TOKEN_PRICE = 1.5e-5
"""Relative cost that a candidate must save per token that it and its validation take for one
series: 1 % for some 700 tokens, or about 20 ms of a request with four metrics on one core."""
SMALLEST_WEIGHT = 1e-9
"""Keeps an average defined where only weak members are available."""


def best_singles(losses: Floats) -> list[int]:
    """The best single candidate at each alpha by losses [..., C, A], as the fixed configuration is
    chosen (`combinations.best_config`).

    By the lowest mean alone, whatever it costs in tokens: it is what the search is compared with.
    Raises ValueError where no candidate has any loss.
    """
    return [
        best_config(losses[..., a], best_available(losses[..., a])) for a in range(losses.shape[-1])
    ]


def rank_configs(
    decisions: Floats,
    evidence: Floats,
    actual: Floats,
    scale: Floats,
    alphas: tuple[float, ...],
    singles: Sequence[int],
    n_ranks: int,
    n_tokens: NDArray[np.integer] | None = None,
) -> tuple[list[int], list[float]]:
    """The order in which candidates enter the set, and the set's cost after each.

    decisions [N, C, A, H] of C candidates at N (request, metric) pairs for each alpha and evidence
    [N, C, J, A], their losses at earlier origins of the same series (NaN where unavailable), actual
    [N, H], scale [N]; singles [A], the best single candidate at each alpha; n_tokens [C] that a
    candidate and its validation take for one series (default: all alike). The singles come first,
    so that the fixed configuration of the same rich space is in the set; then, one by one, the
    candidate with which the set costs least. A set costs what a softmax average of its members
    costs, with weights from each request's own evidence, shrunken toward the pooled loss: what the
    search makes of it. The evidence ends before the request, so the outcome that is paid for chose
    nothing. Costs are relative to the best single candidate of each alpha, mean over the alphas;
    the others' tokens have a price, because small differences are noise and latency is not. Greedy
    selection of algorithm portfolios: Xu, Hoos and Leyton-Brown (2010), Hydra. Candidates that are
    available at fewer than half of the requests stay out. Where a candidate, or the whole set,
    cannot answer, the best of those available most often (mostly always) stands in and is paid for,
    so that a few short histories bar no long context; it is in the set if the best single ones
    cannot always answer. Requests that not even it can answer count for nothing. Raises ValueError
    where no candidate has any loss.
    """
    losses = np.stack(
        [
            mean_pinball(actual[:, None], decisions[:, :, a], alpha)
            for a, alpha in enumerate(alphas)
        ],
        axis=-1,
    )
    losses = losses / scale[:, None, None]  # [N, C, A]
    stand_in = best_available(losses.swapaxes(1, 2))
    usable = often_available(losses.swapaxes(1, 2))
    answered = np.isfinite(losses[:, stand_in]).all(axis=1)
    if not answered.all():
        return rank_configs(
            decisions[answered],
            evidence[answered],
            actual[answered],
            scale[answered],
            alphas,
            singles,
            n_ranks,
            n_tokens,
        )
    filled = np.where(np.isfinite(losses), losses, losses[:, stand_in, None])
    alone = filled.mean(axis=0)  # [C, A]
    price = TOKEN_PRICE * (np.zeros(len(usable)) if n_tokens is None else np.asarray(n_tokens))
    reference = np.array(singles)
    weights = _weights(losses, evidence, reference)
    given = np.where(np.isfinite(decisions), decisions, 0.0)
    total, weight = np.zeros_like(given[:, 0]), np.zeros_like(losses[:, 0])

    def cost_with(c: int) -> float:
        both = (weight + weights[:, c])[..., None]
        mean = np.where(
            both > 0,
            (total + weights[:, c, :, None] * given[:, c]) / np.where(both > 0, both, 1.0),
            given[:, stand_in],
        )
        paid = [
            float((mean_pinball(actual, mean[:, a], alpha) / scale).mean())
            for a, alpha in enumerate(alphas)
        ]
        return float(np.mean(paid / alone[reference, np.arange(len(alphas))]))

    first = list(dict.fromkeys(reference.tolist()))
    if not np.isfinite(losses[:, first]).any(axis=1).all():
        first += [stand_in]
    order: list[int] = []
    costs: list[float] = []
    while len(order) < n_ranks:
        left = first[len(order) : len(order) + 1] or [
            c for c in np.flatnonzero(usable).tolist() if c not in order
        ]
        if not left:
            break
        trials = [cost_with(c) for c in left]
        chosen = int(np.argmin(np.array(trials) + price[left]))
        best = left[chosen]
        order.append(best)
        costs.append(trials[chosen])
        total += weights[:, best, :, None] * given[:, best]
        weight += weights[:, best]
    return order, costs


def _weights(losses: Floats, evidence: Floats, reference: NDArray[np.integer]) -> Floats:
    """Unnormalised softmax weights [N, C, A] of the candidates at each request; 0 where
    unavailable.

    A candidate's evidence is compared with the reference's on the windows that both have.
    """
    alphas = np.arange(losses.shape[-1])
    own = evidence[:, reference, :, alphas].transpose(1, 2, 0)[:, None]  # [N, 1, J, A]
    both = np.isfinite(evidence) & np.isfinite(own)
    n = both.sum(axis=2)  # [N, C, A]
    level = np.where(both, own, 0.0).sum(axis=2)
    ratio = np.divide(
        np.where(both, evidence, 0.0).sum(axis=2), level, out=np.ones(n.shape), where=level > 0
    )
    known, against = np.isfinite(losses), losses[:, reference, alphas][:, None]
    both = known & np.isfinite(against)
    pooled = np.where(both, losses, 0.0).sum(axis=0) / np.maximum(
        np.where(both, against, 0.0).sum(axis=0), 1e-12
    )
    posterior = (n * ratio + PRIOR_WEIGHT * pooled) / (n + PRIOR_WEIGHT)
    return np.where(
        known,
        np.maximum(np.exp(np.minimum((1.0 - posterior) / TEMPERATURE, 50.0)), SMALLEST_WEIGHT),
        0.0,
    )
