"""The study's verdict on a market: direction, volatility only, nothing or undecided.

What belongs here: the rule, and its reasons in sentences. What does not: statistics (`evaluation`),
the report's own wording, and the gates of the earlier work (`report.gates`).

The rule. A scorer shows a direction at a horizon if three things hold on `sign`: the interval of
its AUC lies above .5; it survives the stepwise test over all variants at all horizons; and the
interval of its AUC on days with a large move lies above .5. The verdict is `direction` only if the
same scorer shows it at the same horizon on a second market too. One market alone is never enough:
the stepwise test is wrong on one market in twenty.
"""

from typing import Any, Literal, NamedTuple

import polars as pl

from tsfm_pipeline.studies.direction import references

VerdictKind = Literal["direction", "volatility only", "nothing", "undecided"]
CHANCE = 0.5
DETECTABLE = 0.04
"""Sign AUC above .5 of a signal whose correlation with the next return is .10. A market whose
intervals reach further than this from their middle is too short to say that there is none."""
_TOUCHES = ("touch_up", "touch_down")
_SIGN = pl.col("label") == "sign"


class Finding(NamedTuple):
    """A scorer that shows a direction, and at which horizon in trading days."""

    scorer: str
    horizon: int


class Verdict(NamedTuple):
    """kind: the answer. headline: the answer as part of a sentence, which says more where the kind
    is `undecided`. reasons: sentences with the figures that decided. found: what shows a direction
    on the first market, whether or not a second one confirms it.
    """

    kind: VerdictKind
    headline: str
    reasons: tuple[str, ...]
    found: tuple[Finding, ...]


def directions(evaluated: pl.DataFrame) -> tuple[Finding, ...]:
    """Return what shows a direction on one market. evaluated: as `evaluation.evaluate` returns it.

    A figure that could not be computed shows nothing.
    """
    shown = evaluated.filter(
        _SIGN,
        pl.col("auc_low") > CHANCE,
        pl.col("survives_stepm"),
        pl.col("auc_given_move_low") > CHANCE,
    ).sort("horizon", "scorer")
    return tuple(Finding(*row) for row in shown.select("scorer", "horizon").iter_rows())


def verdict(evaluated: pl.DataFrame, second_evaluated: pl.DataFrame | None = None) -> Verdict:
    """Return the verdict on a market, confirmed or not by a second one.

    evaluated, second_evaluated: as `evaluation.evaluate` returns them. Raises ValueError if the
    volatility logit has no row for a touch, or no scorer has one for the sign.
    """
    if evaluated.filter(_SIGN).is_empty() or _volatility_on_touches(evaluated).is_empty():
        raise ValueError(
            "a verdict needs rows of sign, and rows of touch_up or touch_down for "
            f"{references.VOLATILITY}; the evaluation has "
            f"{', '.join(sorted(evaluated['label'].unique())) or 'no label'}"
        )
    found = directions(evaluated)
    if found:
        return _found(evaluated, second_evaluated, found)
    return _not_found(evaluated)


def _found(
    evaluated: pl.DataFrame, second: pl.DataFrame | None, found: tuple[Finding, ...]
) -> Verdict:
    here = tuple(_shows(evaluated, finding) for finding in found)
    if second is None:
        headline = "direction on this market, not yet confirmed on a second one"
        return Verdict("undecided", headline, here, found)
    confirmed = set(directions(second))
    if both := [finding for finding in found if finding in confirmed]:
        there = tuple(f"On the second market, too: {_shows(second, each)}" for each in both)
        return Verdict("direction", "direction, confirmed on a second market", here + there, found)
    there = tuple(f"Not on the second market: {_misses(second, each)}" for each in found)
    headline = "direction on this market, but not on the second one"
    return Verdict("undecided", headline, here + there, found)


def _not_found(evaluated: pl.DataFrame) -> Verdict:
    sign = evaluated.filter(_SIGN)
    half_open = sign.filter(pl.col("survives_stepm"))
    if not half_open.is_empty():
        row = half_open.sort("auc", descending=True).row(0, named=True)
        reason = (
            f"{_name(row)} is better than chance on the sign by the stepwise test, but not by all "
            f"that a direction needs: {_misses(evaluated, Finding(row['scorer'], row['horizon']))}"
        )
        return Verdict("undecided", "undecided: the tests of direction disagree", (reason,), ())
    best = sign.sort("auc", "scorer", descending=[True, False], nulls_last=True).row(0, named=True)
    no_direction = (
        f"No scorer shows a direction: of {best['n_variants']} variants, the highest AUC on sign "
        f"is {_area(best, 'auc')} ({_name(best)}), and the stepwise test over all of them keeps "
        f"none (Hansen's p-value {_figure(best['spa_p_value'])})."
    )
    shortest = sign.filter(pl.col("horizon") == pl.col("horizon").min())
    reach = (shortest["auc_high"] - shortest["auc_low"]).median()
    if not isinstance(reach, float) or reach / 2 > DETECTABLE:
        reason = (
            f"{no_direction} But with {best['n_days']} days an interval reaches "
            f"{_figure(reach / 2 if isinstance(reach, float) else None)} to either side, and even "
            f"a correlation of .10 with the next return raises the AUC by {DETECTABLE:g} only."
        )
        return Verdict("undecided", "undecided: too few days", (reason,), ())
    known = _volatility_known(evaluated)
    if known is not None:
        touch = f"On {known['label']}, {_name(known)} has an AUC of {_area(known, 'auc')}."
        return Verdict("volatility only", "volatility only", (touch, no_direction), ())
    row = _volatility_on_touches(evaluated).row(0, named=True)
    touch = (
        f"On {row['label']}, {_name(row)} has an AUC of {_area(row, 'auc')}, which is not above "
        ".5, and no scorer is better than it."
    )
    return Verdict("nothing", "nothing", (touch, no_direction), ())


def _volatility_on_touches(evaluated: pl.DataFrame) -> pl.DataFrame:
    """Return the volatility logit's rows of unscaled touches: touch_up and short horizons first."""
    return evaluated.filter(pl.col("label").is_in(_TOUCHES), scorer=references.VOLATILITY).sort(
        "horizon", "label", descending=[False, True]
    )


def _volatility_known(evaluated: pl.DataFrame) -> dict[str, Any] | None:
    """Return the row that shows that volatility is known: of the volatility logit, or of a scorer
    that is better than it by the stepwise test. None if there is none.
    """
    above = pl.col("auc_low") > CHANCE
    better = evaluated.filter(pl.col("label").is_in(_TOUCHES), pl.col("survives_stepm")).sort(
        "auc", descending=True
    )
    rows = pl.concat([_volatility_on_touches(evaluated), better]).filter(above)
    return None if rows.is_empty() else rows.row(0, named=True)


def _shows(evaluated: pl.DataFrame, finding: Finding) -> str:
    row = _row(evaluated, finding)
    assert row is not None
    return (
        f"{_name(row)} has an AUC on sign of {_area(row, 'auc')}, survives the stepwise test over "
        f"{row['n_variants']} variants, and has an AUC of {_area(row, 'auc_given_move')} on days "
        "with a large move."
    )


def _misses(evaluated: pl.DataFrame, finding: Finding) -> str:
    row = _row(evaluated, finding)
    if row is None:
        return f"{finding.scorer} did not take part at a horizon of {finding.horizon}."
    survives = "survives" if row["survives_stepm"] else "does not survive"
    return (
        f"{_name(row)} has an AUC on sign of {_area(row, 'auc')}, {survives} the stepwise test, "
        f"and has an AUC of {_area(row, 'auc_given_move')} on days with a large move."
    )


def _row(evaluated: pl.DataFrame, finding: Finding) -> dict[str, Any] | None:
    rows = evaluated.filter(_SIGN, scorer=finding.scorer, horizon=finding.horizon)
    return None if rows.is_empty() else rows.row(0, named=True)


def _name(row: dict[str, Any]) -> str:
    days = "day" if row["horizon"] == 1 else "days"
    return f"{row['scorer']} ({row['horizon']} {days} ahead)"


def _area(row: dict[str, Any], column: str) -> str:
    low, high = _figure(row[f"{column}_low"]), _figure(row[f"{column}_high"])
    return f"{_figure(row[column])} [{low}, {high}]"


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
