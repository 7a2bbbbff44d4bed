"""The figures of the study's report, from forecasts, trainings and counts.

What belongs here: turning the evidence into the report's model. What does not: errors of forecasts
and their intervals (`evaluation`), curves (`curves`), sentences and figures.
"""

import math

import numpy as np

from tsfm_pipeline.evaluation.resampling import CONFIDENCE
from tsfm_pipeline.evaluation.statistics import two_way_bootstrap_ratios
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.studies.time_r1 import measures
from tsfm_pipeline.studies.time_r1.evaluation_columns import minus, over
from tsfm_pipeline.studies.time_r1.methods import DRAFT, REFERENCES, SLOW_THINKING
from tsfm_pipeline.studies.time_r1.report.curves import (
    reward_rows,
    term_rows,
    validation_rows,
    warm_up_rows,
)
from tsfm_pipeline.studies.time_r1.report.evidence import Evidence, Parsing
from tsfm_pipeline.studies.time_r1.report.model import (
    OUTCOMES,
    ComparisonRow,
    CostRow,
    DataSetRow,
    ExampleRow,
    GateRow,
    MethodRow,
    Outcome,
    ParseRow,
    ProblemRow,
    RuleRow,
    SlowThinkingReport,
)
from tsfm_pipeline.studies.time_r1.windows import Floats

N_EXAMPLES = 3
"""Windows of each kind in the gallery."""
DIGITS = 6
"""Significant digits of the gallery's values."""


def slow_thinking_report_of(evidence: Evidence) -> SlowThinkingReport:
    """Return the report on one recipe."""
    recipe, profile, windows = evidence.recipe, evidence.profile, evidence.headline.windows
    return SlowThinkingReport(
        recipe=recipe.name,
        title=recipe.title,
        model=profile.model,
        n_parameters=evidence.n_parameters,
        n_trained=evidence.n_trained,
        trained_on=recipe.train,
        look_back=windows.look_back,
        data_set=windows.data_set,
        horizon=windows.horizon,
        window_set=evidence.headline.window_set,
        group=profile.grip.group,
        oversampling=profile.grip.oversampling,
        sampling=profile.grip.sampling,
        n_samples=profile.thinking.samples,
        max_iterations=profile.thinking.max_iterations,
        confidence=CONFIDENCE,
        n_draws=evidence.draws,
        seed=evidence.seed,
        exact_kl=_mean(evidence.divergence.exact),
        k3=_mean(evidence.divergence.k3),
        n_prompts=len(evidence.divergence.exact),
        table_methods=_methods(evidence),
        table_comparisons=_comparisons(evidence),
        table_base=warm_up_rows(evidence.base),
        table_warm_ups=warm_up_rows(evidence.warm_ups),
        table_rewards=reward_rows(evidence.reinforced),
        table_validations=validation_rows(evidence.reinforced),
        table_terms=term_rows(evidence.reinforced),
        table_gate=_gate(evidence),
        table_rules=_rules(evidence),
        table_gallery=_gallery(evidence),
        table_parsing=_parsing(evidence.parsing),
        table_problems=tuple(
            ProblemRow(problem=name, n=n)
            for name, n in sorted(evidence.parsing.problems.items(), key=lambda x: (-x[1], x[0]))
            if n
        ),
        table_costs=tuple(CostRow(**vars(cost)) for cost in evidence.costs),
        table_data_sets=tuple(DataSetRow(**vars(note)) for note in evidence.data_sets),
    )


def _methods(evidence: Evidence) -> tuple[MethodRow, ...]:
    wanted = [
        column
        for column in evidence.evaluated.columns
        if not column.startswith((over(""), minus("")))
    ]
    return MethodRow.from_rows(evidence.evaluated.select(wanted))


def _comparisons(evidence: Evidence) -> tuple[ComparisonRow, ...]:
    """Return a row per method and reference that both took part."""
    return tuple(
        ComparisonRow(
            data_set=row["data_set"],
            horizon=row["horizon"],
            window_set=row["window_set"],
            method=row["method"],
            reference=reference,
            ratio=_estimate(row, over(reference)),
            difference=_estimate(row, minus(reference)),
        )
        for row in evidence.evaluated.iter_rows(named=True)
        for reference in REFERENCES
        if row[over(reference)] is not None
    )


def _errors(evidence: Evidence) -> tuple[Floats, Floats]:
    """Return MASE of the draft and of the refined answer by window, both [N]; NaN without a
    scale.
    """
    case = evidence.headline
    refined = measures.scaled_error(case.windows.truth, evidence.thoughts.refined, case.scale)
    return case.scaled_errors(DRAFT), refined


def _kept(evidence: Evidence) -> Floats:
    kept = evidence.headline.forecasts[SLOW_THINKING].kept
    assert kept is not None  # the evidence has checked it
    return kept.astype(np.float64)


def _gate(evidence: Evidence) -> tuple[GateRow, ...]:
    draft, refined = _errors(evidence)
    kept, difference = _kept(evidence) > 0, refined - draft
    known = ~np.isnan(difference)
    among: dict[Outcome, Floats] = {
        "kept, lower": difference[known & kept & (difference < 0)],
        "dropped, higher": difference[known & ~kept & (difference > 0)],
        "kept, higher": difference[known & kept & (difference > 0)],
        "dropped, lower": difference[known & ~kept & (difference < 0)],
        "equal": difference[known & (difference == 0)],
    }
    return tuple(
        GateRow(
            outcome=outcome,
            n=len(among[outcome]),
            share=len(among[outcome]) / known.sum() if known.any() else math.nan,
            difference=float(among[outcome].mean()) if len(among[outcome]) else math.nan,
        )
        for outcome in OUTCOMES
    )


def _rules(evidence: Evidence) -> tuple[RuleRow, ...]:
    """Return what other rules than the gate would score, all on the same draws."""
    draft, refined = _errors(evidence)
    known, kept = ~np.isnan(draft), _kept(evidence)
    gated = np.where(kept > 0, refined, draft)
    named = {"gate": gated, "always refined": refined, "oracle": np.minimum(draft, refined)}
    if not known.any():
        return ()
    windows = evidence.headline.windows.at(np.flatnonzero(known))
    estimates = two_way_bootstrap_ratios(
        np.array([errors[known] for errors in named.values()]),
        np.tile(draft[known], (len(named), 1)),
        np.array(windows.channels),
        windows.origins,
        evidence.draws,
        evidence.seed,
    )
    return tuple(
        RuleRow.model_validate({"rule": rule, "over_draft": Estimate(*estimate)})
        for rule, estimate in zip(named, estimates.tolist(), strict=True)
    )


def _gallery(evidence: Evidence) -> tuple[ExampleRow, ...]:
    """Return the windows where refining lowered the error most, and where it raised it most.

    Only windows whose error changed are shown; equal ones are in an order of the seed.
    """
    draft, refined = _errors(evidence)
    difference = np.nan_to_num(refined - draft)
    shuffled = np.random.default_rng(evidence.seed).permutation(len(difference))
    order = shuffled[np.argsort(difference[shuffled], kind="stable")]
    best = [row for row in order[:N_EXAMPLES] if difference[row] < 0]
    worst = [row for row in order[::-1][:N_EXAMPLES] if difference[row] > 0]
    windows, kept = evidence.headline.windows, _kept(evidence)
    points = evidence.headline.forecasts[DRAFT].points
    return tuple(
        ExampleRow(
            kind=kind,
            channel=windows.channels[row],
            origin=int(windows.origins[row]),
            history=_short(windows.history[row]),
            truth=_short(windows.truth[row]),
            draft=_short(points[row]),
            refined=_short(evidence.thoughts.refined[row]),
            kept=bool(kept[row]),
            reason=evidence.thoughts.reasons[row],
            draft_mase=float(draft[row]),
            refined_mase=float(refined[row]),
        )
        for kind, rows in (("best", best), ("worst", worst))
        for row in rows
    )


def _parsing(counts: Parsing) -> tuple[ParseRow, ...]:
    from scipy.stats import binomtest

    rows = []
    for mode, n, n_read in (
        ("free", counts.n_free, counts.n_free_read),
        ("constrained", counts.n_constrained, counts.n_constrained_read),
    ):
        rate = Estimate()
        if n:
            limits = binomtest(n_read, n).proportion_ci(CONFIDENCE, method="wilson")
            rate = Estimate(n_read / n, float(limits.low), float(limits.high))
        rows.append(ParseRow.model_validate({"mode": mode, "n": n, "n_read": n_read, "rate": rate}))
    return tuple(rows)


def _mean(values: Floats) -> Estimate:
    """Return the mean of values [P] with the interval of Student's t; its limits are NaN for a
    single value.
    """
    from scipy.stats import t

    if not len(values):
        return Estimate()
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Estimate(mean)
    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n))
    return Estimate(mean, mean - half, mean + half)


def _estimate(row: dict[str, float | None], name: str) -> Estimate:
    values = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return Estimate(*(math.nan if value is None else value for value in values))


def _short(values: Floats) -> tuple[float, ...]:
    return tuple(float(f"{value:.{DIGITS}g}") for value in values)
