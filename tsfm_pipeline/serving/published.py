"""A file that a run publishes and the service reads again when it changes.

What belongs here: reading it, and keeping the last good content. What does not: what it says
(`evaluation.conformal`, `evaluation.rollout`), and writing it (`steps.serving`).
"""

import logging
import time
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from tsfm_pipeline.serving.deadline import Clock

M = TypeVar("M", bound=BaseModel)

_LOG = logging.getLogger(__name__)


class Published(Generic[M]):
    """The content of a published file; None until there is a file that can be read.

    The file is looked at once per `every_s` seconds, when `current` is read. If it has changed, it
    is read again. If it cannot be read, or is gone, the last good content stays and `problem` says
    why; the same problem is logged once.
    """

    def __init__(
        self, path: Path, model: type[M], every_s: float, clock: Clock = time.monotonic
    ) -> None:
        self.path = path
        self.problem = ""
        self._model = model
        self._every_s = every_s
        self._clock = clock
        self._content: M | None = None
        self._stamp: tuple[int, int, int] | None = None
        self._look_at = clock()

    @property
    def current(self) -> M | None:
        """The content, at most `every_s` seconds old. Never raises."""
        if self._clock() >= self._look_at:
            self._look_at = self._clock() + self._every_s
            self._look()
        return self._content

    @property
    def age_s(self) -> float | None:
        """Seconds since the content was published; None: there is none."""
        return None if self._stamp is None else time.time() - self._stamp[2] / 1e9

    def _look(self) -> None:
        try:
            stat = self.path.stat()
            stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if stamp == self._stamp:
                self._report("")
                return
            content = self._model.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            # Before a first run has published anything, there is nothing to report.
            gone = self._content is not None
            self._stamp = None
            self._report(f"{self.path} is gone; what it said still applies" if gone else "")
        except (OSError, ValidationError) as error:
            self._report(f"{self.path} cannot be read; the last good content stays: {error}")
        else:
            self._content, self._stamp = content, stamp
            self._report("")

    def _report(self, problem: str) -> None:
        if problem and problem != self.problem:
            _LOG.warning("%s", problem)
        self.problem = problem
