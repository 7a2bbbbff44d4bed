"""The command that materialises a fleet, `dagster asset materialize`, spelt once.

What belongs here: its arguments and its run config. What does not: starting it and showing what it
does (`run`, `progress`), the work of the assets.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path


def materialise_command(
    fleet: str, select: Iterable[str] = ("*",), *, progress: Path | None = None
) -> list[str]:
    """Return the command that materialises the selected assets of one fleet.

    progress: a file, which must exist, that the run appends its `tsfm_pipeline.progress` events to.
    Dagster's own log goes to the command's output in any case.
    """
    loggers = {
        "console": {"config": {"log_level": "DEBUG"}},
        "progress": {"config": {"path": str(progress)}},
    }
    return [
        *(sys.executable, "-m", "dagster", "asset", "materialize"),
        *("-m", "tsfm_pipeline.definitions"),
        *("--select", ",".join(select)),
        *("--partition", fleet),
        *(("--config-json", json.dumps({"loggers": loggers})) if progress else ()),
    ]
