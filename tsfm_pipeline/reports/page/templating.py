"""Templates of pages, and the files of a report with a page of its own.

What belongs here: how templates are found and filled, and writing JSON, figures and page. What does
not: the content of any page, and markup (`templates/`).
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template

from tsfm_pipeline.files import write_atomically, write_text_atomically
from tsfm_pipeline.reports.shared.files import write_json
from tsfm_pipeline.reports.shared.model import Figures
from tsfm_pipeline.reports.shared.style import to_png

PAGE = "report.html"


def template(name: str, *packages: str) -> Template:
    """Return a template by name: from the folder `templates` of one of the packages, or of this
    one. A field that is not given is an error.
    """
    return Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in (*packages, __package__)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(name)


def write_page(
    folder: Path,
    name: str,
    report: Figures,
    figures: Sequence[Callable[[Any], Any]],
    page: str,
) -> Path:
    """Write `<name>.json`, each figure as `<its function>.png`, and the page into a folder, each
    atomically; return the page's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", report.flat())
    for draw in figures:
        write_atomically(folder / f"{draw.__name__}.png", partial(to_png, draw(report)))
    write_text_atomically(folder / PAGE, page)
    return folder / PAGE
