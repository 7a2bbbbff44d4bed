"""The grid engine: many series, many origins, many configurations through one frozen decoder.

What belongs here: the public `FrozenForecaster`, its input checks, and the loop over planned
batches. What does not: the choice of configurations, the mathematics of the decoder (`model`),
windows (`windows`) and batching (`plan`).
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tsfm_pipeline.forecaster import registry
from tsfm_pipeline.forecaster.config import (
    MEAN_COLUMN,
    MEDIAN_COLUMN,
    N_COLUMNS,
    PATCH_LEN,
    ForecastConfig,
)
from tsfm_pipeline.forecaster.decoders import Decoder, frozen_decoder
from tsfm_pipeline.forecaster.devices import device_named
from tsfm_pipeline.forecaster.hidden import chosen_layers, states_of_batch
from tsfm_pipeline.forecaster.panel import FloatArray, Panel, as_panel
from tsfm_pipeline.forecaster.plan import (
    OUTPUT_PATCH_LEN,
    Batch,
    IntArray,
    Plan,
    decode_steps,
    n_blocks,
    plan_grid,
    runs,
)
from tsfm_pipeline.forecaster.windows import (
    centred_points,
    cut_windows,
    representation_of,
    to_units,
)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOKEN_BUDGETS = {"cpu": 2048, "cuda": 131_072}
"""Default tokens per batch. On a CPU this is enough to make a batch's own overhead negligible."""


class FrozenForecaster:
    """A frozen model that forecasts whole grids; get one from `load_forecaster`."""

    def __init__(
        self,
        checkpoint: registry.CheckpointInfo,
        decoder: Decoder,
        token_budget: int | None = None,
        n_threads: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Take a loaded decoder and start the worker threads.

        dtype: what was asked for, by default the decoder's own.
        n_threads: batches that run at once on a CPU; by default one per core that the process may
        use (OMP_NUM_THREADS overrides it). Raises ValueError for fewer than one thread or one token
        per batch.

        Each batch runs on one thread, because threads that share a product wait for each other at
        its end; on a busy machine they wait most of the time. Therefore no forecast depends on the
        number of threads.
        """
        self.checkpoint = checkpoint
        self.decoder = decoder
        self._dtype = decoder.dtype if dtype is None else dtype
        self.n_threads = _n_threads() if n_threads is None else n_threads
        if self.n_threads < 1:
            raise ValueError(f"n_threads is {n_threads}; allowed: 1 or more")
        on_cpu = decoder.device.type == "cpu"
        self._workers = ThreadPoolExecutor(
            self.n_threads if on_cpu else 1, initializer=torch.set_num_threads, initargs=(1,)
        )
        self.token_budget = (
            TOKEN_BUDGETS[decoder.device.type] if token_budget is None else token_budget
        )
        if self.token_budget < 1:
            raise ValueError(f"token_budget is {token_budget}; allowed: 1 or more tokens per batch")

    @property
    def device(self) -> torch.device:
        """The device that holds the decoder."""
        return self.decoder.device

    @property
    def dtype(self) -> torch.dtype:
        """The type that was asked for. That of the decoder's matrices (`decoder.dtype`) is float32
        instead where bfloat16 would be slower (`products`). Sums of squares, norms and the residual
        stream are always float32.
        """
        return self._dtype

    @property
    def plan(self) -> dict[str, str | int]:
        """What changes the last bits of forecasts besides the checkpoint and the dtype: device,
        token budget and matrix product.
        """
        return {
            "device": str(self.device),
            "token_budget": self.token_budget,
            "matrix_product": self.decoder.product,
        }

    def parameters(self) -> Iterator[torch.Tensor]:
        """Yield the decoder's tensors; none of them requires grad."""
        return self.decoder.parameters()

    def forecast_grid(
        self,
        panel: Panel | FloatArray,
        origins: npt.ArrayLike,
        configs: Sequence[ForecastConfig],
        horizon: int,
    ) -> FloatArray:
        """Forecast `horizon` steps after every origin of every series with every configuration.

        panel: S series of T steps, as a `Panel` or as a float32 array [S, T] (NaN = missing).
        origins: integers [O], the same for every series, or [S, O]: each forecast's last observed
        step, 0 to T - 1.
        configs: the K configurations; equal ones are computed once.
        horizon: H, the number of steps to forecast, 1 or more.

        Returns float32 [S, O, K, H, 10]: the mean, then the deciles 0.1 to 0.9, which never
        decrease. Forecasts have the units of the values and lie within the panel's bounds. A
        forecast is NaN where its series was not yet observed at the first step of the window, and
        where the panel lacks the season or the bounds that its configuration needs. No forecast
        uses a value after its origin, no input is changed, and the same plan gives the same result.

        Raises TypeError for origins that are not integers. Raises ValueError for origins of
        another shape or outside of the panel, and for a horizon that is not a positive whole number
        or does not fit into the model together with a context. An array of values raises as `Panel`
        does.
        """
        return self.forecast_offsets(panel, origins, (0,), configs, horizon)

    def forecast_offsets(
        self,
        panel: Panel | FloatArray,
        origins: npt.ArrayLike,
        offsets: Sequence[int],
        configs: Sequence[ForecastConfig],
        horizon: int,
        wanted: Sequence[int] | None = None,
    ) -> FloatArray:
        """As `forecast_grid`, but forecast in shared passes at every origin and `offsets` steps
        before it.

        offsets: steps before an origin, ascending, 0 or more. wanted: indices of the offsets to
        return, all by default. Returns float32 [S, O * len(wanted), K, H, 10], the offsets of one
        origin side by side. The result at offset 0 is that of `forecast_grid`; at other offsets the
        context may differ from the configuration's own by at most half of it
        (`plan.shared_passes`). Raises ValueError for other offsets, otherwise as `forecast_grid`.
        """
        panel = as_panel(panel)
        origin_table = _checked_origins(origins, panel)
        if any(offset < 0 for offset in offsets) or list(offsets) != sorted(set(offsets)):
            raise ValueError(
                f"offsets are {tuple(offsets)}; allowed: steps before the origin, 0 or more, each "
                "once, ascending"
            )
        self._check_horizon(configs, horizon)
        plan = plan_grid(panel, origin_table, configs, horizon, self.token_budget, offsets, wanted)
        n_columns = origin_table.shape[1] * (len(offsets) if wanted is None else len(wanted))
        distinct = np.full(
            (panel.n_series, n_columns, len(plan.configs), horizon, N_COLUMNS),
            np.nan,
            dtype=np.float32,
        )
        largest_first = sorted(plan.batches, key=lambda batch: -int(batch.tokens.sum()))
        self.side_by_side(partial(self._run, plan, panel, horizon, distinct), largest_first)
        if len(plan.members) == len(plan.configs):
            return distinct
        return distinct[:, :, plan.members]

    def hidden_states(
        self,
        panel: Panel | FloatArray,
        origins: npt.ArrayLike,
        config: ForecastConfig,
        layers: Sequence[int] | None = None,
    ) -> FloatArray:
        """Return what the model makes of the window before every origin of every series, after
        each of its layers.

        panel, origins: as in `forecast_grid`. config: the window. layers: L numbers from 0 (the
        tokenizer's result) to the model's number of layers (what its head reads); all by default.

        Returns float32 [S, O, L, tokens, dims]: the residual stream, before any norm; NaN where
        `forecast_grid` would return NaN. Token p covers the points up to 32 * (p + 1 - tokens)
        before the origin and depends on no later one, so the last token has seen the whole window.
        If the context is not a multiple of 32 points, the first 32 * tokens - config.n_points
        points of token 0 are padding, which the model is told; no token consists of padding alone.
        Windows are normalised by their running mean and deviation, so the states say nothing of a
        series' level and scale. The result takes S * O * L * tokens * dims * 4 bytes: ask for a
        part of the origins at a time where that is too much.

        Raises TypeError for a decoder that has no layers to show, and ValueError for layers that
        the model does not have; otherwise as `forecast_grid`.
        """
        panel = as_panel(panel)
        origin_table, kept = _checked_origins(origins, panel), chosen_layers(self.decoder, layers)
        self._check_horizon([config], 1)
        plan = plan_grid(panel, origin_table, [config], 1, self.token_budget)
        states = np.full(
            (*origin_table.shape, len(kept), config.n_tokens, self.checkpoint.dims["model_dims"]),
            np.nan,
            dtype=np.float32,
        )

        def fill(batch: Batch) -> None:
            found = states_of_batch(self.decoder, panel, config, kept, batch)
            states[batch.series[batch.window], batch.origin_index] = found[batch.window]

        self.side_by_side(fill, plan.batches)
        return states

    def side_by_side(self, work: Callable[[Any], object], parts: Iterable[Any]) -> None:
        """Call `work` on each part, one part per thread and as many at once as there are threads.
        An error in a part is raised here.
        """
        for _ in self._workers.map(work, parts):
            pass

    def _run(self, plan: Plan, panel: Panel, horizon: int, grid: FloatArray, batch: Batch) -> None:
        """Forecast one batch into grid [S, O, K, H, 10]. Batches write to different places, so
        several may run at once.
        """
        tokens = batch.tokens
        groups = []
        level = np.empty(len(tokens))
        for first, end in runs(tokens):
            points = np.zeros((end - first, tokens[first] * PATCH_LEN), dtype=np.float32)
            n_padding = np.empty(end - first, dtype=np.int64)
            for start, stop in runs(batch.config_index[first:end], batch.pass_index[first:end]):
                rows = slice(first + start, first + stop)
                i, p = batch.config_index[rows.start], batch.pass_index[rows.start]
                config, n_points = plan.configs[i], plan.passes[i][p].n_points
                values = representation_of(panel, config, horizon).values
                windows = cut_windows(
                    values, batch.series[rows], batch.end[rows], n_points * config.resolution
                )
                points[start:stop, -n_points:], level[rows] = centred_points(
                    windows, config.resolution
                )
                n_padding[start:stop] = points.shape[1] - n_points
            groups.append(
                (
                    torch.from_numpy(points).to(self.device),
                    torch.from_numpy(n_padding).to(self.device),
                )
            )
        forecast = self.decoder.decode(
            groups,
            batch.window,
            batch.token,
            max(n_blocks(plan.configs[i], horizon) for i in np.unique(batch.config_index)),
        )
        ordered = order_deciles(forecast.cpu().numpy()) + level[batch.window][:, None, None]
        config_of = batch.config_index[batch.window]
        for i in np.unique(config_of):
            config, of_config = plan.configs[i], np.flatnonzero(config_of == i)
            series, origins = batch.series[batch.window[of_config]], batch.origin[of_config]
            steps = to_units(
                panel,
                config,
                ordered[of_config, : n_blocks(config, horizon)],
                series,
                origins,
                horizon,
            )
            grid[series, batch.origin_index[of_config], i] = steps

    def _check_horizon(self, configs: Sequence[ForecastConfig], horizon: int) -> None:
        if not isinstance(horizon, int | np.integer) or horizon < 1:
            raise ValueError(f"horizon is {horizon!r}; allowed: a whole number of steps, 1 or more")
        limit = self.checkpoint.dims["context_limit"]
        for config in configs:
            needed = config.n_tokens * PATCH_LEN + decode_steps(config, horizon) * OUTPUT_PATCH_LEN
            if needed > limit:
                raise ValueError(
                    f"{config.name} with horizon {horizon} takes {needed} points (context and "
                    "whole output patches); "
                    f"{self.checkpoint.name} allows {limit}: "
                    "shorten the context or the horizon, or use a coarser resolution"
                )


def order_deciles(forecast: FloatArray) -> FloatArray:
    """Make the deciles of columns [..., 10] non-decreasing, in place and from the median outwards,
    as the package's fix_quantile_crossing does; return the columns.
    """
    for column in range(MEDIAN_COLUMN - 1, MEAN_COLUMN, -1):
        np.minimum(forecast[..., column], forecast[..., column + 1], out=forecast[..., column])
    for column in range(MEDIAN_COLUMN + 1, N_COLUMNS):
        np.maximum(forecast[..., column], forecast[..., column - 1], out=forecast[..., column])
    return forecast


def load_forecaster(
    name_or_path: str | Path,
    device: str = "auto",
    dtype: str = "float32",
    revision: str | None = None,
    token_budget: int | None = None,
    n_threads: int | None = None,
    use_kernels: bool = True,
    matrix_product: str = "auto",
) -> FrozenForecaster:
    """Find, verify and load a checkpoint; see `tsfm_pipeline.forecaster.load_forecaster` for the
    arguments, `FrozenForecaster` and `frozen_decoder` for the further ones.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; allowed: {', '.join(DTYPES)}")
    target = device_named(device)
    checkpoint, architecture, path = registry.find_checkpoint(name_or_path, revision)
    tensors = registry.read_tensors(path)
    decoder = frozen_decoder(
        architecture, tensors, target, DTYPES[dtype], use_kernels, matrix_product
    )
    forecaster = FrozenForecaster(checkpoint, decoder, token_budget, n_threads, DTYPES[dtype])
    torch.set_num_threads(
        forecaster.n_threads
    )  # for this thread, which measures the machine's copy rate; batches run on the workers
    return forecaster


def _n_threads() -> int:
    """Return OMP_NUM_THREADS, or the number of cores that this process may use. (torch counts the
    machine's cores, which are too many in a container.)
    """
    if os.environ.get("OMP_NUM_THREADS", "").isdecimal():
        return int(os.environ["OMP_NUM_THREADS"])
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _checked_origins(origins: npt.ArrayLike, panel: Panel) -> IntArray:
    """Return origins as int64 [S, O], or raise TypeError or ValueError."""
    table = np.asarray(origins)
    if table.dtype.kind not in "iu":
        raise TypeError(f"origins are {table.dtype}; allowed: integers [O] or [S, O]")
    if table.ndim not in (1, 2) or (table.ndim == 2 and len(table) != panel.n_series):
        raise ValueError(
            f"origins have shape {table.shape}; allowed: [O] or [S, O] with S = {panel.n_series}"
        )
    if table.size and not (table.min() >= 0 and table.max() < panel.n_steps):
        raise ValueError(
            f"origins lie in {table.min()}..{table.max()}; allowed: 0..{panel.n_steps - 1}, steps "
            "of the panel"
        )
    return np.broadcast_to(table.astype(np.int64), (panel.n_series, table.shape[-1]))
