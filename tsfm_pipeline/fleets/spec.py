"""Reading the fleet files, the YAML files in `data/fleets/`, with clear messages for fields that
are wrong.

What belongs here: which kinds of fleet a file may name, and loading the fleets. What does not: the
fields themselves (`fleets.fields`, `fleets.kinds`), and what all families of files share
(`spec_files`).
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tsfm_pipeline.fleets.fields import FleetSpecError
from tsfm_pipeline.fleets.kinds import (
    AnyFleet,
    PrometheusFleet,
    SavedDatasetFleet,
    SqlFleet,
    SyntheticFleet,
    TableFleet,
)
from tsfm_pipeline.spec_files import SpecFiles, SpecKinds

FleetSpec = AnyFleet
KINDS: dict[str, type[AnyFleet]] = {
    "synthetic": SyntheticFleet,
    "table": TableFleet,
    "saved_dataset": SavedDatasetFleet,
    "prometheus": PrometheusFleet,
    "sql": SqlFleet,
}
"""The kinds that a fleet file may name, each with the model of its fields. `fleets.OPENERS` says
how each is opened.
"""
FLEET_FILES: SpecKinds[AnyFleet] = SpecKinds(
    noun="fleet",
    models=KINDS,
    error=FleetSpecError,
    never_repeated=("url", "headers_from_env", "database", "url_from_env", "password_env"),
)
warn = logging.getLogger(__name__).warning


def fleet_files(*directories: str | Path) -> SpecFiles[AnyFleet]:
    """Find the fleet files of these directories. Reads none of them."""
    return FLEET_FILES.find(*directories)


def load_specs(*directories: str | Path, log: Callable[[str], Any] = warn) -> dict[str, AnyFleet]:
    """Return the fleets of these directories by name, sorted. A file that is wrong stops no other
    fleet: its error goes to `log`. Where two have the same name, the later directory wins.

    Raises `FleetSpecError` where no fleet can be read: for directories that are missing, without
    any fleet, or with wrong files only.
    """
    files = fleet_files(*directories)
    specs, wrong = files.readable()
    if not specs:
        raise FleetSpecError("\n".join(wrong.values())) if wrong else files.none_found()
    for reason in wrong.values():
        log(reason)
    return specs


def load_spec(path: str | Path) -> AnyFleet:
    """Read one fleet file; its stem is the fleet's name. Raises `FleetSpecError`, which names the
    file, the field and what is allowed.
    """
    return FLEET_FILES.load(path)


def parse_spec(text: str, path: Path) -> AnyFleet:
    """Return the fleet that a file with this path and text describes. Raises as `load_spec`."""
    return FLEET_FILES.parse(text, path)
