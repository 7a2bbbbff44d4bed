"""Run a fleet's whole chain once on one machine and once on two, and compare the reports.

`python benchmarks/two_machines.py [--fleet demo] [--quick]`, as root, prints one JSON object. The
exit status is 1 if the reports differ, or if the second machine made nothing. The two machines are
network namespaces that reach each other and nothing else. On the first are PostgreSQL for Dagster's
storage, an object store (moto) for the lake, the head of a Ray network, and the run; on the second
is a Ray worker. Both share the disk, as two machines share NFS. It needs Debian's package
postgresql and the extras `dev` and `ray`. `--quick` runs the cheap profile. `--part NAME` only
brings up one part with what it needs, asks it something, and takes it down again: network,
postgres, storage, ray, or join (the entry point of the pipeline's image).

What belongs here: bringing up the two machines, and comparing what is found on them with what is
found on one. What does not: times (both "machines" share the same processors).
"""

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from content import differences, reports

from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline_tests.docs.pages import DOCS, blocks
from tsfm_pipeline_tests.postgres_server import PostgresServer, programs

FIRST, SECOND = "10.77.22.1", "10.77.22.2"
RAY_PORT, STORE_PORT, POSTGRES_PORT = 6379, 5000, 5432
BUCKET = "tsfm"
OBJECT_STORE_BYTES = 120 * 2**20
PATIENCE_S = 240
LEAST_SHARE = 0.02
"""The second machine must have spent at least this share of the run's processor time."""


@dataclass(frozen=True)
class Machine:
    """A network namespace with one address."""

    name: str
    address: str

    @property
    def inside(self) -> tuple[str, ...]:
        """The prefix of a command that runs on this machine. `ip` becomes the command, so that it
        has the process id that was started.
        """
        return ("ip", "netns", "exec", self.name)

    def python(self, code: str, environment: dict[str, str]) -> str:
        """Return what a piece of Python prints on this machine. Raises CalledProcessError with a
        note of what it said; whoever waits for a server asks until there is none.
        """
        command = [*self.inside, sys.executable, "-c", code]
        try:
            done = subprocess.run(
                command,
                env=environment,
                capture_output=True,
                text=True,
                timeout=2 * PATIENCE_S,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            error.add_note(error.stderr[-2000:])
            raise
        return done.stdout.strip()

    def pids(self) -> list[int]:
        """The machine's processes."""
        asked = ["ip", "netns", "pids", self.name]
        found = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        return [int(pid) for pid in found.split()]

    def processor_s(self) -> float:
        """Processor seconds of the machine's processes and of those that they have waited for."""
        spent = 0.0
        for pid in self.pids():
            with suppress(psutil.NoSuchProcess):
                times = psutil.Process(pid).cpu_times()
                spent += times.user + times.system + times.children_user + times.children_system
        return spent


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@contextmanager
def network() -> Iterator[tuple[Machine, Machine]]:
    """Two machines joined by one cable that leads nowhere else. Removing a namespace
    removes its end of the cable, and with it the other.
    """
    number = os.getpid() % 100_000
    machines = (Machine(f"tsfm-a-{number}", FIRST), Machine(f"tsfm-b-{number}", SECOND))
    cable = (f"tsfma{number}", f"tsfmb{number}")
    _ip("link", "add", cable[0], "type", "veth", "peer", "name", cable[1])
    try:
        for machine, end in zip(machines, cable, strict=True):
            _ip("netns", "add", machine.name)
            _ip("link", "set", end, "netns", machine.name)
            _ip("-n", machine.name, "address", "add", f"{machine.address}/24", "dev", end)
            for device in (end, "lo"):
                _ip("-n", machine.name, "link", "set", device, "up")
            # Leads into the cable, where nobody forwards anything. Ray looks for the address from
            # which it would reach the world.
            _ip("-n", machine.name, "route", "add", "default", "dev", end)
        yield machines
    finally:
        for machine in machines:
            subprocess.run(["ip", "netns", "delete", machine.name], check=False)
        # Still here if it was not given to a namespace.
        subprocess.run(["ip", "link", "delete", cable[0]], check=False, stderr=subprocess.DEVNULL)


@contextmanager
def running(
    machine: Machine, command: Sequence[str], environment: dict[str, str], log: Path
) -> Iterator[None]:
    """A process on a machine, ended with everything that it started."""
    with log.open("w") as output:
        process = psutil.Popen(
            [*machine.inside, *command], env=environment, stdout=output, stderr=output
        )
    try:
        yield
    finally:
        family = [*process.children(recursive=True), process]
        process.terminate()
        _, left = psutil.wait_procs(family, timeout=20)
        for one in left:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(left, timeout=20)


def _until(answers: Callable[[], Any], what: str, log: Path) -> Any:
    """Return the first answer that is not an error. Raises TimeoutError with the end of the log."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return answers()
        except subprocess.CalledProcessError as error:
            if time.monotonic() > deadline:
                end = log.read_text()[-2000:]
                raise TimeoutError(f"no {what} after {PATIENCE_S} s; {log}: {end}") from error
            time.sleep(0.5)


@contextmanager
def postgres(machine: Machine, folder: Path) -> Iterator[PostgresServer]:
    """PostgreSQL on a machine. Raises FileNotFoundError where it is not installed."""
    bin_dir = programs()
    if bin_dir is None:
        raise FileNotFoundError("no PostgreSQL server; install Debian's package postgresql")
    server = PostgresServer(
        bin_dir, folder / "pg", POSTGRES_PORT, host=machine.address, inside=machine.inside
    )
    server.make(password=None)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def storage(
    machine: Machine, folder: Path, environment: dict[str, str]
) -> Iterator[dict[str, str]]:
    """An object store with one bucket on a machine; yields the variables of who uses it."""
    endpoint = f"http://{machine.address}:{STORE_PORT}"
    command = [sys.executable, "-m", "moto.server", "-H", machine.address, "-p", str(STORE_PORT)]
    log = folder / "storage.log"
    make_bucket = (
        "import urllib.request as u\n"
        f"print(u.urlopen(u.Request('{endpoint}/{BUCKET}', method='PUT'), timeout=5).status)"
    )
    quiet = environment | {"PYTHONWARNINGS": "ignore"}
    with running(machine, command, quiet, log):
        _until(lambda: machine.python(make_bucket, quiet), "object store", log)
        yield {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "moto",
            "AWS_SECRET_ACCESS_KEY": "moto",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }


def _ray_start(machine: Machine, *options: str) -> list[str]:
    """The command of a node of Ray with one processor that ends by its process id."""
    return [
        str(Path(sys.executable).with_name("ray")),
        "start",
        *options,
        f"--node-ip-address={machine.address}",
        "--num-cpus=1",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        "--block",
    ]


@contextmanager
def ray_head(machine: Machine, folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """The head of a Ray network; yields its address. It asks for the token of `environment`."""
    command = _ray_start(
        machine,
        *("--head", f"--port={RAY_PORT}", "--include-dashboard=false"),
        f"--temp-dir={folder / 'ray'}",
    )
    log = folder / "head.log"
    with running(machine, command, environment, log):
        listening = f"import socket; socket.create_connection(('{machine.address}', {RAY_PORT}))"
        _until(lambda: machine.python(listening, environment), "head of Ray", log)
        yield f"{machine.address}:{RAY_PORT}"


@contextmanager
def ray_network(
    machines: tuple[Machine, Machine], folder: Path, environment: dict[str, str]
) -> Iterator[str]:
    """A Ray network with one processor on each machine; yields its address. Its workers see
    `environment`, which must hold the token.
    """
    first, second = machines
    with ray_head(first, folder, environment) as address:
        both = (
            "import ray, time\n"
            f"ray.init('{address}', log_to_driver=False, logging_level='ERROR')\n"
            f"end = time.monotonic() + {PATIENCE_S}\n"
            "while sum(node['Alive'] for node in ray.nodes()) < 2:\n"
            "    assert time.monotonic() < end, ray.nodes()\n"
            "    time.sleep(0.5)"
        )
        log = folder / "worker.log"
        with running(second, _ray_start(second, f"--address={address}"), environment, log):
            _until(lambda: first.python(both, environment), "second node of Ray", log)
            yield address


def base_environment(folder: Path) -> dict[str, str]:
    """The variables of every process: nothing of the caller's settings, this code, a new token."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TSFM_", "DAGSTER_", "AWS_"))}
    return kept | {
        "PYTHONPATH": str(PROJECT_ROOT),
        "OMP_NUM_THREADS": "1",
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray's default of 15 leaves a worker almost nothing beside any other process.
        "RAY_worker_niceness": "0",
    }


def dagster_home(folder: Path, *, on_postgres: bool) -> Path:
    """A DAGSTER_HOME with the settings of the checkout, and for Postgres what the page says."""
    home = folder / "dagster_home"
    home.mkdir(parents=True)
    (shown,) = [b for b in blocks(DOCS / "operating.md", "yaml") if b.title == "dagster.yaml"]
    present = (PROJECT_ROOT / "dagster.yaml").read_text()
    (home / "dagster.yaml").write_text((shown.text if on_postgres else "") + present)
    return home


def run_fleet(
    fleet: str, data: Path, environment: dict[str, str], inside: Sequence[str] = ()
) -> float:
    """Run the whole chain and return its seconds. Raises RuntimeError with the end of its log."""
    log = data.parent / f"{data.name}.log"
    started = time.monotonic()
    with log.open("w") as output:
        ended = subprocess.run(
            [*inside, sys.executable, "-m", "tsfm_pipeline.cli", "run", fleet],
            env=environment | {"TSFM_DATA_DIR": str(data)},
            cwd=PROJECT_ROOT,
            stdout=output,
            stderr=output,
            check=False,
        )
    if ended.returncode:
        raise RuntimeError(f"the run failed; the end of {log}:\n{log.read_text()[-3000:]}")
    return time.monotonic() - started


def whole(folder: Path, fleet: str, profile: str) -> dict[str, Any]:
    """Run on one machine and on two, and compare."""
    environment = base_environment(folder) | {"TSFM_PROFILE": profile}
    one, two = folder / "one", folder / "two"
    alone = environment | {"DAGSTER_HOME": str(dagster_home(one, on_postgres=False))}
    seconds = {"one": run_fleet(fleet, one, alone)}
    home = dagster_home(two, on_postgres=True)
    with (
        network() as machines,
        postgres(machines[0], folder) as server,
        storage(machines[0], folder, environment) as access,
        ray_network(machines, folder, environment | access) as address,
    ):
        joined = access | {
            "DAGSTER_HOME": str(home),
            "DAGSTER_POSTGRES_URL": server.url,
            "DAGSTER_COMPUTE_LOGS": str(two / "compute-logs"),
            "TSFM_LAKE_URL": f"s3://{BUCKET}/lake",
            "TSFM_EXECUTION__ENGINE": "ray",
            "TSFM_EXECUTION__ADDRESS": address,
        }
        seconds["two"] = run_fleet(fleet, two, environment | joined, machines[0].inside)
        processor_s = [machine.processor_s() for machine in machines]
    found = [
        reports((data if profile == "full" else data / profile) / "lake") for data in (one, two)
    ]
    lines = list(differences(*found, "reports"))
    share = processor_s[1] / sum(processor_s)
    return {
        "fleet": fleet,
        "profile": profile,
        "n_reports": [len(of_one) for of_one in found],
        "equal": not lines and bool(found[0]),
        "differences": lines,
        "run_s": {name: round(spent, 1) for name, spent in seconds.items()},
        "processor_s": dict(zip(("first", "second"), processor_s, strict=True)),
        "second_machine_worked": share >= LEAST_SHARE,
    }


def join(
    machines: tuple[Machine, Machine], folder: Path, environment: dict[str, str]
) -> dict[str, Any]:
    """Let the entry point of the pipeline's image join a Ray network from the second machine: its
    command must find the network, and its task must run on the first.
    """
    first, second = machines
    with ray_head(first, folder, environment) as address:
        ask = (
            "import ray; ray.init('auto', log_to_driver=False, logging_level='ERROR')\n"
            "print(ray.get(ray.remote(lambda: ray.util.get_node_ip_address()).remote()))"
        )
        entry = str(PROJECT_ROOT / "deploy" / "pipeline" / "join_ray.sh")
        path = f"{Path(sys.executable).parent}:{environment['PATH']}"
        try:
            joined = subprocess.run(
                [*second.inside, "/bin/sh", entry, sys.executable, "-c", ask],
                env=environment | {"RAY_HEAD": address, "PATH": path},
                stdout=subprocess.PIPE,
                text=True,
                timeout=2 * PATIENCE_S,
                check=True,
            )
        finally:
            # Without --block the node stays, as it would until a container ends.
            left = [psutil.Process(pid) for pid in second.pids()]
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=20)
    return {"answer": joined.stdout.strip()}


def part(name: str, folder: Path) -> dict[str, Any]:
    """Bring one part up, ask it something, and take it down."""
    environment = base_environment(folder)
    with network() as machines:
        first, second = machines
        if name == "network":
            # A port that nothing listens on: who is reached refuses, who is not does not answer.
            ask = (
                "import socket, sys\n"
                "try: socket.create_connection((sys.argv[1], 9), timeout=3)\n"
                "except OSError as error: print(type(error).__name__)"
            )
            asked = {
                what: second.python(ask.replace("sys.argv[1]", repr(address)), environment)
                for what, address in (("first", FIRST), ("elsewhere", "192.0.2.1"))
            }
            return {
                "first_is_reached": asked["first"] == "ConnectionRefusedError",
                "nothing_else_is": asked["elsewhere"] in ("OSError", "TimeoutError"),
            }
        if name == "postgres":
            with postgres(first, folder) as server:
                ask = (
                    "import sqlalchemy as s\n"
                    f"with s.create_engine('{server.url}').connect() as c:\n"
                    "    print(c.execute(s.text('select 40 + 2')).scalar())"
                )
                return {"answer": second.python(ask, environment)}
        if name == "storage":
            with storage(first, folder, environment) as access:
                ask = (
                    "import obstore\n"
                    f"store = obstore.store.from_url('s3://{BUCKET}/lake')\n"
                    "obstore.put(store, 'a/b', b'stored')\n"
                    "print(bytes(obstore.get(store, 'a/b').bytes()).decode())"
                )
                return {"answer": second.python(ask, environment | access)}
        if name == "join":
            return join(machines, folder, environment)
        with ray_network(machines, folder, environment) as address:
            ask = (
                "import ray\n"
                f"ray.init('{address}', log_to_driver=False, logging_level='ERROR')\n"
                "where = ray.remote(lambda: ray.util.get_node_ip_address())\n"
                "on = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy\n"
                "asked = [where.options(scheduling_strategy=on(node['NodeID'], False)).remote()\n"
                "         for node in ray.nodes()]\n"
                "print(*sorted(ray.get(asked)))"
            )
            answer = first.python(ask, environment)
            stranger = environment | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
            try:
                first.python(ask, stranger)
            except subprocess.CalledProcessError:
                return {"answer": answer, "another_token_is_refused": True}
            return {"answer": answer, "another_token_is_refused": False}


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fleet", default="demo")
    parser.add_argument("--quick", action="store_true", help="the cheap profile")
    parser.add_argument("--part", choices=("network", "postgres", "storage", "ray", "join"))
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("only root may make network namespaces")
    # Ends what it started, also when it is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    # Short, because Ray's sockets lie in it, and their paths have a limit of 107 bytes.
    with tempfile.TemporaryDirectory(prefix="two", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if options.part:
            print(json.dumps(part(options.part, folder)))
            return 0
        found = whole(folder, options.fleet, "cheap" if options.quick else "full")
    print(json.dumps(found, indent=1))
    return 0 if found["equal"] and found["second_machine_worked"] else 1


if __name__ == "__main__":
    sys.exit(main())
