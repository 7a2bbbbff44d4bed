"""What commands print: tables and messages on the right stream, and errors as exit codes.

What belongs here: the look of the command line. What does not: what is said.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import NoReturn

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 160
"""Columns where there is no terminal to ask, as in a log of CI."""


class Status(IntEnum):
    """Exit codes."""

    OK = 0
    PROBLEMS = 1
    UNUSABLE = 2


def console(*, errors: bool = False) -> Console:
    """Standard output, or standard error."""
    screen = Console(stderr=errors, highlight=False)
    return (
        screen if screen.is_terminal else Console(stderr=errors, highlight=False, width=PLAIN_WIDTH)
    )


def say(text: str, style: str = "") -> None:
    """One line on standard output; text is never read as markup."""
    console().print(Text(_visible(text), style), soft_wrap=True)


def show(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], styles: Sequence[str] = ()
) -> None:
    """A table on standard output; the last column takes what is left of the width. `styles`: one
    per row, where given.
    """
    table = Table(
        title=Text(_visible(title)),
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for i, row in enumerate(rows):
        table.add_row(
            *(Text(_visible(str(cell))) for cell in row), style=styles[i] if styles else None
        )
    console().print(table)


def _visible(text: str) -> str:
    """The text with control characters spelt out: a tenant's name does not steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def refuse(message: str) -> NoReturn:
    """Say on standard error why the command ends here, and end it."""
    console(errors=True).print(
        Text.assemble(("error: ", "bold red"), _visible(message)), soft_wrap=True
    )
    raise typer.Exit(Status.UNUSABLE)


@contextmanager
def plain_errors() -> Iterator[None]:
    """What a person must mend ends the command with its message instead of a traceback."""
    from tsfm_pipeline.files import StorageError
    from tsfm_pipeline.plugins import PluginError

    try:
        yield
    except (ValueError, TypeError, OSError, StorageError, PluginError) as error:
        refuse(str(error))
