"""Make ablation and across-fleets reports of plausible size and shape, in the form that their
assets give them.

What belongs here: figures made up for tests of the reporting. What does not: assertions, the other
reports (`reports.factory`).
"""

from collections.abc import Iterator, Mapping

from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.reports.ablation.model import (
    AblationOfTier,
    AblationReport,
    ControlRow,
    DimensionRow,
    EventRow,
    FloorRow,
    RivalRow,
    SelectionRow,
    StepRow,
    ViolationRow,
)
from tsfm_pipeline.reports.ablation.numbers import LADDER
from tsfm_pipeline.reports.across_fleets.model import (
    EffectRow,
    EvidenceReport,
    FleetRow,
    PooledMethodRow,
    PooledRow,
    SeedsRow,
)
from tsfm_pipeline.reports.shared.model import Estimate

LEVELS = dict(zip(LADDER, (1.14, 1.0, 0.98, 0.975, 0.95, 0.94), strict=True))
GROUPS = {"b2b-saas": 0.9, "idle-ish": 1.05, "low-traffic-blog": 1.0}
RIVALS = {
    "static_ensemble": 0.945,
    "uniform_average": 1.1,
    "config_per_tenant": 0.9,
    "last_value": 1.6,
    "rule:softmax": 0.95,
}
CONFIGS = ("ctx64", "ctx512", "ctx7200-r15", "ctx512-s1x5")


def about(figure: float, half_width: float = 0.02) -> Estimate:
    """A figure with its interval."""
    return Estimate(figure, figure - half_width, figure + half_width)


def ablation(floor: bool = True, alphas: Mapping[str, float] = TIERS) -> AblationReport:
    """The search at 0.94 of fixed; it loses to one configuration per tenant; idle-ish is worse
    off.
    """
    steps = tuple(_steps(alphas))
    harmed = tuple(f"{row.scope_value} at {row.tier}" for row in steps if row.harmed)
    return AblationReport(
        fleet="demo",
        group_scope="archetype",
        n_configs=len(CONFIGS),
        harmed_groups=harmed,
        n_harmed_groups=len(harmed),
        tiers=dict.fromkeys(
            alphas,
            AblationOfTier(
                headroom_cross_fitted=about(0.08),
                headroom_null_low=-0.01,
                headroom_null_high=0.02,
                headroom_p_value=0.01,
                headroom_oracle_tenant=0.1,
                headroom_oracle_request=0.2,
                headroom_captured=about(0.75, 0.2),
                regret=about(0.02, 0.01),
                label_swap_rejection_rate=0.045,
                default_rule="softmax",
                floor_mean_scaled_loss=1.1 if floor else None,
                floor_monte_carlo_share=0.002 if floor else None,
                reducible_captured=about(0.3, 0.1) if floor else None,
            ),
        ),
        table_steps=steps,
        table_rivals=tuple(
            _rival(tier, method, ratio)
            for tier in alphas
            for method, ratio in {**LEVELS, **RIVALS}.items()
        ),
        table_selection=tuple(
            SelectionRow(
                tier=tier,
                scope="archetype" if group else "all",
                scope_value=group,
                config=config,
                mean_weight=0.25,
                share_chosen=0.25,
                n_series_requests=96,
            )
            for tier in alphas
            for group in ("", *GROUPS)
            for config in CONFIGS
        ),
        table_violations=tuple(
            ViolationRow(
                tier=tier,
                method=method,
                violation_rate=about(0.24),
                target=round(1 - alpha, 10),
                excess=-0.01,
            )
            for tier, alpha in alphas.items()
            for method in ("fixed_quantile", "search")
        ),
        table_controls=tuple(
            ControlRow(tier=tier, control=control, ratio=about(0.99), verdict="no effect shown")
            for tier in alphas
            for control in ("shuffled prior", "fleet-wide prior")
        ),
        table_dimensions=tuple(
            DimensionRow(
                tier=tier,
                dimension=dimension,
                method=method,
                n_configs=1,
                ratio=about(ratio),
                verdict=verdict,
                n_failed=0,
            )
            for tier in alphas
            for dimension, ratio, verdict in (
                ("resolution", 0.9, "earns its place"),
                ("transform", 1.0, "no effect shown"),
            )
            for method in ("search", "fixed_quantile")
        ),
        table_events=tuple(
            EventRow(
                tier=tier,
                n_events=2,
                n_requests=36,
                share=0.125,
                ratio=about(0.93),
                verdict="gains",
            )
            for tier in alphas
        ),
        table_floor=tuple(_floor(alphas)) if floor else (),
    )


def _steps(alphas: Mapping[str, float]) -> Iterator[StepRow]:
    for tier in alphas:
        for group in ("", *GROUPS):
            before = None
            for step, (method, adds) in enumerate(LADDER.items()):
                ratio = GROUPS.get(group, LEVELS[method]) if method == "search" else LEVELS[method]
                yield StepRow(
                    tier=tier,
                    scope="archetype" if group else "all",
                    scope_value=group,
                    step=step,
                    method=method,
                    adds=adds,
                    mean_scaled_loss=1.4,
                    step_ratio=Estimate() if before is None else about(ratio / before, 0.008),
                    ratio=about(ratio),
                    harmed=method == "search" and ratio > 1.02,
                    n_requests=288,
                    n_failed=0,
                )
                before = ratio


def _rival(tier: str, method: str, ratio: float) -> RivalRow:
    against = about(0.94 / ratio)
    return RivalRow(
        tier=tier,
        method=method,
        forecasts="K",
        mean_scaled_loss=1.4 * ratio,
        ratio=about(ratio),
        search_ratio=against,
        beaten="yes" if against.high < 1 else "no" if against.low > 1 else "undecided",
        n_failed=0,
    )


def _floor(alphas: Mapping[str, float]) -> Iterator[FloorRow]:
    for tier in alphas:
        for method, ratio in {**LEVELS, **RIVALS}.items():
            yield FloorRow(
                tier=tier, scope="all", scope_value="", method=method, multiple=about(1.2 * ratio)
            )
        for group, ratio in GROUPS.items():
            for method in ("search", "fixed_quantile"):
                yield FloorRow(
                    tier=tier,
                    scope="archetype",
                    scope_value=group,
                    method=method,
                    multiple=about(ratio + 0.1),
                )


def evidence() -> EvidenceReport:
    """Two real fleets, of which one gains, two synthetic seeds that do, one that is not current."""
    effects = tuple(
        EffectRow(
            fleet=fleet,
            group=group,
            tier=tier,
            ratio=about(ratio, 0.03),
            win_rate=about(0.56),
            violation_rate=0.24,
            violation_rate_target=round(1 - alpha, 10),
            n_requests=12 * n_tenants,
            n_tenants=n_tenants,
            n_days=7,
            seed=0,
            pooled=fleet != "demo",
            contained_in="synthetic" if fleet == "demo" else "",
        )
        for tier, alpha in TIERS.items()
        for fleet, group, ratio, n_tenants in (
            ("asd", "real", 1.01, 12),
            ("smd", "real", 0.75, 17),
            ("demo", "synthetic", 0.96, 24),
            ("synthetic", "synthetic", 0.9, 500),
            ("synthetic-seed-2", "synthetic", 0.92, 60),
        )
    )
    normal = {"normal_low": 0.8, "normal_high": 0.95, "tau": 0.1}
    return EvidenceReport(
        n_fleets=6,
        n_current=5,
        not_current=("nab",),
        pools={},
        table_effects=effects,
        table_pooled=tuple(
            PooledRow(tier=tier, group=group, ratio=about(ratio, width), n_fleets=n, **normal)
            for tier in TIERS
            for group, ratio, width, n in (
                ("real", 0.87, 0.4, 2),
                ("synthetic", 0.91, 0.04, 2),
                ("all", 0.88, 0.1, 3),
            )
        ),
        table_methods=tuple(
            PooledMethodRow(
                tier=tier, method=method, group="all", ratio=about(ratio, 0.1), n_fleets=3, **normal
            )
            for tier in TIERS
            for method, ratio in (("search", 0.88), ("static_ensemble", 0.93))
        ),
        table_seeds=tuple(
            SeedsRow(
                tier=tier,
                fleets="synthetic (1), synthetic-seed-2 (2)",
                n_seeds=2,
                lowest=0.9,
                highest=0.92,
                log_deviation=0.016,
            )
            for tier in TIERS
        ),
        table_fleets=(
            FleetRow(
                fleet="asd", title="Servers", group="real", status="current", note="", n_tenants=12
            ),
            FleetRow(
                fleet="nab",
                title="Others",
                group="real",
                status="not current",
                note="re-materialise headline_scores of nab",
                n_tenants=0,
            ),
        ),
    )
