"""The figures of the study's report, from the ledger and the records of promotions.

What belongs here: turning records into the report's model. What does not: reading the ledger
(`ledger`) and promotions (`promotion_records`), the forest (`importance`), sentences and figures.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from tsfm_pipeline.evaluation.protocol import headline_tier
from tsfm_pipeline.evaluation.resampling import CONFIDENCE
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search.policy import DEFAULT
from tsfm_pipeline.studies.policy_search.report.importance import field_importance
from tsfm_pipeline.studies.policy_search.report.model import (
    End,
    ExperimentRow,
    FieldRow,
    FixedRow,
    GainRow,
    LookRow,
    PolicySearchReport,
    PromotionRow,
)
from tsfm_pipeline.studies.policy_search.results import FleetResult, Outcome
from tsfm_pipeline.studies.policy_search.space import FIELDS
from tsfm_pipeline.studies.policy_search.verdict import Effect, Verdict, paired_gain

if TYPE_CHECKING:
    from tsfm_pipeline.studies.policy_search.yardstick import Yardstick

FINISHED: tuple[End, ...] = ("keep", "discard")
"""Ends of experiments that ran on all requests."""


def policy_search_report(settings: Settings, yardstick: "Yardstick") -> PolicySearchReport:
    """Return the report on one yardstick, from the records of a data folder. Looks of earlier
    yardsticks are counted and shown too, because the test tenants may be the same.

    Raises `StorageError` if a record cannot be read.
    """
    from tsfm_pipeline.studies.policy_search.ledger import Ledger
    from tsfm_pipeline.studies.policy_search.promotion_records import PromotionRecords

    records = PromotionRecords(settings)
    return report_of(
        yardstick,
        Ledger(settings).read(yardstick.digest),
        records.promotions(),
        records.looks(),
        seed=settings.evaluation.seed,
    )


def report_of(
    yardstick: "Yardstick",
    ledger: pl.DataFrame,
    promotions: pl.DataFrame,
    looks: pl.DataFrame,
    seed: int,
) -> PolicySearchReport:
    """Return the report from its records.

    ledger: rows of this yardstick, oldest first (`ledger.SCHEMA`). promotions, looks: rows of any
    yardstick, oldest first (`promotion_records`). seed: of the forest.
    """
    own = promotions.filter(pl.col("yardstick") == yardstick.digest)
    experiments = _experiments(ledger)
    compared = _promotions(own)
    gained = _gains(own, compared, ledger, looks)
    judged = [row for row in experiments if math.isfinite(row.objective)]
    importance, r2 = field_importance(
        [json.loads(row.changes) for row in judged],
        np.array([row.objective for row in judged]),
        seed,
    )
    moved = _fields(experiments)
    kept = [row for row in experiments if row.end == "keep"]
    incumbent = kept[-1] if kept else None
    ends = [row.end for row in experiments]
    promoted = [row for row in compared if row.promoted]
    return PolicySearchReport(
        yardstick=yardstick.digest,
        fleets=tuple(yardstick.fleets),
        budget_ms=yardstick.budget_ms,
        n_folds=yardstick.n_folds,
        choosing_folds=tuple(yardstick.choosing),
        confirming_folds=tuple(yardstick.confirming),
        n_experiments=len(experiments),
        n_kept=len(kept),
        n_discarded=ends.count("discard"),
        n_screened_out=ends.count("screened out"),
        n_crashed=ends.count("crash"),
        n_timed_out=ends.count("timeout"),
        first_time=experiments[0].time if experiments else None,
        last_time=experiments[-1].time if experiments else None,
        experiment_seconds=sum(row.seconds for row in experiments),
        incumbent=incumbent.policy if incumbent else "",
        incumbent_objective=incumbent.objective if incumbent else math.nan,
        incumbent_p95_ms=incumbent.p95_ms if incumbent else math.nan,
        incumbent_changes=incumbent.changes if incumbent else "{}",
        promoted=promoted[-1].challenger if promoted else None,
        n_promotions_considered=len(compared),
        n_promoted=len(promoted),
        n_final_looks=looks["promotion"].n_unique(),
        optimism=_mean_excess(gained, "confirming"),
        test_optimism=_mean_excess(gained, "test"),
        importance_r2=r2,
        n_importance=len(judged),
        untried_fields=tuple(
            field.name for field in FIELDS if field.name not in {row.field for row in moved}
        ),
        table_experiments=experiments,
        table_fields=moved,
        table_importance=importance,
        table_promotions=compared,
        table_gains=gained,
        table_fixed=tuple(_fixed(ledger)),
        table_looks=_looks(looks, own),
    )


def _experiments(ledger: pl.DataFrame) -> tuple[ExperimentRow, ...]:
    rows = list(ledger.iter_rows(named=True))
    front = _front(rows)
    return tuple(
        ExperimentRow(
            number=number,
            end=_end(row),
            on_front=number - 1 in front,
            **{name: row[name] for name in _SAME},
            **{name: _figure(row[name]) for name in _FIGURES},
        )
        for number, row in enumerate(rows, 1)
    )


_SAME = ("time", "experiment", "policy", "parent", "driver", "n_changes", "changes", "description")
_FIGURES = ("objective", "p95_ms", "tokens", "seconds")


def _end(row: Mapping[str, Any]) -> End:
    return "screened out" if row["screened_out"] else row["status"]


def _figure(value: float | None) -> float:
    """Return a figure of the ledger; NaN where it is missing or infinite."""
    return math.nan if value is None or not math.isfinite(value) else float(value)


def _front(rows: Sequence[Mapping[str, Any]]) -> set[int]:
    """Return the positions of finished experiments that no other one beats in loss and latency."""
    finished = [
        (_figure(row["p95_ms"]), _figure(row["objective"]), i)
        for i, row in enumerate(rows)
        if _end(row) in FINISHED
    ]
    front, lowest = set(), math.inf
    for _, objective, i in sorted(each for each in finished if all(map(math.isfinite, each))):
        if objective < lowest:
            front.add(i)
            lowest = objective
    return front


def _fields(experiments: Sequence[ExperimentRow]) -> tuple[FieldRow, ...]:
    """Return one row per field that was moved, most often moved first."""
    by_field: dict[str, list[_Move]] = {}
    for move in _moves(experiments):
        by_field.setdefault(move.field, []).append(move)
    rows = [_field(name, moves) for name, moves in by_field.items()]
    return tuple(sorted(rows, key=lambda row: (-row.n_tried, row.field)))


class _Move(NamedTuple):
    """A field that one experiment moved away from its parent's value; ratio: of the objectives."""

    field: str
    value: str
    end: End
    ratio: float


def _moves(experiments: Sequence[ExperimentRow]) -> Iterator[_Move]:
    """Yield every move. A parent that the ledger does not hold counts as the default policy."""
    parents = {row.policy: row for row in experiments if row.end in FINISHED}
    default = DEFAULT.model_dump(mode="json")
    for row in experiments:
        if not row.policy:  # a proposal that was no policy moved nothing
            continue
        parent = parents.get(row.parent)
        own, other = ({**default, **json.loads(r.changes if r else "{}")} for r in (row, parent))
        ratio = row.objective / (parent.objective if parent else 1.0)
        for name, value in own.items():
            if value != other.get(name):
                finished = row.end in FINISHED
                yield _Move(name, json.dumps(value), row.end, ratio if finished else math.nan)


def _field(name: str, moves: Sequence[_Move]) -> FieldRow:
    ends = [move.end for move in moves]
    judged = [move for move in moves if math.isfinite(move.ratio)]
    best = min(judged, key=lambda move: move.ratio, default=None)
    return FieldRow(
        field=name,
        n_tried=len(moves),
        n_values=len({move.value for move in moves}),
        n_finished=len(judged),
        n_kept=ends.count("keep"),
        n_failed=ends.count("crash") + ends.count("timeout"),
        median_ratio=float(np.median([move.ratio for move in judged] or [math.nan])),
        best_ratio=best.ratio if best else math.nan,
        best_value=best.value if best else None,
    )


def _promotions(promotions: pl.DataFrame) -> tuple[PromotionRow, ...]:
    return tuple(
        PromotionRow(
            number=number,
            time=row["time"],
            challenger=row["policy"],
            replaced=row["replaced"],
            promoted=row["promoted"],
            n_experiments=row["n_experiments"],
            p95_ms=_figure(row["p95_ms"]),
            reasons=tuple(row["reasons"].splitlines()),
            changes=row["changes"],
        )
        for number, row in enumerate(promotions.iter_rows(named=True), 1)
    )


def _gains(
    promotions: pl.DataFrame,
    compared: Sequence[PromotionRow],
    ledger: pl.DataFrame,
    looks: pl.DataFrame,
) -> tuple[GainRow, ...]:
    rows = []
    for own, row in zip(compared, promotions.iter_rows(named=True), strict=True):
        challenger = _results(ledger.filter(pl.col("experiment") == row["experiment"]))
        replaced = _results(ledger.filter(pl.col("policy") == row["replaced"]))
        tested = {
            look["fleet"]: Estimate(1 - look["ratio"], 1 - look["high"], 1 - look["low"])
            for look in _headline(looks, row["promotion"]).iter_rows(named=True)
        }
        for verdict in Verdict.model_validate_json(row["verdict"]).fleets:
            pair = challenger.get(verdict.fleet), replaced.get(verdict.fleet)
            rows.append(
                GainRow(
                    promotion=own.number,
                    challenger=own.challenger,
                    fleet=verdict.fleet,
                    promoted=own.promoted,
                    choosing=_choosing(*pair),
                    confirming=_estimate(verdict.corrected),
                    test=tested.get(verdict.fleet, Estimate()),
                )
            )
    return tuple(rows)


def _fixed(ledger: pl.DataFrame) -> Iterator[FixedRow]:
    """Yield the gains over the fixed configuration of every fleet, at each tier and for each
    archetype at the headline tier.
    """
    kept = ledger.filter(pl.col("status") == "keep")
    first, last = _results(kept.head(1)), _results(kept.tail(1))
    for fleet, default in first.items():
        names, everyone = np.array(default.groups, dtype=str), np.ones(len(default.groups), bool)
        parts = [(tier, "", everyone) for tier in default.losses]
        parts += [
            (default.headline_tier, str(name), names == name) for name in np.unique(names) if name
        ]
        for tier, group, inside in parts:
            fixed = np.asarray(default.fixed[tier], dtype=np.float64)[inside]
            gains = [
                _estimate(paired_gain(own.loss(tier)[inside], fixed, CONFIDENCE))
                for own in (default, last[fleet])
            ]
            yield FixedRow(
                fleet=fleet,
                tier=tier,
                group=group,
                n_tenants=int(inside.sum()),
                default=gains[0],
                incumbent=gains[1],
            )


def _results(rows: pl.DataFrame) -> dict[str, FleetResult]:
    """Return the results of the last finished one of some rows by fleet; empty without one."""
    finished = rows.filter(pl.col("status").is_in(["keep", "discard"]) & ~pl.col("screened_out"))
    if not finished.height:
        return {}
    outcome = Outcome.model_validate_json(finished["outcome"][-1])
    return {result.fleet: result for result in outcome.results}


def _choosing(own: FleetResult | None, other: FleetResult | None) -> Estimate:
    """Return the gain on the choosing folds; NaN if the policy before was not tried there."""
    if own is None or other is None or own.tenants != other.tenants:
        return Estimate()
    return _estimate(paired_gain(own.loss(), other.loss(), CONFIDENCE))


def _estimate(effect: Effect) -> Estimate:
    return Estimate(effect.gain, effect.low, effect.high)


def _headline(looks: pl.DataFrame, promotion: str) -> pl.DataFrame:
    """Return the rows of one look over all tenants, at each fleet's tier of the metric."""
    everyone = looks.filter((pl.col("promotion") == promotion) & (pl.col("group") == ""))
    tiers = dict(everyone.group_by("fleet", maintain_order=True).agg("tier").iter_rows())
    shown = [headline_tier(tiers[fleet]) for fleet in everyone["fleet"]]
    return everyone.filter(pl.col("tier") == pl.Series(shown, dtype=pl.String))


def _looks(looks: pl.DataFrame, promotions: pl.DataFrame) -> tuple[LookRow, ...]:
    numbers = {name: number for number, name in enumerate(promotions["promotion"], 1)}
    return tuple(
        LookRow(
            promotion=numbers.get(row["promotion"], 0),
            time=row["time"],
            challenger=row["policy"],
            fleet=row["fleet"],
            tier=row["tier"],
            group=row["group"],
            ratio=Estimate(row["ratio"], row["low"], row["high"]),
            n_tenants=row["n_tenants"],
            n_requests=row["n_requests"],
        )
        for row in looks.iter_rows(named=True)
    )


def _mean_excess(rows: Sequence[GainRow], name: str) -> float:
    """Return the mean of the gain on choosing folds minus another gain, where both are known."""
    excess = [row.choosing.figure - getattr(row, name).figure for row in rows]
    finite = [each for each in excess if math.isfinite(each)]
    return float(np.mean(finite)) if finite else math.nan
