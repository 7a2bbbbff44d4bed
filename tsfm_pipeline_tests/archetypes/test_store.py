"""Test that look-alikes are the same wherever an index looks for them.

What belongs here: `archetypes.store`, with Qdrant's local mode. What does not: the index itself
(`test_index`), and a Qdrant server, which answers through the same client.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tsfm_pipeline.archetypes.index import ArchetypeIndex
from tsfm_pipeline.archetypes.store import (
    QdrantStore,
    collection_name,
    export,
    open_qdrant,
)
from tsfm_pipeline.files import StorageError

pytest.importorskip("qdrant_client", reason="the extra [qdrant] is not installed")

N, F = 300, 12


def _index(entries: int = 2, seed: int = 0) -> ArchetypeIndex:
    features = np.random.default_rng(seed).normal(size=(N, entries, F))
    archetypes = [f"kind-{i % 5}" for i in range(N)]
    return ArchetypeIndex.fit(features, [f"t{i}" for i in range(N)], archetypes)


@pytest.fixture
def client() -> Iterator[Any]:
    from qdrant_client import QdrantClient

    client = QdrantClient(":memory:")
    yield client
    client.close()


def test_neighbours_are_the_same_as_in_this_process(client: Any) -> None:
    index = _index()
    export(index, client)
    stored = index.stored_in(QdrantStore(client, index))
    queries = np.random.default_rng(1).normal(size=(40, F))
    own = [f"t{i}" if i % 2 else None for i in range(40)]
    here, there = index.query(queries, 7, own), stored.query(queries, 7, own)
    np.testing.assert_array_equal(here.indices, there.indices)
    np.testing.assert_array_equal(here.similarity, there.similarity)
    assert (index.vote(here) == stored.vote(there)).all()
    assert all(f"t{i}" not in index.tenant_ids[there.indices[i]] for i in range(1, 40, 2))


def test_the_stored_index_is_the_same_index(client: Any) -> None:
    index = _index()
    export(index, client)
    stored = index.stored_in(QdrantStore(client, index))
    assert stored.to_arrays().keys() == index.to_arrays().keys()
    assert collection_name(stored) == collection_name(index)


def test_another_index_does_not_find_this_collection(client: Any) -> None:
    export(_index(), client)
    with pytest.raises(StorageError, match=r"has no collection 'tsfm-archetypes-.*index export"):
        QdrantStore(client, _index(seed=1))


def test_a_collection_that_was_cut_is_refused(client: Any) -> None:
    index = _index()
    client.delete(export(index, client), points_selector=[0, 1])
    with pytest.raises(StorageError, match=f"has {2 * N - 2} entries, the index has {2 * N}"):
        QdrantStore(client, index)


def test_a_server_that_is_gone_is_named_at_the_start(tmp_path: Path) -> None:
    from qdrant_client import QdrantClient

    with pytest.raises(StorageError, match="Qdrant cannot be reached"):
        QdrantStore(QdrantClient("http://127.0.0.1:9", check_compatibility=False), _index())


def test_a_server_that_went_away_costs_no_answer(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from qdrant_client import QdrantClient

    index = _index()
    export(index, client)
    store = QdrantStore(client, index)
    store.client = QdrantClient("http://127.0.0.1:9", check_compatibility=False)
    queries = np.random.default_rng(1).normal(size=(5, F))
    here, there = index.query(queries, 7), index.stored_in(store).query(queries, 7)
    np.testing.assert_array_equal(here.indices, there.indices)
    assert "Qdrant does not answer; searching in this process" in caplog.text


def test_a_second_export_replaces_the_first_and_a_folder_keeps_it(tmp_path: Path) -> None:
    index = _index(entries=1)
    for _ in range(2):
        client = open_qdrant(str(tmp_path))
        name = export(index, client)
        client.close()
    client = open_qdrant(str(tmp_path))
    assert client.count(name, exact=True).count == N
    point = client.retrieve(name, [7])[0]
    assert point.payload == {"tenant_id": "t7", "archetype": "kind-2"}
    client.close()
