"""Look-alikes from Qdrant instead of this process, for fleets whose index outgrows it.

What belongs here: putting the indexes of a bundle into Qdrant, and opening them there. What does
not: the store (`archetypes.store`) and the search that asks for look-alikes.
"""

from collections.abc import Callable
from dataclasses import replace

from tsfm_pipeline.archetypes.index import ArchetypeIndex, WindowIndex
from tsfm_pipeline.archetypes.store import QdrantStore, export, open_qdrant
from tsfm_pipeline.autoresearch.bundle import FittedSearch, SearchBundle


def export_bundle(bundle: SearchBundle, address: str) -> list[str]:
    """Copy every index of a bundle to Qdrant at an address (a URL, or a folder), and return the
    names of the collections. Raises `StorageError` where the client is not installed.
    """
    client = open_qdrant(address)
    try:
        searches = {id(s): s for s in (*bundle.folds.values(), bundle.live)}.values()
        return [export(search.index.index, client) for search in searches]
    finally:
        client.close()


def in_qdrant(bundle: SearchBundle, address: str) -> SearchBundle:
    """Return the same bundle, whose indexes look for candidates in Qdrant.

    Raises `StorageError` if a collection is missing or holds other entries.
    """
    client = open_qdrant(address)

    def stored(index: WindowIndex) -> WindowIndex:
        inner: ArchetypeIndex = index.index
        return index.stored_in(QdrantStore(client, inner))

    return _with_indexes(bundle, stored)


def _with_indexes(
    bundle: SearchBundle, stored: Callable[[WindowIndex], WindowIndex]
) -> SearchBundle:
    """Return the bundle with every search's index replaced; one search stays one search."""
    made: dict[int, FittedSearch] = {}

    def moved(search: FittedSearch) -> FittedSearch:
        if id(search) not in made:
            made[id(search)] = replace(search, index=stored(search.index))
        return made[id(search)]

    folds = {fold: moved(search) for fold, search in bundle.folds.items()}
    return replace(bundle, folds=folds, live=moved(bundle.live))
