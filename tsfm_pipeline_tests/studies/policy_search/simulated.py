"""A whole study in seconds: real loop, ledger, judge and promotion around simulated losses.

What belongs here: losses that depend on a policy's settings in a known way, with chance of its own
for every tenant, and the study that comes of them. What does not: any expectation.

A policy's true effect is the same on every fold and fleet. What each tenant adds by chance depends
on the policy and the tenant, so that the best of many policies looks better on the folds that chose
it than it is.
"""

import json
import math
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.settings import SearchSettings, Settings
from tsfm_pipeline.studies.policy_search.drivers.random import RandomDriver
from tsfm_pipeline.studies.policy_search.judging import is_screened_out
from tsfm_pipeline.studies.policy_search.latency import LatencyLine, Line
from tsfm_pipeline.studies.policy_search.loop import run_loop
from tsfm_pipeline.studies.policy_search.policy import DEFAULT, Policy
from tsfm_pipeline.studies.policy_search.promotion import consider
from tsfm_pipeline.studies.policy_search.promotion_records import Look
from tsfm_pipeline.studies.policy_search.results import FleetResult, Outcome
from tsfm_pipeline.studies.policy_search.yardstick import Yardstick, yardstick_file

N_TENANTS = {"demo": 100, "smd": 60}
GROUPS = ("low-traffic-blog", "b2b-saas", "wp-cron-heavy")
LINE = LatencyLine(
    p50=Line(fixed_ms=5.0, ms_per_token=0.05), p95=Line(fixed_ms=8.0, ms_per_token=0.06), machine=""
)


def sealed(settings: Settings) -> Yardstick:
    """A yardstick over two fleets, sealed where the commands look for it."""
    yardstick = Yardstick(
        fleets=tuple(N_TENANTS),
        line=LINE,
        defaults=DEFAULT.model_dump(mode="json"),
        settings={},
        code="",
        definitions={},
        data={},
    )
    path = yardstick_file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"digest": yardstick.digest, **yardstick.model_dump(mode="json")}))
    return yardstick


def true_effect(search: SearchSettings) -> float:
    """The relative loss of these settings to the default's, as a log."""
    effect = -0.02 * (1 - abs(math.log2(search.neighbours / 12)) / math.log2(12 / 5))
    effect -= 0.010 * math.log2(search.portfolio_size / DEFAULT.portfolio_size)
    effect -= 0.006 * math.log10(search.gate_ridge / DEFAULT.gate_ridge)
    effect += 0.05 * (max(search.correction_gains) == 0)
    return effect + 0.02 * (max(search.temperatures) > 0.2)


def outcome(
    settings: Settings,
    yardstick: Yardstick,
    policy: Policy,
    incumbent: Outcome | None,
    folds: Sequence[int],
    screen: bool = True,
) -> Outcome:
    """As `process.run_experiment`; of the changed policies, one in 20 crashes and one in 20 takes
    too long.
    """
    draw = int(policy.digest, 16) % 20 if policy.n_changes else None
    if draw == 0:
        return Outcome(status="crash", message="MemoryError", seconds=4.0, peak_mib=4096)
    if draw == 1:
        return Outcome(status="timeout", message="no end in sight", seconds=300.0, peak_mib=600)
    screening = _results(policy, folds, 1 / 3) if screen else ()
    if screen and incumbent is not None and is_screened_out(screening, incumbent.screening):
        return Outcome(
            status=None, screening=screening, screened_out=True, seconds=6.0, peak_mib=600
        )
    return Outcome(
        status=None,
        results=_results(policy, folds, 1.0),
        screening=screening,
        seconds=17.0,
        peak_mib=700,
    )


def _results(policy: Policy, folds: Sequence[int], share: float) -> tuple[FleetResult, ...]:
    return tuple(_result(name, policy, folds, share) for name in N_TENANTS)


def _result(fleet: str, policy: Policy, folds: Sequence[int], share: float) -> FleetResult:
    tenants = [n for n in range(N_TENANTS[fleet]) if n % 5 in folds]
    own = _generator(fleet).lognormal(0.0, 0.4, N_TENANTS[fleet])[tenants]
    chance = _generator(fleet, policy.digest, str(share)).normal(0, 0.02, N_TENANTS[fleet])[tenants]
    spread = 0.0 if not policy.n_changes else 1.0
    losses = own * np.exp(true_effect(policy.settings) + spread * chance / math.sqrt(share))
    tokens = 60.0 * policy.settings.portfolio_size + 20.0 * policy.settings.recent_origins
    p50_ms, p95_ms = LINE.predict(tokens)
    return FleetResult(
        fleet=fleet,
        folds=tuple(folds),
        share=share,
        tenants=tuple(tenants),
        groups=tuple(GROUPS[n % len(GROUPS)] for n in tenants),
        losses={tier: tuple(losses * (1 + i / 5)) for i, tier in enumerate(TIERS)},
        fixed={tier: tuple(own * (1.05 + i / 5)) for i, tier in enumerate(TIERS)},
        mae=float(losses.mean()),
        tokens=tokens,
        p50_ms=p50_ms,
        p95_ms=p95_ms,
    )


def look(
    settings: Settings, yardstick: Yardstick, challenger: Policy, replaced: Policy
) -> list[Look]:
    """As `final_look.final_look`: the true effect, with a little chance."""
    effect = true_effect(challenger.settings) - true_effect(replaced.settings)
    return [
        Look(
            fleet=fleet,
            tier=tier,
            group=group,
            ratio=math.exp(effect + chance),
            low=math.exp(effect + chance - 0.01),
            high=math.exp(effect + chance + 0.01),
            loss=math.exp(effect),
            loss_replaced=1.0,
            n_requests=12 * n_tenants,
            n_tenants=n_tenants,
            n_days=7,
            n_failed=0,
        )
        for fleet, n_tenants in N_TENANTS.items()
        for tier in TIERS
        for group in ("", *GROUPS)
        for chance in _generator(fleet, tier, group, challenger.digest).normal(0, 0.003, 1)
    ]


def ran(
    settings: Settings,
    n_experiments: int,
    seed: int = 0,
    log: Callable[[str], Any] = lambda _: None,
) -> Yardstick:
    """Seal a yardstick and run a loop on it; return the yardstick."""
    yardstick = sealed(settings)
    run_loop(
        settings,
        yardstick,
        RandomDriver(seed),
        run=outcome,
        check=lambda *_: None,
        experiments=n_experiments,
        consider=partial(consider, measure=lambda *_: 61.5, look=look),
        log=log,
    )
    return yardstick


def _generator(*names: str) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(name.encode()) for name in names])
