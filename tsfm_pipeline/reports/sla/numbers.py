"""SLA tiers: whether they get different forecasts, each the best one under its own alpha.

What belongs here: the contents of `sla_report`. What does not: scores (`evaluation.scoring`),
statistics (`evaluation.statistics`).
"""

from itertools import pairwise, permutations

import numpy as np
import polars as pl

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.arrays import mean_of_known
from tsfm_pipeline.evaluation.losses import mean_pinball
from tsfm_pipeline.evaluation.methods import SEARCH
from tsfm_pipeline.evaluation.statistics import two_way_bootstrap, two_way_bootstrap_mean
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.sla.model import CrossRow, SlaReport, StepRow, TierRow
from tsfm_pipeline.steps.headline import per_request, request_losses


def sla_report(fleet: Fleet) -> SlaReport:
    """Compare all test tenants at every tier, and each tier's forecast under every other alpha."""
    alphas = fleet.protocol.tiers
    requests = fleet.arrays.requests("test")
    shape = (len(fleet.grid.metrics), len(alphas))
    (decision,) = fleet.arrays.of(
        "autoresearch_forecasts", requests, ["decision"], shape
    )  # [R, D, A, H]
    actual, scale = fleet.arrays.of("request_targets", requests, ["actual", "scale"], shape[:1])
    usable = requests.valid.ravel() & np.isfinite(decision).all(axis=(2, 3)).any(axis=1)
    decision, actual, scale = decision[usable], actual[usable], scale[usable]
    frame = requests.frame.filter(pl.Series(usable))
    tenant, day = (
        frame["tenant_number"].to_numpy(),
        frame["origin_time"].cast(pl.Date).cast(pl.Int32).to_numpy(),
    )
    draws = fleet.settings.evaluation.bootstrap

    level = mean_of_known(decision.mean(axis=-1) / scale[..., None], axis=1)  # [R, A]
    names = list(alphas)
    scores = per_request(request_losses(fleet, [SEARCH]))
    tiers = []
    for a, (tier, alpha) in enumerate(alphas.items()):
        tier_scores = scores.filter(pl.col("tier") == tier)
        mean = two_way_bootstrap_mean(level[:, a], tenant, day, **draws)
        rate = two_way_bootstrap_mean(
            tier_scores["violation_rate"].to_numpy(),
            tier_scores["tenant_number"].to_numpy(),
            tier_scores["day"].cast(pl.Int32).to_numpy(),
            **draws,
        )
        tiers.append(
            TierRow(
                tier=tier,
                alpha=alpha,
                mean_scaled_decision=Estimate(mean.mean, mean.low, mean.high),
                violation_rate=Estimate(rate.mean, rate.low, rate.high),
                violation_rate_target=round(1 - alpha, 10),
                mean_scaled_slack=float(np.nanmean(tier_scores["scaled_slack"].to_numpy())),
                mean_scaled_shortfall=float(np.nanmean(tier_scores["scaled_shortfall"].to_numpy())),
                n_requests=mean.n_requests,
            )
        )
    steps = []
    for (a, higher), (b, lower) in pairwise(enumerate(names)):
        mean = two_way_bootstrap_mean(level[:, a] - level[:, b], tenant, day, **draws)
        difference = Estimate(mean.mean, mean.low, mean.high)
        steps.append(StepRow(higher_tier=higher, lower_tier=lower, difference=difference))
    losses = {
        (forecast, scored): mean_of_known(
            mean_pinball(actual, decision[:, :, names.index(forecast)], alphas[scored]) / scale,
            axis=1,
        )
        for forecast in names
        for scored in names
    }
    cross = []
    for scored, other in permutations(names, 2):
        ratio = two_way_bootstrap(
            losses[other, scored], losses[scored, scored], tenant, day, **draws
        )
        cross.append(
            CrossRow(
                forecast_tier=other,
                scored_tier=scored,
                mean_scaled_loss=float(np.nanmean(losses[other, scored])),
                own_mean_scaled_loss=float(np.nanmean(losses[scored, scored])),
                ratio=Estimate(ratio.ratio, ratio.low, ratio.high),
            )
        )
    return SlaReport(
        fleet=fleet.name,
        table_tiers=tuple(tiers),
        table_steps=tuple(steps),
        table_cross=tuple(cross),
    )
