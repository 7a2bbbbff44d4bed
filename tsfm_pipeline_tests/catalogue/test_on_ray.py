"""Test shards on Ray with one local node of two workers: the same bytes, what workers refuse, and
workers that are lost.

What belongs here: what one node can show. What does not: several nodes, and links that are cut
(`test_ray_network`).
"""

import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tsfm_pipeline.catalogue import on_ray
from tsfm_pipeline.catalogue.attempts import Started
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.fleet_scope import FLEETS
from tsfm_pipeline.catalogue.on_ray import (
    OnRay,
    WorkersLostError,
    refuse_open_ray,
    shard_events,
)
from tsfm_pipeline.catalogue.same_release import Release, release
from tsfm_pipeline.catalogue.shards import ShardWork, shard_work
from tsfm_pipeline.files import LakeError
from tsfm_pipeline.forecaster import load_forecaster
from tsfm_pipeline.lake import Task
from tsfm_pipeline.parts import Part
from tsfm_pipeline.settings import PROJECT_ROOT, ExecutionSettings, Settings
from tsfm_pipeline.steps.makers import MAKERS
from tsfm_pipeline_tests.catalogue.small_fleet import (
    N_SHARDS,
    TABLE,
    inputs_made,
    made,
    opened,
    parts,
)

pytestmark = pytest.mark.heavy

EXECUTION = ExecutionSettings(engine="ray", address="local")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A fleet of five shards whose table was made in process."""
    return inputs_made(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def node() -> Iterator[None]:
    """A Ray of one node and two workers, which asks for a token; executors find it running."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")  # so that what Ray sets itself is undone
        patch.delenv("RAY_AUTH_MODE")
        patch.setenv("RAY_AUTH_TOKEN", "of-this-test-" + "0" * 32)
        patch.setenv("RAY_worker_register_timeout_seconds", "300")
        patch.setenv("RAY_worker_niceness", "0")  # 15 by default: starved by any other process
        patch.setenv("PYTHONPATH", str(PROJECT_ROOT))
        patch.delenv("OMP_NUM_THREADS", raising=False)
        start(ray)
        yield
        ray.shutdown()


def start(ray: Any, tries: int = 3) -> None:
    """Start the node; on a busy machine it may take longer than the 30 s that Ray waits."""
    for left in reversed(range(tries)):
        try:
            ray.init(
                "local",
                num_cpus=2,
                num_gpus=1,  # as Ray counts it; no shard of these tests touches a device
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                object_store_memory=100 * 2**20,
            )
        except Exception as error:  # Ray raises nothing narrower
            if not left or "timed out during startup" not in str(error):
                raise
        else:
            return


def on(settings: Settings, **execution: Any) -> Settings:
    values = EXECUTION.model_copy(update=execution)
    return settings.model_copy(update={"execution": values})


def work_of(fleet: Fleet, make: str = MAKERS[TABLE].function) -> ShardWork:
    return shard_work(fleet.settings, FLEETS.opener, fleet, TABLE, make)


def run(
    fleet: Fleet, work: ShardWork, shards: Sequence[int] = range(N_SHARDS), **execution: Any
) -> tuple[list[Part], list[str]]:
    """Make these shards, in this order; return the parts and what was logged."""
    said: list[str] = []
    executor = OnRay(EXECUTION.model_copy(update=execution), said.append)
    made = list(executor.run(work, [(number, fleet.shards[number]) for number in shards]))
    return made, said


# -- without a network


def test_settings_of_the_execution_are_in_no_fingerprint(small: Settings) -> None:
    elsewhere = on(small, address="head:6379", cpus=4, deadline_s=5)
    assert opened(elsewhere).tables.expected == opened(small).tables.expected


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"ENGINE": "ray", "ADDRESS": "h:1", "CPUS": "2", "GPUS": ".5", "MEMORY": "900"}
    values |= {"IN_FLIGHT": "3", "DEADLINE_S": "60", "ATTEMPTS": "2"}
    for name, value in values.items():
        monkeypatch.setenv(f"TSFM_EXECUTION__{name}", value)
    assert Settings().execution == ExecutionSettings(
        engine="ray",
        address="h:1",
        cpus=2,
        gpus=0.5,
        memory=900,
        in_flight=3,
        deadline_s=60,
        attempts=2,
    )


def test_a_ray_that_asks_for_no_token_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ValueError, match="RAY_AUTH_MODE=disabled, which listens on every address"):
        refuse_open_ray()
    monkeypatch.delenv("RAY_AUTH_MODE")
    refuse_open_ray()


def test_a_ray_that_is_started_asks_for_a_token(node: None) -> None:
    """Ray listens beyond loopback, so this is all that protects it."""
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_a_table_that_is_made_whole_stays_in_the_driver(small: Settings) -> None:
    said: list[str] = []
    made(on(small, address="no-such-host:1"), "tenant_manifest", said.append, force=True)
    assert said == ["tenant_manifest: shard 1 of 1 written, 10 rows"]


# -- the same bytes


def test_parts_are_the_same_to_the_byte(small: Settings, node: None) -> None:
    here = parts(small)
    said: list[str] = []
    summary = made(on(small), TABLE, said.append, force=True)
    assert (summary.n_parts, summary.n_skipped) == (N_SHARDS, 0)
    assert parts(small) == here
    assert said[0] == f"{TABLE}: 5 shards go to 1 Ray nodes with 2 slots of 1 CPU"
    assert sum("written" in line for line in said) == N_SHARDS


def test_another_order_and_a_shard_that_is_asked_for_twice_change_nothing(
    small: Settings, node: None
) -> None:
    fleet = opened(small)
    twice, _ = run(fleet, work_of(fleet), [4, 3, 2, 1, 0], in_flight=1)
    assert sorted(twice) == parts(small)
    once_more, _ = run(fleet, work_of(fleet), [2])
    assert once_more == [parts(small)[2]]
    assert len(list((fleet.tables.path / TABLE).glob("part-*"))) == N_SHARDS


@pytest.mark.slow
def test_a_forecaster_has_as_many_threads_as_the_shard_has_cpus(
    small: Settings, node: None
) -> None:
    fleet = opened(small)
    for cpus in (1, 2):
        (part,), _ = run(fleet, work_of(fleet, f"{__name__}:threads"), [0], cpus=cpus)
        path = fleet.tables.path / TABLE / part.name
        assert pl.read_parquet(path)["threads"].to_list() == [cpus]
        path.unlink()


def threads(fleet: Fleet, shard: Sequence[int]) -> pl.DataFrame:
    return pl.DataFrame({"threads": [load_forecaster("bundled").n_threads]})


def test_shards_that_need_the_model_take_the_gpu_in_turns_and_keep_the_model(
    small: Settings, node: None
) -> None:
    fleet = opened(small)
    make = f"{__name__}:gpus_and_model"
    work = shard_work(fleet.settings, FLEETS.opener, fleet, TABLE, make, needs_model=True)
    made, said = run(fleet, work, range(3), gpus=1)
    assert said[0] == f"{TABLE}: 3 shards go to 1 Ray nodes with 1 slots of 1 CPU, 1 GPU"
    rows = pl.concat(take(fleet, part) for part in made)
    assert rows["gpus"].to_list() == ["0"] * 3
    assert rows.select("process", "model").n_unique() == 1, "loaded once, by one process"


def test_shards_without_the_model_take_no_gpu(small: Settings, node: None) -> None:
    fleet = opened(small)
    (part,), said = run(fleet, work_of(fleet, f"{__name__}:gpus"), [0], gpus=1)
    assert said[0].endswith("with 2 slots of 1 CPU")
    assert take(fleet, part)["gpus"].to_list() == [""]


def take(fleet: Fleet, part: Part) -> pl.DataFrame:
    """Return what a part holds, and remove it: it is none of the table's."""
    path = fleet.tables.path / TABLE / part.name
    rows = pl.read_parquet(path)
    path.unlink()
    return rows


def gpus(fleet: Fleet, shard: Sequence[int]) -> pl.DataFrame:
    import ray

    numbers = ray.get_runtime_context().get_accelerator_ids()["GPU"]
    return pl.DataFrame({"tenant": [shard[0]], "gpus": [",".join(numbers)]})


def gpus_and_model(fleet: Fleet, shard: Sequence[int], model: Any) -> pl.DataFrame:
    own = {"process": os.getpid(), "model": id(model)}
    return gpus(fleet, shard).with_columns(**{name: pl.lit(one) for name, one in own.items()})


# -- refusals


def refusal(fleet: Fleet, work: ShardWork) -> str:
    """Return the error of a worker, which must read like one of this process."""
    with pytest.raises(LakeError) as caught:
        run(fleet, work, [0])
    assert type(caught.value) is LakeError
    assert caught.value.__suppress_context__
    message = str(caught.value)
    assert os.uname().nodename in message
    assert "\n" not in message
    assert "ray" not in message.lower()
    return message


def test_a_worker_refuses_other_settings(small: Settings, node: None) -> None:
    fleet = opened(small)
    other = small.model_copy(update={"shard_tenants": 3})
    message = refusal(fleet, work_of(fleet)._replace(settings=other.model_dump_json()))
    assert "would make another table 'request_targets' of 'small' (fingerprint" in message


def test_a_worker_refuses_another_checkpoint(small: Settings, node: None, tmp_path: Path) -> None:
    """The weights change after the driver has read them, as if they were others on the worker."""
    weights = tmp_path / "checkpoint" / "model.safetensors"
    shutil.copytree(PROJECT_ROOT / "data" / "checkpoints" / "bundled", weights.parent)
    fleet = opened(small.model_copy(update={"checkpoint": str(weights.parent)}))
    work = shard_work(fleet.settings, FLEETS.opener, fleet, "forecast_grid", f"{__name__}:divide")
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "release, fleet files, telemetry and checkpoint" in refusal(fleet, work)


def test_a_worker_refuses_another_kernel(small: Settings, node: None) -> None:
    fleet = opened(small)
    work = work_of(fleet)._replace(numerics='{"blas": "openblas Prescott"}')
    assert "OPENBLAS_CORETYPE" in refusal(fleet, work)


def test_a_worker_refuses_another_release(
    small: Settings, node: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = release()
    monkeypatch.setattr(on_ray, "release", lambda: own | {"polars": "0.1"})
    fleet = opened(small)
    message = refusal(fleet, work_of(fleet))
    assert f"polars {own['polars']} instead of 0.1; give every worker the image" in message


def test_an_error_that_nobody_expects_keeps_its_type_and_the_workers_traceback(
    small: Settings, node: None
) -> None:
    fleet = opened(small)
    with pytest.raises(ZeroDivisionError) as caught:
        run(fleet, work_of(fleet, f"{__name__}:divide"), [0])
    (note,) = caught.value.__notes__
    assert "in divide" in note


def divide(fleet: Fleet, shard: Sequence[int]) -> pl.DataFrame:
    return pl.DataFrame({"never": [1 / 0]})


# -- lost workers


def once(fleet: Fleet, what: str) -> bool:
    """Return True the first time, on whatever worker."""
    try:
        (fleet.settings.data_dir / what).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def silence(fleet: Fleet, what: str) -> None:
    """Hold a slot until `over`. Ray does not interrupt a worker that sleeps."""
    while not (fleet.settings.data_dir / f"{what}-over").exists():
        time.sleep(0.1)


@contextmanager
def over(fleet: Fleet, what: str) -> Iterator[None]:
    """Give the slot back at the end of a test."""
    try:
        yield
    finally:
        (fleet.settings.data_dir / f"{what}-over").touch()


def killed_once(fleet: Fleet, shard: Sequence[int]) -> pl.DataFrame:
    if shard[0] == 2 and once(fleet, "killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    return targets(fleet, shard)


def killed_always(fleet: Fleet, shard: Sequence[int]) -> pl.DataFrame:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def silent_once(fleet: Fleet, shard: Sequence[int]) -> pl.DataFrame:
    if shard[0] == 2 and once(fleet, "silent"):
        silence(fleet, "silent")
    return targets(fleet, shard)


def silent_first(work: ShardWork, wanted: Release, task: Task) -> Iterator[Started | Part]:
    """Answer like a worker; the first one says nothing for as long as the test lasts."""
    fleet = opened(Settings.model_validate_json(work.settings))
    if once(fleet, "first"):
        silence(fleet, "first")
    yield from shard_events(work, wanted, task)


def targets(fleet: Fleet, shard: Sequence[int]) -> pl.DataFrame:
    from tsfm_pipeline.steps.forecasts import request_targets_shard

    return request_targets_shard(fleet, shard)


def test_a_worker_that_is_killed_is_named_and_its_shard_made_again(
    small: Settings, node: None
) -> None:
    fleet = opened(small)
    made, said = run(fleet, work_of(fleet, f"{__name__}:killed_once"))
    assert sorted(made) == parts(small)
    (line,) = [line for line in said if "shard 2" in line]
    assert "was killed or its node died; attempt 2 of 3 follows" in line
    assert f"on {os.uname().nodename} (process" in line


def test_after_the_last_attempt_the_step_fails_with_the_hosts(small: Settings, node: None) -> None:
    fleet = opened(small)
    with pytest.raises(WorkersLostError, match=r"attempt 1 of 1 .*finished shards are kept"):
        run(fleet, work_of(fleet, f"{__name__}:killed_always"), [1], attempts=1)


def test_a_shard_past_its_deadline_is_given_to_another_worker(small: Settings, node: None) -> None:
    fleet = opened(small)
    run(fleet, work_of(fleet), [0])  # a worker that has yet to start may take longer than 8 s
    with over(fleet, "silent"):
        made, said = run(fleet, work_of(fleet, f"{__name__}:silent_once"), deadline_s=8)
    assert sorted(made) == parts(small)
    assert any("has no part after 8 s; attempt 2 of 3 follows" in line for line in said)


def test_a_worker_that_never_says_that_it_started_costs_a_deadline_and_no_attempt(
    small: Settings, node: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the only shard that is left, so that no later one can start before it."""
    fleet = opened(small)
    monkeypatch.setattr(on_ray, "shard_events", silent_first)
    with over(fleet, "first"):
        made, said = run(fleet, work_of(fleet), [0], deadline_s=5, attempts=1)
    assert made == parts(small)[:1]
    again = "shard 1 has not started for 5 s, though a slot should be free; attempt 1 of 1 follows"
    assert f"{TABLE}: {again}" in said


def test_a_network_without_a_slot_is_said_to_have_none(
    small: Settings, node: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Said(Exception):
        pass

    def log(line: str) -> None:
        if "no free slot of 64 CPU" in line:
            raise Said(line)

    monkeypatch.setattr(on_ray, "NO_SLOT_S", 1.0)
    fleet = opened(small)
    executor = OnRay(EXECUTION.model_copy(update={"cpus": 64}), log)
    with pytest.raises(Said, match=r"slots by node: .*: 0\); waiting"):
        list(executor.run(work_of(fleet), [(0, fleet.shards[0])]))
