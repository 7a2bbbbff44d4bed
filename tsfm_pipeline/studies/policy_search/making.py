"""The makers of the study's tables.

What belongs here: one function per table, as the fleet's own tables are made (`steps`), and the
future-shuffle test of the forecasts. What does not: which tables there are (`tables`), and the loop
over them (`prepare`).
Axes: N tenants, O origins, R = N * O requests, D metrics, C candidates, J validation origins, A
tiers, H horizon, F features.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.archetypes.features import retrieval_features, window_features
from tsfm_pipeline.autoresearch.evidence import GridForecaster, validation_losses
from tsfm_pipeline.autoresearch.policy import level_unit
from tsfm_pipeline.catalogue.arrays import Requests
from tsfm_pipeline.catalogue.rows import keyed_rows
from tsfm_pipeline.evaluation.arrays import tier_losses
from tsfm_pipeline.evaluation.losses import decision_quantile
from tsfm_pipeline.forecaster.config import DECILE_COLUMNS, ForecastConfig
from tsfm_pipeline.forecaster.panel import Panel
from tsfm_pipeline.steps.archetypes import request_window, tuning_end, windows_before
from tsfm_pipeline.steps.evidence import (
    Floats,
    by_request,
    score_columns,
    target_arrays,
)
from tsfm_pipeline.steps.leakage import largest_change
from tsfm_pipeline.steps.requests import MAX_ORIGINS
from tsfm_pipeline.studies.policy_search.scope import StudyFleet

Columns = dict[str, NDArray[np.float32]]


def tuning_tenants(study: StudyFleet) -> pl.DataFrame:
    """Return the tuning tenants with the features of the window before the first test period, by
    which the fleet's index retrieves them.
    """
    fleet, tenants = study.fleet, study.tenants
    end, length = tuning_end(fleet), request_window(fleet)
    features = []
    for _, values in fleet.arrays.values_by_shard(tenants):
        starts = np.full((len(values), 1), end - length)
        features.append(window_features(values[..., :end], starts, length)[:, 0])
    known = fleet.manifest[tenants].select("tenant_number", "tenant_id", "archetype")
    return known.with_columns(pl.Series("features", np.concatenate(features)))


def request_features(study: StudyFleet) -> pl.DataFrame:
    """Return the tuning requests with the features of the window up to each origin, by which the
    fleet's index is queried.
    """
    fleet, requests = study.fleet, study.requests
    features = []
    for in_shard, values in fleet.arrays.values_by_shard(requests.tenant_numbers):
        for row, origins in zip(values, requests.origins[in_shard], strict=True):
            windows = windows_before(
                row[None], np.zeros(1, dtype=np.int64), origins[None], request_window(fleet)
            )
            features.append(retrieval_features(windows))
    ids = requests.ids.ravel()
    return pl.DataFrame(
        {
            "request_id": ids,
            "tenant_number": requests.tenants.astype(np.int32),
            "origin": (ids % MAX_ORIGINS).astype(np.int32),
            "origin_step": requests.origins.ravel().astype(np.int32),
            "valid": requests.valid.ravel(),
            "features": np.concatenate(features),
        }
    )


def tuning_targets(study: StudyFleet) -> pl.DataFrame:
    """Return the observed values after each tuning request, and the scale of its series."""
    actual, scale = target_arrays(study.fleet, study.requests)
    return keyed_rows(
        study.requests.ids.ravel(),
        study.requests.tenants,
        {"metric": study.fleet.grid.metrics},
        {"scale": scale, "actual": actual},
    )


def candidate_forecasts_shard(
    study: StudyFleet, shard: Sequence[int], forecaster: GridForecaster
) -> pl.DataFrame:
    """Return every candidate's quantile forecasts at the tuning requests of the shard's tenants,
    and what each of them cost.
    """
    requests, panel = requests_and_panel(study, shard)
    return _rows(study, requests, forecasts(study, requests, panel, study.candidates, forecaster))


def candidate_evidence_shard(
    study: StudyFleet, shard: Sequence[int], forecaster: GridForecaster
) -> pl.DataFrame:
    """Return every candidate's losses and violation rates at earlier origins of the same series."""
    requests, panel = requests_and_panel(study, shard)
    return _rows(study, requests, evidence(study, requests, panel, study.candidates, forecaster))


def forecasts(
    study: StudyFleet,
    requests: Requests,
    panel: Panel,
    configs: Sequence[ForecastConfig],
    forecaster: GridForecaster,
) -> Columns:
    """Return the columns of `candidate_forecasts` as arrays [R, D, C] and [R, D, C, H]; panel: the
    series of the requests' tenants.
    """
    fleet = study.fleet
    n_metrics, tiers = len(fleet.grid.metrics), fleet.protocol.tiers
    origins = requests.series_origins(n_metrics)
    grid = forecaster.forecast_grid(panel, origins, configs, fleet.spec.horizon)
    deciles = by_request(grid, n_metrics)[..., DECILE_COLUMNS]  # [R, D, C, H, 9]
    actual, _ = target_arrays(fleet, requests)
    levels = {**tiers, "median": 0.5}
    limits, axis = fleet.arrays.limits, 1
    losses, violations = tier_losses(
        actual[:, :, None], deciles, tuple(levels.values()), limits, axis=axis
    )
    columns: Columns = {
        f"decision_{name}": limits.clip(decision_quantile(deciles, alpha), axis=axis)
        for name, alpha in levels.items()
    }
    columns["spread"] = level_unit(deciles)
    return columns | score_columns(losses, violations, levels, tiers)


def evidence(
    study: StudyFleet,
    requests: Requests,
    panel: Panel,
    configs: Sequence[ForecastConfig],
    forecaster: GridForecaster,
) -> Columns:
    """Return the columns of `candidate_evidence` as arrays [R, D, C, J]; panel: the series of the
    requests' tenants.
    """
    n_metrics = len(study.fleet.grid.metrics)
    scores = widest_evidence(study, panel, requests.series_origins(n_metrics), configs, forecaster)
    losses, violations = (by_request(part, n_metrics) for part in scores)
    tiers = study.fleet.protocol.tiers
    return score_columns(losses, violations, tiers, tiers)


def widest_evidence(
    study: StudyFleet,
    panel: Panel,
    origins: NDArray[np.int64],
    configs: Sequence[ForecastConfig],
    forecaster: GridForecaster,
) -> tuple[Floats, Floats]:
    """Return losses and violation rates [S, O, C, J, A] at the J origins of the widest schedule.

    The context that a shared pass gives to an origin depends on which other origins it serves.
    Those of the default schedule share passes only among themselves, so that their values are those
    of the fleet's `validation_losses`; the further ones have passes of their own.
    """
    fleet = study.fleet
    further = tuple(offset for offset in study.offsets if offset not in fleet.offsets)
    parts = [
        validation_losses(
            forecaster,
            panel,
            origins,
            configs,
            fleet.spec.horizon,
            offsets,
            fleet.protocol.alphas,
        )
        for offsets in (fleet.offsets, further)
        if offsets
    ]
    ascending = np.argsort((*fleet.offsets, *further))
    losses, violations = (
        np.concatenate(pair, axis=3)[..., ascending, :] for pair in zip(*parts, strict=True)
    )
    return losses, violations


def forecasts_leakage(study: StudyFleet, forecaster: GridForecaster) -> float:
    """Return the largest change of a candidate's forecast when the future becomes noise, relative
    to the level of the values.
    """

    def forecast(panel: Panel, origins: NDArray[np.int64]) -> Floats:
        horizon = study.fleet.spec.horizon
        return forecaster.forecast_grid(panel, origins, study.candidates, horizon)

    return largest_change(study.fleet, forecast, "tuning")


def evidence_leakage(study: StudyFleet, forecaster: GridForecaster) -> float:
    """Return the largest change of a validation loss when the future becomes noise, relative to the
    level of the values.
    """

    def losses(panel: Panel, origins: NDArray[np.int64]) -> Floats:
        return widest_evidence(study, panel, origins, study.candidates, forecaster)[0]

    return largest_change(study.fleet, losses, "tuning")


def requests_and_panel(study: StudyFleet, shard: Sequence[int]) -> tuple[Requests, Panel]:
    """Return the tuning requests of some tenants, and their telemetry as a panel."""
    arrays, tenants = study.fleet.arrays, np.asarray(shard, dtype=np.int64)
    values = np.concatenate([part for _, part in arrays.values_by_shard(tenants)])
    return arrays.requests("tuning", only=shard), arrays.panel(values)


def _rows(study: StudyFleet, requests: Requests, columns: Columns) -> pl.DataFrame:
    """Return one row per request, metric and candidate."""
    axes = {
        "metric": study.fleet.grid.metrics,
        "config": [config.name for config in study.candidates],
    }
    return keyed_rows(requests.ids.ravel(), requests.tenants, axes, columns)
