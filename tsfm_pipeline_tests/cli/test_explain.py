"""Test `tsfm-pipeline explain`: text, JSON and page of a tenant of the miniature fleet, and what it
says where there is nothing to explain.
"""

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.cli.app import app
from tsfm_pipeline.reports.explain.model import TenantExplanation
from tsfm_pipeline.reports.explain.numbers import explain
from tsfm_pipeline_tests.cli.commands import Desk
from tsfm_pipeline_tests.conftest import MINI
from tsfm_pipeline_tests.project import Project


def run(project: Project, *arguments: str | Path) -> Result:
    """One command on the miniature fleet."""
    plain = {"NO_COLOR": "1", "TERM": "dumb"}
    return CliRunner().invoke(
        app, [str(argument) for argument in arguments], env=project.environment | plain
    )


@pytest.fixture(scope="module")
def tenant_id(mini_fleet: Fleet) -> str:
    return str(mini_fleet.manifest["tenant_id"][3])


def test_text_json_and_page_show_the_same_figures(
    mini_project: Project, mini_fleet: Fleet, tenant_id: str, tmp_path: Path
) -> None:
    expected = explain(mini_fleet, tenant_id)
    printed = run(mini_project, "explain", MINI, tenant_id, "--json")
    assert printed.exit_code == 0, printed.output
    again = TenantExplanation.from_flat(json.loads(printed.stdout))
    assert again.table_reservations == expected.table_reservations
    assert again.table_misses == expected.table_misses
    text = run(mini_project, "explain", MINI, tenant_id)
    assert text.exit_code == 0, text.output
    assert text.stdout.startswith(f"{tenant_id}, {expected.tier}")
    assert "Basis: full" in text.stdout
    for row in expected.table_neighbours:
        assert row.tenant_id in text.stdout
    for title in ("Weights at", "Their losses", "Corrections", "Its own backtest", "Last misses"):
        assert title in text.stdout
    page = tmp_path / "page.html"
    written = run(mini_project, "explain", MINI, tenant_id, "--html", page)
    assert written.exit_code == 0, written.output
    assert written.stdout.strip() == str(page)
    assert expected.table_neighbours[0].tenant_id in page.read_text()


def test_the_report_explains_a_few_tenants(mini_fleet: Fleet) -> None:
    page = (mini_fleet.reports_dir / "report.html").read_text()
    assert '<section id="why">' in page
    assert f"tsfm-pipeline explain {MINI} TENANT" in page


def test_an_unknown_tenant_is_an_error_with_near_names(
    mini_project: Project, tenant_id: str
) -> None:
    done = run(mini_project, "explain", MINI, f"{tenant_id}x")
    assert done.exit_code == 2
    assert f"error: fleet '{MINI}' has no tenant '{tenant_id}x'; did you mean '{tenant_id}'" in (
        done.output
    )
    assert "Traceback" not in done.output


def test_a_fleet_that_was_not_run_says_how_to_run_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "desk", {})
    desk.run("fleet", "init", desk.table())
    done = desk.run("explain", "shop", "host-01")
    assert done.exit_code == 2
    assert "materialise the asset" in done.output
    assert "`tsfm-pipeline run shop` makes all that is needed" in done.output
    assert desk.run("explain", "nobody", "host-01").exit_code == 2
