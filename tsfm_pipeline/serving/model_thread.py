"""The one thread on which a model in this process computes: what such runtimes share.

What belongs here: calling on the thread, whether the model is loaded, and the end. What does not:
loading a model and asking it (`local`, and models of plugins), and which calls form a batch
(`batching`).
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from tsfm_pipeline.serving.batching import Batcher
from tsfm_pipeline.serving.runtimes import Answer

if TYPE_CHECKING:
    from tsfm_pipeline.forecaster.engine import FrozenForecaster

T = TypeVar("T")


class ModelThread(ABC):
    """Part of a `Runtime` whose frozen model runs on one thread, so that the event loop stays free.

    A subclass loads the model in its `start`, on the thread.
    """

    def __init__(self, thread_name: str) -> None:
        """thread_name: beginning of the thread's name, for logs and profiles."""
        self._forecaster: FrozenForecaster | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=thread_name)
        self._closed = False

    @property
    @abstractmethod
    def batcher(self) -> Batcher[Any, Any, Answer]:
        """What joins concurrent calls."""

    @property
    def forecaster(self) -> "FrozenForecaster":
        """The loaded model, to be used on the model thread only. Raises RuntimeError before it is
        loaded.
        """
        if self._forecaster is None:
            raise RuntimeError("the model is not loaded; call start first")
        return self._forecaster

    async def ready(self) -> bool:
        """Return whether the model is loaded."""
        return self._forecaster is not None and not self._closed

    async def close(self) -> None:
        """Refuse what waits, and end the model thread when its batch is done."""
        self._closed = True
        await self.batcher.close()
        await asyncio.to_thread(self._thread.shutdown)

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
