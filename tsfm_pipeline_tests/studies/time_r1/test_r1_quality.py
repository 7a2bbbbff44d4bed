"""Test the checks of a read data set: schema, and drift from raw to processed values.

What belongs here: what each check refuses. What does not: what reading refuses
(`test_r1_sources`).
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.time_r1.datasets import FleetSet, Split, data_sets
from tsfm_pipeline.studies.time_r1.quality import drift_problems, facts_of, schema_problems
from tsfm_pipeline.studies.time_r1.sources import Series
from tsfm_pipeline_tests.studies.time_r1.real_sets import ett, made_up, table_set

CHANNELS = ("load", "oil")


def values_of(seed: int = 0, n_rows: int = 500) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_rows, 2)) * [1.0, 50.0] + [10.0, -300.0]


def test_facts_are_those_of_the_observed_values() -> None:
    facts = facts_of(np.array([[0.0, np.nan], [np.nan, np.nan], [10.0, np.nan]]), CHANNELS)[0]
    assert (facts.channel, facts.n_rows, facts.n_missing) == ("load", 3, 1)
    assert (facts.mean, facts.deviation) == (5.0, 5.0)
    np.testing.assert_allclose(facts.deciles, np.arange(1, 10))
    nothing = facts_of(np.full((3, 1), np.nan), ("oil",))[0]
    assert nothing.n_missing == 3
    assert np.isnan([nothing.mean, nothing.deviation, *nothing.deciles]).all()
    with pytest.raises(ValueError, match="2 columns of values for 1 channels"):
        facts_of(values_of(), ("load",))


def test_equal_values_and_values_in_float32_have_no_drift() -> None:
    values = values_of()
    assert drift_problems(values, values.copy(), CHANNELS) == ()
    assert drift_problems(values, values.astype(np.float32).astype(np.float64), CHANNELS) == ()
    unobserved = values.copy()
    unobserved[:, 1] = np.nan
    assert drift_problems(unobserved, unobserved, CHANNELS) == ()


@given(st.sampled_from([0.99, 0.995, 1.005, 1.01, 2.0, -1.0]), st.integers(0, 1))
def test_a_scaled_channel_drifts(factor: float, channel: int) -> None:
    scaled = values_of()
    scaled[:, channel] *= factor
    problems = drift_problems(values_of(), scaled, CHANNELS)
    assert problems
    assert all(repr(CHANNELS[channel]) in problem for problem in problems)


def test_a_shift_of_the_mean_alone_and_a_changed_shape_alone_are_seen() -> None:
    values = values_of()
    shifted = values + np.array([0.01, 0.0])
    assert any(
        "channel 'load': the mean changed from" in p
        for p in drift_problems(values, shifted, CHANNELS)
    )
    flattened = values.copy()
    upper = values[:, 0] > np.quantile(values[:, 0], 0.92)
    flattened[upper, 0] = values[upper, 0].mean()
    (problem,) = drift_problems(values, flattened, CHANNELS)
    assert "channel 'load': the standard deviation changed" in problem


def test_lost_rows_lost_values_and_lost_channels_are_named() -> None:
    values = values_of()
    lost = values.copy()
    lost[7, 1] = np.nan
    assert any(
        "'oil': 500 rows with 0 unobserved values became 500 with 1" in p
        for p in drift_problems(values, lost, CHANNELS)
    )
    assert any("became 499" in p for p in drift_problems(values, values[1:], CHANNELS))
    assert drift_problems(values, values[:, :1], CHANNELS) == ("2 raw channels became 1",)


def test_a_constant_channel_may_not_change_at_all() -> None:
    values = np.ones((20, 1))
    assert drift_problems(values, values, ("load",)) == ()
    assert drift_problems(values, values + 1e-6, ("load",))


def series(**fields: object) -> Series:
    made = made_up(values_of(n_rows=60), (42, 48, 60), season=24)
    return Series(**{**vars(made), "channels": CHANNELS, **fields})  # type: ignore[arg-type]


def test_a_series_that_is_as_described_has_no_problem() -> None:
    assert schema_problems(series(), table_set("mine.csv")) == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": ("oil", "load")}, "the channels are oil, load; allowed: load, oil"),
        ({"channels": ("oil", "oil")}, "two channels have the same name"),
        ({"times": None}, "it has no times"),
        ({"season": 43}, "a season of 43 steps does not fit into 42 training rows"),
        ({"values": np.full((60, 2), np.nan)}, "channels without any value: load, oil"),
        ({"values": np.full((60, 2), np.inf)}, "120 values are infinite"),
    ],
)
def test_what_is_not_as_described_is_named(fields: dict[str, object], message: str) -> None:
    problems = schema_problems(series(**fields), table_set("mine.csv"))
    assert any(message in problem for problem in problems), problems


def test_a_gap_in_the_clock_is_named_for_tables_and_fleets() -> None:
    times = series().times
    assert times is not None
    gap = series(times=np.concatenate([times[:30], times[30:] + np.timedelta64(3600, "s")]))
    fleet = FleetSet(
        name="f",
        kind="fleet",
        title="F",
        licence="own",
        fleet="f",
        horizon=4,
        split=Split(shares=(0.7, 0.1, 0.2)),
    )
    for spec in (table_set("mine.csv"), fleet):
        assert schema_problems(gap, spec) == (
            "data set 'made-up': row 31 is not 1 hour after the row before (1 such rows)",
        )


def test_the_corpus_has_the_series_that_its_fields_say() -> None:
    spec = data_sets(Settings())["corpus"]
    assert any("the channels are load, oil" in p for p in schema_problems(series(), spec))


@pytest.mark.parametrize("name", ["ETTh1", "ETTh2"])
def test_ett_is_as_described(name: str) -> None:
    assert schema_problems(ett(name), data_sets(Settings())[name]) == ()
