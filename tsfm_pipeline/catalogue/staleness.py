"""Why a table is stale: compare what its record says it was made from with what it would be made
from now.

What belongs here: the comparison, and its words. What does not: whether a table is stale
(`lake.FleetLake.state`), and what goes into a fingerprint (`registry.made_from`).
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

NOT_RECORDED = "why is not recorded: a release that did not record it made the table"
_SHOWN = 6
"""Most changed values that are shown for one table."""
_LONGEST = 60
"""Most characters of a value that are shown."""
_DIGEST = re.compile(r"[0-9a-f]{16,}")


def why_stale(record: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs, in words, between a table's record and what it would be made from now.

    record: its `_table.json`. now: as `registry.made_from` gives it.
    """
    then = record.get("made_from")
    schema = _changed("schema version", record.get("schema_version"), now["schema_version"])
    if not isinstance(then, Mapping):
        return [*schema, NOT_RECORDED]
    values = list(_leaves(then.get("parameters"), now["parameters"]))
    more = [f"and {len(values) - _SHOWN} more values"] if len(values) > _SHOWN else []
    reasons = [
        *schema,
        *_changed("version", then.get("version"), now["version"]),
        *values[:_SHOWN],
        *more,
        *_inputs(then.get("inputs") or {}, now["inputs"]),
    ]
    return reasons or ["nothing that is recorded differs; the fingerprint is made in another way"]


def _inputs(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({**then, **now}):
        if name not in then:
            yield f"input {name} is new"
        elif name not in now:
            yield f"input {name} is no longer read"
        elif then[name] != now[name]:
            yield f"input {name} changed"


def _leaves(then: Any, now: Any, where: str = "") -> Iterator[str]:
    """Yield every value that differs, with its name. Lists of equal length are compared item by
    item.
    """
    if isinstance(then, dict) and isinstance(now, dict):
        for name in sorted({**then, **now}):
            yield from _leaves(then.get(name), now.get(name), f"{where}.{name}" if where else name)
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for i, (old, new) in enumerate(zip(then, now, strict=True)):
            yield from _leaves(old, new, f"{where}[{i}]")
    else:
        yield from _changed(where or "parameters", then, now)


def _changed(what: str, then: Any, now: Any) -> list[str]:
    return [] if then == now else [f"{what} {_short(then)} -> {_short(now)}"]


def _short(value: Any) -> str:
    """Return a value in a few characters, and only the start of a digest."""
    text = value if isinstance(value, str) else json.dumps(value)
    if _DIGEST.fullmatch(text):
        return text[:10]
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
