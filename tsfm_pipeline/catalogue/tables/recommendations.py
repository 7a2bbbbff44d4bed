"""Group `recommendations`: what to reserve for the next block, and what such constants cost in the
past.

What belongs here: the records of the group's tables. What does not: how they are made (`steps`).
"""

from tsfm_pipeline.catalogue import parameters
from tsfm_pipeline.catalogue.columns import SERIES, columns
from tsfm_pipeline.catalogue.parameters import FLEET
from tsfm_pipeline.catalogue.registry import Table

TABLES = (
    Table(
        "block_calibration",
        FLEET,
        "recommendations",
        2,
        question="How often was one constant per block exceeded before any test period, and how "
        "far beyond it does a block's maximum lie?",
        row="test fold, metric and tier",
        inputs=(
            "tenant_telemetry",
            "forecast_grid",
            "request_targets",
            "validation_losses",
            "config_priors",
            "search_policy",
        ),
        parameters=parameters.decided,
        columns=columns("fold", "metric", "tier", "violation_rate", "peak_factor", "n_blocks"),
        key=("fold", "metric", "tier"),
    ),
    Table(
        "recommendation_scores",
        FLEET,
        "recommendations",
        3,
        question="What would one constant per block have cost at every test request, by the "
        "search and by what people use instead?",
        row="test request, metric, method and tier",
        inputs=(
            "tenant_telemetry",
            "request_targets",
            "baseline_forecasts",
            "autoresearch_forecasts",
            "block_calibration",
        ),
        parameters=parameters.decided,
        columns=columns(
            *SERIES,
            "method",
            "tier",
            "reservation",
            "loss",
            "violation_rate",
            "slack",
            "shortfall",
            "covered",
            "scaled_loss",
        ),
        key=("request_id", "metric", "method", "tier"),
        sharded=True,
    ),
    Table(
        "recommendations",
        FLEET,
        "recommendations",
        7,
        question="How much should every tenant reserve for its next block, per metric and tier, "
        "and on which evidence?",
        row="tenant, metric and tier",
        inputs=(
            "tenant_telemetry",
            "tenant_manifest",
            "search_bundle",
            "block_calibration",
        ),
        parameters=parameters.decided,
        columns=columns(
            "tenant_number",
            "tenant_id",
            "metric",
            "tier",
            "own_tier",
            "block_start",
            "block_end",
            "made",
            "note",
            "reservation",
            "reservation_max",
            "reservation_median",
            "reservation_fixed",
            "reservation_last_block",
            "config_weight",
            "expected_violation_rate",
            "relative_validation_loss",
            "expected_slack",
            "expected_shortfall",
            "config",
            "archetype",
            "look_alike",
            "n_validation_origins",
            "basis",
            "demand_interval",
        ),
        key=("tenant_number", "metric", "tier"),
        sharded=True,
    ),
)
