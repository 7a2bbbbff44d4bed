"""Draw the held-out series that give the validation loss.

What belongs here: families of processes that the corpus does not contain, drawn once from a fixed
seed. What does not: anything used for training (`processes`, `corpus`).
"""

import math

import torch
from torch import Tensor

from tsfm_pipeline.pretraining.draw import Draw, Process, clock, standardised

HELD_OUT_SEED = 20_240_817
HELD_OUT_STREAM = 1_000_003


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
