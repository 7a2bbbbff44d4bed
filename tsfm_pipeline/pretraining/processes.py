"""Draw the elementary random processes of the synthetic corpus, each for many series at once.

What belongs here: functions `(draw, n, length) -> float32 [n, length]`, of roughly unit spread, on
the device of `draw`. What does not: how they are combined, transformed and cut into training
windows (`corpus`), and nothing of the synthetic fleet (`tsfm_pipeline.fleets`). Recursions are
written as filters in the frequency domain, running sums or running minima, which avoids loops over
time.
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
    modulated,
    phase_of,
    spectral_draw,
    standardised,
)


def harmonics(draw: Draw, n: int, length: int) -> Tensor:
    """Return periodic sums of a few sinusoids with random decay of the overtones."""
    cycles = phase_of(draw, n, length, draw.period(n))
    decay = draw.uniform(n, 0.3, 2.0)
    x = torch.zeros(n, length, device=draw.device)
    for k in range(1, 7):
        keep = draw.chance(n, 1.0 if k == 1 else 0.5)
        x = x + keep * draw.normal(n) / k**decay * torch.sin(
            2 * math.pi * (k * cycles + draw.uniform(n))
        )
    return modulated(draw, standardised(x))


def template(draw: Draw, n: int, nodes: int) -> Tensor:
    """Return one cycle of an arbitrary shape at `nodes` points, [n, nodes]: smooth noise, some of
    it sharpened to bumps or on/off blocks.
    """
    angle = torch.arange(nodes // 2 + 1, device=draw.device, dtype=torch.float32)[None]
    gain = (1.0 + angle).pow(-draw.uniform(n, 0.3, 2.5))
    gain[:, 0] = 0
    smooth = standardised(torch.fft.irfft(torch.fft.rfft(draw.normal(n, nodes)) * gain, n=nodes))
    bumps = standardised(torch.exp(draw.uniform(n, 0.5, 2.0) * smooth))
    blocks = torch.tanh(draw.log_uniform(n, 2.0, 50.0) * (smooth - draw.uniform(n, -1.0, 1.0)))
    kind = draw.uniform(n)
    return torch.where(kind < 0.4, smooth, torch.where(kind < 0.7, bumps, blocks))


def periodic_template(draw: Draw, n: int, length: int) -> Tensor:
    """Return a repeated cycle of arbitrary shape, with linear or constant interpolation between its
    nodes.
    """
    nodes = (8, 24, 96, 288)[int(draw.integers(1, 0, 4))]
    shape = template(draw, n, nodes)
    position = (phase_of(draw, n, length, draw.period(n)) % 1.0) * nodes
    left = position.floor().long().clamp_(0, nodes - 1)
    fraction = torch.where(draw.chance(n, 0.6), position - left, torch.zeros_like(position))
    return modulated(
        draw,
        (1 - fraction) * shape.gather(-1, left) + fraction * shape.gather(-1, (left + 1) % nodes),
    )


def pulses(draw: Draw, n: int, length: int) -> Tensor:
    """Return sharp on/off cycles: square waves of any duty with hard or soft edges, narrow peaks,
    saw teeth.
    """
    phase = phase_of(draw, n, length, draw.period(n)) % 1.0
    duty = draw.uniform(n, 0.03, 0.7)
    edge = draw.log_uniform(n, 0.002, 0.1)
    square = torch.sigmoid((phase - 0.02) / edge) * torch.sigmoid((duty + 0.02 - phase) / edge)
    peak = torch.exp(-((phase - 0.5) / (0.3 * duty)).square())
    saw = torch.where(draw.chance(n, 0.5), phase, 1 - phase).pow(draw.log_uniform(n, 0.3, 4.0))
    kind = draw.uniform(n)
    return modulated(
        draw, standardised(torch.where(kind < 0.5, square, torch.where(kind < 0.75, peak, saw)))
    )


def calendar(draw: Draw, n: int, length: int) -> Tensor:
    """Return a daily pattern with a factor per weekday: working hours or a smooth peak, and weekday
    and weekend groups or seven different days.
    """
    day = torch.where(
        draw.chance(n, 0.6),
        torch.tensor([24.0, 48.0, 96.0, 144.0, 288.0], device=draw.device)[draw.integers(n, 0, 5)],
        draw.log_uniform(n, 6.0, 600.0),
    )
    days = clock(draw, length) / day + 7 * draw.uniform(n)
    phase = days % 1.0
    weekday = (days.floor() % 7).long()
    opening, duration = draw.uniform(n, 0.0, 0.6), draw.uniform(n, 0.15, 0.6)
    edge = draw.log_uniform(n, 0.002, 0.08)
    since = (phase - opening) % 1.0
    office = torch.sigmoid((since - 0.02) / edge) * torch.sigmoid((duration - since) / edge)
    bell = torch.exp(draw.uniform(n, 0.5, 3.0) * (torch.cos(2 * math.pi * (phase - opening)) - 1))
    shape = torch.where(draw.chance(n, 0.5), office, bell)
    free_days = draw.integers(n, 1, 4)
    number = torch.arange(7, device=draw.device)[None]
    grouped = torch.where(
        number < free_days, draw.uniform(n, 0.0, 0.9), torch.ones(1, 1, device=draw.device)
    )
    separate = torch.exp(0.4 * draw.normal(n, 7))
    factor = torch.where(draw.chance(n, 0.6), grouped, separate)
    day_effect = held(torch.exp(0.3 * draw.uniform(n) * draw.normal(n, length)), new_cycle(days))
    varied = torch.where(draw.chance(n, 0.4), day_effect, torch.ones_like(day_effect))
    offset = draw.uniform(n, -0.3, 0.3)
    return standardised((shape + offset) * factor.gather(-1, weekday) * varied)


def new_cycle(cycles: Tensor) -> Tensor:
    """Return True where the integer part of `cycles` [n, length] has just changed."""
    whole = cycles.floor()
    changed = torch.ones_like(whole, dtype=torch.bool)
    changed[:, 1:] = whole[:, 1:] != whole[:, :-1]
    return changed


def cycle_levels(draw: Draw, n: int, length: int) -> Tensor:
    """Return cycles of a fixed length whose levels are correlated from one cycle to the next."""
    cycles = clock(draw, length) / draw.period(n) + draw.uniform(n)
    return standardised(held(autoregression(draw, n, length, 10.0, 10_000.0), new_cycle(cycles)))


def trend(draw: Draw, n: int, length: int) -> Tensor:
    """Return linear, bent, saturating or accelerating trends."""
    t = clock(draw, length) / length
    knot = draw.uniform(n, 0.1, 0.9)
    bent = draw.normal(n) * t + 2 * draw.normal(n) * (t - knot).clamp_min(0)
    logistic = torch.sigmoid((t - knot) * draw.log_uniform(n, 3.0, 60.0))
    growth = torch.exp(draw.uniform(n, -4.0, 4.0) * t)
    kind = draw.uniform(n)
    return standardised(
        torch.where(kind < 0.5, bent, torch.where(kind < 0.75, logistic, growth))
    ) * torch.where(draw.chance(n, 0.5), 1.0, -1.0)


def level_shifts(draw: Draw, n: int, length: int) -> Tensor:
    """Return persistent levels: fresh, cumulative, or alternating between up to three regimes."""
    renew = event_mask(draw, n, length, 100.0, 8000.0)
    fresh = held(draw.normal(n, length), renew)
    cumulative = (renew * draw.normal(n, length)).cumsum(-1)
    regimes = held(draw.normal(n, 3).gather(-1, draw.integers(n, 0, 3, length)), renew)
    kind = draw.uniform(n)
    return torch.where(kind < 0.4, fresh, torch.where(kind < 0.7, cumulative, regimes))


def heavy_tailed(draw: Draw, n: int, length: int) -> Tensor:
    """Return white noise with Student-like tails; the weight of the tails varies by series."""
    weight = draw.uniform(n, 0.0, 1.0)
    return draw.normal(n, length) * torch.exp(weight * draw.normal(n, length) - weight.square())


def random_walk(draw: Draw, n: int, length: int) -> Tensor:
    """Return random walks with Gaussian, heavy-tailed and rare, or clustered steps. Some have
    drift.
    """
    gaussian = draw.normal(n, length)
    rare = heavy_tailed(draw, n, length) * event_mask(draw, n, length, 1.0, 60.0)
    clustered = gaussian * torch.exp(
        draw.uniform(n, 0.3, 1.2) * autoregression(draw, n, length, 20.0, 3000.0)
    )
    kind = draw.uniform(n)
    steps = torch.where(kind < 0.4, gaussian, torch.where(kind < 0.7, rare, clustered))
    drift = torch.where(
        draw.chance(n, 0.2), 0.05 * draw.normal(n), torch.zeros(n, 1, device=draw.device)
    )
    return standardised((steps + drift).cumsum(-1))


def near_unit_root(draw: Draw, n: int, length: int) -> Tensor:
    """Return AR(1) series with a time constant of 30 to 10,000 steps."""
    return autoregression(draw, n, length, 30.0, 10_000.0)


def integrated_trend(draw: Draw, n: int, length: int) -> Tensor:
    """Return local linear trends whose slope is a slow autoregression."""
    slope = autoregression(draw, n, length, 20.0, 2000.0)
    return standardised(slope.cumsum(-1))


def arma(draw: Draw, n: int, length: int) -> Tensor:
    """Return stationary ARMA(2, 1) series with real or complex roots."""
    radius, angle = draw.uniform(n, 0.0, 0.98), math.pi * draw.uniform(n).square()
    second = torch.where(
        draw.chance(n, 0.5), draw.uniform(n, -0.8, 0.98), torch.zeros(n, 1, device=draw.device)
    )
    complex_roots = draw.chance(n, 0.4)
    phi1 = torch.where(complex_roots, 2 * radius * torch.cos(angle), radius + second)
    phi2 = torch.where(complex_roots, -radius.square(), -radius * second)
    return standardised(
        filtered(heavy_tailed(draw, n, length), [draw.uniform(n, -0.7, 0.7)], [phi1, phi2])
    )


def white_noise(draw: Draw, n: int, length: int) -> Tensor:
    """Return independent noise with tails of any weight."""
    return heavy_tailed(draw, n, length)


def volatility(draw: Draw, n: int, length: int) -> Tensor:
    """Return noise in clusters: stochastic volatility with a memory of 20 to 3,000 steps."""
    log_scale = autoregression(draw, n, length, 20.0, 3000.0)
    inner = autoregression(draw, n, length, 0.2, 20.0)
    return standardised(inner * torch.exp(draw.uniform(n, 0.3, 1.2) * log_scale))


def bursts(draw: Draw, n: int, length: int) -> Tensor:
    """Return Poisson arrivals of exponential or heavy-tailed size that decay exponentially, some of
    them after a ramp.
    """
    arrivals = event_mask(draw, n, length, 20.0, 5000.0)
    size = -torch.log(draw.uniform(n, 1e-6, 1.0, length))
    size = torch.where(draw.chance(n, 0.3), size.pow(2), size)
    decay = torch.exp(-1.0 / draw.log_uniform(n, 1.0, 300.0))
    x = filtered(arrivals * size, [], [decay])
    ramp = torch.exp(-1.0 / draw.log_uniform(n, 0.5, 30.0))
    x = torch.where(draw.chance(n, 0.3), filtered(x, [], [ramp]), x)
    return x.clamp_min(0) / x.square().mean(-1, keepdim=True).sqrt().clamp_min(0.05)


def scheduled_spikes(draw: Draw, n: int, length: int) -> Tensor:
    """Return the load of scheduled jobs: spikes at a fixed interval, some left out, with varying
    size and a short tail.
    """
    cycles = clock(draw, length) / draw.log_uniform(n, 6.0, 1500.0).round() + draw.uniform(n)
    starts = new_cycle(cycles) & draw.chance(n, 0.95, length)
    size = torch.exp(0.5 * draw.uniform(n) * draw.normal(n, length))
    decay = torch.exp(-1.0 / draw.log_uniform(n, 0.2, 20.0))
    return filtered(starts * size, [], [decay]) * draw.uniform(n, 1.0, 5.0)


def intermittent(draw: Draw, n: int, length: int) -> Tensor:
    """Return intermittent demand: mostly zero, with demands of random size at a steady, slow or
    seasonal rate.
    """
    rate = draw.log_uniform(n, 0.01, 0.6) * torch.exp(
        0.5 * draw.uniform(n) * harmonics(draw, n, length)
    )
    size = torch.exp(draw.uniform(n, 0.0, 1.0) * draw.normal(n, length))
    size = torch.where(draw.chance(n, 0.5), size.ceil(), size)
    return size * (torch.rand(n, length, generator=draw.generator, device=draw.device) < rate)


def counts(draw: Draw, n: int, length: int) -> Tensor:
    """Return Poisson counts around a seasonal or wandering rate, some of them overdispersed."""
    wave = torch.where(
        draw.chance(n, 0.5), harmonics(draw, n, length), near_unit_root(draw, n, length)
    )
    log_rate = torch.log(draw.log_uniform(n, 0.2, 200.0)) + draw.uniform(n, 0.0, 0.8) * wave
    log_rate = log_rate + draw.chance(n, 0.4) * 0.4 * draw.normal(n, length)
    return torch.poisson(torch.exp(log_rate.clamp(-6.0, 8.0)), generator=draw.generator)


def smooth_process(draw: Draw, n: int, length: int) -> Tensor:
    """Return Gaussian processes: sums and products of smooth kernels of different length scales,
    some with a periodic factor.
    """
    first = spectral_draw(draw, n, length, draw.log_uniform(n, 4.0, 3000.0))
    second = spectral_draw(draw, n, length, draw.log_uniform(n, 4.0, 3000.0))
    periodic = harmonics(draw, n, length)
    weight = draw.uniform(n)
    kind = draw.uniform(n)
    mixed = torch.where(
        kind < 0.4,
        first + weight * second,
        torch.where(kind < 0.6, first * second, first * periodic),
    )
    return standardised(mixed)


def rough_process(draw: Draw, n: int, length: int) -> Tensor:
    """Return power-law noise between white noise and twice-integrated noise (long memory)."""
    noise = draw.normal(n, length)
    angle = torch.linspace(0, math.pi, length // 2 + 1, device=draw.device)[None].clamp_min(
        math.pi / length
    )
    spectrum = torch.fft.rfft(noise) * angle.pow(-draw.uniform(n, 0.2, 1.8))
    spectrum[:, 0] = 0
    return standardised(torch.fft.irfft(spectrum, n=length))


def resets(draw: Draw, n: int, length: int) -> Tensor:
    """Return series that fill up and are emptied: growth since the last reset, with resets at
    random or regular times.
    """
    steps = clock(draw, length)
    random_resets = event_mask(draw, n, length, 50.0, 4000.0)
    regular = new_cycle(steps / draw.period(n) + draw.uniform(n))
    renew = torch.where(draw.chance(n, 0.5), random_resets, regular)
    age = steps - held(steps.expand(n, -1), renew)
    slope = held(torch.exp(0.3 * draw.normal(n, length)), renew)
    return standardised((age * slope).pow(draw.uniform(n, 0.4, 1.5)))


def on_off(draw: Draw, n: int, length: int) -> Tensor:
    """Return two states with memory, with a different mean duration per series."""
    renew = event_mask(draw, n, length, 8.0, 1500.0)
    share = draw.uniform(n, 0.05, 0.95)
    return (
        held(
            (torch.rand(n, length, generator=draw.generator, device=draw.device) < share).float(),
            renew,
        )
        * 2
        - 1
    )


def resting(draw: Draw, n: int, length: int) -> Tensor:
    """Return series at rest, exactly or with a tiny jitter (sometimes rounded), with rare
    excursions up to a thousand times as large.
    """
    jitter = autoregression(draw, n, length, 0.2, 300.0)
    grid = draw.log_uniform(n, 0.3, 3.0)
    jitter = torch.where(draw.chance(n, 0.4), (jitter / grid).round() * grid, jitter)
    jitter = torch.where(draw.chance(n, 0.3), torch.zeros_like(jitter), jitter)
    renew = event_mask(draw, n, length, 1.0, 20.0)
    away = event_mask(draw, n, length, 100.0, 4000.0)
    away = torch.where(draw.chance(n, 0.5), held(away, renew), away)
    size = draw.log_uniform(n, 3.0, 1000.0) * torch.exp(0.5 * draw.normal(n, length))
    return jitter + away * torch.where(draw.chance(n, 0.3), held(size, renew), size)


def few_levels(draw: Draw, n: int, length: int) -> Tensor:
    """Return series of a few distinct values: a slow wave, a walk or noise, coarsely rounded."""
    kind = draw.uniform(n)
    noise = torch.where(kind < 0.7, harmonics(draw, n, length), arma(draw, n, length))
    wave = torch.where(kind < 0.4, near_unit_root(draw, n, length), noise)
    grid = draw.log_uniform(n, 0.8, 2.5)
    return (wave / grid + draw.uniform(n)).round()


PROCESSES: dict[str, Process] = {
    "harmonics": harmonics,
    "periodic_template": periodic_template,
    "pulses": pulses,
    "calendar": calendar,
    "cycle_levels": cycle_levels,
    "trend": trend,
    "level_shifts": level_shifts,
    "random_walk": random_walk,
    "near_unit_root": near_unit_root,
    "integrated_trend": integrated_trend,
    "arma": arma,
    "white_noise": white_noise,
    "volatility": volatility,
    "bursts": bursts,
    "scheduled_spikes": scheduled_spikes,
    "intermittent": intermittent,
    "counts": counts,
    "smooth_process": smooth_process,
    "rough_process": rough_process,
    "resets": resets,
    "on_off": on_off,
    "resting": resting,
    "few_levels": few_levels,
}
