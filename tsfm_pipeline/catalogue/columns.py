"""Columns of the fleets' tables: name, type, meaning and unit of each, declared once.

What belongs here: every column of a fleet's tables, because a name means the same in all of them.
What does not: which table has which columns (`tables`), the class `Column` (`registry`), and the
columns of other scopes, which are declared beside their tables.
"""

import polars as pl

from tsfm_pipeline.catalogue.registry import Column
from tsfm_pipeline.catalogue.serving_columns import SERVING_COLUMNS

TEXT, FLAG = pl.String(), pl.Boolean()
INT32, INT64, FLOAT32, FLOAT64 = pl.Int32(), pl.Int64(), pl.Float32(), pl.Float64()
METRIC, SCALE = "units of the metric", "units of the scale"

_COLUMNS = (
    Column("tenant_id", TEXT, "the tenant's name in its source"),
    Column("tenant_number", INT32, "position of the tenant in the fleet, from 0", "number"),
    Column("timestamp", pl.Datetime("ms", "UTC"), "time of the step"),
    Column("archetype", TEXT, "archetype, null where unknown; in config_priors the retrieved one"),
    Column(
        "tier",
        TEXT,
        "SLA tier; premium .90, standard .75, basic .65; in forecast_quality all: deciles that "
        "are the same for every tier",
    ),
    Column(
        "first_step",
        INT32,
        "first step of the fleet's grid at which the tenant was observed",
        "steps",
    ),
    Column(
        "last_step",
        INT32,
        "last step of the fleet's grid at which the tenant was observed",
        "steps",
    ),
    Column("n_observed", INT64, "values observed between the two, over all metrics", "count"),
    Column("n_missing", INT64, "values missing between the two, over all metrics", "count"),
    Column(
        "n_duplicates",
        INT64,
        "rows dropped because a later one had the same tenant and time",
        "count",
    ),
    Column("n_gaps", INT64, "runs of missing values, summed over metrics", "count"),
    Column("longest_gap", INT32, "the longest run of missing values, in steps", "steps"),
    Column(
        "fold",
        INT32,
        "-1: tuning tenant; 0 and above: test tenant of that fold; -2: outside of the cohort",
        "number",
    ),
    Column("test_start_step", INT32, "first step of the tenant's test period", "steps"),
    Column("name", TEXT, "name of the array, by fold and index"),
    Column("dtype", TEXT, "numpy dtype of the array"),
    Column("shape", pl.List(pl.Int64()), "shape of the array"),
    Column("data", pl.Binary(), "the array's bytes, C order"),
    Column("history", TEXT, "minutes of history that the query sees, or full"),
    Column("query_step", INT32, "last step of the query's history", "steps"),
    Column("retrieved", TEXT, "archetype that the neighbours vote for"),
    Column("request_id", INT64, "tenant_number x 10,000 + number of the origin", "number"),
    Column("role", TEXT, "tuning: before any test period; test: in the tenant's test period"),
    Column("origin_step", INT32, "last observed step before the forecast", "steps"),
    Column("origin_time", pl.Datetime("us", "UTC"), "time of the origin"),
    Column("valid", FLAG, "whether the request can be forecast and scored"),
    Column("reason", TEXT, "why it cannot, empty where it can"),
    Column(
        "n_known",
        INT32,
        "history up to the origin that a window may use: since the first value, or since the last "
        "gap that is too long",
        "steps",
    ),
    Column(
        "basis",
        TEXT,
        "what the answer rests on: full history, shortened, or cold (nothing of the tenant's own "
        "past can be validated); empty where it cannot be asked",
    ),
    Column("metric", TEXT, "which of the tenant's metrics"),
    Column(
        "scale",
        FLOAT64,
        "mean absolute one-step difference before the test period; NaN: excluded",
        METRIC,
    ),
    Column("std_scale", FLOAT64, "standard deviation before the test period", METRIC),
    Column(
        "config",
        TEXT,
        "configuration: context in steps; resolution, season and transform where there is one",
    ),
    Column(
        "rank",
        INT32,
        "place in the order in which the configurations were chosen, from 0",
        "number",
    ),
    Column(
        "set_cost",
        FLOAT64,
        "cross-fitted cost of the softmax average of the set up to this rank, over the best "
        "single one's",
        "ratio",
    ),
    Column(
        "member",
        FLAG,
        "the configuration is in the portfolio: the set up to the last such rank costs least, "
        "the price of its tokens included",
    ),
    Column("offset_steps", INT64, "how far before the request the validation origin lies", "steps"),
    Column("method", TEXT, "baseline, rival, single configuration or search"),
    Column("chosen", TEXT, "the configuration of largest weight"),
    Column(
        "shift",
        FLOAT32,
        "correction of the level, in units of q.9 - q.5",
        "units of q.9 - q.5",
    ),
    Column(
        "loss",
        FLOAT32,
        "mean pinball loss at the tier's alpha, in units of the metric",
        METRIC,
    ),
    Column("violation_rate", FLOAT32, "share of observed steps above the decision", "share"),
    Column("slack", FLOAT32, "mean reserved but unused, in units of the metric", METRIC),
    Column("shortfall", FLOAT32, "mean used but not reserved, in units of the metric", METRIC),
    Column(
        "crps",
        FLOAT32,
        "continuous ranked probability score from the deciles, in units of the metric",
        METRIC,
    ),
    Column("scaled_loss", FLOAT32, "loss over the series' scale", SCALE),
    Column("minutes", INT32, "history that the tenant brings", "minutes"),
    Column(
        "strategy",
        TEXT,
        "what decides: a prior, no prior, the fixed configuration, or the search with the full "
        "history",
    ),
    Column("n_steps", INT32, "observed steps of the horizon", "count"),
    Column(
        "quantile_loss_sum",
        FLOAT64,
        "twice the mean pinball loss over the nine deciles, summed over the observed steps",
        METRIC,
    ),
    Column("abs_actual_sum", FLOAT64, "sum of the absolute values observed", METRIC),
    Column("abs_error_sum", FLOAT64, "sum of the absolute errors of the median", METRIC),
    Column(
        "coverage_80",
        FLOAT64,
        "share of the observed steps between the deciles .1 and .9, both included",
        "share",
    ),
    Column(
        "seasonal_error",
        FLOAT64,
        "mean absolute difference of steps one season apart, before the test period; NaN where 0 "
        "or unknown",
        METRIC,
    ),
    Column(
        "irreducible_loss",
        FLOAT32,
        "mean pinball loss of the true conditional quantile at the tier's alpha, in units of the "
        "metric",
        METRIC,
    ),
    Column(
        "monte_carlo_error",
        FLOAT32,
        "what the finite number of simulated paths adds to irreducible_loss, estimated",
        METRIC,
    ),
    Column("n_tuning_tenants", INT64, "tenants that the choices were made on", "count"),
    Column("n_tuning_requests", INT64, "valid requests that the choices were made on", "count"),
    Column("policy", TEXT, "the search's policy as JSON"),
    Column("shared_choices", TEXT, "every rival's shared choice as JSON"),
    Column("scope", TEXT, "all, archetype or metric"),
    Column("scope_value", TEXT, "which archetype or metric"),
    Column("n_requests", INT64, "paired requests", "count"),
    Column("n_tenants", INT64, "tenants of these requests", "count"),
    Column("n_days", INT64, "days of these requests", "count"),
    Column("n_failed", INT64, "valid requests for which the method has no forecast", "count"),
    Column(
        "covered",
        FLOAT32,
        "1 where no observed step of the block exceeded the constant, else 0",
        "share",
    ),
    Column(
        "peak_factor",
        FLOAT64,
        "allowances that a block's maximum needs above the constant, the same for all metrics",
        "ratio",
    ),
    Column("n_blocks", INT64, "valid tuning requests with a constant", "count"),
    Column("own_tier", FLAG, "whether it is the tenant's own tier"),
    Column(
        "block_start",
        pl.Datetime("us", "UTC"),
        "time of the block's first step, one after the tenant's last",
    ),
    Column("block_end", pl.Datetime("us", "UTC"), "time of the block's last step"),
    Column("made", FLAG, "whether there is a recommendation"),
    Column(
        "note",
        TEXT,
        "why there is none, what the backtest does not cover, or that the series is intermittent; "
        "empty otherwise",
    ),
    Column(
        "demand_interval",
        FLOAT32,
        "mean number of steps per busy step of an intermittent series, for which reservation_max "
        "is the constant to take; null for other series",
        "steps",
    ),
    Column(
        "reservation",
        FLOAT32,
        "constant for all steps of the block: its pooled distribution's alpha-quantile, in units "
        "of the metric",
        METRIC,
    ),
    Column(
        "reservation_max",
        FLOAT32,
        "constant that the block's maximum stays below with probability alpha; null without ten "
        "past blocks",
        METRIC,
    ),
    Column("reservation_median", FLOAT32, "median of the block's pooled distribution", METRIC),
    Column(
        "reservation_fixed",
        FLOAT32,
        "what the fixed configuration would reserve for all steps",
        METRIC,
    ),
    Column("reservation_last_block", FLOAT32, "alpha-quantile of the block before", METRIC),
    Column(
        "config_weight",
        FLOAT32,
        "share of the heaviest configuration in the average behind the reservation",
        "share",
    ),
    Column("look_alike", TEXT, "the tuning tenant whose last week resembles this tenant's most"),
    Column(
        "expected_violation_rate",
        FLOAT32,
        "share of steps above such constants on the tuning tenants, before the test period",
        "share",
    ),
    Column(
        "relative_validation_loss",
        FLOAT32,
        "posterior validation loss of the heaviest configuration over the fixed one's",
        "ratio",
    ),
    Column(
        "n_validation_origins",
        INT64,
        "earlier origins of the series that were scored for this request",
        "count",
    ),
    Column(
        "expected_slack",
        FLOAT32,
        "mean reserved but unused that the pooled distribution expects, in units of the metric",
        METRIC,
    ),
    Column(
        "expected_shortfall",
        FLOAT32,
        "mean used but not reserved that the pooled distribution expects, in units of the metric",
        METRIC,
    ),
    Column(
        "loss_{tier}",
        FLOAT32,
        "mean pinball loss at {tier}'s alpha, in units of the metric",
        METRIC,
    ),
    Column(
        "loss_median",
        FLOAT32,
        "mean pinball loss at median's alpha, in units of the metric",
        METRIC,
    ),
    Column(
        "violation_{tier}",
        FLOAT32,
        "share of observed steps above the {tier} decision",
        "share",
    ),
    Column(
        "fleet_{tier}",
        FLOAT32,
        "relative loss over the other tuning tenants, mean 1 over configurations",
        "ratio",
    ),
    Column(
        "retrieved_{tier}",
        FLOAT32,
        "the same over the tuning tenants that resemble the request's",
        "ratio",
    ),
    Column(
        "violations_{tier}",
        FLOAT32,
        "violation rate of the {tier} decision over those tenants",
        "share",
    ),
    Column("mean_scaled_loss", FLOAT64, "mean over requests of the scaled loss", SCALE),
    Column("ratio", FLOAT64, "of mean scaled loss to the fixed configuration's", "ratio"),
    Column(
        "win_rate",
        FLOAT64,
        "share of requests won against the fixed configuration, ties half",
        "share",
    ),
    Column("mean_scaled_slack", FLOAT64, "mean over requests of slack over scale", SCALE),
    Column("mean_scaled_crps", FLOAT64, "mean over requests of CRPS over scale", SCALE),
    Column("ratio_low", FLOAT64, "low limit of the 95 % two-way bootstrap interval", "ratio"),
    Column("ratio_high", FLOAT64, "high limit of the 95 % two-way bootstrap interval", "ratio"),
    Column("win_rate_low", FLOAT64, "low limit of the 95 % two-way bootstrap interval", "share"),
    Column("win_rate_high", FLOAT64, "high limit of the 95 % two-way bootstrap interval", "share"),
    Column("{metric}", FLOAT32, "value of the metric; null where nothing was observed", METRIC),
    Column("{feature}", FLOAT64, "feature of the history before any test period"),
    Column(
        "actual",
        FLOAT32,
        "what happened at each step after the origin; NaN: not observed",
        METRIC,
        axis="H",
    ),
    Column(
        "forecast",
        FLOAT32,
        "per step the mean, then the deciles .1 to .9",
        METRIC,
        axis="H",
        per_entry=10,
        deciles=True,
    ),
    Column(
        "deciles",
        FLOAT32,
        "per step the deciles .1 to .9",
        METRIC,
        axis="H",
        per_entry=9,
        deciles=True,
    ),
    Column("decision", FLOAT32, "the decision forecast per step", METRIC, axis="H"),
    Column(
        "weights",
        FLOAT32,
        "weight of each configuration, in the portfolio's order",
        "share",
        axis="K",
    ),
    Column(
        "posterior",
        FLOAT32,
        "relative posterior loss of each configuration, in the portfolio's order",
        "ratio",
        axis="K",
    ),
)

COLUMNS: dict[str, Column] = {column.name: column for column in (*_COLUMNS, *SERVING_COLUMNS)}
"""Every column or template of columns, by its name. H: steps of the horizon, K: configurations."""

SERIES = ("request_id", "tenant_number", "metric")
"""The columns that identify a series at a request."""


def columns(*names: str) -> tuple[Column, ...]:
    """Return the declared columns of these names, in this order. Raises KeyError for an unknown
    name.
    """
    return tuple(COLUMNS[name] for name in names)
