"""Test that the examples of docs/extending.md do what the page says: each is run as printed, then
used through the real pipeline.
"""

import sqlite3
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.autoresearch.engine import resized
from tsfm_pipeline.autoresearch.space import candidates
from tsfm_pipeline.baselines import DIRECT_BASELINES, direct_forecasters
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.protocol import ALPHAS
from tsfm_pipeline.evaluation.scoring import MethodForecast, score
from tsfm_pipeline.fleets import OPENERS
from tsfm_pipeline.fleets.spec import KINDS
from tsfm_pipeline.forecaster import Panel
from tsfm_pipeline.forecaster.engine import FrozenForecaster
from tsfm_pipeline.forecaster.transforms import TRANSFORMS
from tsfm_pipeline.plugins import GROUPS
from tsfm_pipeline.serving.models import runtimes
from tsfm_pipeline.serving.settings import ServingSettings
from tsfm_pipeline.settings import PROJECT_ROOT, SearchSettings
from tsfm_pipeline.steps.bundle import open_bundle
from tsfm_pipeline.steps.forecasts import baseline_forecasts_shard, forecast_grid_shard
from tsfm_pipeline_tests.cli.commands import Desk
from tsfm_pipeline_tests.cli.conftest import telemetry
from tsfm_pipeline_tests.conftest import MINI
from tsfm_pipeline_tests.docs.pages import DOCS, blocks
from tsfm_pipeline_tests.packages import Site
from tsfm_pipeline_tests.project import CHECKPOINT, Project, environment
from tsfm_pipeline_tests.serving.live import Model, live, until

EXAMPLES = blocks(DOCS / "extending.md", "python")
FLEET_FILE = blocks(DOCS / "extending.md", "yaml")[0]
PACKAGE_FILE, MODEL_FILE = blocks(DOCS / "extending.md", "toml")


def run(number: int, names: dict[str, Any] | None = None, **replaced: str) -> dict[str, Any]:
    """The names that an example leaves, after being run as it stands but for what is `replaced`."""
    text = EXAMPLES[number].text
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    names = {} if names is None else names
    exec(compile(text, f"example {number} of docs/extending.md", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def _nothing_stays_registered() -> Iterator[None]:
    with (
        patch.dict(DIRECT_BASELINES),
        patch.dict(TRANSFORMS),
        patch.dict(KINDS),
        patch.dict(OPENERS),
    ):
        yield


def losses_of(fleet: Fleet, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Losses [R, D, A] of a direct baseline and of last value, from the stage that makes their
    table.
    """
    shard = fleet.shards[0]
    table = baseline_forecasts_shard(fleet, shard)
    requests = fleet.arrays.requests("test", shard)
    (actual,) = fleet.arrays.of("request_targets", requests, ["actual"], (len(fleet.grid.metrics),))
    shape = (*actual.shape[:2], fleet.spec.horizon, 9)
    losses = []
    for name in (method, "last_value"):
        deciles = table.filter(pl.col("method") == name)["deciles"].to_numpy().reshape(shape)
        losses.append(score(actual, MethodForecast.from_deciles(deciles, ALPHAS), ALPHAS)["loss"])
    return losses[0], losses[1]


@pytest.mark.parametrize(("example", "name"), [(0, "day_change_quantiles"), (1, "random_walk")])
def test_a_new_baseline_and_a_rival_model_are_scored_on_the_same_requests(
    mini_fleet: Fleet, example: int, name: str
) -> None:
    run(example)
    mine, last_value = losses_of(mini_fleet, name)
    np.testing.assert_array_equal(np.isfinite(mine), np.isfinite(last_value))
    assert np.nanmean(mine) != np.nanmean(last_value)


@pytest.mark.parametrize(("example", "name"), [(0, "day_change_quantiles"), (1, "random_walk")])
def test_the_examples_use_nothing_after_an_origin_and_refuse_too_little_history(
    example: int, name: str
) -> None:
    run(example)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 900)).astype(np.float32)
    changed = values.copy()
    changed[:, 701:] = rng.normal(size=(3, 199))
    origins = np.tile([5, 40, 700], (3, 1))
    before, after = (
        DIRECT_BASELINES[name](0).forecast(Panel(v, seasons=(48,)), origins, 60)
        for v in (values, changed)
    )
    np.testing.assert_array_equal(before, after)
    assert np.isfinite(before).all(axis=(2, 3)).tolist() == [[False, False, True]] * 3
    assert (np.diff(before[:, 2], axis=-1) >= 0).all()


def test_the_search_runs_over_another_model(
    mini_project: Project, mini_fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    with environment(mini_project.environment):
        names = run(2, run(1), demo=MINI)
    response = names["response"]
    assert np.isfinite(response.decision).all()
    assert response.chosen[0].name in capsys.readouterr().out
    assert response.n_evaluated == len(names["engine"].configs)
    assert response.candidates[0].weight > response.candidates[-1].weight, (
        "its own losses tell the configurations apart"
    )
    grid = forecast_grid_shard(mini_fleet, mini_fleet.shards[0], names["model"])
    assert grid.height == mini_fleet.tables.read("forecast_grid", 0).height


def test_a_new_scale_is_searched_over(mini_fleet: Fleet, mini_forecaster: FrozenForecaster) -> None:
    config = run(3)["config"]
    listed = SearchSettings(candidates=("ctx512", "ctx512-sqrt"))
    assert candidates(listed)[1] == config
    engine = resized(
        open_bundle(mini_fleet).engine(mini_forecaster), ("ctx64", "ctx512", "ctx512-sqrt")
    )
    history = mini_fleet.arrays.panel(mini_fleet.arrays.values(mini_fleet.shards[0])[:1])
    weights = {
        candidate.config.name: candidate.weight
        for candidate in engine.forecast(history, "standard").candidates
    }
    assert 0 < weights["ctx512-sqrt"] < 1
    origins = np.full((history.n_series, 1), history.n_steps - 1)
    plain, scaled = np.moveaxis(
        mini_forecaster.forecast_grid(history, origins, candidates(listed), 60)[:, 0], 1, 0
    )
    assert (scaled >= 0).all()
    assert 0 < np.abs(scaled - plain).mean() < plain.max()


def test_a_database_is_a_fleet_like_any_other(tmp_path: Path) -> None:
    run(4)
    desk = Desk(tmp_path / "desk", {"CHECKPOINT": CHECKPOINT})
    desk.tables.mkdir(parents=True)
    rows = (
        telemetry(3, n_days=15)
        .select("tenant_id", pl.col("timestamp").dt.to_string("%Y-%m-%dT%H:%M:%SZ"), "cpu")
        .rows()
    )

    def fill(rows: list[tuple[str, str, float]]) -> None:
        with closing(sqlite3.connect(desk.tables / "plant.db")) as database, database:
            database.execute("DROP TABLE IF EXISTS readings")
            database.execute("CREATE TABLE readings (machine TEXT, at TEXT, power_kw REAL)")
            database.executemany("INSERT INTO readings VALUES (?, ?, ?)", rows)

    fill(rows)
    desk.specs.mkdir(parents=True)
    (desk.specs / Path(FLEET_FILE.title).name).write_text(FLEET_FILE.text)
    fine = desk.run("fleet", "check", "plant")
    assert fine.exit_code == 0, fine.output
    fill(
        [
            ("broken", at, -1.0) if number == 7 else (machine, at, kw)
            for number, (machine, at, kw) in enumerate(rows)
        ]
    )
    refused = desk.run("fleet", "check", "plant")
    assert refused.exit_code == 2
    assert "values below 0" in refused.output, (
        "the rules for tables hold, and the new rows were read"
    )


def test_a_package_brings_a_rival(site: Site, mini_fleet: Fleet) -> None:
    declared = tomllib.loads(PACKAGE_FILE.text)["project"]
    name = declared["name"]
    assert EXAMPLES[5].title == f"{name.replace('-', '_')}.py"
    groups = {
        group: {entry: value.partition(":")[2] for entry, value in entries.items()}
        for group, entries in declared["entry-points"].items()
    }
    site.install(name, EXAMPLES[5].text, groups, declared["version"])
    assert [*direct_forecasters()] == [*DIRECT_BASELINES, "week_ago"]
    mine, last_value = losses_of(mini_fleet, "week_ago")
    np.testing.assert_array_equal(np.isfinite(mine), np.isfinite(last_value))
    assert np.nanmean(mine) != np.nanmean(last_value)
    panel = Panel(np.arange(800, dtype=np.float32)[None], seasons=(48,))
    deciles = direct_forecasters()["week_ago"](0).forecast(panel, np.array([[300, 400]]), 2)
    assert np.isnan(deciles[0, 0]).all()
    np.testing.assert_array_equal(deciles[0, 1, :, 0], [65, 66])


def test_a_package_brings_a_model_of_the_service(site: Site) -> None:
    declared = tomllib.loads(MODEL_FILE.text)["project"]
    name = declared["name"]
    assert EXAMPLES[6].title == f"{name.replace('-', '_')}.py"
    groups = {
        group: {entry: value.partition(":")[2] for entry, value in entries.items()}
        for group, entries in declared["entry-points"].items()
    }
    site.install(name, EXAMPLES[6].text, groups, declared["version"])
    made = {runtime.model: runtime for runtime in runtimes(ServingSettings(), None)}
    y = [0.5 + 0.3 * float(np.sin(2 * np.pi * t / 96)) for t in range(288)]
    with live(Model(), made["yesterday"]) as running:
        fields = {"freq": "15m", "y": y, "horizon_steps": 100, "model": {"model_name": "yesterday"}}
        first = running.forecast(**fields).json()
        until(lambda: not running.forecast(**fields).json()["meta"]["fallback_used"])
        answer = running.forecast(**fields).json()
        short = running.forecast(**fields | {"y": y[:40]}).json()
    assert first["meta"]["fallback_reason"] == "runtime_error:unavailable"
    assert (answer["meta"]["model"], answer["meta"]["fallback_used"]) == ("yesterday", False)
    np.testing.assert_allclose(answer["yhat_q"]["0.5"], [*y[-96:], *y[-96:-92]], atol=1e-5)
    assert short["meta"]["fallback_reason"] == "runtime_error:runtime_rejected"
    assert short["meta"]["circuit_breaker_state"] == "closed"


def test_the_page_lists_every_group_of_entry_points() -> None:
    page = (DOCS / "extending.md").read_text()
    assert [group for group in GROUPS if f"| `{group}` |" not in page] == []
    declared = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"][
        "entry-points"
    ]
    assert set(declared) == set(GROUPS)


def test_every_example_says_in_which_file_it_lies() -> None:
    assert [bool(block.title) for block in EXAMPLES] == [True, True, False, True, True, True, True]
