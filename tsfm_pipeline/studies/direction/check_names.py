"""The names of the checks, and what each requires.

What belongs here: what the asset graph shows before anything has run. What does not: the checks
themselves (`checks`), which load numpy.
"""

from collections.abc import Mapping

CHECKS: Mapping[str, str] = {
    "collapse": "Every scorer that is trained by steps, or is the foundation model, gives more "
    "than ten different scores, with a spread above .001, and they vary over time.",
    "covariate_effect": "Exchanging the covariates of days changes the forecasts.",
    "covariate_use": "A planted covariate that tells the outcome makes the forecasts better.",
    "reachability": "What a forecast is read by reaches the label's threshold on some days.",
    "inversion": "No reading's AUC lies below .5 with its whole interval: that would be a wrong "
    "reading, which scores volatility negatively.",
    "own_day": "What is new in such a scorer's scores follows the return or range of its own day, "
    "not of the day before or after.",
    "off_by_one": "Forecasts of returns know the return of the day that they are made on.",
}
"""By name, as in the column `name` of `direction_checks`. A market without covariate scores has
none of the checks of covariates, which then pass."""
