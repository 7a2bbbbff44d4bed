"""The agreement of shared passes with exact windows: do both rank the configurations alike?

What belongs here: the comparison on a sample of a fleet's requests. What does not: planning shared
passes (`forecaster.plan`).
"""

from typing import Any

import numpy as np

from tsfm_pipeline.autoresearch.evidence import GridForecaster, validation_losses
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.arrays import targets_after, tier_losses
from tsfm_pipeline.forecaster.config import DECILE_COLUMNS

N_TENANTS = 12


def rank_agreement(fleet: Fleet, forecaster: GridForecaster) -> dict[str, Any]:
    """Compare mean validation losses (headline tier) from shared passes with those from exact
    windows, at one request of up to `N_TENANTS` tenants.

    Returns over the series: the number of series, the mean rank correlation (Spearman's) of the
    configurations' mean losses, the share with the same best configuration, and the relative
    increase of the exact loss if the configuration is chosen by the shared passes.
    """
    from scipy.stats import spearmanr

    horizon, protocol = fleet.spec.horizon, fleet.protocol
    alpha = (protocol.tiers[protocol.headline_tier],)
    correlations, same, chosen, best = [], [], 0.0, 0.0
    tenants = np.unique(fleet.arrays.requests("test").tenant_numbers)
    for number in tenants[
        np.linspace(0, len(tenants) - 1, min(N_TENANTS, len(tenants))).astype(int)
    ].tolist():
        requests = fleet.arrays.requests("test", only=[number])
        ((_, values),) = fleet.arrays.values_by_shard(requests.tenant_numbers)
        panel = fleet.arrays.panel(values)
        origins = requests.series_origins(len(fleet.grid.metrics))[:, -1:]
        shared = validation_losses(
            forecaster, panel, origins, fleet.configs, horizon, fleet.offsets, alpha
        )[0][:, 0, :, :, 0]
        earlier = np.maximum(origins - np.asarray(fleet.offsets), 0)
        grid = forecaster.forecast_grid(panel, earlier, fleet.configs, horizon)[
            ..., DECILE_COLUMNS
        ]  # [S, J, K, H, 9]
        actual = targets_after(panel.values, earlier, horizon)[:, :, None]
        exact = tier_losses(actual, grid, alpha, panel.limits)[0][..., 0].swapaxes(1, 2)
        for shared_losses, exact_losses in zip(shared, exact, strict=True):
            both = np.isfinite(shared_losses) & np.isfinite(exact_losses)  # [K, J]
            usable = both.any(axis=1)
            windows = both[usable].all(axis=0)
            if usable.sum() < 2 or not windows.any():
                continue
            a, b = (
                shared_losses[usable][:, windows].mean(axis=1),
                exact_losses[usable][:, windows].mean(axis=1),
            )
            if np.ptp(a) > 0 and np.ptp(b) > 0:
                correlations.append(float(spearmanr(a, b).statistic))
                same.append(a.argmin() == b.argmin())
                chosen, best = chosen + b[a.argmin()] / b.mean(), best + b.min() / b.mean()
    n = len(correlations)
    return {
        "rank_agreement_n_series": n,
        "rank_agreement_spearman": float(np.mean(correlations)) if n else None,
        "rank_agreement_same_best": float(np.mean(same)) if n else None,
        "rank_agreement_choice_cost": float(chosen / best - 1) if n else None,
    }
