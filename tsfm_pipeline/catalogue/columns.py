"""What every column of every table means, and its type: one dictionary, because a name means the same in each table.

What belongs here: names, types, units and meanings, for checks, the UI and the codebook. What does not: which tables there are (`tables`).
"""

from collections.abc import Sequence

from tsfm_pipeline.evaluation.protocol import TIERS

COLUMNS: dict[str, tuple[str, str]] = {
    "tenant_id": ("String", "the tenant's name in its source"),
    "tenant_number": ("Int32", "position of the tenant in the fleet, from 0"),
    "timestamp": ("Datetime(time_unit='ms', time_zone='UTC')", "time of the step"),
    "archetype": ("String", "archetype, null where unknown; in config_priors the retrieved one"),
    "tier": ("String", "SLA tier; premium .90, standard .75, basic .65; in forecast_quality all: deciles that are the same for every tier"),
    "first_step": ("Int32", "first step of the fleet's grid at which the tenant was observed"),
    "last_step": ("Int32", "last step of the fleet's grid at which the tenant was observed"),
    "n_observed": ("Int64", "values observed between the two, over all metrics"),
    "n_missing": ("Int64", "values missing between the two, over all metrics"),
    "n_duplicates": ("Int64", "rows dropped because a later one had the same tenant and time"),
    "n_gaps": ("Int64", "runs of missing values, summed over metrics"),
    "longest_gap": ("Int32", "the longest run of missing values, in steps"),
    "fold": ("Int32", "-1: tuning tenant; 0 and above: test tenant of that fold"),
    "test_start_step": ("Int32", "first step of the tenant's test period"),
    "name": ("String", "<fold>/<index>/<array>"),
    "dtype": ("String", "numpy dtype of the array"),
    "shape": ("List(Int64)", "shape of the array"),
    "data": ("Binary", "the array's bytes, C order"),
    "history": ("String", "minutes of history that the query sees, or full"),
    "query_step": ("Int32", "last step of the query's history"),
    "actual": ("String", "true archetype"),
    "retrieved": ("String", "archetype that the neighbours vote for"),
    "request_id": ("Int64", "tenant_number x 10,000 + number of the origin"),
    "role": ("String", "tuning: before any test period; test: in the tenant's test period"),
    "origin_step": ("Int32", "last observed step before the forecast"),
    "origin_time": ("Datetime(time_unit='us', time_zone='UTC')", "time of the origin"),
    "valid": ("Boolean", "whether the request can be forecast and scored"),
    "reason": ("String", "why it cannot, empty where it can"),
    "metric": ("String", "which of the tenant's metrics"),
    "scale": ("Float64", "mean absolute one-step difference before the test period; NaN: excluded"),
    "std_scale": ("Float64", "standard deviation before the test period"),
    "config": ("String", "configuration: context in steps; resolution, season and transform where there is one"),
    "rank": ("Int32", "place in the order in which the configurations were chosen, from 0"),
    "set_cost": ("Float64", "cross-fitted cost of the softmax average of the set up to this rank, over the best single one's"),
    "offset_steps": ("Int64", "how far before the request the validation origin lies"),
    "method": ("String", "baseline, rival, single configuration or search"),
    "chosen": ("String", "the configuration of largest weight"),
    "shift": ("Float32", "correction of the level, in units of q.9 - q.5"),
    "loss": ("Float32", "mean pinball loss at the tier's alpha, in units of the metric"),
    "violation_rate": ("Float32", "share of observed steps above the decision"),
    "slack": ("Float32", "mean reserved but unused, in units of the metric"),
    "shortfall": ("Float32", "mean used but not reserved, in units of the metric"),
    "crps": ("Float32", "continuous ranked probability score from the deciles, in units of the metric"),
    "scaled_loss": ("Float32", "loss over the series' scale"),
    "n_steps": ("Int32", "observed steps of the horizon"),
    "quantile_loss_sum": ("Float64", "twice the mean pinball loss over the nine deciles, summed over the observed steps"),
    "abs_actual_sum": ("Float64", "sum of the absolute values observed"),
    "abs_error_sum": ("Float64", "sum of the absolute errors of the median"),
    "coverage_80": ("Float64", "share of the observed steps between the deciles .1 and .9, both included"),
    "seasonal_error": ("Float64", "mean absolute difference of steps one season apart, before the test period; NaN where 0 or unknown"),
    "irreducible_loss": ("Float32", "mean pinball loss of the true conditional quantile at the tier's alpha, in units of the metric"),
    "monte_carlo_error": ("Float32", "what the finite number of simulated paths adds to irreducible_loss, estimated"),
    "n_tuning_tenants": ("Int64", "tenants that the choices were made on"),
    "n_tuning_requests": ("Int64", "valid requests that the choices were made on"),
    "policy": ("String", "the search's policy as JSON"),
    "shared_choices": ("String", "every rival's shared choice as JSON"),
    "scope": ("String", "all, archetype or metric"),
    "scope_value": ("String", "which archetype or metric"),
    "n_requests": ("Int64", "paired requests"),
    "n_tenants": ("Int64", "tenants of these requests"),
    "n_days": ("Int64", "days of these requests"),
    "n_failed": ("Int64", "valid requests for which the method has no forecast"),
    "covered": ("Float32", "1 where no observed step of the block exceeded the constant, else 0"),
    "peak_factor": ("Float64", "allowances that a block's maximum needs above the constant, the same for all metrics"),
    "n_blocks": ("Int64", "valid tuning requests with a constant"),
    "own_tier": ("Boolean", "whether it is the tenant's own tier"),
    "block_start": ("Datetime(time_unit='us', time_zone='UTC')", "time of the block's first step, one after the tenant's last"),
    "block_end": ("Datetime(time_unit='us', time_zone='UTC')", "time of the block's last step"),
    "made": ("Boolean", "whether there is a recommendation"),
    "note": ("String", "why there is none, or what the backtest does not cover; empty otherwise"),
    "reservation": ("Float32", "constant for all steps of the block: its pooled distribution's alpha-quantile, in units of the metric"),
    "reservation_max": ("Float32", "constant that the block's maximum stays below with probability alpha; null without ten past blocks"),
    "reservation_median": ("Float32", "median of the block's pooled distribution"),
    "reservation_fixed": ("Float32", "what the fixed configuration would reserve for all steps"),
    "reservation_last_block": ("Float32", "alpha-quantile of the block before"),
    "config_weight": ("Float32", "share of the heaviest configuration in the average behind the reservation"),
    "look_alike": ("String", "the tuning tenant whose last week resembles this tenant's most"),
    "expected_violation_rate": ("Float32", "share of steps above such constants on the tuning tenants, before the test period"),
    "relative_validation_loss": ("Float32", "posterior validation loss of the heaviest configuration over the fixed one's"),
    "n_validation_origins": ("Int64", "earlier origins of the series that were scored for this request"),
    "expected_slack": ("Float32", "mean reserved but unused that the pooled distribution expects, in units of the metric"),
    "expected_shortfall": ("Float32", "mean used but not reserved that the pooled distribution expects, in units of the metric"),
    **{f"loss_{name}": ("Float32", f"mean pinball loss at {name}'s alpha, in units of the metric") for name in (*TIERS, "median")},
    **{f"violation_{tier}": ("Float32", f"share of observed steps above the {tier} decision") for tier in TIERS},
    **{f"fleet_{tier}": ("Float32", "relative loss over the other tuning tenants, mean 1 over configurations") for tier in TIERS},
    **{f"retrieved_{tier}": ("Float32", "the same over the tuning tenants that resemble the request's") for tier in TIERS},
    **{f"violations_{tier}": ("Float32", f"violation rate of the {tier} decision over those tenants") for tier in TIERS},
    **{
        name: ("Float64", meaning)
        for name, meaning in {
            "mean_scaled_loss": "mean over requests of the scaled loss",
            "ratio": "of mean scaled loss to the fixed configuration's",
            "win_rate": "share of requests won against the fixed configuration, ties half",
            "mean_scaled_slack": "mean over requests of slack over scale",
            "mean_scaled_crps": "mean over requests of CRPS over scale",
        }.items()
    },
    **{
        f"{name}_{side}": ("Float64", f"{side} limit of the 95 % two-way bootstrap interval")
        for name in ("ratio", "win_rate")
        for side in ("low", "high")
    },
}

ARRAYS: dict[str, tuple[str, int, str]] = {
    "actual": ("H", 1, "what happened at each step after the origin; NaN: not observed"),
    "forecast": ("H", 10, "per step the mean, then the deciles .1 to .9"),
    "deciles": ("H", 9, "per step the deciles .1 to .9"),
    "decision": ("H", 1, "the decision forecast per step"),
    "weights": ("K", 1, "weight of each configuration, in the portfolio's order"),
    "posterior": ("K", 1, "relative posterior loss of each configuration, in the portfolio's order"),
}
"""Columns of fixed-size lists: the axis they run over (H steps of the horizon, K configurations), values per entry of it, meaning."""

UNITS: dict[str, str] = {
    name: unit
    for unit, names in {
        "count": (
            *("n_observed", "n_missing", "n_duplicates", "n_gaps", "n_steps", "n_tuning_tenants", "n_tuning_requests", "n_requests"),
            *("n_tenants", "n_days", "n_failed", "n_blocks", "n_validation_origins"),
        ),
        "number": ("tenant_number", "request_id", "fold", "rank"),
        "steps": ("first_step", "last_step", "longest_gap", "test_start_step", "query_step", "origin_step", "offset_steps"),
        "units of the metric": (
            *("<metrics>", "scale", "std_scale", "loss", "slack", "shortfall", "crps", "irreducible_loss", "monte_carlo_error"),
            *(f"loss_{name}" for name in (*TIERS, "median")),
            *(f"reservation{which}" for which in ("", "_max", "_median", "_fixed", "_last_block")),
            *("expected_slack", "expected_shortfall"),
            *(
                "quantile_loss_sum",
                "abs_actual_sum",
                "abs_error_sum",
                "seasonal_error",
                "<actual>",
                "<forecast>",
                "<deciles>",
                "<decision>",
            ),
        ),
        "units of q.9 - q.5": ("shift",),
        "units of the scale": ("scaled_loss", "mean_scaled_loss", "mean_scaled_slack", "mean_scaled_crps"),
        "share": (
            *("expected_violation_rate", "covered", "config_weight"),
            *("violation_rate", "coverage_80", "<weights>", "win_rate", "win_rate_low", "win_rate_high"),
            *(f"{kind}_{tier}" for kind in ("violation", "violations") for tier in TIERS),
        ),
        "ratio": (
            *("relative_validation_loss", "peak_factor"),
            *("set_cost", "ratio", "ratio_low", "ratio_high", "<posterior>"),
            *(f"{kind}_{tier}" for kind in ("fleet", "retrieved") for tier in TIERS),
        ),
    }.items()
    for name in names
}
"""The unit of every column of numbers, as `TABLE_COLUMNS` names it; text, times and bytes have none, features each their own."""

_KEYS = ("request_id", "tenant_number", "metric")
TABLE_COLUMNS: dict[str, tuple[str, ...]] = {
    "tenant_telemetry": ("tenant_id", "timestamp", "<metrics>"),
    "tenant_manifest": (
        *("tenant_number", "tenant_id", "archetype", "tier", "first_step", "last_step", "n_observed", "n_missing"),
        *("n_duplicates", "n_gaps", "longest_gap", "fold", "test_start_step"),
    ),
    "tenant_features": ("tenant_number", "<features>"),
    "archetype_index": ("name", "dtype", "shape", "data"),
    "archetype_retrieval": ("tenant_number", "tenant_id", "fold", "history", "query_step", "actual", "retrieved"),
    "forecast_requests": (*("request_id", "tenant_number", "tenant_id", "fold", "role", "origin_step", "origin_time", "valid", "reason"),),
    "request_targets": (*_KEYS, "scale", "std_scale", "<actual>"),
    "forecast_grid": (*_KEYS, "config", "<forecast>"),
    "validation_losses": (
        *_KEYS,
        "config",
        "offset_steps",
        *(f"loss_{tier}" for tier in TIERS),
        *(f"violation_{tier}" for tier in TIERS),
    ),
    "baseline_forecasts": (*_KEYS, "method", "<deciles>"),
    "config_portfolio": ("fold", "rank", "config", "set_cost"),
    "tuning_losses": (*_KEYS, "config", *(f"loss_{name}" for name in (*TIERS, "median")), *(f"violation_{tier}" for tier in TIERS)),
    "config_priors": (
        *_KEYS,
        "config",
        *(f"{kind}_{tier}" for kind in ("fleet", "retrieved", "violations") for tier in TIERS),
        "archetype",
        "fold",
    ),
    "search_policy": ("fold", "n_tuning_tenants", "n_tuning_requests", "policy", "shared_choices"),
    "autoresearch_forecasts": (*_KEYS, "tier", "chosen", "shift", "<weights>", "<posterior>", "<decision>", "<deciles>"),
    "scored_forecasts": (
        *_KEYS,
        *("method", "tier", "loss", "violation_rate", "slack", "shortfall", "crps", "scaled_loss"),
    ),
    "forecast_quality": (
        *_KEYS,
        *("method", "tier", "n_steps", "crps", "quantile_loss_sum", "abs_actual_sum", "abs_error_sum", "coverage_80", "seasonal_error"),
    ),
    "block_calibration": ("fold", "metric", "tier", "violation_rate", "peak_factor", "n_blocks"),
    "recommendation_scores": (
        *(*_KEYS, "method", "tier", "reservation", "loss", "violation_rate", "slack", "shortfall", "covered", "scaled_loss"),
    ),
    "recommendations": (
        *("tenant_number", "tenant_id", "metric", "tier", "own_tier", "block_start", "block_end", "made", "note"),
        *("reservation", "reservation_max", "reservation_median", "reservation_fixed", "reservation_last_block", "config_weight"),
        *("expected_violation_rate", "relative_validation_loss", "expected_slack", "expected_shortfall"),
        *("config", "archetype", "look_alike", "n_validation_origins"),
    ),
    "irreducible_losses": (*_KEYS, "tier", "irreducible_loss", "monte_carlo_error"),
    "headline_scores": (
        *("tier", "scope", "scope_value", "method", "mean_scaled_loss", "ratio", "ratio_low", "ratio_high"),
        *("win_rate", "win_rate_low", "win_rate_high", "violation_rate", "mean_scaled_slack", "mean_scaled_crps"),
        *("n_requests", "n_tenants", "n_days", "n_failed"),
    ),
}


OTHER_TYPES: dict[tuple[str, str], str] = {("headline_scores", "violation_rate"): "Float64"}
"""(table, column): the type where it is not the one of `COLUMNS`."""

ROWS: dict[str, str] = {
    "tenant_telemetry": "tenant and step of the fleet's grid",
    "tenant_manifest": "tenant",
    "tenant_features": "tenant",
    "archetype_index": "array of an index; not meant to be read by others",
    "archetype_retrieval": "test tenant and history that its query sees",
    "forecast_requests": "request, tuning and test",
    "request_targets": "request and metric, tuning and test",
    "forecast_grid": "request, metric and configuration, tuning and test",
    "validation_losses": "request that is searched, metric, configuration and validation origin",
    "baseline_forecasts": "test request, metric and baseline that needs no model",
    "config_portfolio": "test fold and rank",
    "tuning_losses": "tuning request, metric and configuration",
    "config_priors": "test fold, request that is searched, metric and configuration",
    "search_policy": "test fold",
    "autoresearch_forecasts": "test request, metric and tier",
    "scored_forecasts": "test request, metric, method and tier",
    "forecast_quality": "test request, metric, method and tier, or all tiers where the deciles are the same",
    "irreducible_losses": "test request, metric and tier; synthetic fleets only",
    "block_calibration": "test fold, metric and tier",
    "recommendation_scores": "test request, metric, method and tier",
    "recommendations": "tenant, metric and tier",
    "headline_scores": "tier, scope, value of the scope and method",
}
"""What a row of each table is."""


def expected_schema(table: str, metrics: Sequence[str], horizon: int, n_configs: int) -> dict[str, tuple[str, str]]:
    """{column: (type, meaning)} of a table, in its order, for a fleet with these metrics, this horizon and K configurations."""
    lengths = {"H": horizon, "K": n_configs}
    schema: dict[str, tuple[str, str]] = {}
    for column in TABLE_COLUMNS[table]:
        name = column.strip("<>")
        if column == "<metrics>":
            schema |= dict.fromkeys(metrics, ("Float32", "value of the metric; null where nothing was observed"))
        elif column == "<features>":
            from tsfm_pipeline.archetypes.features import feature_names

            schema |= dict.fromkeys(feature_names(metrics), ("Float64", "feature of the history before any test period"))
        elif column.startswith("<"):
            axis, per_entry, meaning = ARRAYS[name]
            schema[name] = (f"Array(Float32, shape=({lengths[axis] * per_entry},))", meaning)
        else:
            dtype, meaning = COLUMNS[name]
            schema[name] = (OTHER_TYPES.get((table, name), dtype), meaning)
    return schema
