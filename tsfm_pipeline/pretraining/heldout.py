"""Draw the series that give the validation loss.

What belongs here: families of processes that no corpus contains, and windows of corpus 3 that no
run trains on, all drawn once from a fixed seed. What does not: anything used for training
(`processes`, `corpus`, `corpus3`).
"""

import math

import torch
from torch import Tensor

from tsfm_pipeline.pretraining import corpus3
from tsfm_pipeline.pretraining.added_processes import PROCESSES_3
from tsfm_pipeline.pretraining.corpus import PATCH, TARGET_LEN, Windows
from tsfm_pipeline.pretraining.draw import Draw, Process, clock, standardised

HELD_OUT_SEED = 20_240_817
HELD_OUT_STREAM = 1_000_003
VALIDATION_GROUPS = {
    "hourly": ("workweek",),
    "daily": ("daily_rows",),
    "heavy_tails": (
        "clustered_bursts",
        "plateaus",
        "seasonal_spikes",
        "heavy_jumps",
        "bursty_counts",
    ),
    "resting": ("resting", "resting_jobs"),
}


def reflected_queue(draw: Draw, n: int, length: int) -> Tensor:
    """Return the backlog of a queue with a daily cycle of arrivals: a walk reflected at zero."""
    day = math.pi * 2 * clock(draw, length) / draw.log_uniform(n, 24.0, 400.0)
    load = draw.uniform(n, 0.75, 0.97) * (1 + draw.uniform(n, 0.1, 0.5) * torch.sin(day))
    work = (torch.poisson(load.expand(n, length), generator=draw.generator) - 1.0).cumsum(-1)
    return work - work.cummin(-1).values


def threshold_cycle(draw: Draw, n: int, length: int) -> Tensor:
    """Return a self-exciting two-regime autoregression. It rises to an upper threshold and falls to
    a lower one, each series at its own pace.
    """
    state, rising = draw.normal(n)[:, 0], torch.ones(n, device=draw.device)
    pace, spread = draw.log_uniform(n, 0.01, 0.3)[:, 0], draw.uniform(n, 0.02, 0.15)[:, 0]
    noise = draw.normal(n, length)
    steps = []
    for step in range(length):
        rising = torch.where(state > 1, -1.0, torch.where(state < -1, 1.0, rising))
        state = state + pace * rising + spread * noise[:, step]
        steps.append(state)
    return torch.stack(steps, dim=-1)


def two_tides(draw: Draw, n: int, length: int) -> Tensor:
    """Return the sum of two sine waves with close periods, which beat as tides do, with a little
    noise.
    """
    first = draw.log_uniform(n, 12.0, 200.0)
    second = first * draw.uniform(n, 1.03, 1.15)
    t = 2 * math.pi * clock(draw, length)
    wave = torch.sin(t / first + 6.3 * draw.uniform(n)) + draw.uniform(n, 0.3, 1.0) * torch.sin(
        t / second
    )
    return wave + draw.log_uniform(n, 0.01, 0.3) * draw.normal(n, length)


def hot_seasons(draw: Draw, n: int, length: int) -> Tensor:
    """Return demand driven by temperature outside a comfort band: a daily cycle plus weather that
    lasts several days.
    """
    day = draw.log_uniform(n, 12.0, 150.0)
    weather = (
        draw.normal(n, length + 512).cumsum(-1)[:, 512:]
        - draw.normal(n, length + 512).cumsum(-1)[:, :length]
    ) / 20
    temperature = torch.sin(2 * math.pi * clock(draw, length) / day) + 0.5 * standardised(weather)
    comfort = draw.uniform(n, 0.0, 0.8)
    return (
        torch.relu(temperature - comfort)
        + torch.relu(-temperature - comfort)
        + 0.05 * draw.normal(n, length)
    )


HELD_OUT: dict[str, Process] = {
    "reflected_queue": reflected_queue,
    "threshold_cycle": threshold_cycle,
    "two_tides": two_tides,
    "hot_seasons": hot_seasons,
}


def held_out_windows(device: torch.device, n: int, length: int) -> dict[str, Tensor]:
    """Return the validation windows by family, each [n, length] with unit spread."""
    draw = Draw(HELD_OUT_SEED, HELD_OUT_STREAM, torch.device("cpu"))
    return {
        name: standardised(process(draw, n, length)).to(device)
        for name, process in HELD_OUT.items()
    }


def validation_sets(corpus: str, device: torch.device) -> dict[str, Windows]:
    """Return the validation windows by name: the held-out families, and for corpora 3 and 4 also
    some of their processes, short histories, series that change from one to another, and the same
    windows with gaps masked and with gaps filled.
    """
    length = 32 * PATCH + TARGET_LEN
    sets = {
        name: Windows(values, torch.zeros_like(values[:, :-TARGET_LEN], dtype=torch.bool))
        for name, values in held_out_windows(device, 48, length).items()
    }
    if corpus == "2":
        return sets
    for group, names in VALIDATION_GROUPS.items():
        draw = Draw(HELD_OUT_SEED, HELD_OUT_STREAM + 2 + len(sets), torch.device("cpu"))
        n = 60 // len(names)
        series = torch.cat([PROCESSES_3[name](draw, n, length) for name in names])
        sets[group] = _plain(series)
    pool = corpus3.generate_block(HELD_OUT_SEED, 0, 256, torch.device("cpu"), length)
    whole = pool[pool.isfinite().all(-1)]
    sets["short"] = _plain(whole[:, : 4 * PATCH + TARGET_LEN])
    draw = Draw(HELD_OUT_SEED, HELD_OUT_STREAM + 2 + len(sets), torch.device("cpu"))
    sets["spliced"] = _plain(corpus3.spliced(draw, whole[0::2][:60], whole[1::2][:60]))
    gappy = pool[pool.isnan().any(-1)]
    none, every = torch.zeros(len(gappy), 1), torch.ones(len(gappy), 1)
    sets["gaps_masked"] = corpus3.windows_of(gappy, every.bool(), none.long())
    sets["gaps_filled"] = corpus3.windows_of(gappy, none.bool(), none.long())
    return {name: windows.to(device) for name, windows in sets.items()}


def _plain(series: Tensor) -> Windows:
    """Return series [B, N * 32 + 128] without gaps as windows."""
    n = len(series)
    return corpus3.windows_of(
        series, torch.zeros(n, 1, dtype=torch.bool), torch.zeros(n, 1, dtype=torch.long)
    )
