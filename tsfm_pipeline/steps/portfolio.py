"""The portfolio: the candidate configurations that the requests of a test fold may choose.

What belongs here: the table `config_portfolio`. What does not: the selection itself
(`autoresearch.portfolio`).
"""

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch.evidence import GridForecaster, forecast_with_evidence
from tsfm_pipeline.autoresearch.fitting import draw_for_requests, draw_tenants, spread_origins
from tsfm_pipeline.autoresearch.portfolio import (
    PortfolioSample,
    answers_like,
    choose_portfolio,
    request_tokens,
)
from tsfm_pipeline.autoresearch.space import candidates
from tsfm_pipeline.catalogue.arrays import Requests
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.arrays import tier_losses
from tsfm_pipeline.evaluation.losses import decision_quantile
from tsfm_pipeline.evaluation.requests import tested_folds, tuning_mask
from tsfm_pipeline.forecaster.config import DECILE_COLUMNS, ForecastConfig
from tsfm_pipeline.steps.evidence import Floats, by_request, tunes
from tsfm_pipeline.steps.requests import fleet_history, history_needed, plain_contexts


def config_portfolio(fleet: Fleet, forecaster: GridForecaster) -> pl.DataFrame:
    """Return ranked configurations per test fold, chosen on samples of its tuning tenants' requests
    before the test period.

    The best single configurations are chosen on more requests than the set, and only by their
    forecasts. The search is compared with them, so they must not be weak because a sample was
    small.
    """
    search = fleet.settings.search
    configs = candidates(search)
    last_resort = last_resort_of(fleet)
    if last_resort not in configs:
        configs = (*configs, last_resort)
    tuners, seed = np.flatnonzero(tunes(fleet)), (fleet.settings.evaluation.seed,)
    for_singles = draw_for_requests(
        tuners, search.single_requests, fleet.spec.origins_per_tenant, seed
    )
    singles = fleet.arrays.requests("tuning", only=for_singles.tolist())
    single_losses = _losses(fleet, forecaster, singles, configs)
    sampled = draw_tenants(tuners, search.portfolio_tenants, seed)
    requests = fleet.arrays.requests("tuning", only=sampled.tolist())
    n_tokens = request_tokens(configs, fleet.offsets)
    answering = answers_like(configs, last_resort, fleet.grid.seasons)
    decisions, evidence, actual, scale = _sample(fleet, forecaster, requests, configs)
    folds = fleet.folds
    scored = np.isfinite(scale) & ~np.isnan(actual).all(axis=-1)  # [N, O, D]
    frames = []
    for fold in tested_folds(folds):
        usable = scored & tuning_mask(folds, fold)[requests.tenant_numbers, None, None]
        if not usable.any():
            raise ValueError(
                f"fleet {fleet.name!r}, fold {fold}: the {len(sampled)} sampled tuning tenants "
                "have no valid request before the test "
                "period, so no configurations can be chosen; give the fleet more history or fewer "
                "gaps"
            )
        ranking = choose_portfolio(
            search,
            PortfolioSample(decisions[usable], evidence[usable], actual[usable], scale[usable]),
            single_losses[tuning_mask(folds, fold)[singles.tenant_numbers]],
            fleet.protocol.alphas,
            n_tokens,
            answering,
            configs.index(last_resort),
        )
        ranks = np.arange(len(ranking.order), dtype=np.int32)
        frames.append(
            pl.DataFrame(
                {
                    "fold": np.full(len(ranks), fold, np.int32),
                    "rank": ranks,
                    "config": [configs[c].name for c in ranking.order],
                    "set_cost": ranking.costs,
                    "member": ranks < len(ranking.portfolio(search.portfolio_size)),
                }
            )
        )
    return pl.concat(frames)


def last_resort_of(fleet: Fleet) -> ForecastConfig:
    """Return the plain configuration with the longest context that the history of every valid
    request fills, and of the request that follows each tenant's telemetry.
    """
    requests = fleet.tables.read("forecast_requests", columns=["valid", "n_known"])
    needed, at_end = history_needed(fleet.manifest), _known_at_the_end(fleet)
    known = [*requests.filter("valid")["n_known"].to_list(), *at_end[at_end >= needed].tolist()]
    contexts = plain_contexts(fleet.settings)
    filled = [length for length in contexts if length <= min(known, default=length)]
    return ForecastConfig(context_len=max(filled, default=needed))


def _known_at_the_end(fleet: Fleet) -> NDArray[np.int64]:
    """Return how many steps of history a window of each tenant [N] may use after its last step, of
    all tenants, because recommendations are made for all.
    """
    manifest = fleet.manifest
    last = manifest["last_step"].to_numpy().astype(np.int64)
    known = last - manifest["first_step"].to_numpy() + 1
    gaps = np.flatnonzero(manifest["longest_gap"].to_numpy() > fleet.spec.max_gap)
    for in_shard, values in fleet.arrays.values_by_shard(gaps):
        for number, own in zip(gaps[in_shard], values, strict=True):
            known[number] = fleet_history(fleet, own).known(last[[number]])[0]
    return known


def _losses(
    fleet: Fleet,
    forecaster: GridForecaster,
    requests: Requests,
    configs: tuple[ForecastConfig, ...],
) -> Floats:
    """Return scaled losses [N, O, D, C, A] of every candidate at tuning requests; NaN where the
    request is invalid or the candidate unavailable.
    """
    n_metrics, horizon = len(fleet.grid.metrics), fleet.spec.horizon
    actual, scale = _targets(fleet, requests)
    losses = np.full(
        (*scale.shape, len(configs), len(fleet.protocol.alphas)), np.nan, dtype=np.float32
    )
    for in_shard, values in fleet.arrays.values_by_shard(requests.tenant_numbers):
        panel = fleet.arrays.panel(values)
        for o in range(requests.ids.shape[1]):
            origins = np.repeat(requests.origins[in_shard][:, [o]], n_metrics, axis=0)
            grid = forecaster.forecast_grid(panel, origins, configs, horizon)[
                :, 0, ..., DECILE_COLUMNS
            ]
            deciles = grid.reshape(-1, n_metrics, *grid.shape[1:])  # [N', D, C, H, 9]
            losses[in_shard, o] = (
                tier_losses(
                    actual[in_shard, o][:, :, None],
                    deciles,
                    fleet.protocol.alphas,
                    fleet.arrays.limits,
                    axis=1,
                )[0]
                / scale[in_shard, o][:, :, None, None]
            )
    return losses


def _targets(fleet: Fleet, requests: Requests) -> tuple[Floats, Floats]:
    """Return actual [N, O, D, H] (NaN for invalid requests) and scale [N, O, D] of requests."""
    targets = fleet.arrays.of(
        "request_targets", requests, ["actual", "scale"], (len(fleet.grid.metrics),)
    )
    actual, scale = (part.reshape(*requests.ids.shape, *part.shape[1:]) for part in targets)
    return np.where(requests.valid[:, :, None, None], actual, np.float32(np.nan)), scale


def _sample(
    fleet: Fleet,
    forecaster: GridForecaster,
    requests: Requests,
    configs: tuple[ForecastConfig, ...],
) -> tuple[Floats, ...]:
    """Return, for O' of the origins of each tenant, decisions [N, O', D, C, A, H] and evidence
    [N, O', D, C, J, A] of every candidate, actual [N, O', D, H] (NaN for invalid requests) and
    scale [N, O', D].
    """
    n_metrics, horizon = len(fleet.grid.metrics), fleet.spec.horizon
    n_origins = requests.ids.shape[1]
    sampled_origins = spread_origins(n_origins, fleet.settings.search.portfolio_origins)
    actual, scale = (part[:, sampled_origins] for part in _targets(fleet, requests))
    recent = fleet.offsets[: fleet.settings.search.recent_origins]
    decided, evidence = [], []
    for in_shard, values in fleet.arrays.values_by_shard(requests.tenant_numbers):
        panel = fleet.arrays.panel(values)
        origins = np.repeat(requests.origins[in_shard][:, sampled_origins], n_metrics, axis=0)
        deciles, losses, _ = forecast_with_evidence(
            forecaster, panel, origins, configs, horizon, recent, fleet.protocol.alphas
        )
        quantiles = [decision_quantile(deciles, alpha) for alpha in fleet.protocol.alphas]
        decided.append(panel.limits.clip(np.stack(quantiles, axis=3)))
        evidence.append(losses)
    arrays = [by_request(np.concatenate(parts), n_metrics) for parts in (decided, evidence)]
    shaped = [
        array.reshape(len(requests.tenant_numbers), len(sampled_origins), *array.shape[1:])
        for array in arrays
    ]
    return *shaped, actual, scale


def describe_portfolio(fleet: Fleet) -> dict[str, Any]:
    """Return each fold's portfolio and the cost of the set, for display."""
    table = fleet.tables.read("config_portfolio").filter("member")
    portfolios = {
        f"fold {fold}": {
            "portfolio": rows["config"].to_list(),
            "set cost": round(float(rows["set_cost"][-1]), 4),
        }
        for (fold,), rows in table.group_by("fold", maintain_order=True)
    }
    return {"portfolio": portfolios}
