"""The text of the fleet file that describes a table, each field with its reason.

What belongs here: the lines that `fleet init` writes. What does not: the facts about the table
(`fleets.inference`), the fields and their rules (`fleets.kinds`).
"""

import re
from collections.abc import Sequence
from datetime import timedelta
from itertools import takewhile

from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.fleets.field_lines import (
    LAST_LINE,
    field_line,
    first_lines,
    one_line,
    shared_reasons,
)
from tsfm_pipeline.fleets.inference import MetricFacts, TableFacts
from tsfm_pipeline.fleets.source import left_out_notes

_RESERVED = re.compile(r"_request|limit|allocat|provision|capacity|reserv", re.I)
"""Names of columns of what is reserved today, such as cpu_requested or memory_limit_bytes."""

_EVENT = re.compile(
    r"(^|_|\b)(event|holiday|campaign|promo|promotion|deploy|deployment|release|incident|"
    r"maintenance)s?$",
    re.I,
)
"""Names of columns that mark known events, such as is_holiday or release."""


def fleet_yaml(facts: TableFacts, command: str) -> str:
    """Return the text of the fleet file, each field with its reason; `command` is the command line
    that writes it.
    """
    step = facts.step / timedelta(minutes=1)
    reasons = {
        **shared_reasons(facts.fields, step, facts.seasons),
        "layout": {
            "wide": "wide: one column per metric",
            "long": "long: one value per row",
            "series": f"series: one column per tenant, {facts.n_tenants} of them",
        }[facts.fields["layout"]],
        "value_column": "the name of the metric"
        if facts.fields["layout"] == "series"
        else "the column of values",
        "tenant_column": _tenants_are(facts),
        "one_tenant": facts.why.get("one_tenant", ""),
        "aggregate": "of the rows of one tenant and time",
        "missing": "these stand for a missing value too",
        "decimal": "how cells are written",
        "units": "read in bytes, bits, seconds or as a share",
        "timestamp_column": f"{facts.start:%Y-%m-%d %H:%M} to {facts.end:%Y-%m-%d %H:%M} UTC",
        "metrics": "delete those for which no capacity is reserved",
        "step": "minutes between two rows of a tenant",
        "align": "some timestamps lie off the grid: each is moved up to the next step",
        "tier_column": f"{', '.join(TIERS)}, per tenant",
        "archetype_column": "a label per tenant that reports group by",
    }
    lines = first_lines(facts.spec.name, command)
    for name, value in facts.fields.items():
        lines.append(field_line(name, value, reasons))
        if name == "metrics":
            lines += [f"# {note}" for note in left_out_notes(facts.left_out)]
    if all(metric.high <= 1 for metric in facts.metrics):
        lines.append(
            "# upper: 1  # no value lies above 1; if 1 is a real limit, remove the first #"
        )
    reserved = _reserved_columns(facts.metrics)
    if reserved and facts.fields["layout"] == "wide":
        lines.append(
            f"# reserved_columns: {one_line(reserved)}  # if these say what is reserved today: "
            "remove the first #, and delete them from metrics"
        )
    if facts.fields["layout"] != "series" and (event := _event_column(facts)):
        lines.append(f"# event_column: {one_line(event[0])}  # {event[1]}")
    default = one_line(TIERS)
    lines.append(
        f"# tiers: {default}  # the alpha of each, or its prices, like gold: "
        f"{{shortage: 19, slack: 1}}"
    )
    lines.append(LAST_LINE)
    return "\n".join(lines) + "\n"


def _reserved_columns(metrics: Sequence[MetricFacts]) -> dict[str, str]:
    """Return the metrics whose names say that they are what is reserved of another one, by that
    other metric: the one that shares most words with theirs, or begins most like it.
    """
    named = [metric.name for metric in metrics]
    reserved = [name for name in named if _RESERVED.search(name)]
    used = [name for name in named if name not in reserved]
    found: dict[str, str] = {}
    for name in reserved:
        shared = {
            other: (_shared_words(name, other), _shared_letters(name, other)) for other in used
        }
        like = max(shared, key=lambda other: shared[other], default="")
        if shared.get(like, (0, 0)) >= (0, 2):
            found.setdefault(like, name)
    return found


def _event_column(facts: TableFacts) -> tuple[str, str] | None:
    """Return the first column that by its name marks known events, and what to do if it does: a
    metric that is 0 or 1, or a column that is no metric.
    """
    flags = [metric.name for metric in facts.metrics if (metric.low, metric.high) == (0, 1)]
    others = [left.column for left in facts.left_out]
    found = next((name for name in (*flags, *others) if _EVENT.search(name)), None)
    if found is None:
        return None
    then = ", and delete it from metrics" if found in flags else ""
    return found, f"if it marks known events: remove the first #{then}"


def _shared_words(one: str, other: str) -> int:
    """Return how many words both names have: mem of mem_limit_bytes and system.mem.used."""
    words, others = (set(re.findall(r"[a-z]+", name.lower())) for name in (one, other))
    return len(words & others)


def _shared_letters(one: str, other: str) -> int:
    """Return with how many letters both names begin."""
    pairs = zip(one.lower(), other.lower(), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _tenants_are(facts: TableFacts) -> str:
    """Return how many tenants there are and what names them, in half a sentence."""
    tenants = f"{facts.n_tenants} tenant{'s' if facts.n_tenants > 1 else ''}"
    why = facts.why.get("tenant_column", "")
    return f"{tenants}: {why}" if why else tenants
