"""Evidence across fleets: the search's effect on every fleet that has current scores, and the one that follows from all of them.

What belongs here: which fleets count, and the contents of `evidence_report`. What does not: one fleet's effect
(`reports.headline.numbers`), the pooling (`evaluation.pooling`). Nothing here takes a fleet's lock or writes into the lake.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.methods import CONFIG_PREFIX, FIXED, SEARCH
from tsfm_pipeline.evaluation.pooling import pooled_ratio
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.files import StorageError
from tsfm_pipeline.fleets import SyntheticFleet, load_specs
from tsfm_pipeline.fleets.spec import FleetSpec
from tsfm_pipeline.settings import Settings

SYNTHETIC, REAL, ALL = "synthetic", "real", "all"
CURRENT, NO_SCORES, NOT_CURRENT = "current", "no scores", "not current"
INTERVAL = ("ratio", "ratio_low", "ratio_high")

Row = dict[str, Any]


@dataclass(frozen=True)
class Scored:
    """One fleet's state: its headline scores of the scope `all` where they are current, and otherwise why there are none."""

    spec: FleetSpec
    status: str
    note: str
    scores: pl.DataFrame | None = None

    @property
    def group(self) -> str:
        return SYNTHETIC if isinstance(self.spec, SyntheticFleet) else REAL

    @property
    def n_tenants(self) -> int:
        return 0 if self.scores is None else int(self.scores["n_tenants"].to_numpy().max(initial=0))


def evidence_report(settings: Settings) -> dict[str, Any]:
    """The report's JSON: effects per fleet and tier, pooled effects, the spread over fleet seeds, rivals, and the state of every fleet.

    A fleet whose scores are missing, being written or out of date is listed with what to do about it; it stops no one else's report.
    """
    return report_of([scored(settings, spec) for spec in load_specs(*settings.known_specs_dirs).values()])


def report_of(fleets: Sequence[Scored]) -> dict[str, Any]:
    """The report of these fleets, in whatever state they are."""
    current = {fleet.spec.name: fleet for fleet in fleets if fleet.scores is not None}
    within = contained(list(current.values()))
    effects = [row for tier in TIERS for row in _effects(current, within, tier, SEARCH)]
    report: dict[str, Any] = {
        "n_fleets": len(fleets),
        "n_current": len(current),
        "not_current": [fleet.spec.name for fleet in fleets if fleet.status == NOT_CURRENT],
        "table_fleets": [
            {
                "fleet": fleet.spec.name,
                "title": fleet.spec.title,
                "group": fleet.group,
                "status": fleet.status,
                "note": fleet.note,
                "n_tenants": fleet.n_tenants,
            }
            for fleet in fleets
        ],
    }
    pooled = [row for tier in TIERS for row in _pools([row for row in effects if row["tier"] == tier])]
    tables = {
        "table_effects": effects,
        "table_pooled": pooled,
        "table_methods": _methods(current, within),
        "table_seeds": _seeds([row for row in effects if row["group"] == SYNTHETIC and row["pooled"]]),
    }
    for row in pooled:
        report |= {f"{row['tier']}_{row['group']}_{key}": row[key] for key in (*INTERVAL, "n_fleets")}
    return report | {name: rows for name, rows in tables.items() if rows}


def scored(settings: Settings, spec: FleetSpec) -> Scored:
    """One fleet's scores, if they were made by the code, settings and telemetry that now apply."""
    fleet = Fleet(settings, spec)
    name = spec.name
    try:
        if not (settings.lake_dir / name / "headline_scores" / "_table.json").exists():
            return Scored(spec, NO_SCORES, f"materialise headline_scores of {name} to include it")
        scores = fleet.tables.read("headline_scores").filter(pl.col("scope") == "all")
    except (StorageError, ValueError, OSError, pl.exceptions.PolarsError) as error:
        return Scored(spec, NOT_CURRENT, f"re-materialise headline_scores of {name}: {error}")
    return Scored(spec, CURRENT, "", scores)


def contained(fleets: Sequence[Scored]) -> dict[str, str]:
    """{fleet: the larger one that holds its tenants}: synthetic fleets of one seed share tenants, and may not count twice."""
    by_seed: dict[int, list[Scored]] = {}
    for fleet in fleets:
        if isinstance(fleet.spec, SyntheticFleet):
            by_seed.setdefault(fleet.spec.seed, []).append(fleet)
    largest = {seed: max(members, key=lambda fleet: (fleet.n_tenants, fleet.spec.name)) for seed, members in by_seed.items()}
    return {
        fleet.spec.name: largest[seed].spec.name for seed, members in by_seed.items() for fleet in members if fleet is not largest[seed]
    }


def _effects(current: Mapping[str, Scored], within: Mapping[str, str], tier: str, method: str) -> list[Row]:
    """One method's ratio to the fixed configuration on every fleet, real ones first; `pooled` says which may enter a pool."""
    rows = []
    for name, fleet in sorted(current.items(), key=lambda item: (item[1].group == SYNTHETIC, item[0])):
        assert fleet.scores is not None
        for row in fleet.scores.filter((pl.col("tier") == tier) & (pl.col("method") == method)).iter_rows(named=True):
            figures = [row[key] for key in INTERVAL]
            rows.append(
                {
                    "fleet": name,
                    "group": fleet.group,
                    "tier": tier,
                    **{key: row[key] for key in (*INTERVAL, "win_rate", "win_rate_low", "win_rate_high", "violation_rate")},
                    "violation_rate_target": round(1 - TIERS[tier], 10),
                    **{key: row[key] for key in ("n_requests", "n_tenants", "n_days")},
                    "seed": fleet.spec.seed,
                    "pooled": name not in within and bool(np.isfinite(figures).all()),
                    "contained_in": within.get(name, ""),
                }
            )
    return rows


def _pools(rows: Sequence[Row]) -> list[Row]:
    """The pooled effect of the real fleets, of the synthetic ones, and of both; in the last the synthetic fleets together count as one."""
    members = {group: [row for row in rows if row["group"] == group and row["pooled"]] for group in (REAL, SYNTHETIC)}
    pools = {group: _pool(own) for group, own in members.items() if own}
    if len(pools) == 2:
        pools[ALL] = _pool([*members[REAL], pools[SYNTHETIC]])
    return [{"tier": rows[0]["tier"], "group": group, **pool} for group, pool in pools.items()]


def _pool(rows: Sequence[Row]) -> Row:
    pool = pooled_ratio(*([row[key] for row in rows] for key in INTERVAL))
    return {
        **dict(zip(INTERVAL, (pool.ratio, pool.low, pool.high), strict=True)),
        "normal_low": pool.normal_low,
        "normal_high": pool.normal_high,
        "tau": pool.tau,
        "n_fleets": len(rows),
    }


def _methods(current: Mapping[str, Scored], within: Mapping[str, str]) -> list[Row]:
    """The pooled effect of every method that is scored on all current fleets, the search among its rivals."""
    names = [set(fleet.scores["method"]) for fleet in current.values() if fleet.scores is not None]
    shared = set.intersection(*names) - {FIXED} if names else set()
    rows = []
    for tier in TIERS:
        for method in sorted(name for name in shared if not name.startswith(CONFIG_PREFIX)):
            pools = _pools(_effects(current, within, tier, method))
            rows += [{"method": method, **pool} for pool in pools[-1:]]
    return sorted(rows, key=lambda row: (row["tier"], row["ratio"], row["method"]))


def _seeds(rows: Sequence[Row]) -> list[Row]:
    """How much the synthetic effect differs from one fleet seed to the next."""
    spread = []
    for tier in TIERS:
        own = [row for row in rows if row["tier"] == tier]
        if len(own) > 1:
            ratios = [row["ratio"] for row in own]
            deviation = float(np.std(np.log(ratios), ddof=1))
            names = ", ".join(f"{row['fleet']} ({row['seed']})" for row in own)
            figures = {"lowest": min(ratios), "highest": max(ratios), "log_deviation": deviation}
            spread.append({"tier": tier, "fleets": names, "n_seeds": len(own), **figures})
    return spread
