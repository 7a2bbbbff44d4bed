"""Sampling within groups: which G of k G completions of a question an update learns from.

What belongs here: the three ways of keeping completions by their rewards (local, cluster, all).
What does not: how completions are drawn from a policy (`policy`), and their rewards (`rewards`).

None of them is an importance-weighted correction: a completion that beats the mean of all k G may
lie below the mean of those that are kept. `grip_loop` therefore logs both means.
"""

from typing import Literal

import numpy as np
from sklearn.cluster import KMeans

from tsfm_pipeline.studies.time_r1.windows import Floats, Ints

CLUSTERS = 4
"""Of the rewards of one question. Failures, which all have reward -1, form one; so do the worst and
the best answers, and each of them gives about a quarter of the group."""


def kept(
    rewards: Floats,
    group: int,
    kind: Literal["local", "cluster", "all"],
    rng: np.random.Generator,
    clusters: int = CLUSTERS,
) -> Ints:
    """Return which completions of each question are kept, ascending and without repeats [B, G].

    rewards: [B, k G]. kind: `local` keeps the best of every k completions in a row; `cluster`
    draws G at random across clusters of similar reward; `all` keeps all and needs k = 1. Raises
    ValueError if a reward is not finite, or k G is not a multiple of G, or k is not 1 for `all`.
    """
    _require(rewards, group, kind)
    if kind == "all":
        return np.tile(np.arange(group), (len(rewards), 1))
    if kind == "local":
        return local(rewards, group)
    return np.stack([cluster(row, group, rng, clusters) for row in rewards])


def local(rewards: Floats, group: int) -> Ints:
    """Return the best of every k completions in a row [B, G], the first of equal ones.

    Completions are independent draws, so that k in a row are k at random.
    """
    parts = rewards.reshape(len(rewards), group, -1)
    return parts.argmax(-1) + np.arange(group) * parts.shape[-1]


def cluster(rewards: Floats, group: int, rng: np.random.Generator, clusters: int) -> Ints:
    """Return G of one question's completions [k G], drawn at random across clusters [G].

    Clusters give one completion each in turn, without repeats, until G are drawn: every cluster is
    represented if there are at most G of them. The draw goes by rank, so that with distinct rewards
    it does not depend on the order of the completions.
    """
    order = np.argsort(rewards, kind="stable")
    labels = _clusters(rewards[order], clusters)
    ties = rng.random(len(rewards))
    turns = np.empty(len(rewards), np.int64)
    for label in range(labels.max() + 1):
        members = np.flatnonzero(labels == label)
        turns[members] = rng.permutation(len(members))
    return np.sort(order[np.lexsort((ties, turns))[:group]])


def _clusters(ascending: Floats, clusters: int) -> Ints:
    """Return the cluster of each of the ascending rewards, by K-means that begins at evenly spaced
    ranks of the distinct ones and so has no randomness.
    """
    # Differences of rounding make no clusters.
    rewards = ascending.round(9)
    distinct, inverse = np.unique(rewards, return_inverse=True)
    n = min(clusters, len(distinct))
    if n == len(distinct):
        return inverse
    ranks = np.linspace(0, len(distinct) - 1, n).round().astype(int)
    found = KMeans(n, init=distinct[ranks, None], n_init=1).fit_predict(rewards[:, None])
    return np.unique(found, return_inverse=True)[1]


def _require(rewards: Floats, group: int, kind: str) -> None:
    if rewards.ndim != 2 or not np.isfinite(rewards).all():
        raise ValueError(
            f"rewards of shape {rewards.shape} with {int((~np.isfinite(rewards)).sum())} values "
            f"that are not finite; finite [B, k G] is expected"
        )
    drawn = rewards.shape[1]
    if drawn % group or (kind == "all" and drawn != group):
        allowed = "G" if kind == "all" else "a multiple of G"
        raise ValueError(
            f"{drawn} completions of a question with G = {group} and {kind} sampling; {allowed} "
            f"is expected"
        )
