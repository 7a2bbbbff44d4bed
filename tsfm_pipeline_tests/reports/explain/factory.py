"""Make the explanation of a tenant of plausible size and shape."""

import math
from typing import Any

from tsfm_pipeline.reports.explain.model import (
    BacktestRow,
    CorrectionRow,
    MissRow,
    NeighbourRow,
    ReservationRow,
    TenantExplanation,
    ValidationRow,
    WeightRow,
)

OFFSETS = {60: 60.0, 1440: 1440.0, 10080: 10080.0}


def reservation(tier: str = "standard", **changed: Any) -> ReservationRow:
    """What to reserve of one metric, at the tenant's own tier if it is standard."""
    fields: dict[str, Any] = {
        "metric": "cpu_util",
        "tier": tier,
        "own_tier": tier == "standard",
        "reservation": 0.42,
        "reservation_max": 0.61,
        "reservation_median": 0.3,
        "reservation_fixed": 0.45,
        "reservation_last_block": 0.5,
        "expected_violation_rate": 0.24,
        "config": "ctx512",
        "config_weight": 0.7,
        "relative_validation_loss": 0.95,
        "n_validation_origins": 7,
        "basis": "full",
        "note": "",
    }
    return ReservationRow(**fields | changed)


def explanation(**changed: Any) -> TenantExplanation:
    """A tenant of standard tier: two configurations have weight, one of them is the fixed one, and
    nothing is known of the week before.
    """
    losses = {60: 0.02, 1440: 0.03, 10080: math.nan}
    fields: dict[str, Any] = {
        "fleet": "demo",
        "tenant_id": "web-1",
        "tier": "standard",
        "alpha": 0.75,
        "archetype": "b2b-saas",
        "basis": "full",
        "block_start": "2024-01-15 00:00",
        "block_end": "2024-01-15 00:59",
        "block_minutes": 60.0,
        "rule": "gate",
        "scored_request": "2024-01-14 10:00",
        "scored_role": "test",
        "table_reservations": (
            reservation("premium", reservation=0.55),
            reservation(),
            reservation("basic", reservation=0.36),
        ),
        "table_weights": tuple(
            WeightRow(
                metric="cpu_util",
                config=config,
                is_fixed=config == "ctx1024",
                weight=weight,
                posterior=0.9,
                mean_validation_loss=0.025,
                n_validation_origins=2,
            )
            for config, weight in (("ctx512", 0.7), ("ctx1024", 0.3))
        ),
        "table_validation": tuple(
            ValidationRow(
                metric="cpu_util",
                config=config,
                offset_steps=offset,
                offset_minutes=minutes,
                loss=losses[offset],
            )
            for config in ("ctx512", "ctx1024")
            for offset, minutes in OFFSETS.items()
        ),
        "table_corrections": (
            CorrectionRow(
                metric="cpu_util",
                shift=0.12,
                violation_rate=0.24,
                violation_rate_target=0.25,
                peak_factor=1.06,
                n_blocks=30,
            ),
        ),
        "table_neighbours": (
            NeighbourRow(rank=1, tenant_id="web-7", archetype="b2b-saas", similarity=0.9),
            NeighbourRow(rank=2, tenant_id="cron-2", archetype=None, similarity=-0.1),
        ),
        "table_backtest": (
            BacktestRow(
                metric="cpu_util",
                n_requests=12,
                ratio_fixed=0.93,
                ratio_last_block=0.8,
                violation_rate=0.22,
                violation_rate_target=0.25,
                covered=0.75,
            ),
        ),
        "table_misses": (
            MissRow(
                metric="cpu_util",
                block_start="2024-01-14 23:30",
                block_end="2024-01-15 00:29",
                reservation=0.42,
                highest=0.52,
                n_above=15,
                n_observed=60,
                minutes_above=15.0,
                shortfall=0.01,
            ),
        ),
    }
    return TenantExplanation(**fields | changed)
