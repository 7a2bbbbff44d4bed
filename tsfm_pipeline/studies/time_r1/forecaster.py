"""The forecaster: slow thinking behind the protocol of the pipeline's forecasters.

What belongs here: windows cut out of a panel, and their deciles as the protocol has them. What does
not: slow thinking itself (`slow_thinking`), and how the pipeline finds it (`forecaster_plugin`).

Each request is asked about on its own, with the look-back that the policy was trained on. A request
whose history is shorter has no forecast. The horizon is the request's: the grammar makes an answer
of exactly so many numbers, and whether a policy that was trained on another horizon helps is for
the gate to decide. Gaps are filled with the last value before them, as the frozen model sees them.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from tsfm_pipeline.autoresearch.evidence import GridForecaster
from tsfm_pipeline.baselines.protocol import DirectBaseline, FloatArray
from tsfm_pipeline.forecaster.config import QUANTILE_LEVELS
from tsfm_pipeline.forecaster.panel import Panel
from tsfm_pipeline.studies.time_r1.asking import Asker
from tsfm_pipeline.studies.time_r1.slow_thinking import MOST_WINDOWS, needed_past, think
from tsfm_pipeline.studies.time_r1.slow_thought import SlowThought
from tsfm_pipeline.studies.time_r1.windows import Ints, Windows

_MINUTES_OF_A_DAY = 1440

note = logging.getLogger(__name__).info


class SlowThinkingForecaster(DirectBaseline):
    """The deciles of slow thinking. History: the look-back of the policy."""

    name: ClassVar[str] = "slow_thinking"

    def __init__(
        self,
        asker: Asker,
        forecaster: GridForecaster | None,
        contexts: Sequence[int],
        look_back: int,
    ) -> None:
        """asker: the policy, and how it is asked. forecaster, contexts: of the drafts. look_back:
        steps that the policy was trained to be shown.
        """
        self._asker, self._forecaster = asker, forecaster
        self._contexts, self.look_back = tuple(contexts), look_back

    def thoughts(
        self, panel: Panel, origins: npt.NDArray[np.int64], horizon: int
    ) -> Iterator[tuple[Ints, Ints, SlowThought]]:
        """Yield what slow thinking comes to for the requests with enough history, some at a time:
        their series [M], the column of their origins [M], and the result for these M windows.
        """
        begins = np.broadcast_to(panel.known_from(origins), origins.shape)
        series, columns = np.nonzero(origins - self.look_back + 1 >= begins)
        for first in range(0, len(series), MOST_WINDOWS):
            rows, at = series[first : first + MOST_WINDOWS], columns[first : first + MOST_WINDOWS]
            windows = self._windows(panel, rows, origins[rows, at], begins[rows, at], horizon)
            limits = panel.limits.take(rows)
            thought = think(self._asker, windows, self._forecaster, self._contexts, limits)
            note(
                "%s: %d of %d forecasts were refined, %d of %d answers could not be used",
                *(self.name, thought.gate.sum(), len(rows)),
                *(thought.failures.sum(), thought.answers.sum()),
            )
            yield rows, at, thought

    def _deciles(self, panel: Panel, origins: npt.NDArray[np.int64], horizon: int) -> FloatArray:
        deciles = np.full((*origins.shape, horizon, len(QUANTILE_LEVELS)), np.nan, np.float32)
        for rows, at, thought in self.thoughts(panel, origins, horizon):
            deciles[rows, at] = thought.deciles
        return deciles

    def _windows(
        self, panel: Panel, series: Ints, origins: Ints, begins: Ints, horizon: int
    ) -> Windows:
        """Return the windows of series [M] at origins [M] whose known values begin at steps [M]."""
        season = panel.seasons[0] if panel.seasons else 1
        gate_origins = self._asker.options.gate_origins
        n_past = needed_past(self._contexts, season, horizon, self.look_back, gate_origins)
        steps = origins[:, None] + np.arange(1 - n_past, 1)
        values = panel.filled[series[:, None], np.maximum(steps, 0)].astype(np.float64)
        values[steps < begins[:, None]] = np.nan
        return Windows(
            data_set="panel",
            step=_step(panel),
            season=season,
            channels=("series",) * len(series),
            origins=origins,
            past=values,
            truth=np.full((len(series), horizon), np.nan),
            look_back=self.look_back,
        )


def _step(panel: Panel) -> str:
    """Return how far apart the steps are: the first season is a day, as for all baselines."""
    season = panel.seasons[0] if panel.seasons else 0
    if not season or _MINUTES_OF_A_DAY % season:
        return "1 step"
    return minutes_as_step(_MINUTES_OF_A_DAY // season)


def minutes_as_step(minutes: float) -> str:
    """Return how far apart steps are, as people say it: "15 minutes", "1 hour"."""
    count, unit = (minutes / 60, "hour") if minutes % 60 == 0 else (minutes, "minute")
    return f"{count:g} {unit}{'' if count == 1 else 's'}"
