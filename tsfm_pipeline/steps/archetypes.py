"""Archetypes: features of tenants, the indexes over tuning tenants, and their retrieval results.

What belongs here: the history that each index and each query may use, and the tables of the group
`archetypes`. What does not: the computation of features and similarity (`archetypes`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.archetypes.features import (
    feature_names,
    retrieval_features,
    tenant_features,
    window_features,
    window_starts,
)
from tsfm_pipeline.archetypes.index import ArchetypeIndex, WindowIndex
from tsfm_pipeline.catalogue.arrays import Requests
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.requests import tested_folds, tuning_mask
from tsfm_pipeline.lake import arrays_frame
from tsfm_pipeline.steps.evidence import tunes

N_VOTERS = 5
WINDOWS_PER_TENANT = 24
RETRIEVAL_SCHEMA = {
    "tenant_number": pl.Int32,
    "tenant_id": pl.String,
    "fold": pl.Int32,
    "history": pl.String,
    "query_step": pl.Int32,
    "actual": pl.String,
    "retrieved": pl.String,
}


@dataclass(frozen=True)
class Retrieved:
    """The nearest tuning tenants of R queries.

    rows: positions among the fold's tuning tenants [R, k]; similarity [R, k]; labels: the archetype
    with the most votes [R], "" where unknown.
    """

    rows: NDArray[np.int64]
    similarity: NDArray[np.float64]
    labels: NDArray[np.str_]


def tuning_end(fleet: Fleet) -> int:
    """Return the first step of the earliest test period. Whatever is shared across tenants is made
    only from steps before it.
    """
    return int(fleet.manifest["test_start_step"].to_numpy().min())


def tenant_features_shard(fleet: Fleet, shard: Sequence[int]) -> pl.DataFrame:
    """Return 7 features per metric of each tenant of the shard, from its history before any test
    period.
    """
    features = tenant_features(fleet.arrays.values(shard)[..., : tuning_end(fleet)])
    names = feature_names(fleet.grid.metrics)
    numbers = np.asarray(shard, np.int32)
    return pl.DataFrame({"tenant_number": numbers, **dict(zip(names, features.T, strict=True))})


def archetype_index(fleet: Fleet) -> pl.DataFrame:
    """Return the table of the indexes: one row per array.

    It is made whole, because the features are standardised over all tuning tenants of a fold, and
    every query compares a tenant with all of them. It reads one shard of telemetry at a time and
    keeps the features of the cohort's tuning tenants in memory.
    """
    return arrays_frame(index_arrays(fleet))


def index_arrays(fleet: Fleet) -> dict[str, NDArray[Any]]:
    """Return the arrays of each test fold's indexes over its tuning tenants: for the full history,
    the request's window, and each cold-start length.
    """
    end, seed = tuning_end(fleet), fleet.settings.evaluation.seed
    tuners = np.flatnonzero(tunes(fleet))
    ids = fleet.tenant_ids[tuners]
    archetypes = np.array(
        fleet.manifest["archetype"].gather(tuners).fill_null("").to_list(), dtype=str
    )
    lengths = _window_lengths(fleet)
    full, windows = [], {name: [] for name in lengths}  # type: ignore[var-annotated]
    for _, own in fleet.shards_of(tuners):
        values = fleet.arrays.values(own)[..., :end]
        full.append(retrieval_features(values))
        for name, length in lengths.items():
            if name == "request":
                starts = np.full((len(own), 1), end - length)
            else:
                starts = window_starts(own.tolist(), 0, end - 1, length, WINDOWS_PER_TENANT, seed)
            windows[name].append(window_features(values, starts, length))
    all_full = np.concatenate(full)
    all_windows = {name: np.concatenate(parts) for name, parts in windows.items()}
    arrays: dict[str, NDArray[Any]] = {}
    for fold in tested_folds(fleet.folds):
        is_tuning = tuning_mask(fleet.folds, fold)[tuners]
        tenants = (ids[is_tuning].tolist(), archetypes[is_tuning].tolist())
        stored = {"full": ArchetypeIndex.fit(all_full[is_tuning], *tenants).to_arrays()}
        for name, length in lengths.items():
            stored[name] = WindowIndex.fit(
                all_windows[name][is_tuning], *tenants, length
            ).to_arrays()
        arrays |= {
            f"{fold}/{name}/{key}": array
            for name, parts in stored.items()
            for key, array in parts.items()
        }
    return arrays


def fit_request_index(fleet: Fleet, tenants: NDArray[np.bool_]) -> WindowIndex:
    """Return the window index for requests over any tenants of the cohort, bool [N]. Over a fold's
    tuning tenants it equals the stored one.
    """
    end, length = tuning_end(fleet), _window_lengths(fleet)["request"]
    parts = [
        window_features(
            fleet.arrays.values(own)[..., :end], np.full((len(own), 1), end - length), length
        )
        for _, own in fleet.shards_of(np.flatnonzero(tenants))
    ]
    selected = fleet.manifest.filter(tenants)
    archetypes = selected["archetype"].fill_null("").to_list()
    return WindowIndex.fit(
        np.concatenate(parts), selected["tenant_id"].to_list(), archetypes, length
    )


@lru_cache(maxsize=8)
def full_index(fleet: Fleet, fold: int) -> ArchetypeIndex:
    """Return a fold's stored index over full histories."""
    return ArchetypeIndex.from_arrays(_stored(fleet, fold, "full"))


@lru_cache(maxsize=64)
def window_index(fleet: Fleet, fold: int, name: str) -> WindowIndex:
    """Return a stored window index of a fold: `request`, or a cold-start length in minutes."""
    return WindowIndex.from_arrays(_stored(fleet, fold, name))


def retrieve(
    fleet: Fleet, fold: int, requests: Requests, name: str = "request", k: int = N_VOTERS
) -> Retrieved:
    """Return the nearest tuning tenants of each request [R] of a fold, by one of the fold's stored
    window indexes.
    """
    return retrieve_from(window_index(fleet, fold, name), fleet, requests, k)


def retrieve_from(index: WindowIndex, fleet: Fleet, requests: Requests, k: int) -> Retrieved:
    """Return the nearest tuning tenants of each request [R] by its last window up to the origin,
    without its own tenant; none if that is the index's only tenant.
    """
    ids = fleet.tenant_ids[requests.tenant_numbers]
    if len(index.index.tenant_ids) == 1 and index.index.tenant_ids.tolist() == ids[:2].tolist():
        n_requests = requests.ids.size
        return Retrieved(
            np.empty((n_requests, 0), np.int64),
            np.empty((n_requests, 0)),
            np.full(n_requests, "", dtype=str),
        )
    parts = []
    for in_shard, values in fleet.arrays.values_by_shard(requests.tenant_numbers):
        windows = windows_before(
            values, np.arange(len(values)), requests.origins[in_shard], index.length
        )
        own_ids = np.repeat(ids[in_shard], requests.origins.shape[1]).tolist()
        neighbours = index.query(windows, k, own_ids)
        labels = (
            index.vote(neighbours)
            if _labelled(index.index)
            else np.full(len(own_ids), "", dtype=str)
        )
        parts.append(Retrieved(neighbours.indices, neighbours.similarity, labels))
    k_found = min(part.rows.shape[1] for part in parts)
    return Retrieved(
        np.concatenate([part.rows[:, :k_found] for part in parts]),
        np.concatenate([part.similarity[:, :k_found] for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )


def windows_before(
    values: NDArray[np.float32], rows: NDArray[np.int64], origins: NDArray[np.int64], length: int
) -> NDArray[np.float32]:
    """Return the `length` steps up to each origin: values [N, D, T], rows [M], origins [M, O] ->
    [M * O, D, length]; NaN before the first step.
    """
    steps = origins[..., None] - np.arange(length - 1, -1, -1)  # [M, O, L]
    picked = values[rows[:, None, None], :, np.maximum(steps, 0)]  # [M, O, L, D]
    picked = np.where((steps >= 0)[..., None], picked, np.nan)
    return np.ascontiguousarray(
        picked.reshape(-1, length, values.shape[1]).swapaxes(1, 2), dtype=np.float32
    )


def archetype_retrieval_shard(fleet: Fleet, shard: Sequence[int]) -> pl.DataFrame:
    """Return the retrieved and the true archetype of every test tenant of the shard, from its full
    history and from each cold-start length before its valid requests; no rows in a fleet of unknown
    archetypes, or of one tenant.

    The full history ends where the fleet's first test period begins. Tenants that start later have
    no such row.
    """
    nothing = pl.DataFrame(schema=RETRIEVAL_SCHEMA)
    if fleet.manifest.height == 1:
        return nothing
    end = tuning_end(fleet)
    own = fleet.manifest[list(shard)].filter(pl.col("archetype").is_not_null())
    frames = [nothing]
    for (fold,), tested in own.filter(pl.col("fold") >= 0).group_by("fold", maintain_order=True):
        index = full_index(fleet, int(fold))
        if not _labelled(index):
            continue
        numbers = tested["tenant_number"].to_numpy().astype(np.int64)
        features = retrieval_features(fleet.arrays.values(numbers)[..., :end])
        votes = index.vote(index.query(features, N_VOTERS, tested["tenant_id"].to_list()))
        rows = _retrieval_rows(
            tested, int(fold), "full", np.full((len(numbers), 1), end - 1), votes
        )
        frames.append(rows.filter(tested["first_step"] < end))
        requests = fleet.arrays.requests("test", only=numbers.tolist())
        for minutes in fleet.settings.evaluation.cold_start_minutes:
            if str(minutes) in _window_lengths(fleet):
                votes = retrieve(fleet, int(fold), requests, str(minutes)).labels
                frames.append(
                    _retrieval_rows(
                        tested, int(fold), str(minutes), requests.origins, votes
                    ).filter(requests.valid.ravel())
                )
    return pl.concat(frames).sort("fold", "history", "tenant_number", "query_step")


def _retrieval_rows(
    tested: pl.DataFrame, fold: int, history: str, steps: NDArray[np.int64], votes: NDArray[np.str_]
) -> pl.DataFrame:
    repeated = tested.select("tenant_number", "tenant_id", "archetype")[
        np.repeat(np.arange(tested.height), steps.shape[1])
    ]
    return pl.DataFrame(
        {
            "tenant_number": repeated["tenant_number"],
            "tenant_id": repeated["tenant_id"],
            "fold": np.full(repeated.height, fold, np.int32),
            "history": [history] * repeated.height,
            "query_step": steps.ravel().astype(np.int32),
            "actual": repeated["archetype"],
            "retrieved": votes.tolist(),
        },
        schema=RETRIEVAL_SCHEMA,
    )


def request_window(fleet: Fleet) -> int:
    """Return the length of the windows by which requests retrieve tenants, in steps: a week, or all
    steps before the test period, if they are fewer.
    """
    return min(7 * fleet.grid.steps_per_day, tuning_end(fleet))


def _window_lengths(fleet: Fleet) -> dict[str, int]:
    """Return the window length of each stored window index, in steps: for requests, and the
    cold-start lengths.
    """
    grid, end = fleet.grid, tuning_end(fleet)
    lengths = {"request": request_window(fleet)}
    lengths |= {
        str(minutes): grid.steps(minutes)
        for minutes in fleet.settings.evaluation.cold_start_minutes
    }
    return {name: length for name, length in lengths.items() if 2 <= length <= end}


def _stored(fleet: Fleet, fold: int, name: str) -> dict[str, NDArray[Any]]:
    prefix = f"{fold}/{name}/"
    return {
        key.removeprefix(prefix): array
        for key, array in fleet.arrays.archetype_index.items()
        if key.startswith(prefix)
    }


def _labelled(index: ArchetypeIndex) -> bool:
    return bool((index.archetypes != "").any())
