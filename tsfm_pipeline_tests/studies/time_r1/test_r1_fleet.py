"""Test the section about slow thinking on the page of a fleet that asked for it.

What belongs here: the section's figures and words, with a small untrained policy. What does not:
the forecaster (`test_r1_forecaster`).
"""

import math

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.methods import FIXED, SEARCH, SEASONAL_NAIVE
from tsfm_pipeline.files import LakeError
from tsfm_pipeline.reports.quality.numbers import request_quality
from tsfm_pipeline.reports.shared.layout import Section
from tsfm_pipeline.studies.time_r1 import fleet_thinking
from tsfm_pipeline.studies.time_r1.fleet_section import SECTION
from tsfm_pipeline.studies.time_r1.forecaster import SlowThinkingForecaster
from tsfm_pipeline.studies.time_r1.methods import SLOW_THINKING
from tsfm_pipeline.studies.time_r1.report.fleet import FleetThinking
from tsfm_pipeline_tests.studies.time_r1.thinking_setting import LOOK_BACK, random_asker

N_WITHOUT = 5
HALVED = ("quantile_loss_sum", "abs_error_sum")


def forecaster() -> SlowThinkingForecaster:
    return SlowThinkingForecaster(random_asker(), None, (), LOOK_BACK)


@pytest.fixture(scope="module")
def quality(mini_fleet: Fleet) -> pl.DataFrame:
    """The fleet's scores with those of a slow thinking that errs half as much as seasonal naive,
    and has no forecast of the first requests.
    """
    rows = request_quality(mini_fleet)
    first = rows["request_id"].unique().sort().head(N_WITHOUT).to_list()
    own = rows.filter(method=SEASONAL_NAIVE).with_columns(
        pl.lit(SLOW_THINKING).alias("method"),
        *(
            pl.when(pl.col("request_id").is_in(first)).then(math.nan).otherwise(pl.col(name) / 2)
            .cast(rows.schema[name]).alias(name)
            for name in HALVED
        ),
    )  # fmt: skip
    return pl.concat([rows, own]).sort("method", "tier", "request_id", "metric")


@pytest.fixture(scope="module")
def report(mini_fleet: Fleet, quality: pl.DataFrame) -> FleetThinking:
    """The section's figures, with two tenants asked about again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fleet_thinking, "MOST_AGAIN", 2 * len(mini_fleet.grid.metrics))
        return fleet_thinking.fleet_thinking(mini_fleet, quality, forecaster())


def test_methods_are_compared_on_the_requests_that_slow_thinking_has_a_forecast_of(
    mini_fleet: Fleet, quality: pl.DataFrame, report: FleetThinking
) -> None:
    assert report.n_requests_without == N_WITHOUT
    assert report.n_requests + N_WITHOUT == quality["request_id"].n_unique()
    naive = report.rival(SEASONAL_NAIVE)
    assert naive is not None
    np.testing.assert_allclose(naive.wql_ratio, 0.5, rtol=1e-6)
    np.testing.assert_allclose(naive.mase_ratio, 0.5, rtol=1e-6)
    own = report.rival(SLOW_THINKING)
    assert own is not None
    assert own.wql.figure == pytest.approx(naive.wql.figure / 2)
    fixed = report.rival(FIXED)
    assert fixed is not None
    assert fixed.wql_ratio.figure == pytest.approx(own.wql.figure / fixed.wql.figure)
    assert fixed.wql_ratio.low < fixed.wql_ratio.figure < fixed.wql_ratio.high
    assert report.rival(SEARCH) is not None


def test_requests_that_are_thought_about_again_are_those_of_the_forecaster(
    mini_fleet: Fleet, report: FleetThinking
) -> None:
    n_metrics = len(mini_fleet.grid.metrics)
    assert (report.n_again, report.n_tenants_again) == (2 * n_metrics, 2)
    assert report.n_failures <= report.n_answers
    assert report.n_answers >= 3 * report.n_again, "one at each origin"
    assert report.table_gallery
    values = np.concatenate([mini_fleet.arrays.values(shard) for shard in mini_fleet.shards])
    numbers = dict(mini_fleet.manifest.select("tenant_id", "tenant_number").iter_rows())
    for row in report.table_gallery:
        tenant, metric = row.channel.split(", ")
        telemetry = values[numbers[tenant]]
        known = telemetry[mini_fleet.grid.metrics.index(metric)]
        truth = known[row.origin + 1 : row.origin + 1 + mini_fleet.spec.horizon]
        np.testing.assert_allclose(row.truth, truth, rtol=1e-5)
        past = mini_fleet.arrays.panel(telemetry[None])
        shown = past.filled[mini_fleet.grid.metrics.index(metric), : row.origin + 1][-LOOK_BACK:]
        np.testing.assert_allclose(row.history, shown, rtol=1e-5)
        ((_, _, thought),) = forecaster().thoughts(
            past, np.full((n_metrics, 1), row.origin), mini_fleet.spec.horizon
        )
        at = mini_fleet.grid.metrics.index(metric)
        assert row.reason == thought.reasons[at]
        np.testing.assert_allclose(row.refined, thought.last_refined[at], rtol=1e-5)
        assert (row.refined_mase < row.draft_mase) == (row.kind == "best")


def test_the_section_shows_scores_gate_failures_and_reasons(report: FleetThinking) -> None:
    section = Section("slow_thinking", SECTION.label, SECTION.title)
    SECTION.fill(section, report.flat())
    assert "0.500" not in section.answer
    assert "times that of the search" in section.answer
    assert "times that of the fixed configuration" in section.answer
    assert f"{N_WITHOUT} further ones had too little history" in section.answer
    assert [word for word, _ in section.points] == ["Over its draft", "Gate", "Unusable answers"]
    (table,) = section.tables
    (own,) = table.emphasised
    assert table.rows[own][0] == "slow thinking"
    assert len(section.gallery) == len(report.table_gallery)
    for (_, _, details), row in zip(section.gallery, report.table_gallery, strict=True):
        assert details.startswith(row.reason)


def test_without_a_forecast_the_section_says_what_is_needed(
    mini_fleet: Fleet, quality: pl.DataFrame
) -> None:
    none = quality.with_columns(
        pl.when(method=SLOW_THINKING)
        .then(math.nan)
        .otherwise(pl.col("quantile_loss_sum"))
        .alias("quantile_loss_sum")
    )
    section = Section("slow_thinking", SECTION.label, SECTION.title)
    found = fleet_thinking.fleet_thinking(mini_fleet, none, forecaster())
    SECTION.fill(section, found.flat())
    assert f"no request has the {LOOK_BACK} known steps" in section.answer
    assert not section.tables


def test_scores_without_slow_thinking_are_refused(mini_fleet: Fleet) -> None:
    with pytest.raises(LakeError, match="were made without slow_thinking; run the fleet again"):
        fleet_thinking.fleet_thinking(mini_fleet, request_quality(mini_fleet), forecaster())
