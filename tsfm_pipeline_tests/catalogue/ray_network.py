"""Ray nodes in network namespaces of their own, one host each, and a driver in the first of them.

What belongs here: starting, cutting off and ending the nodes. What does not: what is tested
(`test_ray_network`), and the driver's work (`ray_driver`).

Every process is ended by its id: `ray stop` would end each Ray of the machine. The namespaces have
no route to anything else.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tsfm_pipeline.settings import PROJECT_ROOT, Settings

PORT = 6379
_STORE = str(100 * 2**20)


def why_not() -> str:
    """Return why this machine cannot have such nodes; empty if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    return "" if shutil.which("ip") else "network namespaces need the command ip (iproute2)"


def _ip(*arguments: str) -> str:
    command = ["ip", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Network:
    """Two hosts, `a` and `b`, with a wire between them, and Ray nodes on them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.key = secrets.token_hex(2)
        self.hosts = {name: f"tsfm-{self.key}-{name}" for name in "ab"}
        self.addresses = {"a": "10.77.0.1", "b": "10.77.0.2"}
        # Ray's sockets lie in there, and the path of a socket has at most 107 characters.
        self.temporary = Path(tempfile.mkdtemp(prefix=f"ray-{self.key}-", dir="/tmp"))
        self.nodes: list[subprocess.Popen[bytes]] = []
        # An environment of its own: workers must need nothing of the tests' environment.
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(root),
            "PYTHONPATH": str(PROJECT_ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_worker_register_timeout_seconds": "300",
            "RAY_worker_niceness": "0",  # 15 by default: starved by any other process
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def up(self) -> None:
        """Make the hosts and the wire."""
        for host in self.hosts.values():
            _ip("netns", "add", host)
            _ip("-n", host, "link", "set", "lo", "up")
        wires = {name: f"v{self.key}{name}" for name in self.hosts}
        _ip("link", "add", wires["a"], "type", "veth", "peer", "name", wires["b"])
        for name, host in self.hosts.items():
            _ip("link", "set", wires[name], "netns", host, "name", "wire")
            _ip("-n", host, "addr", "add", f"{self.addresses[name]}/24", "dev", "wire")
            _ip("-n", host, "link", "set", "wire", "up")

    def down(self) -> None:
        """End every process on the hosts, and take the hosts away."""
        for host in self.hosts.values():
            for pid in self.processes(host):
                with _gone():
                    os.kill(pid, signal.SIGKILL)
        for node in self.nodes:
            node.wait()
        for host in self.hosts.values():
            _ip("netns", "delete", host)
        shutil.rmtree(self.temporary, ignore_errors=True)

    def processes(self, host: str, name: str = "") -> list[int]:
        """Return the processes on a host, or those whose command line holds `name`."""
        pids = [int(pid) for pid in _ip("netns", "pids", host).split()]
        return [pid for pid in pids if name in _command(pid)]

    def cut(self) -> None:
        """Cut the wire at the end of `b`: what `a` sends vanishes, and no connection is closed."""
        _ip("-n", self.hosts["b"], "link", "set", "wire", "down")

    def mend(self) -> None:
        """Connect the wire again."""
        _ip("-n", self.hosts["b"], "link", "set", "wire", "up")

    def node(self, name: str, cpus: int = 1, **environment: str) -> None:
        """Start a Ray node on a host; the first one, on `a`, is the head."""
        head = not self.nodes
        address = self.addresses[name]
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
            *(f"--node-ip-address={address}", f"--num-cpus={cpus}", "--disable-usage-stats"),
            f"--object-store-memory={_STORE}",
            *(
                (
                    "--head",
                    f"--port={PORT}",
                    f"--temp-dir={self.temporary}",
                    "--include-dashboard=false",
                )
                if head
                else (f"--address={self.addresses['a']}:{PORT}",)
            ),
        ]
        log = (self.root / f"node-{len(self.nodes)}.log").open("wb")
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.hosts[name], *command],
            env={**self.environment, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=self.root,
        )
        self.nodes.append(process)

    def driver(self, settings: Settings, tables: Sequence[str], **options: Any) -> "Driver":
        """Start the driver on host `a` (see `ray_driver`)."""
        work = {"settings": settings.model_dump_json(), "tables": tables, **options}
        process = subprocess.Popen(
            [
                *("ip", "netns", "exec", self.hosts["a"]),
                *(sys.executable, "-m", "tsfm_pipeline_tests.catalogue.ray_driver"),
                json.dumps(work),
            ],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.root,
            text=True,
        )
        return Driver(process)


class Driver:
    """A driver that runs: what it says, line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []

    def until(self, text: str, n_times: int = 1) -> None:
        """Wait until the driver has said a line with this text so many times."""
        assert self.process.stdout is not None
        while sum(text in line for line in self.said) < n_times:
            line = self.process.stdout.readline()
            assert line, f"the driver ended without {text!r}; it said:\n{self.text}"
            self.said.append(line.rstrip("\n"))

    def result(self) -> dict[str, Any]:
        """Wait for the end and return what the driver found: its last line."""
        assert self.process.stdout is not None
        self.said += self.process.stdout.read().splitlines()
        assert self.process.wait() == 0, self.text
        found: dict[str, Any] = json.loads(self.said[-1])
        return found

    @property
    def text(self) -> str:
        return "\n".join(self.said)


@contextmanager
def network(root: Path) -> Iterator[Network]:
    """Two hosts while the block runs."""
    hosts = Network(root)
    try:
        hosts.up()
        yield hosts
    finally:
        hosts.down()


@contextmanager
def _gone() -> Iterator[None]:
    """Let it pass that a process ended by itself meanwhile."""
    try:
        yield
    except ProcessLookupError:
        return


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_for(what: str, holds: Any, seconds: float = 300) -> None:
    """Wait until `holds()`."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)
