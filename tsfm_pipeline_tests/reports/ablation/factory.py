"""Ablation and evidence reports of plausible size and shape, as their assets write them.

What belongs here: figures made up for tests of the reporting. What does not: assertions, the reports of one fleet's siblings (`factory`).
"""

from typing import Any

from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.reports.ablation.numbers import LADDER

LEVELS = dict(zip(LADDER, (1.14, 1.0, 0.98, 0.975, 0.95, 0.94), strict=True))
GROUPS = {"b2b-saas": 0.9, "idle-ish": 1.05, "low-traffic-blog": 1.0}
RIVALS = {"static_ensemble": 0.945, "uniform_average": 1.1, "config_per_tenant": 0.9, "last_value": 1.6, "rule:softmax": 0.95}
CONFIGS = ("ctx64", "ctx512", "ctx7200-r15", "ctx512-s1x5")


def interval(name: str, figure: float | None, half_width: float = 0.02) -> dict[str, float | None]:
    """A figure with its interval under the names that reports use."""
    low, high = (None, None) if figure is None else (figure - half_width, figure + half_width)
    return {name: figure, f"{name}_low": low, f"{name}_high": high}


def ablation(floor: bool = True) -> dict[str, Any]:
    """The search at 0.94 of fixed; it loses to one configuration per tenant; idle-ish is worse off."""
    report: dict[str, Any] = {"fleet": "demo", "group_scope": "archetype", "n_configs": len(CONFIGS)}
    tables: dict[str, list[dict[str, Any]]] = {
        f"table_{name}": [] for name in ("steps", "rivals", "selection", "violations", "controls", "dimensions", "floor")
    }
    for tier in TIERS:
        report |= {
            **{f"{tier}_headroom_{key}": value for key, value in (("cross_fitted", 0.08), ("null_low", -0.01), ("null_high", 0.02))},
            **interval(f"{tier}_headroom_captured", 0.75, 0.2),
            **interval(f"{tier}_regret", 0.02, 0.01),
            **interval(f"{tier}_reducible_captured", 0.3, 0.1),
            f"{tier}_label_swap_rejection_rate": 0.045,
            f"{tier}_default_rule": "softmax",
            f"{tier}_floor_monte_carlo_share": 0.002,
        }
        for group in ("", *GROUPS):
            before = None
            for step, (method, adds) in enumerate(LADDER.items()):
                ratio = GROUPS.get(group, LEVELS[method]) if method == "search" else LEVELS[method]
                tables["table_steps"].append(
                    {
                        "tier": tier,
                        "scope": "archetype" if group else "all",
                        "scope_value": group,
                        "step": step,
                        "method": method,
                        "adds": adds,
                        **interval("step_ratio", None if before is None else ratio / before, 0.008),
                        **interval("ratio", ratio),
                        "harmed": method == "search" and ratio > 1.02,
                        "n_failed": 0,
                    }
                )
                before = ratio
            tables["table_selection"] += [
                {
                    "tier": tier,
                    "scope": "archetype" if group else "all",
                    "scope_value": group,
                    "config": config,
                    "mean_weight": 0.25,
                    "share_chosen": 0.25,
                }
                for config in CONFIGS
            ]
        for method, ratio in {**LEVELS, **RIVALS}.items():
            against = interval("search_ratio", 0.94 / ratio)
            beaten = "yes" if against["search_ratio_high"] < 1 else "no" if against["search_ratio_low"] > 1 else "undecided"
            row = {"tier": tier, "method": method, "forecasts": "K", **interval("ratio", ratio), **against, "beaten": beaten, "n_failed": 0}
            tables["table_rivals"].append(row)
            tables["table_floor"].append(
                {"tier": tier, "scope": "all", "scope_value": "", "method": method, **interval("multiple", 1.2 * ratio)}
            )
        for group, ratio in GROUPS.items():
            for method in ("search", "fixed_quantile"):
                row = {"tier": tier, "scope": "archetype", "scope_value": group, "method": method}
                tables["table_floor"].append({**row, **interval("multiple", ratio + 0.1)})
        for method in ("fixed_quantile", "search"):
            rate = interval("violation_rate", 0.24)
            tables["table_violations"].append({"tier": tier, "method": method, **rate, "target": 1 - TIERS[tier], "excess": -0.01})
        for control in ("shuffled prior", "fleet-wide prior"):
            tables["table_controls"].append({"tier": tier, "control": control, **interval("ratio", 0.99), "verdict": "no effect shown"})
        for dimension, ratio, verdict in (("resolution", 0.9, "earns its place"), ("transform", 1.0, "no effect shown")):
            for method in ("search", "fixed_quantile"):
                row = {"tier": tier, "dimension": dimension, "method": method, "n_configs": 1, **interval("ratio", ratio)}
                tables["table_dimensions"].append({**row, "verdict": verdict, "n_failed": 0})
    if not floor:
        del tables["table_floor"]
    return report | tables


def evidence() -> dict[str, Any]:
    """Two real fleets, of which one gains, two synthetic seeds that do, one that is not current."""
    effects = [
        {
            "fleet": fleet,
            "group": group,
            "tier": tier,
            **interval("ratio", ratio, 0.03),
            **interval("win_rate", 0.56),
            "violation_rate": 0.24,
            "violation_rate_target": 1 - TIERS[tier],
            "n_requests": 12 * n_tenants,
            "n_tenants": n_tenants,
            "n_days": 7,
            "seed": 0,
            "pooled": fleet != "demo",
            "contained_in": "synthetic" if fleet == "demo" else "",
        }
        for tier in TIERS
        for fleet, group, ratio, n_tenants in (
            ("asd", "real", 1.01, 12),
            ("smd", "real", 0.75, 17),
            ("demo", "synthetic", 0.96, 24),
            ("synthetic", "synthetic", 0.9, 500),
            ("synthetic-seed-2", "synthetic", 0.92, 60),
        )
    ]
    pools = (("real", 0.87, 0.4, 2), ("synthetic", 0.91, 0.04, 2), ("all", 0.88, 0.1, 3))
    return {
        "n_fleets": 6,
        "n_current": 5,
        "not_current": ["nab"],
        "table_effects": effects,
        "table_pooled": [
            {
                "tier": tier,
                "group": group,
                **interval("ratio", ratio, width),
                "normal_low": 0.8,
                "normal_high": 0.95,
                "tau": 0.1,
                "n_fleets": n,
            }
            for tier in TIERS
            for group, ratio, width, n in pools
        ],
        "table_methods": [
            {"tier": tier, "method": method, "group": "all", **interval("ratio", ratio, 0.1), "n_fleets": 3}
            for tier in TIERS
            for method, ratio in (("search", 0.88), ("static_ensemble", 0.93))
        ],
        "table_seeds": [
            {
                "tier": tier,
                "fleets": "synthetic (1), synthetic-seed-2 (2)",
                "n_seeds": 2,
                "lowest": 0.9,
                "highest": 0.92,
                "log_deviation": 0.016,
            }
            for tier in TIERS
        ],
        "table_fleets": [
            {"fleet": "asd", "title": "Servers", "group": "real", "status": "current", "note": "", "n_tenants": 12},
            {
                "fleet": "nab",
                "title": "Others",
                "group": "real",
                "status": "not current",
                "note": "re-materialise headline_scores of nab",
                "n_tenants": 0,
            },
        ],
    }
