"""Run a PostgreSQL server of its own for a test or a benchmark.

What belongs here: starting it, stopping it, starting it again. What does not: what any test stores
in it.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PATIENCE_S = 90
USER = "dagster"
DEBIAN = Path("/usr/lib/postgresql")
"""Where Debian's packages put the programs of each version; they are not on the PATH."""


def programs() -> Path | None:
    """The folder of initdb and postgres: that of the PATH, else of the newest version of Debian's
    packages; None where there is neither.
    """
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = [path.parent for path in DEBIAN.glob("*/bin/initdb")]
    return max(versions, key=lambda bin_dir: int(bin_dir.parent.name), default=None)


@dataclass
class PostgresServer:
    """A server with database postgres and superuser `USER`, whose data lie in `folder`.

    `host` is the address that it listens on, and `inside` a prefix of its command, such as `ip
    netns exec NAME`, that puts it into another network.
    """

    bin_dir: Path
    folder: Path
    port: int
    host: str = "127.0.0.1"
    inside: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        """The address of the database as Dagster wants it, for a server without a password."""
        return f"postgresql+psycopg2://{USER}@{self.host}:{self.port}/postgres"

    def make(self, password: str | None) -> None:
        """Make the data folder; with a password, nobody may connect without it.

        initdb and postgres refuse to run as root, so root runs them as nobody, who must be able to
        enter the parent folder.
        """
        self.folder.mkdir()
        secret = self.folder.parent / "pg-password"
        secret.write_text(password or "")
        if os.geteuid() == 0:
            self.folder.parent.chmod(0o755)
            shutil.chown(self.folder, "nobody")
        self.folder.chmod(0o700)
        login = "--auth=trust" if password is None else "--auth=scram-sha-256"
        known = [] if password is None else [f"--pwfile={secret}"]
        made = subprocess.run(
            [*self._as_user("initdb"), "-D", self.folder, "-U", USER, login, *known, "--no-sync"],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stderr
        if self.host != "127.0.0.1":
            with (self.folder / "pg_hba.conf").open("a") as rules:
                rules.write("host all all samenet trust\n")

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        options = ["-p", str(self.port), "-h", self.host, "-k", str(self.folder), "-F"]
        log = self.folder.parent / "postgres.log"
        with log.open("a") as output:
            self.process = subprocess.Popen(
                [*self._as_user("postgres"), "-D", self.folder, *options],
                cwd="/",
                stdout=output,
                stderr=output,
            )
        ready = ["-q", "-h", self.host, "-p", str(self.port)]
        deadline = time.monotonic() + PATIENCE_S
        while subprocess.run(
            [*self.inside, self.bin_dir / "pg_isready", *ready], check=False
        ).returncode:
            assert self.process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server at once: every connection is cut."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)  # does not wait for clients to leave
        self.process.wait(timeout=PATIENCE_S)
        self.process = None

    def _as_user(self, program: str) -> list[str]:
        """The command without its options; setpriv and `ip netns exec` become the program, so that
        signals reach it.
        """
        nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        return [
            *self.inside,
            *(nobody if os.geteuid() == 0 else []),
            str(self.bin_dir / program),
        ]


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def serving_postgres(password: str | None = None) -> Iterator[PostgresServer]:
    """A running server on 127.0.0.1. Skips the test where PostgreSQL is not installed.

    Its data lie outside of pytest's folder, which every other run of pytest closes to other users.
    """
    bin_dir = programs()
    if bin_dir is None:
        pytest.skip(
            f"there is no PostgreSQL server: no initdb on the PATH and none in {DEBIAN}; install "
            "Debian's package postgresql"
        )
    with tempfile.TemporaryDirectory(prefix="postgres-", dir="/tmp") as folder:
        server = PostgresServer(bin_dir, Path(folder) / "pg", free_port())
        server.make(password)
        server.start()
        try:
            yield server
        finally:
            if server.process is not None:
                server.stop()
