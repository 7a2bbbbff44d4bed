"""Make small fleets of tuning rows in which a known change of the settings is better.

What belongs here: rows that hold every candidate and every validation origin of the default search,
and the changes that are planted in them. What does not: anything that reads a fleet.
"""

from itertools import product
from typing import Any, Literal

import numpy as np
from scipy import stats

from tsfm_pipeline.autoresearch.space import validation_offsets
from tsfm_pipeline.evaluation.arrays import violation_rate
from tsfm_pipeline.evaluation.limits import Limits
from tsfm_pipeline.evaluation.losses import mean_pinball
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.settings import SearchSettings
from tsfm_pipeline.studies.policy_search.latency import LatencyLine, Line
from tsfm_pipeline.studies.policy_search.policy import DEFAULT
from tsfm_pipeline.studies.policy_search.rows import FleetRows

CHOOSING, CONFIRMING = (0, 1, 2), (3, 4)
HORIZON, SEASON, N_FOLDS, N_FEATURES = 8, 96, 5, 6
EXTRA = "ctx4096"
"""A candidate that the default search does not have."""
WIDEST = SearchSettings(recent_origins=12, daily_origins=(1, 2, 3, 4, 5, 6, 7))
BETTER: dict[str, Any] = {"candidates": (*DEFAULT.candidates, EXTRA)}
"""The planted change of the settings."""
QUICK: dict[str, Any] = {
    "portfolio_size": 3,
    "portfolio_tenants": 12,
    "rules": ("top_m", "softmax"),
    "declared_rule": "softmax",
    "half_lives": (float("inf"),),
    "same_hours": (0.0,),
    "shrinkages": (4.0,),
    "temperatures": (0.05, 0.2),
    "top_ms": (2,),
    "correction_gains": (0.0, 0.5),
    "correction_shrinkages": (4.0,),
    "base_shifts": (0.0,),
}
"""Settings under which one evaluation takes a fraction of the time."""
EXTRA_ERROR = {"everywhere": (0.3, 0.3), "choosing": (0.3, 1.2), "nowhere": (1.0, 1.0)}
"""By where the change is better: the standard deviation of the extra candidate's error at the
requests of tenants in the choosing folds, and in the confirming ones. Others have about 1. Its
evidence promises the first of the two in any fold, so that no rule can tell."""
TOLD_BY = (2, 3)
"""Days back that tell which candidate is right in `rows_told_by_origins`; the default search
validates 1 and 7 days back."""
LONG_SEASON = 480
"""Steps of a day that no recent validation origin of the widest schedule reaches."""
TELLING: dict[str, Any] = {"daily_origins": TOLD_BY}
GOOD_AND_BAD = (0.3, 1.5)
"""Standard deviations of the errors of good and of other candidates."""
COMMON = 0.9
"""Correlation of the candidates' errors: an average of many candidates gains little."""

Where = Literal["everywhere", "choosing", "nowhere"]


LINE = LatencyLine(
    p50=Line(fixed_ms=10.0, ms_per_token=0.01),
    p95=Line(fixed_ms=20.0, ms_per_token=0.02),
    machine="planted",
)


def rows(
    where: Where = "everywhere",
    *,
    seed: int = 0,
    fleet: str = "planted",
    n_tenants: int = 40,
    n_origins: int = 6,
    n_metrics: int = 2,
    horizon: int = HORIZON,
    season: int = SEASON,
    candidates: tuple[str, ...] = BETTER["candidates"],
) -> FleetRows:
    """Return rows in which the change `BETTER` lowers the loss everywhere, or only for tenants of
    the choosing folds (it raises it for others), or nowhere.

    A candidate's forecast is the truth plus an error that is constant over the horizon; the size of
    the error depends on the candidate and a little on the tenant.
    """
    rng = np.random.default_rng(seed)
    offsets = validation_offsets(WIDEST, horizon, season)
    tenants = np.repeat(np.arange(n_tenants), n_origins)
    folds = rng.permutation(np.arange(n_tenants) % N_FOLDS)
    n_windows = len(offsets) + 1
    size = np.linspace(0.9, 1.1, len(candidates)) * rng.uniform(
        0.8, 1.2, (n_tenants, n_metrics, len(candidates))
    )
    promised = np.repeat(size[tenants][..., None], n_windows, axis=-1)  # [R, D, C, 1 + J]
    if EXTRA in candidates:
        chosen, confirmed = EXTRA_ERROR[where]
        promised[:, :, candidates.index(EXTRA)] = chosen
        promised[np.isin(folds[tenants], CONFIRMING), :, candidates.index(EXTRA), 0] = confirmed
    return _rows(rng, promised, folds, fleet, n_origins, horizon, season, candidates)


def rows_told_by_origins(
    where: Where,
    *,
    seed: int = 0,
    fleet: str = "planted",
    n_tenants: int = 40,
    n_origins: int = 3,
    candidates: tuple[str, ...] = DEFAULT.candidates,
) -> FleetRows:
    """Return rows in which the change `TELLING` lowers the loss everywhere, or only for tenants of
    the choosing folds (it raises it for others), or nowhere.

    At every request a third of the candidates is good, drawn anew. Validation origins `TOLD_BY`
    days back tell which; in the confirming folds under `choosing` they tell the opposite. All other
    origins tell nothing.
    """
    rng = np.random.default_rng(seed)
    offsets = validation_offsets(WIDEST, HORIZON, LONG_SEASON)
    folds = rng.permutation(np.arange(n_tenants) % N_FOLDS)
    shape = (n_tenants * n_origins, 1, len(candidates))
    rank = rng.random((*shape, len(offsets) + 1)).argsort(axis=2)
    size = np.where(3 * rank < len(candidates), *GOOD_AND_BAD)  # [R, 1, C, 1 + J]
    if where != "nowhere":
        telling = 1 + np.flatnonzero(np.isin(offsets, LONG_SEASON * np.array(TOLD_BY)))
        told = np.repeat(size[..., :1], len(telling), axis=-1)
        lied = np.isin(np.repeat(folds, n_origins), CONFIRMING) & (where == "choosing")
        told[lied] = sum(GOOD_AND_BAD) - told[lied]
        size[..., telling] = told
    return _rows(rng, size, folds, fleet, n_origins, HORIZON, LONG_SEASON, candidates)


def _rows(
    rng: np.random.Generator,
    promised: np.ndarray,
    folds: np.ndarray,
    fleet: str,
    n_origins: int,
    horizon: int,
    season: int,
    candidates: tuple[str, ...],
) -> FleetRows:
    """Return rows in which errors have these standard deviations [R, D, C, 1 + J], at the requests
    and at their validation origins.
    """
    offsets = validation_offsets(WIDEST, horizon, season)
    n_requests, n_metrics, _, n_windows = promised.shape
    n_tenants = len(folds)
    tenants = np.repeat(np.arange(n_tenants), n_origins)
    common = rng.normal(size=(n_requests, n_metrics, 1, n_windows))
    own = rng.normal(size=promised.shape)
    error = (np.sqrt(COMMON) * common + np.sqrt(1 - COMMON) * own) * promised
    unit = np.exp(rng.normal(size=(n_tenants, n_metrics)))[tenants]  # [R, D]
    noise = rng.normal(size=(n_requests, n_metrics, n_windows, horizon)) * unit[..., None, None]
    level = rng.uniform(5.0, 10.0, (n_requests, n_metrics, 1)) * unit[..., None]
    actual = level + noise[:, :, 0]

    alphas = (*TIERS.values(), 0.5)
    quantile = stats.norm.ppf(alphas)
    losses = np.empty((*promised.shape, len(alphas)), dtype=np.float32)
    violations = np.empty_like(losses)
    for window, (a, alpha) in product(range(n_windows), enumerate(alphas)):
        forecast = ((error[..., window] + quantile[a]) * unit[..., None])[..., None]
        outcome = noise[:, :, None, window]
        losses[..., window, a] = mean_pinball(outcome, forecast, alpha)
        violations[..., window, a] = violation_rate(outcome, forecast)
    centre = level[:, :, None] + (error[..., 0] * unit[..., None])[..., None]  # [R, D, C, 1]
    steps = quantile[:, None] * unit[..., None, None, None] + np.zeros(horizon)
    spread = np.broadcast_to(
        (stats.norm.ppf(0.9) * unit)[..., None, None], (*centre.shape[:3], horizon)
    )
    features = rng.normal(size=(n_tenants, N_FEATURES))
    n_alphas = len(TIERS)
    return FleetRows(
        fleet=fleet,
        candidates=candidates,
        n_sealed=len(candidates),
        offsets=offsets,
        horizon=horizon,
        season=season,
        alphas=dict(TIERS),
        limits=Limits.of([(0.0, None)] * n_metrics),
        tenant_ids=tuple(f"tenant-{n}" for n in range(n_tenants)),
        folds=folds,
        groups=tuple(("blog", "shop")[n % 2] for n in range(n_tenants)),
        tenants=tenants,
        origins=np.tile(np.arange(n_origins), n_tenants),
        valid=np.ones(n_requests, dtype=bool),
        actual=actual.astype(np.float32),
        scale=unit.astype(np.float32),
        decisions=(centre[..., None, :] + steps).astype(np.float32),
        spread=spread.astype(np.float32),
        losses=losses[:, :, :, 0],
        violations=violations[:, :, :, 0, :n_alphas],
        evidence=losses[:, :, :, 1:, :n_alphas],
        evidence_violations=violations[:, :, :, 1:, :n_alphas],
        features=features[tenants] + 0.1 * rng.normal(size=(n_requests, N_FEATURES)),
        tenant_features=features,
    )
