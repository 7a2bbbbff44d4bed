"""Test `fleet init` and `check` on a folder that `datasets` saved."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from tsfm_pipeline_tests.cli.commands import Desk
from tsfm_pipeline_tests.fleets.saved_datasets import item, save


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "desk", {})


def hourly(seed: int, n_days: int = 30) -> list[float]:
    """Hourly values with a daily cycle."""
    hours = np.arange(24 * n_days)
    noise = np.random.default_rng(seed).random(hours.size)
    values: list[float] = (5 + np.sin(hours * 2 * np.pi / 24) + noise).tolist()
    return values


def test_a_saved_data_set_becomes_a_fleet_that_passes_its_check(desk: Desk) -> None:
    rows = [item(name, [hourly(k), hourly(k + 9)]) for k, name in enumerate("abc")]
    folder = save(desk.tables / "ds-0-H", rows)
    done = desk.run("fleet", "init", folder)
    assert done.exit_code == 0, done.output
    for part in ("6, one per variate", "720 steps of 1:00:00", "24 steps (one day)", "ds-0-h.yaml"):
        assert part in done.output
    text = (desk.specs / "ds-0-h.yaml").read_text()
    fields = yaml.safe_load(text)
    assert (fields["kind"], fields["path"]) == ("saved_dataset", "${TSFM_FLEETS_DIR}/ds-0-H")
    assert (fields["horizon"], fields["seasons"], fields["lower"]) == (12, [24, 168], 0)
    checked = desk.run("fleet", "check", "ds-0-h")
    assert checked.exit_code == 0, checked.output
    assert "6 tenants, 1 metrics" in checked.output
    assert "saved_dataset" in desk.run("fleet", "list").output


def test_the_horizon_can_be_chosen_and_a_file_is_overwritten_only_on_demand(desk: Desk) -> None:
    folder = save(desk.tables / "mine", [item("a", hourly(0))])
    assert desk.run("fleet", "init", folder, "--horizon", "48").exit_code == 0
    assert yaml.safe_load((desk.specs / "mine.yaml").read_text())["horizon"] == 48
    again = desk.run("fleet", "init", folder)
    assert again.exit_code == 2
    assert "already exists" in again.output


def test_months_are_refused_by_name_and_no_file_is_written(desk: Desk) -> None:
    folder = save(desk.tables / "monthly", [item("a", hourly(0), freq="MS")])
    done = desk.run("fleet", "init", folder)
    assert done.exit_code == 2
    assert "one step is 1 month" in done.output
    assert "tsfm-pipeline benchmark" in done.output
    assert not desk.specs.exists()


def test_options_that_describe_a_table_are_refused(desk: Desk) -> None:
    folder = save(desk.tables / "mine", [item("a", hourly(0))])
    done = desk.run("fleet", "init", folder, "--tenant", "item_id")
    assert done.exit_code == 2
    assert "--tenant, --timestamp and --step are for tables" in done.output
