"""Draw the processes that corpus 3 adds: rows of hours and days, heavy tails, and series at rest.

What belongs here: functions `(draw, n, length) -> float32 [n, length]` of roughly unit spread, in
the manner of `processes`. What does not: the processes that corpus 2 has too (`processes`; adding
one there would change corpus 2), and how processes are combined (`corpus3`).
"""

import math

import torch
from torch import Tensor

from tsfm_pipeline.pretraining.draw import (
    Draw,
    Process,
    autoregression,
    clock,
    event_mask,
    filtered,
    held,
    spectral_draw,
    standardised,
)
from tsfm_pipeline.pretraining.processes import (
    PROCESSES,
    harmonics,
    heavy_tailed,
    near_unit_root,
    new_cycle,
    template,
)

ROWS_PER_DAY = (24.0, 24.0, 24.0, 48.0, 96.0, 144.0, 288.0)
YEAR_DAYS, MONTH_DAYS = 365.25, 30.4375
LARGEST_SIZE = 300.0
"""No single event is larger than this many typical ones: the loss of the rest would vanish."""


def workweek(draw: Draw, n: int, length: int) -> Tensor:
    """Return weeks of hourly to five-minute rows: working days and free days have daily profiles of
    their own, and days vary in size.
    """
    table = torch.tensor(ROWS_PER_DAY, device=draw.device)
    days = clock(draw, length) / table[draw.integers(n, 0, len(ROWS_PER_DAY))] + 7 * draw.uniform(n)
    new_day, weekday = new_cycle(days), (days.floor() % 7).long()
    working, other = template(draw, n, 24), template(draw, n, 24)
    alike = draw.uniform(n)
    free = draw.uniform(n, 0.1, 1.0) * (alike * working + (1 - alike) * other)
    level = draw.uniform(n, -1.5, 0.5) * draw.chance(n, 0.7)
    holiday = held(draw.chance(n, 0.02, length), new_day) & draw.chance(n, 0.4)
    is_free = (weekday < draw.integers(n, 0, 4)) | holiday
    position = (days % 1.0) * 24
    left = position.floor().long().clamp_(0, 23)
    share = torch.where(draw.chance(n, 0.6), position - left, torch.zeros_like(position))

    def profile(shape: Tensor) -> Tensor:
        return (1 - share) * shape.gather(-1, left) + share * shape.gather(-1, (left + 1) % 24)

    x = torch.where(is_free, level + profile(free), profile(working))
    size = held(autoregression(draw, n, length, 50.0, 5000.0), new_day)
    x = x * torch.exp(0.5 * draw.uniform(n) * draw.chance(n, 0.5) * size)
    # A share of each day's deviation shifts the whole day.
    return standardised(x + draw.uniform(n, 0.0, 0.7) * draw.chance(n, 0.5) * size)


def daily_rows(draw: Draw, n: int, length: int) -> Tensor:
    """Return rows of days: a week of seven levels, a year, days of the month, holidays, growth and
    a wandering level.
    """
    t = clock(draw, length) + draw.integers(n, 0, 2922)
    weekend = torch.arange(7, device=draw.device)[None] < draw.integers(n, 1, 3)
    grouped = torch.where(weekend, -draw.uniform(n, 0.5, 3.0), 0.0) + 0.2 * draw.normal(n, 7)
    separate = torch.where(draw.chance(n, 0.6), grouped, draw.normal(n, 7))
    week = separate.gather(-1, (t % 7).long())
    year = torch.zeros(n, length, device=draw.device)
    for k in range(1, 5):
        angle = 2 * math.pi * (k * t / YEAR_DAYS + draw.uniform(n))
        year = year + draw.normal(n) / k * torch.sin(angle)
    month = ((t / MONTH_DAYS) % 1.0 < draw.uniform(n, 0.03, 0.2)).float() * draw.normal(n)
    day_of_year = (t % YEAR_DAYS).long()
    special = (draw.chance(n, 0.02, 366) * draw.normal(n, 366)).gather(-1, day_of_year)
    drift = autoregression(draw, n, length, 10.0, 2000.0)
    x = (
        week
        + draw.log_uniform(n, 0.05, 2.0) * draw.chance(n, 0.7) * year
        + draw.chance(n, 0.25) * month
        + draw.log_uniform(n, 0.5, 4.0) * draw.chance(n, 0.3) * special
        + draw.log_uniform(n, 0.1, 3.0) * draw.chance(n, 0.8) * drift
        + draw.log_uniform(n, 0.03, 1.0) * heavy_tailed(draw, n, length)
    )
    growth = draw.normal(n) * draw.chance(n, 0.4) * clock(draw, length) / 1000
    scale = draw.log_uniform(n, 0.1, 0.6)
    # Half of the series have effects that multiply.
    return standardised(
        torch.where(draw.chance(n, 0.5), torch.exp((scale * x + growth).clamp(-9, 9)), x + growth)
    )


def event_sizes(draw: Draw, n: int, length: int) -> Tensor:
    """Return positive sizes of events [n, length] with a median of one: Pareto tails of exponent
    1.2 to 6, or nearly equal sizes.
    """
    tail = draw.log_uniform(n, 1.2, 6.0)
    pareto = (2 * draw.uniform(n, 1e-4, 1.0, length)).pow(-1 / tail)
    equal = torch.exp(0.3 * draw.normal(n, length))
    return torch.where(draw.chance(n, 0.75), pareto, equal).clamp_max(LARGEST_SIZE)


def clustered_bursts(draw: Draw, n: int, length: int) -> Tensor:
    """Return bursts of heavy-tailed size that come in clusters and decay."""
    slow = autoregression(draw, n, length, 30.0, 5000.0)
    intensity = torch.exp(draw.uniform(n, 0.3, 1.8) * slow) / draw.log_uniform(n, 15.0, 2000.0)
    arrivals = draw.uniform(n, 0.0, 1.0, length) < intensity
    decay = torch.exp(-1.0 / draw.log_uniform(n, 0.3, 200.0))
    x = filtered(arrivals * event_sizes(draw, n, length), [], [decay]).clamp_min(0)
    return x / x.square().mean(-1, keepdim=True).sqrt().clamp_min(0.05)


def plateaus(draw: Draw, n: int, length: int) -> Tensor:
    """Return rectangular bursts: a level of heavy-tailed size holds for a random time, then the
    series returns to its base.
    """
    renew = event_mask(draw, n, length, 3.0, 500.0)
    away = held(draw.uniform(n, 0.0, 1.0, length) < draw.log_uniform(n, 0.01, 0.4), renew)
    size = held(event_sizes(draw, n, length), renew)
    x = away * size * torch.where(draw.chance(n, 0.2), -1.0, 1.0)
    return x / x.square().mean(-1, keepdim=True).sqrt().clamp_min(0.05)


def seasonal_spikes(draw: Draw, n: int, length: int) -> Tensor:
    """Return spikes of heavy-tailed size that are most likely at the peak of a season."""
    wave = harmonics(draw, n, length)
    rate = torch.exp(draw.uniform(n, 0.5, 2.5) * wave) * draw.log_uniform(n, 0.002, 0.1)
    spikes = draw.uniform(n, 0.0, 1.0, length) < rate
    decay = torch.exp(-1.0 / draw.log_uniform(n, 0.1, 10.0))
    x = filtered(spikes * event_sizes(draw, n, length), [], [decay])
    x = x / x.square().mean(-1, keepdim=True).sqrt().clamp_min(0.05)
    return x + draw.chance(n, 0.6) * draw.log_uniform(n, 0.1, 1.5) * wave


def heavy_jumps(draw: Draw, n: int, length: int) -> Tensor:
    """Return jumps of heavy-tailed size and either sign, which stay or decay slowly."""
    renew = event_mask(draw, n, length, 60.0, 6000.0)
    sign = torch.where(draw.chance(n, 0.5, length), -1.0, 1.0)
    sign = torch.where(draw.chance(n, 0.3), 1.0, sign)
    jumps = renew * sign * event_sizes(draw, n, length)
    decaying = filtered(jumps, [], [torch.exp(-1.0 / draw.log_uniform(n, 50.0, 5000.0))])
    fresh = held(sign * event_sizes(draw, n, length), renew)
    kind = draw.uniform(n)
    x = torch.where(kind < 0.35, fresh, torch.where(kind < 0.75, decaying, jumps.cumsum(-1)))
    return standardised(x)


def bursty_counts(draw: Draw, n: int, length: int) -> Tensor:
    """Return counts of few to many events: the rate has a season or wanders, lasting bursts, and
    more spread than a Poisson process; some count in batches.
    """
    wave = torch.where(
        draw.chance(n, 0.6), harmonics(draw, n, length), near_unit_root(draw, n, length)
    )
    burst = autoregression(draw, n, length, 0.3, 100.0)
    log_rate = torch.log(draw.log_uniform(n, 0.02, 100.0)) + draw.uniform(n, 0.0, 1.0) * wave
    log_rate = log_rate + draw.uniform(n, 0.0, 1.2) * burst
    counts = torch.poisson(torch.exp(log_rate.clamp(-7.0, 7.0)), generator=draw.generator)
    batch = torch.where(draw.chance(n, 0.2), draw.log_uniform(n, 2.0, 50.0).round(), 1.0)
    return counts * batch


def resting_jobs(draw: Draw, n: int, length: int) -> Tensor:
    """Return a constant level that scheduled or occasional work interrupts: each piece of work has
    a length and a height of its own, and some are left out.
    """
    regular = clock(draw, length) / draw.period(n).clamp_min(12.0) + draw.uniform(n)
    random = event_mask(draw, n, length, 60.0, 3000.0)
    starts = torch.where(draw.chance(n, 0.7), new_cycle(regular), random)
    runs = held(draw.uniform(n, 0.0, 1.0, length) < draw.uniform(n, 0.5, 1.0), starts)
    steps = clock(draw, length)
    age = steps - held(steps.expand(n, -1), starts)
    spread = 0.5 * draw.uniform(n)
    duration = draw.log_uniform(n, 1.0, 60.0) * torch.exp(spread * draw.normal(n, length))
    busy = runs & (age < held(duration, starts))
    height = held(event_sizes(draw, n, length), starts)
    rough = 1 + draw.uniform(n, 0.0, 0.5) * draw.chance(n, 0.6) * draw.normal(n, length)
    x = busy * height * rough
    return x / x.square().mean(-1, keepdim=True).sqrt().clamp_min(0.05)


def capacity_ramp(draw: Draw, n: int, length: int) -> Tensor:
    """Return growth in steps: use rises smoothly or with traffic towards a limit, and drops when
    capacity is added or old data are removed.
    """
    renew = event_mask(draw, n, length, 200.0, 6000.0)
    steps = clock(draw, length)
    age = steps - held(steps.expand(n, -1), renew)
    pace = held(event_sizes(draw, n, length), renew)
    grown = (age * pace / draw.log_uniform(n, 200.0, 5000.0)).pow(draw.uniform(n, 0.5, 1.5))
    smooth = spectral_draw(draw, n, length, draw.log_uniform(n, 20.0, 2000.0))
    return standardised(torch.tanh(grown) + draw.uniform(n, 0.0, 0.4) * smooth)


ADDED: dict[str, Process] = {
    "workweek": workweek,
    "daily_rows": daily_rows,
    "clustered_bursts": clustered_bursts,
    "plateaus": plateaus,
    "seasonal_spikes": seasonal_spikes,
    "heavy_jumps": heavy_jumps,
    "bursty_counts": bursty_counts,
    "resting_jobs": resting_jobs,
    "capacity_ramp": capacity_ramp,
}
PROCESSES_3: dict[str, Process] = {**PROCESSES, **ADDED}
