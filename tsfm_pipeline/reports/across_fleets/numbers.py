"""Evidence across fleets: the search's effect on every fleet with current scores, and the pooled
effects.

What belongs here: which fleets count, and the contents of `evidence_report`. What does not: the
effect on one fleet (`reports.headline.numbers`), pooling (`evaluation.pooling`). Nothing here takes
a fleet's lock or writes into the lake.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.methods import CONFIG_PREFIX, FIXED, SEARCH
from tsfm_pipeline.evaluation.pooling import pooled_ratio
from tsfm_pipeline.evaluation.protocol import PROTOCOL
from tsfm_pipeline.files import StorageError
from tsfm_pipeline.fleets import SyntheticFleet, load_specs
from tsfm_pipeline.fleets.spec import FleetSpec
from tsfm_pipeline.lake import open_lake
from tsfm_pipeline.reports.across_fleets.model import (
    EffectRow,
    EvidenceReport,
    FleetRow,
    PooledMethodRow,
    PooledRow,
    PoolFigures,
    SeedsRow,
)
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.settings import Settings

SYNTHETIC, REAL, ALL = "synthetic", "real", "all"
CURRENT, NO_SCORES, NOT_CURRENT = "current", "no scores", "not current"


@dataclass(frozen=True)
class Scored:
    """The state of one fleet: its headline scores of the scope `all`, or why there are none.

    tiers: the alpha of each tier of the fleet.
    """

    spec: FleetSpec
    status: str
    note: str
    scores: pl.DataFrame | None = None
    tiers: Mapping[str, float] = field(default_factory=lambda: PROTOCOL.tiers)

    @property
    def group(self) -> str:
        return SYNTHETIC if isinstance(self.spec, SyntheticFleet) else REAL

    @property
    def n_tenants(self) -> int:
        return 0 if self.scores is None else int(self.scores["n_tenants"].to_numpy().max(initial=0))


def evidence_report(settings: Settings) -> EvidenceReport:
    """Compute effects per fleet and tier, pooled effects, the spread over seeds, rivals, and the
    state of each fleet.

    A fleet whose scores are missing, outdated or being written is listed with what to do about it;
    the report is made without it.
    """
    return report_of(
        [scored(settings, spec) for spec in load_specs(*settings.known_specs_dirs).values()]
    )


def report_of(fleets: Sequence[Scored]) -> EvidenceReport:
    """Return the report of these fleets, whatever their state."""
    current = {fleet.spec.name: fleet for fleet in fleets if fleet.scores is not None}
    within = contained(list(current.values()))
    tiers = _tiers(current)
    effects = [row for tier in tiers for row in _effects(current, within, tier, SEARCH)]
    pooled = [row for tier in tiers for row in _pools([row for row in effects if row.tier == tier])]
    return EvidenceReport(
        n_fleets=len(fleets),
        n_current=len(current),
        not_current=tuple(fleet.spec.name for fleet in fleets if fleet.status == NOT_CURRENT),
        pools={
            f"{row.tier}_{row.group}": PoolFigures(ratio=row.ratio, n_fleets=row.n_fleets)
            for row in pooled
        },
        table_fleets=tuple(
            FleetRow(
                fleet=fleet.spec.name,
                title=fleet.spec.title,
                group=fleet.group,
                status=fleet.status,
                note=fleet.note,
                n_tenants=fleet.n_tenants,
            )
            for fleet in fleets
        ),
        table_effects=tuple(effects),
        table_pooled=tuple(pooled),
        table_methods=tuple(_methods(current, within, tiers)),
        table_seeds=tuple(
            _seeds([row for row in effects if row.group == SYNTHETIC and row.pooled], tiers)
        ),
    )


def _tiers(current: Mapping[str, Scored]) -> list[str]:
    """Return the tiers of these fleets, highest alpha first."""
    alphas = {tier: alpha for fleet in current.values() for tier, alpha in fleet.tiers.items()}
    return sorted(alphas, key=lambda tier: (-alphas[tier], tier))


def scored(settings: Settings, spec: FleetSpec) -> Scored:
    """Return one fleet's scores, if they were made by the present code, settings and telemetry."""
    fleet = Fleet(settings, spec)
    name = spec.name
    try:
        if not open_lake(settings).fleet(name).has("headline_scores"):
            return Scored(spec, NO_SCORES, f"materialise headline_scores of {name} to include it")
        scores = fleet.tables.read("headline_scores").filter(pl.col("scope") == "all")
    except (StorageError, ValueError, OSError, pl.exceptions.PolarsError) as error:
        return Scored(spec, NOT_CURRENT, f"re-materialise headline_scores of {name}: {error}")
    return Scored(spec, CURRENT, "", scores, fleet.protocol.tiers)


def contained(fleets: Sequence[Scored]) -> dict[str, str]:
    """Return {fleet: the larger fleet that holds its tenants}.

    Synthetic fleets of one seed share tenants, and a tenant must not count twice.
    """
    by_seed: dict[int, list[Scored]] = {}
    for fleet in fleets:
        if isinstance(fleet.spec, SyntheticFleet):
            by_seed.setdefault(fleet.spec.seed, []).append(fleet)
    largest = {
        seed: max(members, key=lambda fleet: (fleet.n_tenants, fleet.spec.name))
        for seed, members in by_seed.items()
    }
    return {
        fleet.spec.name: largest[seed].spec.name
        for seed, members in by_seed.items()
        for fleet in members
        if fleet is not largest[seed]
    }


def _effects(
    current: Mapping[str, Scored], within: Mapping[str, str], tier: str, method: str
) -> list[EffectRow]:
    """Return one method's ratio to the fixed configuration on every fleet that has the tier, real
    fleets first.

    `pooled` says which fleets enter a pool.
    """
    rows = []
    for name, fleet in sorted(
        current.items(), key=lambda item: (item[1].group == SYNTHETIC, item[0])
    ):
        assert fleet.scores is not None
        for row in fleet.scores.filter(
            (pl.col("tier") == tier) & (pl.col("method") == method)
        ).iter_rows(named=True):
            ratio = Estimate(row["ratio"], row["ratio_low"], row["ratio_high"])
            rows.append(
                EffectRow(
                    fleet=name,
                    group=fleet.group,
                    tier=tier,
                    ratio=ratio,
                    win_rate=Estimate(row["win_rate"], row["win_rate_low"], row["win_rate_high"]),
                    violation_rate=row["violation_rate"],
                    violation_rate_target=round(1 - fleet.tiers[tier], 10),
                    n_requests=row["n_requests"],
                    n_tenants=row["n_tenants"],
                    n_days=row["n_days"],
                    seed=fleet.spec.seed,
                    pooled=name not in within and _has_logarithm(ratio),
                    contained_in=within.get(name, ""),
                )
            )
    return rows


def _has_logarithm(ratio: Estimate) -> bool:
    """Return whether a ratio can be pooled on the log scale: it and its limits are known and above
    0.
    """
    return all(np.isfinite(figure) and figure > 0 for figure in ratio)


def _pools(rows: Sequence[EffectRow]) -> list[PooledRow]:
    """Return the pooled effect of the real fleets, of the synthetic ones, and of both.

    In the last pool the synthetic fleets together count as one.
    """
    members = {
        group: [row.ratio for row in rows if row.group == group and row.pooled]
        for group in (REAL, SYNTHETIC)
    }
    pools = {group: _pool(rows[0].tier, group, own) for group, own in members.items() if own}
    if len(pools) == 2:
        pools[ALL] = _pool(rows[0].tier, ALL, [*members[REAL], pools[SYNTHETIC].ratio])
    return list(pools.values())


def _pool(tier: str, group: str, ratios: Sequence[Estimate]) -> PooledRow:
    pool = pooled_ratio(*zip(*ratios, strict=True))
    return PooledRow(
        tier=tier,
        group=group,
        ratio=Estimate(pool.ratio, pool.low, pool.high),
        normal_low=pool.normal_low,
        normal_high=pool.normal_high,
        tau=pool.tau,
        n_fleets=len(ratios),
    )


def _methods(
    current: Mapping[str, Scored], within: Mapping[str, str], tiers: Sequence[str]
) -> list[PooledMethodRow]:
    """Return the pooled effect of every method that is scored on all current fleets, including the
    search.
    """
    names = [set(fleet.scores["method"]) for fleet in current.values() if fleet.scores is not None]
    shared = set.intersection(*names) - {FIXED} if names else set()
    rows = []
    for tier in tiers:
        for method in sorted(name for name in shared if not name.startswith(CONFIG_PREFIX)):
            pools = _pools(_effects(current, within, tier, method))
            rows += [PooledMethodRow(method=method, **dict(pool)) for pool in pools[-1:]]
    return sorted(rows, key=lambda row: (row.tier, row.ratio.figure, row.method))


def _seeds(rows: Sequence[EffectRow], tiers: Sequence[str]) -> list[SeedsRow]:
    """Return how much the synthetic effect differs between fleet seeds."""
    spread = []
    for tier in tiers:
        own = [row for row in rows if row.tier == tier]
        if len(own) > 1:
            ratios = [row.ratio.figure for row in own]
            spread.append(
                SeedsRow(
                    tier=tier,
                    fleets=", ".join(f"{row.fleet} ({row.seed})" for row in own),
                    n_seeds=len(own),
                    lowest=min(ratios),
                    highest=max(ratios),
                    log_deviation=float(np.std(np.log(ratios), ddof=1)),
                )
            )
    return spread
