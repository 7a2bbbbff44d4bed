"""Test that worn fleets lack exactly what they should lack, and are fleets that can be read."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsfm_pipeline.fleets import TableFleet, open_fleet
from tsfm_pipeline.fleets.spec import parse_spec
from tsfm_pipeline_tests import worn
from tsfm_pipeline_tests.worn import DAY, HOUR, KINDS, MINUTE, WEEK, Telemetry, of_values

N_DAYS = 35
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


def whole(step: timedelta = 5 * MINUTE, n_tenants: int = 3, days: int = N_DAYS) -> Telemetry:
    """Values that count up, so that each says where it comes from; from noon to noon."""
    n_steps = days * DAY // step
    values = np.arange(n_tenants * 2 * n_steps, dtype=np.float32)
    return of_values(values.reshape(n_tenants, 2, n_steps), step, NOON)


def missing(telemetry: Telemetry) -> np.ndarray:
    """[N, T]: whether all metrics of the tenant are missing; one alone never is."""
    absent = np.isnan(telemetry.values)
    assert (absent.all(axis=1) == absent.any(axis=1)).all()
    return absent.all(axis=1)


def kept_is_unchanged(before: Telemetry, after: Telemetry) -> bool:
    there = ~np.isnan(after.values)
    return bool((after.values[there] == before.values[there]).all())


def test_an_outage_takes_31_hours_of_all_tenants_before_the_last_week() -> None:
    before = whole()
    after = worn.outage(before)
    absent = missing(after)
    assert (absent == absent[0]).all()
    end = before.n_steps - WEEK // before.step
    assert np.flatnonzero(absent[0]).tolist() == list(range(end - 31 * 12, end))
    assert kept_is_unchanged(before, after)


def test_an_outage_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="too few for an outage"):
        worn.outage(whole(days=8))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), per_week=st.floats(0.1, 20))
def test_holes_are_hours_at_times_of_each_tenants_own(seed: int, per_week: float) -> None:
    before = whole(days=14)
    after = worn.holes(before, per_week=per_week, seed=seed)
    n_holes = max(1, round(2 * per_week))
    for absent in missing(after):
        edges = np.diff(absent.astype(int), prepend=0, append=0)
        lengths = np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)
        assert (lengths >= 12).all()
        assert 12 <= absent.sum() <= 12 * n_holes
        assert len(lengths) <= n_holes
    assert kept_is_unchanged(before, after)
    again = worn.holes(before, per_week=per_week, seed=seed)
    np.testing.assert_array_equal(after.values, again.values)


def test_holes_differ_between_tenants() -> None:
    absent = missing(worn.holes(whole()))
    assert not (absent[0] == absent[1]).all()


def test_each_life_lasts_two_days_and_they_begin_one_after_the_other() -> None:
    before = whole()
    after = worn.lifetimes(before)
    absent = missing(after)
    assert len(after.tenants) == len(set(after.tenants)) == 9
    assert ((~absent).sum(axis=1) == 2 * 288).all()
    begins = (~absent).argmax(axis=1)
    assert begins[0] == 0
    assert begins[-1] == before.n_steps - 2 * 288
    assert np.ptp(np.diff(begins)) <= 1, "evenly"
    for number in range(9):
        alive = ~absent[number]
        np.testing.assert_array_equal(
            after.values[number][:, alive], before.values[number % 3][:, alive]
        )


def test_a_life_lies_within_the_time_of_its_tenant() -> None:
    before = whole()
    before.values[1, :, : 20 * 288] = np.nan
    after = worn.lifetimes(before)
    assert ((~missing(after)).sum(axis=1) == 2 * 288).all()


def test_a_tenant_that_is_too_short_for_a_life_is_named() -> None:
    before = whole()
    before.values[1, :, 100:] = np.nan
    with pytest.raises(ValueError, match="'tenant-001' has less than 2 days"):
        worn.lifetimes(before)


def test_daily_rows_are_the_means_of_whole_utc_days() -> None:
    before = whole()
    before.values[0, 0, 150:300] = np.nan
    before.values[2, :, 144 : 144 + 288] = np.nan
    after = worn.daily(before)
    assert (after.step, after.start) == (DAY, datetime(2024, 1, 2, tzinfo=UTC))
    assert after.n_steps == N_DAYS - 1
    day = before.values[:, :, 144 : 144 + 288].astype(np.float64)
    np.testing.assert_allclose(after.values[1, :, 0], day[1].mean(axis=1))
    np.testing.assert_allclose(after.values[0, 0, 0], np.nanmean(day[0, 0]))
    assert np.isnan(after.values[2, :, 0]).all(), "a day without values has no row"
    assert not np.isnan(after.values[:2]).any()


def test_thirty_days_are_the_last_thirty() -> None:
    days, after = worn.daily(whole()), worn.thirty_days(whole())
    assert after.n_steps == 30
    np.testing.assert_array_equal(after.values, days.values[:, :, -30:])
    assert after.start == days.start + 4 * DAY
    with pytest.raises(ValueError, match="19 whole days; thirty are needed"):
        worn.thirty_days(whole(days=20))


def test_one_day_is_the_fullest_and_leaves_out_who_was_not_there() -> None:
    before = whole()
    before.values[:2, :, : 144 + 3 * 288] = np.nan
    before.values[2, :, 1000:] = np.nan
    after = worn.one_day(before)
    assert (after.n_steps, after.step) == (288, before.step)
    assert after.start == datetime(2024, 1, 5, tzinfo=UTC)
    assert after.tenants == ("tenant-000", "tenant-001")
    np.testing.assert_array_equal(after.values, before.values[:2, :, 1008 : 1008 + 288])


@pytest.mark.parametrize("step", [MINUTE, 5 * MINUTE])
def test_two_days_are_means_of_five_minutes(step: timedelta) -> None:
    before = whole(step, days=4)
    after = worn.two_days(before)
    assert (after.n_steps, after.step) == (576, 5 * MINUTE)
    first = (after.start - before.start) // step
    n_blocks = 5 * MINUTE // step
    expected = before.values[:, :, first : first + n_blocks].mean(axis=2)
    np.testing.assert_allclose(after.values[:, :, 0], expected)


def test_newcomers_have_three_hours_beside_full_tenants() -> None:
    before = whole()
    before.values[1, :, -100:] = np.nan
    after = worn.newcomers(before)
    observed = ~missing(after)
    assert observed.sum(axis=1).tolist() == [before.n_steps, 36, before.n_steps]
    assert np.flatnonzero(observed[1])[-1] == before.n_steps - 101
    assert kept_is_unchanged(before, after)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_a_fleet_with_exactly_these_values(kind: str, tmp_path: Path) -> None:
    before = whole()
    path, text = worn.worn_table(before, kind, tmp_path, origins_per_tenant=5)
    assert path.with_suffix(".yaml").read_text() == text
    spec = parse_spec(text, path.with_suffix(".yaml"))
    assert isinstance(spec, TableFleet)
    assert spec.origins_per_tenant == 5
    assert spec.lower == 0
    after = KINDS[kind](before)
    table = pl.read_parquet(path)
    assert table.height == int((~np.isnan(after.values).all(axis=1)).sum())
    if kind in ("one-day", "two-days"):
        return  # shorter than two of the daily and weekly seasons
    source = open_fleet(spec, fleets_dir=tmp_path / "elsewhere")
    assert (source.step, source.metrics) == (after.step, after.metrics)
    assert set(source.manifest()["tenant_id"]) == set(after.tenants)
    numbers = [source.manifest()["tenant_id"].to_list().index(name) for name in after.tenants]
    first = (source.start - after.start) // after.step
    np.testing.assert_array_equal(
        source.values(numbers), after.values[:, :, first : first + source.n_steps]
    )


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("source", "step", "n_tenants", "days"),
    [("smd", MINUTE, 17, 32), ("asd", 5 * MINUTE, 12, 45), ("nab", 5 * MINUTE, 17, 14)],
)
def test_the_published_fleets_are_read_whole(
    source: str, step: timedelta, n_tenants: int, days: int
) -> None:
    telemetry = worn.SOURCES[source]()
    assert (telemetry.step, len(telemetry.tenants)) == (step, n_tenants)
    assert telemetry.n_steps * step >= days * DAY
    assert not np.isnan(telemetry.values).all(axis=2).any()
    if source == "nab":
        assert telemetry.n_steps * step < 30 * DAY, "its series overlap"
        assert telemetry.values.shape[1] == 1


@pytest.mark.heavy
def test_the_script_writes_a_table_and_its_fleet_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(worn.SOURCES, "synthetic", lambda: worn.synthetic(days=10))
    worn.main(["synthetic", "outage", str(tmp_path)])
    table, fleet = map(Path, capsys.readouterr().out.split())
    assert pl.read_parquet(table)["tenant_id"].n_unique() == 8
    spec = parse_spec(fleet.read_text(), fleet)
    assert (spec.name, spec.kind, spec.horizon) == ("synthetic-outage", "table", 60)
    gaps = pl.read_parquet(table).select(pl.col("timestamp").unique().sort().diff().max())
    assert gaps.item() == 31 * HOUR + MINUTE


def test_the_script_says_what_a_source_is_too_short_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(worn.SOURCES, "synthetic", lambda: whole(days=20))
    with pytest.raises(SystemExit, match="synthetic cannot be worn down to thirty-days: 19 whole"):
        worn.main(["synthetic", "thirty-days", str(tmp_path)])


def test_the_script_names_what_it_knows() -> None:
    with pytest.raises(SystemExit, match=r"SOURCE: synthetic, smd, asd, nab\nKIND: outage, holes"):
        worn.main(["smd", "rust", "out"])
