"""Cold start: what requests of tenants with little history cost, by strategy.

What belongs here: truncating histories, the small configurations that fit them, the strategies, and
the tables `cold_start_tuning_losses` and `cold_start_losses`. What does not: comparing strategies
(`reports.cold_start`), priors and rules (`autoresearch`), retrieval (`steps.archetypes`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch import rules
from tsfm_pipeline.autoresearch.evidence import GridForecaster, forecast_with_evidence
from tsfm_pipeline.autoresearch.priors import TenantExperience
from tsfm_pipeline.baselines.combinations import best_available, one_hot
from tsfm_pipeline.catalogue.arrays import Requests
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.rows import keyed_rows
from tsfm_pipeline.evaluation.arrays import given, mean_of_known, tier_losses
from tsfm_pipeline.evaluation.methods import SEARCH
from tsfm_pipeline.forecaster.config import ForecastConfig
from tsfm_pipeline.steps.archetypes import Retrieved, retrieve
from tsfm_pipeline.steps.evidence import (
    Floats,
    by_request,
    loss_columns,
    read_policies,
    target_arrays,
    tunes,
)
from tsfm_pipeline.steps.policies import folds_and_tuners, request_priors

PRIORS = ("fleet_prior", "retrieved_prior", "true_label_prior")
STRATEGIES = ("fixed_config", "fleet_prior", "full_history", "no_prior", *PRIORS[1:])


@dataclass(frozen=True)
class ShortSample:
    """Forecasts and outcomes of requests under the small configurations.

    deciles [R, D, K, H, 9], evidence [R, D, K, J, A], actual [R, D, H], losses [R, D, K, A], scale
    [R, D].
    """

    deciles: Floats
    evidence: Floats
    actual: Floats
    losses: Floats
    scale: Floats


@dataclass(frozen=True)
class Taught:
    """What the tuning tenants of a fold teach about the small configurations.

    fixed: the best single one [M, A] for each of M lengths of history. archetypes: of the tuning
    tenants, "" where unknown.
    """

    known: TenantExperience
    fixed: NDArray[np.int64]
    archetypes: NDArray[np.str_]


def short_configs(fleet: Fleet) -> tuple[ForecastConfig, ...]:
    """Return contexts of the cold-start lengths and of half of each, in steps, at least two."""
    grid = fleet.grid
    lengths = {
        grid.steps(minutes) // part
        for minutes in fleet.settings.evaluation.cold_start_minutes
        for part in (1, 2)
    }
    return tuple(ForecastConfig(context_len=length) for length in sorted(lengths) if length >= 2)


def cold_start_tuning_losses_shard(
    fleet: Fleet, shard: Sequence[int], forecaster: GridForecaster
) -> pl.DataFrame:
    """Return the losses of the small configurations at every tuning request of the shard's tuning
    tenants: request x metric x configuration.
    """
    configs, tiers = short_configs(fleet), fleet.protocol.tiers
    requests = fleet.arrays.requests("tuning", shard, only=_of(shard, tunes(fleet)))
    losses: Floats = np.empty(
        (requests.ids.size, len(fleet.grid.metrics), len(configs), len(tiers))
    )
    if losses.size:
        losses = _sample(fleet, forecaster, requests, configs, ()).losses
    return keyed_rows(
        requests.ids.ravel(),
        requests.tenants,
        {"metric": fleet.grid.metrics, "config": [config.name for config in configs]},
        {name: losses[..., a].astype(np.float32) for a, name in enumerate(loss_columns(tiers))},
    ).cast({"config": pl.String})


def cold_start_experience(fleet: Fleet) -> dict[int, Taught]:
    """Return what the tuning tenants of each test fold teach. It is read from all parts of the
    tuning losses, and every shard needs all of it.
    """
    configs, lengths = short_configs(fleet), usable_lengths(fleet)
    shape = (len(fleet.grid.metrics), len(configs))
    taught = {}
    for fold, tuners in folds_and_tuners(fleet) if lengths else ():
        requests = fleet.arrays.requests("tuning", only=tuners.tolist())
        _, scale = target_arrays(fleet, requests)
        columns = loss_columns(fleet.protocol.tiers)
        losses = fleet.arrays.of("cold_start_tuning_losses", requests, columns, shape)
        scaled = np.stack(losses, axis=-1) / scale[..., None, None]  # [R, D, K, A]
        scaled[~requests.valid.ravel()] = np.nan
        taught[fold] = Taught(
            known=TenantExperience.from_requests(
                scaled.reshape(*requests.ids.shape, *scaled.shape[1:]),
                fleet.tenant_ids[tuners],
            ),
            fixed=np.array(
                [
                    [
                        best_available(np.where(_fits(configs, steps), scaled[..., a], np.nan))
                        for a in range(scaled.shape[-1])
                    ]
                    for steps in lengths.values()
                ]
            ),
            archetypes=fleet.archetypes[tuners],
        )
    return taught


def usable_lengths(fleet: Fleet) -> dict[int, int]:
    """Return the cold-start lengths that hold one of the small configurations: steps by minutes."""
    lengths = {
        minutes: fleet.grid.steps(minutes)
        for minutes in fleet.settings.evaluation.cold_start_minutes
    }
    shortest = min((config.context_len for config in short_configs(fleet)), default=None)
    return {m: steps for m, steps in lengths.items() if shortest and shortest <= steps}


def cold_start_losses_shard(
    fleet: Fleet,
    shard: Sequence[int],
    forecaster: GridForecaster,
    experience_of: Mapping[int, Taught],
) -> pl.DataFrame:
    """Return the scaled loss of every strategy at each test request of the shard: request x minutes
    x tier x strategy; NaN at invalid requests, and for the prior of true labels where a tenant of
    the fold has none.

    experience_of: what `cold_start_experience` returns.
    """
    lengths, tiers = usable_lengths(fleet), fleet.protocol.tiers
    axes: dict[str, list[Any]] = {
        "minutes": list(lengths),
        "tier": list(tiers),
        "strategy": list(STRATEGIES),
    }
    nothing = np.empty((0, len(lengths), len(tiers), len(STRATEGIES)), np.float32)
    none = np.empty(0, np.int64)
    frames = [keyed_rows(none, none, axes, {"scaled_loss": nothing})]
    for fold, experience in experience_of.items():
        requests = fleet.arrays.requests("test", shard, only=_of(shard, fleet.folds == fold))
        if not requests.ids.size:
            continue
        losses = _strategy_losses(fleet, fold, requests, forecaster, experience)
        losses[~requests.valid.ravel()] = np.nan
        frames.append(
            keyed_rows(
                requests.ids.ravel(),
                requests.tenants,
                axes,
                {"scaled_loss": losses.astype(np.float32)},
            )
        )
    rows = pl.concat(frames, how="vertical_relaxed").sort("request_id", maintain_order=True)
    return rows.cast({"minutes": pl.Int32})


def _of(shard: Sequence[int], mask: NDArray[np.bool_]) -> list[int]:
    """Return the tenants of the shard that the mask [N] holds."""
    return [number for number in shard if mask[number]]


def _fits(configs: Sequence[ForecastConfig], steps: int) -> NDArray[np.bool_]:
    """Return which configurations a history of so many steps can fill [K]."""
    return np.array([config.context_len <= steps for config in configs])


def _strategy_losses(
    fleet: Fleet, fold: int, requests: Requests, forecaster: GridForecaster, taught: Taught
) -> Floats:
    """Return the scaled losses [R, M, A, S] of every strategy at some test requests of a fold."""
    configs, lengths = short_configs(fleet), usable_lengths(fleet)
    offsets = _offsets(fleet)
    sample = _sample(fleet, forecaster, requests, configs, offsets)
    policy = read_policies(fleet)[fold]
    full = _search_losses(fleet, requests)
    alphas = fleet.protocol.alphas
    losses = np.full((requests.ids.size, len(lengths), len(alphas), len(STRATEGIES)), np.nan)
    for m, (minutes, steps) in enumerate(lengths.items()):
        fits = _fits(configs, steps)
        covered = np.array(
            [[config.context_len + offset <= steps for offset in offsets] for config in configs]
        )  # [K, J]
        evidence = np.where(covered[..., None], sample.evidence, np.nan)
        available = given(sample.deciles) & fits  # [R, D, K]
        nearest = retrieve(fleet, fold, requests, str(minutes), fleet.settings.search.neighbours)
        priors = _priors(fleet, fold, requests, taught, nearest)
        for a, tier in enumerate(fleet.protocol.tiers):
            rule = policy.tiers[tier].rule("softmax")
            origin_weights = rules.evidence_weights(
                offsets, policy.season, rule.half_life, rule.same_hour
            )
            weights = {
                name: _searched(evidence[..., a], prior, available, rule, origin_weights)
                for name, prior in {
                    "no_prior": np.full(available.shape, np.nan),
                    **{name: prior[..., a] for name, prior in priors.items()},
                }.items()
            }
            weights["fixed_config"] = np.broadcast_to(
                one_hot(int(taught.fixed[m, a]), len(configs)), available.shape
            )
            for name, weight in weights.items():
                losses[:, m, a, STRATEGIES.index(name)] = _scaled_loss(sample, weight, alphas[a])
            losses[:, m, a, STRATEGIES.index("full_history")] = full[:, a]
    return losses


def _offsets(fleet: Fleet) -> tuple[int, ...]:
    """Return the validation origins that the longest cold start covers, in steps before a
    request; at least one.
    """
    horizon = fleet.spec.horizon
    longest = fleet.grid.steps(max(fleet.settings.evaluation.cold_start_minutes))
    return tuple(range(horizon, longest, horizon)) or (horizon,)


def _searched(
    evidence: Floats,
    prior: Floats,
    available: NDArray[np.bool_],
    rule: rules.Rule,
    origin_weights: Floats,
) -> Floats:
    """Return a rule's weights [R, D, K] of the available configurations.

    evidence [R, D, K, J], weighted by `origin_weights` [J]; prior [R, D, K].
    """
    comparable = np.where(available, prior, np.nan)
    return rule.weights(
        rules.posterior_losses(evidence, comparable, rule.kappa, origin_weights), available
    )


def _scaled_loss(sample: ShortSample, weight: Floats, alpha: float) -> Floats:
    """Return the scaled loss [R] of the quantile average under weights [R, D, K] at one alpha, mean
    over metrics.
    """
    losses, _ = tier_losses(sample.actual, rules.combine(weight, sample.deciles), (alpha,))
    return mean_of_known(losses[..., 0] / sample.scale, axis=1)


def _sample(
    fleet: Fleet,
    forecaster: GridForecaster,
    requests: Requests,
    configs: tuple[ForecastConfig, ...],
    offsets: tuple[int, ...],
) -> ShortSample:
    """Return forecasts, outcomes and evidence (at `offsets`, which may be empty) of the small
    configurations.
    """
    n_metrics, alphas = len(fleet.grid.metrics), fleet.protocol.alphas
    actual, scale = target_arrays(fleet, requests)
    forecasts = forecast_with_evidence(
        forecaster,
        fleet.arrays.panel(fleet.arrays.values(requests.tenant_numbers)),
        requests.series_origins(n_metrics),
        configs,
        fleet.spec.horizon,
        offsets,
        alphas,
    )
    deciles, evidence = (by_request(array, n_metrics) for array in forecasts[:2])
    losses, _ = tier_losses(actual[:, :, None], deciles, alphas)
    return ShortSample(deciles, evidence, actual, losses.astype(np.float64), scale)


def _priors(
    fleet: Fleet, fold: int, requests: Requests, taught: Taught, nearest: Retrieved
) -> dict[str, Floats]:
    """Return the three priors of each request [R, D, K, A], by what its history retrieves. The
    prior of true labels exists only where the archetypes of the whole fold are known.
    """
    numbers = requests.tenants.tolist()
    ids = fleet.tenant_ids[requests.tenants].tolist()
    priors = {
        f"{kind}_prior": prior for kind, prior in request_priors(taught.known, nearest, ids).items()
    }
    archetypes = fleet.archetypes
    if all(archetypes[fleet.folds == fold]):
        by_label = {
            label: taught.known.retrieved_prior(rows, np.ones(len(rows)))
            for label in np.unique(archetypes[numbers]).tolist()
            for rows in [np.flatnonzero(taught.archetypes == label)]
        }
        priors["true_label_prior"] = np.stack([by_label[archetypes[n]] for n in numbers])
    return priors


def _search_losses(fleet: Fleet, requests: Requests) -> Floats:
    """Return the full search's scaled loss [R, A] at each request and tier, mean over metrics."""
    table = (
        fleet.arrays.rows("scored_forecasts", requests)
        .filter(pl.col("method") == SEARCH)
        .group_by("request_id", "tier")
        .agg(pl.col("scaled_loss").drop_nans().mean())
        .collect()
        .pivot(on="tier", index="request_id", values="scaled_loss")
        .sort("request_id")
    )
    return table.select(list(fleet.protocol.tiers)).to_numpy().astype(np.float64)
