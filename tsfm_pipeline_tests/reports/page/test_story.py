"""Test what the page shows besides the reports: requests of several tenants, data quality, and the
commands that were run.
"""

import os

import polars as pl
import pytest

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.reports.page.story import changed_settings, data_quality, gallery, provenance
from tsfm_pipeline.reports.shared.files import read_report
from tsfm_pipeline.settings import EvaluationSettings, SearchSettings, Settings
from tsfm_pipeline_tests.conftest import MINI, N_TENANTS


def test_the_gallery_shows_the_worst_miss_and_never_one_request_twice(mini_fleet: Fleet) -> None:
    records = gallery(mini_fleet)
    shown = [(record["tenant_id"], record["metric"], record["origin"]) for record in records]
    assert len(set(shown)) == len(shown)
    assert len({record["tenant_id"] for record in records}) > 1
    scores = mini_fleet.tables.read("scored_forecasts").filter(
        (pl.col("tier") == "standard") & (pl.col("method") == "search")
    )
    (worst,) = (
        record for record in records if "worst miss of the search" in record["title"].split("; ")
    )
    assert worst["loss_search"] == pytest.approx(scores["scaled_loss"].max())
    (gain,) = (
        record for record in records if "largest gain of the search" in record["title"].split("; ")
    )
    assert gain["loss_search"] - gain["loss_fixed"] == min(
        record["loss_search"] - record["loss_fixed"] for record in records
    )


def test_the_headline_names_tenants_at_both_ends(mini_fleet: Fleet) -> None:
    headline = read_report(mini_fleet, "headline_report")
    rows = headline["table_tenants"]
    ratios = [row["ratio"] for row in rows]
    assert ratios == sorted(ratios)
    assert all(
        row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        for row in rows
        if row["ratio_low"] is not None
    )
    assert {row["tenant_id"] for row in rows} <= set(mini_fleet.manifest["tenant_id"])
    assert headline["standard_n_tenants_cheaper"] >= sum(ratio < 1 for ratio in ratios)


def test_data_quality_counts_what_is_there_and_missing(mini_fleet: Fleet) -> None:
    record = data_quality(mini_fleet)
    assert record["n_tenants"] == N_TENANTS
    observed = int(mini_fleet.manifest["n_observed"].sum())
    assert record["missing_share"] == pytest.approx(
        record["n_missing"] / (record["n_missing"] + observed)
    )
    assert [row["tenant_id"] for row in record["table_incomplete"]] == mini_fleet.manifest.filter(
        (pl.col("n_missing") > 0) | (pl.col("n_duplicates") > 0)
    ).sort("n_missing", descending=True)["tenant_id"].to_list()[:5]


def test_the_commands_set_what_differs_from_the_defaults(mini_fleet: Fleet) -> None:
    last = provenance(mini_fleet)["reproduce"][-1]
    assert last.endswith(
        f"dagster asset materialize -m tsfm_pipeline.definitions --select '*' --partition {MINI}"
    )
    for name in changed_settings(mini_fleet.settings):
        assert f"{name}=" in last


@pytest.mark.parametrize("profile", ["full", "cheap"])
def test_the_environment_of_a_report_makes_its_settings_again(
    profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("TSFM_")]:
        monkeypatch.delenv(name)
    settings = Settings(
        profile=profile,
        shard_tenants=7,
        search=SearchSettings(
            portfolio_size=3,
            candidates=("ctx64", "ctx128", "ctx256"),
            half_lives=(float("inf"), 3.0),
            level_correction=False,
        ),
        evaluation=EvaluationSettings(seed=4),
    )
    changed = changed_settings(settings)
    assert "TSFM_EVALUATION__BOOTSTRAP_DRAWS" not in changed, (
        "a profile's own limits are not settings of their own"
    )
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings
