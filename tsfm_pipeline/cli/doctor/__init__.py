"""`tsfm-pipeline doctor`: examine this machine, its folders and the fleets.

What belongs here: the order of the sections, and the exit status. What does not: the examinations
(`machine`, `folders`, `policy`, `fleets`) and how findings are shown (`findings`). The doctor
changes nothing: it moves no record, downloads no checkpoint and contacts no server.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tsfm_pipeline.cli.doctor.findings import Section, print_json, print_tables, worst
from tsfm_pipeline.cli.screen import Status


def examine(names: Sequence[str] = (), *, as_json: bool = False) -> Status:
    """Examine everything, print the findings, and return the exit status.

    names: the fleets to examine; all of them if empty. Raises ValueError for an unknown fleet and
    for settings that cannot be read.
    """
    from tsfm_pipeline.cli.doctor.fleets import fleet_sections
    from tsfm_pipeline.cli.doctor.folders import folder_section
    from tsfm_pipeline.cli.doctor.machine import model_section, numerics_section, program_section
    from tsfm_pipeline.cli.doctor.policy import policy_section
    from tsfm_pipeline.settings import Settings

    settings = Settings()
    sections: list[Section] = []
    with _offline():
        fleets = fleet_sections(settings, names)
        sections += [program_section(), numerics_section(), model_section(settings)]
        sections += [folder_section(settings), policy_section(settings), *fleets]
    (print_json if as_json else print_tables)(sections)
    return Status.PROBLEMS if worst(sections) == "problem" else Status.OK


@contextmanager
def _offline() -> Iterator[None]:
    """Find a checkpoint of the hub only if it was downloaded before; never download one."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before
