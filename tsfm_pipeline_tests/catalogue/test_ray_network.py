"""Test shards on two Ray hosts, each a network namespace of its own: the same bytes, hosts that are
lost or silent, and hosts that differ.

What belongs here: what needs more than one node. What does not: what one node shows (`test_on_ray`).
"""

import os
import re
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tsfm_pipeline.catalogue.fleet import open_workspace_fleet
from tsfm_pipeline.catalogue.fleet_scope import FLEETS
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.settings import PROJECT_ROOT, Settings
from tsfm_pipeline.steps.bundle import publish_bundle
from tsfm_pipeline.steps.makers import MAKERS
from tsfm_pipeline.steps.making import make
from tsfm_pipeline_tests.catalogue.ray_driver import SHARD_S
from tsfm_pipeline_tests.catalogue.ray_network import Driver, Network, network, wait_for, why_not
from tsfm_pipeline_tests.catalogue.small_fleet import NAME, SPEC, TABLE, inputs_made, parts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]

SLOW = "tsfm_pipeline_tests.catalogue.ray_driver:slow_targets"
FULL = "tsfm_pipeline_tests.catalogue.ray_driver:targets_without_room"
MINI = "mini"
FEW: dict[str, Any] = {
    "search": {
        "candidates": ("ctx64", "ctx256", "ctx1280-r5", "ctx128-s1x5"),
        "portfolio_size": 2,
        "portfolio_tenants": 6,
        "portfolio_origins": 1,
        "neighbours": 3,
    },
    "evaluation": {
        "bootstrap_draws": 200,
        "permutations": 100,
        "cold_start_minutes": (60, 240),
    },
}
SHARDED = [name for name, table in TABLES.items() if table.sharded]
AT_WORK = "ray::shard_events"
"""What a worker's process is called while it makes a shard."""
N_SHARDS = 10
BUSY_S = 30
"""What a machine that does other work may add to the time in which a lost host's shards are made."""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Network]:
    pytest.importorskip("ray")
    with network(tmp_path) as both:
        yield both


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A fleet of ten shards whose table was made in process."""
    return inputs_made(tmp_path_factory.mktemp("small"), shard_tenants=1)


def on(settings: Settings, hosts: Network, **execution: Any) -> Settings:
    values = {"engine": "ray", "address": "10.77.0.1:6379", "deadline_s": 120, **execution}
    return settings.model_copy(update={"execution": settings.execution.model_copy(update=values)})


def driver(small: Settings, hosts: Network, **execution: Any) -> Driver:
    """Start to make the table of the small fleet slowly, when both hosts are there."""
    settings = on(small, hosts, **execution)
    return hosts.driver(settings, [TABLE], fleet=NAME, make=SLOW, force=True, nodes=2)


def wait_until_at_work(hosts: Network, name: str) -> None:
    """Wait until a worker of this host makes a shard: only then does losing the host lose one."""
    wait_for(f"host {name} makes a shard", lambda: hosts.processes(hosts.hosts[name], AT_WORK), 120)


def as_lists(settings: Settings) -> list[list[Any]]:
    return [list(part) for part in parts(settings)]


# -- the same bytes


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A miniature fleet, all of whose tables were made in process."""
    root = tmp_path_factory.mktemp("mini-on-ray")
    (root / "specs").mkdir()
    (root / "specs" / f"{MINI}.yaml").write_text(yaml.safe_dump({**SPEC, "tenants": 24}))
    settings = Settings(data_dir=root / "data", specs_dir=root / "specs", shard_tenants=6, **FEW)
    for name, table in TABLES.items():
        fleet = open_workspace_fleet(settings, MINI)
        make(FLEETS, fleet, table, MAKERS[name], settings)
        if name == "search_bundle":
            publish_bundle(fleet)
    return settings


@pytest.mark.parametrize("cpus", [(1, 2), (1, 0)], ids=["three on two hosts", "one worker"])
def test_every_table_is_the_same_to_the_byte(
    mini: Settings, hosts: Network, cpus: Sequence[int]
) -> None:
    tables = open_workspace_fleet(mini, MINI).tables
    here = {name: [list(part) for part in tables.parts(name)] for name in SHARDED}
    hosts.node("a", cpus[0])
    if cpus[1]:
        hosts.node("b", cpus[1])
    found = hosts.driver(
        on(mini, hosts, deadline_s=1800),
        SHARDED,
        fleet=MINI,
        force=True,
        nodes=sum(number > 0 for number in cpus),
    ).result()
    assert found["parts"] == here
    assert all(len(of_table) == 4 for of_table in here.values())


# -- hosts that are lost


@pytest.mark.parametrize("killed", ["raylet/raylet", ""], ids=["its raylet", "all of it"])
def test_a_host_that_is_killed_costs_no_shard(small: Settings, hosts: Network, killed: str) -> None:
    """Without its raylet, a worker may still hand over the shard that it makes, or end at once."""
    here = as_lists(small)
    hosts.node("a")
    hosts.node("b")
    run = driver(small, hosts)
    run.until("written", 1)
    wait_until_at_work(hosts, "b")
    for pid in hosts.processes(hosts.hosts["b"], killed):
        os.kill(pid, signal.SIGKILL)
    assert run.result()["parts"][TABLE] == here
    lost = "was killed or its node died; attempt 2 of 3 follows" in run.text
    assert lost or killed, run.text


@pytest.mark.parametrize("deadline", [N_SHARDS * SHARD_S, 120.0])
def test_a_host_that_falls_silent_for_good_costs_a_deadline(
    small: Settings, hosts: Network, deadline: float
) -> None:
    """Ray alone waits without end for the shard that the host had, and for those that it meant to
    start there. All are made by the deadline and the time of two shards, or sooner if Ray gives the
    host up before the deadline: what is left for the other host takes less than that.
    """
    here = as_lists(small)
    hosts.node("a")
    hosts.node("b")
    run = driver(small, hosts, deadline_s=deadline)
    run.until("written", 1)
    wait_until_at_work(hosts, "b")
    hosts.cut()
    cut = time.monotonic()
    run.until("written", N_SHARDS)
    seconds = time.monotonic() - cut
    assert run.result()["parts"][TABLE] == here
    expected = deadline + 2 * SHARD_S
    print(f"all parts {seconds:.1f} s after the cut; on a calm machine within {expected:g} s")
    assert seconds < expected + BUSY_S, run.text
    assert re.search(f"(no part after {deadline:g} s|its node died); attempt 2 of 3", run.text)


def test_a_link_that_is_cut_for_a_minute_costs_no_shard(small: Settings, hosts: Network) -> None:
    """Ray gives the silent host up meanwhile; a host that comes back too late changes nothing."""
    here = as_lists(small)
    hosts.node("a", 0)
    hosts.node("b")
    run = driver(small, hosts, deadline_s=45)
    run.until("written", 2)  # by b, which makes the next one
    hosts.cut()
    hosts.node("a")
    time.sleep(60)
    hosts.mend()
    assert run.result()["parts"][TABLE] == here
    assert "attempt 2 of 3 follows" in run.text
    again = hosts.driver(
        on(small, hosts, deadline_s=45), [TABLE], fleet=NAME, make=SLOW, force=True
    )
    assert again.result()["parts"][TABLE] == here


def test_a_full_disk_on_a_host_ends_the_step_by_name(small: Settings, hosts: Network) -> None:
    """The host may write no file of more than a kilobyte."""
    here = as_lists(small)
    hosts.node("a", 0)
    hosts.node("b")
    run = hosts.driver(on(small, hosts), [TABLE], fleet=NAME, make=FULL, force=True, nodes=2)
    error = run.result()["error"]
    assert "no room to write" in error
    assert "File too large" in error
    folder = open_workspace_fleet(small, NAME).tables.path / TABLE
    assert not list(folder.glob("*.tmp"))
    again = hosts.driver(on(small, hosts), [TABLE], fleet=NAME, make=SLOW)
    assert again.result()["parts"][TABLE] == here


def test_a_driver_that_is_killed_leaves_its_finished_parts(small: Settings, hosts: Network) -> None:
    here = as_lists(small)
    hosts.node("a")
    hosts.node("b")
    run = driver(small, hosts)
    run.until("written", 4)
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.wait()
    wait_for(
        "the workers end with the driver",
        lambda: not any(hosts.processes(host, AT_WORK) for host in hosts.hosts.values()),
    )
    folder = open_workspace_fleet(small, NAME).tables.path / TABLE
    assert not list(folder.glob("*.tmp"))
    again = hosts.driver(on(small, hosts), [TABLE], fleet=NAME, make=SLOW, nodes=2)
    found = again.result()
    assert found["kept"] >= 4
    assert found["parts"][TABLE] == here


def test_a_worker_without_memory_is_named_and_its_shard_made_elsewhere(
    small: Settings, hosts: Network
) -> None:
    here = as_lists(small)
    hosts.node("a")
    # Ray ends a worker if more of the host's memory is in use: this host's is always.
    hosts.node("b", RAY_memory_usage_threshold="0.02", RAY_memory_monitor_refresh_ms="250")
    run = driver(small, hosts, attempts=20)
    assert run.result()["parts"][TABLE] == here
    assert "had no memory left, and the worker was ended; attempt 2 of 20 follows" in run.text


# -- hosts that differ


@pytest.mark.parametrize("difference", ["code", "kernel"])
def test_a_host_that_differs_is_refused_by_name(
    small: Settings, hosts: Network, tmp_path: Path, difference: str
) -> None:
    hosts.node("a", 0)
    environment = {"OPENBLAS_CORETYPE": "Nehalem"}
    if difference == "code":
        shutil.copytree(PROJECT_ROOT / "tsfm_pipeline", tmp_path / "other" / "tsfm_pipeline")
        shutil.copytree(
            PROJECT_ROOT / "tsfm_pipeline_tests", tmp_path / "other" / "tsfm_pipeline_tests"
        )
        (tmp_path / "other" / "data").symlink_to(PROJECT_ROOT / "data")
        (tmp_path / "other" / "tsfm_pipeline" / "lake.py").open("a").write("# of another commit\n")
        environment = {"PYTHONPATH": str(tmp_path / "other")}
    hosts.node("b", 1, **environment)
    error = driver(small, hosts).result()["error"]
    assert error.startswith(f"LakeError: worker {os.uname().nodename} ")
    expected = {
        "code": r"runs another release than the run: tsfm_pipeline .* \(code .*give every worker",
        "kernel": r"computes table 'request_targets' of 'small' with .*Nehalem.*OPENBLAS_CORETYPE",
    }
    assert re.search(expected[difference], error)
