"""What a saved data set contains, and the fleet file that describes it.

What belongs here: facts about all items together, the defaults that follow from them, and the text
of the file. What does not: the files (`fleets.saved_items`), the grid (`fleets.saved_dataset`), the
same for tables (`fleets.inference`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tsfm_pipeline.fleets.defaults import fitting_fields, zero_bounds
from tsfm_pipeline.fleets.field_lines import (
    LAST_LINE,
    field_line,
    first_lines,
    path_field,
    shared_reasons,
)
from tsfm_pipeline.fleets.kinds import SavedDatasetFleet
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
        "path": path_field(folder, fleets_dir, of_patterns=False),
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
        **zero_bounds({own.metric: own.low for own in ranges}),
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
    reasons = {
        **shared_reasons(fields, source.step_minutes, description.seasons),
        "variates": "each variate is a tenant; 'metrics' makes each item a tenant"
        if fields["variates"] == "tenants"
        else "each item is a tenant, its variates are the metrics",
        "metrics": "of each tenant",
    }
    lines = first_lines(source.spec.name, command)
    lines += [field_line(name, value, reasons) for name, value in fields.items()]
    lines.append(LAST_LINE)
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
