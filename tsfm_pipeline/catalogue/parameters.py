"""The parameters in the fingerprints of a fleet's tables: what decides their content besides code
and inputs.

What belongs here: the context that parameters may read, and one function per set of parameters.
What does not: which table has which parameters (`tables`), the fingerprint itself (`registry`).
"""

from dataclasses import dataclass
from typing import Any

from tsfm_pipeline.evaluation.protocol import PROTOCOL, Protocol
from tsfm_pipeline.fleets.row_fields import event_column_of
from tsfm_pipeline.fleets.spec import FleetSpec
from tsfm_pipeline.settings import RESAMPLES, Settings

FLEET = "fleet"
"""The name of the scope."""
Parameters = dict[str, Any]
"""What decides a table, by name: `tsfm-pipeline doctor` says which of these changed."""
CHOOSING = (
    "candidates",
    "ranked_size",
    "portfolio_size",
    "portfolio_tenants",
    "portfolio_origins",
    "single_requests",
    "recent_origins",
    "daily_origins",
    "portfolio_temperature",
    "portfolio_prior_weight",
    "token_price",
    "token_budget",
)
"""Settings of the search that decide which configurations are chosen."""


@dataclass(frozen=True)
class FingerprintContext:
    """Everything that the fingerprint of a fleet's table may depend on besides its inputs."""

    spec: FleetSpec
    settings: Settings
    source_fingerprint: str
    checkpoint_digest: str
    protocol: Protocol = PROTOCOL
    forecasters: tuple[tuple[str, str, str], ...] = ()
    """Forecasters of other packages: name, distribution and version of each."""
    served: str = ""
    """Digest of the served records that were taken in; empty: none (`catalogue.intake`)."""
    overrides: str = ""
    """Digest of people's decisions about the rollout that were taken in; empty: none."""


def telemetry(context: FingerprintContext) -> Parameters:
    """Return the fingerprint of the telemetry, and the size of its shards."""
    return {
        "telemetry": context.source_fingerprint,
        "shard_tenants": context.settings.shard_tenants,
    }


def tiers(context: FingerprintContext) -> Parameters:
    """Return tiers and alphas in order, because the order is that of the arrays' axis."""
    alphas = context.protocol.tiers
    return {"tiers": list(alphas), "alphas": dict(alphas)}


def decided(context: FingerprintContext) -> Parameters:
    """Return what decides a table that is made from deciles for every tier."""
    return {**tiers(context), "deciles": context.protocol.deciles, **_tail_limits(context)}


def model(context: FingerprintContext) -> Parameters:
    """Return what every forecast of the model depends on."""
    return {
        "checkpoint": context.checkpoint_digest,
        "dtype": context.settings.dtype,
        "horizon": context.spec.horizon,
        **_own_limits(context),
    }


def forecasts(context: FingerprintContext) -> Parameters:
    """Return what decides the grid of forecasts."""
    return {**model(context), "deciles": context.protocol.deciles}


def portfolio(context: FingerprintContext) -> Parameters:
    """Return what decides which configurations are chosen."""
    return {**model(context), **decided(context), **_search(context, *CHOOSING)}


def validation(context: FingerprintContext) -> Parameters:
    """Return what decides the losses at earlier origins."""
    origins = _search(context, "recent_origins", "daily_origins")
    return {**forecasts(context), **tiers(context), **origins, **_tail_limits(context)}


def bundle(context: FingerprintContext) -> Parameters:
    """Return what decides the bundle, including what it only passes on to the service: the bounds
    and the whole protocol.
    """
    return {
        **model(context),
        **tiers(context),
        "search": context.settings.search.parameters(),
        "seed": context.settings.evaluation.seed,
        "max_gap": context.spec.max_gap,
        "bounds": bounds(context),
        "protocol": context.protocol.model_dump(mode="json"),
        **_events(context),
    }


def requests(context: FingerprintContext) -> Parameters:
    """Return what decides which requests exist and which of them are valid."""
    return {
        "origins_per_tenant": context.spec.origins_per_tenant,
        "horizon": context.spec.horizon,
        "max_gap": context.spec.max_gap,
        **_calendar(context),
        **_search(context, "candidates", "recent_origins", "daily_origins"),
        "seed": context.settings.evaluation.seed,
    }


def split(context: FingerprintContext) -> Parameters:
    """Return what decides which tenants tune and which are tested, including the size of the
    cohort where it is not the whole fleet.
    """
    evaluation = context.settings.evaluation
    cohort = {"cohort_tenants"} if evaluation.cohort_tenants else set()
    return evaluation.model_dump(
        mode="json", include={"seed", "tuning_share", "cross_fitting_folds"} | cohort
    )


def manifest(context: FingerprintContext) -> Parameters:
    """Return the split, and the shares by which tenants are assigned to tiers, in their order."""
    shares = context.protocol.tier_shares
    tenants = {"tiers": list(shares), "tier_shares": dict(shares)}
    return {**split(context), **tenants, **_calendar(context)}


def headline(context: FingerprintContext) -> Parameters:
    """Return what decides the headline scores, and what only the reports read: a report is current
    as long as this table's fingerprint is.
    """
    evaluation = context.settings.evaluation
    resamples = evaluation.model_dump(mode="json", include=set(RESAMPLES))
    budget = context.protocol.latency_budget_ms
    return {**resamples, **tiers(context), "latency_budget_ms": budget}


def index(context: FingerprintContext) -> Parameters:
    """Return the lengths of the windows, and the seed that draws their starts."""
    return {**cold_start(context), "seed": context.settings.evaluation.seed}


def cold_start(context: FingerprintContext) -> Parameters:
    """Return the minutes of history of the cold start."""
    return {"cold_start_minutes": context.settings.evaluation.cold_start_minutes}


def cold_start_losses(context: FingerprintContext) -> Parameters:
    """Return what decides the losses of the configurations that short histories fill."""
    return {**model(context), **decided(context), **cold_start(context)}


def cold_start_answers(context: FingerprintContext) -> Parameters:
    """Return what decides how requests with short histories are answered."""
    return {**cold_start_losses(context), **_search(context, "neighbours")}


def irreducible(context: FingerprintContext) -> Parameters:
    """Return the seed of the simulated futures, and the tiers."""
    return {**tiers(context), "seed": context.settings.evaluation.seed}


def baselines(context: FingerprintContext) -> Parameters:
    """Return what decides the deciles of the baselines, including the forecasters of other
    packages, if any.
    """
    return {
        "horizon": context.spec.horizon,
        "deciles": context.protocol.deciles,
        "forecasters": context.forecasters,
        **_own_limits(context),
    }


def priors(context: FingerprintContext) -> Parameters:
    """Return the number of neighbours behind the retrieved prior, and the tiers."""
    return {**tiers(context), **_search(context, "neighbours")}


def served(context: FingerprintContext) -> Parameters:
    """Return which records of the online service were taken in, if any."""
    return {"served": context.served} if context.served else {}


def rollout(context: FingerprintContext) -> Parameters:
    """Return which decisions of people were taken in, if any."""
    return {"overrides": context.overrides} if context.overrides else {}


def calibration(context: FingerprintContext) -> Parameters:
    """Return what decides whose answers are calibrated: the model, the tiers that its configuration
    is chosen from, and the seed of the sample.
    """
    return {**model(context), **tiers(context), "seed": context.settings.evaluation.seed}


def bounds(context: FingerprintContext) -> Parameters:
    """Return the bounds of the metrics, from which their ranges follow."""
    return context.spec.model_dump(mode="json", include={"lower", "upper", "bounds"})


def policy(context: FingerprintContext) -> Parameters:
    """Return all settings of the search, and what decides tables made from deciles."""
    return {
        **decided(context),
        "search": context.settings.search.parameters(),
        **_events(context),
    }


def _calendar(context: FingerprintContext) -> Parameters:
    """Return the calendar of the requests where it is not the shared one."""
    return {} if context.spec.calendar == "shared" else {"calendar": context.spec.calendar}


def _events(context: FingerprintContext) -> Parameters:
    """Return the known events, and the column that marks them, if any."""
    events = context.spec.model_dump(mode="json", include={"events"})
    column = event_column_of(context.spec)
    marked = {} if column is None else {"event_column": column}
    return (events if context.spec.events else {}) | marked


def _own_limits(context: FingerprintContext) -> Parameters:
    """Return a mark of fleets with bounds of single metrics: earlier releases forecast beyond those
    that differ. Other fleets' tables stay valid.
    """
    return {"own_limits": 1} if context.spec.bounds else {}


def _tail_limits(context: FingerprintContext) -> Parameters:
    """Return a mark of fleets with an alpha above the highest decile: earlier releases let the
    assumed tail beyond it pass a limit. Other fleets' tables stay valid.
    """
    above = max(context.protocol.alphas) > max(context.protocol.deciles)
    return {"tail_limits": 1} if above else {}


def _search(context: FingerprintContext, *names: str) -> Parameters:
    """Return some settings of the search, by name."""
    return context.settings.search.parameters(*names)
