"""From one request to its answer: who is asked, what happens when the model does not answer.

What belongs here: the order of the steps, and what counts as what. What does not: the steps
themselves (`preparation`, `routing`, `lanes`, `cache`, `fallback`, `postprocess`, `answers`), and
HTTP (`app`).

Every request that is valid is answered. Where the model does not answer, a stale answer of the
model stands in, or else a baseline; the reason is part of the answer. Only answers of the model are
cached.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import blake2b

from tsfm_pipeline.evaluation.conformal import Calibration
from tsfm_pipeline.evaluation.protocol import DECILES
from tsfm_pipeline.evaluation.rollout import RolloutDecision
from tsfm_pipeline.evaluation.served import MeasuredCoverage
from tsfm_pipeline.serving.answers import (
    Forecast,
    Outcome,
    baseline_forecast,
    model_forecast,
    record,
    response,
    unanswered,
)
from tsfm_pipeline.serving.cache import ForecastCache
from tsfm_pipeline.serving.contract import ForecastRequest, ForecastResponse, RolloutStage, Route
from tsfm_pipeline.serving.deadline import Clock, Deadline
from tsfm_pipeline.serving.degradation import Degradation
from tsfm_pipeline.serving.fallback import fallback
from tsfm_pipeline.serving.lanes import Lane, Lanes, NoModelAnswer
from tsfm_pipeline.serving.logs import log_answer
from tsfm_pipeline.serving.markets import Markets
from tsfm_pipeline.serving.metrics import Metrics, Reason
from tsfm_pipeline.serving.postprocess import Correction, finish
from tsfm_pipeline.serving.preparation import Prepared, prepare, query_of
from tsfm_pipeline.serving.published import Published
from tsfm_pipeline.serving.recorder import Recorder
from tsfm_pipeline.serving.routing import Routing, reason_of
from tsfm_pipeline.serving.runtimes import Answer
from tsfm_pipeline.serving.settings import ServingSettings
from tsfm_pipeline.serving.turns import Turns

MAX_SHADOWS = 256
"""Requests whose shadow is in work at most; of further ones the model is not asked."""
LATE = 0.25
"""Share of the deadline that must be left for the model to be asked."""
STALE = Reason.STALE.value
CROSSING = Correction.CROSSING_FIXED.value
NOT_CALIBRATED = Correction.NOT_CALIBRATED.value

_LOGGER = logging.getLogger(__name__)


class Unexpected(Exception):
    """An error in this package's own steps; a baseline answers."""


@dataclass(frozen=True, eq=False)
class Case:
    """One request on its way."""

    request_id: str
    arrived: float
    received: datetime
    prepared: Prepared
    lane: Lane
    route: Route
    deadline: Deadline

    @property
    def request(self) -> ForecastRequest:
        return self.prepared.request


class ForecastService:
    """Answers requests, whatever happens to the model.

    lanes: the models that may be asked, the default first. calibration, rollout, coverage: as
    published by the fleet's run; None: the service has no fleet.
    """

    def __init__(
        self,
        settings: ServingSettings,
        lanes: Lanes,
        markets: Markets,
        metrics: Metrics,
        recorder: Recorder,
        calibration: Published[Calibration] | None = None,
        rollout: Published[RolloutDecision] | None = None,
        coverage: Published[MeasuredCoverage] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.settings, self.lanes, self.markets, self.metrics = settings, lanes, markets, metrics
        self.published_calibration, self.published_rollout = calibration, rollout
        self._published_coverage = coverage
        self.degradation = Degradation(settings.degradation, clock)
        self.cache: ForecastCache[bytes, Forecast] = ForecastCache(settings.cache, clock)
        self._recorder, self._clock = recorder, clock
        self._routing = Routing(settings.route)
        self.turns = Turns()
        self._shadows: set[asyncio.Task[None]] = set()

    @property
    def calibration(self) -> Calibration | None:
        """The published calibration, if there is one."""
        published = self.published_calibration
        return None if published is None else published.current

    @property
    def calibration_age_s(self) -> float | None:
        """Seconds since the calibration was published."""
        return None if self.published_calibration is None else self.published_calibration.age_s

    @property
    def coverage(self) -> MeasuredCoverage | None:
        """What intervals covered, as the fleet's last run measured it."""
        return None if self._published_coverage is None else self._published_coverage.current

    @property
    def decision(self) -> RolloutDecision | None:
        """The published decision about the rollout, if there is one."""
        return None if self.published_rollout is None else self.published_rollout.current

    @property
    def stage(self) -> RolloutStage:
        """The stage of the rollout."""
        return self._routing.stage(self.decision)

    async def answer(
        self, request: ForecastRequest, request_id: str, arrived: float
    ) -> ForecastResponse:
        """Return the answer to a request that arrived at `arrived` on the service's clock.

        Raises `InvalidRequest` for what the contract alone cannot refuse, and `ModelNotAllowed`. A
        cancelled call costs the model nothing more.
        """
        received = datetime.now(UTC)
        lane = self.lanes.of(request.model)
        prepared = prepare(request, self.settings.input, self.markets, lane.lookback)
        lane.check_licence(self.settings.environment)
        route = self._routing.route(request.market_id, prepared.segments, self.decision)
        deadline = Deadline(arrived + self.settings.deadline_s, self._clock)
        case = Case(request_id, arrived, received, prepared, lane, route, deadline)
        try:
            outcome = await self._outcome(case)
        except Unexpected as error:
            _LOGGER.error("unexpected error", exc_info=error.__cause__)
            outcome = await self._last_resort(case)
        latency_ms = self._latency_ms(case)
        self._observe(case, outcome, latency_ms)
        if not outcome.in_shadow:
            self._record(case, outcome)
        return response(request, request_id, outcome, latency_ms)

    async def close(self) -> None:
        """Cancel the shadows in work, and release the models."""
        for task in self._shadows:
            task.cancel()
        await asyncio.gather(*self._shadows, return_exceptions=True)
        await asyncio.gather(*(lane.close() for lane in self.lanes))

    # -- the model or a baseline

    async def _outcome(self, case: Case) -> Outcome:
        try:
            reason = case.prepared.baseline_reason
            if reason is not None:
                return await self._by_baseline(case, reason.value)
            if case.route.selected != "model":
                outcome = await self._by_baseline(case, reason_of(case.route).value)
                if case.route.selected == "shadow":
                    in_shadow = self._start_shadow(case, outcome.forecast)
                    return replace(outcome, in_shadow=in_shadow)
                return outcome
            return await self._by_model(case)
        except Exception as error:
            raise Unexpected from error

    async def _by_model(self, case: Case) -> Outcome:
        """Return the model's answer, or what stands in for it."""
        key = b""
        try:
            case.lane.require_started()
            key = self._key(case)
            forecast, hit = await self._asked(case, key)
        except NoModelAnswer as failure:
            warnings = (f"fallback_reason={failure.reason}", *failure.warnings)
            stale = self.cache.stale(key)
            if stale is None:
                outcome = await self._by_baseline(case, failure.reason, warnings)
                return replace(outcome, invalid=failure.invalid)
            outcome = Outcome(
                stale, case.route, STALE, STALE, warnings, True, True, invalid=failure.invalid
            )
            return self._with_states(case, outcome)
        return self._with_states(case, Outcome(forecast, case.route, cache_hit=hit))

    async def _asked(self, case: Case, key: bytes) -> tuple[Forecast, bool]:
        """Return the model's forecast, and whether it was cached. Raises `NoModelAnswer`."""
        kept = self.cache.fresh(key)
        if kept is not None:
            return kept, True
        if case.deadline.left < LATE * self.settings.deadline_s:
            # It has waited too long here to say anything about the model.
            raise NoModelAnswer(Reason.DEADLINE.value, counts=False)
        permission = self.degradation.allow()
        if not permission.model:
            raise NoModelAnswer(Reason.DEGRADED.value, counts=False)
        deadline = case.deadline
        if permission.deadline_s is not None:
            deadline = deadline.within(permission.deadline_s)
        compute = partial(self._computed, case, deadline, permission.retry)
        try:
            async with asyncio.timeout(deadline.left):
                forecast, _ = await self.cache.single_flight(key, compute)
        except TimeoutError as error:
            # The call itself ends earlier, so that this says more about the load here.
            raise NoModelAnswer(Reason.DEADLINE.value, counts=False) from error
        except NoModelAnswer as failure:
            # What was under way when the breaker opened fails all at once; the breaker bridges it.
            if failure.counts and (permission.probe or case.lane.breaker.state == "closed"):
                self.degradation.record(True, permission.probe)
            raise
        self.degradation.record(False, permission.probe)
        return forecast, False

    async def _computed(self, case: Case, deadline: Deadline, retry: bool) -> Forecast:
        prepared, lane = case.prepared, case.lane
        calibration = self._calibration_of(case)
        misfits = calibration is None and self.calibration is not None
        codes = [NOT_CALIBRATED] if misfits else []

        async def judge(answer: Answer) -> Forecast:
            await self.turns.mine()
            if answer.thought is not None:
                self.metrics.reasoning.thought(answer.thought)
            finished = finish(
                answer.levels, answer.values, prepared, calibration, self.settings.safety
            )
            return model_forecast(finished, answer, prepared, lane.runtime, codes)

        return await lane.ask(query_of(prepared), deadline, judge, retry=retry)

    async def _last_resort(self, case: Case) -> Outcome:
        """Return a baseline's answer after an unexpected error. If it fails too, that is recorded
        before it is raised, because the rollout counts errors.
        """
        try:
            return await self._by_baseline(case, Reason.INTERNAL.value)
        except Exception:
            self._record(case, unanswered(case.route, Reason.INTERNAL.value), status=503)
            raise

    async def _by_baseline(self, case: Case, reason: str, warnings: Sequence[str] = ()) -> Outcome:
        """Return a baseline's answer. reason: why it answers."""
        prepared = case.prepared
        await self.turns.mine()
        answer = fallback(prepared.values, case.request.horizon_steps, self.settings.fallback)
        finished = finish(DECILES, answer.deciles, prepared, None, self.settings.safety)
        forecast = baseline_forecast(finished, answer, prepared)
        said = tuple(warnings) or (f"fallback_reason={reason}",)
        # A baseline that fails is the nearer reason, unless it has too little to go by, too.
        failed = answer.reasons and reason != Reason.TOO_FEW_POINTS
        nearest = answer.reasons[0] if failed else reason
        return self._with_states(case, Outcome(forecast, case.route, nearest, reason, said))

    def _with_states(self, case: Case, outcome: Outcome) -> Outcome:
        return replace(outcome, breaker=case.lane.breaker.state, degradation=self.degradation.state)

    # -- what the answer depends on

    def _key(self, case: Case) -> bytes:
        """Return the digest of everything that an answer of the model depends on."""
        prepared, runtime = case.prepared, case.lane.runtime
        request, calibration = prepared.request, self._calibration_of(case)
        rest = (
            *(runtime.name, runtime.model, runtime.version),
            "" if calibration is None else calibration.version,
            *(request.market_id, prepared.end.timestamp(), prepared.freq, prepared.y_last),
            *(request.horizon_steps, tuple(request.quantiles), request.transform),
            *(
                prepared.limits,
                sorted(prepared.segments.items()),
                sorted(prepared.warnings.items()),
            ),
            sorted(request.model.params.items()),
        )
        digest = blake2b(repr(rest).encode(), digest_size=16)
        covariates = prepared.covariates
        columns = {"values": {"": prepared.values}, "past": covariates.past}
        for kind, by_name in (columns | {"future": covariates.future}).items():
            for name, column in sorted(by_name.items()):
                digest.update(f"|{kind}|{name}|{len(column)}|".encode() + column.tobytes())
        return digest.digest()

    def _calibration_of(self, case: Case) -> Calibration | None:
        """Return the calibration that holds for the model's answers here; None: there is none."""
        calibration, runtime = self.calibration, case.lane.runtime
        if calibration is None or not calibration.fits(
            runtime.name, runtime.model, runtime.version, case.prepared.freq
        ):
            return None
        return calibration

    # -- besides the answer

    def _start_shadow(self, case: Case, sent: Forecast) -> bool:
        """Ask the model too, in the background, and record what it would have answered. Return
        whether it is asked: not where too many shadows are in work.
        """
        if len(self._shadows) >= MAX_SHADOWS:
            return False
        task = asyncio.create_task(self._shadow(case, sent))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)
        return True

    async def _shadow(self, case: Case, sent: Forecast) -> None:
        try:
            outcome = await self._outcome_in_shadow(case, sent)
        except Unexpected as error:
            _LOGGER.error("unexpected error in shadow", exc_info=error.__cause__)
            outcome = _no_answer(case, sent, Reason.INTERNAL.value)
        self._record(case, self._with_states(case, outcome), sent=sent)

    async def _outcome_in_shadow(self, case: Case, sent: Forecast) -> Outcome:
        try:
            case.lane.require_started()
            forecast, hit = await self._asked(case, self._key(case))
        except NoModelAnswer as failure:
            return _no_answer(case, sent, failure.reason, invalid=failure.invalid)
        except Exception as error:
            raise Unexpected from error
        return Outcome(forecast, case.route, cache_hit=hit)

    def _record(
        self, case: Case, outcome: Outcome, sent: Forecast | None = None, status: int = 200
    ) -> None:
        took = self._latency_ms(case)
        row = record(case.prepared, case.request_id, outcome, took, case.received, sent, status)
        self._recorder.record(row)

    def _observe(self, case: Case, outcome: Outcome, latency_ms: float) -> None:
        """Count an answer and log it."""
        forecast, metrics, prepared = outcome.forecast, self.metrics, case.prepared
        metrics.answered(case.route.selected, latency_ms)
        if outcome.cause is not None:
            metrics.fallback(Reason(outcome.cause.partition(":")[0]))
        if outcome.cache_hit:
            metrics.cache_hit(outcome.cache_stale)
        if any(code == CROSSING for code, _ in forecast.warnings):
            metrics.crossing()
        if not prepared.matched:
            metrics.unmatched()
        if prepared.is_logit:  # other widths are in each metric's own unit
            metrics.widths(
                {
                    target: (sum(forecast.high[target]) - sum(low)) / len(low)
                    for target, low in forecast.low.items()
                }
            )
        log_answer(
            request_id=case.request_id,
            market_id=case.request.market_id,
            as_of=prepared.end.isoformat(),
            status=200,
            runtime=forecast.runtime,
            model=forecast.model,
            version=forecast.version,
            input_len=forecast.asked,
            share_missing=round(prepared.share_missing, 4),
            route=case.route.selected,
            fallback_reason=outcome.reason,
            warnings=[code for code, _ in forecast.warnings],
            cache_hit=outcome.cache_hit,
            latency_ms=round(latency_ms, 3),
        )

    def _latency_ms(self, case: Case) -> float:
        return 1e3 * (self._clock() - case.arrived)


def _no_answer(case: Case, sent: Forecast, reason: str, *, invalid: bool = False) -> Outcome:
    """Return the outcome of a shadow in which the model gave no answer."""
    empty = replace(sent, deciles=sent.deciles[:0])
    return Outcome(empty, case.route, reason, reason, invalid=invalid)
