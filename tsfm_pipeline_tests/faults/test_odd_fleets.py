"""Test a fleet that is odd in every respect, undisturbed and with every table killed while it is
made; and the smallest possible fleet.

What belongs here: whole chains, in one module so that they are run once. What does not: faults that
a single function shows.
"""

import math
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.files import LakeError
from tsfm_pipeline.fleets.quality import EVERYONE, check_fleet
from tsfm_pipeline.reports.shared.files import read_report
from tsfm_pipeline.steps.workloads import describe_manifest
from tsfm_pipeline_tests.faults import fleets
from tsfm_pipeline_tests.faults.nursery import Nursery, Outcome
from tsfm_pipeline_tests.project import Project

pytestmark = [pytest.mark.run, pytest.mark.slow]
ODD, WRECK, SINGLE = "odd", "wreck", "single"
KILLED_REPORTS = ("headline_report", "experiment_ledger")
"""Reports are written by one function, whole; the ledger is the only one that grows, by a file in
the records.
"""


@dataclass(frozen=True)
class Killed:
    """What a SIGKILL left: exit status, temporary files, whole parts, and what a reader of the
    table is told.
    """

    status: int
    temporary: set[str]
    n_parts: int
    told: str


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """The odd fleet, and the single one, after runs that nobody disturbed; and the process that can
    run more.
    """
    project = Project(tmp_path_factory.mktemp("faults") / "project", fleets.FAST)
    fleets.add_odd_fleet(project, ODD)
    fleets.add_odd_fleet(project, WRECK, path=f"{ODD}.parquet")
    fleets.add_single_fleet(project, SINGLE)
    nursery = Nursery(project)
    for name, assets in ((ODD, nursery.assets), (SINGLE, [*TABLES, "headline_report"])):
        outcome = nursery.run(name, assets)
        assert outcome.status == 0, outcome.error[-6000:]
    yield nursery
    nursery.close()


@pytest.fixture(scope="module")
def odd(nursery: Nursery) -> Fleet:
    return nursery.project.fleet(ODD)


@pytest.fixture(scope="module")
def killed(nursery: Nursery) -> dict[str, Killed]:
    """Every table in turn, killed at one of its renamings; what is left of it is put together to
    the fleet `wreck`.
    """
    project = nursery.project
    left = {}
    for i, table in enumerate(TABLES):
        folder, wreck = project.table_dir(ODD, table), project.table_dir(WRECK, table)
        wreck.parent.mkdir(exist_ok=True)
        aside = folder.rename(folder.with_name(f"whole-{table}"))
        left[table] = kill(
            nursery, table, 2 if i % 3 else 1
        )  # of a table in one part, the second is its record
        folder.rename(wreck)
        aside.rename(folder)
    return left


@pytest.fixture(scope="module")
def resumed(nursery: Nursery, killed: dict[str, Killed]) -> Outcome:
    """The run of the whole chain over the wreck."""
    outcome = nursery.run(WRECK, list(TABLES))
    assert outcome.status == 0, outcome.error[-6000:]
    return outcome


def kill(nursery: Nursery, asset: str, renaming: int) -> Killed:
    project = nursery.project
    before = hidden(project.data_dir)
    status = nursery.kill(ODD, asset, project.data_dir, renaming).status
    told = ""
    try:
        project.fleet(ODD).tables.record(asset)
    except LakeError as error:
        told = str(error)
    return Killed(status, hidden(project.data_dir) - before, len(project.parts(ODD, asset)), told)


def hidden(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob(".*.tmp")}


# -- kills


def test_every_table_was_killed_while_it_was_written_and_no_reader_sees_it(
    killed: dict[str, Killed],
) -> None:
    for table, left in killed.items():
        assert left.status == -signal.SIGKILL, table
        assert left.temporary, table
        assert f"materialise the asset '{table}' first" in left.told


def test_every_table_goes_on_after_its_kill_and_keeps_what_was_whole(
    killed: dict[str, Killed], resumed: Outcome
) -> None:
    assert resumed.kept == {table: left.n_parts for table, left in killed.items()}
    assert sum(resumed.kept.values()) >= len(TABLES) // 2, "killed too early to prove anything"


def test_the_tables_after_all_kills_are_those_of_an_undisturbed_run(
    nursery: Nursery, resumed: Outcome
) -> None:
    project = nursery.project
    assert project.digests(WRECK) == project.digests(ODD)
    assert hidden(project.data_dir / "lake" / WRECK) == set()


@pytest.mark.parametrize("asset", KILLED_REPORTS)
def test_a_report_that_is_killed_stays_what_it_was_and_nothing_of_the_ledger_is_lost(
    nursery: Nursery, asset: str
) -> None:
    folders = [nursery.project.data_dir / name for name in ("reports", "records")]
    before = {
        path: path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert any("experiment_ledger" in str(path) and path.suffix == ".parquet" for path in before)
    left = kill(nursery, asset, 1)
    assert (left.status, len(left.temporary)) == (-signal.SIGKILL, 1)
    assert {path: path.read_bytes() for path in before} == before


# -- odd tenants


def test_what_cannot_be_asked_is_left_out_with_its_reason_and_stops_nobody_else(odd: Fleet) -> None:
    requests = odd.tables.read("forecast_requests").filter(pl.col("role") == "test")
    asked = dict(requests.group_by("tenant_id").agg(pl.col("valid").sum()).iter_rows())
    some = (fleets.FLAT, fleets.ZEROS, fleets.GAPPY, fleets.NEW, fleets.GONE)
    assert asked == dict.fromkeys((*fleets.HOSTILE, *some), 3) | {fleets.NO_MEM: 0}
    reasons = dict(
        requests.filter(~pl.col("valid"))
        .group_by("tenant_id")
        .agg(pl.col("reason").first())
        .iter_rows()
    )
    assert list(reasons) == [fleets.NO_MEM]
    assert "history too short: 0 of" in reasons[fleets.NO_MEM]


def test_every_valid_request_has_finite_decisions_also_of_constant_series(odd: Fleet) -> None:
    valid = (
        odd.tables.read("forecast_requests")
        .filter(pl.col("valid") & (pl.col("role") == "test"))["request_id"]
        .to_list()
    )
    decided = odd.tables.read("autoresearch_forecasts").filter(pl.col("request_id").is_in(valid))
    assert decided.height == len(valid) * 2 * len(TIERS)
    assert np.isfinite(decided["decision"].to_numpy()).all()
    (flat,) = odd.manifest.filter(pl.col("tenant_id") == fleets.FLAT)["tenant_number"]
    of_flat = decided.filter((pl.col("tenant_number") == flat) & (pl.col("metric") == fleets.CPU))[
        "decision"
    ].to_numpy()
    np.testing.assert_allclose(of_flat, 3.0, rtol=0.02)


def test_the_report_counts_what_was_left_out(odd: Fleet) -> None:
    report = read_report(odd, "headline_report")
    assert (report["n_requests"], report["n_invalid_requests"]) == (36, 3)
    assert report["n_excluded_series"] == 3, (
        "zeros has no scale in either metric, and no mem none in one"
    )
    for tier in TIERS:
        assert report[f"{tier}_n_tenants_scored"] == len(fleets.HOSTILE) + 4
        assert math.isfinite(report[f"{tier}_ratio"])


def test_a_check_finds_before_a_run_what_the_run_leaves_out(odd: Fleet) -> None:
    findings = check_fleet(odd.spec, fleets_dir=odd.settings.fleet_tables_dir).findings
    excluded = {finding.tenant for finding in findings if finding.severity == "excludes"}
    assert excluded == {fleets.NO_MEM, fleets.ZEROS}


# -- names


def test_whatever_tenants_and_metrics_are_called_files_appear_in_the_data_folder_only(
    odd: Fleet, nursery: Nursery
) -> None:
    root = nursery.project.root
    assert {path.name for path in root.iterdir()} == {
        "data",
        "specs",
        "tables",
        "dagster_home",
        "nursery.log",
    }
    assert [path.name for path in root.parent.iterdir()] == [root.name]
    assert not Path("/tmp/outside").exists()
    folders = {
        path.relative_to(root / "data").parts[:2]
        for path in (root / "data").rglob("*")
        if path.is_file()
    }
    assert {path.name for path in (root / "data" / "records" / "full").iterdir()} <= {
        ODD,
        WRECK,
        SINGLE,
    }
    folders.discard(("records", "full"))
    assert folders <= {
        (kind, fleet) for kind in ("lake", "reports") for fleet in (ODD, WRECK, SINGLE)
    } | {("reports", f"evidence_report.{suffix}") for suffix in ("json", "md", "png")}


def test_names_are_escaped_in_the_report(odd: Fleet) -> None:
    html = (odd.reports_dir / "report.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)" in html
    assert "<script>alert" not in html
    assert "mem <b>" not in html


# -- one tenant, one metric


def test_one_tenant_with_one_metric_is_answered_without_an_interval(nursery: Nursery) -> None:
    fleet = nursery.project.fleet(SINGLE)
    assert fleet.manifest["fold"].to_list() == [0]
    report = read_report(fleet, "headline_report")
    assert (report["n_requests"], report["n_invalid_requests"], report["n_test_tenants"]) == (
        3,
        0,
        1,
    )
    for tier in TIERS:
        assert math.isfinite(report[f"{tier}_ratio"])
        assert report[f"{tier}_ratio_low"] is report[f"{tier}_ratio_high"] is None, (
            "one tenant says nothing about others"
        )
        assert report[f"{tier}_p_value"] == 1.0


def test_one_tenant_is_told_that_it_is_tuned_on_its_own_past(nursery: Nursery) -> None:
    fleet = nursery.project.fleet(SINGLE)
    checked = check_fleet(fleet.spec, fleets_dir=fleet.settings.fleet_tables_dir)
    assert checked.worst == "note"
    assert describe_manifest(fleet)["split"] == "one tenant, tuned on its own past"
    assert any(
        f.tenant == EVERYONE and f.problem.startswith("one tenant: it is tuned on its own past")
        for f in checked.findings
    )
