"""Test that a Prometheus fleet is fetched in pages, retried after faults, updated with newer
samples only, and placed on one regular grid.
"""

import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tenacity import wait_none

from tsfm_pipeline.fleets import (
    MANIFEST_SCHEMA,
    FleetDataError,
    FleetSource,
    PrometheusFleet,
    fleet_fingerprint,
    open_fleet,
    refresh_fleet,
)
from tsfm_pipeline.fleets.fetched_days import Refreshed, StoredDay, stored_days
from tsfm_pipeline.fleets.prometheus_api import ATTEMPTS, PrometheusClient
from tsfm_pipeline.fleets.prometheus_store import refresh, store_of
from tsfm_pipeline_tests.fleets.prometheus_server import (
    HOUR_S,
    NEWEST,
    FakePrometheus,
    daily,
    serving,
)

pytestmark = pytest.mark.heavy

CPU, NET = "sum by (tenant) (cpu)", "sum by (tenant) (rate(bytes_total[1h]))"
DAY_S = 86_400
TENANTS = ("t-a", "t-b", "t-c")
Series = tuple[dict[str, str], Callable[[float], float | None]]


def of_tenants(
    value: Callable[[str, float], float | None], tenants: tuple[str, ...] = TENANTS
) -> list[Series]:
    return [
        ({"tenant": tenant}, lambda time, tenant=tenant: value(tenant, time)) for tenant in tenants
    ]


@pytest.fixture
def server() -> Iterator[FakePrometheus]:
    with serving(
        FakePrometheus(
            {
                CPU: of_tenants(daily),
                NET: of_tenants(lambda tenant, time: 100 + daily(tenant, time)),
            }
        )
    ) as prometheus:
        yield prometheus


def spec(server: FakePrometheus, **fields: object) -> PrometheusFleet:
    defaults = {
        "queries": {"cpu": CPU, "net": NET},
        "tenant_label": "tenant",
        "step": 60,
        "lookback_days": 6,
        "lower": 0,
        "fresh_hours": 0,
    }
    base = {"name": "cluster", "title": "Cluster", "kind": "prometheus", "url": server.url}
    return PrometheusFleet.model_validate(base | defaults | fields)


def fetch(
    fleet: PrometheusFleet, folder: Path, log: Callable[[str], object] = lambda _: None
) -> Refreshed:
    return refresh(
        fleet, folder, log=log, connect=lambda spec: PrometheusClient(spec, wait=wait_none())
    )


def kept_days(fleet: PrometheusFleet, folder: Path) -> list[StoredDay]:
    return stored_days(store_of(fleet, folder), fleet.lookback_days)


def opened(fleet: PrometheusFleet, folder: Path) -> FleetSource:
    return open_fleet(fleet, fleets_dir=folder, raw_dir=folder)


def fetched(server: FakePrometheus, folder: Path, **fields: object) -> FleetSource:
    fetch(spec(server, **fields), folder)
    return opened(spec(server, **fields), folder)


def test_what_the_server_knows_becomes_a_regular_grid_in_utc(server, tmp_path):
    source = fetched(server, tmp_path)
    assert (source.metrics, source.step, source.seasons) == (
        ("cpu", "net"),
        timedelta(hours=1),
        (24, 168),
    )
    assert source.start == datetime(2024, 3, 8, tzinfo=UTC)
    assert source.n_steps == 6 * 24 + 1
    values = source.values([0, 1, 2])
    assert values.dtype == np.float32
    times = [source.start.timestamp() + i * HOUR_S for i in range(source.n_steps)]
    for number, tenant in enumerate(TENANTS):
        np.testing.assert_allclose(
            values[number, 0], [daily(tenant, time) for time in times], rtol=1e-6
        )
        np.testing.assert_allclose(
            values[number, 1], [100 + daily(tenant, time) for time in times], rtol=1e-6
        )
    manifest = source.manifest()
    assert manifest.schema == MANIFEST_SCHEMA
    assert manifest["tenant_id"].to_list() == list(TENANTS)
    assert manifest["n_missing"].sum() == 0


def test_tenants_are_read_one_by_one_in_any_order(server, tmp_path):
    source = fetched(server, tmp_path)
    np.testing.assert_array_equal(source.values([2, 0]), source.values([0, 1, 2])[[2, 0]])


@pytest.mark.parametrize(("late_s", "newest"), [(0, 0), (59, -HOUR_S), (60, 0), (HOUR_S - 1, 0)])
def test_a_step_is_taken_once_it_is_complete_by_the_servers_clock(server, tmp_path, late_s, newest):
    server.clock = NEWEST + late_s
    delay = 0 if late_s == 0 else 60
    assert fetch(spec(server, delay_seconds=delay), tmp_path).through == datetime.fromtimestamp(
        NEWEST + newest, UTC
    )
    assert max(end for _, _, end in server.ranges) == NEWEST + newest


def test_every_request_lies_on_the_grid_whatever_the_clock_says(server, tmp_path):
    server.clock = NEWEST + 1234.567
    fetch(spec(server, step=5), tmp_path)
    assert all(start % 300 == 0 and end % 300 == 0 for _, start, end in server.ranges)


def test_no_page_asks_for_more_than_a_server_answers(server, tmp_path):
    # A step of 5 seconds has 17,280 steps a day; the server refuses more than 11,000.
    done = fetch(spec(server, step=1 / 12, lookback_days=1, queries={"cpu": CPU}), tmp_path)
    assert max((end - start) // 5 + 1 for _, start, end in server.ranges) <= 11_000
    covered = sorted((start, end) for _, start, end in server.ranges)
    assert all(after == end + 5 for (_, end), (after, _) in pairwise(covered)), (
        "neither holes nor overlaps"
    )
    assert done.n_new_rows == len(TENANTS) * ((covered[-1][1] - covered[0][0]) // 5 + 1)


def test_a_page_that_is_too_large_for_the_server_is_halved(server, tmp_path):
    server.most_samples = 7 * len(TENANTS)
    values = fetched(server, tmp_path, lookback_days=3).values([0])
    assert not np.isnan(values).any()
    assert max((end - start) // HOUR_S + 1 for _, start, end in server.ranges[4:]) <= 7


def test_a_server_that_cannot_answer_a_single_step_is_named(server, tmp_path):
    server.most_samples = 1
    with pytest.raises(FleetDataError, match=r"too many samples.*single step"):
        fetch(spec(server), tmp_path)


@pytest.mark.parametrize("fault", [500, 502, 503, 429, "drop", (503, "<html>not yet</html>")])
def test_passing_faults_are_tried_again(server, tmp_path, fault):
    server.faults = [fault, None, fault, fault, None, fault]
    values = fetched(server, tmp_path).values([0, 1, 2])
    assert not np.isnan(values).any()


def test_a_server_that_stays_away_is_named_and_what_was_fetched_is_kept(server, tmp_path):
    server.faults = [None] * 7 + [503] * ATTEMPTS
    with pytest.raises(
        FleetDataError,
        match=rf"'cluster', {server.url}, metric 'cpu': no answer after {ATTEMPTS} attempts.*fault 503",
    ):
        fetch(spec(server), tmp_path)
    kept = kept_days(spec(server), tmp_path)
    assert len(kept) == 3
    before = len(server.ranges)
    fetch(spec(server), tmp_path)
    assert min(start for _, start, _ in server.ranges[before:]) == kept[-1].through + HOUR_S, (
        "goes on where it stopped"
    )
    assert not np.isnan(opened(spec(server), tmp_path).values([0])).any()


def test_nobody_at_the_address_is_named(tmp_path):
    nobody = FakePrometheus({}, url="http://127.0.0.1:9")
    with pytest.raises(
        FleetDataError, match=r"http://127\.0\.0\.1:9, the server's time: no answer"
    ):
        fetch(spec(nobody), tmp_path)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            (
                400,
                {"status": "error", "errorType": "bad_data", "error": "parse error: unexpected )"},
            ),
            "bad_data: parse error",
        ),
        ((401, "no"), "401.*headers_from_env"),
        ((200, "<html>sign in</html>"), "not JSON but.*sign in.*address of a Prometheus"),
        ((302, ""), "status 302"),
        (
            (200, {"status": "success", "data": {"resultType": "vector", "result": []}}),
            "'vector'.*one number per tenant",
        ),
        (
            (
                200,
                {
                    "status": "success",
                    "data": {"resultType": "matrix", "result": [{"metric": {}, "values": []}]},
                },
            ),
            "without label 'tenant'",
        ),
        (
            (
                200,
                {
                    "status": "success",
                    "data": {
                        "resultType": "matrix",
                        "result": [{"metric": {"tenant": "x"}, "histograms": []}],
                    },
                },
            ),
            "histograms",
        ),
        (
            (
                200,
                {
                    "status": "success",
                    "data": {
                        "resultType": "matrix",
                        "result": [{"metric": {"tenant": "x"}, "values": [[7, "1"]]}],
                    },
                },
            ),
            "off the requested 3600-second grid",
        ),
    ],
)
def test_what_a_person_must_mend_is_said_at_once(server, tmp_path, answer, words):
    server.faults = [None, answer]
    with pytest.raises(FleetDataError, match=words):
        fetch(spec(server), tmp_path)
    assert len(server.requests) == 2


def test_two_series_of_one_tenant_are_refused_with_the_labels_that_tell_them_apart(
    server, tmp_path
):
    server.series[CPU] += [({"tenant": "t-a", "pod": "2"}, lambda _: 1.0)]
    with pytest.raises(
        FleetDataError, match=r"two series of tenant 't-a'.*'pod': '2'.*sum by \(tenant\)"
    ):
        fetch(spec(server), tmp_path)


def test_a_later_fetch_asks_only_for_what_is_newer_and_changes_nothing_that_was_there(
    server, tmp_path
):
    first = fetched(server, tmp_path)
    before = first.values([0, 1, 2])
    n_before = len(server.ranges)
    through = kept_days(spec(server), tmp_path)[-1].through
    server.clock += 5 * HOUR_S
    done = fetch(spec(server), tmp_path)
    assert {(start, end) for _, start, end in server.ranges[n_before:]} == {
        (through + HOUR_S, through + 5 * HOUR_S)
    }
    assert done.n_new_rows == 5 * len(TENANTS)
    later = opened(spec(server), tmp_path)
    assert later.n_steps == first.n_steps + 5
    np.testing.assert_array_equal(later.values([0, 1, 2])[:, :, : first.n_steps], before)
    assert later.fingerprint() != first.fingerprint()


def test_without_anything_new_nothing_is_asked_or_changed(server, tmp_path):
    source = fetched(server, tmp_path)
    n_before = len(server.ranges)
    written = {
        path: path.stat().st_mtime_ns
        for day in kept_days(spec(server), tmp_path)
        for path in day.paths
    }
    server.clock += 600
    assert fetch(spec(server), tmp_path).n_new_rows == 0
    assert len(server.ranges) == n_before
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert opened(spec(server), tmp_path).fingerprint() == source.fingerprint()


def test_an_interrupted_run_goes_on_with_what_it_saw_and_the_next_night_sees_more(server, tmp_path):
    fleet = spec(server, fresh_hours=6)
    fetch(fleet, tmp_path)
    before = opened(fleet, tmp_path).fingerprint()
    server.clock += 5 * HOUR_S
    said: list[str] = []
    assert fetch(fleet, tmp_path, said.append).n_new_rows == 0
    assert "fresh enough" in said[0]
    assert opened(fleet, tmp_path).fingerprint() == before
    server.clock += HOUR_S
    assert fetch(fleet, tmp_path).n_new_rows == 6 * len(TENANTS)
    server.clock += HOUR_S
    assert refresh_fleet(fleet, raw_dir=tmp_path, always=True)["n_new_rows"] == len(TENANTS)


def test_one_fetch_and_many_make_the_same_fleet(server, tmp_path):
    end = server.clock
    for late in (40, 30, 7, 1, 0):
        server.clock = end - late * HOUR_S
        fetch(spec(server), tmp_path / "many")
    fetch(spec(server), tmp_path / "one")
    many, one = (opened(spec(server), tmp_path / name) for name in ("many", "one"))
    lost = int((one.start - many.start) / one.step)
    np.testing.assert_array_equal(many.values([0, 1, 2])[:, :, lost:], one.values([0, 1, 2]))
    assert many.fingerprint() == one.fingerprint()


def test_days_beyond_the_lookback_are_kept_and_not_read(server, tmp_path):
    fetch(spec(server), tmp_path)
    before = {path: path.read_bytes() for path in store_of(spec(server), tmp_path).iterdir()}
    kept_days(spec(server), tmp_path)[1].paths[0].write_bytes(b"noise")
    server.clock += 3 * DAY_S
    fetch(spec(server), tmp_path)
    assert opened(spec(server), tmp_path).n_tenants == 3
    assert [day.day for day in kept_days(spec(server), tmp_path)] == [
        f"2024-03-{day:02d}" for day in range(11, 18)
    ]
    assert {path for path in before if path.exists()} == set(before)


def test_days_that_a_server_has_forgotten_come_back_with_a_longer_lookback(server, tmp_path):
    fetch(spec(server), tmp_path)
    expected = opened(spec(server), tmp_path).values([0])
    server.clock += 3 * DAY_S
    fetch(spec(server), tmp_path)
    n_before = len(server.ranges)
    fetch(spec(server, lookback_days=9), tmp_path)
    assert len(server.ranges) == n_before, "all of it is there"
    np.testing.assert_array_equal(
        opened(spec(server, lookback_days=9), tmp_path).values([0])[:, :, : expected.shape[2]],
        expected,
    )


def test_a_fetch_adds_files_and_never_writes_one_again(server, tmp_path):
    fetch(spec(server), tmp_path)
    before = {path: path.read_bytes() for path in store_of(spec(server), tmp_path).iterdir()}
    for _ in range(3):
        server.clock += 5 * HOUR_S
        fetch(spec(server), tmp_path)
    after = {path: path.read_bytes() for path in store_of(spec(server), tmp_path).iterdir()}
    assert {path: after[path] for path in before} == before
    assert len(after) == len(before) + 3
    (growing,) = [day for day in kept_days(spec(server), tmp_path) if day.day == "2024-03-14"]
    assert len(growing.paths) == 4
    assert pl.read_parquet(growing.paths[-1]).height == 5 * len(TENANTS), "only what was new"


def test_a_lost_file_in_the_middle_of_a_day_is_fetched_again_from_there(server, tmp_path):
    for late in (20, 15, 10, 0):
        server.clock = NEWEST + 23 * HOUR_S - late * HOUR_S
        fetch(spec(server), tmp_path)
    expected = opened(spec(server), tmp_path).values([0])
    (day,) = [day for day in kept_days(spec(server), tmp_path) if day.day == "2024-03-14"]
    day.paths[1].unlink()
    with pytest.raises(FleetDataError, match=rf"{day.paths[-1].name} is missing or cannot be read"):
        opened(spec(server), tmp_path)
    n_before = len(server.ranges)
    fetch(spec(server, fresh_hours=6), tmp_path)
    assert {(start, end) for _, start, end in server.ranges[n_before:]} == {
        (NEWEST + 3 * HOUR_S, NEWEST + 22 * HOUR_S)
    }
    np.testing.assert_array_equal(opened(spec(server), tmp_path).values([0]), expected)


def test_a_day_whose_end_was_lost_is_named(server, tmp_path):
    server.clock = NEWEST + 5 * HOUR_S
    fetch(spec(server), tmp_path)
    server.clock = NEWEST + 30 * HOUR_S
    fetch(spec(server), tmp_path)
    (day,) = [day for day in kept_days(spec(server), tmp_path) if day.day == "2024-03-14"]
    day.paths[-1].unlink()
    with pytest.raises(FleetDataError, match="the end of the day 2024-03-14 is missing"):
        opened(spec(server), tmp_path)


def test_of_two_fetches_of_the_same_steps_the_later_one_counts(server, tmp_path):
    fetch(spec(server), tmp_path)
    for path in store_of(spec(server), tmp_path).glob("2024-03-14-*"):
        path.rename(tmp_path / path.name)
    server.series = {
        query: [(labels, lambda t: 7.0) for labels, _ in found]
        for query, found in server.series.items()
    }
    fetch(spec(server), tmp_path)
    for path in tmp_path.glob("2024-03-14-*"):
        path.rename(store_of(spec(server), tmp_path) / path.name)
    values = opened(spec(server), tmp_path).values([0])
    assert values[0, 0, -1] == 7.0
    assert len(list(store_of(spec(server), tmp_path).glob("2024-03-14-*"))) == 2


def test_after_a_pause_longer_than_the_lookback_the_fleet_starts_anew(server, tmp_path):
    fetch(spec(server), tmp_path)
    server.clock += 40 * DAY_S
    fetch(spec(server), tmp_path)
    source = opened(spec(server), tmp_path)
    assert source.n_steps == 6 * 24 + 1
    assert not np.isnan(source.values([0])).any()


def test_what_a_server_no_longer_has_is_kept_from_earlier(server, tmp_path):
    fetch(spec(server), tmp_path)
    forgotten = server.clock - DAY_S
    for query, found in list(server.series.items()):
        server.series[query] = [
            (labels, lambda t, value=value: value(t) if t > forgotten else None)
            for labels, value in found
        ]
    server.clock += HOUR_S
    fetch(spec(server), tmp_path)
    assert not np.isnan(opened(spec(server), tmp_path).values([0])).any()


def test_another_query_never_continues_the_numbers_of_an_earlier_one(server, tmp_path):
    fetch(spec(server), tmp_path)
    server.series["other"] = of_tenants(lambda tenant, time: 5000 + daily(tenant, time))
    other = spec(server, queries={"cpu": "other", "net": NET})
    with pytest.raises(FleetDataError, match="nothing has been fetched"):
        opened(other, tmp_path)
    fetch(other, tmp_path)
    assert opened(other, tmp_path).values([0])[0, 0].min() > 4000
    assert opened(spec(server), tmp_path).values([0])[0, 0].max() < 100


def test_staleness_nan_and_absent_metrics_are_missing_and_never_filled(server, tmp_path):
    down = NEWEST - 50 * HOUR_S
    server.series[CPU] = of_tenants(
        lambda tenant, time: None if down <= time < down + 10 * HOUR_S else daily(tenant, time)
    )
    server.series[NET] = of_tenants(
        lambda tenant, time: math.nan if time == down + 20 * HOUR_S else 1.0
    )
    source = fetched(server, tmp_path)
    missing = np.isnan(source.values([0]))[0]
    at = round((down - source.start.timestamp()) / HOUR_S)
    assert np.flatnonzero(missing[0]).tolist() == list(range(at, at + 10))
    assert np.flatnonzero(missing[1]).tolist() == [at + 20]
    row = source.manifest().row(0, named=True)
    assert (row["n_gaps"], row["longest_gap"], row["n_missing"]) == (2, 10, 11)


def test_infinities_are_missing_and_counted(server, tmp_path):
    at = NEWEST - 50 * HOUR_S
    server.series[CPU] = of_tenants(
        lambda tenant, time: math.inf if time == at else daily(tenant, time)
    )
    source = fetched(server, tmp_path)
    assert np.isnan(source.values([0, 1, 2])).sum() == 3
    assert any("3 infinite values" in note for note in source.notes)


def test_infinities_of_one_day_are_counted_over_all_its_fetches(server, tmp_path):
    server.series[CPU] = of_tenants(
        lambda tenant, time: math.inf if time in (NEWEST, NEWEST + HOUR_S) else daily(tenant, time)
    )
    fetch(spec(server), tmp_path)
    server.clock += HOUR_S
    fetch(spec(server), tmp_path)
    assert any("6 infinite values" in note for note in opened(spec(server), tmp_path).notes)


def test_values_out_of_bounds_are_refused_with_tenant_and_remedy(server, tmp_path):
    server.series[CPU] = of_tenants(lambda tenant, time: -1.0 if tenant == "t-b" else 1.0)
    with pytest.raises(
        FleetDataError, match=r"'cpu': values below 0 of 1 tenants: 't-b'.*clamp_min"
    ) as error:
        fetched(server, tmp_path)
    assert error.value.tenants == {"t-b": "values of cpu below 0"}
    assert fetched(server, tmp_path, lower=None).n_tenants == 3


def test_a_metric_without_any_value_is_refused_with_its_query(server, tmp_path):
    server.series[NET] = []
    with pytest.raises(FleetDataError, match=r"not a single value of 'net'.*rate\(bytes_total"):
        fetched(server, tmp_path)


def test_tenants_that_are_too_new_or_gone_are_left_out_with_the_reason(server, tmp_path):
    began, ended = NEWEST - 19 * HOUR_S, NEWEST - 30 * HOUR_S

    def value(tenant: str, time: float) -> float | None:
        absent = (tenant == "t-new" and time < began) or (tenant == "t-old" and time > ended)
        return None if absent else 1.0

    server.series = {query: of_tenants(value, (*TENANTS, "t-new", "t-old")) for query in (CPU, NET)}
    own = fetched(server, tmp_path, calendar="own")
    assert own.manifest()["tenant_id"].to_list() == sorted([*TENANTS, "t-old"])
    source = fetched(server, tmp_path)
    assert source.manifest()["tenant_id"].to_list() == list(TENANTS)
    assert "20 steps of history; 32 are needed" in source.left_out["t-new"]
    assert "gone: nothing since 2024-03-12 18:00" in source.left_out["t-old"]
    assert any("2 tenants are left out: 't-new', 't-old'" in note for note in source.notes)


def test_a_fleet_of_a_few_hours_is_read(server, tmp_path):
    server.series = {
        query: of_tenants(lambda tenant, time: 1.0 if time > server.clock - 30 * HOUR_S else None)
        for query in (CPU, NET)
    }
    assert fetched(server, tmp_path).n_tenants == 3


def test_the_warnings_of_the_server_are_passed_on(server, tmp_path):
    server.warnings = ["receive store-3: unavailable"]
    said: list[str] = []
    done = fetch(spec(server), tmp_path, said.append)
    assert done.warnings == (
        "cpu: receive store-3: unavailable",
        "net: receive store-3: unavailable",
    )
    assert any("warns about cpu: receive store-3" in line for line in said)


@pytest.mark.parametrize("damage", ["footer", "pages"])
def test_a_damaged_file_is_fetched_again(server, tmp_path, damage):
    server.clock = NEWEST + 5 * HOUR_S + 600
    expected = fetched(server, tmp_path).values([0, 1, 2])
    path = kept_days(spec(server), tmp_path)[-1].paths[-1]
    content = bytearray(path.read_bytes())
    if damage == "footer":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[4:200] = bytes(196)
        path.write_bytes(content)
    said: list[str] = []
    server.clock += HOUR_S
    fetch(spec(server), tmp_path, said.append)
    np.testing.assert_array_equal(
        opened(spec(server), tmp_path).values([0, 1, 2])[:, :, : expected.shape[2]], expected
    )
    assert any(path.name in line and "fetched again" in line for line in said)


@pytest.mark.parametrize("damage", ["unreadable", "missing"])
def test_a_day_that_was_lost_is_named_by_whoever_opens_and_fetched_again_however_fresh_the_rest_is(
    server, tmp_path, damage
):
    fleet = spec(server, fresh_hours=6)
    fetch(fleet, tmp_path)
    expected = opened(fleet, tmp_path).values([0])
    path = kept_days(fleet, tmp_path)[2].paths[-1]
    path.unlink() if damage == "missing" else path.write_bytes(b"noise")
    for look in (
        lambda: opened(fleet, tmp_path),
        lambda: fleet_fingerprint(fleet, fleets_dir=tmp_path, raw_dir=tmp_path),
    ):
        with pytest.raises(
            FleetDataError, match=r"2024-03-10.* is missing or cannot be read.*--fetch"
        ):
            look()
    fetch(fleet, tmp_path)
    np.testing.assert_array_equal(opened(fleet, tmp_path).values([0]), expected)


def test_a_longer_lookback_fetches_the_older_days(server, tmp_path):
    fetch(spec(server, fresh_hours=6), tmp_path)
    fetch(spec(server, fresh_hours=6, lookback_days=8), tmp_path)
    assert opened(spec(server, lookback_days=8), tmp_path).n_steps == 8 * 24 + 1


def test_a_damaged_file_is_named_when_it_is_read(server, tmp_path):
    fetched(server, tmp_path)
    path = kept_days(spec(server), tmp_path)[2].paths[-1]
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(content)
    with pytest.raises(FleetDataError, match=r"cannot be read.*move the named file"):
        opened(spec(server), tmp_path).values([0])


def test_half_written_files_of_a_killed_run_are_cleared_away(server, tmp_path):
    fetch(spec(server), tmp_path)
    leftover = store_of(spec(server), tmp_path) / ".2024-03-09.parquet.123.tmp"
    leftover.write_bytes(b"half")
    fetch(spec(server), tmp_path)
    assert not leftover.exists()


def test_a_server_whose_clock_went_back_by_days_is_refused(server, tmp_path):
    fetch(spec(server), tmp_path)
    server.clock -= 3 * DAY_S
    with pytest.raises(
        FleetDataError, match=r"2024-03-1\d-[^ ]*\.parquet goes through .* it is 2024-03-11"
    ):
        fetch(spec(server), tmp_path)


def test_headers_come_from_the_environment_and_are_never_repeated(server, tmp_path, monkeypatch):
    fleet = spec(server, headers_from_env={"Authorization": "PROMETHEUS_AUTHORIZATION"})
    with pytest.raises(FleetDataError, match="PROMETHEUS_AUTHORIZATION is not set"):
        fetch(fleet, tmp_path)
    monkeypatch.setenv("PROMETHEUS_AUTHORIZATION", "Bearer top\nsecret")
    with pytest.raises(FleetDataError, match="line breaks") as error:
        fetch(fleet, tmp_path)
    assert "secret" not in str(error.value)
    monkeypatch.setenv("PROMETHEUS_AUTHORIZATION", "Bearer top-secret\n")
    fetch(fleet, tmp_path)
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer top-secret"}
    assert not any(
        b"top-secret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
    )


def test_opening_asks_the_server_nothing(server, tmp_path):
    fetch(spec(server), tmp_path)
    n_before = len(server.requests)
    opened(spec(server), tmp_path).values([0])
    assert len(server.requests) == n_before


def test_the_fingerprint_is_known_without_reading_a_row(server, tmp_path):
    with pytest.raises(FleetDataError, match="nothing has been fetched"):
        fleet_fingerprint(spec(server), fleets_dir=tmp_path, raw_dir=tmp_path)
    expected = fetched(server, tmp_path).fingerprint()
    assert fleet_fingerprint(spec(server), fleets_dir=tmp_path, raw_dir=tmp_path) == expected
    impossible = spec(server, upper=0.5, lower=None)
    assert fleet_fingerprint(impossible, fleets_dir=tmp_path, raw_dir=tmp_path) != expected, (
        "bounds are part of it, and values are not looked at"
    )


def test_title_address_and_timeouts_leave_the_fingerprint_alone_and_bounds_do_not(server, tmp_path):
    source = fetched(server, tmp_path)
    same = opened(spec(server, title="Another", timeout_seconds=5, horizon=7), tmp_path)
    assert same.fingerprint() == source.fingerprint()
    assert opened(spec(server, seed=3), tmp_path).fingerprint() != source.fingerprint()
    assert (
        opened(spec(server, queries={"net": NET, "cpu": CPU}), tmp_path).fingerprint()
        != source.fingerprint()
    )


def test_metrics_come_in_the_order_of_the_fleet_file_whatever_order_they_are_kept_in(
    server, tmp_path
):
    source = fetched(server, tmp_path, queries={"net": NET, "cpu": CPU})
    assert source.metrics == ("net", "cpu")
    assert source.values([0])[0, 0].min() > source.values([0])[0, 1].max()


def test_the_entry_for_all_kinds_fetches_only_what_is_fetched(server, tmp_path):
    figures = refresh_fleet(spec(server), raw_dir=tmp_path)
    assert figures["n_new_rows"] == len(TENANTS) * (6 * 24 + 1)
    assert figures["fetched_through"] == "2024-03-14T00:00:00+00:00"
    from tsfm_pipeline_tests.fleets.tables import spec as table_spec

    assert refresh_fleet(table_spec(), raw_dir=tmp_path / "none") == {}
    assert not (tmp_path / "none").exists()


def test_tier_shares_are_dealt_and_a_shard_is_what_it_would_be_alone(server, tmp_path):
    server.series = {
        query: of_tenants(daily, tuple(f"t-{i:02d}" for i in range(10))) for query in (CPU, NET)
    }
    source = fetched(server, tmp_path)
    assert source.manifest()["tier"].value_counts().sort("tier").rows() == [
        ("basic", 3),
        ("premium", 2),
        ("standard", 5),
    ]
    assert pl.DataFrame(source.values([9])[0]).equals(
        pl.DataFrame(source.values(list(range(10)))[9])
    )
