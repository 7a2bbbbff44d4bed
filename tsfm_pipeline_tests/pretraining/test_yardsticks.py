"""Test conclusions from figures: contexts chosen on other data, verdicts, known answers, and
messages about missing data.
"""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtri

from tsfm_pipeline.evaluation.losses import DECILE_LEVELS
from tsfm_pipeline.forecaster import Panel
from tsfm_pipeline.plugins import YARDSTICKS, PluginError
from tsfm_pipeline.pretraining.bars import coverage_error, plain_coverage_error
from tsfm_pipeline.pretraining.behaviour import constants, random_walks
from tsfm_pipeline.pretraining.sources import MissingDataError, Sources
from tsfm_pipeline.pretraining.tables import further_table
from tsfm_pipeline.pretraining.yardsticks import chosen_context, further_yardsticks
from tsfm_pipeline_tests.packages import Site


def ideal(panel: Panel, origins: np.ndarray, horizon: int) -> np.ndarray:
    last = np.take_along_axis(panel.filled, origins, axis=1)[..., None, None]
    return last + np.sqrt(np.arange(1, horizon + 1))[:, None] * ndtri(DECILE_LEVELS)


def test_the_ideal_forecast_of_a_random_walk_costs_nothing_extra_and_a_drift_does():
    figures = random_walks(ideal, 64)
    assert figures["excess_loss"] == pytest.approx(0, abs=1e-6)
    assert figures["spread"] == pytest.approx(1, abs=1e-6)
    drifting = random_walks(
        lambda p, o, h: ideal(p, o, h) + 0.3 * np.sqrt(np.arange(1, h + 1))[:, None], 64
    )
    assert drifting["drift_rms"] == pytest.approx(0.3, abs=1e-6)
    assert drifting["excess_loss_median"] == pytest.approx(0.3**2 / 2, rel=0.05)


def test_a_constant_series_must_be_forecast_exactly():
    assert constants(
        lambda p, o, h: np.repeat(p.values[:, :1, None, None], h, axis=2) * np.ones(9), 64
    )["exact"]
    assert not constants(
        lambda p, o, h: np.repeat(p.values[:, :1, None, None], h, axis=2) * np.ones(9) + 1e-6, 64
    )["exact"]


def test_a_groups_context_is_chosen_on_the_other_groups():
    scores = {
        "ett": {"ctx512": 1.0, "ctx1024": 0.5},
        "smd": {"ctx512": 0.8, "ctx1024": 0.9},
        "asd": {"ctx512": 0.8, "ctx1024": 0.81},
    }
    assert chosen_context("ett", scores) == "ctx512"
    assert chosen_context("smd", scores) == "ctx1024"
    tied = {group: dict.fromkeys(("ctx512", "ctx1024"), 1.0) for group in scores}
    assert chosen_context("ett", tied) == "ctx512"


def test_actuals_that_rest_on_the_forecast_are_no_error_of_coverage():
    levels = DECILE_LEVELS.tolist()
    resting = {"below": [0.0] * 7 + [0.8, 0.9], "at_or_below": [0.7] * 7 + [0.8, 0.9]}
    assert coverage_error(resting) == pytest.approx(0, abs=1e-9)
    assert plain_coverage_error(resting) == pytest.approx(0.6)
    high = {
        "below": [level + 0.1 for level in levels],
        "at_or_below": [level + 0.12 for level in levels],
    }
    assert coverage_error(high) == pytest.approx(0.1)


def test_missing_data_are_named_with_the_place_where_they_are_published(tmp_path: Path):
    with pytest.raises(
        MissingDataError, match=r"TSFM_BENCHMARKS_DIR and TSFM_FLEETS_DIR .*ETDataset"
    ):
        Sources.from_environment({})
    with pytest.raises(
        MissingDataError,
        match=r"smd.parquet \(TSFM_FLEETS_DIR\); published at https://github.com/NetManAIOps",
    ):
        Sources.from_environment(
            {"TSFM_BENCHMARKS_DIR": str(tmp_path), "TSFM_FLEETS_DIR": str(tmp_path)}
        )


def test_a_yardstick_of_another_package_is_listed_and_its_figures_are_shown(site: Site):
    source = "def measure(forecaster, sources):\n    return {'lightness': 0.125}\n"
    site.install("scales", source, {YARDSTICKS: {"scales": "measure"}})
    assert "scales" in further_yardsticks()
    figures = further_yardsticks()["scales"](None, None)
    assert further_table({"further": {"scales": figures}}).rows == (
        ("scales", "lightness", "0.125"),
    )


@pytest.mark.parametrize("name", ["ett", "smd", "behaviour"])
def test_a_yardstick_with_the_name_of_an_own_one_is_refused(site: Site, name: str):
    site.install("scales", "def measure(*_): ...\n", {YARDSTICKS: {name: "measure"}})
    with pytest.raises(PluginError, match=f"{name} of scales"):
        further_yardsticks()
