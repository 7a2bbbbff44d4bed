"""Test the rolling protocol (windows, metrics, change quantiles, coverage) and the reproduction of
the independent reference.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from tsfm_pipeline.baselines.empirical import LastValueChangeQuantiles
from tsfm_pipeline.baselines.point import LastValue
from tsfm_pipeline.evaluation.losses import decision_quantile
from tsfm_pipeline.pretraining.reproduction import ReproductionError, reproduce
from tsfm_pipeline.pretraining.rolling import (
    at_levels,
    by_group,
    change_quantiles,
    coverage,
    panel_of,
    series_losses,
    windows,
)
from tsfm_pipeline.pretraining.sources import FLEET_NAMES, RealFleet, Sources


def fleet_of(values: np.ndarray, season: int = 8) -> RealFleet:
    lengths = np.full(len(values), values.shape[1])
    names = tuple(str(i) for i in range(len(values)))
    return RealFleet(
        "f", values.astype(np.float32), lengths, ("g",) * len(values), names, season, 1, (4,), 0
    )


@pytest.mark.slow
@pytest.mark.heavy
def test_naive_rows_equal_those_of_an_independent_implementation(real_sources: Sources):
    checked = reproduce(real_sources, [real_sources.fleet(name) for name in FLEET_NAMES])
    assert checked["n_figures"] == 310
    assert checked["largest_relative_deviation"] < 5e-4
    assert checked["change_quantiles_largest_relative_deviation"] < 0.01
    assert checked["incomplete_groups"] == ["nab aws_cpu: 10 of 11 series"]


def test_a_naive_row_that_differs_stops_the_evaluation(small_sources: Sources, tmp_path: Path):
    for path in small_sources.benchmarks.iterdir():
        (tmp_path / path.name).symlink_to(path)
    reference = small_sources.reference()
    reference["asd"]["all19|H12"]["methods"]["last"]["pb75"] *= 1.001
    (tmp_path / "reference_figures.json").unlink()
    (tmp_path / "reference_figures.json").write_text(json.dumps(reference))
    altered = Sources(tmp_path, tmp_path)
    with pytest.raises(ReproductionError, match="asd all19 H12 last pb75"):
        reproduce(altered, [altered.fleet("asd")])


def test_windows_follow_the_published_rule_and_need_half_of_their_actuals():
    values = np.arange(100.0)[None].repeat(2, axis=0)
    values[1, 81:84] = np.nan
    asked = windows(fleet_of(values), 4, 5)
    assert asked.origins[0].tolist() == [79, 83, 87, 91, 95]
    assert asked.actual[0, 0].tolist() == [80, 81, 82, 83]
    assert np.isnan(asked.actual[1, 0]).all()
    assert np.isfinite(asked.actual[1, 1:]).all()


def test_metrics_of_the_last_value_on_a_ramp_are_known():
    fleet = fleet_of(np.arange(100.0)[None])
    asked = windows(fleet, 4, 5)
    figures = by_group(
        fleet,
        series_losses(
            fleet, asked.actual, at_levels(LastValue().forecast(panel_of(fleet), asked.origins, 4))
        ),
    )["g"]
    assert figures["MAE"] == pytest.approx(2.5)
    assert figures["MASE"] == pytest.approx(2.5 / 8)
    assert figures["pb75"] == pytest.approx(0.75 * 2.5 / 49.5)
    assert figures["ND"] == pytest.approx(2.5 / np.nanmean(asked.actual))


def test_change_quantiles_are_the_baselines_where_no_decile_is_interpolated(small_sources: Sources):
    fleet = small_sources.fleet("nab")
    asked, panel = windows(fleet, 12, 3), panel_of(fleet)
    ours = change_quantiles(panel, asked.origins, 12)
    deciles = LastValueChangeQuantiles().forecast(panel, asked.origins, 12)
    for level in (0.5, 0.9):
        assert ours[level] == pytest.approx(decision_quantile(deciles, level), rel=1e-5)


def test_nothing_after_an_origin_is_read(small_sources: Sources):
    fleet = small_sources.fleet("nab")
    origins = np.full((fleet.n_series, 1), 1500)
    noise = fleet.values.copy()
    noise[:, 1501:] = np.random.default_rng(0).normal(size=noise[:, 1501:].shape)
    altered = dataclasses.replace(fleet, values=noise)
    for level, forecast in change_quantiles(panel_of(fleet), origins, 12).items():
        assert np.array_equal(forecast, change_quantiles(panel_of(altered), origins, 12)[level])


def test_coverage_tells_ties_from_misses():
    deciles = np.zeros((1, 1, 10, 9), dtype=np.float32)
    covered = coverage(np.array([[[0, 0, 0, 0, 0, 0, 0, 1, 1, 1]]], dtype=np.float32), deciles)
    assert covered["at_or_below"] == [0.7] * 9
    assert covered["below"] == [0.0] * 9
