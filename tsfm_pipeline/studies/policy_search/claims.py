"""Claims: which process runs which experiment right now.

What belongs here: the file that an experiment has while it runs, and whether its process is still
there. What does not: who may claim what (`ledger`).

An experiment whose process ended without a line in the ledger is an orphan, and the next loop runs
it. A process is known by its id and its start time, because ids are used again.
"""

import os
import secrets
import socket
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tsfm_pipeline.files import StorageError, write_text_atomically
from tsfm_pipeline.studies.policy_search.drivers import Proposal
from tsfm_pipeline.studies.policy_search.policy import Policy, policy_of

HARD_SECONDS = 600.0
"""After which an experiment is killed, whatever it does."""
GRACE = timedelta(minutes=1)
"""What another host's loop may take beyond the hard limit, to judge and to write its line."""
_PROC = Path("/proc")


class Claim(BaseModel):
    """An experiment that is running, or was when its process ended.

    experiment: random, 16 hex digits. yardstick: its digest. changes: the policy's changed fields.
    parent, driver, description: as in the ledger. since: when its process took it. host, pid,
    started: that process, and when it started, as its system writes it; pid is None if the process
    gave the experiment back. n_deaths: how many processes ended while they ran it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    experiment: str
    yardstick: str
    changes: dict[str, Any]
    parent: str
    driver: str
    description: str
    since: datetime
    host: str
    pid: int | None
    started: str | None
    n_deaths: int = 0

    @property
    def policy(self) -> Policy:
        """The policy to try. Raises `PolicyError` if this release does not know its fields."""
        return policy_of(self.changes, f"the claim {self.experiment}")

    def is_orphan(self, hard_seconds: float) -> bool:
        """Return whether nobody runs this experiment any more.

        Another host's processes cannot be seen from here: its claims count as orphans once their
        experiment must have been killed, `hard_seconds` and a minute after they began.
        """
        if self.pid is None:
            return True
        if self.host != socket.gethostname():
            return datetime.now(UTC) > self.since + timedelta(seconds=hard_seconds) + GRACE
        return start_of(self.pid) != self.started

    def taken(self) -> "Claim":
        """Return this claim as one of the current process. A death is counted unless the process
        before gave the experiment back.
        """
        return self.model_copy(
            update={**_here(), "n_deaths": self.n_deaths + (self.pid is not None)}
        )

    def given_back(self, *, failed: bool) -> "Claim":
        """Return this claim without a process. `failed`: running it raised an error, which counts
        as a death.
        """
        return self.model_copy(update={"pid": None, "n_deaths": self.n_deaths + failed})

    def write(self, folder: Path) -> None:
        """Write the claim's file, whole or not at all."""
        write_text_atomically(self.path(folder), self.model_dump_json(indent=1) + "\n")

    def path(self, folder: Path) -> Path:
        """Return the claim's file in the folder of claims."""
        return folder / f"{self.experiment}.json"


def claim_of(proposal: Proposal, *, yardstick: str, driver: str) -> Claim:
    """Return a claim of the current process on a new experiment.

    Characters of the description that UTF-8 cannot hold are replaced, so that no answer of a
    driver can spoil the ledger.
    """
    return Claim(
        experiment=secrets.token_hex(8),
        yardstick=yardstick,
        changes=proposal.policy.search,
        parent=proposal.parent,
        driver=driver,
        description=proposal.description.encode("utf-8", "replace").decode(),
        **_here(),
    )


def read_claim(path: Path) -> Claim:
    """Return the claim in a file. Raises `StorageError`, with the file's name, if it is none."""
    try:
        return Claim.model_validate_json(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValidationError) as error:
        raise StorageError(
            f"the claim {path} cannot be read: {error}. Move it away; the experiment that it names "
            "is then not run again"
        ) from error


def start_of(pid: int) -> str | None:
    """Return when a process of this host started, as its system writes it; None if there is no such
    process, or if it has ended and its parent has not noticed.
    """
    if not _PROC.joinpath("self").exists():
        return _start_by_ps(pid)
    try:
        stat = _PROC.joinpath(str(pid), "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name is in parentheses and may contain anything; state and start time follow it.
    fields = stat.rpartition(")")[2].split()
    state, ticks = fields[0], fields[19]
    # The time is counted from the boot, and after each boot processes start much as before.
    boot = _PROC.joinpath("sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return None if state in "ZX" else f"{boot} {ticks}"


def _start_by_ps(pid: int) -> str | None:
    """Return the same on systems without /proc."""
    command = ["ps", "-o", "state=,lstart=", "-p", str(pid)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    state, _, started = shown.strip().partition(" ")
    return None if not state or state.startswith("Z") else started.strip()


def _here() -> dict[str, Any]:
    """Return the fields that name the current process."""
    return {
        "since": datetime.now(UTC),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": start_of(os.getpid()),
    }
