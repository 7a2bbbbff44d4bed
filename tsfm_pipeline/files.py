"""Files that are whole or not there: the ground that lake, records, bundle, serving and pretraining
stand on.

What belongs here: atomic writes, appends that replace nothing, digests, and what is said where
there is no room. What does not: what a file means, and any file format.
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
    """A file is missing, damaged or in the way, or there is no room for it; the message names it
    and says what to do.
    """


def fingerprint(*parts: Any) -> str:
    """SHA-256 (first 16 hex digits) over the canonical JSON of the arguments."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: a reader sees the old file
    or the new one, never half.

    Raises `StorageError` where there is no room for it, and whatever else `write` raises.
    """
    temporary = _beside(path)
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            _flush(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def put_if_absent(path: Path, write: Callable[[Path], Any]) -> bool:
    """Let `write` fill a temporary file beside `path`, and give it that name unless a file has it:
    no file is ever replaced.

    A process that is killed leaves nothing half written, and of several that write at once, on any
    host, one succeeds. Returns whether the file was written. Raises `StorageError` where there is
    no room for it, or the file system has no hard links.
    """
    temporary = _beside(path)
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            _flush(temporary)
            return _link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def append_file(
    folder: Path, write: Callable[[Path], Any], *, suffix: str, label: str = ""
) -> Path:
    """Put a new file into `folder`, named `[<label>-]<time>-<host>-<random>-<digest><suffix>`;
    returns its path.

    Sorted by name, files of one label stand in the order in which they were appended, also where
    the clock was set back between two appends. The digest is the first 16 hex digits of the
    content's SHA-256 (see `is_intact`). Raises as `put_if_absent` does.
    """
    start = f"{label}-" if label else ""
    host = _host()
    temporary = _beside(folder / f"{start}append{suffix}")
    with room_for(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            _flush(temporary)
            digest = sha256_of(temporary)
            while True:
                time = _next_time(folder, start)
                path = (
                    folder
                    / f"{appended_name(start, time, host, secrets.token_hex(4), digest)}{suffix}"
                )
                if _link(temporary, path):
                    return path
        finally:
            temporary.unlink(missing_ok=True)


def appended_name(start: str, time: datetime, host: str, token: str, digest: str) -> str:
    """The name of an appended file, without its suffix; `time` is UTC, `digest` the SHA-256 of its
    content.
    """
    return f"{start}{time.strftime(_TIME)}-{host}-{token}-{digest[:16]}"


def appended_at(path: Path) -> datetime | None:
    """When an appended file was written, UTC, by its name; None for any other file."""
    match = _APPENDED.fullmatch(path.stem)
    return match and datetime.strptime(match["time"], _TIME).replace(tzinfo=UTC)


def is_intact(path: Path) -> bool:
    """Whether an appended file still is what was written; True for a file whose name carries no
    digest.
    """
    match = _APPENDED.fullmatch(path.stem)
    return match is None or sha256_of(path).startswith(match["digest"])


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """A full disk or an exceeded quota becomes a `StorageError` that says so; polars tells of
    either only in words.
    """
    try:
        yield
    except _errors_of_writing() as error:
        told = re.search(r"\(os error (\d+)\)", str(error))
        code = error.errno if isinstance(error, OSError) else int(told[1]) if told else None
        if code is None or code not in _NO_ROOM:
            raise
        message = (
            f"no room to write {path}: {os.strerror(code)}; make room and start again: what "
            "is finished is kept"
        )
        raise StorageError(message) from error


def _errors_of_writing() -> tuple[type[Exception], ...]:
    """What a full disk raises; of polars only where somebody has imported it: nobody else pays for
    that.
    """
    polars = sys.modules.get("polars")
    return (OSError, polars.exceptions.PolarsError) if polars else (OSError,)


def _beside(path: Path) -> Path:
    """A temporary name that no other process on any host has (in containers, process ids
    repeat).
    """
    return path.with_name(f".{path.name}.{_host()}-{secrets.token_hex(4)}.tmp")


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_.]", "_", socket.gethostname())[:40] or "unknown"


def _flush(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def _link(temporary: Path, path: Path) -> bool:
    """Give a finished file its name; False where a file has it already."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        raise StorageError(
            f"{path} cannot be put where it belongs: the file system has no hard links "
            f"({error.strerror}), so that nothing keeps two "
            "writers apart; keep the data folder on one that has them"
        ) from error
    return True


def _next_time(folder: Path, start: str) -> datetime:
    """Now, or just after the newest file of that label, whichever is later."""
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
