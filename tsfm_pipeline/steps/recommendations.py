"""Recommendations: one constant reservation per tenant, metric and tier for the block that follows
the tenant's telemetry.

What belongs here: the table `recommendations`, made by the search of the fleet's bundle. What does
not: the arithmetic of the constants (`steps.blocks`), the published files
(`reports.recommendations.publication`), their later review (`reports.recommendations.review`).
Axes: N tenants, O origins, R = N * O requests, D metrics, K configurations, A tiers, H steps of a
block.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch.bundle import LoadedForecaster, SearchBundle
from tsfm_pipeline.autoresearch.evidence import forecast_with_evidence
from tsfm_pipeline.autoresearch.policy import PRIOR_KINDS, SearchPolicy
from tsfm_pipeline.autoresearch.priors import TenantExperience
from tsfm_pipeline.autoresearch.space import candidates
from tsfm_pipeline.catalogue.arrays import Requests
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.rows import keyed_rows
from tsfm_pipeline.evaluation.blocks import expected_excess, pooled_quantiles
from tsfm_pipeline.evaluation.requests import minimum_history, request_validity, tested_folds
from tsfm_pipeline.forecaster.config import ForecastConfig
from tsfm_pipeline.steps.archetypes import retrieve_from
from tsfm_pipeline.steps.blocks import (
    Calibration,
    FixedChoices,
    Reservations,
    allowances,
    fixed_deciles,
    last_block_constants,
    moved,
    read_calibration,
    reservations,
    step_constants,
)
from tsfm_pipeline.steps.bundle import open_bundle
from tsfm_pipeline.steps.evidence import Floats, SearchBatch, by_request
from tsfm_pipeline.steps.policies import request_priors, request_violations

UNSCORED = "not covered by the backtest: "


class Recommender:
    """The fleet's search bundle, ready to answer at any origin; shared by all shards of a run."""

    def __init__(self, fleet: Fleet, forecaster: LoadedForecaster) -> None:
        self.fleet = fleet
        self.forecaster = forecaster

    @cached_property
    def bundle(self) -> SearchBundle:
        """The fleet's search bundle, for the forecaster's checkpoint."""
        bundle = open_bundle(self.fleet)
        bundle.require(self.forecaster)
        return bundle

    @cached_property
    def configs(self) -> tuple[ForecastConfig, ...]:
        """The K configurations of all test folds."""
        return tuple(ForecastConfig.from_name(member.name) for member in self.bundle.facts.members)

    @cached_property
    def calibration(self) -> Calibration:
        """The calibration of the constants."""
        return read_calibration(self.fleet)

    @cached_property
    def known(self) -> dict[int, TenantExperience]:
        """The experience of each test fold's tuning tenants with the K configurations; NaN outside
        of the fold's portfolio.
        """
        return {
            fold: search.priors.over(
                [_position(config.name, search.policy.portfolio) for config in self.configs]
            )
            for fold, search in self.bundle.folds.items()
        }

    @cached_property
    def fixed(self) -> FixedChoices:
        """The fixed configuration of each test fold and tier."""
        names = [config.name for config in self.configs]
        return {
            fold: {
                tier: (names.index(choice.member), names.index(choice.stand_in))
                for tier, choice in search.fixed.items()
            }
            for fold, search in self.bundle.folds.items()
        }

    def batch(self, requests: Requests, values: NDArray[np.float32]) -> "LiveBatch":
        """Return the search's evidence at these requests, from the telemetry [N, D, T] of their
        tenants; no value after an origin is used.
        """
        return LiveBatch(self, requests, values)


@lru_cache(maxsize=1)
def _recommender(fleet: Fleet, forecaster: LoadedForecaster) -> Recommender:
    """Return the recommender that the shards of one run share."""
    return Recommender(fleet, forecaster)


def recommendations_shard(
    fleet: Fleet,
    shard: Sequence[int],
    forecaster: LoadedForecaster,
) -> pl.DataFrame:
    """Return the recommendations for the shard's tenants: tenant x metric x tier."""
    recommender = _recommender(fleet, forecaster)  # type: ignore[arg-type]
    return rows_of(recommender.batch(next_requests(fleet, shard), fleet.arrays.values(shard)))


class LiveBatch(SearchBatch):
    """Requests that are not stored in any table. They are forecast, validated and decided when they
    are read, by the arithmetic of the batch path.
    """

    def __init__(
        self, recommender: Recommender, requests: Requests, values: NDArray[np.float32]
    ) -> None:
        super().__init__(recommender.fleet, requests)
        self.recommender = recommender
        self.values = values

    @property
    def configs(self) -> tuple[ForecastConfig, ...]:
        """As `SearchBatch.configs`."""
        return self.recommender.configs

    @cached_property
    def members(self) -> NDArray[np.bool_]:
        """As `SearchBatch.members`."""
        portfolios = {
            fold: [config.name in policy.portfolio for config in self.configs]
            for fold, policy in self.policies.items()
        }
        return np.array([portfolios[int(fold)] for fold in self.folds], dtype=bool).reshape(
            len(self.folds), len(self.configs)
        )

    @cached_property
    def policies(self) -> dict[int, SearchPolicy]:
        """As `SearchBatch.policies`."""
        return {fold: search.policy for fold, search in self.recommender.bundle.folds.items()}

    @cached_property
    def _forecast(self) -> tuple[Floats, Floats, Floats]:
        """Deciles [R, D, K, H, 9], validation losses and violation rates [R, D, K, J, A] of all
        configurations.
        """
        fleet, n_metrics = self.fleet, self.values.shape[1]
        results = forecast_with_evidence(
            self.recommender.forecaster,
            fleet.arrays.panel(self.values),
            self.requests.series_origins(n_metrics),
            self.configs,
            fleet.spec.horizon,
            self.recommender.bundle.facts.offsets,
            fleet.protocol.alphas,
        )
        deciles, losses, violations = (by_request(part, n_metrics) for part in results)
        return deciles, losses, violations

    @cached_property
    def all_deciles(self) -> Floats:
        """As `SearchBatch.all_deciles`."""
        return self._forecast[0]

    @cached_property
    def evidence(self) -> tuple[Floats, Floats]:
        """As `SearchBatch.evidence`."""
        members = self.members[:, None, :, None, None]
        return np.where(members, self._forecast[1], np.nan), np.where(
            members, self._forecast[2], np.nan
        )

    @cached_property
    def priors(self) -> tuple[dict[str, Floats], Floats]:
        """As `SearchBatch.priors`."""
        return self._retrieved[:2]

    @cached_property
    def groups(self) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
        """The retrieved archetype and the most similar tuning tenant of each request, [R] each; ""
        where there is none.
        """
        return self._retrieved[2:]

    @cached_property
    def _retrieved(self) -> tuple[dict[str, Floats], Floats, NDArray[np.str_], NDArray[np.str_]]:
        fleet, requests = self.fleet, self.requests
        tenant_ids = fleet.manifest["tenant_id"]
        n_origins = requests.ids.shape[1]
        shape = (
            requests.ids.size,
            self.values.shape[1],
            len(self.configs),
            len(fleet.protocol.tiers),
        )
        relative: dict[str, Floats] = {kind: np.full(shape, np.nan) for kind in PRIOR_KINDS}
        violations: Floats = np.full(shape, np.nan)
        archetypes, alike = (np.full(requests.ids.size, "", dtype=object) for _ in range(2))
        fold_of_tenant = self.folds[::n_origins]
        for fold in np.unique(fold_of_tenant).tolist():
            in_fold = fold_of_tenant == fold
            rows = np.flatnonzero(np.repeat(in_fold, n_origins))
            fold_requests = Requests(
                requests.frame[rows],
                *(
                    part[in_fold]
                    for part in (
                        requests.tenant_numbers,
                        requests.rows,
                        requests.ids,
                        requests.origins,
                        requests.valid,
                    )
                ),
            )
            known, bundle = self.recommender.known[fold], self.recommender.bundle
            retrieved = retrieve_from(
                bundle.folds[fold].index, fleet, fold_requests, bundle.facts.n_neighbours
            )
            request_tenants = tenant_ids.gather(
                np.repeat(fold_requests.tenant_numbers, n_origins)
            ).to_list()
            for kind, prior in request_priors(known, retrieved, request_tenants).items():
                relative[kind][rows] = prior
            violations[rows] = request_violations(known, retrieved, request_tenants)
            archetypes[rows] = retrieved.labels
            if retrieved.rows.shape[1]:
                alike[rows] = known.tenant_ids[retrieved.rows[:, 0]]
        return relative, violations, archetypes.astype(str), alike.astype(str)

    @cached_property
    def searched(self) -> Floats:
        """The search's deciles [R, D, A, H, 9] after its level correction."""
        return moved(self.decision.deciles, self.decision.shift)

    @cached_property
    def decision(self) -> Any:
        """The search's decision at these requests."""
        return self.decide()

    @cached_property
    def constants(self) -> Reservations:
        """The search's constants at these requests."""
        allowance = allowances(self.fleet, self.values, self.requests)
        return reservations(
            self.fleet, self.searched, allowance, self.folds, self.recommender.calibration
        )


def next_requests(fleet: Fleet, shard: Sequence[int]) -> Requests:
    """Return one request per tenant, from the last step of its telemetry. A tenant outside of all
    test folds is answered by the first fold's search.
    """
    manifest = fleet.manifest.filter(pl.col("tenant_number").is_in(list(shard)))
    folds = manifest["fold"].to_numpy().astype(np.int64)
    first_fold = tested_folds(fleet.manifest["fold"].to_numpy().astype(np.int64))[0]
    numbers = manifest["tenant_number"].to_numpy().astype(np.int64)
    origins = np.maximum(manifest["last_step"].to_numpy().astype(np.int64), 0)[:, None]
    return Requests(
        frame=manifest.select(
            "tenant_number", "tenant_id", fold=pl.Series(np.where(folds >= 0, folds, first_fold))
        ),
        tenant_numbers=numbers,
        rows=numbers - shard[0],
        ids=numbers[:, None],
        origins=origins,
        valid=np.ones(origins.shape, dtype=bool),
    )


def rows_of(batch: LiveBatch) -> pl.DataFrame:
    """Return the table's rows for requests with one origin per tenant."""
    fleet, requests, decided, constants = (
        batch.fleet,
        batch.requests,
        batch.decision,
        batch.constants,
    )
    shape = constants.steps.shape  # [R, D, A]
    fresh, notes = _notes(fleet, batch.values, requests.origins[:, 0])
    made = fresh[..., None] & np.isfinite(constants.steps)
    names = np.array([config.name for config in batch.configs])
    weights = np.nan_to_num(decided.weights)  # [R, D, A, K]
    heaviest = weights.argmax(axis=-1)
    deciles_of_fixed, fixed = fixed_deciles(batch, batch.recommender.fixed)
    loss_of_heaviest = np.take_along_axis(decided.posterior, heaviest[..., None], axis=-1)[..., 0]
    loss_of_fixed = np.where(fixed > 0, decided.posterior, 0.0).sum(axis=-1)
    expected = expected_excess(batch.searched, constants.steps)
    violations = np.stack(
        [batch.recommender.calibration.violations[int(fold)] for fold in batch.folds]
    )
    n_windows = np.isfinite(batch.evidence[0][..., 0]).any(axis=2).sum(axis=-1)  # [R, D]
    archetypes, alike = batch.groups
    own_tier = np.array(
        [tier == np.array(list(fleet.protocol.tiers)) for tier in _of(fleet, requests, "tier")]
    )

    def per_row(values: NDArray[Any], *axes: int) -> NDArray[Any]:
        """Broadcast an array over some of the axes (R, D, A) to all of them."""
        return np.broadcast_to(
            values.reshape([n if axis in axes else 1 for axis, n in enumerate(shape)]), shape
        )

    last_block = last_block_constants(fleet, batch.values, requests)
    figures = {
        "reservation": constants.steps,
        "reservation_max": constants.peak,
        "reservation_median": pooled_quantiles(batch.searched, (0.5,))[..., 0],
        "reservation_fixed": step_constants(fleet, deciles_of_fixed),
        "reservation_last_block": last_block,
        "config_weight": weights.max(axis=-1),
        "expected_violation_rate": violations,
        "relative_validation_loss": loss_of_heaviest
        / np.where(loss_of_fixed > 0, loss_of_fixed, np.nan),
        "expected_slack": expected.slack,
        "expected_shortfall": expected.shortfall,
    }
    unmade = np.where(
        notes[..., None] != "",
        notes[..., None],
        "no configuration can be used on so little history",
    )
    columns: dict[str, NDArray[Any]] = {
        "tenant_id": per_row(np.array(_of(fleet, requests, "tenant_id"), dtype=str), 0),
        "own_tier": per_row(own_tier, 0, 2),
        "origin": per_row(requests.origins[:, 0], 0),
        "made": made,
        "note": np.where(made, per_row(notes, 0, 1), unmade).astype(str),
        **{
            name: np.where(made, figure, np.nan).astype(np.float32)
            for name, figure in figures.items()
        },
        "config": np.where(made, names[heaviest], ""),
        "archetype": per_row(archetypes, 0),
        "look_alike": per_row(alike, 0),
        "n_validation_origins": per_row(n_windows.astype(np.int64), 0, 1),
    }
    axes = {"metric": fleet.grid.metrics, "tier": list(fleet.protocol.tiers)}
    rows = keyed_rows(requests.ids.ravel(), requests.tenant_numbers, axes, columns)
    first, step_us = fleet.grid.time_of(0), round(fleet.grid.step_minutes * 60_000_000)
    after = (pl.col("origin") + 1) * step_us
    empty_as_null = [
        pl.col(name).replace("", None) for name in ("config", "archetype", "look_alike")
    ]
    return rows.select(
        "tenant_number",
        "tenant_id",
        "metric",
        "tier",
        "own_tier",
        (pl.lit(first).cast(pl.Datetime("us", "UTC")) + after.cast(pl.Duration("us"))).alias(
            "block_start"
        ),
        (
            pl.lit(first).cast(pl.Datetime("us", "UTC"))
            + (after + (fleet.spec.horizon - 1) * step_us).cast(pl.Duration("us"))
        ).alias("block_end"),
        "made",
        "note",
        *(pl.col(name).fill_nan(None) for name in figures),
        *empty_as_null,
        "n_validation_origins",
    )


def _position(name: str, portfolio: Sequence[str]) -> int | None:
    return portfolio.index(name) if name in portfolio else None


def _of(fleet: Fleet, requests: Requests, column: str) -> list[Any]:
    return fleet.manifest[column].gather(requests.tenant_numbers.tolist()).to_list()


def _notes(
    fleet: Fleet, values: NDArray[np.float32], origins: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.str_]]:
    """Return which series [N, D] have a recent value at their origin [N], and a note on what is
    wrong with a history by the rules for scored requests [N, D]; "" if nothing is wrong.
    """
    spec = fleet.spec
    lookback = max(
        config.context_len for config in candidates(fleet.settings.search) if config.resolution == 1
    )
    needed = minimum_history(fleet.grid.seasons)
    fresh = np.ones(values.shape[:2], dtype=bool)
    notes = np.full(values.shape[:2], "", dtype=object)
    for n, origin in enumerate(origins):
        for d, observed in enumerate(~np.isnan(values[n, :, : origin + 1])):
            # The block is still to come, so its values must not count as missing.
            ahead = np.concatenate([observed, np.ones(spec.horizon, dtype=bool)])
            _, (reason,) = request_validity(
                ahead, [origin], lookback, spec.horizon, spec.max_gap, minimum_history=needed
            )
            silent = int(observed[::-1].argmax()) if observed.any() else len(observed)
            if silent > spec.max_gap:
                fresh[n, d] = False
                notes[n, d] = (
                    f"no value in the last {silent} steps (at most {spec.max_gap} are filled)"
                )
            elif reason:
                notes[n, d] = UNSCORED + reason
    return fresh, notes.astype(str)
