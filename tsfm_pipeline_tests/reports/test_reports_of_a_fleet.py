"""Test that the reports of a materialised fleet are machine-readable, complete, and consistent with
the tables.
"""

import json
import math
import re
from typing import Any

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.reports.acceptance.ledger import (
    append_to_ledger,
    ledger,
    ledger_row,
    ledger_schema,
)
from tsfm_pipeline.reports.shared.files import read_report
from tsfm_pipeline_tests.conftest import MINI, N_ORIGINS, N_TENANTS
from tsfm_pipeline_tests.project import Project

REPORTS = (
    *(
        "headline_report",
        "ablation_report",
        "cold_start_report",
        "sla_report",
        "latency_report",
        "acceptance_criteria",
    ),
    "forecast_quality_report",
)
ABLATION_FIGURES = (
    "steps_figure",
    "rivals_figure",
    "groups_figure",
    "selection_figure",
    "controls_figure",
    "floor_figure",
)
FIGURES = (
    "headline_figure",
    "archetype_figure",
    *ABLATION_FIGURES,
    "cold_start_figure",
    "sla_figure",
    "latency_figure",
)
COUNTS_BY_NAME = {"invalid_reasons"}
"""Keys whose value counts things by name; everything else is flat."""


@pytest.mark.parametrize("report", REPORTS)
def test_reports_are_flat_json(mini_fleet: Fleet, report: str) -> None:
    content = json.loads(
        (mini_fleet.reports_dir / f"{report}.json").read_text(),
        parse_constant=lambda name: pytest.fail(f"{name} in JSON"),
    )
    assert content["fleet"] == MINI

    def is_scalar(value: Any) -> bool:
        return value is None or isinstance(value, str | int | float | bool)

    for key, value in content.items():
        if key.startswith("table_"):
            assert value, f"{key} is empty"
            assert all(is_scalar(cell) for row in value for cell in row.values()), key
            assert len({tuple(row) for row in value}) == 1, f"rows of {key} have different columns"
        elif isinstance(value, list):
            assert all(is_scalar(item) for item in value), key
        elif key in COUNTS_BY_NAME:
            assert all(isinstance(count, int) for count in value.values())
        else:
            assert is_scalar(value), key


@pytest.mark.parametrize("tier", TIERS)
def test_the_headline_states_what_was_promised_per_tier(mini_fleet: Fleet, tier: str) -> None:
    report = read_report(mini_fleet, "headline_report")
    search, fixed, ratio = (
        report[f"{tier}_{name}"] for name in ("mean_loss_search", "mean_loss_fixed", "ratio")
    )
    assert ratio == pytest.approx(search / fixed, rel=1e-6)
    assert report[f"{tier}_ratio_low"] <= ratio <= report[f"{tier}_ratio_high"]
    assert (
        0
        <= report[f"{tier}_win_rate_low"]
        <= report[f"{tier}_win_rate"]
        <= report[f"{tier}_win_rate_high"]
        <= 1
    )
    assert 0 < report[f"{tier}_p_value"] <= 1
    assert report[f"{tier}_n_requests_scored"] == N_TENANTS // 2 * N_ORIGINS
    assert report[f"{tier}_n_tenants_scored"] == N_TENANTS // 2
    assert report[f"{tier}_fixed_config"] in {config.name for config in mini_fleet.configs}
    assert (
        report[f"{tier}_leave_one_out_ratio_min"]
        <= ratio
        <= report[f"{tier}_leave_one_out_ratio_max"]
    )


def test_the_headline_counts_requests(mini_fleet: Fleet) -> None:
    report = read_report(mini_fleet, "headline_report")
    assert report["n_requests"] == N_TENANTS // 2 * N_ORIGINS
    assert report["n_invalid_requests"] == 0
    assert report["n_test_tenants"] == N_TENANTS // 2


def test_the_headline_follows_from_the_scores(mini_fleet: Fleet) -> None:
    report = read_report(mini_fleet, "headline_report")
    scores = mini_fleet.tables.read("scored_forecasts").filter(pl.col("tier") == "standard")
    for name, method in (("search", "search"), ("fixed", "fixed_quantile")):
        by_request = (
            scores.filter(pl.col("method") == method)
            .group_by("request_id")
            .agg(pl.col("scaled_loss").mean())
        )
        assert report[f"standard_mean_loss_{name}"] == pytest.approx(
            float(by_request["scaled_loss"].to_numpy().mean()), rel=1e-5
        )


def test_the_criteria_are_judged_one_to_ten(mini_fleet: Fleet) -> None:
    report = read_report(mini_fleet, "acceptance_criteria")
    rows = report["table_criteria"]
    assert [row["id"] for row in rows] == [f"C{n}" for n in range(1, 11)]
    for row in rows:
        assert row["verdict"] in ("PASS", "FAIL", "NULL", "N/A")
        assert row["target"]
        assert row["title"]
        assert row["verdict"] == "N/A" or row["figure"] is not None
    assert sum(report[f"n_{verdict}"] for verdict in ("pass", "fail", "null", "na")) == 10


def test_latency_is_stated_per_stage_and_size(mini_fleet: Fleet) -> None:
    report = read_report(mini_fleet, "latency_report")
    table = pl.DataFrame(report["table_latency"])
    timed = mini_fleet.settings.evaluation.latency_sizes
    assert sorted(table["k"].unique()) == sorted({*timed, report["portfolio_size"]})
    for _, part in table.group_by("k"):
        p95 = dict(part.select("stage", "p95_ms").iter_rows())
        assert {"retrieval", "forecast", "decision", "total"} <= p95.keys()
        assert p95["total"] >= max(p95[stage] for stage in ("retrieval", "forecast", "decision"))
    assert report["k6_p50_latency_ms"] <= report["k6_p95_latency_ms"] <= report["k6_p99_latency_ms"]
    assert report["n_requests"] == 20
    assert report["device"]


def test_cold_start_covers_every_length_and_strategy(mini_fleet: Fleet) -> None:
    table = pl.DataFrame(read_report(mini_fleet, "cold_start_report")["table_cold_start"])
    strategies = {
        "no_prior",
        "fleet_prior",
        "retrieved_prior",
        "true_label_prior",
        "fixed_config",
        "full_history",
    }
    assert set(table.select("minutes", "tier", "strategy").unique().iter_rows()) == {
        (minutes, tier, strategy)
        for minutes in mini_fleet.settings.evaluation.cold_start_minutes
        for tier in TIERS
        for strategy in strategies
    }
    full = table.filter(pl.col("strategy") == "full_history")
    assert full["ratio"].to_numpy() == pytest.approx(1)


def test_sla_report_compares_every_pair_of_tiers(mini_fleet: Fleet) -> None:
    report = read_report(mini_fleet, "sla_report")
    assert {row["tier"] for row in report["table_tiers"]} == set(TIERS)
    assert len(report["table_steps"]) == 2
    pairs = {(row["scored_tier"], row["forecast_tier"]) for row in report["table_cross"]}
    assert pairs == {(a, b) for a in TIERS for b in TIERS if a != b}


@pytest.mark.parametrize("figure", FIGURES)
def test_figures_are_drawn(mini_fleet: Fleet, figure: str) -> None:
    content = (mini_fleet.reports_dir / f"{figure}.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 5_000


def test_the_html_report_is_self_contained_and_shows_the_answer(mini_fleet: Fleet) -> None:
    html = (mini_fleet.reports_dir / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href|action)\s*=\s*["']?\s*(?:https?:)?//""", html), (
        "something is fetched from elsewhere"
    )
    assert not re.search(r"url\(\s*[\"']?(?!data:|#)", html), "a style sheet fetches something"
    assert "@import" not in html
    assert html.count("data:image/png;base64,") + html.count("<svg") >= len(FIGURES)
    ratio = read_report(mini_fleet, "headline_report")["standard_ratio"]
    assert f"{ratio:.3f}" in html or f"{ratio:.2f}" in html
    assert all(f"C{n}" in html for n in range(1, 11))


def test_one_row_in_the_ledger_per_materialisation(mini_fleet: Fleet) -> None:
    rows = ledger(mini_fleet).read()
    assert rows.height == 1
    row = rows.row(0, named=True)
    report = read_report(mini_fleet, "headline_report")
    assert row["standard_ratio"] == report["standard_ratio"]
    assert row["checkpoint_sha256"] == mini_fleet.context.checkpoint_digest
    assert row["scores_fingerprint"] == mini_fleet.tables.expected["headline_scores"]
    assert {f"verdict_C{n}" for n in range(1, 11)} <= row.keys()
    assert all(key in row for key in ("time", "git_commit", "settings_hash"))


def test_the_ledger_is_appended_to_and_never_rewritten(
    mini_project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    copy = mini_project.copy_to(tmp_path_factory.mktemp("ledger"))
    fleet = copy.fleet(MINI)
    first, (path,) = ledger(fleet).read(), ledger(fleet).paths()
    before = path.read_bytes()
    appended = append_to_ledger(fleet)
    stored = ledger(fleet).read()
    assert path.read_bytes() == before
    assert stored.equals(appended)
    assert stored.height == 2
    assert stored[:1].equals(first)
    figures = [name for name, dtype in stored.schema.items() if dtype == pl.Float64]
    np.testing.assert_array_equal(stored[figures][0].to_numpy(), stored[figures][1].to_numpy())


def test_the_ledger_declares_every_column_of_a_row(mini_fleet: Fleet) -> None:
    assert list(ledger_row(mini_fleet)) == list(ledger_schema(mini_fleet.protocol.tiers))


def test_a_report_that_is_not_there_names_its_asset(mini_fleet: Fleet) -> None:
    with pytest.raises(
        FileNotFoundError, match="materialise the asset 'no_report' of fleet 'mini' first"
    ):
        read_report(mini_fleet, "no_report")


def test_no_figure_of_the_headline_is_undefined(mini_fleet: Fleet) -> None:
    report = read_report(mini_fleet, "headline_report")
    numbers = {
        key: value
        for key, value in report.items()
        if key.split("_")[0] in TIERS and not key.endswith("fixed_config")
    }
    assert [
        key for key, value in numbers.items() if value is None or not math.isfinite(value)
    ] == []
