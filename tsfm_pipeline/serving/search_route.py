"""The handler of POST /forecast: the search of a bundle, on the model thread.

What belongs here: choosing the engine, its place in the queue, and the answer for a metric whose
history is too short for the search. What does not: the wire models (`search_contract`), the search
(`autoresearch`), and HTTP (`app`).
"""

import logging
import time
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tsfm_pipeline.autoresearch.basis import basis_at_end
from tsfm_pipeline.autoresearch.bundle import FittedSearch, SearchBundle
from tsfm_pipeline.autoresearch.engine import AutoresearchEngine, Response, resized
from tsfm_pipeline.evaluation.losses import decision_quantile
from tsfm_pipeline.evaluation.protocol import DECILES
from tsfm_pipeline.evaluation.requests import Basis
from tsfm_pipeline.forecaster.config import DECILE_COLUMNS, PATCH_LEN
from tsfm_pipeline.forecaster.panel import Panel
from tsfm_pipeline.serving.configurations import plain_context
from tsfm_pipeline.serving.deadline import Deadline
from tsfm_pipeline.serving.fallback import fallback
from tsfm_pipeline.serving.local import LocalRuntime
from tsfm_pipeline.serving.runtimes import Failure, RuntimeFailure
from tsfm_pipeline.serving.search_contract import SearchRequest, SearchResponse, Tried
from tsfm_pipeline.serving.settings import FallbackSettings

MOST_ENGINES = 256

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Searched:
    """A search's response, without NaN; reasons: who answered for the metrics that it could not."""

    response: Response
    basis: Basis
    reasons: tuple[str, ...]


class SearchRoute:
    """Answers requests with the searches of one bundle.

    runtime: the started runtime whose model and thread are used. queue: how many series may wait
    for the search or be in it; a request counts as one series per metric and configuration.
    """

    def __init__(
        self,
        bundle: SearchBundle,
        runtime: LocalRuntime,
        queue: int,
        fallback_settings: FallbackSettings,
    ) -> None:
        self.bundle = bundle
        self._runtime, self._queue, self._fallback = runtime, queue, fallback_settings
        self._digest = bundle.digest[:12]
        self._engines: dict[tuple[int, tuple[str, ...]], AutoresearchEngine] = {}
        self._n_waiting = 0

    def read(self, body: bytes) -> SearchRequest:
        """Return the request in a body of JSON. Raises `pydantic.ValidationError`."""
        return SearchRequest.model_validate_json(body, context=self.bundle.facts)

    async def answer(self, request: SearchRequest, deadline: Deadline) -> SearchResponse:
        """Return the answer to a request that `read` returned.

        Raises `RuntimeFailure`: `queue_full`; `timeout` where the deadline passes before its turn;
        `internal` for an error in the search, which is logged. A client that leaves before its turn
        costs no computation.
        """
        came = time.perf_counter()
        n_configs = len(self.bundle.search_of(request.tenant_id).policy.portfolio)
        n_series = len(self.bundle.facts.metrics) * min(request.k or n_configs, n_configs)
        if self._n_waiting and self._n_waiting + n_series > self._queue:
            raise RuntimeFailure(
                Failure.QUEUE_FULL, f"{self._n_waiting} series of searches wait", counts=False
            )

        def work() -> tuple[Searched, float]:
            waited_ms = 1e3 * (time.perf_counter() - came)
            return self.search(request), waited_ms

        self._n_waiting += n_series
        try:
            searched, waited_ms = await self._runtime.alone(work, deadline)
        except RuntimeFailure:
            raise
        except Exception as error:
            log.exception("a search failed")
            detail = f"{type(error).__name__}: {error}"
            raise RuntimeFailure(Failure.INTERNAL, detail, counts=True) from error
        finally:
            self._n_waiting -= n_series
        return self._body(request, searched, waited_ms)

    def search(self, request: SearchRequest) -> Searched:
        """Return the search's answer, to be called on the model thread."""
        facts, values = self.bundle.facts, request.values
        panel = self.bundle.panel(values)
        engine = self._engine(request)
        response = engine.forecast(
            panel,
            request.sla_tier,
            budget_ms=request.budget_ms,
            exclude_tenant=request.tenant_id,
            as_of=request.as_of,
        )
        basis = basis_at_end(panel, facts.offsets, facts.horizon, engine.configs)
        unanswered = np.flatnonzero(~np.isfinite(response.decision).all(axis=0))
        if not len(unanswered):
            return Searched(response, basis, ())
        return self._completed(response, basis, panel, unanswered, request.sla_tier)

    def _engine(self, request: SearchRequest) -> AutoresearchEngine:
        """Return the engine of the tenant's search over the k most promising configurations, by
        other tenants' experience at the request's tier.
        """
        search = self.bundle.search_of(request.tenant_id)
        whole = self._sized(search, search.policy.portfolio)
        if request.k is None or request.k >= len(whole.configs):
            return whole
        prior = search.priors.fleet_prior(request.tenant_id)
        order = search.policy.prior_order({"fleet": prior, "retrieved": prior}, request.sla_tier)
        names = tuple(search.policy.portfolio[k] for k in order[: request.k])
        return self._sized(search, names)

    def _sized(self, search: FittedSearch, names: tuple[str, ...]) -> AutoresearchEngine:
        key = (id(search), names)  # the bundle keeps its searches
        if key not in self._engines:
            if len(self._engines) >= MOST_ENGINES:
                self._engines.clear()
            engine = self.bundle.engine_of(search, self._runtime.forecaster)
            is_whole = names == search.policy.portfolio
            self._engines[key] = engine if is_whole else resized(engine, names)
        return self._engines[key]

    def _completed(
        self,
        response: Response,
        basis: Basis,
        panel: Panel,
        metrics: npt.NDArray[np.int64],
        tier: str,
    ) -> Searched:
        """Return the response with an answer for the metrics [M] that no configuration of the
        search could forecast: the longest plain context that is known, or the service's fallback
        where that is less than a patch.
        """
        facts = self.bundle.facts
        alpha = facts.protocol.tiers[tier]
        decision, quantiles = response.decision.copy(), response.quantiles.copy()
        last = np.full((panel.n_series, 1), panel.n_steps - 1)
        n_known = (panel.n_steps - panel.known_from(last)).ravel().tolist()
        reasons = []
        for d in metrics.tolist():
            deciles, who = self._one_metric(panel, d, n_known[d])
            limits = panel.limits.take(np.array([d]))
            quantiles[:, d] = limits.clip(deciles[None])[0]
            decision[:, d] = limits.clip(decision_quantile(quantiles[:, d], alpha)[None])[0]
            reasons.append(f"history_too_short:{facts.metrics[d]}={who}")
        answered = replace(response, decision=decision, quantiles=quantiles)
        return Searched(answered, basis, tuple(reasons))

    def _one_metric(
        self, panel: Panel, d: int, n_known: int
    ) -> tuple[npt.NDArray[np.floating], str]:
        """Return deciles [H, 9] of one series of the panel, and who made them."""
        horizon, forecaster = self.bundle.facts.horizon, self._runtime.forecaster
        series = panel.filled[d]
        if n_known < PATCH_LEN:
            answer = fallback(series[np.isfinite(series)], horizon, self._fallback)
            return answer.deciles, answer.method
        limit = forecaster.checkpoint.dims["context_limit"]
        config = plain_context(n_known, horizon, limit)
        grid = forecaster.forecast_grid(
            series[None], np.array([panel.n_steps - 1]), [config], horizon
        )
        return grid[0, 0, 0, :, DECILE_COLUMNS], config.name

    def _body(self, request: SearchRequest, searched: Searched, waited_ms: float) -> SearchResponse:
        facts, response = self.bundle.facts, searched.response
        steps = slice(0, request.horizon or facts.horizon)
        quantiles = response.quantiles[steps]  # [H, D, 9]
        chosen = [None if config is None else config.name for config in response.chosen]
        timing = {"queue": waited_ms, **response.timing_ms}
        timing["total"] += waited_ms
        return SearchResponse(
            tenant_id=request.tenant_id,
            fleet=facts.fleet,
            sla_tier=request.sla_tier,
            alpha=facts.protocol.tiers[request.sla_tier],
            metrics=list(facts.metrics),
            horizon=len(quantiles),
            step_minutes=facts.step_minutes,
            levels=list(DECILES),
            point_forecast=quantiles[..., DECILES.index(0.5)].tolist(),
            decision=response.decision[steps].tolist(),
            quantiles=quantiles.tolist(),
            winning_config=dict(zip(facts.metrics, chosen, strict=True)),
            candidates=[
                Tried(
                    name=candidate.config.name,
                    weight=candidate.weight,
                    loss=candidate.relative_loss if np.isfinite(candidate.relative_loss) else None,
                )
                for candidate in response.candidates
            ],
            n_evaluated=response.n_evaluated,
            basis=searched.basis,
            fallback_used=bool(searched.reasons),
            fallback_reason="; ".join(searched.reasons) or None,
            model=self._runtime.model,
            version=self._runtime.version,
            bundle=self._digest,
            timing_ms={stage: round(ms, 3) for stage, ms in timing.items()},
        )
