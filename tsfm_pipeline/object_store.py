"""A fleet's tables in an object store (S3, GCS, Azure), through the package obstore.

What belongs here: objects by URL, their tags, and this machine's copies of parts. What does not:
the lease of a fleet (`lease`), the store that is a folder (`store`).

polars and DuckDB read copies of parts in a folder of this machine, so that both work without
extensions, every part is fetched once per machine, and its seal is checked as that of a local part.
What this machine writes is copied too. A copy may be deleted at any time.

A conditional put may arrive although its answer is lost. An object that has exactly the content
that was to be put therefore counts as written; records and leases hold an epoch or a random value,
so that nobody else has written the same.
"""

import json
import secrets
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tsfm_pipeline import lease
from tsfm_pipeline.files import LakeError, write_atomically
from tsfm_pipeline.store import ABSENT, Entry, Hold, Stored, SwapError

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Bucket

RETRIES: Any = {
    "max_retries": 8,
    "backoff": {
        "init_backoff": timedelta(milliseconds=200),
        "max_backoff": timedelta(seconds=5),
        "base": 2,
    },
    "retry_timeout": timedelta(seconds=40),
}
"""Answers 5xx and lost connections are retried for less time than a lease lasts."""
SMALL_S, PART_S = 15, 300
"""Seconds in which a lease or a record, and in which a part must be transferred. A request for a
lease that hangs must end before the lease does.
"""
_WITHDRAWN = b'{"withdrawn": '


class ObjectStore:
    """A fleet's objects at `<url>/<fleet>/`; implements `Store`. cache: the folder of copies.

    Credentials and endpoints come from the environment, as the tools of each vendor name them
    (AWS_*, GOOGLE_*, AZURE_*).
    """

    remote = True

    def __init__(self, url: str, name: str, cache: Path) -> None:
        self.url = url.rstrip("/")
        self.name = name
        self.cache = cache / name

    def hold(self, run_id: str) -> AbstractContextManager[Hold]:
        """Hold the fleet by a lease; see `lease.hold`."""
        return lease.hold(self, run_id)

    def holder(self) -> dict[str, Any] | None:
        """Return the process that holds the fleet; see `lease.holder`."""
        return lease.holder(self)

    def get(self, key: str) -> Stored:
        """Return an object's bytes; None if it was withdrawn."""
        content, tag = self._get(key)
        withdrawn = content is None or content.startswith(_WITHDRAWN)
        return Stored(None if withdrawn else content, tag)

    def tag(self, key: str) -> str:
        """Return the ETag and version of an object."""
        import obstore

        with self._named(key):
            try:
                return _tag(obstore.head(self._bucket(key), self._path(key)))
            except FileNotFoundError:
                return ABSENT

    def listed_tag(self, tag: str) -> str:
        """Return the ETag. Listings show no version."""
        return str(json.loads(tag).get("e_tag", "")) if tag else ""

    def put_if_absent(self, key: str, content: bytes) -> str:
        """Write an object unless it is there, and keep a copy of it. Return its tag also if an
        object with this content is there.
        """
        write_atomically(self.cache / key, partial(Path.write_bytes, data=content))
        try:
            return self._put(key, content, ABSENT)
        except SwapError:
            return ABSENT

    def swap(self, key: str, content: bytes | None, tag: str, hold: Hold | None = None) -> str:
        """Replace an object if it still has this tag. A withdrawn one stays as an object of its
        own, because a deletion cannot be made to depend on a tag.
        """
        if content is None:
            content = _WITHDRAWN + json.dumps(secrets.token_hex(8)).encode() + b"}"
        if hold is not None:
            hold.check()
        return self._put(key, content, tag)

    def entries(self, folder: str) -> list[Entry]:
        """Return the objects of a folder."""
        import obstore

        start, found = f"{self.name}/", []
        with self._named(folder):
            for listed in obstore.list(self._bucket(folder), prefix=self._path(folder)):
                for meta in listed:
                    key = meta["path"].removeprefix(start)
                    if key.rpartition("/")[0] == folder:
                        written = meta["last_modified"].timestamp()
                        found.append(Entry(key, meta["size"], written, meta["e_tag"] or ""))
        return sorted(found)

    def folders(self) -> list[str]:
        """Return the names of the folders."""
        with self._named(""):
            return names_in(self._bucket(""), self.name)

    def remove(self, keys: Iterable[str]) -> None:
        """Delete objects and their copies."""
        import obstore

        for key in keys:
            with self._named(key), suppress(FileNotFoundError):
                obstore.delete(self._bucket(key), self._path(key))
            (self.cache / key).unlink(missing_ok=True)

    def file(self, key: str, *, again: bool = False) -> Path:
        """Return the copy of an object, which is fetched if it is not there yet."""
        import obstore

        path = self.cache / key
        if path.exists() and not again:
            return path
        path.unlink(missing_ok=True)
        with self._named(key), suppress(FileNotFoundError):
            fetched = obstore.get(self._bucket(key), self._path(key))
            write_atomically(path, lambda temporary: _save(fetched.stream(), temporary))
        return path

    def where(self, key: str) -> str:
        """Return the object's URL."""
        return f"{self.url}/{self.name}/{key}"

    def _bucket(self, key: str) -> "Bucket":
        return open_bucket(self.url, PART_S if key.endswith(".parquet") else SMALL_S)

    def _path(self, key: str) -> str:
        return f"{self.name}/{key}"

    def _get(self, key: str) -> tuple[bytes | None, str]:
        """Return an object's bytes as they are, and its tag."""
        import obstore

        with self._named(key):
            try:
                fetched = obstore.get(self._bucket(key), self._path(key))
                return bytes(fetched.bytes()), _tag(fetched.meta)
            except FileNotFoundError:
                return None, ABSENT

    def _put(self, key: str, content: bytes, tag: str) -> str:
        """Put an object if it has this tag. Return the new tag. Raises `SwapError` for another."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

        mode: Any = "create" if tag == ABSENT else json.loads(tag)
        try:
            return _tag(obstore.put(self._bucket(key), self._path(key), content, mode=mode))
        except (BaseError, OSError) as error:
            there, now = self._get(key)
            if there == content:
                return now
            refused = isinstance(error, AlreadyExistsError | PreconditionError)
            # An object that was to be replaced is gone; without one, it is the bucket.
            gone = isinstance(error, FileNotFoundError) and tag != ABSENT
            if refused or gone:
                raise SwapError(f"{self.where(key)} was written by another process") from error
            raise _unusable(self.where(key), error) from error

    @contextmanager
    def _named(self, key: str) -> Iterator[None]:
        """Turn an error of the object store into a `LakeError` that names the object."""
        from obstore.exceptions import BaseError

        try:
            yield
        except BaseError as error:
            raise _unusable(self.where(key), error) from error


@lru_cache(maxsize=8)
def open_bucket(url: str, timeout_s: float) -> "Bucket":
    """Return the bucket, or the folder of one, at a URL. Raises `LakeError` if the URL is none of
    an object store, or obstore is not installed. timeout_s: of one request, in seconds.
    """
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError as error:
        raise LakeError(
            "tables in an object store need the package obstore; pip install "
            "'tsfm-pipeline[object-store]'"
        ) from error
    try:
        # These options replace those of the environment. Whoever names an http:// endpoint there
        # means it; without one, vendors' endpoints are https://.
        client: Any = {
            "allow_http": True,
            "timeout": timedelta(seconds=timeout_s),
            "connect_timeout": timedelta(seconds=5),
        }
        opened: Bucket = from_url(url, client_options=client, retry_config=RETRIES)
    except (BaseError, ValueError, TypeError) as error:
        raise LakeError(
            f"TSFM_LAKE_URL: {url} cannot be opened: {error}; allowed: s3://bucket/folder, "
            "gs://bucket/folder or az://container/folder with AZURE_STORAGE_ACCOUNT_NAME"
        ) from error
    return opened


def names_in(bucket: "Bucket", folder: str | None = None) -> list[str]:
    """Return the names of the folders in a folder of a bucket, or in the bucket itself."""
    import obstore

    found = obstore.list_with_delimiter(bucket, prefix=folder)["common_prefixes"]
    return sorted(path.rpartition("/")[2] for path in found)


def fleets_at(url: str) -> list[str]:
    """Return the names of the fleets that have tables at a URL. Raises `LakeError` if the store
    cannot be used.
    """
    from obstore.exceptions import BaseError

    try:
        return names_in(open_bucket(url, SMALL_S))
    except BaseError as error:
        raise _unusable(url, error) from error


def _unusable(where: str, error: Exception) -> LakeError:
    said = " ".join(str(error).partition("Debug source:")[0].split())
    return LakeError(
        f"{where} cannot be used: {said}; check TSFM_LAKE_URL, the network and the credentials, "
        "then start again: what is finished is kept"
    )


def _tag(meta: Any) -> str:
    """Return an object's ETag and version as text: S3 and Azure compare the ETag, GCS the version.
    A missing one is left out, because obstore refuses None.
    """
    named = {name: meta[name] for name in ("e_tag", "version") if meta.get(name) is not None}
    return json.dumps(named, sort_keys=True)


def _save(chunks: Iterable[Any], path: Path) -> None:
    file: BinaryIO
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
