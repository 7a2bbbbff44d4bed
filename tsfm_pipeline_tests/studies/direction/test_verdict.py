"""Test the verdict: what makes a direction, and what does not."""

import polars as pl
import pytest

from tsfm_pipeline.studies.direction.evaluation_columns import EVALUATION_SCHEMA
from tsfm_pipeline.studies.direction.references import VOLATILITY
from tsfm_pipeline.studies.direction.verdict import Finding, directions, verdict


def market(
    sign: float = 0.51,
    moved: float = 0.51,
    survives: bool = False,
    touch: float = 0.75,
    reach: float = 0.02,
    scorer: str = "reader",
) -> pl.DataFrame:
    """The evaluation of one scorer and of volatility, with intervals of this reach."""

    def row(name: str, label: str, area: float, given: float, kept: bool) -> dict:
        return {
            "scorer": name,
            "label": label,
            "horizon": 1,
            "n_days": 4000,
            "auc": area,
            "auc_low": area - reach,
            "auc_high": area + reach,
            "auc_given_move": given,
            "auc_given_move_low": given - reach,
            "auc_given_move_high": given + reach,
            "n_variants": 2,
            "spa_p_value": 0.01 if kept else 0.6,
            "survives_stepm": kept,
        }

    rows = [
        row(scorer, "sign", sign, moved, survives),
        row(VOLATILITY, "sign", 0.5, 0.5, False),
        row(VOLATILITY, "touch_up", touch, 0.5, False),
    ]
    return pl.DataFrame(rows, schema=EVALUATION_SCHEMA)


SHOWN = market(sign=0.54, moved=0.56, survives=True)


def test_a_direction_needs_a_second_market() -> None:
    alone = verdict(SHOWN)
    assert alone.kind == "undecided"
    assert alone.headline == "direction on this market, not yet confirmed on a second one"
    assert alone.found == (Finding("reader", 1),)
    assert "0.540 [0.520, 0.560]" in alone.reasons[0]
    both = verdict(SHOWN, SHOWN)
    assert both.kind == "direction"
    assert any("second market, too" in reason for reason in both.reasons)


@pytest.mark.parametrize(
    "second",
    [
        market(),
        market(sign=0.54, moved=0.56, survives=False),
        market(sign=0.54, moved=0.51, survives=True),
        market(sign=0.54, moved=0.56, survives=True, scorer="another"),
    ],
)
def test_a_second_market_without_it_confirms_nothing(second: pl.DataFrame) -> None:
    found = verdict(SHOWN, second)
    assert found.kind == "undecided"
    assert found.headline == "direction on this market, but not on the second one"
    assert "Not on the second market" in found.reasons[-1]


@pytest.mark.parametrize(
    ("sign", "moved", "survives"),
    [(0.51, 0.56, True), (0.54, 0.51, True), (0.54, 0.56, False)],
)
def test_a_direction_needs_all_three(sign: float, moved: float, survives: bool) -> None:
    evaluated = market(sign, moved, survives)
    assert directions(evaluated) == ()
    assert verdict(evaluated, SHOWN).kind == ("undecided" if survives else "volatility only")


def test_volatility_without_direction_is_volatility_only() -> None:
    found = verdict(market())
    assert found.kind == "volatility only"
    assert "touch_up, volatility_logit (1 day ahead) has an AUC of 0.750" in found.reasons[0]
    assert "No scorer shows a direction: of 2 variants" in found.reasons[1]
    assert verdict(market(touch=0.51)).kind == "nothing"


def test_too_few_days_decide_nothing() -> None:
    found = verdict(market(reach=0.06))
    assert found.kind == "undecided"
    assert "to either side" in found.reasons[0]


def test_figures_that_could_not_be_computed_show_nothing() -> None:
    unknown = SHOWN.with_columns(auc_given_move_low=pl.lit(None, pl.Float64))
    assert directions(unknown) == ()
    assert "unknown" in verdict(unknown).reasons[0]


def test_an_evaluation_without_sign_or_volatility_is_refused() -> None:
    with pytest.raises(ValueError, match="needs rows of sign"):
        verdict(SHOWN.filter(label="touch_up"))
    with pytest.raises(ValueError, match=VOLATILITY):
        verdict(SHOWN.filter(label="sign"))
