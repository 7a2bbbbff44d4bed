"""The ledger: one line per experiment, appended under a lock and never rewritten.

What belongs here: the record table of the experiments and `results.tsv` beside it, the claims of
experiments that are running, and reading all of it. What does not: deciding what a line says
(`judging`, `loop`), and the content of a claim (`claims`).

Several loops share a ledger. What one of them decides from its rows (whether a policy is new, which
one is the incumbent, who runs an orphan), it decides while it holds the lock, which the kernel
releases when a process ends. A killed process therefore blocks nobody, and what it left half done
is completed by the next one: an experiment by its claim, a line of `results.tsv` by the record.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from typing import Any

import polars as pl

from tsfm_pipeline.catalogue.records import RecordTable, held, read_record
from tsfm_pipeline.files import StorageError, room_for
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search.claims import HARD_SECONDS, Claim, claim_of, read_claim
from tsfm_pipeline.studies.policy_search.drivers import Proposal
from tsfm_pipeline.studies.policy_search.tables import FOLDER

SCHEMA: dict[str, Any] = {
    "time": pl.Datetime("us", "UTC"),
    "experiment": pl.String,
    "yardstick": pl.String,
    "commit": pl.String,
    "policy": pl.String,
    "parent": pl.String,
    "driver": pl.String,
    "status": pl.String,
    "description": pl.String,
    "changes": pl.String,
    "n_changes": pl.Int64,
    "fleets": pl.String,
    "screened_out": pl.Boolean,
    "objective": pl.Float64,
    "loss_premium": pl.Float64,
    "loss_premium_low": pl.Float64,
    "loss_premium_high": pl.Float64,
    "loss_standard": pl.Float64,
    "loss_standard_low": pl.Float64,
    "loss_standard_high": pl.Float64,
    "loss_basic": pl.Float64,
    "loss_basic_low": pl.Float64,
    "loss_basic_high": pl.Float64,
    "mae": pl.Float64,
    "p50_ms": pl.Float64,
    "p95_ms": pl.Float64,
    "tokens": pl.Float64,
    "peak_mib": pl.Float64,
    "seconds": pl.Float64,
    "outcome": pl.String,
}
"""Columns of the record table. experiment: random, 16 hex digits. changes: the policy's fields as
JSON. screened_out: whether it was discarded after a third of the requests. objective: exp of the
mean over fleets of log(loss / loss of the default policy), at the standard tier; below 1 is better.
loss_*: mean over fleets of the mean scaled loss, with 95 % limits over tenants. outcome: the
`Outcome` as JSON. `results.tsv` has all columns but the last."""
COLUMNS = tuple(name for name in SCHEMA if name != "outcome")
"""The columns of `results.tsv`."""
_MOST_CHUNKS = 64
"""Of the rows in memory: every line that is read adds one, and many of them make reading slow."""
_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_ESCAPED = re.compile(r"[\\\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Ledger:
    """The experiments of all yardsticks, and those that are running.

    folder: `<records_dir>/.policy_search`, with the record table `experiments`, the file
    `results.tsv` and the folder `running`. Each method may be called by several processes at once.
    """

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.records_dir / FOLDER
        self.results = self.folder / "results.tsv"
        self._running = self.folder / "running"
        self._table = RecordTable(self.folder / "experiments", SCHEMA)
        self._paths: list[Path] = []
        self._rows = pl.DataFrame(schema=SCHEMA)
        self._threads = RLock()
        self._depth = 0

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the ledger, so that no other process adds a line or a claim meanwhile. It may be
        held again by whoever holds it.
        """
        with self._threads:
            if self._depth:
                yield
                return
            self._running.mkdir(parents=True, exist_ok=True)
            with held(self.folder / ".lock"):
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1

    def read(self, yardstick: str | None = None) -> pl.DataFrame:
        """Return the rows of one yardstick (its digest), or of all, oldest first, with the columns
        of `SCHEMA`.

        Raises `StorageError`, with the file's name, if a record is not what was written.
        """
        with self._threads:
            paths = self._table.paths()
            if paths[: len(self._paths)] != self._paths:
                self._paths, self._rows = [], self._rows.clear()
            new = [read_record(path) for path in paths[len(self._paths) :]]
            if new:
                fresh = pl.concat([pl.DataFrame(schema=SCHEMA), *new], how="diagonal_relaxed")
                casts = (pl.col(name).cast(dtype) for name, dtype in SCHEMA.items())
                self._rows, self._paths = self._rows.vstack(fresh.select(casts)), paths
            if self._rows.n_chunks() > _MOST_CHUNKS:
                self._rows = self._rows.rechunk()
            rows = self._rows
        return rows if yardstick is None else rows.filter(pl.col("yardstick") == yardstick)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add an experiment's line and end its claim; an experiment that has a line gets no second
        one.

        The record is written first, and then every line that `results.tsv` lacks, so that a process
        that is killed between the two loses nothing. Raises `ValueError` if the row has other
        columns than `SCHEMA`, and `StorageError` if the disk is full or `results.tsv` is not a
        ledger.
        """
        if set(row) != set(SCHEMA):
            raise ValueError(
                f"a row of the ledger has the columns {sorted(SCHEMA)}, not {sorted(row)}"
            )
        with self.locked():
            if row["experiment"] not in self.read()["experiment"]:
                self._table.append(pl.DataFrame([row], schema=SCHEMA))
            self._catch_up()
            (self._running / f"{row['experiment']}.json").unlink(missing_ok=True)

    def catch_up(self) -> None:
        """Add to `results.tsv` what a process that was killed between record and line left out."""
        with self.locked():
            if self._table.paths():
                self._catch_up()

    def claim(
        self, proposal: Proposal, *, yardstick: str, driver: str, repeat: bool = False
    ) -> Claim | None:
        """Claim a policy for the current process; return None if under this yardstick it has a line
        already or is running. `repeat` allows one that has a line.
        """
        with self.locked():
            digest = proposal.policy.digest
            tried = () if repeat else self.read(yardstick)["policy"]
            running = (claim.policy.digest for claim in self.running(yardstick))
            if digest in tried or digest in running:
                return None
            claim = claim_of(proposal, yardstick=yardstick, driver=driver)
            claim.write(self._running)
            return claim

    def running(self, yardstick: str | None = None) -> list[Claim]:
        """Return the claims without a line, orphans included, oldest first; those of one yardstick,
        or all. Raises `StorageError`, with the file's name, if one is unreadable.
        """
        claims = []
        for path in self._running.glob("*.json"):
            with suppress(FileNotFoundError):  # its experiment has just ended
                claims.append(read_claim(path))
        # After the claims: a line comes before its claim ends.
        done = set(self.read()["experiment"])
        waiting = (claim for claim in claims if claim.experiment not in done)
        return sorted(
            (claim for claim in waiting if yardstick in (None, claim.yardstick)),
            key=lambda claim: claim.since,
        )

    def orphans(
        self, yardstick: str | None = None, hard_seconds: float = HARD_SECONDS
    ) -> list[Claim]:
        """Return the claims whose process is gone, oldest first. Another host's claims count as
        such once their experiment must have been killed, after `hard_seconds`.
        """
        return [claim for claim in self.running(yardstick) if claim.is_orphan(hard_seconds)]

    def take_over(self, yardstick: str, hard_seconds: float = HARD_SECONDS) -> Claim | None:
        """Make the oldest orphan an experiment of the current process, and return its claim; None
        if there is no orphan.
        """
        with self.locked():
            for orphan in self.orphans(yardstick, hard_seconds):
                claim = orphan.taken()
                claim.write(self._running)
                return claim
        return None

    def give_back(self, claim: Claim, *, failed: bool = False) -> None:
        """Leave a claim as an orphan for the next loop, unless it has a line. `failed`: running it
        raised an error.
        """
        with self.locked():
            if any(own.experiment == claim.experiment for own in self.running(claim.yardstick)):
                claim.given_back(failed=failed).write(self._running)

    def _catch_up(self) -> None:
        """Add to `results.tsv` each line that it lacks. A line that a killed process or a full disk
        cut short is completed, not repeated.
        """
        content = self.results.read_bytes() if self.results.exists() else b""
        whole, _, rest = content.rpartition(b"\n")
        header, *lines = whole.decode("utf-8", "replace").split("\n") if whole else [""]
        columns = header.split("\t") if header else list(COLUMNS)
        if "experiment" not in columns:
            raise StorageError(
                f"{self.results} does not begin with the header of a ledger. Move it away: the "
                "next experiment writes it anew from the records"
            )
        cells = (line.split("\t") for line in lines)
        place = columns.index("experiment")
        present = {line[place] for line in cells if len(line) == len(columns)}
        missing = [] if whole else ["\t".join(COLUMNS)]
        missing += [
            "\t".join(_cell(row.get(column)) for column in columns)
            for row in self._lines_without(present).iter_rows(named=True)
        ]
        _append_lines(self.results, rest, [line.encode() + b"\n" for line in missing])

    def _lines_without(self, experiments: Collection[str]) -> pl.DataFrame:
        """Return the columns of `results.tsv` of all experiments but these."""
        rows = self.read().select(COLUMNS)
        return rows.filter(~pl.col("experiment").is_in(list(experiments)))


def _append_lines(path: Path, rest: bytes, lines: list[bytes]) -> None:
    """Append lines to a file that ends in `rest`, a line without its end: the line that begins so
    is completed first; if there is none, `rest` gets an end of its own.
    """
    torn = next((line for line in lines if rest and line.startswith(rest)), None)
    if torn is not None:
        lines = [torn[len(rest) :], *(line for line in lines if line is not torn)]
    elif rest:
        lines = [b"\n", *lines]
    data = memoryview(b"".join(lines))
    with room_for(path):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            while data:
                data = data[os.write(handle, data) :]
            os.fsync(handle)
        finally:
            os.close(handle)


def _cell(value: Any) -> str:
    """Return one value as `results.tsv` shows it: in one line, without tabs; empty for null."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    return _ESCAPED.sub(_escape, str(value))


def _escape(match: re.Match[str]) -> str:
    return _ESCAPES.get(match[0], f"\\u{ord(match[0]):04x}")
