"""Test that each rival of the search makes the choice planted for it, from tuning tenants or from
its own past alone.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tsfm_pipeline.baselines.combinations import (
    ENSEMBLE_SIZE,
    SHIFTS,
    SharedChoices,
    TuningSample,
    best_available,
    best_config,
    choose,
    last_window_weights,
    often_available,
    one_hot,
    per_tenant_weights,
    random_weights,
    reachable,
)
from tsfm_pipeline.evaluation.losses import mean_pinball
from tsfm_pipeline.evaluation.protocol import ALPHAS, TIERS

unhurried = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

R, D, K, A, H = 40, 2, 4, 3, 5


def _losses(best: int, *shape: int) -> np.ndarray:
    """Noise around 1, and around .5 for the best configuration: [*shape, K]."""
    losses = np.random.default_rng(best).uniform(0.9, 1.1, size=(*shape, K))
    losses[..., best] -= 0.5
    return losses


def _sample(
    losses: np.ndarray | None = None,
    decisions: np.ndarray | None = None,
    actual: np.ndarray | None = None,
) -> TuningSample:
    return TuningSample(
        losses=_losses(0, R, D, A + 1).swapaxes(2, 3) if losses is None else losses,
        owners=np.arange(R),
        decisions=np.zeros((R, D, K, A, H)) if decisions is None else decisions,
        spread=np.full((R, D, K, H), 2.0),
        actual=np.zeros((R, D, H)) if actual is None else actual,
        scale=np.ones((R, D)),
        tenants=np.arange(R),
        archetypes=["web"] * (R // 2) + ["batch"] * (R // 4) + [""] * (R // 4),
    )


def test_the_fixed_configuration_is_the_best_at_each_alpha_and_the_median_one_at_the_median() -> (
    None
):
    """Row 2 of docs/evidence-protocol.md#mistakes-made-impossible: the baseline to beat is
    chosen per alpha, at the alpha-quantile; only the naive one is chosen at the median.
    """
    losses = np.stack([_losses(best, R, D) for best in (0, 1, 2, 3)], axis=-1)  # [R, D, K, A + 1]
    choices = choose(_sample(losses), TIERS)
    assert [choices.tiers[tier].fixed_config for tier in TIERS] == [0, 1, 2]
    assert choices.median_config == 3


def test_a_configuration_per_metric_and_per_archetype() -> None:
    losses = np.repeat(np.stack([_losses(0, R), _losses(1, R)], axis=1)[..., None], A + 1, axis=-1)
    by_metric = choose(_sample(losses), TIERS).tiers["standard"]
    assert by_metric.metric_configs == (0, 1)
    losses = np.repeat(
        np.concatenate([_losses(2, R // 2, D), _losses(3, R // 2, D)])[..., None], A + 1, axis=-1
    )
    by_archetype = choose(_sample(losses), TIERS).tiers["basic"]
    assert by_archetype.archetype_configs == {"web": 2, "batch": 3}


def test_the_shift_is_the_one_that_outcomes_ask_for_in_units_of_the_spread() -> None:
    sample = _sample(actual=np.full((R, D, H), 0.6))
    assert {choices.shift for choices in choose(sample, TIERS).tiers.values()} == {0.3}
    assert 0.0 in SHIFTS
    assert min(SHIFTS) < 0 < max(SHIFTS)


def test_the_static_ensemble_beats_its_members_where_their_errors_cancel() -> None:
    rng = np.random.default_rng(0)
    errors = rng.normal(size=(R, D, K, 1, H))
    sample = _sample(decisions=np.repeat(errors, A, axis=3))
    for (tier, alpha), a in zip(TIERS.items(), range(A), strict=True):
        weights = np.array(choose(sample, TIERS).tiers[tier].ensemble_weights)
        assert weights.sum() == pytest.approx(1.0)
        np.testing.assert_allclose(weights * ENSEMBLE_SIZE, np.round(weights * ENSEMBLE_SIZE))

        def cost(weight: np.ndarray, a: int = a, alpha: float = alpha) -> float:
            return float(
                mean_pinball(
                    sample.actual,
                    np.einsum("k,rdkh->rdh", weight, sample.decisions[..., a, :]),
                    alpha,
                ).mean()
            )

        assert cost(weights) < min(cost(one_hot(k, K)) for k in range(K))


def test_the_static_ensemble_puts_all_on_the_one_that_is_right() -> None:
    decisions = np.ones((R, D, K, A, H))
    decisions[:, :, 2] = 0.0
    assert choose(_sample(decisions=decisions), TIERS).tiers["premium"].ensemble_weights == (
        0,
        0,
        1,
        0,
    )


def test_units_of_the_metrics_do_not_matter() -> None:
    """Row 5 of docs/evidence-protocol.md#mistakes-made-impossible: metric 1 in bytes instead of
    gigabytes changes no choice.
    """
    rng = np.random.default_rng(1)
    decisions, actual = rng.normal(size=(R, D, K, A, H)), rng.normal(size=(R, D, H))
    scaled = _sample(decisions=decisions, actual=actual)
    units = np.array([1.0, 1e9])
    raw = replace(
        scaled,
        decisions=decisions * units[:, None, None, None],
        spread=scaled.spread * units[:, None, None],
        actual=actual * units[:, None],
        scale=scaled.scale * units,
    )
    assert choose(raw, TIERS) == choose(scaled, TIERS)


def test_the_fallback_is_the_best_of_those_that_can_answer_most_often() -> None:
    losses = _losses(1, R, D)
    losses[3, 0, 1] = np.nan
    assert best_available(losses) != 1
    losses[5] = np.nan  # nobody could answer that request: it speaks against none
    assert best_available(losses) == best_available(losses[np.arange(R) != 5])
    losses[7, :, [0, 2, 3]] = np.nan
    losses[8, :, 0] = np.nan
    losses[9, :, 1:3] = np.nan
    assert best_available(losses) == 3, "none can always answer, and this one fails least often"
    with pytest.raises(
        ValueError,
        match=r"no configuration has a loss at any tuning request; add a shorter context",
    ):
        best_available(np.full((R, D, K), np.nan))


def test_a_configuration_that_can_answer_at_half_of_the_requests_may_be_the_fixed_one_and_another_stands_in() -> (
    None
):
    """A few short histories bar no long context; what stands in for it there is charged to it."""
    many = np.random.default_rng(2).uniform(0.9, 1.1, size=(200, D, K, A + 1))
    many[:, :, 1] -= 0.5
    many[:, :, 3] -= 0.4
    many[:60, :, 1] = np.nan
    many[:60, :, [0, 2, 3]] += 1e6  # hard requests: they speak for nobody
    sample = replace(_sample(many), archetypes=[""] * 200)
    choices = choose(sample, TIERS)
    assert {(tier.fixed_config, tier.fallback_config) for tier in choices.tiers.values()} == {
        (1, 3)
    }
    assert choices.median_config == 3, "the naive deployment has nothing to fall back on"
    many[:60, :, 3], many[:60, :, 0] = 9.0, 1.0
    assert best_config(many[..., 0], 3) == 0, "what stands in for 1 is dear where 1 is not there"
    many[:101, :, 1] = np.nan
    assert not often_available(many[..., 0])[1]
    assert choose(sample, TIERS).tiers["basic"].fixed_config != 1


def test_a_choice_that_is_unavailable_is_replaced_and_one_that_is_in_part_keeps_the_rest() -> None:
    available = np.array([[True] * K, [False, True, True, True], [False] * K])
    np.testing.assert_array_equal(
        reachable(one_hot(0, K), available, 2), one_hot(np.array([0, 2, 2]), K)
    )
    np.testing.assert_allclose(
        reachable(np.array([0.5, 0.25, 0.25, 0.0]), available[1], 3), [0, 0.5, 0.5, 0]
    )
    several = reachable(np.broadcast_to(one_hot(0, K), (3, K)), available, np.array([1, 2, 3]))
    np.testing.assert_array_equal(several, one_hot(np.array([0, 2, 3]), K))
    neither = np.array([False, False, True, True])
    np.testing.assert_array_equal(
        reachable(one_hot(0, K), neither, 1),
        [0, 0, 0.5, 0.5],
        "defined wherever anything is available",
    )


def test_choices_by_losses_see_all_requests_and_those_by_forecasts_a_sample() -> None:
    """What was drawn for the ensemble and the shift is a part of what chose the fixed
    configuration.
    """
    whole = _sample()
    part = replace(
        whole,
        decisions=whole.decisions[:8],
        spread=whole.spread[:8],
        actual=whole.actual[:8],
        scale=whole.scale[:8],
    )
    assert choose(part, TIERS) == choose(whole, TIERS)


def test_a_metric_or_archetype_that_cannot_be_scored_gets_the_fixed_configuration() -> None:
    """Metric 1 is constant at zero in every tuning tenant, so it has no scale; so are all series of
    one archetype.
    """
    sample = _sample(np.repeat(_losses(2, R, D)[..., None], A + 1, axis=-1))
    sample.losses[:, 1], sample.scale[:, 1] = np.nan, np.nan
    sample.losses[R // 2 : 3 * R // 4] = np.nan
    sample.decisions[:, 1] = np.nan
    choices = choose(sample, TIERS).tiers["standard"]
    assert choices.metric_configs == (2, 2)
    assert choices.archetype_configs == {"web": 2, "batch": 2}


def test_requests_that_nobody_can_answer_do_not_push_the_ensemble_to_an_arbitrary_member() -> None:
    decisions = np.ones((R, D, K, A, H))
    decisions[:, :, 2] = 0.0
    decisions[0, 1] = np.nan
    sample = _sample(decisions=decisions)
    sample.losses[0, 1] = np.nan
    assert choose(sample, TIERS).tiers["standard"].ensemble_weights == (0, 0, 1, 0)
    sample.losses[1, 0, 2], sample.decisions[1, 0, 2] = np.nan, np.nan
    assert choose(sample, TIERS).tiers["standard"].ensemble_weights == (0, 0, 1, 0), (
        "one request that a member cannot answer bars it not"
    )
    sample.losses[: R // 2 + 1, :, 2], sample.decisions[: R // 2 + 1, :, 2] = np.nan, np.nan
    weights = choose(sample, TIERS).tiers["standard"].ensemble_weights
    assert weights[2] == 0
    assert sum(weights) == 1


def test_choices_survive_storage() -> None:
    choices = choose(_sample(), TIERS)
    assert SharedChoices.model_validate_json(choices.model_dump_json()) == choices


@unhurried
@given(
    st.lists(st.integers(0, 10**7), min_size=1, max_size=30, unique=True),
    st.integers(0, 2**32),
    st.randoms(),
)
def test_a_random_configuration_depends_on_seed_and_request_alone(
    ids: list[int], seed: int, order: object
) -> None:
    weights = random_weights(np.array(ids), K, seed)
    assert (weights.sum(axis=1) == 1).all()
    shuffled = ids.copy()
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    again = dict(zip(shuffled, random_weights(np.array(shuffled), K, seed).tolist(), strict=True))
    assert [again[i] for i in ids] == weights.tolist()


def test_random_configurations_are_spread_over_all_and_change_with_the_seed() -> None:
    ids = np.arange(2000)
    first, second = random_weights(ids, K, 1), random_weights(ids, K, 2)
    np.testing.assert_allclose(first.mean(axis=0), 1 / K, atol=0.05)
    assert (first != second).any(axis=1).mean() > 0.6


def test_the_last_winner_is_the_best_of_the_nearest_window_alone() -> None:
    evidence = np.array(
        [[[1.0, 0.0], [0.5, 9.0], [np.nan, np.nan]], [[np.nan, 1.0], [np.nan, 2.0], [np.nan, 3.0]]]
    )[:, None]  # [R, 1, K, J]
    np.testing.assert_array_equal(last_window_weights(evidence, 2)[:, 0], [[0, 1, 0], [0, 0, 1]])


def test_fallbacks_may_differ_by_request() -> None:
    """Under cross-fitting each request falls back to the choice of its own fold: another fold's was
    made on its own tenant.
    """
    nothing = np.full((2, D, K, 3), np.nan)
    np.testing.assert_array_equal(
        last_window_weights(nothing, np.array([[1], [3]])), one_hot(np.array([[1, 1], [3, 3]]), K)
    )
    own = np.full((2, D, 3, K), np.nan)
    np.testing.assert_array_equal(
        per_tenant_weights(own, np.array([[1], [3]])), one_hot(np.array([[1, 1], [3, 3]]), K)
    )


def test_a_tenant_s_configuration_is_the_best_of_its_own_past_per_metric() -> None:
    own = np.stack([np.stack([_losses(n, 6), _losses(3 - n, 6)]) for n in range(2)])  # [N, D, O, K]
    np.testing.assert_array_equal(
        per_tenant_weights(own, 0), one_hot(np.array([[0, 3], [1, 2]]), K)
    )
    other = own.copy()
    other[1] = other[1, :, :, ::-1]
    np.testing.assert_array_equal(per_tenant_weights(other, 0)[0], per_tenant_weights(own, 0)[0])


def test_a_tenant_s_configuration_could_always_answer() -> None:
    own = _losses(1, 1, 1, 6)
    own[0, 0, 2, 1] = np.nan
    assert per_tenant_weights(own, 0)[0, 0, 1] == 0
    own[0, 0, 2] = np.nan  # an invalid request: nobody is scored there
    assert per_tenant_weights(own, 0)[0, 0, 1] == 1


def test_the_tiers_of_the_choices_are_those_of_the_settings() -> None:
    assert tuple(TIERS.values()) == ALPHAS
    assert list(choose(_sample(), TIERS).tiers) == list(TIERS)
