"""Write folders as Hugging Face's `datasets` writes them (`Dataset.save_to_disk`, datasets 5.2).

What belongs here: the folder for tests. What does not: tests.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

START = datetime(2024, 1, 1)


def item(
    item_id: str, target: Any, *, start: Any = START, freq: str = "h", **more: Any
) -> dict[str, Any]:
    """One row: target is a list of numbers, or a list of such lists."""
    plain = target.tolist() if isinstance(target, np.ndarray) else target
    return {"item_id": item_id, "start": start, "freq": freq, "target": plain, **more}


def save(folder: Path, rows: Sequence[dict[str, Any]], *, n_files: int = 1) -> Path:
    """Write rows to a folder: Arrow IPC streams, state.json and dataset_info.json."""
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(list(rows), schema=_schema(rows[0]))
    names = [f"data-{k:05d}-of-{n_files:05d}.arrow" for k in range(n_files)]
    size = -(-len(rows) // n_files)
    for k, name in enumerate(names):
        with (
            pa.OSFile(str(folder / name), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as writer,
        ):
            writer.write_table(table.slice(k * size, size))
    state = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": "d482058c739fbefb",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (folder / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
    info = {"citation": "", "description": "", "features": {}, "homepage": "", "license": ""}
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2), encoding="utf-8")
    return folder


def _schema(row: dict[str, Any]) -> pa.Schema:
    fields = []
    for name, value in row.items():
        if name == "start" and isinstance(value, datetime):
            kind: pa.DataType = pa.timestamp("s")
        elif isinstance(value, list) and (name == "target" or name.startswith("past_feat")):
            kind = pa.list_(pa.float32())
            if value and isinstance(value[0], list):
                kind = pa.list_(kind)
        else:
            kind = pa.infer_type([value])
        fields.append(pa.field(name, kind))
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": {}}})})
