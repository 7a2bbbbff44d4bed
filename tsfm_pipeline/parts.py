"""One part of a table: its name, its fingerprint and its seal (size and SHA-256).

What belongs here: the bytes of a part, and finding the finished ones by names and files. What does
not: which parts make a table, and reading them (`lake`); where they lie (`store`).

A part's name holds its number, the fingerprint under which it was made and the digest of its bytes
(8 hex digits each). Different contents therefore have different names, two writers cannot overwrite
each other, and an interrupted run finds its finished parts without a record.
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
    r"part-(?P<number>\d{5,})-(?P<made_by>[0-9a-f]{8})-(?P<content>[0-9a-f]{8})\.parquet"
)


class Part(NamedTuple):
    """A finished part of a table: the number of its shard, its file name, its number of rows, and
    its seal (size and SHA-256).
    """

    number: int
    name: str
    n_rows: int
    n_bytes: int
    sha256: str


def sealed(number: int, made_by: str, frame: pl.DataFrame) -> tuple[Part, bytes]:
    """Return one part of a table, under a name that follows from its content, and its bytes.

    made_by: the fingerprint of the part.
    """
    metadata = {_FINGERPRINT_KEY: made_by, "tsfm_pipeline.schema_version": str(SCHEMA_VERSION)}
    with io.BytesIO() as buffer:
        frame.write_parquet(buffer, compression="zstd", compression_level=1, metadata=metadata)
        content = buffer.getvalue()
    sha256 = hashlib.sha256(content).hexdigest()
    name = f"part-{number:05d}-{made_by[:8]}-{sha256[:8]}.parquet"
    return Part(number, name, frame.height, len(content), sha256), content


def finished_parts(
    wanted: Mapping[int, str], names: Iterable[str], file: Callable[[str], Path]
) -> dict[int, Part]:
    """Return the finished part of each shard, by the shard's number. A part among `names` is
    finished if its name, its footer and its bytes agree with the shard's fingerprint in `wanted`.

    file: returns the file of a part; it is called only for parts that may be wanted.
    """
    candidates: dict[tuple[int, str], list[str]] = defaultdict(list)
    for name in sorted(names):
        if match := _PART_NAME.fullmatch(name):
            candidates[int(match["number"]), match["made_by"]].append(name)
    finished: dict[int, Part] = {}
    for number, made_by in wanted.items():
        for name in candidates[number, made_by[:8]]:
            path = file(name)
            if not path.exists():
                continue
            sha256 = sha256_of(path)
            if name.endswith(f"-{sha256[:8]}.parquet") and _part_fingerprint(path) == made_by:
                n_rows = int(pl.scan_parquet(path, glob=False).select(pl.len()).collect().item())
                finished[number] = Part(number, name, n_rows, path.stat().st_size, sha256)
                break
    return finished


def fingerprint_start(name: str) -> str:
    """Return the start of the fingerprint in a part's name; "" if the name is not a part's."""
    match = _PART_NAME.fullmatch(name)
    return match["made_by"] if match else ""


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
