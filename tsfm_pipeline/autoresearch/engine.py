"""The request path: it turns one tenant's history into one decision, and times each stage.

What belongs here: the steps of a live request, on the same evidence, rules and arithmetic as the
batch path. What does not: that evidence (`evidence`), those rules (`rules`) and their arithmetic.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.archetypes.index import WindowIndex
from tsfm_pipeline.autoresearch.evidence import GridForecaster, forecast_with_evidence
from tsfm_pipeline.autoresearch.policy import PRIOR_KINDS, Decision, SearchPolicy
from tsfm_pipeline.autoresearch.priors import TenantExperience
from tsfm_pipeline.evaluation.events import Event, EventSteps
from tsfm_pipeline.forecaster.config import ForecastConfig
from tsfm_pipeline.forecaster.panel import Panel

Floats = NDArray[np.floating]
STAGES = ("prepare", "retrieval", "forecast", "decision")
"""The stages of a request, in order; `timing_ms` has a value for each of them."""


@dataclass(frozen=True)
class Candidate:
    """One evaluated configuration: its weight, and its posterior loss relative to the portfolio's
    mean, both averaged over metrics.
    """

    config: ForecastConfig
    weight: float
    relative_loss: float


@dataclass(frozen=True)
class Response:
    """The answer to one request: decision [H, D] and quantiles [H, D, 9], in units of the values;
    NaN where no configuration was available.

    chosen: the configuration with the largest weight per metric, None where none was available.
    candidates: every evaluated configuration, best first. timing_ms: per stage and `total`.
    n_evaluated: how many configurations were evaluated within the budget.
    """

    decision: Floats
    quantiles: Floats
    chosen: tuple[ForecastConfig | None, ...]
    candidates: tuple[Candidate, ...]
    timing_ms: dict[str, float]
    n_evaluated: int


class AutoresearchEngine:
    """Answer requests with a fitted policy. The engine keeps nothing of the tenants that it
    answers.
    """

    def __init__(
        self,
        forecaster: GridForecaster,
        policy: SearchPolicy,
        priors: TenantExperience | None = None,
        index: WindowIndex | None = None,
        *,
        n_neighbours: int = 5,
        events: Sequence[Event] = (),
        step: timedelta = timedelta(minutes=1),
    ) -> None:
        """Set up the engine; `priors` and `index` must cover the same tuning tenants, in the same
        order. events: known times that are no evidence for ordinary ones; step: the length of one
        step of the histories.

        Raises ValueError if their tenants differ, or if the priors cover another number of
        configurations than the policy.
        """
        if (
            priors is not None
            and index is not None
            and not np.array_equal(priors.tenant_ids, index.index.tenant_ids)
        ):
            raise ValueError(
                f"priors cover {len(priors.losses)} tuning tenants, the index "
                f"{len(index.index.tenant_ids)}; "
                "both must cover the same tenants in the same order"
            )
        if priors is not None and priors.losses.shape[2] != len(policy.portfolio):
            raise ValueError(
                f"priors cover {priors.losses.shape[2]} configurations, the policy "
                f"{len(policy.portfolio)}; both must cover the same ones"
            )
        self.forecaster = forecaster
        self.policy = policy
        self.priors = priors
        self.index = index
        self.n_neighbours = n_neighbours
        self.events = tuple(events)
        self.step = step
        self.configs = tuple(ForecastConfig.from_name(name) for name in policy.portfolio)

    def forecast(
        self,
        history: Panel | Floats,
        tier: str,
        horizon: int | None = None,
        budget_ms: float | None = None,
        *,
        exclude_tenant: str | None = None,
        as_of: datetime | None = None,
    ) -> Response:
        """Forecast all D metrics for the `horizon` steps after the end of a history.

        Args:
            history: Panel of D series, or float32 [T, D]; NaN = missing
            tier: name of a tier of the policy
            horizon: steps to forecast; must be the policy's horizon, which is the default
            budget_ms: time limit in milliseconds. Configurations are taken one by one, best prior
                first, and evaluated if they are expected to finish in time; at least one is
                evaluated. None evaluates all of them at once
            exclude_tenant: id of the tuning tenant that the history belongs to; its experience is
                left out of the priors
            as_of: time of the last step of the history. Where known events are declared, it tells
                which validation origins are evidence for this request; None counts all of them

        Returns the decision [H, D] and the quantiles [H, D, 9] in units of the history, with the
        chosen configurations and the timing. Raises ValueError for an unknown tier, another
        horizon, a history without steps, or another number of metrics than in the priors.
        """
        return self.forecast_tiers(
            history, (tier,), horizon, budget_ms, exclude_tenant=exclude_tenant, as_of=as_of
        )[tier]

    def forecast_tiers(
        self,
        history: Panel | Floats,
        tiers: Sequence[str] | None = None,
        horizon: int | None = None,
        budget_ms: float | None = None,
        *,
        exclude_tenant: str | None = None,
        as_of: datetime | None = None,
    ) -> dict[str, Response]:
        """Answer several tiers in the time of one, from the same forecasts and evidence.

        tiers: names of the policy's tiers; all of them by default. Other arguments, answers and
        errors are those of `forecast`. The timing_ms of each response covers the whole call. Under
        a budget, configurations are evaluated in the order of the best rank that any tier gives
        them; a call with a single tier may evaluate others.
        """
        started = perf_counter()
        known = list(self.policy.alphas)
        tiers = known if tiers is None else tiers
        unknown = [tier for tier in tiers if tier not in known]
        if unknown or not tiers:
            raise ValueError(
                f"tier is {unknown[0]!r}; allowed: {', '.join(known)}"
                if unknown
                else f"no tier; allowed: {', '.join(known)}"
            )
        if horizon not in (None, self.policy.horizon):
            raise ValueError(
                f"horizon is {horizon}; this policy was fitted for {self.policy.horizon} steps"
            )
        recent, panel = self._recent(history)
        prepared = perf_counter()
        priors, violation_priors = self._priors(recent, exclude_tenant)
        retrieved = perf_counter()
        order = None if budget_ms is None else self._order(priors, tiers)
        deciles, losses, violations, evaluated = self._evaluate(panel, order, started, budget_ms)
        ignored = ~self._comparable(as_of)
        losses[..., ignored, :] = violations[..., ignored, :] = np.nan
        forecast = perf_counter()
        decided = self.policy.decide(
            deciles, losses, violations, priors, violation_priors, limits=panel.limits
        )
        decided_at = perf_counter()
        # Each stage begins where the one before it ends, so that the stages add up to the total.
        stages = pairwise((started, prepared, retrieved, forecast, decided_at))
        timing = {
            stage: 1e3 * (end - begin) for stage, (begin, end) in zip(STAGES, stages, strict=True)
        }
        timing["total"] = 1e3 * (decided_at - started)
        return {
            tier: self._response(decided, known.index(tier), evaluated, timing) for tier in tiers
        }

    def _comparable(self, as_of: datetime | None) -> NDArray[np.bool_]:
        """Return which validation origins [J] count for a request at this time."""
        if as_of is None or not self.events:
            return np.ones(len(self.policy.offsets), dtype=bool)
        steps, origin = EventSteps.of(self.events, as_of, self.step), np.zeros(1, dtype=np.int64)
        return steps.comparable(origin, self.policy.offsets, self.policy.horizon)[0]

    def _response(
        self, decided: Decision, a: int, evaluated: Sequence[int], timing: dict[str, float]
    ) -> Response:
        weights = decided.weights[:, a]  # [D, K]
        return Response(
            decision=decided.decision[:, a].T,
            quantiles=decided.deciles[:, a].swapaxes(0, 1),
            chosen=tuple(
                self.configs[int(w.argmax())] if np.isfinite(w).all() else None for w in weights
            ),
            candidates=self._ranked(evaluated, weights, decided.posterior[:, a]),
            timing_ms=dict(timing),
            n_evaluated=len(evaluated),
        )

    def _order(self, priors: dict[str, Floats], tiers: Sequence[str]) -> NDArray[np.int64]:
        """Return the configurations [K] in the order in which to evaluate them: by their best rank
        over the tiers, then by their mean rank.
        """
        ranks = np.stack([self.policy.prior_order(priors, tier).argsort() for tier in tiers])
        return np.lexsort((ranks.mean(axis=0), ranks.min(axis=0)))

    def history_steps(self, seasons: tuple[int, ...]) -> int:
        """Return how many steps of history a request uses, on telemetry with these seasons."""
        longest = max(config.lookback(seasons) for config in self.configs)
        return max(
            longest + max(self.policy.offsets), 0 if self.index is None else self.index.length
        )

    def _recent(self, history: Panel | Floats) -> tuple[NDArray[np.float32], Panel]:
        """Return the last steps [D, T] of the history that any stage uses, and the same as a panel.

        In the panel, a gap at the start of these steps begins with the last value before them. It
        does not if the gap is too long to be looked across and what is left of it is not.
        """
        if isinstance(history, Panel):
            values, given = history.values, history
        else:
            values = np.asarray(history).T
            given = Panel(np.empty((len(values), 0), dtype=np.float32))
        history_steps = self.history_steps(given.seasons)
        n_metrics = self.priors.losses.shape[1] if self.priors is not None else len(values)
        if values.ndim != 2 or len(values) != n_metrics:
            raise ValueError(
                f"history has shape {values.shape[::-1]}; expected {n_metrics} metrics: float32 "
                "[T, D] or a Panel of D series"
            )
        if not values.shape[1]:
            raise ValueError(
                "history has no steps; a forecast needs at least one, the last of them its origin"
            )
        recent = np.ascontiguousarray(values[:, -history_steps:], dtype=np.float32)
        tail = recent
        cut_gaps = np.flatnonzero(np.isnan(recent[:, 0]))
        if values.shape[1] > history_steps and len(cut_gaps):
            tail = recent.copy()
            for row in cut_gaps:
                earlier = values[row, :-history_steps]
                seen = np.flatnonzero(~np.isnan(earlier))
                if not len(seen):
                    continue
                observed, max_gap = ~np.isnan(recent[row]), given.max_gap
                left = int(observed.argmax()) if observed.any() else len(observed)
                gap = len(earlier) - 1 - int(seen[-1]) + left
                if max_gap is None or gap <= max_gap or left - 1 > max_gap:
                    tail[row, 0] = earlier[seen[-1]]
        return recent, replace(given, values=tail)

    def _priors(
        self, recent: NDArray[np.float32], exclude_tenant: str | None
    ) -> tuple[dict[str, Floats], Floats]:
        """Return the priors from other tenants: relative losses {kind: [D, K, A]} and violation
        rates [D, K, A], NaN where unknown.
        """
        if self.priors is None:
            unknown = np.full((len(recent), len(self.configs), len(self.policy.alphas)), np.nan)
            return dict.fromkeys(PRIOR_KINDS, unknown), unknown
        fleet = self.priors.fleet_prior(exclude_tenant)
        rows: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        similarity: Floats = np.empty(0)
        if self.index is not None:
            rows, similarity = self._neighbours(recent, exclude_tenant)
        retrieved = self.priors.retrieved_prior(rows, similarity, exclude_tenant)
        return {"fleet": fleet, "retrieved": retrieved}, self.priors.retrieved_violations(
            rows, similarity, exclude_tenant
        )

    def _neighbours(
        self, recent: NDArray[np.float32], exclude_tenant: str | None
    ) -> tuple[NDArray[np.int64], Floats]:
        assert self.index is not None
        length = self.index.length
        window = np.full((1, len(recent), length), np.nan, dtype=np.float32)
        known = min(length, recent.shape[1])
        window[0, :, length - known :] = recent[:, recent.shape[1] - known :]
        rows, similarity = self.index.query(window, self.n_neighbours, [exclude_tenant])
        return rows[0], similarity[0]

    def _evaluate(
        self, panel: Panel, order: NDArray[np.int64] | None, started: float, budget_ms: float | None
    ) -> tuple[Floats, Floats, Floats, list[int]]:
        """Return deciles [D, K, H, 9], losses and violations [D, K, J, A], and the positions of the
        evaluated configurations; the others are NaN.
        """
        n_metrics, n_configs = panel.n_series, len(self.configs)
        policy, alphas = self.policy, tuple(self.policy.alphas.values())
        deciles = np.full((n_metrics, n_configs, policy.horizon, 9), np.nan, dtype=np.float32)
        losses = np.full(
            (n_metrics, n_configs, len(policy.offsets), len(alphas)), np.nan, dtype=np.float32
        )
        violations = losses.copy()
        origin = np.full((n_metrics, 1), panel.n_steps - 1)
        groups: list[NDArray[np.int64]] = (
            [np.arange(n_configs)]
            if order is None
            else [order[i : i + 1] for i in range(n_configs)]
        )
        slowest_ms, most_tokens = 0.0, 1
        evaluated: list[int] = []
        for group in groups:
            chosen = [self.configs[k] for k in group]
            n_tokens = sum(config.n_tokens for config in chosen)
            expected_ms = slowest_ms * max(1.0, n_tokens / most_tokens)
            if budget_ms is not None and evaluated and _ms_since(started) + expected_ms > budget_ms:
                continue
            began = perf_counter()
            results = forecast_with_evidence(
                self.forecaster, panel, origin, chosen, policy.horizon, policy.offsets, alphas
            )
            deciles[:, group], losses[:, group], violations[:, group] = (
                part[:, 0] for part in results
            )
            slowest_ms, most_tokens = max(slowest_ms, _ms_since(began)), max(most_tokens, n_tokens)
            evaluated += group.tolist()
        return deciles, losses, violations, evaluated

    def _ranked(
        self, evaluated: Sequence[int], weights: Floats, posterior: Floats
    ) -> tuple[Candidate, ...]:
        mean_weight = np.nan_to_num(weights).mean(axis=0)
        known = np.isfinite(posterior)
        mean_loss = np.where(known, np.nan_to_num(posterior), 0.0).sum(axis=0) / np.maximum(
            known.sum(axis=0), 1
        )
        mean_loss = np.where(known.any(axis=0), mean_loss, np.nan)
        order: Sequence[int] = np.lexsort((mean_loss, -mean_weight)).tolist()
        return tuple(
            Candidate(self.configs[k], float(mean_weight[k]), float(mean_loss[k]))
            for k in order
            if k in evaluated
        )


def _ms_since(started: float) -> float:
    return (perf_counter() - started) * 1e3


def resized(engine: AutoresearchEngine, names: Sequence[str]) -> AutoresearchEngine:
    """Return the same engine over other configurations; the priors of a new one are unknown."""
    known = {name: k for k, name in enumerate(engine.policy.portfolio)}
    priors = (
        None if engine.priors is None else engine.priors.over([known.get(name) for name in names])
    )
    return AutoresearchEngine(
        engine.forecaster,
        engine.policy.over(names),
        priors,
        engine.index,
        n_neighbours=engine.n_neighbours,
        events=engine.events,
        step=engine.step,
    )
