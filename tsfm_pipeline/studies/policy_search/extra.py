"""Candidates that the study's tables lack: forecast when a policy first names them, and kept.

What belongs here: asking the model for such a candidate at the same requests, and its file. What
does not: the candidates of every policy (`tables`, `making`).

A file holds one candidate's arrays. Its name says under which fingerprints of the study's tables
they were made, and the digest of its content, so that a stale or damaged file is never read.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tsfm_pipeline.catalogue.shards import model_of
from tsfm_pipeline.files import append_file, fingerprint, is_intact
from tsfm_pipeline.forecaster.config import ForecastConfig
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search.making import evidence, forecasts, requests_and_panel
from tsfm_pipeline.studies.policy_search.rows import FleetRows, Floats, per_candidate
from tsfm_pipeline.studies.policy_search.scope import SCOPE, StudyFleet
from tsfm_pipeline.studies.policy_search.tables import EVIDENCE, FORECASTS, TABLES

Arrays = dict[str, Floats]


def with_candidates(rows: FleetRows, settings: Settings, names: Sequence[str]) -> FleetRows:
    """Return the rows with those of the named candidates appended that they lack, in the order of
    `names`.

    rows: as `read_rows` returns them, with all requests. The model forecasts a candidate that no
    experiment has named before, in seconds to minutes; afterwards it is read from its file. Raises
    ValueError for a name that is not a configuration, and for rows of other requests than those of
    the study's tables.
    """
    configs = dict.fromkeys(ForecastConfig.from_name(name) for name in names)
    further = [config for config in configs if config.name not in rows.candidates]
    if not further:
        return rows
    study = SCOPE.open(settings, rows.fleet)
    added = [_stored(study, config) or _forecast(study, config) for config in further]
    if (n_known := len(added[0]["spread"])) != len(rows.valid):
        raise ValueError(
            f"the rows hold {len(rows.valid)} requests of fleet {rows.fleet!r}, its tables "
            f"{n_known}; candidates are added to all requests, as `read_rows` returns them"
        )
    arrays = {
        field: np.concatenate([getattr(rows, field), *(one[field] for one in added)], axis=2)
        for field in added[0]
    }
    names = (*rows.candidates, *(config.name for config in further))
    return replace(rows, candidates=names, **arrays)  # type: ignore[arg-type]


def _stored(study: StudyFleet, config: ForecastConfig) -> Arrays | None:
    """Return the arrays of a candidate from its file, or None if there is none that is intact."""
    for path in sorted(_folder(study).glob(f"{_label(study, config)}-*.npz")):
        if is_intact(path):
            with np.load(path) as stored:
                return dict(stored)
    return None


def _forecast(study: StudyFleet, config: ForecastConfig) -> Arrays:
    """Let the model forecast a candidate at every request of the study, and write its file."""
    model, layout = model_of(study.settings), per_candidate(study.fleet.protocol.tiers)
    parts: list[Arrays] = []
    for shard in SCOPE.shards(study, TABLES[FORECASTS]):
        at = study, *requests_and_panel(study, shard), [config], model
        columns = {FORECASTS: forecasts(*at), EVIDENCE: evidence(*at)}
        parts.append({name: field.of(columns[field.table]) for name, field in layout.items()})
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in layout}

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    append_file(_folder(study), write, suffix=".npz", label=_label(study, config))
    return arrays


def _folder(study: StudyFleet) -> Path:
    return study.tables.path / "extra"


def _label(study: StudyFleet, config: ForecastConfig) -> str:
    """Return the start of a file's name: the candidate, and the tables that it belongs to."""
    expected = study.tables.expected
    return f"{config.name}-{fingerprint(expected[FORECASTS], expected[EVIDENCE])}"
