"""Test calibration, thresholds and losses of probabilities."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, f1_score, log_loss

from tsfm_pipeline.studies.direction.calibration import (
    best_f1_threshold,
    brier_losses,
    calibrated,
    log_losses,
    matched_threshold,
    precision_recall,
)

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=800) * 5 + 3
TRUE = expit(-2 + 0.3 * (SCORES - 3))
LABELS = (RNG.random(800) < TRUE).astype(float)


def test_calibration_is_a_logistic_regression() -> None:
    fitted = calibrated(SCORES, LABELS)
    expected = LogisticRegression(C=np.inf).fit(SCORES[:, None], LABELS)
    # Platt's smoothed labels pull a little towards the middle.
    assert fitted.slope == pytest.approx(expected.coef_[0, 0], rel=0.1)
    np.testing.assert_allclose(
        fitted.probability(SCORES), expected.predict_proba(SCORES[:, None])[:, 1], atol=0.02
    )


def test_a_score_that_is_wrong_the_whole_way_round_is_not_turned_over() -> None:
    fitted = calibrated(-SCORES, LABELS)
    assert fitted.slope == 0
    assert fitted.probability(np.array([-9.0, 9.0])) == pytest.approx(LABELS.mean(), abs=0.01)
    assert calibrated(np.ones(800), LABELS).slope == 0


def test_scores_that_separate_the_labels_have_a_finite_calibration() -> None:
    scores = np.array([-2.0, -1.0, 1.0, 2.0] * 20)
    p = calibrated(scores, (scores > 0).astype(float)).probability(scores)
    assert np.isfinite(p).all()
    assert p[0] < 0.05
    assert p[-1] > 0.95
    assert calibrated(scores, np.zeros(80)).probability(scores) == pytest.approx(1 / 82)
    with pytest.raises(ValueError, match="needs validation days"):
        calibrated(scores[:0], scores[:0])


def test_losses_are_those_of_sklearn() -> None:
    assert brier_losses(TRUE, LABELS).mean() == pytest.approx(brier_score_loss(LABELS, TRUE))
    assert log_losses(TRUE, LABELS).mean() == pytest.approx(log_loss(LABELS, TRUE))
    assert np.isfinite(log_losses(1 - LABELS, LABELS)).all()


def test_thresholds_are_the_best_and_those_that_match_the_base_rate() -> None:
    scores = SCORES.round(0)
    best = best_f1_threshold(scores, LABELS)
    f1 = {t: f1_score(LABELS, scores >= t) for t in np.unique(scores)}
    assert f1[best] == max(f1.values())
    matched = matched_threshold(SCORES, LABELS)
    assert (matched <= SCORES).sum() == LABELS.sum()
    assert best_f1_threshold(SCORES, np.zeros(800)) == np.inf
    assert matched_threshold(SCORES, np.zeros(800)) == np.inf


def test_precision_and_recall_are_unknown_where_nothing_is_called_or_true() -> None:
    labels = np.array([1.0, 1.0, 0.0, 0.0])
    assert precision_recall(np.array([True, False, True, False]), labels) == (0.5, 0.5)
    nothing = precision_recall(np.zeros(4, bool), labels)
    assert np.isnan(nothing[0])
    assert nothing[1] == 0
    assert np.isnan(precision_recall(np.ones(4, bool), labels * 0)[1])
