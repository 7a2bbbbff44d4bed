"""Test that the index finds tenants of the same archetype, never returns the tenant itself, and
survives storage.
"""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsfm_pipeline.archetypes.features import (
    retrieval_features,
    tenant_features,
    window_features,
    window_starts,
)
from tsfm_pipeline.archetypes.index import (
    ArchetypeIndex,
    Neighbours,
    WindowIndex,
    retrieval_accuracy,
)
from tsfm_pipeline.evaluation.requests import split_tenants, tuning_mask
from tsfm_pipeline.fleets.profiles import archetype_of
from tsfm_pipeline.fleets.spec import SyntheticFleet
from tsfm_pipeline.fleets.synthetic import generate

N_TENANTS = 160
N_STEPS = 7 * 1440
ARCHETYPES = np.array([archetype_of(number).name for number in range(N_TENANTS)])
IDS = np.array([f"tenant-{number}" for number in range(N_TENANTS)])
TUNING = tuning_mask(split_tenants(IDS.tolist(), ARCHETYPES.tolist(), seed=0), 0)


@pytest.fixture(scope="module")
def telemetry() -> np.ndarray:
    spec = SyntheticFleet(
        name="small",
        title="small",
        kind="synthetic",
        tenants=N_TENANTS,
        days=7,
        start=datetime(2025, 1, 6, tzinfo=UTC),
    )
    return generate(spec, range(N_TENANTS))


def _random_index(
    n: int = 20, n_features: int = 6, archetypes: list[str] | None = None
) -> tuple[ArchetypeIndex, np.ndarray]:
    features = np.random.default_rng(0).normal(size=(n, n_features))
    return ArchetypeIndex.fit(features, [f"t{i}" for i in range(n)], archetypes), features


@pytest.mark.heavy
def test_held_out_tenants_are_recognised_from_their_full_history(telemetry: np.ndarray) -> None:
    def top1(features: np.ndarray) -> float:
        index = ArchetypeIndex.fit(
            features[TUNING], IDS[TUNING].tolist(), ARCHETYPES[TUNING].tolist()
        )
        votes = index.vote(index.query(features[~TUNING], k=5))
        return retrieval_accuracy(
            votes.tolist(), ARCHETYPES[~TUNING].tolist(), IDS[~TUNING].tolist()
        ).top1

    base, richer = top1(tenant_features(telemetry)), top1(retrieval_features(telemetry))
    assert base >= 0.80
    assert richer >= max(0.90, base)


def test_two_hours_are_recognised_against_windows_of_two_hours_and_not_against_full_histories(
    telemetry: np.ndarray,
) -> None:
    length = 120
    tuning, tested = np.flatnonzero(TUNING), np.flatnonzero(~TUNING)
    features = window_features(
        telemetry[tuning], window_starts(tuning.tolist(), 0, N_STEPS - 1, length, 8, seed=0), length
    )
    index = WindowIndex.fit(features, IDS[tuning].tolist(), ARCHETYPES[tuning].tolist(), length)
    starts = window_starts(tested.tolist(), 0, N_STEPS - 1, length, 3, seed=1)
    queries = np.stack(
        [
            telemetry[t, :, s : s + length]
            for t, row in zip(tested, starts, strict=True)
            for s in row
        ]
    )
    truth, asked = np.repeat(ARCHETYPES[tested], 3).tolist(), np.repeat(IDS[tested], 3).tolist()
    same_length = retrieval_accuracy(index.vote(index.query(queries, k=5)).tolist(), truth, asked)
    full = ArchetypeIndex.fit(
        retrieval_features(telemetry[tuning]), IDS[tuning].tolist(), ARCHETYPES[tuning].tolist()
    )
    full_length = retrieval_accuracy(
        full.vote(full.query(retrieval_features(queries), k=5)).tolist(), truth, asked
    )
    assert same_length.top1 >= 0.80
    assert full_length.top1 <= same_length.top1 - 0.2
    assert (same_length.n_queries, same_length.n_tenants) == (240, 80)


def test_shuffled_labels_lose_what_retrieval_knows(telemetry: np.ndarray) -> None:
    features = retrieval_features(telemetry)
    shuffled = np.random.default_rng(0).permutation(ARCHETYPES[TUNING]).tolist()
    index = ArchetypeIndex.fit(features[TUNING], IDS[TUNING].tolist(), shuffled)
    votes = index.vote(index.query(features[~TUNING], k=5)).tolist()
    assert (
        retrieval_accuracy(votes, ARCHETYPES[~TUNING].tolist(), IDS[~TUNING].tolist()).top1 <= 0.4
    )


def test_the_scaler_is_fitted_on_the_tenants() -> None:
    index, features = _random_index()
    np.testing.assert_allclose(index.mean, features.mean(axis=0))
    np.testing.assert_allclose(index.scale, features.std(axis=0))


def test_a_tenant_never_finds_itself_when_it_is_excluded() -> None:
    index, features = _random_index()
    ids = index.tenant_ids.tolist()
    assert index.query(features, k=1).indices[:, 0].tolist() == list(range(20))
    neighbours = index.query(features, k=19, exclude=ids)
    assert all(i not in row for i, row in enumerate(neighbours.indices.tolist()))
    assert (np.diff(neighbours.similarity, axis=1) <= 0).all()


def test_excluding_a_tenant_that_the_index_does_not_hold_changes_nothing() -> None:
    index, features = _random_index()
    plain, other = (
        index.query(features, k=5),
        index.query(features, k=5, exclude=["elsewhere", None] * 10),
    )
    np.testing.assert_array_equal(plain.indices, other.indices)


@given(st.integers(0, 1000), st.integers(1, 10))
@settings(max_examples=25)
def test_neighbours_are_those_of_the_cosine_over_all_pairs(seed: int, k: int) -> None:
    index, _ = _random_index()
    queries = np.random.default_rng(seed).normal(size=(30, 6))
    standardised = (queries - index.mean) / index.scale
    cosine = (
        standardised
        @ index.vectors.T.astype(np.float64)
        / np.linalg.norm(standardised, axis=1, keepdims=True)
    )
    found = index.query(queries, k)
    np.testing.assert_allclose(found.similarity, -np.sort(-cosine, axis=1)[:, :k], atol=1e-9)
    np.testing.assert_allclose(
        np.take_along_axis(cosine, found.indices, axis=1), found.similarity, atol=1e-9
    )


def test_a_query_is_answered_the_same_alone_and_in_a_batch() -> None:
    index, _ = _random_index(n=200)
    queries = np.random.default_rng(1).normal(size=(700, 6))
    batch = index.query(queries, k=5)
    for row in (0, 511, 512, 699):
        alone = index.query(queries[[row]], k=5)
        np.testing.assert_array_equal(alone.indices[0], batch.indices[row])
        np.testing.assert_array_equal(alone.similarity[0], batch.similarity[row])


def test_equally_near_tenants_come_in_the_order_of_the_index() -> None:
    features = np.repeat(np.random.default_rng(0).normal(size=(4, 6)), 3, axis=0)
    index = ArchetypeIndex.fit(features, [f"t{i}" for i in range(12)])
    assert index.query(features[[5]], k=3).indices.tolist() == [[3, 4, 5]]


def test_several_entries_of_a_tenant_are_one_neighbour() -> None:
    features = np.random.default_rng(0).normal(size=(10, 4, 6))
    index = ArchetypeIndex.fit(features, [f"t{i}" for i in range(10)])
    found = index.query(features[:, 2], k=9, exclude=index.tenant_ids.tolist())
    assert all(len(set(row)) == 9 for row in found.indices.tolist())
    assert index.query(features[:, 2], k=1).indices[:, 0].tolist() == list(range(10))


def test_fewer_neighbours_come_back_where_there_are_fewer() -> None:
    index, features = _random_index(n=3)
    assert index.query(features, k=5).indices.shape == (3, 3)
    assert index.query(features, k=5, exclude=index.tenant_ids.tolist()).indices.shape == (3, 2)


def test_votes_are_weighted_by_similarity_and_ties_go_to_the_first_name() -> None:
    index, _ = _random_index(n=4, archetypes=["b", "b", "a", ""])
    similarity = np.array([[0.9, 0.4, 0.3], [0.5, 0.5, 0.0], [0.9, 0.2, 0.1], [-0.1, -0.2, -0.3]])
    indices = np.array([[2, 0, 1], [0, 2, 3], [3, 2, 0], [0, 1, 2]])
    assert index.vote(Neighbours(indices, similarity)).tolist() == ["a", "a", "a", "b"]


def test_a_fleet_without_labels_has_neighbours_but_no_votes() -> None:
    index, features = _random_index()
    neighbours = index.query(features, k=3)
    with pytest.raises(ValueError, match="holds no archetypes"):
        index.vote(neighbours)


def test_what_was_never_observed_counts_as_average() -> None:
    features = np.random.default_rng(0).normal(size=(10, 4))
    features[:, 2] = np.nan
    features[3, 1] = np.nan
    index = ArchetypeIndex.fit(features, [f"t{i}" for i in range(10)])
    assert np.isfinite(index.vectors).all()
    assert np.isfinite(index.query(features, k=3).similarity).all()
    assert (index.query(np.full((1, 4), np.nan), k=3).similarity == 0.0).all()


def test_both_indexes_survive_storage(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("index") / "index.npz"
    index, features = _random_index(archetypes=["x"] * 20)
    arrays = index.to_arrays()
    np.savez(path, *arrays.values())
    with np.load(path) as stored:
        restored = ArchetypeIndex.from_arrays(dict(zip(arrays, stored.values(), strict=True)))
    before, after = index.query(features, k=4), restored.query(features, k=4)
    np.testing.assert_array_equal(before.indices, after.indices)
    np.testing.assert_array_equal(before.similarity, after.similarity)

    values = np.random.default_rng(0).normal(size=(5, 2, 100)).astype(np.float32)
    windows = WindowIndex.fit(
        window_features(values, np.zeros((5, 1), dtype=int), 40), list("abcde"), None, 40
    )
    again = WindowIndex.from_arrays(windows.to_arrays())
    assert again.length == 40
    np.testing.assert_array_equal(
        again.query(values[..., :40], 2).indices, windows.query(values[..., :40], 2).indices
    )


def test_a_history_of_another_length_is_refused() -> None:
    values = np.random.default_rng(0).normal(size=(5, 2, 100)).astype(np.float32)
    index = WindowIndex.fit(
        window_features(values, np.zeros((5, 1), dtype=int), 40), list("abcde"), None, 40
    )
    with pytest.raises(ValueError, match="histories have 30 steps; this index holds windows of 40"):
        index.query(values[..., :30], 2)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="tenant ids repeat"):
        ArchetypeIndex.fit(np.zeros((2, 3)), ["a", "a"])
    with pytest.raises(ValueError, match="1 archetypes for 2 tenants"):
        ArchetypeIndex.fit(np.zeros((2, 3)), ["a", "b"], ["x"])
    index, features = _random_index(n=1)
    with pytest.raises(ValueError, match="no tenant is left"):
        index.query(features, k=1, exclude=["t0"])
    with pytest.raises(ValueError, match=r"the index holds \[\*, 6\]"):
        index.query(np.zeros((1, 5)), k=1)


def test_accuracy_counts_tenants_once_and_archetypes_equally() -> None:
    result = retrieval_accuracy(
        ["a", "a", "a", "a", "b", "a"],
        ["a", "a", "a", "a", "b", "b"],
        ["t1", "t1", "t2", "t2", "t3", "t3"],
    )
    assert result.top1 == pytest.approx(5 / 6)
    assert result.balanced == pytest.approx(0.75)
    assert result.by_archetype == {"a": 1.0, "b": 0.5}
    assert result.majority_share == pytest.approx(4 / 6)
    assert result.n_tenants == 3
    assert 0.0 <= result.low < result.top1 < result.high <= 1.0
