"""The search space buys distinct configurations, and evidence that is known at the origin."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tsfm_pipeline.autoresearch.space import portfolio, validation_offsets
from tsfm_pipeline.settings import SearchSettings

unhurried = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_every_configuration_of_the_defaults_is_a_different_one() -> None:
    settings = SearchSettings()
    assert len(set(portfolio(settings))) == len(settings.portfolio) == 8
    assert len({*portfolio(SearchSettings(portfolio=settings.latency_portfolio))}) == 32
    assert set(settings.portfolio) <= set(settings.latency_portfolio[: len(settings.portfolio)])


@pytest.mark.parametrize("names", [("ctx64", "ctx128", "ctx64"), ("ctx64", "ctx64-r1"), ("ctx64", "ctx064")])
def test_a_configuration_that_is_listed_twice_is_refused_however_it_is_written(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="lists ctx64 more than once; list each configuration once"):
        portfolio(SearchSettings(portfolio=names))


def test_the_defaults_see_a_day_and_two_days_at_a_coarser_resolution() -> None:
    spans = {config.context_len: config.resolution for config in portfolio(SearchSettings())}
    assert max(spans) >= 2 * 1440
    assert spans[max(spans)] > 1


@unhurried
@given(st.integers(1, 2000), st.none() | st.integers(2, 3000), st.integers(1, 6), st.integers(0, 4))
def test_no_validation_window_reaches_beyond_the_origin(horizon: int, season: int | None, recent: int, daily: int) -> None:
    offsets = validation_offsets(SearchSettings(recent_origins=recent, daily_origins=daily), horizon, season)
    assert min(offsets) >= horizon
    assert list(offsets) == sorted(set(offsets))
    assert {horizon * (i + 1) for i in range(recent)} <= set(offsets)


def test_recent_origins_follow_each_other_and_daily_ones_lie_at_the_same_hour() -> None:
    settings = SearchSettings(recent_origins=3, daily_origins=2)
    assert validation_offsets(settings, 60, 1440) == (60, 120, 180, 1440, 2880)
    assert validation_offsets(settings, 60, None) == (60, 120, 180)
    assert validation_offsets(settings, 48, 24) == (48, 96, 144)
    assert np.diff(validation_offsets(settings, 60, 120)).min() > 0
