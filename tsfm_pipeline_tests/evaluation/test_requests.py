"""Test that splits, test periods, origins and validity follow docs/evidence-protocol.md."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsfm_pipeline.evaluation import requests

DAY = 1440


def _fleet(n: int, n_archetypes: int = 4) -> tuple[list[str], list[str]]:
    return [f"tenant-{i}" for i in range(n)], [f"archetype-{i % n_archetypes}" for i in range(n)]


def test_tuning_and_test_tenants_are_disjoint_halves_of_every_archetype() -> None:
    ids, strata = _fleet(48, 8)
    fold = requests.split_tenants(ids, strata, seed=0)
    assert requests.tested_folds(fold) == [0]
    tuning = requests.tuning_mask(fold, 0)
    np.testing.assert_array_equal(tuning, fold == requests.TUNING_FOLD)
    for archetype in set(strata):
        members = tuning[np.array(strata) == archetype]
        assert members.sum() == len(members) // 2


@given(st.integers(30, 90), st.integers(1, 9), st.integers(0, 5))
def test_the_share_of_tuning_tenants_is_kept_within_one_tenant(
    n: int, n_archetypes: int, seed: int
) -> None:
    ids, strata = _fleet(n, n_archetypes)
    tuning = requests.split_tenants(ids, strata, seed, tuning_share=0.3) == requests.TUNING_FOLD
    assert abs(tuning.sum() - 0.3 * n) <= 1
    for archetype in set(strata):
        members = tuning[np.array(strata) == archetype]
        assert abs(members.sum() - 0.3 * len(members)) < 1


def test_the_split_does_not_depend_on_the_order_of_tenants() -> None:
    ids, strata = _fleet(40)
    order = np.random.default_rng(0).permutation(40)
    fold = requests.split_tenants(ids, strata, seed=3)
    shuffled = requests.split_tenants([ids[i] for i in order], [strata[i] for i in order], seed=3)
    np.testing.assert_array_equal(shuffled, fold[order])
    assert (requests.split_tenants(ids, strata, seed=4) != fold).any()


@given(st.integers(2, 29), st.integers(0, 5))
def test_small_fleets_test_every_tenant_on_what_the_others_chose(n: int, seed: int) -> None:
    ids, strata = _fleet(n)
    fold = requests.split_tenants(ids, strata, seed)
    assert requests.tested_folds(fold) == list(range(min(5, n)))
    sizes = np.bincount(fold)
    assert sizes.max() - sizes.min() <= 1
    for test_fold in requests.tested_folds(fold):
        tuning = requests.tuning_mask(fold, test_fold)
        assert tuning.any()
        assert not tuning[fold == test_fold].any()


def test_a_single_tenant_tunes_on_itself() -> None:
    fold = requests.split_tenants(["only"], [""], seed=0)
    assert requests.tested_folds(fold) == [0]
    assert requests.tuning_mask(fold, 0).tolist() == [True]


def test_repeated_tenants_are_refused() -> None:
    with pytest.raises(ValueError, match="repeat"):
        requests.split_tenants(["a", "a"], ["", ""], seed=0)


def test_the_test_period_is_the_last_week_of_a_long_history_and_a_fifth_of_a_short_one() -> None:
    assert requests.test_period(0, 30 * DAY - 1, DAY) == 23 * DAY
    assert requests.test_period(100, 21 * DAY + 99, DAY) == 14 * DAY + 100
    assert requests.test_period(0, 20 * DAY - 1, DAY) == 16 * DAY
    with pytest.raises(ValueError, match="at least two steps"):
        requests.test_period(5, 5, DAY)


@given(
    st.integers(1, 200),
    st.integers(0, 10**6),
    st.integers(1, 20_000),
    st.integers(0, 10**6),
    st.integers(1, 2000),
)
def test_origins_are_distinct_sorted_and_within_the_period(
    n: int, first: int, n_steps: int, tenant: int, steps_per_day: int
) -> None:
    n = min(n, n_steps)
    origins = requests.sample_origins(
        n, first, first + n_steps - 1, tenant, 0, steps_per_day=steps_per_day
    )
    assert len(origins) == n
    assert (np.diff(origins) > 0).all()
    assert origins[0] >= first
    assert origins[-1] < first + n_steps


@pytest.mark.parametrize("n", [7, 12, 14, 24])
def test_each_tenant_s_origins_cover_days_and_hours_evenly(n: int) -> None:
    for tenant in range(50):
        origins = requests.sample_origins(n, 0, 7 * DAY - 1, tenant, seed=0, steps_per_day=DAY)
        per_day = np.bincount(origins // DAY, minlength=7)
        assert per_day.max() - per_day.min() <= 1
        time_of_day = np.sort(origins % DAY)
        longest_pause = np.diff(np.append(time_of_day, time_of_day[0] + DAY)).max()
        assert longest_pause <= 2.1 * DAY / n


def test_over_tenants_every_hour_of_the_week_is_equally_likely() -> None:
    last = 7 * DAY - 1 - 60
    origins = np.concatenate(
        [
            requests.sample_origins(12, 0, last, tenant, seed=1, steps_per_day=DAY)
            for tenant in range(1000)
        ]
    )
    hours = np.bincount(origins // 60, minlength=167)
    assert len(hours) == 167
    assert hours.std() <= 10  # independent uniform origins would spread by 8.5
    assert np.bincount(origins // DAY).std() <= 0.02 * len(origins)


def test_origins_depend_on_seed_and_tenant_alone() -> None:
    def draw(tenant: int, seed: int) -> list[int]:
        return requests.sample_origins(12, 0, 7 * DAY - 1, tenant, seed, steps_per_day=DAY).tolist()

    assert draw(3, 0) == draw(3, 0)
    assert draw(3, 0) != draw(4, 0)
    assert draw(3, 0) != draw(3, 1)


def test_more_origins_than_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="4 distinct origins do not fit into steps 10 to 12"):
        requests.sample_origins(4, 10, 12, 0, 0, steps_per_day=DAY)


def test_a_request_needs_as_many_values_as_the_least_history() -> None:
    observed = np.ones(100, dtype=bool)
    observed[:20] = observed[30:40] = False
    valid, reasons = requests.request_validity(observed, [60, 61], horizon=10, minimum_history=32)
    assert valid.tolist() == [False, True]
    assert reasons[0] == "history too short: 31 of the 32 values up to the origin"


def test_the_least_history_is_one_patch_or_a_third_of_the_longest_history() -> None:
    assert requests.minimum_history([0, 50], [40, 1000]) == 32
    assert requests.minimum_history([0, 5], [29, 20]) == 10


def test_a_gap_of_any_length_invalidates_no_request() -> None:
    observed = np.ones(2000, dtype=bool)
    observed[100:1900] = False
    valid, _ = requests.request_validity(
        observed, [120, 1895, 1900], horizon=10, minimum_history=32
    )
    assert valid.tolist() == [False, True, True], "at 120 no target is observed"


def test_a_basis_is_full_where_nothing_is_lost_and_cold_where_nothing_can_be_validated() -> None:
    bases = requests.request_bases(
        known=np.array([500, 99, 100, 60, 500]),
        possible=np.array([900, 100, 100, 100, 900]),
        stale=np.array([False, False, False, False, True]),
        validation=np.array([64, 64, 64, 63, 64]),
        lookback=400,
        shortest=64,
    )
    assert bases == ["full", "shortened", "full", "cold", "shortened"]


def test_seven_days_with_few_steps_are_too_short_for_a_test_period() -> None:
    assert requests.test_period(0, 999, 1) == 800
    assert requests.test_period(0, 999, 4) == 1000 - 28


def test_requests_without_half_of_their_targets_are_invalid() -> None:
    observed = np.ones(100, dtype=bool)
    observed[55:60] = False
    valid, reasons = requests.request_validity(
        observed, [49, 51, 94, 95], horizon=10, minimum_history=10
    )
    assert valid.tolist() == [True, True, True, False]
    observed[54] = False
    valid, reasons = requests.request_validity(observed, [49], horizon=10, minimum_history=10)
    assert reasons == ["fewer than half of the targets observed: 4 of 10"]


def spans(first: list[int], last: list[int], horizon: int = 60) -> requests.RequestSpans:
    return requests.request_spans(
        first, last, steps_per_day=DAY, horizon=horizon, minimum_history=2 * DAY
    )


def test_tuning_requests_end_before_the_first_test_period_and_test_requests_lie_in_it() -> None:
    found = spans([0, 0], [30 * DAY - 1, 28 * DAY - 1])
    assert found.tuning_end == 21 * DAY
    assert found.test_start.tolist() == [23 * DAY, 21 * DAY]
    assert found.steps["tuning"].tolist() == [[14 * DAY - 1, 21 * DAY - 60]] * 2
    assert found.steps["test"].tolist() == [
        [23 * DAY - 1, 30 * DAY - 60],
        [21 * DAY - 1, 28 * DAY - 60],
    ]


def test_a_tenant_that_left_early_pushes_nobody_else_s_requests_into_a_time_without_history() -> (
    None
):
    whole = [(0, 30 * DAY - 1)] * 9
    for last in (DAY, 3 * DAY, 6 * DAY):
        first_steps, last_steps = zip(*whole, (0, last), strict=True)
        found = spans(list(first_steps), list(last_steps))
        assert found.tuning_end == 23 * DAY
        assert (found.test_start == 23 * DAY).all()
        assert np.ptp(found.steps["test"][-1]) == 0, "its own test requests have no room"
        assert found.steps["tuning"][-1, 1] <= last
    many_left = [(0, 9 * DAY)] * 30
    assert spans(*map(list, zip(*whole, *many_left, strict=True))).tuning_end < 9 * DAY  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.integers(0, 40 * DAY), st.integers(0, 40 * DAY)), min_size=1, max_size=8),
    st.integers(1, 2000),
)
def test_whoever_comes_and_goes_no_tuning_request_sees_a_test_day(
    stays: list[tuple[int, int]], horizon: int
) -> None:
    n_steps = 80 * DAY + 1
    first, length = (list(values) for values in zip(*stays, strict=True))
    last = [a + b for a, b in zip(first, length, strict=True)]
    found = spans(first, last, horizon)
    for tenant, (begin, end) in enumerate(zip(first, last, strict=True)):
        for role in requests.ROLES:
            low, stop = found.steps[role][tenant].tolist()
            assert 0 <= low <= stop <= n_steps
            origins, placed = requests.request_origins(5, low, stop, tenant, 0, steps_per_day=DAY)
            assert placed.sum() == min(5, stop - low)
            assert (np.diff(origins[placed]) > 0).all()
            assert (origins[placed] >= begin - 1).all()
            assert (origins[placed] + horizon <= end).all()
        assert (
            found.steps["tuning"][tenant, 1] == found.steps["tuning"][tenant, 0]
        ) or found.steps["tuning"][tenant, 1] - 1 + horizon < found.tuning_end
        assert found.test_start[tenant] >= found.tuning_end
    assert found.tuning_end == found.test_start.min()


def test_a_span_with_less_room_than_origins_gives_each_step_once_and_marks_the_rest() -> None:
    origins, placed = requests.request_origins(4, 10, 13, 0, 0, steps_per_day=DAY)
    assert origins.tolist() == [10, 10, 11, 12]
    assert placed.tolist() == [False, True, True, True]
    assert not requests.request_origins(4, 10, 10, 0, 0, steps_per_day=DAY)[1].any()


def test_steps_that_can_be_asked_have_the_minimum_history() -> None:
    found = spans([0, 22 * DAY], [30 * DAY - 1, 30 * DAY - 1])
    askable = found.n_askable("test", [0, 22 * DAY], 2 * DAY)
    assert askable[0] == np.ptp(found.steps["test"][0])
    assert askable[1] == np.ptp(found.steps["test"][1])
    assert found.n_askable("tuning", [0, 22 * DAY], 2 * DAY).tolist() == [
        np.ptp(found.steps["tuning"][0]),
        0,
    ]


def test_origins_outside_the_telemetry_are_refused() -> None:
    with pytest.raises(ValueError, match=r"outside the telemetry's steps 0\.\.9"):
        requests.request_validity(np.ones(10, dtype=bool), [10], horizon=1, minimum_history=1)


def test_origins_pass_over_steps_that_cannot_be_asked_and_are_the_same_without_any() -> None:
    observed = np.ones(5 * DAY, dtype=bool)
    whole, _ = requests.request_origins(12, DAY, 4 * DAY, 3, 0, steps_per_day=DAY)
    askable = requests.askable_steps(observed, 60, 32)
    same, _ = requests.request_origins(12, DAY, 4 * DAY, 3, 0, steps_per_day=DAY, askable=askable)
    np.testing.assert_array_equal(same, whole)
    observed[2 * DAY : 3 * DAY] = False
    askable = requests.askable_steps(observed, 60, 32)
    found, placed = requests.request_origins(
        12, DAY, 4 * DAY, 3, 0, steps_per_day=DAY, askable=askable
    )
    assert placed.all()
    assert requests.request_validity(observed, found, 60, 32)[0].all()


@given(st.lists(st.booleans(), min_size=40, max_size=80), st.integers(1, 12), st.integers(1, 32))
def test_a_step_can_be_asked_where_a_request_is_valid(
    observed: list[bool], horizon: int, needed: int
) -> None:
    valid, _ = requests.request_validity(observed, np.arange(len(observed)), horizon, needed)
    askable = requests.askable_steps(observed, horizon, needed)
    np.testing.assert_array_equal(askable, valid)
