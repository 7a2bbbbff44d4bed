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

from tsfm_pipeline.catalogue.records import ROLLOUT_OVERRIDES, SUFFIX
from tsfm_pipeline.evaluation.served import FOLDER
from tsfm_pipeline.files import appended_at, fingerprint, write_text_atomically

FILE = "intake.json"
"""In the folder of what a run publishes for the service."""


class Intake(BaseModel):
    """The records that were taken in: the files that were appended up to a moment.

    digest, overrides: of the names of the files of served records, and of people's decisions about
    the rollout; the names hold the digests of the contents. Empty where there were none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    until: AwareDatetime
    n_files: int = Field(ge=0, description="of served records")
    digest: str
    overrides: str = ""


def record_files(records_dir: Path, until: datetime, folder: str = FOLDER) -> list[Path]:
    """Return the files of one of a fleet's record tables that were appended up to a moment, in
    their order.
    """
    files = sorted((records_dir / folder).glob(f"*{SUFFIX}"))
    return [path for path in files if (time := appended_at(path)) is not None and time <= until]


def take_in(records_dir: Path, published_dir: Path) -> Intake | None:
    """Take in all records of this moment, and return what was; None where there never were any.

    Where nothing has changed since the last time, the file is left as it is.
    """
    before, now = taken_in(published_dir), datetime.now(UTC)
    served, overrides = (
        [path.name for path in record_files(records_dir, now, folder)]
        for folder in (FOLDER, ROLLOUT_OVERRIDES)
    )
    if not served and not overrides and before is None:
        return None
    intake = Intake(
        until=now,
        n_files=len(served),
        digest=fingerprint(served) if served else "",
        overrides=fingerprint(overrides) if overrides else "",
    )
    if before is not None and before.model_copy(update={"until": now}) == intake:
        return before
    write_text_atomically(published_dir / FILE, intake.model_dump_json(indent=1) + "\n")
    return intake


def taken_in(published_dir: Path) -> Intake | None:
    """Return what was taken in last; None where nothing was, or the file is damaged."""
    try:
        return Intake.model_validate_json((published_dir / FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
