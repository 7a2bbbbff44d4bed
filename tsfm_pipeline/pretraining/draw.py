"""Draw random numbers for many series at once, and shape them into the parts of processes.

What belongs here: `Draw` (seeded random numbers on one device), filters, masks, phases and other
parts that several processes share. What does not: whole processes (`processes`, `heldout`).
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

CALENDAR_PERIODS = (
    7.0,
    12.0,
    24.0,
    48.0,
    52.0,
    60.0,
    96.0,
    144.0,
    168.0,
    288.0,
    336.0,
    720.0,
    1440.0,
)
PERIOD_RANGE = (6.0, 3000.0)


class Draw:
    """Random numbers from one explicit seed on one device. Every method returns one value per
    series as [n, 1] unless a width is given.
    """

    def __init__(self, seed: int, stream: int, device: torch.device) -> None:
        mixed = int(
            np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0] >> np.uint64(1)
        )
        self.device = device
        self.generator = torch.Generator(device=device).manual_seed(mixed)

    def uniform(self, n: int, low: float = 0.0, high: float = 1.0, width: int = 1) -> Tensor:
        """Return uniform numbers on [low, high), [n, width]."""
        return low + (high - low) * torch.rand(
            n, width, generator=self.generator, device=self.device
        )

    def log_uniform(self, n: int, low: float, high: float, width: int = 1) -> Tensor:
        """Return log-uniform numbers on [low, high), [n, width]."""
        return torch.exp(self.uniform(n, math.log(low), math.log(high), width))

    def normal(self, n: int, width: int = 1) -> Tensor:
        """Return standard normal numbers, [n, width]."""
        return torch.randn(n, width, generator=self.generator, device=self.device)

    def chance(self, n: int, probability: float, width: int = 1) -> Tensor:
        """Return booleans that are true with the given probability, [n, width]."""
        return torch.rand(n, width, generator=self.generator, device=self.device) < probability

    def integers(self, n: int, low: int, high: int, width: int = 1) -> Tensor:
        """Return integers in [low, high), int64 [n, width]."""
        return torch.randint(low, high, (n, width), generator=self.generator, device=self.device)

    def period(self, n: int) -> Tensor:
        """Return periods in steps, [n, 1]: each is log-uniform over the whole range or a calendar
        period, with equal chance.
        """
        table = torch.tensor(CALENDAR_PERIODS, device=self.device)
        calendar = table[self.integers(n, 0, len(CALENDAR_PERIODS))]
        return torch.where(self.chance(n, 0.5), calendar, self.log_uniform(n, *PERIOD_RANGE))


Process = Callable[[Draw, int, int], Tensor]


def standardised(x: Tensor) -> Tensor:
    """Return each row with zero mean and unit standard deviation; a constant row becomes zero."""
    centred = x - x.mean(dim=-1, keepdim=True)
    spread = centred.square().mean(dim=-1, keepdim=True).sqrt()
    return centred / spread.clamp_min(1e-6)


def clock(draw: Draw, length: int) -> Tensor:
    """Return step numbers as float32 [1, length]."""
    return torch.arange(length, device=draw.device, dtype=torch.float32)[None]


def filtered(noise: Tensor, numerator: list[Tensor], denominator: list[Tensor]) -> Tensor:
    """Apply an ARMA filter to noise [n, length] in the frequency domain (circular). Coefficients
    are [n, 1], from lag 1 on.
    """
    length = noise.shape[-1]
    angle = torch.linspace(0, math.pi, length // 2 + 1, device=noise.device)[None]
    top = torch.ones_like(angle, dtype=torch.complex64)
    bottom = torch.ones_like(angle, dtype=torch.complex64)
    for lag, coefficient in enumerate(numerator, start=1):
        top = top + coefficient * torch.polar(torch.ones_like(angle), -lag * angle)
    for lag, coefficient in enumerate(denominator, start=1):
        bottom = bottom - coefficient * torch.polar(torch.ones_like(angle), -lag * angle)
    return torch.fft.irfft(torch.fft.rfft(noise) * top / bottom, n=length)


def autoregression(draw: Draw, n: int, length: int, time_low: float, time_high: float) -> Tensor:
    """Return AR(1) series, standardised, with a log-uniform time constant in steps."""
    phi = torch.exp(-1.0 / draw.log_uniform(n, time_low, time_high))
    return standardised(filtered(draw.normal(n, length), [], [phi]))


def slow_noise(draw: Draw, n: int, length: int) -> Tensor:
    """Return a smooth slow modulation of unit spread, without a preferred period."""
    return spectral_draw(draw, n, length, draw.log_uniform(n, length / 64, length / 2))


def spectral_draw(draw: Draw, n: int, length: int, scale: Tensor) -> Tensor:
    """Return a Gaussian process with a squared-exponential kernel of the given length scale. Cut it
    out of a circular process twice as long.
    """
    noise = draw.normal(n, 2 * length)
    angle = torch.linspace(0, math.pi, length + 1, device=draw.device)[None]
    gain = torch.exp(-0.25 * (angle * scale).square())
    return standardised(torch.fft.irfft(torch.fft.rfft(noise) * gain, n=2 * length)[:, :length])


def event_mask(draw: Draw, n: int, length: int, mean_low: float, mean_high: float) -> Tensor:
    """Return Poisson arrivals, bool [n, length]. The mean gap is log-uniform per series."""
    rate = 1.0 / draw.log_uniform(n, mean_low, mean_high)
    return torch.rand(n, length, generator=draw.generator, device=draw.device) < rate


def held(values: Tensor, renew: Tensor) -> Tensor:
    """Return values [n, length] where each entry repeats the value at the last true entry of
    `renew`, bool [n, length].
    """
    steps = torch.arange(values.shape[-1], device=values.device)
    last = torch.where(renew, steps, 0).cummax(dim=-1).values
    return values.gather(-1, last)


def phase_of(draw: Draw, n: int, length: int, period: Tensor) -> Tensor:
    """Return cycles since a random start, [n, length]. One series in four drifts in phase."""
    cycles = clock(draw, length) / period + draw.uniform(n)
    wander = 0.15 * draw.uniform(n) * slow_noise(draw, n, length)
    return cycles + torch.where(draw.chance(n, 0.25), wander, torch.zeros_like(wander))


def modulated(draw: Draw, x: Tensor) -> Tensor:
    """Give half of the rows a slowly drifting amplitude."""
    n, length = x.shape
    gain = torch.exp(0.4 * draw.uniform(n) * slow_noise(draw, n, length))
    return torch.where(draw.chance(n, 0.5), gain * x, x)
