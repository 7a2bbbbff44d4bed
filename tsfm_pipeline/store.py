"""A store: where the tables of one fleet lie, as objects with keys such as
`forecast_grid/_table.json`.

What belongs here: what every store can do, and the store that is a folder, on a local disk or on
NFS. What does not: stores in the cloud (`object_store`), what the objects mean (`lake`, `parts`).

Three operations are enough to commit safely: put an object if it is absent, swap it if it is still
the one that was read, and get it. Parts are put under names that follow from their content. A
table's record is the only object that is swapped.
"""

import stat
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tsfm_pipeline import files
from tsfm_pipeline.files import LakeError, write_atomically
from tsfm_pipeline.lock import guarded, hold, holder

ABSENT = ""
"""The tag of an object that is not there."""


class SwapError(LakeError):
    """An object is not the one any more that was read: somebody else has written it."""


class Stored(NamedTuple):
    """An object as it was read. content: None if there is none. tag: another one after every write,
    or `ABSENT`.
    """

    content: bytes | None
    tag: str


class Entry(NamedTuple):
    """An object in a listing: its key, its bytes, when it was written (s, UNIX time), and the tag
    that listings show (see `Store.listed_tag`).
    """

    key: str
    n_bytes: int
    modified: float
    tag: str = ""

    @property
    def name(self) -> str:
        """The last component of the key."""
        return self.key.rpartition("/")[2]


class Hold(Protocol):
    """A run's hold on a fleet. epoch: how often the fleet had been taken when this run took it."""

    @property
    def epoch(self) -> int: ...

    def check(self) -> None:
        """Raise `FleetLostError` if the run does not hold the fleet any more."""


class Store(Protocol):
    """The objects of one fleet. Every method raises `StorageError` if the store cannot be used.

    name: the fleet. remote: whether other hosts write it without sharing a file system. Records in
    a remote store name the epoch of their run, so that no two of them are equal and a run that was
    superseded cannot replace a later one. Its parts are copied to this machine before they are
    read.
    """

    @property
    def name(self) -> str: ...

    @property
    def remote(self) -> bool: ...

    def hold(self, run_id: str) -> AbstractContextManager[Hold]:
        """Hold the fleet for one run. Steps of the same run share it; a second run fails at once.

        Raises `FleetLockedError` if another run holds the fleet.
        """

    def holder(self) -> dict[str, Any] | None:
        """Return the process that holds the fleet now (pid, host, run_id, since), or None."""

    def get(self, key: str) -> Stored:
        """Return an object."""

    def tag(self, key: str) -> str:
        """Return the tag of an object, without its content."""

    def listed_tag(self, tag: str) -> str:
        """Return what listings show of a tag: in a remote store something that changes when the
        object is written again with other bytes, otherwise "".
        """

    def put_if_absent(self, key: str, content: bytes) -> str:
        """Write an object unless it is there already. Return its tag, or `ABSENT` if it was not
        written.
        """

    def swap(self, key: str, content: bytes | None, tag: str, hold: Hold | None = None) -> str:
        """Replace an object, or withdraw it (content None), if it still has this tag and the hold,
        if any, was not lost. Return the new tag.

        Raises `SwapError` for another tag and `FleetLostError` for a lost hold; nothing is written.
        """

    def entries(self, folder: str) -> list[Entry]:
        """Return the objects `<folder>/<name>`, by key."""

    def folders(self) -> list[str]:
        """Return the folders that have objects: the names of the fleet's tables."""

    def remove(self, keys: Iterable[str]) -> None:
        """Delete objects; one that is gone already is no error."""

    def file(self, key: str, *, again: bool = False) -> Path:
        """Return a file of this machine with the content of an object; it may be missing if the
        object is. again: the file that was returned before is damaged.
        """

    def where(self, key: str) -> str:
        """Return the path or URL of an object, for messages."""


class FolderStore:
    """A fleet's objects as files below one folder; implements `Store`.

    A swap is one process's at a time, by the lock that also guards the taking of the fleet. On NFS
    a host that is cut off between the check and the rename, a few milliseconds, may still rename.
    """

    remote = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name

    def hold(self, run_id: str) -> AbstractContextManager[Hold]:
        """Hold the fleet by a file lock; see `lock.hold`."""
        return hold(self.folder, run_id)

    def holder(self) -> dict[str, Any] | None:
        """Return the process that holds the fleet; see `lock.holder`."""
        return holder(self.folder)

    def get(self, key: str) -> Stored:
        """Return a file's bytes."""
        tag = self.tag(key)
        try:
            return Stored(self.file(key).read_bytes(), tag)
        except FileNotFoundError:
            return Stored(None, ABSENT)

    def tag(self, key: str) -> str:
        """Return what the kernel changes when a file is replaced: its inode, size and time."""
        try:
            status = self.file(key).stat()
        except FileNotFoundError:
            return ABSENT
        return f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"

    def listed_tag(self, tag: str) -> str:
        """Return "": the bytes of a file are read to check them."""
        return ""

    def put_if_absent(self, key: str, content: bytes) -> str:
        """Write a file unless it is there; see `files.put_if_absent`."""
        written = files.put_if_absent(self.file(key), partial(Path.write_bytes, data=content))
        return self.tag(key) if written else ABSENT

    def swap(self, key: str, content: bytes | None, tag: str, hold: Hold | None = None) -> str:
        """Replace or delete a file if it still has this tag."""
        path = self.file(key)
        with guarded(self.folder):
            if hold is not None:
                hold.check()
            if self.tag(key) != tag:
                raise SwapError(f"{path} was written by another process meanwhile")
            if content is None:
                path.unlink(missing_ok=True)
            else:
                write_atomically(path, partial(Path.write_bytes, data=content))
            return self.tag(key)

    def entries(self, folder: str) -> list[Entry]:
        """Return the files of a folder."""
        found = []
        for path in sorted((self.folder / folder).glob("*")):
            with suppress(FileNotFoundError):  # Another process has just deleted it.
                status = path.stat()
                if stat.S_ISREG(status.st_mode):
                    found.append(Entry(f"{folder}/{path.name}", status.st_size, status.st_mtime))
        return found

    def folders(self) -> list[str]:
        """Return the names of the folders."""
        return sorted(path.name for path in self.folder.glob("*") if path.is_dir())

    def remove(self, keys: Iterable[str]) -> None:
        """Delete files."""
        for key in keys:
            self.file(key).unlink(missing_ok=True)

    def file(self, key: str, *, again: bool = False) -> Path:
        """Return the file itself."""
        return self.folder / key

    def where(self, key: str) -> str:
        """Return the file's path."""
        return str(self.folder / key)
