"""The figures of the study's report, from scores, their evaluation and the verdict.

What belongs here: turning tables into the report's model. What does not: the statistics of the
tables (`evaluation`), curves (`curves`), what takes no part (`excluded`), sentences and figures.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.studies.direction import references
from tsfm_pipeline.studies.direction.alignment import Aligned, align
from tsfm_pipeline.studies.direction.auc import auc
from tsfm_pipeline.studies.direction.bars import Floats
from tsfm_pipeline.studies.direction.checks import Check
from tsfm_pipeline.studies.direction.problem import Problem, Target
from tsfm_pipeline.studies.direction.report.curves import Sampling, auc_by_volatility, reliability
from tsfm_pipeline.studies.direction.report.excluded import excluded
from tsfm_pipeline.studies.direction.report.gates import gates_in, seed_gate
from tsfm_pipeline.studies.direction.report.model import (
    CheckRow,
    DecileRow,
    DirectionReport,
    FoldRow,
    GateRow,
    RateRow,
    ReliabilityRow,
    ScoreRow,
    TargetRow,
)
from tsfm_pipeline.studies.direction.report.names import FAMILIES, OF_THE_MODEL, READINGS, family_of
from tsfm_pipeline.studies.direction.verdict import Finding, Verdict

ESTIMATES = (
    "auc",
    "auc_over_all_days",
    "minus_volatility",
    "minus_untrained",
    "minus_patchtst",
    "auc_given_move",
    "volatility_matched_auc",
    "up_minus_down",
)
"""Columns of the evaluation that have `_low` and `_high` beside them."""
PLAIN = (
    "average_precision",
    "brier",
    "brier_skill",
    "log_loss",
    "precision_at_f1",
    "recall_at_f1",
    "precision_at_matched",
    "recall_at_matched",
    "pesaran_timmermann",
    "pesaran_timmermann_bootstrap_p",
)


@dataclass(frozen=True)
class Evidence:
    """What the report on one market is made from.

    title: one line on what the market is. simulated_truth: what it was made with, empty for a real
    one. evaluated: as `evaluation.evaluate` returns it. scores: `SCORE_SCHEMA`, of all scorers.
    sweep: one row per training (`tuning_runs.SWEEP_SCHEMA`); empty if nothing was fine-tuned.
    checkpoint: name of the foundation model, empty if it took no part. second_market: the name of
    the market where a direction must be found again, empty without one.
    """

    market: str
    title: str
    simulated_truth: str
    problem: Problem
    evaluated: pl.DataFrame
    scores: pl.DataFrame
    verdict: Verdict
    checks: Sequence[Check]
    sweep: pl.DataFrame
    checkpoint: str
    second_market: str


def direction_report_of(evidence: Evidence) -> DirectionReport:
    """Return the report on one market."""
    problem, evaluated = evidence.problem, evidence.evaluated
    options, bars = problem.options, problem.bars
    rows = _scores(evidence)
    horizon = min(options.labels.horizons)
    touch, sign = Target("touch_up", horizon), Target("sign", horizon)
    close = Target("close_up", horizon)
    known = Finding(_best_on_validation([r for r in rows if _is(r, sign)]), horizon)
    subject = next(iter(evidence.verdict.found), known)
    collapsed = {c.subject for c in evidence.checks if c.name == "collapse" and not c.passed}
    return DirectionReport(
        market=evidence.market,
        title=evidence.title,
        simulated_truth=evidence.simulated_truth,
        first_day=bars.dates[0].item(),
        last_day=bars.dates[-1].item(),
        n_market_days=len(bars),
        n_features=len(problem.feature_names),
        horizons=options.labels.horizons,
        threshold=options.labels.threshold,
        scaled_threshold=options.labels.scaled_threshold,
        confidence=options.statistics.confidence,
        n_draws=options.statistics.draws,
        checkpoint=evidence.checkpoint,
        n_variants=evaluated["scorer"].n_unique(),
        verdict=evidence.verdict.kind,
        headline=evidence.verdict.headline,
        reasons=evidence.verdict.reasons,
        n_found=len(evidence.verdict.found),
        second_market=evidence.second_market,
        direction_scorer=subject.scorer,
        direction_horizon=subject.horizon,
        table_targets=_targets(evaluated),
        table_scores=rows,
        table_gates=_gates([r for r in rows if _is(r, touch)], collapsed),
        table_reliability=tuple(
            row for target in (touch, close) for row in _reliability(evidence, target, rows)
        ),
        table_deciles=tuple(
            row for target in (touch, sign) for row in _deciles(evidence, target, rows)
        ),
        table_learning_rates=_rates(evidence.sweep),
        table_checks=tuple(
            CheckRow(name=c.name, subject=c.subject, passed=c.passed, sentence=c.sentence)
            for c in evidence.checks
        ),
        table_folds=_folds(problem),
        table_excluded=excluded(problem, evaluated),
    )


def _scores(evidence: Evidence) -> tuple[ScoreRow, ...]:
    """Return a row per scorer and target: targets as evaluated, families in order, then names."""
    order = list(FAMILIES)
    rows = []
    for target, table in _by_target(evidence.evaluated):
        aligned = align(evidence.problem, evidence.scores, target)
        validation = _validation_aucs(evidence.problem, aligned)
        best = _best_of_families(validation)
        rows += sorted(
            (_score(row, validation, best) for row in table.iter_rows(named=True)),
            key=lambda row: (order.index(row.family), row.scorer),
        )
    return tuple(rows)


def _score(
    row: Mapping[str, Any], validation: Mapping[str, float], best: frozenset[str]
) -> ScoreRow:
    scorer = row["scorer"]
    return ScoreRow(
        scorer=scorer,
        family=family_of(scorer),
        label=row["label"],
        horizon=row["horizon"],
        chosen=scorer in best,
        validation_auc=validation.get(scorer, math.nan),
        survives_stepm=row["survives_stepm"],
        **{name: _estimate(row, name) for name in ESTIMATES},
        **{name: _figure(row[name]) for name in PLAIN},
    )


def _validation_aucs(problem: Problem, aligned: Aligned) -> dict[str, float]:
    """Return each scorer's AUC in the first validation year.

    It is the only one that lies before all test days; a later one is a test year of the fold before
    it, so that a choice by it would be a choice on test days.
    """
    part = aligned.validation
    first = part.folds == part.folds.min()
    labels = problem.labels[aligned.target][part.days[first]]
    return {
        name: auc(scores[first], labels, part.folds[first])
        for name, scores in zip(aligned.scorers, part.scores, strict=True)
    }


def _best_of_families(validation: Mapping[str, float]) -> frozenset[str]:
    """Return the scorer of each family with the highest validation AUC, the first name on ties."""
    best: dict[str, str] = {}
    for name in sorted(name for name, value in validation.items() if math.isfinite(value)):
        family = family_of(name)
        if family not in best or validation[name] > validation[best[family]]:
            best[family] = name
    return frozenset(best.values())


def _best_on_validation(rows: Sequence[ScoreRow]) -> str:
    known = [row for row in rows if row.chosen]
    return max(known, key=lambda row: row.validation_auc).scorer if known else ""


def _targets(evaluated: pl.DataFrame) -> tuple[TargetRow, ...]:
    same = ("label", "horizon", "n_days", "n_dropped", "n_positives", "n_variants", "block_days")
    return tuple(
        TargetRow(
            **{name: row[name] for name in same},
            base_rate=_figure(row["base_rate"]),
            spa_p_value=_figure(row["spa_p_value"]),
            spa_p_value_log_loss=_figure(row["spa_p_value_log_loss"]),
            untrained=row["untrained"] or "",
            patchtst=row["patchtst"] or "",
        )
        for _, table in _by_target(evaluated)
        for row in table.head(1).iter_rows(named=True)
    )


def _gates(rows: Sequence[ScoreRow], collapsed: set[str]) -> tuple[GateRow, ...]:
    return tuple(
        GateRow(
            scorer=row.scorer,
            family=row.family,
            auc=row.auc,
            seed_gate=seed_gate(row.auc.figure, row.scorer in collapsed),
            gates_in_interval=gates_in(row.auc, row.scorer in collapsed),
        )
        for row in rows
        if row.chosen
    )


def _reliability(
    evidence: Evidence, target: Target, rows: Sequence[ScoreRow]
) -> tuple[ReliabilityRow, ...]:
    """Return the reliability of the chosen scorers that give a probability of the label. The
    frozen model's P states one for a close, and none for a touch (`readings.probability`).
    """
    aligned = align(evidence.problem, evidence.scores, target)
    test, labels = aligned.test, _labels(evidence.problem, aligned)
    families = ("volatility", "patchtst", "probability", "fine_tuned")
    number_of = {name: number for number, name in enumerate(aligned.scorers)}
    shown = [
        row.scorer
        for row in rows
        if _is(row, target)
        and row.chosen
        and row.family in families
        and np.isfinite(test.probabilities[number_of[row.scorer]]).all()
    ]
    sampling = _sampling(evidence, aligned, labels)
    return tuple(
        ReliabilityRow(
            scorer=name,
            label=target.label,
            horizon=target.horizon,
            bin=number,
            n_days=tenth.n_days,
            forecast=tenth.mean,
            observed=tenth.estimate,
        )
        for name in shown
        for number, tenth in enumerate(
            reliability(test.probabilities[number_of[name]], labels, sampling), 1
        )
    )


def _deciles(evidence: Evidence, target: Target, rows: Sequence[ScoreRow]) -> tuple[DecileRow, ...]:
    """Return the AUC by expected volatility of the best untrained scorer, PatchTST, the best
    reading, and the best trained use of the model, each as chosen in the first validation year.
    """
    aligned = align(evidence.problem, evidence.scores, target)
    labels, scores = _labels(evidence.problem, aligned), aligned.test.scores
    number_of = {name: number for number, name in enumerate(aligned.scorers)}
    trained = tuple(set(OF_THE_MODEL) - set(READINGS))
    groups = (("untrained",), ("patchtst",), READINGS, trained)
    own = [row for row in rows if _is(row, target)]
    found = (_best_on_validation([r for r in own if r.family in group]) for group in groups)
    shown = [name for name in found if name]
    curves = auc_by_volatility(
        [scores[number_of[name]] for name in shown],
        scores[number_of[references.VOLATILITY]],
        labels,
        aligned.test.folds,
        _sampling(evidence, aligned, labels),
    )
    return tuple(
        DecileRow(
            scorer=name,
            label=target.label,
            horizon=target.horizon,
            decile=number,
            n_days=tenth.n_days,
            base_rate=tenth.mean,
            auc=tenth.estimate,
        )
        for name, tenths in zip(shown, curves, strict=True)
        for number, tenth in enumerate(tenths, 1)
    )


def _labels(problem: Problem, aligned: Aligned) -> Floats:
    """The labels of the test days [n]."""
    return problem.labels[aligned.target][aligned.test.days]


def _sampling(evidence: Evidence, aligned: Aligned, labels: Floats) -> Sampling:
    """Return draws of the test days, with the blocks of the evaluation."""
    statistics = evidence.problem.options.statistics
    label, horizon = aligned.target
    block = evidence.evaluated.filter(label=label, horizon=horizon)["block_days"][0]
    return Sampling.of(len(labels), block, statistics)


def _rates(sweep: pl.DataFrame) -> tuple[RateRow, ...]:
    keys = ["kind", "learning_rate"]
    summary = sweep.group_by(keys).agg(
        n_trainings=pl.len(),
        n_chosen=pl.col("chosen").sum(),
        n_diverged=pl.col("diverged").sum(),
        loss_before=pl.col("loss_before").mean(),
        best_loss=pl.col("best_loss").mean(),
        best_step=pl.col("best_step").mean(),
    )
    return RateRow.from_rows(summary.sort(keys))


def _folds(problem: Problem) -> tuple[FoldRow, ...]:
    return tuple(
        FoldRow(
            horizon=horizon,
            year=fold.year,
            n_train=len(fold.train),
            n_validation=len(fold.validation),
            n_test=len(fold.test),
            touch_rate=float(problem.labels[Target("touch_up", horizon)][fold.test].mean()),
            up_rate=float(problem.labels[Target("sign", horizon)][fold.test].mean()),
        )
        for horizon, folds in problem.folds.items()
        for fold in folds
    )


def _by_target(evaluated: pl.DataFrame) -> list[tuple[Target, pl.DataFrame]]:
    groups = evaluated.partition_by("label", "horizon", as_dict=True, maintain_order=True)
    return [(Target(*key), table) for key, table in groups.items()]


def _is(row: ScoreRow, target: Target) -> bool:
    return (row.label, row.horizon) == target


def _estimate(row: Mapping[str, Any], name: str) -> Estimate:
    return Estimate(*(_figure(row[f"{name}{end}"]) for end in ("", "_low", "_high")))


def _figure(value: float | None) -> float:
    return math.nan if value is None else float(value)
