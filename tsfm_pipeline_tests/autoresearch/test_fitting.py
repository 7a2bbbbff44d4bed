"""Test the draws of tuning tenants and requests."""

import numpy as np

from tsfm_pipeline.autoresearch.fitting import draw_for_requests, draw_tenants, spread_origins


def test_tenants_are_drawn_without_replacement_by_seed() -> None:
    tenants = np.arange(10, 60)
    drawn = draw_tenants(tenants, 20, (1, 0))
    assert len(set(drawn.tolist())) == 20
    assert set(drawn.tolist()) <= set(tenants.tolist())
    np.testing.assert_array_equal(drawn, draw_tenants(tenants, 20, (1, 0)))
    assert (drawn != draw_tenants(tenants, 20, (1, 1))).any()
    np.testing.assert_array_equal(draw_tenants(tenants, 500, (1, 0)), tenants)


def test_a_number_of_requests_means_whole_tenants_and_one_at_least() -> None:
    tenants = np.arange(10, 60)
    np.testing.assert_array_equal(
        draw_for_requests(tenants, 35, 3, (1, 0)), draw_tenants(tenants, 11, (1, 0))
    )
    assert len(draw_for_requests(tenants, 2, 3, (1, 0))) == 1


def test_origins_are_spread_over_the_whole_period() -> None:
    assert spread_origins(12, 3).tolist() == [0, 6, 11]
    assert spread_origins(2, 3).tolist() == [0, 1]
    assert spread_origins(5, 1).tolist() == [0]
