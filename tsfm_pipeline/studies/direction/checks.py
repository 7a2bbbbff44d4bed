"""Checks of forecasts of a market: what is wrong with a model before anybody compares its AUC.

What belongs here: checks that need forecasts and what happened, nothing else. What does not:
running a model (the scorers), tests against look-ahead (`leakage`), and what follows from a red
check (`definitions`).

Each function returns a `Check` that says what was measured, what is required, and, where it is red,
what that means. The causes were all met in practice: outputs that are nearly constant, covariates
that never reach the model, a mean that is asked whether it exceeds a threshold that only quantiles
exceed, a volatility that is read with its sign turned round, and a context that ends a day early.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.studies.direction.bars import Floats
from tsfm_pipeline.studies.direction.leakage import Shift

LEAST_SPREAD = 1e-3
"""Of forecasts, in their own unit: a tenth of a touch at 1 %, or a thousandth of a probability."""
LEAST_DISTINCT = 10
"""A model has more distinct values than this."""
LEAST_EFFECT = 1e-4
"""Of permuted covariates on forecasts, as a share of the forecasts' spread."""
LEAST_USE = 0.1
"""Gain in rank correlation with the outcome by a covariate that tells half of its variance."""
LEAST_NEWS = 0.1
"""Rank correlation of a mean forecast with the last return. The bundled model's is .2 to .3 away
from 0; returns of neighbouring days, which are what a forecast knows that ends a day early, have
about .1 at most."""


@dataclass(frozen=True)
class Check:
    """What a check found in one scorer.

    name: of the check. subject: what was checked, such as the name of a scorer. figures: what was
    measured and required, by name. sentence: what they say, for people.
    """

    name: str
    subject: str
    passed: bool
    sentence: str
    figures: Mapping[str, float] = field(default_factory=dict)


def collapse(subject: str, forecasts: Floats) -> Check:
    """Check that forecasts differ from each other, and from day to day.

    forecasts: float64 [..., D], D days last; leading axes are seeds or series, and each of them
    must vary over its days. Their spread, the largest minus the smallest, must exceed
    `LEAST_SPREAD`, and the number of distinct ones `LEAST_DISTINCT`.
    """
    finite = forecasts[np.isfinite(forecasts)]
    spread = float(np.ptp(finite)) if finite.size else 0.0
    n_distinct = len(np.unique(finite))
    over_time = np.nanstd(forecasts, axis=-1) if finite.size else np.zeros(1)
    slowest = float(np.nan_to_num(over_time).min())
    passed = spread > LEAST_SPREAD and n_distinct > LEAST_DISTINCT and slowest > 0
    outcome = (
        "varies"
        if passed
        else "is one value at all times, or nearly: an AUC of it compares rounding errors"
    )
    return Check(
        "collapse",
        subject,
        passed,
        f"The forecast {outcome}. Its spread is {spread:.3g} (required: more than "
        f"{LEAST_SPREAD:g}), with {n_distinct} distinct values (more than {LEAST_DISTINCT}) and a "
        f"standard deviation over time of {slowest:.3g} (more than 0).",
        {"spread": spread, "n_distinct": n_distinct, "sd_over_time": slowest},
    )


def covariate_effect(
    subject: str, forecast: Callable[[Floats], Floats], covariates: Floats, seed: int
) -> Check:
    """Check that covariates reach the model: forecasts change when their days are permuted.

    forecast: a function of covariates [T, F] that returns one forecast per day [D]. The mean
    absolute change must exceed `LEAST_EFFECT` of the forecasts' spread.
    """
    kept, permuted = forecast(covariates), forecast(shuffled_days(covariates, seed))
    spread, change = float(np.ptp(kept)), float(np.abs(permuted - kept).mean())
    effect = change / spread if spread > 0 else 0.0
    passed = effect > LEAST_EFFECT
    outcome = (
        "change the forecasts"
        if passed
        else "do not reach the model: a comparison with and without them compares it with itself"
    )
    return Check(
        "covariate_effect",
        subject,
        passed,
        f"Covariates {outcome}. Permuting their days changes a forecast by {effect:.2g} of the "
        f"forecasts' spread on average (required: more than {LEAST_EFFECT:g}).",
        {"effect": effect, "required": LEAST_EFFECT},
    )


def covariate_use(
    subject: str, forecast: Callable[[Floats], Floats], outcomes: Floats, seed: int
) -> Check:
    """Check that a covariate which tells the outcome makes forecasts better.

    outcomes: [T], what follows each day, such as the next return; NaN where it is not known.
    forecast: a function of covariates [T, 1] that returns a forecast for each of the last D days
    of them [D]. The planted covariate is the outcome and noise of equal variance. The rank
    correlation of forecasts and outcomes must be higher by `LEAST_USE` than with the covariate's
    days permuted.
    """
    scale = float(np.nanstd(outcomes))
    noise = np.random.default_rng(seed).normal(0.0, scale, len(outcomes))
    planted = (np.nan_to_num(outcomes) + noise)[:, None]
    told, untold = forecast(planted), forecast(shuffled_days(planted, seed))
    followed = outcomes[-len(told) :]
    with_it, without_it = (_rank_correlation(each, followed) for each in (told, untold))
    passed = with_it - without_it > LEAST_USE
    outcome = "uses" if passed else "does not use"
    return Check(
        "covariate_use",
        subject,
        passed,
        f"The model {outcome} a covariate that tells half of the outcome's variance. The rank "
        f"correlation of forecasts and outcomes is {with_it:.2f} with it, and {without_it:.2f} "
        f"with its days permuted (required: a difference of more than {LEAST_USE:g}).",
        {"with_planted": with_it, "with_permuted": without_it, "required": LEAST_USE},
    )


def reachability(subject: str, quantile: Floats, threshold: float, labels: Floats) -> Check:
    """Check that forecasts can reach the threshold which they are asked about.

    quantile: [D], what the model is read by, as a return from today's close: q90 if it is read by
    its quantiles, the mean if by that. labels: [D], whether the threshold was reached. It must be
    forecast on one day at least.
    """
    share, base_rate = float(np.mean(quantile >= threshold)), float(np.nanmean(labels))
    passed = share > 0
    outcome = (
        f"reaches the threshold of {100 * threshold:g} % on {100 * share:.1f} % of the days"
        if passed
        else f"never reaches the threshold of {100 * threshold:g} %: 'no signal at this threshold' "
        "is then true of any market"
    )
    return Check(
        "reachability",
        subject,
        passed,
        f"The forecast {outcome}; the market does on {100 * base_rate:.1f} %.",
        {"share_of_days": share, "base_rate": base_rate, "highest": float(np.max(quantile))},
    )


def inversion(subject: str, auc: Estimate, spread_auc: Estimate) -> Check:
    """Check that a score is not read with its sign turned round.

    auc: of the score, on a touch. spread_auc: of the same forecasts' spread, q90 - q10, on the same
    days. Red where the whole interval of the AUC lies below .5. The score is never turned round:
    that would be a choice made on test days.
    """
    passed = not auc.high < 0.5
    outcome = (
        "AUC is not below .5"
        if passed
        else "wrong reading: it scores volatility negatively, because a low mean follows falls, "
        "and falls come with volatility; read the spread"
    )
    shown = ", ".join(
        f"{name} {each.figure:.3f} ({each.low:.3f} to {each.high:.3f})"
        for name, each in (("this reading", auc), ("spread of the same forecasts", spread_auc))
        if np.isfinite(each.figure)
    )
    return Check(
        "inversion",
        subject,
        passed,
        f"{outcome[0].upper()}{outcome[1:]}. AUC: {shown}.",
        {
            **dict(zip(("auc", "auc_low", "auc_high"), auc, strict=True)),
            **dict(
                zip(("spread_auc", "spread_auc_low", "spread_auc_high"), spread_auc, strict=True)
            ),
        },
    )


def off_by_one(
    subject: str, auc: float, older_auc: float, mean_forecasts: Floats, last_returns: Floats
) -> Check:
    """Check that forecasts know the day that they are made on.

    auc: of a score made at the close of day t. older_auc: of the same score when every input is one
    day older, on the same days and labels; it must be lower. mean_forecasts: [D], made at the close
    of day t from the same inputs. last_returns: [D], of day t; a mean follows or opposes it, so
    that their rank correlation must differ from 0 by `LEAST_NEWS` and by twice its standard error.
    """
    news = _rank_correlation(mean_forecasts, last_returns)
    required = float(max(LEAST_NEWS, 2 / np.sqrt(len(last_returns))))
    fresher, informed = auc > older_auc, abs(news) > required
    faults = [
        *([] if fresher else ["inputs that are one day older do as well"]),
        *([] if informed else ["the forecast does not know the return of its own day"]),
    ]
    outcome = (
        f"The context may end a day early: {' and '.join(faults)}"
        if faults
        else "The forecast knows the day that it is made on"
    )
    return Check(
        "off_by_one",
        subject,
        not faults,
        f"{outcome}. AUC {auc:.3f}, with older inputs {older_auc:.3f} (required: lower); rank "
        f"correlation with the last return {news:.2f} (required: more than {required:.2f} away "
        "from 0).",
        {"auc": auc, "older_auc": older_auc, "news": news, "required_news": required},
    )


def own_day(subject: str, shift: Shift) -> Check:
    """Check that the inputs of any score end on its own day, from its daily scores alone.

    shift: as `leakage.shift_test` returns it. What is new in the score must follow the return or
    range of its own day, and not clearly more those of the day before or after.
    """
    passed = not (shift.is_late or shift.is_early)
    outcome = "What is new in the score follows its own day"
    if shift.is_late:
        outcome = "The inputs end a day early: what is new in the score follows the day before"
    if shift.is_early:
        outcome = "The inputs look ahead: what is new in the score follows the day after"
    return Check(
        "own_day",
        subject,
        passed,
        f"{outcome}. Largest rank correlation with the return or range of its day "
        f"{shift.reaction:.2f}, the day before {shift.older_reaction:.2f}, the day after "
        f"{shift.newer_reaction:.2f}.",
        {
            "reaction": shift.reaction,
            "older_reaction": shift.older_reaction,
            "newer_reaction": shift.newer_reaction,
        },
    )


def shuffled_days(values: Floats, seed: int) -> Floats:
    """Return rows [T, F] in another order; rows stay whole, so that only their days are wrong."""
    return values[np.random.default_rng(seed).permutation(len(values))]


def _rank_correlation(first: Floats, second: Floats) -> float:
    """Spearman's; 0 if one of them is constant."""
    from scipy.stats import rankdata

    known: NDArray[np.bool_] = np.isfinite(first) & np.isfinite(second)
    ranks = [rankdata(each[known]) for each in (first, second)]
    if not known.any() or min(np.ptp(each) for each in ranks) == 0:
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])
