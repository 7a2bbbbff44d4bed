"""Test that a portfolio is built as a set: it starts with the best single configurations, and
values each member by what it adds to the others.
"""

import numpy as np
import pytest

from tsfm_pipeline.autoresearch.portfolio import (
    PortfolioSample,
    Ranking,
    answers_like,
    best_singles,
    choose_portfolio,
    rank_configs,
    request_tokens,
)
from tsfm_pipeline.evaluation.losses import mean_pinball
from tsfm_pipeline.forecaster.config import ForecastConfig
from tsfm_pipeline.settings import SearchSettings

ALPHAS = (0.9, 0.75, 0.65)


def problem(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Candidate 0 is fair everywhere; 1 and 2 are each right for one half of the requests, and
    their evidence says so; 3 is 0 again, a little worse; 4 is never available.
    """
    rng = np.random.default_rng(seed)
    actual = rng.normal(size=(n, 6))
    errors = np.full((n, 5), 1.0)
    half = np.arange(n) % 2 == 0
    errors[:, 1], errors[:, 2], errors[:, 3], errors[:, 4] = (
        np.where(half, 0.1, 3),
        np.where(half, 3, 0.1),
        1.05,
        np.nan,
    )
    decisions = np.repeat((actual[:, None] + errors[..., None])[:, :, None], 3, axis=2)
    evidence = np.repeat(
        (errors[..., None] * rng.uniform(0.8, 1.2, (n, 1, 10)))[..., None], 3, axis=3
    )
    return decisions, evidence, actual, np.ones(n)


def rank(
    decisions: np.ndarray,
    evidence: np.ndarray,
    actual: np.ndarray,
    scale: np.ndarray,
    n_ranks: int,
    singles: list[int] | None = None,
    n_tokens: np.ndarray | None = None,
    required: tuple[int, ...] = (),
    **settings: float,
) -> tuple[list[int], list[float]]:
    """The portfolio of a problem whose best single candidates are chosen on its own requests,
    unless they are given.
    """
    order, costs, *_ = rank_configs(
        SearchSettings(**settings),
        decisions,
        evidence,
        actual,
        scale,
        ALPHAS,
        best_singles(losses_of(decisions, actual)) if singles is None else singles,
        n_ranks,
        n_tokens,
        required,
    )
    return order, costs


def losses_of(decisions: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """The losses [N, C, A] of a problem's decisions."""
    parts = [
        mean_pinball(actual[:, None], decisions[:, :, a], alpha) for a, alpha in enumerate(ALPHAS)
    ]
    return np.stack(parts, axis=-1)


def test_the_best_single_ones_come_first_by_their_losses_alone_and_from_wherever_they_were_chosen() -> (
    None
):
    losses = np.stack([[1.0, 0.99, 2.0], [1.0, 1.0, 0.5], [1.0, 0.99, np.nan]])[
        ..., None
    ] * np.ones(3)
    assert best_singles(losses) == [1, 1, 1], (
        "charged with what stands in for it, the third costs more"
    )
    assert rank(*problem(), 4, singles=[3, 3, 1])[0][:2] == [3, 1]


def test_complements_come_before_the_second_best_single_one_and_the_unavailable_never() -> None:
    order, costs = rank(*problem(), 5)
    assert order[0] == 0
    assert set(order[1:3]) == {1, 2}
    assert sorted(order) == [0, 1, 2, 3]
    assert costs[0] == pytest.approx(1.0)
    assert costs[2] < 0.5


def test_without_evidence_there_is_nothing_to_win_from_a_set_of_specialists() -> None:
    decisions, evidence, actual, scale = problem()
    rng = np.random.default_rng(1)
    shuffled = evidence[rng.permutation(len(evidence))]
    assert rank(decisions, shuffled, actual, scale, 3)[1][-1] > 0.9


def test_the_number_of_ranks_is_kept_to_and_an_empty_choice_is_refused() -> None:
    decisions, evidence, actual, scale = problem()
    assert len(rank(decisions, evidence, actual, scale, 2)[0]) == 2
    with pytest.raises(ValueError, match="no configuration has a loss at any tuning request"):
        rank(np.full_like(decisions, np.nan), evidence, actual, scale, 2)


def test_a_few_short_histories_bar_no_candidate_and_a_request_that_nobody_can_answer_counts_for_nothing() -> (
    None
):
    decisions, evidence, actual, scale = problem()
    whole = rank(decisions, evidence, actual, scale, 4)
    decisions[0] = np.nan
    rest = slice(1, None)
    assert rank(decisions, evidence, actual, scale, 4) == rank(
        *(part[rest] for part in (decisions, evidence, actual, scale)), 4
    )
    short = np.arange(len(actual)) % 5 == 0
    decisions, evidence, actual, scale = problem()
    decisions[short, :3], evidence[short, :3] = np.nan, np.nan
    order, costs = rank(decisions, evidence, actual, scale, 4)
    assert order[:2] == [0, 3], "the best single one, and the one that can answer where it cannot"
    assert set(order) == set(whole[0])
    assert costs[-1] < 0.6
    decisions[short | (np.arange(len(actual)) % 2 == 1), :3] = np.nan
    assert rank(decisions, evidence, actual, scale, 4)[0] == [3], (
        "available at less than half of the requests"
    )


TOKENS = np.array([10, 300, 300, 20, 10])
"""Of the problem's candidates: the specialists are long."""


def test_a_token_budget_bars_what_does_not_fit_and_never_what_must_be_in_the_set() -> None:
    within = rank(*problem(), 5, n_tokens=TOKENS, token_budget=340)[0]
    assert within[0] == 0
    assert len({1, 2} & set(within)) == 1, "a second specialist does not fit"
    assert 3 in within
    assert TOKENS[within].sum() <= 340
    assert rank(*problem(), 5, n_tokens=TOKENS, token_budget=20)[0] == [0]
    assert rank(*problem(), 5, singles=[1, 1, 2], n_tokens=TOKENS, token_budget=20)[0] == [1, 2]
    assert rank(*problem(), 5, n_tokens=TOKENS, token_budget=20, required=(3,))[0] == [0, 3]
    free = rank(*problem(), 5, n_tokens=TOKENS)
    assert rank(*problem(), 5, n_tokens=TOKENS, token_budget=int(TOKENS.sum())) == free


def test_the_price_of_a_token_decides_whether_a_long_candidate_is_worth_it() -> None:
    assert rank(*problem(), 2, n_tokens=TOKENS, token_price=0.0)[0][1] in (1, 2)
    assert rank(*problem(), 2, n_tokens=TOKENS, token_price=0.1)[0] == [0, 3]


def test_the_set_is_averaged_at_the_temperature_and_with_the_prior_weight_of_the_settings() -> None:
    """Specialists pay only where the weights follow each request's own evidence."""
    followed = rank(*problem(), 3)[1][-1]
    assert rank(*problem(), 3, portfolio_temperature=100.0)[1][-1] > 1.3 * followed
    assert rank(*problem(), 3, portfolio_prior_weight=1e6)[1][-1] > 1.3 * followed


def test_the_portfolio_ends_where_its_cost_stops_falling() -> None:
    costs = [1.0, 0.9, 0.8, 0.8, 0.79]
    ranking = Ranking([4, 2, 0, 3, 1], costs, costs, n_required=1)
    assert ranking.portfolio(5) == [4, 2, 0, 3, 1]
    assert ranking.portfolio(4) == [4, 2, 0], "of two that cost the same, the smaller one"
    assert ranking.portfolio(2) == [4, 2]
    priced = ranking._replace(priced_costs=[1.0, 0.91, 0.82, 0.83, 0.84])
    assert priced.portfolio(5) == [4, 2, 0], "the last one saves less than its tokens cost"
    rising = Ranking([4, 2, 0, 3], *2 * [[0.9, 0.95, 1.0, 1.1]], n_required=2)
    assert rising.portfolio(4) == [4, 2], "who enters in any case is a member"
    assert rising.portfolio(1) == rising.portfolio(1)[:1] == [4]
    assert Ranking([4], [1.0], [1.0], n_required=3).portfolio(8) == [4]


def test_the_price_of_the_tokens_is_part_of_what_ends_the_portfolio() -> None:
    decisions, evidence, actual, scale = problem()
    singles = best_singles(losses_of(decisions, actual))
    rest = (decisions, evidence, actual, scale, ALPHAS, singles, 4, TOKENS)
    free, dear = (rank_configs(SearchSettings(token_price=price), *rest) for price in (0.0, 1e-3))
    assert free.priced_costs == free.costs
    np.testing.assert_allclose(
        np.subtract(dear.priced_costs, dear.costs), 1e-3 * np.cumsum(TOKENS[dear.order])
    )


def choose(last_resort: int, answering: list[int], size: int = 3) -> list[int]:
    decisions, evidence, actual, scale = problem()
    return choose_portfolio(
        SearchSettings(portfolio_size=size, ranked_size=4),
        PortfolioSample(decisions, evidence, actual, scale),
        losses_of(decisions, actual),
        ALPHAS,
        np.zeros(5, dtype=int),
        np.isin(np.arange(5), answering),
        last_resort,
    ).order


def test_the_last_resort_enters_where_no_member_of_the_portfolio_answers_all_that_it_can() -> None:
    free, costs = rank(*problem(), 4)
    assert choose(3, [0, 3]) == free
    assert choose(3, [free[2]]) == free, "it is among the ranks that make up the portfolio"
    assert choose(3, [3]) == [0, 3, *free[1:3]]
    assert free[3] == 3
    assert costs[3] >= costs[2]
    assert choose(3, [3], size=4) == [0, 3, *free[1:3]], "there is room, but the cost would rise"


def test_a_configuration_answers_like_the_last_resort_if_it_needs_no_more_history() -> None:
    names = ("ctx64", "ctx512", "ctx64-log", "ctx128-s1x1", "ctx64-s2x2", "ctx256")
    configs = [ForecastConfig.from_name(name) for name in names]
    last = ForecastConfig(context_len=400)
    assert answers_like(configs, last, (100,)).tolist() == [True, False, False, True, False, True]
    assert not answers_like(configs, last, ())[3], "a fleet without a season"
    tokens = request_tokens(configs, (60, 120))
    assert tokens[1] > tokens[0] > 0
    assert (request_tokens(configs, (60, 120, 7_000)) > tokens).all()
