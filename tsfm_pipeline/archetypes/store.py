"""Where an index looks for candidates: FAISS in this process, or a collection in Qdrant.

What belongs here: the protocol of a store, its two implementations, and copying an index into
Qdrant. What does not: similarities and votes (`index`), which are computed from the index's own
vectors whatever the store is, so that the neighbours are the same to the last digit.
"""

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.files import StorageError

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

    from tsfm_pipeline.archetypes.index import ArchetypeIndex

_POINTS_PER_REQUEST = 1_000


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

    Raises `StorageError` if the collection is missing or holds another number of entries.
    """

    def __init__(self, client: "QdrantClient", index: "ArchetypeIndex") -> None:
        """Look for the index's collection; its name contains the digest of the entries."""
        self.client, self.collection = client, collection_name(index)
        if not client.collection_exists(self.collection):
            raise StorageError(
                f"Qdrant has no collection {self.collection!r}, which this index needs; make it "
                "with `tsfm-pipeline index export`"
            )
        stored = client.count(self.collection, exact=True).count
        if stored != len(index.vectors):
            raise StorageError(
                f"collection {self.collection!r} has {stored} entries, the index has "
                f"{len(index.vectors)}; export it again with `tsfm-pipeline index export`"
            )

    def candidates(self, queries: NDArray[np.float32], n: int) -> NDArray[np.int64]:
        """Return the positions [M, n] of the nearest entries; see `EntryStore`."""
        from qdrant_client.models import QueryRequest, SearchParams

        exact = SearchParams(exact=True)
        requests = [QueryRequest(query=q.tolist(), limit=n, params=exact) for q in queries]
        answers = self.client.query_batch_points(self.collection, requests)
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


def _parts(points: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(points), _POINTS_PER_REQUEST):
        yield points[start : start + _POINTS_PER_REQUEST]
