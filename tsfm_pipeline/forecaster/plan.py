"""Which windows a grid needs, and in which batches they go through the model.

Here: availability, the sharing of equal windows, batches of equal token count. Not here: the values in the windows and
the model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsfm_pipeline.forecaster.config import ForecastConfig
from tsfm_pipeline.forecaster.panel import Panel

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Windows [N] of one configuration or several with the same token count and the same number of decode steps.

    series, origin_index: where in the grid each window belongs; origins: its last step; config_index: into
    `Plan.configs`.
    """

    series: IntArray
    origin_index: IntArray
    origins: IntArray
    config_index: IntArray


@dataclass(frozen=True)
class Plan:
    """The distinct configurations of a grid, the grid's configurations [K] in terms of them, and the batches to run."""

    configs: tuple[ForecastConfig, ...]
    members: IntArray
    batches: tuple[Batch, ...]

    @property
    def n_windows(self) -> int:
        """Windows that go through the model."""
        return sum(len(batch.series) for batch in self.batches)

    @property
    def n_tokens(self) -> int:
        """Tokens that go through the model, without those that a decode beyond 128 points appends."""
        tokens = np.array([config.n_tokens for config in self.configs])
        return int(sum(tokens[batch.config_index].sum() for batch in self.batches))


def plan_grid(panel: Panel, origins: IntArray, configs: Sequence[ForecastConfig], horizon: int, token_budget: int) -> Plan:
    """Plan the windows of every available (series, origin, configuration); origins int [S, O].

    A window is available if the series was observed at its first step or before. Equal configurations share their
    windows. A batch holds at most `token_budget` tokens (but at least one window), so nothing is padded to a longest
    context.
    """
    distinct = tuple(dict.fromkeys(configs))
    positions = {config: i for i, config in enumerate(distinct)}
    members = np.array([positions[config] for config in configs], dtype=np.int64)
    alike: dict[tuple[int, int], list[int]] = {}
    for i, config in enumerate(distinct):
        alike.setdefault((config.n_tokens, decode_steps(config, horizon)), []).append(i)
    batches = [
        batch
        for (n_tokens, _), group in sorted(alike.items())
        for batch in _batches(panel, origins, distinct, group, max(1, token_budget // n_tokens))
    ]
    return Plan(distinct, members, tuple(batches))


def n_blocks(config: ForecastConfig, horizon: int) -> int:
    """Points that the model forecasts to cover `horizon` steps."""
    return -(-horizon // config.resolution)


def decode_steps(config: ForecastConfig, horizon: int) -> int:
    """Forward passes that the horizon takes; each gives 128 points."""
    return -(-n_blocks(config, horizon) // 128)


def _batches(panel: Panel, origins: IntArray, configs: tuple[ForecastConfig, ...], group: list[int], max_windows: int) -> Iterator[Batch]:
    columns: list[IntArray] = []
    for i in group:
        first_step = origins - configs[i].context_len + 1
        series, origin_index = np.nonzero(first_step >= panel.first_observed[:, None])
        columns.append(np.stack([series, origin_index, origins[series, origin_index], np.full(len(series), i)]))
    table = np.concatenate(columns, axis=1)
    if table.shape[1]:
        n_batches = -(-table.shape[1] // max_windows)
        yield from (Batch(*part) for part in np.array_split(table, n_batches, axis=1))
