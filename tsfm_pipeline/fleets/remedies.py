"""What a person can do about values that look wrong, in the words of the fleet's kind.

What belongs here: the YAML line, the PromQL or the line of pandas that corrects each fault. What
does not: finding the faults (`fleets.plausibility`).
"""

import math
import re

import numpy as np

from tsfm_pipeline.fleets.kinds import AnyFleet, PrometheusFleet, TableFleet

_EXACT = 2.0**24
"""Whole numbers up to this size are the same in float32 as in the table."""
_SELECTOR = re.compile(r"[A-Za-z_:][\w:]*(\{[^{}]*\})?")


def digits(value: float) -> str:
    """Return a value with the digits that float32 holds: like 9999, 0.25 or 6.507e+06."""
    if abs(value) < _EXACT and value == round(value):
        return f"{value:.0f}"
    return f"{value:.4g}"


def rate_of(spec: AnyFleet, metric: str, step_seconds: float) -> str:
    """Return how to turn a cumulative counter into its rate."""
    if isinstance(spec, PrometheusFleet):
        query, minutes = spec.queries[metric], max(5, math.ceil(4 * step_seconds / 60))
        if _SELECTOR.fullmatch(query.strip()):
            return f"write `rate({query.strip()}[{minutes}m])` as its query"
        return f"put `rate(...[{minutes}m])` around each counter in its query, inside of any sum"
    if not isinstance(spec, TableFleet):
        return "store its rate: the increase since the row before, divided by the seconds between"
    keys = _columns(spec.tenant_column)
    column = spec.value_column if spec.layout == "long" else metric
    rows, place, select = "df", f"df[{column!r}]", ""
    if spec.layout == "long" and spec.metric_column is not None:
        select = f"own = df[{spec.metric_column!r}] == {metric!r}; "
        rows, place = "df[own]", f"df.loc[own, {column!r}]"
    rows = f"{rows}.groupby({keys})" if keys else rows
    rate = f"{rows}[{column!r}].diff().clip(lower=0) / {step_seconds:g}"
    return (
        f"write its rate into the table, in pandas `{select}{place} = {rate}` with rows in order "
        "of time"
    )


def _columns(column: object) -> list[str]:
    if column is None:
        return []
    return [column] if isinstance(column, str) else [str(part) for part in column]  # type: ignore[attr-defined]


def marked_missing(spec: AnyFleet, metric: str, value: float) -> str:
    """Return how to say that a value stands for a missing one."""
    if isinstance(spec, PrometheusFleet):
        condition = f"!= {digits(value)}" if abs(value) < _EXACT else f"< {digits(abs(value) / 2)}"
        return f"write `({spec.queries[metric]}) {condition}` as its query"
    if not isinstance(spec, TableFleet):
        return "leave these values empty"
    if abs(value) < _EXACT and value == round(value):
        return f"if it stands for a missing value, add `missing: [{digits(value)}]`"
    return "if it stands for a missing value, list it in `missing` as the table writes it"


def bounded(spec: AnyFleet, metric: str, value: float, others: float) -> str:
    """Return how to keep single values out that are much larger than all the others."""
    limit = digits(math.copysign(_round_up(2 * others), value))
    if isinstance(spec, PrometheusFleet):
        return f"write `({spec.queries[metric]}) {'<' if value > 0 else '>'} {limit}` as its query"
    if not isinstance(spec, TableFleet):
        return "leave the value empty"
    side = "upper" if value > 0 else "lower"
    return (
        f"empty the cell or list it in `missing`; `bounds: {{{metric}: {{{side}: {limit}}}}}` "
        "refuses such rows with their numbers"
    )


def _round_up(size: float) -> float:
    """Return the next number with one significant digit."""
    power = 10.0 ** math.floor(math.log10(size))
    return float(np.ceil(size / power) * power)


def converted(spec: AnyFleet, when: str, factor: str, *, larger: bool) -> str:
    """Return how to bring a series to one unit that changes it at a time."""
    if isinstance(spec, PrometheusFleet):
        return f"set `lookback_days` so that the fleet begins at {when} or later"
    verb = "multiply" if larger else "divide"
    return f"{verb} the values before {when} by {factor}, or leave them out"
