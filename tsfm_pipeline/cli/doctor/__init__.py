"""`tsfm-pipeline doctor`: what is the matter with this machine, its folders and the fleets.

What belongs here: the order of the sections, and the exit status. What does not: what is looked at
(`machine`, `folders`, `fleets`) and how it is shown (`findings`). Nothing here changes anything:
no record is moved, no checkpoint downloaded, no server asked.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tsfm_pipeline.cli.doctor.findings import Section, print_json, print_tables, worst
from tsfm_pipeline.cli.screen import Status


def examine(names: Sequence[str] = (), *, as_json: bool = False) -> Status:
    """Look at everything, print what was found, and return the exit status.

    names: of the fleets to look at; all of them where there are none. Raises ValueError for an
    unknown one, and for settings that cannot be read.
    """
    from tsfm_pipeline.cli.doctor.fleets import fleet_sections
    from tsfm_pipeline.cli.doctor.folders import folder_section
    from tsfm_pipeline.cli.doctor.machine import model_section, numerics_section, program_section
    from tsfm_pipeline.settings import Settings

    settings = Settings()
    sections: list[Section] = []
    with _offline():
        fleets = fleet_sections(settings, names)
        sections += [program_section(), numerics_section(), model_section(settings)]
        sections += [folder_section(settings), *fleets]
    (print_json if as_json else print_tables)(sections)
    return Status.PROBLEMS if worst(sections) == "problem" else Status.OK


@contextmanager
def _offline() -> Iterator[None]:
    """A checkpoint of the hub is looked for where it was downloaded to, and never downloaded."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before
