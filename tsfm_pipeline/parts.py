"""One part of a table: its name, its fingerprint and its seal (size and SHA-256).

What belongs here: the bytes of a part, and finding the finished ones by names and files. What does
not: which parts make a table, and reading them (`lake`); where they lie (`store`).

A part's name holds its number, the fingerprint under which it was made, its numerics if they are
known, and the digest of its bytes (8 hex digits each). Numerics are what the last digits depend on
besides the fingerprint, such as the processor's instructions. Different contents therefore have
different names, two writers cannot overwrite each other, and an interrupted run finds its finished
parts without a record.
"""

import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import polars as pl

from tsfm_pipeline.files import sha256_of

SCHEMA_VERSION = 2
"""Version of the layout of tables and parts; a release reads only its own."""
_FINGERPRINT_KEY = "tsfm_pipeline.fingerprint"
_PART_NAME = re.compile(
    r"part-(?P<number>\d{5,})-(?P<made_by>[0-9a-f]{8})(?:-(?P<numerics>[0-9a-f]{8}))?"
    r"-(?P<content>[0-9a-f]{8})\.parquet"
)


class Part(NamedTuple):
    """A finished part of a table: the number of its shard, its file name, its number of rows, and
    its seal (size and SHA-256).

    tag: the ETag of its object when it was put; "" in a folder. An object that still has it still
    has the same bytes.
    """

    number: int
    name: str
    n_rows: int
    n_bytes: int
    sha256: str
    tag: str = ""


class Origin(NamedTuple):
    """What a part's name says besides its content: the number of its shard, the start of its
    fingerprint, and its mark of the numerics (see `numerics_mark`).
    """

    number: int
    made_by: str
    numerics: str


def numerics_mark(numerics: str) -> str:
    """Return the 8 hex digits that stand for these numerics in a part's name; "" if they are "",
    which means unknown.
    """
    return hashlib.sha256(numerics.encode()).hexdigest()[:8] if numerics else ""


def sealed(
    number: int, made_by: str, frame: pl.DataFrame, numerics: str = ""
) -> tuple[Part, bytes]:
    """Return one part of a table, under a name that follows from its content, and its bytes.

    made_by: the fingerprint of the part. numerics: what its last digits depend on besides; it is
    part of the name and not of the bytes.
    """
    metadata = {_FINGERPRINT_KEY: made_by, "tsfm_pipeline.schema_version": str(SCHEMA_VERSION)}
    with io.BytesIO() as buffer:
        frame.write_parquet(buffer, compression="zstd", compression_level=1, metadata=metadata)
        content = buffer.getvalue()
    sha256 = hashlib.sha256(content).hexdigest()
    marks = filter(None, (made_by[:8], numerics_mark(numerics), sha256[:8]))
    name = f"part-{number:05d}-{'-'.join(marks)}.parquet"
    return Part(number, name, frame.height, len(content), sha256), content


def finished_parts(
    wanted: Mapping[int, str],
    names: Iterable[str],
    file: Callable[[str], Path],
    numerics: str = "",
) -> dict[int, Part]:
    """Return the finished part of each shard, by the shard's number. A part among `names` is
    finished if its name, its footer and its bytes agree with the shard's fingerprint in `wanted`,
    and its name with the numerics.

    file: returns the file of a part; it is called only for parts that may be wanted.
    """
    candidates: dict[Origin | None, list[str]] = defaultdict(list)
    for name in sorted(names):
        candidates[origin(name)].append(name)
    finished: dict[int, Part] = {}
    for number, made_by in wanted.items():
        for name in candidates[Origin(number, made_by[:8], numerics_mark(numerics))]:
            path = file(name)
            if not path.exists():
                continue
            sha256 = sha256_of(path)
            if name.endswith(f"-{sha256[:8]}.parquet") and _part_fingerprint(path) == made_by:
                n_rows = int(pl.scan_parquet(path, glob=False).select(pl.len()).collect().item())
                finished[number] = Part(number, name, n_rows, path.stat().st_size, sha256)
                break
    return finished


def origin(name: str) -> Origin | None:
    """Return what a part's name says; None if the name is not a part's."""
    if match := _PART_NAME.fullmatch(name):
        return Origin(int(match["number"]), match["made_by"], match["numerics"] or "")
    return None


def is_sealed(path: Path, part: Part) -> bool:
    """Return whether a file has the size and SHA-256 of a part; False if it is missing."""
    stamp = size_and_time(path)
    return stamp is not None and (stamp[0], sha256_of(path)) == (part.n_bytes, part.sha256)


def size_and_time(path: Path) -> tuple[int, int] | None:
    """Return size and modification time of a file, or None if it is missing."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns


def _part_fingerprint(path: Path) -> str | None:
    """Return the fingerprint stored in a part, or None if it is not a readable Parquet file."""
    try:
        return pl.read_parquet_metadata(path).get(_FINGERPRINT_KEY)
    except (pl.exceptions.PolarsError, OSError):
        return None
