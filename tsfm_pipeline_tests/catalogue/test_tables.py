"""Test the registry of tables: its order, and that a changed setting makes exactly the dependent
tables stale.
"""

from pathlib import Path

import pytest

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.parameters import FingerprintContext
from tsfm_pipeline.catalogue.registry import expected_fingerprints
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.evaluation.protocol import PROTOCOL, TIERS, Protocol
from tsfm_pipeline.fleets.spec import SyntheticFleet
from tsfm_pipeline.search_settings import EARLIER_CONSTANTS
from tsfm_pipeline.settings import EvaluationSettings, SearchSettings, Settings

SPEC = SyntheticFleet(name="demo", title="Demo", kind="synthetic", tenants=48, days=21)
SETTINGS = Settings(
    data_dir=Path("/nowhere"), search=SearchSettings(), evaluation=EvaluationSettings()
)
CONTEXT = FingerprintContext(
    spec=SPEC, settings=SETTINGS, source_fingerprint="telemetry", checkpoint_digest="weights"
)

GRID = {
    "config_portfolio",
    "forecast_grid",
    "validation_losses",
    "tuning_losses",
    "config_priors",
    "search_policy",
    "search_bundle",
    "autoresearch_forecasts",
    "conformal_calibration",
}
RECOMMENDED = {"block_calibration", "recommendation_scores", "recommendations"}
OUTCOMES = {"served_outcomes", "band_alerts", "rollout_decision"}
"""What came of the service's answers."""
SCORES = {
    "scored_forecasts",
    "cold_start_losses",
    "forecast_quality",
    "headline_scores",
} | RECOMMENDED
SHORT = {"cold_start_tuning_losses"}
"""What the model forecasts from short histories alone."""
REQUESTS = (
    {
        "forecast_requests",
        "archetype_retrieval",
        "request_targets",
        "irreducible_losses",
        "baseline_forecasts",
    }
    | SHORT
    | GRID
    | SCORES
)
MANIFEST = {"tenant_manifest", "tenant_features", "archetype_index"} | REQUESTS | OUTCOMES
CALIBRATED = {"search_bundle", "conformal_calibration"}
"""The bundle, and the calibration of its answers."""
POLICY = {"search_policy", "autoresearch_forecasts"} | CALIBRATED | SCORES
PRIORS = {"config_priors"} | POLICY
INDEX = {"archetype_index", "archetype_retrieval"} | SHORT | PRIORS


def evaluation(**changes: object) -> FingerprintContext:
    settings = SETTINGS.model_copy(update={"evaluation": EvaluationSettings(**changes)})
    return FingerprintContext(SPEC, settings, "telemetry", "weights")


def search(**changes: object) -> FingerprintContext:
    settings = SETTINGS.model_copy(update={"search": SearchSettings(**changes)})
    return FingerprintContext(SPEC, settings, "telemetry", "weights")


def settings(**changes: object) -> FingerprintContext:
    return FingerprintContext(SPEC, SETTINGS.model_copy(update=changes), "telemetry", "weights")


def spec(**changes: object) -> FingerprintContext:
    return FingerprintContext(SPEC.model_copy(update=changes), SETTINGS, "telemetry", "weights")


def protocol(**changes: object) -> FingerprintContext:
    changed = Protocol(**{**PROTOCOL.model_dump(), **changes})
    return FingerprintContext(SPEC, SETTINGS, "telemetry", "weights", changed)


def forecasters(*found: tuple[str, str, str]) -> FingerprintContext:
    return FingerprintContext(SPEC, SETTINGS, "telemetry", "weights", forecasters=found)


BASELINES = {
    "baseline_forecasts",
    "scored_forecasts",
    "cold_start_losses",
    "forecast_quality",
    "headline_scores",
    "recommendation_scores",
}
"""The direct forecasts, and what scores them."""
TIERED = {"irreducible_losses"} | SHORT | GRID | SCORES
"""What is made tier by tier, and what is made from that: the grid's portfolio is chosen on
losses.
"""
PROTOCOL_CHANGES = {
    **{f"alpha of {tier}": (protocol(tiers={**TIERS, tier: 0.7}), TIERED) for tier in TIERS},
    "order of the tiers": (protocol(tiers=dict(reversed(TIERS.items()))), TIERED),
    "own tiers": (
        protocol(tiers={"gold": 0.95, "iron": 0.7}, tier_shares={"gold": 0.5, "iron": 0.5}),
        MANIFEST,
    ),
    "tier shares": (
        protocol(tier_shares={"premium": 0.3, "standard": 0.4, "basic": 0.3}),
        MANIFEST,
    ),
    "deciles": (
        protocol(deciles=(0.05, *PROTOCOL.deciles[1:])),
        GRID | SHORT | SCORES | {"baseline_forecasts"},
    ),
    "latency budget": (
        protocol(latency_budget_ms=100.0),
        {"headline_scores", "recommendations"} | CALIBRATED,
    ),
}
CHANGES = {
    **PROTOCOL_CHANGES,
    "telemetry": (
        FingerprintContext(SPEC, SETTINGS, "other telemetry", "weights"),
        set(TABLES) - {"served_forecasts"},
    ),
    "served records that were taken in": (
        FingerprintContext(SPEC, SETTINGS, "telemetry", "weights", served="records"),
        {"served_forecasts", "conformal_calibration"} | OUTCOMES,
    ),
    "checkpoint": (
        FingerprintContext(SPEC, SETTINGS, "telemetry", "other weights"),
        GRID | SHORT | SCORES,
    ),
    "dtype": (settings(dtype="bfloat16"), GRID | SHORT | SCORES),
    "shard_tenants": (settings(shard_tenants=7), set(TABLES) - {"served_forecasts"}),
    "a forecaster of another package": (forecasters(("added", "package", "1.0")), BASELINES),
    "device": (settings(device="cpu"), set()),
    "title": (spec(title="Another title"), set()),
    "nightly": (spec(nightly=True), set()),
    "people's decisions that were taken in": (
        FingerprintContext(SPEC, SETTINGS, "telemetry", "weights", overrides="records"),
        {"rollout_decision"},
    ),
    "bounds": (
        spec(upper=100.0),
        {"recommendations", "band_alerts", "rollout_decision"} | CALIBRATED,
    ),
    "prices": (spec(prices={"cpu_util": 0.03}, currency="EUR"), set()),
    "horizon": (spec(horizon=30), REQUESTS),
    "origins_per_tenant": (spec(origins_per_tenant=5), REQUESTS),
    "max_gap": (spec(max_gap=5), REQUESTS),
    "calendar": (spec(calendar="own"), MANIFEST),
    "seed of the evaluation": (evaluation(seed=1), MANIFEST),
    "tuning_share": (evaluation(tuning_share=0.4), MANIFEST),
    "cross_fitting_folds": (evaluation(cross_fitting_folds=3), MANIFEST),
    "cohort_tenants": (evaluation(cohort_tenants=40), MANIFEST),
    "cold_start_minutes": (evaluation(cold_start_minutes=(30, 120)), INDEX),
    "bootstrap_draws": (evaluation(bootstrap_draws=999), {"headline_scores"}),
    "permutations": (evaluation(permutations=999), {"headline_scores"}),
    "group_bootstrap_draws": (evaluation(group_bootstrap_draws=999), {"headline_scores"}),
    "latency_bootstrap_draws": (evaluation(latency_bootstrap_draws=999), {"headline_scores"}),
    "control_bootstrap_draws": (evaluation(control_bootstrap_draws=999), {"headline_scores"}),
    "headroom_permutations": (evaluation(headroom_permutations=998), {"headline_scores"}),
    "control_permutations": (evaluation(control_permutations=999), {"headline_scores"}),
    "latency_requests": (evaluation(latency_requests=11), set()),
    "candidates": (search(candidates=("ctx64", "ctx128")), REQUESTS),
    "portfolio_tenants": (search(portfolio_tenants=7), GRID | SCORES),
    "single_requests": (search(single_requests=7), GRID | SCORES),
    "portfolio_size": (search(portfolio_size=4), GRID | SCORES),
    "recent_origins": (search(recent_origins=3), REQUESTS),
    "daily_origins": (search(daily_origins=(1,)), REQUESTS),
    "temperatures": (search(temperatures=(0.0,)), POLICY),
    "shrinkages": (search(shrinkages=(1.0,)), POLICY),
    "correction_gains": (search(correction_gains=(0.0,)), POLICY),
    "neighbours": (search(neighbours=3), PRIORS),
    "gate_seed": (search(gate_seed=1), POLICY),
    "rules": (search(rules=("softmax", "gate")), POLICY),
    "declared_rule": (search(declared_rule="softmax"), POLICY),
    "gate_even_share": (search(gate_even_share=0.3), POLICY),
    "switch_tenants": (search(switch_tenants=12), POLICY),
    "gate_traits": (search(gate_traits=("posterior",)), POLICY),
    "gate_coefficients": (search(gate_coefficients={"posterior": -1.0}), POLICY),
    "base_shift_errors": (search(base_shift_errors=1.0), POLICY),
    "portfolio_temperature": (search(portfolio_temperature=0.1), GRID | SCORES),
    "portfolio_prior_weight": (search(portfolio_prior_weight=4.0), GRID | SCORES),
    "token_price": (search(token_price=0.0), GRID | SCORES),
    "token_budget": (search(token_budget=4_000), GRID | SCORES),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_makes_exactly_these_tables_stale(change: str) -> None:
    context, expected = CHANGES[change]
    before, after = expected_fingerprints(TABLES, CONTEXT), expected_fingerprints(TABLES, context)
    assert {table for table in TABLES if before[table] != after[table]} == expected


def test_settings_with_the_value_of_an_earlier_release_s_constant_leave_its_tables_valid() -> None:
    """Whatever their default becomes: these releases' fingerprints hold none of them."""
    earlier = search(**EARLIER_CONSTANTS)
    for name in ("config_portfolio", "search_policy", "search_bundle"):
        parameters = TABLES[name].parameters(earlier)
        assert not EARLIER_CONSTANTS.keys() & (parameters | parameters.get("search", {})).keys()
    changed = {name: CHANGES[name][0].settings.search for name in EARLIER_CONSTANTS}
    moved = search().settings.search.parameters().keys() & EARLIER_CONSTANTS.keys()
    for name, settings in changed.items():
        assert settings.parameters().keys() & EARLIER_CONSTANTS.keys() == moved | {name}


@pytest.mark.parametrize(
    ("tiers", "expected"),
    [
        ({"tiers": {"premium": 0.95, "standard": 0.75, "basic": 0.65}}, TIERED),
        (
            {"tiers": {"premium": {"shortage": 19, "slack": 1}, "standard": 0.75, "basic": 0.65}},
            TIERED,
        ),
        ({"tiers": {"basic": 0.65, "premium": 0.9, "standard": 0.75}}, set()),
        ({"tiers": {"gold": 0.95, "iron": 0.7}}, MANIFEST),
        ({"tier_shares": {"premium": 0.5, "standard": 0.5}}, MANIFEST),
    ],
)
def test_the_tiers_of_a_fleet_file_make_stale_what_they_decide_and_no_telemetry(
    tiers: dict[str, object], expected: set[str]
) -> None:
    def fingerprints(**fields: object) -> dict[str, str]:
        spec = SyntheticFleet(**{**SPEC.model_dump(exclude={"tiers", "tier_shares"}), **fields})
        return expected_fingerprints(TABLES, Fleet(SETTINGS, spec).context)

    before, after = fingerprints(), fingerprints(**tiers)
    assert {table for table in TABLES if before[table] != after[table]} == expected


def test_another_version_of_a_forecaster_s_package_makes_its_tables_stale_again() -> None:
    before, after = (
        expected_fingerprints(TABLES, forecasters(("added", "package", version)))
        for version in ("1.0", "1.1")
    )
    assert {table for table in TABLES if before[table] != after[table]} == BASELINES


FROM_DECILES_BY_TIER = {
    "config_portfolio",
    "validation_losses",
    "tuning_losses",
    "search_policy",
    "search_bundle",
    "autoresearch_forecasts",
    "scored_forecasts",
    "cold_start_tuning_losses",
    "cold_start_losses",
    "forecast_quality",
    *RECOMMENDED,
}
BY_TIER = FROM_DECILES_BY_TIER | {
    "irreducible_losses",
    "config_priors",
    "headline_scores",
    "conformal_calibration",
}


@pytest.mark.parametrize(
    ("change", "makers"),
    [
        ("alpha of standard", BY_TIER),
        ("deciles", FROM_DECILES_BY_TIER | {"forecast_grid", "baseline_forecasts"}),
        ("tier shares", {"tenant_manifest", "search_bundle"}),
        ("latency budget", {"headline_scores", "search_bundle"}),
    ],
)
def test_a_table_s_parameters_hold_what_its_own_maker_reads_of_the_protocol(
    change: str, makers: set[str]
) -> None:
    """Whatever its inputs' fingerprints hold already, which may change."""
    context, _ = CHANGES[change]
    assert {
        name
        for name, table in TABLES.items()
        if table.parameters(context) != table.parameters(CONTEXT)
    } == makers


def test_fingerprints_are_reproducible_and_differ_between_tables() -> None:
    fingerprints = expected_fingerprints(TABLES, CONTEXT)
    assert fingerprints == expected_fingerprints(TABLES, CONTEXT)
    assert list(fingerprints) == list(TABLES)
    assert len(set(fingerprints.values())) == len(TABLES)


def test_tables_come_after_their_inputs() -> None:
    seen: set[str] = set()
    for name, table in TABLES.items():
        assert set(table.inputs) <= seen, f"{name} reads tables that are made later"
        seen.add(name)


def test_before_anything_was_served_fingerprints_know_nothing_of_it() -> None:
    assert TABLES["served_forecasts"].parameters(CONTEXT) == {}


def test_every_table_is_read_by_another_or_by_a_report() -> None:
    read = {name for table in TABLES.values() for name in table.inputs}
    unread = {
        "tenant_features",
        "archetype_retrieval",
        "irreducible_losses",
        "cold_start_losses",
        "forecast_quality",
        "headline_scores",
    }
    unread |= {"recommendation_scores", "recommendations"}
    unread |= {"conformal_calibration", "rollout_decision"}
    assert set(TABLES) - read == unread


def test_every_constant_of_the_protocol_has_its_rows_and_makes_the_reports_stale() -> None:
    """Reports carry the fingerprint of `headline_scores`, and are refused where it has changed."""
    before = expected_fingerprints(TABLES, CONTEXT)["headline_scores"]
    changed = set()
    for context, _ in PROTOCOL_CHANGES.values():
        own = context.protocol.model_dump()
        changed |= {name for name, value in PROTOCOL.model_dump().items() if own[name] != value}
        assert expected_fingerprints(TABLES, context)["headline_scores"] != before
    assert changed == set(Protocol.model_fields)
