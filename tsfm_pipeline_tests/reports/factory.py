"""Make reports of plausible size and shape, in the form that the report assets give them.

What belongs here: figures made up for tests of the reporting. What does not: assertions.
"""

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar

import numpy as np

from tsfm_pipeline.evaluation.protocol import TIERS, headline_tier
from tsfm_pipeline.reports.acceptance.model import (
    CriteriaReport,
    Criterion,
    LedgerFigures,
    LedgerOfTier,
    LedgerReport,
    LedgerRow,
    Verdict,
)
from tsfm_pipeline.reports.headline.model import (
    DearRequestRow,
    GroupRow,
    HeadlineOfTier,
    HeadlineReport,
    MethodRow,
    StratumRow,
    TenantRow,
    UnscaledRow,
)
from tsfm_pipeline.reports.shared.model import Estimate, Figures
from tsfm_pipeline.reports.shared.wording import METHOD_LABELS
from tsfm_pipeline_tests.reports.ablation.factory import ablation
from tsfm_pipeline_tests.reports.cold_start.factory import cold_start
from tsfm_pipeline_tests.reports.latency.factory import latency
from tsfm_pipeline_tests.reports.quality.factory import quality
from tsfm_pipeline_tests.reports.recommendations.factory import recommendations, review
from tsfm_pipeline_tests.reports.served.factory import unserved
from tsfm_pipeline_tests.reports.sla.factory import sla

R = TypeVar("R", bound=Figures)

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
    1.33,
    1.31,
    1.44,
)


def changed(report: R, **content: Any) -> R:
    """The report with these keys of its JSON replaced."""
    return type(report).from_flat(report.flat() | content)


def without_rows(report: R) -> R:
    """The report with every table empty."""
    return changed(report, **{name: [] for name in type(report).tables()})


def headline(
    ratio: float = 0.969,
    low: float = 0.941,
    high: float = 0.998,
    archetypes: tuple[str, ...] = ARCHETYPES,
    alphas: Mapping[str, float] = TIERS,
) -> HeadlineReport:
    """A headline report of the demo fleet with this ratio at the middle tier."""
    shifts = {tier: 0.01 * (i - 1) for i, tier in enumerate(alphas)}
    methods = dict(zip(METHOD_LABELS, (ratio, *RATIOS[1:]), strict=True))
    methods |= {
        f"config:{name}": 1.0 + 0.03 * k
        for k, name in enumerate(("ctx2048", "ctx512", "ctx64", "ctx7200-r15"))
    }

    def of(method: str, shift: float) -> Estimate:
        if method == "search":
            return Estimate(ratio + shift, low + shift, high + shift)
        half = 0.0 if method == "fixed_quantile" else 0.0285
        return Estimate(methods[method], methods[method] - half, methods[method] + half)

    return HeadlineReport(
        fleet="demo",
        horizon_steps=60,
        n_requests=288,
        n_invalid_requests=3,
        n_test_tenants=24,
        n_excluded_series=1,
        invalid_reasons={"gap of N steps in the history": 3},
        n_tenants_without_requests=0,
        tiers={
            tier: HeadlineOfTier(
                mean_loss_fixed=1.52 - 0.1 * i,
                mean_loss_search=(1.52 - 0.1 * i) * (ratio + shifts[tier]),
                ratio=of("search", shifts[tier]),
                win_rate=Estimate(0.562, 0.511, 0.613),
                p_value=0.0312,
                violation_rate_fixed=1 - alpha + 0.021,
                violation_rate_search=1 - alpha + 0.008,
                violation_rate_target=round(1 - alpha, 10),
                n_requests_scored=288,
                n_tenants_scored=24,
                n_failed_search=0,
                n_failed_fixed=0,
                fixed_config="ctx2048" if i else "ctx7200-r15",
                std_scaled_ratio=Estimate(ratio + 0.004, low, high + 0.01),
                floored_ratio=of("search", shifts[tier] - 0.002),
                floored_largest_request_share=0.012,
                leave_one_out_ratio_min=ratio - 0.006,
                leave_one_out_ratio_max=ratio + 0.009,
                tenant_ratio=of("search", shifts[tier] - 0.004),
                largest_request_share=0.031,
                mean_log_ratio=math.log(ratio),
                n_tenants_cheaper=15 if tier == headline_tier(alphas) else None,
                headroom_cross_fitted=0.012,
                headroom_null_low=-0.011,
                headroom_null_high=0.009,
                headroom_oracle_tenant=0.06,
                headroom_oracle_request=0.141,
            )
            for i, (tier, alpha) in enumerate(alphas.items())
        },
        table_methods=tuple(
            MethodRow(
                tier=tier,
                method=method,
                ratio=of(method, shifts[tier]),
                mean_scaled_loss=1.42 * value,
                **SCORES,
            )
            for tier in alphas
            for method, value in methods.items()
        ),
        table_archetypes=tuple(
            _group(tier, "archetype", name, Estimate(r, r - w, r + w), n_tenants=3)
            for tier in alphas
            for name, r, w in zip(
                archetypes,
                (0.88, 0.93, 0.95, 0.98, 0.99, 1.01, 1.06, 1.12),
                (0.04, 0.05, 0.06, 0.03, 0.05, 0.02, 0.09, 0.05),
                strict=False,
            )
        ),
        table_metrics=tuple(
            _group(tier, "metric", name, Estimate(r, r - 0.03, r + 0.03))
            for tier in alphas
            for name, r in zip(METRICS, (0.94, 0.96, 0.99, 1.05), strict=True)
        ),
        table_dear_requests=tuple(
            DearRequestRow(
                tier=tier,
                tenant_id=f"api-{i:02d}",
                origin_time="2025-01-20T08:00:00+00:00",
                loss_search=40.5,
                loss_fixed=44.25 + i,
                share=0.031,
            )
            for i, tier in enumerate(alphas)
        ),
        table_strata=tuple(
            StratumRow(
                tier=tier,
                basis=basis,
                n_requests=n,
                share=n / 288,
                n_tenants=24 - k,
                mean_loss_search=1.4 + 0.2 * k,
                rival="fixed_quantile" if k else "last_value_change_quantiles",
                mean_loss_rival=1.5 + 0.2 * k,
                ratio=Estimate(0.95 + 0.02 * k, 0.91, 1.01 + 0.02 * k),
            )
            for tier in alphas
            for k, (basis, n) in enumerate((("full", 240), ("shortened", 40), ("cold", 5)))
        ),
        table_tenants=tuple(
            TenantRow(
                tier=headline_tier(alphas),
                tenant_id=f"tenant-{number:04d}",
                archetype=archetypes[0] if archetypes else None,
                ratio=Estimate(r, r - 0.05, r + 0.06),
                mean_loss_search=r,
                mean_loss_fixed=1.0,
                n_requests=12,
            )
            for number, r in ((7, 0.88), (11, 0.93), (31, 1.19))
        ),
        table_unscaled=tuple(
            UnscaledRow(
                tier=tier,
                metric=metric,
                method=m,
                loss=x,
                slack=2 * x,
                shortfall=x / 3,
                violation_rate=0.25,
            )
            for tier in alphas
            for metric, x in zip(METRICS, (0.0123, 0.00412, 48.3, 6.02), strict=True)
            for m in ("fixed_quantile", "search")
        ),
    )


SCORES: dict[str, Any] = {
    "win_rate": Estimate(0.56, 0.51, 0.61),
    "violation_rate": 0.258,
    "mean_scaled_slack": 2.31,
    "mean_scaled_crps": 2.07,
    "n_requests": 288,
    "n_tenants": 24,
    "n_days": 7,
    "n_failed": 0,
}


def _group(tier: str, scope: str, value: str, ratio: Estimate, **replaced: Any) -> GroupRow:
    names = {"tier": tier, "scope": scope, "scope_value": value, "method": "search"}
    return GroupRow(**{**SCORES, **names, "ratio": ratio, "mean_scaled_loss": 1.4, **replaced})


def criteria() -> CriteriaReport:
    """Acceptance criteria with every verdict among them."""
    rows: list[tuple[str, str, str, tuple[float, ...], Verdict, str]] = [
        (
            "C1",
            "paired win rate of the search, standard tier",
            "lower 95 % limit > 0.50 and point >= 0.55",
            (0.562, 0.511, 0.613),
            "PASS",
            "",
        ),
        (
            "C2",
            "relative cut of mean cost-asymmetric loss, standard tier (primary)",
            ">= 5 %",
            (0.031, 0.002, 0.059),
            "FAIL",
            "",
        ),
        (
            "C4",
            "p95 latency of one request from history to decision, K = 8, in ms",
            "<= 200 ms",
            (167.5, 160.8, 176.9),
            "PASS",
            "500 requests",
        ),
        (
            "C8",
            "share of the cold-start gap at 120 minutes that the retrieved prior closes",
            ">= 50 % and better than the fleet-wide prior",
            (0.6, 0.4, 0.75),
            "NULL",
            "gap: PASS; advantage over the fleet-wide prior: NULL",
        ),
        (
            "C6",
            "top-1 archetype retrieval of held-out tenants, full history",
            ">= 0.90",
            (),
            "N/A",
            "no archetypes",
        ),
    ]
    judged = tuple(
        Criterion(
            id=name,
            title=title,
            target=target,
            reached=Estimate(*reached),
            verdict=verdict,
            note=note,
        )
        for name, title, target, reached, verdict, note in rows
    )
    return CriteriaReport(fleet="demo", n_pass=2, n_fail=1, n_null=1, n_na=1, table_criteria=judged)


def gallery_record(
    tenant_id: str = "tenant-0007", title: str = "median tenant", seed: int = 0, spike: float = 0.0
) -> dict[str, Any]:
    """A day of history and an hour of horizon at a step of a minute."""
    rng = np.random.default_rng(seed)
    level = (
        0.3 + 0.1 * np.sin(np.arange(1500) * 2 * np.pi / 1440) + 0.02 * rng.standard_normal(1500)
    )
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
        "reproduce": [
            "git checkout 0123abc",
            "dagster asset materialize -m tsfm_pipeline.definitions --select '*' --partition demo",
        ],
        "checkpoint": "bundled",
        "checkpoint_sha256": "9f" * 32,
        "dtype": "float32",
        "settings": {
            "search": {"neighbours": 5, "temperatures": [0.0, 0.02, 0.05, 0.1]},
            "evaluation": {"seed": 20_250_101},
        },
        "packages": {"torch": "2.13.0", "polars": "1.44.0"},
        "fingerprints": {
            "forecast_grid": "b1946ac92492d234",
            "scored_forecasts": "7c6a180b36896a0a",
        },
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
        "table_incomplete": [
            {
                "tenant_id": "tenant-0003",
                "missing_share": 0.021,
                "n_gaps": 5,
                "longest_gap": 65,
                "n_duplicates": 3,
            }
        ],
    }


def run(time: str, ratio: float = math.nan, half_width: float = math.nan) -> LedgerRow:
    """One materialisation with this ratio at the standard tier."""
    figures = ledger_figures(Estimate(ratio, ratio - half_width, ratio + half_width))
    return LedgerRow(
        time=datetime.fromisoformat(time),
        git_commit="0123abc",
        fleet="demo",
        profile="full",
        settings_hash="5e77",
        checkpoint="bundled",
        checkpoint_sha256="9f" * 32,
        scores_fingerprint="5c03",
        constants=("{}",),
        n_requests=288,
        n_invalid_requests=3,
        tiers={"standard": LedgerOfTier(**dict(figures), fixed_config="ctx2048")},
    )


def ledger_figures(ratio: Estimate) -> LedgerFigures:
    return LedgerFigures(
        ratio=ratio, win_rate=0.56, p_value=0.03, mean_loss_fixed=1.5, mean_loss_search=1.45
    )


def ledger(*runs: LedgerRow) -> LedgerReport:
    """These materialisations, or two."""
    rows = runs or (
        run("2026-01-01 02:00:00+00:00", 0.98, 0.03),
        run("2026-01-02 02:00:00+00:00", 0.969, 0.03),
    )
    return LedgerReport(
        fleet="demo",
        n_materialisations=len(rows),
        n_requests=288,
        n_invalid_requests=3,
        tiers={"standard": ledger_figures(rows[-1].tiers["standard"].ratio)},
        table_ledger=rows,
    )


def reports(**replaced: Any) -> dict[str, Any]:
    """All reports of a fleet, some replaced."""
    return {
        "headline_report": headline(),
        "forecast_quality_report": quality(),
        "ablation_report": ablation(),
        "latency_report": latency(),
        "cold_start_report": cold_start(),
        "sla_report": sla(),
        "acceptance_criteria": criteria(),
        "experiment_ledger": ledger(),
        "recommendation_report": recommendations(),
        "recommendation_review": review(),
        "interval_evaluation": unserved(),
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
