"""What one policy costs on the tuning requests of one fleet, under cross-fitted constants.

What belongs here: the losses of a policy's decisions at the requests of tenants that chose none of
its constants. What does not: the choice of the constants (`fitting`), the rows (`rows`), and
comparing two policies (`judging`, `promotion`).
Axes: R requests, D metrics, K members of the portfolio, N tenants, A tiers, H horizon; M rows, each
one metric of one request.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch import rules
from tsfm_pipeline.autoresearch.tuning_rows import Schedule, TierRows
from tsfm_pipeline.evaluation.arrays import given
from tsfm_pipeline.evaluation.limits import emitted
from tsfm_pipeline.evaluation.protocol import headline_tier
from tsfm_pipeline.settings import SearchSettings
from tsfm_pipeline.studies.policy_search.fitting import (
    FittedFold,
    View,
    fit_fold,
    tuning_evidence,
    tuning_sample,
)
from tsfm_pipeline.studies.policy_search.latency import LatencyLine
from tsfm_pipeline.studies.policy_search.results import FleetResult
from tsfm_pipeline.studies.policy_search.rows import FleetRows

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


def evaluate(
    rows: FleetRows,
    search: SearchSettings,
    folds: Sequence[int],
    share: float,
    line: LatencyLine,
) -> FleetResult:
    """Return the cost of a policy at the requests of the tenants of some folds.

    folds: each is scored with constants that the tenants of all other folds chose. share: of each
    tenant's requests that fitting and scoring use, 1 or 1 / n for every n-th. line: predicts the
    latency.

    A request counts where it is valid, its outcome and scale are known, and any candidate of the
    study's tables has a forecast; a candidate that only this policy names has no say in it. Where
    the policy has no forecast, its loss is that of the worst of these candidates there, so that a
    policy gains nothing by leaving requests unanswered. Raises ValueError if the rows
    lack a candidate or a validation origin of the policy, or if a fold has nothing to score.
    """
    view = View(rows, search, _stride(share))
    scored, tokens = [], []
    for fold in folds:
        fitted = fit_fold(view, fold)
        scored.append(score(view, fitted, fold))
        tokens.append(view.request_tokens(fitted.members))
    tenants = np.concatenate([part.tenants for part in scored])
    order = np.argsort(tenants)
    n_tokens = float(np.mean(tokens))
    p50_ms, p95_ms = line.predict(n_tokens)

    def by_tier(parts: Sequence[Floats]) -> dict[str, tuple[float, ...]]:
        losses = np.concatenate(parts)[order]  # [N, A]
        return {tier: tuple(losses[:, a].tolist()) for a, tier in enumerate(rows.alphas)}

    return FleetResult(
        fleet=rows.fleet,
        folds=tuple(folds),
        share=share,
        tenants=tuple(tenants[order].tolist()),
        groups=tuple(rows.groups[tenant] for tenant in tenants[order]),
        losses=by_tier([part.losses for part in scored]),
        fixed=by_tier([part.fixed for part in scored]),
        mae=float(np.concatenate([part.errors for part in scored]).mean()),
        tokens=n_tokens,
        p50_ms=p50_ms,
        p95_ms=p95_ms,
    )


def _stride(share: float) -> int:
    """Return n for a share of 1 / n. Raises ValueError for any other share."""
    stride = round(1 / share) if 0 < share <= 1 else 0
    if not stride or abs(stride * share - 1) > 1e-6:
        raise ValueError(f"the share of the requests is {share!r}; allowed: 1, 1/2, 1/3, ...")
    return stride


@dataclass(frozen=True)
class Scored:
    """The mean scaled losses of a fold's tenants [N]: of the policy and of the fixed configuration
    [N, A], and absolute errors of the median [N].
    """

    tenants: Ints
    losses: Floats
    fixed: Floats
    errors: Floats


def score(view: View, fitted: FittedFold, fold: int) -> Scored:
    """Return what the fitted constants cost at the requests of the fold's tenants."""
    rows, members = view.rows, fitted.members
    requests = view.of_tenants(np.flatnonzero(rows.folds == fold))
    counted, worst = _counted(view, requests)
    if not counted.any():
        raise ValueError(
            f"fleet {rows.fleet!r}: no request of the tenants of fold {fold} can be scored"
        )
    worst = worst[counted]  # [M, A + 1]
    none, no_losses = requests[:0], np.empty((0, rows.n_metrics, len(members), 0))
    sample = tuning_sample(view, requests, members, none, no_losses)
    evidence = tuning_evidence(view, requests, members, fitted.experience, fitted.index)
    available = given(sample.decisions)
    usable = counted & available.any(axis=-1)
    answered = usable[counted]  # [M]
    losses, fixed, errors = worst[:, :-1].copy(), worst[:, :-1].copy(), 2 * worst[:, -1]
    decisions, fixed_decisions = [], []
    policy, headline = fitted.policy, headline_tier(rows.alphas)
    for a, (tier, alpha) in enumerate(rows.alphas.items()):
        schedule = Schedule(policy.offsets, policy.season, ())
        part = TierRows.of(sample, evidence, usable, available, a, alpha, schedule)
        weight = part.weights(policy.tiers[tier].rule())
        decisions.append(part.decide(weight, policy.tiers[tier].correction))
        choice = fitted.choices.tiers[tier]
        fixed_weight = choice.fixed_weights(part.available)
        fixed_decisions.append(part.decide(fixed_weight))
        if tier == headline:
            medians = view.at(rows.decisions[..., -1, :], requests, members)[usable]
            known = np.where(part.available[..., None], medians, np.float32(0))
            median = part.limits.clip(rules.weighted(weight, known))
            errors[answered] = 2 * part.outcomes.losses(median, 0.5)
    for into, per_tier in ((losses, decisions), (fixed, fixed_decisions)):
        alphas = tuple(rows.alphas.values())
        shown = emitted(np.stack(per_tier, axis=1), alphas, part.limits, metric_axis=0, tier_axis=1)
        for a, alpha in enumerate(alphas):
            into[answered, a] = part.outcomes.losses(shown[:, a], alpha)
    tenants, row = np.unique(
        np.repeat(rows.tenants[requests], counted.sum(axis=1)), return_inverse=True
    )

    def by_tenant(values: Floats) -> Floats:
        return np.stack([values[row == n].mean(axis=0) for n in range(len(tenants))])

    return Scored(tenants, by_tenant(losses), by_tenant(fixed), by_tenant(errors))


def _counted(view: View, requests: Ints) -> tuple[NDArray[np.bool_], Floats]:
    """Return which rows [R, D] count for every policy, and the highest scaled loss of any sealed
    candidate there [R, D, A + 1].
    """
    rows = view.rows
    losses = rows.losses[requests, :, : rows.n_sealed] / rows.scale[requests][..., None, None]
    known = np.isfinite(losses)
    counted = np.asarray(known.any(axis=2).all(axis=-1))
    return counted, np.where(known, losses, -np.inf).max(axis=2)
