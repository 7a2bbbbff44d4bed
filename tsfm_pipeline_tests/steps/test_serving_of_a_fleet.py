"""Test group `serving` on a materialised fleet of which nothing was served: the calibration comes from
the backtest, and it has seen nothing of what it is judged on.
"""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.autoresearch.bundle import FixedChoice
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.evaluation.conformal import Calibration
from tsfm_pipeline.evaluation.served import (
    CALIBRATION_FILE,
    COVERAGE_FILE,
    ROLLOUT_FILE,
    MeasuredCoverage,
)
from tsfm_pipeline.reports.served.model import BASELINE, CONFORMAL, RAW, TIME, ServedReport
from tsfm_pipeline.reports.served.numbers import held_out
from tsfm_pipeline.reports.shared.files import read_report
from tsfm_pipeline.steps.bundle import open_bundle
from tsfm_pipeline.steps.evidence import tunes
from tsfm_pipeline.steps.serving_calibration import backtest_past, read_calibration
from tsfm_pipeline.steps.serving_rows import (
    LEVELS,
    MEDIAN,
    backtest_forecasts,
    served_configurations,
)


@pytest.fixture(scope="module")
def report(mini_fleet: Fleet) -> ServedReport:
    return ServedReport.from_flat(read_report(mini_fleet, "interval_evaluation"))


def test_before_anything_was_served_its_tables_are_empty(mini_fleet: Fleet) -> None:
    for name in ("served_forecasts", "served_outcomes", "band_alerts", "rollout_decision"):
        assert TABLES[name].group == "serving"
        assert mini_fleet.tables.read(name).is_empty()
    assert not (mini_fleet.published_dir / ROLLOUT_FILE).exists()


def test_the_calibration_is_that_of_the_tuning_tenants_before_the_test_period(
    mini_fleet: Fleet,
) -> None:
    past = backtest_past(mini_fleet)
    assert set(past.forecasts.tenant) == set(np.flatnonzero(tunes(mini_fleet)))
    first_test = mini_fleet.arrays.requests("test").origins.min()
    assert past.forecasts.newest <= first_test
    rows = mini_fleet.tables.read("conformal_calibration")
    assert rows.height > 0
    assert set(rows["source"]) == {"backtest"}
    assert (rows["newest_value"] <= rows["calibrated_until"]).all()
    assert rows["calibrated_until"][0] <= mini_fleet.grid.time_of(int(first_test) + 1)
    assert (rows["n_scores"] >= 100).all()
    assert (rows.filter(pl.col("segment_key") == "global")["n_scores"] >= 500).all()


def test_the_fixed_choice_stands_for_the_service_unless_no_request_can_fill_it(
    mini_fleet: Fleet,
) -> None:
    bundle = open_bundle(mini_fleet)
    members = {config.name for config in mini_fleet.configs}
    plain = tuple(name for name in ("ctx1024", "ctx256", "ctx64") if name in members)
    assert {"ctx256", "ctx64"} <= set(plain)
    without = {name: tuple(one for one in plain if one != name) for name in plain}

    def chosen(member: str, stand_in: str) -> tuple[str, ...]:
        fixed = dict.fromkeys(bundle.live.fixed, FixedChoice(member=member, stand_in=stand_in))
        return served_configurations(replace(bundle, live=replace(bundle.live, fixed=fixed)))

    assert chosen("ctx1280-r5", "ctx256") == ("ctx1280-r5", "ctx256", *without["ctx256"])
    assert chosen("ctx2880-r15", "ctx2880-r15") == plain, "2,880 steps are more than 2,000"
    assert chosen("ctx2880-r15", "ctx64") == ("ctx64", *without["ctx64"])


def test_its_intervals_are_read_off_the_deciles_of_the_served_configuration(
    mini_fleet: Fleet,
) -> None:
    everyone = np.ones(mini_fleet.manifest.height, dtype=bool)
    forecasts = backtest_forecasts(mini_fleet, "test", everyone)
    first = served_configurations(open_bundle(mini_fleet))[0]
    row = 7
    stored = mini_fleet.tables.read("forecast_grid").filter(
        (pl.col("config") == first)
        & (pl.col("metric") == mini_fleet.grid.metrics[forecasts.metric[row]])
        & (pl.col("tenant_number") == int(forecasts.tenant[row]))
    )
    grid = stored["forecast"].to_numpy().reshape(stored.height, -1, 10)
    own = [
        deciles
        for deciles in grid
        if np.allclose(deciles[:, 5], forecasts.quantiles[row][:, MEDIAN])
    ]
    assert len(own) == 1
    mean_and_deciles = own[0]
    low = 2 * mean_and_deciles[:, 1] - mean_and_deciles[:, 2]  # the exponential tail
    np.testing.assert_allclose(
        forecasts.quantiles[row][:, LEVELS.index(0.05)], low, rtol=1e-4, atol=1e-6
    )


def test_the_published_file_is_the_table(mini_fleet: Fleet) -> None:
    path = mini_fleet.published_dir / CALIBRATION_FILE
    published = Calibration.model_validate_json(path.read_bytes())
    assert published == read_calibration(mini_fleet)
    version = mini_fleet.context.checkpoint_digest[:12]
    assert published.fits("local", published.model, version, mini_fleet.grid.step_minutes)


def test_the_published_coverage_is_the_report_s(mini_fleet: Fleet, report: ServedReport) -> None:
    published = MeasuredCoverage.model_validate_json(
        (mini_fleet.published_dir / COVERAGE_FILE).read_bytes()
    )
    row = report.band(TIME, CONFORMAL)
    assert row is not None
    assert published.coverage == {"0.8": row.coverage_80.figure, "0.9": row.coverage_90.figure}
    assert published.calibration_version == report.calibration_version


def test_the_report_says_that_nothing_was_served_and_judges_the_backtest(
    report: ServedReport,
) -> None:
    assert report.n_answers == 0
    assert report.judged_on == report.calibration_source == "backtest"
    assert (report.n_values_after_as_of, report.n_judged_before_as_of) == (0, 0)
    rows = {band: report.band(TIME, band) for band in (BASELINE, RAW, CONFORMAL)}
    assert len({(row.n_forecasts, row.n_tenants) for row in rows.values() if row}) == 1
    assert all(0.5 < row.coverage_90.figure <= 1 for row in rows.values() if row)


def test_the_hold_out_is_a_fifth_of_the_tenants_of_every_kind(mini_fleet: Fleet) -> None:
    everyone = np.arange(mini_fleet.manifest.height)
    held = held_out(mini_fleet, everyone)
    assert held.sum() == pytest.approx(0.2 * len(everyone), abs=1)
    assert np.array_equal(held, held_out(mini_fleet, everyone)), "seeded"
    assert not held_out(mini_fleet, everyone[:1]).any()
