"""Blocks: one constant reservation per block, its calibration on tuning requests, and its backtest
on test requests.

What belongs here: the tables `block_calibration` and `recommendation_scores`, and the constants
that the recommendations use as well. What does not: the arithmetic of one block
(`evaluation.blocks`), the recommendations for the next block (`steps.recommendations`).
Axes: N tenants, O origins, R = N * O requests, D metrics, K configurations, A tiers, H steps of a
block.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch import rules
from tsfm_pipeline.autoresearch.fitting import draw_for_requests
from tsfm_pipeline.autoresearch.policy import level_unit
from tsfm_pipeline.baselines import direct_forecasters
from tsfm_pipeline.baselines.combinations import one_hot, reachable
from tsfm_pipeline.catalogue.arrays import Requests
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.rows import keyed_rows
from tsfm_pipeline.evaluation.arrays import given
from tsfm_pipeline.evaluation.blocks import (
    CONSTANT_SCORES,
    block_before,
    n_past_blocks,
    observed_quantiles,
    peak_allowances,
    peak_factor,
    pooled_quantiles,
    score_constants,
)
from tsfm_pipeline.evaluation.limits import emitted
from tsfm_pipeline.evaluation.losses import decision_quantile
from tsfm_pipeline.evaluation.methods import (
    BLOCK_CONSTANTS,
    DAY_AGO_BLOCK,
    DAY_QUANTILE,
    EIGHT_DAY_QUANTILE,
    FIXED,
    LARGEST_STEP,
    LAST_BLOCK,
    LAST_BLOCK_PEAK,
    LAST_VALUE,
    PERCENTILE_MARGIN,
    SEARCH,
    SEARCH_PEAK,
    USAGE_HISTOGRAM,
)
from tsfm_pipeline.evaluation.usage import USAGE_DAYS, histogram_targets, usage_quantiles
from tsfm_pipeline.steps.evidence import Floats, SearchBatch, by_request, prior_arrays
from tsfm_pipeline.steps.policies import folds_and_tuners, read_shared_choices


@dataclass(frozen=True)
class Reservations:
    """Constants of R requests [R, D, A] in units of the metrics: for all steps, and for the block's
    maximum; NaN where no forecast was available.
    """

    steps: Floats
    peak: Floats


@dataclass(frozen=True)
class Calibration:
    """The calibration on tuning requests, by test fold: how many allowances the maximum needs [A],
    and how often constants are exceeded [D, A].
    """

    factors: dict[int, NDArray[np.float64]]
    violations: dict[int, NDArray[np.float64]]


class SeenByFold(SearchBatch):
    """Tuning requests as the policy and the priors of one test fold see them."""

    def __init__(self, fleet: Fleet, requests: Requests, fold: int) -> None:
        super().__init__(fleet, requests)
        self.fold = fold

    @cached_property
    def folds(self) -> NDArray[np.int64]:
        """The fold, repeated for every request [R]."""
        return np.full(self.requests.ids.size, self.fold)

    @cached_property
    def priors(self) -> tuple[dict[str, Floats], Floats]:
        """As `SearchBatch.priors`, from the tuning tenants of the fold."""
        return prior_arrays(self.fleet, self.requests, self.fold)


def moved(deciles: Floats, shift: Floats) -> Floats:
    """Return the search's deciles [..., H, 9] after its level correction: moved by shift [...], in
    units of q.9 - q.5, as the decision is.
    """
    return np.asarray(deciles + (shift[..., None] * level_unit(deciles))[..., None])


FixedChoices = Mapping[int, Mapping[str, tuple[int, int]]]
"""By test fold and tier: the positions, among the K configurations, of the fixed one and of its
stand-in.
"""


def stored_choices(fleet: Fleet) -> FixedChoices:
    """Return the fixed choices that are stored in the table `search_policy`."""
    return {
        fold: {
            tier: (choice.fixed_config, choice.fallback_config)
            for tier, choice in choices.tiers.items()
        }
        for fold, choices in read_shared_choices(fleet).items()
    }


def fixed_deciles(batch: SearchBatch, choices: FixedChoices) -> tuple[Floats, Floats]:
    """Return the deciles of each tier's fixed configuration [R, D, A, H, 9], and the weights
    [R, D, A, K] of the configuration or its stand-ins.
    """
    available = given(batch.deciles)  # [R, D, K]
    weights = []
    for tier in batch.fleet.protocol.tiers:
        fixed, fallback = (
            np.array([choices[int(fold)][tier][i] for fold in batch.folds], dtype=np.int64)[:, None]
            for i in range(2)
        )
        weights.append(reachable(one_hot(fixed, available.shape[-1]), available, fallback))
    return np.stack([rules.combine(weight, batch.deciles) for weight in weights], axis=2), np.stack(
        weights, axis=2
    )


def allowances(fleet: Fleet, values: NDArray[np.float32], requests: Requests) -> Floats:
    """Return how far the maxima of each series' past blocks rose above the blocks' alpha-quantiles,
    at the alpha-quantile over blocks [R, D, A]: values [N, D, T].
    """
    n_metrics, horizon = values.shape[1], fleet.spec.horizon
    series = values.reshape(-1, values.shape[-1])
    n_blocks = n_past_blocks(horizon, fleet.grid.steps_per_day)
    return by_request(
        peak_allowances(
            series, requests.series_origins(n_metrics), horizon, n_blocks, fleet.protocol.alphas
        ),
        n_metrics,
    )


def step_constants(fleet: Fleet, deciles: Floats) -> Floats:
    """Return the alpha-quantile of each block's pooled distribution at every tier [R, D, A], as it
    may be emitted: deciles [R, D, A, H, 9].
    """
    quantiles = [
        pooled_quantiles(deciles[:, :, a], (alpha,))[..., 0]
        for a, alpha in enumerate(fleet.protocol.alphas)
    ]
    return _emitted(fleet, np.stack(quantiles, axis=2))


def reservations(
    fleet: Fleet, deciles: Floats, allowance: Floats, folds: NDArray[np.int64], known: Calibration
) -> Reservations:
    """Return the search's constants: deciles [R, D, A, H, 9], allowance [R, D, A], folds [R]."""
    steps = step_constants(fleet, deciles)
    factors = np.array([known.factors[int(fold)] for fold in folds]).reshape(
        len(folds), 1, len(fleet.protocol.alphas)
    )
    return Reservations(steps, _emitted(fleet, steps + factors * allowance))


def last_block_constants(fleet: Fleet, values: NDArray[np.float32], requests: Requests) -> Floats:
    """Return the alpha-quantile of the block that ends with each request's origin [R, D, A]: values
    [N, D, T].
    """
    n_metrics, horizon = values.shape[1], fleet.spec.horizon
    blocks = block_before(
        values.reshape(-1, values.shape[-1]), requests.series_origins(n_metrics), horizon, horizon
    )
    return by_request(observed_quantiles(blocks, fleet.protocol.alphas), n_metrics)


def _emitted(fleet: Fleet, constant: Floats) -> Floats:
    """Return constants [R, D, A] as they may be emitted (`evaluation.limits.emitted`)."""
    alphas, limits = fleet.protocol.alphas, fleet.arrays.limits
    return emitted(constant, alphas, limits, metric_axis=1, tier_axis=2)


def block_calibration(fleet: Fleet) -> pl.DataFrame:
    """Return, per test fold, metric and tier, how often the search's constants were exceeded before
    any test period, and how many allowances the maximum of a block needed.

    Both come from the tuning requests on which the search itself was tuned. All metrics share one
    factor, because an allowance is in the units of its series.
    """
    search = fleet.settings.search
    rows = []
    for fold, tuners in folds_and_tuners(fleet):
        seed = (fleet.settings.evaluation.seed, fold)
        n_requests, n_origins = search.policy_requests, fleet.spec.origins_per_tenant
        drawn = draw_for_requests(tuners, n_requests, n_origins, seed)
        parts = [
            _tuning_constants(fleet, fold, shard, tenants)
            for shard, tenants in fleet.shards_of(drawn)
        ]
        actual, steps, allowance = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        rates = score_constants(actual, steps, fleet.protocol.alphas)["violation_rate"]
        peak = np.fmax.reduce(actual, axis=-1)
        for a, (tier, alpha) in enumerate(fleet.protocol.tiers.items()):
            factor = peak_factor(
                peak.ravel(), steps[..., a].ravel(), allowance[..., a].ravel(), alpha
            )
            for d, metric in enumerate(fleet.grid.metrics):
                seen = rates[:, d, a][~np.isnan(rates[:, d, a])]
                rows.append(
                    {
                        "fold": fold,
                        "metric": metric,
                        "tier": tier,
                        "violation_rate": float(seen.mean()) if len(seen) else None,
                        "peak_factor": None if np.isnan(factor) else factor,
                        "n_blocks": len(seen),
                    }
                )
    schema = {
        "fold": pl.Int32,
        "metric": pl.String,
        "tier": pl.String,
        "violation_rate": pl.Float32,
        "peak_factor": pl.Float64,
    }
    return pl.DataFrame(rows, schema=schema | {"n_blocks": pl.Int64})


def _tuning_constants(
    fleet: Fleet, fold: int, shard: Sequence[int], tenants: NDArray[np.int64]
) -> tuple[Floats, Floats, Floats]:
    """Return the observed values [R, D, H], the search's constants and the allowances [R, D, A] at
    the valid tuning requests of a shard's tenants.
    """
    requests = fleet.arrays.requests("tuning", shard, only=tenants.tolist())
    decided = SeenByFold(fleet, requests, fold).decide()
    steps = step_constants(fleet, moved(decided.deciles, decided.shift))
    (actual,) = fleet.arrays.of("request_targets", requests, ["actual"], (len(fleet.grid.metrics),))
    valid = requests.valid.ravel()
    return (
        actual[valid],
        steps[valid],
        allowances(fleet, fleet.arrays.values(shard)[requests.rows], requests)[valid],
    )


@lru_cache(maxsize=2)
def read_calibration(fleet: Fleet) -> Calibration:
    """Return the table `block_calibration` as arrays."""
    table = fleet.tables.read("block_calibration")
    shape = (len(fleet.grid.metrics), len(fleet.protocol.tiers))
    factors, violations = {}, {}
    for (fold,), part in table.group_by("fold", maintain_order=True):
        ordered = part.sort(
            pl.col("metric").cast(pl.Enum(fleet.grid.metrics)),
            pl.col("tier").cast(pl.Enum(list(fleet.protocol.tiers))),
        )
        factors[int(fold)] = ordered["peak_factor"].fill_null(np.nan).to_numpy().reshape(shape)[0]
        violations[int(fold)] = (
            ordered["violation_rate"].fill_null(np.nan).to_numpy().reshape(shape)
        )
    return Calibration(factors, violations)


def recommendation_scores_shard(fleet: Fleet, shard: Sequence[int]) -> pl.DataFrame:
    """Return the cost of every method's constants at each test request of the shard: request x
    metric x method x tier.
    """
    requests = fleet.arrays.requests("test", shard)
    numbers = np.repeat(requests.tenant_numbers, requests.ids.shape[1])
    axes = {
        "metric": fleet.grid.metrics,
        "method": list(BLOCK_CONSTANTS),
        "tier": list(fleet.protocol.tiers),
    }
    columns: dict[str, NDArray[Any]] = {}
    n_metrics = len(fleet.grid.metrics)
    actual, scale = fleet.arrays.of("request_targets", requests, ["actual", "scale"], (n_metrics,))
    constants = (
        method_constants(fleet, requests, fleet.arrays.values(shard)[requests.rows])
        if len(numbers)
        else {}
    )
    shape = (len(numbers), n_metrics, len(BLOCK_CONSTANTS), len(fleet.protocol.tiers))
    for name in ("reservation", *CONSTANT_SCORES, "scaled_loss"):
        columns[name] = np.full(shape, np.nan, dtype=np.float32)
    for m, method in enumerate(BLOCK_CONSTANTS if constants else ()):
        constant = constants[method]
        scores = score_constants(actual, constant, fleet.protocol.alphas)
        for name, part in {
            "reservation": constant,
            **scores,
            "scaled_loss": scores["loss"] / scale[..., None],
        }.items():
            columns[name][:, :, m] = part
    return keyed_rows(requests.ids.ravel(), numbers, axes, columns)


def method_constants(
    fleet: Fleet, requests: Requests, values: NDArray[np.float32]
) -> dict[str, Floats]:
    """Return the constants [R, D, A] of every method at test requests, from the stored forecasts
    and the telemetry [N, D, T] up to each origin.
    """
    batch = SearchBatch(fleet, requests)
    n_metrics, horizon, day = values.shape[1], fleet.spec.horizon, fleet.grid.steps_per_day
    shape = n_metrics, len(fleet.protocol.tiers)
    deciles, shift, decision = fleet.arrays.of(
        "autoresearch_forecasts", requests, ["deciles", "shift", "decision"], shape
    )
    searched = moved(deciles.reshape(*decision.shape, 9), shift)
    allowance = allowances(fleet, values, requests)
    searched_constants = reservations(
        fleet, searched, allowance, batch.folds, read_calibration(fleet)
    )
    series, origins = values.reshape(-1, values.shape[-1]), requests.series_origins(n_metrics)
    last_block = block_before(series, origins, horizon, horizon)
    day_ago = block_before(series, origins, horizon, -(-horizon // day) * day)
    last_value = np.take_along_axis(fleet.arrays.panel(values).filled, origins, axis=1)
    names = list(direct_forecasters())
    (direct,) = fleet.arrays.of(
        "baseline_forecasts", requests, ["deciles"], (n_metrics, len(names))
    )
    margin = direct[:, :, names.index(PERCENTILE_MARGIN), :9]  # the same at every step

    def every_tier(constant: Floats) -> Floats:
        """[S, O] -> [R, D, A]"""
        return by_request(
            np.repeat(constant[..., None], len(fleet.protocol.tiers), axis=-1), n_metrics
        )

    constants = {
        SEARCH: searched_constants.steps,
        FIXED: step_constants(fleet, fixed_deciles(batch, stored_choices(fleet))[0]),
        LAST_BLOCK: last_block_constants(fleet, values, requests),
        DAY_AGO_BLOCK: by_request(observed_quantiles(day_ago, fleet.protocol.alphas), n_metrics),
        LAST_VALUE: every_tier(last_value),
        PERCENTILE_MARGIN: np.stack(
            [decision_quantile(margin, alpha) for alpha in fleet.protocol.alphas], axis=-1
        ),
        **{
            name: by_request(
                usage_quantiles(series, origins, days * day, fleet.protocol.alphas), n_metrics
            )
            for name, days in ((DAY_QUANTILE, 1), (EIGHT_DAY_QUANTILE, USAGE_DAYS))
        },
        USAGE_HISTOGRAM: by_request(
            histogram_targets(series, origins, day, fleet.protocol.alphas), n_metrics
        ),
        SEARCH_PEAK: searched_constants.peak,
        LARGEST_STEP: decision.max(axis=-1),
        LAST_BLOCK_PEAK: every_tier(np.fmax.reduce(last_block, axis=-1)),
    }
    assert list(constants) == list(BLOCK_CONSTANTS)
    return {name: _emitted(fleet, constant) for name, constant in constants.items()}
