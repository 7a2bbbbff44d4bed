"""The model in this process: a frozen checkpoint on one thread, fed in micro-batches.

What belongs here: loading the checkpoint, who may use the model thread, and a batch's way through
the model and back to the units of its series. What does not: the thread itself (`model_thread`),
which calls form a batch (`batching`), which configuration forecasts a series (`configurations`),
and the search over many configurations (`search_route`).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from tsfm_pipeline.autoresearch.bundle import SearchBundle
from tsfm_pipeline.evaluation.limits import Limits
from tsfm_pipeline.evaluation.protocol import DECILES
from tsfm_pipeline.forecaster.config import DECILE_COLUMNS
from tsfm_pipeline.forecaster.panel import Panel
from tsfm_pipeline.forecaster.registry import REGISTRY
from tsfm_pipeline.serving.batching import Batcher, closed, too_late
from tsfm_pipeline.serving.configurations import Configurations, Setup
from tsfm_pipeline.serving.deadline import Clock, Deadline
from tsfm_pipeline.serving.model_thread import ModelThread
from tsfm_pipeline.serving.preparation import ignored
from tsfm_pipeline.serving.runtimes import Answer, Floats, Query
from tsfm_pipeline.serving.settings import LocalSettings

if TYPE_CHECKING:
    from tsfm_pipeline.forecaster.engine import FrozenForecaster

T = TypeVar("T")

WARM_UP_STEPS = 288
WARM_UP_HORIZON = 12

log = logging.getLogger(__name__)


class LocalRuntime(ModelThread):
    """Our model behind the protocol `Runtime`.

    model: name of the checkpoint. licence: of its weights; final after `start`. Everything that the
    model computes runs on one thread, one batch at a time, so that the event loop stays free.
    """

    name: Literal["local"] = "local"

    def __init__(
        self,
        settings: LocalSettings,
        bundle: SearchBundle | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """Set up the runtime; nothing is loaded before `start`.

        bundle: search whose fixed configuration, seasons and longest gap apply to series on its
        time step.
        """
        super().__init__("model")
        self.model = settings.checkpoint
        entry = REGISTRY.get(settings.checkpoint)
        self.licence = "unknown" if entry is None else entry.licence
        self.configurations = Configurations(bundle)
        self._settings, self._bundle = settings, bundle
        self._turns, self._alone = asyncio.Semaphore(1), asyncio.Lock()
        self._batcher = Batcher(
            self._answers,
            self._setup_of,
            settings.max_batch,
            settings.max_wait_ms,
            settings.queue,
            clock,
            self._turns,
            queue_s=settings.queue_s,
        )

    @property
    def version(self) -> str:
        """The first 12 hex digits of the checkpoint's SHA-256, and the matrices' type if it is not
        float32.
        """
        dtype = str(self.forecaster.dtype).removeprefix("torch.")
        suffix = "" if dtype == "float32" else f"-{dtype}"
        return self.forecaster.checkpoint.sha256[:12] + suffix

    @property
    def batcher(self) -> Batcher[Setup, Query, Answer]:
        """What joins concurrent calls."""
        return self._batcher

    @property
    def n_waiting(self) -> int:
        """How many series wait for a batch."""
        return self._batcher.n_waiting

    async def start(self) -> None:
        """Load the checkpoint, compile what is not yet compiled, and forecast once.

        Raises `registry.CheckpointError` for a checkpoint that cannot be had, and ValueError, with
        both names, for another one than the bundle's search was fitted with.
        """
        self._forecaster = await self._on_thread(self._load)
        checkpoint = self._forecaster.checkpoint
        self.model, self.licence = checkpoint.name, checkpoint.licence

    async def forecast(self, query: Query, deadline: Deadline, *, retry: bool = True) -> Answer:
        """Return the deciles of a series; `retry` changes nothing, because a model that failed
        fails again.
        """
        return await self._batcher.submit(query, deadline)

    async def alone(self, work: Callable[[], T], deadline: Deadline) -> T:
        """Return what `work` returns, called on the model thread between two batches.

        Further calls wait until this one is done, and a batch that waits goes before them. Raises
        `RuntimeFailure`, which does not count, if its turn does not come before the deadline, and
        after `close`.
        """
        async with AsyncExitStack() as turn:
            try:
                async with asyncio.timeout(deadline.left):
                    await turn.enter_async_context(self._alone)
                    await turn.enter_async_context(self._turns)
            except TimeoutError:
                raise too_late() from None
            if self._closed:
                raise closed()
            return await self._on_thread(work)

    def _load(self) -> "FrozenForecaster":
        from tsfm_pipeline.forecaster.engine import load_forecaster

        began = time.perf_counter()
        settings, bundle = self._settings, self._bundle
        dtype = "float32" if bundle is None else bundle.facts.checkpoint.dtype
        forecaster = load_forecaster(
            settings.checkpoint,
            dtype=settings.dtype or dtype,
            n_threads=settings.threads,
            matrix_product=settings.matrix_product,
        )
        if bundle is not None:
            bundle.require(forecaster)
        self._warm_up(forecaster)
        log.info(
            "loaded %s (%s) in %.1f s",
            forecaster.checkpoint.name,
            forecaster.checkpoint.sha256[:12],
            time.perf_counter() - began,
        )
        return forecaster

    def _warm_up(self, forecaster: "FrozenForecaster") -> None:
        """Forecast a lone series and a full batch, so that no request pays for what happens once.

        The series is as long as the fixed configurations need, on the bundle's time step.
        """
        n_steps = max(WARM_UP_STEPS, self.configurations.lookback(WARM_UP_HORIZON))
        query = Query(
            market="",
            values=np.sin(np.arange(n_steps) / 10.0),
            freq=1.0 if self._bundle is None else self._bundle.facts.step_minutes,
            end=datetime.now(UTC),
            horizon=WARM_UP_HORIZON,
            levels=DECILES,
        )
        setup = self.configurations.setup_of(query, forecaster.checkpoint.dims["context_limit"])
        for n_series in (1, self._settings.max_batch):
            forecast_batch(forecaster, setup, [query] * n_series)

    def _setup_of(self, query: Query) -> Setup:
        limit = self.forecaster.checkpoint.dims["context_limit"]
        return self.configurations.setup_of(query, limit)

    async def _answers(self, setup: Setup, queries: list[Query]) -> list[Answer]:
        deciles = await self._on_thread(lambda: forecast_batch(self.forecaster, setup, queries))
        return [
            Answer(
                levels=DECILES,
                values=values,
                asked=setup.asked,
                configuration=setup.config.name,
                warnings=ignored(
                    covariates=bool(query.past or query.future), params=bool(query.params)
                ),
            )
            for query, values in zip(queries, deciles, strict=True)
        ]


def forecast_batch(
    forecaster: "FrozenForecaster",
    setup: Setup,
    queries: Sequence[Query],
    columns: slice = DECILE_COLUMNS,
) -> Floats:
    """Return the deciles of N series of equal setup, in the units of each: float64 [N, H, 9].

    columns: other columns of the model's output instead, float64 [N, H, C].

    The model computes in float32. Unless the configuration has a transform, each series is
    therefore moved to end at 0 and scaled by a power of two first, in float64, so that a series
    that varies by 1 around 1e9 keeps its digits, and one of size 1e200 fits.
    """
    values = np.stack([query.values[-setup.asked :] for query in queries])  # [N, T]
    low, high = _bounds(queries)
    exponent = np.zeros((len(values), 1), dtype=np.int32)
    offset = np.zeros((len(values), 1))
    if setup.config.transform == "none":
        exponent = np.frexp(np.abs(values).max(axis=1, keepdims=True))[1]
        values = np.ldexp(values, -exponent)
        offset = values[:, -1:].copy()
        values = values - offset
    limits = [np.ldexp(side[:, None], -exponent) - offset for side in (low, high)]
    panel = Panel(
        values.astype(np.float32),
        setup.seasons,
        setup.lower,
        setup.upper,
        Limits(*(side[:, 0].astype(np.float32) for side in limits)),
        setup.max_gap,
    )
    origin = np.array([panel.n_steps - 1])
    grid = forecaster.forecast_grid(panel, origin, [setup.config], setup.horizon)
    output = grid[:, 0, 0, :, columns].astype(np.float64)  # [N, H, C]
    restored = np.ldexp(output + offset[..., None], exponent[..., None])
    # The bounds were rounded to float32 on the model's scale.
    return np.clip(restored, low[:, None, None], high[:, None, None])


def _bounds(queries: Sequence[Query]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the bounds of N series, infinite where there are none: two float64 [N]."""
    low = [-np.inf if query.lower is None else query.lower for query in queries]
    high = [np.inf if query.upper is None else query.upper for query in queries]
    return np.array(low), np.array(high)
