"""The logs of a fleet's runs, and how long each step of earlier runs took.

What belongs here: `<data>/logs/<fleet>/`, with Dagster's own log of each of the latest runs, and
`durations.json`. What does not: starting a run (`run`), what is estimated from durations
(`progress`).
"""

import json
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tsfm_pipeline.cli.progress import Durations, Progress
from tsfm_pipeline.files import write_text_atomically

KEPT_LOGS = 10
"""Logs of the latest runs that are kept per fleet."""
_TAIL_BYTES = 65_536


class RunLogs:
    """The folder of one fleet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def next_path(self) -> Path:
        """Return the log of a run that begins now, and delete the oldest logs beyond
        `KEPT_LOGS`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in sorted(self.folder.glob("*.log"))[: 1 - KEPT_LOGS]:
            old.unlink(missing_ok=True)
        return self.folder / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}.log"

    def durations(self) -> Durations:
        """Return how long each step took; nothing is known before the first run, or where the file
        cannot be read.
        """
        try:
            return TypeAdapter(Durations).validate_json(self._durations.read_bytes())
        except (FileNotFoundError, ValidationError):
            return Durations()

    def remember(self, progress: Progress) -> None:
        """Store how long the steps of a run took, beside those of earlier runs."""
        known = progress.durations_now()
        if known != progress.before:
            text = json.dumps(asdict(known), indent=1)
            write_text_atomically(self._durations, text)

    @property
    def _durations(self) -> Path:
        return self.folder / "durations.json"


def last_words(log: Path) -> str:
    """Return the last line of a log that is not empty; "" if there is none."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
