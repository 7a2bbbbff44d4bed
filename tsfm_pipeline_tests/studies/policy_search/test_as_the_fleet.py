"""Test that a fold of the study is fitted as the fleet graph fits a test fold."""

import numpy as np

from tsfm_pipeline.archetypes.features import retrieval_features, window_features
from tsfm_pipeline.autoresearch.policy import SearchPolicy, level_unit
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.losses import decision_quantile
from tsfm_pipeline.steps.archetypes import request_window, tuning_end, windows_before
from tsfm_pipeline.steps.evidence import grid_arrays, read_policies, tunes, validation_arrays
from tsfm_pipeline.steps.policies import tuning_losses
from tsfm_pipeline.studies.policy_search.fitting import View, fit_fold
from tsfm_pipeline.studies.policy_search.rows import FleetRows


def rows_of_tables(fleet: Fleet) -> FleetRows:
    """Return the rows of a fleet with one test fold, made from its own tables: its portfolio is all
    the candidates, and its tuning tenants are outside of fold 0.
    """
    manifest, limits = fleet.manifest, fleet.arrays.limits
    tuners = np.flatnonzero(tunes(fleet))
    requests = fleet.arrays.requests("tuning", only=tuners.tolist())
    n_tenants, n_origins = requests.ids.shape
    deciles, actual, scale = grid_arrays(fleet, requests)
    alphas = (*fleet.protocol.alphas, 0.5)
    levels = np.stack([decision_quantile(deciles, alpha) for alpha in alphas], axis=3)
    losses, violations, _ = tuning_losses(fleet, requests, np.ones(len(fleet.configs), dtype=bool))
    evidence, evidence_violations = validation_arrays(fleet, requests)
    end, length = tuning_end(fleet), request_window(fleet)
    values = np.concatenate([part for _, part in fleet.arrays.values_by_shard(tuners)])
    windows = windows_before(values, np.arange(n_tenants), requests.origins, length)
    starts = np.full((n_tenants, 1), end - length)
    tenants = manifest[tuners]
    return FleetRows(
        fleet=fleet.name,
        candidates=tuple(config.name for config in fleet.configs),
        n_sealed=len(fleet.configs),
        offsets=fleet.offsets,
        horizon=fleet.spec.horizon,
        season=fleet.grid.first_season,
        alphas=dict(fleet.protocol.tiers),
        limits=limits,
        tenant_ids=tuple(tenants["tenant_id"].to_list()),
        folds=tenants["fold"].to_numpy().astype(np.int64),
        groups=tuple(tenants["archetype"].fill_null("").to_list()),
        tenants=np.repeat(np.arange(n_tenants), n_origins),
        origins=np.tile(np.arange(n_origins), n_tenants),
        valid=requests.valid.ravel(),
        actual=actual,
        scale=scale,
        decisions=limits.clip(levels, axis=1),
        spread=level_unit(deciles),
        losses=losses.astype(np.float32),
        violations=violations.astype(np.float32),
        evidence=evidence,
        evidence_violations=evidence_violations,
        features=retrieval_features(windows),
        tenant_features=window_features(values[..., :end], starts, length)[:, 0],
    )


def test_a_fold_is_fitted_as_the_fleet_fits_its_test_fold(mini_fleet: Fleet) -> None:
    """All rules may decide by default, so even their figures are equal to the last digit."""
    search = mini_fleet.settings.search.model_copy(
        update={"candidates": tuple(config.name for config in mini_fleet.configs)}
    )
    fitted = fit_fold(View(rows_of_tables(mini_fleet), search), 0)
    expected: SearchPolicy = read_policies(mini_fleet)[0]
    assert fitted.policy.model_dump_json() == expected.model_dump_json()
