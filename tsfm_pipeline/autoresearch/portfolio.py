"""The choice of a portfolio: a few of the candidates that together serve requests best.

What belongs here: greedy forward selection of a set on tuning requests. What does not: the
forecasts (`steps.portfolio`), and weighing the members of the set per request (`rules`).
Axes: N (request, metric) pairs, C candidates, A alphas, J validation origins, H horizon.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.baselines.combinations import best_available, best_config, often_available
from tsfm_pipeline.evaluation.losses import mean_pinball
from tsfm_pipeline.forecaster.config import ForecastConfig
from tsfm_pipeline.forecaster.plan import shared_passes
from tsfm_pipeline.settings import SearchSettings

Floats = NDArray[np.floating]

SMALLEST_WEIGHT = 1e-9
"""Lower limit of a weight; it keeps the average defined where only weak members are available."""


class PortfolioSample(NamedTuple):
    """What a portfolio is chosen on: decisions [N, C, A, H] of the candidates for each alpha, their
    losses at earlier origins of the same series evidence [N, C, J, A] (NaN where unavailable),
    actual [N, H] and scale [N].
    """

    decisions: Floats
    evidence: Floats
    actual: Floats
    scale: Floats


class Ranking(NamedTuple):
    """The order in which candidates enter the set, as positions, the set's cost after each, that
    cost with the price of the members' tokens, and how many candidates enter in any case.
    """

    order: list[int]
    costs: list[float]
    priced_costs: list[float]
    n_required: int

    def portfolio(self, at_most: int) -> list[int]:
        """Return the cheapest of the sets of up to `at_most` members, prices included, the smallest
        of them if several cost the same; whoever enters in any case is in it as far as there is
        room.
        """
        most = min(len(self.order), at_most)
        sizes = range(min(self.n_required, most), most + 1)
        return self.order[: min(sizes, key=lambda size: self.priced_costs[size - 1])]


def choose_portfolio(
    settings: SearchSettings,
    sample: PortfolioSample,
    single_losses: Floats,
    alphas: tuple[float, ...],
    n_tokens: NDArray[np.integer],
    answering: NDArray[np.bool_],
    last_resort: int,
) -> Ranking:
    """Rank the candidates; the portfolio are up to `settings.portfolio_size` of the first ones.

    single_losses [..., C, A]: scaled losses that the best single candidates are chosen by. n_tokens
    [C]: see `request_tokens`. answering [C]: see `answers_like`. If the portfolio would contain no
    answering candidate, last_resort (a position) enters it, whatever it costs. Raises ValueError if
    no candidate has any loss.
    """
    singles = best_singles(single_losses)
    size = settings.ranked_size
    ranking = rank_configs(settings, *sample, alphas, singles, size, n_tokens)
    if answering[ranking.portfolio(settings.portfolio_size)].any():
        return ranking
    return rank_configs(settings, *sample, alphas, singles, size, n_tokens, required=(last_resort,))


def request_tokens(
    configs: Sequence[ForecastConfig], offsets: Sequence[int]
) -> NDArray[np.integer]:
    """Return the tokens [C] that a forecast of each configuration and its validation at these
    offsets take for one series.
    """
    passes = [shared_passes(config, (0, *offsets)) for config in configs]
    return np.array([sum(part.n_tokens for part in parts) for parts in passes])


def answers_like(
    configs: Sequence[ForecastConfig], last_resort: ForecastConfig, seasons: Sequence[int]
) -> NDArray[np.bool_]:
    """Return which configurations [C] can answer every request that the last resort can, because
    they need no more history: seasons in steps, the first one first.
    """
    lengths = (0, *seasons)
    return np.array(
        [
            config.transform == "none"
            and config.season < len(lengths)
            and config.context_len + (config.cycles + 1) * lengths[config.season]
            <= last_resort.context_len
            for config in configs
        ],
        dtype=bool,
    )


def best_singles(losses: Floats) -> list[int]:
    """Return the best single candidate at each alpha by losses [..., C, A], chosen as the fixed
    configuration is (`combinations.best_config`).

    Only the mean loss counts, not the cost in tokens, because the search is compared with these
    candidates. Raises ValueError if no candidate has any loss.
    """
    return [
        best_config(losses[..., a], best_available(losses[..., a])) for a in range(losses.shape[-1])
    ]


def rank_configs(
    settings: SearchSettings,
    decisions: Floats,
    evidence: Floats,
    actual: Floats,
    scale: Floats,
    alphas: tuple[float, ...],
    singles: Sequence[int],
    n_ranks: int,
    n_tokens: NDArray[np.integer] | None = None,
    required: tuple[int, ...] = (),
) -> Ranking:
    """Return the order in which candidates enter the set, with the set's cost after each.

    decisions, evidence, actual and scale: see `PortfolioSample`; singles [A], the best single
    candidate at each alpha; n_tokens [C] that a candidate and its validation take for one series
    (default: 0 for all); required: candidates that enter after the singles whatever they cost.

    The singles enter first, so that the set contains the fixed configuration. After that, each step
    adds the candidate with which the set costs least. The cost of a set is the loss of a softmax
    average of its members. The weights come from each request's own evidence, shrunken toward the
    pooled loss, as in the search. The evidence ends before the request, so no weight depends on the
    outcome that is scored. Costs are relative to the best single candidate of each alpha, mean over
    the alphas. All candidates but the singles pay a price per token, because small differences in
    loss are noise and latency is not; one that would take the set beyond `settings.token_budget`
    is left out. Greedy selection of algorithm portfolios: Xu, Hoos and
    Leyton-Brown (2010), Hydra.

    Candidates that are available at fewer than half of the requests are excluded. Where a
    candidate, or the whole set, is unavailable, a stand-in is scored in its place: the best of the
    candidates with the highest availability (usually 100 %). A few short histories therefore do not
    exclude a long context. If at some request none of the singles is available, the stand-in enters
    the set. Requests that the stand-in cannot answer are dropped. Raises ValueError if no candidate
    has any loss.
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
            settings,
            decisions[answered],
            evidence[answered],
            actual[answered],
            scale[answered],
            alphas,
            singles,
            n_ranks,
            n_tokens,
            required,
        )
    filled = np.where(np.isfinite(losses), losses, losses[:, stand_in, None])
    alone = filled.mean(axis=0)  # [C, A]
    tokens = np.zeros(len(usable), dtype=int) if n_tokens is None else np.asarray(n_tokens)
    price = settings.token_price * tokens
    reference = np.array(singles)
    weights = _weights(settings, losses, evidence, reference)
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

    def affordable(members: list[int]) -> NDArray[np.bool_]:
        if settings.token_budget is None:
            return np.ones(len(tokens), dtype=bool)
        return tokens[members].sum() + tokens <= settings.token_budget

    first = list(dict.fromkeys(reference.tolist()))
    if not np.isfinite(losses[:, first]).any(axis=1).all():
        first += [stand_in]
    first = list(dict.fromkeys([*first, *required]))
    order: list[int] = []
    costs: list[float] = []
    while len(order) < n_ranks:
        left = first[len(order) : len(order) + 1] or [
            c for c in np.flatnonzero(usable & affordable(order)).tolist() if c not in order
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
    return Ranking(order, costs, (costs + np.cumsum(price[order])).tolist(), len(first))


def _weights(
    settings: SearchSettings, losses: Floats, evidence: Floats, reference: NDArray[np.integer]
) -> Floats:
    """Return unnormalised softmax weights [N, C, A] of the candidates at each request; 0 where
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
    prior_weight = settings.portfolio_prior_weight
    posterior = (n * ratio + prior_weight * pooled) / (n + prior_weight)
    score = np.minimum((1.0 - posterior) / settings.portfolio_temperature, 50.0)
    return np.where(known, np.maximum(np.exp(score), SMALLEST_WEIGHT), 0.0)
