"""Group `scores`: every method on every test request, and the figures that follow.

What belongs here: the records of the group's tables. What does not: how they are made (`steps`).
"""

from dataclasses import replace

from tsfm_pipeline.catalogue import parameters
from tsfm_pipeline.catalogue.columns import COLUMNS, FLOAT64, SERIES, columns
from tsfm_pipeline.catalogue.parameters import FLEET
from tsfm_pipeline.catalogue.registry import Table

MEAN_VIOLATION_RATE = replace(COLUMNS["violation_rate"], dtype=FLOAT64)

TABLES = (
    Table(
        "irreducible_losses",
        FLEET,
        "scores",
        1,
        question="What would a forecaster still lose who knew the generator and its state? Rows "
        "for synthetic fleets only.",
        row="test request, metric and tier; synthetic fleets only",
        inputs=("request_targets",),
        parameters=parameters.irreducible,
        columns=columns(*SERIES, "tier", "irreducible_loss", "monte_carlo_error"),
        sharded=True,
    ),
    Table(
        "scored_forecasts",
        FLEET,
        "scores",
        5,
        question="What did every method's decision cost, at every test request and tier?",
        row="test request, metric, method and tier",
        inputs=("request_targets", "baseline_forecasts", "autoresearch_forecasts", "tuning_losses"),
        parameters=parameters.decided,
        columns=columns(
            *SERIES,
            "method",
            "tier",
            "loss",
            "violation_rate",
            "slack",
            "shortfall",
            "crps",
            "scaled_loss",
        ),
        key=("request_id", "metric", "method", "tier"),
        sharded=True,
    ),
    Table(
        "cold_start_tuning_losses",
        FLEET,
        "scores",
        1,
        question="What did configurations for short histories cost before the test period?",
        row="tuning request of a tuning tenant, metric and small configuration",
        inputs=("tenant_telemetry", "tenant_manifest", "forecast_requests", "request_targets"),
        parameters=parameters.cold_start_losses,
        columns=columns(*SERIES, "config", "loss_{tier}"),
        sharded=True,
    ),
    Table(
        "cold_start_losses",
        FLEET,
        "scores",
        1,
        question="What would each request cost if its tenant had only just arrived, with and "
        "without the experience of others?",
        row="test request, minutes of history, tier and strategy; mean over metrics",
        inputs=(
            "tenant_telemetry",
            "tenant_manifest",
            "forecast_requests",
            "request_targets",
            "archetype_index",
            "cold_start_tuning_losses",
            "search_policy",
            "scored_forecasts",
        ),
        parameters=parameters.cold_start_answers,
        columns=columns(
            "request_id", "tenant_number", "minutes", "tier", "strategy", "scaled_loss"
        ),
        sharded=True,
    ),
    Table(
        "forecast_quality",
        FLEET,
        "scores",
        3,
        question="How good are whole forecasts, apart from what a decision costs: CRPS, WQL, MASE "
        "and coverage of every method's deciles?",
        row="test request, metric, method and tier, or all tiers where the deciles are the same",
        inputs=(
            "tenant_telemetry",
            "tenant_manifest",
            "request_targets",
            "baseline_forecasts",
            "autoresearch_forecasts",
            "tuning_losses",
        ),
        parameters=parameters.decided,
        columns=columns(
            *SERIES,
            "method",
            "tier",
            "n_steps",
            "crps",
            "quantile_loss_sum",
            "abs_actual_sum",
            "abs_error_sum",
            "coverage_80",
            "seasonal_error",
        ),
        key=("request_id", "metric", "method", "tier"),
        sharded=True,
    ),
    Table(
        "headline_scores",
        FLEET,
        "scores",
        4,
        question="How does every method compare with the best fixed configuration, with which "
        "confidence, and for whom?",
        row="tier, scope, value of the scope and method",
        inputs=("scored_forecasts", "tenant_manifest"),
        parameters=parameters.headline,
        columns=(
            *columns(
                "tier",
                "scope",
                "scope_value",
                "method",
                "mean_scaled_loss",
                "ratio",
                "ratio_low",
                "ratio_high",
                "win_rate",
                "win_rate_low",
                "win_rate_high",
            ),
            MEAN_VIOLATION_RATE,
            *columns(
                "mean_scaled_slack",
                "mean_scaled_crps",
                "n_requests",
                "n_tenants",
                "n_days",
                "n_failed",
            ),
        ),
    ),
)
