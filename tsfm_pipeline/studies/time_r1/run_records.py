"""Records of finished runs: what a run was made from, and the digests of what it came to.

What belongs here: the record, its table, and finding one by the beginning of its hash. What does
not: computing a record from an experiment (`runs`), and making a run again (`replay`).

Records are only added, under a lock, and no run rewrites or deletes one.
"""

import json
import re
from datetime import UTC, datetime
from typing import Any, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tsfm_pipeline.catalogue.records import RecordTable, held
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.time_r1.datasets import DataSet
from tsfm_pipeline.studies.time_r1.options import Profile, Recipe

FOLDER, LOCK_FILE = ".time_r1", ".lock"
SCHEMA: dict[str, Any] = {
    "time": pl.Datetime("us", "UTC"),
    "hash": pl.String,
    "recipe": pl.String,
    "commit": pl.String,
    "configuration": pl.String,
    "environment": pl.String,
    "digests": pl.String,
    "figures": pl.String,
}
"""Columns of the record table. hash: 16 hex digits. commit: of the code, "unknown" outside of git.
configuration, environment, digests, figures: as JSON."""
_PREFIX = re.compile(r"[0-9a-f]{4,16}")


class RunError(ValueError):
    """A run that is not recorded, cannot be made again, or has no such checkpoint."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Configuration(_Model):
    """All that decides the tables of a run.

    data_sets: their descriptions by name. sources: the digest of the data of each, or "missing".
    checkpoint, checkpoint_sha256: the frozen model. policy_sha256: what training starts from.
    table_versions, fingerprints: by name of the table; a fingerprint covers all of the above.
    """

    recipe: Recipe
    profile: Profile
    data_sets: dict[str, DataSet]
    sources: dict[str, str]
    checkpoint: str
    checkpoint_sha256: str
    dtype: Literal["float32", "bfloat16"]
    policy_sha256: str
    table_versions: dict[str, int]
    fingerprints: dict[str, str]


class Digests(_Model):
    """SHA-256 digests, as 64 hex digits.

    samples: of the table of samples, row by row as JSON. adapters: by variant, of the bytes of
    its weights. metrics: of the JSON that `time-r1 evaluate --json` prints.
    """

    samples: str
    adapters: dict[str, str]
    metrics: str


class Figure(_Model):
    """How good a method was on test windows. mase: None without a scale. mae: in units of the
    data. over_draft, low, high: the ratio of its MASE to the draft's with the 95 % interval.
    """

    data_set: str
    window_set: str
    method: str
    mase: float | None
    mae: float
    over_draft: float | None
    low: float | None
    high: float | None


class RunRecord(_Model):
    """One finished run.

    hash: of the fingerprints of its tables and of its packages. environment: as
    `environment.together` returns it.
    """

    time: datetime = Field(default_factory=lambda: datetime.now(UTC))
    hash: str = Field(pattern="^[0-9a-f]{16}$")
    commit: str
    configuration: Configuration
    environment: dict[str, str]
    digests: Digests
    figures: tuple[Figure, ...]


_FIGURES: TypeAdapter[tuple[Figure, ...]] = TypeAdapter(tuple[Figure, ...])


class RunRecords:
    """The records of all finished runs of a data folder."""

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.records_dir / FOLDER
        self._table = RecordTable(self.folder / "runs", SCHEMA)

    def add(self, record: RunRecord) -> bool:
        """Append a record; return False if the newest one of its hash has the same digests, so
        that running what is current leaves no second record. Raises `StorageError` if the disk is
        full.
        """
        with held(self.folder / LOCK_FILE):
            same = [known for known in self.read() if known.hash == record.hash]
            if same and same[-1].digests == record.digests:
                return False
            row = {
                "time": record.time,
                "hash": record.hash,
                "recipe": record.configuration.recipe.name,
                "commit": record.commit,
                "configuration": record.configuration.model_dump_json(),
                "environment": json.dumps(record.environment),
                "digests": record.digests.model_dump_json(),
                "figures": _FIGURES.dump_json(record.figures).decode(),
            }
            self._table.append(pl.DataFrame([row], schema=SCHEMA))
            return True

    def read(self) -> list[RunRecord]:
        """Return every record, oldest first. Raises `StorageError` for a damaged file, and
        RunError for a record that this release cannot read.
        """
        return [_record(row) for row in self._table.read().iter_rows(named=True)]

    def find(self, prefix: str) -> RunRecord:
        """Return the newest record whose hash begins so.

        Raises RunError, which names the known hashes, if none does or several hashes do, and for
        fewer than four hex digits.
        """
        if not _PREFIX.fullmatch(prefix):
            raise RunError(f"{prefix!r} is no hash of a run; allowed: 4 to 16 of 0-9 and a-f")
        rows = self._table.read()
        hashes = rows["hash"].unique(maintain_order=True).to_list()
        found = [each for each in hashes if each.startswith(prefix)]
        if len(found) > 1:
            raise RunError(f"{prefix!r} is the beginning of {', '.join(found)}; give more digits")
        if not found:
            known = ", ".join(hashes) or "none; `tsfm-pipeline time-r1 run NAME` leaves one"
            raise RunError(f"no run has a hash that begins with {prefix!r}; there are: {known}")
        return _record(rows.filter(hash=found[0]).row(-1, named=True))


def _record(row: dict[str, Any]) -> RunRecord:
    try:
        return RunRecord(
            time=row["time"],
            hash=row["hash"],
            commit=row["commit"],
            configuration=Configuration.model_validate_json(row["configuration"]),
            environment=json.loads(row["environment"]),
            digests=Digests.model_validate_json(row["digests"]),
            figures=_FIGURES.validate_json(row["figures"]),
        )
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(map(str, wrong["loc"]))
        raise RunError(
            f"the record of run {row['hash']} (commit {row['commit']}) cannot be read by this "
            f"release: field {where!r}: {wrong['msg']}; use the release that wrote it"
        ) from error
