"""How much each field of the settings matters for an experiment's objective.

What belongs here: a random forest over the ledger's changes, and the permutation importance of each
field. What does not: reading the ledger (`numbers`), drawing (`figures`).

Fields are judged by the order of experiments and not by their losses, because a few very poor
policies would otherwise decide every figure.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.studies.policy_search.policy import DEFAULT
from tsfm_pipeline.studies.policy_search.report.model import ImportanceRow

LEAST_EXPERIMENTS = 30
"""With fewer, the held-out third holds too few experiments to judge a forest."""
N_FORESTS = 40
N_TREES = 30
INFINITE = 1e9
"""Stands for infinity; a tree only compares."""


def field_importance(
    changes: Sequence[Mapping[str, Any]], objectives: NDArray[np.float64], seed: int
) -> tuple[tuple[ImportanceRow, ...], Estimate]:
    """Return the importance of every field that differs, most important first, and the R2 of
    the forest on held-out experiments.

    changes [N]: each policy's changed fields; objectives [N]. Each of `N_FORESTS` forests learns
    the rank of the experiments of one bootstrap draw, and is judged on the experiments that are not
    in it (permutation importance: Breiman, 2001, "Random forests"). The limits hold 95 % of the
    draws. Returns no rows and NaN for fewer than `LEAST_EXPERIMENTS` experiments, or without any
    difference between them.
    """
    if len(changes) < LEAST_EXPERIMENTS or len(np.unique(objectives)) < 2:
        return (), Estimate()
    fields, codes, encodings = _encoded(changes)
    if not fields:
        return (), Estimate()
    drops, scores = _judged(codes, encodings, _ranks(objectives), seed)
    rows = [
        ImportanceRow(field=name, importance=_estimate(drops[:, i]))
        for i, name in enumerate(fields)
    ]
    return tuple(sorted(rows, key=lambda row: -row.importance.figure)), _estimate(scores)


def _judged(
    codes: NDArray[np.int64], encodings: list[NDArray[np.float64]], ranks: Any, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the drop of R2 by draw and field [B, F], and R2 by draw [B].

    A field is shuffled as a whole, though the forest may see it as several numbers: the forest is
    given codes of values, which its pipeline turns into those numbers.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    def numbers(coded: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.hstack([table[coded[:, i]] for i, table in enumerate(encodings)])

    drops, scores = [], []
    for draw in np.random.default_rng(seed).integers(len(ranks), size=(N_FORESTS, len(ranks))):
        held_out = np.setdiff1d(np.arange(len(ranks)), draw)
        forest = RandomForestRegressor(N_TREES, min_samples_leaf=2, random_state=seed)
        model = make_pipeline(FunctionTransformer(numbers), forest)
        model.fit(codes[draw], ranks[draw])
        scores.append(model.score(codes[held_out], ranks[held_out]))
        drops.append(
            permutation_importance(
                model,
                codes[held_out],
                ranks[held_out],
                n_repeats=1,
                random_state=seed,
            ).importances_mean
        )
    return np.asarray(drops), np.asarray(scores)


def _ranks(objectives: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.stats import rankdata

    return np.asarray(rankdata(objectives), dtype=np.float64)


def _encoded(
    changes: Sequence[Mapping[str, Any]],
) -> tuple[list[str], NDArray[np.int64], list[NDArray[np.float64]]]:
    """Return the fields that differ between experiments, each experiment's value of each field as a
    code [N, F], and for each field the numbers of every code [V, W].
    """
    default = DEFAULT.model_dump(mode="json")
    fields, codes, encodings = [], [], []
    for name in sorted({name for policy in changes for name in policy}):
        texts = [
            json.dumps(policy.get(name, default.get(name)), sort_keys=True) for policy in changes
        ]
        distinct = sorted(set(texts))
        if len(distinct) > 1:
            fields.append(name)
            codes.append([distinct.index(text) for text in texts])
            encodings.append(_numbers([json.loads(text) for text in distinct]))
    return fields, np.array(codes, dtype=np.int64).T, encodings


def _numbers(values: Sequence[Any]) -> NDArray[np.float64]:
    """Return the distinct values of one field as numbers [V, W].

    A number stands for itself, a list of numbers for its length, ends and mean; other lists,
    mappings and names for their members.
    """
    flat = [_members(value) for value in values]
    columns = sorted({name for members in flat for name in members})
    return np.array([[members.get(name, 0.0) for name in columns] for members in flat])


def _members(value: Any) -> dict[str, float]:
    if isinstance(value, Mapping):
        return {str(name): _number(each) for name, each in value.items()}
    if isinstance(value, list):
        if value and all(_is_number(each) for each in value):
            numbers = [_number(each) for each in value]
            ends = {"lowest": min(numbers), "highest": max(numbers)}
            return {"length": len(numbers), "mean": float(np.mean(numbers)), **ends}
        return {str(each): 1.0 for each in value}
    if _is_number(value):
        return {"value": _number(value), "given": 1.0}
    return {str(value): 1.0}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or value in ("Infinity", "-Infinity")


def _number(value: Any) -> float:
    return float(np.clip(float(value), -INFINITE, INFINITE))


def _estimate(draws: NDArray[np.float64]) -> Estimate:
    if not math.isfinite(draws.sum()):
        return Estimate()
    low, high = np.quantile(draws, (0.025, 0.975))
    return Estimate(float(draws.mean()), float(low), float(high))
