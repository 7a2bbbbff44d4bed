"""Writes files so that they are either complete or absent. The lake, records, bundles, serving and
pretraining are built on this.

What belongs here: atomic writes, appends that never replace a file, digests, and the errors of
storage. What does not: the meaning of a file, and file formats.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_TIME = "%Y%m%dT%H%M%S.%fZ"
_APPENDED = re.compile(
    r"(?:.*-)?(?P<time>\d{8}T\d{6}\.\d{6}Z)-(?P<host>[^-]+)-(?P<token>[0-9a-f]{8})-(?P<digest>[0-9a-f]{16})"
)


class StorageError(RuntimeError):
    """A file is missing, damaged or in the way, or the disk is full; the message names the file and
    says what to do.
    """


class LakeError(StorageError):
    """A table is missing, stale, damaged or locked; the message names it and says what to do."""


def fingerprint(*parts: Any) -> str:
    """Return the SHA-256 (first 16 hex digits) of the canonical JSON of the arguments."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: a reader sees the old file
    or the new one, never a part of it.

    Raises `StorageError` if the disk is full, and whatever else `write` raises.
    """
    with _written(_beside(path), write, path) as temporary:
        temporary.replace(path)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file in UTF-8 as `write_atomically` does; raises what that raises."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def put_if_absent(path: Path, write: Callable[[Path], Any]) -> bool:
    """Let `write` fill a temporary file beside `path`, then rename it to `path` unless that file
    exists. No file is ever replaced.

    A killed process leaves no half-written file, and of several processes that write at once, on
    any host, one succeeds. Return whether the file was written. Raises `StorageError` if the disk
    is full or the file system has no hard links.
    """
    with _written(_beside(path), write, path) as temporary:
        return _link(temporary, path)


def append_file(
    folder: Path, write: Callable[[Path], Any], *, suffix: str, label: str = ""
) -> Path:
    """Write a new file into `folder`, named `[<label>-]<time>-<host>-<random>-<digest><suffix>`,
    and return its path.

    Sorting the files of one label by name gives the order in which they were appended, even if the
    clock was set back between two appends. The digest is the first 16 hex digits of the content's
    SHA-256 (see `is_intact`). Raises as `put_if_absent` does.
    """
    start = f"{label}-" if label else ""
    host = _host()
    with _written(_beside(folder / f"{start}append{suffix}"), write, folder) as temporary:
        digest = sha256_of(temporary)
        while True:
            time = _next_time(folder, start)
            name = appended_name(start, time, host, secrets.token_hex(4), digest)
            path = folder / f"{name}{suffix}"
            if _link(temporary, path):
                return path


def appended_name(start: str, time: datetime, host: str, token: str, digest: str) -> str:
    """Return the name of an appended file, without its suffix. `time` is in UTC; `digest` is the
    SHA-256 of the content.
    """
    return f"{start}{time.strftime(_TIME)}-{host}-{token}-{digest[:16]}"


def appended_at(path: Path) -> datetime | None:
    """Return when an appended file was written, in UTC, from its name; None for any other file."""
    match = _APPENDED.fullmatch(path.stem)
    return match and datetime.strptime(match["time"], _TIME).replace(tzinfo=UTC)


def is_intact(path: Path) -> bool:
    """Return whether an appended file still is what was written; True if its name has no digest."""
    match = _APPENDED.fullmatch(path.stem)
    return match is None or sha256_of(path).startswith(match["digest"])


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Turn the error of a full disk or an exceeded quota into a `StorageError`. From polars, only
    the text of the error tells.
    """
    try:
        yield
    except _errors_of_writing() as error:
        match = re.search(r"\(os error (\d+)\)", str(error))
        code = error.errno if isinstance(error, OSError) else int(match[1]) if match else None
        if code is None or code not in _NO_ROOM:
            raise
        message = (
            f"no room to write {path}: {os.strerror(code)}; make room and start again: what "
            "is finished is kept"
        )
        raise StorageError(message) from error


@contextmanager
def _written(temporary: Path, write: Callable[[Path], Any], target: Path) -> Iterator[Path]:
    """Let `write` fill a temporary file, yield it when it is on the disk, and remove it at the end.
    The error of a full disk names `target`.
    """
    with room_for(target):
        temporary.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            _flush(temporary)
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


def _errors_of_writing() -> tuple[type[Exception], ...]:
    """Return the exceptions that a full disk raises. Those of polars are included only if it is
    already imported, because importing it is slow.
    """
    polars = sys.modules.get("polars")
    return (OSError, polars.exceptions.PolarsError) if polars else (OSError,)


def _beside(path: Path) -> Path:
    """Return a temporary name that no other process on any host uses (process ids repeat in
    containers).
    """
    return path.with_name(f".{path.name}.{_host()}-{secrets.token_hex(4)}.tmp")


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_.]", "_", socket.gethostname())[:40] or "unknown"


def _flush(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def _link(temporary: Path, path: Path) -> bool:
    """Give a finished file its name; return False if a file already has that name."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        raise StorageError(
            f"{path} cannot be put where it belongs: the file system has no hard links "
            f"({error.strerror}), so that two "
            "writers could overwrite each other; put the data folder on one that has them"
        ) from error
    return True


def _next_time(folder: Path, start: str) -> datetime:
    """Return the current time, or the time just after the newest file of that label, whichever is
    later.
    """
    times = (
        match["time"]
        for path in folder.iterdir()
        if path.name.startswith(start) and (match := _APPENDED.fullmatch(path.stem))
    )
    newest = max(times, default=None)
    now = datetime.now(UTC)
    return (
        now
        if newest is None
        else max(
            now, datetime.strptime(newest, _TIME).replace(tzinfo=UTC) + timedelta(microseconds=1)
        )
    )
