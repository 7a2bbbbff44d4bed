"""Test the quality rules: each is broken by a change of real days, and kept by the days themselves.

What belongs here: findings. What does not: reading the prices (`test_sources`).
"""

import datetime as dt
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tsfm_pipeline.studies.direction.bars import Bars
from tsfm_pipeline.studies.direction.quality import (
    Finding,
    QualityError,
    problems_of,
    require_usable,
)
from tsfm_pipeline.studies.direction.simulation import simulate
from tsfm_pipeline.studies.direction.sources import read_bars
from tsfm_pipeline.studies.direction.spec import ArchMarket, SyntheticMarket
from tsfm_pipeline_tests.studies.direction.tables import SP500, in_memory, sp500, with_value

DAY = 700


@pytest.fixture(scope="module")
def clean() -> Bars:
    """Days of the S&P 500 from 2009 on, with which nothing is wrong."""
    bars = sp500(2516)
    assert problems_of(bars, in_memory(study={"splits": {"training_years": 5}})) == ()
    return bars


def findings(bars: Bars, **fields: Any) -> list[Finding]:
    return list(problems_of(bars, in_memory(study={"splits": {"training_years": 5}}, **fields)))


def the_one(bars: Bars, **fields: Any) -> Finding:
    (finding,) = findings(bars, **fields)
    return finding


def without(bars: Bars, *days: int) -> Bars:
    kept = np.delete(np.arange(len(bars)), days)
    arrays = ("dates", "open", "high", "low", "close", "volume")
    return replace(bars, **{name: getattr(bars, name)[kept] for name in arrays})


def test_real_indices_have_warnings_and_no_errors() -> None:
    (opens,) = problems_of(read_bars(SP500), SP500)
    assert (opens.severity, opens.rule, opens.count) == ("warning", "open", 1694)
    assert opens.problem.startswith("in 1999 to 2005 most opens are the close before")
    nasdaq = ArchMarket(kind="arch", name="nasdaq", title="NASDAQ", dataset="nasdaq")
    (volume,) = problems_of(read_bars(nasdaq), nasdaq)
    assert (volume.severity, volume.rule, volume.count) == ("warning", "volume", 2)
    assert "2015-05-12 (row 4115); 2018-01-09 (row 4786)" in volume.problem


def test_simulated_prices_have_no_findings() -> None:
    spec = SyntheticMarket(kind="synthetic", name="x", title="x", days=2600)
    assert problems_of(simulate(spec), spec) == ()


@pytest.mark.parametrize("swap", [(DAY, DAY - 1), (DAY - 1, DAY - 1)], ids=["back", "twice"])
def test_dates_must_ascend_each_once(clean: Bars, swap: tuple[int, int]) -> None:
    dates = clean.dates.copy()
    dates[[DAY - 1, DAY]] = dates[list(swap)]
    finding = the_one(replace(clean, dates=dates))
    assert (finding.severity, finding.rule) == ("error", "dates")
    assert finding.row == DAY + 1
    assert f"{dates[DAY]} (row {DAY + 1}): {dates[DAY]} follows {dates[DAY - 1]}" in finding.problem


@pytest.mark.parametrize("field", ["open", "high", "low", "close"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_price_must_be_a_number(clean: Bars, field: str, value: float) -> None:
    found = findings(with_value(clean, field, DAY, value))
    assert ("error", "missing", DAY + 1) in [(f.severity, f.rule, f.row) for f in found]
    assert found[0].day == clean.dates[DAY].astype(dt.date)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_price_must_be_above_zero(clean: Bars, value: float) -> None:
    found = findings(with_value(clean, "low", DAY, value))
    assert [(f.severity, f.rule, f.row) for f in found] == [("error", "positive", DAY + 1)]
    assert f"low must be above 0: {clean.dates[DAY]} (row {DAY + 1}): {value:g}" in found[0].problem


@pytest.mark.parametrize(
    ("field", "factor"), [("close", 1.05), ("close", 0.95), ("open", 1.05), ("open", 0.95)]
)
def test_open_and_close_lie_between_low_and_high(clean: Bars, field: str, factor: float) -> None:
    value = getattr(clean, field)[DAY] * factor
    finding = the_one(with_value(clean, field, DAY, value))
    assert (finding.severity, finding.rule, finding.row) == ("error", "range", DAY + 1)
    assert f"{field} must lie between low and high" in finding.problem


def test_rounding_does_not_count_as_out_of_range(clean: Bars) -> None:
    day = int(np.argmax(clean.close == clean.high))
    assert findings(with_value(clean, "close", day, clean.high[day] * (1 + 1e-9))) == []


def test_a_close_that_alone_is_adjusted_is_recognised(clean: Bars) -> None:
    finding = the_one(replace(clean, close=clean.close * 0.9))
    assert (finding.severity, finding.rule) == ("error", "range")
    assert "are open, high and low adjusted as the close is?" in finding.problem


def test_a_gap_of_more_than_a_week_must_be_listed(clean: Bars) -> None:
    gap = without(clean, *range(DAY, DAY + 6))
    finding = the_one(gap)
    assert (finding.severity, finding.rule, finding.row) == ("error", "gap", DAY + 1)
    assert f"{gap.dates[DAY - 1]} to {gap.dates[DAY]}" in finding.problem
    inside = str(gap.dates[DAY] - np.timedelta64(2, "D"))
    assert findings(gap, listed_gaps=[inside]) == []
    unused = the_one(clean, listed_gaps=[inside])
    assert (unused.severity, unused.rule) == ("warning", "gap")
    assert inside in unused.problem


def test_the_closure_of_2001_is_as_long_as_may_be() -> None:
    bars = sp500()
    (at,) = np.flatnonzero(bars.dates == np.datetime64("2001-09-17"))
    assert bars.dates[at] - bars.dates[at - 1] == np.timedelta64(7, "D")
    later = replace(bars, dates=bars.dates + (np.arange(len(bars)) >= at))
    gaps = [finding for finding in problems_of(later, SP500) if finding.rule == "gap"]
    assert [gap.row for gap in gaps] == [at + 1]


@pytest.mark.parametrize(
    ("fields", "severity"),
    [
        ({}, "error"),
        ({"adjusted": True}, "warning"),
        ({"columns": {"adjusted_close": "adj"}}, "warning"),
    ],
)
def test_a_split_is_refused_unless_prices_are_adjusted(
    clean: Bars, fields: dict[str, Any], severity: str
) -> None:
    factor = np.where(np.arange(len(clean)) < DAY, 1.0, 0.5)
    names = ("open", "high", "low", "close")
    split = replace(clean, **{name: getattr(clean, name) * factor for name in names})
    finding = the_one(split, **fields)
    assert (finding.severity, finding.rule, finding.row) == (severity, "jump", DAY + 1)


def test_a_fall_of_less_than_forty_per_cent_is_no_split(clean: Bars) -> None:
    factor = np.where(np.arange(len(clean)) < DAY, 1.0, 0.65)
    names = ("open", "high", "low", "close")
    assert findings(replace(clean, **{n: getattr(clean, n) * factor for n in names})) == []


def test_what_looks_odd_is_a_warning(clean: Bars) -> None:
    friday = int(np.argmax(np.diff(clean.dates).astype(int) == 3))
    weekend = clean.dates.copy()
    weekend[friday] += 1
    assert the_one(replace(clean, dates=weekend)).rule == "weekend"

    filled = clean
    for name in ("open", "high", "low", "close"):
        filled = with_value(filled, name, DAY, getattr(clean, name)[DAY - 1])
    assert the_one(filled).rule == "repeat"

    flat = clean
    for name in ("open", "high", "low"):
        flat = with_value(flat, name, DAY, clean.close[DAY])
    assert the_one(flat).problem.startswith("high equals low")

    assert the_one(with_value(clean, "volume", DAY, 0)).rule == "volume"
    for bars in (replace(clean, dates=weekend), filled, flat):
        assert the_one(bars).severity == "warning"


def test_gaps_of_a_covariate_are_a_warning_and_days_before_its_first_value_are_none(
    clean: Bars,
) -> None:
    vix = np.full(len(clean), 20.0)
    vix[:50] = np.nan
    assert findings(replace(clean, covariates={"VIX": vix})) == []
    vix[DAY] = np.nan
    finding = the_one(replace(clean, covariates={"VIX": vix}))
    assert (finding.severity, finding.row, finding.count) == ("warning", DAY + 1, 1)
    nothing = the_one(replace(clean, given={"rsi": np.full(len(clean), np.nan)}))
    assert (nothing.severity, nothing.problem) == ("error", "column 'rsi' has no values")


def test_there_must_be_a_year_to_test(clean: Bars) -> None:
    finding = the_one(clean[:1200])
    assert (finding.severity, finding.rule) == ("error", "days")
    assert "after 5 calendar years (study.splits.training_years)" in finding.problem


def test_errors_come_first_and_refuse_the_market(clean: Bars) -> None:
    wrong = with_value(with_value(clean, "volume", 5, 0), "low", DAY, -1.0)
    found = problems_of(wrong, in_memory())
    assert [finding.severity for finding in found] == ["error", "warning"]
    with pytest.raises(QualityError, match=r"^market 'mine': low must be above 0: .*: -1$"):
        require_usable(found, in_memory())
    require_usable(found[1:], in_memory())
