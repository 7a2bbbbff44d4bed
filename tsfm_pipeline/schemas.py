"""What every column of every table means, and its type: one dictionary, because a name means the same in each table.

What belongs here: names, types and meanings, for checks and for the UI. What does not: which tables there are (`tables`).
"""

from collections.abc import Sequence

from tsfm_pipeline.settings import TIERS

COLUMNS: dict[str, tuple[str, str]] = {
    "tenant_id": ("String", "the tenant's name in its source"),
    "tenant_number": ("Int32", "position of the tenant in the fleet, from 0"),
    "timestamp": ("Datetime(time_unit='ms', time_zone='UTC')", "time of the step"),
    "archetype": ("String", "archetype, null where unknown; in config_priors the retrieved one"),
    "tier": ("String", "SLA tier; premium .90, standard .75, basic .65"),
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
    "irreducible_losses": (*_KEYS, "tier", "irreducible_loss", "monte_carlo_error"),
    "headline_scores": (
        *("tier", "scope", "scope_value", "method", "mean_scaled_loss", "ratio", "ratio_low", "ratio_high"),
        *("win_rate", "win_rate_low", "win_rate_high", "violation_rate", "mean_scaled_slack", "mean_scaled_crps"),
        *("n_requests", "n_tenants", "n_days", "n_failed"),
    ),
}


def expected_schema(table: str, metrics: Sequence[str], horizon: int, n_configs: int) -> dict[str, tuple[str, str]]:
    """{column: (type, meaning)} of a table, in its order, for a fleet with these metrics, this horizon and K configurations."""
    arrays = {
        "actual": (horizon, "what happened at each step after the origin; NaN: not observed"),
        "forecast": (horizon * 10, "per step the mean, then the deciles .1 to .9"),
        "deciles": (horizon * 9, "per step the deciles .1 to .9"),
        "decision": (horizon, "the decision forecast per step"),
        "weights": (n_configs, "weight of each configuration, in the portfolio's order"),
        "posterior": (n_configs, "relative posterior loss of each configuration, in the portfolio's order"),
    }
    schema: dict[str, tuple[str, str]] = {}
    for column in TABLE_COLUMNS[table]:
        name = column.strip("<>")
        if column == "<metrics>":
            schema |= dict.fromkeys(metrics, ("Float32", "value of the metric; null where nothing was observed"))
        elif column == "<features>":
            from tsfm_pipeline.archetypes.features import feature_names

            schema |= dict.fromkeys(feature_names(metrics), ("Float64", "feature of the history before any test period"))
        elif column.startswith("<"):
            length, meaning = arrays[name]
            schema[name] = (f"Array(Float32, shape=({length},))", meaning)
        else:
            schema[name] = COLUMNS[name]
    if table == "headline_scores":
        schema["violation_rate"] = ("Float64", COLUMNS["violation_rate"][1])
    return schema
