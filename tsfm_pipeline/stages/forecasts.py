"""Forecasts: targets, the grid of every configuration, the evidence for the search, and the search itself.

What belongs here: one function per table of the group `forecasts`. What does not: which requests there are (`requests`), the mathematics
of forecasting and deciding.
Axes: N tenants, O origins, D metrics, K configurations, J validation origins, A tiers, H horizon; R = N * O requests.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch.evidence import GridForecaster, validation_losses
from tsfm_pipeline.autoresearch.policy import Decision, SearchPolicy
from tsfm_pipeline.evaluation.arrays import targets_after, tier_losses
from tsfm_pipeline.evaluation.losses import series_scale, series_std
from tsfm_pipeline.evaluation.protocol import ALPHAS, TIERS
from tsfm_pipeline.evaluation.requests import tested_folds, tuning_mask
from tsfm_pipeline.forecaster.config import DECILE_COLUMNS, N_COLUMNS
from tsfm_pipeline.stages.rows import keyed_rows
from tsfm_pipeline.workspace import Fleet, Requests

if TYPE_CHECKING:
    from tsfm_pipeline.forecaster.engine import FrozenForecaster

Floats = NDArray[np.floating]

LOSS_COLUMNS = tuple(f"loss_{tier}" for tier in TIERS)
VIOLATION_COLUMNS = tuple(f"violation_{tier}" for tier in TIERS)


def request_targets_shard(fleet: Fleet, shard: Sequence[int]) -> pl.DataFrame:
    """What happened after each request of the shard, and the scale of its series (from before the tenant's test period)."""
    values = fleet.values(shard)
    n_metrics = values.shape[1]
    starts = fleet.manifest.filter(pl.col("tenant_number").is_in(list(shard)))["test_start_step"].to_numpy()
    flat = values.reshape(-1, values.shape[-1])
    ends = np.repeat(starts, n_metrics)
    scale = series_scale(flat, ends).reshape(-1, n_metrics)
    std = series_std(flat, ends).reshape(-1, n_metrics)
    frames = []
    for requests in _both_roles(fleet, shard):
        series = values[requests.rows].reshape(-1, values.shape[-1])
        actual = targets_after(series, requests.series_origins(n_metrics), fleet.spec.horizon)
        n_origins = requests.origins.shape[1]
        frames.append(
            _rows(
                fleet,
                requests,
                {},
                {
                    "scale": np.repeat(scale[requests.rows], n_origins, axis=0),
                    "std_scale": np.repeat(std[requests.rows], n_origins, axis=0),
                    "actual": by_request(actual, n_metrics).astype(np.float32),
                },
            )
        )
    return pl.concat(frames).sort("request_id", maintain_order=True)


def forecast_grid_shard(fleet: Fleet, shard: Sequence[int], forecaster: GridForecaster) -> pl.DataFrame:
    """What every configuration forecasts at every request of the shard."""
    values = fleet.values(shard)
    frames = []
    for requests in _both_roles(fleet, shard):
        grid = forecaster.forecast_grid(
            fleet.panel(values[requests.rows]), requests.series_origins(values.shape[1]), fleet.configs, fleet.spec.horizon
        )
        names = [config.name for config in fleet.configs]
        frames.append(_rows(fleet, requests, {"config": names}, {"forecast": by_request(grid, values.shape[1])}))
    return pl.concat(frames).sort("request_id", maintain_order=True)


def validation_losses_shard(fleet: Fleet, shard: Sequence[int], forecaster: GridForecaster) -> pl.DataFrame:
    """What every configuration would have cost at earlier origins of each request that the search or its tuning decides.

    The requests before the test period of tenants that never tune anything are left out: nobody asks for them.
    """
    values = fleet.values(shard)
    names = [config.name for config in fleet.configs]
    frames = []
    for requests in _searched_roles(fleet, shard):
        losses, violations = validation_losses(
            forecaster,
            fleet.panel(values[requests.rows]),
            requests.series_origins(values.shape[1]),
            fleet.configs,
            fleet.spec.horizon,
            fleet.offsets,
            ALPHAS,
        )
        losses, violations = (by_request(array, values.shape[1]) for array in (losses, violations))
        columns = {name: losses[..., a] for a, name in enumerate(LOSS_COLUMNS)}
        columns |= {name: violations[..., a] for a, name in enumerate(VIOLATION_COLUMNS)}
        frames.append(_rows(fleet, requests, {"config": names, "offset_steps": fleet.offsets}, columns))
    return pl.concat(frames).sort("request_id", maintain_order=True)


def baseline_forecasts_shard(fleet: Fleet, shard: Sequence[int]) -> pl.DataFrame:
    """What the baselines that need no model forecast at every test request of the shard."""
    from tsfm_pipeline.baselines import DIRECT_BASELINES

    requests = fleet.requests("test", shard)
    if not len(requests.rows):
        return _rows(
            fleet, requests, {"method": [""]}, {"deciles": np.empty((0, len(fleet.grid.metrics), 1, fleet.spec.horizon, 9), np.float32)}
        )
    values = fleet.values(shard)[requests.rows]
    starts = fleet.manifest.filter(pl.col("tenant_number").is_in(requests.tenant_numbers.tolist()))["test_start_step"].to_numpy()
    n_metrics = values.shape[1]
    panel = fleet.panel(values)
    origins = requests.series_origins(n_metrics)
    names, deciles = [], []
    for name, make in DIRECT_BASELINES.items():
        names.append(name)
        deciles.append(make(np.repeat(starts, n_metrics)).forecast(panel, origins, fleet.spec.horizon))  # [S, O, H, 9]
    stacked = by_request(np.stack(deciles, axis=2), n_metrics)
    return _rows(fleet, requests, {"method": names}, {"deciles": stacked})


def tuning_losses_shard(fleet: Fleet, shard: Sequence[int]) -> pl.DataFrame:
    """What every configuration cost at each tuning request of the shard, at each tier's alpha and at the median, and how often it was
    exceeded.
    """
    requests = fleet.requests("tuning", shard)
    deciles, actual, _ = grid_arrays(fleet, requests)
    losses, violations = tier_losses(actual[:, :, None], deciles, (*ALPHAS, 0.5))
    columns = {name: losses[..., a] for a, name in enumerate((*LOSS_COLUMNS, "loss_median"))}
    columns |= {name: violations[..., a] for a, name in enumerate(VIOLATION_COLUMNS)}
    return _rows(fleet, requests, {"config": [config.name for config in fleet.configs]}, columns)


def autoresearch_forecasts_shard(fleet: Fleet, shard: Sequence[int]) -> pl.DataFrame:
    """What the search decides at every test request of the shard, for every tier."""
    requests = fleet.requests("test", shard)
    decided = SearchBatch(fleet, requests).decide()
    names = np.array([config.name for config in fleet.configs])
    chosen = np.where(np.isfinite(decided.weights).all(axis=-1), names[np.nan_to_num(decided.weights).argmax(axis=-1)], "")
    return _rows(
        fleet,
        requests,
        {"tier": list(TIERS)},
        {
            "chosen": chosen,
            "shift": decided.shift.astype(np.float32),
            "weights": decided.weights.astype(np.float32),
            "posterior": decided.posterior.astype(np.float32),
            "decision": decided.decision.astype(np.float32),
            "deciles": decided.deciles.astype(np.float32),
        },
    )


class SearchBatch:
    """Everything that a decision rule may look at for the test requests of some tenants, as arrays [R, D, ...].

    K counts the configurations of all folds; a request sees those of its own fold's portfolio, the others are NaN.
    """

    def __init__(self, fleet: Fleet, requests: Requests) -> None:
        self.fleet = fleet
        self.requests = requests

    @cached_property
    def all_deciles(self) -> Floats:
        """Of every configuration, in the request's portfolio or not [R, D, K, H, 9]."""
        return grid_arrays(self.fleet, self.requests)[0]

    @cached_property
    def deciles(self) -> Floats:
        """[R, D, K, H, 9]"""
        return np.where(self.members[:, None, :, None, None], self.all_deciles, np.float32(np.nan))

    @cached_property
    def evidence(self) -> tuple[Floats, Floats]:
        """Validation losses and violation rates [R, D, K, J, A]."""
        losses, violations = validation_arrays(self.fleet, self.requests)
        members = self.members[:, None, :, None, None]
        return np.where(members, losses, np.nan), np.where(members, violations, np.nan)

    @cached_property
    def folds(self) -> NDArray[np.int64]:
        """The test fold of each request [R]."""
        return self.requests.frame["fold"].to_numpy().astype(np.int64)

    @cached_property
    def members(self) -> NDArray[np.bool_]:
        """Which configurations are in the portfolio of each request's fold [R, K]."""
        masks = {int(fold): self.fleet.portfolio_mask(int(fold)) for fold in np.unique(self.folds)}
        return np.array([masks[int(fold)] for fold in self.folds], dtype=bool).reshape(len(self.folds), len(self.fleet.configs))

    @cached_property
    def priors(self) -> tuple[dict[str, Floats], Floats]:
        """Relative losses {kind: [R, D, K, A]} and violation rates [R, D, K, A], from the tuning tenants of the request's own fold."""
        return prior_arrays(self.fleet, self.requests)

    @cached_property
    def policies(self) -> dict[int, SearchPolicy]:
        """The policy of each test fold."""
        return read_policies(self.fleet)

    def decide(
        self,
        rule: str | None = None,
        correct: bool = True,
        *,
        deciles: Floats | None = None,
        priors: tuple[Mapping[str, Floats], Floats] | None = None,
    ) -> Decision:
        """The decision of the policy of each request's fold, by its default rule or by the one named, with or without level correction.

        deciles, priors: others than the requests' own, for controls and ablations; shapes as in the properties.
        """
        deciles = self.deciles if deciles is None else deciles
        losses, violations = self.evidence
        relative, violation_priors = self.priors if priors is None else priors
        names = [config.name for config in self.fleet.configs]
        n_requests, n_metrics, n_configs, horizon = deciles.shape[:4]
        tails = {"weights": (n_configs,), "deciles": (horizon, 9), "decision": (horizon,), "shift": (), "posterior": (n_configs,)}
        parts = {name: np.full((n_requests, n_metrics, len(TIERS), *tail), np.nan) for name, tail in tails.items()}
        for fold in np.unique(self.folds):
            policy, rows = self.policies[int(fold)], np.flatnonzero(self.folds == fold)
            columns = np.array([names.index(name) for name in policy.portfolio])
            decided = policy.decide(
                deciles[rows][:, :, columns],
                losses[rows][:, :, columns],
                violations[rows][:, :, columns],
                {kind: prior[rows][:, :, columns] for kind, prior in relative.items()},
                violation_priors[rows][:, :, columns],
                rule=rule,
                correct=correct,
            )
            for name in ("deciles", "decision", "shift"):
                parts[name][rows] = getattr(decided, name)
            inside = np.ix_(rows, np.arange(n_metrics), np.arange(len(TIERS)), columns)
            answered = np.isfinite(decided.weights).all(axis=-1, keepdims=True)
            parts["weights"][rows] = np.where(answered, 0.0, np.nan)
            parts["weights"][inside], parts["posterior"][inside] = decided.weights, decided.posterior
        return Decision(**parts)


def grid_arrays(fleet: Fleet, requests: Requests, fold: int | None = None) -> tuple[Floats, Floats, Floats]:
    """Deciles [R, D, K, H, 9], actual [R, D, H] and scale [R, D] of the requests; NaN outside of the portfolio of `fold`, if given."""
    n_metrics, n_configs = len(fleet.grid.metrics), len(fleet.configs)
    (forecast,) = fleet.arrays("forecast_grid", requests, ["forecast"], (n_metrics, n_configs))
    deciles = forecast.reshape(*forecast.shape[:3], fleet.spec.horizon, N_COLUMNS)[..., DECILE_COLUMNS]
    actual, scale = fleet.arrays("request_targets", requests, ["actual", "scale"], (n_metrics,))
    if fold is not None:
        deciles = np.where(fleet.portfolio_mask(fold)[:, None, None], deciles, np.float32(np.nan))
    return deciles, actual, scale


def validation_arrays(fleet: Fleet, requests: Requests, fold: int | None = None) -> tuple[Floats, Floats]:
    """Validation losses and violation rates of the requests [R, D, K, J, A]; NaN outside of the portfolio of `fold`, if given."""
    shape = (len(fleet.grid.metrics), len(fleet.configs), len(fleet.offsets))
    columns = fleet.arrays("validation_losses", requests, [*LOSS_COLUMNS, *VIOLATION_COLUMNS], shape)
    arrays = np.stack(columns[: len(TIERS)], axis=-1), np.stack(columns[len(TIERS) :], axis=-1)
    if fold is None:
        return arrays
    mask = fleet.portfolio_mask(fold)[:, None, None]
    return np.where(mask, arrays[0], np.nan), np.where(mask, arrays[1], np.nan)


def prior_arrays(fleet: Fleet, requests: Requests, fold: int | None = None) -> tuple[dict[str, Floats], Floats]:
    """Priors {kind: [R, D, K, A]} and prior violation rates [R, D, K, A]: of test requests from their own fold, of tuning requests as
    `fold` sees them.
    """
    frame = fleet.tables.scan("config_priors").filter(pl.col("request_id").is_in(requests.ids.ravel().tolist()))
    if fold is not None:
        frame = frame.filter(pl.col("fold") == fold)
    table = frame.sort("request_id", maintain_order=True).collect()
    shape = (requests.ids.size, len(fleet.grid.metrics), len(fleet.configs))
    if table.height != int(np.prod(shape)):
        raise ValueError(f"table 'config_priors' holds {table.height} rows for {requests.ids.size} requests; expected {np.prod(shape)}")
    fleet_prior, retrieved, violations = (
        np.stack([table[f"{kind}_{tier}"].to_numpy().reshape(shape) for tier in TIERS], axis=-1)
        for kind in ("fleet", "retrieved", "violations")
    )
    return {"fleet": fleet_prior, "retrieved": retrieved}, violations


def read_policies(fleet: Fleet) -> dict[int, SearchPolicy]:
    """The search policy of each test fold."""
    frame = fleet.tables.read("search_policy")
    return {row["fold"]: SearchPolicy.model_validate_json(row["policy"]) for row in frame.iter_rows(named=True)}


def recorded_plan(forecaster: "FrozenForecaster") -> dict[str, Any]:
    """What forecasts depend on in their last bits besides fleet, settings and checkpoint; tables made alike in this are byte-identical.

    Another device adds up in another order, a GPU in other batches too; the number of threads does not matter.
    """
    return {"plan": {"device": str(forecaster.device), "token_budget": forecaster.token_budget}}


def tunes(fleet: Fleet) -> NDArray[np.bool_]:
    """Which tenants [N] are tuning tenants of some test fold."""
    folds = fleet.manifest["fold"].to_numpy().astype(np.int64)
    return np.any([tuning_mask(folds, fold) for fold in tested_folds(folds)], axis=0)


def _both_roles(fleet: Fleet, shard: Sequence[int]) -> list[Requests]:
    requests = [fleet.requests("tuning", shard), fleet.requests("test", shard)]
    return [r for r in requests if len(r.rows)]


def _searched_roles(fleet: Fleet, shard: Sequence[int]) -> list[Requests]:
    tuning_tenants = np.flatnonzero(tunes(fleet)).tolist()
    requests = [fleet.requests("tuning", shard, only=tuning_tenants), fleet.requests("test", shard)]
    return [r for r in requests if len(r.rows)]


def by_request(array: NDArray[Any], n_metrics: int) -> NDArray[Any]:
    """[N * D, O, ...] -> [R = N * O, D, ...]"""
    shaped = array.reshape(len(array) // n_metrics, n_metrics, *array.shape[1:]).swapaxes(1, 2)
    return shaped.reshape(shaped.shape[0] * shaped.shape[1], *shaped.shape[2:])


def _rows(fleet: Fleet, requests: Requests, axes: dict[str, Sequence[Any]], columns: dict[str, NDArray[Any]]) -> pl.DataFrame:
    """Rows per (request, metric, *axes); columns [R, D, *lengths of axes, ...]."""
    numbers = requests.tenants
    return keyed_rows(requests.ids.ravel(), numbers, {"metric": fleet.grid.metrics, **axes}, columns)
