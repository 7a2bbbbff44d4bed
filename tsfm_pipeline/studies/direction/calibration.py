"""From scores to probabilities and decisions, and how good these are.

What belongs here: a logistic calibration, thresholds that are chosen on validation days, and losses
of probabilities. What does not: which days a fold's calibration may see (`evaluation`).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from tsfm_pipeline.studies.direction.bars import Floats

Flags = NDArray[np.bool_]
CERTAIN = 1e-6
"""Probabilities are kept this far from 0 and 1 before a logarithm is taken."""
_NEWTON_STEPS = 50


class Calibration(NamedTuple):
    """probability = expit(intercept + slope x score), with a slope of 0 or more."""

    intercept: float
    slope: float

    def probability(self, scores: Floats) -> Floats:
        """Return the probability of the label for each score."""
        result: Floats = expit(self.intercept + self.slope * scores)
        return result


def calibrated(scores: Floats, labels: Floats) -> Calibration:
    """Fit the probability of the label to scores [n] and labels [n] of validation days.

    The fit is that of Platt (1999), whose smoothed labels keep it finite when scores separate the
    labels. Where a higher score goes with fewer labels, the slope is 0 and the probability is the
    base rate: a score that is wrong the whole way round is never turned over. Raises ValueError
    without a validation day.
    """
    if len(scores) == 0:
        raise ValueError("a calibration needs validation days, and there are none")
    n_positive = labels.sum()
    n_negative = len(labels) - n_positive
    smoothed = np.where(labels > 0.5, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    base = Calibration(float(logit(smoothed.mean())), 0.0)
    centre, spread = scores.mean(), scores.std()
    standard = (scores - centre) / spread if spread > 0 else np.zeros(len(scores))
    if standard @ (smoothed - smoothed.mean()) <= 0:
        return base
    intercept, slope = base
    for _ in range(_NEWTON_STEPS):
        p = expit(intercept + slope * standard)
        weight = p * (1 - p)
        gradient = np.array([np.sum(smoothed - p), standard @ (smoothed - p)])
        cross = weight @ standard
        curvature = np.array([[weight.sum(), cross], [cross, weight @ standard**2]])
        step = np.linalg.solve(curvature, gradient)
        # A whole Newton step may overshoot where almost all probabilities are 0 or 1.
        step /= max(1.0, np.max(np.abs(step)) / 2.0)
        intercept, slope = intercept + step[0], slope + step[1]
        if np.max(np.abs(step)) < 1e-10:
            break
    slope /= spread
    return Calibration(float(intercept - slope * centre), float(slope))


def brier_losses(probabilities: Floats, labels: Floats) -> Floats:
    """Return the squared error of each day's probability [n]."""
    return (probabilities - labels) ** 2


def log_losses(probabilities: Floats, labels: Floats) -> Floats:
    """Return the negative log likelihood of each day's label [n], in nats."""
    p = np.clip(probabilities, CERTAIN, 1 - CERTAIN)
    return -np.where(labels > 0.5, np.log(p), np.log1p(-p))


def best_f1_threshold(scores: Floats, labels: Floats) -> float:
    """Return the score from which on days are called positive so that F1 is the highest.

    Of equally good ones it is the highest; infinity if there is no positive day.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(labels[order])
    if hits.size == 0 or hits[-1] == 0:
        return np.inf
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + hits[-1])
    # A threshold takes all days of a score or none.
    f1[:-1][ranked[:-1] == ranked[1:]] = -1.0
    return float(ranked[np.argmax(f1)])


def matched_threshold(scores: Floats, labels: Floats) -> float:
    """Return the score from which on as many days are called positive as there are positives."""
    n_positive = int(labels.sum())
    return float(np.sort(scores)[-n_positive]) if n_positive else np.inf


def precision_recall(called: Flags, labels: Floats) -> tuple[float, float]:
    """Return the share of called days that are positive, and of positive days that are called.

    NaN where no day is called, or none is positive.
    """
    hits, n_called, n_positive = labels[called].sum(), called.sum(), labels.sum()
    precision = hits / n_called if n_called else np.nan
    recall = hits / n_positive if n_positive else np.nan
    return float(precision), float(recall)
