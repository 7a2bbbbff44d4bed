"""How good every scorer is at every target, with intervals, on the same days.

What belongs here: which statistic is computed from which scores, labels and days. What does not:
the statistics (`auc`, `direction_tests`, `calibration`, `comparison`), and what follows from them
(`verdict`).

Nothing is fitted or chosen on test days. A fold's calibration, and the best of a group of scorers,
are those of its own validation days and of the folds' before it; thresholds are those of its own
validation days.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tsfm_pipeline.studies.direction import calibration, direction_tests, references
from tsfm_pipeline.studies.direction.auc import Ints, auc
from tsfm_pipeline.studies.direction.bars import Floats
from tsfm_pipeline.studies.direction.bootstrap import block_length, interval, p_value
from tsfm_pipeline.studies.direction.cases import SIGN, Area, Case, area, make_case
from tsfm_pipeline.studies.direction.comparison import Comparison, compare
from tsfm_pipeline.studies.direction.evaluation_columns import EVALUATION_SCHEMA
from tsfm_pipeline.studies.direction.problem import Problem, Target, targets
from tsfm_pipeline.studies.direction.threads import side_by_side

Row = dict[str, Any]


def evaluate(problem: Problem, scores: pl.DataFrame) -> pl.DataFrame:
    """Return a row of `EVALUATED` per scorer and target, by label, horizon and scorer.

    scores: rows of `SCORE_SCHEMA`; a target that no scorer has is left out. Raises ValueError if
    the volatility logit is not among a target's scorers, or as `align` does.
    """
    wanted = set(scores.select("label", "horizon").unique().iter_rows())
    asked = [target for target in targets(problem.options) if tuple(target) in wanted]
    cases = side_by_side(partial(make_case, problem, scores), asked)
    with threadpool_limits(limits=1):
        families = {**_brier_families(problem, cases), **_sign_families(problem, cases)}
    rows = side_by_side(lambda case: list(_rows(problem, case, families[case.target])), cases)
    return (
        pl.DataFrame(chain(*rows), schema=EVALUATION_SCHEMA, strict=False)
        .with_columns(pl.col(pl.Float64).fill_nan(None))
        .sort("label", "horizon", "scorer")
    )


def _brier_families(
    problem: Problem, cases: Sequence[Case]
) -> dict[Target, list[tuple[Comparison, int]]]:
    """Compare all scorers of each target but sign with the volatility logit, by Brier loss."""
    families = {}
    for case in cases:
        if case.target.label != SIGN:
            losses = calibration.brier_losses(case.probabilities, case.labels).T
            gains = losses[:, [case.volatility]] - losses
            families[case.target] = [
                (_compare(problem, gains, case.target.horizon), gains.shape[1])
            ]
    return families


def _sign_families(
    problem: Problem, cases: Sequence[Case]
) -> dict[Target, list[tuple[Comparison, int]]]:
    """Compare all scorers of sign at all horizons with an area of .5, and their log losses with the
    base rates'. All horizons are one family: a direction at any of them would be a finding.
    """
    signs = [case for case in cases if case.target.label == SIGN]
    if not signs:
        return {}
    areas, losses = [], []
    for case in signs:
        estimates = np.array([each.estimate for each in case.areas])
        areas.append(estimates - 0.5 + case.influence)
        own = calibration.log_losses(case.probabilities, case.labels).T
        losses.append(calibration.log_losses(case.base_rates, case.labels)[:, None] - own)
    longest = max(case.target.horizon for case in signs)
    families: dict[Target, list[tuple[Comparison, int]]] = {case.target: [] for case in signs}
    for series in (areas, losses):
        gains = _on_the_same_days(series, [case.aligned.test.days for case in signs])
        tested = _compare(problem, gains, longest)
        first = 0
        for case in signs:
            last = first + len(case.aligned.scorers)
            families[case.target].append(
                (Comparison(tested.p_value, tested.survives[first:last]), gains.shape[1])
            )
            first = last
    return families


def _on_the_same_days(series: Sequence[Floats], days: Sequence[Ints]) -> Floats:
    """Return series [n, S] of several targets side by side, on the days of any of them. A target
    has the mean of its series on days that it lacks, which leaves the mean as it is.
    """
    union = np.unique(np.concatenate(days))
    columns = []
    for values, own in zip(series, days, strict=True):
        filled = np.repeat(values.mean(axis=0)[None], len(union), axis=0)
        filled[np.searchsorted(union, own)] = values
        columns.append(filled)
    return np.concatenate(columns, axis=1)


def _compare(problem: Problem, gains: Floats, horizon: int) -> Comparison:
    options = problem.options.statistics
    return compare(
        gains,
        block_length(gains, horizon),
        1 - options.confidence,
        options.comparison_draws,
        options.seed,
    )


def _chosen(problem: Problem, case: Case, prefix: str) -> tuple[str, Floats] | None:
    """Return the best scorers whose names begin with `prefix`: the name that serves the most test
    days, and the scores [n] of which each fold's are its chosen scorer's. None if there are none.

    The best has the highest AUC on the validation days of the fold and of those before it.
    """
    aligned, label_of = case.aligned, problem.labels[case.target]
    rows = [row for row, name in enumerate(aligned.scorers) if name.startswith(prefix)]
    if not rows:
        return None
    validation, test = aligned.validation, aligned.test
    strata = np.zeros_like(validation.folds) if case.target.label == SIGN else validation.folds
    scores, served = np.empty(len(test.days)), Counter[str]()
    for fold in np.unique(test.folds):
        seen, here = validation.folds <= fold, test.folds == fold
        labels = label_of[validation.days[seen]]
        areas = [auc(validation.scores[row, seen], labels, strata[seen]) for row in rows]
        best = rows[int(np.nanargmax(areas))]
        scores[here] = case.compared[best, here]
        served[aligned.scorers[best]] += int(here.sum())
    return served.most_common(1)[0][0], scores


def _rows(
    problem: Problem, case: Case, families: Sequence[tuple[Comparison, int]]
) -> Iterator[Row]:
    """Yield the rows of a target."""
    references_of = {}
    for column, prefix in (
        ("untrained", references.UNTRAINED),
        ("patchtst", references.PATCHTST),
    ):
        chosen = _chosen(problem, case, prefix)
        if chosen:
            name, scores = chosen
            references_of[column] = name, area(scores, case.labels, case.strata, case.counts)
    asymmetry = _asymmetry(case, case.volatility)
    strata = direction_tests.volatility_strata(case.probabilities[case.volatility])
    for row, scorer in enumerate(case.aligned.scorers):
        yield {
            "scorer": scorer,
            "label": case.target.label,
            "horizon": case.target.horizon,
            "n_days": len(case.labels),
            "n_dropped": case.aligned.test.n_dropped,
            "n_positives": int(case.labels.sum()),
            "base_rate": float(case.labels.mean()),
            **_areas(problem, case, row, references_of),
            **_probability_columns(case, row),
            **_decisions(problem, case, row),
            **_given_move(problem, case, row),
            **_beyond_volatility(problem, case, row, strata, asymmetry),
            **_family_columns(row, families),
        }


def _with_interval(problem: Problem, name: str, of: Area) -> Row:
    low, high = interval(of.draws, problem.options.statistics.confidence, of.estimate)
    return {name: of.estimate, f"{name}_low": low, f"{name}_high": high}


def _areas(
    problem: Problem,
    case: Case,
    row: int,
    references_of: Mapping[str, tuple[str, Area]],
) -> Row:
    own, test = case.areas[row], case.aligned.test
    result: Row = {
        **_with_interval(problem, "auc", own),
        "auc_within_folds": auc(test.scores[row], case.labels, test.folds),
        **_with_interval(problem, "auc_over_all_days", case.over_all_days[row]),
        "delong_standard_error": direction_tests.delong_standard_error(
            case.compared[row], case.labels, case.strata
        ),
        "block_days": case.block,
        **_with_interval(problem, "minus_volatility", own - case.areas[case.volatility]),
    }
    for column, (name, reference) in references_of.items():
        result |= {column: name, **_with_interval(problem, f"minus_{column}", own - reference)}
    return result


def _probability_columns(case: Case, row: int) -> Row:
    from sklearn.metrics import average_precision_score

    probabilities, labels = case.probabilities[row], case.labels
    brier = calibration.brier_losses(probabilities, labels).mean()
    of_base_rate = calibration.brier_losses(case.base_rates, labels).mean()
    return {
        "average_precision": float(average_precision_score(labels, probabilities))
        if labels.any()
        else None,
        "brier": float(brier),
        "brier_skill": float(1 - brier / of_base_rate) if of_base_rate > 0 else None,
        "log_loss": float(calibration.log_losses(probabilities, labels).mean()),
    }


def _decisions(problem: Problem, case: Case, row: int) -> Row:
    """Return precision, recall and Pesaran-Timmermann of thresholds from validation days."""
    test, validation = case.aligned.test, case.aligned.validation
    label_of = problem.labels[case.target]
    called: dict[str, NDArray[np.bool_]] = {}
    for name, choose in (
        ("f1", calibration.best_f1_threshold),
        ("matched", calibration.matched_threshold),
    ):
        called[name] = np.zeros(len(test.days), dtype=np.bool_)
        for fold in np.unique(test.folds):
            seen, here = validation.folds == fold, test.folds == fold
            threshold = choose(validation.scores[row, seen], label_of[validation.days[seen]])
            called[name][here] = test.scores[row, here] >= threshold
    result: Row = {}
    for name, days in called.items():
        precision, recall = calibration.precision_recall(days, case.labels)
        result |= {f"precision_at_{name}": precision, f"recall_at_{name}": recall}
    actual = case.labels > 0.5
    statistic, p = direction_tests.pesaran_timmermann(called["matched"], actual)
    every_day = np.ones((len(actual), 1), np.uint16)
    excess = direction_tests.excess_hits(called["matched"], actual, every_day)[0]
    draws = direction_tests.excess_hits(called["matched"], actual, case.counts)
    return result | {
        "pesaran_timmermann": statistic,
        "pesaran_timmermann_p": p,
        "pesaran_timmermann_bootstrap_p": p_value(excess, draws) if np.isfinite(p) else None,
    }


def _given_move(problem: Problem, case: Case, row: int) -> Row:
    moved = direction_tests.moved(case.returns, problem.options.labels.threshold)
    followed = (case.returns < 0) if case.target.falls else (case.returns > 0)
    labels, strata = followed[moved].astype(np.float64), np.zeros(int(moved.sum()), np.int64)
    given = area(case.predictable[row, moved], labels, strata, case.counts[moved])
    return {"n_moved": int(moved.sum()), **_with_interval(problem, "auc_given_move", given)}


def _asymmetry(case: Case, row: int) -> Area | None:
    """Return the area for the label less that for the opposite touch; None without one."""
    if case.opposite is None:
        return None
    scores, everywhere = case.aligned.test.scores[row], np.zeros_like(case.strata)
    return case.over_all_days[row] - area(scores, case.opposite, everywhere, case.counts)


def _beyond_volatility(
    problem: Problem, case: Case, row: int, strata: Ints, of_volatility: Area | None
) -> Row:
    if case.target.label == SIGN:
        return {}
    matched = area(case.aligned.test.scores[row], case.labels, strata, case.counts)
    result = _with_interval(problem, "volatility_matched_auc", matched)
    asymmetry = _asymmetry(case, row)
    if asymmetry is not None and of_volatility is not None:
        result |= _with_interval(problem, "up_minus_down", asymmetry - of_volatility)
    return result


def _family_columns(row: int, families: Sequence[tuple[Comparison, int]]) -> Row:
    names = (("spa_p_value", "survives_stepm"), ("spa_p_value_log_loss", "survives_log_loss"))
    result: Row = {}
    for (p_name, flag_name), (tested, n_variants) in zip(names, families, strict=False):
        result |= {
            p_name: tested.p_value,
            flag_name: tested.survives[row],
            "n_variants": n_variants,
        }
    return result
