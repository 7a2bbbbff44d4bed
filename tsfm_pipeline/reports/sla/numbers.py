"""SLA tiers: do they get different forecasts, and is each the right one under its own alpha?

What belongs here: the contents of `sla_report`. What does not: scores (`evaluation.scoring`), statistics (`evaluation.statistics`).
"""

from itertools import permutations
from typing import Any

import numpy as np
import polars as pl

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.arrays import mean_of_known
from tsfm_pipeline.evaluation.losses import mean_pinball
from tsfm_pipeline.evaluation.methods import SEARCH
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.evaluation.statistics import two_way_bootstrap, two_way_bootstrap_mean
from tsfm_pipeline.steps.headline import per_request, request_losses


def sla_report(fleet: Fleet) -> dict[str, Any]:
    """Every test tenant at every tier: mean decision, violations and slack per tier, and each tier's forecast under every other alpha."""
    evaluation = fleet.settings.evaluation
    requests = fleet.arrays.requests("test")
    shape = (len(fleet.grid.metrics), len(TIERS))
    (decision,) = fleet.arrays.of("autoresearch_forecasts", requests, ["decision"], shape)  # [R, D, A, H]
    actual, scale = fleet.arrays.of("request_targets", requests, ["actual", "scale"], shape[:1])
    usable = requests.valid.ravel() & np.isfinite(decision).all(axis=(2, 3)).any(axis=1)
    decision, actual, scale = decision[usable], actual[usable], scale[usable]
    frame = requests.frame.filter(pl.Series(usable))
    tenant, day = frame["tenant_number"].to_numpy(), frame["origin_time"].cast(pl.Date).cast(pl.Int32).to_numpy()
    draws = evaluation.bootstrap

    level = mean_of_known(decision.mean(axis=-1) / scale[..., None], axis=1)  # [R, A]
    names = list(TIERS)
    scores = per_request(request_losses(fleet, [SEARCH]))
    tiers = []
    for a, (tier, alpha) in enumerate(TIERS.items()):
        mine = scores.filter(pl.col("tier") == tier)
        mean = two_way_bootstrap_mean(level[:, a], tenant, day, **draws)
        rate = two_way_bootstrap_mean(
            mine["violation_rate"].to_numpy(), mine["tenant_number"].to_numpy(), mine["day"].cast(pl.Int32).to_numpy(), **draws
        )
        tiers.append(
            {
                "tier": tier,
                "alpha": alpha,
                "mean_scaled_decision": mean.mean,
                "low": mean.low,
                "high": mean.high,
                "violation_rate": rate.mean,
                "violation_rate_low": rate.low,
                "violation_rate_high": rate.high,
                "violation_rate_target": round(1 - alpha, 10),
                "mean_scaled_slack": float(np.nanmean(mine["scaled_slack"].to_numpy())),
                "mean_scaled_shortfall": float(np.nanmean(mine["scaled_shortfall"].to_numpy())),
                "n_requests": mean.n_requests,
            }
        )
    steps = []
    for a in range(len(names) - 1):
        difference = two_way_bootstrap_mean(level[:, a] - level[:, a + 1], tenant, day, **draws)
        steps.append(
            {
                "higher_tier": names[a],
                "lower_tier": names[a + 1],
                "difference": difference.mean,
                "low": difference.low,
                "high": difference.high,
            }
        )
    losses = {
        (forecast, scored): mean_of_known(mean_pinball(actual, decision[:, :, names.index(forecast)], TIERS[scored]) / scale, axis=1)
        for forecast in names
        for scored in names
    }
    cross = []
    for scored, other in permutations(names, 2):
        ratio = two_way_bootstrap(losses[other, scored], losses[scored, scored], tenant, day, **draws)
        cross.append(
            {
                "forecast_tier": other,
                "scored_tier": scored,
                "mean_scaled_loss": float(np.nanmean(losses[other, scored])),
                "own_mean_scaled_loss": float(np.nanmean(losses[scored, scored])),
                "ratio": ratio.ratio,
                "ratio_low": ratio.low,
                "ratio_high": ratio.high,
            }
        )
    return {"fleet": fleet.name, "table_tiers": tiers, "table_steps": steps, "table_cross": cross}
