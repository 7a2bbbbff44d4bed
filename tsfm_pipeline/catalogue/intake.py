"""Which of a fleet's served records its tables are made from.

What belongs here: taking records in, and the file that says which ones were. What does not: the
records' columns (`evaluation.served`), reading them (`records`), and the tables that are made from
them (`steps.serving_records`).

A service adds a file of records every minute, also while a run makes the tables. A run therefore
takes in what is there at one moment, and the fingerprint of the tables covers that: what comes
later makes them stale when it is taken in, not before.
"""

from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from tsfm_pipeline.catalogue.records import SUFFIX
from tsfm_pipeline.evaluation.served import FOLDER
from tsfm_pipeline.files import appended_at, fingerprint, write_atomically

FILE = "intake.json"
"""In the folder of what a run publishes for the service."""


class Intake(BaseModel):
    """The records that were taken in: the files that were appended up to a moment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    until: AwareDatetime
    n_files: int = Field(ge=0)
    digest: str = Field(description="of the files' names, which hold the digests of their contents")


def record_files(records_dir: Path, until: datetime) -> list[Path]:
    """Return the files of a fleet's served records that were appended up to a moment, in order."""
    files = sorted((records_dir / FOLDER).glob(f"*{SUFFIX}"))
    return [path for path in files if (time := appended_at(path)) is not None and time <= until]


def take_in(records_dir: Path, published_dir: Path) -> Intake | None:
    """Take in all records of this moment, and return what was; None where there never were any.

    Where nothing has changed since the last time, the file is left as it is.
    """
    before, now = taken_in(published_dir), datetime.now(UTC)
    files = record_files(records_dir, now)
    if not files and before is None:
        return None
    digest = fingerprint([path.name for path in files])
    if before is not None and before.digest == digest:
        return before
    intake = Intake(until=now, n_files=len(files), digest=digest)
    text = intake.model_dump_json(indent=1) + "\n"
    write_atomically(published_dir / FILE, lambda path: path.write_text(text))
    return intake


def taken_in(published_dir: Path) -> Intake | None:
    """Return what was taken in last; None where nothing was, or the file is damaged."""
    try:
        return Intake.model_validate_json((published_dir / FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
