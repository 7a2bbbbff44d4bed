"""The parameters in the fingerprints of a fleet's tables: what decides their content besides code
and inputs.

What belongs here: the context that parameters may read, and one function per set of parameters.
What does not: which table has which parameters (`tables`), the fingerprint itself (`registry`).
"""

from dataclasses import dataclass
from typing import Any

from tsfm_pipeline.evaluation.protocol import PROTOCOL, Protocol
from tsfm_pipeline.fleets.spec import FleetSpec
from tsfm_pipeline.settings import RESAMPLES, Settings

FLEET = "fleet"
"""The name of the scope."""


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


def telemetry(context: FingerprintContext) -> Any:
    """Return the fingerprint of the telemetry, and the size of its shards."""
    return [context.source_fingerprint, context.settings.shard_tenants]


def tiers(context: FingerprintContext) -> Any:
    """Return tiers and alphas in order, because the order is that of the arrays' axis."""
    return list(context.protocol.tiers.items())


def decided(context: FingerprintContext) -> Any:
    """Return what decides a table that is made from deciles for every tier."""
    return [tiers(context), context.protocol.deciles]


def model(context: FingerprintContext) -> Any:
    """Return what every forecast of the model depends on."""
    return [context.checkpoint_digest, context.settings.dtype, context.spec.horizon]


def forecasts(context: FingerprintContext) -> Any:
    """Return what decides the grid of forecasts."""
    return [*model(context), context.settings.search.portfolio_size, context.protocol.deciles]


def portfolio(context: FingerprintContext) -> Any:
    """Return what decides which configurations are chosen."""
    search = context.settings.search
    offsets = search.recent_origins, search.daily_origins
    sample = search.portfolio_tenants, search.portfolio_origins, search.single_requests
    return [
        model(context),
        search.candidates,
        search.ranked_size,
        *sample,
        offsets,
        decided(context),
    ]


def validation(context: FingerprintContext) -> Any:
    """Return what decides the losses at earlier origins."""
    search = context.settings.search
    return [forecasts(context), search.recent_origins, search.daily_origins, tiers(context)]


def bundle(context: FingerprintContext) -> Any:
    """Return what decides the bundle, including what it only passes on to the service: the bounds
    and the whole protocol.
    """
    search = context.settings.search.model_dump(mode="json")
    bounds = context.spec.model_dump(mode="json", include={"lower", "upper", "bounds"})
    protocol = [context.protocol.model_dump(mode="json"), tiers(context)]
    return [model(context), search, context.settings.evaluation.seed, bounds, protocol]


def requests(context: FingerprintContext) -> Any:
    """Return what decides which requests exist and which of them are valid."""
    return [
        context.spec.origins_per_tenant,
        context.spec.horizon,
        context.spec.max_gap,
        context.settings.search.candidates,
        context.settings.evaluation.seed,
    ]


def split(context: FingerprintContext) -> Any:
    """Return what decides which tenants tune and which are tested."""
    evaluation = context.settings.evaluation
    return [evaluation.seed, evaluation.tuning_share, evaluation.cross_fitting_folds]


def manifest(context: FingerprintContext) -> Any:
    """Return the split, and the shares by which tenants are assigned to tiers."""
    return [split(context), list(context.protocol.tier_shares.items())]


def headline(context: FingerprintContext) -> Any:
    """Return what decides the headline scores, and what only the reports read: a report is current
    as long as this table's fingerprint is.
    """
    evaluation = context.settings.evaluation
    resamples = evaluation.model_dump(mode="json", include=set(RESAMPLES))
    return [resamples, tiers(context), context.protocol.latency_budget_ms]


def index(context: FingerprintContext) -> Any:
    """Return the lengths of the windows, and the seed that draws their starts."""
    return [cold_start(context), context.settings.evaluation.seed]


def cold_start(context: FingerprintContext) -> Any:
    """Return the minutes of history of the cold start."""
    return context.settings.evaluation.cold_start_minutes


def irreducible(context: FingerprintContext) -> Any:
    """Return the seed of the simulated futures, and the tiers."""
    return [context.settings.evaluation.seed, tiers(context)]


def baselines(context: FingerprintContext) -> Any:
    """Return what decides the deciles of the baselines, including the forecasters of other
    packages, if any.
    """
    return [context.spec.horizon, context.protocol.deciles, *context.forecasters]


def priors(context: FingerprintContext) -> Any:
    """Return the number of neighbours behind the retrieved prior, and the tiers."""
    return [context.settings.search.neighbours, tiers(context)]


def policy(context: FingerprintContext) -> Any:
    """Return all settings of the search, and what decides tables made from deciles."""
    return [context.settings.search.model_dump(mode="json"), decided(context)]
