"""Which tables a fleet has, what each is made from, and the fingerprint that says so.

What belongs here: the registry of tables, in the order in which they are made. The asset graph's dependencies are read from it, so
that lineage and staleness cannot disagree. What does not: making a table (the domain packages), storing one (`lake`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tsfm_pipeline.evaluation.protocol import PROTOCOL, Protocol
from tsfm_pipeline.files import fingerprint
from tsfm_pipeline.fleets.spec import FleetSpec
from tsfm_pipeline.lake import SCHEMA_VERSION
from tsfm_pipeline.settings import RESAMPLES, Settings


@dataclass(frozen=True)
class FingerprintContext:
    """What a table's fingerprint may depend on, besides its inputs."""

    spec: FleetSpec
    settings: Settings
    source_fingerprint: str
    checkpoint_digest: str
    protocol: Protocol = PROTOCOL


Parameters = Callable[[FingerprintContext], Any]


@dataclass(frozen=True)
class Table:
    """One table: its name (the asset's name), its group in the graph, its inputs, and what else changes its content.

    Raise `version` when the code that makes the table changes what it contains; `tables.lock` and its test ask for it
    (`catalogue.tables_lock`).
    """

    name: str
    group: str
    version: int
    inputs: tuple[str, ...] = ()
    parameters: Parameters = field(default=lambda context: None)

    @property
    def code_version(self) -> str:
        return str(self.version)


def _tiers(context: FingerprintContext) -> Any:
    """Alphas in order of the tiers, because the order is that of the arrays' axis."""
    return list(context.protocol.tiers.items())


def _decided(context: FingerprintContext) -> Any:
    """What decides a table that is made from deciles for every tier."""
    return [_tiers(context), context.protocol.deciles]


def _model(context: FingerprintContext) -> Any:
    return [context.checkpoint_digest, context.settings.dtype, context.spec.horizon]


def _forecasts(context: FingerprintContext) -> Any:
    return [*_model(context), context.settings.search.portfolio_size, context.protocol.deciles]


def _portfolio(context: FingerprintContext) -> Any:
    search = context.settings.search
    offsets = search.recent_origins, search.daily_origins
    sample = search.portfolio_tenants, search.portfolio_origins, search.single_requests
    return [_model(context), search.candidates, search.ranked_size, *sample, offsets, _decided(context)]


def _validation(context: FingerprintContext) -> Any:
    search = context.settings.search
    return [_forecasts(context), search.recent_origins, search.daily_origins, _tiers(context)]


def _requests(context: FingerprintContext) -> Any:
    return [
        context.spec.origins_per_tenant,
        context.spec.horizon,
        context.spec.max_gap,
        context.settings.search.candidates,
        context.settings.evaluation.seed,
    ]


def _split(context: FingerprintContext) -> Any:
    evaluation = context.settings.evaluation
    return [evaluation.seed, evaluation.tuning_share, evaluation.cross_fitting_folds]


def _manifest(context: FingerprintContext) -> Any:
    return [_split(context), list(context.protocol.tier_shares.items())]


def _headline(context: FingerprintContext) -> Any:
    """Also what the reports alone read: a report is current while this table's fingerprint is."""
    evaluation = context.settings.evaluation
    resamples = evaluation.model_dump(mode="json", include=set(RESAMPLES))
    return [resamples, _tiers(context), context.protocol.latency_budget_ms]


_TABLES = (
    Table("tenant_telemetry", "workloads", 1, (), lambda c: [c.source_fingerprint, c.settings.shard_tenants]),
    Table("tenant_manifest", "workloads", 2, ("tenant_telemetry",), _manifest),
    Table("tenant_features", "archetypes", 1, ("tenant_telemetry", "tenant_manifest")),
    Table(
        "archetype_index",
        "archetypes",
        1,
        ("tenant_telemetry", "tenant_manifest"),
        lambda c: [c.settings.evaluation.cold_start_minutes, c.settings.evaluation.seed],
    ),
    Table("forecast_requests", "forecasts", 2, ("tenant_telemetry", "tenant_manifest"), _requests),
    Table(
        "archetype_retrieval",
        "archetypes",
        2,
        ("tenant_telemetry", "tenant_manifest", "archetype_index", "forecast_requests"),
        lambda c: c.settings.evaluation.cold_start_minutes,
    ),
    Table("request_targets", "forecasts", 1, ("tenant_telemetry", "tenant_manifest", "forecast_requests")),
    Table(
        "irreducible_losses",
        "scores",
        1,
        ("request_targets",),
        lambda c: [c.settings.evaluation.seed, _tiers(c)],
    ),
    Table("config_portfolio", "forecasts", 4, ("tenant_telemetry", "tenant_manifest", "forecast_requests", "request_targets"), _portfolio),
    Table("forecast_grid", "forecasts", 4, ("tenant_telemetry", "forecast_requests", "config_portfolio"), _forecasts),
    Table("validation_losses", "forecasts", 4, ("tenant_telemetry", "forecast_requests", "config_portfolio"), _validation),
    Table(
        "baseline_forecasts",
        "forecasts",
        1,
        ("tenant_telemetry", "forecast_requests"),
        lambda c: [c.spec.horizon, c.protocol.deciles],
    ),
    Table("tuning_losses", "forecasts", 2, ("forecast_grid", "request_targets"), _decided),
    Table(
        "config_priors",
        "forecasts",
        3,
        ("tuning_losses", "archetype_index"),
        lambda c: [c.settings.search.neighbours, _tiers(c)],
    ),
    Table(
        "search_policy",
        "forecasts",
        5,
        ("forecast_grid", "request_targets", "validation_losses", "tuning_losses", "config_priors"),
        lambda c: [c.settings.search.model_dump(mode="json"), _decided(c)],
    ),
    Table(
        "autoresearch_forecasts",
        "forecasts",
        2,
        ("forecast_grid", "validation_losses", "config_priors", "search_policy"),
        _decided,
    ),
    Table(
        "scored_forecasts",
        "scores",
        3,
        ("request_targets", "baseline_forecasts", "autoresearch_forecasts", "tuning_losses"),
        _decided,
    ),
    Table(
        "forecast_quality",
        "scores",
        1,
        ("tenant_telemetry", "tenant_manifest", "request_targets", "baseline_forecasts", "autoresearch_forecasts", "tuning_losses"),
        _decided,
    ),
    Table(
        "headline_scores",
        "scores",
        1,
        ("scored_forecasts", "tenant_manifest"),
        _headline,
    ),
    Table(
        "block_calibration",
        "recommendations",
        1,
        ("tenant_telemetry", "forecast_grid", "request_targets", "validation_losses", "config_priors", "search_policy"),
        _decided,
    ),
    Table(
        "recommendation_scores",
        "recommendations",
        1,
        ("tenant_telemetry", "request_targets", "baseline_forecasts", "autoresearch_forecasts", "block_calibration"),
        _decided,
    ),
    Table(
        "recommendations",
        "recommendations",
        3,
        ("tenant_telemetry", "tenant_manifest", "archetype_index", "tuning_losses", "search_policy", "block_calibration"),
        _decided,
    ),
)

TABLES: dict[str, Table] = {table.name: table for table in _TABLES}


def expected_fingerprints(context: FingerprintContext) -> dict[str, str]:
    """The fingerprint of every table under these settings, for this fleet and this checkpoint.

    A table's fingerprint covers those of its inputs, so that a change anywhere upstream makes everything downstream stale.
    """
    fingerprints: dict[str, str] = {}
    for table in _TABLES:
        fingerprints[table.name] = fingerprint(
            table.name,
            SCHEMA_VERSION,
            table.version,
            [fingerprints[name] for name in table.inputs],
            table.parameters(context),
        )
    return fingerprints
