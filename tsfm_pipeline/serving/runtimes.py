"""The protocol of a runtime: whatever turns one series into quantiles of its next steps.

What belongs here: what a runtime is asked, what it answers, and the ways in which it fails. What
does not: the runtimes themselves (`local`, `tollama`), and deciding what a failure means for the
client (`service`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from tsfm_pipeline.serving.deadline import Deadline

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Query:
    """One series to forecast, on the scale on which the model works.

    values: float64 [T], finite, oldest first, T >= 1; gaps are filled. freq: minutes per step. end:
    time of the last value. horizon: H, steps to forecast. lower, upper: bounds of the values on the
    same scale, if there are any. market: `tenant/metric` of the served fleet, or any other name.
    levels: the quantiles that the client wants; a runtime may answer others. past, future:
    covariates by name, float64 [T] and [H]. params: of the runtime's model, as the client gave
    them.
    """

    market: str
    values: Floats
    freq: float
    end: datetime
    horizon: int
    levels: tuple[float, ...]
    lower: float | None = None
    upper: float | None = None
    past: Mapping[str, Floats] = field(default_factory=dict)
    future: Mapping[str, Floats] = field(default_factory=dict)
    params: Mapping[str, bool | int | float | str] = field(default_factory=dict)


class Verdict(StrEnum):
    """What became of a model's second thoughts; a label of metrics.

    refined: they are the answer. draft: they lost against the draft, which is the answer. late:
    there was no time for them, and the draft is the answer.
    """

    REFINED = "refined"
    DRAFT = "draft"
    LATE = "late"


@dataclass(frozen=True, eq=False)
class Thought:
    """How a model that reasons came to its answer, on the query's scale.

    text: the reasons in plain English. draft: float64 [H], what it started from. refined: float64
    [H], what it came to, used or not; None where it came to nothing in time. answers, unreadable:
    answers that it gave itself, and how many of them could not be read, so that the draft stood in.
    seconds: that all of this took.
    """

    verdict: Verdict
    text: str
    draft: Floats
    refined: Floats | None
    answers: int
    unreadable: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Answer:
    """Quantiles on the query's scale: values float64 [H, L] at ascending levels [L].

    They may cross and may be not finite; `postprocess` judges them. configuration: of the local
    model. warnings: codes for the client. asked: values of the series that the model saw. thought:
    of a model that reasons.
    """

    levels: tuple[float, ...]
    values: Floats
    asked: int
    configuration: str | None = None
    warnings: tuple[str, ...] = ()
    thought: Thought | None = None


class Failure(StrEnum):
    """The ways in which a runtime fails; part of the fallback's reason and a label of metrics."""

    TIMEOUT = "timeout"
    CONNECTION = "connection"
    UNAVAILABLE = "unavailable"
    INVALID_OUTPUT = "invalid_output"
    REJECTED = "runtime_rejected"
    MISCONFIGURED = "runtime_misconfigured"
    BUSY = "busy"
    QUEUE_FULL = "queue_full"
    INTERNAL = "internal"


class RuntimeFailure(Exception):
    """A runtime could not answer.

    failure: the way in which it failed. counts: whether the failure says something about the
    runtime's health, so that the circuit breaker counts it; a rejected request does not.
    """

    def __init__(self, failure: Failure, detail: str, *, counts: bool) -> None:
        super().__init__(f"{failure}: {detail}")
        self.failure, self.detail, self.counts = failure, detail, counts


class Runtime(Protocol):
    """A model behind the service.

    name: which kind of runtime. model, version: for the client and for records; `version` changes
    whenever the same query may get another answer (the local model's is its checkpoint's digest).
    licence: of the model's weights, as an SPDX name or the registry's tag.
    """

    @property
    def model(self) -> str: ...

    @property
    def licence(self) -> str: ...

    @property
    def name(self) -> Literal["local", "tollama"]: ...

    @property
    def version(self) -> str: ...

    async def start(self) -> None:
        """Load or connect what the runtime needs. Called once, before the first forecast."""

    async def forecast(self, query: Query, deadline: Deadline, *, retry: bool = True) -> Answer:
        """Return the answer before the deadline, or raise `RuntimeFailure`.

        Concurrent calls are joined into batches by the runtime. A call whose task is cancelled, or
        whose deadline has passed before its turn, costs no computation. retry: whether a failed
        attempt may be repeated where time is left.
        """
        ...

    async def ready(self) -> bool:
        """Return whether the runtime could answer now, without asking for a forecast."""
        ...

    async def close(self) -> None:
        """Finish what is running, refuse what waits, and release everything."""


@runtime_checkable
class LooksBack(Protocol):
    """A runtime that says how much of a series it reads."""

    def lookback(self, freq: float, horizon: int) -> int:
        """Return how many of the last values it reads, where a request has them. freq: minutes per
        step.
        """
        ...


@runtime_checkable
class Trained(Protocol):
    """A runtime that knows what the training of its weights measured."""

    @property
    def measures(self) -> Mapping[str, float]:
        """The measures by name (`reasoning_metrics.MEASURES`); unknown ones are left out."""
        ...
