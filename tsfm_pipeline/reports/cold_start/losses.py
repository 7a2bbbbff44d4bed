"""The losses of tenants with little history, by strategy.

What belongs here: truncating histories, the small configurations that fit them, and the strategies.
What does not: comparing the losses (`numbers`), priors and rules (`autoresearch`), retrieval
(`archetypes`). The functions at the top read the fleet shard by shard, so that memory holds the
forecasts of one shard; those below take arrays.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch import rules
from tsfm_pipeline.autoresearch.evidence import GridForecaster, forecast_with_evidence
from tsfm_pipeline.autoresearch.policy import SearchPolicy
from tsfm_pipeline.autoresearch.priors import TenantExperience
from tsfm_pipeline.baselines.combinations import best_available, one_hot
from tsfm_pipeline.catalogue.arrays import Requests
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.arrays import given, mean_of_known, tier_losses
from tsfm_pipeline.evaluation.methods import SEARCH
from tsfm_pipeline.evaluation.protocol import ALPHAS, TIERS
from tsfm_pipeline.evaluation.requests import Role
from tsfm_pipeline.forecaster.config import ForecastConfig
from tsfm_pipeline.forecaster.panel import Panel
from tsfm_pipeline.steps.archetypes import Retrieved, retrieve
from tsfm_pipeline.steps.evidence import Floats, by_request, read_policies, target_arrays
from tsfm_pipeline.steps.policies import request_priors

PRIORS = ("fleet_prior", "retrieved_prior", "true_label_prior")


@dataclass(frozen=True)
class Asked:
    """Requests of one shard's tenants, their telemetry, and what happened: actual [R, D, H], scale
    [R, D].
    """

    requests: Requests
    panel: Panel
    actual: Floats
    scale: Floats


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


def short_configs(fleet: Fleet) -> tuple[ForecastConfig, ...]:
    """Return contexts of the cold-start lengths and of half of each, in steps, at least two."""
    grid = fleet.grid
    lengths = {
        grid.steps(minutes) // part
        for minutes in fleet.settings.evaluation.cold_start_minutes
        for part in (1, 2)
    }
    return tuple(ForecastConfig(context_len=length) for length in sorted(lengths) if length >= 2)


@dataclass(frozen=True)
class Taught:
    """The experience of a fold's tuning tenants: their numbers, scaled losses [N * O, D, K, A]
    (NaN: invalid), experience, and the policy.

    archetypes: of all tenants of the fleet; None if a tenant of the fold has none.
    """

    tuners: NDArray[np.int64]
    losses: Floats
    known: TenantExperience
    policy: SearchPolicy
    archetypes: NDArray[np.str_] | None


def fold_losses(
    fleet: Fleet,
    forecaster: GridForecaster,
    fold: int,
    tuners: NDArray[np.int64],
    configs: tuple[ForecastConfig, ...],
    offsets: tuple[int, ...],
) -> pl.DataFrame:
    """Return scaled losses of every strategy at the valid test requests of a fold: one row per
    minutes x tier x request, shard by shard.
    """
    horizon, neighbours = fleet.spec.horizon, fleet.settings.search.neighbours
    lengths = {
        minutes: fleet.grid.steps(minutes)
        for minutes in fleet.settings.evaluation.cold_start_minutes
    }
    lengths = {
        minutes: steps
        for minutes, steps in lengths.items()
        if any(config.context_len <= steps for config in configs)
    }
    of_tuners = np.concatenate(
        [
            _valid_losses(batch.requests, _sample(forecaster, batch, configs, horizon, ()))
            for batch in _asked(fleet, "tuning", tuners)
        ]
    )
    ids, archetypes = (
        np.array(fleet.manifest[name].fill_null("").to_list(), dtype=str)
        for name in ("tenant_id", "archetype")
    )
    tested = np.flatnonzero(fleet.folds == fold)
    tuning = Taught(
        tuners=tuners,
        losses=of_tuners.reshape(-1, *of_tuners.shape[2:]),
        known=TenantExperience.from_requests(of_tuners, ids[tuners]),
        policy=read_policies(fleet)[fold],
        archetypes=archetypes if all(archetypes[tested]) else None,
    )
    frames = []
    for batch in _asked(fleet, "test", tested):
        requests = batch.requests
        sample = _sample(forecaster, batch, configs, horizon, offsets)
        retrieved = {
            minutes: retrieve(fleet, fold, requests, str(minutes), neighbours)
            for minutes in lengths
        }
        priors = {
            minutes: _priors(requests.tenants, ids, tuning, neighbours_of_requests)
            for minutes, neighbours_of_requests in retrieved.items()
        }
        frames += _request_losses(
            requests,
            sample,
            tuning,
            priors,
            _search_losses(fleet, requests),
            lengths,
            configs,
            offsets,
        )
    return pl.concat(frames) if frames else pl.DataFrame()


def _asked(fleet: Fleet, role: Role, tenants: NDArray[np.int64]) -> Iterator[Asked]:
    """Yield the requests of some tenants, shard by shard."""
    for shard, tenants_of_shard in fleet.shards_of(tenants):
        requests = fleet.arrays.requests(role, shard, only=tenants_of_shard.tolist())
        panel = fleet.arrays.panel(fleet.arrays.values(shard)[requests.rows])
        yield Asked(requests, panel, *target_arrays(fleet, requests))


def _valid_losses(requests: Requests, sample: ShortSample) -> Floats:
    """Return scaled losses [N, O, D, K, A] of small configurations; NaN at invalid requests."""
    losses = sample.losses / sample.scale[..., None, None]
    losses[~requests.valid.ravel()] = np.nan
    return losses.reshape(*requests.ids.shape, *losses.shape[1:])


def _request_losses(
    requests: Requests,
    sample: ShortSample,
    tuning: Taught,
    priors: Mapping[int, Mapping[str, Floats]],
    full: Floats,
    lengths: Mapping[int, int],
    configs: tuple[ForecastConfig, ...],
    offsets: tuple[int, ...],
) -> list[pl.DataFrame]:
    """Return scaled losses of every strategy at some test requests of a fold, a frame per minutes
    and tier.

    priors: by minutes and kind [R, D, K, A]. full: losses of the search with its full history [R,
    A]. lengths: steps by minutes.
    """
    numbers = requests.tenants
    days = requests.frame["origin_time"].cast(pl.Date)
    valid = requests.valid.ravel()
    frames = []
    for minutes, steps in lengths.items():
        fits = np.array([config.context_len <= steps for config in configs])
        covered = np.array(
            [[config.context_len + offset <= steps for offset in offsets] for config in configs]
        )  # [K, J]
        evidence = np.where(covered[..., None], sample.evidence, np.nan)
        available = given(sample.deciles) & fits  # [R, D, K]
        for a, tier in enumerate(TIERS):
            fixed = best_available(np.where(fits, tuning.losses[..., a], np.nan))
            known_losses = {"no_prior": np.full(available.shape, np.nan)}
            known_losses |= {name: prior[..., a] for name, prior in priors[minutes].items()}
            rule = tuning.policy.tiers[tier].rule("softmax")
            origin_weights = rules.evidence_weights(
                offsets, tuning.policy.season, rule.half_life, rule.same_hour
            )
            weights = {
                name: _searched(evidence[..., a], prior, available, rule, origin_weights)
                for name, prior in known_losses.items()
            }
            weights["fixed_config"] = np.broadcast_to(one_hot(fixed, len(configs)), available.shape)
            columns = {
                name: np.where(valid, _scaled_loss(sample, weight, a), np.nan)
                for name, weight in weights.items()
            }
            for name in PRIORS:
                columns.setdefault(name, np.full(len(numbers), np.nan))
            columns["full_history"] = np.where(valid, full[:, a], np.nan)
            frames.append(
                pl.DataFrame(
                    {
                        "minutes": minutes,
                        "tier": tier,
                        "tenant_number": numbers,
                        "day": days,
                        **dict(sorted(columns.items())),
                    }
                )
            )
    return frames


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


def _scaled_loss(sample: ShortSample, weight: Floats, a: int) -> Floats:
    """Return the scaled loss [R] of the quantile average under weights [R, D, K] at the alpha of
    tier number `a`, mean over metrics.
    """
    losses, _ = tier_losses(sample.actual, rules.combine(weight, sample.deciles), ALPHAS[a : a + 1])
    return mean_of_known(losses[..., 0] / sample.scale, axis=1)


def _sample(
    forecaster: GridForecaster,
    batch: Asked,
    configs: tuple[ForecastConfig, ...],
    horizon: int,
    offsets: tuple[int, ...],
) -> ShortSample:
    """Return forecasts, outcomes and evidence (at `offsets`, which may be empty) of the small
    configurations.
    """
    n_metrics = batch.scale.shape[1]
    origins = batch.requests.series_origins(n_metrics)
    forecasts = forecast_with_evidence(
        forecaster, batch.panel, origins, configs, horizon, offsets, ALPHAS
    )
    deciles, evidence = (by_request(array, n_metrics) for array in forecasts[:2])
    losses, _ = tier_losses(batch.actual[:, :, None], deciles, ALPHAS)
    return ShortSample(deciles, evidence, batch.actual, losses.astype(np.float64), batch.scale)


def _priors(
    tenants: NDArray[np.int64], ids: NDArray[np.str_], tuning: Taught, retrieved: Retrieved
) -> dict[str, Floats]:
    """Return the three priors of each request [R, D, K, A]: of tenants [R], by what their history
    retrieves.

    ids: of all tenants of the fleet. The true-label prior exists only where archetypes are known.
    """
    numbers = tenants.tolist()
    known_priors = request_priors(tuning.known, retrieved, ids[tenants].tolist())
    priors = {f"{kind}_prior": prior for kind, prior in known_priors.items()}
    if tuning.archetypes is not None:
        of_tuners = tuning.archetypes[tuning.tuners]
        same = {
            number: np.flatnonzero(of_tuners == tuning.archetypes[number])
            for number in set(numbers)
        }
        by_label = {
            n: tuning.known.retrieved_prior(rows, np.ones(len(rows))) for n, rows in same.items()
        }
        priors["true_label_prior"] = np.stack([by_label[number] for number in numbers])
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
    return table.select(list(TIERS)).to_numpy().astype(np.float64)
