"""The files of reports: atomic writes, and reads that reject a report of outdated scores.

What belongs here: writing and reading `<reports>/<fleet>/<report>.json`. What does not: the
contents of a report (`reports.*.numbers`), tables (`lake`).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.files import LakeError, write_text_atomically


def write_report(fleet: Fleet, name: str, content: dict[str, Any]) -> Path:
    """Write `<reports>/<fleet>/<name>.json` (flat keys with units, NaN as null). It says how many
    tenants the backtest covers, unless it covers all of them.
    """
    path = fleet.reports_dir / f"{name}.json"
    made_from = {
        "profile": fleet.settings.profile,
        "scores_fingerprint": fleet.tables.expected["headline_scores"],
    }
    write_json(path, {**made_from, **cohort_figures(fleet), **content})
    return path


def cohort_figures(fleet: Fleet) -> dict[str, int]:
    """Return `cohort_tenants` and `fleet_tenants`; nothing where all tenants are in the cohort."""
    cohort = fleet.cohort
    return {} if cohort is None else {"cohort_tenants": cohort[0], "fleet_tenants": cohort[1]}


def read_report(fleet: Fleet, name: str) -> dict[str, Any]:
    """Return a report's JSON.

    Raises `FileNotFoundError` or `LakeError` that names the asset to materialise where it is
    missing or stale.
    """
    path = fleet.reports_dir / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; materialise the asset {name!r} of fleet {fleet.name!r} first"
        )
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LakeError(
            f"{path} is damaged: {error}; materialise the asset {name!r} of fleet {fleet.name!r} "
            "again"
        ) from error
    if content.get("scores_fingerprint") != fleet.tables.expected["headline_scores"]:
        raise LakeError(
            f"{path} was made from outdated scores (code, settings or telemetry have changed); "
            f"materialise the asset {name!r} of fleet {fleet.name!r} again"
        )
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a report's JSON atomically, NaN as null."""
    text = json_text(content)
    write_text_atomically(path, text + "\n")


def json_text(content: dict[str, Any]) -> str:
    """Return a report's JSON, NaN as null."""
    return json.dumps(_nan_as_null(content), indent=1, allow_nan=False, default=str)


def _nan_as_null(value: Any) -> Any:
    """Return the same nested value with None for every float that JSON cannot represent."""
    if isinstance(value, dict):
        return {key: _nan_as_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nan_as_null(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
