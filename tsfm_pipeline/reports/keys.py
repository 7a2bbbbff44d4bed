"""What the keys of the report JSONs mean: the codebook's second half, as `catalogue.columns` is its first.

What belongs here: for every report its keys and the columns of its tables, with unit and meaning. What does not: tables of the lake
(`catalogue.columns`), computing anything. A test holds this against the reports of a real run.

`<tier>_`, `<k>_` and `<method>_` stand for premium, standard and basic; k1, k2, ... (a number of configurations); search,
fixed_quantile and seasonal_naive. The limits `_low` and `_high` of a figure are not listed.
"""

from collections.abc import Mapping

from tsfm_pipeline.catalogue.columns import COLUMNS
from tsfm_pipeline.catalogue.tables import TABLES

Keys = Mapping[str, tuple[str, str]]
"""{key: (unit, meaning)}; no unit: text."""

LIMITS = ("_low", "_high")
TOP = ""
"""The keys of a report that are in none of its tables."""


def _columns(*names: str) -> dict[str, tuple[str, str]]:
    """Columns that mean what they mean in the tables of the lake."""
    return {name: (COLUMNS[name].unit, COLUMNS[name].meaning) for name in names}


_LIMITS_OF_A_RECORD = {name: ("that of the figure before", f"{name} limit of its 95 % interval") for name in ("low", "high")}
_SCORES = _columns(*(column.name for column in TABLES["headline_scores"].columns if not column.name.endswith(LIMITS)))
_SKILLS = {
    "wql": ("ratio", "sum of quantile losses over sum of absolute values, mean over metrics"),
    "sql": ("ratio", "mean quantile loss in units of the seasonal error, mean over metrics"),
    "mase": ("ratio", "mean absolute error of the median in units of the seasonal error, mean over metrics"),
    "coverage_80": ("share", "observed values between the deciles .1 and .9, mean over metrics"),
    "wql_skill": ("share", "cut of seasonal naive's WQL: 1 - ratio of the two, 0: as good, 1: perfect"),
    "mase_skill": ("share", "cut of seasonal naive's MASE"),
}
_QUALITY_ROW = {**_columns("method", "tier"), **_SKILLS, **_columns("n_failed")}
_CONFIDENT_RATIO = {"ratio": ("ratio", "of mean scaled losses"), "verdict": ("", "what the interval shows")}

REPORT_KEYS: dict[str, dict[str, Keys]] = {
    "headline_report": {
        TOP: {
            "horizon_steps": ("steps", "length of every forecast"),
            "n_requests": ("count", "test requests"),
            "n_invalid_requests": ("count", "of these, cannot be forecast or scored"),
            "n_test_tenants": ("count", "tenants of these requests"),
            "n_excluded_series": ("count", "series without a scale"),
            "invalid_reasons": ("count", "invalid requests by reason"),
            "n_tenants_without_requests": ("count", "test tenants none of whose requests is valid"),
            "<tier>_mean_loss_fixed": ("units of the scale", "mean scaled loss of the fixed configuration"),
            "<tier>_mean_loss_search": ("units of the scale", "mean scaled loss of the search"),
            "<tier>_ratio": ("ratio", "of mean scaled losses, search to fixed configuration"),
            "<tier>_win_rate": ("share", "requests won by the search, ties half"),
            "<tier>_p_value": ("share", "two-sided, from swapping the labels of whole tenants"),
            **{f"<tier>_violation_rate_{m}": ("share", f"observed steps above the decision of the {m}") for m in ("search", "fixed")},
            "<tier>_violation_rate_target": ("share", "1 - alpha"),
            "<tier>_n_requests_scored": ("count", "requests that both answered"),
            "<tier>_n_tenants_scored": ("count", "tenants of these requests"),
            **{f"<tier>_n_failed_{m}": ("count", f"valid requests without an answer of the {m}") for m in ("search", "fixed")},
            "<tier>_fixed_config": ("", "the configuration to beat, per test fold"),
            "<tier>_std_scaled_ratio": ("ratio", "the ratio under scaling by standard deviation"),
            "<tier>_leave_one_out_ratio_min": ("ratio", "least ratio with one series left out"),
            "<tier>_leave_one_out_ratio_max": ("ratio", "largest ratio with one series left out"),
            "<tier>_mean_log_ratio": ("log of a ratio", "mean over series of the log of search to fixed"),
            "<tier>_n_tenants_cheaper": ("count", "tenants whose mean scaled loss is lower with the search; the standard tier only"),
            "<tier>_headroom_cross_fitted": (
                "share",
                "gain of one configuration per tenant, chosen on one half of the origins, scored on the other",
            ),
            "<tier>_headroom_null_low": ("share", "lower limit of that gain where tenants are exchangeable (95 % of permutations)"),
            "<tier>_headroom_null_high": ("share", "upper limit of the same"),
            "<tier>_headroom_oracle_tenant": ("share", "gain of the best configuration per tenant in hindsight; inflated"),
            "<tier>_headroom_oracle_request": ("share", "gain of the best configuration per request in hindsight; inflated"),
        },
        "table_methods": {k: v for k, v in _SCORES.items() if not k.startswith("scope")},
        "table_archetypes": _SCORES,
        "table_metrics": _SCORES,
        "table_unscaled": _columns("tier", "metric", "method", "loss", "slack", "shortfall", "violation_rate"),
        "table_tenants": {
            **_columns("tier", "tenant_id", "archetype", "ratio"),
            "mean_loss_search": ("units of the scale", "the tenant's mean scaled loss with the search"),
            "mean_loss_fixed": ("units of the scale", "the same with the fixed configuration"),
            **_columns("n_requests"),
        },
    },
    "forecast_quality_report": {
        TOP: {
            "horizon_steps": ("steps", "length of every forecast"),
            "season_steps": ("steps", "the season of seasonal naive and of the seasonal error: the fleet's first"),
            "n_requests": ("count", "valid test requests"),
            "n_series_without_seasonal_error": ("count", "series that have no MASE and no SQL"),
            "reference": ("", "the method that skill is measured against"),
            "headline_tier": ("", "the tier whose deciles the keys of search and fixed_quantile are about"),
            "coverage_80_target": ("share", "what coverage_80 should be"),
            **{f"<method>_{name}": entry for name, entry in _SKILLS.items()},
            "search_wql_skill_over_fixed": ("share", "cut of the fixed configuration's WQL by the search"),
            "search_mase_skill_over_fixed": ("share", "cut of the fixed configuration's MASE by the search"),
            "fev_summary_rows": ("count", "rows of fev_summary.csv"),
        },
        "table_methods": _QUALITY_ROW,
        "table_metrics": {**_columns("metric"), **_QUALITY_ROW},
    },
    "ablation_report": {
        TOP: {
            "group_scope": ("", "what groups are: archetype, tenant or metric"),
            "n_configs": ("count", "configurations of the grid"),
            "harmed_groups": ("", "groups and tiers at which the search is shown to cost more"),
            "n_harmed_groups": ("count", "how many of them"),
            "<tier>_headroom_cross_fitted": ("share", "as in headline_report"),
            "<tier>_headroom_null_low": ("share", "as in headline_report"),
            "<tier>_headroom_null_high": ("share", "as in headline_report"),
            "<tier>_headroom_low": ("share", "lower limit of the cross-fitted gain"),
            "<tier>_headroom_high": ("share", "upper limit of the cross-fitted gain"),
            "<tier>_headroom_p_value": ("share", "of the cross-fitted gain under its null"),
            "<tier>_headroom_oracle_tenant": ("share", "as in headline_report"),
            "<tier>_headroom_oracle_request": ("share", "as in headline_report"),
            "<tier>_headroom_captured": ("share", "of the cross-fitted gain that the search takes; null where there is none"),
            "<tier>_regret": ("share", "what the search costs more than the cross-fitted choice"),
            "<tier>_label_swap_rejection_rate": ("share", "swapped labels that an interval calls an effect; about .05 is right"),
            "<tier>_default_rule": ("", "the rule that decides, per test fold"),
            "<tier>_floor_mean_scaled_loss": ("units of the scale", "mean irreducible loss; synthetic fleets only"),
            "<tier>_floor_monte_carlo_share": ("share", "of it that the finite number of paths adds"),
            "<tier>_reducible_captured": ("share", "of the fixed configuration's loss above the floor that the search removes"),
        },
        "table_steps": {
            **_columns("tier", "scope", "scope_value"),
            "step": ("number", "position of the step"),
            **_columns("method"),
            "adds": ("", "what the step adds"),
            **_columns("mean_scaled_loss"),
            "step_ratio": ("ratio", "of mean scaled loss to the step before"),
            **_columns("ratio"),
            "harmed": ("true or false", "the search is shown to cost this group more"),
            **_columns("n_requests", "n_failed"),
        },
        "table_rivals": {
            **_columns("tier", "method"),
            "forecasts": ("", "what the method computes per request: none, 1 or K forecasts, validated or not"),
            **_columns("mean_scaled_loss", "ratio"),
            "search_ratio": ("ratio", "of mean scaled loss, search to this method"),
            "beaten": ("", "yes, no or undecided, by that interval"),
            **_columns("n_failed"),
        },
        "table_selection": {
            **_columns("tier", "scope", "scope_value", "config"),
            "mean_weight": ("share", "mean weight in the search's decisions"),
            "share_chosen": ("share", "series-requests at which it weighs most"),
            "n_series_requests": ("count", "series-requests: request and metric"),
        },
        "table_violations": {
            **_columns("tier", "method", "violation_rate"),
            "target": ("share", "1 - alpha"),
            "excess": ("share", "violation_rate - target"),
        },
        "table_controls": {**_columns("tier"), "control": ("", "the prior that the retrieved one is held against"), **_CONFIDENT_RATIO},
        "table_dimensions": {
            **_columns("tier"),
            "dimension": ("", "kind of configuration that is left out"),
            **_columns("method"),
            "n_configs": ("count", "configurations that are left"),
            **_CONFIDENT_RATIO,
            **_columns("n_failed"),
        },
        "table_floor": {
            **_columns("tier", "scope", "scope_value", "method"),
            "multiple": ("ratio", "of mean scaled loss to the irreducible one"),
        },
    },
    "cold_start_report": {
        TOP: {
            "configs": ("", "the configurations that short histories can fill"),
            **{f"retrieval_{h}_top1": ("share", f"tenants whose archetype is found, history {h}") for h in ("full", "120")},
            **{f"retrieval_{h}_balanced": ("share", f"mean over archetypes of the same, history {h}") for h in ("full", "120")},
        },
        "table_cold_start": {
            "minutes": ("minutes", "history that the tenant brings"),
            **_columns("tier"),
            "strategy": ("", "what decides"),
            **_columns("mean_scaled_loss"),
            "ratio": ("ratio", "of mean scaled loss to full history's"),
            **_columns("n_requests", "n_tenants"),
        },
        "table_gap": {
            "minutes": ("minutes", "history that the tenant brings"),
            **_columns("tier"),
            "prior": ("", "whose experience is borrowed"),
            "gap": ("units of the scale", "mean scaled loss without a prior above full history's"),
            "gap_closed": ("share", "of the gap that the prior closes"),
            "advantage_over_fleet_prior": (
                "units of the scale",
                "what the retrieved prior gains over the fleet-wide one; limits: advantage_*",
            ),
            "advantage_low": ("units of the scale", "lower limit of it"),
            "advantage_high": ("units of the scale", "upper limit of it"),
        },
        "table_retrieval": {
            **_columns("history"),
            "top1_accuracy": ("share", "queries whose archetype is found; limits: top1_*"),
            "top1_low": ("share", "lower limit of it"),
            "top1_high": ("share", "upper limit of it"),
            "balanced_accuracy": ("share", "mean over archetypes of the same"),
            "majority_share": ("share", "what always naming the commonest archetype would reach"),
            "n_queries": ("count", "queries"),
        },
    },
    "sla_report": {
        "table_tiers": {
            **_columns("tier"),
            "alpha": ("level", "the tier's quantile level"),
            "mean_scaled_decision": ("units of the scale", "mean decision"),
            **_LIMITS_OF_A_RECORD,
            **_columns("violation_rate"),
            "violation_rate_target": ("share", "1 - alpha"),
            **_columns("mean_scaled_slack"),
            "mean_scaled_shortfall": ("units of the scale", "mean over requests of shortfall over scale"),
            **_columns("n_requests"),
        },
        "table_steps": {
            "higher_tier": ("", "the tier that reserves more"),
            "lower_tier": ("", "the next tier"),
            "difference": ("units of the scale", "mean difference of their decisions"),
            **_LIMITS_OF_A_RECORD,
        },
        "table_cross": {
            "forecast_tier": ("", "whose forecast is used"),
            "scored_tier": ("", "at whose alpha it is scored"),
            **_columns("mean_scaled_loss"),
            "own_mean_scaled_loss": ("units of the scale", "of the scored tier's own forecast"),
            "ratio": ("ratio", "of the two"),
        },
    },
    "latency_report": {
        TOP: {
            "device": ("", "where it was measured"),
            "threads": ("count", "threads of the forecaster"),
            "dtype": ("", "of the weights"),
            "checkpoint": ("", "name of the model"),
            "checkpoint_size_mib": ("MiB", "its weights"),
            "n_parameters": ("count", "of the model"),
            "n_metrics": ("count", "series of one request"),
            "n_validation_origins": ("count", "past origins that a request validates at"),
            "budget_ms": ("ms", "latency that a request may take"),
            "portfolio_size": ("count", "configurations of the search, its K"),
            "matmul_gflops_per_s": ("GFLOP/s", "what the device reaches in a matrix product"),
            "copy_gb_per_s": ("GB/s", "what the device reaches in a copy"),
            "<k>_n_requests": ("count", "timed requests"),
            **{f"<k>_p{p}_latency_ms": ("ms", f"{p}th percentile from history to decision") for p in (50, 95, 99)},
            "<k>_p95_low_ms": ("ms", "lower limit of the 95th percentile"),
            "<k>_p95_high_ms": ("ms", "upper limit of the 95th percentile"),
            "<k>_floor_ms": ("ms", "least time that the request's arithmetic takes on this device"),
            "<k>_achieved_share_of_floor": ("ratio", "floor over the measured time"),
            "<k>_mean_scaled_loss": ("units of the scale", "what the timed decisions cost"),
            "<k>_loss_ratio": ("ratio", "of that to the fixed configuration's on the same requests"),
            "n_requests": ("count", "timed requests at the portfolio's K"),
            "n_scored_requests": ("count", "requests whose decisions are scored"),
            "scored_tier": ("", "the tier they are scored at"),
            "largest_k_within_budget": ("count", "largest K whose 95th percentile is within the budget"),
        },
        "table_latency": {
            "k": ("count", "configurations"),
            "stage": ("", "part of the request; total: all of it"),
            **{f"p{p}_ms": ("ms", f"{p}th percentile") for p in (50, 95, 99)},
            "p95_low_ms": ("ms", "lower limit of the 95th percentile"),
            "p95_high_ms": ("ms", "upper limit of the 95th percentile"),
        },
        "table_pareto": {
            "k": ("count", "configurations"),
            **{f"p{p}_ms": ("ms", f"{p}th percentile of the whole request") for p in (50, 95)},
            "floor_ms": ("ms", "as in <k>_floor_ms"),
            "achieved_share_of_floor": ("ratio", "as in <k>_achieved_share_of_floor"),
            **_columns("mean_scaled_loss", "ratio", "n_requests"),
        },
    },
    "acceptance_criteria": {
        TOP: {f"n_{v}": ("count", f"criteria with this verdict: {v}") for v in ("pass", "fail", "null", "na")},
        "table_criteria": {
            "id": ("", "C1 to C10"),
            "title": ("", "what is asked"),
            "target": ("", "what is to be reached"),
            "figure": ("as the title says", "what was reached"),
            **_LIMITS_OF_A_RECORD,
            "verdict": ("", "PASS, FAIL, NULL or N/A"),
            "note": ("", "how it was judged"),
        },
    },
    "recommendation_report": {
        TOP: {
            "block_steps": ("steps", "length of the block that one constant is for: the fleet's horizon"),
            "block_minutes": ("minutes", "the same"),
            "n_tenants": ("count", "tenants of the fleet"),
            "n_series": ("count", "tenants x metrics"),
            "n_not_made": ("count", "of these, without a recommendation; table_not_made says why"),
            "first_block_start": ("", "when the earliest of the recommended blocks begins"),
            "last_block_start": ("", "when the latest of them does"),
            "median_relative_validation_loss": ("ratio", "median over series, at the tenant's own tier"),
            "<tier>_ratio": ("ratio", "of mean scaled losses of one constant per block, search to fixed configuration"),
            "<tier>_ratio_last_block": ("ratio", "the same, search to the alpha-quantile of the block before"),
            "<tier>_ratio_percentile_margin": ("ratio", "the same, search to the alpha-quantile of the week before and 15 %"),
            **{f"<tier>_violation_rate_{m}": ("share", f"steps above the constant of the {m}") for m in ("search", "fixed")},
            "<tier>_violation_rate_target": ("share", "1 - alpha"),
            "<tier>_covered": ("share", "blocks whose maximum stayed below the constant for it"),
            "<tier>_covered_target": ("share", "alpha"),
            "<tier>_covered_largest_step": ("share", "blocks below the largest of the steps' decision quantiles"),
            "<tier>_n_requests_scored": ("count", "valid test requests"),
        },
        "table_methods": {
            **_columns("method", "tier"),
            "for_maximum": ("", "whether the constant is meant for the block's maximum, not for every step"),
            **_columns("mean_scaled_loss", "ratio", "n_requests", "violation_rate", "covered", "mean_scaled_slack", "n_failed"),
        },
    },
}
"""{report: {table, or `TOP`: {key: (unit, meaning)}}}. Every report also has `fleet`, `profile` and `scores_fingerprint`."""
