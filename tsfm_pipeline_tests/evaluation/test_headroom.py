"""Test that headroom is distinguished from noise, and that its losses belong to choices made
without seeing them.
"""

import numpy as np
import pytest

from tsfm_pipeline.evaluation.headroom import cross_fitted_headroom, cross_fitted_losses


def _config_losses(seed: int, preference_sd: float = 0.0, n_configs: int = 16) -> np.ndarray:
    rng = np.random.default_rng(seed)
    preference = rng.normal(0, preference_sd, (150, 1, n_configs))
    return rng.gamma(4.0, 0.25, (150, 12, n_configs)) * np.exp(preference)


def test_a_plain_oracle_gains_where_nothing_is_to_gain_and_the_cross_fitted_one_does_not() -> None:
    headroom = cross_fitted_headroom(_config_losses(0), fixed=0, n_permutations=199, seed=0)
    assert headroom.oracle_per_request > headroom.oracle_per_tenant > 0.12
    assert headroom.null_low <= headroom.cross_fitted <= headroom.null_high
    assert headroom.p_value > 0.05


def test_headroom_finds_tenants_that_differ() -> None:
    headroom = cross_fitted_headroom(
        _config_losses(0, preference_sd=0.3), fixed=0, n_permutations=199, seed=0
    )
    assert headroom.cross_fitted > 0.2 > headroom.null_high
    assert headroom.p_value == 1 / 200


def test_a_configuration_that_suits_everyone_is_no_reason_to_choose_per_tenant() -> None:
    losses = _config_losses(0)
    losses[:, :, 5] *= 0.5
    headroom = cross_fitted_headroom(losses, fixed=0, n_permutations=199, seed=0)
    assert headroom.cross_fitted > 0.3
    assert headroom.null_low <= headroom.cross_fitted <= headroom.null_high


def test_the_headroom_test_holds_its_level() -> None:
    p_values = [
        cross_fitted_headroom(_config_losses(s), 0, n_permutations=99, seed=s).p_value
        for s in range(100)
    ]
    assert np.mean(np.array(p_values) <= 0.05) <= 0.11


def test_unavailable_configurations_are_not_chosen_and_fall_back_to_the_fixed_one() -> None:
    losses = np.ones((10, 4, 3))
    losses[:, :, 1] = np.nan
    losses[:, :2, 2] = 0.1
    losses[:, 2:, 2] = np.nan
    headroom = cross_fitted_headroom(losses, fixed=0, n_permutations=19, seed=0)
    # Configuration 2 answers two of the four origins at .1; the fixed one answers the others at 1.
    assert headroom.cross_fitted == pytest.approx(1 - 2.2 / 4)


def test_requests_without_the_fixed_configuration_are_left_out() -> None:
    losses = _config_losses(0)
    padded = np.concatenate([losses, np.full((150, 2, 16), np.nan)], axis=1)
    assert cross_fitted_headroom(padded, 0, n_permutations=19, seed=0) == cross_fitted_headroom(
        losses, 0, n_permutations=19, seed=0
    )


def test_losses_of_the_cross_fitted_choice_add_up_to_its_headroom() -> None:
    losses = _config_losses(0, preference_sd=0.3)
    losses[:5, 3, 0] = np.nan
    chosen = cross_fitted_losses(losses, fixed=0)
    assert np.isnan(chosen).sum() == 5
    gain = 1 - np.nansum(chosen) / np.nansum(losses[:, :, 0])
    assert gain == pytest.approx(
        cross_fitted_headroom(losses, 0, n_permutations=19, seed=0).cross_fitted
    )


def test_a_choice_never_sees_the_origin_that_it_is_scored_on() -> None:
    """Making one origin's losses huge changes that origin's cost and the choices of the other half,
    never its own half's.
    """
    losses = _config_losses(1, preference_sd=0.3)
    before = cross_fitted_losses(losses, fixed=0)
    losses[:, 4, 1:] *= 1000
    after = cross_fitted_losses(losses, fixed=0)
    even = np.arange(0, 12, 2)
    np.testing.assert_array_equal(before[:, even[even != 4]], after[:, even[even != 4]])
    assert (before[:, 1::2] != after[:, 1::2]).any()


def test_choices_are_dealt_among_tenants_that_may_have_them() -> None:
    """Two folds with different portfolios: dealt across them, a choice that is not there would be
    the fixed one and hide what all gain.
    """
    losses = _config_losses(0, n_configs=3)
    fold = np.arange(150) % 2
    for n, config in ((0, 1), (1, 2)):
        losses[fold == n, :, config] *= 0.5
        losses[fold == n, :, 3 - config] = np.nan
    across = cross_fitted_headroom(losses, 0, n_permutations=99, seed=0)
    within = cross_fitted_headroom(losses, 0, n_permutations=99, seed=0, strata=fold)
    assert within.cross_fitted == across.cross_fitted
    assert across.p_value < 0.05 < within.p_value
