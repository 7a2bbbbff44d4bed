"""Start a PostgreSQL server for a test."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PATIENCE_S = 90
USER = "dagster"


@contextmanager
def serving_postgres(folder: Path, password: str | None = None) -> Iterator[int]:
    """Yield the port of a server of its own on 127.0.0.1, whose data lie in `folder`: database
    postgres, superuser `USER`, who needs the password if there is one. Skips the test where
    PostgreSQL is not installed.
    """
    if shutil.which("initdb") is None:
        pytest.skip(
            "no initdb on the PATH: apt-get install postgresql, and put "
            "/usr/lib/postgresql/<version>/bin on the PATH"
        )
    data, with_user = folder / "pg", {"user": "nobody"} if os.geteuid() == 0 else {}
    data.mkdir()
    if with_user:
        for parent in (data, *data.parents):
            if parent == data or (parent.is_relative_to("/tmp") and parent != Path("/tmp")):
                parent.chmod(0o755)
        shutil.chown(data, "nobody")
        data.chmod(0o700)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    secret = folder / "pg-password"
    secret.write_text(password or "")
    login = ["--auth=trust"] if password is None else ["--auth=scram-sha-256", f"--pwfile={secret}"]
    made = subprocess.run(
        ["initdb", "-D", data, "-U", USER, *login, "--no-sync"],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        **with_user,
    )
    assert made.returncode == 0, made.stderr
    options = ["-p", str(port), "-h", "127.0.0.1", "-k", str(data), "-F"]
    server = subprocess.Popen(
        ["postgres", "-D", data, *options], cwd="/", stderr=subprocess.DEVNULL, **with_user
    )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while subprocess.run(
            ["pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)], check=False
        ).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield port
    finally:
        server.send_signal(signal.SIGINT)  # does not wait for clients to leave
        server.wait(timeout=PATIENCE_S)
