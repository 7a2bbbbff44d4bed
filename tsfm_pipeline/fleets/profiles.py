"""The eight archetypes of the synthetic fleet as constants, and the archetype and tier of each
tenant.

What belongs here: the table of archetypes, and dealing out archetypes and tiers by explicit counts.
What does not: formulas and random numbers (`fleets.synthetic`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

METRICS = ("cpu_util", "mem_util", "net_bytes", "disk_iops")

Range = tuple[float, float]
"""Lowest and highest value of a uniform draw per tenant."""

ABSENT: Range = (0.0, 0.0)


@dataclass(frozen=True)
class ArchetypeProfile:
    """One archetype; amplitudes, sigma and magnitudes in units of cpu_util, tau in minutes."""

    name: str
    share: float
    sigma: Range
    phi: Range
    cpu: Range
    mem: Range
    net: Range
    disk: Range
    diurnal_amplitude: Range = ABSENT
    peak_hour: Range = ABSENT
    weekly_amplitude: Range = ABSENT
    business_hours: bool = False
    spikes_per_day: Range = ABSENT
    spike_magnitude: Range = ABSENT
    spike_tau: float = 1.0
    spike_reach: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    """How strongly a spike reaches cpu, mem, net and disk, on top of how strongly load reaches
    them.
    """
    cpu_net_correlation: Range = ABSENT


PROFILES = (
    ArchetypeProfile(
        name="low-traffic-blog",
        share=0.25,
        diurnal_amplitude=(0.05, 0.15),
        peak_hour=(18, 18),
        weekly_amplitude=(0, 0.05),
        sigma=(0.01, 0.03),
        phi=(0.5, 0.8),
        spikes_per_day=(0.5, 2),
        spike_magnitude=(0.1, 0.3),
        spike_tau=8,
        cpu=(0.02, 0.08),
        mem=(0.05, 0.15),
        net=(10, 50),
        disk=(1, 10),
    ),
    ArchetypeProfile(
        name="ecommerce-retail",
        share=0.12,
        diurnal_amplitude=(0.3, 0.6),
        peak_hour=(13, 16),
        weekly_amplitude=(0.15, 0.4),
        sigma=(0.02, 0.06),
        phi=(0.6, 0.9),
        spikes_per_day=(0.1, 0.5),
        spike_magnitude=(0.5, 1.5),
        spike_tau=30,
        cpu=(0.15, 0.35),
        mem=(0.25, 0.5),
        net=(200, 800),
        disk=(20, 80),
    ),
    ArchetypeProfile(
        name="news-publisher",
        share=0.08,
        diurnal_amplitude=(0.25, 0.5),
        peak_hour=(8, 20),
        weekly_amplitude=(0.05, 0.15),
        sigma=(0.02, 0.05),
        phi=(0.5, 0.8),
        spikes_per_day=(0.05, 0.2),
        spike_magnitude=(4.5, 12),
        spike_tau=60,
        cpu=(0.1, 0.25),
        mem=(0.15, 0.35),
        net=(100, 500),
        disk=(15, 60),
    ),
    ArchetypeProfile(
        name="b2b-saas",
        share=0.15,
        business_hours=True,
        sigma=(0.01, 0.03),
        phi=(0.6, 0.9),
        cpu=(0.2, 0.5),
        mem=(0.3, 0.6),
        net=(100, 400),
        disk=(30, 100),
    ),
    ArchetypeProfile(
        name="wp-cron-heavy",
        share=0.15,
        sigma=(0.01, 0.02),
        phi=(0.3, 0.6),
        spikes_per_day=(20, 60),
        spike_magnitude=(0.1, 0.4),
        spike_tau=5,
        spike_reach=(1.0, 1.0, 0.0, 1.0),
        cpu=(0.02, 0.08),
        mem=(0.05, 0.15),
        net=(20, 80),
        disk=(5, 20),
    ),
    ArchetypeProfile(
        name="cache-driven",
        share=0.10,
        diurnal_amplitude=(0.2, 0.45),
        peak_hour=(12, 18),
        weekly_amplitude=(0.1, 0.3),
        sigma=(0.03, 0.08),
        phi=(0.5, 0.8),
        spikes_per_day=(3, 15),
        spike_magnitude=(0.3, 1),
        spike_tau=10,
        spike_reach=(1.0, 1.0, 0.5, 1.0),
        cpu_net_correlation=(0.6, 0.9),
        cpu=(0.1, 0.3),
        mem=(0.2, 0.4),
        net=(150, 600),
        disk=(10, 50),
    ),
    ArchetypeProfile(
        name="compute-heavy",
        share=0.05,
        sigma=(0.02, 0.05),
        phi=(0.7, 0.95),
        cpu=(0.5, 0.85),
        mem=(0.5, 0.85),
        net=(10, 50),
        disk=(50, 200),
    ),
    ArchetypeProfile(
        name="idle-ish",
        share=0.10,
        sigma=(0.002, 0.01),
        phi=(0.3, 0.6),
        spikes_per_day=(0.01, 0.1),
        spike_magnitude=(0.1, 0.5),
        spike_tau=5,
        cpu=(0.001, 0.02),
        mem=(0.01, 0.05),
        net=(0.1, 5),
        disk=(0.1, 2),
    ),
)

ARCHETYPES = tuple(profile.name for profile in PROFILES)

CYCLE = 100
"""Shares are whole hundredths, so every hundred tenants hold exactly the shares."""


def deal(shares: Mapping[str, float], n: int) -> list[str]:
    """Return the names dealt to tenants 0 .. n-1, in order; each tenant gets the name that has
    least of its share so far.

    The names are a prefix of any longer deal, every name with a share comes up before any name
    comes up twice, and whenever `n * share` is whole for all names the counts are exact, as with
    largest remainders. This is Adams' apportionment, seat by seat. Largest remainders would not
    give prefixes of one another, and Adams' method favours rare names: among 48 tenants, three have
    an archetype with a share of .05. Ties go to the first name.
    """
    exact = {
        name: Fraction(share).limit_denominator(10_000)
        for name, share in shares.items()
        if share > 0
    }
    counts = dict.fromkeys(exact, 0)
    dealt = []
    for _ in range(n):
        name = min(counts, key=lambda name: counts[name] / exact[name])
        counts[name] += 1
        dealt.append(name)
    return dealt


@lru_cache(maxsize=1)
def _archetype_cycle() -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return, per slot of the cycle, the archetype and how many earlier slots have it; and per
    archetype, its number of slots in the cycle.
    """
    dealt = [
        ARCHETYPES.index(name)
        for name in deal({profile.name: profile.share for profile in PROFILES}, CYCLE)
    ]
    ranks = tuple(dealt[:slot].count(archetype) for slot, archetype in enumerate(dealt))
    return tuple(dealt), ranks, tuple(dealt.count(archetype) for archetype in range(len(PROFILES)))


def archetype_of(tenant_number: int) -> ArchetypeProfile:
    """Return the archetype of a tenant, by its number alone."""
    return PROFILES[_archetype_cycle()[0][tenant_number % CYCLE]]


def synthetic_tier_of(tenant_number: int, shares: Mapping[str, float]) -> str:
    """Return the tier of a synthetic tenant, by its number alone; within every archetype the tiers
    are dealt by the shares.

    The archetypes start at different places of the deal, so that even a small fleet roughly matches
    the shares.
    """
    archetypes, ranks, slots = _archetype_cycle()
    cycle, slot = divmod(tenant_number, CYCLE)
    archetype = archetypes[slot]
    order = _tier_cycle(tuple(shares.items()))
    return order[(cycle * slots[archetype] + ranks[slot] + 3 * archetype) % CYCLE]


@lru_cache(maxsize=8)
def _tier_cycle(shares: tuple[tuple[str, float], ...]) -> tuple[str, ...]:
    return tuple(deal(dict(shares), CYCLE))


def archetype_counts(n_tenants: int) -> dict[str, int]:
    """Return how many of the first `n_tenants` tenants have each archetype."""
    dealt, _, slots = _archetype_cycle()
    cycles, rest = divmod(n_tenants, CYCLE)
    return {name: cycles * slots[i] + dealt[:rest].count(i) for i, name in enumerate(ARCHETYPES)}


def tenants_needed(minimum: int) -> int:
    """Return the size of the smallest fleet in which every archetype has at least `minimum`
    tenants.
    """
    rarest = min(archetype_counts(CYCLE).values())
    n_tenants = max(minimum, CYCLE * ((minimum - 1) // rarest))
    while min(archetype_counts(n_tenants).values()) < minimum:
        n_tenants += 1
    return n_tenants
