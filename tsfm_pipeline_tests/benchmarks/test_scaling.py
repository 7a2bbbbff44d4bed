"""Test a fleet of many shards, made with a stand-in for the model: which parts a shard opens, and
that tables are the same however they are made.

What belongs here: whole chains over `benchmarks/scaling.py`'s fleet. What does not: time, which the
benchmark measures.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tsfm_pipeline.catalogue import shards
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.fleet_scope import FLEETS
from tsfm_pipeline.catalogue.shards import ShardWork, make_shard, make_table, shard_work
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.files import LakeError
from tsfm_pipeline.forecaster.engine import load_forecaster
from tsfm_pipeline.lake import Task
from tsfm_pipeline.parts import Part
from tsfm_pipeline.steps.makers import MAKERS
from tsfm_pipeline_tests.counted_fleet import CountedFleet, counted_fleet

pytestmark = pytest.mark.heavy

N_TENANTS, PER_SHARD = 40, 4
N_SHARDS = N_TENANTS // PER_SHARD
WITHOUT_MODEL = "tuning_losses"


@pytest.fixture(scope="module")
def built(scaling: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> CountedFleet:
    settings = {
        "shard_tenants": PER_SHARD,
        "search": {
            "candidates": ("ctx64", "ctx256", "ctx1280-r5", "ctx128-s1x5"),
            "portfolio_size": 2,
            "neighbours": 3,
        },
        "evaluation": {
            "bootstrap_draws": 200,
            "permutations": 100,
            "cold_start_minutes": (60, 240),
        },
    }
    return counted_fleet(scaling, tmp_path_factory.mktemp("many-shards"), N_TENANTS, settings)


@pytest.fixture
def fleet(built: CountedFleet) -> Fleet:
    return built.fleet


@pytest.mark.parametrize("table", [name for name in TABLES if TABLES[name].sharded])
def test_a_shard_opens_at_most_two_parts_of_an_input(built: CountedFleet, table: str) -> None:
    """What every shard needs whole is read before the first one, and sent with the work."""
    opened = built.opened[table]
    assert len(opened) == len(built.fleet.tables.parts(table)) == N_SHARDS
    for shard in opened:
        assert {name: len(parts) for name, parts in shard.items() if len(parts) > 2} == {}


def test_the_parts_that_are_opened_are_the_shard_s_own(built: CountedFleet) -> None:
    opened = built.opened["scored_forecasts"]
    for number, shard in enumerate(opened):
        for table in (
            "forecast_grid",
            "request_targets",
            "baseline_forecasts",
            "autoresearch_forecasts",
            "config_priors",
            "tuning_losses",
        ):
            assert {name[5:10] for name in shard.get(table, ())} <= {f"{number:05d}"}, table
    assert any(shard.get("forecast_grid") for shard in opened)


def test_a_shard_s_requests_are_those_of_its_tenants(fleet: Fleet) -> None:
    table = fleet.tables.read("forecast_requests")
    for role in ("tuning", "test"):
        whole = fleet.arrays.requests(role)
        assert (
            whole.ids.ravel().tolist()
            == table.filter(role=role).sort("request_id")["request_id"].to_list()
        )
        for shard in fleet.shards:
            requests = fleet.arrays.requests(role, shard)
            mine = np.isin(whole.tenant_numbers, shard)
            np.testing.assert_array_equal(requests.ids, whole.ids[mine])
            np.testing.assert_array_equal(requests.rows, whole.tenant_numbers[mine] - shard[0])
            assert requests.frame.equals(
                whole.frame.filter(whole.frame["tenant_number"].is_in(shard))
            )
    some = fleet.arrays.requests("tuning", fleet.shards[1], only=[0, 5, 6, 10_000])
    assert some.tenant_numbers.tolist() == [5, 6]


# -- elsewhere


class Elsewhere:
    """An executor in processes of their own, which know nothing but the work that they are sent,
    last shard first.
    """

    def run(self, work: ShardWork, tasks: Sequence[Task]) -> Iterator[Part]:
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            yield from pool.map(make_shard, [work] * len(tasks), tasks[::-1])


def work_of(fleet: Fleet, table: str = WITHOUT_MODEL, needs_model: bool = False) -> ShardWork:
    maker = MAKERS[table]
    return shard_work(
        fleet.settings, FLEETS.opener, fleet, table, maker.function, needs_model, maker.share
    )


@pytest.mark.parametrize("table", [WITHOUT_MODEL, "config_priors"])
def test_shards_that_are_made_in_other_processes_are_the_same_to_the_byte(
    fleet: Fleet, table: str
) -> None:
    """With what every shard needs whole as it was sent, too."""
    here = fleet.tables.parts(table)
    before = [(fleet.tables.path / table / part.name).read_bytes() for part in here]
    work = work_of(fleet, table)
    summary = make_table(fleet, work, fleet.shards, executor=Elsewhere(), force=True)
    assert summary.n_skipped == 0
    assert fleet.tables.parts(table) == here
    assert [(fleet.tables.path / table / part.name).read_bytes() for part in here] == before


def test_what_every_shard_needs_whole_is_not_read_if_no_shard_is_made(
    fleet: Fleet, scaling: ModuleType
) -> None:
    tables = fleet.tables
    assert isinstance(tables, scaling.CountedLake)
    tables.opened.clear()
    made = make_table(fleet, work_of(fleet, "config_priors"), fleet.shards)
    assert made.n_skipped == N_SHARDS
    assert "tuning_losses" not in tables.opened


def test_a_worker_refuses_to_make_another_table_than_the_driver_s(fleet: Fleet) -> None:
    work = work_of(fleet)
    other = fleet.settings.model_copy(
        update={"evaluation": fleet.settings.evaluation.model_copy(update={"seed": 1})}
    )
    with pytest.raises(
        LakeError,
        match=r"would make another table 'tuning_losses' of 'growing' \(fingerprint \w+, the run's is",
    ):
        make_shard(work._replace(settings=other.model_dump_json()), (0, fleet.shards[0]))
    assert make_shard(work, (0, fleet.shards[0])) == fleet.tables.parts(WITHOUT_MODEL)[0]


def test_a_worker_refuses_to_compute_with_another_kernel(fleet: Fleet) -> None:
    other = work_of(fleet)._replace(numerics='{"blas": "openblas Prescott"}')
    with pytest.raises(
        LakeError,
        match=r"computes table 'tuning_losses' .* with blas .*, the run with blas openblas Prescott "
        r"\(on .*OPENBLAS_CORETYPE",
    ):
        make_shard(other, (0, fleet.shards[0]))


def test_a_worker_without_the_compiled_loops_refuses_to_forecast(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loops could not be compiled, which its own log alone says."""
    work = work_of(fleet, "forecast_grid", needs_model=True)._replace(driver="head")
    model = load_forecaster("bundled", "cpu", use_kernels=False)
    monkeypatch.setattr(shards, "model_of", lambda settings: model)
    with pytest.raises(
        LakeError,
        match=r"worker .* computes table 'forecast_grid' of 'growing' with decoder "
        r"TorchDecoder \(torch .*, the run with decoder CompiledDecoder.* \(on head\): .*doctor` on",
    ):
        make_shard(work, (0, fleet.shards[0]))


def test_an_environment_with_other_settings_changes_nothing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A worker inherits its host's environment, not the driver's."""
    work = work_of(fleet)
    monkeypatch.setenv("TSFM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TSFM_SEARCH__PORTFOLIO_SIZE", "7")
    monkeypatch.setenv("TSFM_SHARD_TENANTS", "1")
    assert make_shard(work, (2, fleet.shards[2])) == fleet.tables.parts(WITHOUT_MODEL)[2]


def test_the_record_says_what_the_last_digits_depend_on(fleet: Fleet) -> None:
    numerics = fleet.tables.record(WITHOUT_MODEL)["numerics"]
    assert numerics.keys() == {"blas"}
    assert numerics["blas"]
