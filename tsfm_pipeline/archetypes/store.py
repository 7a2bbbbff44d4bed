"""Where an index looks for candidates: FAISS in this process, or a collection in Qdrant.

What belongs here: the protocol of a store, its two implementations, and copying an index into
Qdrant. What does not: similarities and votes (`index`), which are computed from the index's own
vectors whatever the store is, so that the neighbours are the same to the last digit.
"""

import hashlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.files import StorageError

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

    from tsfm_pipeline.archetypes.index import ArchetypeIndex

_POINTS_PER_REQUEST = 1_000

warn = logging.getLogger(__name__).warning


class EntryStore(Protocol):
    """Finds the entries of an index that are nearest to a query."""

    def candidates(self, queries: NDArray[np.float32], n: int) -> NDArray[np.int64]:
        """Return the positions [M, n] of the n entries with the largest inner product with each
        query [M, F], nearest first.
        """
        ...


class FaissStore:
    """Exact search over all entries in memory."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        """Take the entries float32 [E, F]."""
        import faiss

        self._flat = faiss.IndexFlatIP(vectors.shape[1])
        self._flat.add(np.ascontiguousarray(vectors))

    def candidates(self, queries: NDArray[np.float32], n: int) -> NDArray[np.int64]:
        """Return the positions [M, n] of the nearest entries; see `EntryStore`."""
        return np.asarray(self._flat.search(queries, n)[1], dtype=np.int64)


class QdrantStore:
    """Search in a collection that `export` has filled from the same index.

    Where the server does not answer, the index's own entries are searched, which is slower than a
    large collection but finds the same.

    Raises `StorageError` if the collection is missing, holds another number of entries, or cannot
    be reached at the start.
    """

    def __init__(self, client: "QdrantClient", index: "ArchetypeIndex") -> None:
        """Look for the index's collection; its name contains the digest of the entries."""
        self.client, self.collection = client, collection_name(index)
        self._own = FaissStore(index.vectors)
        try:
            self._require(len(index.vectors))
        except _errors_of_qdrant() as error:
            raise StorageError(f"Qdrant cannot be reached: {error}") from error

    def _require(self, n_entries: int) -> None:
        client = self.client
        if not client.collection_exists(self.collection):
            raise StorageError(
                f"Qdrant has no collection {self.collection!r}, which this index needs; make it "
                "with `tsfm-pipeline index export`"
            )
        stored = client.count(self.collection, exact=True).count
        if stored != n_entries:
            raise StorageError(
                f"collection {self.collection!r} has {stored} entries, the index has "
                f"{n_entries}; export it again with `tsfm-pipeline index export`"
            )

    def candidates(self, queries: NDArray[np.float32], n: int) -> NDArray[np.int64]:
        """Return the positions [M, n] of the nearest entries; see `EntryStore`."""
        from qdrant_client.models import QueryRequest, SearchParams

        exact = SearchParams(exact=True)
        requests = [QueryRequest(query=q.tolist(), limit=n, params=exact) for q in queries]
        try:
            answers = self.client.query_batch_points(self.collection, requests)
        except _errors_of_qdrant() as error:
            warn("Qdrant does not answer; searching in this process: %s", error)
            return self._own.candidates(queries, n)
        return np.array([[point.id for point in answer.points] for answer in answers], dtype="i8")


def collection_name(index: "ArchetypeIndex") -> str:
    """Return the name of an index's collection: equal entries have equal names."""
    digest = hashlib.sha256(np.ascontiguousarray(index.vectors).tobytes())
    digest.update("\n".join(index.tenant_ids.tolist()).encode())
    return f"tsfm-archetypes-{digest.hexdigest()[:16]}"


def export(index: "ArchetypeIndex", client: "QdrantClient") -> str:
    """Copy an index into Qdrant and return the collection's name; an earlier copy is replaced.

    Each entry is one point: its position as id, its vector, and tenant and archetype as payload.
    """
    from qdrant_client.models import Distance, PointStruct, VectorParams

    name = collection_name(index)
    if client.collection_exists(name):
        client.delete_collection(name)
    size = index.vectors.shape[1]
    client.create_collection(name, VectorParams(size=size, distance=Distance.DOT))
    points = [
        PointStruct(
            id=position,
            vector=vector.tolist(),
            payload={
                "tenant_id": str(index.tenant_ids[owner]),
                "archetype": str(index.archetypes[owner]),
            },
        )
        for position, (vector, owner) in enumerate(zip(index.vectors, index.owner, strict=True))
    ]
    for part in _parts(points):
        client.upsert(name, part, wait=True)
    return name


def open_qdrant(address: str) -> "QdrantClient":
    """Return a client for an http(s) URL, or for a folder that one process at a time may use.

    Raises `StorageError` where the extra is not installed.
    """
    try:
        from qdrant_client import QdrantClient
    except ModuleNotFoundError as error:
        raise StorageError(
            "Qdrant's client is not installed; pip install 'tsfm-pipeline[qdrant]'"
        ) from error
    if address.startswith(("http://", "https://")):
        return QdrantClient(url=address)
    return QdrantClient(path=address)


def _errors_of_qdrant() -> tuple[type[Exception], ...]:
    """Return what its client raises for a server that is gone or answers with an error."""
    from qdrant_client.http.exceptions import ApiException

    return (ApiException, OSError)


def _parts(points: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(points), _POINTS_PER_REQUEST):
        yield points[start : start + _POINTS_PER_REQUEST]
