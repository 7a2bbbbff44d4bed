"""Terminal output of the commands: tables and messages on the right stream, and errors as exit
codes.

What belongs here: the appearance of the command line. What does not: the content of messages.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from io import TextIOWrapper
from typing import Literal, NoReturn

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 160
"""Width in characters where the output is not a terminal, as in a log of CI."""


class Status(IntEnum):
    """Exit codes."""

    OK = 0
    PROBLEMS = 1
    UNUSABLE = 2


def console(*, errors: bool = False) -> Console:
    """Return a console on standard output, or on standard error. Characters that the stream cannot
    encode are shown as "?".
    """
    stream = sys.stderr if errors else sys.stdout
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="replace")
    screen = Console(stderr=errors, highlight=False)
    return (
        screen if screen.is_terminal else Console(stderr=errors, highlight=False, width=PLAIN_WIDTH)
    )


def say(text: str, style: str = "") -> None:
    """Print one line on standard output; the text is never interpreted as markup."""
    console().print(Text(visible(text), style), soft_wrap=True)


def alarm(text: str) -> None:
    """Print one line on standard error; the text is never interpreted as markup."""
    console(errors=True).print(Text(visible(text)), soft_wrap=True)


def show(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    styles: Sequence[str] = (),
    *,
    right: Sequence[bool] = (),
) -> None:
    """Print a table on standard output; the last column takes the rest of the width. `styles`: one
    per row, if given. `right`: of each column, whether it is aligned right, if given.
    """
    table = Table(
        title=Text(visible(title)),
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for i, column in enumerate(columns):
        justify: Literal["left", "right"] = "right" if right and right[i] else "left"
        table.add_column(Text(column), overflow="fold", justify=justify)
    for i, row in enumerate(rows):
        table.add_row(
            *(Text(visible(str(cell))) for cell in row), style=styles[i] if styles else None
        )
    console().print(table)


def visible(text: str) -> str:
    """Return the text with control characters spelt out, so that a tenant's name cannot control the
    terminal.
    """
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def refuse(message: str) -> NoReturn:
    """Print an error on standard error and end the command."""
    console(errors=True).print(
        Text.assemble(("error: ", "bold red"), visible(message)), soft_wrap=True
    )
    raise typer.Exit(Status.UNUSABLE)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn an error that the user must correct into a message without a traceback."""
    from tsfm_pipeline.files import StorageError
    from tsfm_pipeline.plugins import PluginError

    try:
        yield
    except (ValueError, TypeError, OSError, StorageError, PluginError) as error:
        refuse(str(error))
