"""Numbers and names as people read them.

What belongs here: the format of figures, intervals, counts and times, and labels of methods and
tiers. What does not: sentences and tables about results (each report's `words`).
"""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tsfm_pipeline.evaluation.methods import CONFIG_PREFIX as CONFIG_PREFIX
from tsfm_pipeline.evaluation.methods import METHODS
from tsfm_pipeline.evaluation.methods import is_part_of_the_search as is_part_of_the_search
from tsfm_pipeline.evaluation.methods import method_label as method_label

NO_FIGURE = "–"

METHOD_LABELS: dict[str, str] = {name: method.label for name, method in METHODS.items()}
SAME_RATIO = 1e-6
"""Ratios closer to 1 than this come from equal losses, summed in a different order."""


def figure_of(row: Mapping[str, Any], key: str) -> float:
    """Return the number under a key; NaN where the key is missing or holds None (JSON's null)."""
    value = row.get(key)
    return math.nan if value is None else float(value)


def tier_label(tier: str, alpha: float) -> str:
    """Return a tier with its price ratio, e.g. "standard (3 : 1)": a unit of shortage costs three
    times as much as a unit of surplus.
    """
    return f"{tier} ({price_ratio(alpha)})"


def price_ratio(alpha: float) -> str:
    """Return the price of a unit of shortage against a unit of surplus, e.g. "3 : 1"."""
    return f"{round(alpha / (1 - alpha), 2):g} : 1"


def number(value: float | None) -> str:
    """Return three significant digits, without an exponent for values that people write out."""
    if value is None or not math.isfinite(value):
        return NO_FIGURE
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        return f"{value:.2g}"
    text = f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".removesuffix(".")
    return text.replace("-", "−")


def interval(value: float, low: float, high: float) -> str:
    """Return a figure with its interval in equal precision, e.g. "0.940 (0.910 to 0.970)"; the
    figure alone where there is no interval.
    """
    if not math.isfinite(value):
        return NO_FIGURE
    if not (math.isfinite(low) and math.isfinite(high)):
        return number(value)
    largest = max(abs(value), abs(low), abs(high))
    decimals = max(0, 2 - math.floor(math.log10(largest))) if largest > 0 else 0
    value_text, low_text, high_text = (
        f"{round(x, decimals) + 0.0:,.{decimals}f}".replace("-", "−") for x in (value, low, high)
    )
    return f"{value_text} ({low_text} to {high_text})"


def ratio_texts(*ratios: float) -> list[str]:
    """Return ratios with the fewest decimals, at least three, that keep each of them on its own
    side of 1.
    """

    def keeps_its_side(ratio: float, decimals: int) -> bool:
        rounded = round(ratio, decimals)
        return (rounded > 1) == (ratio > 1) and (rounded < 1) == (ratio < 1)

    finite = [ratio for ratio in ratios if math.isfinite(ratio) and abs(ratio - 1) > SAME_RATIO]
    decimals = next((d for d in range(3, 7) if all(keeps_its_side(r, d) for r in finite)), 7)
    return [f"{ratio:.{decimals}f}" if math.isfinite(ratio) else NO_FIGURE for ratio in ratios]


def ratio_interval(ratio: float, low: float, high: float) -> str:
    """Return a ratio with its interval, with enough decimals to see on which side of 1 each number
    lies.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return ratio_texts(ratio)[0]
    value, lower, upper = ratio_texts(ratio, low, high)
    return f"{value} ({lower} to {upper})" if math.isfinite(ratio) else NO_FIGURE


def percent(share: float | None) -> str:
    """Return a share as a percentage with one decimal, e.g. "3.1 %"; two significant digits below
    0.1 %.
    """
    if share is None or not math.isfinite(share):
        return NO_FIGURE
    value = 100 * share
    text = f"{value:.1f}" if abs(value) >= 0.05 or value == 0 else f"{value:.2g}"
    return f"{text} %".replace("-", "−")


def percent_interval(share: float, low: float, high: float) -> str:
    """Return a share with its interval, e.g. "56.2 % (50.1 to 61.9)"."""
    if not (math.isfinite(share) and math.isfinite(low) and math.isfinite(high)):
        return percent(share)
    return (
        f"{percent(share)} ({percent(low).removesuffix(' %')} to "
        f"{percent(high).removesuffix(' %')})"
    )


def p_value(value: float) -> str:
    """Return a p-value, or "< 0.001" below that."""
    if not math.isfinite(value):
        return NO_FIGURE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def milliseconds(value: float) -> str:
    """Return a latency with its unit."""
    return NO_FIGURE if not math.isfinite(value) else f"{number(value)} ms"


def count(value: float | None, noun: str, plural: str | None = None) -> str:
    """Return a counted noun, e.g. "1 tenant", "6,000 requests"."""
    if value is None or not math.isfinite(value):
        return f"an unknown number of {plural or noun + 's'}"
    return f"{int(value):,} {noun if int(value) == 1 else plural or noun + 's'}"


def cohort_note(cohort_tenants: int | None, fleet_tenants: int | None) -> str:
    """Return the sentence that says on how many tenants a report rests; "" where on all."""
    if cohort_tenants is None or fleet_tenants is None:
        return ""
    return (
        f"The backtest covers a cohort of {count(cohort_tenants, 'tenant')}, drawn from the "
        f"{whole(fleet_tenants)} of the fleet; recommendations are made for all of them."
    )


def duration(minutes: float) -> str:
    """Return minutes of history in the unit that people use: "90 minutes", "2 hours"."""
    if minutes >= 120 and minutes % 60 == 0:
        return f"{minutes / 60:g} hours"
    return f"{minutes:g} minutes"


def moment(value: datetime | str) -> datetime:
    """Return a time from a record; records from JSON hold ISO text."""
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def whole(value: float | None) -> str:
    """Return a count without its noun."""
    return NO_FIGURE if value is None or not math.isfinite(value) else f"{int(value):,}"


def plain(value: Any) -> str:
    """Return any value of a provenance record as text."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NO_FIGURE
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(plain(item) for item in value) or NO_FIGURE
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M %Z}".strip()
    return str(value)
