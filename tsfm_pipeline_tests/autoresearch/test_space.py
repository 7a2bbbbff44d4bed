"""Test that the search space holds distinct configurations, and that their evidence is known at the
origin.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tsfm_pipeline.autoresearch.space import candidates, validation_offsets, validation_stride
from tsfm_pipeline.settings import SearchSettings

unhurried = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_every_candidate_of_the_defaults_is_a_different_one_and_every_dimension_is_among_them() -> (
    None
):
    configs = candidates(SearchSettings())
    assert 36 <= len(set(configs)) == len(configs)
    assert {config.resolution for config in configs} == {1, 5, 15, 30}
    assert {config.season for config in configs} == {0, 1, 2}
    assert {config.transform for config in configs} >= {"none", "log"}


@pytest.mark.parametrize(
    "names", [("ctx64", "ctx128", "ctx64"), ("ctx64", "ctx64-r1"), ("ctx64", "ctx064")]
)
def test_a_configuration_that_is_listed_twice_is_refused_however_it_is_written(
    names: tuple[str, ...],
) -> None:
    with pytest.raises(
        ValueError, match="ctx64 is listed more than once; list each configuration once"
    ):
        candidates(SearchSettings(candidates=names))


@unhurried
@given(
    st.integers(1, 2000),
    st.none() | st.integers(2, 3000),
    st.integers(1, 6),
    st.sets(st.integers(1, 7)),
)
def test_no_validation_window_reaches_beyond_the_origin(
    horizon: int, season: int | None, recent: int, daily: set[int]
) -> None:
    offsets = validation_offsets(
        SearchSettings(recent_origins=recent, daily_origins=tuple(daily)), horizon, season
    )
    assert min(offsets) >= horizon
    assert list(offsets) == sorted(set(offsets))
    stride = validation_stride(horizon, season)
    assert stride % 32 == 0
    assert {stride * (i + 1) for i in range(recent)} <= set(offsets)


def test_recent_origins_lie_on_patch_boundaries_and_daily_ones_at_the_same_hour() -> None:
    settings = SearchSettings(recent_origins=3, daily_origins=(1, 7))
    assert validation_offsets(settings, 60, 1440) == (160, 320, 480, 1440, 10080)
    assert validation_offsets(settings, 12, 288) == (32, 64, 96, 288, 2016)
    assert validation_offsets(settings, 60, None) == (64, 128, 192)
    assert validation_offsets(settings, 48, 24) == (64, 128, 168, 192)


@pytest.mark.parametrize("season", [1440, 288])
def test_nine_strides_are_a_day(season: int) -> None:
    assert 9 * validation_stride(12, season) == season
