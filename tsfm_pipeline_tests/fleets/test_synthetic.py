"""Test the shape of the synthetic fleet, and that a tenant does not depend on the tenants generated
with it.
"""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsfm_pipeline.fleets import MANIFEST_SCHEMA, SyntheticFleet, open_fleet
from tsfm_pipeline.fleets.profiles import (
    ARCHETYPES,
    METRICS,
    PROFILES,
    ArchetypeProfile,
    archetype_of,
)
from tsfm_pipeline.fleets.synthetic import LatentState, generate, tenant_parameters, tenant_state

CPU, MEM, NET, DISK = range(4)
DAY = 1440
MONDAY = datetime(2024, 1, 1, tzinfo=UTC)


def fleet(
    tenants: int = 100, days: int = 28, seed: int = 7, start: datetime = MONDAY
) -> SyntheticFleet:
    return SyntheticFleet(
        name="fleet",
        title="A fleet",
        kind="synthetic",
        tenants=tenants,
        days=days,
        seed=seed,
        start=start,
    )


def numbers_of(archetype: str, n: int = 4) -> list[int]:
    return [i for i in range(200) if archetype_of(i).name == archetype][:n]


def states_of(archetype: str, days: int = 28, n: int = 4) -> list[LatentState]:
    return [tenant_state(fleet(days=days), number) for number in numbers_of(archetype, n)]


def by_minute_of_day(values: np.ndarray) -> np.ndarray:
    """Mean day of values [..., T] over whole days, [..., 1440]."""
    return values.reshape(*values.shape[:-1], -1, DAY).mean(axis=-2)


@pytest.fixture(scope="module")
def telemetry() -> np.ndarray:
    """Float32 [100, 4, T] of four weeks: every archetype at its share."""
    return generate(fleet(), range(100))


def test_values_are_finite_float32_on_a_contiguous_grid(telemetry):
    assert telemetry.dtype == np.float32
    assert telemetry.flags.c_contiguous
    assert telemetry.shape == (100, 4, 28 * DAY)
    assert np.isfinite(telemetry).all()


def test_fractions_stay_between_zero_and_the_burst_ceiling_and_rates_are_not_negative(telemetry):
    ceilings = np.array(
        [tenant_parameters(7, number).burst_ceiling for number in range(100)], dtype=np.float32
    )
    assert (telemetry >= 0).all()
    assert (telemetry[:, [CPU, MEM]] <= ceilings[:, None, None]).all()
    assert ((ceilings >= 1) & (ceilings <= 2)).all()
    assert (telemetry[:, CPU].max(axis=1) == ceilings).any(), "some burst reaches its ceiling"


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_parameters_are_spread_over_the_ranges_of_the_archetype(profile: ArchetypeProfile):
    drawn = [
        tenant_parameters(1, number) for number in range(4000) if archetype_of(number) is profile
    ]
    pairs = [
        (profile.diurnal_amplitude, [p.diurnal_amplitude for p in drawn]),
        (profile.peak_hour, [p.peak_hour for p in drawn]),
        (profile.weekly_amplitude, [p.weekly_amplitude for p in drawn]),
        (profile.sigma, [p.sigma for p in drawn]),
        (profile.phi, [p.phi for p in drawn]),
        (profile.spikes_per_day, [p.spikes_per_day for p in drawn]),
        (profile.spike_magnitude, [p.spike_magnitude for p in drawn]),
        (profile.cpu_net_correlation, [p.cpu_net_correlation for p in drawn]),
        *(
            (span, [p.baselines[i] for p in drawn])
            for i, span in enumerate((profile.cpu, profile.mem, profile.net))
        ),
        (profile.disk, [p.baselines[DISK] for p in drawn]),
    ]
    for (low, high), values in pairs:
        assert min(values) >= low
        assert max(values) <= high
        assert np.mean(values) == pytest.approx((low + high) / 2, abs=0.1 * (high - low))


@pytest.mark.parametrize(
    "archetype", ["low-traffic-blog", "ecommerce-retail", "news-publisher", "cache-driven"]
)
def test_traffic_peaks_at_the_tenant_s_hour_by_its_amplitude(archetype):
    for state in states_of(archetype):
        day = by_minute_of_day(state.traffic)
        assert np.argmax(day) / 60 == pytest.approx(state.parameters.peak_hour, abs=0.5)
        assert day.max() - day.min() == pytest.approx(state.parameters.diurnal_amplitude, rel=0.25)


def test_weekly_traffic_is_highest_on_thursday_and_lowest_on_sunday():
    for state in states_of("ecommerce-retail"):
        days = state.traffic.reshape(-1, 7, DAY).mean(axis=(0, 2))
        assert (np.argmax(days), np.argmin(days)) == (3, 6)
        expected = state.parameters.weekly_amplitude * np.sin(
            2 * np.pi * (np.arange(7) + 0.5 - 1.5) / 7
        )
        np.testing.assert_allclose(days - days.mean(), expected, rtol=0.05, atol=0.01)


def test_the_week_follows_the_calendar_of_the_start():
    saturday = datetime(2024, 1, 6, 12, tzinfo=UTC)
    number = numbers_of("b2b-saas", 1)[0]
    monday_fleet, saturday_fleet = (
        tenant_state(fleet(), number),
        tenant_state(fleet(start=saturday), number),
    )
    offset = int((saturday - MONDAY).total_seconds() // 60)
    np.testing.assert_array_equal(
        saturday_fleet.mask[:DAY], monday_fleet.mask[offset : offset + DAY]
    )
    np.testing.assert_array_equal(saturday_fleet.noise, monday_fleet.noise)


@pytest.mark.parametrize("archetype", ["b2b-saas", "wp-cron-heavy", "compute-heavy", "idle-ish"])
def test_archetypes_without_daily_traffic_have_none(archetype):
    assert all((state.traffic == 0).all() for state in states_of(archetype))


def test_b2b_is_on_from_nine_to_five_on_weekdays_and_down_to_a_tenth_at_night_and_on_weekends(
    telemetry,
):
    for number in numbers_of("b2b-saas"):
        net = telemetry[number, NET].reshape(-1, 7, 24, 60).mean(axis=(0, 3))  # [weekday, hour]
        baseline = tenant_parameters(7, number).baselines[NET]
        np.testing.assert_allclose(net[:5, 9:17], baseline, rtol=0.03)
        np.testing.assert_allclose(net[:5, :9], 0.1 * baseline, rtol=0.3)
        np.testing.assert_allclose(net[5:], 0.1 * baseline, rtol=0.3)


def test_compute_heavy_stays_near_a_high_baseline(telemetry):
    for number in numbers_of("compute-heavy"):
        assert telemetry[number, CPU].mean() == pytest.approx(
            tenant_parameters(7, number).baselines[CPU], rel=0.02
        )
        assert telemetry[number, CPU].std() < 0.2


def test_idle_tenants_are_near_zero(telemetry):
    for number in numbers_of("idle-ish"):
        assert np.median(telemetry[number, CPU]) < 0.03


def test_archetypes_without_spikes_have_none():
    for archetype in ("b2b-saas", "compute-heavy"):
        assert all((state.spikes == 0).all() for state in states_of(archetype))


@pytest.mark.parametrize("archetype", ["low-traffic-blog", "wp-cron-heavy", "cache-driven"])
def test_spikes_arrive_at_the_tenant_s_rate_and_have_its_mean_magnitude(archetype):
    days = 200
    for state in states_of(archetype, days=days, n=3):
        parameters = state.parameters
        arrivals = state.spikes - parameters.spike_decay * np.concatenate(
            [[0.0], state.spikes[:-1]]
        )
        arrivals = arrivals[arrivals > 1e-6]
        expected = days * parameters.spikes_per_day
        assert arrivals.size == pytest.approx(expected, abs=5 * np.sqrt(expected) + 0.02 * expected)
        error = parameters.spike_magnitude / np.sqrt(arrivals.size)  # of the mean of exponentials
        assert arrivals.sum() / expected == pytest.approx(parameters.spike_magnitude, abs=8 * error)
        assert arrivals.std() == pytest.approx(arrivals.mean(), rel=0.35)


def test_a_spike_decays_with_the_archetype_s_time_constant():
    for profile in (PROFILES[0], PROFILES[5]):
        state = states_of(profile.name, n=1)[0]
        visible = state.spikes[:-1] > 1e-4
        ratio = state.spikes[1:][visible] / state.spikes[:-1][visible]
        decay = np.exp(-1 / profile.spike_tau)
        assert ratio.min() == pytest.approx(decay, rel=1e-6)
        assert (
            np.isclose(ratio, decay, rtol=1e-6).mean() > 0.95
        )  # the rest are minutes with an arrival


def test_cron_spikes_reach_cpu_memory_and_disk_but_not_the_network(telemetry):
    for number in numbers_of("wp-cron-heavy"):
        spikes = tenant_state(fleet(), number).spikes
        in_spike, quiet = spikes > 0.2, spikes < 0.01
        means = telemetry[number][:, in_spike].mean(axis=1) - telemetry[number][:, quiet].mean(
            axis=1
        )
        baselines = tenant_parameters(7, number).baselines
        assert means[CPU] > 0.15
        assert means[MEM] > 0.07
        assert means[DISK] > 0.15 * baselines[DISK]
        assert abs(means[NET]) < 0.01 * baselines[NET]


def test_cache_misses_reach_the_cpu_twice_as_hard_as_the_network():
    for state in states_of("cache-driven"):
        parameters = state.parameters
        assert parameters.profile.spike_reach[CPU] == 2 * parameters.profile.spike_reach[NET]
    number = numbers_of("cache-driven", 1)[0]
    state = tenant_state(fleet(days=28), number)
    values = generate(fleet(), [number])[0].astype(np.float64)
    baselines = state.parameters.baselines
    unclipped = (values[CPU] > 0) & (values[CPU] < state.parameters.burst_ceiling * 0.999)
    cpu = values[CPU] - baselines[CPU] - state.traffic - state.noise[CPU]
    net = values[NET] / baselines[NET] - 1 - state.traffic - state.noise[NET]
    np.testing.assert_allclose(cpu[unclipped], 2 * net[unclipped], atol=1e-5)


def test_cpu_and_network_noise_of_cache_driven_tenants_move_together_and_no_one_else_s():
    for archetype in ARCHETYPES:
        for state in states_of(archetype):
            correlation = np.corrcoef(state.noise[CPU], state.noise[NET])[0, 1]
            rho = state.parameters.cpu_net_correlation
            assert correlation == pytest.approx(rho, abs=0.06)
            assert (0.6 <= rho <= 0.9) == (archetype == "cache-driven")


@pytest.mark.parametrize("archetype", ARCHETYPES)
def test_noise_is_a_stationary_autoregression_with_the_tenant_s_sigma_and_phi(archetype):
    for state in states_of(archetype, n=2):
        sigma, phi = state.parameters.sigma, state.parameters.phi
        for noise in state.noise:
            innovations = noise[1:] - phi * noise[:-1]
            assert innovations.std() == pytest.approx(sigma, rel=0.02)
            assert np.corrcoef(innovations[1:], noise[:-2])[0, 1] == pytest.approx(0, abs=0.025)
            assert noise.std() == pytest.approx(sigma / np.sqrt(1 - phi**2), rel=0.1)


def test_noise_is_stationary_from_the_first_minute():
    parameters, first = [], []
    for number in range(0, 3000, 10):
        state = tenant_state(fleet(tenants=3000), number, minutes=2)
        parameters.append(state.parameters)
        first.append(state.noise[:, 0])
    scale = np.array([p.sigma / np.sqrt(1 - p.phi**2) for p in parameters])
    assert (np.array(first) / scale[:, None]).std() == pytest.approx(1, abs=0.08)


@given(st.lists(st.integers(0, 999), min_size=1, max_size=4, unique=True), st.integers(0, 3))
@settings(max_examples=10, deadline=None)
def test_a_tenant_is_the_same_in_every_shard_and_in_every_size_of_fleet(numbers, seed):
    together = generate(fleet(tenants=1000, days=2, seed=seed), numbers)
    for row, number in enumerate(numbers):
        alone = generate(fleet(tenants=number + 1, days=2, seed=seed), [number])
        np.testing.assert_array_equal(together[row], alone[0])


@given(st.integers(0, 99), st.integers(2, 9), st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_a_longer_fleet_begins_with_the_values_of_a_shorter_one(number, days, more):
    short, long = (generate(fleet(days=length), [number]) for length in (days, days + more))
    np.testing.assert_array_equal(long[..., : days * DAY], short)


def test_another_seed_or_tenant_number_gives_other_noise():
    one = tenant_state(fleet(seed=1), 0, DAY).noise
    for other in (
        tenant_state(fleet(seed=2), 0, DAY).noise,
        tenant_state(fleet(seed=1), 100, DAY).noise,
    ):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.1
    assert abs(np.corrcoef(one[CPU], one[MEM])[0, 1]) < 0.15


def test_the_manifest_says_who_is_who_without_generating_anything(tmp_path):
    source = open_fleet(fleet(tenants=48, days=3), fleets_dir=tmp_path)
    manifest = source.manifest()
    assert manifest.schema == MANIFEST_SCHEMA
    assert manifest["tenant_number"].to_list() == list(range(48))
    assert manifest["tenant_id"].is_sorted()
    assert manifest["archetype"].to_list() == [archetype_of(i).name for i in range(48)]
    assert manifest.select(
        "first_step", "last_step", "n_observed", "n_missing"
    ).unique().rows() == [(0, 3 * DAY - 1, 4 * 3 * DAY, 0)]


def test_the_source_describes_its_grid(tmp_path):
    source = open_fleet(fleet(tenants=10, days=3), fleets_dir=tmp_path)
    assert (source.metrics, source.step_minutes, source.steps_per_day, source.n_steps) == (
        METRICS,
        1.0,
        DAY,
        3 * DAY,
    )
    assert source.seasons == (DAY, 7 * DAY)
    assert source.shards(4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    stamps = source.timestamps()
    assert (len(stamps), stamps[0], stamps[-1]) == (
        3 * DAY,
        MONDAY,
        datetime(2024, 1, 3, 23, 59, tzinfo=UTC),
    )
    np.testing.assert_array_equal(source.values([3, 1])[1], source.values([1])[0])


def test_a_tenant_that_does_not_exist_and_an_empty_shard_are_refused(tmp_path):
    source = open_fleet(fleet(tenants=10, days=3), fleets_dir=tmp_path)
    with pytest.raises(ValueError, match="tenant number 10; fleet 'fleet' has 0 to 9"):
        source.values([0, 10])
    with pytest.raises(ValueError, match="at least 1"):
        source.shards(0)


def test_the_fingerprint_follows_the_data_and_nothing_else(tmp_path):
    spec = fleet(days=3)
    priced = {"prices": {"cpu_util": 0.03}, "currency": "EUR"}
    same = spec.model_copy(
        update={"title": "Another", "horizon": 12, "nightly": True, "name": "other", **priced}
    )
    fingerprint = open_fleet(spec, fleets_dir=tmp_path).fingerprint()
    assert open_fleet(same, fleets_dir=tmp_path).fingerprint() == fingerprint
    for change in (
        {"seed": 8},
        {"days": 4},
        {"tenants": 99},
        {"start": datetime(2024, 1, 2, tzinfo=UTC)},
    ):
        assert (
            open_fleet(spec.model_copy(update=change), fleets_dir=tmp_path).fingerprint()
            != fingerprint
        )
