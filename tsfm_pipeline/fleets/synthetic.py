"""The synthetic fleet: formulas, random streams, latent states and forward simulation.

What belongs here: everything that turns (seed, tenant number) into telemetry. What does not: the
archetypes' constants and the dealing of archetypes and tiers (`fleets.profiles`).

Formulas. t counts minutes from the fleet's start; hour(t) and day(t) are fractional and taken from
the UTC calendar, with day = 0 on Monday 00:00. A, peak, W, sigma, phi, rho, the baselines b, the
rate and mean magnitude of spikes and the burst ceiling C (1 to 2, one for cpu and mem) are drawn
once per tenant, uniformly from the ranges of `profiles.PROFILES`.

    T(t)   = A (0.5 + 0.5 cos(2 pi (hour - peak) / 24)) + W sin(2 pi (day mod 7 - 1.5) / 7)   traffic; 0 where absent
    M(t)   = 1 on Monday to Friday from 9 to 17 h, else 0.1 (b2b-saas); 1 for every other archetype
    N_k(t) = phi N_k(t-1) + sigma e_k(t), e_k standard normal, N_k(0) stationary                noise of metric k
             cache-driven: e_net = rho e_cpu + sqrt(1 - rho^2) e', so that cpu and net noise correlate by rho
    P(t)   = exp(-1/tau) P(t-1) + magnitudes of the spikes that arrive in minute t              spikes
             arrivals Poisson, magnitudes exponential with the tenant's mean; nothing arrived before the start

In units of cpu_util, with [x]_0^C = x clipped to 0 .. C, [x]_0 = max(0, x), and memory taking half
of every change of load:

    archetype         cpu_util             mem_util                       net_bytes                disk_iops
    low-traffic-blog  [b + T + P + N]_0^C  [b + (T + P + N) / 2]_0^C      [b (1 + T + P + N)]_0    [b (1 + T + P + N)]_0
    ecommerce-retail  [b + T + P + N]_0^C  [b + (T + P + N) / 2]_0^C      [b (1 + T + P + N)]_0    [b (1 + T + P + N)]_0
    news-publisher    [b + T + P + N]_0^C  [b + (T + P + N) / 2]_0^C      [b (1 + T + P + N)]_0    [b (1 + T + P + N)]_0
    b2b-saas          [b M + N]_0^C        [b (1 + M) / 2 + N / 2]_0^C    [b (M + N)]_0            [b (M + N)]_0
    wp-cron-heavy     [b + P + N]_0^C      [b + (P + N) / 2]_0^C          [b (1 + N)]_0            [b (1 + P + N)]_0
    cache-driven      [b + T + P + N]_0^C  [b + (T + P + N) / 2]_0^C      [b (1 + T + P/2 + N)]_0  [b (1 + T + P + N)]_0
    compute-heavy     [b + N]_0^C          [b + N / 2]_0^C                [b (1 + N)]_0            [b (1 + N)]_0
    idle-ish          [b + P + N]_0^C      [b + (P + N) / 2]_0^C          [b (1 + P + N)]_0        [b (1 + P + N)]_0

where b and N are those of the column's metric; T, M and P are one and the same for all four. So
traffic drives net, disk and part of cpu; the rest of cpu is its own noise.

Streams. Every tenant has one stream for its parameters, one per metric for the noise and one for
the spikes, each drawn in order of time. Hence a tenant's series depend on (seed, tenant number)
alone (beside the calendar of `start`), any shard can be generated alone, and a longer fleet begins
with the values of a shorter one.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.fleets.kinds import MINUTES_PER_DAY, SyntheticFleet
from tsfm_pipeline.fleets.profiles import (
    METRICS,
    ArchetypeProfile,
    Range,
    archetype_of,
    synthetic_tier_of,
)
from tsfm_pipeline.fleets.source import MANIFEST_SCHEMA, FleetSource, data_fields

GENERATOR_VERSION = 1
"""Raised with every change of a formula, constant or stream: it is part of the fingerprint."""

WEEK = 7 * MINUTES_PER_DAY
BURST_CEILING: Range = (1.0, 2.0)
LOAD_SHARE = np.array([1.0, 0.5, 1.0, 1.0])
"""How much of a change of load reaches cpu, mem, net and disk."""

_PARAMETERS, _NOISE, _SPIKES, _FUTURE = 0, 1, 5, 6
"""First parts of the streams' spawn keys after the tenant number; noise takes 1 to 4, one per
metric.
"""

_SPIKES_PER_DRAW = 256

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TenantParameters:
    """What was drawn once for a tenant; amplitudes, sigma and magnitudes in units of cpu_util."""

    profile: ArchetypeProfile
    baselines: Array
    """[4], in the order of METRICS."""
    burst_ceiling: float
    diurnal_amplitude: float
    peak_hour: float
    weekly_amplitude: float
    sigma: float
    phi: float
    cpu_net_correlation: float
    spikes_per_day: float
    spike_magnitude: float

    @property
    def spike_decay(self) -> float:
        """Share of a spike that is left after one minute."""
        return float(np.exp(-1.0 / self.profile.spike_tau))


@dataclass(frozen=True)
class LatentState:
    """What a tenant's telemetry is made of at minutes 0 .. T-1; `observe` turns it into metrics."""

    parameters: TenantParameters
    start_minute_of_week: int
    mask: Array
    """M(t) [T]."""
    traffic: Array
    """T(t) [T]."""
    noise: Array
    """N_k(t) [4, T]."""
    spikes: Array
    """P(t) [T]."""

    def until(self, origin: int) -> "LatentState":
        """The state at minutes 0 .. origin, as `tenant_state` would hand it out for them alone."""
        end = origin + 1
        return LatentState(
            self.parameters,
            self.start_minute_of_week,
            self.mask[:end],
            self.traffic[:end],
            self.noise[:, :end],
            self.spikes[:end],
        )


def tenant_parameters(seed: int, tenant_number: int) -> TenantParameters:
    """The parameters of one tenant, uniform over the ranges of its archetype."""
    profile = archetype_of(tenant_number)
    uniforms = iter(_stream(seed, tenant_number, _PARAMETERS).random(13))

    def draw(low_high: Range) -> float:
        low, high = low_high
        return float(low + (high - low) * next(uniforms))

    return TenantParameters(
        profile=profile,
        baselines=np.array(
            [draw(low_high) for low_high in (profile.cpu, profile.mem, profile.net, profile.disk)]
        ),
        burst_ceiling=draw(BURST_CEILING),
        diurnal_amplitude=draw(profile.diurnal_amplitude),
        peak_hour=draw(profile.peak_hour),
        weekly_amplitude=draw(profile.weekly_amplitude),
        sigma=draw(profile.sigma),
        phi=draw(profile.phi),
        cpu_net_correlation=draw(profile.cpu_net_correlation),
        spikes_per_day=draw(profile.spikes_per_day),
        spike_magnitude=draw(profile.spike_magnitude),
    )


def tenant_state(
    spec: SyntheticFleet, tenant_number: int, minutes: int | None = None
) -> LatentState:
    """The latent state of one tenant over the first `minutes` minutes (default: the whole
    fleet).
    """
    n_minutes = spec.days * MINUTES_PER_DAY if minutes is None else minutes
    parameters = tenant_parameters(spec.seed, tenant_number)
    start = spec.start.weekday() * MINUTES_PER_DAY + spec.start.hour * 60 + spec.start.minute
    mask, traffic = _deterministic(parameters, start, n_minutes)
    innovations = np.empty((len(METRICS), n_minutes))
    for metric in range(len(METRICS)):
        _stream(spec.seed, tenant_number, _NOISE + metric).standard_normal(out=innovations[metric])
    innovations[:, 0] /= np.sqrt(1.0 - parameters.phi**2)
    return LatentState(
        parameters=parameters,
        start_minute_of_week=start,
        mask=mask,
        traffic=traffic,
        noise=_autoregression(parameters, innovations),
        spikes=_decay(parameters, _arrivals(spec.seed, tenant_number, parameters, n_minutes)),
    )


def observe(
    parameters: TenantParameters, mask: Array, traffic: Array, noise: Array, spikes: Array
) -> NDArray[np.float32]:
    """Metrics float32 [..., 4, T] of mask [T], traffic [T], noise [..., 4, T] and spikes [..., T]:
    the table above.
    """
    profile = parameters.profile
    baseline = parameters.baselines[:, None]
    is_fraction = np.array([True, True, False, False])[:, None]
    share = LOAD_SHARE[:, None]
    change = noise + traffic
    change += np.array(profile.spike_reach)[:, None] * spikes[..., None, :]
    change *= share * np.where(is_fraction, 1.0, baseline)
    change += baseline * (1.0 - share + share * mask)
    np.clip(change, 0.0, np.where(is_fraction, parameters.burst_ceiling, np.inf), out=change)
    return change.astype(np.float32)


def generate(spec: SyntheticFleet, tenant_numbers: Sequence[int]) -> NDArray[np.float32]:
    """Telemetry float32 [N, 4, T] of the given tenants."""
    values = np.empty(
        (len(tenant_numbers), len(METRICS), spec.days * MINUTES_PER_DAY), dtype=np.float32
    )
    for row, tenant_number in enumerate(tenant_numbers):
        state = tenant_state(spec, tenant_number)
        values[row] = observe(
            state.parameters, state.mask, state.traffic, state.noise, state.spikes
        )
    return values


def simulate_forward(
    spec: SyntheticFleet, tenant_number: int, origin: int, horizon: int, n_paths: int, seed: int
) -> NDArray[np.float32]:
    """Independent futures of one tenant given its latent state at `origin`, float32 [P, H, 4].

    origin: the last observed minute. The paths cover the `horizon` minutes after it; their
    distribution is the true conditional one, so its quantiles have the lowest loss that any
    forecast can expect.
    """
    return simulate_from_state(
        tenant_state(spec, tenant_number, origin + 1),
        horizon,
        n_paths,
        _stream(spec.seed, tenant_number, _FUTURE, origin, seed),
    )


def simulate_from_state(
    state: LatentState, horizon: int, n_paths: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Independent continuations of a latent state after its last minute, float32 [P, H, 4]."""
    parameters = state.parameters
    start = state.start_minute_of_week + state.spikes.size
    mask, traffic = _deterministic(parameters, start, horizon)
    innovations = rng.standard_normal((n_paths, len(METRICS), horizon))
    noise = _autoregression(parameters, innovations, before=state.noise[:, -1])
    counts = rng.poisson(parameters.spikes_per_day / MINUTES_PER_DAY, (n_paths, horizon))
    arrivals = parameters.spike_magnitude * rng.standard_gamma(counts)
    spikes = _decay(parameters, arrivals, before=state.spikes[-1])
    return np.ascontiguousarray(
        np.moveaxis(observe(parameters, mask, traffic, noise, spikes), 1, 2)
    )


def _stream(seed: int, tenant_number: int, *key: int) -> np.random.Generator:
    return np.random.Generator(
        np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(tenant_number, *key)))
    )


def _deterministic(
    parameters: TenantParameters, start_minute_of_week: int, n_minutes: int
) -> tuple[Array, Array]:
    """M(t) and T(t), both [n_minutes]; both repeat every week."""
    minute = (start_minute_of_week + np.arange(min(n_minutes, WEEK))) % WEEK
    hour, day = minute % MINUTES_PER_DAY / 60, minute / MINUTES_PER_DAY
    diurnal = parameters.diurnal_amplitude * (
        0.5 + 0.5 * np.cos(2 * np.pi * (hour - parameters.peak_hour) / 24)
    )
    weekly = parameters.weekly_amplitude * np.sin(2 * np.pi * (day - 1.5) / 7)
    if parameters.profile.business_hours:
        mask = np.where((day < 5) & (hour >= 9) & (hour < 17), 1.0, 0.1)
    else:
        mask = np.ones(minute.size)
    return np.resize(mask, n_minutes), np.resize(diurnal + weekly, n_minutes)


def _autoregression(
    parameters: TenantParameters, innovations: Array, before: Array | None = None
) -> Array:
    """N_k from standard normal innovations [..., 4, T], given N_k one minute before [4] (default:
    none).
    """
    rho = parameters.cpu_net_correlation
    if rho:
        cpu, net = METRICS.index("cpu_util"), METRICS.index("net_bytes")
        innovations[..., net, :] *= np.sqrt(1.0 - rho**2)
        innovations[..., net, :] += rho * innovations[..., cpu, :]
    innovations *= parameters.sigma
    return _recursion(parameters.phi, innovations, before)


def _arrivals(seed: int, tenant_number: int, parameters: TenantParameters, n_minutes: int) -> Array:
    """Magnitudes of the spikes that arrive in each minute [n_minutes], from exponential gaps and
    magnitudes.
    """
    rate = parameters.spikes_per_day / MINUTES_PER_DAY
    if rate == 0.0:
        return np.zeros(n_minutes)
    rng = _stream(seed, tenant_number, _SPIKES)
    draws = rng.standard_exponential((_SPIKES_PER_DRAW, 2))
    while draws[:, 0].sum() < rate * n_minutes:
        draws = np.concatenate([draws, rng.standard_exponential((_SPIKES_PER_DRAW, 2))])
    minute = np.cumsum(draws[:, 0]) / rate
    in_time = minute < n_minutes
    magnitudes = parameters.spike_magnitude * draws[in_time, 1]
    arrivals = np.bincount(
        minute[in_time].astype(np.int64), weights=magnitudes, minlength=n_minutes
    )
    return arrivals.astype(np.float64, copy=False)


def _decay(parameters: TenantParameters, arrivals: Array, before: float = 0.0) -> Array:
    """P from arrivals [..., T], given P one minute before."""
    if parameters.spikes_per_day == 0.0:
        return arrivals
    return _recursion(
        parameters.spike_decay,
        arrivals,
        None if before == 0.0 else np.full(arrivals.shape[:-1], before),
    )


def _recursion(coefficient: float, inputs: Array, before: Array | None) -> Array:
    """y(t) = coefficient y(t-1) + inputs(t) along the last axis, with y(-1) = before (default
    0).
    """
    from scipy.signal import lfilter

    if before is None:
        return np.asarray(lfilter([1.0], [1.0, -coefficient], inputs))
    initial = coefficient * np.broadcast_to(before, inputs.shape[:-1])[..., None]
    return np.asarray(lfilter([1.0], [1.0, -coefficient], inputs, zi=initial)[0])


class SyntheticSource(FleetSource):
    """A synthetic fleet behind the common interface; nothing is missing, and the manifest costs no
    generation.
    """

    spec: SyntheticFleet

    def __init__(self, spec: SyntheticFleet) -> None:
        self.spec = spec
        self.metrics = METRICS
        self.start = spec.start
        self.step = timedelta(minutes=1)
        self.n_steps = spec.days * MINUTES_PER_DAY
        self.n_tenants = spec.tenants

    def manifest(self) -> pl.DataFrame:
        """One row per tenant with MANIFEST_SCHEMA."""
        numbers = range(self.n_tenants)
        return pl.DataFrame(
            {
                "tenant_number": numbers,
                "tenant_id": [f"tenant-{number:05d}" for number in numbers],
                "archetype": [archetype_of(number).name for number in numbers],
                "tier": [synthetic_tier_of(number, self.spec.tier_shares) for number in numbers],
                "first_step": 0,
                "last_step": self.n_steps - 1,
                "n_observed": len(METRICS) * self.n_steps,
                "n_missing": 0,
                "n_duplicates": 0,
                "n_gaps": 0,
                "longest_gap": 0,
            },
            schema=MANIFEST_SCHEMA,
        )

    def _values(self, tenant_numbers: Sequence[int]) -> NDArray[np.float32]:
        return generate(self.spec, tenant_numbers)

    def fingerprint(self) -> str:
        """Digest of the spec's data fields and the generator's version."""
        return hashlib.sha256(
            json.dumps([GENERATOR_VERSION, data_fields(self.spec)], sort_keys=True).encode()
        ).hexdigest()
