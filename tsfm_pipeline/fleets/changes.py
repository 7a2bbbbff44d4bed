"""Detecting cheaply that a fleet's source has changed, once its files are completely written.

What belongs here: the state kept between two looks, and the result of a look. What does not:
requesting a run (`defs.sensors`), and fetched fleets: what is stored of them changes only when this
program fetches, so the nightly schedule covers them.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tsfm_pipeline.fleets import fleet_fingerprint
from tsfm_pipeline.fleets.kinds import AnyFleet, SavedDatasetFleet, TableFleet
from tsfm_pipeline.fleets.source import FleetDataError


class Look(BaseModel):
    """The state of a fleet's source at one look.

    stamp: digest of the spec and of the files' names, sizes and modification times. fingerprint:
    that of the source when it was last run or requested. settled: the stamp whose fingerprint is
    known. The files' bytes are read again only when two looks in a row have the same stamp and it
    is not the settled one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stamp: str
    fingerprint: str
    settled: str


State = Literal["same", "being written", "changed"]


def look_again(
    spec: AnyFleet, fleets_dir: Path, before: Look | None, made_from: str | None
) -> tuple[Look, State]:
    """Look at a fleet's source again; return the state to keep, and how the source compares with
    `before`.

    made_from: the fingerprint of the source that the stored telemetry was made from, if any. The
    first look compares nothing and returns `same`: it takes over `made_from`, or the current
    fingerprint for a fleet that was never run. `changed` comes with the new fingerprint; store that
    state only after the change has been handled. Raises `FleetDataError` for files that are missing
    or have other columns.
    """
    stamp = _stamp(spec, fleets_dir)
    if before is None:
        return Look(
            stamp=stamp, fingerprint=made_from or _fingerprint(spec, fleets_dir), settled=""
        ), "same"
    if stamp == before.settled:
        return before, "same"
    if stamp != before.stamp:
        return before.model_copy(update={"stamp": stamp}), "being written"
    fingerprint = _fingerprint(spec, fleets_dir)
    now = Look(stamp=stamp, fingerprint=fingerprint, settled=stamp)
    return now, "same" if fingerprint in (before.fingerprint, made_from) else "changed"


def _fingerprint(spec: AnyFleet, fleets_dir: Path) -> str:
    return fleet_fingerprint(spec, fleets_dir=fleets_dir)


def _stamp(spec: AnyFleet, fleets_dir: Path) -> str:
    parts = [spec.model_dump_json()]
    for path in _files(spec, fleets_dir):
        try:
            status = path.stat()
        except FileNotFoundError as error:
            raise FleetDataError(
                f"fleet {spec.name!r}: {path} disappeared while its size was read; the next "
                "look tries again"
            ) from error
        parts.append(f"{path} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _files(spec: AnyFleet, fleets_dir: Path) -> Sequence[Path]:
    if isinstance(spec, TableFleet):
        from tsfm_pipeline.fleets.table_files import find_files

        return find_files(spec, fleets_dir)
    if isinstance(spec, SavedDatasetFleet):
        from tsfm_pipeline.fleets.saved_folders import data_files

        return data_files(spec.expanded_path(fleets_dir))
    return ()
