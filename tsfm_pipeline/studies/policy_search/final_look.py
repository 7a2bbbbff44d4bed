"""The final look: what a promotion is worth on test tenants, who had no part in it.

What belongs here: both policies' losses at the test requests, and their ratio. What does not:
deciding anything by it, and recording it (`promotion_records`).
Axes: R test requests, D metrics, C candidates of the tuning rows, J validation origins, A tiers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.archetypes.features import retrieval_features
from tsfm_pipeline.autoresearch.evidence import GridForecaster, validation_losses
from tsfm_pipeline.autoresearch.space import validation_offsets
from tsfm_pipeline.catalogue.arrays import Requests
from tsfm_pipeline.catalogue.shards import model_of
from tsfm_pipeline.evaluation.requests import tested_folds
from tsfm_pipeline.evaluation.statistics import two_way_bootstrap
from tsfm_pipeline.forecaster.config import ForecastConfig
from tsfm_pipeline.forecaster.panel import Panel
from tsfm_pipeline.settings import SearchSettings, Settings
from tsfm_pipeline.steps.archetypes import request_window, windows_before
from tsfm_pipeline.steps.evidence import Floats, by_request, target_arrays
from tsfm_pipeline.studies.policy_search.evaluation import score
from tsfm_pipeline.studies.policy_search.extra import with_candidates
from tsfm_pipeline.studies.policy_search.fitting import FittedFold, Ints, View, fit_fold
from tsfm_pipeline.studies.policy_search.making import forecasts
from tsfm_pipeline.studies.policy_search.policy import Policy
from tsfm_pipeline.studies.policy_search.promotion_records import Look
from tsfm_pipeline.studies.policy_search.rows import FleetRows, per_candidate, read_rows
from tsfm_pipeline.studies.policy_search.scope import SCOPE, SERIES_PER_SHARD, StudyFleet
from tsfm_pipeline.studies.policy_search.tables import FORECASTS

if TYPE_CHECKING:
    from tsfm_pipeline.studies.policy_search.yardstick import Yardstick


class ScoredRequests(NamedTuple):
    """The test requests that can be scored, [R], with the mean scaled losses of each policy at them
    [R, A].

    days: of their origins, as days since 1970. failed bool [R]: requests at which one of the
    policies has no forecast of some metric; it then costs as much as the worst candidate there.
    """

    tenants: Ints
    days: Ints
    groups: NDArray[np.str_]
    failed: NDArray[np.bool_]
    challenger: Floats
    replaced: Floats


def final_look(
    settings: Settings,
    yardstick: "Yardstick",
    challenger: Policy,
    replaced: Policy,
    forecaster: GridForecaster | None = None,
) -> list[Look]:
    """Return what the challenger costs on the test tenants of the yardstick's fleets, relative to
    the policy that it replaces: at every tier, and of every archetype at the headline tier.

    Constants of both are fitted on the tuning tenants, before the test period; on cross-fitted
    fleets those of each fold on the tenants of the other folds, as the fleet graph does. A request
    is scored by the mean over its metrics of its scaled loss, as in the fleet's headline, and
    intervals are two-way. forecaster: that of the settings by default. It is asked
    for the members of the two portfolios alone, for `SERIES_PER_SHARD` series at a time.
    """
    forecaster = model_of(settings) if forecaster is None else forecaster
    policies = challenger.settings, replaced.settings
    looks: list[Look] = []
    for fleet in yardstick.fleets:
        study = SCOPE.open(settings, fleet)
        rows = tuning_rows(study, policies)
        looks += _looks(
            study, tuple(rows.alphas), score_test_requests(study, rows, policies, forecaster)
        )
    return looks


def tuning_rows(study: StudyFleet, policies: Sequence[SearchSettings]) -> FleetRows:
    """Return the tuning rows of a fleet, with every candidate of some policies, and with the
    fleet's test folds in place of the study's folds.
    """
    wanted = dict.fromkeys(name for policy in policies for name in policy.candidates)
    rows = with_candidates(read_rows(study.settings, study.name), study.settings, tuple(wanted))
    fold_of = dict(study.fleet.manifest.select("tenant_id", "fold").iter_rows())
    return replace(rows, folds=np.array([fold_of[tenant] for tenant in rows.tenant_ids]))


def score_test_requests(
    study: StudyFleet,
    rows: FleetRows,
    policies: tuple[SearchSettings, SearchSettings],
    forecaster: GridForecaster,
) -> ScoredRequests:
    """Return the losses of two policies at a fleet's test requests; rows: as `tuning_rows` returns
    them. Raises ValueError if no request can be scored.
    """
    folds = study.fleet.manifest["fold"].to_numpy().astype(np.int64)
    parts = []
    for fold in tested_folds(folds):
        fits = [(policy, fit_fold(View(rows, policy), fold)) for policy in policies]
        for tenants in _batches(study, np.flatnonzero(folds == fold)):
            batch = _Batch(study, rows, tenants, fold)
            if batch.scorable.any():
                parts.append(batch.losses(fits, forecaster))
    if not parts:
        raise ValueError(f"fleet {study.name!r} has no test request that can be scored")
    return ScoredRequests(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _batches(study: StudyFleet, tenants: Ints) -> Iterator[Ints]:
    size = max(1, SERIES_PER_SHARD // len(study.fleet.grid.metrics))
    yield from (tenants[first : first + size] for first in range(0, len(tenants), size))


class _Batch:
    """The test requests of some tenants of one test fold."""

    def __init__(self, study: StudyFleet, rows: FleetRows, tenants: Ints, fold: int) -> None:
        self.study = study
        self.rows = rows
        self.fold = fold
        arrays = study.fleet.arrays
        self.requests: Requests = arrays.requests("test", only=tenants.tolist())
        self.values = np.concatenate(
            [part for _, part in arrays.values_by_shard(self.requests.tenant_numbers)]
        )
        self.panel: Panel = arrays.panel(self.values)
        self.actual, self.scale = target_arrays(study.fleet, self.requests)

    @property
    def scorable(self) -> NDArray[np.bool_]:
        """Which requests [R] are valid and have a scale and an outcome."""
        known = np.isfinite(self.scale) & ~np.isnan(self.actual).all(axis=-1)
        return np.asarray(self.requests.valid.ravel() & known.any(axis=-1))

    def losses(
        self, fits: Sequence[tuple[SearchSettings, FittedFold]], forecaster: GridForecaster
    ) -> ScoredRequests:
        """Return the losses of the policies, each fitted on the fold's tuning tenants."""
        members = np.unique(np.concatenate([fitted.members for _, fitted in fits]))
        shown = self._rows(members, forecaster)
        scored = [
            score(View(rows, policy), fitted, self.fold)
            for (policy, fitted), rows in zip(
                fits, self._with_evidence(shown, fits, forecaster), strict=True
            )
        ]
        positions = scored[0].tenants  # every request is a tenant of its own in these rows
        frame = self.requests.frame[positions]
        return ScoredRequests(
            frame["tenant_number"].to_numpy().astype(np.int64),
            frame["origin_time"].cast(pl.Date).cast(pl.Int32).to_numpy().astype(np.int64),
            np.array(shown.groups, dtype=str)[positions],
            _failed(shown, fits)[positions],
            *(part.losses for part in scored),
        )

    def _rows(self, members: Ints, forecaster: GridForecaster) -> FleetRows:
        """Return rows in which every request is a tenant of its own, so that it is scored by
        itself; all candidates but the members are unavailable, and there is no evidence.
        """
        fleet, requests = self.study.fleet, self.requests
        configs = self._configs(members)
        columns = forecasts(self.study, requests, self.panel, configs, forecaster)
        fields: dict[str, Any] = {
            name: self._at(members, field.of(columns))
            for name, field in per_candidate(self.rows.alphas).items()
            if field.table == FORECASTS
        }
        numbers, n_requests = requests.tenants, requests.ids.size
        windows = windows_before(
            self.values, np.arange(len(self.values)), requests.origins, request_window(fleet)
        )
        archetypes = fleet.manifest["archetype"].fill_null("")
        return replace(
            self.rows,
            tenant_ids=tuple(fleet.manifest["tenant_id"].gather(numbers)),
            groups=tuple(archetypes.gather(numbers)),
            folds=np.full(n_requests, self.fold),
            tenants=np.arange(n_requests),
            origins=np.zeros(n_requests, dtype=np.int64),
            valid=self.scorable,
            actual=self.actual,
            scale=self.scale,
            features=retrieval_features(windows),
            tenant_features=self.rows.tenant_features[:0],
            n_sealed=len(self.rows.candidates),  # both policies are scored on the same rows
            **fields,
        )

    def _with_evidence(
        self,
        shown: FleetRows,
        fits: Sequence[tuple[SearchSettings, FittedFold]],
        forecaster: GridForecaster,
    ) -> Iterator[FleetRows]:
        """Yield the rows with the evidence of each policy's schedule. Policies with one schedule
        share the model's passes, as all members of a portfolio do.
        """
        schedules = [validation_offsets(policy, shown.horizon, shown.season) for policy, _ in fits]
        known: dict[tuple[int, ...], FleetRows] = {}
        for steps in schedules:
            if steps not in known:
                members = np.unique(
                    np.concatenate(
                        [
                            fitted.members
                            for (_, fitted), own in zip(fits, schedules, strict=True)
                            if own == steps
                        ]
                    )
                )
                known[steps] = self._validated(shown, members, steps, forecaster)
            yield known[steps]

    def _validated(
        self, shown: FleetRows, members: Ints, steps: tuple[int, ...], forecaster: GridForecaster
    ) -> FleetRows:
        n_metrics = shown.n_metrics
        scores = validation_losses(
            forecaster,
            self.panel,
            self.requests.series_origins(n_metrics),
            self._configs(members),
            shown.horizon,
            steps,
            tuple(shown.alphas.values()),
        )
        losses, violations = (self._at(members, by_request(part, n_metrics)) for part in scores)
        return replace(shown, offsets=steps, evidence=losses, evidence_violations=violations)

    def _configs(self, members: Ints) -> list[ForecastConfig]:
        return [ForecastConfig.from_name(self.rows.candidates[c]) for c in members]

    def _at(self, members: Ints, values: Floats) -> Floats:
        """Return values [R, D, K, ...] of the members at their places among all candidates, NaN at
        the others.
        """
        shape = (*values.shape[:2], len(self.rows.candidates), *values.shape[3:])
        placed = np.full(shape, np.nan, dtype=np.float32)
        placed[:, :, members] = values
        return placed


def _failed(
    shown: FleetRows, fits: Sequence[tuple[SearchSettings, FittedFold]]
) -> NDArray[np.bool_]:
    """Return the requests [R] at which one of the policies has no forecast of a metric with a
    scale.
    """
    lacks = [
        ~np.isfinite(shown.spread[:, :, fitted.members, 0]).any(axis=-1) & np.isfinite(shown.scale)
        for _, fitted in fits
    ]
    return np.asarray(np.any(lacks, axis=(0, 2)))


def _looks(study: StudyFleet, tiers: tuple[str, ...], losses: ScoredRequests) -> Iterator[Look]:
    """Yield the ratio at every tier, and that of every archetype at the headline tier."""
    evaluation, headline = study.settings.evaluation, study.fleet.protocol.headline_tier
    everyone = np.ones(len(losses.tenants), dtype=bool)
    for tier in tiers:
        yield _look(study, losses, tiers.index(tier), tier, "", everyone, evaluation.bootstrap)
    for group in np.unique(losses.groups[losses.groups != ""]).tolist():
        inside, draws = losses.groups == group, evaluation.group_bootstrap
        yield _look(study, losses, tiers.index(headline), headline, group, inside, draws)


def _look(
    study: StudyFleet,
    losses: ScoredRequests,
    a: int,
    tier: str,
    group: str,
    rows: NDArray[np.bool_],
    draws: dict[str, int],
) -> Look:
    own, other = losses.challenger[rows, a], losses.replaced[rows, a]
    interval = two_way_bootstrap(own, other, losses.tenants[rows], losses.days[rows], **draws)
    return Look(
        fleet=study.name,
        tier=tier,
        group=group,
        ratio=interval.ratio,
        low=interval.low,
        high=interval.high,
        loss=float(own.mean()),
        loss_replaced=float(other.mean()),
        n_requests=interval.n_requests,
        n_tenants=interval.n_tenants,
        n_days=interval.n_days,
        n_failed=int(losses.failed[rows].sum()),
    )
