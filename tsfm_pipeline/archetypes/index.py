"""Similar tenants: cosine neighbours over standardised features, and the archetype for which they
vote.

What belongs here: the two indexes, for full histories and for short ones, their storage as arrays,
and the accuracy of retrieval. What does not: computing features (`features`), and the use of
neighbours (`autoresearch`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tsfm_pipeline.archetypes.features import retrieval_features
from tsfm_pipeline.archetypes.store import EntryStore, FaissStore

_QUERIES_PER_BLOCK = 512
_SPARE_CANDIDATES = 8
_LEAST_VOTE = 1e-9


class Neighbours(NamedTuple):
    """The nearest tenants of each query, nearest first: positions in `tenant_ids` int64 [M, k], and
    cosine similarities float64 [M, k].
    """

    indices: NDArray[np.int64]
    similarity: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ArchetypeIndex:
    """A cosine index over tenants; each has one or more entries.

    `mean` and `scale` [F] standardise features over the entries to which the index was fitted;
    `vectors` float32 [E, F] are the entries, standardised and of length one; `owner` int64 [E] is
    the position of each entry's tenant in `tenant_ids` [N]; `archetypes` [N] are names, "" where
    unknown.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    vectors: NDArray[np.float32]
    owner: NDArray[np.int64]
    tenant_ids: NDArray[np.str_]
    archetypes: NDArray[np.str_]

    @classmethod
    def fit(
        cls, features: ArrayLike, tenant_ids: Sequence[str], archetypes: Sequence[str] | None = None
    ) -> Self:
        """Return an index over features [N, F] or, with W entries per tenant, [N, W, F].

        tenant_ids [N] (unique), archetypes [N] or None where the fleet has no labels. The scaler is
        fitted to these tenants' entries, never to centroids. NaN features are replaced by the
        average tenant's. Raises ValueError for other shapes and for ids that repeat.
        """
        from sklearn.preprocessing import StandardScaler

        features = np.asarray(features, dtype=np.float64)
        if features.ndim not in (2, 3) or len(features) != len(tenant_ids) or not features.size:
            raise ValueError(
                f"features {features.shape} must be [N, F] or [N, W, F] with N = "
                f"{len(tenant_ids)} tenant ids"
            )
        if archetypes is not None and len(archetypes) != len(tenant_ids):
            raise ValueError(
                f"{len(archetypes)} archetypes for {len(tenant_ids)} tenants; there must be one "
                "per tenant"
            )
        ids = np.array(tenant_ids, dtype=np.str_)
        if len(np.unique(ids)) != len(ids):
            raise ValueError(
                "tenant ids repeat; several entries of one tenant go into features [N, W, F]"
            )
        entries = features.reshape(-1, features.shape[-1])
        never_observed = np.isnan(entries).all(axis=0)
        scaler = StandardScaler().fit(np.where(never_observed, 0.0, entries))
        return cls(
            mean=scaler.mean_,
            scale=scaler.scale_,
            vectors=_unit_vectors(entries, scaler.mean_, scaler.scale_).astype(np.float32),
            owner=np.repeat(np.arange(len(ids)), len(entries) // len(ids)),
            tenant_ids=ids,
            archetypes=np.array(
                [""] * len(ids) if archetypes is None else archetypes, dtype=np.str_
            ),
        )

    def query(
        self, features: ArrayLike, k: int, exclude: Sequence[str | None] | None = None
    ) -> Neighbours:
        """Return the k nearest tenants of each row of features [M, F]; a tenant is as near as its
        nearest entry.

        `exclude`: for each row the id of a tenant that must not be returned, usually the query's
        own, or None. Fewer than k are returned where the index holds fewer. A row's neighbours do
        not depend on other rows, and ties go to the tenant that comes first in `tenant_ids`. Raises
        ValueError where no neighbour is left.
        """
        features = np.asarray(features, dtype=np.float64)
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(
                f"features have shape {features.shape}; the index holds [*, {len(self.mean)}]"
            )
        position = {tenant_id: i for i, tenant_id in enumerate(self.tenant_ids.tolist())}
        excluded_ids = [None] * len(features) if exclude is None else exclude
        excluded = np.array(
            [-1 if id_ is None else position.get(str(id_), -1) for id_ in excluded_ids],
            dtype=np.int64,
        )
        if len(excluded) != len(features):
            raise ValueError(
                f"{len(excluded)} excluded tenants for {len(features)} queries; there must be "
                "one, or None, per query"
            )
        k = min(k, len(self.tenant_ids) - int((excluded >= 0).any()))
        if k < 1:
            raise ValueError(
                "no tenant is left to be a neighbour: k must be at least 1, and the index must "
                "contain other tenants"
            )
        queries = _unit_vectors(features, self.mean, self.scale)
        blocks = [
            self._nearest(queries[rows], k, excluded[rows])
            for rows in (
                slice(s, s + _QUERIES_PER_BLOCK)
                for s in range(0, max(len(queries), 1), _QUERIES_PER_BLOCK)
            )
        ]
        return Neighbours(
            np.concatenate([b.indices for b in blocks]),
            np.concatenate([b.similarity for b in blocks]),
        )

    def vote(self, neighbours: Neighbours) -> NDArray[np.str_]:
        """Return the archetype that the neighbours vote for, weighted by similarity -> str [M].

        Ties go to the name that sorts first; neighbours of unknown archetype do not vote. Raises
        ValueError for an index without archetypes.
        """
        names, code = np.unique(self.archetypes, return_inverse=True)
        if names.tolist() == [""]:
            raise ValueError(
                "this index holds no archetypes, so its neighbours cannot vote for one"
            )
        votes = np.zeros((len(neighbours.indices), len(names)))
        weight = np.maximum(neighbours.similarity, _LEAST_VOTE)
        np.add.at(votes, (np.arange(len(votes))[:, None], code[neighbours.indices]), weight)
        votes[:, names == ""] = -1.0
        return names[votes.argmax(axis=1)]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the whole index as named arrays for storage."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Return the index that `to_arrays` stored."""
        return cls(**{name: np.asarray(arrays[name]) for name in cls.__dataclass_fields__})

    def stored_in(self, store: EntryStore) -> Self:
        """Return the same index, which looks for candidates in another store. Its neighbours are
        the same.
        """
        index = replace(self)
        index.__dict__["_store"] = store
        return index

    @cached_property
    def _store(self) -> EntryStore:
        return FaissStore(self.vectors)

    def _nearest(
        self, queries: NDArray[np.float64], k: int, excluded: NDArray[np.int64]
    ) -> Neighbours:
        """Find candidates in the store and compute their similarities again in float64, because the
        last digits of a store's depend on the batch.
        """
        entries_per_tenant = len(self.vectors) // len(self.tenant_ids)
        n_candidates = min(len(self.vectors), (k + 1 + _SPARE_CANDIDATES) * entries_per_tenant)
        candidates = self._store.candidates(queries.astype(np.float32), n_candidates)  # [M, C]
        similarity = np.einsum("mf,mcf->mc", queries, self.vectors[candidates].astype(np.float64))
        owner = self.owner[candidates]
        indices = np.empty((len(queries), k), dtype=np.int64)
        nearest = np.empty((len(queries), k))
        for row, own in enumerate(excluded):
            order = np.lexsort((owner[row], -similarity[row]))
            order = order[owner[row, order] != own]
            _, first = np.unique(owner[row, order], return_index=True)
            best = order[np.sort(first)[:k]]
            indices[row], nearest[row] = owner[row, best], similarity[row, best]
        return Neighbours(indices, nearest)


@dataclass(frozen=True, eq=False)
class WindowIndex:
    """The index for short histories: it stores windows of the query's own length, several per
    tenant.
    """

    index: ArchetypeIndex
    length: int

    @classmethod
    def fit(
        cls,
        features: ArrayLike,
        tenant_ids: Sequence[str],
        archetypes: Sequence[str] | None,
        length: int,
    ) -> Self:
        """Return an index over features [N, W, F] that `features.window_features` computed from
        windows of `length`.
        """
        return cls(ArchetypeIndex.fit(features, tenant_ids, archetypes), length)

    def query(
        self, windows: ArrayLike, k: int, exclude: Sequence[str | None] | None = None
    ) -> Neighbours:
        """Return the k nearest tenants of short histories [M, D, length]; otherwise as
        `ArchetypeIndex.query`.
        """
        windows = np.asarray(windows)
        if windows.shape[-1] != self.length:
            raise ValueError(
                f"histories have {windows.shape[-1]} steps; this index holds windows of "
                f"{self.length}"
            )
        return self.index.query(retrieval_features(windows), k, exclude)

    def vote(self, neighbours: Neighbours) -> NDArray[np.str_]:
        """Return the archetype that the neighbours vote for -> str [M]."""
        return self.index.vote(neighbours)

    def stored_in(self, store: EntryStore) -> Self:
        """Return the same index over another store; see `ArchetypeIndex.stored_in`."""
        return replace(self, index=self.index.stored_in(store))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the whole index as named arrays for storage."""
        return {"length": np.array(self.length), **self.index.to_arrays()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Return the index that `to_arrays` stored."""
        return cls(ArchetypeIndex.from_arrays(arrays), int(arrays["length"]))


@dataclass(frozen=True)
class RetrievalAccuracy:
    """How often the voted archetype is the true one.

    `low` and `high`: Wilson's 95 % interval of `top1`; each tenant counts as one trial, however
    many queries it has. `majority_share`: the accuracy of always answering with the most frequent
    archetype.
    """

    top1: float
    low: float
    high: float
    balanced: float
    majority_share: float
    by_archetype: dict[str, float]
    n_queries: int
    n_tenants: int


def retrieval_accuracy(
    predicted: Sequence[str], actual: Sequence[str], tenant_ids: Sequence[str]
) -> RetrievalAccuracy:
    """Return top-1 and balanced accuracy of voted archetypes; one entry of each argument per
    query.
    """
    voted, truth = np.array(predicted, dtype=np.str_), np.array(actual, dtype=np.str_)
    if not len(voted) == len(truth) == len(tenant_ids) or not len(truth):
        raise ValueError(
            f"{len(voted)} votes, {len(truth)} archetypes and {len(tenant_ids)} tenants must be "
            "equally many, and at least one"
        )
    correct = voted == truth
    names, counts = np.unique(truth, return_counts=True)
    by_archetype = {str(name): float(correct[truth == name].mean()) for name in names}
    n_tenants = len(set(tenant_ids))
    top1 = float(correct.mean())
    low, high = _wilson_interval(top1, n_tenants)
    return RetrievalAccuracy(
        top1=top1,
        low=low,
        high=high,
        balanced=float(np.mean(list(by_archetype.values()))),
        majority_share=float(counts.max() / counts.sum()),
        by_archetype=by_archetype,
        n_queries=len(truth),
        n_tenants=n_tenants,
    )


def _wilson_interval(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Return Wilson's interval (1927) of a share of n trials, at 95 % by default."""
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half_width = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return float(centre - half_width), float(centre + half_width)


def _unit_vectors(
    features: NDArray[np.float64], mean: NDArray[np.float64], scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return standardised rows [M, F] of length one. NaN counts as average, and a row that is
    average in every feature stays zero.
    """
    standardised = np.nan_to_num((features - mean) / scale, nan=0.0)
    length = np.linalg.norm(standardised, axis=1, keepdims=True)
    return np.divide(standardised, length, out=np.zeros_like(standardised), where=length > 0)
