"""Test that a forecaster of another package makes forecasts, is scored with the others, and is part
of the tables' fingerprints.
"""

from functools import partial
from pathlib import Path

import polars as pl
import pytest

from tsfm_pipeline.baselines import DIRECT_BASELINES, direct_forecasters
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.files import LakeError
from tsfm_pipeline.plugins import FORECASTERS, PluginError
from tsfm_pipeline.steps.forecasts import baseline_forecasts_shard
from tsfm_pipeline.steps.leakage import baseline_leakage
from tsfm_pipeline.steps.quality import forecast_quality_shard
from tsfm_pipeline.steps.scores import scored_forecasts_shard
from tsfm_pipeline_tests.conftest import MINI
from tsfm_pipeline_tests.packages import Site
from tsfm_pipeline_tests.project import Project

SOURCE = '''
import numpy as np

from tsfm_pipeline.baselines.protocol import DirectBaseline


class Half(DirectBaseline):
    """Half of the last value."""

    name = "half"

    def _deciles(self, panel, origins, horizon):
        return 0.5 * np.take_along_axis(panel.filled, origins, axis=1)[:, :, None, None]


def make(fit_end):
    return Half()
'''
STALE = {
    "baseline_forecasts",
    "scored_forecasts",
    "forecast_quality",
    "headline_scores",
    "recommendation_scores",
    "cold_start_losses",
}


def test_it_stands_after_the_own_ones(site: Site) -> None:
    site.install("half-package", SOURCE, {FORECASTERS: {"half": "make"}})
    assert list(direct_forecasters()) == [*DIRECT_BASELINES, "half"]


@pytest.mark.parametrize("name", ["last_value", "search", "static_ensemble", "last_block"])
def test_the_name_of_any_method_that_is_compared_is_refused(site: Site, name: str) -> None:
    site.install("half-package", SOURCE, {FORECASTERS: {name: "make"}})
    with pytest.raises(
        PluginError, match=rf"{name} of half-package 1\.0 has the name of something built in"
    ):
        direct_forecasters()


def test_it_is_scored_beside_the_others_and_makes_exactly_these_tables_stale(
    mini_project: Project, mini_fleet: Fleet, tmp_path: Path, site: Site
) -> None:
    before = dict(mini_fleet.tables.expected)
    site.install("half-package", SOURCE, {FORECASTERS: {"half": "make"}})
    fleet = mini_project.copy_to(tmp_path / "project").fleet(MINI)
    expected = fleet.tables.expected
    assert {table for table in before if before[table] != expected[table]} == STALE
    with pytest.raises(LakeError, match="baseline_forecasts"):
        scored_forecasts_shard(fleet, fleet.shards[0])

    fleet.tables.map_shards(
        "baseline_forecasts", partial(baseline_forecasts_shard, fleet), fleet.shards
    )
    scores = scored_forecasts_shard(fleet, fleet.shards[0])
    earlier = mini_fleet.tables.read("scored_forecasts", 0)
    assert scores.filter(pl.col("method") != "half").equals(earlier), "nothing else has changed"
    own = scores.filter(pl.col("method") == "half")
    assert own.height == scores.filter(pl.col("method") == "last_value").height
    assert own["loss"].is_finite().all()
    assert own["loss"].mean() != scores.filter(pl.col("method") == "last_value")["loss"].mean()
    assert own["tier"].unique().sort().to_list() == sorted(TIERS)
    quality = forecast_quality_shard(fleet, fleet.shards[0])
    assert quality.filter(pl.col("method") == "half")["tier"].unique().to_list() == ["all"]
    assert baseline_leakage(fleet) == 0
