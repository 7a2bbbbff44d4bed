"""Live requests: the search's evidence and decisions at requests that are not stored in any table.

What belongs here: the fleet's bundle, ready to answer at any origin, and the arrays that it
computes for a batch of requests. What does not: the rows of a table (`steps.recommendations`), the
arithmetic of the constants (`steps.blocks`).
Axes: N tenants, O origins, R = N * O requests, D metrics, K configurations, A tiers, H steps of a
block.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch.bundle import LoadedForecaster, SearchBundle
from tsfm_pipeline.autoresearch.evidence import forecast_with_evidence
from tsfm_pipeline.autoresearch.policy import PRIOR_KINDS, SearchPolicy
from tsfm_pipeline.autoresearch.priors import TenantExperience
from tsfm_pipeline.catalogue.arrays import Requests
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.requests import tested_folds
from tsfm_pipeline.forecaster.config import ForecastConfig
from tsfm_pipeline.steps.archetypes import retrieve_from
from tsfm_pipeline.steps.blocks import (
    Calibration,
    FixedChoices,
    Reservations,
    allowances,
    moved,
    read_calibration,
    reservations,
)
from tsfm_pipeline.steps.bundle import open_bundle
from tsfm_pipeline.steps.evidence import Floats, SearchBatch, by_request
from tsfm_pipeline.steps.known_events import beside_events
from tsfm_pipeline.steps.policies import request_priors, request_violations


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
        return self._of_members(beside_events(self.fleet, self.requests, self._forecast[1:]))

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
    test folds, or outside of the cohort, is answered by the first fold's search.
    """
    manifest = fleet.manifest[list(shard)]
    folds = manifest["fold"].to_numpy().astype(np.int64)
    first_fold = tested_folds(fleet.folds)[0]
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


def _position(name: str, portfolio: Sequence[str]) -> int | None:
    return portfolio.index(name) if name in portfolio else None
