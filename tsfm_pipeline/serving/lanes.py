"""The way to one model: its runtime, its circuit breaker, and what its failures are called.

What belongs here: one call of a runtime under its breaker, and the reason that a failure becomes.
What does not: the runtimes (`local`, `tollama`), judging what they answer (`postprocess`), and who
answers instead (`service`).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Literal, TypeVar

from tsfm_pipeline.serving.breaker import Breaker
from tsfm_pipeline.serving.contract import ErrorCode, Model, Problem
from tsfm_pipeline.serving.deadline import Clock, Deadline
from tsfm_pipeline.serving.errors import InvalidRequest, problem
from tsfm_pipeline.serving.licences import DAEMON_LICENCES, UNKNOWN_LICENCE, check_licence
from tsfm_pipeline.serving.metrics import Metrics, Reason
from tsfm_pipeline.serving.postprocess import InvalidOutput, OutputFault
from tsfm_pipeline.serving.runtimes import (
    Answer,
    Failure,
    LooksBack,
    Query,
    Runtime,
    RuntimeFailure,
)
from tsfm_pipeline.serving.settings import BreakerSettings

VERDICT_S = 0.05
"""A call is given up so long before its deadline that its failure is known while somebody waits.
Its runtime has as much less again, because it knows whether its failure counts."""

START_EVERY_S = 30.0
"""Time between two attempts to start a model that could not be started."""

_LOGGER = logging.getLogger(__name__)
T = TypeVar("T")


class NoModelAnswer(Exception):
    """The model gives no answer. reason: a code of `metrics.Reason`, with details after a colon.
    counts: whether this says that the model fails. invalid: whether its output was refused.
    """

    def __init__(
        self, reason: str, *, counts: bool, warnings: tuple[str, ...] = (), invalid: bool = False
    ) -> None:
        super().__init__(reason)
        self.invalid = invalid
        self.reason, self.counts, self.warnings = reason, counts, warnings


class Lane:
    """One model behind its breaker. started: whether it can be asked."""

    def __init__(
        self, runtime: Runtime, settings: BreakerSettings, metrics: Metrics, clock: Clock
    ) -> None:
        self.runtime, self.breaker = runtime, Breaker(settings, clock)
        self.started = False
        self._metrics, self._clock = metrics, clock
        self._is_starting = False
        self._starting: asyncio.Task[None] | None = None
        self._start_again = clock()
        prefix = Reason.TOLLAMA_ERROR if runtime.name == "tollama" else Reason.LOCAL_ERROR
        self._prefix = prefix.value

    @property
    def licence(self) -> str:
        """The licence of the model's weights; of a daemon's model that could not be asked yet, what
        its registry says.
        """
        known = self.runtime.licence
        if known == UNKNOWN_LICENCE and self.runtime.name == "tollama":
            return DAEMON_LICENCES.get(self.runtime.model, UNKNOWN_LICENCE)
        return known

    def lookback(self, freq: float, horizon: int) -> int:
        """Return how many of the last values the runtime reads; 0 where it does not say."""
        return self.runtime.lookback(freq, horizon) if isinstance(self.runtime, LooksBack) else 0

    def check_licence(self, environment: Literal["dev", "prod"]) -> None:
        """Raise `ModelNotAllowed` where the licence does not allow the model here."""
        check_licence(self.licence, environment, self.runtime.model)

    async def start(self) -> None:
        """Start the runtime; a request that comes meanwhile does not start it again. Raises what it
        raises.
        """
        self._is_starting = True
        try:
            await self.runtime.start()
        finally:
            self._is_starting = False
        self.started = True

    def require_started(self) -> None:
        """Raise `NoModelAnswer` while the model is not loaded, and have it loaded."""
        if self.started:
            return
        waits = self._is_starting or self._starting is not None
        if not waits and self._clock() >= self._start_again:
            self._starting = asyncio.create_task(self._start_later())
        raise self._failure(Failure.UNAVAILABLE, counts=False)

    async def close(self) -> None:
        """Release the runtime."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        if self.started:
            await self.runtime.close()

    async def _start_later(self) -> None:
        """Start a runtime that a request has asked for."""
        try:
            (error,) = await asyncio.gather(self.start(), return_exceptions=True)
            if error is not None:
                _LOGGER.error("%s could not be started: %s", self.runtime.model, error)
        finally:
            self._starting, self._start_again = None, self._clock() + START_EVERY_S

    async def ask(
        self,
        query: Query,
        deadline: Deadline,
        judge: Callable[[Answer], Awaitable[T]],
        *,
        retry: bool,
    ) -> T:
        """Return what `judge` makes of the runtime's answer. Raises `NoModelAnswer`.

        judge: raises `InvalidOutput` for an answer that must not reach a client.
        """
        permit = self.breaker.allow()
        if permit is None:
            raise NoModelAnswer(Reason.BREAKER_OPEN.value, counts=False)
        before, began = (self.breaker.state, self.breaker.openings), time.monotonic()
        try:
            answer = await self._asked(query, deadline, retry=retry)
            self._metrics.runtime(self.runtime.name, 1e3 * (time.monotonic() - began))
            judged = await judge(answer)
        except TimeoutError as error:
            self.breaker.failed(permit)
            raise self._failure(Failure.TIMEOUT, counts=True) from error
        except RuntimeFailure as failure:
            if failure.counts:
                self.breaker.failed(permit)
            codes: tuple[str, ...] = ()
            if failure.failure is Failure.INVALID_OUTPUT:
                self._metrics.invalid_output(self.runtime.name)
                codes = tuple(c for c in OutputFault if failure.detail.startswith(f"{c}:"))
            raise self._failure(failure.failure, counts=failure.counts, codes=codes) from failure
        except InvalidOutput as error:
            self.breaker.failed(permit)
            self._metrics.invalid_output(self.runtime.name)
            raise NoModelAnswer(
                f"{Reason.INVALID_OUTPUT}:{error.code}",
                counts=True,
                warnings=(str(error.code),),
                invalid=True,
            ) from error
        except Exception as error:
            _LOGGER.exception("%s raised an unexpected error", self.runtime.name)
            self.breaker.failed(permit)
            raise self._failure(Failure.INTERNAL, counts=True) from error
        else:
            self.breaker.succeeded(permit)
            return judged
        finally:
            self.breaker.released(permit)
            if before != (self.breaker.state, self.breaker.openings):
                opened = self.breaker.openings > before[1]
                self._metrics.breaker(self.runtime.name, self.breaker.state, opened=opened)

    async def _asked(self, query: Query, deadline: Deadline, *, retry: bool) -> Answer:
        """Return the runtime's answer. Raises what it raises, and TimeoutError if it does not keep
        its deadline.

        It is asked in a task of its own: where the event loop is so late that the runtime's time
        and this one end in the same turn, what the runtime says still counts.
        """
        own = Deadline(deadline.at - 2 * VERDICT_S, deadline.clock)
        call = asyncio.ensure_future(self.runtime.forecast(query, own, retry=retry))
        try:
            await asyncio.wait((call,), timeout=max(0.0, deadline.left - VERDICT_S))
            if not call.done():
                raise TimeoutError
            return call.result()
        finally:
            call.cancel()

    def _failure(
        self, failure: Failure, *, counts: bool, codes: tuple[str, ...] = ()
    ) -> NoModelAnswer:
        invalid = failure is Failure.INVALID_OUTPUT
        return NoModelAnswer(
            f"{self._prefix}:{failure}", counts=counts, warnings=codes, invalid=invalid
        )


class Lanes:
    """The models that may be asked, by provider and name. The first one is the default."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        """Raises ValueError for two models of one provider and name."""
        self._lanes = {(lane.runtime.name, lane.runtime.model): lane for lane in lanes}
        if len(self._lanes) < len(lanes):
            names = [f"{lane.runtime.name}/{lane.runtime.model}" for lane in lanes]
            raise ValueError(f"two models have one name: {', '.join(names)}")

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    @property
    def default(self) -> Lane:
        """The model that answers where a request names none."""
        return next(iter(self))

    @property
    def local(self) -> Lane:
        """The model in this process that the search uses."""
        return next(lane for lane in self if lane.runtime.name == "local")

    def of(self, wanted: Model) -> Lane:
        """Return the model that a request names; what it leaves out is the default's.

        Raises `InvalidRequest` (`unknown_model`) for a model that there is not.
        """
        if wanted.provider is None and wanted.model_name is None:
            lane = self.default
        else:
            lanes = [lane for lane in self if _fits(lane, wanted)]
            if not lanes:
                raise InvalidRequest(self._unknown(wanted))
            lane = lanes[0]
        if wanted.model_version not in (None, "auto") and lane.started:
            version = lane.runtime.version
            if wanted.model_version != version:
                raise InvalidRequest(
                    problem(
                        ErrorCode.UNKNOWN_MODEL,
                        f"model {lane.runtime.model} has another version",
                        "model.model_version",
                        wanted.model_version,
                        f"auto or {version}",
                    )
                )
        return lane

    def _unknown(self, wanted: Model) -> Problem:
        allowed = ", ".join(f"{lane.runtime.name}/{lane.runtime.model}" for lane in self)
        where = "model.model_name" if wanted.model_name else "model.provider"
        return problem(
            ErrorCode.UNKNOWN_MODEL,
            f"there is no model {wanted.model_name or ''!r} of provider "
            f"{wanted.provider or 'any'}; allowed: {allowed}",
            where,
            wanted.model_name or wanted.provider,
            allowed,
        )


def _fits(lane: Lane, wanted: Model) -> bool:
    return wanted.provider in (None, lane.runtime.name) and wanted.model_name in (
        None,
        lane.runtime.model,
    )
