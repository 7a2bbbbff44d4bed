"""The plugin of the service: slow thinking as a model that requests may name.

What belongs here: the model behind the service's protocol, its place in time (a queue, one request
after the other, a deadline), and what it tells about an answer. What does not: slow thinking itself
(`slow_thinking`), which policy is asked (`checkpoints`), and the service.

The service finds it through its entry point, where TSFM_STUDY_MODELS names it. Of one request, one
pass is asked for, with one earlier origin as its check, because two of each take longer.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tsfm_pipeline.autoresearch.bundle import SearchBundle
from tsfm_pipeline.evaluation.limits import Limits
from tsfm_pipeline.evaluation.protocol import DECILES
from tsfm_pipeline.serving.batching import Batcher
from tsfm_pipeline.serving.deadline import Clock, Deadline
from tsfm_pipeline.serving.model_thread import ModelThread
from tsfm_pipeline.serving.preparation import ignored
from tsfm_pipeline.serving.reasoning_metrics import MEASURES
from tsfm_pipeline.serving.runtimes import (
    Answer,
    Failure,
    Floats,
    Query,
    RuntimeFailure,
    Thought,
    Verdict,
)
from tsfm_pipeline.serving.settings import LocalSettings, ServingSettings
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.time_r1.asking import Asker
from tsfm_pipeline.studies.time_r1.checkpoints import (
    AskedWith,
    load_promoted,
    policy_in_use_digest,
)
from tsfm_pipeline.studies.time_r1.codecs import NumberCodec
from tsfm_pipeline.studies.time_r1.forecaster import minutes_as_step
from tsfm_pipeline.studies.time_r1.slow_thinking import needed_past, think
from tsfm_pipeline.studies.time_r1.slow_thought import SlowThought
from tsfm_pipeline.studies.time_r1.windows import Windows

if TYPE_CHECKING:
    from tsfm_pipeline.forecaster.engine import FrozenForecaster

NAME = "time-r1"
ONE_PASS = {"max_iterations": 1, "gate_origins": 1}
"""What the service changes of how a policy was trained to be asked."""
QUEUE, QUEUE_S = 16, 0.8
"""Requests that may wait, and how long; further ones are answered by a baseline."""
MARGIN_S = 0.1
"""Sampling ends so long before the runtime's deadline, which is .1 s before that of the service, so
that the draft is still an answer in time.
"""
LATE = "thinking_out_of_time"
"""Warning: there was no time for the policy's answers."""
_MINUTES_OF_A_DAY = 1440


def make(settings: ServingSettings, bundle: SearchBundle | None) -> "SlowThinkingRuntime":
    """Return the model of the service.

    The policy is loaded here and not by `start`, so that one which cannot be used ends the start of
    a service whose operator asked for it. Raises CheckpointError for such a policy.
    """
    of_project = Settings()
    digest = policy_in_use_digest(of_project)
    in_use = load_promoted(of_project)
    asked_with = in_use.asked_with
    options = asked_with.thinking.model_copy(update=ONE_PASS)
    asker = Asker(in_use.policy, NumberCodec(), asked_with.prompt, options)
    return SlowThinkingRuntime(asker, asked_with, digest, in_use.facts, settings.local)


class SlowThinkingRuntime(ModelThread):
    """Slow thinking behind the protocol `Runtime`.

    name, model: by which requests ask for it. One request is answered at a time, on a thread of its
    own. The draft is that of the frozen model that the settings name.
    """

    name: Literal["local"] = "local"
    model = NAME

    def __init__(
        self,
        asker: Asker,
        asked_with: AskedWith,
        policy_digest: str,
        facts: Mapping[str, Any],
        settings: LocalSettings,
        clock: Clock = time.monotonic,
    ) -> None:
        """asker: the policy, and how it is asked. asked_with: its look-back, and the contexts of
        the drafts. policy_digest: identifies it in `version`. facts: what the policy's config.json
        states.
        """
        super().__init__("slow-thinking")
        self.licence = str(facts.get("licence") or "unknown")
        self.measures = {name: float(facts[name]) for name in MEASURES if name in facts}
        self._asker, self._asked_with = asker, asked_with
        self._policy_digest, self._settings = policy_digest, settings
        self._batcher: Batcher[None, _Asked, Answer] = Batcher(
            self._answers, lambda _: None, 1, 0.0, QUEUE, clock, queue_s=QUEUE_S
        )

    @property
    def version(self) -> str:
        """The beginnings of the digests of policy and frozen model."""
        return f"{self._policy_digest[:12]}-{self.forecaster.checkpoint.sha256[:12]}"

    @property
    def batcher(self) -> "Batcher[None, _Asked, Answer]":
        """The queue."""
        return self._batcher

    def lookback(self, freq: float, horizon: int) -> int:
        """Return how many of the last values drafts, backtests and gate read."""
        asked_with, n_earlier = self._asked_with, self._asker.options.gate_origins
        season = _season(freq)
        return needed_past(asked_with.contexts, season, horizon, asked_with.look_back, n_earlier)

    async def start(self) -> None:
        """Load the frozen model and answer once. Raises CheckpointError for a model that cannot be
        had.
        """
        self._forecaster = await self._on_thread(self._load)

    async def forecast(self, query: Query, deadline: Deadline, *, retry: bool = True) -> Answer:
        """Return the deciles with the reasoning; `retry` changes nothing, because the same question
        has the same answer.

        Raises `RuntimeFailure`, which does not count, for a series shorter than the look-back.
        """
        if len(query.values) < self._asked_with.look_back:
            detail = f"{len(query.values)} values; {NAME} is shown {self._asked_with.look_back}"
            raise RuntimeFailure(Failure.REJECTED, detail, counts=False)
        return await self._batcher.submit(_Asked(query, deadline), deadline)

    def _load(self) -> "FrozenForecaster":
        from tsfm_pipeline.forecaster.engine import load_forecaster

        settings = self._settings
        forecaster = load_forecaster(
            settings.checkpoint,
            dtype=settings.dtype or "float32",
            n_threads=settings.threads,
            matrix_product=settings.matrix_product,
        )
        values = np.sin(np.arange(2 * self._asked_with.look_back) / 4)
        query = Query("", values, 60.0, datetime.now(UTC), 1, DECILES)
        answered(self._asker, self._asked_with, forecaster, query)
        return forecaster

    async def _answers(self, _: None, asked: "list[_Asked]") -> list[Answer]:
        return [await self._on_thread(partial(self._answer, one)) for one in asked]

    def _answer(self, asked: "_Asked") -> Answer:
        until = time.monotonic() + asked.deadline.left - MARGIN_S
        asker = replace(self._asker, until=until)
        return answered(asker, self._asked_with, self.forecaster, asked.query)


@dataclass(frozen=True, eq=False)
class _Asked:
    """A query, and when its answer is due."""

    query: Query
    deadline: Deadline


def answered(
    asker: Asker, asked_with: AskedWith, forecaster: "FrozenForecaster", query: Query
) -> Answer:
    """Return what slow thinking comes to for a query of at least a look-back of values.

    The values are moved to end at 0 and scaled by a power of two first, because the frozen model
    computes in float32; findings and answers are told in deviations of the look-back, which this
    does not change.
    """
    began = time.monotonic()
    exponent = int(np.frexp(np.abs(query.values).max())[1])
    scaled = np.ldexp(query.values, -exponent)
    offset = scaled[-1]
    low = -np.inf if query.lower is None else query.lower
    high = np.inf if query.upper is None else query.upper
    bounds = [float(np.ldexp(side, -exponent) - offset) for side in (low, high)]
    window = _window(query, scaled - offset, asked_with.look_back)
    limits = Limits.of([(bounds[0], bounds[1])])
    thought = think(asker, window, forecaster, asked_with.contexts, limits)

    def restored(values: Floats) -> Floats:
        # The limits were rounded to float32 on the smaller scale.
        return np.clip(np.ldexp(values + offset, exponent), low, high)

    given = ignored(covariates=bool(query.past or query.future), params=bool(query.params))
    return Answer(
        levels=DECILES,
        values=restored(thought.deciles[0]),
        asked=len(query.values),
        configuration=thought.started_from[0],
        warnings=(*((LATE,) if thought.late else ()), *given),
        thought=Thought(
            verdict=_verdict(thought),
            text=thought.reasons[0],
            draft=restored(thought.draft[0]),
            refined=None if thought.late else restored(thought.refined[0, 0]),
            answers=int(thought.answers[0]),
            unreadable=int(thought.failures[0]),
            seconds=time.monotonic() - began,
        ),
    )


def _verdict(thought: SlowThought) -> Verdict:
    if thought.gate[0]:
        return Verdict.REFINED
    return Verdict.LATE if thought.late else Verdict.DRAFT


def _window(query: Query, values: Floats, look_back: int) -> Windows:
    """Return a query as a window; values [T] are those of the query on another scale."""
    end = np.datetime64(query.end.astimezone(UTC).replace(tzinfo=None), "s")
    steps_back = np.arange(len(values) - 1, -1, -1)
    apart = np.timedelta64(round(60 * query.freq), "s")
    return Windows(
        data_set="service",
        step=minutes_as_step(query.freq),
        season=_season(query.freq),
        channels=("series",),
        origins=np.array([len(values) - 1]),
        past=values[None],
        truth=np.full((1, query.horizon), np.nan),
        look_back=look_back,
        times=(end - steps_back * apart)[None],
    )


def _season(freq: float) -> int:
    """Return the steps of a day, or 1 where a day has no whole number of them."""
    return int(_MINUTES_OF_A_DAY // freq) if _MINUTES_OF_A_DAY % freq == 0 else 1
