"""Noticing that a fleet's source changed: cheaply, and not before whoever writes it has finished.

What belongs here: what is remembered between two looks, and what a look says. What does not: asking
for a run (`defs.sensors`), and Prometheus fleets: what is stored of them changes by our own
fetching only, so their way is the nightly schedule, which asks the server.
"""

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tsfm_pipeline.fleets import fleet_fingerprint
from tsfm_pipeline.fleets.kinds import AnyFleet, TableFleet
from tsfm_pipeline.fleets.source import FleetDataError


class Look(BaseModel):
    """What was seen of a fleet's source.

    stamp: digest of the spec and of names, sizes and times of modification of the files.
    fingerprint: the source's, as it was last run or requested. settled: the stamp whose fingerprint
    is known; bytes are read again only when the stamp is another one, for two looks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stamp: str
    fingerprint: str
    settled: str


State = Literal["same", "being written", "changed"]


def look_again(
    spec: AnyFleet, fleets_dir: Path, before: Look | None, made_from: str | None
) -> tuple[Look, State]:
    """Look at a fleet's source once more: what is to be remembered, and what it is compared with
    `before`.

    made_from: the fingerprint of the source that the stored telemetry was made from, if any; a
    fleet that was never looked at is compared with it, and one that was never run counts as the
    same. `changed` comes with the new fingerprint; remember that look only once the change is taken
    care of. Raises `FleetDataError` for files that are missing or have other columns.
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
    seen = [spec.model_dump_json()]
    if isinstance(spec, TableFleet):
        from tsfm_pipeline.fleets.table_files import find_files

        for path in find_files(spec, fleets_dir):
            try:
                status = path.stat()
            except FileNotFoundError as error:
                raise FleetDataError(
                    f"fleet {spec.name!r}: {path} vanished while it was looked at; it is looked "
                    "at again"
                ) from error
            seen.append(f"{path} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(seen).encode()).hexdigest()[:16]
