"""Scores: every method on every test request, in long format.

What belongs here: building each method's forecasts from the tables, and the rows of their scores.
What does not: scoring rules (`evaluation.scoring`), aggregation (`steps.headline`).
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch import rules
from tsfm_pipeline.autoresearch.policy import Decision, level_unit
from tsfm_pipeline.baselines import direct_forecasters
from tsfm_pipeline.baselines.combinations import (
    TierChoices,
    last_window_weights,
    one_hot,
    per_tenant_weights,
    random_weights,
    reachable,
)
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.rows import keyed_rows
from tsfm_pipeline.evaluation.arrays import given
from tsfm_pipeline.evaluation.losses import decision_quantile
from tsfm_pipeline.evaluation.methods import (
    CONFIG_PER_ARCHETYPE,
    CONFIG_PER_METRIC,
    CONFIG_PER_TENANT,
    CONFIG_PREFIX,
    FIXED,
    FIXED_CORRECTED,
    FIXED_MEDIAN,
    FIXED_SHIFTED,
    LAST_WINDOW_WINNER,
    RANDOM_CONFIG,
    RULE_PREFIX,
    SEARCH,
    SEARCH_DESPITE_EVENTS,
    SEARCH_UNCORRECTED,
    STATIC_ENSEMBLE,
    UNIFORM_AVERAGE,
)
from tsfm_pipeline.evaluation.scoring import SCORE_COLUMNS, MethodForecast, score
from tsfm_pipeline.steps.evidence import Floats, SearchBatch, loss_columns, target_arrays
from tsfm_pipeline.steps.known_events import has_events
from tsfm_pipeline.steps.policies import read_shared_choices


def scored_forecasts_shard(fleet: Fleet, shard: Sequence[int]) -> pl.DataFrame:
    """Return the scores of every method at every test request of the shard: request x metric x
    method x tier.
    """
    requests = fleet.arrays.requests("test", shard)
    numbers, tiers = requests.tenants, list(fleet.protocol.tiers)
    if not len(numbers):
        axes = {"metric": fleet.grid.metrics, "method": [""], "tier": tiers}
        nothing = np.empty((0, len(fleet.grid.metrics), 1, len(tiers)), np.float32)
        return keyed_rows(
            requests.ids.ravel(),
            numbers,
            axes,
            dict.fromkeys((*SCORE_COLUMNS, "scaled_loss"), nothing),
        )
    actual, scale = target_arrays(fleet, requests)
    frames = []
    for name, forecast in methods(fleet, SearchBatch(fleet, requests)):
        columns = score(actual, forecast, fleet.protocol.alphas)
        columns["scaled_loss"] = (columns["loss"] / scale[..., None]).astype(np.float32)
        axes = {"metric": fleet.grid.metrics, "method": [name], "tier": tiers}
        frames.append(
            keyed_rows(
                requests.ids.ravel(), numbers, axes, {c: v[:, :, None] for c, v in columns.items()}
            )
        )
    return pl.concat(frames).sort("request_id", "metric", "method", "tier")


def methods(fleet: Fleet, batch: SearchBatch) -> Iterator[tuple[str, MethodForecast]]:
    """Yield every method's forecasts at the batch's requests: baselines, single configurations,
    rivals, the search.
    """
    yield from unsearched(fleet, batch)
    for rule in rules.RULES:
        yield f"{RULE_PREFIX}{rule}", _decided(batch.decide(rule, correct=False))
    yield SEARCH_UNCORRECTED, _decided(batch.decide(correct=False))
    if has_events(fleet):
        despite = batch.decide(evidence=batch.evidence_of_every_origin)
        yield SEARCH_DESPITE_EVENTS, _decided(despite)
    yield SEARCH, searched(fleet, batch)


def unsearched(fleet: Fleet, batch: SearchBatch) -> Iterator[tuple[str, MethodForecast]]:
    """Yield the forecasts of the methods without a search, as they may be emitted: baselines,
    single configurations, rivals.
    """
    for name, forecast in _as_made(fleet, batch):
        yield name, forecast.emitted(fleet.protocol.alphas, fleet.arrays.limits)


def _as_made(fleet: Fleet, batch: SearchBatch) -> Iterator[tuple[str, MethodForecast]]:
    n_metrics, horizon = len(fleet.grid.metrics), fleet.spec.horizon
    names = list(direct_forecasters())
    (direct,) = fleet.arrays.of(
        "baseline_forecasts", batch.requests, ["deciles"], (n_metrics, len(names))
    )
    direct = direct.reshape(*direct.shape[:3], horizon, 9)
    for m, name in enumerate(names):
        yield name, MethodForecast.from_deciles(direct[:, :, m], fleet.protocol.alphas)
    for k, config in enumerate(fleet.configs):
        yield (
            f"{CONFIG_PREFIX}{config.name}",
            MethodForecast.from_deciles(batch.all_deciles[:, :, k], fleet.protocol.alphas),
        )
    yield from rivals(fleet, batch)


def searched(fleet: Fleet, batch: SearchBatch) -> MethodForecast:
    """Return the stored forecasts of the search."""
    shape = (len(fleet.grid.metrics), len(fleet.protocol.tiers))
    decision, deciles = fleet.arrays.of(
        "autoresearch_forecasts", batch.requests, ["decision", "deciles"], shape
    )
    return MethodForecast(decision, deciles.reshape(*decision.shape, 9))


def _decided(decision: Decision) -> MethodForecast:
    return MethodForecast(decision.decision, decision.deciles)


def rivals(fleet: Fleet, batch: SearchBatch) -> Iterator[tuple[str, MethodForecast]]:
    """Yield the baselines over the model's grid: weights over its configurations without a search.

    A choice that is unavailable at a request is replaced there by the fold's `fallback_config`, and
    if that is unavailable too, by all available configurations. Every request that the search
    answers therefore has a fixed forecast to compare with. A random configuration may fail.
    """
    choices, tiers = read_shared_choices(fleet), fleet.protocol.tiers
    evidence, violations = batch.evidence
    _, violation_priors = batch.priors
    available = given(batch.deciles)
    n_requests, n_metrics, n_configs = available.shape
    fold_of = [int(fold) for fold in batch.folds]
    archetypes = _retrieved_archetypes(fleet, batch)
    stand_ins = {
        tier: np.array(
            [[choices[fold].tiers[tier].fallback_config] for fold in fold_of], dtype=np.int64
        )
        for tier in tiers
    }

    def per_request(pick: Callable[[TierChoices, int], Floats], tier: str) -> Floats:
        """Return weights [R, D, K] of a shared choice of each request's fold."""
        rows = [pick(choices[fold].tiers[tier], r) for r, fold in enumerate(fold_of)]
        return reachable(
            np.asarray(rows, dtype=np.float64).reshape(available.shape), available, stand_ins[tier]
        )

    def everywhere(weight: Floats) -> Floats:
        return np.broadcast_to(weight, (n_metrics, n_configs))

    def fixed(choice: TierChoices, _: int) -> Floats:
        return everywhere(one_hot(choice.fixed_config, n_configs))

    def per_metric(choice: TierChoices, _: int) -> Floats:
        return one_hot(np.asarray(choice.metric_configs), n_configs)

    def per_archetype(choice: TierChoices, request: int) -> Floats:
        return everywhere(
            one_hot(
                choice.archetype_configs.get(archetypes[request], choice.fixed_config), n_configs
            )
        )

    def ensemble(choice: TierChoices, _: int) -> Floats:
        return everywhere(np.asarray(choice.ensemble_weights))

    weights: dict[str, list[Floats]] = {
        FIXED: [per_request(fixed, tier) for tier in tiers],
        CONFIG_PER_METRIC: [per_request(per_metric, tier) for tier in tiers],
        CONFIG_PER_ARCHETYPE: [per_request(per_archetype, tier) for tier in tiers],
        STATIC_ENSEMBLE: [per_request(ensemble, tier) for tier in tiers],
    }
    fallback = [
        np.array([[choices[fold].tiers[tier].fixed_config] for fold in fold_of], dtype=np.int64)
        for tier in tiers
    ]
    own = _own_choice(fleet, batch, fallback)
    winners = [last_window_weights(evidence[..., a], fallback[a]) for a in range(len(tiers))]
    for name, chosen in ((CONFIG_PER_TENANT, own), (LAST_WINDOW_WINNER, winners)):
        weights[name] = [
            reachable(weight, available, stand_ins[tier])
            for tier, weight in zip(tiers, chosen, strict=True)
        ]
    weights[RANDOM_CONFIG] = [
        np.repeat(_random_choice(fleet, batch)[:, None], n_metrics, axis=1)
    ] * len(tiers)
    weights[UNIFORM_AVERAGE] = [
        available / np.maximum(available.sum(axis=-1, keepdims=True), 1)
    ] * len(tiers)

    alphas = fleet.protocol.alphas
    for name, per_tier in weights.items():
        yield name, _weighted(batch.deciles, per_tier, alphas)
    shifts = [
        np.array([choices[fold].tiers[tier].shift for fold in fold_of])[:, None] for tier in tiers
    ]
    yield (
        FIXED_SHIFTED,
        _weighted(
            batch.deciles, weights[FIXED], alphas, [np.repeat(s, n_metrics, axis=1) for s in shifts]
        ),
    )
    corrections = [np.full((n_requests, n_metrics), np.nan) for _ in tiers]
    for fold in np.unique(batch.folds):
        in_fold, policy = batch.folds == fold, batch.policies[int(fold)]
        for a, (tier, alpha) in enumerate(tiers.items()):
            violation_evidence = (
                violations[in_fold][..., a],
                violation_priors[in_fold][..., a],
                weights[FIXED][a][in_fold],
            )
            corrections[a][in_fold] = policy.tiers[tier].fixed_correction.shift(
                *violation_evidence, alpha, policy.offsets, policy.season
            )
    yield FIXED_CORRECTED, _weighted(batch.deciles, weights[FIXED], alphas, corrections)
    medians = np.array([[choices[fold].median_config] for fold in fold_of], dtype=np.int64)
    median_weights = reachable(
        np.broadcast_to(one_hot(medians, n_configs), available.shape), available, medians
    )
    median_deciles = rules.combine(median_weights, batch.deciles)
    median = np.repeat(median_deciles[:, :, None, :, 4], len(tiers), axis=2)
    yield FIXED_MEDIAN, MethodForecast(median, median_deciles[:, :, None])


def _weighted(
    deciles: Floats,
    weights: Sequence[Floats],
    alphas: Sequence[float],
    shifts: Sequence[Floats] | None = None,
) -> MethodForecast:
    """Return quantile averages under the weights of each tier ([R, D, K] each), with level shifts
    [R, D] in units of q.9 - q.5.
    """
    combined = np.stack(
        [rules.combine(weight, deciles) for weight in weights], axis=2
    )  # [R, D, A, H, 9]
    decision = np.stack(
        [decision_quantile(combined[:, :, a], alpha) for a, alpha in enumerate(alphas)], axis=2
    )
    if shifts is not None:
        decision = decision + np.stack(shifts, axis=2)[..., None] * level_unit(combined)
    return MethodForecast(decision, combined)


def _random_choice(fleet: Fleet, batch: SearchBatch) -> Floats:
    """Return weights [R, K] that put 1 on a random configuration of each request's portfolio."""
    ids, seed = batch.requests.ids.ravel(), fleet.settings.evaluation.seed
    weights = np.zeros(batch.members.shape)
    for fold in np.unique(batch.folds):
        rows, portfolio = (
            np.flatnonzero(batch.folds == fold),
            np.flatnonzero(fleet.portfolio_mask(int(fold))),
        )
        weights[np.ix_(rows, portfolio)] = random_weights(ids[rows], len(portfolio), seed)
    return weights


def _own_choice(
    fleet: Fleet, batch: SearchBatch, fallback: Sequence[NDArray[np.int64]]
) -> list[Floats]:
    """Return weights [R, D, K] per tier of one configuration per series, chosen on the tenant's own
    requests before the test period; fallback [R, 1] per tier.
    """
    before = fleet.arrays.requests("tuning", only=batch.requests.tenant_numbers.tolist())
    shape = (len(fleet.grid.metrics), len(fleet.configs))
    losses = fleet.arrays.of("tuning_losses", before, loss_columns(fleet.protocol.tiers), shape)
    n_origins = batch.requests.ids.shape[1]
    per_tier = []
    usable = before.valid.reshape(-1, 1) & np.repeat(
        batch.members[::n_origins], before.ids.shape[1], axis=0
    )  # [R, K]
    for own, default in zip(losses, fallback, strict=True):
        masked = np.where(usable[:, None], own, np.nan)
        by_tenant = masked.reshape(*before.ids.shape, *shape).swapaxes(1, 2)  # [N, D, O, K]
        per_tier.append(
            np.repeat(per_tenant_weights(by_tenant, default[::n_origins]), n_origins, axis=0)
        )
    return per_tier


def _retrieved_archetypes(fleet: Fleet, batch: SearchBatch) -> NDArray[np.str_]:
    """Return the retrieved archetype of each request [R], "" if the fleet has none."""
    ids = batch.requests.ids.ravel().tolist()
    table = (
        fleet.arrays.rows("config_priors", batch.requests)
        .select("request_id", "archetype")
        .unique()
        .collect()
    )
    labels = dict(zip(table["request_id"], table["archetype"].fill_null(""), strict=True))
    return np.array([labels[i] for i in ids], dtype=str)
