"""What the answer to a request rests on: the tenant's full history, a shortened one, or none that
can be validated.

What belongs here: facts about one tenant's history at any origin. What does not: the rule that
turns them into a basis (`evaluation.requests.request_bases`), and which requests there are.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch.space import is_plain
from tsfm_pipeline.evaluation.requests import Basis, askable_steps, request_bases
from tsfm_pipeline.forecaster.config import PATCH_LEN, ForecastConfig
from tsfm_pipeline.forecaster.panel import Panel

FACTS = ("n_known", "possible", "stale", "validation")
"""The facts that a basis follows from, as `request_bases` takes them."""


class History:
    """What may be used of one tenant's history, all of its metrics together.

    panel: the tenant's D series. offsets: the validation origins, in steps before a request. own:
    whether the tenant's time begins with its first value, instead of with the panel.
    """

    def __init__(
        self, panel: Panel, offsets: Sequence[int], horizon: int, *, own: bool = False
    ) -> None:
        self.panel = panel
        self.offsets = np.asarray(offsets, dtype=np.int64)
        self.horizon = horizon
        self.begin = int(panel.first_observed.max()) if own else 0
        self.observed = np.asarray(~np.isnan(panel.values).any(axis=0))
        """Steps at which every metric is observed [T]."""
        self._n_seen = np.concatenate([[0], np.cumsum(self.observed)])  # before each step

    def askable(self, needed: int) -> NDArray[np.bool_]:
        """Return the steps [T] that can be origins of requests that need as many values."""
        return askable_steps(self.observed, self.horizon, needed)

    def known(self, origins: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many steps up to and including each origin [O] a window of any metric may use;
        0 where there are none.
        """
        steps = np.broadcast_to(origins, (self.panel.n_series, len(origins)))
        first = self.panel.known_from(steps).max(axis=0)
        return np.maximum(origins - first + 1, 0)

    def facts(self, origins: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Return the `FACTS` at each origin [O]."""
        n_seen = self._n_seen
        earlier = origins[:, None] - self.offsets  # [O, J]
        after = np.maximum(earlier + 1, 0)
        outcomes = n_seen[np.minimum(after + self.horizon, len(n_seen) - 1)] - n_seen[after]
        validation = self.known(earlier.ravel()).reshape(earlier.shape)
        last_seen = np.searchsorted(n_seen, n_seen[origins + 1]) - 1
        max_gap = self.panel.n_steps if self.panel.max_gap is None else self.panel.max_gap
        return {
            "n_known": self.known(origins),
            "possible": origins - self.begin + 1,
            "stale": origins - last_seen > max_gap,
            "validation": np.where(outcomes > 0, validation, 0).max(axis=1, initial=0),
        }


def bases_of(facts: dict[str, NDArray[Any]], contexts: Sequence[int], shortest: int) -> list[Basis]:
    """Return the basis of each request from its `FACTS`; contexts: those of the configurations that
    see the telemetry itself; shortest: the steps that the one with the least history needs.
    """
    known, possible, stale, validation = (facts[name] for name in FACTS)
    lookback = max(contexts, default=shortest)
    return request_bases(known, possible, stale, validation, lookback=lookback, shortest=shortest)


def basis_at_end(
    panel: Panel, offsets: Sequence[int], horizon: int, configs: Sequence[ForecastConfig]
) -> Basis:
    """Return what a search's answer after the last step of a panel rests on.

    offsets: its validation origins, in steps before the request. configs: those that it may choose.
    """
    contexts = [config.context_len for config in configs if is_plain(config)]
    facts = History(panel, offsets, horizon).facts(np.array([panel.n_steps - 1]))
    return bases_of(facts, contexts, min(contexts, default=PATCH_LEN))[0]
