"""What is wrong with the prices of a market: every rule, each with its first day and its row.

What belongs here: the rules, and whether breaking one is an error or a warning. What does not:
reading and adjusting (`sources`). Nothing is repaired: an error must be corrected in the source,
or in the market file if the file says something wrong about it.
"""

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.studies.direction.bars import Bars, Floats
from tsfm_pipeline.studies.direction.spec import PRICES, MarketSpec, TableMarket

Severity = Literal["error", "warning"]
LONGEST_GAP = 7
"""Calendar days from one trading day to the next. The closure after 2001-09-11 took exactly as
many, from 2001-09-10 to 2001-09-17."""
LARGEST_MOVE = 0.4
"""From close to close, as a fraction. The largest of the S&P 500 ever was 0.205, on 1987-10-19; a
split in two is 0.5."""
OPEN_REPEATS = 0.5
"""Share of the days of one year whose open is the close before, from which it is not a price."""
ROUNDING = 1e-6
"""By which an adjusted or rounded price may lie outside of its day's range, as a fraction."""
SHOWN = 3


class QualityError(ValueError):
    """Raised for prices that the study refuses; the message has one line per error."""


@dataclass(frozen=True)
class Finding:
    """One broken rule of one market.

    severity: an error refuses the market; a warning is for the reader. day, row: the first that
    breaks the rule, None if it is about all of them; rows count from 1, without the header. count:
    how many days break it.
    """

    severity: Severity
    rule: str
    problem: str
    day: dt.date | None = None
    row: int | None = None
    count: int = 0


def problems_of(bars: Bars, spec: MarketSpec) -> tuple[Finding, ...]:
    """Return what is wrong with the prices of a market, errors first."""
    found = [finding for rule in _RULES for finding in rule(bars, spec)]
    return tuple(sorted(found, key=lambda finding: finding.severity != "error"))


def require_usable(findings: tuple[Finding, ...], spec: MarketSpec) -> None:
    """Raise `QualityError` if one of the findings is an error."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        lines = (f"market {spec.name!r}: {finding.problem}" for finding in errors)
        raise QualityError("\n".join(lines))


def _dates(bars: Bars, spec: MarketSpec) -> Iterator[Finding]:
    steps = np.diff(bars.dates).astype(np.int64)
    wrong = np.flatnonzero(steps <= 0) + 1
    yield from _found(
        bars,
        "error",
        "dates",
        wrong,
        "dates must ascend, each once",
        lambda t: f"{bars.dates[t]} follows {bars.dates[t - 1]}",
    )


def _missing(bars: Bars, spec: MarketSpec) -> Iterator[Finding]:
    for field in PRICES:
        wrong = np.flatnonzero(~np.isfinite(getattr(bars, field)))
        yield from _found(bars, "error", "missing", wrong, f"{field} is missing or not finite")
    yield from _absent(bars, "volume", bars.volume)
    for group in (bars.covariates, bars.given):
        for name, values in group.items():
            first = int(np.argmax(np.isfinite(values)))  # an indicator needs days before its first
            yield from _absent(bars, f"column {name!r}", values, first)


def _absent(bars: Bars, name: str, values: Floats, first: int = 0) -> Iterator[Finding]:
    """Yield a finding if a series has gaps after its first value; days without it are not used."""
    if not np.isfinite(values).any():
        yield Finding("error", "missing", f"{name} has no values", count=len(values))
        return
    wrong = np.flatnonzero(~np.isfinite(values[first:])) + first
    yield from _found(
        bars, "warning", "missing", wrong, f"{name} is missing: what needs it leaves these days out"
    )


def _positive(bars: Bars, spec: MarketSpec) -> Iterator[Finding]:
    for field in PRICES:
        values = getattr(bars, field)
        wrong = np.flatnonzero(values <= 0)
        yield from _found(
            bars, "error", "positive", wrong, f"{field} must be above 0", _cell(values)
        )
    wrong = np.flatnonzero(bars.volume < 0)
    yield from _found(
        bars, "error", "positive", wrong, "volume must not be negative", _cell(bars.volume)
    )
    none = np.flatnonzero(bars.volume == 0)
    yield from _found(
        bars, "warning", "volume", none, "volume is 0, as if it had not been recorded"
    )


def _range(bars: Bars, spec: MarketSpec) -> Iterator[Finding]:
    for field in ("open", "close"):
        values: Floats = getattr(bars, field)
        low, high = bars.low * (1 - ROUNDING), bars.high * (1 + ROUNDING)
        wrong = np.flatnonzero((values < low) | (values > high))
        text = f"{field} must lie between low and high"
        if field == "close" and len(wrong) > len(bars) / 4:
            text += "; are open, high and low adjusted as the close is?"
        yield from _found(bars, "error", "range", wrong, text, _in_range(bars, values))
    flat = np.flatnonzero(bars.high == bars.low)
    yield from _found(
        bars, "warning", "range", flat, "high equals low, as if only one price were known"
    )


def _gaps(bars: Bars, spec: MarketSpec) -> Iterator[Finding]:
    listed = np.array(spec.listed_gaps, dtype="datetime64[D]")
    gaps = np.flatnonzero(np.diff(bars.dates).astype(np.int64) > LONGEST_GAP) + 1
    begin, end = bars.dates[gaps - 1], bars.dates[gaps]
    inside = (listed > begin[:, None]) & (listed <= end[:, None])  # [gaps, listed]
    yield from _found(
        bars,
        "error",
        "gap",
        gaps[~inside.any(axis=1)],
        f"more than {LONGEST_GAP} calendar days between two trading days; if that is right, name a "
        "date within each gap in 'listed_gaps'",
        lambda t: f"{bars.dates[t - 1]} to {bars.dates[t]}",
    )
    if unused := [str(day) for day in listed[~inside.any(axis=0)]]:
        yield Finding("warning", "gap", f"listed_gaps names no gap with {', '.join(unused)}")


def _jumps(bars: Bars, spec: MarketSpec) -> Iterator[Finding]:
    with np.errstate(divide="ignore", invalid="ignore"):
        moves = bars.close[1:] / bars.close[:-1] - 1
    wrong = np.flatnonzero(np.abs(moves) > LARGEST_MOVE) + 1
    adjusted = not isinstance(spec, TableMarket) or (
        spec.adjusted or spec.columns.adjusted_close is not None
    )
    advice = (
        "check them"
        if adjusted
        else "give columns.adjusted_close, or set 'adjusted: true' if splits are already adjusted "
        "for"
    )
    yield from _found(
        bars,
        "warning" if adjusted else "error",
        "jump",
        wrong,
        f"the close moves by more than {LARGEST_MOVE:.0%} in a day, as at a split: {advice}",
        lambda t: f"{moves[t - 1]:+.1%}",
    )


def _weekends(bars: Bars, spec: MarketSpec) -> Iterator[Finding]:
    wrong = np.flatnonzero(~np.is_busday(bars.dates))
    yield from _found(bars, "warning", "weekend", wrong, "the day is a Saturday or a Sunday")


def _repeats(bars: Bars, spec: MarketSpec) -> Iterator[Finding]:
    prices = np.stack([getattr(bars, field) for field in PRICES])
    same = np.flatnonzero((prices[:, 1:] == prices[:, :-1]).all(axis=0)) + 1
    yield from _found(
        bars, "warning", "repeat", same, "all four prices are those of the day before, as if filled"
    )
    repeated = np.flatnonzero(bars.open[1:] == bars.close[:-1]) + 1
    years, n_repeated = np.unique(bars.years[repeated], return_counts=True)
    n_days = np.array([np.count_nonzero(bars.years == year) for year in years])
    odd = years[n_repeated > OPEN_REPEATS * n_days]
    yield from _found(
        bars,
        "warning",
        "open",
        repeated[np.isin(bars.years[repeated], odd)],
        f"in {_years(odd)} most opens are the close before and no price of their own: what happens "
        "overnight is not seen there",
    )


def _enough(bars: Bars, spec: MarketSpec) -> Iterator[Finding]:
    splits = spec.study.splits
    years, n_days = np.unique(bars.years, return_counts=True)
    tests = (years >= years[0] + splits.training_years) & (n_days >= splits.least_days)
    if not tests.any():
        yield Finding(
            "error",
            "days",
            f"{len(bars)} days from {bars.dates.min()} to {bars.dates.max()} have no test year: "
            f"after {splits.training_years} calendar years (study.splits.training_years) one with "
            f"at least {splits.least_days} days (study.splits.least_days) must follow",
        )


_RULES = (
    _dates,
    _missing,
    _positive,
    _range,
    _gaps,
    _jumps,
    _weekends,
    _repeats,
    _enough,
)


def _cell(values: Floats) -> Callable[[int], str]:
    return lambda t: f"{values[t]:g}"


def _in_range(bars: Bars, values: Floats) -> Callable[[int], str]:
    return lambda t: f"{values[t]:g} in {bars.low[t]:g} to {bars.high[t]:g}"


def _found(
    bars: Bars,
    severity: Severity,
    rule: str,
    wrong: NDArray[np.int64],
    text: str,
    detail: Callable[[int], str] = lambda t: "",
) -> Iterator[Finding]:
    """Yield one finding about all days that break a rule; nothing if there are none."""
    if not len(wrong):
        return
    first = int(wrong[0])
    examples = "; ".join(_example(bars, int(t), detail(int(t))) for t in wrong[:SHOWN])
    more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    yield Finding(
        severity,
        rule,
        f"{text}: {examples}{more}",
        bars.dates[first].astype(dt.date),
        first + 1,
        len(wrong),
    )


def _example(bars: Bars, t: int, detail: str) -> str:
    where = f"{bars.dates[t]} (row {t + 1})"
    return f"{where}: {detail}" if detail else where


def _years(years: NDArray[np.int64]) -> str:
    if len(years) > 1 and years[-1] - years[0] == len(years) - 1:
        return f"{years[0]} to {years[-1]}"
    return ", ".join(map(str, years))
