"""Test a fleet with two tiers of its own, one of them above the deciles, through the whole chain of
tables.

What belongs here: what own tiers change in tables and answers. What does not: the fields of a fleet
file (`fleets.test_spec`), the tail above the deciles (`autoresearch.test_tuning`), the reports.
"""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.cli.app import app
from tsfm_pipeline.evaluation.limits import in_tier_order
from tsfm_pipeline.evaluation.losses import decision_quantile
from tsfm_pipeline.evaluation.methods import FIXED, SEARCH, SEARCH_UNCORRECTED
from tsfm_pipeline.steps.evidence import read_policies
from tsfm_pipeline.steps.policies import read_shared_choices
from tsfm_pipeline_tests.cli.conftest import add_table_fleet, telemetry
from tsfm_pipeline_tests.conftest import FAST
from tsfm_pipeline_tests.project import Project

# Their fleet takes over 20 s to run.
pytestmark = [pytest.mark.run, pytest.mark.slow]

FLEET, N_TENANTS, N_METRICS = "plans", 4, 2
TIERS = {"gold": 0.95, "iron": 0.7}
PLANS = ("iron", "gold", "iron", "iron")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("own-tiers"), FAST)
    names = {f"host-{number:02d}": plan for number, plan in enumerate(PLANS)}
    frame = telemetry(N_TENANTS, n_days=17).with_columns(
        pl.col("tenant_id").replace_strict(names).alias("plan")
    )
    tiers = {"iron": 0.7, "gold": {"shortage": 19, "slack": 1}}
    add_table_fleet(project, FLEET, frame, tiers=tiers, tier_column="plan")
    run = project.materialise(
        FLEET,
        ["*headline_scores", "*recommendations", "*recommendation_scores", "*forecast_quality"],
    )
    assert run.returncode == 0, run.stdout[-8000:]
    return project


@pytest.fixture(scope="module")
def fleet(project: Project) -> Fleet:
    return project.fleet(FLEET)


def test_tiers_have_their_own_columns_and_rows_highest_alpha_first(fleet: Fleet) -> None:
    assert list(fleet.protocol.tiers.items()) == list(TIERS.items())
    assert fleet.protocol.headline_tier == "iron"
    assert fleet.manifest["tier"].to_list() == list(PLANS)
    per_tier = {
        "validation_losses": ("loss", "violation"),
        "tuning_losses": ("loss", "violation"),
        "config_priors": ("fleet", "retrieved", "violations"),
    }
    for table, kinds in per_tier.items():
        columns = fleet.tables.scan(table).collect_schema().names()
        expected = [f"{kind}_{tier}" for kind in kinds for tier in TIERS]
        own = [
            name
            for name in columns
            if name.startswith(tuple(f"{kind}_" for kind in kinds)) and name != "loss_median"
        ]
        assert own == expected
    for table in (
        "autoresearch_forecasts",
        "scored_forecasts",
        "headline_scores",
        "block_calibration",
        "recommendation_scores",
    ):
        assert fleet.tables.read(table)["tier"].unique().sort().to_list() == list(TIERS), table
    quality = (
        fleet.tables.read("forecast_quality").group_by("method").agg(pl.col("tier").unique().sort())
    )
    tiers_of = dict(quality.iter_rows())
    assert (tiers_of[SEARCH], tiers_of[FIXED], tiers_of["last_value"]) == (
        list(TIERS),
        list(TIERS),
        ["all"],
    )


def test_policies_and_rivals_know_these_tiers(fleet: Fleet) -> None:
    for policy in read_policies(fleet).values():
        assert policy.alphas == TIERS
    for choices in read_shared_choices(fleet).values():
        assert list(choices.tiers) == list(TIERS)


def test_every_method_decides_the_quantile_of_the_tier_and_the_search_moves_it(
    fleet: Fleet,
) -> None:
    table = fleet.tables.read("autoresearch_forecasts").filter(pl.col("chosen") != "")
    moved, decisions = [], []
    for tier, alpha in TIERS.items():
        rows = table.filter(pl.col("tier") == tier)
        assert rows.height
        decisions.append(rows["decision"].to_numpy())
        deciles = rows["deciles"].to_numpy().reshape(*decisions[-1].shape, 9)
        unit = deciles[..., 8] - deciles[..., 4]
        moved.append(decision_quantile(deciles, alpha) + rows["shift"].to_numpy()[:, None] * unit)
    lower = -np.inf if fleet.spec.lower is None else fleet.spec.lower
    expected = in_tier_order(np.maximum(np.stack(moved), lower), tuple(TIERS.values()), axis=0)
    np.testing.assert_allclose(np.stack(decisions), expected, rtol=1e-4, atol=1e-5)
    rates = dict(
        fleet.tables.read("headline_scores")
        .filter(pl.col("scope") == "all", pl.col("method") == SEARCH_UNCORRECTED)
        .select("tier", "violation_rate")
        .iter_rows()
    )
    assert rates["gold"] < rates["iron"], (
        "who pays for 19 of 20 steps is short less often than who pays for 14"
    )


def test_recommendations_reserve_more_for_the_higher_tier_and_mark_each_tenant_s_own(
    fleet: Fleet,
) -> None:
    table = fleet.tables.read("recommendations")
    assert table.height == N_TENANTS * N_METRICS * len(TIERS)
    own = (
        table.filter(pl.col("own_tier"))
        .select("tenant_number", "tier")
        .unique()
        .sort("tenant_number")
    )
    assert own["tier"].to_list() == list(PLANS)
    wide = table.pivot("tier", index=["tenant_number", "metric"], values="reservation")
    assert (wide["gold"] > wide["iron"]).all()


def test_forecasts_are_asked_for_by_these_tiers(project: Project, tmp_path: Path) -> None:
    table, out = project.fleets_dir / f"{FLEET}.csv", tmp_path / "out.parquet"
    asked = ["forecast", str(table), "--out", str(out), "--fleet", FLEET]
    variables = {**project.environment, "NO_COLOR": "1", "TERM": "dumb"}
    done = CliRunner().invoke(app, asked, env=variables)
    assert done.exit_code == 0, done.output
    assert pl.read_parquet(out)["tier"].unique(maintain_order=True).to_list() == list(TIERS)
    done = CliRunner().invoke(app, [*asked, "--tier", "premium"], env=variables)
    assert done.exit_code != 0
    assert "no tier 'premium'; allowed: gold, iron" in " ".join(done.output.split())
