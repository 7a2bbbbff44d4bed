"""Why a table is stale, in words: each kind of change is named with its old and new value."""

from dataclasses import replace

from tsfm_pipeline.catalogue.registry import expected_fingerprints, made_from
from tsfm_pipeline.catalogue.staleness import NOT_RECORDED, why_stale
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.lake import SCHEMA_VERSION
from tsfm_pipeline_tests.catalogue.test_tables import (
    CONTEXT,
    FingerprintContext,
    protocol,
    search,
    settings,
)


def reasons(table: str, after: FingerprintContext = CONTEXT, **of_record: object) -> list[str]:
    """Why the table is stale that was made under CONTEXT, where `after` applies now."""

    def made(context: FingerprintContext) -> dict[str, object]:
        return made_from(TABLES[table], context, expected_fingerprints(TABLES, context))

    then = made(CONTEXT)
    record = {"schema_version": then["schema_version"], "made_from": {**then, **of_record}}
    return why_stale(record, made(after))


def test_a_changed_alpha_is_named_where_it_is_read_and_as_an_input_below() -> None:
    after = protocol(tiers={**TIERS, "standard": 0.8})
    assert reasons("irreducible_losses", after) == ["alphas.standard 0.75 -> 0.8"]
    assert reasons("block_calibration", after)[0] == "alphas.standard 0.75 -> 0.8"
    assert "input irreducible_losses changed" not in reasons("forecast_grid", after)
    assert reasons("forecast_grid", after) == ["input config_portfolio changed"]


def test_the_order_of_the_tiers_is_a_change_of_its_own() -> None:
    after = protocol(tiers=dict(reversed(TIERS.items())))
    assert reasons("irreducible_losses", after) == [
        "tiers[0] premium -> basic",
        "tiers[2] basic -> premium",
    ]


def test_version_schema_checkpoint_and_telemetry_are_named() -> None:
    assert reasons("forecast_grid", version=0) == [
        f"version 0 -> {TABLES['forecast_grid'].version}"
    ]
    other = replace(CONTEXT, checkpoint_digest="0123456789abcdef" * 4)
    assert reasons("config_portfolio", other) == ["checkpoint weights -> 0123456789"]
    other = replace(CONTEXT, source_fingerprint="other telemetry")
    assert reasons("tenant_telemetry", other) == ["telemetry telemetry -> other telemetry"]
    now = made_from(TABLES["tenant_telemetry"], CONTEXT, {})
    assert why_stale({"schema_version": 1, "made_from": now}, now) == [
        f"schema version 1 -> {SCHEMA_VERSION}"
    ]


def test_inputs_that_came_or_went_are_named() -> None:
    then = dict.fromkeys(TABLES["tenant_features"].inputs[1:], "changed") | {"gone": "x"}
    said = reasons("tenant_features", inputs=then)
    assert f"input {TABLES['tenant_features'].inputs[0]} is new" in said
    assert "input gone is no longer read" in said


def test_long_values_and_many_values_are_cut_short() -> None:
    said = reasons("forecast_requests", search(candidates=("ctx64",)))
    assert len(said) == 1
    assert said[0].startswith("candidates [")
    assert len(said[0]) < 150
    many = search(candidates=tuple(reversed(CONTEXT.settings.search.candidates)))
    assert reasons("forecast_requests", many)[-1].startswith("and ")


def test_a_record_that_does_not_say_is_not_guessed_at() -> None:
    now = made_from(TABLES["tenant_telemetry"], CONTEXT, {})
    assert why_stale({"schema_version": SCHEMA_VERSION}, now) == [NOT_RECORDED]
    assert reasons("tenant_telemetry") == [
        "nothing that is recorded differs; the fingerprint is made in another way"
    ]


def test_a_setting_has_its_name() -> None:
    assert reasons("tenant_telemetry", settings(shard_tenants=7)) == ["shard_tenants 25 -> 7"]
