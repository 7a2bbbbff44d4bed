"""The files of a folder that Hugging Face's `datasets` saved (`Dataset.save_to_disk`).

What belongs here: recognising such a folder, and the Arrow files that it consists of, without
opening them. What does not: what the files hold (`fleets.saved_items`).

The folder holds `state.json`, which lists the data files, `dataset_info.json`, and the data files:
Arrow IPC streams.
"""

import json
from pathlib import Path
from typing import Any

from tsfm_pipeline.fleets.source import FleetDataError, listed

STATE_FILE = "state.json"
SPLITS_FILE = "dataset_dict.json"


def is_saved_dataset(path: Path) -> bool:
    """Return whether a path is a folder that `datasets` saved, or holds the splits of one."""
    return (path / STATE_FILE).is_file() or (path / SPLITS_FILE).is_file()


def data_files(folder: Path) -> tuple[Path, ...]:
    """Return the Arrow files of a folder, in the order of its rows. Raises `FleetDataError`."""
    splits = folder / SPLITS_FILE
    if splits.is_file():
        names = _json(splits).get("splits", [])
        raise FleetDataError(
            f"{folder}: it holds several data sets; give the folder of one of them: "
            f"{', '.join(str(folder / name) for name in names)}"
        )
    if not (folder / STATE_FILE).is_file():
        raise FleetDataError(
            f"{folder}: no {STATE_FILE}; allowed: a folder that `datasets` wrote with save_to_disk"
        )
    state = _json(folder / STATE_FILE)
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise FleetDataError(
            f"{folder}: its rows are a selection of the files' rows (an indices mapping); save it "
            "again after Dataset.flatten_indices()"
        )
    entries = state.get("_data_files") or []
    names = [entry.get("filename", "") for entry in entries if isinstance(entry, dict)]
    if not names or any(Path(name).name != name or not name for name in names):
        raise FleetDataError(
            f"{folder / STATE_FILE}: field '_data_files' is {entries!r}; allowed: at least one "
            "entry with the 'filename' of a file in the same folder"
        )
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise FleetDataError(
            f"{folder}: {len(absent)} of the {len(names)} data files that {STATE_FILE} lists are "
            f"missing: {listed(absent)}; copy or download the folder again"
        )
    return tuple(folder / name for name in names)


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FleetDataError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise FleetDataError(f"{path} is a {type(document).__name__}; allowed: a JSON object")
    return document
