"""Test the bundle of a materialised fleet: it holds the tables' values, its live search is fitted
like a fold's, and it becomes stale with the tables.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tsfm_pipeline.autoresearch.bundle import BundleError, SearchBundle
from tsfm_pipeline.autoresearch.engine import AutoresearchEngine
from tsfm_pipeline.catalogue.fleet import Fleet, open_workspace_fleet
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.forecaster.engine import FrozenForecaster
from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline.steps.archetypes import window_index
from tsfm_pipeline.steps.bundle import (
    LiveView,
    _live_portfolio,
    bundle_path,
    make_bundle,
    open_bundle,
)
from tsfm_pipeline.steps.evidence import read_policies
from tsfm_pipeline.steps.policies import (
    experience,
    fit_search,
    folds_and_tuners,
    read_shared_choices,
)
from tsfm_pipeline_tests.conftest import MINI
from tsfm_pipeline_tests.docs.pages import DOCS, blocks
from tsfm_pipeline_tests.project import CHECKPOINT, Project

FOLD = 0
"""The only test fold of the miniature fleet."""


@pytest.fixture(scope="module")
def bundle(mini_fleet: Fleet) -> SearchBundle:
    return open_bundle(mini_fleet)


def engine_from_tables(fleet: Fleet, forecaster: FrozenForecaster) -> AutoresearchEngine:
    """The fold's engine without a bundle."""
    members = fleet.portfolio_mask(FOLD)
    known = experience(fleet, dict(folds_and_tuners(fleet))[FOLD], members).over(
        np.flatnonzero(members).tolist()
    )
    index = window_index(fleet, FOLD, "request")
    return AutoresearchEngine(
        forecaster,
        read_policies(fleet)[FOLD],
        known,
        index,
        n_neighbours=fleet.settings.search.neighbours,
    )


def test_an_engine_from_the_file_is_the_one_from_the_tables(
    mini_fleet: Fleet, mini_forecaster: FrozenForecaster, bundle: SearchBundle
) -> None:
    expected = engine_from_tables(mini_fleet, mini_forecaster)
    tested = mini_fleet.manifest.filter(mini_fleet.manifest["fold"] == FOLD)["tenant_id"].to_list()
    assert bundle.folds[FOLD].tenants.tolist() == tested
    engine = bundle.engine(mini_forecaster, tested[0])
    assert engine.policy == expected.policy
    values = mini_fleet.arrays.values(mini_fleet.shards[0])[1]
    assert engine.n_neighbours == expected.n_neighbours
    history = mini_fleet.arrays.panel(values[None])
    panel = bundle.panel(values)
    assert (panel.seasons, panel.lower, panel.upper) == (
        history.seasons,
        history.lower,
        history.upper,
    )
    for tier in TIERS:
        ours, theirs = engine.forecast(panel, tier), expected.forecast(history, tier)
        np.testing.assert_array_equal(ours.decision, theirs.decision)
        np.testing.assert_array_equal(ours.quantiles, theirs.quantiles)
        assert ours.candidates == theirs.candidates


def test_the_facts_are_those_of_the_fleet(
    mini_fleet: Fleet, mini_forecaster: FrozenForecaster, bundle: SearchBundle
) -> None:
    facts = bundle.facts
    assert (facts.fleet, facts.metrics, facts.horizon) == (
        MINI,
        mini_fleet.grid.metrics,
        mini_fleet.spec.horizon,
    )
    assert (facts.seasons, facts.step_minutes, facts.offsets) == (
        mini_fleet.grid.seasons,
        mini_fleet.grid.step_minutes,
        mini_fleet.offsets,
    )
    assert facts.bounds == {metric: mini_fleet.spec.bounds_of(metric) for metric in facts.metrics}
    assert facts.protocol == mini_fleet.protocol
    assert facts.checkpoint.name == mini_forecaster.checkpoint.name
    assert facts.checkpoint.sha256 == mini_forecaster.checkpoint.sha256
    names = [config.name for config in mini_fleet.configs]
    assert [member.name for member in facts.members] == names
    for tier, choice in read_shared_choices(mini_fleet)[FOLD].tiers.items():
        fixed = bundle.folds[FOLD].fixed[tier]
        assert (fixed.member, fixed.stand_in) == (
            names[choice.fixed_config],
            names[choice.fallback_config],
        )


def test_the_file_is_the_table_and_comes_again_to_the_byte(
    mini_fleet: Fleet, bundle: SearchBundle
) -> None:
    stored = mini_fleet.tables.read_arrays("search_bundle")
    again = make_bundle(mini_fleet).to_arrays()
    assert stored.keys() == again.keys()
    for name, array in stored.items():
        assert array.tobytes() == again[name].tobytes(), name
    arrays = bundle.to_arrays()
    assert stored.keys() == arrays.keys()
    assert all(
        stored[name].tobytes() == arrays[name].tobytes() for name in stored.keys() - {"document"}
    )


def test_the_live_search_is_fitted_as_a_folds_is(mini_fleet: Fleet, bundle: SearchBundle) -> None:
    """Over a fold's own tuning tenants it finds the fold's search, to the last digit."""
    fold = bundle.folds[FOLD]
    assert bundle.live is fold, "with one fold there is nothing to fit"
    ((_, tuners),) = folds_and_tuners(mini_fleet)
    members = _live_portfolio(mini_fleet, tuners)
    assert members.tolist() == mini_fleet.portfolio_mask(FOLD).tolist()
    view = LiveView(mini_fleet, FOLD, tuners, members)
    fitted = fit_search(view)
    assert fitted.policy == fold.policy
    assert fitted.choices == read_shared_choices(mini_fleet)[FOLD]
    np.testing.assert_array_equal(view.known.losses[:, :, members], fold.priors.losses)
    for name, array in view.index.to_arrays().items():
        np.testing.assert_array_equal(array, fold.index.to_arrays()[name], err_msg=name)


def test_a_live_portfolio_is_as_large_as_any(mini_fleet: Fleet) -> None:
    small = mini_fleet.settings.search.model_copy(update={"portfolio_size": 2})
    fleet = open_workspace_fleet(mini_fleet.settings.model_copy(update={"search": small}), MINI)
    fleet.__dict__ |= {name: getattr(mini_fleet, name) for name in ("tables", "configs")}
    ((_, tuners),) = folds_and_tuners(fleet)
    chosen = [
        config.name
        for config, member in zip(fleet.configs, _live_portfolio(fleet, tuners), strict=True)
        if member
    ]
    assert len(chosen) == 2
    best = {read_shared_choices(mini_fleet)[FOLD].tiers[tier].fixed_config for tier in TIERS}
    assert {fleet.configs[k].name for k in best} & set(chosen), "the best single ones come first"


def test_a_bundle_of_other_tables_is_refused_and_so_is_a_missing_one(
    mini_fleet: Fleet, tmp_path: Path
) -> None:
    other = mini_fleet.settings.search.model_copy(update={"neighbours": 3})
    with pytest.raises(
        BundleError,
        match=r"made from other tables.*materialise the asset 'search_bundle' of fleet 'mini'",
    ):
        open_bundle(
            open_workspace_fleet(mini_fleet.settings.model_copy(update={"search": other}), MINI)
        )
    with pytest.raises(BundleError, match="is not there; materialise the asset 'search_bundle'"):
        open_bundle(
            Fleet(mini_fleet.settings.model_copy(update={"data_dir": tmp_path}), mini_fleet.spec)
        )


def test_the_example_of_the_page_answers_without_lake_or_fleet(
    mini_project: Project, mini_fleet: Fleet, tmp_path: Path
) -> None:
    (example,) = (block.text for block in blocks(DOCS / "how-the-search-works.md", "python"))
    example = example.replace("data/reports/demo/search.bundle", str(bundle_path(mini_fleet)))
    example = example.replace('load_forecaster("bundled")', f"load_forecaster({CHECKPOINT!r})")
    np.save(tmp_path / "history.npy", mini_fleet.arrays.values(mini_fleet.shards[0])[0])
    program = (
        "import numpy as np\nhistory = "
        f"np.load('history.npy')\n{example}\nprint(np.isfinite(response.decision).all())\n"
    )
    folders = {
        name: str(tmp_path / "empty")
        for name in ("TSFM_DATA_DIR", "TSFM_SPECS_DIR", "TSFM_FLEETS_DIR")
    }
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            program
            + "import sys\nassert 'dagster' not in sys.modules and 'tsfm_pipeline.lake' not in "
            "sys.modules\n",
        ],
        cwd=tmp_path,
        env=mini_project.environment | folders | {"PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, "True\n"), run.stderr
