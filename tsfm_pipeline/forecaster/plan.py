"""The plan of a grid: the windows that it needs, and the batches in which they go through the
model.

What belongs here: availability, passes that serve many origins, the sharing of equal windows, and
batches within a token budget. What does not: the values in the windows, and the model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tsfm_pipeline.forecaster.config import PATCH_LEN, ForecastConfig
from tsfm_pipeline.forecaster.panel import Panel

IntArray = npt.NDArray[np.int64]

OUTPUT_PATCH_LEN = 128
LONGEST_PASS = 4096
"""Points of the longest pass, unless a configuration's own context is longer: the longest context
that the bundled checkpoint was trained on.
"""
_NEVER = 2**62
"""A lead that no history has."""


@dataclass(frozen=True)
class Pass:
    """One window that serves several origins. It ends `end_offset` steps before a request's origin
    and spans `n_points` points.

    offset_index, patches_back: for each forecast that it serves (its members), the index of the
    offset and the number of patches between its origin and the pass's end.
    """

    end_offset: int
    n_points: int
    offset_index: tuple[int, ...]
    patches_back: tuple[int, ...]

    @property
    def n_tokens(self) -> int:
        """Number of patches; the first may be partial."""
        return -(-self.n_points // PATCH_LEN)


@dataclass(frozen=True)
class Batch:
    """N windows that go through the model together, sorted by token count, and the M forecasts read
    from them.

    Per window: tokens, config and pass (indices into the plan), series, end (its last step). Per
    forecast: window (row), token (from the window's first), origin_index (column of the grid) and
    origin (its last observed step).
    """

    tokens: IntArray
    config_index: IntArray
    pass_index: IntArray
    series: IntArray
    end: IntArray
    window: IntArray
    token: IntArray
    origin_index: IntArray
    origin: IntArray


@dataclass(frozen=True)
class Plan:
    """The distinct configurations of a grid, the index among them of each of the grid's
    configurations [K], their passes, and the batches.
    """

    configs: tuple[ForecastConfig, ...]
    members: IntArray
    passes: tuple[tuple[Pass, ...], ...]
    batches: tuple[Batch, ...]

    @property
    def n_windows(self) -> int:
        """Windows that go through the model."""
        return sum(len(batch.series) for batch in self.batches)

    @property
    def n_tokens(self) -> int:
        """Tokens that go through the model, not counting those that a decode beyond 128 points
        appends.
        """
        return int(sum(batch.tokens.sum() for batch in self.batches))


def plan_grid(
    panel: Panel,
    origins: IntArray,
    configs: Sequence[ForecastConfig],
    horizon: int,
    token_budget: int,
    offsets: Sequence[int] = (0,),
    wanted: Sequence[int] | None = None,
) -> Plan:
    """Plan the windows of every available (series, origin, offset, configuration); origins int [S,
    O].

    offsets: steps before each origin, ascending, at which forecasts are made as well. wanted: the
    indices of the offsets that the grid contains, all by default; column o * len(wanted) + j of the
    grid is origin o at the j-th wanted offset. A forecast is available if its own context begins no
    earlier than the panel knows the series from (`Panel.known_from`). It is read from a shared pass
    if that is available too, and from a window of its own otherwise. Equal configurations share
    their windows. A batch holds at most `token_budget` tokens (but at least one window), so nothing
    is padded to a longest context.
    """
    distinct = tuple(dict.fromkeys(configs))
    positions = {config: i for i, config in enumerate(distinct)}
    members = np.array([positions[config] for config in configs], dtype=np.int64)
    every = tuple(offsets), tuple(range(len(offsets)) if wanted is None else wanted), horizon
    shared = _layout(distinct, *every)
    if not len(shared.pass_of) or not origins.size:
        return Plan(distinct, members, shared.passes, ())
    representations = [panel.representation(config, horizon) for config in distinct]
    lead = np.array([_NEVER if seen is None else seen.lead for seen in representations])  # [C]
    own = _own_contexts(shared, panel, origins, lead)
    available = own & _passes(shared, panel, origins, lead)[shared.pass_of]
    windows, forecasts = _needed(shared, origins, available)
    passes = shared.passes
    if (left := own & ~available).any():
        alone = _layout(distinct, *every, alone=True)
        order = np.lexsort((shared.column, shared.config_of[shared.pass_of]))
        position = np.empty_like(order)
        position[np.lexsort((alone.column, alone.config_of[alone.pass_of]))] = order
        more_windows, more_forecasts = _needed(alone, origins, left[position])
        more_windows[3] += np.array([len(of_config) for of_config in passes])[more_windows[2]]
        more_forecasts[0] += windows.shape[1]
        windows = np.concatenate([windows, more_windows], axis=1)
        forecasts = np.concatenate([forecasts, more_forecasts], axis=1)
        passes = tuple(a + b for a, b in zip(passes, alone.passes, strict=True))
    if not windows.shape[1]:
        return Plan(distinct, members, passes, ())
    return Plan(distinct, members, passes, tuple(_batches(windows, forecasts, token_budget)))


def _own_contexts(
    layout: "_Layout", panel: Panel, origins: IntArray, lead: IntArray
) -> npt.NDArray[np.bool_]:
    """Return whether the context of each member lies in known history, bool [M, S, O]; lead [C]."""
    known = panel.known_from(origins - layout.offset[:, None, None])
    earliest = origins - layout.reach[:, None, None] + 1
    return np.asarray(
        earliest >= known + lead[layout.config_of[layout.pass_of], None, None], dtype=bool
    )


def _passes(
    layout: "_Layout", panel: Panel, origins: IntArray, lead: IntArray
) -> npt.NDArray[np.bool_]:
    """Return whether each pass lies in known history, bool [P, S, O]; lead [C]."""
    ends = origins - layout.end_offset[:, None, None]
    begins = ends - layout.span[:, None, None] + 1
    return np.asarray(
        begins >= panel.known_from(ends) + lead[layout.config_of, None, None], dtype=bool
    )


def _needed(
    layout: "_Layout", origins: IntArray, available: npt.NDArray[np.bool_]
) -> tuple[IntArray, IntArray]:
    """Return the windows (decodes, tokens, config, pass, series, end) [6, N] that serve the
    available members [M, S, O], and the forecasts (window, token, column, origin) [4, M'].
    """
    firsts = np.searchsorted(layout.pass_of, np.arange(len(layout.config_of)))
    needed = np.logical_or.reduceat(available, firsts, axis=0)
    p, series, column = np.nonzero(needed)
    ids = np.empty(needed.shape, dtype=np.int64)
    ids[p, series, column] = np.arange(len(p))
    m, s, o = np.nonzero(available)
    windows = np.stack(
        [
            layout.decodes[p],
            layout.tokens[p],
            layout.config_of[p],
            layout.index_of[p],
            series,
            origins[series, column] - layout.end_offset[p],
        ]
    )
    columns = o * layout.n_columns + layout.column[m]
    forecasts = np.stack(
        [ids[layout.pass_of[m], s, o], layout.token[m], columns, origins[s, o] - layout.offset[m]]
    )
    return windows, forecasts


@dataclass(frozen=True)
class _Layout:
    """The passes of some configurations [P] and their wanted members [M], pass by pass: the part of
    a plan that does not depend on the panel.

    Per pass: configuration, index among its passes, end_offset, span (both in steps), tokens,
    decodes (forward passes, 0 for a single one). Per member: pass, token, column of the grid,
    offset, and the number of steps before the origin at which its own context begins (reach).
    """

    passes: tuple[tuple[Pass, ...], ...]
    n_columns: int
    config_of: IntArray
    index_of: IntArray
    end_offset: IntArray
    span: IntArray
    tokens: IntArray
    decodes: IntArray
    pass_of: IntArray
    token: IntArray
    column: IntArray
    offset: IntArray
    reach: IntArray


@lru_cache(maxsize=64)
def _layout(
    configs: tuple[ForecastConfig, ...],
    offsets: tuple[int, ...],
    wanted: tuple[int, ...],
    horizon: int,
    *,
    alone: bool = False,
) -> _Layout:
    """Return the layout of some configurations. alone: every member has a pass of its own."""
    columns = {index: j for j, index in enumerate(wanted)}
    passes = tuple(
        shared_passes(config, offsets, alone or decode_steps(config, horizon) > 1)
        for config in configs
    )
    per_pass: list[tuple[int, ...]] = []
    per_member: list[tuple[int, ...]] = []
    for i, config in enumerate(configs):
        n_decodes = decode_steps(config, horizon)
        for p, part in enumerate(passes[i]):
            members = [
                (j, back)
                for j, back in zip(part.offset_index, part.patches_back, strict=True)
                if j in columns
            ]
            if not members:
                continue
            for j, back in members:
                reach = offsets[j] + config.context_len
                per_member.append(
                    (len(per_pass), part.n_tokens - 1 - back, columns[j], offsets[j], reach)
                )
            span = part.n_points * config.resolution
            per_pass.append(
                (i, p, part.end_offset, span, part.n_tokens, n_decodes if n_decodes > 1 else 0)
            )
    of_passes = np.array(per_pass, dtype=np.int64).reshape(-1, 6).T
    of_members = np.array(per_member, dtype=np.int64).reshape(-1, 5).T
    return _Layout(passes, len(wanted), *of_passes, *of_members)


def n_blocks(config: ForecastConfig, horizon: int) -> int:
    """Return the number of points that the model forecasts to cover `horizon` steps."""
    return -(-horizon // config.resolution)


def decode_steps(config: ForecastConfig, horizon: int) -> int:
    """Return the number of forward passes that the horizon takes; each gives 128 points."""
    return -(-n_blocks(config, horizon) // OUTPUT_PATCH_LEN)


@lru_cache(maxsize=1024)
def shared_passes(
    config: ForecastConfig, offsets: tuple[int, ...], alone: bool = False
) -> tuple[Pass, ...]:
    """Return the windows that serve all offsets (ascending, in steps) with one configuration.

    The decoder is causal, so one pass over a window gives the forecast at each patch boundary in
    it. Offsets that differ by whole patches (32 x resolution steps) can share a pass; a member's
    context then lies between half of the configuration's own context and one and a half times that,
    and equals it on average (it is shorter where `LONGEST_PASS` limits the pass). Offset 0 always
    has exactly the configuration's own context. `alone`: every offset has its own window with
    exactly the configuration's context.
    """
    patch = PATCH_LEN * config.resolution
    length = config.context_len
    limit = max(length, LONGEST_PASS * config.resolution)
    most = min(
        length, max(2 * (limit - length), limit - length // 2)
    )  # steps between a pass's first and last member
    groups: dict[int, list[int]] = {}
    for j, offset in enumerate(offsets):
        groups.setdefault(j if alone else offset % patch, []).append(j)
    passes = []
    for group in groups.values():
        rest = group
        if offsets[group[0]] == 0:
            anchored = [j for j in group if offsets[j] <= length // 2]
            passes.append(
                Pass(
                    0,
                    config.n_points,
                    tuple(anchored),
                    tuple(offsets[j] // patch for j in anchored),
                )
            )
            rest = group[len(anchored) :]
        for part in _segments(rest, offsets, most):
            near, far = offsets[part[0]], offsets[part[-1]]
            context = min(length + (far - near) // 2, limit)
            passes.append(
                Pass(
                    near,
                    context // config.resolution,
                    tuple(part),
                    tuple((offsets[j] - near) // patch for j in part),
                )
            )
    return tuple(passes)


def _segments(group: list[int], offsets: tuple[int, ...], most: int) -> list[list[int]]:
    """Split a group of ascending offsets into the fewest parts that each span at most `most` steps,
    of about equal length.
    """
    if not group:
        return []
    greedy = [[group[0]]]
    for j in group[1:]:
        if offsets[j] - offsets[greedy[-1][0]] <= most:
            greedy[-1].append(j)
        else:
            greedy.append([j])
    even = [part.tolist() for part in np.array_split(np.array(group), len(greedy))]
    return even if all(offsets[part[-1]] - offsets[part[0]] <= most for part in even) else greedy


def _batches(windows: IntArray, forecasts: IntArray, token_budget: int) -> Iterator[Batch]:
    """Yield windows (decodes, tokens, config, pass, series, end) [6, N] and forecasts (window,
    token, column, origin) [4, M] in batches.

    Windows that decode beyond one output patch keep caches, so they are batched only with windows
    of equal length.
    """
    order = np.lexsort((windows[1], windows[0]))
    decodes, tokens = windows[0, order], windows[1, order]
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    forecasts = np.concatenate([rank[forecasts[0]][None], forecasts[1:]])
    forecasts = forecasts[:, np.argsort(forecasts[0], kind="stable")]
    alike = runs(decodes, np.where(decodes > 0, tokens, 0))
    cuts = [start + cut for start, stop in alike for cut in _cuts(tokens[start:stop], token_budget)]
    cuts.append(len(order))
    bounds = np.searchsorted(forecasts[0], cuts)
    for (start, stop), (low, high) in zip(pairwise(cuts), pairwise(bounds), strict=True):
        part, wanted = windows[1:, order[start:stop]], forecasts[:, low:high]
        window, token, column, origin = wanted
        yield Batch(
            part[0], part[1], part[2], part[3], part[4], window - start, token, column, origin
        )


def _cuts(tokens: IntArray, token_budget: int) -> list[int]:
    """Return where the batches of some windows begin. There is an even number of about equal
    batches if they fit the budget, so that two threads finish together.
    """
    ends = np.cumsum(tokens)
    fewest = -(-int(ends[-1]) // token_budget)
    if 4 * ends[-1] > token_budget:  # with fewer tokens, one batch is as fast as two on two threads
        fewest += fewest % 2
    even = np.searchsorted(ends - tokens / 2, ends[-1] * np.arange(fewest) / fewest)
    if (np.diff(even, append=len(tokens)) > 0).all() and np.add.reduceat(
        tokens, even
    ).max() <= token_budget:
        return even.tolist()
    cuts, spent = [0], 0
    for n, count in enumerate(tokens.tolist()):
        if n and spent + count > token_budget:
            cuts.append(n)
            spent = 0
        spent += count
    return cuts


def runs(*keys: IntArray) -> Iterator[tuple[int, int]]:
    """Yield the begin and end of each stretch of equal keys [N]."""
    changes = np.flatnonzero(np.any([np.diff(key) for key in keys], axis=0)) + 1
    return pairwise([0, *changes.tolist(), len(keys[0])])
