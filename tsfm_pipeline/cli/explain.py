"""`tsfm-pipeline explain`: why this is what a tenant should reserve, at the terminal, as JSON or as
a page.

What belongs here: choosing the form. What does not: the figures, sentences and tables
(`reports.explain`), the page (`reports.page.html`).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from tsfm_pipeline.cli.screen import say, show

if TYPE_CHECKING:
    from tsfm_pipeline.reports.explain.model import TenantExplanation


def explained(fleet: str, tenant: str) -> "TenantExplanation":
    """Return the explanation of a tenant of a fleet that was run. Raises ValueError or
    `StorageError`, with what to do.
    """
    from tsfm_pipeline.catalogue.fleet import open_workspace_fleet
    from tsfm_pipeline.files import LakeError
    from tsfm_pipeline.reports.explain.numbers import explain
    from tsfm_pipeline.settings import Settings

    try:
        return explain(open_workspace_fleet(Settings(), fleet), tenant)
    except LakeError as error:
        raise LakeError(f"{error}; `tsfm-pipeline run {fleet}` makes all that is needed") from error


def print_explanation(explanation: "TenantExplanation") -> None:
    """Print the explanation as text and tables."""
    from tsfm_pipeline.reports.explain import words

    say(words.answer(explanation), "bold")
    for word, sentence in words.points(explanation):
        say(f"{word}: {sentence}")
    for make in words.TABLES:
        table = make(explanation)
        if table.rows:
            say("")
            styles = ["bold" if i in table.emphasised else "" for i in range(len(table.rows))]
            numbers = [i not in table.text_columns for i in range(len(table.columns))]
            show(table.caption, table.columns, table.rows, styles, right=numbers)


def print_json(explanation: "TenantExplanation") -> None:
    """Print the explanation as one JSON object with flat keys."""
    import typer

    from tsfm_pipeline.reports.shared.files import json_text

    typer.echo(json_text(explanation.flat()))


def write_html(explanation: "TenantExplanation", path: Path) -> None:
    """Write the explanation as one self-contained HTML file."""
    from tsfm_pipeline.files import write_text_atomically
    from tsfm_pipeline.reports.page.html import render_tenant

    page = render_tenant(explanation)
    write_text_atomically(path, page)
