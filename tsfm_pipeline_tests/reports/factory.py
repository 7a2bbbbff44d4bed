"""Report dictionaries of plausible size and shape, as the report assets write them.

What belongs here: figures made up for tests of the reporting. What does not: assertions.
"""

import math
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.reports.shared.wording import METHOD_LABELS
from tsfm_pipeline_tests.reports.ablation.factory import ablation

ARCHETYPES = (
    "b2b-saas",
    "low-traffic-blog",
    "ecommerce-retail",
    "wp-cron-heavy",
    "idle-ish",
    "compute-heavy",
    "news-publisher",
    "cache-driven",
)
METRICS = ("cpu_util", "mem_util", "net_bytes", "disk_iops")
RATIOS = (
    0.969,
    0.972,
    0.992,
    0.986,
    0.974,
    0.979,
    0.996,
    0.976,
    0.973,
    1.0,
    1.124,
    0.994,
    0.985,
    0.991,
    0.989,
    0.987,
    0.978,
    0.981,
    1.033,
    1.018,
    1.92,
    1.61,
    1.21,
    1.17,
    1.35,
    1.28,
    2.4,
)


def headline(ratio: float = 0.969, low: float = 0.941, high: float = 0.998, archetypes: tuple[str, ...] = ARCHETYPES) -> dict[str, Any]:
    """A headline report of the demo fleet with this standard-tier ratio."""
    report: dict[str, Any] = {
        "fleet": "demo",
        "horizon_steps": 60,
        "n_requests": 288,
        "n_invalid_requests": 3,
        "n_test_tenants": 24,
        "n_excluded_series": 1,
        "invalid_reasons": {"gap of N steps in the history": 3},
    }
    table_methods = []
    for i, tier in enumerate(TIERS):
        shift = 0.01 * (i - 1)
        report |= {
            f"{tier}_mean_loss_fixed": 1.52 - 0.1 * i,
            f"{tier}_mean_loss_search": (1.52 - 0.1 * i) * (ratio + shift),
            f"{tier}_ratio": ratio + shift,
            f"{tier}_ratio_low": low + shift,
            f"{tier}_ratio_high": high + shift,
            f"{tier}_win_rate": 0.562,
            f"{tier}_win_rate_low": 0.511,
            f"{tier}_win_rate_high": 0.613,
            f"{tier}_p_value": 0.0312,
            f"{tier}_violation_rate_fixed": 1 - TIERS[tier] + 0.021,
            f"{tier}_violation_rate_search": 1 - TIERS[tier] + 0.008,
            f"{tier}_violation_rate_target": round(1 - TIERS[tier], 10),
            f"{tier}_n_requests_scored": 288,
            f"{tier}_n_tenants_scored": 24,
            f"{tier}_n_failed_search": 0,
            f"{tier}_fixed_config": "ctx2048" if tier != "premium" else "ctx7200-r15",
            f"{tier}_std_scaled_ratio": ratio + 0.004,
            f"{tier}_std_scaled_ratio_low": low,
            f"{tier}_std_scaled_ratio_high": high + 0.01,
            f"{tier}_leave_one_out_ratio_min": ratio - 0.006,
            f"{tier}_leave_one_out_ratio_max": ratio + 0.009,
            f"{tier}_mean_log_ratio": math.log(ratio),
            f"{tier}_headroom_cross_fitted": 0.012,
            f"{tier}_headroom_null_low": -0.011,
            f"{tier}_headroom_null_high": 0.009,
            f"{tier}_headroom_oracle_tenant": 0.06,
            f"{tier}_headroom_oracle_request": 0.141,
        }
        methods = dict(zip(METHOD_LABELS, (ratio, *RATIOS[1:]), strict=True))
        methods |= {f"config:{name}": 1.0 + 0.03 * k for k, name in enumerate(("ctx2048", "ctx512", "ctx64", "ctx7200-r15"))}
        for method, value in methods.items():
            half = 0.0 if method == "fixed_quantile" else 0.0285
            own = (value, value - half, value + half) if method != "search" else (ratio + shift, low + shift, high + shift)
            table_methods.append({"tier": tier, "method": method, **_scores(*own), "mean_scaled_loss": 1.42 * value, "n_failed": 0})
    report["table_methods"] = table_methods
    report["table_archetypes"] = [
        {
            "tier": tier,
            "scope": "archetype",
            "scope_value": name,
            "method": "search",
            **_scores(r, r - w, r + w),
            "n_tenants": 3,
        }
        for tier in TIERS
        for name, r, w in zip(
            archetypes,
            (0.88, 0.93, 0.95, 0.98, 0.99, 1.01, 1.06, 1.12),
            (0.04, 0.05, 0.06, 0.03, 0.05, 0.02, 0.09, 0.05),
            strict=False,
        )
    ]
    report["table_metrics"] = [
        {"tier": tier, "scope": "metric", "scope_value": name, "method": "search", **_scores(r, r - 0.03, r + 0.03)}
        for tier in TIERS
        for name, r in zip(METRICS, (0.94, 0.96, 0.99, 1.05), strict=True)
    ]
    report["standard_n_tenants_cheaper"] = 15
    report["table_tenants"] = [
        {
            "tier": "standard",
            "tenant_id": f"tenant-{number:04d}",
            "archetype": archetypes[0] if archetypes else None,
            "ratio": r,
            "ratio_low": r - 0.05,
            "ratio_high": r + 0.06,
            "mean_loss_search": r,
            "mean_loss_fixed": 1.0,
            "n_requests": 12,
        }
        for number, r in ((7, 0.88), (11, 0.93), (31, 1.19))
    ]
    report["table_unscaled"] = [
        {
            "tier": tier,
            "metric": metric,
            "method": m,
            "loss": x,
            "slack": 2 * x,
            "shortfall": x / 3,
            "violation_rate": 0.25,
        }
        for tier in TIERS
        for metric, x in zip(METRICS, (0.0123, 0.00412, 48.3, 6.02), strict=True)
        for m in ("fixed_quantile", "search")
    ]
    return report


def _scores(ratio: float, low: float, high: float) -> dict[str, Any]:
    return {
        "mean_scaled_loss": 1.4,
        "ratio": ratio,
        "ratio_low": low,
        "ratio_high": high,
        "win_rate": 0.56,
        "win_rate_low": 0.51,
        "win_rate_high": 0.61,
        "violation_rate": 0.258,
        "mean_scaled_slack": 2.31,
        "mean_scaled_crps": 2.07,
        "n_requests": 288,
        "n_tenants": 24,
        "n_days": 7,
        "n_failed": 0,
    }


def latency(device: str = "2 cores, Intel Xeon") -> dict[str, Any]:
    """A latency report whose largest K within the budget is 8."""
    report: dict[str, Any] = {
        "fleet": "demo",
        "device": device,
        "dtype": "float32",
        "checkpoint": "bundled",
        "n_parameters": 4_920_000,
        "checkpoint_size_mib": 18.8,
        "threads": 2,
        "n_requests": 500,
        "n_scored_requests": 60,
        "scored_tier": "standard",
        "budget_ms": 200.0,
        "portfolio_size": 8,
        "largest_k_within_budget": 8,
        "table_latency": [],
        "table_pareto": [],
    }
    for k in (1, 2, 4, 8, 16, 32):
        p50 = 18 + 14.5 * k
        report |= {f"k{k}_p50_latency_ms": p50, f"k{k}_p95_latency_ms": 1.25 * p50, f"k{k}_p99_latency_ms": 1.6 * p50}
        ratio = 0.92 + 0.09 / k
        bounds = {"ratio": ratio, "ratio_low": ratio - 0.03, "ratio_high": ratio + 0.025}
        report["table_pareto"].append({"k": k, "p50_ms": p50, "p95_ms": 1.25 * p50, "floor_ms": 0.5 * p50, **bounds, "n_requests": 60})
        for stage, share in (
            ("total", 1.0),
            ("retrieval", 0.06),
            ("validation", 0.66),
            ("forecast", 0.23),
            ("decision", 0.05),
        ):
            p = p50 * share
            report["table_latency"].append(
                {
                    "k": k,
                    "stage": stage,
                    "p50_ms": p,
                    "p95_ms": 1.25 * p,
                    "p95_low_ms": 1.2 * p,
                    "p95_high_ms": 1.32 * p,
                    "p99_ms": 1.6 * p,
                }
            )
    return report


def cold_start() -> dict[str, Any]:
    """A cold-start report in which priors help most when there is least history."""
    strategies = {
        "no_prior": 0.55,
        "fleet_prior": 0.33,
        "retrieved_prior": 0.22,
        "true_label_prior": 0.18,
        "fixed_config": 0.41,
        "full_history": 0.0,
    }
    minutes = (30, 60, 120, 240, 480)
    priors = ("fleet_prior", "retrieved_prior", "true_label_prior")
    return {
        "fleet": "demo",
        "table_cold_start": [
            {
                "minutes": m,
                "tier": tier,
                "strategy": name,
                "mean_scaled_loss": 1.4,
                "ratio": (r := 1 + excess * 30 / m),
                "ratio_low": r - 0.05 * (excess > 0),
                "ratio_high": r + 0.06 * (excess > 0),
                "n_requests": 288,
                "n_tenants": 24,
            }
            for m in minutes
            for tier in TIERS
            for name, excess in strategies.items()
        ],
        "table_gap": [
            {
                "minutes": m,
                "tier": tier,
                "prior": prior,
                "gap_closed": share,
                "gap_closed_low": share - 0.2,
                "gap_closed_high": share + 0.15,
                "gap": 16 / m,
                "gap_low": 9 / m,
                "gap_high": 24 / m,
            }
            for m in minutes
            for tier in TIERS
            for prior, share in zip(priors, (0.4, 0.6, 0.67), strict=True)
        ],
        "table_retrieval": [
            {
                "history": h,
                "top1_accuracy": a,
                "top1_low": a - 0.15,
                "top1_high": min(a + 0.1, 1.0),
                "balanced_accuracy": a - 0.04,
                "n_queries": 24,
            }
            for h, a in (("30", 0.5), ("60", 0.61), ("120", 0.74), ("240", 0.8), ("480", 0.83), ("full", 0.92))
        ],
    }


def sla() -> dict[str, Any]:
    """An SLA report whose tiers are ordered and separated."""
    level = {"premium": 3.1, "standard": 2.2, "basic": 1.7}
    return {
        "fleet": "demo",
        "table_tiers": [
            {
                "tier": tier,
                "alpha": alpha,
                "mean_scaled_decision": level[tier],
                "low": level[tier] - 0.3,
                "high": level[tier] + 0.3,
                "violation_rate": 1 - alpha + 0.012,
                "violation_rate_low": 1 - alpha - 0.01,
                "violation_rate_high": 1 - alpha + 0.03,
                "violation_rate_target": round(1 - alpha, 10),
                "mean_scaled_slack": 2.4,
                "mean_scaled_shortfall": 0.31,
                "n_requests": 288,
            }
            for tier, alpha in TIERS.items()
        ],
        "table_cross": [
            {
                "forecast_tier": f,
                "scored_tier": s,
                "mean_scaled_loss": 1.4,
                "ratio": (r := 1 + 0.3 * abs(TIERS[f] - TIERS[s])),
                "ratio_low": r - 0.01,
                "ratio_high": r + 0.02,
            }
            for f in TIERS
            for s in TIERS
            if f != s
        ],
        "table_steps": [
            {"higher_tier": "premium", "lower_tier": "standard", "difference": 0.9, "low": 0.7, "high": 1.1},
            {"higher_tier": "standard", "lower_tier": "basic", "difference": 0.5, "low": 0.4, "high": 0.6},
        ],
    }


def criteria() -> dict[str, Any]:
    """Acceptance criteria with every verdict among them."""
    rows = [
        (
            "C1",
            "paired win rate of the search, standard tier",
            "lower 95 % limit > 0.50 and point >= 0.55",
            0.562,
            0.511,
            0.613,
            "PASS",
            "",
        ),
        (
            "C2",
            "relative cut of mean cost-asymmetric loss, standard tier (primary)",
            ">= 5 %",
            0.031,
            0.002,
            0.059,
            "FAIL",
            "",
        ),
        (
            "C4",
            "p95 latency of one request from history to decision, K = 8, in ms",
            "<= 200 ms",
            167.5,
            160.8,
            176.9,
            "PASS",
            "500 requests",
        ),
        (
            "C8",
            "share of the cold-start gap at 120 minutes that the retrieved prior closes",
            ">= 50 % and better than the fleet-wide prior",
            0.6,
            0.4,
            0.75,
            "NULL",
            "gap: PASS; advantage over the fleet-wide prior: NULL",
        ),
        (
            "C6",
            "top-1 archetype retrieval of held-out tenants, full history",
            ">= 0.90",
            None,
            None,
            None,
            "N/A",
            "no archetypes",
        ),
    ]
    keys = ("id", "title", "target", "figure", "low", "high", "verdict", "note")
    return {"fleet": "demo", "table_criteria": [dict(zip(keys, row, strict=True)) for row in rows]}


def gallery_record(tenant_id: str = "tenant-0007", title: str = "median tenant", seed: int = 0, spike: float = 0.0) -> dict[str, Any]:
    """A day of history and an hour of horizon at a step of a minute."""
    rng = np.random.default_rng(seed)
    level = 0.3 + 0.1 * np.sin(np.arange(1500) * 2 * np.pi / 1440) + 0.02 * rng.standard_normal(1500)
    level[1460:1475] += spike
    start = datetime(2024, 1, 15, 3, 30)
    return {
        "tenant_id": tenant_id,
        "metric": "cpu_util",
        "title": title,
        "tier": "standard",
        "times": [start + timedelta(minutes=i) for i in range(1500)],
        "origin": start + timedelta(minutes=1439),
        "history": level[:1440].tolist(),
        "actual": level[1440:].tolist(),
        "decision_search": (0.32 + 0.0002 * np.arange(60)).tolist(),
        "decision_fixed": (0.335 - 0.0001 * np.arange(60)).tolist(),
        "loss_search": 1.21,
        "loss_fixed": 1.34,
    }


def provenance() -> dict[str, Any]:
    return {
        "fleet": "demo",
        "title": "Synthetic demo fleet",
        "description": "48 tenants over three weeks, at least three of every archetype.",
        "profile": "full",
        "source": "generated by tsfm_pipeline.fleets.synthetic",
        "test_from": datetime(2024, 1, 15, 0, 21),
        "test_to": datetime(2024, 1, 21, 22, 11),
        "horizon_minutes": 60.0,
        "git_commit": "0123abc",
        "reproduce": ["git checkout 0123abc", "dagster asset materialize -m tsfm_pipeline.definitions --select '*' --partition demo"],
        "checkpoint": "bundled",
        "checkpoint_sha256": "9f" * 32,
        "dtype": "float32",
        "settings": {
            "search": {"neighbours": 5, "temperatures": [0.0, 0.02, 0.05, 0.1]},
            "evaluation": {"seed": 20_250_101},
        },
        "packages": {"torch": "2.13.0", "polars": "1.44.0"},
        "fingerprints": {"forecast_grid": "b1946ac92492d234", "scored_forecasts": "7c6a180b36896a0a"},
    }


def data_quality() -> dict[str, Any]:
    return {
        "n_tenants": 48,
        "n_metrics": 4,
        "step_minutes": 1.0,
        "n_steps": 30_240,
        "first_time": datetime(2024, 1, 1),
        "last_time": datetime(2024, 1, 21, 23, 59),
        "n_missing": 9_870,
        "missing_share": 0.0017,
        "n_duplicates": 3,
        "n_gaps": 7,
        "longest_gap_steps": 65,
        "n_requests": 288,
        "n_invalid_requests": 3,
        "n_excluded_series": 1,
        "invalid_reasons": {"gap of N steps in the history": 3},
        "left_out": {"tenant-0040": "too new: 300 steps of history"},
        "table_incomplete": [{"tenant_id": "tenant-0003", "missing_share": 0.021, "n_gaps": 5, "longest_gap": 65, "n_duplicates": 3}],
    }


def ledger() -> dict[str, Any]:
    """Two materialisations."""
    runs = (("2026-01-01 02:00:00+00:00", 0.98), ("2026-01-02 02:00:00+00:00", 0.969))
    return {
        "table_ledger": [
            {
                "time": time,
                "git_commit": "0123abc",
                "checkpoint_sha256": "9f" * 32,
                "n_requests": 288,
                **{"standard_ratio": r, "standard_ratio_low": r - 0.03, "standard_ratio_high": r + 0.03},
            }
            for time, r in runs
        ]
    }


def reports(**replaced: Any) -> dict[str, dict[str, Any]]:
    """All reports of a fleet, some replaced."""
    return {
        "headline_report": headline(),
        "ablation_report": ablation(),
        "latency_report": latency(),
        "cold_start_report": cold_start(),
        "sla_report": sla(),
        "acceptance_criteria": criteria(),
        "experiment_ledger": ledger(),
    } | replaced


def page(**replaced: Any) -> dict[str, Any]:
    """Keyword arguments of `render_fleet_report`."""
    gallery = [
        gallery_record(),
        gallery_record("tenant-0012", "largest gain", 1),
        gallery_record("tenant-0031", "worst miss", 2, spike=0.6),
    ]
    return {
        "reports": reports(),
        "gallery": gallery,
        "provenance": provenance(),
        "data_quality": data_quality(),
    } | replaced
