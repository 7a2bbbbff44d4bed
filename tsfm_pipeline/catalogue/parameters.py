"""What decides the tables of a fleet besides their code and inputs: the parameters in fingerprints.

What belongs here: the context that parameters may read, and one function per set of parameters that
a table of a fleet has. What does not: which table has which (`tables`), the fingerprint itself
(`registry`).
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
    """What the fingerprint of a fleet's table may depend on, besides its inputs."""

    spec: FleetSpec
    settings: Settings
    source_fingerprint: str
    checkpoint_digest: str
    protocol: Protocol = PROTOCOL
    forecasters: tuple[tuple[str, str, str], ...] = ()
    """Of other packages: name, distribution and version of each."""


def telemetry(context: FingerprintContext) -> Any:
    """The telemetry itself, and the shards in which it is written."""
    return [context.source_fingerprint, context.settings.shard_tenants]


def tiers(context: FingerprintContext) -> Any:
    """Alphas in order of the tiers, because the order is that of the arrays' axis."""
    return list(context.protocol.tiers.items())


def decided(context: FingerprintContext) -> Any:
    """What decides a table that is made from deciles for every tier."""
    return [tiers(context), context.protocol.deciles]


def model(context: FingerprintContext) -> Any:
    """What every forecast of the model depends on."""
    return [context.checkpoint_digest, context.settings.dtype, context.spec.horizon]


def forecasts(context: FingerprintContext) -> Any:
    """What decides the grid of forecasts."""
    return [*model(context), context.settings.search.portfolio_size, context.protocol.deciles]


def portfolio(context: FingerprintContext) -> Any:
    """What decides which configurations are chosen."""
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
    """What decides the losses at earlier origins."""
    search = context.settings.search
    return [forecasts(context), search.recent_origins, search.daily_origins, tiers(context)]


def bundle(context: FingerprintContext) -> Any:
    """Also what it only tells the service that opens it: bounds, and the whole protocol."""
    search = context.settings.search.model_dump(mode="json")
    bounds = context.spec.model_dump(mode="json", include={"lower", "upper", "bounds"})
    protocol = [context.protocol.model_dump(mode="json"), tiers(context)]
    return [model(context), search, context.settings.evaluation.seed, bounds, protocol]


def requests(context: FingerprintContext) -> Any:
    """What decides which requests there are and which of them are valid."""
    return [
        context.spec.origins_per_tenant,
        context.spec.horizon,
        context.spec.max_gap,
        context.settings.search.candidates,
        context.settings.evaluation.seed,
    ]


def split(context: FingerprintContext) -> Any:
    """What decides who tunes and who is tested."""
    evaluation = context.settings.evaluation
    return [evaluation.seed, evaluation.tuning_share, evaluation.cross_fitting_folds]


def manifest(context: FingerprintContext) -> Any:
    """The split, and the shares by which tenants get their tiers."""
    return [split(context), list(context.protocol.tier_shares.items())]


def headline(context: FingerprintContext) -> Any:
    """Also what the reports alone read: a report is current while this table's fingerprint is."""
    evaluation = context.settings.evaluation
    resamples = evaluation.model_dump(mode="json", include=set(RESAMPLES))
    return [resamples, tiers(context), context.protocol.latency_budget_ms]


def index(context: FingerprintContext) -> Any:
    """Lengths of the windows, and the seed that draws where they start."""
    return [cold_start(context), context.settings.evaluation.seed]


def cold_start(context: FingerprintContext) -> Any:
    """Minutes of history of the cold start."""
    return context.settings.evaluation.cold_start_minutes


def irreducible(context: FingerprintContext) -> Any:
    """The seed of the simulated futures, and the tiers."""
    return [context.settings.evaluation.seed, tiers(context)]


def baselines(context: FingerprintContext) -> Any:
    """What decides the deciles of the baselines, with the forecasters of other packages, if any."""
    return [context.spec.horizon, context.protocol.deciles, *context.forecasters]


def priors(context: FingerprintContext) -> Any:
    """How many look-alikes are asked, and the tiers."""
    return [context.settings.search.neighbours, tiers(context)]


def policy(context: FingerprintContext) -> Any:
    """All of the search's settings."""
    return [context.settings.search.model_dump(mode="json"), decided(context)]
