"""What a saved data set contains, and the fleet file that describes it.

What belongs here: facts about all items together, the defaults that follow from them, and the text
of the file. What does not: the files (`fleets.saved_items`), the grid (`fleets.saved_dataset`), the
same for tables (`fleets.inference`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tsfm_pipeline.fleets.defaults import fitting_fields, fitting_reasons
from tsfm_pipeline.fleets.kinds import FLEETS_DIR_VARIABLE, SavedDatasetFleet
from tsfm_pipeline.fleets.saved_dataset import SavedDatasetSource
from tsfm_pipeline.fleets.saved_items import open_dataset
from tsfm_pipeline.fleets.seasons import Season, find_seasons
from tsfm_pipeline.fleets.source import FleetDataError

_SERIES_FOR_SEASONS = 20


@dataclass(frozen=True)
class Range:
    """The lowest and the highest value of one metric over all tenants."""

    metric: str
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Description:
    """A saved data set as a fleet. fields: those of its fleet file, in order."""

    source: SavedDatasetSource
    fields: dict[str, Any]
    ranges: tuple[Range, ...]
    seasons: tuple[Season, ...]
    notes: tuple[str, ...]


def describe(
    folder: Path,
    *,
    name: str,
    fleets_dir: Path,
    horizon: int | None = None,
    origin: str | None = None,
) -> Description:
    """Read a folder that `datasets` saved and describe it as the fleet `name`.

    horizon: in steps (default: one hour, at least 12). origin: where it was fetched from.

    Variates that have names are metrics; those that have none are tenants. Raises `FleetDataError`
    for a folder that cannot be a fleet.
    """
    folder = folder.expanduser().absolute()
    dataset = open_dataset(folder)
    names = dataset.variate_names
    base: dict[str, Any] = {
        "kind": "saved_dataset",
        "title": name.replace("-", " ").replace("_", " ").capitalize(),
        "source": origin or f"{folder.name}; write here what it is and where it comes from",
        "path": _path_field(folder, fleets_dir),
        "variates": "metrics" if names else "tenants",
        "metrics": list(names) or ["target"],
    }
    draft = SavedDatasetFleet.model_validate({**base, "name": name, "seasons": []})
    source = SavedDatasetSource(draft, fleets_dir=fleets_dir)
    ranges = _ranges(source)
    manifest = source.manifest()
    begins, ends = (
        manifest[end].to_numpy().astype(np.int64) for end in ("first_step", "last_step")
    )
    numbers = np.unique(
        np.linspace(0, source.n_tenants - 1, _SERIES_FOR_SEASONS).round().astype(int)
    ).tolist()
    values = source.values(numbers)
    seasons, of_seasons = find_seasons(source.step, values.reshape(-1, values.shape[-1]))
    fields = base | {
        **fitting_fields(source.step, begins, ends, horizon),
        "seasons": [season.steps for season in seasons],
        **_bounds(ranges),
    }
    notes = [
        *source.notes,
        *(f"{tenant} is left out: {reason}" for tenant, reason in source.left_out.items()),
        *of_seasons,
    ]
    return Description(source, fields, ranges, seasons, tuple(notes))


def description_yaml(description: Description, command: str) -> str:
    """Return the text of the fleet file, each field with its reason; `command` is the command line
    that writes it.
    """
    source, fields = description.source, description.fields
    minutes = source.step_minutes
    reasons = {
        "source": "for people who read the report",
        "variates": "each variate is a tenant; 'metrics' makes each item a tenant"
        if fields["variates"] == "tenants"
        else "each item is a tenant, its variates are the metrics",
        "metrics": "of each tenant",
        **fitting_reasons(fields, minutes),
        "seasons": "in steps: " + ", ".join(season.called for season in description.seasons)
        if description.seasons
        else "the data show none",
        "lower": "no value is negative, so no forecast will be",
        "bounds": "metrics that are never negative; the others have negative values",
    }
    lines = [
        f"# Written by `{command}`.",
        f"# Change what is wrong, then run `tsfm-pipeline fleet check {source.spec.name}`.",
    ]
    for name, value in fields.items():
        line = f"{name}: {_one_line(value)}"
        lines.append(f"{line}  # {reasons[name]}" if name in reasons else line)
    lines.append("nightly: false  # true: the nightly schedule runs it")
    return "\n".join(lines) + "\n"


def _ranges(source: SavedDatasetSource) -> tuple[Range, ...]:
    low = np.full(len(source.metrics), np.inf)
    high = -low
    for number in range(source.n_tenants):
        values = source.values([number])[0].astype(np.float64)
        low = np.fmin(low, np.fmin.reduce(values, axis=1))
        high = np.fmax(high, np.fmax.reduce(values, axis=1))
    empty = [name for name, own in zip(source.metrics, low, strict=True) if not np.isfinite(own)]
    if empty:
        raise FleetDataError(
            f"{source.spec.path}: not a single number in {', '.join(map(repr, empty))}; allowed: "
            "variates with values"
        )
    return tuple(
        Range(metric, float(low[d]), float(high[d])) for d, metric in enumerate(source.metrics)
    )


def _bounds(ranges: tuple[Range, ...]) -> dict[str, Any]:
    """Return zero as the lower bound of all metrics that never fall below it."""
    positive = [own.metric for own in ranges if own.low >= 0]
    if len(positive) == len(ranges):
        return {"lower": 0}
    return {"bounds": {name: {"lower": 0} for name in positive}} if positive else {}


def _path_field(folder: Path, fleets_dir: Path) -> str:
    """Return the folder as a fleet file holds it: relative to the fleets directory if it lies below
    it. Raises `FleetDataError` for a path with '$'.
    """
    if "$" in str(folder):
        raise FleetDataError(
            f"{folder}: '$' begins a variable in a fleet file; allowed: a path without it"
        )
    root = fleets_dir.absolute()
    if folder == root or not folder.is_relative_to(root):
        return str(folder)
    return f"${{{FLEETS_DIR_VARIABLE}}}/{folder.relative_to(root)}"


def _one_line(value: Any) -> str:
    """Return a value as one line of YAML."""
    text = yaml.safe_dump(
        value, default_flow_style=True, width=100_000, allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("...\n").strip()
