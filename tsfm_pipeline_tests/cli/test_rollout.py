"""Test `tsfm-pipeline rollout`: what a person decides is recorded, published and shown."""

import getpass
import json
from pathlib import Path

import pytest

from tsfm_pipeline.catalogue.fleet import open_workspace_fleet
from tsfm_pipeline.evaluation.rollout import RolloutDecision, decisions
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.steps.rollout_overrides import overrides
from tsfm_pipeline_tests.cli.commands import Desk


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A described fleet that was never run."""
    desk = Desk(tmp_path / "desk", {})
    desk.specs.mkdir(parents=True)
    (desk.specs / "shop.yaml").write_text(
        "kind: synthetic\ntitle: Shop\ntenants: 48\ndays: 21\nstart: 2024-01-01T00:00:00Z\nseed: 1\n"
    )
    for name, value in desk.variables.items():
        monkeypatch.setenv(name, value)
    return desk


def decision(desk: Desk) -> RolloutDecision:
    """The decision that a service would read."""
    [path] = desk.data.rglob("serving/shop/rollout.json")
    return RolloutDecision.model_validate_json(path.read_text())


def test_before_anything_is_decided_the_service_answers_in_shadow(desk: Desk) -> None:
    done = desk.run("rollout", "show", "--fleet", "shop")
    assert done.exit_code == 0, done.output
    assert "nothing is published for fleet shop: the service answers in shadow" in done.output
    assert json.loads(desk.run("rollout", "show", "--fleet", "shop", "--json").output) is None


def test_an_override_is_published_at_once_and_every_later_run_decides_the_same(desk: Desk) -> None:
    for arguments, stage, percent in (
        (("pin", "30"), "pinned", 30),
        (("resume",), "10", 10),
        (("rollback", "--reason", "odd bands"), "rolled-back", 0),
        (("pin", "100", "--reason", "load test"), "pinned", 100),
        (("resume",), "100", 100),
        (("rollback", "--reason", "slow", "--by", "ada"), "rolled-back", 0),
    ):
        done = desk.run("rollout", *arguments, "--fleet", "shop")
        assert done.exit_code == 0, done.output
        assert f"stage {stage}, the model answers {percent} %" in done.output
        published = decision(desk)
        assert (published.stage, published.percent) == (stage, percent)
        records = overrides(open_workspace_fleet(Settings(), "shop"))
        assert decisions([], [], records, published.as_of)[-1] == published
    assert (published.by, published.reason) == ("ada", "slow")
    shown = desk.run("rollout", "show", "--fleet", "shop").output
    assert "last overrides, of 6" in shown
    assert "odd bands" in shown
    assert getpass.getuser() in shown
    as_json = desk.run("rollout", "show", "--fleet", "shop", "--json").output
    assert RolloutDecision.model_validate_json(as_json) == published


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (("--reason", "x" * 501), "reason: String should have at most 500 characters"),
        (("--by", "automatic"), "allowed: the name of a person"),
    ],
)
def test_what_cannot_be_recorded_is_refused_in_a_line(
    desk: Desk, arguments: tuple[str, str], allowed: str
) -> None:
    done = desk.run("rollout", "pin", "30", "--fleet", "shop", *arguments)
    assert done.exit_code != 0
    assert allowed in " ".join(done.output.split())
    assert "pydantic" not in done.output
    assert not list(desk.data.rglob("rollout.json"))


def test_an_override_says_which_services_obey_it(desk: Desk) -> None:
    done = desk.run("rollout", "rollback", "--reason", "slow", "--fleet", "shop")
    assert "TSFM_SERVING_ROUTE__ROLLOUT is `published`" in " ".join(done.output.split())


def test_resuming_what_is_automatic_leaves_the_decision(desk: Desk) -> None:
    desk.run("rollout", "pin", "60", "--fleet", "shop")
    desk.run("rollout", "resume", "--fleet", "shop")
    before = decision(desk)
    assert before.stage == "50"
    assert desk.run("rollout", "resume", "--fleet", "shop").exit_code == 0
    assert decision(desk) == before


def test_a_damaged_file_is_named_and_does_not_stand_in_the_way_of_a_rollback(desk: Desk) -> None:
    desk.run("rollout", "pin", "60", "--fleet", "shop")
    [path] = desk.data.rglob("rollout.json")
    path.write_text("{")
    shown = desk.run("rollout", "show", "--fleet", "shop")
    assert shown.exit_code == 2
    assert f"the decision {path} cannot be read" in shown.output
    assert desk.run("rollout", "rollback", "--reason", "x", "--fleet", "shop").exit_code == 0
    assert decision(desk).stage == "rolled-back"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pin", "101", "--fleet", "shop"), "less than or equal to 100"),
        (("rollback", "--fleet", "shop"), "--reason"),
        (("pin", "10"), "--fleet"),
        (("pin", "10", "--fleet", "shap"), "shop"),
        (("resume", "--fleet", "shop", "--by", "automatic"), "the name of a person"),
        (("resume", "--fleet", "shop", "--reason", ""), "at least 1 character"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_written(
    desk: Desk, arguments: tuple[str, ...], message: str
) -> None:
    done = desk.run("rollout", *arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert not [*desk.data.rglob("*.json"), *desk.data.rglob("*.parquet")]
